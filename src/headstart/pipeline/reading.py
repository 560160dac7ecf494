"""From what a user names to a data set with its split: which task, which inputs to learn from, and which to test on."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart.audit import Plan
from headstart.data import Dataset, dataset_of, read_annotations
from headstart.data.split import check_hold_out, folds
from headstart.errors import DataError, ParameterError, setting
from headstart.features.table import FeatureTable
from headstart.modalities import IMAGE, MODALITIES
from headstart.progress import Listener, Reworded
from headstart.run import is_run
from headstart.settings import FitSettings, ListOptions
from headstart.settings.field import options
from headstart.tasks import TASKS, Task, recognise, task_for, task_named
from headstart.text import plural


def read(data: str | Path | Dataset, settings: FitSettings) -> tuple[Task, Dataset]:
    """The task, and the data that a fit is asked to learn from, as a plan has changed them; errors as of `fit`."""
    if isinstance(data, Dataset):
        task, dataset = _of_dataset(data, settings), data
    else:
        if is_run(Path(data)):
            raise DataError(
                f"{data}: is a run folder, which an earlier `headstart fit` wrote, and holds no labelled images. "
                f"To use it: headstart predict {shlex.quote(str(data))} IMAGE"
            )
        prefer = "" if settings.task == "auto" else task_named(settings.task).prefers
        found = read_annotations(data, test=settings.test, group_from=settings.group_from, lists=settings, prefer=prefer)
        found.background = settings.background or ""
        task, reason = recognise(found, settings.task)
        if task is not TASKS[0]:  # the usual one goes without saying
            found.notes.append(f"Task: {task.name} ({reason}).")
        dataset = dataset_of(found, task.read_targets(found))
    if settings.levels is not None:
        dataset = replace(dataset, given_levels=settings.levels)
    if settings.plan is None:
        return task, dataset
    changed, notes = Plan.read(settings.plan).apply(dataset)
    return task, replace(changed, notes=(*changed.notes, *notes))


def suited(settings: FitSettings, dataset: Dataset) -> FitSettings:
    """The settings with the backbone for inputs of this kind, where none was named; ParameterError for settings of another kind."""
    modality = dataset.modality
    for other in MODALITIES.values():
        wrong = [name for name in other.options if other is not modality and getattr(settings, name) not in (None, 1)]
        if wrong:
            raise ParameterError(
                f"{setting(wrong[0], getattr(settings, wrong[0]))} is for {other.noun}s, and {dataset.source or 'the data'} holds "
                f"{modality.noun}s: leave it out."
            )
    return replace(settings, backbone=modality.backbone_for(settings.backbone))


def in_words_of(dataset: Dataset, listener: Listener) -> Listener:
    """The listener, told about inputs of this kind."""
    modality = dataset.modality
    return listener if modality is IMAGE else Reworded(listener, modality.noun, modality.article)


def _of_dataset(data: Dataset, settings: FitSettings) -> Task:
    given = [name for name in ("test", "group_from", *options(ListOptions)) if getattr(settings, name) not in (None, False, ())]
    if given:
        raise ParameterError(f"{given[0]} is for data that are still to be read; give it to read_dataset, which made this Dataset.")
    return task_for(data.targets) if settings.task == "auto" else task_named(settings.task)


def check(task: Task, dataset: Dataset, settings: FitSettings) -> None:
    """Refuse what is wrong with the data or the settings before any work is done: DataError, ParameterError."""
    known, how = _with_given_parts(dataset)
    if how:
        _check_parts(task, known)
    task.check(known, settings)
    groups = known.groups if known.grouped else None
    if not how and task.needs_test:
        check_hold_out(known.targets.strata, groups=groups, grouped_by=known.grouped_by)
    if settings.folds:
        rows = np.flatnonzero(known.parts != "test")
        folds(known.targets.strata[rows], count=settings.folds, groups=None if groups is None else groups[rows])


def split(task: Task, table: FeatureTable, settings: FitSettings) -> tuple[FeatureTable, str]:
    """Give every row the part ``train`` or ``test``, and say where the test part came from.

    Where the data say nothing, a part is held out: stratified, with groups and copies of an input on one side. DataError where a part is
    empty, or the task cannot learn from it.
    """
    dataset, how = _with_given_parts(table.dataset)
    if not how and (own := task.split(table, settings)) is not None:
        parts, how = own
        dataset = replace(dataset, parts=parts)
    elif not how:
        parts = dataset.parts.copy()
        train, test = table.hold_out(np.arange(len(dataset)), share=settings.test_share, seed=settings.seed)
        parts[train], parts[test] = "train", "test"
        dataset = replace(dataset, parts=parts)
        grouped = " by group" if dataset.grouped else ""
        stratified = "stratified by class" if dataset.classes else "stratified"
        copies = ", copies of an image on one side" if len(set(table.digests)) < len(table) else ""
        how = f"{plural(len(test), 'image')} held out{grouped}, {stratified}, seed {settings.seed}{copies}"
    _check_parts(task, dataset)
    task.check(dataset, settings)
    return replace(table, dataset=dataset), how


def without_test(dataset: Dataset) -> Dataset:
    """Only the inputs to learn from, where the data themselves name a part to test on; otherwise all."""
    known, how = _with_given_parts(dataset)
    return known.take(known.part("train")) if how else dataset


def _with_given_parts(dataset: Dataset) -> tuple[Dataset, str]:
    """The parts that the data themselves name, as ``train`` and ``test``, and how; unchanged, and no words, where they name none.

    A ``val`` part is the test part where there is no other (nothing is chosen on it: choices are made by cross-validation inside the
    training part); beside a test part it joins the training inputs.
    """
    parts = dataset.parts.astype("<U5")
    if (parts == "test").any():
        how = "the data's own test part"
        if (parts == "val").any():
            how += "; the validation part is used for training, since choices are made by cross-validation"
        parts[parts != "test"] = "train"
    elif (parts == "val").any():
        how = "the data's validation part: nothing was chosen on it"
        parts[:] = np.where(parts == "val", "test", "train")
    else:
        how = ""
    return replace(dataset, parts=parts), how


def _check_parts(task: Task, dataset: Dataset) -> None:
    if not len(dataset.part("train")):
        raise DataError(
            f"{dataset.source}: there are test images but no training images. Put these into class folders below {dataset.source}/train."
        )
    if task.needs_test and not len(dataset.part("test")):
        raise DataError(f"{dataset.source}: no test images: the data are too few to hold any out. Add images, or give --test DIR.")
