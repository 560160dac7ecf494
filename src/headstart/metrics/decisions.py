"""Scores of hard decisions: which class, or which labels, were named.

Single label: `targets` and `predicted` are integers (n,), indices of classes. Multi-label: both are bool (n, k).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError

Integers = NDArray[np.integer[Any]]
Labels = NDArray[Any]  # integers (n,) or bool (n, k)
Floats = NDArray[np.float64]

_NORMAL_975 = 1.959963984540054  # so that the usual case does not import `statistics`


def accuracy(targets: Labels, predicted: Labels) -> float:
    """Return the share of images whose class is named rightly; multi-label: all of whose labels are (subset accuracy)."""
    same = np.asarray(targets) == np.asarray(predicted)
    return float((same if same.ndim == 1 else same.all(axis=1)).mean()) if len(same) else math.nan


def accuracy_interval(correct: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for the share `correct` of `total` independent images.

    It keeps close to its nominal coverage for small `total` and shares near 1, where the textbook interval p ± 1.96 se collapses.
    Raises ParameterError for counts that are none. Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209; Brown, Cai and DasGupta,
    Statistical Science 16 (2001) 101.
    """
    if not 0 <= correct <= total or total < 1:
        raise ParameterError(f"an interval needs 0 <= correct <= total and total >= 1, and got correct={correct}, total={total}.")
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence must lie between 0 and 1, for example 0.95, and is {confidence!r}.")
    z = _NORMAL_975 if confidence == 0.95 else _normal_quantile((1 + confidence) / 2)
    share = correct / total
    shrink = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the formula gives 0 and 1 but for rounding.
    return (0.0 if correct == 0 else max(0.0, centre - half), 1.0 if correct == total else min(1.0, centre + half))


def _normal_quantile(probability: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)


def confusion_matrix(targets: Integers, predicted: Integers, *, count: int) -> NDArray[np.int64]:
    """Return int64 (count, count): row i, column j is the number of images of class i that were named class j."""
    cells = np.asarray(targets, dtype=np.int64) * count + np.asarray(predicted, dtype=np.int64)
    return np.bincount(cells, minlength=count * count).reshape(count, count).astype(np.int64, copy=False)


def balanced_accuracy(targets: Integers, predicted: Integers, *, count: int) -> float:
    """Return the mean over classes of the share named rightly, over the classes that occur in `targets`."""
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
    """Return the ClassScores of `count` classes; for a bool (n, k) matrix `count` is k and need not be given."""
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    if targets.ndim == 2:
        hits, named, images = (targets & predicted).sum(axis=0), predicted.sum(axis=0), targets.sum(axis=0)
    else:
        if count is None:
            raise ParameterError("precision_recall_f1 needs count, the number of classes, when the targets are indices of classes.")
        confusion = confusion_matrix(targets, predicted, count=count)
        hits, named, images = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    return ClassScores(_ratio(hits, named), _ratio(hits, images), _ratio(2 * hits, named + images), images.astype(np.int64))


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
