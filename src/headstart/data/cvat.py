"""Annotations of CVAT for images, one XML file: polygons, boxes, ellipses and masks.

Source: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.data.annotations import part_of
from headstart.data.class_lists import ClassList
from headstart.data.drawings import Drawing, parsing
from headstart.data.shapes import Bitmap, Ellipse, Outline, Polygons, Rectangle, Shape, corners
from headstart.data.xml_documents import read_xml
from headstart.errors import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_AREAS = ("polygon", "box", "ellipse", "mask")
_OTHERS = ("polyline", "points", "cuboid", "skeleton", "tag")


def is_cvat(data: bytes) -> bool:
    """Whether an XML file is one of CVAT, by its beginning."""
    return b"<annotations" in data[:4096] and (b"<image " in data or b"<track " in data)


def read_cvat(data: bytes, path: Path) -> list[Drawing]:
    """The shapes of each image, by their order on top of each other; DataError for what is damaged, or for a video."""
    root = read_xml(data, path)
    if root.find("track") is not None:
        raise DataError(f"{path} holds the tracks of a video. Export the task from CVAT in the format 'CVAT for images 1.1'.")
    listed = tuple(dict.fromkeys(name for label in root.iterfind("meta//label") if (name := (label.findtext("name") or "").strip())))
    classes = ClassList(listed, tuple(range(len(listed))), None, str(path)) if listed else None
    with parsing(path, "an image or a shape of CVAT"):
        return [_drawing(image, path, classes) for image in root.iterfind("image")]


def _drawing(image: Element, path: Path, classes: ClassList | None) -> Drawing:
    elements = sorted((one for one in image if one.tag in _AREAS), key=lambda one: int(one.get("z_order") or 0))
    shapes = tuple(Shape(one.attrib["label"].strip(), _outline(one)) for one in elements)
    passed = Counter(f"of the kind {one.tag}" for one in image if one.tag in _OTHERS and one.tag != "tag")
    size = (int(image.attrib["height"]), int(image.attrib["width"]))
    part = part_of(image.get("subset") or "") or part_of(path.stem) or ""
    return Drawing(image.attrib["name"].replace("\\", "/"), size, shapes, path, part=part, classes=classes, passed=passed)


def _outline(one: Element) -> Outline:
    if one.tag == "polygon":
        points = [[float(number) for number in pair.split(",")] for pair in one.attrib["points"].split(";") if pair.strip()]
        return Polygons((corners(points),))
    if one.tag == "box":
        left, top, right, bottom = (float(one.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
        return Rectangle(left, top, right, bottom, float(one.get("rotation") or 0))
    if one.tag == "ellipse":
        x, y, across, along = corners([float(one.attrib[name]) for name in ("cx", "cy", "rx", "ry")]).ravel().tolist()
        return Ellipse(x, y, across, along, float(one.get("rotation") or 0))
    counts = tuple(int(number) for number in one.attrib["rle"].split(","))
    top, left, height, width = (int(float(one.attrib[name])) for name in ("top", "left", "height", "width"))
    return Bitmap(top, left, counts=counts, size=(height, width))
