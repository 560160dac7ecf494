"""L2-regularised logistic regression for several subsets of the images at once, along a path of penalties.

All folds are fitted together: their coefficients stand side by side in one matrix product. The features are first rotated onto their
principal axes, where the Hessian is close to diagonal, so that L-BFGS on rescaled coordinates needs few steps; each penalty starts
from the solution of the one before.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.optimize import minimize

from headstart.heads.threads import one_thread

Matrix = npt.NDArray[Any]

BIAS_PENALTY = 0.1
"""Keeps the bias finite for a class that a fold lacks; in units of the log loss of one image."""

LARGE = 4_000_000
"""Entries of a design matrix from which its products are worth several threads."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """Features on their principal axes: z = (x - mean) @ axes, float32; `mean_square` is the mean of |x - mean|^2."""

    mean: Matrix
    axes: Matrix
    rotated: Matrix
    mean_square: float


def rotate(features: Matrix) -> Rotation:
    """Rotate (n, D) onto min(n, D) principal axes, without those of no variance."""
    mean = features.mean(axis=0)
    centred = features - mean
    mean_square = float(np.einsum("ij,ij->", centred, centred, dtype=np.float64)) / len(features)
    wide = len(features) < features.shape[1]
    values, vectors = eigh(centred @ centred.T if wide else centred.T @ centred, overwrite_a=True, check_finite=False, driver="evd")
    kept = values > max(values[-1], 1e-30) * 1e-6
    values, vectors = values[kept], vectors[:, kept]
    if wide:
        roots = np.sqrt(values)
        return Rotation(mean, centred.T @ (vectors / roots), vectors * roots, mean_square)
    return Rotation(mean, vectors, centred @ vectors, mean_square)


class LogisticProblem:
    """Logistic regressions that share features and labels and differ in the weights of the images.

    Args:
        rotated: float32 (n, r).
        indicators: bool (n, k).
        sigmoid: each column by itself; otherwise softmax over the columns.
        weights: float32 (p, n): row p holds the weights of the images in regression p.
    """

    def __init__(self, rotated: Matrix, indicators: npt.NDArray[np.bool_], *, sigmoid: bool, weights: Matrix) -> None:
        self._design = np.concatenate([rotated, np.ones((len(rotated), 1), dtype=np.float32)], axis=1)
        self._squares = np.einsum("ij,ij->j", self._design, self._design)
        self._indicators = indicators
        self._goal = indicators.astype(np.float32)[:, None, :]
        self._weights = np.ascontiguousarray(weights.T, dtype=np.float32)
        self._sigmoid = sigmoid
        self._k = indicators.shape[1]
        self.coefficients = np.zeros((weights.shape[0] * self._k, self._design.shape[1]), dtype=np.float32)
        self._confidence = 0.25 if sigmoid else (1 - 1 / self._k) / self._k

    def solve(self, C: float, *, tolerance: float, steps: int) -> None:
        """Minimise sum of log losses + |coefficients|^2 / (2 C), from the present coefficients."""
        penalty = np.full(len(self._squares), 1 / C, dtype=np.float32)
        penalty[-1] = BIAS_PENALTY
        scale = 1 / np.sqrt(self._confidence * self._squares + penalty)
        design = self._design * scale
        penalty *= scale**2

        def objective(flat: Matrix) -> tuple[float, Matrix]:
            theta = flat.reshape(self.coefficients.shape).astype(np.float32)
            loss, error = self._loss((design @ theta.T).reshape(len(design), -1, self._k))
            shrunk = theta * penalty
            gradient = error.reshape(len(design), -1).T @ design + shrunk
            return loss + 0.5 * float(np.vdot(theta, shrunk)), gradient.ravel().astype(np.float64)

        with one_thread() if design.size < LARGE else nullcontext():
            found = minimize(
                objective,
                (self.coefficients / scale).ravel().astype(np.float64),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": steps, "ftol": tolerance, "gtol": 1e-6, "maxcor": 6},
            )
        self.coefficients = found.x.reshape(self.coefficients.shape).astype(np.float32) * scale

    def logits(self) -> Matrix:
        """Of all images in all regressions: float32 (n, p, k)."""
        return (self._design @ self.coefficients.T).reshape(len(self._design), -1, self._k)

    def mean_coefficients(self) -> Matrix:
        """Mean over the regressions: (k, r + 1)."""
        mean: Matrix = self.coefficients.reshape(-1, self._k, self.coefficients.shape[1]).mean(axis=0)
        return mean

    def _loss(self, logits: Matrix) -> tuple[float, Matrix]:
        """Sum of the weighted log losses, and its derivative by the logits; leaves the mean variance p (1 - p) for the next scaling."""
        weights = self._weights[:, :, None]
        if self._sigmoid:
            small = np.exp(-np.abs(logits))
            p = np.where(logits >= 0, 1, small) / (1 + small)
            loss = np.maximum(logits, 0) - logits * self._goal + np.log1p(small)
        else:
            shifted = logits - logits.max(axis=2, keepdims=True)
            p = np.exp(shifted)
            total = p.sum(axis=2, keepdims=True)
            p /= total
            loss = np.log(total) - (shifted * self._goal).sum(axis=2, keepdims=True)
        self._confidence = max(1e-3, float((p * (1 - p)).mean()))
        return float((loss * weights).sum(dtype=np.float64)), (p - self._goal) * weights
