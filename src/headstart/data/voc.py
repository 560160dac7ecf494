"""Annotations of Pascal VOC: an XML file for each image, with the boxes of its objects, as many programs write them.

Pascal VOC counts pixels from 1, and its right and bottom pixels belong to the box; other programs write the sides of boxes in pixels from 0
into the same format. Which one it is, the file says in its ``source``.

Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.data.drawings import Drawing, parsing
from headstart.data.shapes import Rectangle, Shape
from headstart.data.xml_documents import read_xml
from headstart.errors import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def is_voc(data: bytes) -> bool:
    """Whether an XML file is one of Pascal VOC, by its beginning."""
    start = data[:4096].replace(b"\0", b"")  # UTF-16
    return any(b"<annotation" + end in start for end in (b">", b" ", b"\n", b"\r", b"\t"))


def read_voc(data: bytes, path: Path) -> Drawing:
    """The boxes of its image; DataError for what is damaged."""
    root = read_xml(data, path)
    if root.tag != "annotation":
        raise DataError(f"{path}: <{root.tag}> where <annotation> of Pascal VOC is expected.")
    from_one = counts_from_one(root)
    shapes, passed = list[Shape](), Counter[str]()
    with parsing(path, "an object of Pascal VOC"):
        for one in root.iterfind("object"):
            outline = _outline(one, from_one=from_one)
            label = (one.findtext("name") or "").strip()
            if outline is None:
                passed["without a box"] += 1
                continue
            if not label:
                raise DataError(f"{path}: an object without a name.")
            crowd = (one.findtext("difficult") or "0").strip().lower() in ("1", "true", "yes")
            shapes.append(Shape(label, outline, crowd=crowd))
        size = _size(root.find("size"))
    name = (root.findtext("filename") or "").strip().replace("\\", "/")
    return Drawing(name or path.stem, size, tuple(shapes), path, passed=passed, own=True)


def counts_from_one(root: Element) -> bool:
    """Whether pixels are counted from 1: the file says that it is one of the Pascal VOC challenges."""
    source = " ".join((root.findtext(f"source/{name}") or "") for name in ("database", "annotation")).casefold()
    return "the voc" in source or "pascal voc" in source


def _size(size: Element | None) -> tuple[int, int] | None:
    """Height and width; None where the file has none, or writes zeros as some programs do."""
    sides = [int(float(size.findtext(name) or 0)) for name in ("height", "width")] if size is not None else [0, 0]
    return (sides[0], sides[1]) if min(sides) > 0 else None


def _outline(one: Element, *, from_one: bool) -> Rectangle | None:
    if (box := one.find("bndbox")) is not None:
        left, top, right, bottom = (float(box.findtext(side) or "nan") for side in ("xmin", "ymin", "xmax", "ymax"))
        return Rectangle(left - from_one, top - from_one, right, bottom)
    if (box := one.find("robndbox")) is not None:  # turned boxes, of roLabelImg
        x, y, width, height, angle = (float(box.findtext(name) or "nan") for name in ("cx", "cy", "w", "h", "angle"))
        return Rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2, math.degrees(angle))
    return None
