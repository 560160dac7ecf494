"""What both tests of the augmentation share: every change at once, and pictures to try it on."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from scipy import ndimage

from headstart.modalities.image.augment import Augmentation

ALL = Augmentation(
    flip=0.5, vertical_flip=0.5, rotation=30, shear=15, zoom=0.3, shift=0.2, crop=0.4, colour=0.5, hue=0.2, gray=0.3, erase=0.5
)  # fmt: skip


def smooth(side: int = 96, *, seed: int = 0) -> np.ndarray:
    """A picture without sharp edges, uint8 (side, side, 3)."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    soft = ndimage.gaussian_filter(noise, (side / 12, side / 12, 0))
    return np.clip(128 + 45 * soft / soft.std(), 0, 255).astype(np.uint8)


def numbers(images: np.ndarray) -> np.ndarray:
    return np.arange(100, 100 + len(images))


def views_of_stored(folder: Path) -> None:
    """Write views of the pictures in a file; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")  # read-only, as stored images are
        np.save(folder / "views.npy", Augmentation.parse(ALL.text).views(pixels, size=64, keys=numbers(pixels), seed=4, view=2))
