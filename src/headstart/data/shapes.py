"""Shapes that people draw on images: boxes, polygons, ellipses, run lengths; and masks made of them when they are opened."""

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

Sides = tuple[float, float, float, float]
"""Left, top, right and bottom of a box in pixels."""

Patch = tuple[int, int, npt.NDArray[np.bool_]]
"""The first row, the first column, and which pixels from there on are inside."""

MOST_SHAPES_CLASSES = 254
_FARTHEST = 1_000_000  # pixels


class Outline(Protocol):
    """What can be filled, and has a box around it."""

    def filled(self, size: tuple[int, int]) -> Patch:
        """The pixels inside, of an image of this height and width; DataError for what is damaged."""

    def bounds(self, size: tuple[int, int]) -> Sides:
        """The box around it, in an image of this height and width; DataError for what is damaged, or empty."""


@dataclass(frozen=True)
class Rectangle:
    """A box, turned clockwise about its centre by an angle in degrees. Its sides are as in the data, swapped perhaps."""

    left: float
    top: float
    right: float
    bottom: float
    angle: float = 0.0

    def filled(self, size: tuple[int, int]) -> Patch:
        """The pixels whose centre is inside."""
        return filled_polygon(self._ring(), size)

    def bounds(self, size: tuple[int, int]) -> Sides:
        """The box itself; of one that is turned, the upright box around it."""
        return (self.left, self.top, self.right, self.bottom) if self.angle == 0 else _around([self._ring()])

    def times(self, across: float, along: float) -> Rectangle:
        """The box with other units."""
        return Rectangle(self.left * across, self.top * along, self.right * across, self.bottom * along, self.angle)

    def _ring(self) -> Points:
        ring = corners([(self.left, self.top), (self.right, self.top), (self.right, self.bottom), (self.left, self.bottom)])
        centre, turn = ring.mean(axis=0), math.radians(self.angle)
        sine, cosine = math.sin(turn), math.cos(turn)
        return np.asarray((ring - centre) @ np.array([[cosine, sine], [-sine, cosine]], np.float32) + centre, np.float32)


@dataclass(frozen=True, eq=False)
class Polygons:
    """Some polygons together, each closed from its last corner to its first."""

    rings: tuple[Points, ...]

    def filled(self, size: tuple[int, int]) -> Patch:
        """The pixels whose centre is inside one of them."""
        patches = [filled_polygon(ring, size) for ring in self.rings]
        return patches[0] if len(patches) == 1 else _together(patches)

    def bounds(self, size: tuple[int, int]) -> Sides:
        """The box around all of them."""
        return _around(self.rings)

    def times(self, across: float, along: float) -> Polygons:
        """The polygons with other units."""
        return Polygons(tuple((ring * np.array([across, along], np.float32)) for ring in self.rings))


@dataclass(frozen=True, eq=False)
class Relative:
    """A shape whose sides are parts of the width and height of its image."""

    shape: Rectangle | Polygons

    def filled(self, size: tuple[int, int]) -> Patch:
        """The pixels whose centre is inside."""
        return self.shape.times(size[1], size[0]).filled(size)

    def bounds(self, size: tuple[int, int]) -> Sides:
        """The box around it."""
        return self.shape.times(size[1], size[0]).bounds(size)


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

    def bounds(self, size: tuple[int, int]) -> Sides:
        """The box around it."""
        sine, cosine = math.sin(math.radians(self.angle)), math.cos(math.radians(self.angle))
        reach, height = math.hypot(self.across * cosine, self.along * sine), math.hypot(self.across * sine, self.along * cosine)
        return self.x - reach, self.y - height, self.x + reach, self.y + height


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

    def bounds(self, size: tuple[int, int]) -> Sides:
        """The box around the pixels inside; DataError as of `filled`, or where there are none."""
        return _around_pixels(self.filled(size))


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

    def bounds(self, size: tuple[int, int]) -> Sides:
        """The box around the pixels inside; DataError as of `filled`, or where there are none."""
        return _around_pixels(self.filled(size))


def corners(points: Any) -> Points:
    """Numbers x, y, x, y, ... in lists of any depth, as corners (m, 2); ValueError for others, infinite ones and ones far outside."""
    found = np.array(points, np.float64).reshape(-1, 2)
    if not (np.abs(found) < _FARTHEST).all():
        raise ValueError(f"coordinates must be numbers below {_FARTHEST}; got {found[~(np.abs(found) < _FARTHEST)][0]}")
    return found.astype(np.float32)


def _around(rings: Sequence[Points]) -> Sides:
    points = np.concatenate([np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings])
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def _around_pixels(patch: Patch) -> Sides:
    top, left, inside = patch
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        raise DataError("a mask without a pixel")
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


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
    """An outline and the name of the class of what is in it.

    Attributes:
        label: the name of the class.
        outline: what is drawn.
        given: the box that the file has beside the outline.
        crowd: whether it is a region of many things, or one too difficult to tell.
        drawn: whether it belongs into a mask; not so a box beside shapes that say more.
    """

    label: str
    outline: Outline
    given: Rectangle | None = None
    crowd: bool = False
    drawn: bool = True

    def bounds(self, size: tuple[int, int]) -> Sides:
        """The box of it, in an image of this height and width; DataError for an outline that is damaged, or empty."""
        return (self.given or self.outline).bounds(size)

    @property
    def is_box(self) -> bool:
        """Whether it is a box and no more."""
        return isinstance(self.outline, Rectangle) or (isinstance(self.outline, Relative) and isinstance(self.outline.shape, Rectangle))


@dataclass(frozen=True, eq=False)
class DrawnShapes:
    """The shapes on one image: a mask that is drawn from them when it is opened, the last on top; or boxes.

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
        drawn = [shape for shape in self.shapes if shape.drawn]
        names = ["", *dict.fromkeys(shape.label for shape in drawn)]
        if len(names) > MOST_SHAPES_CLASSES:
            raise ImageError(self.name, f"{len(names)} classes in one image; at most {MOST_SHAPES_CLASSES} can be drawn")
        mask = np.zeros(size, np.uint8)
        for shape in drawn:
            try:
                top, left, inside = shape.outline.filled(size)
            except (DataError, ValueError, OverflowError) as error:  # infinite coordinates, for one
                raise ImageError(self.name, f"the shape of a {shape.label!r} is damaged: {error}") from None
            mask[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = names.index(shape.label)
        return Named(mask, tuple(names))
