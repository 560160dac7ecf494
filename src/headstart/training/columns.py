"""Several columns of labels for the training loop: a head for each on one network, and how much each loss counts, learned (PyTorch)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from headstart.backbones import Layer
from headstart.heads.columns import ColumnHeads
from headstart.settings import FineTuning
from headstart.training.history import ACCURACY
from headstart.training.job import Rows, Validation
from headstart.training.labels import LabelTraining, Loss
from headstart.training.network import HeadNetwork

_FAR = 1_000_003  # between the seeds of the dropout of two heads


class ColumnsNetwork(nn.Module):  # type: ignore[misc]
    """A `HeadNetwork` for each of c columns, and how uncertain each column is: features (N, D) to float32 (N, o + c).

    The first o outputs are those of all heads, in the order of the columns; the last c are the logarithms of the variances, the same for
    every image, which `ColumnsLoss` weights the columns by.
    """

    def __init__(self, heads: Sequence[HeadNetwork]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.log_variances = nn.Parameter(torch.zeros(len(heads)))

    def draw(self, seed: int, step: int, rows: slice, count: int, *, targets: Any = None) -> None:
        """As of `HeadNetwork.draw`, with masks of its own for each head."""
        for place, head in enumerate(self.heads):
            head.draw(seed + _FAR * place, step, rows, count)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The outputs, and the logarithms of the variances."""
        outputs = [head(features).float() for head in self.heads]
        return torch.cat([*outputs, self.log_variances.float().expand(len(features), -1)], dim=1)


@dataclass(frozen=True, eq=False)
class ColumnsLoss:
    """The losses of several columns, each weighted by how uncertain it is (Kendall, Gal and Cipolla, CVPR 2018, equation 10).

    With s_c the logarithm of the variance of a column, an image has the loss

        sum_c [ m_c a_c exp(-s_c) L_c + s_c / 2 ]

    Here L_c is the loss of the column alone (see `Loss`), m_c is 1 where the image has a label in it and else 0 (a share, as mixed images
    have it), and a_c is the number of images over the sum of the weights of those with a label: a column counts as much with few labels as
    with many.
    """

    parts: tuple[Loss, ...]
    scales: tuple[float, ...]

    def split(
        self, outputs: torch.Tensor, targets: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For each column its outputs, its targets, whether these are known (N,), and the logarithm of its variance (N,)."""
        at, begin = 0, 0
        variances, known = sum(part.outputs for part in self.parts), sum(part.classes for part in self.parts)
        for place, part in enumerate(self.parts):
            own = outputs[:, at : at + part.outputs], targets[:, begin : begin + part.classes]
            yield *own, targets[:, known + place], outputs[:, variances + place]
            at, begin = at + part.outputs, begin + part.classes

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each image (N,) from the outputs of a `ColumnsNetwork` and targets of `ColumnsTraining`."""
        total = torch.zeros(len(targets), device=outputs.device)
        columns = zip(self.parts, self.scales, self.split(outputs, targets), strict=True)
        for part, scale, (own, shares, known, log_variance) in columns:
            whole = shares / known.clamp(min=1e-6)[:, None]  # of an image that is mixed of one with a label and one without
            total = total + torch.exp(-log_variance) * part(own, whole) * known * scale + log_variance / 2
        return total

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        """1 for each image (N,): the columns are weighted within the loss."""
        return torch.ones(len(targets), device=targets.device)


@dataclass(frozen=True, eq=False, kw_only=True)
class ColumnsTraining:
    """Labels of several columns as a `TrainingTask`; predictions are the logits of all columns beside each other (N, k).

    `columns` have the targets of all images, which are 0 where an image has no label; `known` says where it has one.
    """

    columns: Mapping[str, LabelTraining]
    known: npt.NDArray[np.bool_]  # (n, c)
    rows: Rows  # those that are learned from, by which the columns are scaled

    @cached_property
    def loss(self) -> ColumnsLoss:
        """See `ColumnsLoss`."""
        scales = []
        for place, column in enumerate(self.columns.values()):
            rows = self.rows[self.known[self.rows, place]]
            scales.append(len(self.rows) / max(float(column.loss.weights(column.targets(rows)).sum()), 1e-6))
        return ColumnsLoss(tuple(column.loss for column in self.columns.values()), tuple(scales))

    @property
    def shape(self) -> tuple[int, ...]:
        """(k,)."""
        return (sum(column.shape[0] for column in self.columns.values()),)

    def head(self, features: int, plan: FineTuning, *, seed: int) -> ColumnsNetwork:
        """A head for each column."""
        return ColumnsNetwork([column.head(features, plan, seed=seed + place) for place, column in enumerate(self.columns.values())])

    def fit_head(
        self, head: ColumnsNetwork, features: npt.NDArray[np.float32], rows: Rows, *, layers: Sequence[Layer], seed: int
    ) -> None:  # fmt: skip
        """Initialise each head with a logistic regression on the images that have a label in its column."""
        for place, (column, own) in enumerate(zip(self.columns.values(), head.heads, strict=True)):
            there = self.known[rows, place]
            column.fit_head(own, features[there], rows[there], layers=layers, seed=seed)

    maps: ClassVar[tuple[str, ...]] = ()
    score: ClassVar[str] = ACCURACY

    def targets(self, rows: Rows, view: int | None = None) -> torch.Tensor:
        """Float32 (N, k + c): the targets of all columns, and whether they are known."""
        return torch.cat([*(column.targets(rows) for column in self.columns.values()), torch.from_numpy(self.known[rows]).float()], dim=1)

    def guessing(self, rows: Rows) -> float:
        """The loss with equal logits for all images and classes, and all variances 1."""
        outputs = torch.zeros(len(rows), sum(part.outputs for part in self.loss.parts) + len(self.columns))
        return float(self.loss(outputs, self.targets(rows)).mean())

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Logits of all columns, in the order of their classes (N, k)."""
        found, at = [], 0
        for part in self.loss.parts:
            found.append(part.class_logits(outputs[:, at : at + part.outputs]))
            at += part.outputs
        return torch.cat(found, dim=1)

    def split(self, predictions: Any, targets: Any) -> Iterator[tuple[LabelTraining, Any, Any, Any]]:
        """For each column its task, its predictions, its targets, and whether these are known (N,)."""
        at = 0
        for place, column in enumerate(self.columns.values()):
            width = column.shape[0]
            yield column, predictions[:, at : at + width], targets[:, at : at + width], targets[:, self.shape[0] + place]
            at += width

    def scores(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The share of the labels of each image that are right (N,)."""
        right, count = torch.zeros(len(targets), device=targets.device), torch.zeros(len(targets), device=targets.device)
        for column, own, labels, known in self.split(predictions, targets):
            right, count = right + column.scores(own, labels) * known, count + known
        return right / count.clamp(min=1e-6)

    def validate(self, predictions: torch.Tensor, targets: torch.Tensor) -> Validation:
        """The means over the columns, of each on the images that have a label in it; see `LabelTraining.validate`."""
        found = []
        for column, own, labels, known in self.split(predictions, targets):
            there = known > 0.5
            if there.any():
                found.append(column.validate(own[there], labels[there]))
        losses, scores, criteria = zip(*((one.loss, one.score, one.criterion) for one in found), strict=True)
        logits = predictions.numpy().astype(np.float32)
        return Validation(float(np.mean(losses)), float(np.mean(scores)), float(np.mean(criteria)), logits)

    def model(
        self, head: ColumnsNetwork, layer: Layer, dim: int, predictions: npt.NDArray[np.float32] | None, rows: Rows | None
    ) -> tuple[ColumnHeads, npt.NDArray[np.float64] | None]:
        """The heads in NumPy, and the calibrated logits (m, k) of the validation images, each column calibrated on those with a label."""
        heads, logits, at = {}, None if predictions is None else predictions.astype(np.float64), 0
        for place, (name, column) in enumerate(self.columns.items()):
            part, there, own = slice(at, at + column.shape[0]), None, None
            if predictions is not None and rows is not None:
                there = self.known[rows, place]
                own = predictions[there, part]
            heads[name], _ = column.model(head.heads[place], layer, dim, own, None if there is None else rows[there])  # type: ignore[index]
            if logits is not None:
                logits[:, part] /= heads[name].temperature
            at = part.stop
        return ColumnHeads(heads), logits
