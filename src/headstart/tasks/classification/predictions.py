"""What a run says of inputs where each has a class, or several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.metrics.link import Link
from headstart.tasks.predictions import Predictions


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassPredictions(Predictions):
    """What a run says of a list of inputs.

    Attributes:
        classes: the class names, in the order of the columns.
        link: one label for each input, or any number.
    """

    classes: tuple[str, ...]
    link: Link

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Float32 (n, k), a row for each input that could be read. Rows sum to 1 where each input has one label."""
        return self.outputs["probabilities"]

    @property
    def labels(self) -> tuple[str | tuple[str, ...], ...]:
        """The most probable class of each row; where several are possible, all with a probability of at least one half."""
        decisions = self.link.decisions(self.probabilities)
        if self.link.independent:
            return tuple(tuple(self.classes[j] for j in np.flatnonzero(row)) for row in decisions)
        return tuple(self.classes[j] for j in decisions)

    def top(self, row: int, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes of one row, with their probabilities, best first."""
        order = np.argsort(-self.probabilities[row], kind="stable")[:count]
        return [(self.classes[j], float(self.probabilities[row, j])) for j in order]

    def answer(self, row: int) -> tuple[str | tuple[str, ...], float]:
        """The label of one row and its probability; where several are possible, all labels, and the smallest of their probabilities.

        An input without any label has the probability that its most probable one is absent.
        """
        if not self.link.independent:
            return self.top(row, 1)[0]
        chances = self.probabilities[row]
        chosen = np.flatnonzero(self.link.decisions(chances))
        return tuple(self.classes[j] for j in chosen), float(chances[chosen].min()) if len(chosen) else 1 - float(chances.max())

    def candidates(self, row: int) -> list[str] | None:
        """The classes in the prediction set of one row; None where the run cannot tell."""
        if self.judgement is None or self.judgement.sets is None:
            return None
        return [name for name, inside in zip(self.classes, self.judgement.sets[row], strict=True) if inside]
