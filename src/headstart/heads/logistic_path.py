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

from headstart.heads.distances import blocks, mean_square
from headstart.heads.threads import one_thread

Matrix = npt.NDArray[Any]

BIAS_PENALTY = 0.1
"""Keeps the bias finite for a class that a fold lacks; in units of the log loss of one image."""

LARGE = 4_000_000
"""Entries of a design matrix from which its products are worth several threads."""

ROTATED = 2048
"""Rows that are rotated at a time."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """Features on their principal axes: z = (x - mean) @ axes, float32; `mean_square` is the mean of |x - mean|^2."""

    mean: Matrix
    axes: Matrix
    rotated: Matrix
    mean_square: float


def rotate(features: Matrix, *, overwrite: bool = False) -> Rotation:
    """Rotate (n, D) onto min(n, D) principal axes, without those of no variance; with `overwrite` in the memory of the features."""
    mean = features.mean(axis=0)
    spread = mean_square(features, mean)
    if len(features) < features.shape[1]:
        centred = features - mean
        values, vectors = _principal(centred @ centred.T)
        roots = np.sqrt(values)
        return Rotation(mean, centred.T @ (vectors / roots), vectors * roots, spread)
    gram = np.zeros((features.shape[1], features.shape[1]), dtype=np.float32)
    for rows in blocks(len(features), ROTATED):
        centred = features[rows] - mean
        gram += centred.T @ centred
    _, vectors = _principal(gram)
    rotated = features[:, : vectors.shape[1]] if overwrite else np.empty((len(features), vectors.shape[1]), dtype=np.float32)
    for rows in blocks(len(features), ROTATED):
        rotated[rows] = (features[rows] - mean) @ vectors
    return Rotation(mean, vectors, rotated, spread)


def _principal(gram: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues that are not as good as nought, and their vectors."""
    values, vectors = eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    kept = values > max(values[-1], 1e-30) * 1e-6
    return values[kept], vectors[:, kept]


class LogisticProblem:
    """Logistic regressions that share features and labels and differ in the weights of the images.

    Args:
        rotated: float32 (n, r).
        indicators: bool (n, k).
        sigmoid: each column by itself; otherwise softmax over the columns.
        weights: float32 (p, n): row p holds the weights of the images in regression p.
    """

    def __init__(self, rotated: Matrix, indicators: npt.NDArray[np.bool_], *, sigmoid: bool, weights: Matrix) -> None:
        self._rotated = rotated
        self._squares = np.append(np.einsum("ij,ij->j", rotated, rotated), np.float32(len(rotated)))
        self._goal = indicators.astype(np.float32)[:, None, :]
        self._weights = np.ascontiguousarray(weights.T, dtype=np.float32)
        self._sigmoid = sigmoid
        self._k = indicators.shape[1]
        self.coefficients = np.zeros((weights.shape[0] * self._k, len(self._squares)), dtype=np.float32)
        self._confidence = 0.25 if sigmoid else (1 - 1 / self._k) / self._k

    def solve(self, C: float, *, tolerance: float, steps: int) -> None:
        """Minimise sum of log losses + |coefficients|^2 / (2 C), from the present coefficients."""
        penalty = np.full(len(self._squares), 1 / C, dtype=np.float32)
        penalty[-1] = BIAS_PENALTY
        scale = 1 / np.sqrt(self._confidence * self._squares + penalty)
        penalty *= scale**2

        def objective(flat: Matrix) -> tuple[float, Matrix]:
            theta = flat.reshape(self.coefficients.shape).astype(np.float32)
            loss, slope = self._objective(theta * scale)
            shrunk = theta * penalty
            gradient = slope * scale + shrunk
            return loss + 0.5 * float(np.vdot(theta, shrunk)), gradient.ravel().astype(np.float64)

        with one_thread() if self._rotated.size < LARGE else nullcontext():
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
        return self._block_logits(slice(None), self.coefficients)

    def _block_logits(self, rows: slice, coefficients: Matrix) -> Matrix:
        logits = self._rotated[rows] @ coefficients[:, :-1].T
        logits += coefficients[:, -1]
        return logits.reshape(len(logits), -1, self._k)

    def mean_coefficients(self) -> Matrix:
        """Mean over the regressions: (k, r + 1)."""
        mean: Matrix = self.coefficients.reshape(-1, self._k, self.coefficients.shape[1]).mean(axis=0)
        return mean

    def _objective(self, coefficients: Matrix) -> tuple[float, Matrix]:
        """Sum of the weighted log losses, and its derivative by the coefficients; leaves the mean p (1 - p) for the next scaling."""
        loss, slope, variance = 0.0, np.zeros_like(coefficients), 0.0
        for rows in blocks(len(self._rotated)):
            lost, error, uncertain = self._loss(self._block_logits(rows, coefficients), self._goal[rows], self._weights[rows, :, None])
            error = error.reshape(len(error), -1)
            slope[:, :-1] += error.T @ self._rotated[rows]
            slope[:, -1] += error.sum(axis=0)
            loss += lost
            variance += uncertain
        self._confidence = max(1e-3, variance / (len(self._rotated) * len(coefficients)))
        return loss, slope

    def _loss(self, logits: Matrix, goal: Matrix, weights: Matrix) -> tuple[float, Matrix, float]:
        """Sum of the weighted log losses, its derivative by the logits, and the sum of p (1 - p)."""
        if self._sigmoid:
            small = np.exp(-np.abs(logits))
            p = np.where(logits >= 0, 1, small) / (1 + small)
            loss = np.maximum(logits, 0) - logits * goal + np.log1p(small)
        else:
            shifted = logits - logits.max(axis=2, keepdims=True)
            p = np.exp(shifted)
            total = p.sum(axis=2, keepdims=True)
            p /= total
            loss = np.log(total) - (shifted * goal).sum(axis=2, keepdims=True)
        return float((loss * weights).sum(dtype=np.float64)), (p - goal) * weights, float((p * (1 - p)).sum(dtype=np.float64))
