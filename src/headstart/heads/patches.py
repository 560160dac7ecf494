"""Patches: what the maps of a frozen backbone say of each place in an image, and what the anomaly scores of the places say of the image.

As in PatchCore (Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022, section 3.1): every place of a map is
averaged with its neighbours, coarser maps are enlarged to the finest of them, and the maps are joined, so that a patch is one vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError, RunError
from headstart.onnx_graph import OnnxGraph
from headstart.pixels.interpolation import resized, taps

Floats: TypeAlias = npt.NDArray[np.float32]
Maps: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""The maps of one image by the name of their layer, float (channels, height, width) each."""

SIGMA = 0.5
"""Standard deviation, in patches, of the Gaussian that smooths scores: 4 pixels at a stride of 8, as in the paper."""


class ImageMaps(Protocol):
    """The maps of several images; they may be passed over any number of times."""

    def __len__(self) -> int:
        """How many images."""

    def __iter__(self) -> Iterator[Maps]:
        """Yield the maps of each, in order."""


@dataclass(frozen=True)
class PatchGrid:
    """How maps become patches: `shapes` are the maps that are joined, (layer, channels, height, width), the finest first."""

    shapes: tuple[tuple[str, int, int, int], ...]

    @classmethod
    def of(cls, maps: Maps) -> Self:
        """The grid of such maps, in order of their resolution; DataError where there are none."""
        if not maps:
            raise DataError("Patches need at least one map of an image, and there is none.")
        found = [(name, int(array.shape[0]), int(array.shape[1]), int(array.shape[2])) for name, array in maps.items()]
        return cls(tuple(sorted(found, key=lambda one: -one[2] * one[3])))

    @classmethod
    def from_state(cls, state: Sequence[Sequence[Any]]) -> Self:
        """The inverse of `state`; RunError for anything else."""
        try:
            return cls(tuple((str(name), int(channels), int(height), int(width)) for name, channels, height, width in state))
        except (TypeError, ValueError):
            raise RunError(f"The saved model names its maps as {str(state)[:80]!r}. Fit again.") from None

    def state(self) -> list[list[Any]]:
        """The shapes as JSON values."""
        return [list(shape) for shape in self.shapes]

    @property
    def height(self) -> int:
        """Patches from top to bottom."""
        return self.shapes[0][2]

    @property
    def width(self) -> int:
        """Patches from left to right."""
        return self.shapes[0][3]

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return self.height * self.width

    @property
    def dim(self) -> int:
        """Length of a patch's vector."""
        return sum(channels for _, channels, _, _ in self.shapes)

    def __call__(self, maps: Maps) -> Floats:
        """The patches of one image, float32 (patches, dim), row by row from the top; DataError for maps of other shapes."""
        joined = np.empty((self.dim, self.height, self.width), np.float32)
        start = 0
        for name, *shape in self.shapes:
            if name not in maps or maps[name].shape != tuple(shape):
                found = ", ".join(f"{other} {array.shape}" for other, array in maps.items())
                raise DataError(f"The model takes a map {name} of the shape {tuple(shape)}; there are {found}.")
            value = averaged(maps[name])
            if tuple(shape[1:]) != (self.height, self.width):
                value = resized(value, (self.height, self.width))
            joined[start : start + shape[0]] = value
            start += shape[0]
        return np.ascontiguousarray(joined.reshape(self.dim, -1).T)

    def write_onnx(self, graph: OnnxGraph, maps: Mapping[str, str]) -> str:
        """Append the same to a graph: from the names of maps, float32 (N, C, h, w), to that of the patches, (N, patches, dim)."""
        values = []
        for name, channels, height, width in self.shapes:
            value = graph.node("AveragePool", maps[name], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
            if (height, width) != (self.height, self.width):
                rows = graph.constant(_enlarging(height, self.height))
                columns = graph.constant(np.ascontiguousarray(_enlarging(width, self.width).T))
                value = graph.node("MatMul", graph.node("MatMul", rows, value), columns)
            values.append(graph.node("Reshape", value, graph.integers(0, channels, self.patches)))
        joined = graph.node("Concat", *values, axis=1) if len(values) > 1 else values[0]
        return graph.node("Transpose", joined, perm=[0, 2, 1])


def averaged(value: npt.NDArray[Any]) -> Floats:
    """Each place of a map (C, h, w) averaged with its eight neighbours, float32.

    What lies beyond the edge counts as 0, as in the published implementations: the outer places, whose features depend on how the network
    pads its inputs, thereby weigh less.
    """
    channels, height, width = value.shape
    padded = np.zeros((channels, height + 2, width + 2), np.float32)
    padded[:, 1:-1, 1:-1] = value
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return np.asarray((rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9, dtype=np.float32)


@lru_cache(maxsize=32)
def _enlarging(small: int, large: int) -> Floats:
    """The matrix (large, small) of linear interpolation between the centres of pixels."""
    matrix, places, across = np.zeros((large, small), np.float32), taps(small, large), np.arange(large)
    matrix[across, places.first] = 1 - places.weight
    matrix[across, places.second] += places.weight
    matrix.flags.writeable = False
    return matrix


def _kernel() -> Floats:
    taps = np.exp(-(np.arange(-1, 2) ** 2) / (2 * SIGMA**2))
    return np.asarray(taps / taps.sum(), dtype=np.float32)


def smoothed(scores: Floats) -> Floats:
    """Scores (h, w) smoothed by a Gaussian of `SIGMA`, three by three patches; at the edge the outer ones are repeated."""
    before, middle, after = _kernel()
    padded = np.pad(scores, 1, mode="edge")
    rows = before * padded[:-2] + middle * padded[1:-1] + after * padded[2:]
    return np.asarray(before * rows[:, :-2] + middle * rows[:, 1:-1] + after * rows[:, 2:], dtype=np.float32)


def write_scores(graph: OnnxGraph, scores: str, *, height: int, width: int, names: tuple[str, str]) -> tuple[str, str]:
    """Append `smoothed` and its largest value to a graph: from scores (N, patches) to a map (N, h, w) and a score (N,), called `names`."""
    places = graph.node("Reshape", scores, graph.integers(-1, 1, height, width))
    padded = graph.node("Pad", places, graph.integers(0, 0, 1, 1, 0, 0, 1, 1), mode="edge")
    smooth = graph.node("Conv", padded, graph.constant(np.outer(_kernel(), _kernel())[None, None]), kernel_shape=[3, 3])
    largest = graph.node("GlobalMaxPool", smooth)
    graph.node("Reshape", smooth, graph.integers(-1, height, width), output=names[0])
    graph.node("Reshape", largest, graph.integers(-1), output=names[1])
    return names
