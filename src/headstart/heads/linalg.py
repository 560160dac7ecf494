"""Squared Euclidean distances in float32 and in blocks of rows, so that working memory does not grow with the images; and BLAS threads.

Many small matrix products in two threads spend their time waiting for each other as soon as another process wants the processor (ten
times as long was measured on a busy machine), so that loops over these run in one thread each, side by side where there are several.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import cast

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from headstart.matrix import FeatureMatrix, blocks

Features = npt.NDArray[np.float32]


def mean_square(rows: FeatureMatrix, mean: Features) -> float:
    """Mean of |x - mean|^2 over the rows (n, D)."""
    total = 0.0
    for block in blocks(len(rows)):
        centred = rows[block] - mean
        total += float(np.einsum("ij,ij->", centred, centred, dtype=np.float64))
    return total / len(rows)


def squared_norms(rows: Features) -> npt.NDArray[np.float32]:
    """|x|^2 of each row, float32 (n,)."""
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def squared_distances(a: Features, b: Features) -> npt.NDArray[np.float32]:
    """Squared distances of the rows of `a` (n, D) to those of `b` (m, D): float32 (n, m), never negative; 0 with itself."""
    distances = a @ b.T
    norms_a, norms_b = squared_norms(a), squared_norms(b)
    for rows in blocks(len(a)):
        block = distances[rows]
        block *= -2
        block += norms_a[rows, None]
        block += norms_b
        np.maximum(block, 0, out=block)
    if a is b:
        np.fill_diagonal(distances, 0)
    return distances


def gaussian(distances: npt.NDArray[np.float32], gamma: float, *, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """exp(-gamma * distances); `out` may be `distances` itself."""
    result = np.empty_like(distances) if out is None else out
    for rows in blocks(len(distances)):
        np.multiply(distances[rows], np.float32(-gamma), out=result[rows])
        np.exp(result[rows], out=result[rows])
    return result


def median_distance(distances: npt.NDArray[np.float32]) -> float:
    """Median of the squared distances between different images; 1 where all are the same."""
    rows = distances[:: max(1, len(distances) // 256)]
    positive = rows[rows > 0]
    return float(np.median(positive)) if len(positive) else 1.0


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """Within the returned context every BLAS call of this process uses one thread."""
    return cast("AbstractContextManager[object]", _controller().limit(limits=1, user_api="blas"))
