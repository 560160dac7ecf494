"""L2-regularised logistic regression for several subsets of the images at once, along a path of penalties.

All folds are fitted together: their coefficients stand side by side in one matrix product. The features are first rotated onto their
principal axes, where the Hessian is close to diagonal, so that L-BFGS on rescaled coordinates needs few steps; each penalty starts
from the solution of the one before.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from headstart.heads.head import LinearHead
from headstart.heads.labels import ClassWeight, EncodedLabels, held_out_folds, stratified_rows
from headstart.heads.linalg import mean_square, one_thread
from headstart.heads.ridge import SELECTION_ROWS, Matrix
from headstart.matrix import BLOCK, FeatureMatrix, blocks, column_means
from headstart.settings.field import number, require, whole

if TYPE_CHECKING:
    from scipy.sparse import csr_array

STRENGTHS = tuple(10.0**step for step in range(-1, 4))
"""The path of C, from strong to weak, in units of one over the mean squared norm of the centred features."""

FINER = 10.0**0.5  # the step around the best of the path
GAIN = 0.005  # a weaker penalty must lower the held-out log loss by this share of it to count as better
BIAS_PENALTY = 0.1  # keeps the bias finite for a class that a fold lacks; in units of the log loss of one image
LARGE = 4_000_000  # entries of a design matrix from which its products are worth several threads
SPARSE_BLOCK = 8192  # rows of a sparse matrix in a block
ROTATED = 2048  # rows that are rotated at a time


class LogisticHead(LinearHead):
    """L2-regularised logistic regression: sigmoid for two classes, softmax for more, a sigmoid each for independent labels.

    Minimises the sum of the log losses plus |w|^2 / (2 C). Without a given C, a path from strong to weak penalties is followed with all
    folds at once until the held-out log loss no longer falls. The logits are calibrated on held-out ones, by `temperature_`.
    """

    name, title, chosen = "logistic", "logistic regression", ("C",)

    def __init__(self, *, C: float | None = None, folds: int = 5, class_weight: ClassWeight = None, seed: int = 0) -> None:
        self.C = C
        self.folds = folds
        self.class_weight = class_weight
        self.seed = seed

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels, *, overwrite: bool) -> None:
        require(number(above=0), or_none=True, C=self.C)
        require(whole(2), folds=self.folds)
        rows = stratified_rows(targets, SELECTION_ROWS, seed=self.seed)
        if self.C is not None:
            self.C_ = float(self.C)
        elif len(rows) < len(X):
            self.C_ = self._choose(rotate(X[rows], overwrite=True), targets.take(rows))[0]
        rotation = rotate(X, overwrite=overwrite)
        if self.C is None and len(rows) == len(X):
            self.C_, held_out, start = self._choose(rotation, targets)
        else:
            parts = held_out_folds(targets, self.folds, seed=self.seed)
            problem = _problem(rotation, targets, parts)
            problem.solve(self.C_, tolerance=1e-5, steps=100)
            held_out, start = _held_out(problem.logits(), parts, targets), problem.mean_coefficients()
        self._finish(rotation, targets, held_out, start)

    def _choose(self, rotation: Rotation, targets: EncodedLabels) -> tuple[float, Matrix, Matrix]:
        """C, the held-out logits there, and coefficients near those of a fit on all images."""
        parts = held_out_folds(targets, self.folds, seed=self.seed)
        problem = _problem(rotation, targets, parts)
        tried: dict[float, tuple[float, Matrix]] = {}

        def loss(strength: float) -> float:
            if strength not in tried:
                problem.solve(strength / max(rotation.mean_square, 1e-30), tolerance=1e-3, steps=50)
                logits = _held_out(problem.logits(), parts, targets)
                tried[strength] = targets.log_loss(targets.calibrate(logits, shifts=False)(logits)), logits
            return tried[strength][0]

        best = STRENGTHS[0]
        for strength in STRENGTHS:
            if loss(strength) < (1 - GAIN) * loss(best):
                best = strength
            elif strength > best:
                break
        best = min((best / FINER, best, best * FINER), key=loss)
        return best / max(rotation.mean_square, 1e-30), tried[best][1], problem.mean_coefficients()

    def _finish(self, rotation: Rotation, targets: EncodedLabels, held_out: Matrix, start: Matrix) -> None:
        """Fit on all images, and calibrate on held-out logits."""
        problem = _problem(rotation, targets, [np.empty(0, dtype=np.int64)])
        problem.coefficients = start
        problem.solve(self.C_, tolerance=1e-7, steps=200)
        calibration = targets.calibrate(held_out, shifts=False)
        self.out_of_sample_logits_ = calibration(held_out)
        self.calibration_ = calibration
        self.temperature_ = 1 / calibration.scale
        theta = problem.coefficients.astype(np.float64) * calibration.scale
        coef = theta[:, :-1] @ rotation.axes.T.astype(np.float64)
        intercept = theta[:, -1] - coef @ rotation.mean.astype(np.float64)
        if _binary(targets):
            coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
        self.coef_, self.intercept_ = np.ascontiguousarray(coef, dtype=np.float32), intercept.astype(np.float32)


def _binary(targets: EncodedLabels) -> bool:
    return not targets.link.independent and len(targets.classes) == 2


def _problem(rotation: Rotation, targets: EncodedLabels, parts: list[npt.NDArray[np.int64]]) -> LogisticProblem:
    """One regression for each part: on all images but those."""
    rows = np.ones((len(parts), len(targets)), dtype=np.float32)
    for row, part in zip(rows, parts, strict=True):
        row[part] = 0
    if targets.weights is not None:
        rows *= targets.weights.astype(np.float32)
    indicators = targets.indicators[:, 1:] if _binary(targets) else targets.indicators
    return LogisticProblem(rotation.rotated, indicators, sigmoid=targets.link.independent or _binary(targets), weights=rows)


def _held_out(logits: Matrix, parts: list[npt.NDArray[np.int64]], targets: EncodedLabels) -> Matrix:
    """From logits (n, folds, columns) those of each image in the fold that left it out: (n, k)."""
    held = np.empty((len(logits), logits.shape[2]), dtype=np.float32)
    for fold, part in enumerate(parts):
        held[part] = logits[part, fold]
    return np.concatenate([-held, held], axis=1) / 2 if _binary(targets) else held


@dataclass(frozen=True, eq=False)
class Rotation:
    """Features on their principal axes: z = (x - mean) @ axes, float32; `mean_square` is the mean of |x - mean|^2."""

    mean: Matrix
    axes: Matrix
    rotated: Matrix
    mean_square: float


def rotate(features: FeatureMatrix, *, overwrite: bool = False) -> Rotation:
    """Rotate (n, D) onto min(n, D) principal axes, without those of no variance; with `overwrite` in the memory of the features."""
    mean = column_means(features).astype(np.float32)
    spread = mean_square(features, mean)
    if len(features) < features.shape[1]:
        centred = np.asarray(features) - mean
        values, vectors = _principal(centred @ centred.T)
        roots = np.sqrt(values)
        return Rotation(mean, centred.T @ (vectors / roots), vectors * roots, spread)
    gram = np.zeros((features.shape[1], features.shape[1]), dtype=np.float32)
    for rows in blocks(len(features), ROTATED):
        centred = features[rows] - mean
        gram += centred.T @ centred
    _, vectors = _principal(gram)
    if overwrite and isinstance(features, np.ndarray):
        rotated = features[:, : vectors.shape[1]]
    else:
        rotated = np.empty((len(features), vectors.shape[1]), dtype=np.float32)
    for rows in blocks(len(features), ROTATED):
        rotated[rows] = (features[rows] - mean) @ vectors
    return Rotation(mean, vectors, rotated, spread)


def _principal(gram: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues above the rounding of zero, and their vectors."""
    values, vectors = eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    kept = values > max(values[-1], 1e-30) * 1e-6
    return values[kept], vectors[:, kept]


class SparseRows:
    """A sparse matrix (n, D) of features, float32, that is read by slices, of which it keeps those it was read by."""

    def __init__(self, matrix: csr_array) -> None:
        self.matrix, self.shape, self.size = matrix, matrix.shape, matrix.nnz
        self._parts: dict[tuple[int, int, int], csr_array] = {}

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> Any:
        start, stop, _ = bounds = rows.indices(len(self))
        if stop - start == len(self):
            return self.matrix
        if bounds not in self._parts:
            self._parts[bounds] = self.matrix[start:stop]
        return self._parts[bounds]

    def squares(self) -> Matrix:
        """Sum of the squares of each column."""
        return np.bincount(self.matrix.indices, weights=self.matrix.data**2, minlength=self.shape[1]).astype(np.float32)


class LogisticProblem:
    """Logistic regressions that share features (n, r) and labels, bool (n, k), and differ in the weights of the images, float32 (p, n).

    `sigmoid`: each column by itself; otherwise softmax over the columns. `spread`, float32 (p k, r), is how large each coefficient is
    expected to be: it is penalised by that.
    """

    def __init__(
        self, rotated: Matrix | SparseRows, indicators: npt.NDArray[np.bool_], *, sigmoid: bool, weights: Matrix,
        spread: Matrix | None = None,
    ) -> None:  # fmt: skip
        self._rotated = rotated
        squares = np.einsum("ij,ij->j", rotated, rotated) if isinstance(rotated, np.ndarray) else rotated.squares()
        self._squares = np.append(squares, np.float32(len(rotated)))
        self._spread = spread
        self._goal = indicators.astype(np.float32)[:, None, :]
        self._weights = np.ascontiguousarray(weights.T, dtype=np.float32)
        self._sigmoid = sigmoid
        self._k = indicators.shape[1]
        self.count = len(weights)  # of regressions
        self.coefficients = np.zeros((weights.shape[0] * self._k, len(self._squares)), dtype=np.float32)
        self._confidence = 0.25 if sigmoid else (1 - 1 / self._k) / self._k

    def solve(self, C: float, *, tolerance: float, steps: int) -> None:
        """Minimise sum of log losses + |coefficients|^2 / (2 C), from the present coefficients."""
        penalty = np.full(self._squares.shape if self._spread is None else self.coefficients.shape, 1 / C, dtype=np.float32)
        if self._spread is not None:
            penalty[:, :-1] /= self._spread**2
        penalty[..., -1] = BIAS_PENALTY
        scale = 1 / np.sqrt(self._confidence * self._squares + penalty)
        penalty *= scale**2

        from scipy.optimize import minimize

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
        return np.asarray(self.coefficients.reshape(-1, self._k, self.coefficients.shape[1]).mean(axis=0))

    def _objective(self, coefficients: Matrix) -> tuple[float, Matrix]:
        """Sum of the weighted log losses, and its derivative by the coefficients; leaves the mean p (1 - p) for the next scaling."""
        loss, slope, variance = 0.0, np.zeros_like(coefficients), 0.0
        for rows in blocks(len(self._rotated), BLOCK if isinstance(self._rotated, np.ndarray) else SPARSE_BLOCK):
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
