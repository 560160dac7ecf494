"""From raw scores to log-odds: a scale and a shift for each class, fitted on out-of-sample scores.

Temperature scaling (Guo et al. 2017) with targets smoothed as Platt (1999) proposed, so that separable scores keep a finite scale. The
shifts have a unit Gaussian prior: they follow the class frequencies where there are many images and stay at zero where there are few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.metrics.link import Link, log_softmax

Floats = npt.NDArray[np.float64]

_PRIOR = 1.0
_LEAST = 1e-3
"""The smallest scale, in units of one over the scores' spread: scores that say nothing, or the opposite, keep their order and no more."""


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
    scores: npt.ArrayLike, indicators: npt.NDArray[np.bool_], *, link: Link, weights: npt.NDArray[np.float64] | None = None,
    shifts: bool = True,
) -> Calibration:  # fmt: skip
    """Fit scale and shifts by Newton's method on the (convex) log loss of out-of-sample scores (n, k) against bool (n, k).

    The higher a score, the more probable the label. `weights` (n,) are of the images; without `shifts` these stay at zero.
    """
    values = np.asarray(scores, dtype=np.float64)
    n, k = values.shape
    spread = float(np.sqrt(np.mean((values - values.mean(axis=0 if link.independent else 1, keepdims=True)) ** 2)))
    if not np.isfinite(spread) or spread <= 0:
        return Calibration(1.0, np.zeros(k))
    doubt = 1.0 / (n + 2)
    problem = _Problem(
        values / spread, indicators * (1 - doubt) + doubt / link.outcomes(k), np.ones(n) if weights is None else weights / weights.mean(),
        link, shifts,
    )  # fmt: skip
    theta = np.zeros(k + 1)
    theta[0] = 1.0
    value = problem.loss(theta)
    for _ in range(50):
        step, length = problem.step(theta), 1.0
        while length > 1e-6:
            trial = theta - length * step
            trial[0] = max(trial[0], _LEAST)
            lower = problem.loss(trial)
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


@dataclass(frozen=True, eq=False)
class _Problem:
    """The weighted log loss as a function of theta (k + 1,): the scale, then the shifts. `x` and `goal` are (n, k), `weights` (n,)."""

    x: Floats
    goal: Floats
    weights: Floats
    link: Link
    shifts: bool

    def loss(self, theta: Floats) -> float:
        logits = theta[0] * self.x + theta[1:]
        if self.link.independent:
            from scipy.special import log_expit

            losses = -(self.goal * log_expit(logits) + (1 - self.goal) * log_expit(-logits)).sum(axis=1)
        else:
            losses = -(self.goal * log_softmax(logits)).sum(axis=1)
        return float(self.weights @ losses + 0.5 * _PRIOR * (theta[1:] ** 2).sum())

    def step(self, theta: Floats) -> Floats:
        """Newton's step for what is free: not the shifts if they are not fitted, nor the scale at its bound if it would go below."""
        x, weights, k = self.x, self.weights[:, None], self.x.shape[1]
        p = self.link.probabilities(theta[0] * x + theta[1:])
        error = (p - self.goal) * weights
        curvature = p * weights * (1 - p) if self.link.independent else p * weights
        leaning = curvature * (x if self.link.independent else x - np.einsum("ij,ij->i", p, x)[:, None])
        step, slope = np.zeros(k + 1), float(np.vdot(error, x))
        bend = float(np.vdot(leaning, x)) + 1e-9 * len(x)
        if not self.shifts:
            step[0] = slope / bend
            return step
        gradient = np.concatenate([[slope], error.sum(axis=0) + _PRIOR * theta[1:]])
        hessian = np.empty((k + 1, k + 1))
        hessian[0, 0] = bend
        hessian[0, 1:] = hessian[1:, 0] = leaning.sum(axis=0)
        hessian[1:, 1:] = np.diag(curvature.sum(axis=0) + _PRIOR)
        if not self.link.independent:
            hessian[1:, 1:] -= p.T @ curvature
        free = slice(1 if theta[0] <= _LEAST and slope > 0 else 0, None)
        step[free] = np.linalg.solve(hessian[free, free], gradient[free])
        return step
