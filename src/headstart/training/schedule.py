"""How long a training is, which stages learn from which epoch on, and at what rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headstart.errors import ParameterError, nearest
from headstart.settings import DEFAULT_STEPS, GRADUAL, LEAST_EPOCHS, LEAST_STEPS, MOST_EPOCHS, FineTuning

PARTIAL_STAGES = 2
PARTIAL_WORK = 0.6
"""``partial`` trains the last stages that do at most this share of the operations, but at least `PARTIAL_STAGES`."""
FURTHER_SHARE, FURTHER_LR = 0.3, 0.5
"""A network that was chosen is trained on all images for this share of the epochs that were best, at this share of the highest rate."""
HEAD_SHARE = 0.25
"""Share of the epochs in which a randomly initialised head is trained alone, before the stages."""


@dataclass(frozen=True)
class Schedule:
    """The share of the highest learning rate at every step."""

    steps: int  # in total
    steps_per_epoch: int  # the last epoch may have fewer
    warmup: int  # steps of linear warm-up
    cosine: bool  # whether the rate then decays to 0 along a half cosine (Loshchilov and Hutter 2017); otherwise it is constant
    linear: bool = False  # or decays to 0 along a line

    @classmethod
    def of(cls, plan: FineTuning, images: int) -> Schedule:
        """The schedule of a plan for this many training images."""
        each = max(1, math.ceil(images / plan.batch))
        if plan.batchnorm == "train" and each > 1 and images % plan.batch == 1:
            each -= 1  # one image has no statistics: it joins the batch before
        epochs = math.ceil(DEFAULT_STEPS / each)
        if plan.every_stage:
            epochs = min(epochs, max(MOST_EPOCHS, math.ceil(LEAST_STEPS / each)))
        epochs = plan.epochs or max(LEAST_EPOCHS, epochs)
        steps = epochs * each if plan.steps is None else plan.steps
        return cls(steps, each, min(round(plan.warmup * steps), DEFAULT_STEPS), plan.schedule == "cosine")

    @property
    def epochs(self) -> int:
        """Number of epochs; the last may be shorter."""
        return math.ceil(self.steps / self.steps_per_epoch)

    def share(self, step: int) -> float:
        """The share of the highest rate at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        if self.linear:
            return max(1 - done, 0.0)
        if not self.cosine:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def further_epochs(best: int) -> int:
    """The epochs on all training images, after as many on some of them as were `best`."""
    return math.ceil(FURTHER_SHARE * best)


@dataclass(frozen=True)
class Phase:
    """From this epoch on (counted from 0) these stages are trained, besides the head."""

    epoch: int
    stages: tuple[str, ...]


def trained_stages(plan: FineTuning, names: Sequence[str], operations: Sequence[int] = ()) -> tuple[str, ...]:
    """The stages that are trained by the end, of the `names` of all, in the order of the network (``stem``, ``stage1``, ...).

    `operations` are those of each stage for one image, by which ``partial`` chooses where it is not told. Raises ParameterError for an
    unknown name, or more stages than there are.
    """
    if plan.strategy == "probe":
        return ()
    if plan.strategy == "full":
        return tuple(names)
    asked = _affordable(operations, len(names)) if plan.unfreeze in (None, GRADUAL) else plan.unfreeze
    if isinstance(asked, str) and asked.strip().isdigit():
        asked = int(asked)
    if isinstance(asked, int) and not isinstance(asked, bool):
        if not 1 <= asked <= len(names):
            raise ParameterError(
                f"This backbone has {len(names)} stages ({', '.join(names)}); unfreeze must be from 1 to that, got {asked}."
            )
        return tuple(names[-asked:])
    chosen = [name.strip() for name in asked.split(",") if name.strip()] if isinstance(asked, str) else []
    if not chosen:
        raise ParameterError(f"unfreeze must be a number of stages, names of stages or 'gradual', got {plan.unfreeze!r}.")
    for name in chosen:
        if name not in names:
            raise ParameterError(f"This backbone has no stage {name!r}; it has {', '.join(names)}.{nearest(name, names)}")
    return tuple(name for name in names if name in chosen)


def _affordable(operations: Sequence[int], stages: int) -> int:
    """How many of the last stages do at most `PARTIAL_WORK` of the operations."""
    behind = [sum(operations[-count:]) for count in range(1, len(operations) + 1)]
    count = sum(work <= PARTIAL_WORK * behind[-1] for work in behind) if operations else 0
    return min(max(count, PARTIAL_STAGES), stages)


def phases(plan: FineTuning, trained: Sequence[str], epochs: int, *, head_first: bool) -> tuple[Phase, ...]:
    """When each of the stages that are `trained` by the end starts to learn in a training of this many epochs.

    With `head_first` the head was initialised at random and is trained alone at first.
    """
    if not trained:
        return (Phase(0, ()),)
    if plan.unfreeze == GRADUAL:  # the head alone, then one more stage at a time; all of them in the second half of the training
        steps = len(trained) + 1
        starts = [round(index * epochs / 2 / max(steps - 1, 1)) for index in range(steps)]
        found = {start: tuple(trained[len(trained) - index :]) for index, start in enumerate(starts)}
        return tuple(Phase(start, stages) for start, stages in sorted(found.items()))
    if head_first and epochs > 1:
        return (Phase(0, ()), Phase(max(1, round(HEAD_SHARE * epochs)), tuple(trained)))
    return (Phase(0, tuple(trained)),)


def rates(plan: FineTuning, trained: Sequence[str]) -> dict[str, float]:
    """The highest learning rate of each stage, and of ``head``: lower stages learn more slowly."""
    found = {"head": plan.highest_lr}
    for depth, name in enumerate(reversed(trained), 1):
        found[name] = plan.highest_lr * plan.layer_decay**depth
    return found
