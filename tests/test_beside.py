"""A frozen network and a trained one as one backbone, and the mean of a head on each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from headstart.backbones import Backbone
from headstart.backbones.beside import beside, columns
from headstart.engine import open_engine
from headstart.errors import ParameterError
from headstart.heads import LogisticHead, RidgeHead
from headstart.maps import LayerMap
from headstart.metrics.link import log_softmax
from headstart.onnx_graph import OnnxGraph
from headstart.selection import HeadPipeline
from headstart.selection.mean import MeanHead

SIDE = 64


def features(network: Path, image: np.ndarray) -> np.ndarray:
    return next(iter(open_engine(network, kind="onnxruntime", size=SIDE).run([image])))[0]


@pytest.fixture(scope="module")
def trained(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The embedded network with another last convolution."""
    model = onnx.load(str(backbone.network))
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1].input[1]
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == last)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.5), last))
    path = tmp_path_factory.mktemp("trained") / "trained.onnx"
    onnx.save(model, str(path))
    return dataclasses.replace(backbone, network=path, weights_digest="1" * 64, tuned=True)


@pytest.fixture(scope="module")
def both(backbone: Backbone, trained: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return beside(backbone, trained, cache=tmp_path_factory.mktemp("both"))


def test_the_features_are_those_of_both(backbone: Backbone, trained: Backbone, both: Backbone) -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    whole = features(both.network, image)
    for part, slices in zip((backbone, trained), columns(backbone, trained), strict=True):
        found = np.concatenate([whole[start:stop] for start, stop in slices])
        np.testing.assert_allclose(found, features(part.network, image), rtol=1e-4, atol=1e-5)
    assert both.dim == 2 * backbone.dim == len(whole)
    assert both.tuned
    assert [layer.name for layer in both.layers] == [
        *(f"{name}.{layer.name}" for name in (backbone.name, "trained") for layer in backbone.layers[:-1]), "last",
    ]  # fmt: skip
    assert both.last.stop - both.last.start == 2 * 1280


def test_what_both_have_is_in_the_graph_once(backbone: Backbone, both: Backbone) -> None:
    def convolutions(network: Path) -> int:
        return sum(node.op_type == "Conv" for node in onnx.load(str(network)).graph.node)

    assert convolutions(both.network) == convolutions(backbone.network) + 1
    more = both.network.stat().st_size - backbone.network.stat().st_size
    assert more == pytest.approx(1280 * 320 * 4, rel=0.1)


def test_sharing_merges_what_computes_the_same_and_nothing_else() -> None:
    graph = OnnxGraph()

    def branch(factor: float, axis: int) -> str:
        return graph.node("ReduceMean", graph.node("Mul", "x", graph.constant([factor])), axes=[axis], keepdims=1)

    outputs = [branch(2, 1), branch(2, 1), branch(3, 1), branch(2, 0)]
    graph.node("Sum", *outputs, output="y")
    assert graph.share() == 3  # the first branch again, and the product of the last
    model = graph.model(inputs={"x": (np.float32, ("N", 3))}, outputs={"y": (np.float32, ("N", 3))})
    assert len(model.graph.initializer) == 2
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    mean = x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, 7 * mean + 2 * x.mean(axis=0, keepdims=True))


def test_graphs_within_nodes_may_refer_to_anything() -> None:
    graph = OnnxGraph()
    twice = [graph.node("Neg", "x") for _ in range(2)]
    inner = [helper.make_graph([helper.make_node("Identity", [name], [f"of_{name}"])], name, [], [
        helper.make_tensor_value_info(f"of_{name}", TensorProto.FLOAT, None)]) for name in twice]  # fmt: skip
    graph.node("If", graph.constant(True, dtype=np.bool_), then_branch=inner[0], else_branch=inner[1], output="y")
    assert graph.share() == 0
    graph.model(inputs={"x": (np.float32, ("N",))}, outputs={"y": (np.float32, ("N",))})


# The mean of two heads -----------------------------------------------------------------------------------------------------------------


def heads(y: np.ndarray) -> tuple[MeanHead, np.ndarray]:
    X = np.random.default_rng(1).normal(size=(60, 10)).astype(np.float32)
    first = HeadPipeline(LayerMap([("a", 0, 6)]), LogisticHead()).fit(X[:, [0, 1, 2, 3, 8, 9]], y)
    second = HeadPipeline(LayerMap([("b", 0, 4)]), RidgeHead()).fit(X[:, 4:8], y)
    return MeanHead(heads=(first, second), columns=(((0, 4), (8, 10)), ((4, 8),)), n_features_in_=10, temperature=0.7), X


@pytest.mark.parametrize("several", [False, True])
def test_the_mean_is_that_of_the_log_probabilities(several: bool) -> None:
    random = np.random.default_rng(2)
    head, X = heads(random.integers(0, 2, (60, 3)) > 0 if several else np.array(["x", "y", "z"])[np.arange(60) % 3])
    one, two = head.heads[0].logits(X[:, [0, 1, 2, 3, 8, 9]]), head.heads[1].logits(X[:, 4:8])
    expected = (one + two) / 2 if several else (log_softmax(one) + log_softmax(two)) / 2
    np.testing.assert_allclose(head.logits(X) * 0.7, expected)
    np.testing.assert_allclose(head.uncalibrated(head.logits(X)), expected)
    if not several:  # the normalised geometric mean of the probabilities, where the temperature is 1
        product = np.sqrt(head.heads[0].predict_proba(X[:, [0, 1, 2, 3, 8, 9]]) * head.heads[1].predict_proba(X[:, 4:8]))
        plain = dataclasses.replace(head, temperature=1.0).predict_proba(X)
        np.testing.assert_allclose(plain, product / product.sum(axis=1, keepdims=True))
    graph = OnnxGraph()
    graph.node("Identity", head.write_onnx(graph, "features"), output="logits")
    model = graph.model(inputs={"features": (np.float32, ("N", 10))}, outputs={"logits": (np.float32, ("N", 3))})
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"features": X})
    np.testing.assert_allclose(found, head.logits(X), rtol=1e-4, atol=1e-4)
    settings, arrays = head.state()
    assert [part["head"]["head"] for part in settings["heads"]] == ["logistic", "ridge"]
    np.testing.assert_array_equal(arrays["1.head.coef_"], head.heads[1].state()[1]["head.coef_"])


def test_heads_that_do_not_belong_together() -> None:
    head, X = heads(np.arange(60) % 3)
    other, _ = heads(np.arange(60) % 2)
    with pytest.raises(ParameterError, match=r"the heads tell different classes apart: \[0, 1, 2\] and \[0, 1\]"):
        dataclasses.replace(head, heads=(head.heads[0], other.heads[1]))
    with pytest.raises(ParameterError, match=r"a head of 4 features cannot take the columns \(\(4, 7\),\) of 10"):
        dataclasses.replace(head, columns=(head.columns[0], ((4, 7),)))
    with pytest.raises(ParameterError, match="each head needs its columns, got 2 heads and 1 columns"):
        dataclasses.replace(head, columns=head.columns[:1])
    with pytest.raises(ParameterError, match="temperature must be a finite number above 0, got 0"):
        dataclasses.replace(head, temperature=0)
    with pytest.raises(ValueError, match=r"X must be features of the shape \(n, 10\), got \(60, 9\)"):
        head.logits(X[:, :9])
