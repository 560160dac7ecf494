"""`ColumnHeads`: a fitted head for each of several columns of labels, all on the same features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Slices = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class ColumnHeads:
    """A head for each column of labels, by its name; each takes the whole feature vector (n, D).

    Where the features are those of several networks beside each other, `columns` has for each network the slices (start, stop) of its own.
    """

    heads: Mapping[str, Any]
    columns: tuple[Slices, ...] = ()

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values of each head by its column, and their arrays, whose names begin with the number of the column."""
        states = {name: head.state() for name, head in self.heads.items()}
        arrays = {f"{place}.{key}": array for place, (_, found) in enumerate(states.values()) for key, array in found.items()}
        return {"columns": {name: settings for name, (settings, _) in states.items()}}, arrays
