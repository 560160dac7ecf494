"""Learning to classify: a head on frozen features, and the backbone trained further where that is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.backbones import find, timm_models
from headstart.backbones.composed import Specification
from headstart.backbones.handcrafted import find_handcrafted
from headstart.backbones.summary import stage_table
from headstart.data import Dataset
from headstart.errors import ParameterError, setting
from headstart.features.table import FeatureTable, taken
from headstart.heads import HEADS
from headstart.heads.labels import encode, stratified_rows
from headstart.matrix import FeatureMatrix
from headstart.progress import Seconds
from headstart.selection import Choice, choose_head, unfitted
from headstart.selection.choose_text import choose_text
from headstart.settings import GRADUAL, FitSettings
from headstart.tasks.classification.evaluation import ClassEvaluation
from headstart.tasks.classification.fine_tuning import job_of, learn_further, pretrained
from headstart.tasks.outputs import Predictions
from headstart.tasks.task import Evaluation, Learned, LearningContext
from headstart.training.history import require_tensorboard
from headstart.training.job import Processes, Resumable
from headstart.training.learning_rates import LearningRates, find_lr
from headstart.training.pace import Pace, measure
from headstart.training.schedule import trained_stages

if TYPE_CHECKING:
    from headstart.adaptation import AdaptationGain

_KNOWN = 1000  # training images that are adapted from, to see what it would bring
_TIMED = 24  # images on which the speed of the frozen network is measured


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Choose layers and head on the frozen backbone, and train further where that is asked for.

    Where no training images are held out to select an epoch, the test images are scored after each, and nothing is selected on them.
    """
    settings, listener, seconds = context.settings, context.listener, Seconds()
    resumable = context.resumable or Resumable()
    probe = context.probe
    if probe is None and (settings.fine_tuning is None or settings.fine_tuning.start == "probe"):
        listener.stage("Choosing the head")
        with seconds.lap("head"), resumable.processes.first_on_machine():
            choice = _choose(table, context)
        probe = Learned(choice=choice, table=table, prepared=context.prepared, seconds=seconds)
    if settings.fine_tuning is None:
        assert probe is not None
        return probe
    timm_models.require("Fine-tuning")
    with seconds.lap("fine-tuning"):
        choice, tuned, prepared = learn_further(table, context, probe)
    if probe is not None and prepared is probe.prepared:
        table = probe.table
    else:
        listener.stage("Extracting features of the trained network")
        table, known = ((one.take(one.test) if context.test_only else one) for one in (table, table if probe is None else probe.table))
        with seconds.lap("trained features"):
            values = tuned.features(table.dataset.inputs, frozen=known.values, engine=context.prepared.settings.engine, listener=listener)
        table = table.with_values(values, prepared.extractor.layers)
    frozen = None if probe is None else probe.choice
    plan = settings.fine_tuning
    return Learned(choice=choice, table=table, prepared=prepared, probe=frozen, fine_tuned=tuned, plan=plan, seconds=seconds)


def _choose(table: FeatureTable, context: LearningContext) -> Choice:
    """Layers, head and hyperparameters from out-of-sample scores of the training rows."""
    settings, rows = context.settings, table.train
    asked: dict[str, Any] = {
        "layers": table.layers, "head": settings.head, "map": settings.map, "class_weight": settings.class_weight,
        "groups": table.groups_among(rows), "seed": settings.seed, "cached": context.prepared.cached, "progress": context.listener.progress,
    }  # fmt: skip
    if table.counts is None:
        return choose_head(table.features(rows), table.targets[rows], **asked)
    sketched = context.prepared.extractor.backbone.record.handcrafted  # the features are those of the counts
    if sketched and settings.head != "auto":
        raise ParameterError(f"{setting('head', settings.head)} is for the features of a network, and {settings.backbone} has none.")
    return choose_text(None if sketched else table.features(rows), table.counts.take(rows), table.targets[rows], **asked)


def adapt(learned: Learned, features: FeatureMatrix, context: LearningContext) -> Learned:
    """Adapt the head to unlabelled images of another world, by their features (m, D) by the backbone of what was learned."""
    from headstart.adaptation import Source
    from headstart.adaptation import adapt as adapted

    table, settings = learned.table, context.settings
    targets = replace(encode(table.targets[table.train]), groups=table.groups_among(table.train))
    source = Source(
        features=table.features(table.train), targets=targets, choice=learned.choice, layers=table.layers,
        class_weight=settings.class_weight, seed=settings.seed,
    )  # fmt: skip
    found = adapted(source, features, method=settings.adapt, progress=context.listener.progress)
    return replace(learned, choice=found.choice, adaptation=found.record)


def adaptation_gain(
    run: Any, known: npt.NDArray[np.float32], predictions: Predictions, evaluation: Evaluation | None, *,
    progress: Callable[[int, int], None] | None = None,
) -> AdaptationGain | None:  # fmt: skip
    """Fit the head of a run again, to some of its training features `known` (n, D), adapt it to the sampled images, and test on these.

    The labels of these take no part before the test; without an evaluation there is none. Returns None for a head that was trained,
    and for images with several labels.
    """
    from headstart.adaptation import FEWEST, AdaptationGain, Source
    from headstart.adaptation import adapt as adapted

    values, sampled = predictions.sample, predictions.sampled
    winner = next((row for row in run.record.evidence if row.chosen), None)
    codes = run.reference.get("targets")
    if codes is None or codes.ndim != 1 or len(codes) != len(known):
        return None
    if values is None or sampled is None or winner is None or winner.head not in HEADS or len(values) < FEWEST:
        return None
    settings = run.manifest.provenance.get("settings", {})
    rows = stratified_rows(encode(codes), _KNOWN, seed=0)
    targets, layers, weight = encode(codes[rows]), run.manifest.backbone.layers, settings.get("class_weight")
    model = unfitted(winner, layers=layers, class_weight=weight).fit(known[rows], codes[rows])
    choice = Choice(estimator=model, evidence=run.record.evidence, out_of_sample=model.out_of_sample_logits_, reason="")
    source = Source(features=known[rows], targets=targets, choice=choice, layers=layers, class_weight=weight)
    found = adapted(source, values, progress=progress)
    if not isinstance(evaluation, ClassEvaluation):
        return AdaptationGain(images=len(values), known=len(rows), record=found.record)
    before, truth = evaluation.correct_rows[sampled], evaluation.outcome.targets[sampled]
    after = found.choice.estimator.predict(values) == truth if found.record.methods else before
    return AdaptationGain.of(before, after, known=len(rows), record=found.record)


def find_learning_rate(table: FeatureTable, context: LearningContext, *, low: float, high: float, steps: int) -> LearningRates:
    """Search for a learning rate on the rows that `learn` would train on; arguments as of `find_lr`."""
    timm_models.require("Searching for a learning rate")
    job = job_of(table, context)
    return find_lr(job, pretrained(table, context, job), low=low, high=high, steps=steps)


def training_pace(table: FeatureTable, context: LearningContext) -> Pace:
    """How long `learn_further` takes for any number of images, measured on the rows that `learn` would train on."""
    timm_models.require("Fine-tuning")
    extractor, images = context.prepared.extractor, taken(table.dataset.inputs, table.train[:_TIMED])
    extractor(images[:1])  # opens the engine
    began = time.perf_counter()
    extractor(images)
    milliseconds = 1000 * (time.perf_counter() - began) / len(images)
    job = job_of(table, context)
    return measure(job, pretrained(table, context, job), milliseconds=milliseconds)


def check_training(dataset: Dataset, settings: FitSettings) -> None:
    """Refuse what could not be trained, before anything is computed: ParameterError, MissingExtraError.

    That is stages that the backbone does not have, a loss that does not suit the labels, a GPU that is not there, several processes for a
    plan that needs one, and packages that are not installed.
    """
    plan, link = settings.fine_tuning, dataset.targets.link
    if plan is None or link is None:
        return
    if not dataset.modality.trained:
        raise ParameterError(
            f"The backbone of {dataset.modality.noun}s cannot be trained further for classification yet: use --strategy probe, or leave "
            f"{setting('strategy')} out."
        )
    timm_models.require("Fine-tuning")
    from headstart.training.labels import make_loss
    from headstart.training.preparation import device_of

    asked = Specification.parse(settings.backbone)
    if formulas := [name for name in asked.names if find_handcrafted(name)]:
        raise ParameterError(
            f"A training changes a network, and {formulas[0]} comes from a formula. Name a backbone alone, or use --strategy probe."
        )
    if not asked.plain:
        raise ParameterError(
            f"A training changes one network, and {settings.backbone} is composed of several. Name one, or use --strategy probe."
        )
    device_of(plan)
    Processes.from_environment().check(plan)
    make_loss(plan, link=link, classes=len(dataset.classes))
    if plan.unfreeze not in (None, GRADUAL):
        trained_stages(plan, stage_table(find(settings.backbone)).names)
    if plan.logger == "tensorboard":
        require_tensorboard()
