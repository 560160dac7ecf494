"""`fine_tune`: from a backbone and labelled images to a backbone and a head that were trained together."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from headstart.backbones import Backbone, conversion, timm_models
from headstart.backbones.loading import NetworkCache
from headstart.backbones.stages import Stage
from headstart.errors import HeadstartError, Interrupted
from headstart.heads.calibration import calibrate
from headstart.modalities.image import Preprocessing
from headstart.progress import Listener
from headstart.settings import FineTuning
from headstart.training.checkpoint import SUFFIX, CheckpointFolder
from headstart.training.event_files import EventFiles, require_tensorboard
from headstart.training.folding import unfold
from headstart.training.freezing import phases, rates
from headstart.training.history import Epoch, History
from headstart.training.loop import Problem, Stopped, Training
from headstart.training.network import frozen_digest, weights_digest
from headstart.training.preparing import OutOfMemoryError, Preparation, Prepared, StartFeatures, Task, memory_in_words
from headstart.training.schedule import Schedule
from headstart.training.team import Team
from headstart.training.trained_head import TrainedHead

__all__ = ["FineTuned", "FrozenWeightsError", "OutOfMemoryError", "Task", "fine_tune"]

_CALIBRATED_FROM = 10
"""So many validation images at least are needed to fit a temperature."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FineTuned:
    """What came of a training: again a backbone and a head.

    Attributes:
        backbone: with the trained weights, converted and kept; its digest is its own.
        preprocessing: how an image becomes its input.
        head: takes the backbone's whole feature vector.
        history: epoch by epoch.
        watched_logits: calibrated logits (m, k) of the watched images, or None without any.
        stages: all stages of the backbone; `trained` are the names of those that were trained.
        facts: sentences on what was done.
    """

    backbone: Backbone
    preprocessing: Preprocessing
    head: TrainedHead
    history: History
    watched_logits: npt.NDArray[np.float64] | None
    stages: tuple[Stage, ...]
    trained: tuple[str, ...]
    facts: tuple[str, ...]


def fine_tune(
    task: Task, plan: FineTuning, *, backbone: Backbone, preprocessing: Preprocessing, cache: Path, weights: str | Path | None = None,
    start_features: StartFeatures | None = None, engine: str = "auto", seed: int = 0,
    checkpoints: CheckpointFolder | None = None, resume: bool = False, team: Team | None = None, listener: Listener | None = None,
    events: Path | None = None,
) -> FineTuned:  # fmt: skip
    """Train a head and as much of its backbone as the plan says.

    Args:
        task: what is to be learned.
        plan: how.
        backbone: as `load_backbone` returned it; it is not changed.
        preprocessing: of testing; its size gives way to the plan's.
        cache: folder in which the trained network is kept.
        weights: as given to `load_backbone`.
        start_features: called with the image size; gives the frozen features of the training rows before the classifier (m, D), for a head
            to start from, or None.
        engine: as `open_engine` takes it, for the frozen part; or ``torch``.
        seed: of everything random.
        checkpoints: where the state is kept from epoch to epoch; a temporary folder by default.
        resume: go on from the checkpoint.
        team: who shares the work.
        listener: is told how it goes.
        events: folder for event files, where the plan asks for them.

    Raises:
        ParameterError: the plan does not suit the backbone or the labels, or diverged before its first epoch was done.
        Interrupted: Ctrl-C; the state has been kept.
        RunError: checkpoints cannot be written or read.
        MissingExtraError: PyTorch and timm are not installed.
    """
    timm_models.require("Fine-tuning")
    if plan.logger == "tensorboard":
        require_tensorboard()
    scratch = None
    if checkpoints is None:
        scratch = tempfile.mkdtemp(prefix="headstart-training-")
        checkpoints = CheckpointFolder(Path(scratch))
    try:
        job = _Job(task, plan, checkpoints, team or Team(), listener or Listener())
        preparation = Preparation(
            task, plan, backbone=backbone, preprocessing=preprocessing, weights=weights, engine=engine, seed=seed,
            folder=checkpoints.activations, team=job.team, listener=job.listener,
        )  # fmt: skip
        with memory_in_words(plan):
            prepared = preparation.run(start_features)
            history, logits = job.run(prepared, seed=seed, resume=resume, events=events)
            return job.result(prepared, history, logits, backbone=backbone, cache=cache)
    except Stopped:
        run = str(checkpoints.path).removesuffix(SUFFIX)
        raise Interrupted("Interrupted." if scratch else f"Interrupted. The state is kept; go on with: --resume {run}") from None
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


class _Job:
    """One call of `fine_tune`, after the preparation."""

    def __init__(self, task: Task, plan: FineTuning, checkpoints: CheckpointFolder, team: Team, listener: Listener) -> None:
        self.task, self.plan, self.checkpoints, self.team, self.listener = task, plan, checkpoints, team, listener

    def run(self, prepared: Prepared, *, seed: int, resume: bool, events: Path | None) -> tuple[History, npt.NDArray[np.float32] | None]:
        """Train; returns the history, and the logits of the watched images."""
        task, plan = self.task, self.plan
        epochs = Schedule.of(plan, len(task.train)).epochs
        writers: list[EventFiles] = []

        def write_event(epoch: Epoch) -> None:
            assert events is not None
            if not writers:  # only now is it known whether earlier epochs were written before an interruption
                writers.append(EventFiles(events, first=epoch.number))
            writers[0].epoch(epoch)

        logs = plan.logger == "tensorboard" and events is not None and self.team.leads
        training = Training(
            prepared.network, prepared.inputs,
            Problem(targets=task.targets, train=task.train, watched=task.watched, chooses=task.chooses, link=task.link),
            plan, stages=prepared.stages, rates=rates(plan, prepared.trained), loss=prepared.loss, augmentation=prepared.augmentation,
            seed=seed, phases=phases(plan, prepared.trained, epochs, head_first=not prepared.closed_form and plan.start == "probe"),
            team=self.team, device=prepared.device, penalty=prepared.penalty, checkpoints=self.checkpoints, listener=self.listener,
            on_epoch=write_event if logs else None,
        )  # fmt: skip
        try:
            history = training.run(resume=resume)
        finally:
            for writer in writers:
                writer.close()
        return history, training.watched_logits

    def bring_home(self, prepared: Prepared) -> str:
        """Put the trained weights into the whole network, make sure that nothing else has changed, and say so."""
        whole, tail, stages, trained = prepared.whole, prepared.network.tail, prepared.stages, prepared.trained
        whole.cpu()
        unfold(whole)  # it may be the network that was trained
        if tail is not None and tail.model is not whole.model:
            entries = whole.model.state_dict()
            for name, value in tail.model.state_dict().items():
                if name in entries:
                    entries[name].copy_(value)
        may_change = [stage for stage in stages if stage.name in trained]
        if frozen_digest(whole.model, may_change, batchnorm=self.plan.batchnorm) != prepared.frozen:
            raise FrozenWeightsError("Weights that were to stay frozen have changed. This is a bug in Headstart; please report it.")
        kept = "all of the backbone" if not trained else ", ".join(stage.name for stage in stages if stage.name not in trained)
        statistics = " and all BatchNorm statistics" if self.plan.batchnorm == "inference" else ""
        return f"frozen weights ({kept or 'none'}){statistics} are bit-identical after training (SHA-256 {prepared.frozen[:12]})"

    def result(
        self, prepared: Prepared, history: History, logits: npt.NDArray[np.float32] | None, *, backbone: Backbone, cache: Path
    ) -> FineTuned:
        """What came of it, with the network converted and kept."""
        unchanged = self.bring_home(prepared)
        self.listener.stage("Converting the trained network")
        kept = self._kept(prepared, backbone, cache)
        used, task, loss = kept.layers[-1], self.task, prepared.loss
        temperature = 1.0
        if logits is not None and task.chooses and len(logits) >= _CALIBRATED_FROM:
            right = task.targets[task.watched] > 0.5
            temperature = 1 / calibrate(logits, right, link=task.link, shifts=False).scale
        trained_head = TrainedHead.of(
            prepared.network.head.arrays(), task.classes, task.link, columns=(used.start, used.stop), features=kept.dim,
            single_sigmoid=loss.outputs < loss.classes, temperature=temperature, label_dtype=task.label_dtype,
        )  # fmt: skip
        return FineTuned(
            backbone=kept, preprocessing=prepared.preprocessing, head=trained_head, stages=prepared.stages, trained=prepared.trained,
            history=history if task.chooses else dataclasses.replace(history, watched="test"),
            watched_logits=None if logits is None else logits.astype(np.float64) / temperature, facts=(*prepared.facts, unchanged),
        )  # fmt: skip

    def _kept(self, prepared: Prepared, backbone: Backbone, cache: Path) -> Backbone:
        """The trained network, converted and kept."""
        whole = prepared.whole
        whole.to(memory_format=torch.contiguous_format)
        done = conversion.convert_module(prepared.record, whole)
        described = f"{backbone.weights_source}, " + (f"fine-tuned ({', '.join(prepared.trained)})" if prepared.trained else "frozen")
        digest = weights_digest({**whole.model.state_dict(), "mean": whole.shift, "std": whole.scale})
        with self.team.one_first():
            kept = NetworkCache(cache).add(done, weights_digest=digest, weights_source=described)
            return dataclasses.replace(kept, tuned=True)


class FrozenWeightsError(HeadstartError):
    """Weights that were frozen have changed."""
