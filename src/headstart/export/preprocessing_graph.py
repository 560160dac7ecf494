"""`Preprocessing` as a graph: uint8 images of any size in, the square that the network takes out, as Pillow makes it.

The operator Resize of ONNX is not used. It knows no box between two pixels, it does not round to whole numbers between its two passes
as Pillow does, and several engines leave its antialiasing out. Instead the graph makes the two matrices of weights, rows and columns, from
the size of the image; two matrix products then resize it. All of that are operators that every engine has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from headstart.modalities.image import Preprocessing
from headstart.onnx_graph import OnnxGraph

_SUPPORT = {"nearest": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}
_REDUCING_GAP = 3.0  # as in `Preprocessing`
_DOUBLE, _FLOAT, _INT64, _UINT8 = 11, 1, 7, 2  # of ONNX's table of types


@dataclass(frozen=True)
class _Axis:
    """Names of values that tell what becomes of the rows, or of the columns. Numbers of pixels are int64, of one element each."""

    side: str  # all pixels of the image
    start: str  # which pixels count at all
    stop: str
    factor: str  # so many neighbours are averaged before the resizing, where the image is far too large
    padding: str  # so many pixels are missing to a multiple of `factor`
    blocks: str  # how many averages there are
    counts: str  # how many pixels lie in each: float32 (blocks,)
    weights: str  # float32 (size, blocks)


def write_preprocessing(graph: OnnxGraph, images: str, preprocessing: Preprocessing) -> str:
    """Append the preprocessing of `images`, uint8 (N, H, W, 3), to a graph of operator set 17 or later.

    Returns the name of the result, uint8 (N, size, size, 3): what ``preprocessing(image)`` gives for arrays, but for single levels of 255
    where a sum lies at the boundary between two.
    """
    shape = graph.node("Shape", images)
    sides = [graph.node("Slice", shape, *(graph.integers(place) for place in (axis, axis + 1))) for axis in (1, 2)]
    pixels = [graph.node("Cast", side, to=_DOUBLE) for side in sides]
    if preprocessing.fit == "crop":
        cuts = [_with(graph, "Mul", graph.node("Min", *pixels), preprocessing.crop)] * 2
    else:
        cuts = pixels
    rows, columns = (_axis(graph, side, cut, preprocessing) for side, cut in zip(sides, cuts, strict=True))
    values = _reduced(graph, images, rows, columns)
    if preprocessing.interpolation == "nearest" or not tall_images_begin_with_rows():
        resized = _resized(graph, values, rows.weights, columns.weights, rows_first=False)
    else:
        tall = _is_tall(graph, rows, columns, preprocessing.size)
        ways = [_one_way(graph, values, rows, columns, tall, rows_first=first) for first in (True, False)]
        resized = graph.node("Where", tall, *ways)
    square = graph.node("Cast", graph.node("Transpose", resized, perm=[0, 2, 3, 1]), to=_UINT8)
    # Nothing changes, but engines know from here on what is always the same, and plan for it once.
    return graph.node("Reshape", square, graph.integers(-1, preprocessing.size, preprocessing.size, 3))


@cache
def tall_images_begin_with_rows() -> bool:
    """Whether the Pillow that is installed shrinks the height of tall images first, and the width afterwards.

    Some versions do, as it saves time; others begin with the width always. As there is rounding in between, up to a fifth of the pixels
    differ by a level or two. A tall image tells.
    """
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (128, 16), dtype=np.uint8)
    tall, cubic = Image.fromarray(noise), Image.Resampling.BICUBIC
    found = np.asarray(tall.resize((8, 8), cubic))
    return np.array_equal(found, np.asarray(tall.resize((16, 8), cubic).resize((8, 8), cubic)))


def _resized(graph: OnnxGraph, values: str, rows: str, columns: str, *, rows_first: bool) -> str:
    """Both passes, with whole numbers in between: (N, 3, h, w) to (N, 3, size, size). The matrices are (size, h) and (size, w)."""
    columns = graph.node("Transpose", columns, perm=[1, 0])
    if rows_first:
        return _whole(graph, graph.node("MatMul", _whole(graph, graph.node("MatMul", rows, values)), columns))
    return _whole(graph, graph.node("MatMul", rows, _whole(graph, graph.node("MatMul", values, columns))))


def _one_way(graph: OnnxGraph, values: str, rows: _Axis, columns: _Axis, tall: str, *, rows_first: bool) -> str:
    """Both passes in one order; where the other order is asked for, of a single pixel, which takes no time.

    That stands in place of a branch: one engine was seen to give wrong results after a branch for images whose size had changed.
    """
    one, zero, axes = graph.integers(1), graph.integers(0), graph.integers(2, 3)
    height, width = (graph.node("Where", tall, *((axis.blocks, one) if rows_first else (one, axis.blocks))) for axis in (rows, columns))
    origin = graph.integers(0, 0)
    some = graph.node("Slice", values, origin, graph.node("Concat", height, width, axis=0), axes)
    weights = [graph.node("Slice", axis.weights, zero, length, one) for axis, length in ((rows, height), (columns, width))]
    return _resized(graph, some, weights[0], weights[1], rows_first=rows_first)


def _is_tall(graph: OnnxGraph, rows: _Axis, columns: _Axis, size: int) -> str:
    """Whether the height loses more than twice of what the width loses: one truth value."""
    averaged = graph.node("Greater", graph.node("Max", rows.factor, columns.factor), graph.integers(1))
    height, width = (graph.node("Where", averaged, axis.blocks, axis.side) for axis in (rows, columns))
    target, zero, two = (graph.integers(number) for number in (size, 0, 2))
    narrowed = graph.node("Max", graph.node("Sub", width, target), zero)
    return graph.node("Greater", graph.node("Sub", height, target), graph.node("Mul", narrowed, two))


def _with(graph: OnnxGraph, operator: str, value: str, number: float) -> str:
    """A value of type double, and a number."""
    return graph.node(operator, value, graph.constant([number], dtype=np.float64))


def _whole(graph: OnnxGraph, values: str) -> str:
    """Rounded as Pillow rounds, halves up, and kept within 0 to 255."""
    rounded = graph.node("Floor", graph.node("Add", values, graph.constant(0.5)))
    return graph.node("Clip", rounded, graph.constant(0.0), graph.constant(255.0))


def _axis(graph: OnnxGraph, side: str, cut: str, preprocessing: Preprocessing) -> _Axis:
    size, support = preprocessing.size, _SUPPORT[preprocessing.interpolation]
    one, zero = (graph.integers(number) for number in (1, 0))
    length = graph.node("Cast", side, to=_DOUBLE)
    first = _with(graph, "Mul", graph.node("Sub", length, cut), 0.5)
    last = graph.node("Add", first, cut)
    scale = _with(graph, "Div", cut, size)
    # how far beyond the cut the filter reaches
    reach = graph.node("Sub", _with(graph, "Mul", _with(graph, "Max", scale, 1.0), support), _with(graph, "Mul", scale, 0.5))
    start = graph.node("Max", graph.node("Cast", graph.node("Floor", graph.node("Sub", first, reach)), to=_INT64), zero)
    stop = graph.node("Min", graph.node("Cast", graph.node("Ceil", graph.node("Add", last, reach)), to=_INT64), side)
    if preprocessing.interpolation == "nearest":
        factor = one
    else:
        factor = graph.node("Max", graph.node("Cast", graph.node("Floor", _with(graph, "Div", scale, _REDUCING_GAP)), to=_INT64), one)
    taken = graph.node("Sub", stop, start)
    blocks = graph.node("Div", graph.node("Sub", graph.node("Add", taken, factor), one), factor)
    padding = graph.node("Sub", graph.node("Mul", blocks, factor), taken)
    zeroth, every = (graph.constant(number, dtype=np.int64) for number in (0, 1))
    numbers = graph.node("Range", zeroth, graph.node("Squeeze", blocks, zero), every)
    left = graph.node("Sub", taken, graph.node("Mul", numbers, factor))
    counts = graph.node("Cast", graph.node("Min", left, factor), to=_FLOAT)
    first, last = (
        graph.node("Div", graph.node("Sub", edge, graph.node("Cast", start, to=_DOUBLE)), graph.node("Cast", factor, to=_DOUBLE))
        for edge in (first, last)
    )
    weights = _weights(graph, first, last, numbers, size=size, interpolation=preprocessing.interpolation)
    return _Axis(side, start, stop, factor, padding, blocks, counts, weights)


def _weights(graph: OnnxGraph, first: str, last: str, numbers: str, *, size: int, interpolation: str) -> str:
    """float32 (size, n): the share of each of n pixels in each of the resized ones. `first` and `last` bound the box, in pixels."""
    scale = _with(graph, "Div", graph.node("Sub", last, first), size)
    steps = graph.constant(np.arange(size, dtype=np.float64)[:, None] + 0.5, dtype=np.float64)
    centres = graph.node("Add", first, graph.node("Mul", steps, scale))  # (size, 1)
    pixels = graph.node("Cast", numbers, to=_DOUBLE)
    if interpolation == "nearest":
        return graph.node("Cast", graph.node("Equal", pixels, graph.node("Floor", centres)), to=_FLOAT)
    away = graph.node("Sub", _with(graph, "Add", pixels, 0.5), centres)
    away = graph.node("Div", away, _with(graph, "Max", scale, 1.0))
    shares = _filter(graph, graph.node("Cast", graph.node("Abs", away), to=_FLOAT), interpolation)
    return graph.node("Div", shares, graph.node("ReduceSum", shares, graph.integers(1), keepdims=1))


def _filter(graph: OnnxGraph, x: str, interpolation: str) -> str:
    """The weight at a distance `x` of 0 and more: a triangle, Keys's cubic with a = -0.5, or Lanczos's windowed sine."""
    zero, one = graph.constant(0.0), graph.constant(1.0)
    if interpolation == "bilinear":
        return graph.node("Max", graph.node("Sub", one, x), zero)
    if interpolation == "bicubic":
        # in this order: another rounds differently, and a pixel that rounds to the other side shows in the probabilities
        inner = graph.node("Add", graph.node("Mul", graph.node("Mul", x, x), _polynomial(graph, x, 1.5, -2.5)), one)
        outer = graph.node("Mul", _polynomial(graph, x, 1.0, -5.0, 8.0, -4.0), graph.constant(-0.5))
        beyond = graph.node("Where", graph.node("Less", x, graph.constant(2.0)), outer, zero)
        return graph.node("Where", graph.node("Less", x, one), inner, beyond)
    near = graph.node("Less", x, graph.constant(1e-6))
    angle = graph.node("Mul", graph.node("Where", near, one, x), graph.constant(math.pi))
    third = graph.node("Mul", angle, graph.constant(1 / 3))
    sines = graph.node("Mul", graph.node("Sin", angle), graph.node("Sin", third))
    value = graph.node("Where", near, one, graph.node("Div", sines, graph.node("Mul", angle, third)))
    return graph.node("Where", graph.node("Less", x, graph.constant(3.0)), value, zero)


def _polynomial(graph: OnnxGraph, x: str, *factors: float) -> str:
    """By Horner's rule; the factor of the highest power comes first."""
    value = graph.constant(factors[0])
    for factor in factors[1:]:
        value = graph.node("Add", graph.node("Mul", value, x), graph.constant(factor))
    return value


def _reduced(graph: OnnxGraph, images: str, rows: _Axis, columns: _Axis) -> str:
    """The pixels that count, averaged in blocks and rounded: float32 (N, 3, blocks of rows, blocks of columns)."""
    starts, stops = (graph.node("Concat", *ends, axis=0) for ends in ((rows.start, columns.start), (rows.stop, columns.stop)))
    taken = graph.node("Slice", images, starts, stops, graph.integers(1, 2))
    values = graph.node("Cast", graph.node("Transpose", taken, perm=[0, 3, 1, 2]), to=_FLOAT)
    none = graph.constant([0] * 6, dtype=np.int64)
    values = graph.node("Pad", values, graph.node("Concat", none, rows.padding, columns.padding, axis=0))
    same = graph.integers(0, 3)  # as many images, and three colours
    shape = graph.node("Concat", same, rows.blocks, rows.factor, columns.blocks, columns.factor, axis=0)
    sums = graph.node("ReduceSum", graph.node("Reshape", values, shape), graph.integers(3, 5), keepdims=0)
    counts = graph.node("Mul", graph.node("Unsqueeze", rows.counts, graph.integers(1)), columns.counts)
    # Pillow multiplies by the whole part of 2^24 / count: where this is no power of two, the mean of a multiple of it is rounded down
    total = graph.constant(float(1 << 24))
    multiplied = graph.node("Mul", graph.node("Floor", graph.node("Div", total, counts)), counts)
    lost = graph.node("Where", graph.node("Less", multiplied, total), graph.constant(0.5), graph.constant(0.0))
    half = graph.node("Sub", graph.node("Floor", graph.node("Mul", counts, graph.constant(0.5))), lost)
    means = graph.node("Floor", graph.node("Div", graph.node("Add", sums, half), counts))
    return graph.node("Max", means, graph.constant(0.0))
