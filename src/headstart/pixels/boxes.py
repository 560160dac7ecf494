"""Boxes: left, top, right, bottom in pixels, where the first pixel lies between 0 and 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def areas(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """The areas of boxes (..., 4), float64 (...); 0 for those whose sides are swapped."""
    sides = np.maximum(np.asarray(boxes, np.float64)[..., 2:] - np.asarray(boxes, np.float64)[..., :2], 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def overlaps(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """The areas that boxes (m, 4) and others (n, 4) have in common, float64 (m, n)."""
    first, second = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    return areas(np.concatenate([np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])], axis=-1))


def ious(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """The intersection over union of boxes (m, 4) with others (n, 4), float64 (m, n); 0 where both have no area."""
    common = overlaps(boxes, others)
    union = areas(boxes)[:, None] + areas(others)[None] - common
    return np.asarray(common / np.maximum(union, np.finfo(np.float64).tiny))


def turned_boxes(boxes: NDArray[Any], orientation: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes (m, 4) in the pixels of an image as stored, when the image of this upright `size` (height, width) is upright.

    `orientation` is the one that the metadata name, 1 to 8.
    """
    left, top, right, bottom = np.asarray(boxes, np.float64).reshape(-1, 4).T
    height, width = size
    if orientation >= 5:  # mirrored at the diagonal first, which swaps the sides; what remains is mirroring
        left, top, right, bottom = top, left, bottom, right
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return np.stack([left, top, right, bottom], axis=1)
