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

    @property
    def networks(self) -> int:
        """How many networks it consists of."""
        return len(self.backbone.removesuffix("+mirrored").split("+"))

    def sentence(self) -> str:
        """What came of it, in one line."""
        if not self.images:
            return f"{self.backbone}: skipped; {self.reason}"
        scored = f"{percent(self.accuracy)} (± {100 * self.accuracy_error:.1f}) out of sample on {self.images} images"
        return f"{self.backbone}: {scored}, {duration(self.seconds)}{f'; {self.reason}' if self.reason else ''}"


def best_of(tried: Sequence[Tried]) -> Tried:
    """Of those that were scored on most images, the best; or one of several networks together that is as good within the error.

    As good is what is behind by at most half a standard error in accuracy and a twentieth in log loss. Differences of that size are chance
    more often than not, and the prior is for two networks together: they err on different images.
    """
    most = max(row.images for row in tried)
    compared = [row for row in tried if row.images == most]
    best = min(compared, key=lambda row: row.criterion)

    def as_good(row: Tried) -> bool:
        return row.accuracy >= best.accuracy - 0.5 * best.accuracy_error and row.log_loss <= 1.05 * best.log_loss

    return min((row for row in compared if row is best or as_good(row)), key=lambda row: (-row.networks, row.criterion))
