"""What a search within a budget is made of: backbones with their out-of-sample scores, and what one has over another on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from headstart.heads.labels import EncodedLabels
from headstart.selection.candidates import Scored, mean_and_error
from headstart.text import duration, percent


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A backbone that was considered, and how good the best head on its features was out of sample.

    Scores are those of training images, each by a fit that did not see it; nan where it was not tried.
    """

    backbone: str  # as `headstart fit --backbone` takes it
    outcome: str  # ``chosen``, ``tried`` on all training images, ``dropped`` after some of them, or ``skipped``
    images: int = 0  # training images that it was scored on
    accuracy: float = math.nan  # share of correct decisions; its standard error follows
    accuracy_error: float = math.nan
    log_loss: float = math.nan  # in nats an image
    milliseconds: float = math.nan  # for an image on this machine, when many are computed together
    seconds: float = 0.0  # that trying it took; where it was skipped, that it would have taken
    strategy: str = "probe"  # how deep it was trained: ``probe`` is frozen, ``partial`` trained further from there
    reason: str = ""  # what came of the comparison with the best so far, or why it was not tried

    @property
    def title(self) -> str:
        """The backbone, and whether it was trained further."""
        return self.backbone if self.strategy == "probe" else f"{self.backbone}, trained further"

    def sentence(self) -> str:
        """What came of it, in one line."""
        if not self.images:
            return f"{self.title}: {self.outcome}; {self.reason}"
        scored = f"{percent(self.accuracy)} (± {100 * self.accuracy_error:.1f}) out of sample on {self.images} images"
        return f"{self.title}: {scored}, {duration(self.seconds)}{f'; {self.reason}' if self.reason else ''}"


UNBEATABLE, ENOUGH = 2, 100
"""Of a model that is wrong about no more than so many of so many images out of sample, nothing can be shown to be better."""


def unbeatable(scored: Scored) -> str:
    """About how few images a model is wrong, where nothing could be shown to be better; empty where something could."""
    wrong = int((scored.correct < 1).sum())
    return f"{wrong or 'none'} of {len(scored.targets)}" if wrong <= UNBEATABLE and len(scored.targets) >= ENOUGH else ""


def networks_of(backbone: str) -> int:
    """How many networks a backbone consists of."""
    return len(backbone.removesuffix("+mirrored").split("+"))


@dataclass(frozen=True, eq=False)
class OutOfSample(Scored):
    """What a model says of training images that it has not seen: calibrated logits (m, k), and their targets."""

    logits: npt.NDArray[np.float64]
    targets: EncodedLabels

    @classmethod
    def of(cls, logits: npt.NDArray[np.float64], targets: EncodedLabels, rows: npt.NDArray[np.int64]) -> Self:
        """Those of some of the images."""
        return cls(logits[rows], targets.take(rows))


@dataclass(frozen=True)
class Advantage:
    """What one model has over another, from the same images out of sample."""

    accuracy: float  # difference of the shares of correct decisions; its standard error follows
    accuracy_error: float
    evidence: float
    """In standard errors: the mean of how far the differences in accuracy and in log loss are from 0. The one is what counts, the other
    says more where few decisions differ."""

    @classmethod
    def of(cls, ours: Scored, theirs: Scored) -> Self:
        """Both of the same images."""
        weights = ours.targets.weights
        accuracy, error = mean_and_error(ours.correct - theirs.correct, weights)
        loss, loss_error = mean_and_error(theirs.losses - ours.losses, weights)
        least = 1 / max(len(ours.targets), 1)  # of a decision that might have been another
        return cls(accuracy, error, 0.5 * (accuracy / max(error, least) + loss / max(loss_error, 1e-12)))

    def sentence(self, over: str) -> str:
        """The difference in words."""
        return f"{100 * self.accuracy:+.1f} points (± {100 * self.accuracy_error:.1f}) against {over}"


def needed(ours: str, theirs: str) -> float:
    """How much `Advantage.evidence` a backbone needs to be taken in place of another.

    One standard error, so that chance does not decide. Networks added to those that are there need none: they err on other images, and did
    better on most sets that were measured.
    """
    return 0.0 if networks_of(ours) > networks_of(theirs) else 1.0


def finite_rows(logits: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.int64]:
    """The rows at which all of several logits (n, k) are known."""
    return np.flatnonzero(np.all([np.isfinite(some).all(axis=1) for some in logits], axis=0))
