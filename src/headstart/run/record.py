"""`FitRecord`: how a fit went, for its report and for whoever reads the manifest later. Predicting does without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from headstart.audit import Finding
from headstart.audit.leaks import LeakTest
from headstart.errors import HeadstartError, RunError
from headstart.reliability import ReliabilityTest
from headstart.selection import Candidate, LearningCurve
from headstart.training.history import History

_MEASURED = ("accuracy", "accuracy_error", "log_loss", "log_loss_error", "seconds")


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How a backbone was trained further.

    Attributes:
        plan: the settings, as `FineTuning.to_dict` has them; `augmentation`: what they came to.
        trained, frozen: stages of the backbone.
        history: the epochs.
        probe: the model on the frozen backbone, tested on the same inputs; None where there was none.
        facts: a sentence each.
    """

    plan: Mapping[str, Any]
    augmentation: str
    trained: tuple[str, ...]
    frozen: tuple[str, ...]
    history: History
    probe: Mapping[str, Any] | None
    facts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return vars(self) | {"history": self.history.to_dict()}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        texts = {name: tuple(entries[name]) for name in ("trained", "frozen", "facts")}
        return cls(
            plan=entries["plan"], augmentation=str(entries["augmentation"]), history=History.from_dict(entries["history"]),
            probe=entries.get("probe"), **texts,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """How a fit went.

    Attributes:
        title: what the run is called.
        head, features: what was chosen; `reason`: why; `evidence`: everything that was tried.
        held_out: where the test part came from.
        seconds: time by stage.
        training: how the backbone was trained further; None where it was not. `training_facts`: the same in sentences.
        reliability_test: how well what is known of reliability held on the test part.
        learning_curve: the score by number of training inputs.
        leaks: the score with and without test inputs that training has seen in some form.
        refused: (name, reason) of inputs that could not be read.
        findings: about the data.
        notes: what was met while reading.
    """

    title: str
    head: str
    features: str
    reason: str = ""
    evidence: tuple[Candidate, ...] = ()
    held_out: str = ""
    seconds: Mapping[str, float]
    training: TrainingRecord | None = None
    training_facts: tuple[str, ...] = ()
    reliability_test: ReliabilityTest | None = None
    learning_curve: LearningCurve | None = None
    leaks: tuple[LeakTest, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the ``story`` of a manifest."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("training", "reliability_test", "learning_curve"):
            said[name] = None if said[name] is None else said[name].to_dict()
        for name in ("evidence", "leaks", "findings"):
            said[name] = [row.to_dict() for row in said[name]]
        said["refused"] = [{"path": path, "reason": reason} for path, reason in self.refused]
        return said

    @classmethod
    def from_dict(cls, story: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; reads what protocol 1 wrote, too.

        Raises:
            RunError: an entry is missing or wrong.
        """
        try:
            given: dict[str, Any] = {field.name: story[field.name] for field in fields(cls) if field.name in story}
            optional = (("training", TrainingRecord), ("reliability_test", ReliabilityTest), ("learning_curve", LearningCurve))
            for name, kind in optional:
                given[name] = None if given.get(name) is None else kind.from_dict(given[name])
            given["evidence"] = tuple(_candidate(row) for row in story.get("evidence", ()))
            given["leaks"] = tuple(LeakTest(**{**row, "interval": tuple(row["interval"])}) for row in story.get("leaks", ()))
            given["findings"] = tuple(Finding(**{**row, "examples": tuple(row["examples"])}) for row in story.get("findings", ()))
            given["refused"] = tuple((str(row["path"]), str(row["reason"])) for row in story.get("refused", ()))
            for name in ("notes", "training_facts"):
                given[name] = tuple(story.get(name, ()))
            return cls(**given)
        except (KeyError, TypeError, ValueError, HeadstartError) as error:
            raise RunError(f"what the run says of its fit is missing or damaged ({type(error).__name__}: {error})") from None


def _candidate(row: Mapping[str, Any]) -> Candidate:
    """A line of the evidence; scores that were not measured are None in JSON, and nan here."""
    if "view" not in row:  # as protocol 1 had it
        row = {
            "view": row["layers"], "layers": (), "head": row["head"], "hyperparameters": row["settings"], "images": 0,
            "accuracy": row["accuracy"], "accuracy_error": row["error"], "log_loss": row["log_loss"], "log_loss_error": None,
            "seconds": row["seconds"], "chosen": row["chosen"],
        }  # fmt: skip
    measured = {name: np.nan if row[name] is None else float(row[name]) for name in _MEASURED}
    weights = row.get("weights")
    return Candidate(**{**row, **measured, "layers": tuple(row["layers"]), "weights": None if weights is None else tuple(weights)})
