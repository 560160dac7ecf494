"""Annotations in COCO's format: which pixels belong to things of which category, as polygons or run lengths.

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
from headstart.data.shapes import Outline, Polygons, Runs, Shape, corners
from headstart.errors import DataError


def is_coco(value: Any) -> bool:
    """Whether a JSON document is COCO's, and some of its annotations have a shape."""
    return (
        isinstance(value, Mapping)
        and all(isinstance(value.get(key), list) for key in ("images", "annotations", "categories"))
        and any(isinstance(one, Mapping) and one.get("segmentation") for one in value["annotations"])
    )


def read_coco(value: Mapping[str, Any], path: Path) -> list[Drawing]:
    """The shapes of each image, the largest first, so that small things lie on top; DataError for what is damaged."""
    with parsing(path, "an image, a category or an annotation of COCO"):
        names = {one["id"]: str(one["name"]) for one in value["categories"]}
        listed = tuple(dict.fromkeys(names.values()))
        classes = ClassList(listed, tuple(range(len(listed))), None, str(path))
        of_image, passed = defaultdict[Any, list[tuple[float, Shape]]](list), Counter[str]()
        for one in value["annotations"]:
            outline = _outline(one.get("segmentation"))
            if outline is None:
                passed["without a shape"] += 1
            elif one["category_id"] not in names:
                raise DataError(f"{path}: an annotation has the category {one['category_id']!r}, which is not among its categories.")
            else:
                area = float("inf") if one.get("iscrowd") else float(one.get("area") or 0)
                of_image[one["image_id"]].append((-area, Shape(names[one["category_id"]], outline)))
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


def _outline(segmentation: Any) -> Outline | None:
    if isinstance(segmentation, Mapping):
        return Runs(dict(segmentation))
    rings = [corners(ring) for ring in segmentation or () if len(ring) >= 6]
    return Polygons(tuple(rings)) if rings else None
