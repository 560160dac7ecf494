"""The table of tasks: what a model can be asked to learn. A new task is a folder here, and a line in `TASKS`.

Importing this package imports neither scikit-learn nor PyTorch: predicting needs neither.
"""

from __future__ import annotations

from headstart.data import Annotations, Targets
from headstart.errors import DataError, ParameterError, setting
from headstart.settings.field import one_of, require
from headstart.tasks.anomaly.task import AnomalyDetection
from headstart.tasks.classification.task import Classification
from headstart.tasks.detection.task import Detection
from headstart.tasks.multitask.task import Multitask
from headstart.tasks.outputs import FEATURES, ClassOutputs, FileOptions, Judgement, Neighbour, Output, Outputs, OwnHeat, Predictions, State
from headstart.tasks.segmentation.task import Segmentation
from headstart.tasks.task import Evaluation, Judged, Learned, LearningContext, Task
from headstart.tasks.translation.task import Translation

__all__ = [
    "FEATURES", "TASKS", "ClassOutputs", "Evaluation", "FileOptions", "Judged", "Judgement", "Learned", "LearningContext", "Neighbour",
    "Output", "Outputs", "OwnHeat", "Predictions", "State", "Task", "recognise", "task_for", "task_named",
]  # fmt: skip

TASKS: list[Task] = [Classification(), Multitask(), Segmentation(), AnomalyDetection(), Detection(), Translation()]
"""All tasks. Of several that recognise the data, the first one is taken; the first of all is the usual one."""


def task_named(name: str) -> Task:
    """The task of this name; ParameterError where there is none."""
    named = {task.name: task for task in TASKS}
    require(one_of(*named), flag="--task", task=name)
    return named[name]


def recognise(found: Annotations, name: str = "auto") -> tuple[Task, str]:
    """The task to learn from these data, and the reason for it; DataError where no task recognises them."""
    if name != "auto":
        task = task_named(name)
        if len(found.learned) > 1 and not task.several_columns:
            several = " or ".join(setting("task", one.name) for one in TASKS if one.several_columns)
            raise ParameterError(
                f"The task {name} learns one column of labels, and {setting('labels', found.learned)} names {len(found.learned)}. "
                f"Name one, or learn all of them with {several}."
            )
        return task, f"it was asked for with {setting('task', name)}"
    for task in TASKS:
        reason = task.recognises(found)
        if reason is not None:
            return task, reason
    known = " or ".join(setting("task", task.name) for task in TASKS)
    if found.reason:
        raise DataError(found.reason)
    raise DataError(f"{found.source}: nothing says what is to be learned. Say it with {known}.")


def task_for(targets: Targets) -> Task:
    """The task that learns targets of this kind; the usual one where none says so."""
    return next((task for task in TASKS if task.takes(targets)), TASKS[0])
