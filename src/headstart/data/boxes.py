"""Boxes: where things of which class lie in an image. The targets, and the forms in which runs and lists store them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError
from headstart.metrics.boxes import iou
from headstart.metrics.link import Link
from headstart.text import plural

_SAME = 0.9  # the intersection over union of two boxes that agree
_FIELDS = 6  # of a box in an array: left, top, right, bottom, label, crowd


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of n images, m in all.

    Attributes:
        classes: the k class names.
        boxes: float32 (m, 4), left, top, right and bottom in pixels of the upright image; the first pixel lies between 0 and 1.
        labels: int64 (m,), positions in `classes`.
        crowd: bool (m,), regions of many things, or things too difficult to tell: neither learned, nor is a detection there wrong.
        starts: int64 (n + 1,); the boxes of image i are ``starts[i]:starts[i + 1]``.
        sizes: int64 (n, 2), height and width of each upright image; zeros where an image could not be opened and no file says it.
        ids: the k category numbers as in the data, or from 1.
        files: the annotation file of each image, empty where there is none; an empty tuple where a run stored the targets.
    """

    classes: tuple[str, ...]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    ids: tuple[int, ...]
    files: tuple[str, ...] = ()

    link: ClassVar[Link | None] = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """The image of each box, int64 (m,), ascending."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @property
    def array(self) -> npt.NDArray[np.float32]:
        """Float32 (n, 1 + most, 6), from which `boxes_of` makes the same targets.

        The first row of an image has the number of its boxes, its height and its width; then each box has left, top, right, bottom, label
        and crowd. The rest is 0.
        """
        counts = np.diff(self.starts)
        packed = np.zeros((len(self), 1 + int(counts.max(initial=0)), _FIELDS), np.float32)
        packed[:, 0, 0], packed[:, 0, 1:3] = counts, self.sizes
        images = self.images
        places = np.arange(len(self.boxes)) - self.starts[images] + 1
        packed[images, places] = np.column_stack([self.boxes, self.labels, self.crowd])
        return packed

    @property
    def strata(self) -> npt.NDArray[np.bool_]:
        """Bool (n, k): which classes an image has, crowds aside."""
        found = np.zeros((len(self), len(self.classes)), np.bool_)
        found[self.images[~self.crowd], self.labels[~self.crowd]] = True
        return found

    def of(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Boxes (c, 4), labels (c,) and crowd (c,) of one image."""
        rows = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return self.boxes[rows], self.labels[rows], self.crowd[rows]

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The boxes of some images; all classes remain."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        counts = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        kept = np.arange(starts[-1]) - np.repeat(starts[:-1], counts) + np.repeat(self.starts[:-1][chosen], counts)
        return replace(
            self,
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            crowd=self.crowd[kept],
            starts=starts,
            sizes=self.sizes[chosen],
            files=tuple(self.files[i] for i in chosen.tolist()) if self.files else (),
        )

    def names(self, index: int) -> tuple[str, ...]:
        """The classes that one image has."""
        return tuple(name for name, there in zip(self.classes, self.take(np.array([index])).strata[0], strict=True) if there)

    def agree(self, rows: Sequence[int]) -> bool:
        """Whether some images have the same boxes, in parts of their sides, as far as an IoU of 0.9 tells."""
        first, *others = (self._relative(row) for row in rows)
        return all(_same(first, other) for other in others)

    def _relative(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        boxes, labels, crowd = self.of(index)
        height, width = np.maximum(self.sizes[index], 1).tolist()
        return boxes[~crowd] / np.array([width, height, width, height]), labels[~crowd]

    def cells(self, index: int) -> dict[str, str]:
        """The boxes in JSON, in a column ``boxes``: ``[{"label": "cat", "box": [12, 4, 180, 95.5]}]``; with ``"crowd": true`` for such."""
        listed = []
        for box, label, crowd in zip(*self.of(index), strict=True):
            sides = [int(side) if side == int(side) else float(str(side)) for side in box]  # the shortest text of the same float32
            listed.append({"label": self.classes[int(label)], "box": sides} | ({"crowd": True} if crowd else {}))
        return {"boxes": json.dumps(listed, ensure_ascii=False)}

    def counts(self) -> dict[str, int]:
        """The number of images with each class, zeros included; crowds aside."""
        return dict(zip(self.classes, self.strata.sum(axis=0).tolist(), strict=True))

    def objects(self) -> dict[str, int]:
        """The number of boxes of each class, zeros included; crowds aside."""
        return dict(zip(self.classes, np.bincount(self.labels[~self.crowd], minlength=len(self.classes)).tolist(), strict=True))


def _same(one: tuple[npt.NDArray[Any], npt.NDArray[np.int64]], other: tuple[npt.NDArray[Any], npt.NDArray[np.int64]]) -> bool:
    """Whether two sets of boxes have the same labels, and each box its own counterpart."""
    (boxes, labels), (others, other_labels) = one, other
    if not np.array_equal(np.sort(labels), np.sort(other_labels)):
        return False
    near = (iou(boxes, others) >= _SAME) & (labels[:, None] == other_labels)
    for row in np.argsort(near.sum(axis=1)):
        free = np.flatnonzero(near[row])
        if not free.size:
            return False
        near[:, free[0]] = False
    return True


def boxes_of(array: npt.NDArray[Any], classes: Sequence[str], ids: Sequence[int] = ()) -> Boxes:
    """The targets that a run stored, from an array as of `Boxes.array`, also of some of its rows; DataError for another shape.

    Without `ids`, the category numbers are those from 1.
    """
    if array.ndim != 3 or array.shape[1] < 1 or array.shape[2] != _FIELDS:
        raise DataError(f"stored boxes must have the shape (n, 1 + most, {_FIELDS}), got {array.shape}.")
    if ids and len(ids) != len(classes):
        raise DataError(f"{plural(len(classes), 'class')} need as many category numbers, got {len(ids)}.")
    counts = array[:, 0, 0].astype(np.int64)
    if ((counts < 0) | (counts >= array.shape[1])).any():
        raise DataError(
            f"stored boxes with a number of boxes from 0 to {array.shape[1] - 1} are needed, got {counts.min()} to {counts.max()}."
        )
    rows = array[:, 1:][np.arange(array.shape[1] - 1) < counts[:, None]]
    labels = rows[:, 4].astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(f"stored boxes of {plural(len(classes), 'class')} have labels from {labels.min()} to {labels.max()}.")
    return Boxes(
        classes=tuple(classes),
        boxes=rows[:, :4].astype(np.float32),
        labels=labels,
        crowd=rows[:, 5] > 0,
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        sizes=array[:, 0, 1:3].astype(np.int64),
        ids=tuple(ids) or tuple(range(1, len(classes) + 1)),
    )
