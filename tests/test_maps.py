"""The map of features against its definition, scikit-learn, and ONNX Runtime."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from sklearn.preprocessing import StandardScaler

from headstart.errors import ParameterError, RunError
from headstart.maps import LayerMap
from headstart.onnx_graph import OnnxGraph

LAYERS = (("first", 0, 4), ("middle", 4, 10), ("last", 10, 30))


@pytest.fixture
def features() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=(80, 30)) * np.linspace(0.1, 3, 30) + 5).astype(np.float32)


def test_without_floor_and_clip_it_standardises(features: np.ndarray) -> None:
    ours = LayerMap(floor=0, clip=1e9).fit_transform(features)
    np.testing.assert_allclose(ours, StandardScaler().fit_transform(features.astype(np.float64)), atol=1e-4)


def test_takes_layers_in_order(features: np.ndarray) -> None:
    taken = LayerMap((LAYERS[2], LAYERS[0]), floor=0, clip=1e9).fit(features)
    whole = LayerMap(floor=0, clip=1e9).fit_transform(features)
    np.testing.assert_allclose(taken.transform(features), np.concatenate([whole[:, 10:], whole[:, :4]], axis=1), atol=1e-6)


def test_weights_count_in_squared_distances(features: np.ndarray) -> None:
    plain = LayerMap(LAYERS).fit_transform(features)
    weighted = LayerMap(LAYERS, weights=(1, 4, 0.25)).fit_transform(features)

    def distance(values: np.ndarray, start: int, stop: int) -> float:
        return float(((values[0, start:stop] - values[1, start:stop]) ** 2).sum())

    for (_, start, stop), weight in zip(LAYERS, (1, 4, 0.25), strict=True):
        assert distance(weighted, start, stop) == pytest.approx(weight * distance(plain, start, stop), rel=1e-5)


def test_a_feature_that_hardly_ever_fires_cannot_dominate() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(200, 50)).astype(np.float32)
    X[:, 0] = 0
    X[0, 0] = 1e-3
    new = np.zeros((1, 50), dtype=np.float32)
    new[0, 0] = 1
    plain = LayerMap(floor=0, clip=1e9).fit(X).transform(new)
    floored = LayerMap().fit(X).transform(new)
    assert plain[0, 0] > 1000
    assert floored[0, 0] <= 5


def test_constant_features_become_nought() -> None:
    X = np.full((10, 4), 7.3, dtype=np.float32)
    np.testing.assert_array_equal(LayerMap().fit_transform(X), 0)


def test_one_image(features: np.ndarray) -> None:
    np.testing.assert_array_equal(LayerMap().fit_transform(features[:1]), 0)


@pytest.mark.parametrize("weights", [None, (1.0, 0.5, 0.2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0), (1,)])
def test_onnx_and_state_give_the_same(features: np.ndarray, order: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
    fitted = LayerMap(tuple(LAYERS[i] for i in order), weights=weights and weights[: len(order)]).fit(features)
    graph = OnnxGraph()
    graph.node("Identity", fitted.write_onnx(graph, "features"), output="mapped")
    expected = fitted.transform(features * 3)
    model = graph.model(inputs={"features": (np.float32, ["N", 30])}, outputs={"mapped": (np.float32, ["N", expected.shape[1]])})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"features": features * 3})[0], expected, atol=1e-5)
    settings, arrays = fitted.state()
    np.testing.assert_array_equal(LayerMap.from_state(json.loads(json.dumps(settings)), arrays).transform(features * 3), expected)


def test_damaged_state(features: np.ndarray) -> None:
    settings, arrays = LayerMap().fit(features).state()
    with pytest.raises(RunError, match=r"saved map of the features is damaged: 'mean_'"):
        LayerMap.from_state(settings, {name: array for name, array in arrays.items() if name != "mean_"})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (LayerMap((("last", 10, 31),)), "layer 'last' is columns 10 to 31, outside of the 30 features"),
        (LayerMap(()), "layers is empty"),
        (LayerMap(LAYERS, weights=(1, 2)), "a positive number for each of the 3 layers"),
        (LayerMap(floor=-1), "floor must be a number of at least 0, got -1"),
        (LayerMap(clip=0), "clip must be a number above 0, got 0"),
    ],
)
def test_parameters_outside_their_limits(features: np.ndarray, made: LayerMap, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        made.fit(features)
