"""How long a training takes: the prediction, and a moment at which it must be over."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from headstart.errors import ParameterError
from headstart.settings import FineTuning, FitSettings
from headstart.training.pace import Pace
from headstart.training.schedule import Schedule

PACE = Pace(fixed=10.0, view=0.01, step=0.1, validation=0.02)


def test_seconds_are_those_of_the_parts() -> None:
    plan = FineTuning(epochs=4, views=2, ship="trained", validation_share=0.2)
    assert PACE.seconds(plan, 1000) == pytest.approx(10 + 0.01 * (2 * 800 + 200) + 0.1 * 4 * 800 + 0.02 * 200 * 6)
    assert PACE.seconds(replace(plan, augment="none"), 1000) == pytest.approx(10 + 0.01 * 1000 + 0.1 * 4 * 800 + 0.02 * 200 * 6)
    both = replace(plan, ship="auto", refit=True)
    assert PACE.seconds(both, 1000) > PACE.seconds(replace(both, refit=False), 1000)


def test_a_plan_is_shortened_until_it_fits() -> None:
    plan = FineTuning()
    whole = PACE.seconds(plan, 500)
    assert PACE.within(plan, 500, whole) == plan
    shorter = PACE.within(plan, 500, whole / 2)
    assert shorter is not None
    assert shorter.epochs is not None
    assert 2 <= shorter.epochs < Schedule.of(plan, 375).epochs
    assert PACE.seconds(shorter, 500) <= whole / 2 < PACE.seconds(replace(shorter, epochs=shorter.epochs + 1), 500)
    assert PACE.within(plan, 500, 20.0) is None


def test_a_task_that_trains_nothing_has_no_pace() -> None:
    from headstart.tasks.task import Task

    with pytest.raises(ParameterError, match="no time to predict"):
        Task.training_pace(type("Other", (), {"name": "other"})(), None, None)  # type: ignore[arg-type]


@pytest.mark.torch
def test_steps_are_measured_and_a_training_ends_at_the_moment(pictures: Path, cache: Path) -> None:
    """The best so far is what comes of it; nothing waits for the epochs that were planned."""
    pytest.importorskip("timm", reason="needs headstart[torch]")
    from headstart.data import read_dataset
    from headstart.pipeline.fitting import extract, split
    from headstart.progress import Listener, Seconds
    from headstart.tasks import task_named
    from headstart.tasks.task import LearningContext

    settings = FitSettings(
        head="centroid", engine="onnxruntime", cache=cache, fine_tuning=FineTuning(unfreeze=1, epochs=200, batch_size=8, image_size=32)
    )
    task = task_named("classification")
    prepared, table = extract(read_dataset(pictures), settings, Listener(), seconds=Seconds())
    table, _ = split(task, table, settings)
    context = LearningContext(settings=settings, prepared=prepared)
    pace = task.training_pace(table, context)
    assert min(pace.fixed, pace.view, pace.step, pace.validation) > 0
    assert settings.fine_tuning is not None
    assert pace.seconds(settings.fine_tuning, 10_000) > pace.seconds(settings.fine_tuning, len(table.train)) > 0
    began = time.perf_counter()
    learned = task.fit(table, replace(context, until=began + 4))
    history = learned.fine_tuned.history
    assert 1 <= len(history.epochs) < 200
    assert "The time was up in epoch" in history.stopped
    assert time.perf_counter() - began < 40
