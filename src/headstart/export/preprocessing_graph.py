"""`Preprocessing` as a graph: uint8 images of any size in, the square that the network takes out, as Pillow makes it, bit for bit.

The operator Resize of ONNX is not used: it knows no box between two pixels, it does not round to whole numbers between its two passes as
Pillow does, and several engines leave its antialiasing out. The graph does what Pillow's C code does: weights in double precision (here
`Wide`) from the size of the image and the box, which is kept in float32; the weights as multiples of 2^-22; sums of whole numbers, halves
rounded up. (A weight exactly between two multiples falls to a side by the rounding of Pillow's own steps, which is not followed: rarely,
where a small image is enlarged with the bilinear filter, some pixels are one level off.) A sum of whole numbers below 2^24 is exact in
float32 in any order, so the weights are cut into two parts of 11 bits.

Eight rows of the result are made at a time, from the few rows of the image that they depend on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from headstart.export.double_float import Wide
from headstart.modalities.image import Preprocessing
from headstart.onnx_graph import OnnxGraph

_SUPPORT = {"nearest": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}
_REDUCING_GAP = 3.0  # as in `Preprocessing`
_GROUP = 8
_BITS = 22  # of the fraction of a weight
_PART = 2.0 ** (_BITS / 2)
_FLOAT, _INT64, _UINT8 = 1, 7, 2  # of ONNX's table of types


@dataclass(frozen=True)
class _Axes:
    """What becomes of the two axes, rows and columns unless they are `ordered`: names of float32 vectors (2,)."""

    start: str  # the pixels that count
    stop: str
    scale: str  # about so many averages make one pixel of the result
    factor: str  # so many neighbours are averaged before the resizing, where the image is far too large
    blocks: str  # how many averages there are
    begin: str  # the box that is resized, in averages
    end: str
    offset: str  # how many pixels lie before the first one that counts, where the box is told from the edge of the image

    def ordered(self, graph: OnnxGraph, order: str) -> _Axes:
        """The axes in another order, int64 (2,)."""
        return _Axes(*(graph.node("Gather", value, order) for value in vars(self).values()))


def write_preprocessing(graph: OnnxGraph, images: str, preprocessing: Preprocessing) -> str:
    """Append the preprocessing of `images`, uint8 (N, H, W, 3), to a graph of operator set 17 or later.

    Returns the name of the result, uint8 (N, size, size, 3): what ``preprocessing(image)`` gives for arrays.
    """
    node, size = graph.node, preprocessing.size
    sides = _sides(graph, images)
    axes = _axes(graph, sides, preprocessing)
    images = node("Slice", images, _as_integers(graph, axes.start), _as_integers(graph, axes.stop), graph.integers(1, 2))
    upright = node("Cast", node("Transpose", images, perm=[0, 3, 1, 2]), to=_FLOAT)
    if preprocessing.interpolation == "nearest":
        whole, rest = _centres(graph, axes, size, size)
        places = _as_integers(graph, node("Add", whole, rest.floor()))
        rows, columns = (node("Squeeze", _one(graph, places, axis), graph.integers(0)) for axis in (0, 1))
        square = node("Gather", node("Gather", upright, rows, axis=2), columns, axis=3)
    else:
        tall = _is_tall(graph, sides, axes, size)
        axes = axes.ordered(graph, node("Where", tall, graph.integers(0, 1), graph.integers(1, 0)))
        # both orders are as many numbers, so that one of them can be chosen without a branch
        flat, taken = graph.integers(0, -1), _as_integers(graph, node("Sub", axes.stop, axes.start))
        ways = [node("Reshape", way, flat) for way in (upright, node("Transpose", upright, perm=[0, 1, 3, 2]))]
        values = node("Reshape", node("Where", tall, *ways), node("Concat", graph.integers(0, 3), taken, axis=0))
        places, weights = _windows(graph, axes, preprocessing)
        square = _reduced(graph, values, axes)
        for axis in (0, 1):
            square = node("Transpose", square, perm=[0, 1, 3, 2]) if axis else square
            square = _pass(graph, square, _one(graph, places, axis), _one(graph, weights, axis))
        square = node("Where", tall, node("Transpose", square, perm=[0, 1, 3, 2]), square)
        square = node("Slice", square, graph.integers(0, 0), graph.integers(size, size), graph.integers(2, 3))
    square = node("Transpose", node("Cast", square, to=_UINT8), perm=[0, 2, 3, 1])
    # Nothing changes, but engines know from here on what is always the same, and plan for it once.
    return node("Reshape", square, graph.integers(-1, size, size, 3))


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


def _is_tall(graph: OnnxGraph, sides: str, axes: _Axes, size: int) -> str:
    """Whether the height is resized first: where it loses more than twice of what the width loses. One truth value."""
    if not tall_images_begin_with_rows():
        return graph.constant([False], dtype=np.bool_)
    pixels = graph.node("Sub", graph.node("Where", _are_averaged(graph, axes.factor), axes.blocks, sides), graph.constant(size))
    height, width = (_one(graph, pixels, axis) for axis in (0, 1))
    return graph.node("Greater", height, graph.node("Mul", graph.node("Max", width, graph.constant(0.0)), graph.constant(2.0)))


def _are_averaged(graph: OnnxGraph, factor: str) -> str:
    """Whether pixels are averaged along any axis: one truth value."""
    return graph.node("Greater", graph.node("ReduceMax", factor), graph.constant(1.0))


def _as_integers(graph: OnnxGraph, value: str) -> str:
    return graph.node("Cast", value, to=_INT64)


def _one(graph: OnnxGraph, values: str, axis: int) -> str:
    """What belongs to one of the two axes, as the only row."""
    return graph.node("Gather", values, graph.integers(axis), axis=0)


def _groups(size: int) -> int:
    return math.ceil(size / _GROUP)


def _sides(graph: OnnxGraph, images: str) -> str:
    """How many rows and columns images have: counted, not asked for by the operator Shape.

    What depends on a Shape alone OpenVINO follows from every operator up to the Shape again, which takes minutes for a long calculation.
    """
    node, lengths = graph.node, []
    for axis in (1, 2):
        others = [0, *({1, 2} - {axis}), 3]
        pixels = node("Slice", images, graph.integers(0, 0, 0), graph.integers(1, 1, 1), graph.integers(*others))
        ones = node("Cast", node("Less", node("Cast", pixels, to=_FLOAT), graph.constant(256.0)), to=_FLOAT)
        lengths.append(node("Reshape", node("ReduceSum", ones, keepdims=0), graph.integers(1)))
    return node("Concat", *lengths, axis=0)


def _floor(graph: OnnxGraph, base: str, pixels: str, factor: float) -> str:
    """The whole part of ``base + pixels * factor``: whole or half numbers below 2^14, and a constant, of which 10 bits are kept apart."""
    node, upper = graph.node, round(factor * 1024) / 1024
    exact = node("Add", base, node("Mul", pixels, graph.constant(upper)))
    whole = node("Floor", exact)
    left = node("Add", node("Sub", exact, whole), node("Mul", pixels, graph.constant(factor - upper)))
    return node("Add", whole, node("Floor", node("Add", left, graph.constant(2.0**-18))))  # whole numbers do occur


def _axes(graph: OnnxGraph, sides: str, preprocessing: Preprocessing) -> _Axes:
    """In the order of Pillow's `resize`: the box, how far it can be reduced by averaging, and the box in averages."""
    node, size, support = graph.node, preprocessing.size, _SUPPORT[preprocessing.interpolation]
    zero, one = graph.constant([0.0, 0.0]), graph.constant([1.0, 1.0])
    crop = preprocessing.fit == "crop"
    share, pixels = (preprocessing.crop, node("ReduceMin", sides)) if crop else (1.0, sides)
    half = node("Mul", sides, graph.constant(0.5))
    if preprocessing.interpolation == "nearest":
        factor = one
    else:
        factor = node("Max", _floor(graph, zero, pixels, share / size / _REDUCING_GAP), one)
    averaged = _are_averaged(graph, factor)
    if crop:
        reach = share * (0.5 + (support - 0.5) / size)
        more = node("Where", averaged, zero, graph.constant(math.ceil(support) + 1))
        start = node("Max", node("Sub", _floor(graph, half, pixels, -reach), more), zero)
        stop = node("Min", node("Sub", more, _floor(graph, node("Neg", half), pixels, -reach)), sides)
    else:
        start, stop = zero, sides
    blocks = node("Ceil", node("Div", node("Sub", stop, start), factor))
    from_edge = node("Where", averaged, start, zero)
    cut = Wide.of(graph, pixels) * (share / 2)
    begin, end = (
        ((edge - Wide.of(graph, from_edge)) / Wide.of(graph, factor)).high
        for edge in (Wide.of(graph, half) - cut, Wide.of(graph, half) + cut)
    )
    scale = node("Div", node("Mul", pixels, graph.constant(share / size)), factor)
    return _Axes(start, stop, scale, factor, blocks, begin, end, node("Sub", start, from_edge))


def _centres(graph: OnnxGraph, axes: _Axes, size: int, count: int) -> tuple[str, Wide]:
    """Where the middle of each row of the result lies: whole numbers and what is added to them, 0 to 2, both (2, count).

    With the whole numbers apart, and a division of what remains of an exact product, the distances to pixels have no error that shows.
    """
    node, length = graph.node, graph.node("Sub", axes.end, axes.begin)  # in float32, as Pillow does
    begin, length = (node("Unsqueeze", value, graph.integers(1)) for value in (axes.begin, length))
    steps = Wide.product_of(graph, graph.constant(2 * np.arange(count) + 1), length)
    whole = node("Floor", node("Div", steps.high, graph.constant(2 * size)))
    left = steps - Wide.product_of(graph, whole, graph.constant(2 * size))
    begun = node("Floor", begin)
    offset = node("Unsqueeze", axes.offset, graph.integers(1))
    return node("Add", whole, node("Sub", begun, offset)), left / float(2 * size) + Wide.of(graph, node("Sub", begin, begun))


def _windows(graph: OnnxGraph, axes: _Axes, preprocessing: Preprocessing) -> tuple[str, str]:
    """For both axes and each group of rows of the result: which rows of the image it depends on, and how.

    The places are int64 (2, groups, n), the weights float32 (2, groups, 2 x 8, n): their upper parts, and the lower ones below.
    """
    node, size, groups = graph.node, preprocessing.size, _groups(preprocessing.size)
    whole, rest = _centres(graph, axes, size, groups * _GROUP)
    shape = graph.integers(2, groups, _GROUP, 1)
    whole, rest = node("Reshape", whole, shape), rest.each("Reshape", shape)
    to_edges = graph.integers(1, 2, 3)
    length = node("Unsqueeze", node("Sub", axes.end, axes.begin), to_edges)
    shrinking = Wide.constant(graph, size) / Wide.of(graph, node("Max", length, graph.constant(size)))
    support = node("Div", graph.constant(_SUPPORT[preprocessing.interpolation]), shrinking.high)
    top = node("Slice", whole, graph.integers(0), graph.integers(1), graph.integers(2))
    start = node("Max", node("Sub", node("Floor", node("Sub", top, support)), graph.constant(1.0)), graph.constant(0.0))
    reach = node("Mul", node("Max", axes.scale, graph.constant(1.0)), graph.constant(2 * _SUPPORT[preprocessing.interpolation]))
    taken = node("Add", node("Mul", axes.scale, graph.constant(_GROUP - 1)), reach)
    longest = node("Add", node("Ceil", node("ReduceMax", taken, keepdims=0)), graph.constant(5.0))
    numbers = node("Range", graph.constant(0.0), longest, graph.constant(1.0))
    pixels = node("Add", start, numbers)  # (2, groups, 1, n)
    blocks = node("Unsqueeze", axes.blocks, to_edges)
    inside = node("Less", pixels, blocks)
    places = node("Squeeze", node("Min", pixels, node("Sub", blocks, graph.constant(1.0))), graph.integers(2))
    away = (Wide.of(graph, node("Sub", pixels, whole)) - (rest - 0.5)) * shrinking
    shares = _filter(away.magnitude(), preprocessing.interpolation).where(inside, 0.0)
    weights = _as_parts(graph, (shares / shares.total(3)) * 2.0**_BITS)
    return _as_integers(graph, places), weights


def _as_parts(graph: OnnxGraph, weights: Wide) -> str:
    """Rounded to whole numbers, halves away from zero, and cut into multiples of 2^11 and what is left, one below the other."""
    node = graph.node
    sign, rounded = node("Sign", weights.high), (weights.magnitude() + 0.5).floor()
    rounded = node("Mul", sign, rounded)
    upper = node("Floor", node("Add", node("Mul", rounded, graph.constant(1 / _PART)), graph.constant(0.5)))
    lower = node("Sub", rounded, node("Mul", upper, graph.constant(_PART)))
    return node("Concat", upper, lower, axis=2)


def _filter(x: Wide, interpolation: str) -> Wide:
    """The weight at a distance `x` of 0 and more: a triangle, Keys's cubic with a = -0.5, or Lanczos's windowed sine."""
    graph, node = x.graph, x.graph.node

    def below(limit: float) -> str:
        return node("Less", x.high, graph.constant(limit))

    if interpolation == "bilinear":
        return (-x + 1.0).where(below(1.0), 0.0)
    if interpolation == "bicubic":
        near = below(1.0)
        factors = [node("Where", near, *map(graph.constant, pair)) for pair in ((1.5, -0.5), (-2.5, 2.5), (0.0, -4.0), (1.0, 2.0))]
        value = Wide.of(graph, factors[0])
        for factor in factors[1:]:
            value = value * x + Wide.of(graph, factor)
        return value.where(below(2.0), 0.0)
    nowhere = node("Equal", x.high, graph.constant(0.0))
    elsewhere = Wide.constant(graph, 1.0).where(nowhere, x)
    value = _sine(elsewhere) * _sine(elsewhere / 3.0) / (elsewhere * elsewhere * (math.pi**2 / 3))
    return Wide.constant(graph, 1.0).where(nowhere, value.where(below(3.0), 0.0))


def _sine(x: Wide) -> Wide:
    """sin(pi x), by its series around the next whole number."""
    graph, node = x.graph, x.graph.node
    whole = node("Floor", node("Add", x.high, graph.constant(0.5)))
    odd = node("Sub", whole, node("Mul", node("Floor", node("Mul", whole, graph.constant(0.5))), graph.constant(2.0)))
    sign = node("Sub", graph.constant(1.0), node("Mul", odd, graph.constant(2.0)))
    near = x - Wide.of(graph, whole)
    square, value = near * near, Wide.constant(graph, 0.0)
    for power in range(21, 0, -2):
        value = value * square + (-1) ** (power // 2) * math.pi**power / math.factorial(power)
    return (value * near).each("Mul", sign)


def _pass(graph: OnnxGraph, values: str, places: str, weights: str) -> str:
    """One pass over the rows of (N, 3, n, m): (N, 3, 8 x groups, m), rounded as Pillow rounds, and within 0 to 255."""
    node, axis, half, part = graph.node, graph.integers(3), graph.integers(_GROUP), graph.constant(1 / _PART)
    rows = node("Gather", values, node("Squeeze", places, graph.integers(0)), axis=2)  # (N, 3, groups, rows, m)
    sums = node("MatMul", weights, rows)
    upper, lower = node("Slice", sums, graph.integers(0), half, axis), node("Slice", sums, half, graph.integers(2 * _GROUP), axis)
    carried = node("Floor", node("Mul", node("Add", lower, graph.constant(2.0 ** (_BITS - 1))), part))
    whole = node("Floor", node("Mul", node("Add", upper, carried), part))
    clipped = node("Clip", whole, graph.constant(0.0), graph.constant(255.0))
    merged = node("Concat", graph.integers(0, 3, -1), node("Slice", node("Shape", values), axis, graph.integers(4)), axis=0)
    return node("Reshape", clipped, merged)


def _reduced(graph: OnnxGraph, values: str, axes: _Axes) -> str:
    """The pixels (N, 3, first axis, second axis), averaged in blocks and rounded where they are too many.

    What is not asked for, the averages or the pixels as they are, is made of one pixel, which takes no time. That stands in place of a
    branch: one engine was seen to give wrong results after a branch for images whose size had changed.
    """
    node, averaged, one = graph.node, _are_averaged(graph, axes.factor), graph.constant([1.0, 1.0])
    zeros, plane, flat = graph.integers(0, 0), graph.integers(2, 3), graph.integers(0, 3, -1)
    taken = node("Sub", axes.stop, axes.start)
    kept = node("Slice", values, zeros, _as_integers(graph, node("Where", averaged, one, taken)), plane)
    taken, blocks = (node("Where", averaged, number, one) for number in (taken, axes.blocks))
    means = _means(graph, node("Slice", values, zeros, _as_integers(graph, taken), plane), taken, axes.factor, blocks)
    chosen = node("Where", averaged, *(node("Reshape", some, flat) for some in (means, kept)))
    return node("Reshape", chosen, node("Concat", graph.integers(0, 3), _as_integers(graph, axes.blocks), axis=0))


def _means(graph: OnnxGraph, values: str, taken: str, factor: str, blocks: str) -> str:
    """The averages over blocks of (N, 3, h, w)."""
    node = graph.node
    lengths = [_lengths(graph, *(node("Squeeze", _one(graph, value, axis)) for value in (taken, factor, blocks))) for axis in (0, 1)]
    factor, blocks = _as_integers(graph, factor), _as_integers(graph, blocks)
    missing = node("Sub", node("Mul", blocks, factor), _as_integers(graph, taken))
    values = node("Pad", values, node("Concat", graph.integers(0, 0, 0, 0, 0, 0), missing, axis=0))
    pairs = [_one(graph, value, axis) for axis in (0, 1) for value in (blocks, factor)]
    sums = node("Reshape", values, node("Concat", graph.integers(0, 3), *pairs, axis=0))
    sums = node("ReduceSum", sums, graph.integers(3, 5), keepdims=0)
    counts = node("Mul", node("Unsqueeze", lengths[0], graph.integers(1)), lengths[1])
    # Pillow multiplies by the whole part of 2^24 / count: where this is no power of two, the mean of a multiple of it is rounded down
    total = graph.constant(float(1 << 24))
    multiplied = node("Mul", node("Floor", node("Div", total, counts)), counts)
    lost = node("Where", node("Less", multiplied, total), graph.constant(0.5), graph.constant(0.0))
    half = node("Sub", node("Floor", node("Mul", counts, graph.constant(0.5))), lost)
    means = node("Floor", node("Div", node("Add", sums, half), counts))
    return node("Max", means, graph.constant(0.0))


def _lengths(graph: OnnxGraph, taken: str, factor: str, blocks: str) -> str:
    """How many of the pixels taken along an axis lie in each block: float32 (blocks,)."""
    node = graph.node
    numbers = node("Range", graph.constant(0.0), blocks, graph.constant(1.0))
    return node("Min", node("Sub", taken, node("Mul", numbers, factor)), factor)
