"""Shapes that people draw on images: polygons, ellipses, boxes of pixels, run lengths; and masks made of them when they are opened."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.data.class_lists import ClassList
from headstart.data.masks import Named
from headstart.errors import DataError, ImageError
from headstart.modalities.image import MAX_PIXELS
from headstart.modalities.image.values import read_values, upright_size
from headstart.pixels.runs import decoded

Points = npt.NDArray[np.float32]
"""Corners (m, 2), x and y in pixels; the first pixel lies between 0 and 1."""

Patch = tuple[int, int, npt.NDArray[np.bool_]]
"""The first row, the first column, and which pixels from there on are inside."""

MOST_SHAPES_CLASSES = 254
_FARTHEST = 1_000_000  # pixels


class Outline(Protocol):
    """What can be filled."""

    def filled(self, size: tuple[int, int]) -> Patch:
        """The pixels inside, of an image of this height and width; DataError for what is damaged."""


@dataclass(frozen=True, eq=False)
class Polygons:
    """Some polygons together, each closed from its last corner to its first."""

    rings: tuple[Points, ...]

    def filled(self, size: tuple[int, int]) -> Patch:
        """The pixels whose centre is inside one of them."""
        patches = [filled_polygon(ring, size) for ring in self.rings]
        return patches[0] if len(patches) == 1 else _together(patches)


@dataclass(frozen=True)
class Ellipse:
    """An ellipse with the centre (x, y) and two radii in pixels, turned clockwise by an angle in degrees."""

    x: float
    y: float
    across: float
    along: float
    angle: float = 0.0

    def filled(self, size: tuple[int, int]) -> Patch:
        """The pixels whose centre is inside."""
        reach = max(self.across, self.along)
        top, bottom = (_within(side, size[0]) for side in (self.y - reach, self.y + reach))
        left, right = (_within(side, size[1]) for side in (self.x - reach, self.x + reach))
        x = np.arange(left, right) + 0.5 - self.x
        y = (np.arange(top, bottom) + 0.5 - self.y)[:, None]
        sine, cosine = math.sin(math.radians(self.angle)), math.cos(math.radians(self.angle))
        inside = ((x * cosine + y * sine) / max(self.across, 1e-9)) ** 2 + ((y * cosine - x * sine) / max(self.along, 1e-9)) ** 2 <= 1
        return top, left, inside


@dataclass(frozen=True, eq=False)
class Runs:
    """A mask of the whole image in COCO's form, with ``size`` and ``counts``."""

    mask: dict[str, Any]

    def filled(self, size: tuple[int, int]) -> Patch:
        """The pixels inside; DataError where the mask is damaged, or of another size than the image."""
        inside = decoded(self.mask)
        if inside.shape != size:
            raise DataError(f"run lengths of a mask of {inside.shape[1]}x{inside.shape[0]} in an image of {size[1]}x{size[0]}")
        return 0, 0, inside


@dataclass(frozen=True, eq=False)
class Bitmap:
    """Pixels of a part of the image: its first row and column, and a picture (not 0 is inside) or the run lengths along its rows."""

    top: int
    left: int
    picture: bytes | None = None
    counts: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)  # height and width, of run lengths

    def filled(self, size: tuple[int, int]) -> Patch:
        """The pixels inside; DataError where it is damaged, or ends outside the image."""
        if self.picture is not None:
            try:
                inside = read_values(self.picture, name="the picture in it").array != 0
            except ImageError as error:
                raise DataError(str(error)) from None
        else:
            total = sum(self.counts)
            if min(self.counts, default=0) < 0 or total != self.size[0] * self.size[1]:
                raise DataError(f"the run lengths of a mask of {self.size[1]}x{self.size[0]} add up to {total}")
            inside = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts).reshape(self.size)
        if self.top < 0 or self.left < 0 or self.top + inside.shape[0] > size[0] or self.left + inside.shape[1] > size[1]:
            raise DataError(f"a mask that ends outside the image of {size[1]}x{size[0]}")
        return self.top, self.left, inside


def corners(points: Any) -> Points:
    """Numbers x, y, x, y, ... in lists of any depth, as corners (m, 2); ValueError for others, infinite ones and ones far outside."""
    found = np.array(points, np.float64).reshape(-1, 2)
    if not (np.abs(found) < _FARTHEST).all():
        raise ValueError(f"coordinates must be numbers below {_FARTHEST}; got {found[~(np.abs(found) < _FARTHEST)][0]}")
    return found.astype(np.float32)


def box(left: float, top: float, right: float, bottom: float, *, angle: float = 0.0) -> Polygons:
    """A box, turned clockwise about its centre by an angle in degrees."""
    ring = corners([(left, top), (right, top), (right, bottom), (left, bottom)])
    centre, turn = ring.mean(axis=0), math.radians(angle)
    sine, cosine = math.sin(turn), math.cos(turn)
    return Polygons(((ring - centre) @ np.array([[cosine, sine], [-sine, cosine]], np.float32) + centre,))


def _within(value: float, limit: int) -> int:
    """The first pixel whose centre is not before a coordinate, in an image."""
    return min(max(math.ceil(value - 0.5), 0), limit)


def _together(patches: Sequence[Patch]) -> Patch:
    tops, lefts = [top for top, _, _ in patches], [left for _, left, _ in patches]
    bottoms, rights = [top + one.shape[0] for top, _, one in patches], [left + one.shape[1] for _, left, one in patches]
    whole = np.zeros((max(bottoms, default=0) - min(tops, default=0), max(rights, default=0) - min(lefts, default=0)), np.bool_)
    for top, left, one in patches:
        whole[top - min(tops) :, left - min(lefts) :][: one.shape[0], : one.shape[1]] |= one
    return min(tops, default=0), min(lefts, default=0), whole


def filled_polygon(ring: npt.NDArray[Any], size: tuple[int, int]) -> Patch:
    """The pixels of an image (height, width) whose centre is inside a polygon (m, 2), by the even-odd rule.

    In each row the edges cross the line through the centres at some columns, and inside and outside change about at each: a running sum
    over the crossings. A point on an edge belongs to what is right of it and below.
    """
    first = np.asarray(ring, np.float64)
    if len(first) < 3:
        return 0, 0, np.zeros((0, 0), np.bool_)
    second = np.roll(first, -1, axis=0)
    top, bottom = (_within(float(side), size[0]) for side in (first[:, 1].min(), first[:, 1].max()))
    left, right = (_within(float(side), size[1]) for side in (first[:, 0].min(), first[:, 0].max()))
    starts = np.clip(np.ceil(np.minimum(first[:, 1], second[:, 1]) - 0.5), top, bottom).astype(np.int64)
    ends = np.clip(np.ceil(np.maximum(first[:, 1], second[:, 1]) - 0.5), top, bottom).astype(np.int64)
    counts = ends - starts
    edge = np.repeat(np.arange(len(first)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[edge]
    (x0, y0), (x1, y1) = first[edge].T, second[edge].T
    crossing = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    column = np.clip(np.ceil(crossing - 0.5), left, right).astype(np.int64) - left
    width = right - left + 1
    turns = np.bincount((row - top) * width + column, minlength=(bottom - top) * width).reshape(bottom - top, width)
    return top, left, np.asarray(np.cumsum(turns, axis=1)[:, :-1] % 2 == 1)


@dataclass(frozen=True, eq=False)
class Shape:
    """An outline and the name of the class of what is in it."""

    label: str
    outline: Outline


@dataclass(frozen=True, eq=False)
class ShapeMask:
    """A mask that is drawn from shapes when it is opened, the last on top.

    Attributes:
        file: the annotation file, for messages.
        image: the image, for its size where the file does not say it.
        size: height and width of the image as the file has them, or None.
        shapes: what is drawn, in this order.
        classes: the list of classes in the file.
    """

    file: str
    image: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]
    classes: ClassList | None = None

    @property
    def name(self) -> str:
        """The annotation file, and the image in it."""
        return f"{self.file} ({self.image})"

    @property
    def cell(self) -> str:
        """The whole path of the annotation file."""
        return os.path.abspath(self.file)  # noqa: PTH100

    def open(self) -> Named:
        """Draw it; ImageError, with the reason, where a shape is damaged or the size of the image cannot be known."""
        size = self.size
        if size is None and (found := upright_size(self.image)) is not None:
            size = found[0]
        if size is None:
            raise ImageError(self.name, "the size of the image is not in the file, and the image cannot be opened")
        if not 0 < size[0] * size[1] <= MAX_PIXELS:
            raise ImageError(self.name, f"{size[1]}x{size[0]} pixels; allowed are 1 to {MAX_PIXELS / 1e6:.0f} megapixels")
        names = ["", *dict.fromkeys(shape.label for shape in self.shapes)]
        if len(names) > MOST_SHAPES_CLASSES:
            raise ImageError(self.name, f"{len(names)} classes in one image; at most {MOST_SHAPES_CLASSES} can be drawn")
        mask = np.zeros(size, np.uint8)
        for shape in self.shapes:
            try:
                top, left, inside = shape.outline.filled(size)
            except (DataError, ValueError, OverflowError) as error:  # infinite coordinates, for one
                raise ImageError(self.name, f"the shape of a {shape.label!r} is damaged: {error}") from None
            mask[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = names.index(shape.label)
        return Named(mask, tuple(names))
