"""Annotations of LabelMe: a JSON file for each image, with polygons, rectangles, circles and pictures of masks.

Source: https://github.com/wkentaro/labelme
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.data.drawings import Drawing, parsing
from headstart.data.shapes import Bitmap, Ellipse, Outline, Polygons, Rectangle, Shape, corners


def is_labelme(value: Any) -> bool:
    """Whether a JSON document is one of LabelMe."""
    return isinstance(value, Mapping) and isinstance(value.get("shapes"), list) and "imagePath" in value


def read_labelme(value: Mapping[str, Any], path: Path) -> Drawing:
    """The shapes of its image, in their order; those without an area (lines, points) are passed over. DataError for what is damaged."""
    shapes, passed = list[Shape](), Counter[str]()
    with parsing(path, "a shape of LabelMe"):
        for one in value["shapes"]:
            kind = str(one.get("shape_type") or "polygon")
            outline = _outline(kind, one)
            if outline is None:
                passed[f"of the kind {kind}"] += 1
                continue
            shapes.append(Shape(str(one["label"]).strip(), outline, crowd=bool(one.get("difficult"))))
        height, width = value.get("imageHeight"), value.get("imageWidth")
        size = (int(height), int(width)) if height and width else None
        name = str(value["imagePath"]).replace("\\", "/")
    return Drawing(name, size, tuple(shapes), path, passed=passed)


def _outline(kind: str, one: Mapping[str, Any]) -> Outline | None:
    points = corners(one["points"])
    if kind == "polygon":
        return Polygons((points,)) if len(points) >= 3 else None
    if kind == "rectangle":
        if len(points) not in (2, 4):
            raise ValueError(f"a rectangle with {len(points)} corners")
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return Rectangle(left, top, right, bottom)
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points.tolist()
        radius = math.hypot(edge_x - x, edge_y - y)
        return Ellipse(x, y, radius, radius)
    if kind == "mask":
        left, top = (int(side) for side in points[0])
        return Bitmap(top, left, picture=base64.b64decode(one["mask"], validate=True))
    return None
