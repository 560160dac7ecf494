"""What a fit learns beside the classes: prediction sets, abstention, novelty, the learning curve, and labels that look wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headstart.audit import find_label_errors
from headstart.reliability import Abstention, Reliability, ReliabilityTest, confidence
from headstart.selection import learning_curve
from headstart.tasks.classification.evaluation import ClassEvaluation
from headstart.tasks.predictions import Predictions
from headstart.tasks.task import Evaluation, Judged, Learned, LearningContext

_FEW = 40  # training images: a curve of fewer tells nothing


def judge(learned: Learned, evaluation: Evaluation, context: LearningContext) -> Judged:
    """Learn it from the out-of-sample scores of the training images, and test it on the test images."""
    assert isinstance(evaluation, ClassEvaluation)
    table, choice, settings = learned.table, learned.choice, context.settings
    train, test = table.train, table.test
    groups = table.groups_among(train)
    trust = Reliability.fit(
        table.values[train], table.targets[train], choice.out_of_sample,
        layers=table.layers, groups=groups, coverage=settings.coverage, by_class=settings.coverage_by_class, seed=settings.seed,
    )  # fmt: skip
    unlike = None if trust.novelty is None else trust.novelty(table.values[test])
    curve = None
    if learned.fine_tuned is None and len(train) >= _FEW:
        curve = learning_curve(
            table.values[train], table.targets[train], choice=choice, layers=table.layers,
            class_weight=settings.class_weight, groups=groups, seed=settings.seed, progress=context.listener.progress,
        )  # fmt: skip
    return Judged(
        reliability=trust,
        reliability_test=ReliabilityTest.of(trust, evaluation.outcome.probabilities, table.targets[test], unlike),
        learning_curve=curve,
        findings=tuple(find_label_errors(table.dataset, train, choice.out_of_sample)),
    )


def reliability_of(evaluation: Evaluation, predictions: Predictions, trust: Reliability | None) -> tuple[Sequence[str], dict[str, Any]]:
    """How well what a run knows of its reliability holds on these images; and the accuracy by share of answered images."""
    assert isinstance(evaluation, ClassEvaluation)
    outcome, test = evaluation.outcome, None
    if trust is not None and predictions.judgement is not None:
        test = ReliabilityTest.of(trust, outcome.probabilities, outcome.targets, predictions.judgement.unlike)
    curve = Abstention.fit(*confidence(outcome.probabilities, outcome.targets))
    return () if test is None else test.sentences(), {
        "trust": None if test is None else test.to_dict(),
        "accuracy_coverage": {
            "threshold": curve.thresholds.tolist(), "coverage": curve.coverage.tolist(), "accuracy": curve.accuracy.tolist(),
        },
    }  # fmt: skip
