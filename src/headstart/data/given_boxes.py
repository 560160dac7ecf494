"""Boxes as Python programs give them: a pair, a dict as torchvision has it, or `Boxes`; checked here, and read like those of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headstart.data.annotations import Column
from headstart.data.boxes import Boxes
from headstart.data.class_lists import ClassList
from headstart.data.shapes import DrawnShapes, Rectangle, Shape
from headstart.data.values import entries
from headstart.errors import DataError, ImageError
from headstart.modalities.image import ImageSource, upright_size
from headstart.text import enumeration, plural

FORMS = "Give (boxes, labels), or a dict with 'boxes' and 'labels'; for an image without a box, empty lists"
"""How the boxes of one image are given."""


class _OfImage(NamedTuple):
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[Any]
    crowd: npt.NDArray[np.bool_]


class GivenBoxes(NamedTuple):
    """Boxes as a column of annotations, and whether their labels are whole numbers, which are then written as text."""

    column: Column
    numbered: bool


def given_boxes(y: Any, images: Sequence[ImageSource] | npt.NDArray[np.uint8], classes: Sequence[str] | None = None) -> GivenBoxes:
    """The boxes of each image, from any of the forms in which they may come.

    Args:
        y: for each image (boxes, labels) or a dict with ``boxes``, ``labels`` and perhaps ``iscrowd``: (m, 4), left, top, right and bottom
            in pixels of the upright image, and m names or whole numbers. Or a `Boxes`.
        images: checked images.
        classes: the names that whole numbers stand for, the first for 0.

    Raises:
        DataError: it names the place in `y`, what came there and what is needed.
    """
    sizes = [_size(image) for image in images]
    if isinstance(y, Boxes):
        listed = [
            _OfImage(boxes.astype(np.float64), np.array(y.classes)[labels], crowd) for boxes, labels, crowd in map(y.of, range(len(y)))
        ]
        sizes = [(int(height), int(width)) if height else own for (height, width), own in zip(y.sizes, sizes, strict=False)]
    else:
        listed = [_of_image(value, f"y[{index}]") for index, value in enumerate(entries(y, "y"))]
    if len(listed) != len(images):
        raise DataError(f"{plural(len(images), 'image')} but boxes of {len(listed)} in y; one entry for each image is needed.")
    kinds = {one.labels.dtype.kind in "iu" for one in listed if len(one.labels)}
    if len(kinds) > 1:
        raise DataError("the labels in y are names in some images and whole numbers in others. Give all in one form.")
    _check_relative(listed, sizes)
    numbered = True in kinds
    values = [
        _drawn(f"y[{index}]", one, size, classes if numbered else None)
        for index, (one, size) in enumerate(zip(listed, sizes, strict=True))
    ]  # fmt: skip
    return GivenBoxes(Column(list(values), [one.file for one in values], "y"), numbered and classes is None)


def _size(image: Any) -> tuple[int, int] | None:
    try:
        return upright_size(image)
    except (ImageError, OSError):
        return None  # it is refused, with its reason, where it is decoded


def _of_image(value: Any, where: str) -> _OfImage:
    crowd: Any = None
    if isinstance(value, Mapping):
        lacking = [name for name in ("boxes", "labels") if name not in value]
        if lacking:
            raise DataError(
                f"{where} has no {enumeration([repr(name) for name in lacking])}; it has {enumeration([*map(repr, value)])}. {FORMS}."
            )
        boxes, labels, crowd = value["boxes"], value["labels"], value.get("iscrowd")
    elif isinstance(value, tuple | list) and len(value) == 2:
        boxes, labels = value
    else:
        raise DataError(f"{where} must say what boxes an image has, got {type(value).__name__}: {repr(value)[:80]}. {FORMS}.")
    sides, names = _sides(boxes, where), _labels(labels, where)
    if len(sides) != len(names):
        raise DataError(f"{where} has boxes of the shape {sides.shape} and {plural(len(names), 'label')}; each box needs one.")
    groups = np.zeros(len(sides), np.bool_) if crowd is None else np.asarray(crowd).astype(np.bool_).ravel()
    if len(groups) != len(sides):
        raise DataError(
            f"{where} has boxes of the shape {sides.shape} and 'iscrowd' of {len(groups)}; each box needs one, or leave it out."
        )
    return _OfImage(sides, names, groups)


def _sides(boxes: Any, where: str) -> npt.NDArray[np.float64]:
    try:
        sides = np.asarray(boxes, np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{where} has boxes that are no numbers (m, 4): {repr(boxes)[:80]}.") from None
    if not sides.size:
        return np.zeros((0, 4))
    if sides.ndim != 2 or sides.shape[1] != 4:
        raise DataError(f"{where} has boxes of the shape {sides.shape}; (m, 4) is needed: left, top, right and bottom of each, in pixels.")
    wrong = ~np.isfinite(sides).all(axis=1) | (sides[:, :2] >= sides[:, 2:]).any(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        shown = ", ".join(f"{side:g}" for side in sides[row].tolist())
        raise DataError(
            f"{where} has the box ({shown}), which has no area. A box is left, top, right and bottom in pixels; to x, y, width and height, "
            "add the first two: boxes[:, 2:] += boxes[:, :2]."
        )
    return sides


def _labels(labels: Any, where: str) -> npt.NDArray[Any]:
    try:
        names = np.asarray(labels)
    except (TypeError, ValueError, RuntimeError):
        names = np.zeros(0, np.void)
    if names.dtype.kind == "O" and all(isinstance(name, str) for name in names.ravel().tolist()):
        names = names.astype(np.str_)
    if not names.size:
        return np.zeros(0, np.str_)
    if names.ndim != 1 or names.dtype.kind not in "iuU":
        raise DataError(f"{where} must have labels that are names or whole numbers, one for each box, got {repr(labels)[:80]}.")
    if names.dtype.kind == "U" and not all(name.strip() for name in names.tolist()):
        raise DataError(f"{where} has a label without a name: {names.tolist()}.")
    return names


def _check_relative(listed: Sequence[_OfImage], sizes: Sequence[tuple[int, int] | None]) -> None:
    """Boxes that all lie within the first pixel are parts of the sides; nothing could be learned from them."""
    sides = [one.boxes for one, size in zip(listed, sizes, strict=True) if len(one.boxes) and size is not None and min(size) > 1]
    if sides and max(float(own.max()) for own in sides) <= 1:
        raise DataError(
            "y has boxes from 0 to 1, as parts of width and height, and pixels are needed: boxes * [width, height, width, height]."
        )


def _drawn(where: str, one: _OfImage, size: tuple[int, int] | None, classes: Sequence[str] | None) -> DrawnShapes:
    if classes is not None and len(one.labels) and not 0 <= one.labels.min() <= one.labels.max() < len(classes):
        raise DataError(
            f"{where} has labels from {one.labels.min()} to {one.labels.max()}, and there are {plural(len(classes), 'name')} of classes, "
            "the first for 0."
        )
    names = [str(label) if classes is None else classes[int(label)] for label in one.labels.tolist()]
    shapes = tuple(
        Shape(name, Rectangle(*sides), crowd=bool(crowd)) for name, sides, crowd in zip(names, one.boxes.tolist(), one.crowd, strict=True)
    )
    known = None if classes is None else ClassList(tuple(classes), tuple(range(len(classes))), None, "classes")
    return DrawnShapes(where, "", size, shapes, known)
