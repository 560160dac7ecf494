"""`Shift`: whether images come from another world than the training images. The one definition; everything that says so asks it.

A run promises two rates of images like the training images: how many are flagged as novel, and how many prediction sets lack the true
class. Images come from another world where one of the two is broken: more than `FAR` times as often as promised, and more often than
chance explains. The second alone would call 3.3 % of a million images another world, the first alone 4 of 40.

How far two sets of images are apart is `separation`: how well a linear classifier tells them apart.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.metrics import auc_and_error
from headstart.metrics.intervals import NORMAL_975
from headstart.text import percent

LEVEL = 1e-4
"""Probability by chance below which a rate is broken, where it is looked at once: of a fit, an evaluation, a batch job."""

WATCHED = 1e-7
"""The same where it is looked at after every request, as a service does."""

FAR = 2.0
"""A rate that is exceeded by less is not called broken, however many images there are: no two sets of images are quite alike."""

FEWEST = 10  # images; of fewer nothing is said as a whole
RECENT = 200  # images that a service looks at together
MOST = 512  # images of each of two sets that are told apart
LEAST = 20  # fewer say nothing
FOLDS = 5
RIDGE = 0.1  # of the mean eigenvalue of the Gram matrix


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How many of `images` are what a run promises that few will be.

    `promised` is the share to expect of images like the training images; it was fitted on `fitted` of these, 0 where nothing is promised.
    """

    events: int
    images: int
    promised: float
    fitted: int

    @property
    def share(self) -> float:
        """Events among the images, 0 where there are none."""
        return self.events / self.images if self.images else 0.0

    @property
    def p_value(self) -> float:
        """The probability of so many events or more, if the images are exchangeable with those that the promise was fitted on.

        The threshold behind the promise is one of these scores, by rank. How many of n further ones exceed it has a beta-binomial
        distribution, wider than the binomial one, which counts the chance in the threshold as well (Vovk, Conditional validity of
        inductive conformal predictors, Machine Learning 92 (2013) 349).
        """
        above = self.fitted + 1 - math.ceil((self.fitted + 1) * (1 - self.promised) - 1e-9)
        return exceedances_by_chance(self.events, self.images, above=max(1, above), fitted=self.fitted)

    def broken(self, level: float = LEVEL) -> bool:
        """Whether the promise is broken: far more events than promised, and by chance less probable than `level`."""
        enough = self.images >= FEWEST and self.fitted > 0 and self.events > FAR * self.promised * self.images
        return enough and self.p_value < level


def exceedances_by_chance(events: int, images: int, *, above: int, fitted: int) -> float:
    """The probability that at least `events` of `images` exceed the value that `above` - 1 of `fitted` exchangeable ones exceed.

    That is the upper tail of the beta-binomial distribution with the parameters `above` and `fitted` + 1 - `above`.
    """
    if events <= 0:
        return 1.0
    below, total = fitted + 1 - above, 0.0
    if events * (fitted + 1) <= images * above:  # not in the upper tail, whose terms fall from the first on
        return 1.0 - exceedances_by_chance(images - events + 1, images, above=below, fitted=fitted)
    log_beta = math.lgamma(fitted + 1) - math.lgamma(above) - math.lgamma(below)
    log_term = log_beta + math.lgamma(images + 1) - math.lgamma(events + 1) - math.lgamma(images - events + 1)
    log_term += math.lgamma(events + above) + math.lgamma(images - events + below) - math.lgamma(images + fitted + 1)
    term = math.exp(log_term)
    for count in range(events, images + 1):
        total += term
        ratio = (images - count) * (count + above) / ((count + 1) * (images - count - 1 + below)) if count < images else 0.0
        term *= ratio
        if ratio < 1 and term <= 1e-12 * total * (1 - ratio):
            break
    return min(1.0, total)


@dataclass(frozen=True, kw_only=True)
class Shift:
    """What the promises of a run say of images: how many are flagged as novel, and how many prediction sets lack the true class.

    Each is None where it is not known.
    """

    novel: Rate | None = None
    missed: Rate | None = None

    @property
    def found(self) -> bool:
        """Whether the images come from another world than the training images."""
        return any(rate is not None and rate.broken() for rate in (self.novel, self.missed))

    def lead(self, images: str = "images") -> str:
        """What was found, in a sentence or two; empty where nothing was."""
        said, subject = "", images[:1].upper() + images[1:]
        if self.novel is not None and self.novel.broken():
            said = (
                f"The {images} come from another world than the training images: {percent(self.novel.share)} of them are unlike these, "
                f"where {percent(self.novel.promised)} are expected."
            )
        if self.missed is not None and self.missed.broken():
            sets = f"contain the true class for {percent(1 - self.missed.share)} of them, where {percent(1 - self.missed.promised)} "
            if said:
                return f"{said} Prediction sets {sets}was promised."
            said = f"{subject} differ from the training images, or their labels do: prediction sets {sets}was promised."
        return said

    def warning(self, images: str = "images") -> str:
        """The `lead`, what it means, and what to do; empty where nothing was found."""
        lead = self.lead(images)
        return lead and f"{lead} {MEANING} {REMEDY}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"found": self.found}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Self:
        """The inverse of `to_dict`."""
        rates = {name: (values or {}).get(name) for name in ("novel", "missed")}
        return cls(**{name: None if rate is None else Rate(**rate) for name, rate in rates.items()})


class Watch:
    """The last `RECENT` images of a service, of which a run promises a rate: whether these come from another world.

    It is looked at after every request, so that it takes more than for images that are looked at once.
    """

    def __init__(self, promised: float, fitted: int) -> None:
        self._promised, self._fitted = promised, fitted
        self._recent: deque[bool] = deque(maxlen=RECENT)

    def add(self, novel: npt.NDArray[np.bool_]) -> None:
        """Take further images, bool (n,): whether each is novel."""
        self._recent.extend(novel.tolist())

    @property
    def rate(self) -> Rate:
        """How many of the last images are novel."""
        return Rate(events=sum(self._recent), images=len(self._recent), promised=self._promised, fitted=self._fitted)

    @property
    def drifted(self) -> bool:
        """Whether the last images come from another world than the training images."""
        return self.rate.broken(WATCHED)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: how many of the last images are unlike the training images, the share to expect, and whether they drifted."""
        rate = self.rate
        return {"images": rate.images, "unlike": rate.events, "expected": rate.promised, "drifted": self.drifted}


MEANING = "Probabilities and prediction sets do not hold for them."
"""What a shift does to what a run says of images."""

WITHIN = "For images like the training images: "
"""Begins what is said of a run whose test images come from another world, and holds all the same."""


REMEDY = "Label some of them, and fit with these too; or adapt to them without labels: headstart fit DATA --adapt-to FOLDER."
"""What to do about a shift."""


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How well a linear classifier on their features tells two sets of images apart: area under the ROC curve, with its 95 % interval.

    One half is what two halves of one set give, 1 is two worlds without overlap. It is out of sample, from so many `images` of both.
    """

    auc: float
    interval: tuple[float, float]
    images: int

    @property
    def shown(self) -> bool:
        """Whether there is a difference: by three standard errors, one in seven hundred by chance."""
        return self.auc - 0.5 > 3 / NORMAL_975 * (self.auc - self.interval[0])

    def sentence(self) -> str:
        """The separation as a sentence."""
        low, high = self.interval
        said = f"A linear classifier tells them from the training images with a ROC-AUC of {self.auc:.2f}"
        return f"{said} (95 % interval {low:.2f} to {high:.2f}; 0.5: no difference, 1: no overlap)."


def separation(one: npt.NDArray[Any], other: npt.NDArray[Any], *, seed: int = 0) -> Separation | None:
    """Tell features (n, d) and (m, d) apart; None where one of the sets has fewer than `LEAST` images.

    By ridge regression on features of unit variance, fitted to four fifths of at most `MOST` images of each set, and tested on the rest.
    """
    if min(len(one), len(other)) < LEAST:
        return None
    rng = np.random.default_rng(seed)
    parts = [np.asarray(values[np.sort(rng.permutation(len(values))[:MOST])], dtype=np.float32) for values in (one, other)]
    values, positive = np.concatenate(parts), np.repeat([False, True], [len(part) for part in parts])
    spread = values.std(axis=0)
    values = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
    fold = np.concatenate([rng.permutation(len(part)) % FOLDS for part in parts])
    gram = (values @ values.T).astype(np.float64)
    found = []
    for number in range(FOLDS):
        known, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        inside = gram[np.ix_(known, known)]
        signs = positive[known] - positive[known].mean()
        weights = np.linalg.solve(inside + max(RIDGE * np.trace(inside) / len(known), 1e-9) * np.eye(len(known)), signs)
        found.append(auc_and_error(positive[held], gram[np.ix_(held, known)] @ weights))
    auc = float(np.mean([area for area, _ in found]))
    margin = NORMAL_975 * math.sqrt(sum(error**2 for _, error in found)) / FOLDS
    return Separation(auc=auc, interval=(max(0.0, auc - margin), min(1.0, auc + margin)), images=len(values))
