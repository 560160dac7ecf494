"""Confidence intervals: how far scores would move on other images of the same kind.

A share has Wilson's interval. Other scores have percentile intervals of the bootstrap (Efron and Tibshirani, An introduction to the
bootstrap, 1993, chapter 13): the images are resampled with replacement, each class as often as it occurs. Images are taken as
independent: where several show one patient, the intervals are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.metrics.link import link_of
from headstart.metrics.probabilities import indicators, log_losses

Floats = NDArray[np.float64]
Counts = NDArray[np.float32]

NORMAL_975 = 1.959963984540054
REPLICATES = 1000
FEWEST = 200  # where there are so many images and classes that a thousand replicates would take long
_WORK = 200_000_000  # images x classes x replicates
_AT_ONCE = 2_000_000  # images x replicates held in memory


def accuracy_interval(correct: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for the share `correct` of `total` independent images.

    It keeps close to its nominal coverage for small `total` and shares near 1, where the textbook interval p ± 1.96 se collapses.
    Raises ParameterError for impossible counts. Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209; Brown, Cai and DasGupta,
    Statistical Science 16 (2001) 101.
    """
    if not 0 <= correct <= total or total < 1:
        raise ParameterError(f"an interval needs 0 <= correct <= total and total >= 1, and got correct={correct}, total={total}.")
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence must lie between 0 and 1, for example 0.95, and is {confidence!r}.")
    if confidence == 0.95:
        z = NORMAL_975
    else:
        from statistics import NormalDist  # takes longer to import than the usual case to compute

        z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / total
    shrink = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the formula gives 0 and 1 but for rounding.
    return (0.0 if correct == 0 else max(0.0, centre - half), 1.0 if correct == total else min(1.0, centre + half))


@dataclass(frozen=True)
class BootstrapIntervals:
    """Percentile intervals of several scores, all from the same resamples.

    Attributes:
        intervals: name of the score -> (low, high). A score that is undefined, or the same in every resample, has none: that
            every image at hand is classified correctly does not mean that the next one will be.
        replicates: how many resamples.
        stratified: whether each class is drawn as often as it occurs; images with independent labels are drawn without regard to these.
        confidence: share of resamples inside.
        seed: of the resamples.
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
    probabilities: NDArray[np.floating[Any]],
    *,
    replicates: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapIntervals:
    """Return intervals of ``balanced_accuracy`` (of one label an image), ``f1_macro``, ``log_loss`` and ``roc_auc``.

    Args:
        targets: int (n,), column numbers; or bool (n, k), independent labels.
        probabilities: float (n, k).
        replicates: how many resamples; None is 1000, or fewer for very many images and classes, but 200 at least.
        confidence: share of resamples inside the interval.
        seed: the same seed gives the same intervals.

    Raises:
        ParameterError: fewer than two resamples, or a confidence outside (0, 1).
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities)
    if replicates is not None and replicates < 2:
        raise ParameterError(f"replicates must be at least 2, or None, got {replicates!r}.")
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence must lie between 0 and 1, for example 0.95, and is {confidence!r}.")
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

    Args:
        n: number of images.
        replicates: number of resamples.
        strata: int (n,); each stratum is then drawn as often as it occurs. None draws from all images alike.
        seed: of the draws.
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


def weighted_roc_auc(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]], weights: Counts) -> Floats:
    """Return the area under the ROC curve of vectors (n,) under each column of `weights` (n, b): float64 (b,), nan where undefined.

    An image of weight 2 counts as two images.
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
    areas: Floats = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return np.minimum(areas, 1.0)  # but for rounding


class _WeightedScores:
    """The scores of one set of images under many weights."""

    def __init__(self, targets: NDArray[Any], probabilities: NDArray[np.floating[Any]]) -> None:
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
        found["roc_auc"] = np.divide(total, defined, out=np.full(len(total), np.nan), where=defined > 0)
        return found


def _class_average(above: Counts, below: Counts, images: Counts) -> Floats:
    """The mean of above / below (k, b) over the classes with images: (b,), nan where there are none."""
    there = images > 0
    shares = np.divide(above, below, out=np.zeros(above.shape), where=there)
    count = there.sum(axis=0)
    averages: Floats = np.divide(shares.sum(axis=0), count, out=np.full(len(count), np.nan), where=count > 0)
    return averages
