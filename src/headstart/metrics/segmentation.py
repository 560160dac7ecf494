"""Scores of class maps, from counts of pixels by image: confusion, boundaries, confidence. No map is kept.

Pixels whose true value is no class (`VOID`) count nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.metrics.differences import SWAPS, ResampledDifferences, resampled_differences
from headstart.metrics.intervals import REPLICATES, percentile_interval, resamples
from headstart.metrics.scores import Floats, ratio

TOLERANCE = 0.0075
"""How far a boundary may be from the true one, as a share of the diagonal of the image: 0.75 %, as of Csurka et al."""

EDGES = np.array([*(index / 30 for index in range(1, 30)), 0.975, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975, 0.999, 0.9995, 1.0])
"""Upper ends of the bins of confidence: 30 equally wide ones, the last of which is divided, as most pixels are in it."""

_STEPS = 60_000  # all edges are multiples of this part of 1
_CALIBRATION_BINS = 15
_REPLICATES_AT_ONCE = 50


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """What is known of n class maps with k classes.

    Attributes:
        confusion: int64 (n, k, k): pixels of true class i (row) that were named j (column).
        boundaries: int64 (n, k, 4): boundary pixels of the predicted class, those of them near the true boundary, boundary pixels of the
            true class, those of them near the predicted boundary.
        confidence: float64 (n, bins, 3): pixels by the confidence of their class (`EDGES`), how many of them are correct, and the sum of
            their confidence.
    """

    confusion: NDArray[np.int64]
    boundaries: NDArray[np.int64]
    confidence: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.confusion)

    def __post_init__(self) -> None:
        n, k = self.confusion.shape[:2]
        shapes = (n, k, k), (n, k, 4), (n, len(EDGES), 3)
        if (found := (self.confusion.shape, self.boundaries.shape, self.confidence.shape)) != shapes:
            raise ParameterError(f"statistics of {n} class maps must have the shapes {shapes}; got {found}.")

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.confusion.shape[1])

    @classmethod
    def joined(cls, parts: Iterable[Self], *, classes: int) -> Self:
        """Of several parts, in order; of none at all, of no image."""
        empty = (np.zeros((0, classes, classes), np.int64), np.zeros((0, classes, 4), np.int64), np.zeros((0, len(EDGES), 3)))
        own = list(parts)
        return cls(
            np.concatenate([empty[0], *(part.confusion for part in own)]), np.concatenate([empty[1], *(part.boundaries for part in own)]),
            np.concatenate([empty[2], *(part.confidence for part in own)]),
        )  # fmt: skip

    def take(self, rows: NDArray[Any]) -> Self:
        """Those of some of the images."""
        return type(self)(self.confusion[rows], self.boundaries[rows], self.confidence[rows])

    def reordered(self, order: Sequence[int]) -> Self:
        """The same with the classes in another order: positions of all of them."""
        return type(self)(self.confusion[:, order][:, :, order], self.boundaries[:, order], self.confidence)

    def stored(self) -> dict[str, NDArray[Any]]:
        """As arrays with n rows, in the smallest types that hold them."""
        return {"confusion": _small(self.confusion), "boundaries": _small(self.boundaries), "confidence": self.confidence}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From the arrays of `stored`, whatever type of number they have."""
        found = {name: np.asarray(arrays[name]) for name in ("confusion", "boundaries", "confidence")}
        confusion, boundaries = (np.rint(found[name]).astype(np.int64) for name in ("confusion", "boundaries"))
        return cls(confusion, boundaries, found["confidence"].astype(np.float64))


def _small(counts: NDArray[np.int64]) -> NDArray[Any]:
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


class Tally:
    """Counts one class map, strip by strip; `confidence` may be left out of all strips."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._confusion = np.zeros(classes * classes, dtype=np.int64)
        self._confidence = np.zeros((len(EDGES), 3))

    def add(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8], confidence: NDArray[np.float32] | None = None) -> None:
        """Count rows (r, W): true classes, where no class is any value of k and more; predicted ones; and the probability of these."""
        k, known = self._classes, truth < self._classes
        cells = truth.astype(np.int32) * k + predicted
        self._confusion += np.bincount(cells[known], minlength=k * k)[: k * k]
        if confidence is None:
            return
        sure, right = confidence[known], (truth == predicted)[known]
        place = _BIN_OF[np.ceil(sure * _STEPS).astype(np.int32)]
        bins = len(EDGES)
        both = np.bincount(place + bins * right, minlength=2 * bins).reshape(2, bins)
        self._confidence[:, 0] += both.sum(axis=0)
        self._confidence[:, 1] += both[1]
        self._confidence[:, 2] += np.bincount(place, weights=sure, minlength=bins)

    def statistics(self, boundaries: NDArray[np.int64]) -> ImageStatistics:
        """Those of one image, with its `boundary_counts`."""
        k = self._classes
        return ImageStatistics(self._confusion.reshape(1, k, k).copy(), boundaries[None], self._confidence[None].copy())


_BIN_OF = np.searchsorted(np.rint(EDGES * _STEPS), np.arange(_STEPS + 1)).astype(np.int32)


def image_statistics(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], confidence: NDArray[np.float32] | None = None, *, classes: int
) -> ImageStatistics:
    """The statistics of one class map (H, W): its true classes, where any value of `classes` and more is void; predicted; probabilities."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise ParameterError(f"a class map and its truth must have the same height and width; got {predicted.shape} and {truth.shape}.")
    tally = Tally(classes)
    tally.add(truth, predicted, confidence)
    return tally.statistics(boundary_counts(truth, predicted, classes=classes))


def boundary_counts(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], *, classes: int, tolerance: float = TOLERANCE
) -> NDArray[np.int64]:
    """Boundary pixels by class, int64 (k, 4), as `ImageStatistics.boundaries` has them.

    A boundary pixel has a neighbour above, below, left or right of another class; void pixels, and predictions there, have none. Near is
    within `tolerance` times the diagonal, in Euclidean distance, and at least one pixel. Source: Csurka et al., What is a good evaluation
    measure for semantic segmentation?, BMVC 2013.
    """
    void = truth >= classes
    radius = max(1.0, tolerance * math.hypot(*truth.shape))
    own = [_boundary(truth, void), _boundary(predicted, void)]
    found = np.zeros((classes, 4), dtype=np.int64)
    present = np.flatnonzero(np.bincount(np.concatenate([truth[own[0]], predicted[own[1]]]), minlength=classes)[:classes])
    for start in range(0, len(present), 16):
        some = present[start : start + 16]
        bits = np.zeros(256, dtype=np.uint16)
        bits[some] = 1 << np.arange(len(some), dtype=np.uint16)
        marks = [np.where(edge, bits[values], np.uint16(0)) for edge, values in zip(own, (truth, predicted), strict=True)]
        near = [_dilated(mark, radius) for mark in marks]
        for column, mark, values, other in ((0, marks[1], predicted, near[0]), (2, marks[0], truth, near[1])):
            found[some, column] = np.bincount(values[mark > 0], minlength=256)[some]
            found[some, column + 1] = np.bincount(values[(mark & other) > 0], minlength=256)[some]
    return found


def _boundary(values: NDArray[np.uint8], void: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found = np.zeros(values.shape, dtype=bool)
    for axis in (0, 1):
        first, second = (tuple(one if place == axis else slice(None) for place in (0, 1)) for one in (slice(None, -1), slice(1, None)))
        apart = (values[first] != values[second]) & ~(void[first] | void[second])
        found[first] |= apart
        found[second] |= apart
    return found


def _dilated(marks: NDArray[np.uint16], radius: float) -> NDArray[np.uint16]:
    """Each bit, within `radius` of where it is: row by row of the disc, the widths of which grow towards its middle."""
    height, across = marks.shape
    reach = int(radius)
    found, wide, width = np.zeros_like(marks), marks.copy(), 0
    for away in range(reach, -1, -1):
        half = int(math.sqrt(max(0.0, radius * radius - away * away)))
        while width < min(half, across - 1):
            width += 1
            wide[:, width:] |= marks[:, :-width]
            wide[:, :-width] |= marks[:, width:]
        for rows in {away, -away}:
            if abs(rows) < height:
                found[max(rows, 0) : height + min(rows, 0)] |= wide[max(-rows, 0) : height + min(-rows, 0)]
    return found


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """Scores of n images together. By class float64 (k,), nan where a class is in neither truth nor prediction.

    A mean over classes leaves such classes out.
    """

    iou: Floats
    dice: Floats
    precision: Floats
    recall: Floats
    boundary_f1: Floats
    pixel_accuracy: float
    most_frequent: float

    @property
    def means(self) -> dict[str, float]:
        """The scores of the whole, by name; nan where one is undefined."""
        pairs = {"mean_iou": self.iou, "mean_dice": self.dice, "boundary_f1": self.boundary_f1}
        with_pixels = {"pixel_accuracy": self.pixel_accuracy, "most_frequent_class_accuracy": self.most_frequent}
        return {name: _mean(values) for name, values in pairs.items()} | with_pixels | {"mean_class_accuracy": _mean(self.recall)}


def segmentation_scores(statistics: ImageStatistics) -> SegmentationScores:
    """IoU, Dice, precision and recall of each class over all pixels of all images; boundary F1 by image, then averaged over those
    that have the class in truth or prediction; the share of pixels whose class is right, or would be with one class, the most frequent.
    """
    confusion = statistics.confusion.sum(axis=0)
    hits, true, named = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    total = int(confusion.sum())
    f1 = boundary_f1(statistics.boundaries)
    known = ~np.isnan(f1)
    return SegmentationScores(
        iou=ratio(hits, true + named - hits), dice=ratio(2 * hits, true + named), precision=ratio(hits, named), recall=ratio(hits, true),
        boundary_f1=ratio(np.where(known, f1, 0).sum(axis=0), known.sum(axis=0)),
        pixel_accuracy=float(hits.sum() / total) if total else math.nan, most_frequent=float(true.max() / total) if total else math.nan,
    )  # fmt: skip


def boundary_f1(boundaries: NDArray[np.int64]) -> Floats:
    """The boundary F1 of each class in each image, float64 (n, k), from counts (n, k, 4); nan where neither side has a boundary of it.

    With a boundary on one side only it is 0.
    """
    named, near_true, true, near_named = np.moveaxis(boundaries.astype(np.float64), -1, 0)
    precision = np.divide(near_true, named, out=np.zeros_like(named), where=named > 0)
    recall = np.divide(near_named, true, out=np.zeros_like(true), where=true > 0)
    both = precision + recall
    found: Floats = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    return np.where((named > 0) | (true > 0), found, np.nan)


def image_scores(statistics: ImageStatistics) -> Floats:
    """The mean IoU of each image alone, over the classes in its truth or prediction: float64 (n,), nan where all of it is void."""
    confusion = statistics.confusion
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    union = confusion.sum(axis=1) + confusion.sum(axis=2) - hits
    there = union > 0
    shares = np.divide(hits, union, out=np.zeros(hits.shape), where=there)
    return ratio(shares.sum(axis=1), there.sum(axis=1))


@dataclass(frozen=True, eq=False)
class SegmentationIntervals:
    """95 % intervals from resamples of the images: of scores of the whole, by name, and of the IoU of each class, float64 (k, 2)."""

    scores: Mapping[str, tuple[float, float]]
    iou: Floats
    replicates: int
    seed: int

    @property
    def method(self) -> str:
        """The method as text, for a report."""
        return f"percentile bootstrap over images, 95 %, {self.replicates} resamples, seed {self.seed}"


def segmentation_intervals(statistics: ImageStatistics, *, replicates: int = REPLICATES, seed: int = 0) -> SegmentationIntervals:
    """Intervals of ``mean_iou``, ``mean_dice``, ``pixel_accuracy``, ``boundary_f1`` and of each class's IoU.

    The images are resampled with replacement, as pixels of one image depend on each other. Where all resamples give the same (a single
    image, or nothing wrong in any), the interval is Wilson's for a share of n images, so that it never says that nothing is unknown.
    """
    n, k = len(statistics), statistics.classes
    flat, edges = _additive(statistics)
    found: dict[str, list[Floats]] = {}
    for weights in resamples(n, replicates=replicates, seed=seed) if n else ():
        for start in range(0, weights.shape[1], _REPLICATES_AT_ONCE):
            some = weights[:, start : start + _REPLICATES_AT_ONCE].T.astype(np.float64)
            for name, values in _resampled((some @ flat).reshape(-1, 3, k), (some @ edges).reshape(-1, 2, k)).items():
                found.setdefault(name, []).append(values)
    together = {name: np.concatenate(parts) for name, parts in found.items()}
    scores = segmentation_scores(statistics)
    iou = together.pop("iou", np.full((1, k), np.nan))
    return SegmentationIntervals(
        {name: percentile_interval(values, scores.means[name], n) for name, values in together.items()},
        np.array([percentile_interval(iou[:, index], float(scores.iou[index]), n) for index in range(k)]).reshape(k, 2), replicates, seed,
    )  # fmt: skip


def segmentation_differences(
    first: ImageStatistics, second: ImageStatistics, *, replicates: int = REPLICATES, swaps: int = SWAPS, seed: int = 0
) -> ResampledDifferences:
    """Scores of the first of two models less those of the second on the same images: mean IoU, boundary F1, and the IoU of each class.

    See `headstart.metrics.differences.resampled_differences`.
    """
    k = first.classes

    def scores(sums: Floats) -> Floats:
        found = _resampled(sums[:, : 3 * k].reshape(-1, 3, k), sums[:, 3 * k :].reshape(-1, 2, k))
        return np.concatenate([found["mean_iou"][:, None], found["boundary_f1"][:, None], found["iou"]], axis=1)

    one, two = (np.concatenate(_additive(statistics), axis=1) for statistics in (first, second))
    return resampled_differences(one, two, scores, replicates=replicates, swaps=swaps, seed=seed)


def _additive(statistics: ImageStatistics) -> tuple[Floats, Floats]:
    """Of each image what scores of many are sums of: hits, true and named pixels, float64 (n, 3 k); boundary F1, and whether it is
    defined, (n, 2 k).
    """
    confusion = statistics.confusion
    counts = np.stack([np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2), confusion.sum(axis=1)], axis=1)
    f1 = boundary_f1(statistics.boundaries)
    edges = np.concatenate([np.nan_to_num(f1), (~np.isnan(f1)).astype(np.float64)], axis=1)
    return counts.reshape(len(confusion), -1).astype(np.float64), edges


def _resampled(counts: Floats, edges: Floats) -> dict[str, Floats]:
    """Scores of resamples from sums of counts (b, 3, k) and of boundary F1 with its images (b, 2, k)."""
    hits, true, named = counts[:, 0], counts[:, 1], counts[:, 2]
    iou, dice = _divided(hits, true + named - hits), _divided(2 * hits, true + named)
    return {
        "iou": iou, "mean_iou": _means(iou), "mean_dice": _means(dice), "boundary_f1": _means(_divided(edges[:, 0], edges[:, 1])),
        "pixel_accuracy": ratio(hits.sum(axis=1), true.sum(axis=1)),
    }  # fmt: skip


def _divided(above: Floats, below: Floats) -> Floats:
    found: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return found


def _means(values: Floats) -> Floats:
    """The mean of each row over what is known."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))


def _mean(values: Floats) -> float:
    return float(_means(values[None])[0])


def pixel_calibration(confidence: NDArray[np.float64]) -> tuple[Floats, Floats, Floats]:
    """Mean confidence, share of correct pixels and number of pixels in 15 equally wide bins, from counts (bins, 3); nan where empty."""
    coarse = np.ceil(EDGES * _CALIBRATION_BINS - 1e-9).astype(np.int64) - 1
    pixels, right, sums = (np.bincount(coarse, weights=column, minlength=_CALIBRATION_BINS) for column in confidence.T)
    return ratio(sums, pixels), ratio(right, pixels), pixels.astype(np.float64)


def pixel_calibration_error(confidence: NDArray[np.float64]) -> float:
    """The expected calibration error of pixels over 15 equally wide bins, from 0 to 1; nan where nothing was counted."""
    sure, right, pixels = pixel_calibration(confidence)
    total = pixels.sum()
    return float(np.nansum(np.abs(sure - right) * pixels) / total) if total else math.nan


def pixel_coverage(confidence: NDArray[np.float64]) -> tuple[Floats, Floats, Floats]:
    """Coverage, accuracy and confidence at its least, from counts (bins, 3), the most confident pixels first.

    `coverage` is the share of pixels in the bins from that confidence on, `accuracy` the share of them that is correct.
    """
    pixels, right = confidence[::-1, 0].cumsum(), confidence[::-1, 1].cumsum()
    there = confidence[::-1, 0] > 0
    low = np.append(0.0, EDGES[:-1])[::-1]
    return pixels[there] / pixels[-1], right[there] / pixels[there], low[there]


def most_frequent_mean_iou(confusion: NDArray[np.int64]) -> float:
    """The mean IoU of naming every pixel by the class that is the most frequent in truth, from a confusion matrix (k, k)."""
    true = confusion.sum(axis=1)
    total = int(true.sum())
    return float(true.max() / total / (true > 0).sum()) if total else math.nan
