"""The table of tasks: what a model can be asked to learn. A new task is a folder here, and a line in `TASKS`.

Importing this package imports neither scikit-learn nor PyTorch: predicting needs neither.
"""

from __future__ import annotations

from headstart.data import Annotations
from headstart.errors import DataError, setting
from headstart.settings.field import one_of, require
from headstart.tasks.classification.task import Classification
from headstart.tasks.task import (
    FEATURES,
    Evaluation,
    Judged,
    Judgement,
    Learned,
    LearningContext,
    Neighbour,
    Output,
    Outputs,
    Predictions,
    State,
    Task,
)  # fmt: skip

__all__ = [
    "FEATURES", "TASKS", "Evaluation", "Judged", "Judgement", "Learned", "LearningContext", "Neighbour", "Output", "Outputs", "Predictions",
    "State", "Task", "recognise", "task_named",
]  # fmt: skip

TASKS: list[Task] = [Classification()]
"""All tasks. Of several that recognise the data, the first one is taken; the first of all is the usual one."""


def task_named(name: str) -> Task:
    """The task of this name; ParameterError where there is none."""
    named = {task.name: task for task in TASKS}
    require(one_of(*named), flag="--task", task=name)
    return named[name]


def recognise(found: Annotations, name: str = "auto") -> tuple[Task, str]:
    """The task to learn from these data, and the reason for it; DataError where no task recognises them."""
    if name != "auto":
        return task_named(name), f"it was asked for with {setting('task', name)}"
    for task in TASKS:
        reason = task.recognises(found)
        if reason is not None:
            return task, reason
    known = " or ".join(setting("task", task.name) for task in TASKS)
    raise DataError(f"{found.source}: nothing says what is to be learned. Say it with {known}.")
