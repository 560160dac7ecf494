"""`Predictions`: what a run says of a list of inputs, whatever the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import ImageError


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a run says of n inputs beside its outputs; each is None where the run cannot tell.

    Attributes:
        sets: bool (n, k): the classes that together hold the right one with the stated coverage.
        unlikeness: float64 (n,): the higher, the more unlike the training inputs; `unlike`: bool (n,): whether it is above the threshold.
        nearest: int64 (n, c): the nearest training inputs, the nearest first, as positions in the run's `training_names`.
    """

    sets: npt.NDArray[np.bool_] | None = None
    unlikeness: npt.NDArray[np.float64] | None = None
    unlike: npt.NDArray[np.bool_] | None = None
    nearest: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """What a run says of a list of inputs.

    Attributes:
        outputs: an array for each output of the task, by name, with a row for each input that could be read.
        kept: int64 (n,): the position of each row's input among the inputs given.
        refused: an error for each input left out, in order; `refused_at` has their positions.
        digests: the SHA-256 of each row's input, as `image_digest` has it.
        judgement: prediction sets, novelty and nearest training inputs; None for runs that did not learn them.
    """

    outputs: Mapping[str, npt.NDArray[Any]]
    kept: npt.NDArray[np.int64]
    refused: tuple[ImageError, ...] = ()
    refused_at: tuple[int, ...] = ()
    digests: tuple[bytes, ...] = ()
    judgement: Judgement | None = None

    def __len__(self) -> int:
        return len(self.kept)
