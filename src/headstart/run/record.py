"""`FitRecord`: how a fit went, for its report and for whoever reads the manifest later. Predicting does without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from headstart.adaptation import AdaptationRecord
from headstart.audit import Finding
from headstart.audit.copies import LeakTest
from headstart.errors import HeadstartError, RunError
from headstart.reliability import ReliabilityTest
from headstart.run.manifest import plain
from headstart.selection import Baseline, Candidate, LearningCurve, Tried
from headstart.training.history import History


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How a backbone was trained further: `plan` as `FineTuning.to_dict` has it, and what its augmentation came to; stages; epochs.

    `probe` is the model on the frozen backbone, tested on the same inputs; `facts` are a sentence each.
    """

    plan: Mapping[str, Any]
    augmentation: str
    trained: tuple[str, ...]
    frozen: tuple[str, ...]
    history: History
    probe: Mapping[str, Any] | None
    facts: tuple[str, ...] = ()
    shipped: str = "trained"


@dataclass(frozen=True, kw_only=True)
class ColumnRecord:
    """How the model of one of several columns of labels came about: its head, and how it learns with the number of images.

    `probe` is the model on the frozen backbone, tested on the same inputs, where the backbone was trained further.
    """

    name: str
    head: str
    images: int  # training images with a label in it
    learning_curve: LearningCurve | None = None
    probe: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """How a fit went: what was chosen, why, and everything that was tried; where the test part came from; time by stage.

    `baseline` says how far a pre-trained backbone is ahead of handcrafted features.
    `tried` are the backbones that a search within a budget considered; `adaptation` is to unlabelled images of another world. `leaks` are
    scores with and without test inputs that training has seen in some form; `refused` holds (name, reason) of inputs that could not be
    read; `notes` tell what was met while reading. Where several columns of labels were learned, `columns` has what is of each alone.
    """

    title: str
    head: str
    features: str
    reason: str = ""
    evidence: tuple[Candidate, ...] = ()
    tried: tuple[Tried, ...] = ()
    baseline: Baseline | None = None
    adaptation: AdaptationRecord | None = None
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
    columns: tuple[ColumnRecord, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the ``story`` of a manifest."""
        refused = [{"path": path, "reason": reason} for path, reason in self.refused]
        story: dict[str, Any] = plain(vars(self) | {"refused": refused})
        return story

    @classmethod
    def from_dict(cls, story: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; RunError where an entry is missing or wrong."""
        try:
            given = {field.name: story[field.name] for field in fields(cls) if field.name in story}
            given["refused"] = [(row["path"], row["reason"]) for row in story.get("refused", ())]
            return cls(**_fields_of(cls, given))
        except (KeyError, TypeError, ValueError, HeadstartError) as error:
            raise RunError(f"what the run says of its fit is missing or damaged ({type(error).__name__}: {error})") from None


def _fields_of(kind: Any, entries: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {name: _from_json(hints[name], value) for name, value in entries.items()}


def _from_json(kind: Any, value: Any) -> Any:
    """A value of a type from JSON, which has lists for tuples and null for a number that is not finite."""
    inner = get_args(kind)
    if get_origin(kind) is UnionType:  # X | None
        return None if value is None else _from_json(inner[0], value)
    if get_origin(kind) is tuple:
        return tuple(_from_json(inner[0], entry) for entry in value) if inner[-1] is Ellipsis else tuple(value)
    if hasattr(kind, "from_dict"):
        return kind.from_dict(value)
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**_fields_of(kind, value))
    if kind is float:
        return math.nan if value is None else float(value)
    return value
