"""A saved network in two parts: the maps of its stages before they are pooled into features, and all that follows the pooling."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headstart.engine import Engine, OfProcess, open_engine, open_session
from headstart.errors import BackboneError

if TYPE_CHECKING:
    import onnx

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

FEATURES, LOGITS = "features", "logits"
_SAME = 1e-3  # of a pooled value and the mean of its map, relative to the largest value


class UnknownMapError(Exception):
    """What was taken for a map of positions is none."""


class NetworkGraph:
    """The graph of an ONNX file; its nodes are in the order of the computation. Raises BackboneError where `data` are none, or damaged."""

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
        """Trace what a value is computed from, no further than the values in `stop` and the inputs of the network.

        Returns the positions of the nodes needed, in order, and those of these values that are needed.
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
    """A mean over all positions of a map: names of the map and of the mean, and which axes of the map (batch first) are positions.

    `mirrored`: the map is of the mirror image.
    """

    map: str
    pooled: str
    axes: tuple[int, ...]
    mirrored: bool = False


def find_poolings(graph: NetworkGraph) -> tuple[Pooling, ...] | None:
    """Return the means over positions that stand last before the features, in order.

    None where features also reach the network's input by another way, as a class token does, so that these maps do not tell all.
    """
    found = {node.output[0]: Pooling(node.input[0], node.output[0], axes) for node in graph.nodes if (axes := _pooled_axes(node))}
    ends = graph.sources(FEATURES, stop=found)[1]
    if ends - found.keys():
        return None
    used = [found[name] for name in found if name in ends]
    return tuple(replace(pooling, mirrored=_is_mirrored(graph, pooling.map)) for pooling in used) or None


def _is_mirrored(graph: NetworkGraph, value: str) -> bool:
    """Whether a value is computed from the mirror image, which `headstart.backbones.composed` makes by a slice of the input."""
    from onnx import numpy_helper

    def numbers(name: str) -> list[int]:
        return numpy_helper.to_array(graph.weights[name]).tolist() if name in graph.weights else []

    nodes = (graph.nodes[position] for position in graph.sources(value)[0])
    cuts = (node.input for node in nodes if node.op_type == "Slice" and node.input[0] in graph.inputs and len(node.input) == 5)
    return any((numbers(axes), numbers(steps)) == ([2], [-1]) for _, _, _, axes, steps in cuts)


def _pooled_axes(node: onnx.NodeProto) -> tuple[int, ...]:
    """The axes that a node takes the mean of, if these can be positions: not those of a normalisation over channels."""
    if node.op_type == "GlobalAveragePool":
        return (2, 3)
    axes = next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), ())
    if node.op_type == "ReduceMean" and axes in ((2, 3), (-2, -1), (1, 2), (1,)):
        return (2, 3) if axes == (-2, -1) else axes
    return ()


class PooledNetwork:
    """A saved model in two parts: from images of `size` pixels to the maps that `poolings` take the means of, and from there to the logits.

    Maps are on one common grid of `cells` by `cells`. `engine` is as of `headstart.engine.open_engine`.
    """

    def __init__(
        self, graph: NetworkGraph, poolings: Sequence[Pooling], *, size: int, cells: int, engine: str = "auto", logits: str = LOGITS
    ) -> None:
        self._graph, self._poolings, self._cells, self._logits = graph, tuple(poolings), cells, logits
        self._shapes: list[tuple[int, ...]] = []
        self._rest: Callable[[Mapping[str, Floats]], Floats] | None = None
        self._engine = OfProcess(lambda: self._open(engine, size))

    def _open(self, kind: str, size: int) -> Engine:
        names = [name for pooling in self._poolings for name in (pooling.map, pooling.pooled)]
        with tempfile.TemporaryDirectory(prefix="headstart-explain-", ignore_cleanup_errors=True) as folder:
            network = Path(folder) / "maps.onnx"
            network.write_bytes(self._graph.with_outputs(list(dict.fromkeys(names))))
            return open_engine(network, kind=kind, outputs=names, size=size)

    def maps(self, images: Iterable[Pixels]) -> Iterator[list[Floats]]:
        """Yield for each image (H, W, 3), for each pooling, its map as float32 (cells * cells, C), whose mean is the pooled value.

        Raises UnknownMapError where a map has no square grid of positions, or its mean is not the pooled value.
        """
        for outputs in self._engine().run(images):
            maps, pooled = outputs[::2], outputs[1::2]
            self._shapes = [value.shape for value in pooled]
            yield [_on_grid(*values, self._cells) for values in zip(maps, pooled, self._poolings, strict=True)]

    def logits(self, values: Sequence[Floats]) -> Floats:
        """Logits, float32 (n, k), from pooled values, float32 (n, C) each, once `maps` has given the first image."""
        inputs = {
            pooling.pooled: np.ascontiguousarray(value.reshape(len(value), *shape))
            for pooling, value, shape in zip(self._poolings, values, self._shapes, strict=True)
        }
        if self._rest is None:
            self._rest = self._after({name: ("N", *value.shape[1:]) for name, value in inputs.items()})
        return self._rest(inputs)

    def _after(self, inputs: Mapping[str, tuple[int | str, ...]]) -> Callable[[Mapping[str, Floats]], Floats]:
        output = self._logits
        used = self._graph.sources(output, stop=inputs)[1]  # a head need not use all stages
        model = self._graph.part(output, inputs={name: shape for name, shape in inputs.items() if name in used})
        session = open_session(model, kind=self._engine().name, outputs=(output,))
        return lambda values: session({name: values[name] for name in used})[output]


def _on_grid(value: Floats, pooled: Floats, pooling: Pooling, cells: int) -> Floats:
    axes = tuple(axis - 1 for axis in pooling.axes)  # the engine takes the batch dimension off
    if value.ndim == 1 + len(axes):
        grid = np.moveaxis(value, axes, range(len(axes)))
        sides = grid.shape[:2] if len(axes) == 2 else (math.isqrt(len(grid)),) * 2
        if pooling.mirrored and math.prod(sides) == math.prod(grid.shape[:-1]):
            grid = grid.reshape(*sides, -1)[:, ::-1]
        positions = grid.reshape(-1, grid.shape[-1])
        mean = positions.mean(axis=0)
        far = _SAME * max(float(np.abs(mean).max()), 1e-12)
        if math.prod(sides) == len(positions) and mean.size == pooled.size and np.abs(mean - pooled.ravel()).max() <= far:
            rows, columns = (_resampling(side, cells) for side in sides)
            across = np.tensordot(rows, positions.reshape(*sides, -1), axes=(1, 0))
            return np.asarray(np.matmul(columns, across)).reshape(cells * cells, -1)
    raise UnknownMapError(pooling.map)


@lru_cache(maxsize=64)
def _resampling(length: int, cells: int) -> Floats:
    """float32 (cells, length): each cell is the mean of what it covers, so that the mean of all stays as it is."""
    edges, own = np.arange(cells + 1) * (length / cells), np.arange(length)
    covered = np.minimum(edges[1:, None], own + 1) - np.maximum(edges[:-1, None], own)
    weights: Floats = (np.maximum(covered, 0) * (cells / length)).astype(np.float32)
    return weights
