"""Annotations in COCO's format: things of which category are where, as boxes, polygons or run lengths.

Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.data.annotations import part_of
from headstart.data.class_lists import ClassList
from headstart.data.drawings import Drawing, parsing
from headstart.data.shapes import Outline, Polygons, Rectangle, Runs, Shape, corners
from headstart.errors import DataError

_SAME = 0.51  # pixels between a box and the polygon that is drawn along it


def is_coco(value: Any, *, boxes: bool = False) -> bool:
    """Whether a JSON document is COCO's, and some of its annotations have a shape, or with `boxes` one or a box."""
    keys = ("segmentation", "bbox") if boxes else ("segmentation",)
    return (
        isinstance(value, Mapping)
        and all(isinstance(value.get(key), list) for key in ("images", "annotations", "categories"))
        and any(isinstance(one, Mapping) and any(one.get(key) for key in keys) for one in value["annotations"])
    )


def read_coco(value: Mapping[str, Any], path: Path) -> list[Drawing]:
    """The shapes of each image, the largest first, so that small things lie on top; DataError for what is damaged."""
    with parsing(path, "an image, a category or an annotation of COCO"):
        names = {one["id"]: str(one["name"]).strip() for one in value["categories"]}
        classes = _classes(names, path)
        of_image, passed = defaultdict[Any, list[tuple[float, Shape]]](list), Counter[str]()
        for one in value["annotations"]:
            shape = _shape(one, names, path)
            passed["lists of key points"] += bool(one.get("keypoints"))
            if shape is None:
                passed["without a shape"] += 1
            else:
                area = float("inf") if shape.crowd else float(one.get("area") or 0)
                of_image[one["image_id"]].append((-area, shape))
        drawings = []
        for one in value["images"]:
            shapes = [shape for _, shape in sorted(of_image.pop(one["id"], []), key=lambda pair: pair[0])]
            size = (int(one["height"]), int(one["width"])) if one.get("height") and one.get("width") else None
            name = str(one["file_name"]).replace("\\", "/")
            drawings.append(Drawing(name, size, tuple(shapes), path, part=part_of(path.stem) or "", classes=classes, passed=passed))
    if of_image:
        raise DataError(
            f"{path}: {len(of_image)} images have annotations and are not listed, the first has the id {next(iter(of_image))!r}."
        )
    return drawings


def _classes(names: Mapping[Any, str], path: Path) -> ClassList:
    listed = tuple(dict.fromkeys(names.values()))
    numbers = [next(number for number, other in names.items() if other == name) for name in listed]
    known = all(isinstance(number, int) and number >= 0 for number in numbers)
    return ClassList(listed, tuple(numbers) if known else tuple(range(len(listed))), None, str(path), from_zero=not known)


def _shape(one: Mapping[str, Any], names: Mapping[Any, str], path: Path) -> Shape | None:
    """The shape of an annotation, or its box where it has no other; None without either."""
    outline = _outline(one.get("segmentation"))
    given = _given(one.get("bbox"), needed=outline is None)
    if outline is None and given is None:
        return None
    if one["category_id"] not in names:
        raise DataError(f"{path}: an annotation has the category {one['category_id']!r}, which is not among its categories.")
    label, crowd = names[one["category_id"]], bool(one.get("iscrowd"))
    if outline is None:
        assert given is not None
        return Shape(label, given, crowd=crowd, drawn=False)
    if given is not None and isinstance(outline, Polygons) and _is_same(outline, given):
        outline = Rectangle(*outline.bounds((0, 0)))
    return Shape(label, outline, given=given, crowd=crowd)


def _given(sides: Any, *, needed: bool) -> Rectangle | None:
    """The box x, y, width, height; None where there is none, or one that is damaged and not `needed`."""
    if not sides:
        return None
    try:
        left, top, width, height = map(float, sides)
    except (TypeError, ValueError):
        if needed:
            raise
        return None
    return Rectangle(left, top, left + width, top + height)


def _is_same(outline: Polygons, box: Rectangle) -> bool:
    """Whether a polygon is the box and no more: four corners along it."""
    if len(outline.rings) != 1 or len({*map(tuple, outline.rings[0].tolist())}) != 4:
        return False
    sides = (box.left, box.top, box.right, box.bottom)
    along = all(min(abs(x - box.left), abs(x - box.right)) <= _SAME and min(abs(y - box.top), abs(y - box.bottom)) <= _SAME
                for x, y in outline.rings[0].tolist())  # fmt: skip
    return along and all(abs(one - other) <= _SAME for one, other in zip(outline.bounds((0, 0)), sides, strict=True))


def _outline(segmentation: Any) -> Outline | None:
    if isinstance(segmentation, Mapping):
        return Runs(dict(segmentation))
    rings = [corners(ring) for ring in segmentation or () if len(ring) >= 6]
    return Polygons(tuple(rings)) if rings else None
