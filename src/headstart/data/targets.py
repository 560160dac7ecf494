"""Targets: what a task is to learn of each input. Labels and sets of labels are those of classification; other tasks bring their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError
from headstart.metrics.link import SIGMOID, SOFTMAX, Link


class Targets(Protocol):
    """What is to be learned of n inputs."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty where the task has none."""
        ...

    @property
    def link(self) -> Link | None:
        """How the logits of the classes become probabilities; None where the task has no classes."""
        ...

    @property
    def array(self) -> npt.NDArray[Any]:
        """The targets as an array with n rows, as heads learn them and as a run stores them."""
        ...

    @property
    def strata(self) -> npt.NDArray[Any]:
        """What splits are stratified by: class numbers int64 (n,), or bool (n, k)."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The targets of some inputs, in that order."""
        ...

    def names(self, index: int) -> tuple[str, ...]:
        """The target of one input as text: its class names, for instance, or its value."""
        ...

    def cell(self, index: int) -> str:
        """The target of one input as a cell of a list, which the task reads back as the same target."""
        ...

    def counts(self) -> dict[str, int]:
        """The number of inputs with each class; empty where the task has none."""
        ...


@dataclass(frozen=True, eq=False)
class Labels:
    """One label for each input.

    Attributes:
        array: int64 (n,), indices into `classes`.
        classes: the k class names.
    """

    array: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    link = SOFTMAX

    def __len__(self) -> int:
        return len(self.array)

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """The class numbers."""
        return self.array

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The labels of some inputs; the classes stay all there."""
        return replace(self, array=self.array[rows])

    def names(self, index: int) -> tuple[str, ...]:
        """The class name of one input."""
        return (self.classes[int(self.array[index])],)

    def cell(self, index: int) -> str:
        """The class name of one input."""
        return self.names(index)[0]

    def counts(self) -> dict[str, int]:
        """The number of inputs of each class, zeros included."""
        return _counted(self.classes, np.bincount(self.array, minlength=len(self.classes)))


@dataclass(frozen=True, eq=False)
class LabelSets:
    """Any number of labels for each input, or none.

    Attributes:
        array: bool (n, k), which input has which label.
        classes: the k class names.
    """

    array: npt.NDArray[np.bool_]
    classes: tuple[str, ...]

    link = SIGMOID

    def __len__(self) -> int:
        return len(self.array)

    @property
    def strata(self) -> npt.NDArray[np.bool_]:
        """The matrix of labels."""
        return self.array

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The label sets of some inputs; the classes stay all there."""
        return replace(self, array=self.array[rows])

    def names(self, index: int) -> tuple[str, ...]:
        """The class names of one input."""
        return tuple(self.classes[j] for j in np.flatnonzero(self.array[index]))

    def cell(self, index: int) -> str:
        """The class names of one input, separated by semicolons."""
        return ";".join(self.names(index))

    def counts(self) -> dict[str, int]:
        """The number of inputs with each label, zeros included."""
        return _counted(self.classes, self.array.sum(axis=0))


def _counted(classes: Sequence[str], counts: npt.NDArray[Any]) -> dict[str, int]:
    return dict(zip(classes, (int(count) for count in counts), strict=True))


def class_targets(array: npt.NDArray[Any], classes: Sequence[str]) -> Labels | LabelSets:
    """Class numbers int64 (n,) as `Labels`, or bool (n, k) as `LabelSets`.

    Raises:
        DataError: another shape.
    """
    if array.ndim == 2 and array.shape[1] == len(classes):
        return LabelSets(array.astype(np.bool_, copy=False), tuple(classes))
    if array.ndim == 1:
        return Labels(array.astype(np.int64, copy=False), tuple(classes))
    raise DataError(f"targets of {len(classes)} classes must have the shape (n,) or (n, {len(classes)}), got {array.shape}.")
