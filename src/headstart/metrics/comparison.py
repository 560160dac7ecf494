"""Two classifiers on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError

_NORMAL_975 = 1.959963984540054


@dataclass(frozen=True)
class PairedDifference:
    """How much more often the first of two classifiers is right.

    Attributes:
        value: share of images that the first gets right, minus that of the second.
        interval: 95 % confidence interval of it.
        p_value: of the exact McNemar test: how likely so uneven a count of images that only one of them got right is by chance.
        first_only, second_only: these counts.
    """

    value: float
    interval: tuple[float, float]
    p_value: float
    first_only: int
    second_only: int


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedDifference:
    """Compare two classifiers by the images that each got right, bool (n,) both.

    The interval is Wald's with half an image added to each of the four counts (Agresti and Min, Statistics in Medicine 24 (2005) 729). The
    test is McNemar's (Psychometrika 12 (1947) 153) with exact binomial probabilities.

    Raises:
        ParameterError: arrays of different lengths, or empty ones.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ParameterError(f"A paired comparison needs the same images twice, got {first.shape} and {second.shape}.")
    more, fewer, count = int((first & ~second).sum()), int((second & ~first).sum()), len(first)
    b, c, n = more + 0.5, fewer + 0.5, count + 2.0
    centre, half = (b - c) / n, _NORMAL_975 * math.sqrt(max(b + c - (b - c) ** 2 / n, 0.0)) / n
    apart = more + fewer
    tail = sum(math.comb(apart, k) for k in range(min(more, fewer) + 1)) / 2**apart
    return PairedDifference(
        (more - fewer) / count, (max(-1.0, centre - half), min(1.0, centre + half)), min(1.0, 2 * tail), more, fewer
    )  # fmt: skip
