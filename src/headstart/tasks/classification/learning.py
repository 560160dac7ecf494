"""Learning to classify: a head on frozen features, and the backbone trained further where that is asked for."""

from __future__ import annotations

import time

from headstart.features.prepared import trained_folder
from headstart.features.table import FeatureTable
from headstart.selection import Choice, choose_head
from headstart.tasks.classification.tuning import train
from headstart.tasks.task import Learned, LearningContext
from headstart.training.job import Resumable


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Choose layers and head on the frozen backbone, and train further where that is asked for.

    Where no training images are held out to select an epoch, the test images are scored after each, and nothing is selected on them.
    """
    settings, listener, seconds = context.settings, context.listener, dict[str, float]()
    resumable = context.resumable or Resumable()
    probe = None
    if settings.fine_tuning is None or settings.fine_tuning.start == "probe":
        listener.stage("Choosing the head")
        began = time.perf_counter()
        with resumable.processes.first_on_machine():
            probe = choose(table, context)
        seconds["head"] = time.perf_counter() - began
    if settings.fine_tuning is None:
        assert probe is not None
        return Learned(choice=probe, table=table, prepared=context.prepared, seconds=seconds)
    began = time.perf_counter()
    with trained_folder() as folder:
        tuned, choice = train(table, context, probe=probe, folder=folder)
        prepared = context.prepared.trained(tuned.backbone, tuned.preprocessing, folder=folder)
    seconds["fine-tuning"] = time.perf_counter() - began
    listener.stage("Extracting features of the trained network")
    began = time.perf_counter()
    values = prepared.extract(table.dataset.images, progress=listener.progress, warn=listener.warn).values
    seconds["trained features"] = time.perf_counter() - began
    return Learned(
        choice=choice, table=table.with_values(values, prepared.extractor.layers), prepared=prepared, probe=probe, fine_tuned=tuned,
        seconds=seconds,
    )  # fmt: skip


def choose(table: FeatureTable, context: LearningContext) -> Choice:
    """Layers, head and hyperparameters from out-of-sample scores of the training rows."""
    settings, rows = context.settings, table.train
    with context.prepared.store() as store:
        return choose_head(
            table.values[rows], table.targets[rows], layers=table.layers, head=settings.head, class_weight=settings.class_weight,
            groups=table.groups_among(rows), seed=settings.seed, cache=store, progress=context.listener.progress,
        )  # fmt: skip
