"""What comes of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from headstart.audit import Finding
from headstart.classifier import TransferClassifier
from headstart.datasets import Dataset
from headstart.errors import ImageError
from headstart.evaluate import Evaluation
from headstart.strategy import Choice


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
        seconds: time by stage.
    """

    run: Path | None
    dataset: Dataset
    held_out: str
    classifier: TransferClassifier
    test: Evaluation
    cross_validation: Evaluation | None
    refused: tuple[ImageError, ...]
    findings: tuple[Finding, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def choice(self) -> Choice:
        """The head and the evidence for it."""
        return self.classifier.choice_

    @property
    def head(self) -> str:
        """The chosen head in words."""
        chosen = next(row for row in self.choice.evidence if row.chosen)
        settings = ", ".join(f"{name} {value:.3g}" for name, value in chosen.hyperparameters.items())
        return f"{chosen.head.replace('_', ' ')} on {chosen.view}" + (f" ({settings})" if settings else "")


@dataclass(frozen=True)
class ShardResult:
    """What came of one shard: how many images it had, how many were computed now, and the store that now has them."""

    images: int
    computed: int
    refused: tuple[ImageError, ...]
    store: Path
