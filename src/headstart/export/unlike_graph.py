"""`Unlike` as a graph: features in, the score out, as `headstart.reliability` computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.onnx_graph import IR_VERSION, OPSET, OnnxGraph
from headstart.reliability.unlike import NEIGHBOURS

if TYPE_CHECKING:
    import onnx

_FLOAT, _FLOAT16 = 1, 10  # of ONNX's table of types
_LEAST = 1e-12  # as in `Unlike`

Arrays = Mapping[str, npt.NDArray[Any]]


def write_unlikeness(graph: OnnxGraph, features: str, settings: Mapping[str, Any], arrays: Arrays) -> str:
    """Append the score to a graph.

    Args:
        graph: the graph under construction.
        features: names a float32 value (N, D).
        settings: the first part of what `Unlike.state` gives; `arrays` is the second.
        arrays: see there.

    Returns:
        The name of the score, float32 (N,): the higher, the more unlike the training images.
    """
    slices: Sequence[tuple[int, int]] = [(int(start), int(stop)) for start, stop in settings["layers"]]
    centre, spread = (np.asarray(settings[name], dtype=np.float64) for name in ("centre", "spread"))
    distances = [_gaussian(graph, _columns(graph, features, *ends), arrays, f"layer{place}.") for place, ends in enumerate(slices)]
    distances.append(_nearest(graph, _columns(graph, features, *slices[-1]), arrays))
    parts = graph.node("Concat", *distances, axis=1)
    parts = graph.node("Log", graph.node("Max", parts, graph.constant(_LEAST)))
    parts = graph.node("Div", graph.node("Sub", parts, graph.constant(centre)), graph.constant(spread))
    shares = np.array([0.5 / len(slices)] * len(slices) + [1.0])[:, None]
    score = graph.node("MatMul", parts, graph.constant(shares))
    return graph.node("Squeeze", score, graph.constant([1], dtype=np.int64))


def _columns(graph: OnnxGraph, features: str, start: int, stop: int) -> str:
    return graph.node("Slice", features, *(graph.constant([value], dtype=np.int64) for value in (start, stop, 1)))


def _sum(graph: OnnxGraph, values: str, axis: int = 1, *, keepdims: int = 1) -> str:
    return graph.node("ReduceSum", values, graph.constant([axis], dtype=np.int64), keepdims=keepdims)


def _squares(graph: OnnxGraph, values: str) -> str:
    return graph.node("Mul", values, values)


def _projected(graph: OnnxGraph, centred: str, axes: npt.NDArray[Any]) -> tuple[str, str]:
    """Along the axes (N, q), and the squared distance from them (N, 1)."""
    inside = graph.node("MatMul", centred, graph.constant(axes))
    if axes.shape[0] == axes.shape[1]:
        return inside, graph.node("Mul", _sum(graph, inside), graph.constant(0.0))
    rest = graph.node("Sub", _sum(graph, _squares(graph, centred)), _sum(graph, _squares(graph, inside)))
    return inside, graph.node("Max", rest, graph.constant(0.0))


def _gaussian(graph: OnnxGraph, values: str, arrays: Arrays, prefix: str) -> str:
    """Squared Mahalanobis distance (N, 1)."""
    mean, scale, axes, variance = (arrays[prefix + name] for name in ("mean", "scale", "axes", "variance"))
    centred = graph.node("Div", graph.node("Sub", values, graph.constant(mean)), graph.constant(scale))
    inside, outside = _projected(graph, centred, axes)
    along = _sum(graph, graph.node("Div", _squares(graph, inside), graph.constant(variance[:-1])))
    return graph.node("Add", along, graph.node("Div", outside, graph.constant(variance[-1])))


def _nearest(graph: OnnxGraph, values: str, arrays: Arrays) -> str:
    """Mean distance (N, 1) of the nearest training images."""
    points = np.asarray(arrays["near.points"], dtype=np.float16).astype(np.float32)
    rest = np.asarray(arrays["near.rest"], dtype=np.float32)
    length = graph.node("Max", graph.node("Sqrt", _sum(graph, _squares(graph, values))), graph.constant(1e-12))
    centred = graph.node("Sub", graph.node("Div", values, length), graph.constant(arrays["near.mean"]))
    own, across = _projected(graph, centred, arrays["near.axes"])
    own = graph.node("Cast", graph.node("Cast", own, to=_FLOAT16), to=_FLOAT)  # as the points were
    kept = graph.constant(points)
    squares = graph.node("Gemm", own, kept, graph.constant((points**2).sum(axis=1)), alpha=-2.0, transB=1)
    count = min(NEIGHBOURS, len(points))
    places = graph.graft(_smallest(count, of=len(points)), feed={"values": squares})["places"]
    # again from the differences: close to 0 the short form is all rounding
    away = graph.node("Sub", graph.node("Gather", kept, places, axis=0), graph.node("Unsqueeze", own, graph.constant([1], dtype=np.int64)))
    exact = graph.node("Add", _sum(graph, _squares(graph, away), 2, keepdims=0), across)
    exact = graph.node("Add", exact, graph.node("Gather", graph.constant(rest), places, axis=0))
    total = _sum(graph, graph.node("Sqrt", exact))
    return graph.node("Div", total, graph.constant(float(count)))


def _smallest(count: int, *, of: int) -> onnx.ModelProto:
    """A model that names the places of the `count` smallest values of each row; a model, because the node has two outputs."""
    from onnx import TensorProto, helper

    number = helper.make_tensor("count", TensorProto.INT64, [1], [count])
    node = helper.make_node("TopK", ["values", "count"], ["smallest", "places"], name="topk", axis=1, largest=0, sorted=1)
    given = helper.make_tensor_value_info("values", TensorProto.FLOAT, ["N", of])
    found = helper.make_tensor_value_info("places", TensorProto.INT64, ["N", count])
    graph = helper.make_graph([node], "smallest", [given], [found], initializer=[number])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
