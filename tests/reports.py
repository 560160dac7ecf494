"""Reports to test: a plain one, one with everything in it, and a reader for their pages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from headstart import report as pages
from headstart.adaptation import AdaptationRecord, AdaptationTrial
from headstart.audit import Finding
from headstart.audit.copies import LeakTest
from headstart.reliability import ReliabilityTest, ThresholdTest
from headstart.report.run_report import jpeg
from headstart.run import Use
from headstart.run.record import FitRecord, TrainingRecord
from headstart.sections import Card, Neighbour, Picture
from headstart.selection import Candidate, LearningCurve
from headstart.tasks.classification.evaluation import ClassEvaluation as Evaluation
from headstart.tasks.classification.evaluation import evaluate
from headstart.tasks.classification.sections import ClassificationTest, Example, task_report
from headstart.training.history import Epoch, History

VOID = {"meta", "rect", "br", "link", "img", "input"}


def evaluation(classes: tuple[str, ...], *, n: int = 300, wrong: int = 4) -> Evaluation:
    """`n` images, the classes in turn; the first `wrong` of them are predicted as the next class."""
    k = len(classes)
    targets = np.arange(n) % k
    predicted = np.where(np.arange(n) < wrong, (targets + 1) % k, targets)
    probabilities = np.full((n, k), 0.1 / k)
    probabilities[np.arange(n), predicted] += 0.9
    return evaluate(probabilities, targets, classes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a report can tell, and the report of it."""

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
    evidence: tuple[Candidate, ...] = ()
    reason: str = ""
    history: History | None = None
    training_facts: tuple[str, ...] = ()
    times: Mapping[str, float] = dataclasses.field(default_factory=dict)
    refused: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    uncalibrated: Evaluation | None = None
    learning_curve: LearningCurve | None = None
    reliability: ReliabilityTest | None = None
    set_sizes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    uses: tuple[Use, ...] = ()
    adaptation: AdaptationRecord | None = None
    leaks: tuple[LeakTest, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.evaluation.classes

    @property
    def tested(self) -> ClassificationTest:
        names = {field.name for field in dataclasses.fields(ClassificationTest)} - {"section"}
        return ClassificationTest(**{name: getattr(self, name) for name in names})

    @property
    def report(self) -> pages.Report:
        training = None
        if self.history is not None:
            training = TrainingRecord(plan={}, augmentation="", trained=(), frozen=(), history=self.history, probe=None)
        record = FitRecord(
            title=self.title, head=self.head, features=self.features, reason=self.reason, evidence=self.evidence, seconds=self.times,
            training=training, training_facts=self.training_facts, learning_curve=self.learning_curve, leaks=self.leaks,
            adaptation=self.adaptation,
            refused=self.refused, findings=self.findings, notes=self.notes, reliability_test=self.reliability,
        )  # fmt: skip
        backbone = {
            "name": self.backbone, "licence": self.backbone_licence, "weights_source": self.backbone_source, "hub_id": self.backbone_hub_id,
        }  # fmt: skip
        provenance = {**self.provenance, "command": self.command, "images": self.counts}
        return pages.build_report(record, task_report(self.tested), provenance=provenance, backbone=backbone, uses=self.uses)


def page(facts: Facts) -> str:
    return pages.page(facts.report)


def model_card(facts: Facts) -> str:
    return pages.model_card(facts.report)


def write_report(folder: str | Path, facts: Facts) -> tuple[Path, ...]:
    return pages.write_report(folder, facts.report)


def candidate(**values: Any) -> Candidate:
    unknown = dict.fromkeys(("accuracy_error", "log_loss", "log_loss_error", "seconds"), math.nan)
    return Candidate(**{"layers": (), "hyperparameters": {}, "images": 0, **unknown, **values})


def curve(images: tuple[int, ...], accuracy: tuple[float, ...], error: tuple[float, ...], sentence: str) -> LearningCurve:
    return LearningCurve(images=images, accuracy=accuracy, error=error, sentence=sentence)


def run_report(classes: tuple[str, ...] = ("cats", "dogs"), **changes: Any) -> Facts:
    facts = Facts(
        title="cats_dogs",
        evaluation=evaluation(classes),
        held_out="The test part came with the data.",
        counts={"train": dict.fromkeys(classes, 300), "val": {}, "test": dict.fromkeys(classes, 150)},
        backbone="efficientnet_lite0",
        backbone_licence="Apache-2.0",
        backbone_source="https://example.org/weights",
        features="Pooled outputs of the last layer.",
        head="logistic regression",
        evidence=(
            candidate(
                head="logistic", view="last", hyperparameters={"C": 0.1}, accuracy=0.97, accuracy_error=0.007, log_loss=0.08, seconds=0.25
            ),
            candidate(
                head="kernel_ridge", view="stage4 + last", hyperparameters={"gamma": 0.0021}, accuracy=0.985, accuracy_error=0.005,
                chosen=True,
            ),
            candidate(head="ridge", view="last", accuracy=math.nan),
        ),
        reason="It has the lowest log loss.",
        times={"features": 9.84, "head": 0.5, "all night": 3700.0},
        refused=(("train/cats/broken.jpg", "truncated file"),),
        findings=(
            Finding("large", "note", "One file is large."), Finding("leak", "error", "4 leaks. Take them out.", examples=("a = b",)),
        ),
        notes=("3 hidden files were passed over",),
        command="headstart fit photos --seed 0",
        provenance={"seed": 0, "digests": {"model.onnx": "9f86d0"}},
    )  # fmt: skip
    return dataclasses.replace(facts, **changes)


def example(target: str, predicted: str, probability: float = 0.9, *, row: int = 0, side: int = 8) -> Example:
    data = jpeg(np.random.default_rng(row).integers(0, 256, (side, side, 3), dtype=np.uint8), side=side)
    picture = Picture(data=data, alt="")
    neighbours = (
        Neighbour(name=f"train/{predicted}/1.jpg", label=predicted, picture=picture), Neighbour(name=f"train/{target}/2.jpg", label=target),
    )  # fmt: skip
    card = Card(name=f"test/{target}/{row}.jpg", row=row, pictures=(picture, picture), neighbours=neighbours)
    return Example(card=card, target=target, predicted=predicted, probability=probability)


def use(what: str, *, when: str = "2026-01-02") -> Use:
    return Use(when=when, data=what, images=10, tested=10, trained=0, accuracy=0.9)


def answered(wanted: float, threshold: float, share: float, right: float = 0.97) -> ThresholdTest:
    return ThresholdTest(wanted=wanted, threshold=threshold, share=share, right=right, interval=(0.9, 0.99))


def adaptation() -> AdaptationRecord:
    """To some sketches: one of three methods was taken."""
    rows = (
        AdaptationTrial(method="none", reverse_accuracy=0.8, reverse_error=0.02, information=0.5, seconds=0.4, reason="less informative"),
        AdaptationTrial(method="coral", reverse_accuracy=0.9, reverse_error=0.01, information=1.1, seconds=0.1, chosen=True),
        AdaptationTrial(
            method="tca", reverse_accuracy=0.5, reverse_error=0.03, information=1.2, seconds=0.2,
            reason="loses the source: below 76.0 % in reverse",
        ),
    )  # fmt: skip
    return AdaptationRecord(
        to="sketches", images=90, used=90, apart=0.98, before=(0.95, 0.01), after=(0.94, 0.01), changed=0.4, trials=rows,
        points=((0.0, 1.0), (5.0, 1.5)), aligned=((0.0, 1.0), (0.5, 1.5)), reason="ridge on all layers", also_tested=1,
    )  # fmt: skip


def rich_report(classes: tuple[str, ...] = ("cats", "dogs"), **changes: Any) -> Facts:
    """A report with everything that can be in one; the first two of the four mistakes of `evaluation` are among the examples."""
    named = [(classes[i], classes[(i + 1) % len(classes)]) for i in range(2)]
    given: dict[str, Any] = {
        "examples": (
            example(classes[0], classes[0], 0.6, row=8), *(example(*pair, 0.7 + 0.1 * row, row=row) for row, pair in enumerate(named))
        ),
        "uncalibrated": evaluation(classes, wrong=40),
        "learning_curve": curve((100, 200, 400), (0.9, 0.94, 0.96), (0.02, 0.015, math.nan), "Twice as many would add 1.2 points."),
        "reliability": ReliabilityTest(
            images=300, asked=0.9, coverage=0.92, coverage_interval=(0.88, 0.95), size=1.25, single=0.8, unlike=0.031,
            answered=(answered(0.95, 0.62, 1.0),),
        ),
        "set_sizes": {1: 240, 2: 60},
        "uses": (use("photos"),),
        "adaptation": adaptation(),
        "leaks": (
            LeakTest(label="all test images", accuracy=0.987, interval=(0.966, 0.995), images=300),
            LeakTest(label="those not seen in training", accuracy=0.951, interval=(0.92, 0.97), images=260),
        ),
    }  # fmt: skip
    return run_report(classes, **{**given, **changes})


def history(length: int = 3, *, best: int | None = 2, validated: bool = True, stages: tuple[str, ...] = ("stage5", "stage6")) -> History:
    epochs = tuple(
        Epoch(
            number=number, loss=0.6 / number, score=1 - 0.3 / number, val_loss=0.5 / number if validated else None,
            val_score=1 - 0.2 / number if validated else None, lr=0.001 / number, seconds=1.5, trained=stages,
        )
        for number in range(1, length + 1)
    )  # fmt: skip
    return History(epochs, best, "The validation loss had not fallen for 1 epoch.")


class Reading(HTMLParser):
    """Collects text, tags and attributes, and fails on tags that do not close in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data.replace("\u00a0", " ") + " "
