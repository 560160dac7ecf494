"""What a report tells, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from headstart.errors import ParameterError
from headstart.evaluate import Evaluation
from headstart.training.history import History


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


_PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def picture_type(data: bytes) -> str:
    """Return the media type of a picture's bytes. Raises ParameterError for anything but JPEG, PNG and WebP, by their first bytes."""
    for start, kind in _PICTURES.items():
        if data.startswith(start):
            return kind
    raise ParameterError(f"the pictures of a report are JPEG, PNG or WebP as bytes; these start with {data[:8]!r}.")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image of the test part, and what the model said of it.

    Attributes:
        name: of the file.
        target, predicted: the label and the class named by the model; of multi-label data all of them in words.
        probability: of what was named.
        image: JPEG, PNG or WebP.
        heat: the same picture with a heat map laid over it; None where there is none.
        neighbours: (name, label, picture or None) of the nearest training images, the nearest first.
        row: its position in the test part; -1 where that is not known.

    Raises:
        ParameterError: pictures of another kind.
    """

    name: str
    target: str
    predicted: str
    probability: float
    image: bytes
    heat: bytes | None = None
    neighbours: tuple[tuple[str, str, bytes | None], ...] = ()
    row: int = -1

    def __post_init__(self) -> None:
        for data in (self.image, self.heat, *(image for _, _, image in self.neighbours)):
            if data is not None:
                picture_type(data)

    @property
    def right(self) -> bool:
        """Whether the model named what the label says."""
        return self.target == self.predicted


class LearningCurveLike(Protocol):
    """Accuracy by number of training images: as many `images`, `accuracy` and standard errors `error`, and what follows in a `sentence`."""

    @property
    def images(self) -> tuple[int, ...]:
        """Numbers of training images, ascending."""
        ...

    @property
    def accuracy(self) -> tuple[float, ...]:
        """Out of sample, for each number of images."""
        ...

    @property
    def error(self) -> tuple[float, ...]:
        """Standard error of each accuracy; nan where it is unknown."""
        ...

    @property
    def sentence(self) -> str:
        """Whether more images would help."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """What the model does where it is not sure; nan for what was not measured.

    Attributes:
        coverage: how often the prediction sets are meant to hold the right class.
        covered: how often they do on the test images; `covered_interval`: its 95 % interval.
        mean_size: mean number of classes in a set.
        sizes: number of classes in a set -> number of test images.
        refused: share of the test images that would be refused as unlike the training images.
        abstention: (accuracy wanted, confidence from which on to answer, share of the test images then answered); None and None where no
            threshold can promise that accuracy.
        sentences: whatever else a reader must know.
    """

    coverage: float = math.nan
    covered: float = math.nan
    covered_interval: tuple[float, float] | None = None
    mean_size: float = math.nan
    sizes: Mapping[int, int] = field(default_factory=dict)
    refused: float = math.nan
    abstention: tuple[tuple[float, float | None, float | None], ...] = ()
    sentences: tuple[str, ...] = ()


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
        examples: images of the test part with what the model said, in any order.
        uncalibrated: the scores of the same images before the probabilities were calibrated.
        learning_curve: accuracy by number of training images.
        trust: prediction sets, abstention, images from elsewhere.
        uses: a sentence on each use of the test part after the one that gave `evaluation`.
        leaks: (label, accuracy, 95 % interval, images): the accuracy with and without the test images that training has seen.
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
    examples: tuple[Example, ...] = ()
    uncalibrated: Evaluation | None = None
    learning_curve: LearningCurveLike | None = None
    trust: Trusted | None = None
    uses: tuple[str, ...] = ()
    leaks: tuple[tuple[str, float, tuple[float, float], int], ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.evaluation.classes
