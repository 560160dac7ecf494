"""The table of one of several columns of labels."""

from __future__ import annotations

from dataclasses import replace

from headstart.features.table import FeatureTable


def column_table(table: FeatureTable, name: str) -> FeatureTable:
    """The table of one column: the inputs that have a label there, as a classification learns them."""
    rows, dataset = table.dataset.of_column(name)
    return replace(table if len(rows) == len(table) else table.take(rows), dataset=dataset)
