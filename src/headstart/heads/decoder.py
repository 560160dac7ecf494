"""`MapDecoder`: from the maps of a backbone's stages to logits for every position of the finest of them, without PyTorch.

A small top-down decoder in the line of feature pyramids (Lin et al. 2017): the coarsest map, with the mean over its positions as context,
is enlarged step by step, and at each step the next finer map is added through a 1x1 convolution. What follows each sum is a depthwise
3x3 convolution and a 1x1 convolution (Howard et al. 2017), so that an epoch on stored maps costs little. It is trained by
`headstart.training.decoders`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.backbones.stage_maps import MIRRORED, MapLayer
from headstart.engine import open_session
from headstart.errors import damage_named
from headstart.onnx_graph import OnnxGraph
from headstart.pixels.windows import Windows

Array = npt.NDArray[np.float32]
Maps = Mapping[str, npt.NDArray[Any]]

LOGITS = "logits"


@dataclass(frozen=True, eq=False)
class MapDecoder:
    """A trained decoder.

    Attributes:
        layers: the maps that it takes, the finest first.
        arrays: its weights, float32. For layer i ``lateral.i`` (w, C) and ``lateral.i.bias`` (w,) of the 1x1 convolution; ``context``
            (w, C) from the mean of the coarsest map; after each sum ``depthwise.i`` (w, 3, 3), ``depthwise.i.bias``, ``pointwise.i``
            (v, w) and ``pointwise.i.bias`` (v,), to the width v of the next finer layer; ``output`` (k, w) and ``output.bias`` (k,).
            Normalisations are folded into them.
        mirrored: whether the logits of an input are the mean over it and its mirror image.
        windows: through which images are seen; None where the whole image is the input. `shape` is that of the logits of one window.
    """

    layers: tuple[MapLayer, ...]
    arrays: Mapping[str, Array]
    mirrored: bool = False
    windows: Windows | None = None

    @property
    def classes(self) -> int:
        """Number k of the logits at each position."""
        return len(self.arrays["output"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the logits of one input: (k, height, width)."""
        return self.classes, self.layers[0].height, self.layers[0].width

    def write_onnx(self, graph: OnnxGraph, maps: Mapping[str, str]) -> str:
        """Append the decoder to a graph: `maps` names a float32 value (N, C, h, w) for each layer. Returns the logits' (N, k, h, w)."""
        last = len(self.layers) - 1

        def convolution(value: str, name: str, *, bias: str | None = None, **attributes: Any) -> str:
            weight = self.arrays[name]
            weight = weight[:, None] if weight.ndim == 3 else weight[:, :, None, None]
            further = () if bias is None else (graph.constant(self.arrays[bias]),)
            return graph.node("Conv", value, graph.constant(weight), *further, **attributes)

        def block(value: str, number: int) -> str:
            width = len(self.arrays[f"depthwise.{number}"])
            value = convolution(value, f"depthwise.{number}", bias=f"depthwise.{number}.bias", group=width, pads=[1, 1, 1, 1])
            return graph.node("Relu", convolution(value, f"pointwise.{number}", bias=f"pointwise.{number}.bias"))

        def lateral(number: int) -> str:
            return convolution(maps[self.layers[number].name], f"lateral.{number}", bias=f"lateral.{number}.bias")

        context = convolution(graph.node("GlobalAveragePool", maps[self.layers[last].name]), "context")
        value = block(graph.node("Relu", graph.node("Add", lateral(last), context)), last)
        for number in range(last - 1, -1, -1):
            finer, coarser = self.layers[number], self.layers[number + 1]
            if (finer.height, finer.width) != (coarser.height, coarser.width):
                value = enlarged(graph, value, finer.height / coarser.height, finer.width / coarser.width)
            value = block(graph.node("Relu", graph.node("Add", value, lateral(number))), number)
        return convolution(value, "output", bias="output.bias")

    def __call__(self, batches: Iterator[Maps]) -> Iterator[Array]:
        """Logits (n, k, h, w) of each batch of maps, (n, C, h, w) by the name of the layer."""
        graph = OnnxGraph()
        names = {layer.name: layer.name for layer in self.layers}
        graph.node("Identity", self.write_onnx(graph, names), output=LOGITS)
        model = graph.model(
            inputs={layer.name: (np.float32, ("N", *layer.shape)) for layer in self.layers},
            outputs={LOGITS: (np.float32, ("N", *self.shape))},
        )
        return logits_of(model.SerializeToString(), self.layers, batches)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values and arrays from which `from_state` makes it again."""
        return {"decoder": "light", **_described(self)}, dict(self.arrays)

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry is missing."""
        with damage_named("The saved decoder is"):
            return cls(arrays=dict(arrays), **_read(settings))


@dataclass(frozen=True, eq=False)
class GraphDecoder:
    """A decoder whose network is an ONNX graph: a float32 input (N, C, h, w) for each layer, by its name, and the output ``logits``.

    Attributes:
        name: of the architecture.
        layers: the maps that it takes, the finest first.
        shape: of the logits of one input: (k, height, width) where they are of pixels.
        graph: the serialised graph.
        mirrored, windows: as of `MapDecoder`.
    """

    name: str
    layers: tuple[MapLayer, ...]
    shape: tuple[int, ...]
    graph: bytes
    mirrored: bool = False
    windows: Windows | None = None

    def write_onnx(self, graph: OnnxGraph, maps: Mapping[str, str]) -> str:
        """As `MapDecoder.write_onnx`."""
        import onnx

        return graph.graft(onnx.load_from_string(self.graph), feed={layer.name: maps[layer.name] for layer in self.layers})[LOGITS]

    def __call__(self, batches: Iterator[Maps]) -> Iterator[Array]:
        """As `MapDecoder.__call__`."""
        return logits_of(self.graph, self.layers, batches)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """As `MapDecoder.state`."""
        return {"decoder": self.name, "shape": list(self.shape), **_described(self)}, {"graph": np.frombuffer(self.graph, np.uint8)}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry is missing."""
        with damage_named("The saved decoder is"):
            shape = tuple(int(side) for side in settings["shape"])
            return cls(name=str(settings["decoder"]), shape=shape, graph=arrays["graph"].tobytes(), **_read(settings))


def _described(decoder: MapDecoder | GraphDecoder) -> dict[str, Any]:
    """What all decoders have, as JSON values."""
    windows = {} if decoder.windows is None else {"windows": vars(decoder.windows)}
    return {"layers": [vars(layer) for layer in decoder.layers], "mirrored": decoder.mirrored, **windows}


def _read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_described`."""
    windows = settings.get("windows")
    return {
        "layers": tuple(MapLayer(**layer) for layer in settings["layers"]), "mirrored": bool(settings.get("mirrored")),
        "windows": None if windows is None else Windows(**windows),
    }  # fmt: skip


def write_decoder(graph: OnnxGraph, decoder: MapDecoder | GraphDecoder, maps: Mapping[str, str], *, output: str) -> None:
    """Append a decoder to a graph; where it takes the mirror image too, `maps` has its maps under names that begin with `MIRRORED`."""
    logits = decoder.write_onnx(graph, maps)
    if decoder.mirrored:
        turned = decoder.write_onnx(
            graph, {name.removeprefix(MIRRORED): value for name, value in maps.items() if name.startswith(MIRRORED)}
        )
        both = graph.node("Add", logits, graph.mirror_image(turned, axis=3))
        logits = graph.node("Mul", both, graph.constant(0.5))
    graph.node("Identity", logits, output=output)


def logits_of(network: bytes, layers: Sequence[MapLayer], batches: Iterator[Maps]) -> Iterator[Array]:
    """Logits (n, k, h, w) of batches of maps by a network with an input for each layer."""
    session = open_session(network, kind="onnxruntime", outputs=(LOGITS,))
    for batch in batches:
        yield session({layer.name: np.ascontiguousarray(batch[layer.name], np.float32) for layer in layers})[LOGITS]


def enlarged(graph: OnnxGraph, value: str, vertical: float, horizontal: float) -> str:
    """Append a bilinear enlargement, with half-pixel centres, of a value (N, C, h, w)."""
    scales = graph.constant([1.0, 1.0, vertical, horizontal])
    return graph.node("Resize", value, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")


def one_of_each_size(layers: Sequence[MapLayer], *, finest: int, side: int) -> tuple[str, ...]:
    """The deepest layer of each size of map, the finest first, without those finer than a share of 1/`finest` of the input's `side`.

    What follows the last stage, and is only wider, is left out.
    """
    chosen: dict[int, str] = {}
    for layer in layers:
        if layer.height * finest <= side + finest - 1 and (layer.name != "last" or layer.height not in chosen):
            chosen[layer.height] = layer.name
    return tuple(chosen[height] for height in sorted(chosen, reverse=True))
