"""Learning to classify: a head on frozen features, and the backbone trained further where that is asked for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from headstart.features.prepared import trained_folder
from headstart.features.table import FeatureTable, taken
from headstart.metrics.link import Link
from headstart.selection import Choice, choose_head
from headstart.settings import FineTuning
from headstart.tasks.classification.tuning import Keeping, check_plan, search, train
from headstart.tasks.task import Learned, LearningContext

if TYPE_CHECKING:
    from headstart.training.learning_rates import LearningRates


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Choose layers and head on the frozen backbone, and train further where that is asked for.

    Where no training images are held out to choose an epoch, the test images are watched, and nothing is chosen on them.
    """
    settings, listener, seconds = context.settings, context.listener, dict[str, float]()
    keeping = context.resumable or Keeping()
    probe = None
    if settings.fine_tuning is None or settings.fine_tuning.start == "probe":
        listener.stage("Choosing the head")
        began = time.perf_counter()
        with keeping.processes.first_on_machine():
            probe = choose(table, context)
        seconds["head"] = time.perf_counter() - began
    if settings.fine_tuning is None:
        assert probe is not None
        return Learned(choice=probe, table=table, prepared=context.prepared, seconds=seconds)
    began = time.perf_counter()
    rows, images = table.train, table.dataset.images
    with trained_folder() as folder:
        tuned, choice = train(
            context.prepared, settings.fine_tuning, taken(images, rows), table.targets[rows], groups=table.groups_among(rows),
            values=table.values[rows] if table.values.shape[1] else None, class_weight=settings.class_weight, seed=settings.seed,
            watched=(taken(images, table.test), table.targets[table.test]), probe=probe, keeping=keeping, listener=listener, folder=folder,
        )  # fmt: skip
        prepared = context.prepared.trained(tuned.backbone, tuned.preprocessing, folder=folder)
    seconds["fine-tuning"] = time.perf_counter() - began
    listener.stage("Extracting features of the trained network")
    began = time.perf_counter()
    values = prepared.extract(images, progress=listener.progress, warn=listener.warn).values
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


def find_learning_rate(table: FeatureTable, context: LearningContext, *, low: float, high: float, steps: int) -> LearningRates:
    """Search for a learning rate on the rows that `learn` would train on."""
    settings, rows = context.settings, table.train
    return search(
        context.prepared, settings.fine_tuning, taken(table.dataset.images, rows), table.targets[rows], groups=table.groups_among(rows),
        class_weight=settings.class_weight, seed=settings.seed, low=low, high=high, steps=steps, listener=context.listener,
    )  # fmt: skip


def check_training(plan: FineTuning, *, backbone: str, classes: int, link: Link) -> None:
    """Refuse a training that does not suit the backbone or the labels, before anything is computed; errors as of `check_plan`."""
    check_plan(plan, backbone=backbone, classes=classes, link=link)
