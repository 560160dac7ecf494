"""Abstention: how right the model is on those images that it is surest of, and from which confidence on it is right often enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, RunError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

POINTS = 255
"""Most points of a curve: as many as eight steps of halving tell apart."""


@dataclass(frozen=True, eq=False)
class Abstention:
    """The accuracy-coverage curve of out-of-sample predictions.

    Point i stands for answering the images with a confidence of `thresholds[i]` or more, from the strictest to answering all.

    Attributes:
        thresholds: float64 (p,), falling.
        answered: int64 (p,), images answered; correct: int64 (p,), of them rightly.
        images: how many there were in all.
    """

    thresholds: Floats
    answered: Integers
    correct: Integers
    images: int

    @classmethod
    def fit(cls, confidence: npt.NDArray[Any], correct: npt.NDArray[Any]) -> Self:
        """Take the curve from predictions for images that the model had not seen.

        Args:
            confidence: (n,), for example the largest probability of each image; entries with nan are left out. Where images have
                several labels, every yes or no is a prediction of its own, with the confidence max(p, 1 - p).
            correct: bool (n,), whether the prediction was right.

        Raises:
            ParameterError: different lengths, or no predictions.
        """
        # in float32, as a saved model gives it, so that what was equal stays equal
        values, right = np.asarray(confidence, dtype=np.float32).astype(np.float64), np.asarray(correct).astype(bool)
        if values.ndim != 1 or values.shape != right.shape:
            raise ParameterError(
                f"confidence and correct must be two vectors of the same length, and have {values.shape} and {right.shape}."
            )
        known = ~np.isnan(values)
        values, right = values[known], right[known]
        if not len(values):
            raise ParameterError("An accuracy-coverage curve needs out-of-sample predictions of at least one image; there are none.")
        order = np.argsort(-values, kind="stable")
        values, hits = values[order], np.cumsum(right[order])
        # images of equal confidence are answered together or not at all
        ends = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
        if len(ends) > POINTS:
            wanted = np.linspace(0, len(values), POINTS + 1)[1:] - 1
            ends = np.unique(ends[np.minimum(np.searchsorted(ends, wanted - 0.5), len(ends) - 1)])
        return cls(values[ends], ends.astype(np.int64) + 1, hits[ends].astype(np.int64), len(values))

    @property
    def coverage(self) -> Floats:
        """Share of the images that are answered at each point (p,)."""
        return np.asarray(self.answered / self.images)

    @property
    def accuracy(self) -> Floats:
        """Share of the answers that are right at each point (p,)."""
        return np.asarray(self.correct / self.answered)

    def threshold_for(self, accuracy: float, *, confidence: float = 0.95) -> tuple[float, float] | None:
        """The threshold that answers most images with the wanted accuracy, and the share of images it answers; None where there is none.

        The accuracy is not only reached on these images but assured: with a probability of `confidence`, it is at least as high for images
        drawn like them. Each of the points tried passes an exact one-sided binomial test (the lower bound of Clopper and Pearson),
        whose error is shared among all points that halving can try.

        Source: Geifman and El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017, algorithm 1, with the points of
        the curve in place of single images.

        Raises:
            ParameterError: an accuracy or a confidence that is not between 0 and 1.
        """
        for name, value in (("accuracy", accuracy), ("confidence", confidence)):
            if isinstance(value, bool) or not 0 < value < 1:
                raise ParameterError(f"{name} must lie between 0 and 1, for example 0.95, and is {value!r}.")
        last = len(self.thresholds) - 1
        error = (1 - confidence) / (1 + math.ceil(math.log2(last + 1)))
        # answering all comes first: where that is good enough there is nothing to search
        low, high = (last + 1, last + 1) if self._assured(last, accuracy, error) else (0, last)
        while low < high:
            middle = (low + high) // 2
            if self._assured(middle, accuracy, error):
                low = middle + 1
            else:
                high = middle
        return None if not low else (float(self.thresholds[low - 1]), float(self.coverage[low - 1]))

    def _assured(self, point: int, accuracy: float, error: float) -> bool:
        """Whether so few wrong answers would come with a probability of at most `error` if the accuracy were lower than wanted."""
        answered = int(self.answered[point])
        return _at_most(answered - int(self.correct[point]), answered, 1 - accuracy) <= error

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "images": self.images,
            "thresholds": self.thresholds.tolist(),
            "answered": self.answered.tolist(),
            "correct": self.correct.tolist(),
        }

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """Make it again from what `to_dict` gave.

        Raises:
            RunError: an entry is missing or no such value.
        """
        try:
            made = cls(
                np.asarray(entries["thresholds"], dtype=np.float64),
                np.asarray(entries["answered"], dtype=np.int64),
                np.asarray(entries["correct"], dtype=np.int64),
                int(entries["images"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"The saved accuracy-coverage curve is damaged: {error} is missing or wrong. Fit again.") from error
        same = made.thresholds.ndim == 1 and made.thresholds.shape == made.answered.shape == made.correct.shape
        if not same or not len(made.answered) or not 1 <= made.answered.min() <= made.answered.max() <= made.images:
            raise RunError("The saved accuracy-coverage curve is damaged: its points do not go together. Fit again.")
        return made


def _at_most(events: int, trials: int, probability: float) -> float:
    """Probability of at most so many events in so many independent trials."""
    steps = np.arange(1, events + 1)
    ratios = np.log(trials - steps + 1.0) - np.log(steps) + math.log(probability) - math.log1p(-probability)
    terms = trials * math.log1p(-probability) + np.concatenate([[0.0], np.cumsum(ratios)])
    return float(min(1.0, np.exp(terms).sum()))
