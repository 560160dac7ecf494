"""Outlines of regions: polygons along the edges of pixels, which hold exactly the pixels of a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region of a mask (pixels that share an edge): its outline, and those of its holes.

    Each is int64 (m, 2), corners (x, y) in pixels, clockwise as an image is seen for the outline and anticlockwise for holes; the pixel in
    row r and column c covers the square from (c, r) to (c + 1, r + 1). The last corner is joined with the first.
    """

    outline: Points
    holes: tuple[Points, ...]
    area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width and height of the rectangle around it."""
        (left, top), (right, bottom) = self.outline.min(axis=0).tolist(), self.outline.max(axis=0).tolist()
        return left, top, right - left, bottom - top


def regions(mask: NDArray[Any]) -> list[Region]:
    """The regions of a mask (H, W), true or not zero inside, the largest first."""
    rings = outlines(mask)
    areas = [signed_area(ring) for ring in rings]
    outer = [index for index, area in enumerate(areas) if area > 0]
    owners = _owners(mask, rings)
    holes: dict[int, list[int]] = {owners[index]: [] for index in outer}
    for index, area in enumerate(areas):
        if area < 0:
            holes[owners[index]].append(index)
    found = [
        Region(
            rings[index], tuple(rings[hole] for hole in holes[owners[index]]), areas[index] + sum(areas[h] for h in holes[owners[index]])
        )
        for index in outer
    ]
    return sorted(found, key=lambda region: -region.area)


def outlines(mask: NDArray[Any]) -> list[Points]:
    """All closed outlines of a mask: those around regions clockwise, those around holes anticlockwise; see `Region`.

    An outline turns where exactly one or three of the four pixels around a corner are inside; where two opposite ones are, two outlines
    meet. Along each row of corners every other stretch between neighbours is an edge, and so in each column: together they are the rings.
    """
    inside = np.pad(np.asarray(mask) != 0, 1)
    corners = _corners(inside)
    if not len(corners):
        return []
    x, y, first_in_row, first_in_column = corners.T
    across, down = _partners(np.lexsort((first_in_row, x, y))), _partners(np.lexsort((first_in_column, y, x)))
    open_ = np.ones(len(corners), dtype=bool)
    rings: list[Points] = []
    right, below = across.tolist(), down.tolist()
    for start in range(len(corners)):
        if not open_[start]:
            continue
        ring, place = [], start
        while True:
            other = right[place]
            ring += [place, other]
            open_[place] = open_[other] = False
            place = below[other]
            if place == start:
                break
        rings.append(_oriented(corners[ring, :2], inside))
    return rings


def signed_area(ring: Points) -> int:
    """The area within a ring of corners: positive where it is clockwise as an image is seen, negative otherwise."""
    x, y = ring[:, 0], ring[:, 1]
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2


def _corners(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Corners (x, y, order among equals in a row, order among equals in a column) of a padded mask; where outlines meet there are two."""
    a, b, c, d = inside[:-1, :-1], inside[:-1, 1:], inside[1:, :-1], inside[1:, 1:]
    odd = a ^ b ^ c ^ d
    falling, rising = a & d & ~b & ~c, b & c & ~a & ~d
    found = [_placed(odd, 0, 0)]
    # Falling: the upper left pixel ends the stretch to the left and the one above, the lower right one begins those to the right and below.
    found += [_placed(falling, 0, 0), _placed(falling, 1, 1)]
    # Rising: the lower left pixel ends the stretch to the left and begins the one below; the upper right one the others.
    found += [_placed(rising, 0, 1), _placed(rising, 1, 0)]
    return np.concatenate(found)


def _placed(where: NDArray[np.bool_], row: int, column: int) -> NDArray[np.int64]:
    y, x = np.nonzero(where)
    return np.stack([x, y, np.full(len(x), row), np.full(len(x), column)], axis=1).astype(np.int64)


def _partners(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """To each corner the other end of its edge, where corners in this order are ends in turn."""
    found = np.empty(len(order), dtype=np.int64)
    found[order[::2]], found[order[1::2]] = order[1::2], order[::2]
    return found


def _oriented(ring: Points, inside: NDArray[np.bool_]) -> Points:
    """The ring with the inside to the right of its direction, from its first, horizontal, edge."""
    (x0, y0), (x1, _) = ring[0].tolist(), ring[1].tolist()
    below = bool(inside[y0 + 1, min(x0, x1) + 1])  # of the padded mask
    return ring if (x1 > x0) == below else ring[::-1]


def _owners(mask: NDArray[Any], rings: list[Points]) -> list[int]:
    """To each ring a number of the region that it bounds."""
    labels, across = _labels(np.asarray(mask) != 0), mask.shape[1]
    found = []
    for ring in rings:
        (x0, y0), (x1, _) = ring[0].tolist(), ring[1].tolist()  # a horizontal edge
        row = y0 if x1 > x0 else y0 - 1  # the inside is to the right
        found.append(int(labels[row * across + min(x0, x1)]))
    return found


def _labels(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A number for each pixel (H x W,), the same within a connected region: runs of rows, joined where they touch."""
    height, width = inside.shape
    padded = np.zeros((height, width + 1), dtype=np.int8)
    padded[:, :width] = inside
    change = np.diff(padded.ravel(), prepend=0)
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    parent = np.arange(len(starts))
    # A run touches those of the row below that begin before its end and end after its beginning.
    low = np.searchsorted(ends, starts + width + 1, side="right")
    high = np.searchsorted(starts, ends + width + 1, side="left")
    touching = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(starts)), touching)
    lower = np.repeat(low - np.cumsum(touching) + touching, touching) + np.arange(touching.sum())
    while len(upper):
        above, below = parent[upper], parent[lower]
        apart = above != below
        upper, lower, above, below = upper[apart], lower[apart], above[apart], below[apart]
        np.minimum.at(parent, np.maximum(above, below), np.minimum(above, below))
        while (parent[parent] != parent).any():
            parent = parent[parent]
    found = np.full(height * (width + 1), -1, dtype=np.int64)
    lengths = ends - starts
    found[np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())] = np.repeat(parent, lengths)
    return found.reshape(height, width + 1)[:, :width].ravel()
