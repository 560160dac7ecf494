"""What comes of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.audit import Finding
from headstart.audit.leaks import LeakTest
from headstart.classifier import TransferClassifier
from headstart.data import Dataset
from headstart.errors import ImageError
from headstart.evaluate import Evaluation
from headstart.metrics import PairedDifference, paired_difference
from headstart.reliability import Reliability, ReliabilityTest
from headstart.selection import Choice, LearningCurve


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeTest:
    """The head on the frozen backbone, tested beside the fine-tuned one.

    Attributes:
        test: its evaluation on the test part.
        head: in words.
        gain: accuracy of the fine-tuned one minus its own, with its interval and its test.
        auc_gain: the same of the area under the ROC curve; nan where there is none.
    """

    test: Evaluation
    head: str
    gain: PairedDifference
    auc_gain: float

    @classmethod
    def of(cls, probe: Evaluation, tuned: Evaluation, *, head: str) -> Self:
        """Compare the two on the images that both were tested on."""
        auc = tuned.scores.get("roc_auc", float("nan")) - probe.scores.get("roc_auc", float("nan"))
        return cls(test=probe, head=head, gain=paired_difference(right(tuned), right(probe)), auc_gain=auc)

    def summary(self) -> str:
        """In a sentence or two."""
        gain = self.gain
        low, high = (100 * value for value in gain.interval)
        auc = f", ROC AUC {self.auc_gain:+.4f}" if self.auc_gain == self.auc_gain else ""
        verdict = "" if gain.p_value < 0.05 else "; on so few test images that may be chance"
        return (
            f"before: {self.test.summary('test')}. Fine-tuning changed the accuracy by {100 * gain.value:+.1f} points (95 % interval "
            f"{low:+.1f} to {high:+.1f}, McNemar p = {gain.p_value:.2g}){auc}{verdict}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {
            "accuracy": self.test.accuracy, "accuracy_interval": list(self.test.interval), "head": self.head, "gain": self.gain.value,
            "gain_interval": list(self.gain.interval), "p_value": self.gain.p_value, "auc_gain": self.auc_gain,
        }  # fmt: skip


def right(evaluation: Evaluation) -> npt.NDArray[np.bool_]:
    """Which images were named rightly, bool (m,); for multi-label with all their labels."""
    same = np.asarray(evaluation.outcome.targets) == np.asarray(evaluation.outcome.predicted)
    return np.asarray(same if same.ndim == 1 else same.all(axis=1))


@dataclass(frozen=True, eq=False, kw_only=True)
class FitResult:
    """What came of a fit.

    Attributes:
        run: the run folder, or None when none was asked for.
        dataset: what was read, with its final parts (``train`` or ``test`` for every image).
        held_out: a sentence on where the test part came from.
        classifier: the fitted classifier.
        test: the evaluation on the test part.
        cross_validation: the evaluation over the folds of the training part, if asked for.
        refused: images that could not be read, with their reasons.
        findings: what is known to be wrong with the data, the gravest first.
        probe: where the backbone was fine-tuned, the head before that, tested on the same images.
        digests: the SHA-256 of each image, in the order of `dataset`.
        trust: what was learned about when to believe the model; `trust_test`: how well that held on the test part.
        learning_curve: accuracy by number of training images; None where there were too few, or the backbone was fine-tuned.
        leaks: the accuracy with and without the test images that training has seen in some form; empty where there are none.
        seconds: time by stage.
    """

    run: Path | None
    dataset: Dataset
    held_out: str
    classifier: TransferClassifier
    test: Evaluation
    cross_validation: Evaluation | None
    refused: tuple[ImageError, ...]
    digests: tuple[bytes, ...]
    trust: Reliability
    trust_test: ReliabilityTest
    learning_curve: LearningCurve | None = None
    leaks: tuple[LeakTest, ...] = ()
    findings: tuple[Finding, ...] = ()
    probe: ProbeTest | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def choice(self) -> Choice:
        """The head and the evidence for it."""
        return self.classifier.choice_

    @property
    def head(self) -> str:
        """The chosen head in words."""
        return head_in_words(self.choice)


@dataclass(frozen=True)
class ShardResult:
    """What came of one shard: how many images it had, how many were computed now, and the store that now has them."""

    images: int
    computed: int
    refused: tuple[ImageError, ...]
    store: Path


def head_in_words(choice: Choice) -> str:
    """Which head was chosen, on which layers, with which settings."""
    chosen = next(row for row in choice.evidence if row.chosen)
    settings = ", ".join(f"{name} {value:.3g}" for name, value in chosen.hyperparameters.items())
    return f"{chosen.head.replace('_', ' ')} on {chosen.view}" + (f" ({settings})" if settings else "")
