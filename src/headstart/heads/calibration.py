"""From raw scores to log-odds: a scale and a shift for each class, fitted on out-of-sample scores.

Temperature scaling (Guo et al. 2017) with targets smoothed as Platt (1999) proposed, so that separable scores keep a finite scale. The
shifts have a unit Gaussian prior: they follow the class frequencies where there are many images and stay at nought where there are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit

Floats = npt.NDArray[np.float64]


def _log_softmax(logits: npt.NDArray[Any]) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    values: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return values


def probabilities(logits: npt.NDArray[Any], *, multilabel: bool) -> Floats:
    """Probabilities (n, k): softmax of the logits, or sigmoid for multi-label."""
    values: Floats = expit(logits) if multilabel else np.exp(_log_softmax(logits))
    return values


def decision_scores(logits: Floats, *, multilabel: bool) -> Floats:
    """Scores as scikit-learn has them: (n,) for two classes, positive for the second; otherwise the logits (n, k)."""
    if multilabel or logits.shape[1] != 2:
        return logits
    difference: Floats = logits[:, 1] - logits[:, 0]
    return difference


def named(logits: Floats, classes: npt.NDArray[Any], *, multilabel: bool, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The most probable of the classes for each row (n,); for multi-label the matrix (n, k) of labels of probability above 1/2."""
    if multilabel:
        return (logits > 0).astype(dtype)
    labels: npt.NDArray[Any] = classes[logits.argmax(axis=1)]
    return labels


def losses(logits: Floats, indicators: npt.NDArray[np.bool_], *, multilabel: bool) -> Floats:
    """Log loss of each image (n,), in nats; for multi-label the mean over its labels."""
    if multilabel:
        values: Floats = -log_expit(np.where(indicators, logits, -logits)).mean(axis=1)
        return values
    logarithms = _log_softmax(logits)
    return np.asarray(-logarithms[np.arange(len(logits)), indicators.argmax(axis=1)])


@dataclass(frozen=True, eq=False)
class Calibration:
    """logits = scale * scores + shift; scale > 0, shift (k,)."""

    scale: float
    shift: Floats

    def __call__(self, scores: npt.ArrayLike) -> Floats:
        """Log-odds (n, k) of raw scores (n, k)."""
        return np.asarray(scores, dtype=np.float64) * self.scale + self.shift

    def undone(self, logits: npt.ArrayLike) -> Floats:
        """The raw scores (n, k) of log-odds (n, k)."""
        return (np.asarray(logits, dtype=np.float64) - self.shift) / self.scale


def calibrate(
    scores: npt.ArrayLike,
    indicators: npt.NDArray[np.bool_],
    *,
    multilabel: bool,
    weights: npt.NDArray[np.float64] | None = None,
    shifts: bool = True,
) -> Calibration:
    """Fit scale and shifts by Newton's method on the (convex) log loss.

    Args:
        scores: out-of-sample scores (n, k); the higher, the more probable the label.
        indicators: bool (n, k).
        multilabel: sigmoid in place of softmax.
        weights: of the images (n,).
        shifts: fit the shifts too; otherwise they stay at nought.
    """
    values = np.asarray(scores, dtype=np.float64)
    n, k = values.shape
    spread = float(np.sqrt(np.mean((values - values.mean(axis=0 if multilabel else 1, keepdims=True)) ** 2)))
    if not np.isfinite(spread) or spread <= 0:
        return Calibration(1.0, np.zeros(k))
    x = values / spread
    goal = _smoothed(indicators, multilabel=multilabel)
    w = np.ones(n) if weights is None else weights / weights.mean()
    theta = np.zeros(k + 1)
    theta[0] = 1.0
    value = _objective(theta, x, goal, w, multilabel)
    for _ in range(50):
        step = _newton_step(theta, x, goal, w, multilabel=multilabel) if shifts else _scale_step(theta, x, goal, w, multilabel=multilabel)
        length = 1.0
        while length > 1e-6:
            trial = theta - length * step
            trial[0] = max(trial[0], _LEAST)
            lower = _objective(trial, x, goal, w, multilabel)
            if lower <= value:
                break
            length /= 2
        else:
            break
        done = value - lower < 1e-7 * n
        theta, value = trial, lower
        if done:
            break
    return Calibration(float(theta[0] / spread), theta[1:].copy())


def _smoothed(indicators: npt.NDArray[np.bool_], *, multilabel: bool) -> Floats:
    n, k = indicators.shape
    doubt = 1.0 / (n + 2)
    smoothed: Floats = indicators * (1 - doubt) + np.full(k, doubt / 2 if multilabel else doubt / k)
    return smoothed


_PRIOR = 1.0
_LEAST = 1e-3  # the scale, in units of the scores' spread: scores that tell nothing, or the opposite, keep their order and no more


def _objective(theta: Floats, x: Floats, goal: Floats, w: Floats, multilabel: bool) -> float:
    logits = theta[0] * x + theta[1:]
    if multilabel:
        loss = -(goal * log_expit(logits) + (1 - goal) * log_expit(-logits)).sum(axis=1)
    else:
        loss = -(goal * _log_softmax(logits)).sum(axis=1)
    return float(w @ loss + 0.5 * _PRIOR * (theta[1:] ** 2).sum())


def _scale_step(theta: Floats, x: Floats, goal: Floats, w: Floats, *, multilabel: bool) -> Floats:
    """Newton step for the scale alone."""
    p = probabilities(theta[0] * x, multilabel=multilabel)
    gradient = w @ ((p - goal) * x).sum(axis=1)
    curvature = (p * (1 - p) * x * x).sum(axis=1) if multilabel else (p * x * x).sum(axis=1) - (p * x).sum(axis=1) ** 2
    step = np.zeros(len(theta))
    step[0] = gradient / (w @ curvature + 1e-9 * len(x))
    return step


def _newton_step(theta: Floats, x: Floats, goal: Floats, w: Floats, *, multilabel: bool) -> Floats:
    """Newton step for scale and shifts; for the shifts alone where the scale is at its bound and would go below."""
    p = probabilities(theta[0] * x + theta[1:], multilabel=multilabel)
    error = (p - goal) * w[:, None]
    gradient = np.concatenate([[np.vdot(error, x)], error.sum(axis=0) + _PRIOR * theta[1:]])
    k = x.shape[1]
    hessian = np.empty((k + 1, k + 1))
    if multilabel:
        h = p * (1 - p) * w[:, None]
        hessian[0, 0], cross, hessian[1:, 1:] = (h * x * x).sum(), (h * x).sum(axis=0), np.diag(h.sum(axis=0))
    else:
        wp, mean = p * w[:, None], (p * x).sum(axis=1, keepdims=True)
        hessian[0, 0], cross = (wp * x * (x - mean)).sum(), (wp * (x - mean)).sum(axis=0)
        hessian[1:, 1:] = np.diag(wp.sum(axis=0)) - p.T @ wp
    hessian[0, 1:] = hessian[1:, 0] = cross
    hessian[np.diag_indices(k + 1)] += np.concatenate([[1e-9 * len(x)], np.full(k, _PRIOR)])
    if theta[0] <= _LEAST and gradient[0] > 0:
        return np.concatenate([[0.0], np.linalg.solve(hessian[1:, 1:], gradient[1:])])
    step: Floats = np.linalg.solve(hessian, gradient)
    return step
