"""A saved network in two parts: the maps of its stages before they are pooled into features, and all that follows the pooling."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.engine import available_cores, open_engine
from headstart.errors import BackboneError

if TYPE_CHECKING:
    import onnx

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

FEATURES, LOGITS = "features", "logits"
_SAME = 1e-3  # of a pooled value and the mean of its map, relative to the largest value


class NetworkGraph:
    """The graph of an ONNX file.

    Args:
        data: the file.

    Attributes:
        nodes: in the order of the file, which is that of the computation.
        weights: the constants by name.
        makers: for each value the position of the node that computes it.
        inputs: names of the inputs of the network.

    Raises:
        BackboneError: not an ONNX file, or a damaged one.
    """

    def __init__(self, data: bytes) -> None:
        import onnx
        from google.protobuf.message import DecodeError

        try:
            self._model = onnx.load_from_string(data)
        except DecodeError:
            self._model = onnx.ModelProto()
        graph = self._model.graph
        if not graph.node:
            raise BackboneError("The network is not an ONNX file, or a damaged one. Copy the run again, or fit again.")
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.weights: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: position for position, node in enumerate(self.nodes) for name in node.output if name}
        self.inputs = [value.name for value in graph.input if value.name not in self.weights]

    def sources(self, value: str, *, stop: Iterable[str] = ()) -> tuple[list[int], set[str]]:
        """Return what a value is computed from.

        Args:
            value: its name.
            stop: values that are not traced further.

        Returns:
            The positions of the nodes needed, in order, and those of the values in `stop` and the inputs of the network that are needed.
        """
        ends, needed, found, pending = {*stop, *self.inputs}, set[int](), set[str](), [value]
        while pending:
            name = pending.pop()
            if name in ends:
                found.add(name)
            elif name in self.makers and self.makers[name] not in needed:
                needed.add(self.makers[name])
                pending.extend(filter(None, self.nodes[self.makers[name]].input))
        return sorted(needed), found

    def with_outputs(self, names: Sequence[str]) -> bytes:
        """Return the whole model, with further values (float32) among its outputs."""
        import onnx

        more = onnx.ModelProto()
        more.graph.output.extend(_float_value(name, None) for name in names)
        return bytes(self._model.SerializeToString() + more.SerializeToString())  # messages that follow each other are merged

    def part(self, value: str, *, inputs: Mapping[str, Sequence[int | str]]) -> bytes:
        """Return a model that computes `value` from `inputs`: float32 values with their shapes, where a string is a free dimension."""
        from onnx import helper

        nodes = [self.nodes[position] for position in self.sources(value, stop=inputs)[0]]
        taken = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes, "part", [_float_value(name, shape) for name, shape in inputs.items()], [_float_value(value, None)],
            [tensor for name, tensor in self.weights.items() if name in taken],
        )  # fmt: skip
        model = self._model
        made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions)
        return bytes(made.SerializeToString())


def _float_value(name: str, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


@dataclass(frozen=True)
class Pooling:
    """A mean over all positions of a map: names of the map and of the mean, and which axes of the map (batch first) are positions."""

    map: str
    pooled: str
    axes: tuple[int, ...]


def find_poolings(graph: NetworkGraph) -> tuple[Pooling, ...] | None:
    """The means over positions that the features consist of.

    Returns:
        Those that stand last before the features, in order; None where features also reach the network's input by another way, as a class
        token does, so that these maps do not tell all.
    """
    found: dict[str, Pooling] = {}
    pending, seen = [FEATURES], set()
    while pending:
        name = pending.pop()
        if name in graph.inputs:
            return None
        if name in seen or name not in graph.makers:
            continue
        seen.add(name)
        node = graph.nodes[graph.makers[name]]
        axes = _pooled_axes(node)
        if axes:
            found[name] = Pooling(node.input[0], name, axes)
        else:
            pending.extend(taken for taken in node.input if taken)
    return tuple(sorted(found.values(), key=lambda pooling: graph.makers[pooling.pooled])) or None


def _pooled_axes(node: onnx.NodeProto) -> tuple[int, ...]:
    """The axes that a node takes the mean of, if these can be positions: not those of a normalisation over channels."""
    if node.op_type == "GlobalAveragePool":
        return (2, 3)
    axes = next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), ())
    if node.op_type == "ReduceMean" and axes in ((2, 3), (-2, -1), (1, 2), (1,)):
        return (2, 3) if axes == (-2, -1) else axes
    return ()


class StageMaps:
    """Runs a saved model and gives, for each image, the maps of its stages on one common grid.

    Args:
        graph: of the model.
        poolings: as `find_poolings` gives them.
        size: height and width of the images.
        cells: height and width of the grid.
        engine: as of `headstart.engine.open_engine`.
    """

    def __init__(self, graph: NetworkGraph, poolings: Sequence[Pooling], *, size: int, cells: int, engine: str = "auto") -> None:
        self._poolings = tuple(poolings)
        self._cells = cells
        names = [name for pooling in poolings for name in (pooling.map, pooling.pooled)]
        with tempfile.TemporaryDirectory(prefix="headstart-explain-", ignore_cleanup_errors=True) as folder:
            network = Path(folder) / "maps.onnx"
            network.write_bytes(graph.with_outputs(list(dict.fromkeys(names))))
            self._engine = open_engine(network, kind=engine, outputs=names, size=size)
        self.engine_name = self._engine.name

    def run(self, images: Iterable[Pixels]) -> Iterator[list[tuple[Floats, tuple[int, ...]]]]:
        """Yield for each image (H, W, 3), for each pooling, its map as float32 (cells * cells, C) and the shape of the pooled value.

        The mean of a map's cells is the pooled value.

        Raises:
            UnknownMapError: a map has no square grid of positions, or its mean is not the pooled value.
        """
        for outputs in self._engine.run(images):
            yield [
                (_on_grid(outputs[2 * index], outputs[2 * index + 1], pooling, self._cells), outputs[2 * index + 1].shape)
                for index, pooling in enumerate(self._poolings)
            ]


class UnknownMapError(Exception):
    """What was taken for a map of positions is none."""


def _on_grid(value: Floats, pooled: Floats, pooling: Pooling, cells: int) -> Floats:
    axes = tuple(axis - 1 for axis in pooling.axes)  # the engine takes the batch dimension off
    if value.ndim != 3 - (len(axes) == 1):
        raise UnknownMapError(pooling.map)
    if axes == (0, 1) or axes == (0,):
        positions = value.reshape(-1, value.shape[-1])
        sides = value.shape[:2] if axes == (0, 1) else (math.isqrt(len(value)),) * 2
    else:
        positions = value.reshape(len(value), -1).T
        sides = value.shape[1:]
    if sides[0] * sides[1] != len(positions):
        raise UnknownMapError(pooling.map)
    mean = positions.mean(axis=0)
    if mean.size != pooled.size or not np.abs(mean - pooled.ravel()).max() <= _SAME * max(float(np.abs(mean).max()), 1e-12):
        raise UnknownMapError(pooling.map)
    rows, columns = _resampling(sides[0], cells), _resampling(sides[1], cells)
    channels = positions.shape[1]
    across = np.tensordot(rows, positions.reshape(*sides, channels), axes=(1, 0))
    grid: Floats = np.matmul(columns, across).reshape(cells * cells, channels)
    return grid


@lru_cache(maxsize=64)
def _resampling(length: int, cells: int) -> Floats:
    """float32 (cells, length): each cell is the mean of what it covers, so that the mean of all stays as it is."""
    edges, own = np.arange(cells + 1) * (length / cells), np.arange(length)
    covered = np.minimum(edges[1:, None], own + 1) - np.maximum(edges[:-1, None], own)
    weights: Floats = (np.maximum(covered, 0) * (cells / length)).astype(np.float32)
    return weights


class AfterPooling:
    """The part of a saved model from the pooled values to the logits, for many rows at once.

    Args:
        graph: of the model.
        poolings: whose results it begins with.
        shapes: of each pooled value, without the batch.
        engine: ``openvino`` or ``onnxruntime``.
    """

    def __init__(self, graph: NetworkGraph, poolings: Sequence[Pooling], shapes: Sequence[tuple[int, ...]], *, engine: str) -> None:
        self._shapes = [tuple(shape) for shape in shapes]
        inputs: dict[str, tuple[int | str, ...]] = {pooling.pooled: ("N", *shape) for pooling, shape in zip(poolings, shapes, strict=True)}
        used = graph.sources(LOGITS, stop=inputs)[1]
        self._used = [pooling.pooled in used for pooling in poolings]
        names = [pooling.pooled for pooling in poolings if pooling.pooled in used]
        model = graph.part(LOGITS, inputs={name: inputs[name] for name in names})
        self._run = (_with_openvino if engine == "openvino" else _with_onnxruntime)(model, names)

    def __call__(self, values: Sequence[Floats]) -> Floats:
        """Pooled values, float32 (n, C) each, to logits, float32 (n, k)."""
        rows = zip(values, self._shapes, self._used, strict=True)
        logits: Floats = self._run([np.ascontiguousarray(value.reshape(len(value), *shape)) for value, shape, used in rows if used])
        return logits


def _with_openvino(model: bytes, names: list[str]) -> Any:
    import openvino as ov

    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": available_cores()}
    core = ov.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()

    def run(values: list[Floats]) -> Floats:
        request.infer(dict(zip(names, values, strict=True)))
        logits: Floats = request.get_output_tensor(0).data.copy()
        return logits

    return run


def _with_onnxruntime(model: bytes, names: list[str]) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(values: list[Floats]) -> Floats:
        logits: Floats = session.run([LOGITS], dict(zip(names, values, strict=True)))[0]
        return logits

    return run
