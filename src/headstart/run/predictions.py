"""`Predictions`: what a run says of a list of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.errors import ImageError
from headstart.run.judging import Judgement


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a run says of a list of images.

    Attributes:
        classes: the class names, in the order of the columns.
        probabilities: float32 (n, k), a row for each image that could be read. Rows sum to 1, except in multi-label runs.
        kept: int64 (n,): the position of each row's image among the images given.
        refused: an error for each image left out, in order; `refused_at` has their positions.
        multilabel: whether an image may have several labels.
        digests: the SHA-256 of each row's image, as `image_digest` has it.
        judgement: prediction sets, and what is unlike the training images; None for runs of a version that did not keep what it needs.
    """

    classes: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    kept: npt.NDArray[np.int64]
    refused: tuple[ImageError, ...]
    refused_at: tuple[int, ...]
    multilabel: bool
    digests: tuple[bytes, ...] = ()
    judgement: Judgement | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def labels(self) -> tuple[str | tuple[str, ...], ...]:
        """The most probable class of each row; in multi-label runs, the classes with a probability of one half or more."""
        if self.multilabel:
            return tuple(tuple(self.classes[j] for j in np.flatnonzero(row >= 0.5)) for row in self.probabilities)
        return tuple(self.classes[j] for j in self.probabilities.argmax(axis=1))

    def top(self, row: int, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes of one row, with their probabilities, best first."""
        order = np.argsort(-self.probabilities[row], kind="stable")[:count]
        return [(self.classes[j], float(self.probabilities[row, j])) for j in order]

    def answer(self, row: int) -> tuple[str | tuple[str, ...], float]:
        """The label of one row and its probability; in multi-label runs all labels, and the smallest of their probabilities.

        An image without any label has the probability that its most probable one is not there.
        """
        if not self.multilabel:
            return self.top(row, 1)[0]
        chances = self.probabilities[row]
        chosen = np.flatnonzero(chances >= 0.5)
        return tuple(self.classes[j] for j in chosen), float(chances[chosen].min()) if len(chosen) else 1 - float(chances.max())

    def candidates(self, row: int) -> list[str] | None:
        """The classes in the prediction set of one row; None where the run cannot tell."""
        if self.judgement is None or self.judgement.sets is None:
            return None
        return [name for name, inside in zip(self.classes, self.judgement.sets[row], strict=True) if inside]

    def unlikeness(self, row: int) -> tuple[bool | None, float | None]:
        """Whether the image of one row is unlike anything seen in training, and by which score; None where the run cannot tell."""
        if self.judgement is None or self.judgement.unlike is None or self.judgement.unlikeness is None:
            return None, None
        return bool(self.judgement.unlike[row]), float(self.judgement.unlikeness[row])
