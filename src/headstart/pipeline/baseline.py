"""Handcrafted features against a pre-trained backbone: both alone, on the same training images, out of sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from headstart.backbones.composed import Specification
from headstart.backbones.handcrafted import NAMES, find_handcrafted
from headstart.features.prepared import prepare
from headstart.features.table import FeatureTable, taken
from headstart.heads.labels import encode
from headstart.progress import Seconds
from headstart.selection.baseline import Baseline
from headstart.selection.tried import Advantage, OutOfSample, finite_rows
from headstart.settings import FitSettings
from headstart.tasks import Learned, LearningContext, Task

MOST = 2000  # training images on which they are compared, so that many cost no more


def compare(task: Task, learned: Learned, context: LearningContext, *, seconds: Seconds) -> Baseline | None:
    """Compare the handcrafted features of a model with its network, or where it has none with the default backbone.

    None where the model has no handcrafted features, or the task gives no out-of-sample scores.
    """
    asked, table = Specification.parse(context.prepared.settings.backbone), learned.table
    formulas = tuple(name for name in asked.names if find_handcrafted(name))
    if not formulas or learned.choice.out_of_sample is None:
        return None
    networks = tuple(name for name in asked.names if name not in formulas)
    classical = replace(asked, names=formulas, size=None if networks else asked.size)
    names = str(classical), str(replace(asked, names=networks)) if networks else FitSettings().backbone
    rows = table.train
    if len(rows) > MOST:
        rows = table.hold_out(rows, share=MOST / len(rows), seed=context.settings.seed)[1]
    alone = {name: learned.choice.out_of_sample for name in names if name == str(asked) and len(rows) == len(table.train)}
    with seconds.lap("baseline"):
        logits = [alone[name] if name in alone else _out_of_sample(task, table, rows, name, context) for name in names]
    targets = encode(table.targets[rows]).weighted(context.settings.class_weight)
    known = finite_rows(logits)
    handcrafted, pretrained = (OutOfSample.of(some, targets, known) for some in logits)
    advantage = Advantage.of(pretrained, handcrafted)
    chosen = next(row for row in learned.choice.evidence if row.chosen)
    used = not networks or any(layer in NAMES for layer in chosen.layers)
    return Baseline(
        handcrafted=names[0], pretrained=names[1], images=len(known), handcrafted_accuracy=float(handcrafted.correct.mean()),
        pretrained_accuracy=float(pretrained.correct.mean()), difference=advantage.accuracy, difference_error=advantage.accuracy_error,
        together=chosen.accuracy if networks and used else None, used=used,
    )  # fmt: skip


def _out_of_sample(
    task: Task, table: FeatureTable, rows: npt.NDArray[np.int64], name: str, context: LearningContext
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Logits (n, k) of training rows by the best head on the features of a backbone, each from a fit that did not see the image."""
    listener = context.listener
    listener.stage(f"Comparing with {name} alone")
    prepared = prepare(context.prepared.settings._replace(backbone=name, weights=None), announce=listener.detail, warn=listener.warn)
    features = prepared.extract(taken(table.dataset.inputs, rows), progress=listener.progress, warn=listener.warn)
    part = table.take(rows).with_values(features.complete("a comparison"), prepared.extractor.layers)
    settings = replace(context.settings, backbone=name, fine_tuning=None)
    choice = task.fit(part, replace(context, prepared=prepared, settings=settings)).choice
    assert choice.out_of_sample is not None
    return np.asarray(choice.out_of_sample, dtype=np.float64)
