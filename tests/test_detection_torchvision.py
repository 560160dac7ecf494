"""Detectors of torchvision on maps: its own outputs and losses, the same as a graph, and that they learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
detection = pytest.importorskip("torchvision.models.detection")

import headstart  # noqa: E402
from headstart.backbones.stage_maps import MIRRORED, MapLayer  # noqa: E402
from headstart.data.boxes import boxes_of  # noqa: E402
from headstart.heads.boxes import BoxDecoder  # noqa: E402
from headstart.metrics.proposals import kept_boxes  # noqa: E402
from headstart.modalities.image.augment import Augmentation  # noqa: E402
from headstart.settings import FineTuning, FitSettings  # noqa: E402
from headstart.settings.fit import DETECTORS  # noqa: E402
from headstart.tasks.detection.architectures import ARCHITECTURES  # noqa: E402
from headstart.training.box_targets import IGNORED, NOTHING, DrawnViews, PaddedTargets  # noqa: E402
from headstart.training.network import mapped  # noqa: E402
from headstart.training.own_loss import DetectorNetwork, listed, surest  # noqa: E402

pytest_plugins = ["boxes_run"]

SIDE = 64
LAYERS = (MapLayer("fine", 6, 8, 8), MapLayer("middle", 8, 4, 4), MapLayer("coarse", 10, 2, 2))
OWN = [name for name, one in ARCHITECTURES.items() if one.implementation == "torchvision"]
MOSTLY_SLOW = [name if name == "fcos" else pytest.param(name, marks=pytest.mark.slow) for name in OWN]  # trainings and compilers


def made(name: str, *, classes: int = 3, layers: Sequence[MapLayer] = LAYERS) -> Any:
    network = ARCHITECTURES[name].made(layers, classes, FitSettings(backbone=f"lite0@{SIDE}", seed=5))
    assert isinstance(network, DetectorNetwork)
    return network


def maps_of(count: int, *, seed: int = 1) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, *layer.shape, generator=generator) for layer in LAYERS)


def targets_of(count: int, *, classes: int = 3, seed: int = 2) -> Any:
    """Float32 (N, 4, 5): three boxes each, and one place that is filled up; the last image has none."""
    rng = np.random.default_rng(seed)
    corner, sides = rng.uniform(0, 0.6, (count, 4, 2)), rng.uniform(0.1, 0.4, (count, 4, 2))
    labels = rng.integers(0, classes, (count, 4, 1)).astype(float)
    labels[:, 3], labels[-1] = NOTHING, NOTHING
    return torch.from_numpy(np.concatenate([labels, corner, corner + sides], axis=2).astype(np.float32))


def test_the_settings_name_the_architectures_of_the_table() -> None:
    assert tuple(ARCHITECTURES) == DETECTORS
    assert all(one.paper and one.licence in ("Apache-2.0", "BSD-3-Clause") for one in ARCHITECTURES.values())


def test_targets_are_lists_of_one_length() -> None:
    array = np.zeros((3, 4, 6), np.float32)
    array[:, 0, :3] = [(2, 50, 100), (0, 40, 40), (3, 10, 10)]
    array[0, 1:3, :4], array[0, 1:3, 4] = [(0, 0, 50, 25), (50, 0, 100, 50)], [0, 1]
    array[2, 1:4, :4] = [(2, 2, 2, 8), (0, 0, 5, 5), (5, 5, 10, 10)]
    array[2, 3, 5] = 1
    boxes = boxes_of(array, ["a", "b"])
    found = PaddedTargets(boxes, DrawnViews(Augmentation.parse("none"), 0))(np.arange(3), None)
    np.testing.assert_allclose(found[0], [[0, 0, 0, 0.5, 0.5], [1, 0.5, 0, 1, 1]], atol=1e-6)
    assert (found[1, :, 0] == NOTHING).all()
    np.testing.assert_allclose(found[2], [[0, 0, 0, 0.5, 0.5], [IGNORED, 0.5, 0.5, 1, 1]], atol=1e-6)  # the first box has no width
    assert PaddedTargets(boxes, DrawnViews(Augmentation.parse("none"), 0))(np.array([1]), None).shape == (1, 1, 5)
    assert [len(one["labels"]) for one in listed(torch.from_numpy(found))] == [2, 0, 1]


def test_the_surest_proposals_are_first() -> None:
    logits, boxes = torch.randn(2, 50, 3), torch.rand(2, 50, 4)
    found = surest(logits, boxes, 20)
    for row in range(2):
        order = np.argsort(-logits[row].max(dim=1).values.numpy())[:20]
        np.testing.assert_array_equal(found[row], torch.cat([logits[row, order], boxes[row, order]], dim=1))


@pytest.mark.parametrize("name", OWN)
def test_the_graph_says_what_the_network_says(name: str) -> None:
    network = made(name)
    maps = maps_of(3)
    network.standardise(maps)
    with torch.inference_mode():
        expected = network.eval()(maps).numpy()
    assert expected.shape == (3, *network.shape)
    decoder = network.decoder()
    for count in (3, 1):  # the number of images is free
        given = {layer.name: one.numpy()[:count] for layer, one in zip(LAYERS, maps, strict=True)}
        ((boxes, sure),) = decoder(iter([given]))
        for row in range(count):  # the order of two that are as sure may differ
            known = np.concatenate([1 / (1 + np.exp(-expected[row, :, :-4])), expected[row, :, -4:].clip(0, 1)], axis=1)
            found = np.concatenate([sure[row], boxes[row]], axis=1)
            apart = np.abs(found[:, None] - known).max(axis=2)
            assert apart.min(axis=1).max() < 1e-4
            assert apart.min(axis=0).max() < 1e-4
    again = BoxDecoder.from_state(*decoder.state())
    assert (again.grid, again.model()) == (False, decoder.model())


@pytest.mark.parametrize("name", OWN)
def test_proposals_of_a_mirror_image_join_those_of_the_image(name: str) -> None:
    network = made(name)
    maps = maps_of(1)
    decoder = network.decoder()
    given = {layer.name: one.numpy() for layer, one in zip(LAYERS, maps, strict=True)}
    other = {layer.name: one.numpy() for layer, one in zip(LAYERS, maps_of(1, seed=9), strict=True)}
    ((boxes, sure),) = decoder(iter([given]))
    ((turned, also),) = decoder(iter([other]))
    turned = turned[..., [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
    every, chances = np.concatenate([boxes, turned], axis=1)[0], np.concatenate([sure, also], axis=1)[0]
    order = np.argsort(-chances.max(axis=1), kind="stable")[: decoder.candidates]
    both = BoxDecoder(decoder.network, mirrored=True, grid=False)
    ((found, certain),) = both(iter([given | {f"{MIRRORED}{name}": value for name, value in other.items()}]))
    np.testing.assert_allclose(certain[0].max(axis=1), chances[order].max(axis=1), atol=1e-5)
    expected, known = kept_boxes(every[order], chances[order], least=0), kept_boxes(found[0], certain[0], least=0)
    np.testing.assert_allclose(expected[1], known[1], atol=1e-4)


def whole(name: str, network: Any, maps: tuple[Any, ...]) -> Any:
    """Torchvision's own model with the same parts, whose backbone gives the levels of these maps."""
    model, size = network.model, {"min_size": SIDE, "max_size": SIDE}
    stub = Stub(model.backbone, maps)
    if name == "fcos":
        return detection.FCOS(stub, 3, anchor_generator=model.anchor_generator, head=model.head, score_thresh=0.01, **size)
    if name == "retinanet":
        return detection.RetinaNet(stub, 3, anchor_generator=model.anchor_generator, head=model.head, score_thresh=0.005, **size)
    if name == "ssd":
        from torchvision.models.detection.ssd import SSD

        return SSD(stub, model.anchor_generator, (SIDE, SIDE), 4, head=model.head, score_thresh=0.3, topk_candidates=50)
    found = detection.FasterRCNN(stub, 4, **size)
    found.rpn, found.roi_heads = model.rpn, model.roi_heads
    return found


@pytest.mark.parametrize("name", OWN)
def test_outputs_and_losses_are_those_of_torchvision(name: str) -> None:
    """A model of torchvision's own that has the same parts, from images to losses and to detections."""
    network, maps, targets = made(name), maps_of(4), targets_of(4)
    spread(network)
    network.draw(3, 7, slice(0, 4), 4, targets=targets)
    with torch.no_grad():
        loss = network.losses(network.train()(maps), listed(targets))
    reference = whole(name, network, maps).train()
    first = int(name in ("ssd", "faster_rcnn"))  # whose class 0 is the background
    truth = [{"boxes": one["boxes"] * SIDE, "labels": one["labels"] + first} for one in listed(targets)]
    images = [torch.rand(3, SIDE, SIDE) for _ in range(4)]
    with torch.no_grad():
        assert float(loss) == pytest.approx(float(sum(reference(images, truth).values())), rel=1e-4)
        found = reference.eval()(images[:1])[0]
        (mine,) = network.eval()(tuple(one[:1] for one in maps))
    sure = found["scores"] > mine[:, :-4].sigmoid().amax(dim=1).min()  # the others are beyond the proposals that an output has
    assert int(sure.sum()) > 10
    for box, score, label in zip(found["boxes"][sure], found["scores"][sure], found["labels"][sure] - first, strict=True):
        sides = (mine[:, -4:].clamp(0, 1) * SIDE - box).abs().max(dim=1).values
        assert float((sides + (mine[:, int(label)].sigmoid() - score).abs()).min()) < 1e-3


def spread(network: Any) -> None:
    """Last layers that tell apart what they see, as those of a network that has learned something."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in network.model.named_parameters():
        if weight.ndim > 1 and name.rpartition(".")[0].endswith(("cls_logits", "cls_score", "bbox_reg", "bbox_pred")):
            torch.nn.init.normal_(weight, std=0.05, generator=generator)


class Stub(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A backbone that gives the levels of these maps, whatever the images."""

    def __init__(self, pyramid: Any, maps: tuple[Any, ...]) -> None:
        super().__init__()
        self.pyramid, self.maps, self.out_channels = pyramid, maps, getattr(pyramid, "out_channels", 0)

    def forward(self, images: Any) -> Any:
        return self.pyramid([one[: len(images)] for one in self.maps])


@pytest.mark.parametrize("name", MOSTLY_SLOW)
def test_a_few_boxes_are_learned_by_heart(name: str) -> None:
    torch.manual_seed(0)
    network, maps, targets = made(name), maps_of(4), targets_of(4)[:, :2]
    network.standardise(maps)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    objective, losses = network.objective(Few(), None), []
    for step in range(STEPS.get(name, 60)):
        network.train().draw(0, step, slice(0, 4), 4, targets=targets)
        outputs = network(maps)
        loss = objective.loss(outputs, targets).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] < 5 * network.guessing
    assert objective.loss.predictions(mapped(outputs, torch.Tensor.detach)).shape[2] == 7
    with torch.no_grad():
        predictions = network.eval()(maps)
    assert float(objective.loss.scores(predictions, targets).mean()) >= 0.875
    sure = predictions[..., :-4].sigmoid().amax(dim=(1, 2))
    assert float(sure[:3].min()) > 0.4
    assert float(sure[3]) < 0.35 or name == "ssd"  # where nothing is, SSD has no negatives to learn from


STEPS = {"faster_rcnn": 35}


class Few:
    """Boxes of no image."""

    sizes = np.zeros((0, 2), np.int64)


@pytest.mark.slow
@pytest.mark.cards
@pytest.mark.parametrize("name", OWN)
def test_a_fit(scenes: Path, cache: Path, tmp_path: Path, name: str) -> None:
    plan = FineTuning(strategy="probe", epochs=80 if name == "ssd" else 20, batch_size=4)  # without a pyramid, it needs more steps
    settings = FitSettings(cache=cache, backbone="lite0@64", architecture=name, fine_tuning=plan)
    result = headstart.fit(scenes, out=tmp_path / "run", settings=settings)
    assert result.test.result.means["ap50"] > (0.3 if name == "ssd" else 0.5)
    run = headstart.load(tmp_path / "run")
    again, _ = run.evaluate(result.dataset.take(result.table.test))
    assert again.result.means["ap50"] == pytest.approx(result.test.result.means["ap50"], abs=0.02)
    assert ARCHITECTURES[name].title in result.choice.description


@pytest.mark.parametrize("name", MOSTLY_SLOW)
def test_openvino_says_what_onnx_runtime_says(name: str) -> None:
    pytest.importorskip("openvino")
    from headstart.engine import open_session
    from headstart.metrics.proposals import BOXES, PROBABILITIES

    network = made(name)
    spread(network)
    decoder = network.decoder()
    for count in (2, 1):
        given = {layer.name: one.numpy() for layer, one in zip(LAYERS, maps_of(count), strict=True)}
        one, other = (
            open_session(decoder.model(), kind=kind, outputs=(BOXES, PROBABILITIES))(given) for kind in ("onnxruntime", "openvino")
        )
        for row in range(count):
            known, found = (np.concatenate([both[PROBABILITIES][row], both[BOXES][row]], axis=1) for both in (one, other))
            sure = known[:, :-4].max(axis=1) > 0.01  # the order of those that are as sure may differ
            assert np.abs(known[sure][:, None] - found).max(axis=2).min(axis=1).max() < 2e-3
