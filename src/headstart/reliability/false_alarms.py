"""A threshold on anomaly scores at a stated rate of false alarms, from the scores of good inputs alone.

Split-conformal prediction (Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005; for outliers Laxhammar and Falkman,
2010): of n + 1 exchangeable scores the newest is above the k-th smallest of the others with a probability of at most 1 - k / (n + 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, damage_named
from headstart.settings.field import number, require
from headstart.text import percent, plural

RATE = 0.05


@dataclass(frozen=True, kw_only=True)
class FalseAlarms:
    """A threshold, and how often the score of a good input is above it.

    Attributes:
        threshold: an input is anomalous where its score is above it.
        asked: the rate of false alarms that was asked for.
        assured: the rate that good inputs like those at hand do not exceed on average; above `asked` where these are too few.
        images: how many good inputs it rests on, each scored by a model that was fitted without it.
        source: where the scores came from, in words: ``in 10 folds``.
        guaranteed: whether the scores are exchangeable with those of new inputs; not where all are views of a single one.
    """

    threshold: float
    asked: float
    assured: float
    images: int
    source: str = ""
    guaranteed: bool = True

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating[Any]], rate: float = RATE, *, source: str = "", guaranteed: bool = True) -> Self:
        """The lowest threshold that assures the rate; the highest of the scores (n,) where they are too few for it.

        ParameterError for a rate outside 0 to 1, or no scores.
        """
        require(number(above=0, below=1), false_alarm_rate=rate)
        ranked = np.sort(np.asarray(scores, np.float64))
        count = len(ranked)
        if not count or not np.isfinite(ranked).all():
            raise ParameterError(f"A threshold needs finite scores of good inputs, at least one; got {count}.")
        place = min(math.ceil((count + 1) * (1 - rate) - 1e-9), count)
        return cls(
            threshold=float(ranked[place - 1]), asked=rate, assured=1 - place / (count + 1), images=count, source=source,
            guaranteed=guaranteed,
        )  # fmt: skip

    @property
    def enough(self) -> bool:
        """Whether the rate that was asked for is assured."""
        return self.guaranteed and self.assured <= self.asked + 1e-9

    @property
    def needed(self) -> int:
        """How many good inputs the rate needs at least."""
        return math.ceil(1 / self.asked - 1e-9) - 1

    def sentence(self) -> str:
        """The threshold and its guarantee."""
        value = f"Threshold {self.threshold:.4g}"
        if not self.guaranteed:
            return (
                f"{value}, the highest score {self.source}: one image does not tell how much good ones differ, so no rate of false alarms "
                f"can be assured. A rate of {percent(self.asked)} needs at least {self.needed} good images."
            )
        how = f" ({self.source})" if self.source else ""
        scored = f"the scores of {plural(self.images, 'good image')}, each by a model fitted without it{how}"
        if self.enough:
            return f"{value}: on average at most {percent(self.asked)} of good images like these are above it (conformal, by {scored})."
        return (
            f"{value}, the highest of {scored}: on average at most {percent(self.assured)} of good images like these are above it. A rate "
            f"of {percent(self.asked)} needs at least {self.needed} good images."
        )

    def state(self) -> dict[str, Any]:
        """JSON values, from which `from_state` makes it again."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The inverse of `state`; RunError where an entry is missing."""
        with damage_named("The saved threshold is"):
            return cls(
                threshold=float(state["threshold"]), asked=float(state["asked"]), assured=float(state["assured"]),
                images=int(state["images"]), source=str(state["source"]), guaranteed=bool(state["guaranteed"]),
            )  # fmt: skip
