"""Fine-tunes a network from text to text on pairs: an epoch is batches of similar length, steps, a validation, a checkpoint.

As in `headstart.training.loop`, everything random comes from (seed, epoch, step), so that a training that was interrupted and resumed ends
with the same weights.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from headstart.backbones.seq2seq import Seq2Seq
from headstart.errors import ParameterError
from headstart.progress import Listener
from headstart.settings import FineTuning
from headstart.training.checkpoint import Checkpoint, State, deferred_interrupt, from_checkpoint, to_checkpoint
from headstart.training.history import Epoch, History
from headstart.training.job import Resumable, Validation
from headstart.training.loop import Stopped, epoch_line, in_evaluation_mode
from headstart.training.memory import reuse_memory
from headstart.training.pairs import IGNORED, PairBatch, Pairs
from headstart.training.schedule import Schedule

SCORE = "piece accuracy"
"""The share of the pieces of a translation that are predicted from those before them."""
PAIRS = 32
"""In a batch, by default: of texts of `PIECES`."""
PIECES = 32
LR, LR_FROM_NOTHING = 5e-5, 2e-3
EPOCHS, EPOCHS_FROM_NOTHING = 5, 30
STEPS, STEPS_FROM_NOTHING = 600, 3000
"""The fewest steps by default, which small data reach in more epochs."""
PATIENCE = 3
_SMOOTHING = 0.1
_WINDOW = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class PairsJob(Resumable):
    """What is to be learned: pairs, those that the best epoch is chosen by (none for the last), and how.

    `fresh` is a network that knows nothing yet. `deadline` is the moment, as `time.perf_counter` has it, after which no step is begun.
    """

    plan: FineTuning
    train: Pairs
    validation: Pairs | None = None
    fresh: bool = False
    deadline: float | None = None
    seed: int = 0
    listener: Listener = field(default_factory=Listener)


class PairsTraining:
    """A training of all weights of a network, which has those of the best epoch in the end."""

    def __init__(self, network: Seq2Seq, job: PairsJob) -> None:
        plan, self.job, self.model = job.plan, job, network.model
        self.device = device_of(plan)
        self._bf16 = self.device == "cuda" and plan.precision != "fp32"
        if plan.precision == "bf16" and self.device != "cuda":
            raise ParameterError("precision 'bf16' needs a GPU for this task: leave it out, or choose 'auto'.")
        self._pieces = PIECES * (plan.batch_size or PAIRS)
        self._smoothing = _SMOOTHING if plan.label_smoothing is None else plan.label_smoothing
        self.highest_lr = plan.lr or (LR_FROM_NOTHING if job.fresh else LR)
        each = len(job.train.batches(self._pieces, seed=job.seed, epoch=0))
        least = math.ceil((STEPS_FROM_NOTHING if job.fresh else STEPS) / each)
        epochs = plan.epochs or max(least, EPOCHS_FROM_NOTHING if job.fresh else EPOCHS)
        steps = plan.steps or epochs * each
        self.schedule = Schedule(steps, each, round(plan.warmup * steps), cosine=False, linear=plan.schedule != "constant")
        self.model.to(self.device)
        self._optimizer = torch.optim.AdamW(_groups(self.model, plan.weight_decay), lr=self.highest_lr, betas=(0.9, 0.98), eps=1e-8)
        self._state, self._interrupted = State(), threading.Event()
        self._kept: dict[str, Any] | None = None

    def run(self) -> History:
        """Train to the end. Stopped at Ctrl-C, when the state is in the checkpoint; ParameterError where the training diverged."""
        job, devices = self.job, [torch.cuda.current_device()] if self.device == "cuda" else []
        reuse_memory()
        with torch.random.fork_rng(devices=devices):
            if job.resume and job.checkpoints is not None and (checkpoint := job.checkpoints.load()) is not None:
                self._restore(checkpoint)
            elif job.validation and not job.fresh:  # the initial weights are the first candidate
                self._state.best_loss, self._kept, self._state.best = self.validate().criterion, self._copied(), 0
            while (epoch := len(self._state.history.epochs)) < self.schedule.epochs and not self._state.history.stopped:
                with deferred_interrupt(self._interrupted):
                    self._epoch(epoch)
                    self._end_epoch(epoch)
                if self._interrupted.is_set() and not self._state.history.stopped:
                    raise Stopped
        if self._kept is not None and job.plan.keep == "best":
            self._put(self._kept)
        self.model.eval().cpu()
        return self._state.history

    def _epoch(self, epoch: int) -> None:
        state, each = self._state, self.schedule.steps_per_epoch
        self._began, done = time.perf_counter(), epoch * each
        steps = min(each, self.schedule.steps - done)
        self.job.listener.stage(f"Epoch {epoch + 1} of {self.schedule.epochs}")
        order = self.job.train.batches(self._pieces, seed=self.job.seed, epoch=epoch)
        self.model.train()
        for index in range(state.step - done, steps):
            self._step(self.job.train.batch(order[index], self.device))
            self.job.listener.progress(index + 1, steps)
            self.job.listener.detail(f"loss {state.loss / state.weight:.4f}, {SCORE} {state.right / state.weight:.1%}")
            if self._late():
                break
            if self._interrupted.is_set() and index + 1 < steps:
                state.seconds += time.perf_counter() - self._began
                self._save()
                raise Stopped

    def _step(self, batch: PairBatch) -> None:
        state, count = self._state, batch.count
        torch.manual_seed(int(np.random.default_rng([self.job.seed, 1, state.step]).integers(2**62)))  # of dropout
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.share(state.step) * self.highest_lr
        logits = self._logits(batch)
        loss = _summed_loss(logits, batch.targets, self._smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        (loss / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.job.plan.clip or math.inf)
        lost = float(loss.detach())
        if not (math.isfinite(lost) and math.isfinite(float(norm))):
            raise ParameterError(
                f"The loss became NaN or infinite at step {state.step + 1}, at a learning rate of {self.highest_lr:g}. "
                f"Try a lower one: --lr {self.highest_lr / 10:g}."
            )
        self._optimizer.step()
        state.step += 1
        state.loss += lost
        state.weight += count
        state.right += float((logits.detach().argmax(-1) == batch.targets).sum())
        state.window = [*state.window[1 - _WINDOW :], lost / count]

    def _logits(self, batch: PairBatch) -> Any:
        """What follows each beginning of a target, float32 (N, T, pieces)."""
        begin = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)  # M2M100 has none, and does it with its own loss
        begun = {"labels": batch.targets} if begin is None else {"decoder_input_ids": begin(labels=batch.targets)}
        with torch.autocast(self.device, torch.bfloat16, enabled=self._bf16):
            found = self.model(input_ids=batch.sources, attention_mask=batch.mask, use_cache=False, **begun)
        return found.logits.float()

    def validate(self) -> Validation:
        """Loss and score of a piece of the validation pairs, without label smoothing."""
        pairs, lost, right, count = self.job.validation, 0.0, 0.0, 0
        if not pairs:
            return Validation()
        with in_evaluation_mode(self.model):
            for rows in pairs.batches(4 * self._pieces, seed=0, epoch=0):
                batch = pairs.batch(rows, self.device)
                logits = self._logits(batch)
                lost += float(_summed_loss(logits, batch.targets, 0.0))
                right += float((logits.argmax(-1) == batch.targets).sum())
                count += batch.count
        return Validation(lost / count, right / count, lost / count)

    def _end_epoch(self, epoch: int) -> None:
        state, found = self._state, self.validate()
        done = Epoch(
            number=epoch + 1, loss=state.loss / (state.weight or 1.0), score=state.right / (state.weight or 1.0), val_loss=found.loss,
            val_score=found.score, lr=max(group["lr"] for group in self._optimizer.param_groups),
            seconds=state.seconds + time.perf_counter() - self._began, trained=("encoder", "decoder"),
        )  # fmt: skip
        better, patience = found.criterion < state.best_loss, self.job.plan.early_stop or PATIENCE * (3 if self.job.fresh else 1)
        if better:
            state.best_loss, state.best, state.waited, self._kept = found.criterion, done.number, 0, self._copied()
        else:
            state.waited += 1
        stopped = ""
        if self.job.validation and self.job.plan.keep == "best" and state.waited >= patience:
            stopped = f"The validation loss had not fallen for {state.waited} epochs."
        elif self._late(0.0 if done.number == self.schedule.epochs else done.seconds):
            stopped = f"The time was up in epoch {done.number} of {self.schedule.epochs}."
        elif done.number == self.schedule.epochs:
            stopped = "All epochs were done."
        best = (state.best or None) if self.job.plan.keep == "best" else None
        state.history = History((*state.history.epochs, done), best, stopped, score=SCORE)
        state.loss = state.weight = state.right = state.seconds = 0.0
        self._save()
        self.job.listener.say(epoch_line(done, self.schedule.epochs, score=SCORE, best=state.best == done.number))

    def _late(self, seconds: float = 0.0) -> bool:
        return self.job.deadline is not None and time.perf_counter() + seconds > self.job.deadline

    def _copied(self) -> dict[str, Any]:
        return {name: value.detach().cpu().clone() for name, value in self.model.named_parameters()}

    def _put(self, weights: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(weights[name])

    def _save(self) -> None:
        if self.job.checkpoints is not None:
            self.job.checkpoints.save(to_checkpoint(self._state, {"weights": self._copied(), "kept": self._kept or {}}, self._optimizer))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._state, weights = from_checkpoint(checkpoint, self._optimizer, device=self.device)
        self._put(weights["weights"])
        self._kept = {name: value.cpu() for name, value in weights["kept"].items()} if weights.get("kept") else None
        self.job.listener.say(f"Resuming after step {self._state.step} of {self.schedule.steps}.")


def trained(network: Seq2Seq, job: PairsJob) -> History:
    """Train a network in place, from its weights or from a checkpoint; see `PairsTraining.run`."""
    training = PairsTraining(network, job)
    found = training.run()
    return found if job.validation else replace(found, best=None)


def device_of(plan: FineTuning) -> str:
    """``cuda`` or ``cpu``. ParameterError for a GPU that is not there."""
    there = torch.cuda.is_available()
    if plan.device == "cuda" and not there:
        raise ParameterError("device is 'cuda', but PyTorch finds no GPU here: choose 'cpu' or 'auto'.")
    return "cuda" if there and plan.device != "cpu" else "cpu"


def _groups(model: Any, decay: float) -> list[dict[str, Any]]:
    """Parameters for the optimizer: biases and factors of normalisation do not decay."""
    learned = [value for value in model.parameters() if value.requires_grad]
    flat, full = ([value for value in learned if (value.ndim < 2) is is_flat] for is_flat in (True, False))
    return [{"params": full, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]


def _summed_loss(logits: Any, targets: Any, smoothing: float) -> Any:
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
    )
