"""Boxes as a `TrainingTask`, and the loss of what the positions of a detection head give (PyTorch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from headstart.training.box_targets import IGNORED, DrawnViews, HasBoxes, StageViews
from headstart.training.job import Rows, TaskLoss, Validation

Array = npt.NDArray[np.float32]

BOX_WEIGHT = 2.0
"""How much the boxes count beside the classes."""


class DetectorLoss(TaskLoss, Protocol):
    """The loss of a detector; its targets are float32 (N, m, 5), a class and a box each."""

    @property
    def guessing(self) -> float:
        """About the loss of a head that has learned nothing."""

    @property
    def score(self) -> str:
        """What `scores` are called."""

    def predictions(self, outputs: Any) -> Any:
        """What the outputs of the network, as the loss takes them, say: (N, A, k + 4)."""

    def scores(self, predictions: Any, targets: Any) -> Any:
        """How much of each image is right (N,), from 0 to 1."""

    def validation(self, predictions: Any, targets: Any) -> float | None:
        """The mean loss of predictions; None where the loss takes more than these."""


@dataclass(frozen=True)
class Objective:
    """What a detector learns: `targets` from rows and epoch to float32 (N, m, 5), and the loss that takes them."""

    targets: Callable[[Rows, int | None], Array]
    loss: DetectorLoss


class Detector(Protocol):
    """A network on maps that learns boxes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the predictions for one input: (A, k + 4)."""

    def objective(self, targets: HasBoxes, views: StageViews | DrawnViews) -> Objective:
        """What it learns from inputs with these boxes, seen in these views."""


@dataclass(frozen=True, eq=False)
class BoxLoss:
    """The loss of each image (N,), a sum over its positions; `weights` has how many of them give a box.

    A class is learned as the IoU of box and truth, and 0 elsewhere, by the quality focal loss (Li et al. 2020); a box by the generalised
    IoU (Rezatofighi et al. 2019). Predictions are (N, A, k + 4), targets (N, A, 5).
    """

    box_weight: float = BOX_WEIGHT
    guessing: float = 4.0
    score: ClassVar[str] = "localisation accuracy"

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

    def predictions(self, outputs: Any) -> Any:
        """The outputs."""
        return outputs

    def scores(self, predictions: Any, targets: Any) -> Any:
        """The share of the positions with a box whose own overlaps it by more than a half, of each image (N,)."""
        given = targets[..., 0] >= 0
        right = (iou_of_pairs(predictions[..., -4:].float(), targets[..., 1:])[0] > 0.5) & given
        return right.sum(dim=1) / given.sum(dim=1).clamp(min=1)

    def validation(self, predictions: Any, targets: Any) -> float:
        """The mean loss of these images."""
        loss = sum(float(self(*part).sum()) for part in zip(predictions.split(16), targets.split(16), strict=True))
        return loss / float(self.weights(targets).sum())


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

    objective: Objective
    network: Any  # the head at the start of the training
    shape: tuple[int, ...]  # of the predictions of one input
    maps: tuple[str, ...] = ()  # the stages whose maps it takes, where the backbone is trained too
    precision: Callable[[Array], float] | None = None  # of predictions for the validation images: selects the best epoch, the higher

    @property
    def loss(self) -> DetectorLoss:
        """That of the objective."""
        return self.objective.loss

    @property
    def score(self) -> str:
        """As its loss calls it."""
        return self.loss.score

    def head(self, features: int, plan: Any, *, seed: int) -> Any:
        """The detection head."""
        return self.network

    def fit_head(self, head: Any, features: Any, rows: Rows, *, layers: Any, seed: int) -> None:
        """It has no closed form: it starts at random."""

    def targets(self, rows: Rows, view: int | None = None) -> torch.Tensor:
        """Float32 (N, m, 5)."""
        return torch.from_numpy(self.objective.targets(rows, view))

    def guessing(self, rows: Rows) -> float:
        """About the loss of a head that has learned nothing."""
        return self.loss.guessing

    def predictions(self, outputs: Any) -> Any:
        """(N, A, k + 4)."""
        return self.loss.predictions(outputs)

    def scores(self, predictions: Any, targets: Any) -> Any:
        """How much of each image is right (N,)."""
        return self.loss.scores(predictions, targets)

    def validate(self, predictions: Any, targets: Any) -> Validation:
        """Loss and score; the best epoch is selected by the `precision`, or without by the loss."""
        loss, score = self.loss.validation(predictions, targets), float(self.scores(predictions, targets).mean())
        criterion = (1 - score if loss is None else loss) if self.precision is None else -self.precision(predictions.numpy())
        return Validation(loss, score, criterion, predictions.numpy())

    def model(self, head: Any, layer: Any, dim: int, predictions: Any, rows: Rows | None) -> tuple[Any, None]:
        """The head without PyTorch."""
        return head.decoder(), None
