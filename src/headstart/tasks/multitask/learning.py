"""Learning several columns of labels: a head for each on the same features; what is known of each model; what cannot be learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data import Dataset, LabelColumns
from headstart.errors import DataError, ParameterError, setting
from headstart.features.table import FeatureTable
from headstart.matrix import FeatureMatrix
from headstart.progress import Part, Seconds
from headstart.reliability import Novelty, Reliability, ReliabilityTest
from headstart.selection import Candidate, Choice
from headstart.settings import FitSettings
from headstart.tasks.classification import judging
from headstart.tasks.classification.task import Classification
from headstart.tasks.multitask.evaluation import ColumnsEvaluation
from headstart.tasks.multitask.model import ColumnModels
from headstart.tasks.task import Evaluation, Judged, Learned, LearningContext, Predictions

ONE = Classification()


def check(dataset: Dataset, settings: FitSettings) -> None:
    """Refuse columns that cannot be learned, or tested where the test part is known, and settings that are for one column."""
    targets = dataset.targets
    if not isinstance(targets, LabelColumns):
        raise DataError(f"{dataset.source}: the task multitask learns several columns of labels, and these data have one label an image.")
    for name, given, instead in (
        ("budget", settings.budget is not None, "name the backbone with --backbone"),
        ("adapt_to", settings.adapt_to is not None, "leave it out"),
        ("strategy", settings.fine_tuning is not None, "use --strategy probe"),
    ):
        if given:
            flag = setting(name).removesuffix("=...")
            raise ParameterError(f"{flag} is for one column of labels, and these data have {len(targets.columns)}: {instead}.")
    for name in targets.columns:
        rows, column = dataset.of_column(name)
        if not len(rows):
            raise DataError(f"{dataset.source}: no image has a label in the column {name!r}.")
        with _named(name):
            ONE.check(column, settings)
        if (dataset.parts == "test").any() and not (dataset.parts[rows] == "test").any():
            raise DataError(f"{dataset.source}: no test image has a label in the column {name!r}. Label some, or leave the column out.")


@contextmanager
def _named(column: str) -> Iterator[None]:
    """Errors in the block name the column."""
    try:
        yield
    except DataError as error:
        raise DataError(f"Column {column!r}: {error}") from None


def column_table(table: FeatureTable, name: str) -> FeatureTable:
    """The table of one column: the inputs that have a label there, as a classification learns them."""
    rows, dataset = table.dataset.of_column(name)
    return replace(table if len(rows) == len(table) else table.take(rows), dataset=dataset)


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Choose layers and a head for each column, as if it were alone, on features that are computed once for all."""
    targets, seconds = table.dataset.targets, Seconds()
    assert isinstance(targets, LabelColumns)
    found = {}
    with seconds.lap("head"):
        for name in targets.columns:
            listener = Part(context.listener, f"{name}: ")
            found[name] = ONE.fit(column_table(table, name), replace(context, listener=listener))
    return Learned(choice=joined({name: one.choice for name, one in found.items()}), table=table, prepared=context.prepared,
                   seconds=seconds, columns=found)  # fmt: skip


def joined(choices: dict[str, Choice]) -> Choice:
    """The choices of all columns as one."""
    evidence: tuple[Candidate, ...] = tuple(replace(row, column=name) for name, choice in choices.items() for row in choice.evidence)
    return Choice(
        estimator=ColumnModels({name: choice.estimator for name, choice in choices.items()}), evidence=evidence, out_of_sample=None,
        reason=" ".join(f"{name}: {choice.reason.rstrip('.')}." for name, choice in choices.items()),
    )  # fmt: skip


def judge(learned: Learned, evaluation: Evaluation, context: LearningContext) -> Judged:
    """What is known of the model of each column, as of a classification; novelty is of the images, and so of all columns together."""
    assert isinstance(evaluation, ColumnsEvaluation)
    table, train, found = learned.table, learned.table.train, dict[str, Judged]()
    for name, one in learned.columns.items():
        named = replace(context, listener=Part(context.listener, f"{name}: "))
        found[name] = judging.judge(one, evaluation.columns[name], named, novelty=False)
    values: FeatureMatrix = table.features(train)
    novelty = Novelty.fit(
        values, table.targets[train], layers=table.layers, groups=table.groups_among(train), seed=context.settings.seed,
        logits=seen_by_network(learned),
    )  # fmt: skip
    columns = {name: one.reliability for name, one in found.items() if one.reliability is not None}
    tests = {name: one.reliability_test for name, one in found.items() if one.reliability_test is not None}
    unlike = novelty(table.features(table.test))
    return Judged(
        reliability=Reliability(novelty=novelty, columns=columns),
        reliability_test=ReliabilityTest.of_columns(tests, novelty, unlike, images=evaluation.images),
        findings=tuple(
            replace(finding, message=f"Column {name!r}: {finding.message}") for name, one in found.items() for finding in one.findings
        ),
        columns=found,
    )  # fmt: skip


def seen_by_network(learned: Learned) -> npt.NDArray[np.float64] | None:
    """As logits (n, 1) of the training rows: nan for those that the network has learned from; None where it has from none."""
    return None


def reliability_of(
    evaluation: Evaluation, predictions: Predictions, reliability: Reliability | None
) -> tuple[ReliabilityTest | None, dict[str, Any]]:
    """How well what a run knows of its reliability holds on these images, in each column."""
    assert isinstance(evaluation, ColumnsEvaluation)
    judgement, tests, figures = predictions.judgement, dict[str, ReliabilityTest](), dict[str, Any]()
    for name, one in evaluation.columns.items():
        part = None if reliability is None else reliability.columns.get(name)
        own = replace(predictions, judgement=None if judgement is None else replace(judgement, unlike=None))
        test, figures[name] = judging.reliability_of(one, own, part)
        if test is not None:
            tests[name] = test
    if reliability is None or judgement is None:
        return None, {"reliability_by_column": figures}
    whole = ReliabilityTest.of_columns(tests, reliability.novelty, judgement.unlike, images=evaluation.images)
    return whole, {"reliability_by_column": figures}
