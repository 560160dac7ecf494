"""Prediction sets: the classes that an image may have, so that the set holds its true class in a stated share of cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, RunError
from headstart.metrics.link import SOFTMAX, Link, link_of, saved_link

Floats = npt.NDArray[np.float64]

METHOD = "least ambiguous"
"""A class is in the set if its probability reaches a threshold.

Adaptive sets were larger at the same coverage, by 44 % with ten classes (benchmarks/trust.py)."""


@dataclass(frozen=True, eq=False)
class PredictionSets:
    """Conformal prediction sets: a class is in the set of an image if its probability is at least the threshold of the class.

    For images drawn like those it was fitted on, the set holds the true class with a probability of `coverage` or a little more, whatever
    the model is worth; a poor model gives large sets. The promise holds on average over images; with `by_class`, within each class.
    It does not hold for images from elsewhere: see `Unlike`. Predictions from cross-validation come of models that saw fewer images than
    the one that is used; sets made with them cover a little more than was asked for (91.5 % for 90 % with 600 images and five folds).

    A model that is right more often than `coverage` gives some empty sets: those images are less like any class than the promise needs.

    With several labels an image, the set holds all the labels of an image (that has any) with a probability of `coverage`; with `by_class`,
    each label is in the sets of the images that have it with that probability.

    Sources: Vovk, Gammerman and Shafer, Algorithmic learning in a random world (2005); Sadinle, Lei and Wasserman, Least ambiguous
    set-valued classifiers with bounded error levels, J. Am. Stat. Assoc. 114 (2019) 223.

    Attributes:
        coverage: as asked for.
        thresholds: float64 (k,). 0 means that the class is always in the set: there were too few images for the promise otherwise.
        by_class: whether each class has a threshold of its own.
        method: how sets are made; always `METHOD`.
        link: `SOFTMAX` for one label an image, `SIGMOID` for any number of labels.
        images: how many it was fitted on.
    """

    coverage: float
    thresholds: Floats
    by_class: bool
    method: str = METHOD
    link: Link = SOFTMAX
    images: int = 0

    @classmethod
    def fit(cls, probabilities: npt.NDArray[Any], targets: npt.NDArray[Any], *, coverage: float = 0.9, by_class: bool = False) -> Self:
        """Find the thresholds from predictions for images that the model had not seen.

        Args:
            probabilities: (n, k), out of sample; rows with nan are left out.
            targets: class numbers, integers (n,); or bool (n, k) for several labels an image.
            coverage: the probability asked for, between 0 and 1.
            by_class: promise it within each class. A class with fewer than coverage / (1 - coverage) images is then in every set.

        Raises:
            ParameterError: a coverage that is none, shapes that do not fit, class numbers outside of the columns, or no images.
        """
        if isinstance(coverage, bool) or not isinstance(coverage, int | float | np.floating) or not 0 < coverage < 1:
            raise ParameterError(f"coverage must lie between 0 and 1, for example 0.9, and is {coverage!r}.")
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
        return cls(float(coverage), thresholds, bool(by_class), METHOD, link, len(values))

    def __call__(self, probabilities: npt.NDArray[Any], *, never_empty: bool = False) -> npt.NDArray[np.bool_]:
        """Which classes are in the set of each image: bool (m, k).

        Args:
            probabilities: (m, k).
            never_empty: put the most probable class into sets that would be empty. Coverage can only rise by it.

        Raises:
            ParameterError: another number of classes than was fitted on.
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "method": self.method,
            "coverage": self.coverage,
            "by_class": self.by_class,
            "link": self.link.name,
            "images": self.images,
            "thresholds": self.thresholds.tolist(),
        }

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """Make them again from what `to_dict` gave.

        Raises:
            RunError: an entry is missing or no such value, or the method is unknown.
        """
        try:
            made = cls(
                float(entries["coverage"]),
                np.asarray(entries["thresholds"], dtype=np.float64),
                bool(entries["by_class"]),
                str(entries["method"]),
                saved_link(entries),
                int(entries["images"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"The saved prediction sets are damaged: {error} is missing or wrong. Fit again.") from error
        if made.method != METHOD:
            raise RunError(
                f"The saved prediction sets are of the method {made.method!r}; this version knows {METHOD!r}. "
                "Update with: pip install -U headstart"
            )
        if made.thresholds.ndim != 1 or not len(made.thresholds) or not np.isfinite(made.thresholds).all():
            raise RunError("The saved prediction sets are damaged: 'thresholds' must be a finite number for each class. Fit again.")
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
