"""Whether two small grey pictures show the same thing once one is moved and stretched onto the other.

A crop, a resize or a recompression moves and stretches a picture a little and leaves its details where they are. Two different pictures of
the same kind (two digits, two X-rays) agree in their outlines and not in their details. So the pictures are laid onto each other by least
squares (Lucas and Kanade, "An iterative image registration technique", IJCAI 1981: here one scale and one shift for each axis), without
their coarse light and dark, and what is measured is the correlation of what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
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


Pictures: TypeAlias = npt.NDArray[np.uint8]
Maps: TypeAlias = npt.NDArray[np.float32]

COARSE = 16  # pixels at which the search begins: a crop of 5 % moves no detail by more than one of them
_SMOOTH, _DETAIL = 0.8, 3.0  # standard deviations, in pixels: finer than the first is noise of compression, coarser than the second outline
_COARSE_STEPS, _FINE_STEPS = 4, 3
_MOST = 0.35  # of half a side: no search goes further
_FAINT = 1.0  # grey levels: details weaker than this are noise


def details(pictures: Pictures | Maps, side: int = SIDE) -> Maps:
    """Return what is between the finest noise and the outlines: float32 (n, side, side), mean 0 and standard deviation 1.

    Args:
        pictures: (n, SIDE, SIDE) of grey values.
        side: `SIDE`, or a divisor of it to which the pictures are averaged first.
    """
    maps: Maps = np.asarray(pictures, np.float32)
    factor = maps.shape[1] // side
    if factor > 1:
        maps = maps.reshape(len(maps), side, factor, side, factor).mean(axis=(2, 4), dtype=np.float32)
    fine, coarse = _blur(side, _SMOOTH), _blur(side, _DETAIL)
    maps = np.asarray(fine @ maps @ fine.T - coarse @ maps @ coarse.T, np.float32)
    maps -= maps.mean(axis=(1, 2), keepdims=True)
    maps /= maps.std(axis=(1, 2), keepdims=True) + np.float32(_FAINT)
    return maps


def likeness(first: Pictures, second: Pictures, *, fine: bool = True) -> Maps:
    """Return how far pairs of pictures agree in their details when they are laid onto each other: float32 (m,), 1 where they are the same.

    Args:
        first: uint8 (m, SIDE, SIDE).
        second: uint8 (m, SIDE, SIDE).
        fine: False measures at the coarse scale only, which takes a tenth of the time and tells less.
    """
    a, b = details(first, COARSE), details(second, COARSE)
    placed = _aligned(a, b, np.zeros((len(a), 4), np.float32), _COARSE_STEPS)
    if fine:
        a, b = details(first), details(second)
        placed = _aligned(a, b, placed, _FINE_STEPS)
    return _correlation(a, b, placed)


def _aligned(a: Maps, b: Maps, placed: Maps, steps: int) -> Maps:
    """Improve the placement (m, 4) of `b` on `a`: scale less 1 and shift along y, then along x, in halves of a side."""
    grid = _grid(a.shape[1])
    for _ in range(steps):
        moved, inside = _moved(b, placed)
        slopes = _slopes(moved, inside, grid).reshape(len(a), 4, -1)
        off = ((a - moved) * inside).reshape(len(a), -1, 1)
        normal = slopes @ slopes.transpose(0, 2, 1)
        size = np.trace(normal, axis1=1, axis2=2)[:, None, None]
        normal += np.eye(4, dtype=np.float32) * (1e-3 * size + 1e-6)
        placed = np.clip(placed + np.linalg.solve(normal, slopes @ off)[:, :, 0], -_MOST, _MOST)
    return placed


def _slopes(moved: Maps, inside: Maps, grid: Maps) -> Maps:
    """Return how the maps change with each of the four numbers of a placement (m, 4, side, side); 0 outside and at the very edge."""
    slopes = np.zeros((len(moved), 4, *moved.shape[1:]), np.float32)
    half = np.float32(len(grid) / 4)
    slopes[:, 1, 1:-1] = (moved[:, 2:] - moved[:, :-2]) * half
    slopes[:, 3, :, 1:-1] = (moved[:, :, 2:] - moved[:, :, :-2]) * half
    slopes[:, 1] *= inside
    slopes[:, 3] *= inside
    np.multiply(slopes[:, 1], grid[:, None], out=slopes[:, 0])
    np.multiply(slopes[:, 3], grid, out=slopes[:, 2])
    return slopes


def _moved(maps: Maps, placed: Maps) -> tuple[Maps, Maps]:
    """Return the maps as placed, by linear interpolation, and 1 where there is a picture and 0 where it has ended."""
    down, in_y = _weights(maps.shape[1], placed[:, :2])
    right, in_x = _weights(maps.shape[1], placed[:, 2:])
    return np.asarray(down @ maps @ right.transpose(0, 2, 1), np.float32), in_y[:, :, None] * in_x[:, None, :]


def _weights(side: int, placed: Maps) -> tuple[Maps, Maps]:
    """Return the interpolation matrices (m, side, side) along one axis, and which of its places lie inside (m, side)."""
    places = ((_grid(side) * (1 + placed[:, :1]) + placed[:, 1:] + 1) * side - 1) / 2
    pixels = np.arange(side, dtype=np.float32)
    weights: Maps = np.maximum(0, 1 - np.abs(places[:, :, None] - pixels), dtype=np.float32)
    inside: Maps = ((places > -0.01) & (places < side - 0.99)).astype(np.float32)
    return weights, inside


def _correlation(a: Maps, b: Maps, placed: Maps) -> Maps:
    moved, inside = _moved(b, placed)
    count = inside.sum(axis=(1, 2)) + 1e-6
    a, moved = (_centred(maps, inside, count) for maps in (a, moved))
    products = np.einsum("nij,nij->n", a, moved) / count
    variances = [np.einsum("nij,nij->n", maps, maps) / count for maps in (a, moved)]
    # A picture without details has a variance near 0 and is like nothing, itself included.
    found: Maps = products / np.sqrt(np.maximum(variances[0], 0.05) * np.maximum(variances[1], 0.05))
    return found


def _centred(maps: Maps, inside: Maps, count: Maps) -> Maps:
    means = (maps * inside).sum(axis=(1, 2)) / count
    return np.asarray((maps - means[:, None, None]) * inside, np.float32)


def _grid(side: int) -> Maps:
    """Return the places of the pixels of one axis, from -1 to 1."""
    return ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)


@lru_cache(maxsize=8)
def _blur(side: int, deviation: float) -> Maps:
    """Return the matrix (side, side) that blurs one axis; at the edges it takes what is there."""
    steps = np.arange(side)
    weights = np.exp(-((steps[:, None] - steps) ** 2) / (2 * deviation**2))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
