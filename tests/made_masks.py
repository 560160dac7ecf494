"""Small made-up images and masks in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.data import Dataset, Masks

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0)
BLOCKS = np.kron(np.array([[0, 1, 2], [3, 255, 0]], np.uint8), np.ones((10, 10), np.uint8))  # 20 x 30
"""Indices with a void block."""


def write(path: Path, array: Array, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def photo(path: Path, size: tuple[int, int] = (20, 30), **options: Any) -> Path:
    return write(path, RANDOM.integers(0, 256, (*size, 3), np.uint8), **options)


def pair(root: Path, name: str = "1", mask: Array = BLOCKS, *, images: str = "images", masks: str = "masks", **options: Any) -> None:
    photo(root / images / f"{name}.jpg", mask.shape[:2])
    write(root / masks / f"{name}.png", mask, **options)


def masks_in(data: Dataset) -> Masks:
    assert isinstance(data.targets, Masks)
    return data.targets


def measured(shared_data: Path, name: str) -> Path:
    """One of the sets of measurement data; the test is skipped where it is absent."""
    if not (shared_data / name).is_dir():
        pytest.skip(f"{name} is not among the measurement data in {shared_data}")
    return shared_data / name
