"""Reports to test: a plain one, one with everything in it, and a reader for their pages."""

from __future__ import annotations

import dataclasses
import math
from html.parser import HTMLParser
from typing import Any

import numpy as np

from headstart.evaluate import Evaluation, evaluate
from headstart.report import EvidenceRow, Example, Finding, RunReport, Trusted, jpeg
from headstart.training.history import Epoch, History

VOID = {"meta", "rect", "br", "link", "img", "input"}


def evaluation(classes: tuple[str, ...], *, n: int = 300, wrong: int = 4) -> Evaluation:
    """`n` images, the classes in turn; the first `wrong` of them are named as the next class."""
    k = len(classes)
    targets = np.arange(n) % k
    predicted = np.where(np.arange(n) < wrong, (targets + 1) % k, targets)
    probabilities = np.full((n, k), 0.1 / k)
    probabilities[np.arange(n), predicted] += 0.9
    return evaluate(probabilities, targets, classes)


def run_report(classes: tuple[str, ...] = ("cats", "dogs"), **changes: Any) -> RunReport:
    report = RunReport(
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
            EvidenceRow(head="logistic", layers="last", settings={"C": 0.1}, accuracy=0.97, error=0.007, log_loss=0.08, seconds=0.25),
            EvidenceRow(head="kernel ridge", layers="stage4 + last", settings={"gamma": 0.0021}, accuracy=0.985, error=0.005, chosen=True),
            EvidenceRow(head="ridge", layers="last", accuracy=math.nan),
        ),
        reason="It has the lowest log loss.",
        times={"features": 9.84, "head": 0.5, "all night": 3700.0},
        refused=(("train/cats/broken.jpg", "truncated file"),),
        findings=(Finding(text="One file is large."), Finding(text="4 leaks.", advice="Take them out.", examples=("a = b",), serious=True)),
        notes=("3 hidden files were passed over",),
        command="headstart fit photos --seed 0",
        provenance={"seed": 0, "digests": {"model.onnx": "9f86d0"}},
    )
    return dataclasses.replace(report, **changes)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A learning curve."""

    images: tuple[int, ...]
    accuracy: tuple[float, ...]
    error: tuple[float, ...]
    sentence: str


def example(target: str, predicted: str, probability: float = 0.9, *, row: int = 0, side: int = 8) -> Example:
    picture = jpeg(np.random.default_rng(row).integers(0, 256, (side, side, 3), dtype=np.uint8), side=side)
    return Example(
        name=f"test/{target}/{row}.jpg", target=target, predicted=predicted, probability=probability, image=picture, heat=picture,
        neighbours=((f"train/{predicted}/1.jpg", predicted, picture), (f"train/{target}/2.jpg", target, None)), row=row,
    )  # fmt: skip


def rich_report(classes: tuple[str, ...] = ("cats", "dogs"), **changes: Any) -> RunReport:
    """A report with everything that can be in one; the first two of the four mistakes of `evaluation` are among the examples."""
    named = [(classes[i], classes[(i + 1) % len(classes)]) for i in range(2)]
    given: dict[str, Any] = {
        "examples": (
            example(classes[0], classes[0], 0.6, row=8), *(example(*pair, 0.7 + 0.1 * row, row=row) for row, pair in enumerate(named))
        ),
        "uncalibrated": evaluation(classes, wrong=40),
        "learning_curve": Curve((100, 200, 400), (0.9, 0.94, 0.96), (0.02, 0.015, math.nan), "Twice as many would add 1.2 points."),
        "trust": Trusted(
            coverage=0.9, covered=0.92, covered_interval=(0.88, 0.95), mean_size=1.25, sizes={1: 240, 2: 60}, refused=0.031,
            abstention=((0.95, 0.62, 1.0), (0.999, None, None)), sentences=("Sets are made by the threshold of each class.",),
        ),
        "uses": ("2026-01-02 headstart evaluate",),
        "leaks": (("all test images", 0.987, (0.966, 0.995), 300), ("those not seen in training", 0.951, (0.92, 0.97), 260)),
    }  # fmt: skip
    return run_report(classes, **{**given, **changes})


def history(length: int = 3, *, best: int | None = 2, validated: bool = True, stages: tuple[str, ...] = ("stage5", "stage6")) -> History:
    epochs = tuple(
        Epoch(
            number=number, loss=0.6 / number, accuracy=1 - 0.3 / number, val_loss=0.5 / number if validated else None,
            val_accuracy=1 - 0.2 / number if validated else None, lr=0.001 / number, seconds=1.5, trained=stages,
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
