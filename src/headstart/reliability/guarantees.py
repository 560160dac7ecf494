"""Guarantees from out-of-sample predictions: sets of classes that contain the true one, and confidence thresholds for an accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, RunError, damage_named
from headstart.metrics.link import SOFTMAX, Link, link_of, saved_link
from headstart.metrics.scores import at_thresholds
from headstart.reliability.shift import Rate
from headstart.settings.field import SHARE, require

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

POINTS = 255
"""Most points of an accuracy-coverage curve: as many as eight steps of bisection tell apart."""

METHOD = "least ambiguous"
"""A class is in the set if its probability reaches a threshold.

Adaptive sets were larger at the same coverage, by 44 % with ten classes (benchmarks/trust.py)."""


@dataclass(frozen=True, eq=False)
class PredictionSets:
    """Conformal prediction sets: a class is in the set of an image if its probability is at least the threshold of the class.

    For images drawn like those it was fitted on, the set contains the true class with a probability of `coverage` or a little more, however
    good the model is; a poor model gives large sets. The guarantee holds on average over images; with `by_class`, within each class.
    It does not hold for images from elsewhere: see `Novelty`. Cross-validated predictions come from models that saw fewer images than
    the final one; sets made from them cover a little more than the target (91.5 % for 90 % with 600 images and five folds).

    A model whose accuracy exceeds `coverage` gives some empty sets: those images resemble every class less than the guarantee requires.

    With several labels an image, the set contains all the labels of an image (that has any) with a probability of `coverage`; with
    `by_class`, each label is in the sets of the images that have it with that probability.

    Sources: Vovk, Gammerman and Shafer, Algorithmic learning in a random world (2005); Sadinle, Lei and Wasserman, Least ambiguous
    set-valued classifiers with bounded error levels, J. Am. Stat. Assoc. 114 (2019) 223.
    """

    coverage: float  # the target
    thresholds: Floats  # (k,); 0: the class is always in the set, as there were too few images for the guarantee otherwise
    by_class: bool
    link: Link = SOFTMAX
    images: int = 0  # how many it was fitted on

    @classmethod
    def fit(cls, probabilities: npt.NDArray[Any], targets: npt.NDArray[Any], *, coverage: float = 0.9, by_class: bool = False) -> Self:
        """Find the thresholds from out-of-sample probabilities (n, k); rows with nan are left out.

        Targets are class numbers, integers (n,), or bool (n, k). `by_class` guarantees the coverage within each class: one with fewer than
        coverage / (1 - coverage) images is then in every set.
        """
        require(SHARE, coverage=coverage)
        values, labels = _checked(probabilities, targets)
        link = link_of(labels)
        if link.independent:
            values, labels = values[labels.any(axis=1)], labels[labels.any(axis=1)]
        if not len(values):
            raise ParameterError("Prediction sets need out-of-sample predictions of at least one labelled image; there are none.")
        count = values.shape[1]
        has = labels if link.independent else labels[:, None] == np.arange(count)
        if by_class:
            thresholds = np.array([_threshold(values[has[:, column], column], coverage) for column in range(count)])
        else:
            # the least probable of its labels decides whether an image is covered
            thresholds = np.full(count, _threshold(np.where(has, values, np.inf).min(axis=1), coverage))
        return cls(float(coverage), thresholds, bool(by_class), link, len(values))

    def __call__(self, probabilities: npt.NDArray[Any], *, never_empty: bool = False) -> npt.NDArray[np.bool_]:
        """Which classes are in the set of each image, bool (m, k), from probabilities (m, k).

        With `never_empty`, the most probable class is put into sets that would be empty. Coverage can only rise by it.
        """
        values = np.asarray(probabilities)
        if values.ndim != 2 or values.shape[1] != len(self.thresholds):
            raise ParameterError(
                f"probabilities must have the shape (images, {len(self.thresholds)}), a column for each class, and have {values.shape}."
            )
        # in float32, as a saved model gives them: a threshold must not fall between two values that were equal to it
        inside: npt.NDArray[np.bool_] = values.astype(np.float32) >= self.thresholds
        if never_empty and len(values):
            empty = np.flatnonzero(~inside.any(axis=1))
            inside[empty, values[empty].argmax(axis=1)] = True
        return inside

    def rate(self, events: int, images: int) -> Rate:
        """How the promise stands where so many `images` had so many sets that lack the true class."""
        fitted = self.images // len(self.thresholds) if self.by_class else self.images
        return Rate(events=events, images=images, promised=1 - self.coverage, fitted=fitted)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return vars(self) | {"method": METHOD, "link": self.link.name, "thresholds": self.thresholds.tolist()}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; RunError where an entry is missing or wrong, or the method is unknown."""
        with damage_named("The saved prediction sets are"):
            coverage, by_class, images, method = (entries[name] for name in ("coverage", "by_class", "images", "method"))
            thresholds = np.asarray(entries["thresholds"], dtype=np.float64)
            made = cls(float(coverage), thresholds, bool(by_class), saved_link(entries), int(images))
        if method != METHOD:
            raise RunError(
                f"The saved prediction sets are of the method {method!r}; this version knows {METHOD!r}. "
                "Update with: pip install -U headstart"
            )
        if thresholds.ndim != 1 or not len(thresholds) or not np.isfinite(thresholds).all():
            raise RunError("The saved prediction sets are damaged: 'thresholds' must be a finite number for each class. Fit again.")
        return made


@dataclass(frozen=True, eq=False)
class Abstention:
    """Abstention: answering only above a confidence threshold. The accuracy-coverage curve of out-of-sample predictions.

    Point i stands for answering the images with a confidence of `thresholds[i]` or more, from the strictest to answering all.
    """

    thresholds: Floats  # (p,), falling
    answered: Integers  # (p,), images answered
    correct: Integers  # (p,), of these correctly
    images: int  # in all

    @classmethod
    def fit(cls, confidence: npt.NDArray[Any], correct: npt.NDArray[Any]) -> Self:
        """Take the curve from out-of-sample predictions: their confidence (n,), and whether they are correct, bool (n,).

        Predictions whose confidence is nan are left out. See `headstart.reliability.confidence`.
        """
        # in float32, as a saved model gives it, so that what was equal stays equal
        values, right = np.asarray(confidence, dtype=np.float32), np.asarray(correct).astype(bool)
        if values.ndim != 1 or values.shape != right.shape:
            raise ParameterError(
                f"confidence and correct must be two vectors of the same length, and have {values.shape} and {right.shape}."
            )
        known = ~np.isnan(values)
        if not known.any():
            raise ParameterError("An accuracy-coverage curve needs out-of-sample predictions of at least one image; there are none.")
        hits, misses, thresholds = at_thresholds(right[known], values[known])
        answered, count = (hits + misses)[1:], int(known.sum())
        points = np.arange(len(answered))
        if len(points) > POINTS:
            spaced = np.linspace(0, count, POINTS + 1)[1:] - 1
            points = np.unique(np.minimum(np.searchsorted(answered - 1, spaced - 0.5), len(points) - 1))
        return cls(thresholds[1:][points], answered[points], hits[1:][points], count)

    @property
    def coverage(self) -> Floats:
        """Share of the images that are answered at each point (p,)."""
        return np.asarray(self.answered / self.images)

    @property
    def accuracy(self) -> Floats:
        """Share of the answers that are right at each point (p,)."""
        return np.asarray(self.correct / self.answered)

    def threshold_for(self, accuracy: float, *, confidence: float = 0.95) -> tuple[float, float] | None:
        """The threshold that answers most images with at least this accuracy, and the share of images it answers; None where there is none.

        The accuracy is not only reached on these images but guaranteed: with a probability of `confidence`, it is at least as high for
        images drawn like them. Each of the points tried passes an exact one-sided binomial test (the lower bound of Clopper and Pearson),
        whose error is shared among all points that bisection can try.

        Source: Geifman and El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017, algorithm 1, with the points of
        the curve in place of single images.
        """
        require(SHARE, accuracy=accuracy, confidence=confidence)
        last = len(self.thresholds) - 1
        error = (1 - confidence) / (1 + math.ceil(math.log2(last + 1)))
        # answering all comes first: where that is good enough there is nothing to search
        low, high = (last + 1, last + 1) if self._guaranteed(last, accuracy, error) else (0, last)
        while low < high:
            middle = (low + high) // 2
            if self._guaranteed(middle, accuracy, error):
                low = middle + 1
            else:
                high = middle
        return None if not low else (float(self.thresholds[low - 1]), float(self.coverage[low - 1]))

    def _guaranteed(self, point: int, accuracy: float, error: float) -> bool:
        """Whether so few wrong answers would come with a probability of at most `error` if the accuracy were lower."""
        answered = int(self.answered[point])
        return _at_most(answered - int(self.correct[point]), answered, 1 - accuracy) <= error

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {name: value if name == "images" else value.tolist() for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; RunError where an entry is missing or wrong."""
        with damage_named("The saved accuracy-coverage curve is"):
            thresholds = np.asarray(entries["thresholds"], dtype=np.float64)
            answered, correct = (np.asarray(entries[name], dtype=np.int64) for name in ("answered", "correct"))
            made = cls(thresholds, answered, correct, int(entries["images"]))
        same = thresholds.ndim == 1 and thresholds.shape == answered.shape == correct.shape
        if not same or not len(answered) or not 1 <= answered.min() <= answered.max() <= made.images:
            raise RunError("The saved accuracy-coverage curve is damaged: its points do not go together. Fit again.")
        return made


def _threshold(probabilities: npt.NDArray[np.float32], coverage: float) -> float:
    """The largest value that at least ceil((n + 1) coverage) of n probabilities reach; 0 where there are not that many."""
    rank = math.ceil((len(probabilities) + 1) * coverage - 1e-9)
    if rank > len(probabilities):
        return 0.0
    return float(-np.partition(-probabilities, rank - 1)[rank - 1])


def _checked(probabilities: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Both as arrays, without the rows that have no prediction."""
    values, labels = np.asarray(probabilities, dtype=np.float32), np.asarray(targets)
    if values.ndim != 2 or not values.shape[1]:
        raise ParameterError(f"probabilities must have the shape (images, classes), and have {values.shape}.")
    if labels.shape not in ((len(values),), values.shape):
        raise ParameterError(
            f"targets must be class numbers ({len(values)},) or a bool matrix {values.shape} to go with the probabilities, "
            f"and have the shape {labels.shape}."
        )
    if labels.ndim == 2:
        labels = labels.astype(bool)
    elif labels.dtype.kind not in "iu" or (len(labels) and not 0 <= labels.min() <= labels.max() < values.shape[1]):
        raise ParameterError(f"targets must be class numbers from 0 to {values.shape[1] - 1}; give each label's column.")
    known = ~np.isnan(values).any(axis=1)
    return values[known], labels[known]


def _at_most(events: int, trials: int, probability: float) -> float:
    """Binomial probability of at most so many events in so many independent trials; SciPy would delay the start of `evaluate`."""
    steps = np.arange(1, events + 1)
    ratios = np.log(trials - steps + 1.0) - np.log(steps) + math.log(probability) - math.log1p(-probability)
    terms = trials * math.log1p(-probability) + np.concatenate([[0.0], np.cumsum(ratios)])
    return float(min(1.0, np.exp(terms).sum()))
