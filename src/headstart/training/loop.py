"""The training loop. It reads from top to bottom: an epoch is batches, a step, a look at the validation images, a checkpoint.

Everything random comes from (seed, epoch, step, image) and from no state that is carried along, so a training that was interrupted at any
step goes on to the very weights that it would have reached, and so does one that is shared by several processes, but for rounding.
"""

from __future__ import annotations

import inspect
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from headstart.backbones.stages import Stage
from headstart.errors import ParameterError
from headstart.metrics.link import Link
from headstart.modalities.image.augment import Augmentation
from headstart.progress import Listener
from headstart.settings import FineTuning
from headstart.training.checkpoint import Checkpoint, CheckpointFolder
from headstart.training.freezing import Phase
from headstart.training.history import Epoch, History
from headstart.training.inputs import Inputs, Rows
from headstart.training.interrupts import interrupts_noted
from headstart.training.looking import Look, in_testing, right
from headstart.training.losses import Loss
from headstart.training.network import STATISTICS, Network, make_optimizer, set_mode
from headstart.training.schedule import Schedule
from headstart.training.shared_norm import share_batchnorm
from headstart.training.state import State, packed, unpacked
from headstart.training.team import Team

VALIDATION_BATCH = 128
_EXPLODED = 5.0
"""Mean loss of ten steps, over that of chance, at which a training is stopped."""
_WINDOW = 10

Penalty = Callable[[Any, Any], Any]
"""A further term of the loss, from the input of the network and its last feature map: of each image (N,), or a scalar of the weights."""


class Stopped(Exception):  # noqa: N818 (it is no error: the training goes on another time)
    """Ctrl-C was pressed, and the state has been kept."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What is learned from which images.

    Attributes:
        targets: float32 (n, k) of all images: one-hot, or multi-hot.
        train: rows that are learned from.
        watched: rows that are looked at after each epoch; may be empty.
        chooses: whether the best epoch is chosen on the watched rows.
        link: `SOFTMAX` for one label an image, `SIGMOID` for any number of labels.
    """

    targets: npt.NDArray[np.float32]
    train: Rows
    watched: Rows
    chooses: bool
    link: Link


@dataclass(frozen=True, eq=False)
class _Batch:
    """The rows of a batch that are this process's: the network's input, targets (N, k); the weight and number of images of all rows."""

    values: Any
    targets: Any
    weight: float
    rows: slice
    count: int


class Training:
    """One training, from its start or from a checkpoint to its end.

    Args:
        network: whose weights are changed.
        inputs: feeds it.
        problem: what is learned.
        plan: how.
        stages: of the backbone; those of them that `phases` name are trained.
        phases: which stages are trained from which epoch on.
        rates: highest learning rate by stage, and of ``head``.
        loss: see `make_loss`.
        augmentation: for mixing images; views are the inputs' business.
        seed: of everything random.
        team: who shares the work.
        device: ``cpu`` or ``cuda``.
        penalty: a further term of the loss.
        checkpoints: where the state is kept after each epoch; None keeps it nowhere.
        listener: is told.
        on_epoch: called with each finished epoch.
    """

    def __init__(
        self, network: Network, inputs: Inputs, problem: Problem, plan: FineTuning, *, stages: Sequence[Stage], phases: Sequence[Phase],
        rates: Mapping[str, float], loss: Loss, augmentation: Augmentation, seed: int, team: Team, device: str,
        penalty: Penalty | None = None, checkpoints: CheckpointFolder | None = None, listener: Listener | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> None:  # fmt: skip
        self.network, self.inputs, self.problem, self.plan = network, inputs, problem, plan
        self.loss, self.augmentation, self.seed, self.team, self.device = loss, augmentation, seed, team, device
        self.schedule = Schedule.of(plan, len(problem.train))
        self._stages = {stage.name: stage for stage in stages}
        self._phases, self._penalty, self._checkpoints = phases, penalty, checkpoints
        self._listener, self._on_epoch = listener or Listener(), on_epoch or (lambda epoch: None)
        self._optimizer = make_optimizer(network, stages, plan, rates)
        self._bf16 = plan.precision == "bf16" or (plan.precision == "auto" and device == "cuda")
        self._targets = torch.from_numpy(problem.targets)
        self._state = State()
        self._kept: dict[str, Any] | None = None
        self._recent: list[dict[str, Any]] = []
        self._interrupted = threading.Event()
        self._phase: Phase | None = None
        self._parallel: Any = network
        self.watched_logits: npt.NDArray[np.float32] | None = None

    # What is learned -----------------------------------------------------------------------------------------------------------------

    def _learned(self) -> dict[str, Any]:
        """All weights that the training changes, by name: parameters of the optimizer, and statistics of BatchNorm that is trained."""
        ours = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        found = {name: value for name, value in self.network.named_parameters() if id(value) in ours}
        if self.plan.batchnorm == "train" and self.network.tail is not None:
            found |= {name: value for name, value in self.network.named_buffers() if name.endswith(STATISTICS)}
        return found

    def _copied(self) -> dict[str, Any]:
        return {name: value.detach().clone() for name, value in self._learned().items()}

    def _put(self, weights: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, value in self._learned().items():
                value.copy_(weights[name])

    # The training --------------------------------------------------------------------------------------------------------------------

    def run(self, *, resume: bool = False) -> History:
        """Train to the end; the network then has the weights that are kept, and `watched_logits` what it says of the watched images.

        Raises:
            Stopped: Ctrl-C; the state is in the checkpoint.
            RunError: the checkpoint cannot be written.
        """
        if resume and self._checkpoints is not None and (checkpoint := self._checkpoints.load()) is not None:
            self._restore(checkpoint)
        elif self.problem.chooses:  # the head that it starts from is the first candidate
            self._state.best_loss, self._kept = self._look().chosen_by, self._copied()
            self._state.best = 0
        while (epoch := len(self._state.history.epochs)) < self.schedule.epochs and not self._state.history.stopped:
            self._enter(epoch)
            self._prepare(epoch)  # may take long, and an interruption loses nothing that counts
            with interrupts_noted(self._interrupted):
                trouble = self._epoch(epoch)
                if trouble is None:
                    self._after(epoch)
            if trouble is not None:
                return self._give_up(trouble)
            if self._stopping() and not self._state.history.stopped:
                raise Stopped
        return self._finish()

    def _prepare(self, epoch: int | None) -> None:
        try:
            self.inputs.prepare(epoch)
        except KeyboardInterrupt:  # nothing has been done since the last checkpoint
            raise Stopped from None

    def _stopping(self) -> bool:
        """Whether any of the processes was interrupted: all of them stop at the same step, or they would wait for each other."""
        return self.team.any(self._interrupted.is_set(), device=self.device)

    def _give_up(self, trouble: str) -> History:
        """Go back to the last good weights, and say which learning rate to try."""
        advice = f"Try a lower one: --lr {self.plan.highest_lr / 10:g}"
        if self._kept is None:
            raise ParameterError(f"{trouble}, before the first epoch was done. {advice}.")
        number = self._state.best if self.problem.chooses else len(self._state.history.epochs)
        self._listener.warn(f"{trouble}. The weights of {f'epoch {number}' if number else 'the beginning'} are kept. {advice}.")
        self._put(self._kept)
        self._state.history = replace(self._state.history, stopped=f"{trouble}. {advice}.")
        return self._seen()

    def _enter(self, epoch: int) -> None:
        """Let the stages of this epoch's phase learn, and those only."""
        phase = [phase for phase in self._phases if phase.epoch <= epoch][-1]
        if phase is self._phase:
            return
        self._phase = phase
        set_mode(self.network, [self._stages[name] for name in phase.stages], batchnorm=self.plan.batchnorm)
        self._parallel = self.network
        if self.team.size > 1:
            from torch.nn.parallel import DistributedDataParallel

            share_batchnorm(self.network, self.team)
            # Statistics are the same in all processes: nothing is to be sent. The option has a new name in newer versions of PyTorch.
            known = inspect.signature(DistributedDataParallel.__init__).parameters
            options = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
            if self.plan.pooling == "flatten":  # what comes after the last feature map does not run then
                options["find_unused_parameters"] = True
            self._parallel = DistributedDataParallel(self.network, **options)
        if self.plan.compile:
            self._parallel = torch.compile(self._parallel)

    def _epoch(self, epoch: int) -> str | None:
        """The steps of an epoch that are not done yet. Returns why the training cannot go on, or None."""
        state = self._state
        number, self._begun = epoch + 1, time.perf_counter()
        steps = min(self.schedule.steps_per_epoch, self.schedule.steps - epoch * self.schedule.steps_per_epoch)
        self._listener.stage(f"Epoch {number} of {self.schedule.epochs}")
        order = np.random.default_rng([self.seed, epoch]).permutation(self.problem.train)
        with self._ahead() as pool:
            upcoming: Future[Any] | None = None
            for index in range(state.step - epoch * self.schedule.steps_per_epoch, steps):
                if upcoming is None:
                    upcoming = pool.submit(self._batch, order, epoch, index)
                batch = upcoming.result()
                upcoming = pool.submit(self._batch, order, epoch, index + 1) if index + 1 < steps else None
                trouble = self._step(batch)
                if trouble is not None:
                    return f"{trouble} at step {index + 1} of epoch {number}, at a learning rate of {self.plan.highest_lr:g}"
                self._tell(index + 1, steps)
                if self._stopping() and upcoming is not None:  # after the last step the epoch is ended first
                    upcoming.result()
                    self._keep()
                    raise Stopped
        return None

    def _batch(self, order: Rows, epoch: int, index: int) -> _Batch:
        """The share of a batch that is this process's, mixed where that is asked for."""
        rows = order[index * self.plan.batch_size : (index + 1) * self.plan.batch_size]
        mine = self.team.share(len(rows))
        step = epoch * self.schedule.steps_per_epoch + index
        values, targets = self.inputs.views(rows[mine], epoch), self._targets[rows]
        mixing = self.augmentation.mix(seed=self.seed, step=step, count=len(rows))
        if mixing is not None:
            values = self.inputs.mixed(values, self.inputs.views(rows[mixing.partners[mine]], epoch), mixing)
            targets = mixing.targets(targets, targets[torch.from_numpy(mixing.partners)])
        total = float(self.loss.weights(targets).sum())
        return _Batch(values, targets[mine].to(self.device), total, mine, len(rows))

    def _step(self, batch: _Batch) -> str | None:
        """One step of the optimizer. Returns what went wrong, or None."""
        values, targets, total = batch.values, batch.targets, batch.weight
        share = self.schedule.share(self._state.step)
        self.network.head.draw(self.seed, self._state.step, batch.rows, batch.count)
        for group in self._optimizer.param_groups:
            group["lr"] = share * group["highest"]
        with torch.autocast(self.device, torch.bfloat16, enabled=self._bf16):
            logits, last_map = self._parallel(values)
        each = self.loss(logits, targets)
        # Gradients of several processes are averaged, hence the factor; a penalty of the weights is the same in each of them.
        loss = each.sum() * (self.team.size / (total or 1.0))  # a batch of classes without weight has none
        if self._penalty is not None:
            term = self._penalty(values, last_map)
            loss = loss + (term.sum() * (self.team.size / batch.count) if term.ndim else term)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            hits = right(self.loss.class_logits(logits.detach()), targets, link=self.problem.link)
            sums = torch.tensor([float(each.sum()), float(hits.sum()), float(len(targets)), float(loss)], dtype=torch.float64)
        lost, right_count, seen, whole = self.team.add_up(sums.to(self.device)).tolist()
        norm = torch.nn.utils.clip_grad_norm_(
            [p for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None], self.plan.clip or math.inf
        )
        if not (math.isfinite(whole) and math.isfinite(float(norm))):
            return "The loss became NaN or infinite"
        self._optimizer.step()
        state = self._state
        state.step += 1
        state.loss, state.weight, state.right, state.seen = (
            state.loss + lost,
            state.weight + total,
            state.right + right_count,
            state.seen + int(seen),
        )
        return self._explosion(lost / (total or 1.0))

    def _explosion(self, loss: float) -> str | None:
        window = self._state.window = [*self._state.window[1 - _WINDOW :], loss]
        chance = math.log(max(2, self.problem.link.outcomes(self.problem.targets.shape[1])))
        if len(window) == _WINDOW and sum(window) / _WINDOW > _EXPLODED * chance + 1:
            return f"The loss rose to {sum(window) / _WINDOW:.3g}, where guessing has {chance:.3g},"
        return None

    def _after(self, epoch: int) -> None:
        """Look at the watched images, remember the best weights, write everything down."""
        state, look = self._state, self._look()
        done = Epoch(
            number=epoch + 1, loss=state.loss / (state.weight or 1.0), accuracy=state.right / max(state.seen, 1), val_loss=look.loss,
            val_accuracy=look.accuracy, lr=max(group["lr"] for group in self._optimizer.param_groups),
            seconds=state.seconds + time.perf_counter() - self._begun, trained=self._phase.stages if self._phase else (),
        )  # fmt: skip
        if self.problem.chooses and look.chosen_by < state.best_loss:
            state.best_loss, state.best, state.waited = look.chosen_by, done.number, 0
            self._kept = self._copied()
        else:
            state.waited += 1
            if not self.problem.chooses:
                self._kept = self._copied()  # to go back to, should the training diverge
        if self.plan.average:
            self._recent = [*self._recent, self._copied()][-self.plan.average :]
        best = state.best or None
        stopped = ""
        if self.plan.early_stop is not None and self.problem.chooses and state.waited >= self.plan.early_stop:
            stopped = f"The validation loss had not fallen for {state.waited} epochs."
        elif state.step >= self.schedule.steps:
            stopped = "All epochs were done."
        state.history = History((*state.history.epochs, done), best, stopped)
        state.loss = state.weight = state.right = state.seconds = 0.0
        state.seen = 0
        self._keep(ended=True)
        self._listener.say(_line(done, self.schedule.epochs, best=state.best == done.number))
        self._on_epoch(done)

    def _finish(self) -> History:
        """Put the weights that are kept into the network."""
        if self.plan.average or self.plan.keep == "last":  # no single epoch was chosen
            self._state.history = replace(self._state.history, best=None)
        if self.plan.average and self._recent:
            self._put({name: sum(weights[name] for weights in self._recent) / len(self._recent) for name in self._recent[0]})
        elif self.plan.keep == "best" and self._kept is not None:
            self._put(self._kept)
        return self._seen()

    def _seen(self) -> History:
        self.watched_logits = self._look().logits
        self.network.eval()
        return self._state.history

    # Looking -------------------------------------------------------------------------------------------------------------------------

    def _look(self) -> Look:
        """What the network says of the watched images, shared by the processes."""
        rows, count = self.problem.watched, self.problem.targets.shape[1]
        if not len(rows):
            return Look(None, None, math.inf, None)
        self._prepare(None)
        logits = torch.zeros(len(rows), count)
        places = np.arange(len(rows))[self.team.share(len(rows))]
        with in_testing(self.network), torch.autocast(self.device, torch.bfloat16, enabled=self._bf16):
            for start in range(0, len(places), VALIDATION_BATCH):
                chunk = places[start : start + VALIDATION_BATCH]
                found, _ = self.network(self.inputs.plain(rows[chunk]))
                logits[torch.from_numpy(chunk)] = self.loss.class_logits(found).float().cpu()
        return Look.of(self.team.add_up(logits.to(self.device)).cpu(), self._targets[rows], self.loss)

    # Keeping -------------------------------------------------------------------------------------------------------------------------

    def _keep(self, *, ended: bool = False) -> None:
        """Write the checkpoint, in the process that leads."""
        state = self._state
        if not ended:
            state.seconds += time.perf_counter() - self._begun
        if self._checkpoints is not None and self.team.leads:
            recent = {f"recent{place}": weights for place, weights in enumerate(self._recent)}
            weights = {"weights": self._learned(), "kept": self._kept or {}, **recent}
            self._checkpoints.save(packed(state, weights, self._optimizer))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._state, weights = unpacked(checkpoint, self._optimizer, device=self.device)
        self._put(weights.pop("weights"))
        self._kept = weights.pop("kept", None)
        self._recent = [weights[f"recent{place}"] for place in range(len(weights))]
        self._listener.say(f"Going on after step {self._state.step} of {self.schedule.steps}.")

    # Around --------------------------------------------------------------------------------------------------------------------------

    def _tell(self, done: int, steps: int) -> None:
        state = self._state
        self._listener.progress(done, steps)
        self._listener.detail(f"loss {state.loss / (state.weight or 1.0):.4f}, accuracy {state.right / max(state.seen, 1):.1%}")

    @contextmanager
    def _ahead(self) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="headstart-batches")
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _line(epoch: Epoch, count: int, *, best: bool) -> str:
    watched = "" if epoch.val_loss is None else f"; validation: loss {epoch.val_loss:.4f}, accuracy {epoch.val_accuracy:.1%}"
    return (
        f"epoch {epoch.number:>{len(str(count))}}/{count}: loss {epoch.loss:.4f}, accuracy {epoch.accuracy:.1%}{watched}"
        f"{' (best)' if best else ''}, {epoch.seconds:.1f} s"
    )
