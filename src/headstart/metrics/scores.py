"""Scores of decisions (which class, or which labels, were predicted) and of probabilities (how right, how well ranked, how calibrated).

Targets and decisions are integers (n,), column numbers, where each image has one label; bool (n, k) where labels are independent.
Probabilities are float (n, k), and their rows sum to 1 where each image has one label. Rankings take one class at a time (`positive`
bool (n,), `scores` (n,)) or all at once (both (n, k)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.metrics.link import link_of

Integers = NDArray[np.integer[Any]]
Labels = NDArray[Any]  # integers (n,) or bool (n, k)
Bools = NDArray[np.bool_]
Scores = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

_WORK = 10_000_000  # outcomes drawn, at most


def accuracy(targets: Labels, predicted: Labels) -> float:
    """The share of correct decisions; of independent labels, of images all of whose labels are correct (subset accuracy)."""
    return float(link_of(targets).correct(predicted, targets).mean()) if len(targets) else math.nan


def confusion_matrix(targets: Integers, predicted: Integers, *, count: int) -> NDArray[np.int64]:
    """Int64 (count, count): row i, column j is the number of images of class i that were predicted as class j."""
    cells = np.asarray(targets, dtype=np.int64) * count + np.asarray(predicted, dtype=np.int64)
    return np.bincount(cells, minlength=count * count).reshape(count, count).astype(np.int64, copy=False)


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Precision, recall and F1 of each class, float64 (k,), and how many images have it, int64 (k,).

    ``nan`` stands for what is undefined: the recall of a class without images, the precision of a class never predicted,
    the F1 of a class that is both.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    images: NDArray[np.int64]


def precision_recall_f1(targets: Labels, predicted: Labels, *, count: int | None = None) -> ClassScores:
    """The ClassScores of `count` classes; for a bool (n, k) matrix `count` is k and may be left out."""
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    if targets.ndim == 2:
        hits, chosen, images = (targets & predicted).sum(axis=0), predicted.sum(axis=0), targets.sum(axis=0)
    else:
        if count is None:
            raise ParameterError("precision_recall_f1 needs count, the number of classes, when the targets are indices of classes.")
        confusion = confusion_matrix(targets, predicted, count=count)
        hits, chosen, images = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    return ClassScores(ratio(hits, chosen), ratio(hits, images), ratio(2 * hits, chosen + images), images.astype(np.int64))


def class_average(values: Floats, images: NDArray[np.int64], *, weighted: bool = False) -> float:
    """The mean of `values` (k,) over the classes with images, by class or by image; nan when there are none.

    A class that has images and an undefined value (the precision of a class that is never predicted) counts as 0:
    leaving it out would reward a model for giving up on a class.
    """
    there = images > 0
    if not there.any():
        return math.nan
    return float(np.average(np.nan_to_num(values[there], nan=0.0), weights=images[there] if weighted else None))


def micro_scores(targets: Bools, predicted: Bools) -> tuple[float, float, float]:
    """Precision, recall and F1 over all labels of all images together; bool (n, k) both."""
    together = precision_recall_f1(np.asarray(targets).reshape(-1, 1), np.asarray(predicted).reshape(-1, 1))
    return float(together.precision[0]), float(together.recall[0]), float(together.f1[0])


def hamming_loss(targets: Bools, predicted: Bools) -> float:
    """The share of single labels that are wrong, over all images and labels; bool (n, k) both."""
    wrong = np.asarray(targets) != np.asarray(predicted)
    return float(wrong.mean()) if wrong.size else math.nan


def top_k_accuracy(targets: Integers, scores: Scores, *, k: int) -> float:
    """The share of images whose class is among the `k` with the highest scores (n, classes).

    Of equal scores the earlier class goes first, as in ``argmax``, so that ``k=1`` is the accuracy.
    """
    targets, scores = np.asarray(targets), np.asarray(scores)
    if not len(targets):
        return math.nan
    own = scores[np.arange(len(targets)), targets][:, None]
    earlier = np.arange(scores.shape[1])[None, :] < targets[:, None]
    ahead = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return float((ahead < k).mean())


def log_losses(targets: Labels, probabilities: Scores) -> Floats:
    """The negative log-likelihood of each image in nats, float64 (n,); of independent labels the mean binary cross-entropy.

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


def log_loss(targets: Labels, probabilities: Scores) -> float:
    """The mean of `log_losses`; nan without images."""
    return float(log_losses(targets, probabilities).mean()) if len(targets) else math.nan


def brier_score(targets: Labels, probabilities: Scores) -> float:
    """The mean squared error of the probabilities: 0 is perfect.

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


def indicators(targets: Labels, *, count: int) -> Bools:
    """Bool (n, count), one column for each class, from indices of classes (n,); a bool matrix is returned as it is."""
    targets = np.asarray(targets)
    found: Bools = targets.astype(bool, copy=False) if targets.ndim == 2 else targets[:, None] == np.arange(count)[None, :]
    return found


def roc_auc(positive: Bools, scores: Scores) -> Floats:
    """The area under the ROC curve of each column, float64 (k,); (1,) for vectors.

    It is the probability that a positive is scored above a negative, ties counting half (Mann-Whitney U by midranks);
    nan where there are no positives or no negatives.
    """
    positive, scores = _columns(positive, scores)
    positives = positive.sum(axis=0)
    wins = np.empty(positive.shape[1])
    for column in range(positive.shape[1]):
        hits, misses, _ = at_thresholds(positive[:, column], scores[:, column])
        # Trapezoids between thresholds: within a group of equal scores each pair counts half.
        wins[column] = (np.diff(misses) * (hits[1:] + hits[:-1])).sum() / 2
    return ratio(wins, positives * (len(positive) - positives))


def average_precision(positive: Bools, scores: Scores) -> Floats:
    """The average precision of each column, float64 (k,): precision at each threshold, weighted by the recall gained there.

    No interpolation, the definition of scikit-learn; nan where there are no positives. The mean over classes is mAP.
    """
    positive, scores = _columns(positive, scores)
    result = np.full(positive.shape[1], np.nan)
    for column in np.flatnonzero(positive.any(axis=0)):
        hits, misses, _ = at_thresholds(positive[:, column], scores[:, column])
        result[column] = (np.diff(hits) * (hits / np.maximum(hits + misses, 1))[1:]).sum() / hits[-1]
    return result


def roc_curve(positive: Bools, scores: Scores) -> tuple[Floats, Floats, Floats]:
    """False positive rates, true positive rates and thresholds of vectors (n,), float64 (m,), from (0, 0) to (1, 1).

    One point for each distinct score, highest first, after a first one at threshold infinity; points on a straight line between
    their neighbours are left out, as they change neither the picture nor the area. Rates without a denominator are nan.
    """
    hits, misses, thresholds = at_thresholds(positive, scores)
    bends = np.ones(len(hits), dtype=bool)
    bends[1:-1] = np.diff(hits)[:-1] * np.diff(misses)[1:] != np.diff(hits)[1:] * np.diff(misses)[:-1]
    return _rates(misses[bends]), _rates(hits[bends]), thresholds[bends]


def precision_recall_curve(positive: Bools, scores: Scores, *, positives: int | None = None) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and thresholds of vectors (n,), float64 (m,), from (precision 1, recall 0) at threshold infinity downwards.

    One point for each distinct score, highest first; of a run of points of the same recall only the first and the last are kept, as those
    between them lie on their line. The area under its steps is the average precision. Recall without positives is nan. `positives` is how
    many there are in all, where some of them have no score.
    """
    hits, misses, thresholds = at_thresholds(positive, scores)
    precision = np.append(1.0, hits[1:] / (hits + misses)[1:])
    inside = np.diff(hits) == 0
    inside &= np.append(inside[1:], False)  # neither it nor the next one gains recall
    kept = np.append(True, ~inside)
    return precision[kept], _rates(hits, positives)[kept], thresholds[kept]


def defined_mean(values: Floats) -> float:
    """The mean of the values that are not nan, or nan when there are none."""
    there = ~np.isnan(values)
    return float(values[there].mean()) if there.any() else math.nan


def at_thresholds(positive: Bools, scores: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """How many positives and negatives reach each threshold, int64 (m + 1,) both, and the thresholds, float64 (m + 1,).

    The thresholds are the m distinct scores, the highest first, after infinity. `positive` and `scores` are vectors (n,).
    """
    positive, scores = np.asarray(positive, dtype=bool), np.asarray(scores)
    order = np.argsort(-scores)  # the order among equal scores changes nothing below
    ranked = scores[order].astype(np.float64)
    last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]  # of each run of equal scores
    hits = np.append(0, np.cumsum(positive[order], dtype=np.int64)[last])
    reached = np.append(0, np.flatnonzero(last) + 1)
    return hits, reached - hits, np.append(np.inf, ranked[last])


def ratio(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    """Divide arrays of one shape, with nan for 0 / 0."""
    shares: Floats = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)
    return shares


def _columns(positive: Bools, scores: Scores) -> tuple[Bools, Scores]:
    positive, scores = np.asarray(positive, dtype=bool), np.asarray(scores)
    return (positive[:, None], scores[:, None]) if positive.ndim == 1 else (positive, scores)


def _rates(counts: NDArray[np.int64], total: int | None = None) -> Floats:
    total = counts[-1] if total is None else total
    return counts / total if total else np.full(len(counts), np.nan)


@dataclass(frozen=True, eq=False)
class CalibrationBins:
    """Mean confidence and share of correct predictions in equally wide bins, float64 (bins,), nan where empty; images int64 (bins,)."""

    confidence: Floats
    accuracy: Floats
    images: NDArray[np.int64]


def _bin_of(confidence: NDArray[Any], bins: int) -> NDArray[np.int64]:
    place: NDArray[np.int64] = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return place


def calibration_bins(confidence: Scores, correct: Bools, *, bins: int = 15) -> CalibrationBins:
    """Sort predictions (m,) by their confidence from 0 to 1 into `bins` bins (low, high], the first one with its 0."""
    confidence = np.asarray(confidence, dtype=np.float64)
    place = _bin_of(confidence, bins)
    images = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=values, minlength=bins) for values in (confidence, np.asarray(correct, dtype=np.float64))]
    return CalibrationBins(ratio(sums[0], images), ratio(sums[1], images), images.astype(np.int64, copy=False))


def expected_calibration_error(confidence: Scores, correct: Bools, *, bins: int = 15) -> float:
    """The mean gap between confidence and share of correct predictions over `bins` equally wide bins, weighted by images; 0 to 1.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.
    """
    found = calibration_bins(confidence, correct, bins=bins)
    total = int(found.images.sum())
    if not total:
        return math.nan
    filled = found.images > 0
    return float((np.abs(found.accuracy - found.confidence)[filled] * found.images[filled]).sum() / total)


def calibration_error_by_chance(
    confidence: Scores, *, bins: int = 15, draws: int | None = None, seed: int = 0
) -> tuple[float, float, float]:  # fmt: skip
    """The `expected_calibration_error` of perfectly calibrated predictions: its mean and its middle 95 %; nan where there are none.

    The error is never 0 on a finite number of images, and the fewer there are, the larger it is by chance alone. Which predictions are
    correct is drawn `draws` times, by default 200 or fewer for very many, with the probabilities `confidence` (m,).
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    if not len(confidence):
        return math.nan, math.nan, math.nan
    generator = np.random.default_rng(seed)
    draws = int(np.clip(_WORK // len(confidence), 20, 200)) if draws is None else draws
    place = _bin_of(confidence, bins)
    expected = np.bincount(place, weights=confidence, minlength=bins)
    found = []
    for _ in range(draws):
        right = np.bincount(place[generator.random(len(confidence)) < confidence], minlength=bins)
        found.append(np.abs(right - expected).sum() / len(confidence))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(np.mean(found)), float(low), float(high)


def accuracy_coverage(confidence: Scores, correct: Bools) -> tuple[Floats, Floats, Floats]:
    """Coverage, accuracy and thresholds, float64 (m,), one for each distinct confidence, the highest first.

    At a threshold, the predictions (n,) of that confidence or more are given: `coverage` is their share of all, `accuracy` the share of
    them that is correct. The last coverage is 1. Source: El-Yaniv and Wiener, Journal of Machine Learning Research 11 (2010) 1605.
    """
    hits, misses, thresholds = at_thresholds(correct, confidence)
    answered = (hits + misses)[1:]
    return answered / max(1, len(confidence)), hits[1:] / answered, thresholds[1:]
