"""The maps of a backbone: the outputs of its stages before they are pooled, as further outputs of its network.

A backbone's network ends in the pooled outputs of its stages, side by side. What is pooled are their maps, so they are found in the network
itself, whoever wrote it, and no second conversion is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from headstart.backbones.records import Backbone
from headstart.backbones.timm_models import open_plain
from headstart.errors import BackboneError, ParameterError
from headstart.files import file_digest, write_file
from headstart.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import onnx

_PASSED = ("Flatten", "Reshape", "Squeeze", "Identity", "Unsqueeze")  # between a pooled output and the vector of all
_POOLED = ("GlobalAveragePool", "ReduceMean", "AveragePool")


MIRRORED = "mirrored "
"""Begins the names of maps of the mirror image."""

WriteOnMaps: TypeAlias = Callable[[OnnxGraph, Mapping[str, str]], None]
"""Appends what is learned on maps to a graph, in which they have these names."""


@dataclass(frozen=True)
class MapLayer:
    """The map of one stage: float32 (channels, height, width) for one image, called as the layer that it is pooled to."""

    name: str
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.channels * self.height * self.width


def map_network(backbone: Backbone) -> tuple[Path, tuple[MapLayer, ...]]:
    """The network of a backbone with its maps as outputs, beside ``features``; and these, the finest first.

    Each output has the name of its layer. The file lies beside the network, and is made on its first use. ParameterError for a backbone
    without maps: one that is composed of others, or handcrafted, or whose stages give no maps.
    """
    import onnx

    _check(backbone)
    stem = f"{backbone.network.stem}-maps{backbone.record.input_size}-"
    for found in sorted(backbone.network.parent.glob(f"{stem}*.onnx")):
        if file_digest(found)[:16] == found.stem.removeprefix(stem):
            return found, _layers(onnx.load(str(found), load_external_data=False))
    model = with_maps(backbone)
    content = model.SerializeToString()
    path = backbone.network.with_name(f"{stem}{hashlib.sha256(content).hexdigest()[:16]}.onnx")
    try:
        write_file(path, content, shared=True)
    except OSError as error:
        raise BackboneError(f"The converted network cannot be written to {path.parent}: {error.strerror or error}.") from None
    return path, _layers(model)


def graph_on_maps(backbone: Backbone, maps: Sequence[str], write: WriteOnMaps) -> OnnxGraph:
    """A graph of the backbone, from its inputs to ``features`` and to what is written on its `maps`; without such, of its own network.

    Maps whose names begin with `MIRRORED` are of the mirror image.
    """
    import onnx

    network = onnx.load(str(map_network(backbone)[0] if maps else backbone.network), load_external_data=False)
    graph = OnnxGraph()
    values = graph.graft(network, feed={one.name: one.name for one in network.graph.input})
    graph.node("Identity", values["features"], output="features")
    found = {name: values[name] for name in maps if not name.startswith(MIRRORED)}
    if len(found) < len(maps):
        turned = graph.graft(network, feed={"images": graph.mirror_image("images", axis=2)})
        found |= {name: turned[name.removeprefix(MIRRORED)] for name in maps if name.startswith(MIRRORED)}
        graph.share()
    write(graph, found)
    return graph


def _check(backbone: Backbone) -> None:
    if backbone.parts or backbone.record.handcrafted or "mirrored" in backbone.name:
        raise ParameterError(f"{backbone.name} has no maps of its stages. Name one network alone, such as efficientnet_lite0@256.")


def _layers(model: onnx.ModelProto) -> tuple[MapLayer, ...]:
    outputs = [output for output in model.graph.output if output.name != "features"]
    return tuple(
        MapLayer(output.name, *(int(one.dim_value) for one in output.type.tensor_type.shape.dim[1:])) for output in outputs
    )  # fmt: skip


def with_maps(backbone: Backbone) -> onnx.ModelProto:
    """The network with the map of each of its layers as an output, for images of the record's size; errors as of `map_network`."""
    import onnx
    from onnx import TensorProto, helper, shape_inference

    model, side = onnx.load(str(backbone.network), load_external_data=False), backbone.record.input_size
    sources = _pooled_from(model, [(layer.name, layer.stop - layer.start) for layer in backbone.layers])
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for dim, length in zip(fixed.graph.input[0].type.tensor_type.shape.dim, (1, side, side, 3), strict=True):
        dim.Clear()
        dim.dim_value = length
    shapes = dict(_shapes(shape_inference.infer_shapes(fixed, data_prop=True)))
    if unknown := [value for value in sources.values() if not all(shapes.get(value) or (0,))]:  # behind a padding that is computed
        shapes |= _measured(model, unknown, side)
    found: list[MapLayer] = []
    for name, value in sources.items():
        shape = shapes.get(value, ())
        channels = next(layer.stop - layer.start for layer in backbone.layers if layer.name == name)
        if len(shape) == 4 and shape[1] == channels and shape[2] > 1 and shape[3] > 1:
            model.graph.node.append(helper.make_node("Identity", [value], [name], name=f"map_{name}"))
            found.append(MapLayer(name, channels, shape[2], shape[3]))
    if not found:
        raise ParameterError(
            f"The stages of {backbone.name} give no maps at {side} px. Choose a convolutional network; see `headstart backbones`."
        )
    del model.graph.output[1:]
    model.graph.output.extend(helper.make_tensor_value_info(one.name, TensorProto.FLOAT, ["N", *one.shape]) for one in found)
    return model


def _measured(model: onnx.ModelProto, values: Sequence[str], side: int) -> dict[str, tuple[int, ...]]:
    """The shapes of values for one image of this size, by running the network; those that PyTorch converted came with ONNX Runtime."""
    import numpy as np
    import onnx

    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    found = open_plain(seen.SerializeToString()).run(list(values), {"images": np.zeros((1, side, side, 3), np.uint8)})
    return {value: one.shape for value, one in zip(values, found, strict=True)}


def _shapes(model: onnx.ModelProto) -> Mapping[str, tuple[int, ...]]:
    graph = model.graph
    return {
        value.name: tuple(int(one.dim_value) for one in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }


def _pooled_from(model: onnx.ModelProto, layers: Sequence[tuple[str, int]]) -> dict[str, str]:
    """By the name of each layer the value that is pooled to it, as far as it can be found; `layers` are (name, length)."""
    producers: dict[str, Any] = {output: node for node in model.graph.node for output in node.output}

    def back(value: str, through: Sequence[str]) -> Any:
        node = producers.get(value)
        while node is not None and node.op_type in through:
            node = producers.get(node.input[0])
        return node

    joined = back("features", _PASSED)
    parts = list(joined.input) if joined is not None and joined.op_type == "Concat" else ["features"]
    pooled = [back(part, _PASSED) for part in parts]
    if len(pooled) != len(layers):
        return {}
    return {name: node.input[0] for (name, _), node in zip(layers, pooled, strict=True) if node is not None and node.op_type in _POOLED}
