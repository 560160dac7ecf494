"""Learning a task without a run folder, as estimators do."""

from __future__ import annotations

from headstart.data import Dataset
from headstart.features.prepared import ExtractorSettings, prepare
from headstart.progress import Seconds
from headstart.settings import FitSettings
from headstart.tasks.task import Learned, LearningContext, Task


def learned_from(task: Task, dataset: Dataset, settings: FitSettings) -> Learned:
    """What a task learns from a data set on maps of the backbone; errors as of `Task.check`."""
    task.check(dataset, settings)
    prepared = prepare(ExtractorSettings.of(settings, dataset.levels))
    table = prepared.table(dataset, seconds=Seconds(), maps=task.maps(settings, dataset))
    return task.fit(table, LearningContext(settings=settings, prepared=prepared))
