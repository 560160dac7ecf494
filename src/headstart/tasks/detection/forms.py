"""Boxes in the formats of other programs: COCO's list of results and CSV for all inputs, Pascal VOC and YOLO with a file for each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any
from xml.etree import ElementTree

from headstart.errors import ParameterError
from headstart.files import WRITTEN
from headstart.records import Record, csv_lines

DOCUMENTS = ("coco", "csv")
SUFFIXES = {"voc": ".xml", "yolo": ".txt"}
FORMS = tuple(SUFFIXES)
_COLUMNS = ("path", "label", "confidence", "left", "top", "right", "bottom", "error")
_DIGITS = 6  # decimals of shares of a side


def document(form: str, records: Sequence[Record]) -> str:
    """Records as text; ParameterError for another format."""
    if form not in DOCUMENTS:
        raise ParameterError(f"boxes can be written as table, csv, json or coco, and with --out DIR as {' or '.join(FORMS)}; got {form!r}.")
    return _coco(records) if form == "coco" else _csv(records)


def _coco(records: Sequence[Record]) -> str:
    """COCO's list of results: an entry a box, its image by the name of its file, [x, y, width, height] in pixels of the upright image.

    Source: https://cocodataset.org/#format-results
    """
    names = {one.name: PurePath(one.name).name for one in records}
    alone = len(set(names.values())) == len(records)  # else names alone would not say which image is meant
    found = [one | {"image_id": names[one["image_id"]]} if alone else one for one in results(records)]
    return json.dumps(found, ensure_ascii=False)


def results(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """The entries of COCO's list of results; `image_id` is the whole name of the input."""
    for one in records:
        for box in () if one.error else one.values["boxes"]:
            left, top, right, bottom = box["box"]
            yield {
                "image_id": one.name, "category_id": one.values["ids"][box["label"]], "category_name": box["label"],
                "bbox": [left, top, round(right - left, 1), round(bottom - top, 1)], "score": box["confidence"],
            }  # fmt: skip


def _csv(records: Sequence[Record]) -> str:
    """A row for each box, and one without a label for an image in which nothing is found, or that could not be read."""
    rows: list[list[str]] = [list(_COLUMNS)]
    for one in records:
        boxes = [] if one.error else one.values["boxes"]
        rows += [[one.name, box["label"], str(box["confidence"]), *map(str, box["box"]), ""] for box in boxes]
        if not boxes:
            rows.append([one.name, *[""] * 6, one.error])
    return csv_lines(rows).removesuffix("\n")


def file_of(form: str, boxes: Sequence[Mapping[str, Any]], size: tuple[int, int], classes: Sequence[str]) -> dict[str, bytes]:
    """The file of one image by what ends its name; `size` is height and width."""
    return {SUFFIXES[form]: (_voc(boxes, size) if form == "voc" else _yolo(boxes, size, classes)).encode()}


def files_of_all(form: str, classes: Sequence[str]) -> dict[str, bytes]:
    """For YOLO, whose files have numbers, the names of the classes."""
    return {"classes.txt": "".join(f"{name}\n" for name in classes).encode()} if form == "yolo" else {}


def _voc(boxes: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> str:
    """Pascal VOC: the first pixel has the number 1. Source: the development kit of Pascal VOC 2012."""
    root = ElementTree.Element("annotation")
    root.append(ElementTree.Comment(WRITTEN))
    sides = ElementTree.SubElement(root, "size")
    for name, value in (("width", size[1]), ("height", size[0]), ("depth", 3)):
        ElementTree.SubElement(sides, name).text = str(value)
    for box in boxes:
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = box["label"]
        ElementTree.SubElement(entry, "confidence").text = str(box["confidence"])
        place = ElementTree.SubElement(entry, "bndbox")
        left, top, right, bottom = box["box"]
        for name, side in (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom)):
            ElementTree.SubElement(place, name).text = str(round(side, 1))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _yolo(boxes: Sequence[Mapping[str, Any]], size: tuple[int, int], classes: Sequence[str]) -> str:
    """A line a box: number of the class from 0, centre, width and height as shares of the image, and confidence."""
    height, width = size
    lines = []
    for box in boxes:
        left, top, right, bottom = box["box"]
        shares = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
        lines.append(" ".join([str(classes.index(box["label"])), *(f"{share:.{_DIGITS}f}" for share in shares), str(box["confidence"])]))
    return "".join(f"{line}\n" for line in lines)
