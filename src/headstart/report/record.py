"""What a report tells, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headstart.evaluate import Evaluation
from headstart.finetune.history import History


@dataclass(frozen=True, kw_only=True)
class EvidenceRow:
    """One combination of layers and head that was tried, and its out-of-sample scores; nan for what was not measured.

    Attributes:
        layers: the layers of the backbone, for example ``"last"`` or ``"stage3 + last"``.
        head: the name of the head.
        settings: its hyperparameters, name -> value.
        accuracy: share of training images named rightly by folds that had not seen them.
        error: standard error of `accuracy`.
        log_loss: in nats.
        seconds: what it took.
        chosen: whether this is what the run uses.
    """

    layers: str
    head: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    accuracy: float
    error: float = float("nan")
    log_loss: float = float("nan")
    seconds: float = float("nan")
    chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about the data that a reader of the score must know.

    Attributes:
        text: what was found, with its number, in one sentence.
        advice: what to do about it.
        examples: paths, or whatever shows it.
        serious: whether the score cannot be believed before this is settled.
    """

    text: str
    advice: str = ""
    examples: tuple[str, ...] = ()
    serious: bool = False


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything that report.html and MODEL_CARD.md tell about a run.

    Attributes:
        title: of the page, for example ``"cats_dogs"``.
        evaluation: the scores on images that the model has not seen.
        part: what these images are called: ``"test"``.
        held_out: a sentence on how they were chosen.
        counts: part -> class -> number of images, in the order to show.
        backbone: its name; `backbone_licence`: SPDX identifier or words; `backbone_source`: where it comes from;
            `backbone_hub_id`: its repository on the Hugging Face Hub, if there is one.
        features: a sentence on what is taken from it.
        head: the chosen head in words.
        evidence: what was tried; `reason`: why the chosen one was chosen.
        history: of the fine-tuning, epoch by epoch; None where the backbone stayed as it was and the head is a closed form.
        training_facts: sentences on how it was trained, and what that changed.
        times: stage -> seconds, in the order of work.
        refused: (path, reason) of each image that could not be used.
        findings: what the audit found; `notes`: what was passed over while reading the data.
        command: what to type to repeat the run.
        provenance: label -> value: seed, versions, digests, date. A mapping as value is a group with its own heading.
    """

    title: str
    evaluation: Evaluation
    part: str = "test"
    held_out: str = ""
    counts: Mapping[str, Mapping[str, int]]
    backbone: str
    backbone_licence: str
    backbone_source: str = ""
    backbone_hub_id: str = ""
    features: str = ""
    head: str = ""
    evidence: tuple[EvidenceRow, ...] = ()
    reason: str = ""
    history: History | None = None
    training_facts: tuple[str, ...] = ()
    times: Mapping[str, float] = field(default_factory=dict)
    refused: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.evaluation.classes
