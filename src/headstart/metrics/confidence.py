"""How likely a detection of a score is right: scores made into probabilities, without a change of their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.metrics.scores import Bools, Floats

_END = 1e-6  # scores are at least so far from 0 and 1
_STEPS = 50


@dataclass(frozen=True)
class BetaCalibration:
    """The probability that a detection of score s is right: the logistic function of ``rise * log(s) - fall * log(1 - s) + level``.

    `rise` and `fall` are 0 or more, so that a higher score never has a lower probability. Both 1 and `level` 0 leave scores as they are.
    Source: Kull, Silva Filho and Flach, Beta calibration, AISTATS 2017.
    """

    rise: float
    fall: float
    level: float

    def __call__(self, scores: NDArray[Any]) -> Floats:
        """The probabilities of scores from 0 to 1, float64 of the same shape."""
        columns = _columns(scores)
        values = self.rise * columns[..., 0] + self.fall * columns[..., 1] + self.level
        found: Floats = 1 / (1 + np.exp(-values))
        return found


def fit_calibration(scores: NDArray[Any], right: Bools) -> BetaCalibration:
    """The `BetaCalibration` that makes `right`, bool (m,), most likely given scores (m,) from 0 to 1.

    Its error on other data is `expected_calibration_error` of the probabilities. What is to be learned is pulled a little to the middle, by
    Platt's rule, so that few or perfectly separated scores have no probability of 0 or 1. Without any score it leaves them as they are.
    Raises ParameterError for scores outside 0 to 1.
    """
    scores, right = np.asarray(scores, np.float64), np.asarray(right, bool)
    if scores.shape != right.shape or scores.ndim != 1:
        raise ParameterError(f"a calibration needs scores and what is right of one length; got {scores.shape} and {right.shape}.")
    if not len(scores):
        return BetaCalibration(1.0, 1.0, 0.0)
    if not (scores.min() >= 0 and scores.max() <= 1):
        raise ParameterError(f"a calibration needs scores from 0 to 1; got {scores.min():g} to {scores.max():g}.")
    hits = int(right.sum())
    targets = np.where(right, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))
    columns = _columns(scores)
    best: tuple[float, Floats] | None = None
    # The best within bounds has either coefficient at 0 or free: four fits.
    for free in ((0, 1), (0,), (1,), ()):
        loss, found = _logistic(columns[:, list(free)], targets)
        if (found[:-1] >= 0).all() and (best is None or loss < best[0]):
            best = loss, np.zeros(3)
            best[1][[*free, 2]] = found
    assert best is not None  # without columns there is nothing below 0
    return BetaCalibration(*best[1].tolist())


def _columns(scores: NDArray[Any]) -> Floats:
    """``log(s)`` and ``-log(1 - s)``, (..., 2)."""
    inside = np.clip(np.asarray(scores, np.float64), _END, 1 - _END)
    return np.stack([np.log(inside), -np.log1p(-inside)], axis=-1)


def _logistic(columns: Floats, targets: Floats) -> tuple[float, Floats]:
    """Mean log-loss of the best logistic function of columns (m, c), and its coefficients (c + 1,) with the constant last.

    Newton's method, with steps halved until the loss falls; a minute ridge keeps columns of equal values from having no solution.
    """
    design = np.column_stack([columns, np.ones(len(columns))])
    ridge = 1e-9 * np.eye(design.shape[1])

    def loss(weights: Floats) -> float:
        values = design @ weights
        return float((np.logaddexp(0, values) - targets * values).mean() + weights @ ridge @ weights / 2)

    weights = np.zeros(design.shape[1])
    now = loss(weights)
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-(design @ weights)))
        slope = design.T @ (chances - targets) / len(design) + ridge @ weights
        curve = design.T @ (design * (chances * (1 - chances))[:, None]) / len(design) + ridge
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while (after := loss(weights - size * step)) > now and size > 1e-6:
            size /= 2
        if after > now:
            break
        weights = weights - size * step
        done, now = now - after < 1e-12, after
        if done:
            break
    return now, weights
