"""Scores of detections: average precision and recall as of COCO, their intervals, precision-recall curves, the best threshold.

All are computed from `Matches`, so that detections are matched once. Average precision is that of pycocotools, where undefined values
are -1; here they are nan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.metrics.boxes import Integers
from headstart.metrics.intervals import REPLICATES, Counts, percentile_interval, resamples
from headstart.metrics.matching import AREAS, IGNORED, LIMITS, RIGHT, THRESHOLDS, Matches
from headstart.metrics.scores import Floats, at_thresholds, defined_mean, precision_recall_curve, ratio

RECALLS = np.linspace(0, 1, 101)
"""Levels of recall at which precision is averaged."""

_SIZES = tuple(AREAS)[1:]
_AT_75 = 5  # of THRESHOLDS
_AT_ONCE = 4_000_000  # detections x resamples


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """Average precision and recall of k classes; nan where a class has no box to be found.

    Attributes:
        precision: float64 (k, thresholds of overlap, ranges of area), with at most 100 detections of a class in an image.
        recall: float64 (k, thresholds, ranges, limits): the share of boxes found with at most `LIMITS` detections of a class in an image.
        objects: int64 (k, ranges), how many boxes there are to be found.
    """

    precision: Floats
    recall: Floats
    objects: Integers

    @property
    def ap(self) -> Floats:
        """Average precision of each class over overlaps from 0.50 to 0.95, float64 (k,)."""
        found: Floats = self.precision[:, :, 0].mean(axis=1)
        return found

    @property
    def ap50(self) -> Floats:
        """Average precision of each class at an overlap of 0.5, float64 (k,)."""
        return self.precision[:, 0, 0]

    @property
    def ap_by_size(self) -> Floats:
        """Average precision of each class for small, medium and large boxes, float64 (k, 3)."""
        found: Floats = self.precision[:, :, 1:].mean(axis=1)
        return found

    @cached_property
    def means(self) -> dict[str, float]:
        """Means over the classes: ``ap``, ``ap50``, ``ap75``, ``ap_small``, ..., ``ar_1``, ``ar_10``, ``ar_100``, ``ar_small``, ...

        Average recall is the mean over overlaps from 0.50 to 0.95, and by size with 100 detections.
        """
        recall = self.recall.mean(axis=1)
        found = {"ap": self.ap, "ap50": self.ap50, "ap75": self.precision[:, _AT_75, 0]}
        found |= {f"ap_{size}": self.ap_by_size[:, index] for index, size in enumerate(_SIZES)}
        found |= {f"ar_{limit}": recall[:, 0, index] for index, limit in enumerate(LIMITS)}
        found |= {f"ar_{size}": recall[:, index, -1] for index, size in enumerate(_SIZES, start=1)}
        return {name: defined_mean(values) for name, values in found.items()}


def detection_scores(matches: Matches) -> DetectionScores:
    """The `DetectionScores` of matched detections."""
    k, columns = matches.classes, (len(THRESHOLDS), len(AREAS))
    objects = matches.objects()
    precision, recall = np.full((k, *columns), np.nan), np.full((k, *columns, len(LIMITS)), np.nan)
    for label, rows in enumerate(matches.by_class()):
        outcomes = matches.outcomes[rows].reshape(len(rows), math.prod(columns))
        right, ranks = outcomes == RIGHT, matches.ranks[rows]
        some = right.any(axis=1)  # precision is highest where a box is found
        hits, counted = (np.cumsum(flags, axis=0, dtype=np.int32)[some] for flags in (right, outcomes != IGNORED))
        positives = np.tile(objects[label], len(THRESHOLDS))
        precision[label] = _average_precision(hits, counted, positives).reshape(columns)
        for index, limit in enumerate(LIMITS):
            recall[label, ..., index] = ratio(right[ranks < limit].sum(axis=0), positives).reshape(columns)
    return DetectionScores(precision, recall, objects)


def _average_precision(hits: NDArray[Any], counted: NDArray[Any], positives: NDArray[Any]) -> Floats:
    """Mean precision at `RECALLS`, float64 (c,), of curves in columns: how many are right among the surest, and how many there are, (r, c).

    Precision at a recall is the highest at that recall or a higher one. `positives` (c,) are the boxes to be found; nan where 0.
    """
    known = positives > 0
    below = np.where(known, positives, 1).astype(np.float64)
    precision = hits / np.maximum(counted, 1)
    highest = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    gained = np.diff(_levels_reached(hits / below), axis=0, prepend=np.int8(0))
    return np.where(known, np.einsum("rc,rc->c", highest, gained) / len(RECALLS), np.nan)


def _levels_reached(recall: Floats) -> NDArray[np.int8]:
    """How many of `RECALLS` are at most each recall: as ``searchsorted`` says to the last bit, in a third of its time."""
    last = (recall * 100 + 1e-9).astype(np.int8)
    found: NDArray[np.int8] = last + np.int8(1) - (RECALLS[last] > recall)
    return found


def resampled_scores(matches: Matches, *, replicates: int = REPLICATES, seed: int = 0) -> dict[str, Floats]:
    """Average precision in resamples of the images: ``ap``, ``ap50``, ``ap75`` (b,), and of each class ``class_ap``, ``class_ap50`` (k, b).

    In each resample n images are drawn with replacement; each counts as often as it was drawn. With one seed, the resamples of n images are
    the same for any detector, so that two can be compared on them.
    """
    k, n, by_class = matches.classes, len(matches), matches.by_class()
    found = np.full((k, len(THRESHOLDS), replicates), np.nan)
    cells = np.bincount(matches.true_images[matches.counted[:, 0]] * k + matches.true_labels[matches.counted[:, 0]], minlength=n * k)
    objects = cells.reshape(n, k).astype(np.float32)
    done = 0
    for weights in resamples(n, replicates=replicates, seed=seed) if n else ():
        positives = objects.T @ weights
        for label, rows in enumerate(by_class):
            step = max(1, _AT_ONCE // max(1, len(rows)))
            for start in range(0, weights.shape[1], step):
                some = slice(start, min(start + step, weights.shape[1]))
                values = _weighted_precision(matches, rows, weights[:, some], positives[label, some])
                found[label, :, done + some.start : done + some.stop] = values
        done += weights.shape[1]
    by_class_ap = found.mean(axis=1)
    columns = {"ap": by_class_ap, "ap50": found[:, 0], "ap75": found[:, _AT_75]}
    means = {name: ratio(np.nansum(values, axis=0), (~np.isnan(values)).sum(axis=0)) for name, values in columns.items()}
    return means | {"class_ap": by_class_ap, "class_ap50": found[:, 0]}


def _weighted_precision(matches: Matches, rows: Integers, weights: Counts, positives: Counts) -> Floats:
    """Average precision of one class at each threshold, float64 (thresholds, b), under each column of weights of images (n, b).

    `rows` are its detections, the surest first. Sums of weights are whole numbers, exact in float32 up to 16 million detections.
    """
    drawn = weights[matches.detections.images[rows]]
    outcomes = matches.outcomes[rows, :, 0]
    found = np.empty((len(THRESHOLDS), weights.shape[1]))
    before, counted = None, drawn
    for threshold, own in enumerate(outcomes.T):
        ignored = own == IGNORED
        if before is None or (ignored != before).any():
            before, counted = ignored, np.cumsum(np.where(ignored[:, None], np.float32(0), drawn), axis=0)
        right = np.flatnonzero(own == RIGHT)
        found[threshold] = _average_precision(np.cumsum(drawn[right], axis=0), counted[right], positives)
    return found


@dataclass(frozen=True, eq=False)
class DetectionIntervals:
    """95 % intervals from resamples of the images: of ``ap``, ``ap50`` and ``ap75``, and of each class's, float64 (k, 2)."""

    scores: Mapping[str, tuple[float, float]]
    ap: Floats
    ap50: Floats
    replicates: int
    seed: int

    @property
    def method(self) -> str:
        """The method as text, for a report."""
        return f"percentile bootstrap over images, centred on the score, 95 %, {self.replicates} resamples, seed {self.seed}"


def detection_intervals(
    matches: Matches, scores: DetectionScores | None = None, *, replicates: int = REPLICATES, seed: int = 0
) -> DetectionIntervals:  # fmt: skip
    """The `DetectionIntervals` of matched detections, of which `scores` may be given where they are known.

    Percentiles of the resamples are moved so that their mean is the score. As precision at a recall is the highest from there on, average
    precision is too high where there are few images or many classes, and in resamples, which hold fewer different images, more so: without
    the move the score itself may be below its interval. It says what other sets of as many images would give.

    Where all resamples give the same (a single image, or nothing wrong in any), the interval is Wilson's for a share of n images, or of as
    many as have the class, so that it never says that nothing is unknown. A resample without the class does not count for it.
    """
    scores = scores or detection_scores(matches)
    drawn = resampled_scores(matches, replicates=replicates, seed=seed)
    images = [
        len(np.unique(matches.true_images[matches.counted[:, 0] & (matches.true_labels == label)])) for label in range(matches.classes)
    ]
    ap, ap50 = (
        np.array([_centred_interval(*one) for one in zip(drawn[name], values.tolist(), images, strict=True)]).reshape(-1, 2)
        for name, values in (("class_ap", scores.ap), ("class_ap50", scores.ap50))
    )
    whole = {name: _centred_interval(drawn[name], scores.means[name], len(matches)) for name in ("ap", "ap50", "ap75")}
    return DetectionIntervals(whole, ap, ap50, replicates, seed)


def _centred_interval(values: Floats, value: float, images: int) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    low, high = percentile_interval(known, value, images)
    if math.isnan(low):
        return low, high
    moved = value - float(known.mean())
    return max(0.0, low + moved), min(1.0, high + moved)


@dataclass(frozen=True)
class DetectionDifference:
    """How much higher a score of the first of two detectors is, with its 95 % interval over resamples of the same images.

    `above`: the share of the resamples in which it is higher, equal ones counting half.
    """

    value: float
    interval: tuple[float, float]
    above: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval[0] > 0 or self.interval[1] < 0


def detection_difference(
    first: Matches, second: Matches, *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, DetectionDifference]:  # fmt: skip
    """Compare two detectors on the same images by ``ap`` and ``ap50``; the resamples are centred as for `detection_intervals`."""
    same = len(first) == len(second) and first.classes == second.classes
    if not same or not np.array_equal(first.objects(), second.objects()):
        raise ParameterError("two detectors can be compared on the same images with the same true boxes only.")
    means = [detection_scores(matches).means for matches in (first, second)]
    drawn = [resampled_scores(matches, replicates=replicates, seed=seed) for matches in (first, second)]
    found = {}
    for name in ("ap", "ap50"):
        apart, value = drawn[0][name] - drawn[1][name], means[0][name] - means[1][name]
        apart = apart[~np.isnan(apart)]
        apart = apart - apart.mean() + value if len(apart) else apart
        interval = (float(np.percentile(apart, 2.5)), float(np.percentile(apart, 97.5))) if len(apart) else (math.nan, math.nan)
        above = float(((apart > 0) + 0.5 * (apart == 0)).mean()) if len(apart) else math.nan
        found[name] = DetectionDifference(value, interval, above)
    return found


def detection_curve(matches: Matches, label: int | None = None) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and thresholds of one class, or of all together, at an overlap of 0.5, as `precision_recall_curve` has them.

    Recall counts the boxes that no detection found, and so ends below 1 where there are such.
    """
    right, scores, objects = matches.at_half(label)
    return precision_recall_curve(right, scores, positives=objects)


@dataclass(frozen=True)
class BestThreshold:
    """The threshold of scores with the highest F1, and precision and recall there; detections of that score are shown."""

    threshold: float
    f1: float
    precision: float
    recall: float


def best_threshold(matches: Matches, label: int | None = None) -> BestThreshold:
    """The threshold that is best at an overlap of 0.5 for one class, or for all together; the highest of equally good ones.

    All of it is nan where there are no boxes to be found, or no detection is right.
    """
    right, scores, objects = matches.at_half(label)
    hits, misses, thresholds = at_thresholds(right, scores)
    if not objects or not hits[-1]:
        return BestThreshold(math.nan, math.nan, math.nan, math.nan)
    f1 = 2 * hits / (hits + misses + objects)
    best = int(f1.argmax())
    shown = int(hits[best] + misses[best])
    return BestThreshold(float(thresholds[best]), float(f1[best]), float(hits[best] / shown), float(hits[best] / objects))
