"""Collects what the engine says of inputs, and judges it: prediction sets, novelty, nearest training inputs."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.engine import Outputs
from headstart.errors import ImageError
from headstart.tasks import FEATURES, Judgement, Predictions

if TYPE_CHECKING:
    from headstart.reliability import Reliability
    from headstart.run.run import Run

_AT_ONCE = 256  # inputs judged at once: bounds the memory, and costs less than one by one


class Judging:
    """Judges inputs by their probabilities and features, some hundred at a time; names the `neighbours` nearest training inputs of each."""

    def __init__(self, reliability: Reliability, *, neighbours: int) -> None:
        self._reliability, self._neighbours = reliability, neighbours
        self._rows: list[tuple[npt.NDArray[Any] | None, npt.NDArray[Any]]] = []
        self._parts: list[Judgement] = []

    def add(self, probabilities: npt.NDArray[np.float32] | None, features: npt.NDArray[np.float32]) -> None:
        """Take the outputs for one input: (k,), or None where the task has no probabilities, and (D,)."""
        self._rows.append((probabilities, features))
        if len(self._rows) == _AT_ONCE:
            self._judge()

    def done(self) -> Judgement:
        """The judgement of all inputs, in the order in which they were added."""
        if self._rows:
            self._judge()
        parts = [[getattr(part, field.name) for part in self._parts] for field in fields(Judgement)]
        return Judgement(*(None if not found or found[0] is None else np.concatenate(found) for found in parts))

    def _judge(self) -> None:
        sets, novelty, rows = self._reliability.sets, self._reliability.novelty, self._rows
        self._rows = []
        said = None if sets is None else sets(np.stack([row for row, _ in rows if row is not None]), never_empty=True)
        if novelty is None:
            self._parts.append(Judgement(said))
            return
        features = np.stack([row for _, row in rows])
        score, (nearest, _) = novelty.score(features), novelty.nearest(features, self._neighbours)
        self._parts.append(Judgement(said, score, score > novelty.threshold, nearest))


class Collected:
    """Takes the outputs of a run one by one and makes the `Predictions` of them, for `Run.predict` and the server alike."""

    def __init__(self, run: Run, *, neighbours: int = 1) -> None:
        self._run = run
        self._judging = None if run.reliability is None else Judging(run.reliability, neighbours=neighbours)
        self._rows: list[Outputs] = []
        self._kept: list[int] = []
        self._digests: list[bytes] = []
        self._refused: dict[int, ImageError] = {}

    def add(self, index: int, outputs: Outputs | ImageError, *, digest: bytes = b"") -> None:
        """Take what came of the input at `index`: the outputs in the order of `Run.outputs`, or why it was refused."""
        if isinstance(outputs, ImageError):
            self._refused[index] = outputs
            return
        self._rows.append(outputs[:-1])
        self._kept.append(index)
        self._digests.append(digest)
        if self._judging is not None:
            named = dict(zip(self._run.outputs, outputs, strict=True))
            self._judging.add(named.get("probabilities"), named[FEATURES])

    def predictions(self) -> Predictions:
        """Everything that was added, in that order."""
        columns = {
            output.name: np.stack([row[place] for row in self._rows]) if self._rows else np.empty((0, *output.shape), np.float32)
            for place, output in enumerate(self._run.manifest.outputs)
        }
        predictions = Predictions(
            outputs=columns,
            kept=np.asarray(self._kept, dtype=np.int64),
            refused=tuple(self._refused.values()),
            refused_at=tuple(self._refused),
            digests=tuple(self._digests),
            judgement=None if self._judging is None else self._judging.done(),
        )
        return self._run.task.predictions(predictions, self._run.manifest.state)
