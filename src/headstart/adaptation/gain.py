"""What adapting would bring: a model before and after it on the same images of the other world. Their labels, if any, only test it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.adaptation.trials import NONE, AdaptationRecord
from headstart.metrics import PairedDifference, paired_difference
from headstart.text import percent, plural


@dataclass(frozen=True, kw_only=True)
class AdaptationGain:
    """What came of adapting a model, from `known` of its training images, to `images` of another world without their labels.

    `record` says how, and has the scores that need no labels. `before` and `after` are the accuracy on these images, and `difference` is
    after less before, image by image; None where the images have no labels.
    """

    images: int
    known: int
    record: AdaptationRecord
    before: float | None = None
    after: float | None = None
    difference: PairedDifference | None = None

    @classmethod
    def of(cls, before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], *, known: int, record: AdaptationRecord) -> AdaptationGain:
        """From which images (m,) either model classifies correctly."""
        return cls(
            images=len(before), known=known, before=float(before.mean()), after=float(after.mean()),
            difference=paired_difference(after, before), record=record,
        )  # fmt: skip

    @property
    def shown(self) -> bool:
        """Whether the model is better for it, and that is more than chance explains."""
        return self.difference is not None and self.difference.interval[0] > 0

    def sentence(self, command: str) -> str:
        """What it would bring; where that is a gain, or may be one, with the `command` to type."""
        if not self.record.methods:
            return f"Adapting to them without their labels would change nothing. {self.record.reason}"
        estimated = f"estimated from {plural(self.known, 'training image')}."
        if self.difference is None or self.before is None or self.after is None:
            return (
                f"Adapting to them would give {percent(self.record.changed)} of {plural(self.images, 'image')} another label, {estimated} "
                f"{self._unsupervised()} What it is worth only labels of some of them can tell. Type: {command}"
            )
        low, high = (100 * bound for bound in self.difference.interval)
        said = (
            f"Adapting to them without their labels would change the accuracy on {plural(self.images, 'image')} from "
            f"{percent(self.before)} to {percent(self.after)}: {100 * self.difference.value:+.1f} points (95 % interval {low:+.1f} to "
            f"{high:+.1f}), {estimated}"
        )
        return f"{said} Type: {command}" if self.shown else f"{said} No gain is shown."

    def _unsupervised(self) -> str:
        """The scores of the most informative of the methods, against those of no adaptation."""
        none = next(trial for trial in self.record.trials if trial.method == NONE)
        best = max((trial for trial in self.record.trials if trial.chosen), key=lambda trial: trial.information)
        return (
            f"Scores without labels: reverse accuracy {percent(best.reverse_accuracy)} against {percent(none.reverse_accuracy)} before, "
            f"information {best.information:.2f} against {none.information:.2f} nats."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what needs labels is None without them."""
        trials: list[Mapping[str, Any]] = [dict(vars(trial)) for trial in self.record.trials]
        difference = self.difference
        return {
            "images": self.images, "training_images": self.known, "before": self.before, "after": self.after,
            "difference": None if difference is None else difference.value,
            "interval": None if difference is None else list(difference.interval),
            "p_value": None if difference is None else difference.p_value,
            "changed": self.record.changed, "methods": list(self.record.methods), "trials": trials,
        }  # fmt: skip
