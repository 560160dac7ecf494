"""`find_frame`: a frame or bars of one colour around a picture, as scanners, video players and photo programs leave them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_DEEPEST = 3  # the search ends at this part of the picture on each side; a wide film in a square has bars of a fifth
_TOLERANCE = 24  # grey levels: JPEG leaves ripples where a frame meets the picture
_ALIKE = 0.9  # this share of a line must have the brightness of the frame
_EDGE = 0.4  # and this share of the next line must not: a frame ends all along its length, the plain ground of a drawing does not
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Frame(NamedTuple):
    """The width of a frame in pixels: `across` of its left and right side, `along` of its top and bottom.

    Each is the smaller of its two sides, and 0 where the two are not of one brightness. `grey` is that brightness (0 to 255), or -1 without
    a frame.
    """

    across: int
    along: int
    grey: int

    @property
    def around(self) -> int:
        """The width of the frame on all four sides."""
        return min(self.across, self.along)

    def scaled(self, scale: float) -> Frame:
        """The frame of the same picture, `scale` times as large; one that is there stays at least a pixel wide."""
        across, along = (max(round(side * scale), 1) if side else 0 for side in (self.across, self.along))
        return Frame(across, along, self.grey)


def find_frame(pixels: npt.NDArray[np.uint8]) -> Frame:
    """Return the frame of one picture, uint8 (H, W, 3).

    A line of pixels along a side belongs to the frame if nine tenths of it are as bright as the outermost line, within a tolerance that
    JPEG needs. The frame must end within a third of the picture, at a line of which much is of another brightness: the plain ground of a
    drawing is no frame.
    """
    grey = np.asarray(pixels.astype(np.float32) @ _LUMA)
    deep, wide = (max(1, side // _DEEPEST) for side in grey.shape)
    along, level = _pair(grey[:deep], grey[::-1][:deep])
    across, side_level = _pair(grey.T[:wide], grey.T[::-1][:wide])
    if along and across and abs(level - side_level) > _TOLERANCE:
        across, along = (across, 0) if across > along else (0, along)
    if not along and not across:
        return Frame(0, 0, -1)
    return Frame(across, along, round(level if along else side_level))


def _pair(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> tuple[int, float]:
    """The width that two opposite sides (lines, length) have in common, and their brightness."""
    levels = float(np.median(one[0])), float(np.median(other[0]))
    if abs(levels[0] - levels[1]) > _TOLERANCE:
        return 0, -1.0
    return min(_flat_lines(one, levels[0]), _flat_lines(other, levels[1])), (levels[0] + levels[1]) / 2


def _flat_lines(lines: npt.NDArray[np.float32], level: float) -> int:
    alike = (np.abs(lines - level) <= _TOLERANCE).mean(axis=1)
    flat = alike >= _ALIKE
    width = int(np.argmin(flat))
    return width if not flat[width] and 1 - alike[width] >= _EDGE else 0
