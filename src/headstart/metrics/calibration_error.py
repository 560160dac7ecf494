"""How far confidence is from truth: of what is said with 80 % confidence, 80 % should come true."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_WORK = 10_000_000  # statements drawn, at most


@dataclass(frozen=True, eq=False)
class CalibrationBins:
    """Mean confidence and share come true in each of the equally wide bins, float64 (bins,), nan where empty; images int64 (bins,)."""

    confidence: Floats
    accuracy: Floats
    images: NDArray[np.int64]


def calibration_bins(confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_], *, bins: int = 15) -> CalibrationBins:
    """Sort statements (m,) by their confidence from 0 to 1 into `bins` bins (low, high], the first one with its 0."""
    confidence = np.asarray(confidence, dtype=np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    filled = images > 0
    means = [
        np.divide(np.bincount(place, weights=values, minlength=bins), images, out=np.full(bins, np.nan), where=filled)
        for values in (confidence, np.asarray(correct, dtype=np.float64))
    ]
    return CalibrationBins(means[0], means[1], images.astype(np.int64, copy=False))


def expected_calibration_error(confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_], *, bins: int = 15) -> float:
    """Return the mean gap between confidence and share come true over `bins` equally wide bins, weighted by images; 0 to 1.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.
    """
    found = calibration_bins(confidence, correct, bins=bins)
    total = int(found.images.sum())
    if not total:
        return math.nan
    filled = found.images > 0
    return float((np.abs(found.accuracy - found.confidence)[filled] * found.images[filled]).sum() / total)


def calibration_error_by_chance(
    confidence: NDArray[np.floating[Any]], *, bins: int = 15, draws: int | None = None, seed: int = 0
) -> tuple[float, float, float]:
    """Return what `expected_calibration_error` would be if every confidence were exactly true: mean, and the middle 95 %.

    The error is never 0 on a finite number of images, and the fewer there are, the larger it is by chance alone. What comes true is drawn
    `draws` times, by default 200 or fewer for very many, with the probabilities `confidence` (m,); nan where there are none.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    if not len(confidence):
        return math.nan, math.nan, math.nan
    generator = np.random.default_rng(seed)
    draws = int(np.clip(_WORK // len(confidence), 20, 200)) if draws is None else draws
    found = [expected_calibration_error(confidence, generator.random(len(confidence)) < confidence, bins=bins) for _ in range(draws)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(np.mean(found)), float(low), float(high)
