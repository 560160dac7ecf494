"""`fine_tune`: from a backbone and labelled images to a backbone and a head that were trained together."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from headstart.backbones import Backbone, Layer, timm_models
from headstart.backbones.loading import NetworkCache
from headstart.backbones.records import Stage
from headstart.engine import torch_of_process
from headstart.errors import HeadstartError, Interrupted
from headstart.features import BackboneExtractor
from headstart.features.running import Images
from headstart.matrix import FeatureMatrix, allocated, columns_of
from headstart.modalities.image import Preprocessing
from headstart.progress import Listener
from headstart.settings import FineTuning
from headstart.training.checkpoint import CheckpointFolder
from headstart.training.history import EventFiles, History, require_tensorboard
from headstart.training.job import Pretrained, TrainingJob
from headstart.training.loop import Stopped, Training
from headstart.training.network import frozen_digest, unfold, weights_digest
from headstart.training.preparation import Preparation, Prepared, memory_errors
from headstart.training.schedule import Schedule, phases, rates

_PROBE_KEPT = "The head on the frozen backbone is kept."


@dataclass(frozen=True, eq=False, kw_only=True)
class FineTuned:
    """The result of a training: again a backbone and a head."""

    backbone: Backbone  # with the trained weights, converted and stored; its digest is its own
    preprocessing: Preprocessing  # from an image to its input
    head: Any  # takes the backbone's whole feature vector
    history: History  # epoch by epoch
    predictions: npt.NDArray[np.float64] | None  # for the validation images, calibrated (for labels: logits (m, k))
    stages: tuple[Stage, ...]  # all of the backbone
    trained: tuple[str, ...]  # names of those that were trained
    facts: tuple[str, ...]  # sentences on what was done
    shipped: str = "trained"  # what the model is: ``trained``, ``probe`` (backbone and head are the frozen ones), or the ``mean`` of both
    alone: Backbone | None = None  # the trained network by itself, where `backbone` is it beside a frozen one

    def features(self, images: Images, *, frozen: FeatureMatrix, engine: str, listener: Listener) -> npt.NDArray[np.float32]:
        """Features (n, D) of images by the backbone; beside a frozen one, whose features (n, d) are there, only its own are computed."""
        network = self.backbone if self.alone is None else self.alone
        extractor = BackboneExtractor(network, preprocessing=self.preprocessing, engine=engine)
        own = extractor(images, progress=listener.progress, warn=listener.warn).complete("a training")
        if self.alone is None:
            return own
        values = allocated(len(own), self.backbone.dim)
        for slices, part in zip(self.head.columns, (frozen, own), strict=True):
            done = 0
            for start, stop in slices:
                values[:, start:stop] = columns_of(part, np.arange(len(own)), done, done + stop - start)
                done += stop - start
        return values


@dataclass(frozen=True, eq=False)
class Trained:
    """A training that is done; its network is not converted yet."""

    job: TrainingJob
    start: Pretrained
    prepared: Prepared
    history: History
    validation: npt.NDArray[np.float32] | None  # predictions for the validation images

    @property
    def epochs(self) -> int:
        """Those that the plan has, of which it may have done fewer."""
        return Schedule.of(self.job.plan, len(self.job.train)).epochs

    @property
    def learned(self) -> bool:
        """Whether the weights are others than at the beginning, which may have been better than any epoch."""
        return bool(self.history.best or self.job.plan.average or self.job.plan.keep == "last")

    def given_up(self, backbone: Backbone, preprocessing: Preprocessing, head: Any) -> FineTuned:
        """What came of it where the frozen backbone and the head on it are shipped."""
        history = dataclasses.replace(self.history, best=None, stopped=f"{self.history.stopped} {_PROBE_KEPT}")
        return FineTuned(
            backbone=backbone, preprocessing=preprocessing, head=head, predictions=None, stages=self.prepared.stages,
            trained=self.prepared.trained, history=history, facts=self.prepared.facts, shipped="probe",
        )  # fmt: skip

    def stored(self, cache: Path, *, temperature: float | None = None) -> FineTuned:
        """The trained head, and the trained network converted and stored in the folder `cache`.

        By default the head is calibrated on the validation images.
        """
        job, prepared = self.job, self.prepared
        unchanged = _restore_weights(prepared, job.plan)
        job.listener.stage("Converting the trained network")
        with job.processes.first_on_machine():
            backbone = _stored(prepared, self.start.backbone, cache)
        layer = Layer("all", 0, backbone.last.stop) if job.plan.every_stage else backbone.layers[-1]
        rows = job.validation if job.select_best else None
        head, predictions = job.task.model(prepared.network.head, layer, backbone.dim, self.validation, rows)
        if temperature is not None:
            head = dataclasses.replace(head, temperature=temperature)
        return FineTuned(
            backbone=backbone, preprocessing=prepared.preprocessing, head=head, predictions=predictions, stages=prepared.stages,
            trained=prepared.trained, history=self.history if job.select_best else dataclasses.replace(self.history, watched="test"),
            facts=(*prepared.facts, unchanged),
        )  # fmt: skip


@contextlib.contextmanager
def place_of(job: TrainingJob) -> Iterator[TrainingJob]:
    """The job with a folder for its state: a temporary one where it has none. Interrupted at Ctrl-C, when the state has been saved."""
    timm_models.require("Fine-tuning")
    torch_of_process()
    with contextlib.ExitStack() as stack:
        resumable = ""
        if job.checkpoints is None:
            scratch = tempfile.TemporaryDirectory(prefix="headstart-training-", ignore_cleanup_errors=True)
            job = dataclasses.replace(job, checkpoints=CheckpointFolder(Path(stack.enter_context(scratch))))
        else:
            resumable = f" The state of the training is saved. To resume: --resume {job.checkpoints.run}"
        stack.enter_context(memory_errors(job.plan))
        try:
            yield job
        except Stopped:
            raise Interrupted(f"Interrupted.{resumable}") from None


def train(job: TrainingJob, start: Pretrained, *, prepared: Prepared | None = None) -> Trained:
    """Train a head and as much of its backbone as the plan says; the job is that of a `place_of`.

    A network that is `prepared` already is trained from the weights that it has.
    Raises ParameterError where the plan does not suit the backbone or the labels, or diverged before its first epoch was done; RunError
    where checkpoints cannot be written or read.
    """
    plan = job.plan
    assert job.checkpoints is not None
    with contextlib.ExitStack() as stack:
        on_epoch = None
        if plan.logger == "tensorboard":
            require_tensorboard()
            if job.events is not None and job.processes.is_first:
                on_epoch = stack.enter_context(contextlib.closing(EventFiles(job.events, score=job.task.score))).epoch
        prepared = prepared or Preparation(job, start, folder=job.checkpoints.activations).run()
        head_first, epochs = not prepared.fitted_head and plan.start == "probe", Schedule.of(plan, len(job.train)).epochs
        training = Training(
            job, prepared, phases=phases(plan, prepared.trained, epochs, head_first=head_first), rates=rates(plan, prepared.trained),
            on_epoch=on_epoch,
        )  # fmt: skip
        history = training.run()
    return Trained(job, start, prepared, history, training.validation.predictions)


def not_trained(job: TrainingJob, start: Pretrained, head: Any, *, reason: str) -> FineTuned:
    """What there is to say of a training that was not begun, for a reason; the head on the frozen backbone is kept."""
    preparation = Preparation(job, start, folder=Path())
    _, stages, trained = preparation.network()
    return FineTuned(
        backbone=start.backbone, preprocessing=start.preprocessing, head=head, predictions=None, stages=stages, trained=trained,
        history=History(stopped=f"{reason} {_PROBE_KEPT}"), facts=(), shipped="probe",
    )  # fmt: skip


def fine_tune(job: TrainingJob, start: Pretrained, *, cache: Path) -> FineTuned:
    """`train`, and store the trained network in the folder `cache`; Interrupted at Ctrl-C, when the state has been saved."""
    with place_of(job) as placed:
        return train(placed, start).stored(cache)


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
