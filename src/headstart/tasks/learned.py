"""What several tasks and estimators do with the table of features: learn from it without a run folder, and measure novelty by it."""

from __future__ import annotations

from headstart.data import Dataset
from headstart.features.prepared import ExtractorSettings, prepare
from headstart.features.table import FeatureTable
from headstart.progress import Seconds
from headstart.reliability.novelty import Novelty
from headstart.settings import FitSettings
from headstart.tasks.task import Learned, LearningContext, Task

_FEWEST = 50  # images that novelty needs


def novelty_of(table: FeatureTable, *, seed: int) -> Novelty | None:
    """How unlike the training inputs others are, by their pooled features; None where there are too few training inputs."""
    train = table.train
    if len(train) < _FEWEST:
        return None
    strata, groups = table.dataset.targets.take(train).strata, table.groups_among(train)
    return Novelty.fit(table.features(train), strata, layers=table.layers, groups=groups, seed=seed)


def learned_from(task: Task, dataset: Dataset, settings: FitSettings) -> Learned:
    """What a task learns from a data set on maps of the backbone; errors as of `Task.check`."""
    task.check(dataset, settings)
    prepared = prepare(ExtractorSettings.of(settings, dataset.levels))
    table = prepared.table(dataset, seconds=Seconds(), maps=task.maps(settings, dataset))
    return task.fit(table, LearningContext(settings=settings, prepared=prepared))
