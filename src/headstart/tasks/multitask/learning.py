"""Learning several columns of labels: a head for each on the same features; what is known of each model; what cannot be learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.backbones import timm_models
from headstart.data import Dataset, LabelColumns
from headstart.errors import DataError, ParameterError, setting
from headstart.features.table import FeatureTable
from headstart.heads.columns import ColumnHeads
from headstart.matrix import FeatureMatrix
from headstart.progress import Part, Seconds
from headstart.reliability import Novelty, Reliability, ReliabilityTest
from headstart.selection import Candidate, Choice
from headstart.settings import FitSettings
from headstart.tasks.classification import judging
from headstart.tasks.classification.fine_tuning import pretrained
from headstart.tasks.classification.task import Classification
from headstart.tasks.multitask.evaluation import ColumnsEvaluation
from headstart.tasks.multitask.fine_tuning import job_of, learn_further
from headstart.tasks.multitask.tables import column_table
from headstart.tasks.outputs import Predictions
from headstart.tasks.task import Evaluation, Judged, Learned, LearningContext
from headstart.training.job import Resumable
from headstart.training.learning_rates import LearningRates, find_lr

ONE = Classification()


def check(dataset: Dataset, settings: FitSettings) -> None:
    """Refuse columns that cannot be learned, or tested where the test part is known, and settings that are for one column."""
    targets = dataset.targets
    if not isinstance(targets, LabelColumns):
        raise DataError(f"{dataset.source}: the task multitask learns several columns of labels, and these data have one label an image.")
    for name, given, instead in (
        ("budget", settings.budget is not None, "name the backbone with --backbone"),
        ("adapt_to", settings.adapt_to is not None, "leave it out"),
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


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Choose layers and a head for each column, as if it were alone, on features that are computed once for all.

    Where that is asked for, the backbone is then trained further for all columns together.
    """
    settings, seconds = context.settings, Seconds()
    targets, plan = table.dataset.targets, settings.fine_tuning
    resumable, probes = context.resumable or Resumable(), dict[str, Learned]()
    assert isinstance(targets, LabelColumns)
    if plan is None or plan.start == "probe":
        frozen = replace(settings, fine_tuning=None)
        with seconds.lap("head"), resumable.processes.first_on_machine():
            for name in targets.columns:
                named = replace(context, settings=frozen, listener=Part(context.listener, f"{name}: "))
                probes[name] = ONE.fit(column_table(table, name), named)
    choices = {name: one.choice for name, one in probes.items()}
    if plan is None:
        return Learned(choice=joined(choices), table=table, prepared=context.prepared, seconds=seconds, columns=probes)
    timm_models.require("Fine-tuning")
    with seconds.lap("fine-tuning"):
        found = learn_further(table, context, probes)
    if found.prepared is not context.prepared:
        context.listener.stage("Extracting features of the trained network")
        table = table.take(table.test) if context.test_only else table
        with seconds.lap("trained features"):
            images, engine = table.dataset.inputs, context.prepared.settings.engine
            values = found.tuned.features(images, frozen=table.values, engine=engine, listener=context.listener)
        table = table.with_values(values, found.prepared.extractor.layers)
    columns = {
        name: Learned(
            choice=choice, table=column_table(table, name), prepared=found.prepared, probe=choices.get(name), plan=plan,
            fine_tuned=replace(found.tuned, shipped=found.shipped[name]),
        )
        for name, choice in found.choices.items()
    }  # fmt: skip
    choice = joined(dict(found.choices))
    return Learned(
        choice=replace(choice, estimator=found.tuned.head), table=table, prepared=found.prepared,
        probe=joined(choices) if choices else None, fine_tuned=found.tuned, plan=plan, seconds=seconds, columns=columns,
    )  # fmt: skip


def find_learning_rate(table: FeatureTable, context: LearningContext, *, low: float, high: float, steps: int) -> LearningRates:
    """Search for a learning rate on the rows that `learn` would train on; arguments as of `find_lr`."""
    timm_models.require("Searching for a learning rate")
    job = job_of(table, context)
    return find_lr(job, pretrained(table, context, job), low=low, high=high, steps=steps)


def joined(choices: dict[str, Choice]) -> Choice:
    """The choices of all columns as one."""
    evidence: tuple[Candidate, ...] = tuple(replace(row, column=name) for name, choice in choices.items() for row in choice.evidence)
    return Choice(
        estimator=ColumnHeads({name: choice.estimator for name, choice in choices.items()}), evidence=evidence, out_of_sample=None,
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
        findings=tuple(finding.of_column(name) for name, one in found.items() for finding in one.findings),
        columns=found,
    )  # fmt: skip


def seen_by_network(learned: Learned) -> npt.NDArray[np.float64] | None:
    """As logits (n, 1) of the training rows: nan for those that the network has learned from; None where it has learned from none."""
    if not learned.is_tuned:
        return None
    targets, train = learned.table.dataset.targets, learned.table.train
    assert isinstance(targets, LabelColumns)
    found = np.zeros((len(train), 1))
    for name, one in learned.columns.items():
        if one.fine_tuned.shipped == "probe" or one.choice.out_of_sample is None:
            continue
        rows = np.isin(train, targets.rows(name))
        found[rows, 0] += one.choice.out_of_sample.sum(axis=1)
    return found


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
