"""Small grey pictures of a whole data set, for comparing pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.errors import ImageError
from headstart.modalities.image import Preprocessing, quiet_decoding

Pixels: TypeAlias = npt.NDArray[np.uint8]

SIDE = 48
"""Height and width of a thumbnail in pixels."""

_THREADS = 2
_BATCH = 256  # images in flight
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_squeeze = Preprocessing(SIDE, fit="squash", interpolation="bicubic")


def thumbnails(images: Sequence[Path | Pixels] | Pixels, *, progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.uint8]:
    """Decode images at reduced scale and squeeze each, whole, into a small grey square.

    Args:
        images: paths, or uint8 (n, H, W, 3).
        progress: called with (images done, images in all).

    Returns:
        uint8 (n, SIDE, SIDE). An image that cannot be read is black, and so like no other.
    """
    pictures = np.zeros((len(images), SIDE, SIDE), np.uint8)
    with quiet_decoding(), ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            for row, picture in enumerate(threads.map(_thumbnail, batch), start):
                if picture is not None:
                    pictures[row] = picture
            if progress is not None:
                progress(start + len(batch), len(images))
    return pictures


def _thumbnail(image: Path | Pixels) -> npt.NDArray[np.uint8] | None:
    try:
        pixels = _squeeze(image)
    except ImageError:
        return None
    return np.asarray(pixels @ _LUMA + 0.5).astype(np.uint8)
