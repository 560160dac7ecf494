"""Boxes as a `TrainingTask`: which position is to give which box, and the loss of what it gives (PyTorch)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from headstart.backbones.stage_maps import MapLayer
from headstart.features.stage_maps import StageMaps
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.warp import View
from headstart.training.job import Rows, Validation
from headstart.training.masks import view_in

Array = npt.NDArray[np.float32]

NOTHING, IGNORED = -1, -2
"""In place of a class: a position that shows no object, and one that is neither learned from nor wrong."""
REACH = 1.5
"""A position learns a box where it is within so many strides of the middle of the box, and inside (centre sampling, Tian et al. 2022)."""
FARTHEST = 8.0
"""Strides from a position to the farthest side of its box, from one map on; what is larger is learned on the next."""
SEEN = 0.3
"""Least share of a box that must be inside of a view for it to be learned there."""
BOX_WEIGHT = 2.0
"""How much the boxes count beside the classes."""
_START = 4.0  # about the loss of a head that has learned nothing


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


class PositionTargets:
    """What the positions of n inputs are to give in any of their views: float32 (m, A, 5), made when it is asked for."""

    def __init__(self, targets: HasBoxes, layers: Sequence[MapLayer], views: StageViews | DrawnViews) -> None:
        self._targets, self._views, self._positions = targets, views, Positions.of(layers)
        self._shares = 1.0 / np.tile(targets.sizes[:, ::-1], 2).astype(np.float64)

    def __call__(self, rows: Rows, epoch: int | None) -> Array:
        """Those of some inputs in their views of an epoch, or as they are."""
        return np.stack([self._one(row, None if epoch is None else self._views(row, epoch)) for row in rows.tolist()])

    def _one(self, row: int, view: View | None) -> Array:
        boxes, labels, crowd = self._targets.of(row)
        shares = (boxes * self._shares[row]).astype(np.float32)
        if view is not None:
            shares, seen = boxes_in(view, shares)
            shares, labels, crowd = shares[seen], labels[seen], crowd[seen]
        return self._positions.assign(shares, labels, crowd)


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


@dataclass(frozen=True, eq=False)
class BoxLoss:
    """The loss of each image (N,), a sum over its positions; `weights` has how many of them give a box.

    A class is learned as the IoU of box and truth, and 0 elsewhere, by the quality focal loss (Li et al. 2020); a box by the generalised
    IoU (Rezatofighi et al. 2019). Predictions are (N, A, k + 4), targets (N, A, 5).
    """

    box_weight: float = BOX_WEIGHT

    def __call__(self, predictions: Any, targets: Any) -> Any:
        """Float32 (N,)."""
        logits, boxes = predictions[..., :-4].float(), predictions[..., -4:].float()
        labels, truth = targets[..., 0].long(), targets[..., 1:]
        given = labels >= 0
        overlap, generalised = iou_of_pairs(boxes, truth)
        goal = functional.one_hot(labels.clamp(min=0), logits.shape[-1]).float() * (overlap.detach().clamp(min=0) * given)[..., None]
        share = (logits.detach().sigmoid() - goal).abs() ** 2
        each = functional.binary_cross_entropy_with_logits(logits, goal, reduction="none") * share
        each = each.sum(dim=-1) * (labels != IGNORED)
        return (each + self.box_weight * torch.where(given, 1 - generalised, 0.0)).sum(dim=1)

    def weights(self, targets: Any) -> Any:
        """How many positions give a box, at least 1: (N,)."""
        return (targets[..., 0] >= 0).sum(dim=1).clamp(min=1).float()


def iou_of_pairs(one: Any, other: Any) -> tuple[Any, Any]:
    """IoU and generalised IoU of boxes (..., 4), each with the one at its place."""
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    both = sides.clamp(min=0).prod(dim=-1)
    areas = [(part[..., 2:] - part[..., :2]).clamp(min=0).prod(dim=-1) for part in (one, other)]
    union = areas[0] + areas[1] - both
    around = (torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])).prod(dim=-1)
    overlap = both / union.clamp(min=1e-9)
    return overlap, overlap - (around - union) / around.clamp(min=1e-9)


@dataclass(frozen=True, eq=False, kw_only=True)
class BoxTraining:
    """Boxes of inputs as a `TrainingTask`; predictions are (N, A, k + 4)."""

    positions: PositionTargets
    network: Any  # the head at the start of the training
    shape: tuple[int, ...]  # of the predictions of one input
    loss: BoxLoss = BoxLoss()
    maps: tuple[str, ...] = ()  # the stages whose maps it takes, where the backbone is trained too
    precision: Callable[[Array], float] | None = None  # of predictions for the validation images: selects the best epoch, the higher

    def head(self, features: int, plan: Any, *, seed: int) -> Any:
        """The detection head."""
        return self.network

    def fit_head(self, head: Any, features: Any, rows: Rows, *, layers: Any, seed: int) -> None:
        """It has no closed form: it starts at random."""

    def targets(self, rows: Rows, view: int | None = None) -> torch.Tensor:
        """Float32 (N, A, 5)."""
        return torch.from_numpy(self.positions(rows, view))

    def guessing(self, rows: Rows) -> float:
        """About the loss of a head that has learned nothing."""
        return _START

    def predictions(self, outputs: Any) -> Any:
        """The outputs."""
        return outputs

    def scores(self, predictions: Any, targets: Any) -> Any:
        """The share of the positions with a box whose own overlaps it by more than a half, of each image (N,)."""
        given = targets[..., 0] >= 0
        right = (iou_of_pairs(predictions[..., -4:].float(), targets[..., 1:])[0] > 0.5) & given
        return right.sum(dim=1) / given.sum(dim=1).clamp(min=1)

    def validate(self, predictions: Any, targets: Any) -> Validation:
        """Loss, and share of right positions; the best epoch is selected by the `precision`, or without by the loss."""
        weight = float(self.loss.weights(targets).sum())
        loss = sum(float(self.loss(*part).sum()) for part in zip(predictions.split(16), targets.split(16), strict=True)) / weight
        criterion = loss if self.precision is None else -self.precision(predictions.numpy())
        return Validation(loss, float(self.scores(predictions, targets).mean()), criterion, predictions.numpy())

    def model(self, head: Any, layer: Any, dim: int, predictions: Any, rows: Rows | None) -> tuple[Any, None]:
        """The head without PyTorch."""
        return head.decoder(), None
