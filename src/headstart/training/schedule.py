"""How long a training is, and how the learning rate changes in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headstart.settings import DEFAULT_STEPS, LEAST_EPOCHS, FineTuning


@dataclass(frozen=True)
class Schedule:
    """The share of the highest learning rate at every step.

    Attributes:
        steps: in all.
        steps_per_epoch: the last epoch may have fewer.
        warmup: steps in which the rate rises in a straight line.
        cosine: whether it then falls to 0 along a half wave (Loshchilov and Hutter 2017); else it stays.
    """

    steps: int
    steps_per_epoch: int
    warmup: int
    cosine: bool

    @classmethod
    def of(cls, plan: FineTuning, images: int) -> Schedule:
        """The schedule of a plan for so many training images."""
        each = max(1, math.ceil(images / plan.batch_size))
        if plan.epochs is not None:
            steps = plan.epochs * each
        else:
            steps = plan.steps if plan.steps is not None else max(DEFAULT_STEPS, LEAST_EPOCHS * each)
        if plan.steps is None:
            steps = math.ceil(steps / each) * each  # whole epochs, but for a number of steps that was asked for
        return cls(steps, each, min(round(plan.warmup * steps), DEFAULT_STEPS), plan.schedule == "cosine")

    @property
    def epochs(self) -> int:
        """How many epochs the training has, the last perhaps a shorter one."""
        return math.ceil(self.steps / self.steps_per_epoch)

    def share(self, step: int) -> float:
        """The share of the highest rate at a step; the first is 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if not self.cosine:
            return 1.0
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
