"""Two classifiers on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.metrics.intervals import NORMAL_975


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
    centre, half = (b - c) / n, NORMAL_975 * math.sqrt(max(b + c - (b - c) ** 2 / n, 0.0)) / n
    return PairedDifference(
        (more - fewer) / count, (max(-1.0, centre - half), min(1.0, centre + half)), _sign_test(more, fewer), more, fewer
    )  # fmt: skip


def _sign_test(more: int, fewer: int) -> float:
    """How likely so uneven two counts are, or more, where each of their images is as likely in the one as in the other."""
    apart, ways, total = more + fewer, 1, 1
    for k in range(min(more, fewer)):
        ways = ways * (apart - k) // (k + 1)  # from k to k + 1 of them; whole numbers, as floats have no 2^-10000
        total += ways
    return min(1.0, float(2 * total / 2**apart))


@dataclass(frozen=True)
class AucDifference:
    """How much larger the area under the ROC curve of the first of two classifiers is.

    Attributes:
        first, second: the areas, means over the classes that have both kinds of images.
        value: their difference.
        interval: 95 % confidence interval of it; nan where both rank every image equally well, as its variance is then unknown.
        p_value: how likely a difference as large as that is by chance; 1 where there is none, nan where it is unknown.
    """

    first: float
    second: float
    value: float
    interval: tuple[float, float]
    p_value: float


def auc_difference(positive: NDArray[np.bool_], first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> AucDifference:
    """Compare two classifiers by how they rank the same images.

    For one class (or two) it is the paired test of DeLong, DeLong and Clarke-Pearson (Biometrics 44 (1988) 837). For more, the classes'
    areas are averaged, and so are the parts that each image contributes to their errors. Images are taken as independent.

    Args:
        positive: bool (n,) or (n, k), which image has which label.
        first: scores of the first classifier, of the same shape.
        second: of the second one.

    Raises:
        ParameterError: arrays of different shapes, or no class that some images have and others have not.
    """
    positive = np.asarray(positive, dtype=bool)
    scores = [np.asarray(values) for values in (first, second)]
    if any(values.shape != positive.shape for values in scores):
        raise ParameterError(
            f"A paired comparison needs the same images twice, got {positive.shape}, {scores[0].shape} and {scores[1].shape}."
        )
    if positive.ndim == 1:
        positive, scores = positive[:, None], [values[:, None] for values in scores]
    columns = np.flatnonzero(positive.any(axis=0) & ~positive.all(axis=0))
    if not len(columns):
        raise ParameterError("An area under the ROC curve needs a class that some of the images have and others have not.")
    areas, parts = np.zeros(2), np.zeros((2, len(positive)))
    for column in columns:
        for index, values in enumerate(scores):
            area, contribution = _placements(positive[:, column], values[:, column])
            areas[index] += area / len(columns)
            parts[index] += contribution / len(columns)
    value, error = float(areas[0] - areas[1]), float(np.sqrt(((parts[0] - parts[1]) ** 2).sum()))
    if error < 1e-12:
        return AucDifference(float(areas[0]), float(areas[1]), value, (math.nan, math.nan), 1.0 if abs(value) < 1e-12 else math.nan)
    low, high = max(-1.0, value - NORMAL_975 * error), min(1.0, value + NORMAL_975 * error)
    return AucDifference(float(areas[0]), float(areas[1]), value, (low, high), math.erfc(abs(value) / error / math.sqrt(2)))


def _placements(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> tuple[float, NDArray[np.float64]]:
    """The area, and for each image (n,) a part whose squares sum up to the variance of the area.

    It is the share of images of the other kind that the image is ranked rightly against, less the area, over the root of m (m - 1).
    """
    above, below = scores[positive], scores[~positive]
    parts = np.empty(len(scores))
    parts[positive] = _share_below(above, np.sort(below))
    parts[~positive] = 1 - _share_below(below, np.sort(above))
    area = float(parts[positive].mean())
    for kind in (positive, ~positive):
        count = int(kind.sum())
        parts[kind] = (parts[kind] - area) / math.sqrt(count * max(1, count - 1))
    return area, parts


def _share_below(values: NDArray[np.floating[Any]], ranked: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The share of `ranked` below each value, equal ones counting half."""
    shares: NDArray[np.float64] = (np.searchsorted(ranked, values, "left") + np.searchsorted(ranked, values, "right")) / (2 * len(ranked))
    return shares


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p values corrected for their number, so that the chance of even one false alarm keeps to its bound; nan stays nan.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65.
    """
    given = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(given))
    order = known[np.argsort(given[known], kind="stable")]
    found = given.copy()
    found[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return tuple(found.tolist())
