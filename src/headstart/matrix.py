"""Matrices of features that are read in blocks of rows, so that no second copy of a large one is ever made.

A part of the rows is a view of them: of consecutive rows NumPy's own, else a `RowView`, which gathers rows when they are read. A map (see
`headstart.maps`) is applied in the same way. What is small is copied, because that is faster.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = slice | npt.NDArray[np.integer[Any]]
SMALL = 64 << 20
"""Bytes up to which rows are copied or mapped at once."""
MAPPED = 2 << 30
"""Bytes from which on a matrix lies in a file."""
BLOCK = 1024

_EXACT = 160  # columns up to which all principal axes are computed
_ENOUGH = 4096  # about so many rows tell the axes
_SPARE = 16
_ROUNDS = 4


class RowView:
    """Rows of a matrix (n, D), as float32, and what a map makes of them (n, d); they are made whenever they are read.

    Reading is by a slice or by row numbers; `numpy.asarray` makes the whole matrix.

    Attributes:
        shape: (n, d).
    """

    dtype, ndim = np.dtype(np.float32), 2

    def __init__(
        self, base: FeatureMatrix, rows: npt.NDArray[np.int64] | None = None, *,
        map: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] | None = None, width: int | None = None,
    ) -> None:  # fmt: skip
        self._base, self._rows, self._map = base, rows, map
        self.shape: tuple[int, int] = (len(base if rows is None else rows), base.shape[1] if width is None else width)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, rows: Rows) -> npt.NDArray[np.float32]:
        found = np.asarray(self._base[rows if self._rows is None else self._rows[rows]], dtype=np.float32)
        return found if self._map is None else self._map(found)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        whole = np.empty(self.shape, dtype=self.dtype if dtype is None else dtype)
        for rows in blocks(len(self)):
            whole[rows] = self[rows]
        return whole


FeatureMatrix: TypeAlias = npt.NDArray[np.float32] | RowView


def allocated(rows: int, columns: int, *, folder: Path | None = None, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """A matrix to be filled; one of more than `MAPPED` bytes in a file without a name in `folder`, so that the system can page it out.

    Where the folder has no room for it, it lies in memory like any other.
    """
    size = np.dtype(dtype).itemsize * rows * columns
    if size > MAPPED and folder is not None:
        with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # a file with holes would end the process when the disk is full
                os.posix_fallocate(file.fileno(), 0, size)
            return np.asarray(np.memmap(file, dtype=dtype, mode="w+", shape=(rows, columns)))
    return np.empty((rows, columns), dtype=dtype)


def compacted(matrix: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Some rows, in ascending order, moved to the front of the matrix, and a view of them."""
    if len(rows) < len(matrix):
        for block in blocks(len(rows)):
            matrix[block] = matrix[rows[block]]
    return matrix[: len(rows)]


def spread_out(matrix: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> None:
    """The inverse of `compacted`: move the first rows to the places `rows`, which ascend."""
    if len(rows) < len(matrix):
        for block in reversed(list(blocks(len(rows)))):
            matrix[rows[block]] = matrix[block].copy()


def take_rows(matrix: FeatureMatrix, rows: npt.NDArray[np.int64]) -> FeatureMatrix:
    """Some rows: a view where they are consecutive, a copy where that is small, else a `RowView`. Not to be written to."""
    if isinstance(matrix, np.ndarray) and len(rows) and (np.diff(rows) == 1).all():
        return matrix[rows[0] : rows[-1] + 1]
    return matrix[rows] if 4 * len(rows) * matrix.shape[1] <= SMALL else RowView(matrix, rows)


def columns_of(
    matrix: FeatureMatrix, rows: npt.NDArray[np.int64], start: int, stop: int, *, dtype: npt.DTypeLike = np.float32
) -> npt.NDArray[Any]:  # fmt: skip
    """A copy of consecutive columns of some rows, which is all the memory that is taken."""
    part = np.empty((len(rows), stop - start), dtype=dtype)
    for block in blocks(len(rows)):
        part[block] = matrix[rows[block]][:, start:stop]
    return part


def blocks(count: int, size: int = BLOCK) -> Iterator[slice]:
    """Slices of at most `size` rows that cover `count` of them in order."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def column_means(matrix: FeatureMatrix) -> npt.NDArray[np.float64]:
    """Mean of each column, float64 (D,)."""
    total = np.zeros(matrix.shape[1])
    for rows in blocks(len(matrix)):
        total += matrix[rows].sum(axis=0, dtype=np.float64)
    return total / max(1, len(matrix))


def column_moments(matrix: FeatureMatrix) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and variance of each column, float64 (D,) each; the rows are read once.

    Source: Chan, Golub and LeVeque, Algorithms for computing the sample variance, Am. Stat. 37 (1983) 242.
    """
    mean, squares = np.zeros((2, matrix.shape[1]))
    for rows in blocks(len(matrix)):
        block, before = matrix[rows], rows.start
        own = block.mean(axis=0, dtype=np.float64)
        centred = block - own.astype(np.float32)
        away = own - mean
        squares += np.einsum("ij,ij->j", centred, centred) + away**2 * (before * len(block) / (before + len(block)))
        mean += away * (len(block) / (before + len(block)))
    return mean, squares / max(1, len(matrix))


def first_not_finite(matrix: FeatureMatrix) -> tuple[int, int]:
    """How many rows hold NaN or infinite values, and the number of the first."""
    count, first = 0, -1
    with np.errstate(invalid="ignore"):  # of infinities of both signs, the sum is nan
        for rows in blocks(len(matrix)):
            wrong = np.flatnonzero(~np.isfinite(matrix[rows].sum(axis=1, dtype=np.float64)))
            if len(wrong) and not count:
                first = rows.start + int(wrong[0])
            count += len(wrong)
    return count, first


def principal_axes(centred: npt.NDArray[np.float32], count: int, *, seed: int) -> npt.NDArray[np.float32]:
    """The `count` directions (d, count) in which centred features (n, d) vary most; fewer where there are fewer features or images.

    Many features: by subspace iteration from a random start (Halko, Martinsson and Tropp, SIAM Review 53 (2011) 217).
    """
    centred = centred[:: max(1, len(centred) // _ENOUGH)]
    n, d = centred.shape
    count = max(1, min(count, d, n // 3))
    if d <= _EXACT:
        basis = np.eye(d, dtype=np.float32)
    else:
        basis = np.random.default_rng(seed).standard_normal((d, min(d, count + _SPARE)), dtype=np.float32)
        for _ in range(_ROUNDS):
            basis = centred.T @ (centred @ np.linalg.qr(basis)[0])
            # scaled, because float32 ends at 1e38
            basis /= max(float(np.abs(basis).max()), 1e-30)
        basis = np.linalg.qr(basis)[0]
    inside = (centred @ basis).astype(np.float64)
    turned = np.linalg.eigh(inside.T @ inside)[1][:, ::-1][:, :count]
    return np.ascontiguousarray(basis @ turned.astype(np.float32))
