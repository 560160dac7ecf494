"""What is said about an image beside its class: a prediction set, and whether it is unlike everything seen in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from headstart.reliability import Reliability

_TOGETHER = 256  # images judged at once: bounds the memory, and costs less than one by one


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a run says of n images beside their probabilities; each is None where the run cannot tell.

    Attributes:
        sets: bool (n, k): the classes that together hold the right one with the stated coverage.
        unlikeness: float64 (n,): the higher, the more unlike the training images.
        unlike: bool (n,): whether that is more than the threshold.
        nearest: int64 (n, c): the nearest training images, the nearest first, as positions in the run's `training_names`.
    """

    sets: npt.NDArray[np.bool_] | None
    unlikeness: npt.NDArray[np.float64] | None
    unlike: npt.NDArray[np.bool_] | None
    nearest: npt.NDArray[np.int64] | None


class Judging:
    """Gathers outputs of the network and judges them some hundred at a time.

    Args:
        trust: of the run.
        neighbours: how many training images to name for each image.
    """

    def __init__(self, trust: Reliability, *, neighbours: int) -> None:
        self._trust, self._neighbours = trust, neighbours
        self._waiting: list[tuple[npt.NDArray[Any], ...]] = []
        self._parts: list[Judgement] = []

    def add(self, probabilities: npt.NDArray[np.float32], features: npt.NDArray[np.float32]) -> None:
        """Take the outputs for one image: (k,) and (D,)."""
        self._waiting.append((probabilities, features))
        if len(self._waiting) == _TOGETHER:
            self._judge()

    def done(self) -> Judgement:
        """The judgement of all images, in the order in which they were added."""
        if self._waiting or not self._parts:
            self._judge()

        def joined(name: str) -> Any:
            parts = [getattr(part, name) for part in self._parts]
            return None if parts[0] is None else np.concatenate(parts)

        return Judgement(joined("sets"), joined("unlikeness"), joined("unlike"), joined("nearest"))

    def _judge(self) -> None:
        trust, count = self._trust, len(self._waiting)
        if not count:
            self._parts.append(Judgement(None, None, None, None))
            return
        probabilities, features = (np.stack(outputs) for outputs in zip(*self._waiting, strict=True))
        self._waiting.clear()
        sets = None if trust.sets is None else trust.sets(probabilities, never_empty=True)
        if trust.novelty is None:
            self._parts.append(Judgement(sets, None, None, None))
            return
        score = trust.novelty.score(features)
        nearest, _ = trust.novelty.nearest(features, self._neighbours)
        self._parts.append(Judgement(sets, score, score > trust.novelty.threshold, nearest))
