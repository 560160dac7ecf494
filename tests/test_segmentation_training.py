"""Learning masks: losses against closed forms, the decoder in NumPy and ONNX against PyTorch, and a fit on small images end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import headstart
from headstart.backbones.stage_maps import MapLayer
from headstart.data.masks import VOID
from headstart.errors import DataError, ParameterError
from headstart.heads.decoder import GraphDecoder, MapDecoder, one_of_each_size
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.warp import one_thread, render
from headstart.pipeline import fit
from headstart.settings import FineTuning, FitSettings
from headstart.tasks.segmentation import learning
from headstart.training.decoders import ARCHITECTURES, Light
from headstart.training.masks import balanced_weights, lovasz_softmax, make_pixel_loss, shrunk, soft_dice, view_in

LAYERS = (MapLayer("fine", 5, 16, 16), MapLayer("middle", 7, 8, 8), MapLayer("same", 4, 8, 8), MapLayer("coarse", 9, 4, 4))


def trained_network(classes: int = 3) -> Light:
    """A network whose normalisations have statistics."""
    network = Light(LAYERS, classes, seed=1)
    network.standardise(random_maps(6))
    for _ in range(20):
        network(random_maps(6))
    return network.eval()


def random_maps(count: int, layers: Sequence[MapLayer] = LAYERS) -> tuple[torch.Tensor, ...]:
    return tuple(2 * torch.randn(count, *layer.shape) + 1 for layer in layers)


def test_the_decoder_without_pytorch_is_the_network() -> None:
    torch.manual_seed(0)
    network, maps = trained_network(), random_maps(3)
    with torch.inference_mode():
        expected = network(maps).numpy()
    decoder = MapDecoder.from_state(*network.decoder().state())
    found = next(iter(decoder(iter([{layer.name: one.numpy() for layer, one in zip(LAYERS, maps, strict=True)}]))))
    assert found.shape == (3, 3, 16, 16)
    assert np.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["unet", "deeplabv3plus"])
def test_the_other_decoders_leave_pytorch_as_graphs(name: str) -> None:
    torch.manual_seed(0)
    layers = LAYERS if name == "unet" else (LAYERS[0], *LAYERS[2:])
    network, maps = ARCHITECTURES[name](layers, 3, seed=1), random_maps(3, layers)
    for _ in range(3):
        network(random_maps(4, layers))
    network.eval()
    with torch.inference_mode():
        expected = network(maps).numpy()
    assert expected.shape[1:] == network.shape
    assert network.shape[1:] == ((32, 32) if name == "unet" else (16, 16))
    decoder = GraphDecoder.from_state(*network.decoder().state())
    found = next(iter(decoder(iter([{layer.name: one.numpy() for layer, one in zip(layers, maps, strict=True)}]))))
    assert np.allclose(found, expected, atol=1e-4)


def test_dropout_is_that_of_the_step_and_of_the_image() -> None:
    torch.manual_seed(0)
    network, maps = Light(LAYERS, 2, dropout=0.5, seed=1), random_maps(4)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    network.draw(0, 3, slice(0, 4), 4)
    whole = network(maps)
    network.draw(0, 3, slice(2, 4), 4)
    assert torch.allclose(network(tuple(one[2:] for one in maps)), whole[2:], atol=1e-5)
    network.draw(0, 4, slice(0, 4), 4)
    assert not torch.allclose(network(maps), whole, atol=1e-2)


def test_cross_entropy_leaves_out_void_and_images_without_a_class() -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(3, 4, 6, 5), torch.randint(0, 4, (3, 6, 5), dtype=torch.uint8)
    truth[0, :3], truth[2] = VOID, VOID
    loss = make_pixel_loss("auto")
    expected = [functional.cross_entropy(logits[i : i + 1], truth[i : i + 1].long(), ignore_index=VOID) for i in (0, 1)]
    assert torch.allclose(loss(logits, truth), torch.tensor([*expected, 0.0]), atol=1e-5)
    assert loss.weights(truth).tolist() == [1, 1, 0]


def test_class_weights_are_those_of_pytorch() -> None:
    torch.manual_seed(0)
    logits, truth, weights = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4), dtype=torch.uint8), torch.tensor([0.2, 1.0, 3.0])
    expected = functional.cross_entropy(logits, truth.long(), weight=weights)
    assert torch.allclose(make_pixel_loss("cross_entropy", class_weights=weights.numpy())(logits, truth)[0], expected, atol=1e-5)


def test_focal_with_gamma_0_is_cross_entropy_and_counts_easy_pixels_less_otherwise() -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4), dtype=torch.uint8)
    plain = make_pixel_loss("cross_entropy")(logits, truth)
    assert torch.allclose(make_pixel_loss("focal", gamma=0)(logits, truth), plain, atol=1e-5)
    probability = torch.tensor(0.9)
    one = torch.log(torch.tensor([[[[0.9]], [[0.1]]]]))
    expected = -((1 - probability) ** 2) * probability.log()
    assert torch.allclose(make_pixel_loss("focal")(one, torch.zeros(1, 1, 1, dtype=torch.uint8))[0], expected, atol=1e-6)


def test_dice_and_lovasz_of_hard_predictions_are_those_of_sets() -> None:
    truth = torch.tensor([[[0, 0, 1], [1, 1, VOID]]], dtype=torch.uint8)
    named = torch.tensor([[[0, 1, 1], [1, 0, 0]]])
    known, inside = truth != VOID, truth.long().clamp(max=1)
    hard = functional.one_hot(named, 2).permute(0, 3, 1, 2).float()
    # class 0: truth 2, named 2, both 1; class 1: truth 3, named 3, both 2. One is added above and below in Dice.
    assert float(soft_dice(hard, inside, known)[0]) == pytest.approx(1 - ((2 * 1 + 1) / 5 + (2 * 2 + 1) / 7) / 2)
    # of hard predictions the Lovász extension is 1 - IoU: 1 - 1/3 and 1 - 2/4
    assert float(lovasz_softmax(hard[0], inside[0], known[0])) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_loss_of_labels_is_not_one_of_pixels() -> None:
    with pytest.raises(ParameterError, match="auto, cross_entropy, focal, dice, lovasz; got 'binary'"):
        make_pixel_loss("binary")


def test_rare_classes_count_more_but_not_without_bounds() -> None:
    weights = balanced_weights(np.array([[9000, 100, 0], [0, 900, 1]]))
    assert weights[1] / weights[0] == pytest.approx(3)
    assert weights[2] / weights[0] == pytest.approx(10)
    assert weights.mean() == pytest.approx(1)


def test_masks_are_shrunk_without_inventing_classes() -> None:
    mask = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [5, 5, VOID, VOID]], np.uint8)
    assert shrunk(mask, 2).tolist() == [[0, 9], [5, VOID]]
    assert shrunk(mask, 6)[:2, :2].tolist() == [[0, 0], [0, 0]]
    assert set(np.unique(shrunk(np.random.default_rng(0).choice([3, 200], (37, 91)).astype(np.uint8), 16))) == {3, 200}


def test_every_image_goes_through_its_views() -> None:
    rows, counts = np.arange(4), np.array([3, 3, 1, 3])
    views = np.stack([view_in(rows, epoch, counts) for epoch in range(3)])
    assert [sorted(column) for column in views.T.tolist()] == [[0, 1, 2], [0, 1, 2], [0, 0, 0], [0, 1, 2]]
    assert len(set(views[0, [0, 1, 3]].tolist())) > 1


def test_a_view_of_a_mask_is_that_of_its_image() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 2, (6, 6)).astype(np.uint8)
    mask = np.kron(coarse, np.ones((10, 15), np.uint8))  # 60 x 90
    image = np.repeat(np.asarray(Image.fromarray(255 * mask).resize((64, 64), Image.Resampling.BOX))[..., None], 3, axis=2)
    augmentation = Augmentation(flip=0.5, vertical_flip=0.5, crop=0.4, rotation=40, shear=10, zoom=0.3, shift=0.2)
    outside = 0
    for number in range(12):
        view = augmentation.view(key=3, seed=1, view=number)
        with one_thread():
            seen = render(image, view, size=48)[..., 0]
        found = shrunk(mask, 48, view)
        known, sure = found != VOID, (seen < 40) | (seen > 215)
        outside += int((~known).sum())
        assert ((seen > 127) == found)[known & sure].mean() > 0.99
        assert (known & sure).mean() > 0.2
    assert outside > 0


def test_the_deepest_map_of_each_size_is_taken() -> None:
    layers = [MapLayer(name, 8, side, side) for name, side in (("a", 128), ("b", 64), ("c", 32), ("d", 32), ("e", 8), ("last", 8))]
    assert one_of_each_size(layers, finest=4, side=256) == ("b", "d", "e")
    layers[-1] = MapLayer("last", 8, 4, 4)  # a stage of its own, as of ResNets
    assert one_of_each_size(layers, finest=4, side=256) == ("b", "d", "e", "last")
    assert one_of_each_size([MapLayer("a", 8, 65, 65)], finest=4, side=260) == ("a",)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs on dark noise, with masks: 16 images to learn from and 6 to test on."""
    root, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :64]
    for part, count in (("train", 16), ("test", 6)):
        for kind in ("images", "masks"):
            (root / kind / part).mkdir(parents=True)
        for number in range(count):
            y, x, radius = rng.integers(14, 34), rng.integers(14, 50), rng.integers(8, 14)
            mask = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            pixels = np.where(mask[..., None], (220, 160, 60), (40, 60, 90)) + rng.integers(-20, 20, (48, 64, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / part / f"{number}.png")
            Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / part / f"{number}.png")
    (root / "classes.txt").write_text("ground\ndisc\n")
    return root


def test_a_fit_learns_masks_and_its_run_predicts_them(discs: Path, cache: Path, tmp_path: Path) -> None:
    settings = FitSettings(
        cache=cache, backbone="lite0@64", fine_tuning=FineTuning(strategy="probe", epochs=8, batch_size=4, label_smoothing=0)
    )
    result = fit(discs, out=tmp_path / "run", settings=settings)
    assert result.task.name == "segmentation"
    assert result.test.headline[1] > 0.75
    run = headstart.load(tmp_path / "run")
    assert run.classes == ("ground", "disc")
    assert run.manifest.outputs[0].shape == (2, 16, 16)
    found = run.predict(sorted((discs / "images" / "test").iterdir()))
    assert found.sizes.tolist() == [[48, 64]] * 6
    mask = np.asarray(Image.open(discs / "masks" / "test" / "0.png"))
    assert (found.mask(0) == mask).mean() > 0.95
    again, _ = run.evaluate(result.dataset.take(result.table.test))
    assert again.headline[1] == pytest.approx(result.test.headline[1], abs=2e-3)
    assert run.test_evaluation().to_dict() == result.test.to_dict()


@pytest.mark.parametrize("architecture", [pytest.param("unet", marks=pytest.mark.slow), "deeplabv3plus"])
def test_a_fit_with_another_decoder(discs: Path, cache: Path, tmp_path: Path, architecture: str) -> None:
    plan = FineTuning(strategy="probe", epochs=6, batch_size=5, augment="none", loss="dice")
    result = fit(
        discs, out=tmp_path / "run", settings=FitSettings(cache=cache, backbone="lite0@64", architecture=architecture, fine_tuning=plan)
    )
    assert result.test.headline[1] > 0.7
    run = headstart.load(tmp_path / "run")
    found = run.predict(sorted((discs / "images" / "test").iterdir()))
    assert np.allclose(found.logits, result.tested["logits"], atol=1e-2)


@pytest.mark.parametrize(
    ("strategy", "backbone", "architecture"),
    [
        ("partial", "lite0@64", None), pytest.param("full", "lite0@64", "unet", marks=pytest.mark.slow),
        pytest.param("partial", "resnet18@64", None, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_backbone_is_trained_further(
    discs: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, backbone: str, architecture: str | None
) -> None:
    monkeypatch.setattr(learning, "RECIPE", replace(learning.RECIPE, steps=(60, 2800)))
    plan = FineTuning(strategy=strategy, epochs=2, batch_size=4, lr=1e-3)
    weights = "random" if backbone.startswith("resnet") else None
    settings = FitSettings(cache=cache, backbone=backbone, weights=weights, architecture=architecture, fine_tuning=plan)
    result = fit(discs, out=tmp_path / "run", settings=settings)
    assert len(result.learned.fine_tuned.history.epochs) == 2
    assert "The pixel accuracy by epoch: training from" in (tmp_path / "run" / "report.html").read_text()
    if backbone == "lite0@64":
        assert result.test.headline[1] > 0.7
    assert result.probe is not None
    gain = result.probe.gain
    assert (gain.score, result.probe.shipped) == ("mean_iou", "trained" if result.learned.is_tuned else "probe")
    assert gain.value == pytest.approx(result.test.mean_iou - result.probe.test.mean_iou)
    if result.learned.is_tuned:
        assert "Fine-tuning changed the mean IoU by " in result.probe.summary()
        stored = headstart.load(tmp_path / "run").record.training.probe
        assert (stored["score"], stored["mean_iou"], stored["gain"]) == ("mean_iou", result.probe.test.mean_iou, gain.value)
        assert "held-out training images" in result.learned.fine_tuned.facts[-1]
    run = headstart.load(tmp_path / "run")
    found = run.predict(sorted((discs / "images" / "test").iterdir()))
    assert np.allclose(found.logits, result.tested["logits"], atol=2e-2)
    assert run.test_evaluation().to_dict() == result.test.to_dict()


def test_folds_score_every_training_image_by_a_decoder_that_did_not_see_it(
    discs: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, learn = [], learning.learn

    def watched(table: Any, context: Any) -> Any:
        seen.append([table.digests[row] for row in table.train.tolist()])
        return learn(table, context)

    monkeypatch.setattr(learning, "learn", watched)
    monkeypatch.setattr(learning, "RECIPE", replace(learning.RECIPE, steps=(20, 2800)))
    plan = FineTuning(strategy="probe", epochs=4, batch_size=4)
    result = fit(discs, out=tmp_path / "run", settings=FitSettings(cache=cache, backbone="lite0@64", fine_tuning=plan, folds=2))
    train, found = result.table.train, result.cross_validation
    whole, *folds = seen
    assert sorted(whole) == sorted([*folds[0], *folds[1]])
    assert not set(folds[0]) & set(folds[1])
    assert found.images == len(train)
    assert np.array_equal(found.statistics.confusion.sum(axis=2), result.dataset.targets.take(train).areas[:, :-1])
    assert len(result.by_fold) == 2
    assert min(result.by_fold) <= found.mean_iou <= max(result.by_fold) + 0.05
    stored = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))["metrics"]["cross_validation"]
    assert (stored["mean_iou"], stored["by_fold"]) == (found.mean_iou, list(result.by_fold))


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["none", "rotation=20"])
def test_views_without_mirror_images_are_not_taken_for_such(
    discs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, augment: str
) -> None:
    monkeypatch.setattr(learning, "RECIPE", replace(learning.RECIPE, steps=(20, 2800)))
    monkeypatch.setattr("headstart.training.tuning.Trained.learned", True)
    plan = FineTuning(strategy="partial", epochs=1, batch_size=4, augment=augment)
    result = fit(discs, settings=FitSettings(cache=cache, backbone="lite0@64", fine_tuning=plan))
    assert not result.choice.estimator.mirrored
    assert result.learned.beside.mirrored is None


def test_masks_that_outside_decoders_contradict_are_named(discs: Path, cache: Path, tmp_path: Path) -> None:
    data = shutil.copytree(discs, tmp_path / "data")
    wrong = data / "masks" / "train" / "3.png"
    Image.fromarray(np.roll(np.asarray(Image.open(wrong)), 32, axis=1)).save(wrong)
    plan = FineTuning(strategy="probe", epochs=24, batch_size=4)
    result = fit(data, out=tmp_path / "run", settings=FitSettings(cache=cache, backbone="lite0@64", fine_tuning=plan))
    found = [finding for finding in result.findings if finding.kind == "wrong_masks"]
    assert len(found) == 1
    assert found[0].examples[0].startswith("images/train/3.png: IoU 0.")


def test_a_mirrored_decoder_is_the_mean_in_the_run_too(discs: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.tasks.segmentation.learning.Halves.gains", True)
    plan = FineTuning(strategy="probe", epochs=4, batch_size=4)
    result = fit(discs, out=tmp_path / "run", settings=FitSettings(cache=cache, backbone="lite0@64", fine_tuning=plan))
    assert result.choice.estimator.mirrored
    run = headstart.load(tmp_path / "run")
    images = [np.asarray(Image.open(path)) for path in sorted((discs / "images" / "test").iterdir())]
    found, turned = run.predict(images), run.predict([image[:, ::-1] for image in images])
    assert np.allclose(found.logits, result.tested["logits"], atol=2e-2)
    assert np.allclose(found.logits, turned.logits[..., ::-1], atol=1e-4)
    single = replace(result.choice.estimator, mirrored=False)
    assert not np.allclose(result.task.apply(single, result.table.maps.take(result.table.test))["logits"], found.logits, atol=0.1)


def test_what_does_not_suit_masks_is_refused(discs: Path, cache: Path) -> None:
    for wrong, words in (
        ({"fit_image": "crop"}, "would leave pixels at the edge without a class"),
        ({"budget": 60.0}, "not for the task segmentation: it chooses heads on features; name the backbone with --backbone"),
        ({"fine_tuning": FineTuning(augment="mixup=0.2")}, "these have masks"),
        ({"fine_tuning": FineTuning(head_layers=(4,))}, "no --head-layers"),
        ({"backbone": "hog"}, "has no maps"),
        ({"head": "ridge"}, "masks are learned by a decoder"),
    ):
        with pytest.raises(ParameterError, match=words):
            fit(discs, settings=FitSettings(cache=cache, **wrong))


def test_one_class_is_nothing_to_tell_apart(discs: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes((discs / "images" / "train" / f"{number}.png").read_bytes())
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("ground\n")
    with pytest.raises(DataError, match="hold only 'ground', so there is nothing to tell apart"):
        fit(tmp_path, settings=FitSettings())
