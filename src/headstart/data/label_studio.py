"""Exports of Label Studio in JSON, in full or MIN: rectangles, polygons and ellipses, in percent of the sides of the image.

Source: https://labelstud.io/guide/export
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from headstart.data.drawings import Drawing, parsing
from headstart.data.shapes import Ellipse, Outline, Polygons, Rectangle, Relative, Shape, corners
from headstart.errors import DataError

_LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "keypointlabels", "labels")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file


def is_label_studio(value: Any) -> bool:
    """Whether a JSON document is an export of Label Studio, and some region of it lies on an image."""
    return isinstance(value, list) and any(isinstance(task, Mapping) and _regions(task)[1] for task in value)


def read_label_studio(value: Sequence[Any], path: Path) -> list[Drawing]:
    """The shapes of each task that is finished; DataError for what is damaged."""
    drawings = list[Drawing]()
    with parsing(path, "a task of Label Studio"):
        for task in value:
            finished, regions = _regions(task)
            name = _image_of(task)
            if name is None:
                raise DataError(f"{path}: a task without the path of an image; its keys are {', '.join(map(repr, [*task][:6]))}.")
            if finished:
                drawings.append(_drawing(name, regions, path))
    return drawings


def _regions(task: Mapping[str, Any]) -> tuple[bool, list[Mapping[str, Any]]]:
    """Whether someone annotated a task, and the regions that were marked; of several annotations the last one that was not cancelled."""
    if "annotations" in task or "completions" in task:
        done = [one for one in task.get("annotations") or task.get("completions") or () if not one.get("was_cancelled")]
        results = [{"original_width": one.get("original_width"), "original_height": one.get("original_height"), **one["value"]}
                   for one in (done[-1].get("result") or () if done else ()) if isinstance(one.get("value"), Mapping)]  # fmt: skip
        return bool(done), [one for one in results if _is_region(one)]
    lists = [value for value in task.values() if isinstance(value, list)]
    return True, [one for value in lists for one in value if isinstance(one, Mapping) and _is_region(one)]


def _is_region(one: Mapping[str, Any]) -> bool:
    return any(isinstance(one.get(name), list) for name in _LABELS) and any(name in one for name in ("x", "points", "rle"))


def _image_of(task: Mapping[str, Any]) -> str | None:
    """The name of the image: of an uploaded file without what was put before it; of local files below the folder that is served."""
    values = task["data"] if isinstance(task.get("data"), Mapping) else task
    names = [value for name, value in values.items() if isinstance(value, str) and re.search(r"(?i)image|img|photo|picture|file|url", name)]
    if not names:
        return None
    text = unquote(names[0]).replace("\\", "/").partition("?d=")[2] or unquote(names[0]).replace("\\", "/").partition("?")[0]
    folder, _, name = re.sub(r"^[a-z0-9]+://[^/]*/", "", text).rpartition("/")
    if folder.startswith("/data/upload") or folder.startswith("data/upload"):
        return _UPLOADED.sub("", name)
    return f"{folder}/{name}".lstrip("/")


def _drawing(name: str, regions: Sequence[Mapping[str, Any]], path: Path) -> Drawing:
    shapes, passed, sizes = list[Shape](), Counter[str](), Counter[tuple[int, int]]()
    for one in regions:
        kind = next(label for label in _LABELS if isinstance(one.get(label), list))
        labels = [str(label).strip() for label in one[kind]]
        if one.get("original_width") and one.get("original_height"):
            sizes[int(one["original_height"]), int(one["original_width"])] += 1
        outline = _outline(one)
        if outline is None or not labels:
            passed[f"of the kind {kind.removesuffix('labels')}" if outline is None else "without a label"] += 1
            continue
        shapes += [Shape(label, outline) for label in labels]
    size = sizes.most_common(1)[0][0] if sizes else None
    return Drawing(name, size, tuple(shapes), path, passed=passed)


def _outline(one: Mapping[str, Any]) -> Outline | None:
    height, width = float(one.get("original_height") or 0), float(one.get("original_width") or 0)
    if "points" in one:
        return Relative(Polygons((corners(one["points"]) / np.float32(100),)))
    if "radiusX" in one and width and height:
        x, y, across, along = (float(one[name]) / 100 for name in ("x", "y", "radiusX", "radiusY"))
        return Ellipse(x * width, y * height, across * width, along * height, float(one.get("rotation") or 0))
    if "width" not in one:
        return None
    left, top, across, along = (float(one[name]) / 100 for name in ("x", "y", "width", "height"))
    angle = math.radians(float(one.get("rotation") or 0))
    if angle == 0 or not width or not height:
        return Relative(Rectangle(left, top, left + across, top + along))
    sine, cosine = math.sin(angle), math.cos(angle)  # turned about the left upper corner
    ring = [(left * width + x * cosine - y * sine, top * height + x * sine + y * cosine)
            for x, y in ((0, 0), (across * width, 0), (across * width, along * height), (0, along * height))]  # fmt: skip
    return Polygons((corners(ring),))
