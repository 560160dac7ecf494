"""`ColumnModels`: a fitted model for each column of labels, all on the same features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class ColumnModels:
    """A model for each column of labels, by its name; each takes the whole feature vector (n, D)."""

    models: Mapping[str, Any]

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values of each model by its column, and their arrays, whose names begin with the number of the column."""
        states = {name: model.state() for name, model in self.models.items()}
        arrays = {f"{place}.{key}": array for place, (_, found) in enumerate(states.values()) for key, array in found.items()}
        return {"columns": {name: settings for name, (settings, _) in states.items()}}, arrays
