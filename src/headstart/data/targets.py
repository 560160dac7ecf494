"""Targets: what a task is to learn of each input. Labels and sets of labels are those of classification; other tasks bring their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

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

    def cells(self, index: int) -> dict[str, str]:
        """The target of one input as cells of a list, by column, which the task reads back as the same target."""

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

    def cells(self, index: int) -> dict[str, str]:
        """The `cell` of one input, in a column ``label``."""
        return {"label": self.cell(index)}

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


@dataclass(frozen=True, eq=False)
class LabelColumns:
    """Labels from several columns of a list, in each of which an input may have none.

    Attributes:
        columns: by the name of the column, `Labels` or `LabelSets` of all n inputs; what stands there for an input without a label says
            nothing.
        known: bool (n, c): which input has a label in which of the c columns.
    """

    columns: Mapping[str, Labels | LabelSets]
    known: npt.NDArray[np.bool_]

    classes: ClassVar[tuple[str, ...]] = ()
    link: ClassVar[Link | None] = None

    def __len__(self) -> int:
        return len(self.known)

    @property
    def array(self) -> npt.NDArray[np.int64]:
        """Int64 (n, w): class numbers, a column each, or 0 and 1 for each class of label sets; -1 where an input has no label."""
        return np.column_stack([_masked(targets.array, known) for targets, known in self._pairs()])

    @cached_property
    def strata(self) -> npt.NDArray[np.bool_]:
        """Bool (n, k): which of the classes of all columns together an input has."""
        found = []
        for targets, known in self._pairs():
            array = targets.array
            indicators = array if array.ndim == 2 else array[:, None] == np.arange(len(targets.classes))
            found.append(indicators & known[:, None])
        return np.concatenate(found, axis=1)

    def _pairs(self) -> list[tuple[Labels | LabelSets, npt.NDArray[np.bool_]]]:
        return list(zip(self.columns.values(), self.known.T, strict=True))

    def rows(self, name: str) -> npt.NDArray[np.int64]:
        """The inputs that have a label in a column, int64 (m,), ascending."""
        return np.flatnonzero(self.known[:, list(self.columns).index(name)])

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """The targets of some inputs; all columns and classes remain."""
        return replace(self, columns={name: one.take(rows) for name, one in self.columns.items()}, known=self.known[rows])

    def names(self, index: int) -> tuple[str, ...]:
        """The labels that one input has, each with its column: ``age: young``."""
        given = zip(self.columns.items(), self.known[index], strict=True)
        return tuple(f"{name}: {', '.join(targets.names(index)) or '(none)'}" for (name, targets), known in given if known)

    def cells(self, index: int) -> dict[str, str]:
        """The cells of one input by column: empty where it has no label, and ``[]`` for the empty set of labels."""
        given = zip(self.columns.items(), self.known[index], strict=True)
        return {name: (label_cell(targets.names(index)) or "[]") if known else "" for (name, targets), known in given}

    def counts(self) -> dict[str, int]:
        """Empty: a class is counted within its column."""
        return {}


def labels_in(targets: Targets, column: str = "") -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """The inputs that have a label in a column, int64 (m,), and these labels as an array; of targets with one column, all and the array."""
    if not isinstance(targets, LabelColumns):
        return np.arange(len(targets)), targets.array
    rows = targets.rows(column)
    return rows, targets.columns[column].array[rows]


def _masked(array: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    return np.where(known if array.ndim == 1 else known[:, None], array, -1).astype(np.int64)


def label_columns(array: npt.NDArray[Any], columns: Mapping[str, tuple[Sequence[str], Link]]) -> LabelColumns:
    """Targets from an array as of `LabelColumns.array`, and the classes and the link of each column; DataError for another shape."""
    widths = [len(classes) if link.independent else 1 for classes, link in columns.values()]
    if array.ndim != 2 or array.shape[1] != sum(widths):
        raise DataError(f"targets of the columns {', '.join(columns)} must have the shape (n, {sum(widths)}), got {array.shape}.")
    found, known, start = dict[str, Labels | LabelSets](), list[npt.NDArray[np.bool_]](), 0
    for width, (name, (classes, link)) in zip(widths, columns.items(), strict=True):
        part = array[:, start : start + width]
        known.append(np.asarray((part >= 0).all(axis=1)))
        values = np.maximum(part, 0)
        found[name] = class_targets(values.astype(np.bool_) if link.independent else values[:, 0], classes)
        start += width
    return LabelColumns(found, np.column_stack(known))


def class_targets(array: npt.NDArray[Any], classes: Sequence[str]) -> Labels | LabelSets:
    """Class numbers int64 (n,) as `Labels`, or bool (n, k) as `LabelSets`; DataError for another shape."""
    if array.ndim == 2 and array.shape[1] == len(classes):
        return LabelSets(array.astype(np.bool_, copy=False), tuple(classes))
    if array.ndim == 1:
        return Labels(array.astype(np.int64, copy=False), tuple(classes))
    raise DataError(f"targets of {len(classes)} classes must have the shape (n,) or (n, {len(classes)}), got {array.shape}.")
