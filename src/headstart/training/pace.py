"""`Pace`: how long a training takes on this machine, predicted from a few measured steps (PyTorch, imported late)."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headstart.modalities.image.augment import Augmentation
from headstart.settings import MOST_VIEWS, FineTuning
from headstart.training.schedule import Phase, Schedule, further_epochs, rates

if TYPE_CHECKING:
    from headstart.training.job import Pretrained, TrainingJob
    from headstart.training.loop import Training

_STEPS = 3
_WHOLE_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of the parts of a training on this machine; see `measure`."""

    fixed: float  # preparing the network, and converting it in the end
    view: float  # the frozen part for one view of one image, where it is stored
    step: float  # one image in a step of the optimizer
    validation: float  # one validation image, after an epoch

    def seconds(self, plan: FineTuning, images: int) -> float:
        """How long a training on so many training images takes: the one that chooses, and that on all images where the plan has it.

        What comes before (the head on the frozen backbone) and after (the features of the trained network) is not in it.
        """
        plan = plan.for_images(images)
        held = round((plan.validation_share or 0.0) * images)
        first = Schedule.of(plan, images - held)
        again = further_epochs(first.epochs) * images if plan.chooses and plan.refit else 0
        asked = 0 if Augmentation.parse(plan.augment).still else plan.views or min(first.epochs, MOST_VIEWS)
        stored = max(asked, 1) * (images if again else images - held) + held
        return (
            self.fixed
            + self.view * stored
            + self.step * (first.steps / first.steps_per_epoch * (images - held) + again)
            + self.validation * held * (first.epochs + 2)
        )

    def within(self, plan: FineTuning, images: int, seconds: float) -> FineTuning | None:
        """The plan with as many epochs as fit into this time, at most its own; None where not even two do."""
        epochs = Schedule.of(plan, images - round((plan.for_images(images).validation_share or 0.0) * images)).epochs
        shorter = (replace(plan, epochs=number, steps=None) for number in range(epochs, 1, -1))
        return next((one for one in (plan, *shorter) if self.seconds(one, images) <= seconds), None)


def measure(job: TrainingJob, start: Pretrained, *, milliseconds: float) -> Pace:
    """Prepare the network of a job and time some steps on as many images as a few batches have; it takes seconds, and changes nothing.

    `milliseconds` are those of the whole frozen network in its engine for one image, reading included. Raises ParameterError where the plan
    does not suit the backbone or the labels, and OutOfMemoryError where there is not enough memory for a batch.
    """
    from headstart.training.job import Processes
    from headstart.training.loop import Training
    from headstart.training.preparation import Preparation, memory_errors

    plan = replace(job.plan, epochs=1, steps=None, views=1, logger="none")
    few = job.train[: _WHOLE_BATCHES * plan.batch]
    small = replace(
        job, plan=plan, train=few, validation=few, select_best=False, checkpoints=None, resume=False, processes=Processes(), stored=None
    )
    with tempfile.TemporaryDirectory(prefix="headstart-pace-", ignore_cleanup_errors=True) as scratch, memory_errors(plan):
        began = time.perf_counter()
        model = Preparation(small, replace(start, features=None), folder=Path(scratch)).run()
        fixed = 2 * (time.perf_counter() - began)
        training = Training(small, model, phases=[Phase(0, model.trained)], rates=rates(plan, model.trained))
        training.enter(0)
        training.prepare(0)
        training.prepare(None)
        steps, validations = _timed(lambda: _step(training)), _timed(training.validate)
        each = min(len(few), plan.batch)
        total = sum(stage.flops for stage in model.stages)
        first = next((place for place, stage in enumerate(model.stages) if stage.name in model.trained), len(model.stages))
        frozen = sum(stage.flops for stage in model.stages[:first]) / max(total, 1)
    return Pace(
        fixed=fixed, view=milliseconds / 1000 * math.sqrt(frozen), step=steps / each, validation=validations / max(len(few), 1)
    )  # fmt: skip


def _step(training: Training) -> None:
    training.step(training.batch(training.order(0), 0, 0))


def _timed(run: Callable[[], object]) -> float:
    """The median seconds of some runs, after a first one."""
    run()
    found = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return float(np.median(found))
