"""Heat maps against closed forms and planted evidence, on small networks whose logits are known, and on real backbones."""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.backbones import Backbone, load_backbone
from headstart.engine import open_engine
from headstart.errors import BackboneError, ParameterError
from headstart.explanation import HeatMaps
from headstart.explanation.heat_maps import windows
from headstart.explanation.stage_maps import NetworkGraph, PooledNetwork, find_poolings
from headstart.metrics.link import SIGMOID
from headstart.modalities.image import Preprocessing
from headstart.onnx_graph import OnnxGraph

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from heat_maps import centre_map, judge, mean_interval, random_maps

SIDE, CELLS = 56, 14
ENGINES = ("openvino", "onnxruntime")
CLASSES = ("left", "right", "other")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


def logits_on(graph: OnnxGraph, features: str, weights: np.ndarray, bias: np.ndarray, *, side: int = SIDE) -> Any:
    """A model with a linear head on named features."""
    graph.node("Gemm", features, graph.constant(weights), graph.constant(bias), output="logits", transB=1)
    graph.node("Softmax", "logits", output="probabilities", axis=-1)
    outputs = {"features": weights.shape[1], "logits": len(weights), "probabilities": len(weights)}
    return graph.model(
        inputs={"images": (np.uint8, ("N", side, side, 3))},
        outputs={name: (np.float32, ("N", size)) for name, size in outputs.items()},
    )


WEIGHTS = np.array([[3, -1, 0], [-2, 2, 1], [0, 0, 0.5]], np.float32)
BIAS = np.array([0.1, -0.3, 0], np.float32)


def small_network(folder: Path, layout: str = "NCHW", *, between: str = "", weights: np.ndarray = WEIGHTS, bias: np.ndarray = BIAS) -> Path:
    """Features are the mean colours of the image, by way of a map of 4 x 4 pixels each; `between` them and the head may be an operator."""
    graph = OnnxGraph()
    scaled = graph.node("Div", graph.node("Cast", "images", to=1), graph.constant(255.0))
    small = graph.node("AveragePool", graph.node("Transpose", scaled, perm=[0, 3, 1, 2]), kernel_shape=[4, 4], strides=[4, 4])
    if layout == "NCHW":
        pooled = graph.node("GlobalAveragePool", small)
    elif layout == "NHWC":
        pooled = graph.node("ReduceMean", graph.node("Transpose", small, perm=[0, 2, 3, 1]), axes=[1, 2], keepdims=0)
    else:
        flat = graph.node("Reshape", small, graph.constant([0, 3, -1], dtype=np.int64))
        tokens = graph.node("Transpose", flat, perm=[0, 2, 1])
        if layout == "tokens":
            pooled = graph.node("ReduceMean", tokens, axes=[1], keepdims=0)
        else:  # as a class token: one position, not a mean
            pooled = graph.node("Gather", tokens, graph.constant(0, dtype=np.int64), axis=1)
    if between:
        pooled = graph.node(between, pooled)
    graph.node("Flatten", pooled, output="features", axis=1)
    path = folder / "model.onnx"
    path.write_bytes(logits_on(graph, "features", weights, bias).SerializeToString())
    return path


def heat_maps(model: Path, **options: Any) -> HeatMaps:
    return HeatMaps(model, preprocessing=Preprocessing(size=SIDE), classes=CLASSES, **{"cells": CELLS, **options})


def noise(count: int, *, seed: int = 0, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def cell_means(images: np.ndarray) -> np.ndarray:
    """Colours from 0 to 1 of each cell, (n, cells, cells, 3)."""
    blocks = images.reshape(len(images), CELLS, SIDE // CELLS, CELLS, SIDE // CELLS, 3)
    return np.asarray(blocks.mean(axis=(2, 4)) / 255)


def odds(values: np.ndarray, target: int) -> np.ndarray:
    """Log-odds of a class by way of the probabilities, for features (..., 3)."""
    logits = values @ WEIGHTS.T.astype(float) + BIAS
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return np.asarray(np.log(shares[..., target] / (1 - shares[..., target])))


# The network taken apart -----------------------------------------------------------------------------------------------------------


def test_a_part_is_a_model_of_its_own(tmp_path: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    parts = NetworkGraph(small_network(tmp_path, between="Tanh").read_bytes())
    poolings = find_poolings(parts)
    assert poolings is not None
    part = onnx.load_from_string(parts.part("logits", inputs={poolings[0].pooled: ("N", 3, 1, 1)}))
    values = np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32)
    (found,) = ReferenceEvaluator(part).run(None, {poolings[0].pooled: values})
    np.testing.assert_allclose(found, np.tanh(values[:, :, 0, 0]) @ WEIGHTS.T + BIAS, atol=1e-5)
    assert [node.op_type for node in part.graph.node] == ["Tanh", "Flatten", "Gemm"]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"\xff" * 50, lambda data: b"PNG" + data])
def test_a_damaged_network_is_told(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    model = small_network(tmp_path)
    model.write_bytes(damage(model.read_bytes()))
    with pytest.raises(BackboneError, match="is not an ONNX file, or a damaged one"):
        heat_maps(model, method="cells")


# By cells --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.2, -0.05, 1.0])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "tokens"])
def test_cells_are_the_closed_form(tmp_path: Path, engine: str, layout: str, step: float) -> None:
    images, targets = noise(3), np.array([0, 1, 2])
    maps = heat_maps(small_network(tmp_path, layout), method="cells", engine=engine, step=step)
    found = maps.evidence(images, targets)
    means = cell_means(images)
    for row, target in enumerate(targets):
        mean = means[row].mean(axis=(0, 1))
        expected = (odds(mean + step * (means[row] - mean), target) - odds(mean, target)) / step
        np.testing.assert_allclose(found[row], expected, atol=2e-4)


def test_what_stands_between_pooling_and_head_is_computed(tmp_path: Path, engine: str) -> None:
    images = noise(2)
    found = heat_maps(small_network(tmp_path, between="Exp"), method="cells", engine=engine).evidence(images, [0, 0])
    means = cell_means(images)
    mean = means.mean(axis=(1, 2), keepdims=True)
    expected = (odds(np.exp(mean + 0.2 * (means - mean)), 0) - odds(np.exp(mean), 0)) / 0.2
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_each_label_of_several_has_its_own_odds(tmp_path: Path) -> None:
    images = noise(1)
    found = heat_maps(small_network(tmp_path), method="cells", link=SIGMOID).evidence(images, [1])
    means = cell_means(images)[0]
    np.testing.assert_allclose(found[0], (means - means.mean(axis=(0, 1))) @ WEIGHTS[1], atol=2e-4)


@pytest.mark.parametrize("side", [8, 14, 35, 112])
def test_maps_of_any_size_keep_their_mean(side: int) -> None:
    from headstart.explanation.stage_maps import _resampling

    rows = _resampling(side, CELLS)
    values = np.random.default_rng(side).normal(size=(side, side))
    grid = rows @ values @ rows.T
    assert grid.mean() == pytest.approx(values.mean(), abs=1e-6)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    if side == 112:
        np.testing.assert_allclose(grid, values.reshape(14, 8, 14, 8).mean(axis=(1, 3)), atol=1e-5)


def lite_model(backbone: Backbone, folder: Path, *, side: int = SIDE) -> Path:
    """The embedded backbone with a linear head by chance on all of its stages."""
    import onnx

    graph = OnnxGraph()
    graph.node("Identity", graph.graft(onnx.load(str(backbone.network)), feed={"images": "images"})["features"], output="features")
    weights = np.random.default_rng(0).normal(0, 0.05, (3, backbone.dim)).astype(np.float32)
    path = folder / "model.onnx"
    path.write_bytes(logits_on(graph, "features", weights, np.zeros(3, np.float32), side=side).SerializeToString())
    return path


def check_network(model: Path, *, engine: str, size: int) -> None:
    """The stages' maps on the grid have the pooled values as their means, and from those come the logits of the whole network."""
    parts = NetworkGraph(model.read_bytes())
    poolings = find_poolings(parts)
    assert poolings is not None
    network = PooledNetwork(parts, poolings, size=size, cells=7, engine=engine)
    images = noise(2, side=size)
    found = list(network.maps(iter(images)))
    means = [np.stack([image[index].mean(axis=0) for image in found]) for index in range(len(poolings))]
    expected = [row for (row,) in open_engine(model, kind=engine, outputs=("logits",), size=size).run(iter(images))]
    np.testing.assert_allclose(network.logits(means), np.stack(expected), rtol=1e-3, atol=2e-3)


def test_the_embedded_network_in_two_parts(backbone: Backbone, tmp_path: Path, engine: str) -> None:
    model = lite_model(backbone, tmp_path)
    assert len(find_poolings(NetworkGraph(model.read_bytes())) or ()) == len(backbone.layers)
    check_network(model, engine=engine, size=SIDE)


def test_maps_of_the_mirror_image_are_turned_back(backbone: Backbone, cache: Path, tmp_path: Path, engine: str) -> None:
    """The features are the same for an image and its mirror image, so the evidence is mirrored, too; and it is that of both together."""
    image = noise(1, seed=3)
    image[:, :, : SIDE // 2] //= 4
    both = np.concatenate([image, image[:, :, ::-1]])
    plain, averaged = (
        heat_maps(lite_model(one, tmp_path), method="cells", engine=engine, step=0.01)
        for one in (backbone, load_backbone(f"lite0@{SIDE}+mirrored", cache=cache))
    )
    found = averaged.evidence(both, [1, 1])
    assert averaged.method == "cells"
    np.testing.assert_allclose(found[0], found[1][:, ::-1], atol=2e-2 * np.abs(found).max())
    assert np.abs(found[0] - found[0][:, ::-1]).max() > 0.2 * np.abs(found).max()
    halves = plain.evidence(both, [1, 1])
    assert np.corrcoef(found[0].ravel(), (halves[0] + halves[1][:, ::-1]).ravel())[0, 1] > 0.8


# By occlusion, and which is used ---------------------------------------------------------------------------------------------------


def test_windows_cover_evenly() -> None:
    for cells in (7, 14, 9):
        assert set(windows(cells).sum(axis=0).ravel()) == {4}
        assert set(windows(cells, spacing=1).sum(axis=0).ravel()) == {1}
    assert (len(windows(7)), len(windows(7, spacing=1))) == (64, 16)


@pytest.mark.parametrize("layout", ["NCHW", "class token"])
def test_occlusion_finds_the_place_that_counts(tmp_path: Path, engine: str, layout: str) -> None:
    """With the class token only the first cell counts; with the mean, a bright square on dark ground."""
    images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    images[0, :6, :6, 0] = 255
    images[1, 40:50, 4:14, 0] = 255
    maps = heat_maps(small_network(tmp_path, layout), method="occlusion", engine=engine)
    heat = maps(images, [0, 0])
    assert np.hypot(*np.unravel_index(heat[0].argmax(), heat[0].shape)) < 12
    if layout == "NCHW":
        y, x = np.unravel_index(heat[1].argmax(), heat[1].shape)
        assert abs(y - 45) < 8
        assert abs(x - 9) < 8
    else:
        assert not heat[1].any()


def test_a_class_token_is_no_mean(tmp_path: Path) -> None:
    model = small_network(tmp_path, "class token")
    assert heat_maps(model, method="fast").method == "occlusion"
    assert heat_maps(small_network(tmp_path, "tokens"), method="fast").method == "cells"
    assert heat_maps(small_network(tmp_path, "tokens")).method == "occlusion"
    with pytest.raises(BackboneError, match=r"not only means over positions .* Use 'occlusion'"):
        heat_maps(small_network(tmp_path, "class token"), method="cells")


def test_a_head_that_small_changes_do_not_move_is_asked_by_occlusion(tmp_path: Path) -> None:
    """As nearest neighbours are: their votes change in jumps. Here at a mean red of one half, which this image has but just."""
    images = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    images[0, :, : SIDE // 2, 0] = 255
    images[0, :7, -1, 0] = 255
    model = small_network(tmp_path, between="Round")
    assert not heat_maps(model, method="cells", step=0.002).evidence(images, [0]).any()
    found = heat_maps(model, method="fast", step=0.002).evidence(images, [0])
    assert found.any()
    np.testing.assert_array_equal(found[0, :, -2:], 0)  # nothing hangs on the dark side


def test_heat_is_from_nothing_to_one(tmp_path: Path) -> None:
    images = noise(4)
    heat = heat_maps(small_network(tmp_path))(images, [0, 1, 2, 0])
    assert heat.shape == (4, SIDE, SIDE)
    assert heat.dtype == np.float32
    np.testing.assert_array_equal(heat.min(axis=(1, 2)), 0)
    np.testing.assert_allclose(heat.max(axis=(1, 2)), 1)
    flat = np.full((1, SIDE, SIDE, 3), 90, np.uint8)
    for method in ("auto", "fast"):
        assert heat_maps(small_network(tmp_path), method=method)(flat, [0]).max() == 0
        assert heat_maps(small_network(tmp_path), method=method)(images[:0], []).shape == (0, SIDE, SIDE)


def test_what_cannot_be_explained_is_refused(tmp_path: Path) -> None:
    model = small_network(tmp_path)
    with pytest.raises(ParameterError, match="method must be one of auto, fast, cells, occlusion, got 'gradcam'"):
        heat_maps(model, method="gradcam")
    with pytest.raises(ParameterError, match=r"prepared images, uint8 \(n, 56, 56, 3\), got uint8 \(1, 48, 48, 3\)"):
        heat_maps(model)(noise(1, side=48), [0])
    with pytest.raises(ParameterError, match="targets must be from 0 to 2, got 3 to 3"):
        heat_maps(model)(noise(1), [3])
    with pytest.raises(ParameterError, match=r"a class for each of the 2 images, got int64 \(1,\)"):
        heat_maps(model)(noise(2), [0])
    with pytest.raises(ParameterError, match="cells must be from 2 to the 56 pixels"):
        heat_maps(model, cells=1)
    with pytest.raises(ParameterError, match=r"step must be from -0\.5 to 1 and not 0"):
        heat_maps(model, step=0.0)
    for method in ("auto", "cells"):
        with pytest.raises(BackboneError, match=r"gone\.onnx: cannot be opened \(No such file"):
            heat_maps(tmp_path / "gone.onnx", method=method)


def planted(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures of noise; those of class 1 have a checkered square in one quarter: images, targets, and where the square is."""
    random = np.random.default_rng(seed)
    ground = random.normal(128, 40, (count, 28, 28, 3)).repeat(8, axis=1).repeat(8, axis=2)
    images = np.clip(ground + random.normal(0, 10, ground.shape), 0, 255).astype(np.uint8)
    targets, squares = np.arange(count) % 2, np.zeros((count, 224, 224), bool)
    checks = (np.add.outer(np.arange(88) // 11, np.arange(88) // 11) % 2 * 255).astype(np.uint8)[:, :, None]
    for row in np.flatnonzero(targets):
        top, left = random.integers(0, 2, 2) * 112 + random.integers(6, 18, 2)
        images[row, top : top + 88, left : left + 88] = checks
        squares[row, top : top + 88, left : left + 88] = True
    return images, targets, squares


@pytest.fixture(scope="module")
def planted_model(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded backbone with a logistic head that knows images with a checkered square from others."""
    import onnx

    from headstart.features import BackboneExtractor
    from headstart.heads import LogisticHead
    from headstart.maps import LayerMap
    from headstart.selection import HeadPipeline

    images, targets, _ = planted(40)
    extractor = BackboneExtractor(backbone)
    head = HeadPipeline(LayerMap(), LogisticHead()).fit(extractor(images).values, targets)
    graph = OnnxGraph()
    graph.node("Identity", graph.graft(onnx.load(str(backbone.network)), feed={"images": "images"})["features"], output="features")
    graph.node("Identity", head.write_onnx(graph, "features"), output="logits")
    graph.node("Softmax", "logits", output="probabilities", axis=-1)
    outputs = {"features": backbone.dim, "logits": 2, "probabilities": 2}
    model = graph.model(
        inputs={"images": (np.uint8, ("N", 224, 224, 3))}, outputs={name: (np.float32, ("N", size)) for name, size in outputs.items()}
    )
    path = tmp_path_factory.mktemp("planted") / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("method", "count"), [("cells", 6), ("occlusion", 1)])
def test_the_planted_square_is_hot(planted_model: Path, method: str, count: int) -> None:
    images, targets, squares = (array[1::2][:count] for array in planted(40, seed=1))
    heat = HeatMaps(planted_model, preprocessing=Preprocessing(size=224), classes=("no", "yes"), method=method)(images, targets)
    inside = [map_[square].mean() / map_[~square].mean() for map_, square in zip(heat, squares, strict=True)]
    assert np.median(inside) > 3
    peaks = [square.ravel()[map_.argmax()] for map_, square in zip(heat, squares, strict=True)]
    assert np.mean(peaks) >= 0.9
    if method == "cells":
        engine = open_engine(planted_model, outputs=("probabilities",))
        found = judge(engine, images, heat, targets, steps=4)
        chance = judge(engine, images, random_maps(count, 224), targets, steps=4)
        assert found.deletion.mean() < chance.deletion.mean()
        assert found.insertion.mean() > chance.insertion.mean()


# Networks of timm ------------------------------------------------------------------------------------------------------------------

# one of each way to pool: the side of the images, how many maps are pooled, what is made smaller
FAMILIES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "resnet18": (64, 5, {"channels": (8, 16, 24, 32)}),
    "mobilenetv3_small_050": (64, 7, {}),  # a convolution behind the pooling
    "convnext_atto": (64, 4, {}),  # a normalisation behind it, on the map of the last stage
    "swin_tiny_patch4_window7_224": (224, 5, {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 1, 2, 2)}),  # channels last
    "vit_tiny_patch16_224": (224, 0, {"depth": 2}),  # a class token
    "vit_pwee_patch16_reg1_gap_256": (256, 2, {"depth": 2}),  # tokens, of which some are no positions
}


@pytest.mark.torch
@pytest.mark.parametrize("name", FAMILIES)
def test_networks_of_timm(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="converting a network of timm needs PyTorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
    from headstart.backbones import timm_models

    side, means, changed = FAMILIES[name]
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, **changed))
    record = dataclasses.replace(timm_models.record_of(name), input_size=side)
    done = timm_models.convert(record, tensors=None, seed=3)
    (tmp_path / "network.onnx").write_bytes(done.network)
    made = lite_model(Named(tmp_path / "network.onnx", done.layers[-1].stop), tmp_path, side=side)  # type: ignore[arg-type]
    found = find_poolings(NetworkGraph(made.read_bytes()))
    assert len(found or ()) == means
    maps = HeatMaps(made, preprocessing=Preprocessing(size=side), classes=CLASSES, method="fast")
    assert maps.method == ("cells" if means else "occlusion")
    if means:
        check_network(made, engine="onnxruntime", size=side)
        assert maps.evidence(noise(1, side=side), [0]).any()


@dataclasses.dataclass(frozen=True)
class Named:
    network: Path
    dim: int


# Judging ---------------------------------------------------------------------------------------------------------------------------


class UpperHalf:
    """An engine for one image: the probability of class 1 is the share of the upper half that is as in the image."""

    name = "upper half"

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def run(self, images: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
        half = len(self.image) // 2
        for image in images:
            share = (image[:half] == self.image[:half]).all(axis=2).mean()
            yield (np.array([1 - share, share], np.float32),)


def test_scores_are_the_areas() -> None:
    image = noise(1)[0]
    heat = np.zeros((1, SIDE, SIDE), np.float32)
    heat[0, : SIDE // 2] = 1
    right = judge(UpperHalf(image), image[None], heat, [1], steps=8)
    assert right.deletion[0] == pytest.approx(0.25, abs=0.01)  # from 1 down to 0 over the first half
    assert right.insertion[0] == pytest.approx(0.75, abs=0.01)
    wrong = judge(UpperHalf(image), image[None], 1 - heat, [1], steps=8)
    assert wrong.deletion[0] == pytest.approx(0.75, abs=0.01)
    assert wrong.insertion[0] == pytest.approx(0.25, abs=0.01)
    level = judge(UpperHalf(image), image[None], 0 * heat, [1], steps=8)
    assert level.deletion[0] == pytest.approx(0.5, abs=0.02)  # ties in an order of chance
    assert judge(UpperHalf(image), image[None], heat, [0], steps=8).deletion[0] == pytest.approx(0.75, abs=0.01)
    with pytest.raises(ParameterError, match=r"heat \(1, 28, 56\) .* do not fit each other"):
        judge(UpperHalf(image), image[None], heat[:, :28], [1])
    with pytest.raises(ParameterError, match="steps must be 2 or more, got 1"):
        judge(UpperHalf(image), image[None], heat, [1], steps=1)


def test_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    mean, low, high = mean_interval(values)
    assert mean == values.mean()
    half = 1.96 * values.std() / 20
    assert (mean - low, high - mean) == (pytest.approx(half, rel=0.1), pytest.approx(half, rel=0.1))
    with pytest.raises(ParameterError, match=r"needs values in one row, got an array of shape \(0,\)"):
        mean_interval(np.empty(0))


def test_maps_of_no_meaning() -> None:
    maps = random_maps(40, 64)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert np.abs(maps.mean(axis=0) - 0.5).max() < 0.3  # no place is preferred
    assert not np.allclose(maps[0], maps[1])
    centre = centre_map(64)
    assert centre[32, 32] == pytest.approx(1, abs=0.01)
    assert centre[32, 16] == pytest.approx(np.exp(-0.5), abs=0.05)
