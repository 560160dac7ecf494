"""Collects what the engine says of inputs, and judges it: prediction sets, novelty, nearest training inputs."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.engine import Outputs
from headstart.errors import UnreadableError
from headstart.tasks import Judgement, Predictions

if TYPE_CHECKING:
    from headstart.run.run import Run

_AT_ONCE = 256  # inputs judged at once: bounds the memory, and costs less than one by one


class Collected:
    """Takes the outputs of a run one by one, judges them, and makes the `Predictions` of them, for `Run.predict` and the server alike.

    With `every`, the features of each so-many-th input are kept as a sample.
    """

    def __init__(self, run: Run, *, neighbours: int = 1, every: int = 0) -> None:
        self._run, self._neighbours, self._every = run, neighbours, every
        self._sample: list[npt.NDArray[np.float32]] = []
        self._sampled: list[int] = []
        self._rows: list[Outputs] = []  # without the features
        self._kept: list[int] = []
        self._digests: list[bytes] = []
        self._sizes: list[tuple[int, int]] = []
        self._refused: dict[int, UnreadableError] = {}
        self._features: list[npt.NDArray[Any]] = []  # of the last rows, which are not judged yet
        self._judged: list[Judgement] = []

    def add(self, index: int, outputs: Outputs | UnreadableError, *, digest: bytes = b"", size: tuple[int, int] = (0, 0)) -> None:
        """Take what came of the input at `index`: the outputs in the order of `Run.outputs`, or why it was refused.

        `size` is its height and width, where the task needs them.
        """
        if isinstance(outputs, UnreadableError):
            self._refused[index] = outputs
            return
        self._rows.append(outputs[:-1])
        self._kept.append(index)
        self._digests.append(digest)
        self._sizes.append(size)
        self._features.append(outputs[-1])
        if self._every and index % self._every == 0:
            self._sample.append(outputs[-1].astype(np.float32))
            self._sampled.append(len(self._kept) - 1)
        if len(self._features) == _AT_ONCE:
            self._judge()

    def predictions(self) -> Predictions:
        """Everything that was added, in that order."""
        self._judge()
        columns = {
            output.name: np.stack([row[place] for row in self._rows]) if self._rows else np.empty((0, *output.shape), np.float32)
            for place, output in enumerate(self._run.manifest.outputs)
        }
        parts = [[getattr(part, field.name) for part in self._judged] for field in fields(Judgement)]
        judgement = Judgement(*(None if not found or found[0] is None else np.concatenate(found) for found in parts))
        predictions = Predictions(
            outputs=columns, kept=np.asarray(self._kept, dtype=np.int64), digests=tuple(self._digests),
            refused=tuple(self._refused.values()), refused_at=tuple(self._refused),
            judgement=None if self._run.reliability is None else judgement, sample=np.stack(self._sample) if self._sample else None,
            sampled=np.asarray(self._sampled, dtype=np.int64) if self._sample else None,
            sizes=np.asarray(self._sizes, dtype=np.int64).reshape(-1, 2) if self._run.task.spatial else None,
        )  # fmt: skip
        return self._run.task.predictions(predictions, self._run.manifest.state)

    def _judge(self) -> None:
        reliability, features = self._run.reliability, self._features
        self._features = []
        if reliability is None or not features:
            return
        novelty, stacked, rows = reliability.novelty, np.stack(features), self._rows[-len(features) :]
        columns = {name: np.stack([row[place] for row in rows]) for place, name in enumerate(self._run.outputs[:-1])}
        sets = self._run.task.prediction_sets(reliability, columns, self._run.manifest.state)
        if novelty is None:
            self._judged.append(Judgement(sets))
            return
        score, (nearest, _) = novelty.score(stacked), novelty.nearest(stacked, self._neighbours)
        self._judged.append(Judgement(sets, score, score > novelty.threshold, nearest))
