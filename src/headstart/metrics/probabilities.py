"""Scores of probabilities, float (n, k): how right, how well ranked, how well calibrated.

Targets are integers (n,), column numbers, where each image has one label (rows then sum to 1); bool (n, k) where labels are independent.
Rankings take one class at a time (`positive` bool (n,), `scores` (n,)) or all at once (both (n, k)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Scores = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

_WORK = 10_000_000  # outcomes drawn, at most


def log_losses(targets: NDArray[Any], probabilities: Scores) -> Floats:
    """Return the negative log-likelihood of each image in nats, float64 (n,); of independent labels the mean binary cross-entropy.

    A probability of 0 counts as the smallest step of its float type (1.2e-7 for float32), so that one confident mistake costs
    about 16 nats and not infinity.
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities)
    if targets.ndim == 2:
        likelihood = np.where(targets, probabilities, 1 - probabilities)
    else:
        likelihood = probabilities[np.arange(len(targets)), targets][:, None]
    losses: Floats = -np.log(np.clip(likelihood, np.finfo(probabilities.dtype).eps, 1.0).astype(np.float64)).mean(axis=1)
    return losses


def log_loss(targets: NDArray[Any], probabilities: Scores) -> float:
    """Return the mean of `log_losses`; nan without images."""
    return float(log_losses(targets, probabilities).mean()) if len(targets) else math.nan


def brier_score(targets: NDArray[Any], probabilities: Scores) -> float:
    """Return the mean squared error of the probabilities: 0 is perfect.

    Two classes, and independent labels: the usual form, from 0 to 1. More classes: the sum over classes, from 0 to 2.
    Source: Brier, Monthly Weather Review 78 (1950) 1.
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities, dtype=np.float64)
    if not len(targets):
        return math.nan
    if targets.ndim == 2:
        return float(((probabilities - targets) ** 2).mean())
    errors = probabilities.copy()
    errors[np.arange(len(targets)), targets] -= 1
    total = float((errors**2).sum(axis=1).mean())
    return total / 2 if probabilities.shape[1] == 2 else total


def indicators(targets: NDArray[Any], *, count: int) -> Bools:
    """Return bool (n, count), one column for each class, from indices of classes (n,); a bool matrix is returned as it is."""
    targets = np.asarray(targets)
    found: Bools = targets.astype(bool, copy=False) if targets.ndim == 2 else targets[:, None] == np.arange(count)[None, :]
    return found


def roc_auc(positive: Bools, scores: Scores) -> Floats:
    """Return the area under the ROC curve of each column, float64 (k,); (1,) for vectors.

    It is the probability that a positive is scored above a negative, ties counting half (Mann-Whitney U by midranks);
    nan where there are no positives or no negatives.
    """
    positive, scores = _columns(positive, scores)
    n = len(positive)
    positives = positive.sum(axis=0)
    pairs = positives * (n - positives)
    wins = np.empty(positive.shape[1])
    for column in range(positive.shape[1]):
        labels, ends = _descending(positive[:, column], scores[:, column])
        hits = np.concatenate(([0], np.cumsum(labels)[ends]))
        misses = np.concatenate(([0], ends + 1 - hits[1:]))
        # Trapezoids between thresholds: within a group of equal scores each pair counts half.
        wins[column] = (np.diff(misses) * (hits[1:] + hits[:-1])).sum() / 2
    areas: Floats = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return areas


def average_precision(positive: Bools, scores: Scores) -> Floats:
    """Return the average precision of each column, float64 (k,): precision at each threshold, weighted by the recall gained there.

    No interpolation, the definition of scikit-learn; nan where there are no positives. The mean over classes is mAP.
    """
    positive, scores = _columns(positive, scores)
    result = np.full(positive.shape[1], np.nan)
    for column in np.flatnonzero(positive.any(axis=0)):
        labels, ends = _descending(positive[:, column], scores[:, column])
        hits = np.cumsum(labels)[ends]
        result[column] = (np.diff(hits, prepend=0) * (hits / (ends + 1))).sum() / hits[-1]
    return result


def roc_curve(positive: Bools, scores: Scores) -> tuple[Floats, Floats, Floats]:
    """Return false positive rates, true positive rates and thresholds, float64 (m,), from (0, 0) to (1, 1).

    One point for each distinct score, highest first, after a first one at threshold infinity; points on a straight line between
    their neighbours are left out, as they change neither the picture nor the area. Rates without a denominator are nan.
    `positive` and `scores` are vectors (n,).
    """
    labels, ends = _descending(np.asarray(positive, dtype=bool), np.asarray(scores))
    hits = np.concatenate(([0], np.cumsum(labels)[ends]))
    misses = np.concatenate(([0], ends + 1 - hits[1:]))
    thresholds = np.concatenate(([np.inf], np.sort(np.asarray(scores, dtype=np.float64))[::-1][ends]))
    bends = np.ones(len(hits), dtype=bool)
    bends[1:-1] = np.diff(hits)[:-1] * np.diff(misses)[1:] != np.diff(hits)[1:] * np.diff(misses)[:-1]
    hits, misses, thresholds = hits[bends], misses[bends], thresholds[bends]
    return _rates(misses), _rates(hits), thresholds


def precision_recall_curve(positive: Bools, scores: Scores) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and thresholds, float64 (m,), from the point (precision 1, recall 0) at threshold infinity downwards.

    One point for each distinct score, highest first; of a run of points of the same recall only the first and the last are kept, as those
    between them lie on their line. The area under its steps is the average precision. Recall without positives is nan. `positive` and
    `scores` are vectors (n,).
    """
    labels, ends = _descending(np.asarray(positive, dtype=bool), np.asarray(scores))
    hits = np.cumsum(labels)[ends] if len(ends) else np.empty(0, dtype=np.int64)
    thresholds = np.sort(np.asarray(scores, dtype=np.float64))[::-1][ends]
    precision = np.concatenate(([1.0], hits / (ends + 1)))
    recall = _rates(np.concatenate(([0], hits)))
    inside = np.diff(hits, prepend=0) == 0
    inside &= np.append(inside[1:], False)  # neither it nor the next one gains recall
    kept = np.concatenate(([True], ~inside))
    return precision[kept], recall[kept], np.concatenate(([np.inf], thresholds))[kept]


def defined_mean(values: Floats) -> float:
    """Return the mean of the values that are not nan, or nan when there are none."""
    there = ~np.isnan(values)
    return float(values[there].mean()) if there.any() else math.nan


def _columns(positive: Bools, scores: Scores) -> tuple[Bools, Scores]:
    positive, scores = np.asarray(positive, dtype=bool), np.asarray(scores)
    return (positive[:, None], scores[:, None]) if positive.ndim == 1 else (positive, scores)


def _descending(positive: Bools, scores: Scores) -> tuple[Bools, NDArray[np.int64]]:
    """Return the labels from the highest score down, and the last position of each run of equal scores."""
    order = np.argsort(-scores)  # the order among equal scores changes nothing below
    ranked = scores[order]
    if not len(ranked):
        return positive, np.empty(0, dtype=np.int64)
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    return positive[order], ends.astype(np.int64, copy=False)


def _rates(counts: NDArray[np.int64]) -> Floats:
    return counts / counts[-1] if counts[-1] else np.full(len(counts), np.nan)


@dataclass(frozen=True, eq=False)
class CalibrationBins:
    """Mean confidence and share of correct predictions in equally wide bins, float64 (bins,), nan where empty; images int64 (bins,)."""

    confidence: Floats
    accuracy: Floats
    images: NDArray[np.int64]


def calibration_bins(confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_], *, bins: int = 15) -> CalibrationBins:
    """Sort predictions (m,) by their confidence from 0 to 1 into `bins` bins (low, high], the first one with its 0."""
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
    """Return the mean gap between confidence and share of correct predictions over `bins` equally wide bins, weighted by images; 0 to 1.

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
    """Return the `expected_calibration_error` of perfectly calibrated predictions: its mean and its middle 95 %.

    The error is never 0 on a finite number of images, and the fewer there are, the larger it is by chance alone. Which predictions are
    correct is drawn `draws` times, by default 200 or fewer for very many, with the probabilities `confidence` (m,); nan where there are
    none.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    if not len(confidence):
        return math.nan, math.nan, math.nan
    generator = np.random.default_rng(seed)
    draws = int(np.clip(_WORK // len(confidence), 20, 200)) if draws is None else draws
    found = [expected_calibration_error(confidence, generator.random(len(confidence)) < confidence, bins=bins) for _ in range(draws)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(np.mean(found)), float(low), float(high)


def accuracy_coverage(confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Return coverage, accuracy and thresholds, float64 (m,), one for each distinct confidence, the highest first.

    At a threshold, the predictions (n,) of that confidence or more are given: `coverage` is their share of all, `accuracy` the share of
    them that is correct. The last coverage is 1. Source: El-Yaniv and Wiener, Journal of Machine Learning Research 11 (2010) 1605.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-confidence, kind="stable")
    ranked, right = confidence[order], np.cumsum(np.asarray(correct, dtype=np.int64)[order])
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1) if len(ranked) else np.empty(0, dtype=np.int64)
    answered = ends + 1
    return answered / max(1, len(ranked)), right[ends] / answered, ranked[ends]
