"""By how much a score of one model is higher than another's on the same images, with its interval and a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.metrics.intervals import REPLICATES, AucDifference, PairedDifference, resamples
from headstart.metrics.scores import Floats

UNKNOWN = (math.nan, math.nan)
SWAPS = 4999
"""Random exchanges of images between two models; the least p value is one by so many and one."""
SIGNIFICANT = 0.05
"""A difference is shown where its p value is below."""
_NUMBERS = 20_000_000  # held in memory at once
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A score of one model less that of another on the same images; every number is nan where it cannot be known.

    Attributes:
        score: its name, as in evaluations; `word` is what it is called in a sentence.
        value: the difference, with its 95 % `interval` and the p value of a `test`: how likely it is by chance where both are alike.
        points: whether it is told in percentage points.
        phrases: what the one with the higher score does better than the other, and the one with the lower does worse.
        wins: on how many images the first alone, and the second alone, is right or better; None where that is not what is counted.
        won: what those numbers are, with ``{}`` for each.
    """

    score: str
    word: str
    value: float
    interval: tuple[float, float]
    p_value: float
    test: str
    points: bool = False
    phrases: tuple[str, str] = ("", "")
    wins: tuple[int, int] | None = None
    won: str = ""

    @classmethod
    def of_accuracy(cls, found: PairedDifference, *, score: str = "accuracy", word: str = "accuracy") -> Self:
        """Of the images that two models are right about."""
        return cls(
            score=score, word=word, value=found.value, interval=found.interval, p_value=found.p_value, test="McNemar", points=True,
            wins=(found.first_only, found.second_only), won="It alone is right on {}, the other alone on {}.",
        )  # fmt: skip

    @classmethod
    def of_auc(cls, found: AucDifference | None, *, word: str = "ROC-AUC") -> Self:
        """Of areas under the ROC curve; None where they are undefined."""
        phrases = "ranks the images better", "ranks the images worse"
        if found is None:
            return cls(score="roc_auc", word=word, value=math.nan, interval=UNKNOWN, p_value=math.nan, test="DeLong", phrases=phrases)
        return cls(
            score="roc_auc", word=word, value=found.value, interval=found.interval, p_value=found.p_value, test="DeLong", phrases=phrases
        )  # fmt: skip

    def reversed(self) -> Self:
        """The second model's score less the first's."""
        low, high = self.interval
        wins = None if self.wins is None else self.wins[::-1]
        return replace(self, value=-self.value, interval=(-high, -low), wins=wins)

    def text(self, p_value: float) -> str:
        """The difference with its interval, and this p value, which may be corrected; empty where the difference is undefined."""
        if math.isnan(self.value):
            return ""
        scale, digits, unit = (100, 1, " points") if self.points else (1, 4, "")
        value = f"{self.word} {scale * self.value + 0.0:+.{digits}f}{unit}"
        if math.isnan(self.interval[0]):
            return value
        low, high = (scale * bound + 0.0 for bound in self.interval)
        return f"{value} (95 % interval {low:+.{digits}f} to {high:+.{digits}f}, {self.test} {p_text(p_value)})"

    @property
    def half(self) -> str:
        """Half of the interval, as text; empty where it is unknown."""
        if math.isnan(self.interval[0]):
            return ""
        half = (self.interval[1] - self.interval[0]) / 2
        return f"{max(100 * half, 0.1):.1f} points" if self.points else f"{max(half, 1e-4):.4f}"

    def to_dict(self) -> dict[str, Any] | None:
        """As data for JSON; what is unknown is None, and so is all of it where the difference is undefined."""
        if math.isnan(self.value):
            return None
        interval = None if math.isnan(self.interval[0]) else list(self.interval)
        found = {"difference": self.value, "interval": interval, "p_value": None if math.isnan(self.p_value) else self.p_value}
        return found | ({} if self.wins is None else {"first_only": self.wins[0], "second_only": self.wins[1]})


class Differences(NamedTuple):
    """Those of several scores, that of the leading one first; and of the leading score of each class alone, by its name."""

    scores: tuple[Difference, ...]
    classes: Mapping[str, Difference] = {}


def told(differences: Sequence[Difference], p_values: Sequence[float]) -> list[str]:
    """Each as text with these p values; further ones than that of the leading score only where their interval is known."""
    leading, *further = (one.text(p) for one, p in zip(differences, p_values, strict=True))
    return [leading, *(text for one, text in zip(differences[1:], further, strict=True) if not math.isnan(one.interval[0]))]


def p_text(value: float) -> str:
    """A p value as in a sentence."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


@dataclass(frozen=True)
class ResampledDifferences:
    """Differences of m scores: float64 (m,), their 95 % intervals (m, 2), and their p values (m,); nan where they cannot be known."""

    values: Floats
    intervals: Floats
    p_values: Floats

    def interval(self, index: int) -> tuple[float, float]:
        """The interval of one of them."""
        low, high = self.intervals[index].tolist()
        return low, high


def resampled_differences(
    first: NDArray[Any], second: NDArray[Any], scores: Callable[[Floats], Floats], *, replicates: int = REPLICATES, swaps: int = SWAPS,
    seed: int = 0,
) -> ResampledDifferences:  # fmt: skip
    """Differences of two models' scores that are made of sums over images.

    Args:
        first: what is summed, a row for each of n images: (n, c).
        second: the same of the other model, with the images in the same order.
        scores: from sums (b, c) to m scores (b, m), nan where undefined.
        replicates: of the paired bootstrap that the percentile intervals are from: both models are scored on the same resampled images.
        swaps: of the randomization test: each image's numbers are exchanged between the models or not, at random (Noreen,
            Computer-intensive methods for testing hypotheses, 1989).
        seed: of both.

    An interval is nan where all resamples give the same. Raises ParameterError for different images.
    """
    one, two = (np.asarray(values, np.float64) for values in (first, second))
    if one.shape != two.shape or one.ndim != 2 or not len(one):
        raise ParameterError(f"A paired comparison needs the same images twice, got {one.shape} and {two.shape}.")
    values = (scores(one.sum(axis=0, keepdims=True)) - scores(two.sum(axis=0, keepdims=True)))[0]
    together, columns = np.concatenate([one, two], axis=1), one.shape[1]
    drawn = []
    for weights in resamples(len(one), replicates=replicates, seed=seed):
        for some in _parts(weights.T, columns):
            sums = some @ together
            drawn.append(scores(sums[:, :columns]) - scores(sums[:, columns:]))
    intervals = np.array([_percentiles(column) for column in np.concatenate(drawn).T]).reshape(-1, 2)
    intervals[np.isnan(values)] = math.nan
    p_values = np.where(np.isnan(values), math.nan, _randomized(one, two, scores, values, swaps=swaps, seed=seed))
    return ResampledDifferences(values, intervals, p_values)


def _percentiles(values: Floats) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known) or np.ptp(known) <= _ROUNDING:
        return UNKNOWN
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _randomized(one: Floats, two: Floats, scores: Callable[[Floats], Floats], values: Floats, *, swaps: int, seed: int) -> Floats:
    """How often differences at least as large as these come of exchanging the numbers of random images, the ones at hand included."""
    generator, apart, extreme, done = np.random.default_rng(seed), one - two, np.zeros(len(values)), 0
    while done < swaps:
        some = generator.random((min(swaps - done, max(1, _NUMBERS // (len(one) + one.shape[1]))), len(one))) < 0.5
        moved = some @ apart
        exchanged = scores(one.sum(axis=0) - moved) - scores(two.sum(axis=0) + moved)
        extreme += (np.abs(exchanged) >= np.abs(values) - _ROUNDING).sum(axis=0)
        done += len(some)
    return np.asarray((1 + extreme) / (1 + swaps))


def _parts(weights: NDArray[Any], columns: int) -> list[Floats]:
    """Rows of weights (b, n) in parts whose sums have room in memory."""
    step = max(1, _NUMBERS // (2 * columns + weights.shape[1]))
    return [weights[start : start + step].astype(np.float64) for start in range(0, len(weights), step)]
