"""From translations to records: a line for each line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headstart.records import Column, Record
from headstart.tasks.outputs import Predictions
from headstart.tasks.translation.evaluation import SOURCE, TRANSLATION

COLUMNS = (Column("row", "name"), Column(TRANSLATION, "text"), Column(SOURCE, "text"), Column("error", "error"))


def records(names: Sequence[Any], predictions: Predictions) -> list[Record]:
    """A record for each text, with its translation."""
    place = {int(row): index for index, row in enumerate(predictions.kept)}
    refused = dict(zip(predictions.refused_at, predictions.refused, strict=True))
    found = []
    for row, name in enumerate(names):
        if row in refused:
            found.append(Record(name=str(name), kind="text", error=refused[row].reason))
            continue
        values = {key: str(predictions.outputs[key][place[row]]) for key in (TRANSLATION, SOURCE)}
        found.append(Record(name=str(name), kind="text", values=values, line=values[TRANSLATION]))
    return found


def document(records: Sequence[Record]) -> str:
    """A line for each record, empty where the text was empty or refused."""
    return "\n".join(record.line for record in records)
