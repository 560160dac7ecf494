"""What adapting would bring: a model before and after it, on the same images of the other world, whose labels only test the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.adaptation.trials import AdaptationRecord
from headstart.metrics import PairedDifference, paired_difference
from headstart.text import percent, plural


@dataclass(frozen=True, kw_only=True)
class AdaptationGain:
    """Accuracy on `images` of another world, `before` and `after` adapting to them without their labels.

    `difference` is after less before, image by image; `record` is what came of the adaptation. The model was adapted from `known` of the
    training images.
    """

    images: int
    known: int
    before: float
    after: float
    difference: PairedDifference
    record: AdaptationRecord

    @classmethod
    def of(cls, before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], *, known: int, record: AdaptationRecord) -> AdaptationGain:
        """From which images (m,) either model classifies correctly."""
        difference = paired_difference(after, before)
        return cls(
            images=len(before), known=known, before=float(before.mean()), after=float(after.mean()), difference=difference, record=record
        )

    @property
    def shown(self) -> bool:
        """Whether the model is better for it, and that is more than chance explains."""
        return self.difference.interval[0] > 0

    def sentence(self, command: str) -> str:
        """What it would bring; where that is a gain, with the `command` to type."""
        if not self.record.methods:
            return f"Adapting to them without their labels would change nothing. {self.record.reason}"
        low, high = (100 * bound for bound in self.difference.interval)
        said = (
            f"Adapting to them without their labels would change the accuracy on {plural(self.images, 'image')} from "
            f"{percent(self.before)} to {percent(self.after)}: {100 * self.difference.value:+.1f} points (95 % interval {low:+.1f} to "
            f"{high:+.1f}), estimated from {plural(self.known, 'training image')}."
        )
        return f"{said} Type: {command}" if self.shown else f"{said} No gain is shown."

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        trials: list[Mapping[str, Any]] = [dict(vars(trial)) for trial in self.record.trials]
        return {
            "images": self.images, "training_images": self.known, "before": self.before, "after": self.after,
            "difference": self.difference.value, "interval": list(self.difference.interval), "p_value": self.difference.p_value,
            "methods": list(self.record.methods), "trials": trials,
        }  # fmt: skip
