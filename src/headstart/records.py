"""Records: what a run predicts for one input, in a form that every writer can write and the web page can draw without knowing the task.

A task decodes the outputs of its model into records once, and says which columns they have. Tables (terminal, CSV, JSON, JSON lines,
Parquet) and the service are made from these two alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

DEFAULT_KIND = "classes"
"""The kind of a record in an answer of the service that names none."""

ColumnType = Literal["name", "error", "text", "texts", "number", "whole", "truth", "objects"]
Writing = Literal["csv", "json", "parquet"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run predicts for one input; or why the input was refused, or the model abstains."""

    name: str  # the path of the input, or what a client calls it; printable
    kind: str = DEFAULT_KIND  # how the web page draws the record: classes, boxes, mask, score, number, text or neighbours
    values: Mapping[str, Any] = field(default_factory=dict)  # JSON values, at full precision; None where the run cannot tell
    line: str = ""  # for the table in a terminal
    error: str = ""  # why there is no prediction
    abstained: bool = False  # whether the input could be read and the model is not sure enough


@dataclass(frozen=True)
class Column:
    """One column of a table of records.

    Its types ``name`` and ``error`` are those of the record; the others are types of its values: text, list of texts, number, whole number,
    truth value, and list of objects, which only JSON can have.
    """

    name: str  # in the first line of a CSV file, and the key in JSON
    type: ColumnType
    at: tuple[str | int, ...] = ()  # keys and positions that lead to the value within `Record.values`; by default the name alone
    digits: int | None = None  # decimals of a number in CSV and JSON; None for as many as it has
    writings: tuple[Writing, ...] = ("csv", "json", "parquet")  # which kinds of table have the column

    def value(self, record: Record) -> Any:
        """The value for one record, None where it has none."""
        if self.type == "name":
            return record.name
        if self.type == "error":
            return record.error or None
        found: Any = record.values
        for step in self.at or (self.name,):
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                return None
        return None if found == "" else found

    def cell(self, record: Record) -> str:
        """The value as text for CSV; empty where there is none."""
        value = self.value(record)
        if value is None:
            return ""
        match self.type:
            case "texts":
                return ";".join(value)
            case "truth":
                return "yes" if value else "no"
            case "number" if self.digits is not None:
                return f"{value:.{self.digits}f}"
        return str(value)


def columns_for(writing: Writing, columns: Iterable[Column]) -> tuple[Column, ...]:
    """The columns that a kind of table has."""
    return tuple(column for column in columns if writing in column.writings)


def csv_header(columns: Sequence[Column]) -> str:
    """The first line of a CSV file."""
    return csv_lines([[column.name for column in columns_for("csv", columns)]])


def csv_records(columns: Sequence[Column], records: Iterable[Record]) -> str:
    """The lines of a CSV file, one for each record."""
    shown = columns_for("csv", columns)
    return csv_lines([column.cell(record) for column in shown] for record in records)


def csv_lines(rows: Iterable[list[str]]) -> str:
    """Rows of cells as CSV."""
    lines = list[str]()
    csv.writer(SimpleNamespace(write=lines.append)).writerows(rows)  # its own line end: with another, a "\r" in a cell is not quoted
    return "".join(f"{line[:-2]}\n" for line in lines)


def json_object(columns: Sequence[Column], record: Record) -> dict[str, Any]:
    """A record as a JSON object; values that the run cannot tell are left out."""
    found = {column.name: _rounded(column.value(record), column.digits) for column in columns_for("json", columns)}
    return {name: value for name, value in found.items() if value is not None}


def _rounded(value: Any, digits: int | None) -> Any:
    if digits is None or value is None:
        return value
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {key: _rounded(part, digits) for key, part in value.items()}
    return [_rounded(part, digits) for part in value] if isinstance(value, list) else value
