"""Scores of a ranking: how well what has the label is put before what has it not.

Each takes one class at a time (`positive` bool (n,), `scores` (n,)) or all at once (`positive` bool (n, k), `scores` (n, k)).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Scores = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]


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
