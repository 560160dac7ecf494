"""A learning rate for a fit, from a short training on the images that the fit would learn from."""

from __future__ import annotations

from pathlib import Path

from headstart.backbones import timm_models
from headstart.data import Dataset
from headstart.errors import ParameterError
from headstart.pipeline.fitting import extract
from headstart.pipeline.reading import check, read, split, without_test
from headstart.progress import Listener
from headstart.settings import FitSettings
from headstart.tasks import LearningContext
from headstart.training.learning_rates import LearningRates, rising


def find_learning_rate(
    data: str | Path | Dataset, settings: FitSettings, *, low: float = 1e-6, high: float = 1.0, steps: int = 100,
    listener: Listener | None = None,
) -> LearningRates:  # fmt: skip
    """Train briefly with a learning rate that rises from `low` to `high`, and see where the loss falls.

    The training is that of `fit` with the same settings, on the same images: test images are held out as `fit` holds them out. They take
    no part; where data have a test part of their own, its images are not even opened. No run is written.

    Args:
        data: as `fit` takes it.
        settings: of the fit; their `fine_tuning` is needed, and its length, rate and schedule give way to those of the search.
        low: learning rate of the first step.
        high: of the last step, unless the search diverges before.
        steps: their number.
        listener: is told how it goes.

    Raises:
        DataError, ParameterError, BackboneError: as `fit`.
        MissingExtraError: PyTorch and timm are not installed.
    """
    listener = listener or Listener()
    if settings.fine_tuning is None:
        raise ParameterError("There is no training to find a learning rate for: the settings have no fine_tuning. Give a FineTuning.")
    rising(low, high, steps)
    timm_models.require("Searching for a learning rate")
    listener.stage("Reading the data")
    task, dataset = read(data, settings)
    check(task, dataset, settings)
    prepared, table = extract(without_test(dataset), settings, listener, features=False)
    if (table.dataset.parts != "train").any():
        table, _ = split(task, table, settings)
    context = LearningContext(settings=settings, prepared=prepared, listener=listener)
    return task.find_learning_rate(table, context, low=low, high=high, steps=steps)
