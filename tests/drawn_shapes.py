"""Made-up images of shapes, with their masks."""

from __future__ import annotations

import numpy as np

CLASSES = ("ground", "disc", "bar")


def drawn(number: int, *, size: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 (H, W, 3) of a bright disc and a red bar on dark noise, and its mask uint8 (H, W)."""
    rng = np.random.default_rng(number)
    rows, columns = (axis * np.array([48, 64])[place] / size[place] for place, axis in enumerate(np.mgrid[: size[0], : size[1]]))
    y, x, radius, left = rng.integers(14, 34), rng.integers(14, 40), rng.integers(8, 13), rng.integers(50, 57)
    mask = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(np.uint8)
    mask[(columns >= left) & (columns < left + 6)] = 2
    colours = np.array([(40, 60, 90), (220, 160, 60), (200, 30, 40)])
    pixels = colours[mask] + rng.integers(-20, 20, (*size, 3))
    return pixels.clip(0, 255).astype(np.uint8), mask
