"""What a fit learns beside the classes: prediction sets, abstention, novelty, the learning curve, and labels that look wrong."""

from __future__ import annotations

from typing import Any, cast

from headstart.audit import find_label_errors
from headstart.features.prepared import result_key
from headstart.files import packed, unpacked
from headstart.reliability import Abstention, Reliability, ReliabilityTest, confidence
from headstart.selection import LearningCurve, learning_curve
from headstart.tasks.classification.evaluation import ClassEvaluation
from headstart.tasks.outputs import Predictions
from headstart.tasks.task import Evaluation, Judged, Learned, LearningContext

_FEW = 40  # training images: a curve of fewer tells nothing


def judge(learned: Learned, evaluation: Evaluation, context: LearningContext, *, novelty: bool = True) -> Judged:
    """Learn it from the out-of-sample scores of the training images, and test it on the test images; without `novelty` all but that."""
    assert isinstance(evaluation, ClassEvaluation)
    table, choice = learned.table, learned.choice
    assert choice.out_of_sample is not None
    reliability, curve = _reliability_and_curve(learned, context, novelty=novelty)
    unlike = None if reliability.novelty is None else reliability.novelty(table.features(table.test))
    return Judged(
        reliability=reliability,
        reliability_test=ReliabilityTest.of(reliability, evaluation.outcome.probabilities, table.targets[table.test], unlike),
        learning_curve=curve,
        findings=tuple(find_label_errors(table.dataset, table.train, choice.out_of_sample)),
    )


def _reliability_and_curve(learned: Learned, context: LearningContext, *, novelty: bool) -> tuple[Reliability, LearningCurve | None]:
    """Both, from the cache where the same features, targets and settings have been seen."""
    table, choice, settings = learned.table, learned.choice, context.settings
    train = table.train
    values, targets, groups, scores = table.features(train), table.targets[train], table.groups_among(train), choice.out_of_sample
    assert scores is not None
    asked = {"coverage": settings.coverage, "by_class": settings.coverage_by_class, "seed": settings.seed, "weight": settings.class_weight}
    asked |= {} if novelty else {"novelty": False}
    promises = {"coverage": settings.coverage, "by_class": settings.coverage_by_class}

    def compute() -> bytes:
        if novelty:
            reliability = Reliability.fit(values, targets, scores, layers=table.layers, groups=groups, seed=settings.seed, **promises)
        else:
            reliability = Reliability.promising(targets, scores, **promises)
        curve = None
        if not learned.is_tuned and len(train) >= _FEW:
            curve = learning_curve(
                cast("Any", table.inputs(train)), targets, choice=choice,
                layers=table.layers, class_weight=settings.class_weight, groups=groups,
                seed=settings.seed, progress=context.listener.progress,
            )  # fmt: skip
        entries, arrays = reliability.state()
        said = {"reliability": entries, "curve": None if curve is None else curve.to_dict()}
        return packed(said, arrays)

    evidence = [candidate.to_dict() | {"seconds": 0} for candidate in choice.evidence if candidate.chosen]
    layers = [(layer.name, layer.start, layer.stop) for layer in table.layers]
    key = result_key("reliability", asked, evidence, layers, values, targets, scores, [] if groups is None else groups)
    said, arrays = unpacked(compute() if learned.is_tuned else context.prepared.cached(key, compute))
    curve = None if said["curve"] is None else LearningCurve.from_dict(said["curve"])
    return Reliability.from_state(said["reliability"], arrays), curve


def reliability_of(
    evaluation: Evaluation, predictions: Predictions, reliability: Reliability | None
) -> tuple[ReliabilityTest | None, dict[str, Any]]:
    """How well what a run knows of its reliability holds on these images; and the accuracy by share of answered images."""
    assert isinstance(evaluation, ClassEvaluation)
    outcome, test = evaluation.outcome, None
    if reliability is not None and predictions.judgement is not None:
        test = ReliabilityTest.of(reliability, outcome.probabilities, outcome.targets, predictions.judgement.unlike)
    curve = Abstention.fit(*confidence(outcome.probabilities, outcome.targets))
    said = {"threshold": curve.thresholds.tolist(), "coverage": curve.coverage.tolist(), "accuracy": curve.accuracy.tolist()}
    return test, {"accuracy_coverage": said}
