"""What findings call an input: its name, and of a text also how it begins."""

from __future__ import annotations

from headstart.data import Dataset
from headstart.modalities.text import PAIR
from headstart.text import shorten

_COLUMNS = 60
_MOST = 400  # characters looked at


def excerpt(text: str, place: int = 0) -> str:
    """The part of a text around a place, in one line of at most 60 columns, in quotes."""
    start = 0 if place < _COLUMNS // 2 else place - _COLUMNS // 3
    part = " ".join(text[start : start + _MOST].replace(PAIR, " | ").split())
    return repr(shorten(f"…{part}" if start else part, _COLUMNS))


class Named:
    """The inputs of a data set as findings call them, by position: ``cats/1.jpg``, or ``row 3 'A film that ...'``."""

    def __init__(self, dataset: Dataset) -> None:
        self._names, self._inputs = dataset.names(), dataset.inputs

    def __getitem__(self, row: int) -> str:
        one = self._inputs[row]
        return f"{self._names[row]} {excerpt(one)}" if isinstance(one, str) else self._names[row]
