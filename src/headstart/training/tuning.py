"""`fine_tune`: from a backbone and labelled images to a backbone and a head that were trained together."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from headstart.backbones import Backbone, timm_models
from headstart.backbones.loading import NetworkCache
from headstart.backbones.records import Stage
from headstart.engine import torch_of_process
from headstart.errors import HeadstartError, Interrupted
from headstart.modalities.image import Preprocessing
from headstart.settings import FineTuning
from headstart.training.checkpoint import CheckpointFolder
from headstart.training.history import EventFiles, History, require_tensorboard
from headstart.training.job import Pretrained, TrainingJob
from headstart.training.loop import Stopped, Training
from headstart.training.network import frozen_digest, unfold, weights_digest
from headstart.training.preparation import Preparation, Prepared, memory_errors
from headstart.training.schedule import Schedule, phases, rates

if TYPE_CHECKING:
    from headstart.training.trained_head import TrainedHead


@dataclass(frozen=True, eq=False, kw_only=True)
class FineTuned:
    """The result of a training: again a backbone and a head."""

    backbone: Backbone  # with the trained weights, converted and stored; its digest is its own
    preprocessing: Preprocessing  # from an image to its input
    head: TrainedHead  # takes the backbone's whole feature vector
    history: History  # epoch by epoch
    predictions: npt.NDArray[np.float64] | None  # for the validation images, calibrated (for labels: logits (m, k))
    stages: tuple[Stage, ...]  # all of the backbone
    trained: tuple[str, ...]  # names of those that were trained
    facts: tuple[str, ...]  # sentences on what was done


def fine_tune(job: TrainingJob, start: Pretrained, *, cache: Path) -> FineTuned:
    """Train a head and as much of its backbone as the plan says; the trained network is stored in the folder `cache`.

    Raises ParameterError where the plan does not suit the backbone or the labels, or diverged before its first epoch was done; RunError
    where checkpoints cannot be written or read; and Interrupted at Ctrl-C, when the state has been saved.
    """
    timm_models.require("Fine-tuning")
    torch_of_process()
    plan = job.plan
    if plan.logger == "tensorboard":
        require_tensorboard()
    with contextlib.ExitStack() as stack:
        resumable, checkpoints = "", job.checkpoints
        if checkpoints is None:
            scratch = tempfile.TemporaryDirectory(prefix="headstart-training-", ignore_cleanup_errors=True)
            checkpoints = CheckpointFolder(Path(stack.enter_context(scratch)))
            job = dataclasses.replace(job, checkpoints=checkpoints)
        else:
            resumable = f" The state of the training is saved. To resume: --resume {checkpoints.run}"
        stack.enter_context(memory_errors(plan))
        on_epoch = None
        if plan.logger == "tensorboard" and job.events is not None and job.processes.is_first:
            on_epoch = stack.enter_context(contextlib.closing(EventFiles(job.events))).epoch
        try:
            prepared = Preparation(job, start, folder=checkpoints.activations).run()
            head_first, epochs = not prepared.fitted_head and plan.start == "probe", Schedule.of(plan, len(job.train)).epochs
            training = Training(
                job, prepared, phases=phases(plan, prepared.trained, epochs, head_first=head_first), rates=rates(plan, prepared.trained),
                on_epoch=on_epoch,
            )  # fmt: skip
            return _result(job, start, prepared, training, history=training.run(), cache=cache)
        except Stopped:
            raise Interrupted(f"Interrupted.{resumable}") from None


def _result(job: TrainingJob, start: Pretrained, prepared: Prepared, training: Training, *, history: History, cache: Path) -> FineTuned:
    """The trained head, and the trained network converted and stored."""
    unchanged = _restore_weights(prepared, job.plan)
    job.listener.stage("Converting the trained network")
    with job.processes.first_on_machine():
        backbone = _stored(prepared, start.backbone, cache)
    head, predictions = job.task.model(
        prepared.network.head, backbone.layers[-1], backbone.dim, training.validation.predictions,
        job.validation if job.select_best else None,
    )  # fmt: skip
    return FineTuned(
        backbone=backbone, preprocessing=prepared.preprocessing, head=head, predictions=predictions, stages=prepared.stages,
        trained=prepared.trained, history=history if job.select_best else dataclasses.replace(history, watched="test"),
        facts=(*prepared.facts, unchanged),
    )  # fmt: skip


def _restore_weights(prepared: Prepared, plan: FineTuning) -> str:
    """Copy the trained weights into the whole network, make sure that nothing else has changed, and say so."""
    whole, tail = prepared.whole, prepared.network.tail
    whole.cpu()
    unfold(whole)  # it may be the network that was trained
    if tail is not None and tail.model is not whole.model:
        entries = whole.model.state_dict()
        for name, value in tail.model.state_dict().items():
            if name in entries:
                entries[name].copy_(value)
    may_change = [stage for stage in prepared.stages if stage.name in prepared.trained]
    if frozen_digest(whole.model, may_change, batchnorm=plan.batchnorm) != prepared.frozen:
        raise FrozenWeightsError("Weights that were to stay frozen have changed. This is a bug in Headstart; please report it.")
    frozen = ", ".join(stage.name for stage in prepared.stages if stage.name not in prepared.trained) or "none"
    statistics = " and all BatchNorm statistics" if plan.batchnorm == "inference" else ""
    return (
        f"frozen weights ({frozen if prepared.trained else 'all of the backbone'}){statistics} are bit-identical after training "
        f"(SHA-256 {prepared.frozen[:12]})"
    )


def _stored(prepared: Prepared, backbone: Backbone, cache: Path) -> Backbone:
    """The trained network, converted and stored."""
    whole = prepared.whole
    whole.to(memory_format=torch.contiguous_format)
    done = timm_models.convert_module(prepared.record, whole)
    described = f"{backbone.weights_source}, " + (f"fine-tuned ({', '.join(prepared.trained)})" if prepared.trained else "frozen")
    digest = weights_digest({**whole.model.state_dict(), "mean": whole.shift, "std": whole.scale})
    stored = NetworkCache(cache).add(done, weights_digest=digest, weights_source=described)
    return dataclasses.replace(stored, tuned=True)


class FrozenWeightsError(HeadstartError):
    """Weights that were frozen have changed."""
