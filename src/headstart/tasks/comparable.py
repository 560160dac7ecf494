"""`Comparable`: what the evaluation of a task must say so that runs, or two models of one fit, can be compared image by image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from headstart.metrics.differences import Differences
from headstart.text import enumeration, visible


class Comparable(ABC):
    """An evaluation that can be set against others of the same images. One that is not has runs that cannot be compared."""

    truth: ClassVar[str] = "label"
    """What an image is tested against, in a sentence."""

    @property
    @abstractmethod
    def leading(self) -> tuple[str, float, tuple[float, float]]:
        """The score that runs are ranked by, the higher the better: what it is called, its value and its 95 % interval."""

    @property
    @abstractmethod
    def beside(self) -> Mapping[str, float]:
        """Scores to show beside it, by what they are called; nan where one is undefined."""

    @property
    @abstractmethod
    def rank(self) -> tuple[float, ...]:
        """What orders runs, the higher the better: the leading score, then what decides where two have the same."""

    @abstractmethod
    def unlike(self, other: Self, *, mine: str, theirs: str) -> str | None:
        """Why the two cannot be compared whatever the images, in a sentence with these names of their runs; None where they can."""

    @abstractmethod
    def part(self, rows: npt.NDArray[np.int64], *, like: Self) -> Self:
        """The evaluation of some of the images, in that order, with the classes in the order of another evaluation."""

    @abstractmethod
    def same_truth(self, other: Self) -> npt.NDArray[np.bool_]:
        """Bool (n,): which images have the same targets in both, which have the same images and classes in the same order."""

    @abstractmethod
    def differences(self, other: Self) -> Differences:
        """Scores less those of the other evaluation, which is of the same images in the same order."""


def unlike_classes(own: Sequence[str], others: Sequence[str], *, mine: str, theirs: str) -> str | None:
    """Why runs of different classes cannot be compared; None where they have the same, in whatever order."""
    if set(own) == set(others):
        return None
    said = " and ".join(
        f"only {name} has {enumeration([visible(one) for one in here if one not in there])}"
        for name, here, there in ((mine, own, others), (theirs, others, own))
        if set(here) - set(there)
    )
    return f"The runs have different classes: {said}. Compare runs that were fitted on the same classes."
