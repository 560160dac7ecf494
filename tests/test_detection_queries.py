"""D-FINE and RT-DETR on the maps of any backbone: transformers' own losses, denoising, and that they learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import headstart  # noqa: E402
import hub_folders  # noqa: E402
from headstart.backbones.hub_detectors import ARCHITECTURES, HubDetector  # noqa: E402
from headstart.backbones.stage_maps import MapLayer  # noqa: E402
from headstart.errors import MissingExtraError  # noqa: E402
from headstart.heads.boxes import BoxDecoder  # noqa: E402
from headstart.settings import FineTuning, FitSettings  # noqa: E402
from headstart.tasks.detection import architectures  # noqa: E402
from headstart.training.box_targets import IGNORED, NOTHING  # noqa: E402
from headstart.training.own_loss import OwnLoss  # noqa: E402
from headstart.training.query_detectors import DFine, QueryNetwork, RTDetr  # noqa: E402

pytest_plugins = ["boxes_run"]

LAYERS = (MapLayer("fine", 6, 8, 8), MapLayer("coarse", 10, 4, 4))
NAMES = ("square", "disc")


class SmallDFine(DFine):
    def sizes(self) -> dict[str, Any]:
        return {**super().sizes(), **SMALL}


class SmallRTDetr(RTDetr):
    def sizes(self) -> dict[str, Any]:
        return {**super().sizes(), **SMALL}


SMALL = {
    "d_model": 32, "encoder_hidden_dim": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "decoder_layers": 2, "num_denoising": 20, "num_queries": 40,
}  # fmt: skip
KINDS = [SmallDFine, SmallRTDetr]


def maps_of(count: int, *, seed: int = 1) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, *layer.shape, generator=generator) for layer in LAYERS)


def targets_of(count: int) -> Any:
    """Float32 (N, 3, 5): two boxes each, of the first one also a crowd; the last image has none."""
    rng = np.random.default_rng(2)
    corner, sides = rng.uniform(0, 0.5, (count, 3, 2)), rng.uniform(0.2, 0.45, (count, 3, 2))
    labels = rng.integers(0, len(NAMES), (count, 3, 1)).astype(float)
    labels[:, 2], labels[0, 2], labels[-1] = NOTHING, IGNORED, NOTHING
    return torch.from_numpy(np.concatenate([labels, corner, corner + sides], axis=2).astype(np.float32))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_loss_is_that_of_transformers(tmp_path: Path, name: str) -> None:
    """Of the whole detector on the same pixels, with the same noise of the queries."""
    whole = hub_folders.detector(name)
    start = HubDetector.find(hub_folders.write(tmp_path / "tiny", whole))
    images, targets = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(3)), targets_of(4)
    with torch.no_grad():
        maps = whole.model.backbone.model(images).feature_maps
    layers = tuple(MapLayer(str(number), *one.shape[1:]) for number, one in enumerate(maps))
    kind: type[QueryNetwork] = {"d_fine": DFine, "rt_detr": RTDetr}[name]
    network = kind(layers, len(hub_folders.CLASSES), side=64, start=start, names=hub_folders.CLASSES)
    for module in (whole, network):  # the backbone of the other one keeps its statistics, as here
        module.train()
    whole.model.backbone.eval()
    network.draw(7, 5, slice(0, 4), 4, targets=targets)
    labels = []
    for one in targets:
        box = one[one[:, 0] >= 0]
        labels.append(
            {"class_labels": box[:, 0].long(), "boxes": torch.cat([(box[:, 1:3] + box[:, 3:]) / 2, box[:, 3:] - box[:, 1:3]], dim=1)}
        )
    with torch.no_grad():
        found = OwnLoss(network)(network(maps), targets)
        with torch.random.fork_rng():
            torch.manual_seed(int(np.random.SeedSequence([7, 5, 0]).generate_state(1, np.uint64)[0]) >> 1)
            expected = whole(pixel_values=images, labels=labels)
    assert found.shape == (4,)
    np.testing.assert_allclose(found, np.full(4, float(expected.loss)), rtol=1e-4)
    assert any("_dn_" in part for part in expected.loss_dict)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_boxes_are_learned_by_heart(kind: type[QueryNetwork]) -> None:
    network, maps, targets, steps = kind(LAYERS, len(NAMES), side=64, seed=1), maps_of(4), targets_of(4), 100
    network.standardise(maps)
    loss, optimizer = OwnLoss(network), torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    before = torch.random.get_rng_state()
    for step in range(steps):
        network.train().draw(0, step, slice(0, 4), 4, targets=targets)
        value = loss(network(maps), targets).mean()
        assert float(value.detach()) < 2 * network.guessing
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    assert torch.equal(before, torch.random.get_rng_state())  # denoising draws from a state of its own
    with torch.no_grad():
        found = network.eval()(maps)
    assert found.shape == (4, *network.shape)
    assert float(loss.scores(found, targets)[:3].mean()) == 1.0
    sure = found[..., :-4].sigmoid().amax(dim=2)
    assert float(sure[:3].topk(2).values.min()) > 0.2
    assert float(sure[3].max()) < 0.15  # nothing is there


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_that_of_the_step(kind: type[QueryNetwork]) -> None:
    network, maps, targets = kind(LAYERS, len(NAMES), side=64).train(), maps_of(4), targets_of(4)
    loss, losses = OwnLoss(network), []
    for step in (3, 3, 4):
        network.draw(1, step, slice(0, 4), 4, targets=targets)
        losses.append(float(loss(network(maps), targets)[0].detach()))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_boxes_is_learned_from(kind: type[QueryNetwork]) -> None:
    network, targets = kind(LAYERS, len(NAMES), side=64).train(), torch.full((2, 1, 5), float(NOTHING))
    network.draw(0, 0, slice(0, 2), 2, targets=targets)
    value = OwnLoss(network)(network(maps_of(2)), targets).mean()
    value.backward()
    assert 0 < float(value.detach()) < 5 * network.guessing
    assert network.detector.model.enc_score_head.weight.grad.abs().sum() > 0


def test_a_saved_head_is_the_same_again() -> None:
    decoder = SmallDFine(LAYERS, len(NAMES), side=64).decoder()
    again = BoxDecoder.from_state(*decoder.state())
    assert (again.grid, again.network.name, again.model()) == (False, "d_fine", decoder.model())


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"The architecture d_fine needs .*pip install 'headstart\[detection\]'"):
        architectures.with_own_backbone(FitSettings(architecture="d_fine"))


@pytest.mark.slow
@pytest.mark.cards
@pytest.mark.parametrize(("name", "plan"), [
    ("d_fine", FineTuning(strategy="probe", epochs=30, batch_size=4, lr=4e-3)),
    ("rt_detr", FineTuning(strategy="partial", epochs=1, batch_size=4)),
])  # fmt: skip
def test_a_fit(scenes: Path, cache: Path, tmp_path: Path, name: str, plan: FineTuning, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a detector in a folder, by the one loop: report, run, and the exported file."""
    folder = hub_folders.write(tmp_path / "tiny", hub_folders.detector(name))
    usual = architectures.ARCHITECTURES[name]
    monkeypatch.setitem(architectures.ARCHITECTURES, name, replace(usual, recipe=replace(usual.recipe, steps=(100, 2400))))  # for time
    settings = FitSettings(cache=cache, weights=folder, architecture=name, fine_tuning=plan)
    result = headstart.fit(scenes, out=tmp_path / "run", settings=settings)
    assert result.choice.description.startswith(architectures.ARCHITECTURES[name].title)
    run = headstart.load(tmp_path / "run")
    assert run.manifest.backbone.name == "tiny-backbone"
    again, _ = run.evaluate(result.dataset.take(result.table.test))
    assert again.result.means["ap50"] == pytest.approx(result.test.result.means["ap50"], abs=0.02)
    losses = [epoch.loss for epoch in result.learned.fine_tuned.history.epochs]
    if len(losses) > 1:  # hardly anything is found by so small a network, which begins with random weights
        assert losses[-1] < 0.9 * losses[0]
