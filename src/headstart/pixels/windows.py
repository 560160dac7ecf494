"""`Windows`: a large image as a grid of overlapping squares, and the maps of these as one map of the image, blended where they overlap.

A run that sees images through windows has all of this in its graph: the image, squashed to a square of several times the side of the
network's input, is cut, the network runs on the windows in batches, and its maps are put together with weights that fall linearly towards
the edge of a window. So whatever runs or exports the graph need not know of windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError, setting
from headstart.onnx_graph import OnnxGraph

STEP = 32
"""Windows begin at multiples of this many pixels, the coarsest step of convolutional networks: where two overlap, their maps are of the
same cells."""
LARGEST = 4096
"""Of the side of the whole square, in pixels."""
TOGETHER = 8
"""Windows that are in memory with all their activations."""

Pixels = NDArray[np.uint8]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Windows:
    """A grid of `count` x `count` windows of `side` pixels, of which neighbours share a quarter of their side, and up to a half.

    ParameterError for sides that are no multiple of `STEP`, or too small, and where the square becomes larger than `LARGEST`.
    """

    count: int
    side: int

    def __post_init__(self) -> None:
        if self.side % STEP or self.side < 2 * STEP:
            raise ParameterError(
                f"Windows overlap by whole cells of the maps: the image size must be a multiple of {STEP} from {2 * STEP} px on, got "
                f"{self.side}. Give {setting('image_size', max(2 * STEP, STEP * round(self.side / STEP)))}."
            )
        if self.square > LARGEST:
            raise ParameterError(
                f"{self.count} x {self.count} windows of {self.side} px are a square of {self.square} px, and {LARGEST} is the most. Give "
                "fewer windows, or a smaller image size."
            )

    @property
    def stride(self) -> int:
        """Pixels from the begin of a window to that of the next."""
        return STEP * (3 * self.side // (4 * STEP))

    @property
    def square(self) -> int:
        """The side in pixels of the square that they are cut from."""
        return self.side + (self.count - 1) * self.stride

    @property
    def share(self) -> float:
        """The side of a window as a share of the square's."""
        return self.side / self.square

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Top and left of each window in pixels, row by row."""
        starts = [number * self.stride for number in range(self.count)]
        return tuple((top, left) for top in starts for left in starts)

    def cut(self, square: Pixels) -> list[Pixels]:
        """The windows of a square of pixels, (square, square, 3), row by row."""
        return [np.ascontiguousarray(square[top : top + self.side, left : left + self.side]) for top, left in self.places]

    def shape(self, shape: Shape) -> Shape:
        """The shape (k, H, W) of the map of an image of whose windows the maps have this one, (k, h, w)."""
        classes, height, width = shape
        return classes, self._length(height), self._length(width)

    def placing(self, length: int) -> NDArray[np.float32]:
        """Where the cells of windows go along one axis, and with which weight: float32 (H, count * h), for maps of h cells a window.

        Every row sums to 1. Where two windows overlap, the weight of each falls linearly towards its edge.
        """
        whole = self._length(length)
        stride, found = length * self.stride // self.side, np.zeros((whole, self.count * length), np.float32)
        shared = length - stride
        ramp = (np.arange(shared) + 0.5) / shared
        for number in range(self.count):
            weight = np.ones(length)
            if number:
                weight[:shared] = ramp
            if number + 1 < self.count:
                weight[stride:] = 1 - ramp
            cells = np.arange(length)
            found[number * stride + cells, number * length + cells] = weight
        return found

    def _length(self, length: int) -> int:
        if length * self.stride % self.side:
            raise ParameterError(f"A map of {length} cells has none that begins with the next window: choose another backbone.")
        return length + (self.count - 1) * (length * self.stride // self.side)


def through_windows(network: OnnxGraph, windows: Windows, maps: Mapping[str, Shape], *, features: int) -> OnnxGraph:
    """A graph that takes ``images``, uint8 (N, square, square, 3), and runs a network on each of their windows.

    `network` takes ``images``, uint8 (N, side, side, 3). Of its outputs the `maps`, by name with the shape (k, h, w) of a window's, become
    one map of the image, (N, k, H, W), and ``features``, a vector of so many numbers, becomes the mean over the windows.
    """
    side, graph, places = windows.side, OnnxGraph(), windows.places
    outputs: dict[str, Any] = {name: (np.float32, ("N", *shape)) for name, shape in maps.items()}
    outputs["features"] = (np.float32, ("N", features))
    one = network.model(inputs={"images": (np.uint8, ("N", side, side, 3))}, outputs=outputs)
    parts = []
    for start in range(0, len(places), TOGETHER):
        cut = [_cut(graph, place, side) for place in places[start : start + TOGETHER]]
        batch = graph.node("Concat", *cut, axis=0) if len(cut) > 1 else cut[0]
        parts.append(graph.graft(one, feed={"images": batch}))
    graph.share()

    def together(name: str) -> str:
        return graph.node("Concat", *(part[name] for part in parts), axis=0) if len(parts) > 1 else parts[0][name]

    each = graph.node("Reshape", together("features"), graph.integers(len(places), -1, features))
    total = graph.node("ReduceSum", each, graph.integers(0), keepdims=0)
    graph.node("Mul", total, graph.constant(1 / len(places)), output="features")
    for name, shape in maps.items():
        graph.node("Identity", _joined(graph, together(name), windows, shape), output=name)
    return graph


def _cut(graph: OnnxGraph, place: tuple[int, int], side: int) -> str:
    ends = tuple(start + side for start in place)
    return graph.node("Slice", "images", graph.integers(*place), graph.integers(*ends), graph.integers(1, 2))


def _joined(graph: OnnxGraph, value: str, windows: Windows, shape: Shape) -> str:
    """The maps (windows * N, k, h, w), window by window, as (N, k, H, W)."""
    classes, height, width = shape
    count = windows.count
    value = graph.node("Reshape", value, graph.integers(count, count, -1, *shape))
    value = graph.node("Transpose", value, perm=[2, 3, 0, 4, 1, 5])
    value = graph.node("Reshape", value, graph.integers(-1, classes, count * height, count * width))
    value = graph.node("MatMul", graph.constant(windows.placing(height)), value)
    return graph.node("MatMul", value, graph.constant(windows.placing(width).T))
