"""Boxes: left, top, right, bottom in pixels, where the first pixel lies between 0 and 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
