"""Masks as run lengths, in the form of COCO: a run of zeros, one of ones and so on, column by column, as numbers or as a short text.

Source: Lin et al., Microsoft COCO: common objects in context, ECCV 2014; the text is that of its programming interface: each number is
written in base 32 with its sign, from the fourth on as the difference to the one two before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DataError

_MOST_DIGITS = 13  # 65 bits

Counts = NDArray[np.int64]


def run_lengths(mask: NDArray[Any]) -> Counts:
    """The lengths of the runs of a mask (H, W), true or not zero inside: int64, the first one of zeros and perhaps 0."""
    flat = (np.asarray(mask) != 0).ravel(order="F")
    return _alternating(flat.view(np.uint8), 1)


def class_run_lengths(classes: NDArray[np.uint8], count: int) -> list[Counts]:
    """The run lengths of each of `count` classes in a class map uint8 (H, W), read once."""
    flat = np.asarray(classes).ravel(order="F")
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1) if len(flat) else np.zeros(0, np.int64)
    values, ends = flat[starts], np.append(starts[1:], len(flat))
    order = np.argsort(values, kind="stable")
    bounds = np.searchsorted(values[order], np.arange(count + 1))
    found = []
    for index in range(count):
        own = order[bounds[index] : bounds[index + 1]]
        found.append(_of_bounds(starts[own], ends[own], len(flat)))
    return found


def _alternating(flat: NDArray[np.uint8], value: int) -> Counts:
    inside = flat == value
    changes = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    edges = np.concatenate([[0], changes, [len(flat)]]).astype(np.int64)
    lengths = np.diff(edges)
    return np.append(0, lengths) if len(flat) and inside[0] else lengths


def _of_bounds(starts: NDArray[np.int64], ends: NDArray[np.int64], total: int) -> Counts:
    """Run lengths of ones from `starts` to `ends`, apart and ascending."""
    edges = np.empty(2 * len(starts) + 2, dtype=np.int64)
    edges[0], edges[-1] = 0, total
    edges[1:-1:2], edges[2:-1:2] = starts, ends
    lengths = np.diff(edges)
    return lengths[:-1] if len(starts) and not lengths[-1] else lengths


def filled(counts: Sequence[int] | Counts, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask bool (H, W) of run lengths. DataError where they do not add up to H x W."""
    lengths = np.asarray(counts, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise DataError(
            f"run lengths of a mask of {size[0]} x {size[1]} pixels must be whole numbers of 0 and more that add up to "
            f"{size[0] * size[1]}; these add up to {lengths.sum()}."
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size, order="F")


def text_of(counts: Sequence[int] | Counts) -> str:
    """Run lengths as COCO's text."""
    values = np.asarray(counts, dtype=np.int64).copy()
    values[3:] -= np.asarray(counts, dtype=np.int64)[1:-2]
    digits = np.zeros((len(values), _MOST_DIGITS), dtype=np.uint8)
    lengths, open_ = np.zeros(len(values), dtype=np.int64), np.arange(len(values))
    for place in range(_MOST_DIGITS):
        low = values[open_] & 31
        values[open_] >>= 5
        # Done where what is left is the sign alone, which the highest bit of this digit repeats.
        more = values[open_] != np.where(low & 16, -1, 0)
        digits[open_, place] = low + 32 * more + 48
        lengths[open_] += 1
        open_ = open_[more]
        if not len(open_):
            break
    return digits[np.arange(_MOST_DIGITS) < lengths[:, None]].tobytes().decode("ascii")


def counts_of(text: str | bytes) -> Counts:
    """The run lengths of COCO's text. DataError for any other text."""
    raw = np.frombuffer(text.encode("utf-8") if isinstance(text, str) else text, dtype=np.uint8)
    if not len(raw):
        return np.zeros(0, dtype=np.int64)
    digits = raw.astype(np.int64) - 48
    last = digits < 32
    if digits.min() < 0 or digits.max() > 63 or not last[-1]:
        raise DataError("a compressed mask must be the text of COCO's run lengths, of the characters '0' to 'o'; this one is damaged.")
    starts = np.append(0, np.flatnonzero(last)[:-1] + 1)
    lengths = np.diff(np.append(starts, len(digits)))
    if lengths.max() > _MOST_DIGITS - 1:
        raise DataError("a compressed mask must be the text of COCO's run lengths; this one has a number of over 60 bits.")
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    values = np.add.reduceat((digits & 31) << shifts, starts)
    negative = (digits[starts + lengths - 1] & 16) != 0
    values -= np.where(negative, np.int64(1) << (5 * lengths), 0)
    # Each number from the fourth on is the difference to the one two before: two running sums, of every other one.
    found = values.copy()
    found[1::2] = np.cumsum(values[1::2])
    found[2::2] = np.cumsum(values[2::2])
    return found


def encoded(mask: NDArray[Any]) -> dict[str, Any]:
    """A mask (H, W) as COCO's object: ``size`` [H, W] and ``counts``, a text."""
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": text_of(run_lengths(mask))}


def decoded(found: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask bool (H, W) of COCO's object, whose counts are a text or a list. DataError where it is damaged."""
    try:
        height, width = (int(side) for side in found["size"])
        counts = found["counts"]
        lengths = counts_of(counts) if isinstance(counts, str | bytes) else np.asarray(counts, dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"a mask in COCO's form must have 'size' [height, width] and 'counts'; this one is damaged ({error}).") from None
    if min(height, width) < 0:
        raise DataError(f"a mask in COCO's form must have a size of 0 and more; got {height} x {width}.")
    return filled(lengths, (height, width))
