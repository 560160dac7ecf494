"""Scores of probabilities, float (n, k). Single label: rows sum to one, targets int (n,). Multi-label: targets bool (n, k)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating[Any]]
Targets = NDArray[Any]


def log_loss(targets: Targets, probabilities: Probabilities) -> float:
    """Return the mean negative log likelihood in nats; multi-label: the binary cross-entropy, averaged over labels too.

    A probability of 0 is taken for the smallest step of its float type (1.2e-7 for float32), so that one sure mistake costs
    about 16 nats and not infinity.
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities)
    if not len(targets):
        return math.nan
    least = np.finfo(probabilities.dtype).eps
    if targets.ndim == 2:
        right = np.where(targets, probabilities, 1 - probabilities)
    else:
        right = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.clip(right, least, 1.0).astype(np.float64)).mean())


def brier_score(targets: Targets, probabilities: Probabilities) -> float:
    """Return the mean squared error of the probabilities: 0 is perfect.

    Two classes and multi-label: the usual form, from 0 to 1. More classes: the sum over classes, from 0 to 2.
    Source: Brier, Monthly Weather Review 78 (1950) 1.
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities, dtype=np.float64)
    if not len(targets):
        return math.nan
    if targets.ndim == 2:
        return float(((probabilities - targets) ** 2).mean())
    errors = probabilities.copy()
    errors[np.arange(len(targets)), targets] -= 1
    total = float((errors**2).sum(axis=1).mean())
    return total / 2 if probabilities.shape[1] == 2 else total
