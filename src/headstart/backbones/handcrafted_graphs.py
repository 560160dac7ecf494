"""Handcrafted features as networks: HOG, Fisher vectors of dense SIFT, and colour histograms, written as ONNX graphs.

So they are stored, exported, served and put beside pre-trained backbones as these are, and need no further package. A graph is for images
of one size, which it reduces to the size that its feature is defined on: `hog` beside a network of 224 pixels is that of 64 pixels too.

All votes are interpolated between the neighbouring bins, as Dalal and Triggs and Lowe do: a hard choice would jump with the last bit of a
pixel, and engines differ in that.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.onnx_graph import OnnxGraph

Floats = npt.NDArray[np.float32]

VOCABULARY = "sift_vocabulary.safetensors"
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow has it


@dataclass(frozen=True)
class Hog:
    """Histograms of oriented gradients (Dalal and Triggs, "Histograms of oriented gradients for human detection", 2005).

    The gradient of each pixel is that of the colour channel in which it is longest. Cells hold the mean length of gradients by orientation,
    without sign; blocks of `block` x `block` cells overlap, and each is normalised, cut at 0.2 and normalised again ("L2-Hys").
    Without `interpolated`, and with `floor` 1e-5, these are the numbers of ``skimage.feature.hog``.
    """

    size: int = 64  # side of the image, in pixels
    cell: int = 8  # side of a cell, in pixels
    block: int = 2
    orientations: int = 9
    interpolated: bool = True  # whether a gradient counts for both of the nearest orientations
    floor: float = 1.0  # of the length of a block, in grey levels: less is noise, and not made longer

    @property
    def dim(self) -> int:
        """Number of features."""
        return (self.size // self.cell - self.block + 1) ** 2 * self.block**2 * self.orientations

    def write(self, graph: OnnxGraph, images: str) -> str:
        """Append it to a graph: `images` names a float32 value (N, 3, size, size), 0 to 255. Returns the name of (N, dim)."""
        across, down = _gradients(graph, images)
        lengths = graph.node("Sqrt", graph.node("Add", graph.node("Mul", across, across), graph.node("Mul", down, down)))
        best = [_taken(graph, value, 0, 1, axis=1) for value in (across, down, lengths)]
        for channel in (1, 2):
            one = [_taken(graph, value, channel, channel + 1, axis=1) for value in (across, down, lengths)]
            longer = graph.node("Greater", one[2], best[2])
            best = [graph.node("Where", longer, new, old) for new, old in zip(one, best, strict=True)]
        votes = _votes(graph, *best, bins=self.orientations, signed=False, interpolated=self.interpolated)
        sides = [self.cell, self.cell]
        cells = graph.node("Transpose", graph.node("AveragePool", votes, kernel_shape=sides, strides=sides), perm=[0, 2, 3, 1])
        blocks = _blocks(graph, cells, block=self.block, count=self.size // self.cell - self.block + 1)
        return graph.node("Flatten", _clipped(graph, blocks, floor=self.floor))


@dataclass(frozen=True)
class Color:
    """Joint histograms of red, green and blue: of the whole image and of its quarters; their square roots (Hellinger's kernel).

    Votes are trilinear. `floor` is added to each share before its root, which would be steep at 0.
    """

    size: int = 64
    bins: int = 6  # of each channel; the first is black, the last 255
    parts: int = 2  # along each side
    floor: float = 1e-3

    @property
    def dim(self) -> int:
        """Number of features."""
        return (1 + self.parts**2) * self.bins**3

    def write(self, graph: OnnxGraph, images: str) -> str:
        """As `Hog.write`."""
        parts, side, bins = self.parts, self.size // self.parts, self.bins
        split = graph.node("Reshape", images, graph.integers(-1, 3, parts, side, parts, side))
        by_part = graph.node("Transpose", split, perm=[0, 2, 4, 3, 5, 1])
        pixels = graph.node("Reshape", by_part, graph.integers(-1, parts**2, side**2, 3))
        places = graph.node("Mul", pixels, graph.constant((bins - 1) / 255))
        red, green, blue = (_near(graph, _taken(graph, places, channel, channel + 1, axis=3), np.arange(bins)) for channel in range(3))
        green, blue = (graph.node("Unsqueeze", value, graph.integers(axis)) for value, axis in ((green, 4), (blue, 3)))
        pairs = graph.node("Reshape", graph.node("Mul", green, blue), graph.integers(-1, parts**2, side**2, bins**2))
        counts = graph.node("MatMul", graph.node("Transpose", red, perm=[0, 1, 3, 2]), pairs)
        shares = graph.node("Reshape", graph.node("Mul", counts, graph.constant(1 / side**2)), graph.integers(-1, parts**2, bins**3))
        whole = graph.node("Mul", graph.node("ReduceSum", shares, graph.integers(1), keepdims=1), graph.constant(1 / parts**2))
        every = graph.node("Concat", whole, shares, axis=1)
        return graph.node("Flatten", graph.node("Sqrt", graph.node("Add", every, graph.constant(self.floor))))


@dataclass(frozen=True)
class Sift:
    """Fisher vectors of dense SIFT, improved by power and length (Perronnin, Sanchez and Mensink 2010).

    Descriptors as of Lowe ("Distinctive image features from scale-invariant keypoints", 2004), 4 x 4 cells of 8 directions, stand on a grid
    in each octave, upright, and without his Gaussian window. Grids do better than keypoints in classification (Nowak, Jurie and Triggs,
    "Sampling strategies for bag-of-features image classification", 2006). Each is reduced to principal components, to which its position is
    added (Sanchez, Perronnin and de Campos 2012). The vocabulary, a Gaussian mixture, is fixed: ``docs/make_vocabulary.py`` wrote it.
    """

    size: int = 128
    cell: int = 4
    octaves: int = 3
    words: int = 32
    components: int = 64
    floor: float = 4.0  # of the length of a descriptor, in grey levels
    power_floor: float = 1e-6  # added to what the root is taken of, which is steep at 0

    @property
    def dim(self) -> int:
        """Number of features."""
        return 2 * self.words * (self.components + 2)

    def _sides(self) -> list[int]:
        """Descriptors along a side of each octave's grid."""
        return [(self.size >> octave) // self.cell - 3 for octave in range(self.octaves)]

    @property
    def count(self) -> int:
        """Number of descriptors of an image."""
        return sum(side**2 for side in self._sides())

    def positions(self) -> Floats:
        """Their centres, from -0.5 to 0.5, down and across: (count, 2)."""
        lines = [(np.arange(side) + 2) / (side + 3) - 0.5 for side in self._sides()]
        return np.concatenate([np.stack(np.meshgrid(line, line, indexing="ij"), axis=2).reshape(-1, 2) for line in lines]).astype(
            np.float32
        )

    def write_descriptors(self, graph: OnnxGraph, images: str) -> str:
        """Append the descriptors of images (N, 3, size, size) to a graph; returns the name of (N, count, 128)."""
        grey = graph.node("Conv", images, graph.constant(np.reshape(_LUMA, (1, 3, 1, 1))))
        line = 1 - np.abs(np.arange(2 * self.cell) - self.cell + 0.5) / self.cell
        window = np.tile(np.outer(line, line) / line.sum() ** 2, (8, 1, 1, 1))
        found = []
        for octave, side in enumerate(self._sides()):
            across, down = _gradients(graph, resized(graph, grey, self.size, self.size >> octave))
            lengths = graph.node("Sqrt", graph.node("Add", graph.node("Mul", across, across), graph.node("Mul", down, down)))
            votes = _votes(graph, across, down, lengths, bins=8, signed=True)
            cells = graph.node(
                "Conv", votes, graph.constant(window), group=8, strides=[self.cell] * 2, pads=[self.cell // 2] * 4,
            )  # fmt: skip
            blocks = _blocks(graph, graph.node("Transpose", cells, perm=[0, 2, 3, 1]), block=4, count=side)
            found.append(graph.node("Reshape", _clipped(graph, blocks, floor=self.floor), graph.integers(-1, side**2, 128)))
        return graph.node("Concat", *found, axis=1)

    def write(self, graph: OnnxGraph, images: str) -> str:
        """As `Hog.write`."""
        return self.write_encoding(graph, self.write_descriptors(graph, images), _vocabulary())

    def write_encoding(self, graph: OnnxGraph, descriptors: str, vocabulary: Mapping[str, Floats]) -> str:
        """Append the Fisher vector (N, dim) of descriptors (N, count, 128): gradients by the means, then by the variances."""
        mean, basis, means, variances, weights = (vocabulary[name] for name in ("mean", "basis", "means", "variances", "weights"))
        wide = np.hstack([basis, np.zeros((128, 2), np.float32)])
        x = graph.node("Add", graph.node("MatMul", descriptors, graph.constant(wide)), graph.constant(self._offsets(mean @ basis)))
        squares = graph.node("Mul", x, x)
        constant = np.log(weights) - 0.5 * (np.log(variances) + means**2 / variances).sum(axis=1)
        near = graph.node("MatMul", squares, graph.constant(-0.5 / variances.T))
        near = graph.node("Add", near, graph.node("MatMul", x, graph.constant((means / variances).T)))
        shares = graph.node("Softmax", graph.node("Add", near, graph.constant(constant)), axis=2)
        by_word = graph.node("Transpose", shares, perm=[0, 2, 1])
        count = graph.constant(1 / self.count)
        zeroth = graph.node("Mul", graph.node("ReduceSum", by_word, graph.integers(2), keepdims=1), count)
        first, second = (graph.node("Mul", graph.node("MatMul", by_word, value), count) for value in (x, squares))
        roots = np.sqrt(weights)[:, None]
        by_mean = graph.node("Sub", first, graph.node("Mul", zeroth, graph.constant(means)))
        by_mean = graph.node("Mul", by_mean, graph.constant(1 / (roots * np.sqrt(variances))))
        moved = graph.node("Sub", second, graph.node("Mul", first, graph.constant(2 * means)))
        by_variance = graph.node("Add", moved, graph.node("Mul", zeroth, graph.constant(means**2 - variances)))
        by_variance = graph.node("Mul", by_variance, graph.constant(1 / (np.sqrt(2) * roots * variances)))
        both = graph.node("Flatten", graph.node("Concat", by_mean, by_variance, axis=1))
        root = graph.node("Sqrt", graph.node("Add", graph.node("Abs", both), graph.constant(self.power_floor)))
        return _normalised(graph, graph.node("Div", both, root), floor=1e-6)

    def _offsets(self, centre: Floats) -> Floats:
        """What is added to each descriptor, (1, count, components + 2): the mean is taken off, and the position is put beside it."""
        return np.hstack([np.tile(-centre, (self.count, 1)), self.positions()])[None]


@cache
def _vocabulary() -> Mapping[str, Floats]:
    """Float32: ``mean`` (128,) and ``basis`` (128, c) of the projection; ``weights`` (k,), ``means`` and ``variances`` (k, c + 2)."""
    from safetensors.numpy import load

    return {name: value.astype(np.float32) for name, value in load(vocabulary_file()).items()}


def vocabulary_file() -> bytes:
    """The vocabulary of `Sift` as it is stored."""
    return importlib.resources.files(__package__).joinpath(VOCABULARY).read_bytes()


def _gradients(graph: OnnxGraph, images: str) -> tuple[str, str]:
    """Differences of the neighbours to the right and left, and below and above, of each pixel (N, C, H, W); 0 at the border."""
    found = []
    for axis in (3, 2):
        after = graph.node("Slice", images, graph.integers(2), graph.integers(1 << 31), graph.integers(axis))
        before = graph.node("Slice", images, graph.integers(0), graph.integers(-2), graph.integers(axis))
        border = [0] * 8
        border[axis] = border[axis + 4] = 1
        found.append(graph.node("Pad", graph.node("Sub", after, before), graph.integers(*border)))
    return found[0], found[1]


def _votes(graph: OnnxGraph, across: str, down: str, lengths: str, *, bins: int, signed: bool, interpolated: bool = True) -> str:
    """The lengths of gradients (N, 1, H, W) by direction, (N, bins, H, W).

    The middle of the first bin is half a bin from 0 without the sign, and at 0 with it, as the inventors of HOG and SIFT have it.
    """
    turn = 2 * math.pi if signed else math.pi
    level = graph.node("Equal", across, graph.constant(0.0))
    angle = graph.node("Atan", graph.node("Div", down, graph.node("Where", level, graph.constant(1e-20), across)))
    behind = graph.node("Less", *((across, graph.constant(0.0)) if signed else (angle, graph.constant(0.0))))
    angle = graph.node("Where", behind, graph.node("Add", angle, graph.constant(math.pi)), angle)  # -pi/2 to 3/2 pi, or 0 to pi
    place = graph.node("Mul", angle, graph.constant(bins / turn))
    if not signed:
        place = graph.node("Sub", place, graph.constant(0.5))
    if not interpolated:
        place = graph.node("Round", place)
    away = graph.node("Abs", graph.node("Sub", place, graph.constant(np.arange(bins).reshape(1, bins, 1, 1))))
    around = graph.node("Abs", graph.node("Sub", graph.constant(float(bins)), away))
    share = graph.node("Relu", graph.node("Sub", graph.constant(1.0), graph.node("Min", away, around)))
    return graph.node("Mul", share, lengths)


def _blocks(graph: OnnxGraph, cells: str, *, block: int, count: int) -> str:
    """The overlapping blocks of cells (N, H, W, k): (N, count, count, block * block * k)."""
    rows = [_taken(graph, cells, row, row + count, axis=1) for row in range(block)]
    parts = [_taken(graph, row, column, column + count, axis=2) for row in rows for column in range(block)]
    return graph.node("Concat", *parts, axis=3)


def _near(graph: OnnxGraph, places: str, bins: npt.NDArray[Any]) -> str:
    """The shares in which places (..., 1) count for bins (k,) at a distance of 1 from each other: (..., k)."""
    away = graph.node("Abs", graph.node("Sub", places, graph.constant(bins)))
    return graph.node("Relu", graph.node("Sub", graph.constant(1.0), away))


def _clipped(graph: OnnxGraph, values: str, *, floor: float) -> str:
    """Normalise along the last axis, cut at 0.2, and normalise again."""
    cut = graph.node("Min", _normalised(graph, values, floor=floor), graph.constant(0.2))
    return _normalised(graph, cut, floor=min(floor, 0.1))


def _normalised(graph: OnnxGraph, values: str, *, floor: float) -> str:
    squares = graph.node("ReduceSum", graph.node("Mul", values, values), graph.integers(-1), keepdims=1)
    return graph.node("Div", values, graph.node("Sqrt", graph.node("Add", squares, graph.constant(floor**2))))


def _taken(graph: OnnxGraph, values: str, start: int, stop: int, *, axis: int) -> str:
    return graph.node("Slice", values, *(graph.integers(number) for number in (start, stop, axis)))


def reduction(size: int, smaller: int) -> Floats:
    """The matrix (smaller, size) that resizes a line of pixels: a triangle, as wide as the reduction asks for (no aliasing)."""
    scale = size / smaller
    centres = (np.arange(smaller) + 0.5) * scale - 0.5
    weights = np.maximum(0.0, 1 - np.abs(np.arange(size) - centres[:, None]) / max(scale, 1.0))
    matrix: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


def resized(graph: OnnxGraph, images: str, size: int, smaller: int) -> str:
    """Square images (N, C, size, size) as (N, C, smaller, smaller)."""
    if size == smaller:
        return images
    matrix = reduction(size, smaller)
    return graph.node("MatMul", graph.node("MatMul", graph.constant(matrix), images), graph.constant(matrix.T))


FEATURES: Mapping[str, Hog | Sift | Color] = {"hog": Hog(), "sift": Sift(), "color": Color()}
"""By their names."""
