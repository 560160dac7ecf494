"""Scores of anomaly detection: how well the scores of images, and of their pixels, tell defects from what is good.

Pixels are counted once for each image, in bins of their scores, so that areas under curves and their bootstrap over images cost the same
whatever the size of the images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.metrics.intervals import NORMAL_975, REPLICATES, resamples
from headstart.metrics.scores import Bools, Floats, Scores

BINS = 2048
"""Bins of equal numbers of good pixels, and as many of defective ones: an area is exact to about a ten-thousandth."""
LIMIT = 0.3
"""False-positive rate up to which the region overlap is integrated."""


def best_f1(positive: Bools, scores: Scores) -> tuple[float, float]:
    """The largest F1 that a threshold on scores (n,) reaches, and the lowest score that is then above it; nan where none is positive."""
    if not positive.any():
        return math.nan, math.nan
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positive[order])
    last = np.append(ranked[1:] < ranked[:-1], True)  # all of equal scores are above, or none
    f1 = np.where(last, 2 * hits / (np.arange(1, len(scores) + 1) + positive.sum()), 0.0)
    best = int(f1.argmax())
    return float(f1[best]), float(ranked[best])


@dataclass(frozen=True, eq=False)
class PixelStatistics:
    """What the scores of pixels are worth, by image.

    Attributes:
        good: float64 (n, b), the pixels of each image that have no defect, by the bin of their score, the highest first.
        defective: the same of those that have one.
        overlap: float64 (n, b), the same summed over the image's defects, each counting 1 whatever its size.
        defects: int64 (n,), the connected regions (of eight neighbours) of each image.
    """

    good: Floats
    defective: Floats
    overlap: Floats
    defects: npt.NDArray[np.int64]

    @classmethod
    def of(cls, images: Iterable[tuple[npt.NDArray[np.floating[Any]], Bools]], *, edges: Floats) -> PixelStatistics:
        """Count the pixels of images, (scores, which are defective) of one shape (h, w) each, in bins between `edges` (see `bin_edges`).

        A pixel whose score is nan counts for nothing.
        """
        from scipy.ndimage import label

        good, defective, overlap, defects = [], [], [], []
        for scores, mask in images:
            bins = len(edges) - np.searchsorted(edges, scores, side="right")  # 0 for the highest
            count = len(edges) + 1
            known, mask = ~np.isnan(scores), mask & ~np.isnan(scores)
            regions, number = label(mask, np.ones((3, 3)))
            sizes = np.bincount(regions.ravel(), minlength=number + 1)
            good.append(np.bincount(bins[~mask & known], minlength=count))
            defective.append(np.bincount(bins[mask], minlength=count))
            overlap.append(np.bincount(bins[mask], weights=1 / sizes[regions[mask]], minlength=count))
            defects.append(number)
        first, second, third = (np.asarray(one, np.float64).reshape(len(defects), -1) for one in (good, defective, overlap))
        return cls(first, second, third, np.asarray(defects, np.int64))

    def __len__(self) -> int:
        return len(self.defects)

    def take(self, rows: npt.NDArray[np.int64]) -> PixelStatistics:
        """The statistics of some images."""
        return PixelStatistics(self.good[rows], self.defective[rows], self.overlap[rows], self.defects[rows])

    def roc_auc(self, weights: npt.NDArray[Any] | None = None) -> Floats:
        """The area under the ROC curve of all pixels, float64 (r,), under each column of `weights` (n, r); nan where undefined.

        By default each image counts once, and r is 1.
        """
        false, true = self._curve(self.good, weights), self._curve(self.defective, weights)
        return _area(false, true, 1.0)

    def region_overlap(self, weights: npt.NDArray[Any] | None = None, *, limit: float = LIMIT) -> Floats:
        """AUPRO, float64 (r,): the mean share of each defect that is found, averaged over false-positive rates of pixels from 0 to `limit`.

        Bergmann et al., "The MVTec anomaly detection dataset", International Journal of Computer Vision 129 (2021), section 4.2.
        """
        return _area(self._curve(self.good, weights), self._curve(self.overlap, weights), limit)

    def _curve(self, counts: Floats, weights: npt.NDArray[Any] | None) -> Floats:
        """Shares of pixels above each edge, from none to all, (r, b + 1); nan where there are none."""
        whole = np.ones((1, len(counts))) @ counts if weights is None else np.asarray(weights, np.float64).T @ counts
        found = np.concatenate([np.zeros((len(whole), 1)), np.cumsum(whole, axis=1)], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(found / found[:, -1:])


def bin_edges(good: Scores, defective: Scores) -> Floats:
    """Edges between bins of pixels, ascending, for `PixelStatistics`, from scores of good and of defective pixels, or a sample of them."""
    shares = np.linspace(0, 1, BINS + 1)[1:-1]
    parts = [np.quantile(np.asarray(scores, np.float64), shares) for scores in (good, defective) if len(scores)]
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0)


def _area(false: Floats, true: Floats, limit: float) -> Floats:
    """The area under curves, from 0 to `limit`, divided by it; nan where one is undefined."""
    found = np.full(len(false), np.nan)
    for row, (x, y) in enumerate(zip(false, true, strict=True)):
        if np.isnan(x[-1]) or np.isnan(y[-1]):
            continue
        stop = int(np.searchsorted(x, limit, side="right"))
        end = float(np.interp(limit, x, y)) if stop < len(x) else float(y[-1])
        within_x, within_y = np.append(x[:stop], limit), np.append(y[:stop], end)
        found[row] = float((np.diff(within_x) * (within_y[1:] + within_y[:-1])).sum() / 2 / limit)
    return found


def pixel_intervals(
    statistics: PixelStatistics, *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """95 % percentile intervals of ``pixel_roc_auc`` and ``aupro`` by a bootstrap over images, with and without defects apart."""
    found: dict[str, list[Floats]] = {"pixel_roc_auc": [], "aupro": []}
    if not len(statistics):
        return {}
    for weights in resamples(len(statistics), replicates=replicates, strata=(statistics.defects > 0).astype(np.int64), seed=seed):
        found["pixel_roc_auc"].append(statistics.roc_auc(weights))
        found["aupro"].append(statistics.region_overlap(weights))
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    return {
        name: (float(np.percentile(known, 2.5)), float(np.percentile(known, 97.5)))
        for name, every in values.items()
        if len(known := every[~np.isnan(every)])
    }


def roc_auc_interval(area: float, positive: int, negative: int) -> tuple[float, float]:
    """95 % score interval of an area under the ROC curve from so many images with and without defects.

    Newcombe's fifth method (Statistics in Medicine 25 (2006) 559): Hanley and McNeil's variance at the ends of the interval instead of at
    the estimate, so that it does not collapse where all images are ranked rightly.
    """
    if math.isnan(area) or not positive or not negative:
        return math.nan, math.nan
    more = (positive + negative) / 2 - 1

    def outside(value: float) -> bool:
        spread = 1 + more * ((1 - value) / (2 - value) + value / (1 + value))
        return abs(area - value) > NORMAL_975 * math.sqrt(max(value * (1 - value), 0.0) * spread / (positive * negative))

    def end(far: float) -> float:
        if not outside(far):
            return far
        near = area
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (near, middle) if outside(middle) else (middle, far)
        return near

    return end(0.0), end(1.0)
