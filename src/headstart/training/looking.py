"""Looking at images that are not learned from: loss, accuracy, and what the choice of the best epoch goes by (PyTorch)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from headstart.heads.calibration import calibrate
from headstart.metrics.link import Link
from headstart.training.losses import Loss


@dataclass(frozen=True, eq=False)
class Look:
    """What a network says of images that it does not learn from.

    Attributes:
        loss, accuracy: None without images.
        chosen_by: log loss after temperature scaling; the lower the better.
        logits: float32 (n, k), in class order.
    """

    loss: float | None
    accuracy: float | None
    chosen_by: float
    logits: npt.NDArray[np.float32] | None

    @classmethod
    def of(cls, logits: Any, targets: Any, loss: Loss) -> Look:
        """From tensors: logits in class order (n, k) and targets (n, k)."""
        given = logits[:, 1:] - logits[:, :1] if loss.outputs < loss.classes else logits
        lost = float(loss(given, targets).sum() / loss.weights(targets).sum())
        values = logits.numpy().astype(np.float32)
        return cls(
            lost,
            float(right(logits, targets, link=loss.link).mean()),
            calibrated_loss(values, targets.numpy() > 0.5, link=loss.link),
            values,
        )


@contextmanager
def in_testing(network: Any) -> Iterator[None]:
    """The network in evaluation mode and without gradients; afterwards each module is in the mode in which it was."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def right(logits: Any, targets: Any, *, link: Link) -> Any:
    """Share of right answers of each image (N,): 0 or 1 for exclusive classes; for multi-label the share of right labels."""
    if link.independent:
        return ((logits >= 0) == (targets > 0.5)).float().mean(dim=1)
    return (logits.argmax(dim=1) == targets.argmax(dim=1)).float()


def calibrated_loss(logits: npt.NDArray[np.float32], indicators: npt.NDArray[np.bool_], *, link: Link) -> float:
    """Log loss with the best temperature: a network that is right but too sure of itself is not worse for it, since that is set right."""
    if not np.isfinite(logits).all():
        return math.inf
    calibration = calibrate(logits, indicators, link=link, shifts=False)
    return float(link.losses(calibration(logits), indicators).mean())
