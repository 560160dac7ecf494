"""Searching for a learning rate: a short training in which it rises (PyTorch, imported late), and what its losses suggest (NumPy)."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headstart.errors import Interrupted, ParameterError
from headstart.settings import DEFAULT_LR
from headstart.training.schedule import Phase, Schedule, rates

if TYPE_CHECKING:
    from headstart.training.job import Pretrained, TrainingJob
    from headstart.training.loop import Training

Numbers = npt.NDArray[np.float64]

DIVERGED = 4.0
"""A smoothed loss above this multiple of its lowest value, and above that of guessing, ends the search."""
LEAST_STEPS = 20
_MEMORY = 0.9  # decay of the running mean; the curve itself is smoothed afterwards, from both sides
_WIDTH = 0.03  # standard deviation of the smoothing weights, as a share of all steps
_BEGINNING = 0.1  # share of the steps whose mean is the loss before anything is learned
_NOISE = 4.0  # standard errors; the lowest of some ten independent places is often two below the mean
_NOTABLE = 0.05  # share of the loss of guessing that a fall must exceed, however near to 0 it goes
_BEGUN = 0.25  # share of the fall below which a steep slope may be noise
_CAREFUL = 10.0


@dataclass(frozen=True, eq=False, kw_only=True)
class LearningRates:
    """A search for a learning rate (Smith 2017, section 3.3): a short training in which the rate rises from step to step (n steps)."""

    lrs: Numbers  # (n,): the head's rate at each step; lower stages learn more slowly, see `layer_decay`
    losses: Numbers  # (n,): of each step's batch, before the step
    smoothed: Numbers  # (n,): the same without most of the noise
    diverged: bool  # whether the search ended because the loss rose too high
    suggested: float  # a rate to train with
    reason: str  # sentences on how it was found

    @classmethod
    def of(cls, lrs: Numbers, losses: Numbers, *, guessing: float, default: float, diverged: bool) -> LearningRates:
        """Apply the rules to a curve: the losses (n,) of the first n of the rates.

        Where the loss falls by more than its noise, and by more than a twentieth of the loss of guessing, two rules are applied and the
        lower rate is taken: the rate at which the smoothed loss falls most steeply, and a tenth of the rate at which it is lowest. Where it
        does not fall (the head is already good, or nothing can be learned) the curve only shows which rates are too high: `default` is
        taken, or a tenth of the rate from which the loss rises, if that is lower. Losses far above that of guessing are clipped, or they
        would blur the curve.

        Raises ParameterError where the loss rose so early that nothing follows from it.
        """
        if len(losses) < LEAST_STEPS // 2:
            raise ParameterError(
                f"The loss rose from the first steps on, at a learning rate of {lr_text(lrs[0])}. Start lower: "
                f"--low {lr_text(lrs[0] / 1000)}"
            )
        lrs, within = lrs[: len(losses)], np.minimum(losses, DIVERGED * guessing)
        smoothed = smooth(within)
        first = max(3, round(_BEGINNING * len(losses)))
        start, lowest = float(within[:first].mean()), int(smoothed.argmin())
        doubt = _doubt(within, smoothed, lowest, first)
        margin = max(doubt, _NOTABLE * guessing)
        if start - smoothed[lowest] > margin:
            suggested, reason = _by_the_fall(lrs, smoothed, start, lowest)
        else:
            suggested, reason = _without_a_fall(lrs, smoothed, start + margin, default)
            good = ": the head is already good" if start < guessing / 2 else ""
            reason = f"The loss starts at {start:.2g} (guessing: {guessing:.2g}) and does not clearly fall{good}. {reason}"
        return cls(lrs=lrs, losses=losses, smoothed=smoothed, diverged=diverged, suggested=suggested, reason=reason)

    def rows(self, count: int = 13) -> list[tuple[float, float]]:
        """Some (rate, smoothed loss) pairs, evenly spread over the search, the first and the last among them."""
        places = np.unique(np.linspace(0, len(self.lrs) - 1, min(count, len(self.lrs))).round().astype(int))
        return [(float(self.lrs[place]), float(self.smoothed[place])) for place in places]


class DivergenceTest:
    """Tells whether a search has diverged, loss by loss.

    A good head starts far below the loss of guessing, and then four times the lowest loss may be noise.
    """

    def __init__(self, guessing: float) -> None:
        self._guessing, self._sum, self._weight, self._count, self._lowest = guessing, 0.0, 0.0, 0, math.inf

    def __call__(self, loss: float) -> bool:
        """Whether it has diverged, with this further loss."""
        self._sum, self._weight = _MEMORY * self._sum + loss, _MEMORY * self._weight + 1
        self._count += 1
        if self._count < LEAST_STEPS // 2:  # a mean of two or three batches may be low by chance
            return not math.isfinite(loss)
        mean = self._sum / self._weight
        self._lowest = min(self._lowest, mean)
        return not mean <= max(DIVERGED * self._lowest, self._guessing)  # nan too


def rising(low: float, high: float, steps: int) -> Numbers:
    """The rates of a search: from `low` to `high`, each the same multiple of the one before.

    Raises ParameterError for rates that are not above 0 or not finite or fewer than a factor of 10 apart, and for too few steps.
    """
    if not (low > 0 and math.isfinite(high) and high >= 10 * low):
        raise ParameterError(f"The search must go from a rate above 0 to one at least 10 times as high, got {low:g} to {high:g}.")
    if steps < LEAST_STEPS:
        raise ParameterError(f"The search must have at least {LEAST_STEPS} steps, got {steps}.")
    return np.geomspace(low, high, steps)


def smooth(losses: Numbers, *, widely: bool = False) -> Numbers:
    """Means with Gaussian weights, over steps before and after: a mean of earlier steps alone would lag, and suggest too high a rate.

    Slopes, which have more noise, are smoothed `widely`: with twice the width.
    """
    place = np.arange(len(losses))
    weights = np.exp(-0.5 * ((place[:, None] - place) / (_width(len(losses)) * (1 + widely))) ** 2)
    found: Numbers = (weights @ losses) / weights.sum(axis=1)
    return found


def _width(count: int) -> float:
    return max(1.0, _WIDTH * count)


def _doubt(losses: Numbers, smoothed: Numbers, lowest: int, first: int) -> float:
    """The amount by which noise alone may put the lowest smoothed loss below the first losses."""
    calm = slice(0, max(lowest + 1, 2 * first))  # before it rises
    spread = float(np.std(losses[calm] - smoothed[calm]))
    together = 2 * math.sqrt(math.pi) * _width(len(losses))  # a smoothed value has the noise of the mean of this many
    return _NOISE * spread * math.sqrt(1 / first + 1 / together)


def _by_the_fall(lrs: Numbers, smoothed: Numbers, start: float, lowest: int) -> tuple[float, str]:
    fall = start - smoothed[lowest]
    before = np.flatnonzero(smoothed[: lowest + 1] >= start - _BEGUN * fall)
    begun = int(before[-1]) if len(before) else 0
    slopes = np.gradient(smooth(smoothed, widely=True))[begun : lowest + 1]
    steepest, tenth = float(lrs[begun + int(slopes.argmin())]), float(lrs[lowest] / _CAREFUL)
    which = "a tenth of the second" if tenth <= steepest else "the first, which is less than a tenth of the second"
    still = " It does not rise up to the highest rate tried." if lowest == len(lrs) - 1 else ""
    return rounded_down(min(steepest, tenth)), (
        f"The loss falls most steeply at {lr_text(steepest)} and is lowest at {lr_text(lrs[lowest])}.{still} The suggestion is {which}."
    )


def _without_a_fall(lrs: Numbers, smoothed: Numbers, most: float, default: float) -> tuple[float, str]:
    calm = np.flatnonzero(smoothed <= most)
    rise = int(calm[-1]) + 1 if len(calm) else 0
    if rise >= len(lrs):
        return default, "It does not rise either. The suggestion is the default."
    risen, careful = float(lrs[rise]), float(lrs[rise] / _CAREFUL)
    if default <= careful:
        return default, f"It rises from {lr_text(risen)} on. The suggestion is the default, less than a tenth of that."
    return rounded_down(careful), (
        f"It rises from {lr_text(risen)} on. The suggestion is a tenth of that; the default, {lr_text(default)}, is higher."
    )


def rounded_down(rate: float) -> float:
    """To one digit: a curve is no more precise."""
    power = math.floor(math.log10(rate) + 1e-9)
    return float(f"{math.floor(rate / 10.0**power + 1e-9)}e{power}")


def lr_text(rate: float) -> str:
    """3e-4 or 0.02: at most two digits, as one would type it."""
    if 0.01 <= rate < 100:
        return f"{rate:.2g}"
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def find_lr(job: TrainingJob, start: Pretrained, *, low: float = 1e-6, high: float = 1.0, steps: int = 100) -> LearningRates:
    """Train with a rate of the head that rises from `low` to `high`, and see where the loss falls and where it rises (Smith 2017).

    All stages that the plan trains by the end are trained from the first step on, by the same loop; the plan's length, rate and schedule
    are replaced, and validation images ignored. The search ends early when it diverges. The backbone is not changed, and nothing is stored.
    Raises ParameterError for unusable limits of the search, or where the plan does not suit the backbone or the labels; and Interrupted at
    Ctrl-C.
    """
    from headstart.backbones import timm_models

    timm_models.require("Searching for a learning rate")
    from headstart.training.job import Processes
    from headstart.training.loop import Stopped, Training
    from headstart.training.preparation import Preparation, memory_errors

    lrs = rising(low, high, steps)
    plan = replace(job.plan, epochs=None, steps=steps, lr=high, logger="none")
    job = replace(
        job, plan=plan, validation=np.empty(0, dtype=np.int64), select_best=False, checkpoints=None, resume=False, processes=Processes(),
        stored=None,
    )  # fmt: skip
    rows = job.train
    if steps * plan.batch < len(rows):  # no more images are decoded, or run through the frozen part, than the search uses
        rows = np.sort(np.random.default_rng(job.seed).permutation(rows)[: steps * plan.batch])
    try:
        with tempfile.TemporaryDirectory(prefix="headstart-search-", ignore_cleanup_errors=True) as scratch, memory_errors(plan):
            model = Preparation(replace(job, stored=rows), start, folder=Path(scratch)).run()
            training = Training(replace(job, train=rows), model, phases=[Phase(0, model.trained)], rates=rates(plan, model.trained))
            training.schedule = _Rising(steps, training.schedule.steps_per_epoch, warmup=0, cosine=False, lowest=float(lrs[0] / lrs[-1]))
            losses, diverged = _search(training)
    except (Stopped, KeyboardInterrupt):
        raise Interrupted("Interrupted. Nothing of the search was saved.") from None
    guessing = job.task.guessing(rows)
    return LearningRates.of(lrs, losses, guessing=guessing, default=DEFAULT_LR[plan.optimizer], diverged=diverged)


@dataclass(frozen=True)
class _Rising(Schedule):
    """A learning rate that is the same multiple of the one before at every step; the last is the highest."""

    lowest: float = 1.0

    def share(self, step: int) -> float:
        """See `Schedule`."""
        return float(self.lowest ** (1 - step / (self.steps - 1)))


def _search(training: Training) -> tuple[Numbers, bool]:
    """The loss of every step's batch before the step (n,), and whether the search ended because it diverged."""
    found: list[float] = []
    job, schedule = training.job, training.schedule
    diverged = DivergenceTest(job.task.guessing(job.train))
    training.enter(0)
    for epoch in range(schedule.epochs):
        training.prepare(epoch)
    job.listener.stage("Searching for a learning rate")
    for step in range(schedule.steps):
        epoch, index = divmod(step, schedule.steps_per_epoch)
        before = training.losses
        trouble = training.step(training.batch(training.order(epoch), epoch, index))
        if training.losses is not before:  # otherwise the loss is not finite, and no step was made
            found.append(training.losses[-1])
        job.listener.progress(step + 1, schedule.steps)
        if trouble is not None or diverged(found[-1]):
            return np.array(found), True
    return np.array(found), False
