"""A learning rate for a fit, from a short training on the images that the fit would learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headstart.backbones import timm_models
from headstart.classifier import TransferClassifier, check_plan, taken
from headstart.data import Dataset
from headstart.errors import ParameterError
from headstart.metrics import link_of
from headstart.pipeline.job import read, say_refused
from headstart.pipeline.parts import kept_together, split
from headstart.progress import Listener
from headstart.settings import FitSettings
from headstart.training.learning_rates import LearningRates, rising


def find_learning_rate(
    data: str | Path | Dataset, settings: FitSettings, *, low: float = 1e-6, high: float = 1.0, steps: int = 100,
    listener: Listener | None = None,
) -> LearningRates:  # fmt: skip
    """Train for a moment with a learning rate that rises from `low` to `high`, and see where the loss falls.

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
    dataset = read(data, settings)
    parted, _ = split(dataset, settings)
    check_plan(settings.fine_tuning, backbone=settings.backbone, classes=len(parted.classes), link=link_of(parted.targets))
    holds_its_own = bool(np.isin(dataset.parts.astype("U"), ("test", "val")).any())
    if holds_its_own:
        dataset = parted.take(parted.part("train"))
    classifier = TransferClassifier.of(settings)
    listener.stage(f"Reading {len(dataset)} images")
    found = classifier.survey(dataset.images, progress=listener.progress, announce=listener.say)
    say_refused(found, len(dataset), listener)
    readable = dataset.take(found.kept)
    if not holds_its_own:
        readable, _ = split(readable, settings, digests=found.digests)
    groups, train = kept_together(readable.groups, found.digests), readable.part("train")
    return classifier.find_learning_rate(
        taken(readable.images, train), readable.targets[train], groups=None if groups is None else groups[train], low=low, high=high,
        steps=steps, listener=listener,
    )  # fmt: skip
