"""Training further for classification: the job from a table of features, what it starts from, and its head as a choice."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headstart.backbones import find, timm_models
from headstart.backbones.summary import stage_table
from headstart.data.split import hold_out
from headstart.errors import DataError, MissingExtraError
from headstart.features import BackboneExtractor
from headstart.features.table import FeatureTable, taken
from headstart.heads.labels import EncodedLabels, class_weights, encode
from headstart.metrics.link import Link
from headstart.selection import Candidate, Choice
from headstart.settings import GRADUAL, FineTuning
from headstart.tasks.task import LearningContext
from headstart.training.job import Resumable
from headstart.training.learning_rates import LearningRates, find_lr
from headstart.training.processes import Processes
from headstart.training.schedule import trained_stages

if TYPE_CHECKING:
    from headstart.training.job import Pretrained, TrainingJob
    from headstart.training.tuning import FineTuned


def check_training(plan: FineTuning, *, backbone: str, classes: int, link: Link) -> None:
    """Refuse what could not be trained, before anything is computed.

    Args:
        plan: what is asked for.
        backbone: its name.
        classes: how many there are.
        link: `SOFTMAX` for one label an image, `SIGMOID` for any number of labels.

    Raises:
        ParameterError: stages that the backbone does not have, a loss that does not suit the labels, a GPU that is not there, or several
            processes for a plan that needs one.
        MissingExtraError: PyTorch and timm, or what the logger needs, are not installed.
    """
    timm_models.require("Fine-tuning")
    from headstart.training.labels import make_loss
    from headstart.training.preparation import device_of

    device_of(plan)
    Processes.from_environment().check(plan)
    make_loss(plan, link=link, classes=classes)
    if plan.unfreeze not in (None, GRADUAL):
        trained_stages(plan, stage_table(find(backbone)).names)
    if plan.logger == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("Writing event files for TensorBoard", extra="tensorboard")


def train(table: FeatureTable, context: LearningContext, *, probe: Choice | None, folder: Path) -> tuple[FineTuned, Choice]:
    """Fine-tune on the training rows of a table. The trained network is written below `folder`.

    Where no training images are held out to select an epoch, the test images are scored after each, and nothing is selected on them.

    Returns:
        The trained backbone and head, and the head as a choice: the evidence of the probe with a line for the training.
    """
    timm_models.require("Fine-tuning")
    from headstart.training.tuning import fine_tune

    job = _job(table, context)
    tuned = fine_tune(job, _pretrained(table, context, job), cache=folder)
    return tuned, _choice(tuned, job, encode(table.targets[table.train]), probe)


def find_learning_rate(table: FeatureTable, context: LearningContext, *, low: float, high: float, steps: int) -> LearningRates:
    """Search for a learning rate on the rows that `train` would learn from; arguments as of `find_lr`."""
    timm_models.require("Searching for a learning rate")
    job = _job(table, context)
    return find_lr(job, _pretrained(table, context, job), low=low, high=high, steps=steps)


def _pretrained(table: FeatureTable, context: LearningContext, job: TrainingJob) -> Pretrained:
    from headstart.training.job import Pretrained

    extractor, settings = context.prepared.extractor, context.prepared.settings
    backbone, last = extractor.backbone, extractor.backbone.last

    def start_features(size: int) -> npt.NDArray[np.float32] | None:
        """The frozen features of the training rows at this image size."""
        if job.plan.pixels != "backbone" or (size != backbone.record.input_size and not backbone.any_size):
            return None
        if size == extractor.preprocessing.size and table.values.shape[1] == backbone.dim:
            return table.values[table.train[job.train], last.start : last.stop]
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
    from headstart.training.job import TrainingJob
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
        plan=plan, task=task, images=images, train=rows.astype(np.int64), validation=held.astype(np.int64),
        select_best=bool(plan.validation_share), seed=settings.seed, processes=resumable.processes, checkpoints=resumable.checkpoints,
        resume=resumable.resume, events=resumable.events, listener=context.listener,
    )  # fmt: skip


def _choice(tuned: FineTuned, job: TrainingJob, targets: EncodedLabels, probe: Choice | None) -> Choice:
    """The trained head as a choice."""
    plan, count = job.plan, len(targets)
    out_of_sample = np.full((count, targets.indicators.shape[1]), np.nan)
    accuracy = accuracy_error = log_loss = log_loss_error = float("nan")
    if tuned.predictions is not None and job.select_best:
        out_of_sample[job.validation] = tuned.predictions
        right, lost = _scores(tuned.predictions, targets.take(job.validation))
        accuracy, accuracy_error = _mean_and_error(right)
        log_loss, log_loss_error = _mean_and_error(lost)
    words = "linear" if not plan.head_layers else f"dense {'-'.join(map(str, plan.head_layers))}"
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


def _scores(logits: npt.NDArray[np.float64], targets: EncodedLabels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of each image: the share of right answers, and the log loss."""
    decisions = targets.link.decisions(targets.link.probabilities(logits))
    return targets.link.correct_share(decisions, targets.codes), targets.link.losses(logits, targets.indicators)


def _mean_and_error(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
