"""Scores of decisions: which class, or which labels, were predicted.

`targets` and `predicted` are integers (n,), column numbers, where each image has one label; bool (n, k) where labels are independent.
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
Floats = NDArray[np.float64]


def accuracy(targets: Labels, predicted: Labels) -> float:
    """Return the share of correct decisions; of independent labels, of images all of whose labels are correct (subset accuracy)."""
    return float(link_of(targets).correct(predicted, targets).mean()) if len(targets) else math.nan


def confusion_matrix(targets: Integers, predicted: Integers, *, count: int) -> NDArray[np.int64]:
    """Return int64 (count, count): row i, column j is the number of images of class i that were predicted as class j."""
    cells = np.asarray(targets, dtype=np.int64) * count + np.asarray(predicted, dtype=np.int64)
    return np.bincount(cells, minlength=count * count).reshape(count, count).astype(np.int64, copy=False)


def balanced_accuracy(targets: Integers, predicted: Integers, *, count: int) -> float:
    """Return the mean recall of the classes that occur in `targets`."""
    scores = precision_recall_f1(targets, predicted, count=count)
    return class_average(scores.recall, scores.images)


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
    """Return the ClassScores of `count` classes; for a bool (n, k) matrix `count` is k and may be left out."""
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    if targets.ndim == 2:
        hits, chosen, images = (targets & predicted).sum(axis=0), predicted.sum(axis=0), targets.sum(axis=0)
    else:
        if count is None:
            raise ParameterError("precision_recall_f1 needs count, the number of classes, when the targets are indices of classes.")
        confusion = confusion_matrix(targets, predicted, count=count)
        hits, chosen, images = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    return ClassScores(_ratio(hits, chosen), _ratio(hits, images), _ratio(2 * hits, chosen + images), images.astype(np.int64))


def class_average(values: Floats, images: NDArray[np.int64], *, weighted: bool = False) -> float:
    """Return the mean of `values` (k,) over the classes with images, by class or by image; nan when there are none.

    A class that has images and an undefined value (the precision of a class that is never predicted) counts as 0:
    leaving it out would reward a model for giving up on a class.
    """
    there = images > 0
    if not there.any():
        return math.nan
    return float(np.average(np.nan_to_num(values[there], nan=0.0), weights=images[there] if weighted else None))


def micro_scores(targets: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return precision, recall and F1 over all labels of all images together; bool (n, k) both."""
    together = precision_recall_f1(np.asarray(targets).reshape(-1, 1), np.asarray(predicted).reshape(-1, 1))
    return float(together.precision[0]), float(together.recall[0]), float(together.f1[0])


def hamming_loss(targets: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """Return the share of single labels that are wrong, over all images and labels; bool (n, k) both."""
    wrong = np.asarray(targets) != np.asarray(predicted)
    return float(wrong.mean()) if wrong.size else math.nan


def top_k_accuracy(targets: Integers, scores: NDArray[np.floating[Any]], *, k: int) -> float:
    """Return the share of images whose class is among the `k` with the highest scores (n, classes).

    Of equal scores the earlier class goes first, as in ``argmax``, so that ``k=1`` is the accuracy.
    """
    targets, scores = np.asarray(targets), np.asarray(scores)
    if not len(targets):
        return math.nan
    own = scores[np.arange(len(targets)), targets][:, None]
    earlier = np.arange(scores.shape[1])[None, :] < targets[:, None]
    ahead = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return float((ahead < k).mean())


def _ratio(above: NDArray[np.int64], below: NDArray[np.int64]) -> Floats:
    """Divide, with nan for 0 / 0."""
    shares: Floats = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return shares
