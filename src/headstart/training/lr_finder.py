"""`find_lr`: a short training in which the learning rate rises from step to step; nothing of it is kept (PyTorch)."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstart.backbones import Backbone, timm_models
from headstart.errors import Interrupted
from headstart.modalities.image import Preprocessing
from headstart.progress import Listener
from headstart.settings import DEFAULT_LR, FineTuning
from headstart.training.checkpoint import CheckpointFolder
from headstart.training.freezing import Phase, rates
from headstart.training.inputs import Rows
from headstart.training.learning_rates import LearningRates, Numbers, Watch, rising
from headstart.training.loop import Problem, Stopped, Training
from headstart.training.losses import Loss
from headstart.training.preparing import Preparation, Prepared, StartFeatures, Task, memory_in_words
from headstart.training.schedule import Schedule
from headstart.training.team import Team


def find_lr(
    task: Task, plan: FineTuning, *, backbone: Backbone, preprocessing: Preprocessing, low: float = 1e-6, high: float = 1.0,
    steps: int = 100, weights: str | Path | None = None, start_features: StartFeatures | None = None, engine: str = "auto", seed: int = 0,
    listener: Listener | None = None,
) -> LearningRates:  # fmt: skip
    """Train with a learning rate that rises exponentially, and see where the loss falls and where it rises (Smith 2017).

    All that the plan would train in the end is trained from the first step on, as it would be trained, by the same loop. The search
    ends early when it diverges. The backbone is not changed, and nothing is kept.

    Args:
        task: what is to be learned; the watched images take no part.
        plan: how; its length, its rate and its schedule give way to those of the search.
        backbone: as `load_backbone` returned it.
        preprocessing: of testing; its size gives way to the plan's.
        low: the head's rate at the first step.
        high: its rate at the last step.
        steps: of the search.
        weights: as given to `load_backbone`.
        start_features: as `fine_tune` takes them.
        engine: as `open_engine` takes it, for the frozen part; or ``torch``.
        seed: of everything random.
        listener: is told how it goes.

    Raises:
        ParameterError: the plan does not suit the backbone or the labels, or the limits of the search are none.
        Interrupted: Ctrl-C.
        MissingExtraError: PyTorch and timm are not installed.
    """
    timm_models.require("Searching for a learning rate")
    lrs, listener = rising(low, high, steps), listener or Listener()
    plan = dataclasses.replace(plan, epochs=None, steps=steps, lr=high, logger="none")
    task = dataclasses.replace(task, watched=np.empty(0, dtype=np.int64), chooses=False)
    rows = task.train
    if steps * plan.batch_size < len(rows):  # no more images are decoded, or run through the frozen part, than the search will see
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[: steps * plan.batch_size])
    try:
        with tempfile.TemporaryDirectory(prefix="headstart-search-", ignore_cleanup_errors=True) as scratch, memory_in_words(plan):
            preparation = Preparation(
                task, plan, backbone=backbone, preprocessing=preprocessing, weights=weights, engine=engine, seed=seed,
                folder=CheckpointFolder(Path(scratch)).activations, team=Team(), listener=listener, rows=rows,
            )  # fmt: skip
            search = _Search(preparation.run(start_features), task, plan, rows, lrs=lrs, seed=seed, listener=listener)
            losses, diverged = search.losses()
    except (Stopped, KeyboardInterrupt):
        raise Interrupted("Interrupted. Nothing of a search is kept.") from None
    return LearningRates.of(lrs, losses, guessing=search.guessing, default=DEFAULT_LR[plan.optimizer], diverged=diverged)


@dataclass(frozen=True)
class _Rising(Schedule):
    """A learning rate that is the same multiple of the one before at every step; the last is the highest."""

    lowest: float = 1.0

    def share(self, step: int) -> float:
        """See `Schedule`."""
        return float(self.lowest ** (1 - step / (self.steps - 1)))


class _Search(Training):
    """A training that is only watched."""

    def __init__(
        self, prepared: Prepared, task: Task, plan: FineTuning, rows: Rows, *, lrs: Numbers, seed: int, listener: Listener
    ) -> None:
        problem = Problem(targets=task.targets, train=rows, watched=task.watched, chooses=False, link=task.link)
        super().__init__(
            prepared.network, prepared.inputs, problem, plan, stages=prepared.stages, phases=[Phase(0, prepared.trained)],
            rates=rates(plan, prepared.trained), loss=prepared.loss, augmentation=prepared.augmentation, seed=seed, team=Team(),
            device=prepared.device, penalty=prepared.penalty, listener=listener,
        )  # fmt: skip
        each = self.schedule.steps_per_epoch
        self.schedule = _Rising(len(lrs), each, warmup=0, cosine=False, lowest=float(lrs[0] / lrs[-1]))
        self.guessing = _guessing(self.loss, torch.from_numpy(problem.targets[rows]))
        self._said = listener

    def losses(self) -> tuple[Numbers, bool]:
        """The loss of every step's batch before the step (n,), and whether the search ended because it diverged."""
        found: list[float] = []
        watch = Watch(self.guessing)
        self._enter(0)
        for epoch in range(self.schedule.epochs):
            self._prepare(epoch)
        self._said.stage("Searching for a learning rate")
        for step in range(self.schedule.steps):
            epoch, index = divmod(step, self.schedule.steps_per_epoch)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.problem.train)
            trouble = self._step(self._batch(order, epoch, index))
            if self._state.step > step:  # else the loss is not finite, and no step was made
                found.append(self._state.window[-1])
            self._said.progress(step + 1, self.schedule.steps)
            if trouble is not None or watch(found[-1]):
                return np.array(found), True
        return np.array(found), False


def _guessing(loss: Loss, targets: Any) -> float:
    """The loss of a network that says the same of every image and every class."""
    total = float(loss.weights(targets).sum())
    return float(loss(torch.zeros(len(targets), loss.outputs), targets).sum()) / (total or 1.0)
