"""Learning to classify: a head on frozen features, and the backbone trained further where that is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headstart.backbones import find, timm_models
from headstart.backbones.composed import Specification
from headstart.backbones.summary import stage_table
from headstart.data import Dataset
from headstart.data.split import hold_out
from headstart.errors import DataError, ParameterError
from headstart.features import BackboneExtractor
from headstart.features.prepared import trained, trained_folder
from headstart.features.table import FeatureTable, taken
from headstart.heads.labels import EncodedLabels, class_weights, encode
from headstart.matrix import columns_of
from headstart.progress import Seconds
from headstart.selection import Candidate, Choice, choose_head
from headstart.settings import GRADUAL, FitSettings
from headstart.tasks.task import Learned, LearningContext
from headstart.training.history import require_tensorboard
from headstart.training.job import Pretrained, Processes, Resumable, TrainingJob
from headstart.training.learning_rates import LearningRates, find_lr
from headstart.training.schedule import trained_stages

if TYPE_CHECKING:
    from headstart.training.tuning import FineTuned


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Choose layers and head on the frozen backbone, and train further where that is asked for.

    Where no training images are held out to select an epoch, the test images are scored after each, and nothing is selected on them.
    """
    settings, listener, seconds = context.settings, context.listener, Seconds()
    resumable = context.resumable or Resumable()
    probe = None
    if settings.fine_tuning is None or settings.fine_tuning.start == "probe":
        listener.stage("Choosing the head")
        with seconds.lap("head"), resumable.processes.first_on_machine():
            probe = _choose(table, context)
    if settings.fine_tuning is None:
        assert probe is not None
        return Learned(choice=probe, table=table, prepared=context.prepared, seconds=seconds)
    timm_models.require("Fine-tuning")
    from headstart.training.tuning import fine_tune

    with seconds.lap("fine-tuning"), trained_folder() as folder:
        job = _job(table, context)
        tuned = fine_tune(job, _pretrained(table, context, job), cache=folder)
        prepared = trained(context.prepared.settings, tuned.backbone, tuned.preprocessing, folder)
        choice = _choice(tuned, job, encode(table.targets[table.train]), probe)
    listener.stage("Extracting features of the trained network")
    table = table.take(table.test) if context.test_only else table
    with seconds.lap("trained features"):
        values = prepared.extract(table.dataset.images, progress=listener.progress, warn=listener.warn).values
    return Learned(
        choice=choice, table=table.with_values(values, prepared.extractor.layers), prepared=prepared, probe=probe, fine_tuned=tuned,
        seconds=seconds,
    )  # fmt: skip


def _choose(table: FeatureTable, context: LearningContext) -> Choice:
    """Layers, head and hyperparameters from out-of-sample scores of the training rows."""
    settings, rows = context.settings, table.train
    return choose_head(
        table.features(rows), table.targets[rows], layers=table.layers, head=settings.head, class_weight=settings.class_weight,
        groups=table.groups_among(rows), seed=settings.seed, cached=context.prepared.cached, progress=context.listener.progress,
    )  # fmt: skip


def find_learning_rate(table: FeatureTable, context: LearningContext, *, low: float, high: float, steps: int) -> LearningRates:
    """Search for a learning rate on the rows that `learn` would train on; arguments as of `find_lr`."""
    timm_models.require("Searching for a learning rate")
    job = _job(table, context)
    return find_lr(job, _pretrained(table, context, job), low=low, high=high, steps=steps)


def check_training(dataset: Dataset, settings: FitSettings) -> None:
    """Refuse what could not be trained, before anything is computed: ParameterError, MissingExtraError.

    That is stages that the backbone does not have, a loss that does not suit the labels, a GPU that is not there, several processes for a
    plan that needs one, and packages that are not installed.
    """
    plan, link = settings.fine_tuning, dataset.targets.link
    if plan is None or link is None:
        return
    timm_models.require("Fine-tuning")
    from headstart.training.labels import make_loss
    from headstart.training.preparation import device_of

    if not Specification.parse(settings.backbone).plain:
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


def _pretrained(table: FeatureTable, context: LearningContext, job: TrainingJob) -> Pretrained:
    extractor, settings = context.prepared.extractor, context.prepared.settings
    backbone, last = extractor.backbone, extractor.backbone.last

    def start_features(size: int) -> npt.NDArray[np.float32] | None:
        """The frozen features of the training rows at this image size."""
        if job.plan.pixels != "backbone" or (size != backbone.record.input_size and not backbone.any_size):
            return None
        if size == extractor.preprocessing.size and table.values.shape[1] == backbone.dim:
            return columns_of(table.values, table.train[job.train], last.start, last.stop)
        resized = BackboneExtractor(backbone, preprocessing=replace(extractor.preprocessing, size=size), engine=settings.engine)
        with context.prepared.store() as store:
            features = resized(taken(job.images, job.train), store=store, progress=job.listener.progress, warn=job.listener.warn)
        if features.refused:
            raise DataError(f"An image can no longer be read: {features.refused[0]}. Do not change the images during a training.")
        return features.values[:, last.start : last.stop]

    return Pretrained(
        backbone=backbone, preprocessing=extractor.preprocessing, weights=settings.weights, engine=settings.engine, features=start_features
    )


def _job(table: FeatureTable, context: LearningContext) -> TrainingJob:
    from headstart.training.labels import LabelTraining, make_loss

    settings, train, test = context.settings, table.train, table.test
    plan, resumable = settings.fine_tuning, context.resumable or Resumable()
    targets, groups, images = encode(table.targets[train]), table.groups_among(train), taken(table.dataset.images, train)
    rows, held, indicators = np.arange(len(train)), np.empty(0, dtype=np.int64), targets.indicators
    if plan.validation_share:
        rows, held = hold_out(targets.codes, share=plan.validation_share, groups=groups, seed=settings.seed)
    elif len(test):
        held = np.arange(len(train), len(train) + len(test))
        labels = table.targets[test]
        further = labels.astype(bool) if targets.link.independent else labels[:, None] == targets.classes
        indicators, images = np.concatenate([indicators, further]), taken(table.dataset.images, np.concatenate([train, test]))
    weights = None if settings.class_weight is None else class_weights(targets.take(rows), settings.class_weight).astype(np.float32)
    task = LabelTraining(
        indicators=indicators.astype(np.float32), classes=targets.classes,
        loss=make_loss(plan, link=targets.link, classes=indicators.shape[1], class_weights=weights),
        groups=None if groups is None else np.unique(groups, return_inverse=True)[1], label_dtype=targets.dtype,
    )  # fmt: skip
    return TrainingJob(
        **vars(resumable), plan=plan, task=task, images=images, train=rows.astype(np.int64), validation=held.astype(np.int64),
        select_best=bool(plan.validation_share), seed=settings.seed, listener=context.listener,
    )  # fmt: skip


def _choice(tuned: FineTuned, job: TrainingJob, targets: EncodedLabels, probe: Choice | None) -> Choice:
    """The trained head as a choice."""
    plan = job.plan
    out_of_sample = np.full(targets.indicators.shape, np.nan)
    accuracy = accuracy_error = log_loss = log_loss_error = float("nan")
    if tuned.predictions is not None and job.select_best:
        out_of_sample[job.validation] = tuned.predictions
        held = targets.take(job.validation)
        decisions = held.link.decisions(held.link.probabilities(tuned.predictions))
        accuracy, accuracy_error = _mean_and_error(held.link.correct_share(decisions, held.codes))
        log_loss, log_loss_error = _mean_and_error(held.link.losses(tuned.predictions, held.indicators))
    words = f"dense {'-'.join(map(str, plan.head_layers))}" if plan.head_layers else "linear"
    row = Candidate(
        view=f"{', '.join(tuned.trained)} trained" if tuned.trained else "the frozen backbone", layers=("last",), head=f"{words} head",
        hyperparameters={"epoch": float(tuned.history.best)} if tuned.history.best else {}, images=len(job.validation) * job.select_best,
        accuracy=accuracy, accuracy_error=accuracy_error, log_loss=log_loss, log_loss_error=log_loss_error,
        seconds=tuned.history.seconds, chosen=True,
    )  # fmt: skip
    earlier = () if probe is None else tuple(replace(candidate, chosen=False) for candidate in probe.evidence)
    return Choice(estimator=tuned.head, evidence=(row, *earlier), out_of_sample=out_of_sample, reason=_reason(tuned, job))


def _reason(tuned: FineTuned, job: TrainingJob) -> str:
    plan, epochs, history, images = job.plan, len(tuned.history.epochs), tuned.history, len(job.validation)
    if not job.select_best:
        return f"the training was asked for, and its last epoch ({epochs}) is kept"
    if plan.average or plan.keep == "last":
        return f"the training was asked for, and its last {'epochs are averaged' if plan.average else 'epoch is kept'}"
    if history.best is None:
        return f"the training was asked for, but none of its {epochs} epochs was better on {images} validation images"
    return f"the training was asked for; epoch {history.best} of {epochs} was best on {images} validation images"


def _mean_and_error(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
