"""What a detector is to give of an image: its boxes in a view of it, by the position of maps or as a list (NumPy)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from headstart.backbones.stage_maps import MapLayer
from headstart.features.stage_maps import StageMaps
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.warp import View
from headstart.training.job import Rows
from headstart.training.masks import view_in

Array = npt.NDArray[np.float32]

NOTHING, IGNORED = -1, -2
"""In place of a class: nothing, at a position or to fill up a list; and what is neither learned from nor wrong."""
REACH = 1.5
"""A position learns a box where it is within so many strides of the middle of the box, and inside (centre sampling, Tian et al. 2022)."""
FARTHEST = 8.0
"""Strides from a position to the farthest side of its box, from one map on; what is larger is learned on the next."""
SEEN = 0.3
"""Least share of a box that must be inside of a view for it to be learned there."""
THIN = 1e-4
"""A box whose width or height is a lower share of the image has no logarithm to speak of, and is not in a list of targets."""


class HasBoxes(Protocol):
    """Boxes of n inputs, as `headstart.data.boxes.Boxes` has them."""

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Height and width of each image (n, 2)."""

    def of(self, index: int) -> tuple[Array, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Boxes in pixels (m, 4), labels (m,) and crowd (m,) of one image."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Positions:
    """The positions of some maps: where they are, and which of them are to give a box.

    Attributes:
        centres: float32 (A, 2), x and y as shares of width and height.
        strides: float32 (A, 2), how far apart they are.
        lowest, highest: float32 (A,), strides to the farthest side of the boxes that a position may learn.
    """

    centres: Array
    strides: Array
    lowest: Array
    highest: Array

    @classmethod
    def of(cls, layers: Sequence[MapLayer]) -> Positions:
        """Those of these maps, the finest first."""
        centres, strides, limits = [], [], []
        for number, layer in enumerate(layers):
            rows, columns = np.mgrid[: layer.height, : layer.width]
            count = layer.height * layer.width
            centres.append(np.stack([(columns.ravel() + 0.5) / layer.width, (rows.ravel() + 0.5) / layer.height], axis=1))
            strides.append(np.full((count, 2), (1 / layer.width, 1 / layer.height)))
            finer = layers[number - 1] if number else None
            lowest = 0.0 if finer is None else FARTHEST * layer.width / finer.width
            limits.append(np.full((count, 2), (lowest, math.inf if number + 1 == len(layers) else FARTHEST)))
        low, high = np.concatenate(limits).T
        return cls(*(np.asarray(one, np.float32) for one in (np.concatenate(centres), np.concatenate(strides), low, high)))

    def assign(self, boxes: Array, labels: npt.NDArray[np.int64], crowd: npt.NDArray[np.bool_]) -> Array:
        """What each position is to give of boxes (m, 4), shares of width and height: float32 (A, 5), the class and the box.

        A position near the middle of a box, on the map that suits its size, gives that box, of several the smallest; each box is given by
        one at least. Inside of a crowd positions are `IGNORED`; the others show `NOTHING`.
        """
        found = np.zeros((len(self.centres), 5), np.float32)
        found[:, 0] = NOTHING
        if not len(boxes):
            return found
        x, y = self.centres[:, None, 0], self.centres[:, None, 1]
        sides = np.stack([x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y], axis=2)  # (A, m, 4), inside where positive
        steps = sides / np.tile(self.strides, 2)[:, None]
        inside, farthest = (sides > 0).all(axis=2), steps.max(axis=2)
        middle = np.abs(np.stack([x, y], axis=2) - (boxes[:, :2] + boxes[:, 2:]) / 2) / self.strides[:, None]
        near = inside & (middle.max(axis=2) < REACH) & (farthest >= self.lowest[:, None]) & (farthest < self.highest[:, None])
        near &= ~crowd
        alone = np.flatnonzero(~near.any(axis=0) & ~crowd)  # smaller than a cell, or at an edge: the nearest position of the map for it
        if len(alone):
            size = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2 / self.strides[:, None, 0]
            fits = (size >= self.lowest[:, None]) & (size < self.highest[:, None])
            distance = np.where(fits, middle.max(axis=2), np.inf)
            near[distance[:, alone].argmin(axis=0), alone] = True
        areas = np.where(near, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), np.inf)
        which, given = areas.argmin(axis=1), near.any(axis=1)
        found[given, 0], found[given, 1:] = labels[which[given]], boxes[which[given]]
        found[~given & (inside & crowd).any(axis=1), 0] = IGNORED
        return found


def boxes_in(view: View, boxes: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Boxes (m, 4), shares of width and height, in a view of their image; and of which at least `SEEN` is in it.

    A view that turns the image gives the box around the turned corners.
    """
    matrix = np.vstack([view.matrix(height=1, width=1), [0.0, 0.0, 1.0]])
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) * 2.0 - 1.0
    moved = (corners @ np.linalg.inv(matrix)[:2, :2].T + np.linalg.inv(matrix)[:2, 2] + 1.0) / 2.0
    whole = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    seen = whole.clip(0.0, 1.0)
    areas = [np.maximum(one[:, 2:] - one[:, :2], 0).prod(axis=1) for one in (seen, whole)]
    return seen.astype(np.float32), areas[0] >= SEEN * np.maximum(areas[1], 1e-12)


class ViewedBoxes:
    """The boxes of n inputs in their views: made when they are asked for."""

    def __init__(self, targets: HasBoxes, views: StageViews | DrawnViews) -> None:
        self._targets, self._views = targets, views
        self._shares = 1.0 / np.tile(targets.sizes[:, ::-1], 2).astype(np.float64)

    def of(self, row: int, epoch: int | None) -> tuple[Array, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Boxes (m, 4) as shares of width and height, labels and crowd (m,) of an input in its view of an epoch, or as it is."""
        boxes, labels, crowd = self._targets.of(row)
        shares = (boxes * self._shares[row]).astype(np.float32)
        if epoch is None:
            return shares, labels, crowd
        shares, seen = boxes_in(self._views(row, epoch), shares)
        return shares[seen], labels[seen], crowd[seen]


class PositionTargets:
    """What the positions of n inputs are to give in any of their views: float32 (m, A, 5)."""

    def __init__(self, targets: HasBoxes, layers: Sequence[MapLayer], views: StageViews | DrawnViews) -> None:
        self._boxes, self._positions = ViewedBoxes(targets, views), Positions.of(layers)

    def __call__(self, rows: Rows, epoch: int | None) -> Array:
        """Those of some inputs in their views of an epoch, or as they are."""
        return np.stack([self._positions.assign(*self._boxes.of(row, epoch)) for row in rows.tolist()])


class PaddedTargets:
    """The boxes of n inputs in any of their views, as lists of one length: float32 (N, m, 5).

    Of each the class and the box as shares of width and height; a crowd has `IGNORED` as its class, and what fills up a list `NOTHING`.
    """

    def __init__(self, targets: HasBoxes, views: StageViews | DrawnViews) -> None:
        self._boxes = ViewedBoxes(targets, views)

    def __call__(self, rows: Rows, epoch: int | None) -> Array:
        """Those of some inputs in their views of an epoch, or as they are; at least one in a list, if only to fill it up."""
        lists = [self._one(*self._boxes.of(row, epoch)) for row in rows.tolist()]
        found = np.zeros((len(lists), max([1, *map(len, lists)]), 5), np.float32)
        found[..., 0] = NOTHING
        for row, one in enumerate(lists):
            found[row, : len(one)] = one
        return found

    @staticmethod
    def _one(boxes: Array, labels: npt.NDArray[np.int64], crowd: npt.NDArray[np.bool_]) -> Array:
        listed = np.concatenate([np.where(crowd, IGNORED, labels)[:, None], boxes], axis=1, dtype=np.float32)
        return listed[(boxes[:, 2:] - boxes[:, :2] > THIN).all(axis=1)]


@dataclass(frozen=True, eq=False)
class StageViews:
    """The views of n inputs whose maps are stored: each goes through its own."""

    maps: StageMaps

    def __call__(self, row: int, epoch: int) -> View:
        """That of one input in an epoch."""
        views = self.maps.views(row)
        return views[int(view_in(np.array([row]), epoch, np.full(row + 1, len(views)))[0])]


@dataclass(frozen=True, eq=False)
class DrawnViews:
    """The views of n inputs that an augmentation draws."""

    augmentation: Augmentation
    seed: int

    def __call__(self, row: int, epoch: int) -> View:
        """That of one input in an epoch."""
        return self.augmentation.view(key=row, seed=self.seed, view=epoch)
