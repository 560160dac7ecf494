"""Which pixels the boxes in an annotation file are in: those of the upright image, those that are stored, or those of another size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.data.mask_reading import same_aspect
from headstart.data.shapes import DrawnShapes, Relative
from headstart.errors import DataError
from headstart.pixels.boxes import turned_boxes
from headstart.progress import Warned
from headstart.text import enumeration, plural

_SLACK = 2.0  # pixels that a box may lie outside of an image, and still be one of that image
Size = tuple[int, int]


@dataclass(eq=False)
class Frame:
    """The boxes of one image in the pixels of the file, with what is known of their size.

    Attributes:
        name: the image, for messages.
        drawn: what the file says.
        image: height and width of the upright image, and its orientation; None where it cannot be opened.
        stored: whether the boxes are in the pixels as stored; None where nothing tells.
        problem: why the boxes fit the image in no way.
    """

    name: str
    drawn: DrawnShapes
    image: tuple[Size, int] | None
    stored: bool | None = None
    problem: str = ""

    @property
    def upright(self) -> Size:
        """Height and width of the upright image; as the file has them where the image cannot be opened."""
        return self.image[0] if self.image is not None else self.drawn.size or (0, 0)

    @property
    def turn(self) -> int:
        """The orientation of the image."""
        return self.image[1] if self.image is not None else 1

    @property
    def own(self) -> Size:
        """Height and width of the image in the pixels of the boxes, without regard to what the file says."""
        return self.upright[::-1] if self.stored and self.turn >= 5 else self.upright

    def sides(self) -> tuple[npt.NDArray[np.float64], list[str]]:
        """The boxes as the file has them, float64 (m, 4), nan where one is damaged; and for each what is wrong, or nothing."""
        size, found, wrong = self.drawn.size or self.own, list[tuple[float, ...]](), list[str]()
        for shape in self.drawn.shapes:
            try:
                found.append(shape.bounds(size))
                wrong.append("")
            except (DataError, ValueError, OverflowError) as error:
                found.append((np.nan,) * 4)
                wrong.append(str(error))
        return np.array(found, np.float64).reshape(-1, 4), wrong


def settle(frames: Sequence[Frame], notes: list[str]) -> None:
    """Decide for each image of what pixels its boxes are: by the size that the file has, by where the boxes lie, else as the others are."""
    turned = [one for one in frames if one.turn != 1 and one.drawn.shapes]
    for one in turned:
        one.stored = _as_stored(one)
    votes = [one.stored for one in turned]
    usual = votes.count(True) > votes.count(False)
    guessed = [one for one in turned if one.stored is None]
    for one in guessed:
        one.stored = usual
    if count := sum(bool(one.stored) for one in turned):
        first = next(one for one in turned if one.stored)
        notes.append(
            f"The boxes of {plural(count, 'image')} are in the pixels as stored, by the sizes in the files, and are turned like the image, "
            f"which its metadata turn: for example {first.name}."
        )
    if count := sum(not one.stored for one in turned):
        notes.append(f"{plural(count, 'image')} turned upright by the metadata; the boxes are taken to be upright.")


def _as_stored(one: Frame) -> bool | None:
    """Whether boxes are in the pixels as stored; None where nothing tells."""
    assert one.image is not None
    (height, width), turn = one.image
    if turn < 5 or height == width:
        return None
    if one.drawn.size is not None:
        upright, stored = same_aspect((height, width), one.drawn.size), same_aspect((width, height), one.drawn.size)
        return None if upright == stored else stored
    if any(isinstance(shape.outline, Relative) for shape in one.drawn.shapes):
        return None  # relative sides fit both
    sides, _ = one.sides()
    upright, stored = _fits(sides, (height, width)), _fits(sides, (width, height))
    return None if upright == stored else stored


def _fits(sides: npt.NDArray[np.float64], size: Size) -> bool:
    known = sides[np.isfinite(sides).all(axis=1)]
    return not len(known) or bool((known <= np.array([size[1], size[0]] * 2, np.float64) + _SLACK).all())


def placed(one: Frame, odd: dict[str, list[str]]) -> tuple[npt.NDArray[np.float64], list[str]]:
    """The boxes in pixels of the upright image, float64 (m, 4), and what is wrong with each; what was guessed goes into `odd`."""
    sides, wrong = one.sides()
    said, own = one.drawn.size, one.own
    if said is not None and one.image is not None and said != own and len(sides):
        inside, there = _fits(sides, said), _fits(sides, own)
        text = f"{one.name} ({said[1]}x{said[0]} in the file, {own[1]}x{own[0]})"
        if inside and (same_aspect(own, said) or not there):
            odd["scaled"].append(text)
            sides = sides * (np.array([own[1], own[0]] * 2, np.float64) / np.array([said[1], said[0]] * 2, np.float64))
        elif there and (not inside or said == own[::-1]):
            odd["unscaled"].append(text)
        else:
            one.problem = f"{text}: the boxes fit neither size for sure"
    if one.stored and one.turn != 1:
        sides = turned_boxes(sides, one.turn, one.upright)
    return sides, wrong


def tell(frames: Sequence[Frame], odd: dict[str, list[str]], notes: list[str]) -> None:
    """What was done about sizes that differ."""
    for what, then in (("scaled", "scaled to the image"), ("unscaled", "used as they are, since they fit the image")):
        if names := odd[what]:
            notes.append(Warned(f"{plural(len(names), 'image')} of another size than in the annotation file; the boxes are {then}: "
                                f"{enumeration(names[:3], count=len(names))}."))  # fmt: skip
    if wrong := [one.problem for one in frames if one.problem]:
        notes.append(Warned(f"Left out {plural(len(wrong), 'image')} of another size than in the annotation file: {'; '.join(wrong[:5])}."))
