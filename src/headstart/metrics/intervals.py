"""Confidence intervals: how far scores would move on other images of the same kind, and paired tests of two classifiers on the same images.

A share has Wilson's interval. Other scores have percentile intervals of the bootstrap (Efron and Tibshirani, An introduction to the
bootstrap, 1993, chapter 13): the images are resampled with replacement, each class as often as it occurs. Images are taken as
independent: where several show one patient, the intervals are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.metrics.link import link_of
from headstart.metrics.scores import Bools, Floats, Scores, indicators, log_losses, ratio
from headstart.settings.field import SHARE, require, whole

Counts = NDArray[np.float32]

NORMAL_975 = 1.959963984540054
REPLICATES = 1000
FEWEST = 200  # where there are so many images and classes that a thousand replicates would take long
_WORK = 200_000_000  # images x classes x replicates
_AT_ONCE = 2_000_000  # images x replicates held in memory


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for the share `correct` of `total` independent images.

    It keeps close to its nominal coverage for small `total` and shares near 1, where the textbook interval p ± 1.96 se collapses.
    Raises ParameterError for impossible counts. Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209; Brown, Cai and DasGupta,
    Statistical Science 16 (2001) 101.
    """
    if not 0 <= correct <= total or total < 1:
        raise ParameterError(f"an interval needs 0 <= correct <= total and total >= 1, and got correct={correct}, total={total}.")
    return share_interval(correct / total, total)


def share_interval(share: float, total: float) -> tuple[float, float]:
    """Wilson's 95 % interval for a share of `total` images, which need not be whole numbers; see `accuracy_interval`."""
    z = NORMAL_975
    shrink = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the formula gives 0 and 1 but for rounding.
    return (0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half))


def mean_accuracy_interval(correct: Bools, known: Bools) -> tuple[float, float]:
    """95 % interval of the mean of the accuracies of c tasks on n independent images, bool (n, c) each.

    `correct` says which image is right in which task, and `known` where that is known. Tasks of one image may depend on each other: the
    variance is that of the linearised mean over images, and the interval Wilson's with the number of images that has this variance
    (Korn and Graubard, Survey Methodology 24 (1998) 193). Where all are right or all wrong, with the images of the smallest task.
    """
    counts = known.sum(axis=0)
    if not counts.all():
        raise ParameterError("an interval of a mean accuracy needs an image for each task at least.")
    accuracies = (correct & known).sum(axis=0) / counts
    mean = float(accuracies.mean())
    influence = (known * (correct - accuracies) / counts).mean(axis=1)
    variance = float((influence**2).sum())
    effective = float(counts.min()) if variance <= 0 else min(mean * (1 - mean) / variance, float(counts.sum()))
    return share_interval(mean, effective)


def percentile_interval(values: Floats, value: float, images: int) -> tuple[float, float]:
    """The middle 95 % of the values (b,) of a score in resamples; nan where the score itself, `value`, or all of them are undefined.

    Where all are the same, Wilson's interval of a share of so many images: that nothing is wrong with the images at hand does not mean that
    nothing will be with the next.
    """
    values = values[~np.isnan(values)]
    if not len(values) or math.isnan(value):
        return math.nan, math.nan
    if np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max())):
        return share_interval(value, images)
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class BootstrapIntervals:
    """Percentile intervals (low, high) of several scores by name, all from the same resamples.

    A score that is undefined, or the same in every resample, has none: that every image at hand is classified correctly does not mean
    that the next one will be. `stratified`: each class is drawn as often as it occurs; images with independent labels are not.
    """

    intervals: dict[str, tuple[float, float]]
    replicates: int
    stratified: bool
    confidence: float
    seed: int

    @property
    def method(self) -> str:
        """The method as text, for a report."""
        drawn = ", stratified by class" if self.stratified else ""
        return f"percentile bootstrap, {100 * self.confidence:g} %, {self.replicates} resamples{drawn}, seed {self.seed}"


def bootstrap_intervals(
    targets: NDArray[Any],
    probabilities: Scores,
    *,
    replicates: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapIntervals:
    """Intervals of ``balanced_accuracy`` (of one label an image), ``f1_macro``, ``log_loss`` and ``roc_auc``.

    Targets are int (n,), column numbers, or bool (n, k); probabilities float (n, k). Resamples are by default 1000, or fewer for very
    many images and classes, but 200 at least.
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities)
    require(whole(2), or_none=True, replicates=replicates)
    require(SHARE, confidence=confidence)
    link = link_of(targets)
    n, count = probabilities.shape
    drawn = replicates or int(np.clip(_WORK // max(1, n * count), FEWEST, REPLICATES))
    scores = _WeightedScores(targets, probabilities)
    strata = None if link.independent else targets
    blocks = [scores(weights) for weights in resamples(n, replicates=drawn, strata=strata, seed=seed)] if n else []
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    intervals: dict[str, tuple[float, float]] = {}
    for name in blocks[0] if blocks else ():
        values = np.concatenate([block[name] for block in blocks])
        values = values[~np.isnan(values)]
        # Equal but for rounding: the sums run over the same images in the same order.
        if len(values) and np.ptp(values) > 1e-6 * np.abs(values).max():
            low, high = np.percentile(values, tails)
            intervals[name] = (float(low), float(high))
    return BootstrapIntervals(intervals, drawn, not link.independent, confidence, seed)


def resamples(n: int, *, replicates: int, strata: NDArray[Any] | None = None, seed: int = 0) -> Iterator[Counts]:
    """Yield how often each of `n` images is drawn, float32 (n, some), until there were `replicates` columns.

    Each of the `strata`, int (n,), is drawn as often as it occurs; None draws from all images alike.
    """
    generator = np.random.default_rng(seed)
    codes = np.zeros(n, dtype=np.int64) if strata is None else np.unique(strata, return_inverse=True)[1].reshape(-1)
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    size = np.repeat(sizes, sizes)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    step = max(1, min(replicates, _AT_ONCE // max(1, n)))
    for done in range(0, replicates, step):
        some = min(step, replicates - done)
        drawn = (generator.random((some, n)) * size).astype(np.int64) + start
        drawn += n * np.arange(some)[:, None]
        weights = np.empty((n, some), dtype=np.float32)
        weights[order] = np.bincount(drawn.ravel(), minlength=some * n).reshape(some, n).T
        yield weights


def weighted_roc_auc(positive: Bools, scores: Scores, weights: Counts) -> Floats:
    """The area under the ROC curve of vectors (n,) under each column of `weights` (n, b), numbers of times that an image counts.

    Float64 (b,), nan where undefined.
    """
    above, below = np.flatnonzero(positive), np.flatnonzero(~positive)
    below = below[np.argsort(scores[below], kind="stable")]
    beaten = np.zeros((len(below) + 1, weights.shape[1]), dtype=np.float32)
    np.cumsum(weights[below], axis=0, out=beaten[1:])
    ranked = scores[below]
    first, last = (np.searchsorted(ranked, scores[above], side=side) for side in ("left", "right"))
    tied = bool((first != last).any())
    wins = np.einsum("pb,pb->b", weights[above], (beaten[first] + beaten[last]) / 2 if tied else beaten[first])
    pairs = weights[above].sum(axis=0, dtype=np.float64) * beaten[-1]
    return np.minimum(ratio(wins, pairs), 1.0)  # but for rounding


class _WeightedScores:
    def __init__(self, targets: NDArray[Any], probabilities: Scores) -> None:
        self.link = link_of(targets)
        self.positive = indicators(targets, count=probabilities.shape[1])
        self.probabilities = probabilities
        predicted = indicators(self.link.decisions(probabilities), count=probabilities.shape[1])
        self.predicted = predicted.astype(np.float32)
        self.hits = (self.positive & predicted).astype(np.float32)
        self.there = self.positive.astype(np.float32)
        self.losses = log_losses(targets, probabilities).astype(np.float32)

    def __call__(self, weights: Counts) -> dict[str, Floats]:
        """Name -> score under each column of `weights` (n, b), float64 (b,)."""
        images, predicted, hits = self.there.T @ weights, self.predicted.T @ weights, self.hits.T @ weights
        found = {} if self.link.independent else {"balanced_accuracy": _class_average(hits, images, images)}
        found["f1_macro"] = _class_average(2 * hits, predicted + images, images)
        found["log_loss"] = (self.losses @ weights).astype(np.float64) / len(weights)
        total, defined = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        both = self.positive.any(axis=0) & ~self.positive.all(axis=0)
        for column in np.flatnonzero(both):
            area = weighted_roc_auc(self.positive[:, column], self.probabilities[:, column], weights)
            known = ~np.isnan(area)
            total += np.where(known, area, 0.0)
            defined += known
        found["roc_auc"] = ratio(total, defined)
        return found


def _class_average(above: Counts, below: Counts, images: Counts) -> Floats:
    """The mean of above / below (k, b) over the classes with images: (b,), nan where there are none."""
    there = images > 0
    shares = np.divide(above, below, out=np.zeros(above.shape), where=there)
    return ratio(shares.sum(axis=0), there.sum(axis=0))


@dataclass(frozen=True)
class PairedDifference:
    """How much more often the first of two classifiers is right: the difference of the shares, and its 95 % confidence interval.

    The p value is of the exact McNemar test: how likely so uneven counts of images that only one of them got right are by chance.
    """

    value: float
    interval: tuple[float, float]
    p_value: float
    first_only: int
    second_only: int


def paired_difference(first: Bools, second: Bools) -> PairedDifference:
    """Compare two classifiers by the images that each got right, bool (n,) both.

    The interval is Wald's with half an image added to each of the four counts (Agresti and Min, Statistics in Medicine 24 (2005) 729). The
    test is McNemar's (Psychometrika 12 (1947) 153) with exact binomial probabilities.
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
    """How much larger the area under the ROC curve of the first of two classifiers is, averaged over classes with both kinds of images.

    The 95 % interval of the difference is nan where both rank every image equally well, as its variance is then unknown; the p value is
    then 1 where there is no difference, else nan.
    """

    first: float
    second: float
    value: float
    interval: tuple[float, float]
    p_value: float


def auc_difference(positive: Bools, first: Scores, second: Scores) -> AucDifference:
    """Compare two classifiers by how they rank the same images.

    For one class (or two) it is the paired test of DeLong, DeLong and Clarke-Pearson (Biometrics 44 (1988) 837). For more, the classes'
    areas are averaged, and so are the parts that each image contributes to their errors. Images are taken as independent. `positive`
    says which image has which label, bool (n,) or (n, k); the scores have its shape.
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


def auc_and_error(positive: Bools, scores: Scores) -> tuple[float, float]:
    """The area under the ROC curve of vectors (n,), and its standard error by DeLong's method; there must be images of both kinds."""
    area, parts = _placements(np.asarray(positive, dtype=bool), np.asarray(scores))
    return area, float(np.sqrt((parts**2).sum()))


def _placements(positive: Bools, scores: Scores) -> tuple[float, Floats]:
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


def _share_below(values: Scores, ranked: Scores) -> Floats:
    """The share of `ranked` below each value, equal ones counting half."""
    return np.asarray((np.searchsorted(ranked, values, "left") + np.searchsorted(ranked, values, "right")) / (2 * len(ranked)))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P values corrected for their number (Holm, Scandinavian Journal of Statistics 6 (1979) 65); nan stays nan."""
    given = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(given))
    order = known[np.argsort(given[known], kind="stable")]
    found = given.copy()
    found[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return tuple(found.tolist())
