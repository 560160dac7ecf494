"""`fit`: read, check, extract, split, learn, test, judge, write. Each is a step that other commands call as well."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from headstart import files
from headstart.audit import Finding, check_known
from headstart.audit.copies import known_beforehand, leak_tests
from headstart.backbones import find, timm_models
from headstart.data import Dataset, list_images
from headstart.data.split import folds
from headstart.engine import gpu_is_there
from headstart.errors import DataError, ParameterError, StoreError, setting
from headstart.features.prepared import ExtractorSettings, Prepared, prepare
from headstart.features.stage_maps import ChooseMaps
from headstart.features.table import FeatureTable
from headstart.modalities import IMAGE
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.levels import clipped_note, levels_note
from headstart.pipeline.baseline import compare
from headstart.pipeline.reading import check, in_words_of, read, split, suited, without_test
from headstart.pipeline.result import FitResult, ProbeTest, ShardResult
from headstart.pipeline.resuming import check_resumable, checkpoints_of, resumable_or_removed
from headstart.pipeline.searching import first_settings, search
from headstart.pipeline.writing import write
from headstart.progress import Listener, Part, Seconds
from headstart.run import check_target, reserved
from headstart.settings import FitSettings
from headstart.settings.batch import Shard
from headstart.tasks import Evaluation, Learned, LearningContext, Task, task_named
from headstart.text import plural, printable, unread
from headstart.training.checkpoint import CheckpointFolder
from headstart.training.job import Processes, Resumable
from headstart.training.learning_rates import LearningRates, rising


def fit(
    data: str | Path | Dataset, *, out: str | Path | None = None, settings: FitSettings | None = None, listener: Listener | None = None,
    command: str = "", resume: bool = False,
) -> FitResult:  # fmt: skip
    """Learn a model from labelled images, test it on images it has not seen, and write a run folder.

    Args:
        data: a folder, a list file or a named public set, as `read_dataset` takes it; or a `Dataset`.
        out: the run folder to write; None writes none.
        settings: what is asked for.
        listener: is told how it goes.
        command: written into the run, for repeating it.
        resume: continue the fine-tuning of `out` that was interrupted; data and settings must be the same.

    Raises:
        DataError, ParameterError, BackboneError, RunError: what the user gave cannot be used; the message says what to do.
        Interrupted: Ctrl-C during a fine-tuning, whose state has been saved.
    """
    out = None if out is None else Path(out).expanduser()
    if out is not None and out.name in ("", ".."):
        out = out.resolve()  # something is to be put beside it, by its name
    settings = settings or FitSettings()
    _check_beforehand(out, settings, resume=resume)
    place = nullcontext() if out is None else reserved(out)
    return _fit(data, place, settings, listener or Listener(), command=command, resume=resume)


def fit_numbered(data: str, first: Path, *, settings: FitSettings, listener: Listener, command: str) -> FitResult:
    """`fit` into the first of NAME, NAME-2 and so on that is free."""
    _check_beforehand(None, settings, resume=False)
    return _fit(data, reserved(first, numbered=True), settings, listener, command=command, resume=False)


def _fit(
    data: str | Path | Dataset, place: AbstractContextManager[Path | None], settings: FitSettings, listener: Listener, *, command: str,
    resume: bool,
) -> FitResult:  # fmt: skip
    """`place` takes the folder of the run: once the data are read, which may lie around it."""
    seconds, began, processes = Seconds(), time.perf_counter(), Processes.from_environment()
    listener.stage("Reading the data")
    with seconds.lap("reading"):
        task, dataset = read(data, settings)
        settings = suited(settings, dataset)
        if settings.fine_tuning is not None and dataset.modality is IMAGE:
            timm_models.require("Fine-tuning")
        settings = task.settings(settings)
        listener = in_words_of(dataset, listener)
        listener.tell_notes(dataset.notes)
        check(task, dataset, settings)
    with place as out:
        if settings.fine_tuning is not None:
            processes.join("cuda" if settings.fine_tuning.device != "cpu" and gpu_is_there() else "cpu")
            out = processes.agreed(out)
        with processes.first_on_machine():
            first = settings if settings.budget is None else first_settings(dataset, settings)
            own = task.prepared(first, dataset, listener)
            prepared, table = extract(dataset, first, listener, seconds=seconds, maps=task.maps(first, dataset), prepared=own)
        table, held_out = split(task, table, settings)
        findings = check_known(table.dataset, table.digests)
        _say_findings(findings, listener)
        checkpoints = checkpoints_of(out, settings, table, processes=processes, resume=resume, command=command)
        if resume and out is not None:
            command = str(CheckpointFolder.beside(out).plan().get("command", ""))
        context = LearningContext(settings=settings, prepared=prepared, listener=listener, resumable=checkpoints)
        with resumable_or_removed(checkpoints, command=_command_to_resume(data, out)), processes.ending_together():
            searched = None
            if settings.budget is not None:
                with seconds.lap("search"):
                    searched = search(task, table, context, until=began + settings.budget)
                learned, table, context = searched.learned, searched.table, replace(context, prepared=searched.prepared)
            else:
                learned = task.fit(table, context)
                seconds |= learned.seconds
            if settings.adapt_to is not None:
                learned = adapted(task, learned, context, seconds=seconds)
            result = _tested(task, learned, table, context, out=out, seconds=seconds)
            tried = () if searched is None else searched.tried
            baseline = compare(task, learned, context, seconds=seconds)
            result = replace(result, held_out=held_out, findings=(*findings, *result.findings), tried=tried, baseline=baseline)
            if out is not None and processes.is_first:
                listener.stage("Writing the run")
                with seconds.lap("writing"):
                    write(result, command=command)
    seconds["total"] = time.perf_counter() - began
    return result


def _check_beforehand(out: Path | None, settings: FitSettings, *, resume: bool) -> None:
    if out is not None:
        check_target(out)
    if settings.task != "auto":
        task_named(settings.task)
    if settings.adapt_to is not None and not os.path.lexists(Path(settings.adapt_to).expanduser()):
        flag = setting("adapt_to").removesuffix("=...")
        raise DataError(f"{flag} must be a folder of images, got {str(settings.adapt_to)!r}, which is not there.")
    if settings.adapt_to is None and settings.adapt != "auto":
        raise ParameterError(f"{setting('adapt')} says how to adapt, and needs the images to adapt to: {setting('adapt_to')}.")
    if settings.budget is not None and find(settings.backbone).handcrafted:
        raise ParameterError(
            f"{setting('budget')} chooses among pre-trained backbones, and {settings.backbone} is handcrafted, wholly or in part. "
            "Leave one of them out."
        )
    if settings.fine_tuning is not None:
        Augmentation.parse(settings.fine_tuning.augment)
    check_resumable(out, settings, resume=resume)


def extract(
    dataset: Dataset, settings: FitSettings, listener: Listener, *, seconds: Seconds | None = None, features: bool = True,
    maps: ChooseMaps | None = None, prepared: Prepared | None = None,
) -> tuple[Prepared, FeatureTable]:  # fmt: skip
    """The inputs that can be read, with their features by the frozen backbone; DataError where none can.

    Without `features`, and where a training is to start from a random head, inputs are only read; with `maps`, the table has these too.
    What is `prepared` already takes the place of the backbone.
    """
    seconds = seconds if seconds is not None else Seconds()
    features = features and (settings.fine_tuning is None or settings.fine_tuning.start == "probe")
    listener.stage(f"{'Extracting features of' if features else 'Reading'} {len(dataset)} images")
    with seconds.lap("backbone"):
        if dataset.levels is not None:
            listener.say(levels_note(dataset.levels))
        if dataset.common_levels.clipped:
            listener.left_out(clipped_note(dataset.common_levels))
        if prepared is None:
            asked = ExtractorSettings.of(settings, dataset.levels, dataset.modality.name)
            prepared = prepare(asked, announce=listener.say, warn=listener.warn)
    return prepared, prepared.table(dataset, features=features, seconds=seconds, progress=listener.progress, listener=listener, maps=maps)


def adapted(task: Task, learned: Learned, context: LearningContext, *, seconds: Seconds) -> Learned:
    """Adapt what was learned to the unlabelled images that the settings name; DataError where there are none, or too few.

    Their labels, which folders or a list may hold, are not looked at.
    """
    listener, table, source = context.listener, learned.table, context.settings.adapt_to
    images = list_images([Path(source).expanduser()], listener)
    listener.stage(f"Extracting features of {plural(len(images), 'image')} to adapt to")
    with seconds.lap("features to adapt to"):
        found = learned.prepared.extract(images, progress=listener.progress, warn=listener.warn)
    if found.refused:
        listener.left_out(unread(found.refused, len(images), "are left out"))
    listener.stage(f"Adapting to {source}")
    with seconds.lap("adapting"):
        learned = task.adapt(learned, found.values, context)
    assert learned.adaptation is not None
    tested = len({table.digests[row] for row in table.test.tolist()}.intersection(found.digests))
    record = replace(learned.adaptation, to=printable(str(source)), also_tested=tested)
    listener.say(f"Adapting to {record.to}: {record.sentence()}.".replace("..", "."))
    return replace(learned, adaptation=record)


def _tested(
    task: Task, learned: Learned, frozen: FeatureTable, context: LearningContext, *, out: Path | None, seconds: Seconds
) -> FitResult:
    """Test once, and judge: how far the model can be trusted, what more data would bring, what the data hold."""
    listener, table = context.listener, learned.table
    listener.stage("Testing")
    with seconds.lap("testing"):
        tested = task.apply(learned.choice.estimator, table.inputs(table.test))
        evaluation = task.evaluate(tested, table.dataset.targets.take(table.test))
        crossed, by_fold = cross_validate(task, frozen, context) if context.settings.folds else (None, ())
    listener.stage("Measuring reliability")
    with seconds.lap("reliability"):
        judged = task.judge(learned, evaluation, context)
        if judged.reliability_test is not None and (warning := judged.reliability_test.shift.warning("test images")):
            listener.warn(warning)
        _say_findings(judged.findings, listener)
    correct = evaluation.correct_rows
    known = {} if correct is None else known_beforehand(table.dataset, table.digests)
    return FitResult(
        run=out, task=task, learned=learned, settings=context.settings, test=evaluation, tested=tested, cross_validation=crossed,
        by_fold=by_fold, findings=judged.findings, judged=judged, leaks=() if correct is None else leak_tests(correct, known),
        probe=ProbeTest.of(task, learned, frozen, evaluation), probes=ProbeTest.of_columns(task, learned, frozen, evaluation),
        seconds=seconds,
    )  # fmt: skip


def cross_validate(task: Task, table: FeatureTable, context: LearningContext) -> tuple[Evaluation, tuple[float, ...]]:
    """Nested cross-validation over the training part: in every fold everything is chosen anew from the other folds alone.

    Returns the evaluation of all folds together, and the headline score of each alone. Of a fold only what a run stores of a test part is
    held in memory.
    """
    listener, count = context.listener, context.settings.folds
    listener.stage(f"Cross-validating, {count} folds")
    training = table.take(table.train)
    rows = np.arange(len(training))
    parts = folds(training.dataset.targets.strata, count=count, groups=training.groups_among(rows), seed=context.settings.seed)
    targets, found, scores = training.dataset.targets, list[Mapping[str, Any]](), list[float]()
    alone = Resumable(processes=Processes.from_environment())  # the folds are not saved, but shared as the training is
    for done, held in enumerate(parts):
        listener.progress(done, len(parts))
        fold = training.tested_on(held)
        named = Part(listener, f"fold {done + 1} of {len(parts)}: ")
        learned = task.fit(fold, replace(context, resumable=alone, listener=named, test_only=True))
        outputs, truth = task.apply(learned.choice.estimator, learned.table.inputs(learned.table.test)), targets.take(held)
        evaluation = task.evaluate(outputs, truth)
        found.append(task.stored(outputs, truth, evaluation))
        scores.append(evaluation.headline[1])
    listener.progress(len(parts), len(parts))
    order = np.argsort(np.concatenate(parts))  # classes of a single image are never tested
    joined = {name: array[order] for name, array in task.joined(found).items()}
    return task.evaluation_of(joined, task.state(targets, learned.choice.estimator)), tuple(scores)


def find_learning_rate(
    data: str | Path | Dataset, settings: FitSettings, *, low: float = 1e-6, high: float = 1.0, steps: int = 100,
    listener: Listener | None = None,
) -> LearningRates:  # fmt: skip
    """Train briefly with a learning rate that rises from `low` to `high` in so many `steps`, and see where the loss falls.

    The training is that of `fit` with the same settings, on the same images: test images are held out as `fit` holds them out. They take
    no part; where data have a test part of their own, its images are not even opened. The length, rate and schedule of the settings'
    `fine_tuning` give way to those of the search, which ends early where it diverges. No run is written. Errors as of `fit`.
    """
    listener = listener or Listener()
    if settings.fine_tuning is None:
        raise ParameterError("There is no training to find a learning rate for: the settings have no fine_tuning. Give a FineTuning.")
    rising(low, high, steps)
    timm_models.require("Searching for a learning rate")
    task, prepared, table, _ = untested(data, settings, listener)
    context = LearningContext(settings=settings, prepared=prepared, listener=listener)
    return task.find_learning_rate(table, context, low=low, high=high, steps=steps)


def untested(data: str | Path | Dataset, settings: FitSettings, listener: Listener) -> tuple[Task, Prepared, FeatureTable, int]:
    """What is needed to try something out before a fit: the table, without features, whose training rows are those of `fit`.

    Test images take no part; where data have a test part of their own, its images are not even opened. Their number comes last. Errors
    as of `fit`.
    """
    listener.stage("Reading the data")
    task, dataset = read(data, settings)
    settings, listener = suited(settings, dataset), in_words_of(dataset, listener)
    listener.tell_notes(dataset.notes)
    check(task, dataset, settings)
    training = without_test(dataset)
    prepared, table = extract(training, settings, listener, features=False)
    if (table.dataset.parts != "train").any():
        table, _ = split(task, table, settings)
    return task, prepared, table, len(dataset) - len(training) + len(table.test)


def fit_shard(
    data: str | Path | Dataset, shard: Shard, *, settings: FitSettings | None = None, listener: Listener | None = None
) -> ShardResult:
    """Compute the features of every n-th image into the feature store, and stop.

    Several machines each run one shard with a store of their own; `FeatureStore.merge` puts the stores together, and `fit` then finds
    everything computed. Errors as of `fit`; ParameterError where the settings store no features.
    """
    settings, listener = settings or FitSettings(), listener or Listener()
    if settings.cache is None:
        raise ParameterError("--shard computes features into the cache, so it cannot be combined with --no-cache.")
    _, dataset = read(data, settings)
    settings, listener = suited(settings, dataset), in_words_of(dataset, listener)
    listener.tell_notes(dataset.notes)
    mine = dataset.take(np.arange(shard.index - 1, len(dataset), shard.count))
    if not len(mine):
        raise DataError(f"Shard {shard.index}/{shard.count} has no image: there are only {len(dataset)}.")
    listener.stage(f"Extracting features, shard {shard.index}/{shard.count}")
    prepared = prepare(ExtractorSettings.of(settings, dataset.levels, dataset.modality.name), announce=listener.say, warn=_not_stored)
    features = prepared.extract(mine.inputs, progress=listener.progress, warn=_not_stored)
    cache = files.cache_folder(None if settings.cache == "auto" else settings.cache)
    return ShardResult(len(mine), features.computed, features.refused, files.feature_store_file(cache))


def _not_stored(message: str) -> NoReturn:
    """A shard is there to be stored."""
    reason = message.removesuffix(" Continuing without storing features.")
    raise StoreError(f"{reason} A shard whose features are not stored is of no use.")


def _say_findings(findings: tuple[Finding, ...], listener: Listener) -> None:
    for finding in findings:
        say = listener.say if finding.severity == "note" else listener.warn
        examples = "".join(f"\n  {example}" for example in finding.examples[:3]) if finding.severity == "error" else ""
        say(finding.message + examples)


def _command_to_resume(data: str | Path | Dataset, out: Path | None) -> str:
    if isinstance(data, Dataset):
        return f"fit(..., out={str(out)!r}, resume=True)"
    return shlex.join(["headstart", "fit", str(data), "--resume", str(out)])
