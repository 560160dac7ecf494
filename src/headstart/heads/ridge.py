"""Weighted regularised least squares with a free bias, and the scores of every image in a fit without it (or its group).

The fit minimises  sum_i w_i (y_i - f(x_i))^2 + r |f|^2  with  f(x) = sum_j a_j k(x, x_j) + b. With A = K + r diag(1/w) the
coefficients solve

    [A  1] [a]   [y]
    [1' 0] [b] = [0]

and, C being the inverse of that matrix, the residuals of the fit without the images G are  inv(C_GG) a_G  (Cawley and Talbot 2004 for
one image at a time). Where there are more images than features the primal form is used, with the hat matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from headstart.heads.head import Features, LinearHead
from headstart.heads.labels import ClassWeight, EncodedLabels, Groups, stratified_rows
from headstart.heads.linalg import mean_square
from headstart.matrix import FeatureMatrix, blocks, column_means
from headstart.settings.field import number, require

Matrix = npt.NDArray[Any]

ROWS = 2048  # of a design matrix, made at a time
REGULARISATIONS = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
SELECTION_ROWS = 2000  # images on which heads choose their hyperparameters, at most


@dataclass(frozen=True, eq=False)
class LeastSquaresFit:
    """Coefficients (rows, k), bias (k,), and out-of-sample scores (n, k)."""

    coefficients: Matrix
    bias: Matrix
    out_of_sample: Matrix
    regularisation: float | None = None  # where it was searched for


def inverse_factor(matrix: Matrix) -> Matrix | None:
    """Inverse of the upper Cholesky factor, in the memory of the matrix; None where that is not positive definite in its precision."""
    potrf, trtri = get_lapack_funcs(("potrf", "trtri"), (matrix,))
    upper, failed = potrf(matrix, lower=0, clean=1, overwrite_a=1)
    if failed:
        return None
    inverse, failed = trtri(upper, lower=0, overwrite_c=1)
    return None if failed or not np.isfinite(inverse[0, -1]) else np.asarray(inverse)


def dual_fit(
    kernel: Matrix, goals: Matrix, regularisation: float, *, weights: Matrix | None = None, groups: Groups = None, overwrite: bool = False
) -> LeastSquaresFit | None:
    """Fit with the kernel matrix (n, n), float32 or float64, symmetric, positive semi-definite, to goals (n, k).

    The weights (n,) of the images are all positive. With group numbers (n,), the out-of-sample score of an image comes from a fit without
    its whole group. With `overwrite`, the kernel's memory is used. Returns None where the matrix is not positive definite in its precision.
    """
    n = len(kernel)
    a = np.array(kernel.T, order="F", copy=not overwrite or None)
    a[np.diag_indices(n)] += regularisation if weights is None else (regularisation / weights).astype(a.dtype)
    inverse = inverse_factor(a)
    if inverse is None:
        return None
    right = np.concatenate([goals, np.ones((n, 1))], axis=1).astype(a.dtype)
    solved = inverse @ (inverse.T @ right)
    ones = solved[:, -1:]
    total = float(ones.sum(dtype=np.float64))
    bias = solved[:, :-1].sum(axis=0, dtype=np.float64) / total
    coefficients = solved[:, :-1] - ones * bias.astype(a.dtype)
    residual = np.empty_like(coefficients)
    for single, many in _parts(groups, n):
        if many is None:
            square = np.einsum("ij,ij->i", inverse, inverse)[single] - ones[single, 0] ** 2 / total
            residual[single] = coefficients[single] / square[:, None]
        else:
            rows = inverse[many]
            residual[many] = _solve(rows @ rows.T - ones[many] * ones[many].T / total, coefficients[many])
    return LeastSquaresFit(coefficients, bias, goals - residual)


@dataclass(frozen=True, eq=False)
class Design:
    """A design matrix (n, p) that is made anew, a few rows at a time, whenever it is needed.

    With a `whitening`, upper triangular (p, p), the penalty is on the coefficients of rows @ whitening; those of the fit are still for
    the rows.
    """

    rows: Callable[[Any], Matrix]  # gives the rows named by a slice or by numbers (m, p)
    near: Matrix  # (p,), not far from the mean of the rows: the nearer, the less is lost to rounding
    whitening: Matrix | None = None
    own: npt.NDArray[np.int64] | None = None  # (n,), for each row the column that was made from it, else -1: it is left out with the row

    def conditioned(self, rows: Matrix) -> Matrix:
        """The rows times the whitening; they are overwritten."""
        if self.whitening is None:
            return rows
        (trmm,) = get_blas_funcs(("trmm",), (rows,))
        return np.asarray(trmm(1.0, self.whitening, rows.T, trans_a=1, overwrite_b=1).T)

    def coefficients(self, conditioned: Matrix) -> Matrix:
        """From columns of coefficients for the conditioned rows to those for the rows; they are overwritten."""
        if self.whitening is None:
            return conditioned
        (trmm,) = get_blas_funcs(("trmm",), (conditioned,))
        return np.asarray(trmm(1.0, self.whitening, conditioned, overwrite_b=1))


@dataclass(frozen=True, eq=False)
class Search:
    """A search for the regularisation with the least out-of-sample loss on some rows (with groups: on whole groups)."""

    rows: npt.NDArray[np.int64]
    loss: Callable[[npt.NDArray[np.int64], Matrix], float]  # of row numbers (m,) and their out-of-sample scores (m, k)
    factor: float = 10**0.5  # between one regularisation and the next


def primal_fit(
    design: Design, goals: Matrix, regularisation: float, *, weights: Matrix | None = None, groups: Groups = None,
    search: Search | None = None,
) -> LeastSquaresFit | None:  # fmt: skip
    """The same for a linear kernel, from the design matrix (n, p): quicker where n > p. Coefficients are (p, k).

    The rows are gone through twice, in blocks: for the normal equations, and for what each row would be without itself. A `search` begins
    at this regularisation.
    """
    equations = _NormalEquations(design, goals, np.ones(len(goals)) if weights is None else weights)
    if search is not None:
        regularisation = downhill(equations.loss(search, groups), regularisation, search.factor)
    solution = equations.solved(regularisation, overwrite=True)
    if solution is None:
        return None
    residuals = np.empty_like(equations.goals)
    for rows, sizes in _whole_groups(groups, len(goals)):
        residuals[rows] = equations.left_out(rows, equations.centred(rows), solution, sizes)
    mean, coefficients = equations.mean.astype(np.float64), solution[0]
    bias = equations.goal_mean - mean @ coefficients.astype(np.float64)
    return LeastSquaresFit(coefficients, bias, goals - residuals / equations.root, regularisation)


class _NormalEquations:
    """Those of a design and goals; with `mean` and `goal_mean` subtracted, each row times the root of its weight."""

    def __init__(self, design: Design, goals: Matrix, weights: Matrix) -> None:
        dtype = design.near.dtype
        weights = weights.astype(dtype)
        self.design, self.uncentred, self.total = design, goals, float(weights.sum(dtype=np.float64))
        self.goal_mean = (weights @ goals / self.total).astype(np.float64)
        self.root = np.sqrt(weights)[:, None]
        self.goals = ((goals - self.goal_mean) * self.root).astype(dtype)
        self.gram, self.right, self.mean = _normal_equations(design, self.goals, self.root, self.total)

    def centred(self, rows: Any) -> Matrix:
        return np.asarray((self.design.rows(rows) - self.mean) * self.root[rows])

    def solved(self, regularisation: float, *, overwrite: bool = False) -> tuple[Matrix, Matrix] | None:
        """Coefficients, and a root of the inverse of the regularised Gram matrix."""
        gram = self.gram if overwrite else self.gram.copy(order="F")
        gram[np.diag_indices(len(gram))] += regularisation
        inverse = inverse_factor(gram)
        if inverse is None:
            return None
        return self.design.coefficients(inverse @ (inverse.T @ self.right)), self.design.coefficients(inverse)

    def left_out(self, rows: Any, centred: Matrix, solution: tuple[Matrix, Matrix], sizes: list[int] | None) -> Matrix:
        """Residuals of fits without each of the rows, or each of these groups; `centred` is overwritten."""
        residual = self.goals[rows] - centred @ solution[0]
        own = None if self.design.own is None else self.design.own[rows]
        return _without_themselves(centred, solution, residual, self.root[rows], self.total, sizes, own)

    def loss(self, search: Search, groups: Groups) -> Callable[[float], float]:
        """The loss of a search as a function of the regularisation; infinite where the equations cannot be solved."""
        found = _whole_groups(None if groups is None else groups[search.rows], len(search.rows))
        parts = [(search.rows[some], sizes) for some, sizes in found]
        rows = np.concatenate([some for some, _ in parts])
        centred = [self.centred(some) for some, _ in parts]

        def loss(regularisation: float) -> float:
            solution = self.solved(regularisation)
            if solution is None:
                return np.inf
            left = [self.left_out(some, part.copy(), solution, sizes) for (some, sizes), part in zip(parts, centred, strict=True)]
            return search.loss(rows, self.uncentred[rows] - np.concatenate(left) / self.root[rows])

        return loss


def downhill(loss: Callable[[float], float], start: float, factor: float) -> float:
    """Walk from `start` by factors as long as the loss falls: down first, else up."""
    here, best = start, loss(start)
    for ratio in (1 / factor, factor):
        while (lower := loss(here * ratio)) < best:
            here, best = here * ratio, lower
        if here != start:
            break
    return here


def _normal_equations(design: Design, centred_goals: Matrix, root: Matrix, total: float) -> tuple[Matrix, Matrix, Matrix]:
    """Upper triangle of the weighted Gram matrix of the centred, conditioned rows (p, p), their products with the goals, and the mean."""
    p = len(design.near)
    (syrk,) = get_blas_funcs(("syrk",), (design.near,))
    gram, right, excess = np.zeros((p, p), dtype=design.near.dtype, order="F"), np.zeros((p, centred_goals.shape[1])), np.zeros(p)
    for rows in blocks(len(root), ROWS):
        part = design.rows(rows) - design.near
        excess += root[rows, 0] ** 2 @ part
        part = design.conditioned(part) * root[rows]
        gram = syrk(1.0, part.T, beta=1.0, c=gram, overwrite_c=1)
        right += part.T @ centred_goals[rows]
    off = (excess / total).astype(gram.dtype)
    gram = syrk(-total, design.conditioned(off[None].copy()).T, beta=1.0, c=gram, overwrite_c=1)
    return gram, right.astype(gram.dtype), design.near + off


def _without_themselves(
    centred: Matrix, solution: tuple[Matrix, Matrix], residual: Matrix, root: Matrix, total: float, sizes: list[int] | None,
    own: npt.NDArray[np.int64] | None,
) -> Matrix:  # fmt: skip
    """Residuals of fits without each row, or without each group of consecutive rows; `centred` is overwritten.

    Where a row is the origin of a column (`own`), that column is left out with it: its coefficient is constrained to 0. With S the inverse
    of the normal equations, r and h residual and hat value of the row x, and g = e' S x for the column e, the residual is
    (S_ee r + g c_e) / (S_ee (1 - h) + g^2), c_e being the coefficient in the fit of all.
    """
    (trmm,) = get_blas_funcs(("trmm",), (centred,))
    coefficients, inverse = solution
    projected = trmm(1.0, inverse, centred.T, trans_a=1, overwrite_b=1).T
    if sizes is None:
        hat = np.einsum("ij,ij->i", projected, projected) + root[:, 0] ** 2 / total
        rest = np.maximum(1 - hat, np.finfo(hat.dtype).eps)
        left: Matrix = residual / rest[:, None]
        if own is not None and len(rows := np.flatnonzero(own >= 0)):
            roots, columns = inverse[own[rows]], own[rows]
            variance, shared = np.einsum("ij,ij->i", roots, roots), np.einsum("ij,ij->i", roots, projected[rows])
            above = variance[:, None] * residual[rows] + shared[:, None] * coefficients[columns]
            left[rows] = above / (variance * rest[rows] + shared**2)[:, None]
        return left
    left = np.empty_like(residual)
    for stop, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        group = slice(stop - size, stop)
        hats = projected[group] @ projected[group].T + root[group] * root[group].T / total
        rest = np.eye(size, dtype=hats.dtype) - hats
        left[group] = _solve(rest, residual[group])
        columns = np.empty(0, dtype=np.int64) if own is None else own[group][own[group] >= 0]
        if len(columns):
            roots = inverse[columns]
            shared = projected[group] @ roots.T
            freed = _solve(rest, shared)
            constrained = _solve(roots @ roots.T + shared.T @ freed, coefficients[columns] - shared.T @ left[group])
            left[group] += freed @ constrained
    return left


def _whole_groups(groups: Groups, n: int) -> Iterator[tuple[Any, list[int] | None]]:
    """Blocks of rows; with groups, the row numbers of as many whole groups as fit into one, and the sizes of these."""
    if groups is None:
        yield from ((rows, None) for rows in blocks(n, ROWS))
        return
    packed: list[npt.NDArray[np.int64]] = []
    for single, many in _parts(groups, n):
        if many is None:
            yield from ((single[rows], None) for rows in blocks(len(single), ROWS))
            continue
        if packed and sum(map(len, packed)) + len(many) > ROWS:
            yield np.concatenate(packed), [len(rows) for rows in packed]
            packed = []
        packed.append(many)
    if packed:
        yield np.concatenate(packed), [len(rows) for rows in packed]


def _parts(groups: Groups, n: int) -> Iterator[tuple[Any, npt.NDArray[np.int64] | None]]:
    """Rows that are a group by themselves, together; then the rows of each larger group."""
    if groups is None:
        yield slice(0, n), None
        return
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    alone = np.sort(np.array([rows[0] for rows in members if len(rows) == 1], dtype=np.int64))
    if len(alone):
        yield alone, None
    for rows in members:
        if len(rows) > 1:
            yield None, rows


def _solve(matrix: Matrix, right: Matrix) -> Matrix:
    """Solve a small symmetric system that may be singular (a group that is the whole data)."""
    exact = matrix.astype(np.float64)
    exact[np.diag_indices(len(exact))] += 1e-12 * max(1e-30, float(np.trace(exact)) / len(exact))
    return np.linalg.solve(exact, right.astype(np.float64)).astype(right.dtype)


class RidgeHead(LinearHead):
    """Linear least squares on +1/-1 targets, with closed-form out-of-sample scores.

    The regularisation is in mean squared norms of the (centred) features; by default it is chosen among `REGULARISATIONS`.
    """

    name, title, chosen = "ridge", "ridge regression", ("regularisation",)

    def __init__(self, *, regularisation: float | None = None, class_weight: ClassWeight = None, seed: int = 0) -> None:
        self.regularisation = regularisation
        self.class_weight = class_weight
        self.seed = seed

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels, *, overwrite: bool) -> None:
        require(number(above=0), or_none=True, regularisation=self.regularisation)
        mean = column_means(X).astype(np.float32)
        norm = mean_square(X, mean) or 1.0
        self.regularisation_ = self._choose(X, mean, targets, norm) if self.regularisation is None else self.regularisation
        fit = _fit(X, mean, targets, self.regularisation_ * norm)
        calibration = targets.calibrate(fit.out_of_sample, bends=True)
        self.out_of_sample_logits_, self.bend_ = calibration(fit.out_of_sample), calibration.bend
        coefficients = fit.coefficients * calibration.scale
        self.coef_ = np.ascontiguousarray(coefficients.T, dtype=np.float32)
        self.intercept_ = (fit.bias * calibration.scale + calibration.shift - mean @ coefficients).astype(np.float32)

    def _choose(self, X: FeatureMatrix, mean: Features, targets: EncodedLabels, norm: float) -> float:
        rows = stratified_rows(targets, SELECTION_ROWS, seed=self.seed)
        part, some = X[rows], targets.take(rows)

        def loss(regularisation: float) -> float:
            out = _fit(part, mean, some, regularisation * norm).out_of_sample
            return some.log_loss(some.calibrate(out, bends=True)(out))

        return min(REGULARISATIONS, key=loss)


def _fit(X: FeatureMatrix, mean: Features, targets: EncodedLabels, regularisation: float) -> LeastSquaresFit:
    """In the primal or the dual, whichever is smaller; the coefficients are those of the centred features (D, k)."""
    while True:
        if X.shape[1] < len(X):
            design = Design(lambda rows: X[rows] - mean, np.zeros_like(mean))
            fit = primal_fit(design, targets.signed, regularisation, weights=targets.weights, groups=targets.groups)
        else:
            centred = np.asarray(X) - mean
            fit = dual_fit(
                centred @ centred.T, targets.signed, regularisation, weights=targets.weights, groups=targets.groups, overwrite=True
            )
            if fit is not None:
                fit = LeastSquaresFit(centred.T @ fit.coefficients, fit.bias, fit.out_of_sample)
        if fit is not None:
            return fit
        regularisation *= 3
