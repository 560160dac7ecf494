"""Targets: what a task is to learn of each input. Labels and sets of labels are those of classification; other tasks bring their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from headstart.data.cells import label_cell
from headstart.errors import DataError
from headstart.metrics.link import SIGMOID, SOFTMAX, Link


class Targets(Protocol):
    """What is to be learned of n inputs."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty where the task has none."""

    @property
    def link(self) -> Link | None:
        """How the logits of the classes become probabilities; None where the task has no classes."""

    @property
    def array(self) -> npt.NDArray[Any]:
        """The targets as an array with n rows, as heads learn them and as a run stores them."""

    @property
    def strata(self) -> npt.NDArray[Any]:
        """What splits are stratified by: class numbers int64 (n,), or bool (n, k)."""

    def __len__(self) -> int: ...

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The targets of some inputs, in that order."""

    def names(self, index: int) -> tuple[str, ...]:
        """The target of one input as text: its class names, for instance, or its value."""

    def cell(self, index: int) -> str:
        """The target of one input as a cell of a list, which the task reads back as the same target."""

    def counts(self) -> dict[str, int]:
        """The number of inputs with each class, zeros included; empty where the task has none."""


@dataclass(frozen=True, eq=False)
class _ClassTargets:
    array: npt.NDArray[Any]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.array)

    @property
    def strata(self) -> npt.NDArray[Any]:
        """The array itself."""
        return self.array

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The targets of some inputs; all classes remain."""
        return replace(self, array=self.array[rows])

    def names(self, index: int) -> tuple[str, ...]:
        """The class names of one input."""
        numbers = np.flatnonzero(self.array[index]) if self.array.ndim == 2 else [self.array[index]]
        return tuple(self.classes[int(number)] for number in numbers)

    def cell(self, index: int) -> str:
        """The class names of one input, as `label_cell` writes them."""
        return label_cell(self.names(index))

    def counts(self) -> dict[str, int]:
        """The number of inputs with each class, zeros included."""
        counts = self.array.sum(axis=0) if self.array.ndim == 2 else np.bincount(self.array, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))


class Labels(_ClassTargets):
    """One label for each input: `array` int64 (n,) are indices into the k `classes`."""

    link = SOFTMAX


class LabelSets(_ClassTargets):
    """Any number of labels for each input, or none: `array` bool (n, k) says which input has which of the k `classes`."""

    link = SIGMOID


def class_targets(array: npt.NDArray[Any], classes: Sequence[str]) -> Labels | LabelSets:
    """Class numbers int64 (n,) as `Labels`, or bool (n, k) as `LabelSets`; DataError for another shape."""
    if array.ndim == 2 and array.shape[1] == len(classes):
        return LabelSets(array.astype(np.bool_, copy=False), tuple(classes))
    if array.ndim == 1:
        return Labels(array.astype(np.int64, copy=False), tuple(classes))
    raise DataError(f"targets of {len(classes)} classes must have the shape (n,) or (n, {len(classes)}), got {array.shape}.")
