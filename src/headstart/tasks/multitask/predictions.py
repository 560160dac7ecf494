"""What a run says of inputs in each of several columns of labels; and that as records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.records import Column, Record
from headstart.tasks.classification.predictions import ClassPredictions, record
from headstart.tasks.classification.predictions import columns as class_columns
from headstart.tasks.outputs import ClassOutputs, Judgement, Neighbour, Predictions
from headstart.text import printable

KIND = "columns"
"""Of the records."""

_OWN = ("label", "probability", "top", "set")  # of the values of a record: those of a column; the others are of the image


@dataclass(frozen=True, eq=False, kw_only=True)
class ColumnsPredictions(Predictions):
    """What a run says of a list of inputs; `columns` has it for each column of labels, with its prediction sets."""

    columns: Mapping[str, ClassPredictions]

    @classmethod
    def of(cls, given: Predictions, columns: Iterable[ClassOutputs]) -> ColumnsPredictions:
        """Predictions parted by their columns."""
        found, start = {}, 0
        sets = None if given.judgement is None else given.judgement.sets
        for one in columns:
            own = None if sets is None else Judgement(sets[:, start : start + len(one.classes)])
            outputs = {"probabilities": given.outputs[one.probabilities], "logits": given.outputs[one.logits]}
            start += len(one.classes)
            rest = {name: value for name, value in vars(given).items() if name not in ("outputs", "judgement")}
            found[one.column] = ClassPredictions(**rest, outputs=outputs, judgement=own, classes=one.classes, link=one.link)
        return cls(**vars(given), columns=found)

    @property
    def labels(self) -> dict[str, tuple[str | tuple[str, ...], ...]]:
        """The most probable class of each row, by column; see `ClassPredictions.labels`."""
        return {name: one.labels for name, one in self.columns.items()}

    def unsure(self, least: float | None) -> npt.NDArray[np.bool_]:
        """From which rows the model abstains, bool (n,): unsure in any column, or unlike the training inputs; with None from none."""
        unlike = np.zeros(len(self), np.bool_)
        if least is not None and self.judgement is not None and self.judgement.unlike is not None:
            unlike = self.judgement.unlike
        return np.asarray(np.any([unlike, *(one.unsure(least) for one in self.columns.values())], axis=0), np.bool_)

    @property
    def probabilities(self) -> dict[str, npt.NDArray[np.float32]]:
        """By column float32 (n, k), a row for each input that could be read."""
        return {name: one.probabilities for name, one in self.columns.items()}


def columns(outputs: Iterable[ClassOutputs], *, top: int) -> tuple[Column, ...]:
    """The columns of tables: those of a classification for each column of labels, after its name; what is of the image, once."""
    first, after, shared = list[Column](), list[Column](), list[Column]()
    for one in outputs:
        for column in class_columns(min(top, len(one.classes)), one.link):
            if column.type in ("name", "error"):
                continue
            at = column.at or (column.name,)
            if at[0] not in _OWN:
                shared += [] if any(other.name == column.name for other in shared) else [column]
                continue
            own = replace(column, name=f"{one.column}.{column.name}", at=(KIND, one.column, *at))
            (first if column.name in ("label", "probability") else after).append(own)
    return Column("path", "name"), *first, Column("error", "error"), *after, *shared


def image_record(
    name: Any, predictions: ColumnsPredictions, row: int, neighbour: Neighbour, *, top: int, least: float | None, nearest: int
) -> Record:  # fmt: skip
    """The record of one row; arguments as of `Task.records`. With `least` the model abstains where it is unsure in any column."""
    known = predictions.judgement or Judgement()
    of_image = Judgement(unlikeness=known.unlikeness, unlike=known.unlike, nearest=known.nearest)
    parts = {}
    for column, one in predictions.columns.items():
        count = min(top, len(one.classes))
        parts[column] = record(name, one, row, neighbour, top=count, least=least, nearest=0)
    first = next(iter(predictions.columns.values()))
    whole = record(name, replace(first, judgement=of_image), row, neighbour, top=1, least=None, nearest=nearest).values
    values = {KIND: {column: {key: part.values[key] for key in _OWN if key in part.values} for column, part in parts.items()}}
    values |= {key: value for key, value in whole.items() if key not in _OWN}
    doubts = [f"{column}: {part.error}" for column, part in parts.items() if part.error]
    if least is not None and whole["unlike"] and not doubts:
        doubts = ["no answer: unlike anything seen in training"]
    if doubts:
        values = {**values, KIND: {column: {"set": part.values["set"]} for column, part in parts.items()}}
    line = "" if doubts else "  ".join(f"{column}: {part.line}" for column, part in parts.items())
    if whole["unlike"] and not doubts:
        near = f"; nearest: {whole['nearest'][0]['name']}" if whole["nearest"] else ""
        line += f"  unlike anything seen in training{near}"
    error = "; ".join(doubts)
    return Record(name=printable(str(name)), kind=KIND, values=values, line=line, error=error, abstained=bool(doubts))
