"""What a training minimises: cross-entropy, binary cross-entropy or the focal loss, image by image (PyTorch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from headstart.errors import ParameterError
from headstart.metrics.link import Link
from headstart.settings import FineTuning


@dataclass(frozen=True, eq=False, kw_only=True)
class Loss:
    """A loss for each image, so that a batch may be divided over processes; see `make_loss`.

    The mean over a batch is ``loss(logits, targets).sum() / loss.weights(targets).sum()``; where processes share a batch, the denominator
    is the sum over all of them.

    With t_c the targets and p_c the probabilities, an image of exclusive classes has the loss

        - sum_c w_c s(t)_c (1 - p_c)^gamma log p_c

    and an image that may have several labels, with k of them,

        - w / k sum_c [ s(t)_c (1 - p_c)^gamma log p_c + (1 - s(t)_c) p_c^gamma log (1 - p_c) ]

    Here w_c are the class weights, w is the mean of those of the image's labels (1 for an image without labels), s(t) is the label
    smoothing, ``t (1 - smoothing) + smoothing / k`` for exclusive classes and ``t (1 - smoothing) + smoothing / 2`` for several labels, and
    gamma is 0 except for the focal loss (Lin et al. 2017; w_c is their alpha). Targets may be shares, as mixed images have them.

    Attributes:
        link: `SOFTMAX` for one label an image, `SIGMOID` for any number of labels.
        classes: their number k.
        outputs: of the network: k, or 1 for two exclusive classes told apart by one sigmoid, that of the second.
        class_weights: float32 (k,), or None where all count the same.
        label_smoothing: share of each target that is spread.
        gamma: of the focal loss; 0 is cross-entropy.
    """

    link: Link
    classes: int
    outputs: int
    class_weights: torch.Tensor | None = None
    label_smoothing: float = 0.0
    gamma: float = 0.0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each image (N,), times its weight, in float32 or better.

        Args:
            logits: of the network (N, outputs).
            targets: floating point (N, k): one-hot, multi-hot, or shares.

        Raises:
            ValueError: shapes other than these.
        """
        self._check(targets)
        if logits.shape != (len(targets), self.outputs):
            raise ValueError(f"logits must have the shape {(len(targets), self.outputs)}, got {tuple(logits.shape)}.")
        # Under automatic mixed precision the logits are bfloat16, whose three digits are too few for a logarithm.
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        smoothed = self._smoothed(targets.to(exact.dtype))
        return self._sigmoids(exact, smoothed, targets) if self.link.independent else self._exclusive(exact, smoothed)

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        """The weight of each image (N,): the class weights by the shares of its labels; for several labels, their mean.

        Args:
            targets: as given to the loss.
        """
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

    def class_logits(self, logits: Any) -> Any:
        """Logits in the order of the classes (N, k), a tensor or a NumPy array as given; one sigmoid z is (-z/2, z/2)."""
        if self.outputs == self.classes:
            return logits
        halves = (-logits / 2, logits / 2)
        return np.concatenate(halves, axis=1) if isinstance(logits, np.ndarray) else torch.cat(halves, dim=1)

    def _check(self, targets: torch.Tensor) -> None:
        if targets.ndim != 2 or targets.shape[1] != self.classes:
            raise ValueError(f"targets must be one row an image, with {self.classes} columns; got the shape {tuple(targets.shape)}.")

    def _smoothed(self, targets: torch.Tensor) -> torch.Tensor:
        among = self.link.outcomes(self.classes)
        return targets * (1 - self.label_smoothing) + self.label_smoothing / among if self.label_smoothing else targets

    def _exclusive(self, logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
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
    """The loss that a plan asks for.

    Args:
        plan: its `loss`, `label_smoothing` and `focal_gamma` count.
        link: `SOFTMAX` for one label an image, `SIGMOID` for any number of labels.
        classes: their number.
        class_weights: (k,), or None.

    Raises:
        ParameterError: a loss that does not suit the labels, or class weights that cannot be used.
    """
    least = 1 if link.independent else 2
    if classes < least:
        raise ParameterError(f"A training needs at least {least} {'label' if link.independent else 'classes'}, got {classes}.")
    kind = ("binary" if link.independent else "cross_entropy") if plan.loss == "auto" else plan.loss
    if kind == "cross_entropy" and link.independent:
        raise ParameterError(
            "The loss 'cross_entropy' is for images of one class each, and here an image may have several labels. Use 'binary', 'focal' or "
            "'auto'."
        )
    if kind == "binary" and not link.independent and classes > 2:
        raise ParameterError(
            f"The loss 'binary' is for two classes, or for images with several labels; here each image has one of {classes} classes. "
            "Use 'cross_entropy', 'focal' or 'auto'."
        )
    return Loss(
        link=link,
        classes=classes,
        outputs=1 if kind == "binary" and not link.independent else classes,
        class_weights=None if class_weights is None else _checked(class_weights, classes),
        label_smoothing=plan.label_smoothing,
        gamma=plan.focal_gamma if kind == "focal" else 0.0,
    )


def _checked(class_weights: npt.ArrayLike, classes: int) -> torch.Tensor:
    weights = np.asarray(class_weights, dtype=np.float32)
    if weights.shape != (classes,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ParameterError(f"class_weights must be {classes} numbers, none below 0 and not all 0; got {class_weights!r}.")
    return torch.from_numpy(weights.copy())
