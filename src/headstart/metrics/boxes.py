"""Boxes as arrays: what a detector found, how far boxes overlap, and which of those that overlap remain.

A box is (left, top, right, bottom) in pixels. The boxes of n images stand in one array, image after image; those of image i are the rows
from ``starts[i]`` to ``starts[i + 1]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.metrics.scores import Bools, Floats

Integers = NDArray[np.int64]

_PAIRS_AT_ONCE = 2_000_000
_BOXES_AT_ONCE = 256


class TrueBoxes(Protocol):
    """The boxes that are there, of n images: any object with these arrays."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(g, 4)."""

    @property
    def labels(self) -> Integers:
        """Indices of classes (g,)."""

    @property
    def crowd(self) -> Bools:
        """Which of them stand for a group of objects (g,): nothing is missed there, and nothing found in it is wrong."""

    @property
    def starts(self) -> Integers:
        """(n + 1,)."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in n images.

    Attributes:
        boxes: float32 (m, 4).
        scores: floats (m,), the higher the surer. Of equal scores, the earlier box goes first.
        labels: int64 (m,), indices of classes.
        starts: int64 (n + 1,).
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.floating[Any]]
    labels: Integers
    starts: Integers

    def __post_init__(self) -> None:
        check_boxes(self.boxes, self.starts, scores=self.scores, labels=self.labels)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def images(self) -> Integers:
        """The image of each box, int64 (m,)."""
        return image_of_each(self.starts)

    @classmethod
    def joined(cls, parts: Iterable[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]) -> Self:
        """From boxes, scores and labels of one image after the other."""
        own = list(parts)
        boxes = [np.zeros((0, 4), np.float32), *(np.asarray(part[0], np.float32).reshape(-1, 4) for part in own)]
        scores = [np.zeros(0, np.float32), *(np.asarray(part[1]) for part in own)]
        labels = [np.zeros(0, np.int64), *(np.asarray(part[2], np.int64) for part in own)]
        starts = np.cumsum([0, *(len(part) for part in boxes[1:])], dtype=np.int64)
        return cls(np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels), starts)

    def take(self, images: NDArray[Any]) -> Self:
        """Those of some images, int (k,), in that order; an image may come several times."""
        rows, starts = rows_of_images(self.starts, images)
        return type(self)(self.boxes[rows], self.scores[rows], self.labels[rows], starts)

    def at_least(self, threshold: float) -> Self:
        """Those whose score is `threshold` or more."""
        kept = self.scores >= threshold
        starts = np.append(0, np.cumsum(kept, dtype=np.int64))[self.starts]
        return type(self)(self.boxes[kept], self.scores[kept], self.labels[kept], starts)


def check_boxes(boxes: NDArray[Any], starts: NDArray[Any], **beside: NDArray[Any]) -> None:
    """Raise ParameterError where boxes are not (m, 4), an array `beside` them is not (m,), or `starts` do not lead from 0 up to m."""
    shape, shapes = np.shape(boxes), {name: np.shape(values) for name, values in beside.items()}
    if len(shape) != 2 or shape[1] != 4:
        raise ParameterError(f"boxes have the shape (m, 4): left, top, right and bottom of each; got {shape}.")
    if wrong := {name: found for name, found in shapes.items() if found != shape[:1]}:
        name, found = next(iter(wrong.items()))
        raise ParameterError(f"{shape[0]} boxes have {name} of shape ({shape[0]},); got {found}.")
    if np.ndim(starts) != 1 or not len(starts) or starts[0] != 0 or starts[-1] != shape[0] or (np.diff(starts) < 0).any():
        raise ParameterError(f"starts lead from 0 up to the number of boxes, {shape[0]}, with one number more than there are images.")


def image_of_each(starts: NDArray[Any]) -> Integers:
    """The image of each box, int64 (m,)."""
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def rows_of_images(starts: NDArray[Any], images: NDArray[Any]) -> tuple[Integers, Integers]:
    """The rows of the boxes of some images, in that order, and their own `starts`."""
    first, counts = np.asarray(starts)[:-1][images], np.diff(starts)[images]
    own = np.append(0, np.cumsum(counts)).astype(np.int64)
    return np.arange(own[-1]) + np.repeat(first - own[:-1], counts), own


def areas(boxes: NDArray[Any]) -> Floats:
    """Areas in square pixels, float64 (m,)."""
    wide = np.asarray(boxes, np.float64)
    found: Floats = (wide[:, 2] - wide[:, 0]) * (wide[:, 3] - wide[:, 1])
    return found


def iou(first: NDArray[Any], second: NDArray[Any], crowd: NDArray[Any] | None = None) -> Floats:
    """How far each of `first` (m, 4) overlaps each of `second` (n, 4): intersection over union, float64 (m, n) from 0 to 1.

    Where `crowd`, bool (n,), says that the second is a group of objects, it is the share of the first that lies in it, as in COCO.
    """
    groups = np.zeros(len(second), bool) if crowd is None else np.asarray(crowd, bool)
    return _overlap(np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None], groups[None])


def _overlap(first: NDArray[Any], second: NDArray[Any], crowd: NDArray[np.bool_] | np.bool_) -> NDArray[Any]:
    """In the precision of the boxes, (..., 4) both; the operations are those of pycocotools and torchvision, so that ties are as well."""
    wide = np.minimum(first[..., 2], second[..., 2]) - np.maximum(first[..., 0], second[..., 0])
    high = np.minimum(first[..., 3], second[..., 3]) - np.maximum(first[..., 1], second[..., 1])
    there = (wide > 0) & (high > 0)
    shared = np.where(there, wide * high, wide.dtype.type(0))
    own, other = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (first, second))
    found: NDArray[Any] = np.divide(shared, np.where(crowd, own, own + other - shared), out=np.zeros_like(shared), where=there)
    return found


def overlapping(
    first: NDArray[Any], second: NDArray[Any], groups: tuple[Integers, Integers], *, least: float, crowd: NDArray[Any] | None = None
) -> tuple[Integers, Integers, Floats]:
    """Every pair of boxes of one group whose `iou` is `least` or more: rows of `first`, rows of `second`, and their iou, (p,) each.

    `groups` are numbers of the groups of both, such as their images. The pairs come in the order of the first, then of the second.
    """
    order = np.argsort(groups[1], kind="stable")
    ranked = groups[1][order]
    low, high = (np.searchsorted(ranked, groups[0], side=side) for side in ("left", "right"))
    counts = high - low
    ends = np.append(0, np.cumsum(counts))
    found: list[tuple[Integers, Integers, Floats]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    start = 0
    while start < len(counts):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + _PAIRS_AT_ONCE, side="right")) - 1)
        some = slice(start, stop)
        rows = np.repeat(np.arange(start, stop), counts[some])
        others = order[np.arange(ends[start], ends[stop]) + np.repeat(low[some] - ends[some], counts[some])]
        groups_of_objects = np.zeros(len(others), bool) if crowd is None else np.asarray(crowd, bool)[others]
        shares = _overlap(first[rows].astype(np.float64), second[others].astype(np.float64), groups_of_objects)
        near = shares >= least
        found.append((rows[near], others[near], shares[near]))
        start = stop
    rows, others, shares = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows, others, shares


def nms(
    boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], *, iou: float = 0.65, per_class: bool = True, most: int | None = None
) -> Integers:
    """Non-maximum suppression: rows of the boxes that remain, int64 (k,), the highest score first, at `most` so many of them.

    A box goes where it overlaps one that remains, of a higher score, by more than `iou`; with `per_class`, only where both have the same
    label. Of equal scores the earlier box goes first. In float32, as in torchvision and in exported graphs. Boxes (m, 4), scores and labels
    (m,).
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    check_boxes(boxes, np.array([0, len(boxes)]), scores=scores, labels=labels)
    order = np.argsort(-np.asarray(scores), kind="stable")
    boxes, labels = boxes[order], np.asarray(labels)[order]
    remains = np.ones(len(order), bool)

    def suppressed(first: Integers, second: Integers) -> Bools:
        over: Bools = _overlap(boxes[first][:, None], boxes[second][None], np.False_) > np.float32(iou)
        return over & (labels[first][:, None] == labels[second][None]) if per_class else over

    count = 0
    for start in range(0, len(order), _BOXES_AT_ONCE):
        block = start + np.flatnonzero(remains[start : start + _BOXES_AT_ONCE])
        over = np.triu(suppressed(block, block), 1)
        stays = np.ones(len(block), bool)
        for index in np.flatnonzero(over.any(axis=1)):
            if stays[index]:
                stays &= ~over[index]
        remains[block] = stays
        count += int(stays.sum())
        if most is not None and count >= most:
            remains[start + _BOXES_AT_ONCE :] = False
            break
        later = start + _BOXES_AT_ONCE + np.flatnonzero(remains[start + _BOXES_AT_ONCE :])
        remains[later] &= ~suppressed(block[stays], later).any(axis=0)
    return order[remains][:most]
