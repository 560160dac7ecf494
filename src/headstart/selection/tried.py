"""What a search within a budget is made of: backbones with their out-of-sample scores, and the sentence for each that was not taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headstart.text import duration, percent


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A backbone that was considered, and how good the best head on its features was out of sample.

    Scores are those of training images, each by a fit that did not see it; nan where it was not tried.
    """

    backbone: str  # as `headstart fit --backbone` takes it
    outcome: str  # ``chosen``, ``tried`` on all training images, ``dropped`` after some of them, or ``skipped``
    images: int = 0  # training images that it was scored on
    accuracy: float = math.nan  # share of correct decisions; its standard error follows
    accuracy_error: float = math.nan
    log_loss: float = math.nan  # in nats an image
    milliseconds: float = math.nan  # for an image on this machine, when many are computed together
    seconds: float = 0.0  # that trying it took; where it was skipped, that it would have taken
    reason: str = ""  # why it was not taken

    @property
    def criterion(self) -> float:
        """What is compared, the lower the better: log loss times error rate. The one depends on confidence, the other jumps."""
        return self.log_loss * (1 - self.accuracy + 0.5 / max(self.images, 1))

    def sentence(self) -> str:
        """What came of it, in one line."""
        if not self.images:
            return f"{self.backbone}: skipped; {self.reason}"
        scored = f"{percent(self.accuracy)} (± {100 * self.accuracy_error:.1f}) out of sample on {self.images} images"
        return f"{self.backbone}: {scored}, {duration(self.seconds)}{f'; {self.reason}' if self.reason else ''}"


def best_of(tried: Sequence[Tried]) -> Tried:
    """The best of those that were scored on most images."""
    most = max(row.images for row in tried)
    return min((row for row in tried if row.images == most), key=lambda row: row.criterion)
