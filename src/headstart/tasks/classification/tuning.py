"""From labelled images to a fine-tuned backbone and head: what is held out, what the training starts from, what came of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.backbones import find, timm_models
from headstart.backbones.summary import stage_table
from headstart.data.split import hold_out
from headstart.errors import DataError, MissingExtraError
from headstart.features import BackboneExtractor, Images
from headstart.features.prepared import Prepared
from headstart.features.table import taken
from headstart.heads.labels import EncodedLabels, class_weights, encode
from headstart.metrics.link import Link
from headstart.progress import Listener
from headstart.selection import Candidate, Choice
from headstart.settings import GRADUAL, FineTuning
from headstart.training.learning_rates import LearningRates, find_lr
from headstart.training.processes import Processes
from headstart.training.schedule import trained_stages

if TYPE_CHECKING:
    from headstart.training.checkpoint import CheckpointFolder
    from headstart.training.job import Pretrained, StartFeatures, TrainingJob
    from headstart.training.tuning import FineTuned


@dataclass(frozen=True)
class Keeping:
    """Where the state of a training is saved, and the processes that share it.

    Attributes:
        checkpoints: the folder; None is a temporary one.
        resume: continue from its checkpoint.
        processes: that train together.
        events: folder for TensorBoard's event files, if the plan asks for them.
    """

    checkpoints: CheckpointFolder | None = None
    resume: bool = False
    processes: Processes = field(default_factory=Processes)
    events: Path | None = None


def check_plan(plan: FineTuning, *, backbone: str, classes: int, link: Link) -> None:
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


def train(
    ready: Prepared, plan: FineTuning, images: Images, y: npt.NDArray[Any], *, groups: npt.NDArray[Any] | None,
    values: npt.NDArray[np.float32] | None, class_weight: Mapping[Any, float] | str | None, seed: int,
    watched: tuple[Images, npt.NDArray[Any]] | None, probe: Choice | None, keeping: Keeping, listener: Listener, folder: Path,
) -> tuple[FineTuned, Choice]:  # fmt: skip
    """Fine-tune; arguments as of `TransferClassifier.fine_tune`. The trained network is written below `folder`.

    Returns:
        What came of it, and the head as a choice: the evidence of the probe with a line for the training.
    """
    timm_models.require("Fine-tuning")
    from headstart.training.tuning import fine_tune

    targets = encode(y)
    job = _job(images, targets, plan, groups=groups, class_weight=class_weight, seed=seed, watched=watched, listener=listener)
    job = replace(job, checkpoints=keeping.checkpoints, resume=keeping.resume, processes=keeping.processes, events=keeping.events)
    tuned = fine_tune(job, _pretrained(ready, job, values), cache=folder)
    return tuned, _choice(tuned, job, targets, probe)


def search(
    ready: Prepared, plan: FineTuning, images: Images, y: npt.NDArray[Any], *, groups: npt.NDArray[Any] | None,
    class_weight: Mapping[Any, float] | str | None, seed: int, low: float, high: float, steps: int, listener: Listener,
) -> LearningRates:  # fmt: skip
    """Search for a learning rate on the images that `train` would learn from; arguments as of `TransferClassifier.find_learning_rate`."""
    timm_models.require("Searching for a learning rate")
    job = _job(images, encode(y), plan, groups=groups, class_weight=class_weight, seed=seed, watched=None, listener=listener)
    return find_lr(job, _pretrained(ready, job, None), low=low, high=high, steps=steps)


def _pretrained(ready: Prepared, job: TrainingJob, values: npt.NDArray[np.float32] | None) -> Pretrained:
    """What a training starts from; `values` are the frozen features of all images, where they are known."""
    from headstart.training.job import Pretrained

    return Pretrained(
        backbone=ready.extractor.backbone, preprocessing=ready.extractor.preprocessing, weights=ready.settings.weights,
        engine=ready.settings.engine, features=_start_features(ready, job, values),
    )  # fmt: skip


def _start_features(ready: Prepared, job: TrainingJob, values: npt.NDArray[np.float32] | None) -> StartFeatures:
    backbone = ready.extractor.backbone

    def start_features(size: int) -> npt.NDArray[np.float32] | None:
        """The frozen features of the training rows at this image size."""
        if job.plan.pixels != "backbone" or (size != backbone.record.input_size and not backbone.any_size):
            return None
        preprocessing, last = ready.extractor.preprocessing, backbone.last
        if size == preprocessing.size and values is not None and values.shape[1] == backbone.dim:
            return values[job.train, last.start : last.stop]
        extractor = BackboneExtractor(backbone, preprocessing=replace(preprocessing, size=size), engine=ready.settings.engine)
        with ready.store() as store:
            features = extractor(taken(job.images, job.train), store=store, progress=job.listener.progress, warn=job.listener.warn)
        if features.refused:
            raise DataError(f"An image can no longer be read: {features.refused[0]}. Do not change the images during a training.")
        return features.values[:, last.start : last.stop]

    return start_features


def _job(
    images: Images, targets: EncodedLabels, plan: FineTuning, *, groups: npt.NDArray[Any] | None,
    class_weight: Mapping[Any, float] | str | None, seed: int, watched: tuple[Images, npt.NDArray[Any]] | None, listener: Listener,
) -> TrainingJob:  # fmt: skip
    from headstart.training.job import TrainingJob
    from headstart.training.labels import LabelTraining, make_loss

    rows = np.arange(len(targets))
    indicators, held, every = targets.indicators, np.empty(0, dtype=np.int64), images
    if plan.validation_share:
        rows, held = hold_out(targets.codes, share=plan.validation_share, groups=groups, seed=seed)
    elif watched is not None:
        held = np.arange(len(targets), len(targets) + len(watched[0]))
        labels = np.asarray(watched[1])
        further = labels.astype(bool) if targets.link.independent else labels[:, None] == targets.classes
        indicators, every = np.concatenate([indicators, further]), _joined(images, watched[0])
    weights = None if class_weight is None else class_weights(targets.take(rows), class_weight).astype(np.float32)
    task = LabelTraining(
        indicators=indicators.astype(np.float32), classes=targets.classes,
        loss=make_loss(plan, link=targets.link, classes=indicators.shape[1], class_weights=weights),
        groups=None if groups is None else np.unique(groups, return_inverse=True)[1], label_dtype=targets.dtype,
    )  # fmt: skip
    return TrainingJob(
        plan=plan, task=task, images=every, train=rows.astype(np.int64), validation=held.astype(np.int64),
        select_best=bool(plan.validation_share), seed=seed, listener=listener,
    )  # fmt: skip


def _joined(first: Images, second: Images) -> Images:
    both_arrays = isinstance(first, np.ndarray) and isinstance(second, np.ndarray)
    return np.concatenate([first, second]) if both_arrays else [*first, *second]


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
