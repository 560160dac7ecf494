"""A picture of what a network would be shown in training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headstart.backbones import find
from headstart.features.table import taken
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.augment_sheet import sheet
from headstart.pipeline.reading import read
from headstart.settings import FitSettings

if TYPE_CHECKING:
    from PIL.Image import Image

_ROWS = 6


def augmentation_sheet(data: str | Path, settings: FitSettings, *, augment: str, size: int | None = None) -> Image:
    """A few training images, each as in testing and in several augmented views (`augment` as `Augmentation.parse` takes it).

    `size` is that of the network's input in pixels, by default the backbone's own. Errors as of `fit`.
    """
    augmentation, (_, dataset) = Augmentation.parse(augment), read(data, settings)
    record = find(settings.backbone)
    preprocessing = Preprocessing(
        size or record.input_size,
        crop=record.crop,
        interpolation=record.interpolation,
        fit=settings.fit_image or record.fit,
        levels=dataset.levels,
    )
    rows = dataset.part("train") if len(dataset.part("train")) else np.arange(len(dataset))
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(rows)[:_ROWS])
    return sheet(list(taken(dataset.inputs, chosen)), augmentation, preprocessing=preprocessing, seed=settings.seed)
