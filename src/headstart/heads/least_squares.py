"""Weighted regularised least squares with a free bias, and what every fit without one image (or one group) would have said.

The fit minimises  sum_i w_i (y_i - f(x_i))^2 + r |f|^2  with  f(x) = sum_j a_j k(x, x_j) + b. With A = K + r diag(1/w) the
coefficients solve

    [A  1] [a]   [y]
    [1' 0] [b] = [0]

and, C being the inverse of that matrix, the residuals of the fit without the images G are  inv(C_GG) a_G  (Cawley and Talbot 2004 for
one image at a time). Where there are more images than features the same is said in the primal, with the hat matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import get_blas_funcs, get_lapack_funcs

Matrix = npt.NDArray[Any]
Groups = npt.NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class LeastSquaresFit:
    """Coefficients (rows, k), bias (k,), and out-of-sample scores (n, k)."""

    coefficients: Matrix
    bias: Matrix
    out_of_sample: Matrix


def dual_fit(
    kernel: Matrix, goals: Matrix, regularisation: float, *, weights: Matrix | None = None, groups: Groups = None, overwrite: bool = False
) -> LeastSquaresFit | None:
    """Fit with the kernel matrix (n, n), float32 or float64, symmetric, to goals (n, k).

    Args:
        kernel: symmetric, positive semi-definite.
        goals: (n, k).
        regularisation: r > 0 above.
        weights: of the images (n,), all positive.
        groups: numbers (n,); the out-of-sample score of an image then comes from a fit without its whole group.
        overwrite: the kernel's memory may be used.

    Returns:
        None where the matrix is not positive definite in its precision.
    """
    n = len(kernel)
    a = np.array(kernel.T, order="F", copy=not overwrite or None)
    a[np.diag_indices(n)] += regularisation if weights is None else (regularisation / weights).astype(a.dtype)
    potrf, trtri = get_lapack_funcs(("potrf", "trtri"), (a,))
    upper, failed = potrf(a, lower=0, clean=1, overwrite_a=1)
    if failed:
        return None
    inverse, failed = trtri(upper, lower=0, overwrite_c=1)
    if failed or not np.isfinite(inverse[0, -1]):
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
            square = np.einsum("ij,ij->i", inverse[single], inverse[single]) - ones[single, 0] ** 2 / total
            residual[single] = coefficients[single] / square[:, None]
        else:
            rows = inverse[many]
            residual[many] = _solve(rows @ rows.T - ones[many] * ones[many].T / total, coefficients[many])
    return LeastSquaresFit(coefficients, bias, goals - residual)


def primal_fit(
    design: Matrix, goals: Matrix, regularisation: float, *, weights: Matrix | None = None, groups: Groups = None, overwrite: bool = False
) -> LeastSquaresFit | None:
    """The same for a linear kernel, from the design matrix (n, p): quicker where n > p. Coefficients are (p, k)."""
    n, p = design.shape
    weight = np.ones(n, dtype=design.dtype) if weights is None else weights.astype(design.dtype)
    total = float(weight.sum(dtype=np.float64))
    mean = (weight @ design / total).astype(design.dtype)
    goal_mean = (weight @ goals / total).astype(np.float64)
    root = np.sqrt(weight)[:, None]
    centred = np.subtract(design, mean, out=design if overwrite else None)
    if weights is not None:
        centred *= root
    gram = centred.T @ centred
    gram[np.diag_indices(p)] += regularisation
    potrf, trtri = get_lapack_funcs(("potrf", "trtri"), (gram,))
    upper, failed = potrf(gram.T, lower=0, clean=1, overwrite_a=1)
    if failed:
        return None
    inverse, _ = trtri(upper, lower=0, overwrite_c=1)
    centred_goals = ((goals - goal_mean) * root).astype(design.dtype)
    coefficients = inverse @ (inverse.T @ (centred.T @ centred_goals))
    residual = centred_goals - centred @ coefficients
    left = np.empty_like(residual)
    for single, many in _parts(groups, n):
        if many is None:
            hat = _row_squares(centred, inverse, single) + weight[single] / total
            left[single] = residual[single] / np.maximum(1 - hat, np.finfo(design.dtype).eps)[:, None]
        else:
            rows = centred[many] @ inverse
            hats = rows @ rows.T + root[many] * root[many].T / total
            left[many] = _solve(np.eye(len(many), dtype=design.dtype) - hats, residual[many])
    bias = goal_mean - (mean @ coefficients).astype(np.float64)
    return LeastSquaresFit(coefficients, bias, goals - left / root)


def _row_squares(rows: Matrix, upper: Matrix, which: Any) -> Matrix:
    """|row @ upper|^2 for the rows named, in blocks."""
    (trmm,) = get_blas_funcs(("trmm",), (rows,))
    numbers = np.arange(len(rows))[which]
    squares = np.empty(len(numbers), dtype=rows.dtype)
    for start in range(0, len(numbers), 2048):
        product = trmm(1.0, upper, rows[numbers[start : start + 2048]].T, trans_a=1)
        squares[start : start + 2048] = np.einsum("ij,ij->j", product, product)
    return squares


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
