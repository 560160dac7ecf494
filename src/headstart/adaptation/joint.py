"""Logistic regressions on the rows of two worlds together: rotated once, then solved with whatever labels and weights a method gives."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt

from headstart.heads.logistic import LogisticProblem, rotate
from headstart.metrics.link import SOFTMAX

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

STRENGTH = 10.0
"""C, in units of one over the mean squared norm of the centred features."""

_FOLDS = 4


class Joint:
    """The rows of the source (n, d), then those of the target (m, d), and regressions on them with `classes` classes."""

    def __init__(self, source: npt.NDArray[np.float32], target: npt.NDArray[np.float32], *, classes: int) -> None:
        rotation = rotate(np.concatenate([source, target]))
        self.size, self.rows, self.classes = len(source), len(source) + len(target), classes
        self.rotated, self._strength = rotation.rotated, STRENGTH / max(rotation.mean_square, 1e-30)

    @property
    def target(self) -> npt.NDArray[np.float32]:
        """The rotated rows of the target (m, r)."""
        return self.rotated[self.size :]

    def turned(self) -> Joint:
        """The same rows with source and target exchanged."""
        turned = copy.copy(self)
        turned.size, turned.rotated = self.rows - self.size, np.concatenate([self.target, self.rotated[: self.size]])
        return turned

    def _solve(self, codes: Codes, weights: Floats) -> Floats:
        """Probabilities (n + m, p, k) by p regressions with labels (n + m,) and weights (p, n + m)."""
        indicators = codes[:, None] == np.arange(self.classes)
        problem = LogisticProblem(self.rotated, indicators, sigmoid=False, weights=weights.astype(np.float32))
        problem.solve(self._strength, tolerance=1e-4, steps=60)
        return SOFTMAX.probabilities(problem.logits())

    def fitted(self, source: Codes, target: Codes, weights: Floats) -> Floats:
        """Probabilities (n + m, k) by a fit on labels of both worlds, each row with its weight (n + m,)."""
        return np.asarray(self._solve(np.concatenate([source, target]), weights[None])[:, 0])

    def of_source(self, source: Codes) -> Floats:
        """Probabilities of the target (m, k) by a fit on the source."""
        weights = np.zeros(self.rows)
        weights[: self.size] = 1
        return self.fitted(source, np.zeros(self.rows - self.size, dtype=np.int64), weights)[self.size :]

    def out_of_sample(self, target: Codes, *, seed: int) -> Floats:
        """Probabilities of the target (m, k), each row by a fit on labels of the target without a fold that it is in."""
        fold = np.random.default_rng(seed).permutation(len(target)) % _FOLDS
        weights = np.zeros((_FOLDS, self.rows))
        weights[:, self.size :] = fold != np.arange(_FOLDS)[:, None]
        found = self._solve(np.concatenate([np.zeros(self.size, dtype=np.int64), target]), weights)
        return np.asarray(found[self.size + np.arange(len(target)), fold])
