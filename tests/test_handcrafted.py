"""Handcrafted features: the numbers of their definitions, as networks that are used alone or beside pre-trained ones."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import headstart
from headstart import FitSettings
from headstart.backbones import Backbone, Layer, load_backbone
from headstart.backbones.handcrafted import NAMES, records
from headstart.backbones.handcrafted_graphs import FEATURES, Color, Hog, Sift, _vocabulary
from headstart.engine import open_engine
from headstart.errors import BackboneError, ParameterError
from headstart.features import BackboneExtractor
from headstart.onnx_graph import OnnxGraph
from headstart.selection import Baseline, choose_head
from headstart.selection.candidates import views
from headstart.settings import FineTuning

Pixels = NDArray[np.uint8]


def pixels(seed: int, side: int = 64) -> Pixels:
    """Smooth shapes with some noise: gradients of every length and direction, and places without any."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)).astype(np.int64)
    image[: side // 2] += rng.integers(-9, 10, (side // 2, side, 3))
    image[side // 4 : side // 2, : side // 4] = 200
    return image.clip(0, 255).astype(np.uint8)


def computed(feature: Any, *images: Pixels) -> NDArray[np.float32]:
    """What the graph of a feature, float32 (n, dim), gives for images of its size."""
    from onnx.reference import ReferenceEvaluator

    graph = OnnxGraph()
    found = feature.write(graph, graph.node("Transpose", "images", perm=[0, 3, 1, 2]))
    graph.node("Identity", found, output="features")
    model = graph.model(inputs={"images": ("float32", ("N", "H", "W", 3))}, outputs={"features": ("float32", ("N", feature.dim))})
    (values,) = ReferenceEvaluator(model).run(None, {"images": np.stack(images).astype(np.float32)})
    return np.asarray(values)


def features(backbone: Backbone, *images: Pixels, kind: str = "openvino") -> NDArray[np.float32]:
    engine = open_engine(backbone.network, kind=kind, size=backbone.record.input_size)
    return np.stack([values for (values,) in engine.run(images)])


@pytest.mark.parametrize("settings", [{}, {"size": 32, "cell": 4, "block": 3, "orientations": 8}])
def test_hog_is_that_of_scikit_image_where_votes_are_not_interpolated(settings: dict[str, int]) -> None:
    hog = pytest.importorskip("skimage.feature").hog
    ours = Hog(interpolated=False, floor=1e-5, **settings)
    images = [pixels(seed, ours.size) for seed in range(3)]
    expected = [
        hog(image, ours.orientations, (ours.cell,) * 2, (ours.block,) * 2, block_norm="L2-Hys", channel_axis=2) for image in images
    ]  # fmt: skip
    found = computed(ours, *images)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_hog_votes_for_both_of_the_nearest_orientations() -> None:
    feature = Hog(size=16, cell=8, block=1, floor=1e-5)
    down, across = np.mgrid[:16, :16]
    for degrees in (0, 10, 25, 50, 90, 170):
        angle = np.radians(degrees)
        ramp = 128 + 5 * (np.cos(angle) * (across - 7.5) + np.sin(angle) * (down - 7.5))
        (found,) = computed(feature, np.repeat(ramp[:, :, None], 3, axis=2))
        place = degrees / 20 - 0.5
        lower, share = int(np.floor(place)), place - np.floor(place)
        cell = np.zeros(9)
        cell[lower % 9] += 1 - share
        cell[(lower + 1) % 9] += share
        inner = found.reshape(2, 2, 9)[0, 0]  # borders have other gradients, in the first row and column of pixels
        assert set(np.argsort(inner)[-2:]) >= set(np.flatnonzero(cell > 0.3))


def test_colour_histograms_are_trilinear_and_of_quarters() -> None:
    feature, image = Color(), pixels(0)
    bins, half = feature.bins, feature.size // 2

    def histogram(part: Pixels) -> NDArray[np.float64]:
        counts = np.zeros((bins,) * 3)
        for values in part.reshape(-1, 3) * ((bins - 1) / 255):
            low = np.minimum(values.astype(int), bins - 2)
            share = values - low
            for corner in np.ndindex(2, 2, 2):
                weights = np.where(corner, share, 1 - share)
                counts[tuple(low + corner)] += weights.prod()
        return np.asarray(np.sqrt(counts.ravel() / len(part.reshape(-1, 3)) + feature.floor))

    parts = [image, image[:half, :half], image[:half, half:], image[half:, :half], image[half:, half:]]
    np.testing.assert_allclose(computed(feature, image)[0], np.concatenate([histogram(part) for part in parts]), atol=1e-4)


def test_descriptors_are_those_of_lowe_on_a_grid() -> None:
    """A direct computation, descriptor by descriptor and pixel by pixel, of some of the first octave."""
    feature, image = Sift(size=32, octaves=2), pixels(3, 32)
    grey = image @ np.array([0.299, 0.587, 0.114])
    across, down = np.zeros((2, 32, 32))
    across[:, 1:-1], down[1:-1] = grey[:, 2:] - grey[:, :-2], grey[2:] - grey[:-2]
    lengths, places = np.hypot(across, down), np.arctan2(down, across) / (np.pi / 4)
    (found,) = described(feature, image)
    assert found.shape == (feature.count, 128) == (25 + 1, 128)
    for row, column in ((0, 0), (2, 1), (4, 4)):
        expected = np.zeros((4, 4, 8))
        for (i, j), length in np.ndenumerate(lengths):
            for cell in np.ndindex(4, 4):
                centre = 4 * (np.array([row, column]) + cell) + 1.5
                near = np.maximum(0, 1 - np.abs(np.array([i, j]) - centre) / 4).prod() / 16
                low = np.floor(places[i, j])
                share = places[i, j] - low
                expected[cell][int(low) % 8] += near * length * (1 - share)
                expected[cell][int(low + 1) % 8] += near * length * share
        flat = expected.ravel()
        cut = np.minimum(flat / np.hypot(np.linalg.norm(flat), feature.floor), 0.2)
        np.testing.assert_allclose(found[5 * row + column], cut / np.hypot(np.linalg.norm(cut), 0.1), atol=1e-4)


def described(feature: Sift, image: Pixels) -> NDArray[np.float32]:
    class Described:
        dim = feature.count * 128

        def write(self, graph: OnnxGraph, images: str) -> str:
            return graph.node("Flatten", feature.write_descriptors(graph, images))

    return computed(Described(), image).reshape(1, feature.count, 128)


def test_fisher_vectors_are_those_of_scikit_image() -> None:
    fisher_vector = pytest.importorskip("skimage.feature").fisher_vector
    from sklearn.mixture import GaussianMixture

    feature, image = Sift(), pixels(4, 128)
    words = {name: value.astype(np.float64) for name, value in _vocabulary().items()}
    mixture = GaussianMixture(feature.words, covariance_type="diag")
    mixture.weights_, mixture.means_, mixture.covariances_ = words["weights"], words["means"], words["variances"]
    mixture.precisions_cholesky_ = 1 / np.sqrt(words["variances"])
    x = np.hstack([(described(feature, image)[0] - words["mean"]) @ words["basis"], feature.positions()])
    whole = fisher_vector(x, mixture, improved=True)[feature.words :]  # ours leave the weights out
    expected = whole * np.repeat([1, -1], feature.dim // 2) / np.linalg.norm(whole)  # the opposite sign by the variances
    np.testing.assert_allclose(computed(feature, image)[0], expected, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_engines_agree_also_on_images_of_one_colour(name: str, cache: Path) -> None:
    backbone = load_backbone(f"{name}@96", cache=cache)  # so that it is resized inside, which leaves rounding in what is flat
    images = [pixels(1, 96), *(np.full((96, 96, 3), level, np.uint8) for level in (0, 100, 255))]
    found = [features(backbone, *images, kind=kind) for kind in ("openvino", "onnxruntime")]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize("name", NAMES)
def test_beside_a_larger_network_they_are_about_the_same(name: str, cache: Path) -> None:
    alone = load_backbone(name, cache=cache)
    large = load_backbone(f"{name}@{3 * alone.record.input_size}", cache=cache)
    images = [pixels(seed, 3 * alone.record.input_size) for seed in range(6)]
    small = [np.asarray(Image.fromarray(image).resize((alone.record.input_size,) * 2, Image.Resampling.BILINEAR)) for image in images]
    ours, theirs = features(large, *images), features(alone, *small)
    nearest = ((ours[:, None] - theirs[None]) ** 2).sum(axis=2)
    assert (nearest.argmin(axis=1) == np.arange(len(images))).all()
    assert np.diag(nearest).max() < 0.1 * nearest[~np.eye(len(images), dtype=bool)].min()


def test_beside_a_network_they_are_stages_and_alone_the_last_layer(cache: Path) -> None:
    beside, alone = load_backbone("lite0@64+hog+color", cache=cache), load_backbone("hog+color", cache=cache)
    assert [layer.name for layer in beside.layers][-4:] == ["tf_efficientnet_lite0.stage7", "hog", "color", "last"]
    assert [(layer.name, layer.stop) for layer in alone.layers] == [("last", Hog().dim + Color().dim)]
    image = beside.preprocessing(pixels(2))
    whole, both = features(beside, image)[0], features(alone, image)[0]
    start = beside.layers[-3].start
    np.testing.assert_allclose(whole[start : start + len(both)], both, atol=1e-5)
    parts = BackboneExtractor(beside)([pixels(2)]).values[0]
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4)


def test_mirrored_they_do_not_change_with_the_image_mirrored(cache: Path) -> None:
    backbone = load_backbone("lite0@64+hog+mirrored", cache=cache)
    assert "hog" in [layer.name for layer in backbone.layers]
    found = features(backbone, pixels(5), np.ascontiguousarray(pixels(5)[:, ::-1]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_the_id_of_an_extractor_tells_what_the_features_depend_on(cache: Path) -> None:
    ids = {BackboneExtractor(load_backbone(name, cache=cache)).id for name in ("hog", "hog@96", "sift", "color", "hog+color", "color+hog")}
    assert len(ids) == 6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--features", "gabor"], "--features takes hog, .*color, or several with commas; got 'gabor'"),
        (["--features", "hogg"], "Did you mean hog?"),
        (["--features", "hog", "--budget", "1m"], "--budget chooses among pre-trained backbones, and hog is handcrafted"),
        (["--features", "hog", "--weights", "w.pth"], "hog comes from a formula and has no weights: leave --weights out"),
    ],
)
def test_what_cannot_be_combined_is_refused(
    options: list[str], reason: str, cli: Callable[..., SimpleNamespace], pictures: Path, tmp_path: Path
) -> None:
    refused = cli("fit", pictures, *options, "--out", tmp_path / "run")
    assert refused.code == 2
    assert re.search(reason, " ".join(refused.err.split())), refused.err


def test_nothing_in_them_is_trained(pictures: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ParameterError, match=r"hog comes from a formula. Name a backbone alone, or use --strategy probe"):
        headstart.fit(pictures, settings=FitSettings(backbone="efficientnet_lite0+hog", fine_tuning=FineTuning()))


def test_there_is_nothing_to_fetch_and_no_stage(cli: Callable[..., SimpleNamespace], cache: Path) -> None:
    with pytest.raises(BackboneError, match="nothing to fetch"):
        headstart.backbones.fetch("hog", cache=cache)
    assert "handcrafted features have no stages" in cli("backbones", "hog", "--stages").err
    listed = cli("backbones")
    assert "histograms of oriented gradients" in listed.out + listed.err
    assert "1764 features of images of 64 px" in cli("backbones", "HOG").out


def test_the_whole_way_from_the_command_line(cli: Callable[..., SimpleNamespace], pictures: Path, photo: Path, tmp_path: Path) -> None:
    """Fitted, loaded, explained and exported as any backbone."""
    run, file = tmp_path / "run", tmp_path / "model.onnx"
    fitted = cli("fit", pictures, "--features", "colour,hog", "--out", run)
    assert fitted.code == 0, fitted.err
    assert re.search(
        r"baseline +efficientnet_lite0 \(pre-trained, .* hog\+color \(handcrafted, .* out of sample on", fitted.out + fitted.err
    )
    opened = headstart.load(run)
    assert opened.record.baseline is not None
    assert opened.record.baseline.images == len(opened.training_names)
    assert "as good, as far as these images tell, as hog+color" in (run / "report.html").read_text(encoding="utf-8")
    assert opened.manifest.backbone.name == "hog+color"
    (explanation,) = headstart.explain(opened, [photo])
    assert explanation.heat.shape == (64, 64)
    exported = cli("export", run, "--out", file)
    assert exported.code == 0, exported.err
    assert "same label for all" in exported.out + exported.err


def test_beside_a_network_each_is_scored_alone(pictures: Path, cache: Path) -> None:
    result = headstart.fit(pictures, settings=FitSettings(backbone="efficientnet_lite0@64+color", cache=cache))
    found = result.baseline
    assert found is not None
    assert (found.handcrafted, found.pretrained) == ("color", "efficientnet_lite0@64")
    chosen = result.choice.evidence[0]
    assert found.used == ("color" in chosen.layers)
    assert found.together == (chosen.accuracy if found.used else None)
    assert found.difference == pytest.approx(found.pretrained_accuracy - found.handcrafted_accuracy)
    assert headstart.fit(pictures, settings=FitSettings(backbone="efficientnet_lite0@64", cache=cache)).baseline is None


def test_layers_are_chosen_with_and_without_them() -> None:
    network = (("stage1", 0, 4), ("last", 6, 16))
    found = views((network[0], ("hog", 4, 6), network[1]))
    assert found[:5] == views(network)
    assert [view.name for view in found[5:]] == ["all layers, hog", "all layers, hog, evened out"]
    assert all([name for name, _, _ in view.layers] == ["stage1", "hog", "last"] for view in found[5:])
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    told, noise = rng.normal(labels[:, None], 0.5, (120, 12)), rng.normal(0, 1, (120, 200))
    layers = [Layer("stage1", 0, 2), Layer("hog", 2, 202), Layer("last", 202, 212)]
    chosen = choose_head(np.hstack([told[:, :2], noise, told[:, 2:]]).astype(np.float32), labels, layers=layers).evidence[0]
    assert "hog" not in chosen.layers


def test_the_baseline_says_what_was_found() -> None:
    numbers = {"handcrafted_accuracy": 0.85, "pretrained_accuracy": 0.95, "difference": 0.1}
    found = Baseline(handcrafted="hog", pretrained="lite0", images=100, difference_error=0.03, **numbers)
    assert found.sentence() == (
        "lite0 (pre-trained, 95.0 %) is 10.0 points (± 3.0) ahead of hog (handcrafted, 85.0 %), out of sample on 100 training images"
    )
    alike = replace(found, difference=-0.01, together=0.97).sentence()
    assert "as good, as far as these images tell, as hog" in alike
    assert alike.endswith("; both together: 97.0 %")
    assert replace(found, used=False).sentence().endswith("; beside the network they bring nothing, and the model does without them")


@pytest.mark.data
def test_hog_reads_digits(shared_data: Path) -> None:
    """200 a digit: 98.0 % (usps) and 97.8 % (mnist); here 60 a digit."""
    images = [path for digit in sorted((shared_data / "digits" / "usps").iterdir()) for path in sorted(digit.iterdir())[:60]]
    labels = [path.parent.name for path in images]
    model = headstart.TransferClassifier(backbone="hog").fit(images[::2], labels[::2])
    assert model.score(images[1::2], labels[1::2]) > 0.93


def test_the_table_says_the_size_and_the_number_of_features_of_each_graph() -> None:
    assert {record.name: (record.input_size, record.dim) for record in records()} == {
        name: (feature.size, feature.dim) for name, feature in FEATURES.items()
    }
