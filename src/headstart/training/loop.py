"""The training loop. It reads from top to bottom: an epoch is batches, steps, a validation, a checkpoint.

Everything random comes from (seed, epoch, step, image) and from no state that is carried along. So a training that was interrupted at any
step and resumed ends with the same weights, and one that is shared by several processes with the same but for rounding.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from headstart.errors import ParameterError
from headstart.training.checkpoint import Checkpoint, State, deferred_interrupt, from_checkpoint, to_checkpoint
from headstart.training.history import Epoch, History
from headstart.training.job import Rows, TrainingJob, Validation
from headstart.training.network import STATISTICS, make_optimizer, mapped, set_mode
from headstart.training.preparation import Trainable
from headstart.training.schedule import Phase, Schedule

VALIDATION_BATCH = 128
_EXPLODED = 5.0
"""Mean loss of ten steps, relative to that of guessing, at which a training is stopped."""
_WINDOW = 10


class Stopped(Exception):  # noqa: N818 (not an error: the training can be resumed)
    """Ctrl-C was pressed, and the state has been saved."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The rows of a batch that this process computes: input, and targets (N, ...); weight and number of images of the whole batch."""

    values: Any
    targets: Any
    weight: float
    rows: slice
    count: int


class Training:
    """One training, from its start or from a checkpoint to its end.

    `phases` are the stages that are trained from an epoch on, and `rates` the highest learning rates by stage, and of ``head``.
    """

    def __init__(
        self, job: TrainingJob, model: Trainable, *, phases: Sequence[Phase], rates: Mapping[str, float],
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> None:  # fmt: skip
        self.job, self.plan, self.task, self.model, self.network = job, job.plan, job.task, model, model.network
        self.schedule = Schedule.of(job.plan, len(job.train))
        self.validation = Validation()  # of the weights that are kept, after `run`
        self._stages = {stage.name: stage for stage in model.stages}
        self._phases, self._on_epoch = phases, on_epoch or (lambda epoch: None)
        self._optimizer = make_optimizer(model.network, model.stages, job.plan, rates)
        self._bf16 = job.plan.precision == "bf16" or (job.plan.precision == "auto" and model.device == "cuda")
        self._guessing = job.task.guessing(job.train)
        self._state = State()
        self._kept: dict[str, Any] | None = None
        self._recent: list[dict[str, Any]] = []
        self._interrupted = threading.Event()
        self._phase: Phase | None = None
        self._parallel: Any = model.network

    @property
    def losses(self) -> list[float]:
        """The mean losses of the last steps."""
        return self._state.window

    def _learned(self) -> dict[str, Any]:
        """All weights that the training changes, by name: parameters of the optimizer, and statistics of BatchNorm that is trained."""
        ours = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        found = {name: value for name, value in self.network.named_parameters() if id(value) in ours}
        trained = ("head.", "tail.") if self.plan.batchnorm == "train" else ("head.",)
        buffers = self.network.named_buffers()
        return found | {name: value for name, value in buffers if name.endswith(STATISTICS) and name.startswith(trained)}

    def _copied(self) -> dict[str, Any]:
        return {name: value.detach().clone() for name, value in self._learned().items()}

    def _put(self, weights: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, value in self._learned().items():
                value.copy_(weights[name])

    def run(self) -> History:
        """Train to the end; the network then has the weights that are kept, and `validation` is theirs.

        Raises Stopped at Ctrl-C, when the state is in the checkpoint, and ParameterError where it diverged before its first epoch was done.
        """
        job, state = self.job, self._state
        if job.resume and job.checkpoints is not None and (checkpoint := job.checkpoints.load()) is not None:
            self._restore(checkpoint)
            state = self._state
        elif job.select_best:  # the initial weights are the first candidate
            state.best_loss, self._kept, state.best = self.validate().criterion, self._copied(), 0
        while (epoch := len(state.history.epochs)) < self.schedule.epochs and not state.history.stopped:
            self.enter(epoch)
            self.prepare(epoch)  # may take long, and an interruption loses nothing
            with deferred_interrupt(self._interrupted):
                trouble = self._epoch(epoch)
                if trouble is None:
                    self._end_epoch(epoch)
            if trouble is not None:
                return self._give_up(trouble)
            if self._stopping() and not state.history.stopped:
                raise Stopped
        return self._finish()

    def prepare(self, epoch: int | None) -> None:
        """See `Inputs.prepare`. Raises Stopped at Ctrl-C."""
        try:
            self.model.inputs.prepare(epoch)
        except KeyboardInterrupt:  # nothing has been done since the last checkpoint
            raise Stopped from None

    def enter(self, epoch: int) -> None:
        """Let the stages of this epoch's phase learn, and no others."""
        phase = [phase for phase in self._phases if phase.epoch <= epoch][-1]
        if phase is self._phase:
            return
        self._phase = phase
        set_mode(self.network, [self._stages[name] for name in phase.stages], batchnorm=self.plan.batchnorm)
        self._parallel = self.job.processes.parallel(self.network, self.plan)
        if self.plan.compile:
            self._parallel = torch.compile(self._parallel)

    def _stopping(self) -> bool:
        """Whether any of the processes was interrupted: all of them stop at the same step, or they would wait for each other."""
        return self.job.processes.any(self._interrupted.is_set(), device=self.model.device)

    def _late(self, seconds: float = 0.0) -> bool:
        """Whether what takes so many seconds could not be done in time, in any of the processes."""
        if self.job.deadline is None:
            return False
        return self.job.processes.any(time.perf_counter() + seconds > self.job.deadline, device=self.model.device)

    def _epoch(self, epoch: int) -> str | None:
        """The steps of an epoch that are not done yet. Returns why the training cannot continue, or None."""
        number, self._began = epoch + 1, time.perf_counter()
        done, count = epoch * self.schedule.steps_per_epoch, self.schedule.steps_per_epoch
        steps = min(count, self.schedule.steps - done)
        self.job.listener.stage(f"Epoch {number} of {self.schedule.epochs}")
        order = self.order(epoch)
        with ThreadPoolExecutor(1, thread_name_prefix="headstart-batches") as pool:
            upcoming: Future[Batch] | None = None
            for index in range(self._state.step - done, steps):
                batch = (upcoming or pool.submit(self.batch, order, epoch, index)).result()
                upcoming = pool.submit(self.batch, order, epoch, index + 1) if index + 1 < steps else None
                trouble = self.step(batch)
                if trouble is not None:
                    return f"{trouble} at step {index + 1} of epoch {number}, at a learning rate of {self.plan.highest_lr:g}"
                self._tell(index + 1, steps)
                if self._late():
                    break
                if self._stopping() and upcoming is not None:  # after the last step the epoch is ended first
                    upcoming.result()
                    self._save()
                    raise Stopped
        return None

    def order(self, epoch: int) -> Rows:
        """The training rows, shuffled for the epoch."""
        shuffled: Rows = np.random.default_rng([self.job.seed, epoch]).permutation(self.job.train)
        return shuffled

    def batch(self, order: Rows, epoch: int, index: int) -> Batch:
        """The share of a batch that this process computes, mixed if the plan asks for it."""
        last = index + 1 == self.schedule.steps_per_epoch
        rows = order[index * self.plan.batch : None if last else (index + 1) * self.plan.batch]
        mine, inputs = self.job.processes.share(len(rows)), self.model.inputs
        values, targets = inputs.views(rows[mine], epoch), self.task.targets(rows, inputs.view(epoch))
        step = epoch * self.schedule.steps_per_epoch + index
        mixing = self.model.augmentation.mix(seed=self.job.seed, step=step, count=len(rows))
        if mixing is not None:
            values = inputs.mixed(values, inputs.views(rows[mixing.partners[mine]], epoch), mixing)
            targets = mixing.targets(targets, targets[torch.from_numpy(mixing.partners)])
        weight = float(self.task.loss.weights(targets).sum())
        return Batch(values, targets[mine].to(self.model.device), weight, mine, len(rows))

    def step(self, batch: Batch) -> str | None:
        """One step of the optimizer. Returns what went wrong, or None."""
        state, size, total = self._state, self.job.processes.size, batch.weight or 1.0  # a batch may have no weight
        share = self.schedule.share(state.step)
        self.network.head.draw(self.job.seed, state.step, batch.rows, batch.count, targets=batch.targets)
        for group in self._optimizer.param_groups:
            group["lr"] = share * group["highest"]
        with torch.autocast(self.model.device, torch.bfloat16, enabled=self._bf16):
            outputs, last_map = self._parallel(batch.values)
        each = self.task.loss(outputs, batch.targets)
        # Gradients of several processes are averaged, hence the factor; a penalty of the weights is the same in each of them.
        loss = each.sum() * (size / total)
        if self.model.penalty is not None:
            term = self.model.penalty(batch.values, last_map)
            loss = loss + (term.sum() * (size / batch.count) if term.ndim else term)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            scores = self.task.scores(self.task.predictions(mapped(outputs, torch.Tensor.detach)), batch.targets)
            sums = torch.tensor([float(each.sum()), float(scores.sum()), float(len(scores)), float(loss)], dtype=torch.float64)
        lost, right, seen, whole = self.job.processes.sum(sums.to(self.model.device)).tolist()
        norm = torch.nn.utils.clip_grad_norm_(
            [p for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None], self.plan.clip or math.inf
        )
        if not (math.isfinite(whole) and math.isfinite(float(norm))):
            return "The loss became NaN or infinite"
        self._optimizer.step()
        state.step += 1
        state.loss += lost
        state.weight += batch.weight
        state.right += right
        state.seen += int(seen)
        state.window = [*state.window[1 - _WINDOW :], lost / total]
        mean = sum(state.window) / _WINDOW
        if len(state.window) == _WINDOW and mean > _EXPLODED * self._guessing + 1:
            return f"The loss rose to {mean:.3g} (guessing: {self._guessing:.3g})"
        return None

    def _end_epoch(self, epoch: int) -> None:
        """Validate, keep the best weights, write the history and the checkpoint."""
        state, found = self._state, self.validate()
        done = Epoch(
            number=epoch + 1, loss=state.loss / (state.weight or 1.0), score=state.right / max(state.seen, 1), val_loss=found.loss,
            val_score=found.score, lr=max(group["lr"] for group in self._optimizer.param_groups),
            seconds=state.seconds + time.perf_counter() - self._began, trained=self._phase.stages if self._phase else (),
        )  # fmt: skip
        better = self.job.select_best and found.criterion < state.best_loss
        if better:
            state.best_loss, state.best, state.waited = found.criterion, done.number, 0
        else:
            state.waited += 1
        if better or not self.job.select_best:  # without selection, to go back to if the training diverges
            self._kept = self._copied()
        if self.plan.average:
            self._recent = [*self._recent, self._copied()][-self.plan.average :]
        stopped = ""
        if self.plan.early_stop is not None and self.job.select_best and state.waited >= self.plan.early_stop:
            stopped = f"The validation loss had not fallen for {state.waited} epochs."
        elif self._late(0.0 if done.number == self.schedule.epochs else done.seconds):
            stopped = f"The time was up in epoch {done.number} of {self.schedule.epochs}."
        elif done.number == self.schedule.epochs:
            stopped = "All epochs were done."
        state.history = History((*state.history.epochs, done), state.best or None, stopped, score=self.task.score)
        state.loss = state.weight = state.right = state.seconds = 0.0
        state.seen = 0
        self._save(ended=True)
        self.job.listener.say(epoch_line(done, self.schedule.epochs, score=self.task.score, best=state.best == done.number))
        self._on_epoch(done)

    def _finish(self) -> History:
        """Put the weights that are kept into the network."""
        if self.plan.average or self.plan.keep == "last":  # no single epoch was selected
            self._state.history = replace(self._state.history, best=None)
        if self.plan.average and self._recent:
            self._put({name: sum(weights[name] for weights in self._recent) / len(self._recent) for name in self._recent[0]})
        elif self.plan.keep == "best" and self._kept is not None:
            self._put(self._kept)
        return self._validated()

    def _give_up(self, trouble: str) -> History:
        """Go back to the last good weights, and say which learning rate to try."""
        advice = f"Try a lower one: --lr {self.plan.highest_lr / 10:g}"
        if self._kept is None:
            raise ParameterError(f"{trouble}, before the first epoch was done. {advice}.")
        number = self._state.best if self.job.select_best else len(self._state.history.epochs)
        self.job.listener.warn(f"{trouble}. The {f'weights of epoch {number}' if number else 'initial weights'} are kept. {advice}.")
        self._put(self._kept)
        self._state.history = replace(self._state.history, stopped=f"{trouble}. {advice}.")
        return self._validated()

    def _validated(self) -> History:
        self.validation = self.validate()
        self.network.eval()
        return self._state.history

    def validate(self) -> Validation:
        """Score the validation images, divided among the processes."""
        rows, device = self.job.validation, self.model.device
        if not len(rows):
            return Validation()
        self.prepare(None)
        predictions = torch.zeros(len(rows), *self.task.shape)
        places = np.arange(len(rows))[self.job.processes.share(len(rows))]
        with in_evaluation_mode(self.network), torch.autocast(device, torch.bfloat16, enabled=self._bf16):
            for start in range(0, len(places), VALIDATION_BATCH):
                chunk = places[start : start + VALIDATION_BATCH]
                outputs, _ = self.network(self.model.inputs.plain(rows[chunk]))
                predictions[torch.from_numpy(chunk)] = self.task.predictions(outputs).float().cpu()
        return self.task.validate(self.job.processes.sum(predictions.to(device)).cpu(), self.task.targets(rows))

    def _save(self, *, ended: bool = False) -> None:
        """Write the checkpoint, in the first process."""
        state = self._state
        if not ended:
            state.seconds += time.perf_counter() - self._began
        if self.job.checkpoints is not None and self.job.processes.is_first:
            recent = {f"recent{place}": weights for place, weights in enumerate(self._recent)}
            weights = {"weights": self._learned(), "kept": self._kept or {}, **recent}
            self.job.checkpoints.save(to_checkpoint(state, weights, self._optimizer))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._state, weights = from_checkpoint(checkpoint, self._optimizer, device=self.model.device)
        self._put(weights.pop("weights"))
        self._kept = weights.pop("kept", None)
        self._recent = [weights[f"recent{place}"] for place in range(len(weights))]
        self.job.listener.say(f"Resuming after step {self._state.step} of {self.schedule.steps}.")

    def _tell(self, done: int, steps: int) -> None:
        state = self._state
        self.job.listener.progress(done, steps)
        score = f"{self.task.score} {state.right / max(state.seen, 1):.1%}"
        self.job.listener.detail(f"loss {state.loss / (state.weight or 1.0):.4f}, {score}")


@contextmanager
def in_evaluation_mode(network: Any) -> Iterator[None]:
    """The network in evaluation mode and without gradients; afterwards each module is in its previous mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def epoch_line(epoch: Epoch, count: int, *, score: str, best: bool) -> str:
    """What is told of an epoch out of `count`."""
    found = [] if epoch.val_loss is None else [f"loss {epoch.val_loss:.4f}"]
    found += [] if epoch.val_score is None else [f"{score} {epoch.val_score:.1%}"]
    validation = f"; validation: {', '.join(found)}" if found else ""
    return (
        f"epoch {epoch.number:>{len(str(count))}}/{count}: loss {epoch.loss:.4f}, {score} {epoch.score:.1%}{validation}"
        f"{' (best)' if best else ''}, {epoch.seconds:.1f} s"
    )
