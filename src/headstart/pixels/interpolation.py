"""Maps of a network at the size of an image: bilinear interpolation with half-pixel centres, in strips of rows, so that memory stays small.

The same numbers as ONNX ``Resize`` with mode ``linear`` and ``coordinate_transformation_mode`` ``half_pixel``, and as
``torch.nn.functional.interpolate`` with ``align_corners=False``, when enlarging.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError

_AT_ONCE = 2_000_000  # interpolated numbers held in memory

Floats = NDArray[np.float32]


class Taps(NamedTuple):
    """For each position on a new axis the two old ones that it lies between, int64, and the weight of the second, float32."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: Floats

    def at(self, places: slice | NDArray[np.int64]) -> Taps:
        """Those of some of the new positions."""
        return Taps(self.first[places], self.second[places], self.weight[places])


def taps(old: int, new: int) -> Taps:
    """Where the pixels of an axis of length `new` lie on one of length `old`; beyond the outermost centres the outermost value holds."""
    if min(old, new) < 1:
        raise ParameterError(f"a map can be resized between lengths of 1 and more, and not from {old} to {new}.")
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    first = np.floor(place).astype(np.int64)
    return Taps(first, np.minimum(first + 1, old - 1), (place - first).astype(np.float32))


def resized(maps: NDArray[np.floating], size: tuple[int, int]) -> Floats:
    """Maps (k, h, w), or one map (h, w), at another size (height, width): float32."""
    maps = np.asarray(maps, dtype=np.float32)
    planes = maps if maps.ndim == 3 else maps[None]
    rows, columns = taps(planes.shape[1], size[0]), taps(planes.shape[2], size[1])
    found = _across(_down(planes, rows), columns)
    return found if maps.ndim == 3 else found[0]


class Strip(NamedTuple):
    """Some rows of a class map: `classes` uint8 (rows, W); `confidence` the probability of that class, float32, or None."""

    rows: slice
    classes: NDArray[np.uint8]
    confidence: Floats | None


def class_strips(logits: NDArray[np.floating], size: tuple[int, int], *, confidence: bool = True) -> Iterator[Strip]:
    """The most probable class of each pixel from logits (k, h, w), k from 1 to 255, interpolated to `size` (H, W), strip by strip.

    Of equal logits the earlier class is taken. Without `confidence`, only pixels near a change of class are interpolated: where the four
    values around a pixel prefer the same class, so does every mean of them.
    """
    logits = np.asarray(logits, dtype=np.float32)
    if logits.ndim != 3 or not 1 <= len(logits) <= 255 or 0 in logits.shape:
        raise ParameterError(f"logits of an image must have the shape (classes, height, width), with 1 to 255 classes; got {logits.shape}.")
    if len(logits) == 1:
        logits = np.concatenate([logits, np.full_like(logits, -1e30)])
    planes = logits[1:] - logits[:1] if len(logits) == 2 else logits  # of two classes the difference says all
    rows, columns = taps(logits.shape[1], size[0]), taps(logits.shape[2], size[1])
    coarse = None if confidence else logits.argmax(axis=0).astype(np.uint8)
    step = max(1, min(size[0], _AT_ONCE // (len(planes) * size[1])))
    for start in range(0, size[0], step):
        part = slice(start, min(start + step, size[0]))
        some = rows.at(part)
        if coarse is None:
            yield Strip(part, *_decided(_across(_down(planes, some), columns)))
        else:
            yield Strip(part, _near_changes(planes, coarse, some, columns), None)


def class_map(logits: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The most probable class of each pixel: uint8 (H, W), from logits (k, h, w); see `class_strips`."""
    found = np.empty(size, dtype=np.uint8)
    for strip in class_strips(logits, size, confidence=False):
        found[strip.rows] = strip.classes
    return found


def upsampled(logits: NDArray[np.floating], size: tuple[int, int]) -> tuple[NDArray[np.uint8], Floats]:
    """The most probable class of each pixel, uint8 (H, W), and its probability, float32 (H, W), from logits (k, h, w)."""
    classes, confidence = np.empty(size, dtype=np.uint8), np.empty(size, dtype=np.float32)
    for strip in class_strips(logits, size):
        assert strip.confidence is not None
        classes[strip.rows], confidence[strip.rows] = strip.classes, strip.confidence
    return classes, confidence


def _down(planes: Floats, rows: Taps) -> Floats:
    first = planes[:, rows.first]
    found: Floats = first + (planes[:, rows.second] - first) * rows.weight[:, None]
    return found


def _across(planes: Floats, columns: Taps) -> Floats:
    """Interpolate along the last axis: a product with a matrix of two entries a column, as gathering from that axis is slower."""
    width = planes.shape[-1]
    if width > 256:  # a dense matrix would be mostly zeros
        first = planes[..., columns.first]
        found: Floats = first + (planes[..., columns.second] - first) * columns.weight
        return found
    weights = np.zeros((width, len(columns.weight)), dtype=np.float32)
    across = np.arange(len(columns.weight))
    weights[columns.first, across] = 1 - columns.weight
    weights[columns.second, across] += columns.weight
    return planes @ weights


def _decided(planes: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """The class and its probability, from logits (k, rows, W), or of two classes their difference (1, rows, W)."""
    if len(planes) == 1:
        classes = (planes[0] > 0).astype(np.uint8)
        np.abs(planes[0], out=planes[0])
        np.negative(planes[0], out=planes[0])
        np.exp(planes[0], out=planes[0])
        return classes, np.reciprocal(planes[0] + 1, out=planes[0])
    best, classes = _best(planes)
    planes -= best
    np.exp(planes, out=planes)
    return classes, np.reciprocal(planes.sum(axis=0))


def _best(planes: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """The largest value over the first axis and where it is; `argmax` along that axis would be several times slower."""
    best, classes = planes[0].copy(), np.zeros(planes.shape[1:], dtype=np.uint8)
    for index in range(1, len(planes)):
        np.copyto(classes, np.uint8(index), where=planes[index] > best)
        np.maximum(best, planes[index], out=best)
    return best, classes


def _near_changes(planes: Floats, coarse: NDArray[np.uint8], rows: Taps, columns: Taps) -> NDArray[np.uint8]:
    """The classes of a strip, interpolated only in columns between which the coarse classes differ somewhere in the strip."""
    band = coarse[rows.first[0] : rows.second[-1] + 1]
    same = (band == band[:1]).all(axis=0)
    apart = ~same[columns.first] | ~same[columns.second] | (band[0, columns.first] != band[0, columns.second])
    found = np.empty((len(rows.weight), len(columns.weight)), dtype=np.uint8)
    found[:] = band[0, columns.first]
    where = np.flatnonzero(apart)
    if len(where):
        some = _across(_down(planes, rows), columns.at(where))
        found[:, where] = (some[0] > 0) if len(some) == 1 else _best(some)[1]
    return found
