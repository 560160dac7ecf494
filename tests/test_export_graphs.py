"""The graphs of an exported file give what the run's own code gives: pixels as Pillow makes them, and the score for what is unlike."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headstart.engine import open_session
from headstart.export import preprocessing_graph
from headstart.export.double_float import Wide
from headstart.export.onnx_file import write_novelty
from headstart.export.preprocessing_graph import tall_images_begin_with_rows, write_preprocessing
from headstart.modalities.image import Preprocessing
from headstart.onnx_graph import OnnxGraph
from headstart.reliability import Novelty

ENGINES = ("onnxruntime", "openvino")
Runner = Callable[[np.ndarray], np.ndarray]


def runner(model: bytes, engine: str, given: str) -> Runner:
    """What computes the only output of a model from its only input."""
    pytest.importorskip(engine)
    session = open_session(model, kind=engine)
    return lambda values: next(iter(session({given: values}).values()))


@cache
def resizer(preprocessing: Preprocessing, engine: str) -> Runner:
    graph, size = OnnxGraph(), preprocessing.size
    graph.node("Identity", write_preprocessing(graph, "images", preprocessing), output="pixels")
    model = graph.model(inputs={"images": (np.uint8, ("N", "h", "w", 3))}, outputs={"pixels": (np.uint8, ("N", size, size, 3))})
    return runner(model.SerializeToString(), engine, "images")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Hard edges and noise: what shows every fault of a filter."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3), dtype=np.uint8)
    edges = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)).astype(int)
    return np.clip(edges + random.integers(-30, 30, edges.shape), 0, 255).astype(np.uint8)


SIZES = [
    (64, 64), (40, 120), (130, 31), (8, 8), (1, 5), (5, 1), (200, 90), (90, 200), (300, 100), (460, 500), (611, 577), (150, 900),
    (900, 150),
]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(64, 0.875),
        Preprocessing(60, 0.9, "bilinear"),
        Preprocessing(64, 0.95, "lanczos"),
        Preprocessing(64, 1.0, "bicubic", "squash"),
        Preprocessing(64, 1.0, "bilinear", "squash"),
        Preprocessing(64, 0.9, "nearest"),
    ],
    ids=lambda preprocessing: preprocessing.id,
)
def test_images_of_all_sizes_come_out_as_from_pillow(preprocessing: Preprocessing, engine: str) -> None:
    resize = resizer(preprocessing, engine)
    for seed, (height, width) in enumerate(SIZES):
        image = picture(height, width, seed)
        assert np.array_equal(resize(image[None])[0], preprocessing(image)), (height, width)


@given(height=st.integers(1, 420), width=st.integers(1, 420), seed=st.integers(0, 99))
def test_any_size(height: int, width: int, seed: int) -> None:
    image = picture(height, width, seed)
    assert np.array_equal(resizer(Preprocessing(48, 0.95), "onnxruntime")(image[None])[0], Preprocessing(48, 0.95)(image))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_gives_what_its_images_give(engine: str) -> None:
    resize = resizer(Preprocessing(64, 0.875), engine)
    for height, width in ((300, 100), (100, 300), (500, 460)):
        images = np.stack([picture(height, width, seed) for seed in range(3)])
        for found, image in zip(resize(images), images, strict=True):
            assert np.array_equal(found, Preprocessing(64, 0.875)(image))


def test_the_size_may_change_from_image_to_image_and_back() -> None:
    resize = resizer(Preprocessing(64, 0.875), "openvino")
    for height, width in ((100, 120), (300, 100), (100, 120), (301, 100), (120, 100), (300, 100)):
        image = picture(height, width)
        assert np.array_equal(resize(image[None])[0], Preprocessing(64, 0.875)(image))


def test_the_order_of_the_passes_is_that_of_the_pillow_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    tall, preprocessing = picture(400, 100), Preprocessing(64)
    wanted = preprocessing(tall)
    here = tall_images_begin_with_rows()
    for order in (True, False):
        monkeypatch.setattr(preprocessing_graph, "tall_images_begin_with_rows", lambda order=order: order)
        found = resizer.__wrapped__(preprocessing, "onnxruntime")(tall[None])[0]
        assert (found != wanted).mean() == 0 if order == here else (found != wanted).mean() > 0.05


def test_numbers_of_48_bits() -> None:
    """Against double precision, of which float32 keeps half: sums, products, quotients, whole parts, and sums along an axis."""
    random = np.random.default_rng(0)
    values = random.normal(0, [[0.01], [1], [100]], (3, 200))
    graph = OnnxGraph()
    nought = Wide.of(graph, "nothing")
    one, other = Wide.constant(graph, values) + nought, Wide.constant(graph, values[:, ::-1])
    wanted = {
        "sum": (one + other, values + values[:, ::-1]),
        "difference": (one - other * 1.5, values - values[:, ::-1] * 1.5),
        "quotient": (one / other, values / values[:, ::-1]),
        "magnitude": (one.magnitude(), np.abs(values)),
        "total": ((one * 0.05).total(1), values.sum(axis=1, keepdims=True) * 0.05),
    }
    outputs = {}
    for name, (wide, value) in wanted.items():
        for part in ("high", "low"):
            graph.node("Identity", getattr(wide, part), output=f"{name} {part}")
            outputs[f"{name} {part}"] = (np.float32, value.shape)
    graph.node("Identity", (nought + np.array([3, 3, -2]) + np.array([1e-9, -1e-9, -1e-9])).floor(), output="floor")
    outputs["floor"] = (np.float32, (3,))
    model = graph.model(inputs={"nothing": (np.float32, (1,))}, outputs=outputs).SerializeToString()
    for engine in ENGINES:
        pytest.importorskip(engine)
        found = open_session(model, kind=engine)({"nothing": np.zeros(1, dtype=np.float32)})
        for name, (_, value) in wanted.items():
            both = found[f"{name} high"].astype(np.float64) + found[f"{name} low"]
            assert np.abs(both - value).max() < 1e-11 * max(1, np.abs(value).max()), (engine, name)
        assert found["floor"].tolist() == [3, 2, -3]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_novelty_score_is_that_of_the_run(engine: str) -> None:
    random = np.random.default_rng(4)
    mixed = random.normal(size=(300, 8)) @ random.normal(size=(8, 260)) + random.normal(size=(300, 260)) * 0.3
    features = np.abs(mixed).astype(np.float32)
    layers = [type("Layer", (), {"name": "", "start": start, "stop": stop}) for start, stop in ((0, 20), (20, 60), (60, 260))]
    unlike = Novelty.fit(features, random.integers(0, 2, 300), layers=layers)
    graph = OnnxGraph()
    graph.node("Identity", write_novelty(graph, "features", *unlike.state()), output="score")
    model = graph.model(inputs={"features": (np.float32, ("N", 260))}, outputs={"score": (np.float32, ("N",))})
    score = runner(model.SerializeToString(), engine, "features")
    new = np.abs(random.normal(size=(40, 8)) @ random.normal(size=(8, 260)) * random.uniform(0.2, 5, (40, 1))).astype(np.float32)
    for given_ in (new, features[:20] * np.float32(1.01)):
        wanted = unlike.score(given_)
        assert np.ptp(wanted) > 0.3
        assert np.abs(score(given_) - wanted).max() < 5e-3
