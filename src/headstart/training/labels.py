"""Classification for the training loop: the loss for labels, the head, its start from a probe, accuracy and calibration (PyTorch)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from headstart.backbones import Layer
from headstart.errors import ParameterError
from headstart.heads import LogisticHead
from headstart.heads.calibration import calibrate
from headstart.maps import LayerMap
from headstart.metrics.link import Link
from headstart.settings import LABEL_SMOOTHING, FineTuning
from headstart.training.history import ACCURACY
from headstart.training.job import Rows, Validation
from headstart.training.network import HeadNetwork
from headstart.training.trained_head import TrainedHead

_CALIBRATED_FROM = 10
"""Least number of validation images for fitting a temperature."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Loss:
    """A loss for each image, so that several processes may share a batch; see `make_loss`.

    The mean over a batch is ``loss(logits, targets).sum() / loss.weights(targets).sum()``; where processes share a batch, the denominator
    is the sum over all of them.

    With t_c the targets and p_c the probabilities, an image of exclusive classes has the loss

        - sum_c w_c s(t)_c (1 - p_c)^gamma log p_c

    and an image that may have several labels, with k of them,

        - w / k sum_c [ s(t)_c (1 - p_c)^gamma log p_c + (1 - s(t)_c) p_c^gamma log (1 - p_c) ]

    Here w_c are the class weights, w is the mean of those of the image's labels (1 for an image without labels), s(t) is the label
    smoothing, ``t (1 - smoothing) + smoothing / k`` for exclusive classes and ``t (1 - smoothing) + smoothing / 2`` for several labels, and
    gamma is 0 except for the focal loss (Lin et al. 2017; w_c is their alpha). Targets may be shares, as mixed images have them.
    """

    link: Link  # `SOFTMAX` for one label an image, `SIGMOID` for any number of labels
    classes: int  # their number k
    outputs: int  # of the network: k, or 1 for two exclusive classes with one sigmoid, that of the second
    class_weights: torch.Tensor | None = None  # float32 (k,), or None for equal weights
    label_smoothing: float = 0.0  # share of each target that is spread
    gamma: float = 0.0  # of the focal loss; 0 is cross-entropy

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each image (N,), times its weight, in float32 or better, from logits (N, outputs).

        `targets` are floating point (N, k): one-hot, multi-hot, or shares. Raises ValueError for other shapes.
        """
        self._check(targets)
        if logits.shape != (len(targets), self.outputs):
            raise ValueError(f"logits must have the shape {(len(targets), self.outputs)}, got {tuple(logits.shape)}.")
        # With automatic mixed precision the logits are bfloat16, whose three digits are too few for a logarithm.
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        smoothed = targets.to(exact.dtype)
        if self.label_smoothing:
            smoothed = smoothed * (1 - self.label_smoothing) + self.label_smoothing / self.link.outcomes(self.classes)
        return self._sigmoids(exact, smoothed, targets) if self.link.independent else self._softmax(exact, smoothed)

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        """The weight of each image (N,): the class weights by the shares of its labels; for several labels, their mean."""
        self._check(targets)
        shares = targets.to(torch.promote_types(targets.dtype, torch.float32))
        if self.class_weights is None:
            return torch.ones_like(shares[:, 0])
        by_class = shares @ self.class_weights.to(shares)
        if not self.link.independent:
            return by_class
        labels = shares.sum(dim=1)
        unlabelled = labels <= 0
        return torch.where(unlabelled, 1.0, by_class / labels.masked_fill(unlabelled, 1.0))

    def class_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits in the order of the classes (N, k); one sigmoid z becomes (-z/2, z/2)."""
        return logits if self.outputs == self.classes else torch.cat((-logits / 2, logits / 2), dim=1)

    def _check(self, targets: torch.Tensor) -> None:
        if targets.ndim != 2 or targets.shape[1] != self.classes:
            raise ValueError(f"targets must be one row an image, with {self.classes} columns; got the shape {tuple(targets.shape)}.")

    def _softmax(self, logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        logarithms = functional.log_softmax(self.class_logits(logits), dim=1)
        if self.gamma:
            # The bound keeps the slope of (1 - p)^gamma finite at p = 1 where gamma is below 1.
            others = (-torch.expm1(logarithms)).clamp(min=torch.finfo(logarithms.dtype).eps)
            logarithms = logarithms * others**self.gamma
        if self.class_weights is not None:
            shares = shares * self.class_weights.to(shares)
        return -(shares * logarithms).sum(dim=1)

    def _sigmoids(self, logits: torch.Tensor, shares: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        present, absent = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        if self.gamma:
            present, absent = present * torch.exp(self.gamma * absent), absent * torch.exp(self.gamma * present)
        each = -(shares * present + (1 - shares) * absent).mean(dim=1)
        return each if self.class_weights is None else each * self.weights(targets).to(each)


def make_loss(plan: FineTuning, *, link: Link, classes: int, class_weights: npt.ArrayLike | None = None) -> Loss:
    """The loss that a plan asks for, with class weights (k,) or None.

    Raises ParameterError for a loss that does not suit the labels, and for unusable class weights.
    """
    several = link.independent
    least = 1 if several else 2
    if classes < least:
        raise ParameterError(f"A training needs at least {least} {'label' if several else 'classes'}, got {classes}.")
    kind = ("binary" if several else "cross_entropy") if plan.loss == "auto" else plan.loss
    if kind in ("dice", "lovasz"):
        raise ParameterError(f"The loss {kind!r} is for masks. Use 'cross_entropy', 'binary', 'focal' or 'auto'.")
    if kind == "cross_entropy" and several:
        raise ParameterError(
            "The loss 'cross_entropy' is for images of one class each, and here an image may have several labels. Use 'binary', 'focal' or "
            "'auto'."
        )
    if kind == "binary" and not several and classes > 2:
        raise ParameterError(
            f"The loss 'binary' is for two classes, or for images with several labels; here each image has one of {classes} classes. "
            "Use 'cross_entropy', 'focal' or 'auto'."
        )
    smoothing = LABEL_SMOOTHING if plan.label_smoothing is None else plan.label_smoothing
    return Loss(
        link=link, classes=classes, outputs=1 if kind == "binary" and not several else classes,
        class_weights=None if class_weights is None else _checked(class_weights, classes), label_smoothing=smoothing,
        gamma=plan.focal_gamma if kind == "focal" else 0.0,
    )  # fmt: skip


def _checked(class_weights: npt.ArrayLike, classes: int) -> torch.Tensor:
    weights = np.asarray(class_weights, dtype=np.float32)
    if weights.shape != (classes,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ParameterError(f"class_weights must be {classes} numbers, none below 0 and not all 0; got {class_weights!r}.")
    return torch.from_numpy(weights.copy())


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelTraining:
    """Labels of images as a `TrainingTask`; predictions are logits (N, k) in the order of the classes."""

    indicators: npt.NDArray[np.float32]  # (n, k) of all images: one-hot, or multi-hot
    classes: npt.NDArray[Any]  # the labels, in the order of the columns; the column numbers where an image may have several
    loss: Loss  # see `make_loss`
    soft: npt.NDArray[np.float32] | None = None  # (n, k): the targets that are trained on, where they are not the indicators
    groups: npt.NDArray[Any] | None = None  # group numbers (n,) for the folds of the head that the training starts from
    label_dtype: np.dtype[Any] | None = None  # of predicted labels

    @property
    def shape(self) -> tuple[int, ...]:
        """(k,)."""
        return self.indicators.shape[1:]

    def head(self, features: int, plan: FineTuning, *, seed: int) -> HeadNetwork:
        """Dense layers as the plan has them, and an output for each class."""
        return HeadNetwork(features, self.loss.outputs, plan.head_layers, plan.dropout, seed=seed)

    def fit_head(
        self, head: HeadNetwork, features: npt.NDArray[np.float32], rows: Rows, *, layers: Sequence[Layer], seed: int
    ) -> None:  # fmt: skip
        """Initialise the head with a logistic regression on standardised features."""
        standard = LayerMap([(layer.name, layer.start, layer.stop) for layer in layers], clip=1e9).fit(features)
        head.standardise(standard.mean_, standard.scale_)
        class_weights = self.loss.class_weights
        weights: Mapping[int, float] | None = None if class_weights is None else dict(enumerate(class_weights.tolist()))
        y = self.loss.link.targets(self.indicators[rows] > 0.5)
        groups = None if self.groups is None else self.groups[rows]
        fitted = LogisticHead(class_weight=weights, seed=seed).fit(standard.transform(features), y, groups=groups, overwrite=True)
        head.start_from(fitted.coef_, fitted.intercept_)

    def taught(self, teaching: npt.NDArray[np.floating[Any]], rows: Rows, *, share: float) -> LabelTraining:
        """The same with targets of these rows of which a `share` is a teacher's probabilities (n, k)."""
        if not share:
            return self
        soft = self.indicators.copy()
        soft[rows] = (1 - share) * soft[rows] + share * teaching
        return replace(self, soft=soft)

    maps: ClassVar[tuple[str, ...]] = ()
    score: ClassVar[str] = ACCURACY

    def targets(self, rows: Rows, view: int | None = None) -> torch.Tensor:
        """Float32 (N, k)."""
        return torch.from_numpy((self.indicators if self.soft is None else self.soft)[rows])

    def guessing(self, rows: Rows) -> float:
        """The loss with equal logits for all images and classes."""
        return self._mean_loss(torch.zeros(len(rows), self.loss.outputs), self.targets(rows))

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Logits in the order of the classes (N, k)."""
        return self.loss.class_logits(outputs)

    def scores(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """1 where the label is right and 0 where it is wrong; where an image may have several, the share of right ones (N,)."""
        if self.loss.link.independent:
            return ((predictions >= 0) == (targets > 0.5)).float().mean(dim=1)
        return (predictions.argmax(dim=1) == targets.argmax(dim=1)).float()

    def validate(self, predictions: torch.Tensor, targets: torch.Tensor) -> Validation:
        """Loss and accuracy. The best epoch is selected by the log loss after temperature scaling, which corrects overconfidence."""
        one_sigmoid = self.loss.outputs < self.loss.classes
        outputs = predictions[:, 1:] - predictions[:, :1] if one_sigmoid else predictions
        accuracy = float(self.scores(predictions, targets).mean())
        logits, right, link, criterion = predictions.numpy().astype(np.float32), targets.numpy() > 0.5, self.loss.link, math.inf
        if np.isfinite(logits).all():
            criterion = float(link.losses(calibrate(logits, right, link=link, shifts=False)(logits), right).mean())
        return Validation(self._mean_loss(outputs, targets), accuracy, criterion, logits)

    def model(
        self, head: HeadNetwork, layer: Layer, dim: int, predictions: npt.NDArray[np.float32] | None, rows: Rows | None
    ) -> tuple[TrainedHead, npt.NDArray[np.float64] | None]:
        """The head in NumPy, and the logits of the validation images; a temperature is fitted on these if there are enough of them."""
        temperature, link = 1.0, self.loss.link
        if predictions is not None and rows is not None and len(rows) >= _CALIBRATED_FROM:
            right = self.indicators[rows] > 0.5
            temperature = 1 / calibrate(predictions, right, link=link, shifts=False).scale
        trained = TrainedHead.of(
            head.arrays(), self.classes, link, columns=(layer.start, layer.stop), features=dim, temperature=temperature,
            label_dtype=self.label_dtype,
        )  # fmt: skip
        return trained, None if predictions is None else predictions.astype(np.float64) / temperature

    def _mean_loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return float(self.loss(outputs, targets).sum()) / (float(self.loss.weights(targets).sum()) or 1.0)
