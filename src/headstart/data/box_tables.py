"""Tables with a box in each row: of TensorFlow, Keras, Roboflow, Open Images and others; the columns are found by their names."""

from __future__ import annotations

import csv
import math
import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart.data.annotations import part_of
from headstart.data.cells import label_text
from headstart.data.drawings import Drawing
from headstart.data.lists import path_texts, recognise_column, row_groups, row_parts
from headstart.data.shapes import Rectangle, Relative, Shape
from headstart.data.tables import Table, read_table
from headstart.errors import DataError, setting
from headstart.settings import ListOptions
from headstart.text import plural

ONLY = "object"
"""The class of boxes in a table that names none."""

_SIDES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("xmin", "x1", "left", "xtl", "bboxxmin", "bboxx1", "minx"), ("ymin", "y1", "top", "ytl", "bboxymin", "bboxy1", "miny"),
     ("xmax", "x2", "right", "xbr", "bboxxmax", "bboxx2", "maxx"), ("ymax", "y2", "bottom", "ybr", "bboxymax", "bboxy2", "maxy")),
    (("x", "xmin", "left", "bboxx", "bboxleft"), ("y", "ymin", "top", "bboxy", "bboxtop"),
     ("w", "width", "bboxwidth", "bboxw"), ("h", "height", "bboxheight", "bboxh")),
    (("xcenter", "xcentre", "cx", "centerx", "centrex"), ("ycenter", "ycentre", "cy", "centery", "centrey"),
     ("w", "width", "bboxwidth", "bboxw"), ("h", "height", "bboxheight", "bboxh")),
)  # fmt: skip
_CORNERS, _CORNER_AND_SIZE, _CENTRE = range(3)
_IMAGE_SIZE = (("imageheight", "imgheight", "height"), ("imagewidth", "imgwidth", "width"))
_CROWDS = ("isgroupof", "iscrowd", "difficult", "isdifficult")
_DESCRIPTIONS = ("class-descriptions-boxable.csv", "class-descriptions.csv", "oidv7-class-descriptions-boxable.csv")
_LABELS = ("categoryname", "objectname", "objectclass", "object", "name", "classid", "categoryid", "labelid", "type")
_TRUE = ("1", "true", "yes")


def is_box_table(path: Path) -> bool:
    """Whether the columns of a table have the sides of boxes and a path, by its first line."""
    try:
        with path.open("rb") as file:
            start = file.read(1 << 16)
    except OSError:
        return False
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    line = next(filter(str.strip, start.decode(encoding, "replace").splitlines()), "")
    for delimiter in (",", ";", "\t", "|"):
        try:
            header = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if len(header) >= 5 and has_boxes(header):
            return True
    return False


def has_boxes(names: Sequence[str]) -> bool:
    """Whether columns of these names have the sides of boxes and a path; or whether a line is one of `path,x1,y1,x2,y2,class` itself."""
    return (_side_columns(names) is not None and recognise_column("path", names) is not None) or _is_row(names)


def _is_row(cells: Sequence[str]) -> bool:
    return len(cells) == 6 and all(re.fullmatch(r"-?[0-9]*\.?[0-9]*", cell.strip()) for cell in cells[1:5]) and "." in cells[0]


def _plain(names: Sequence[str]) -> dict[str, str]:
    return {re.sub(r"[\W_]+", "", name.casefold()): name for name in names}


def _side_columns(names: Sequence[str]) -> tuple[int, list[str]] | None:
    """The kind of sides that the columns have, and these columns; or the one column ``bbox`` with x, y, width and height."""
    plain = _plain(names)
    for kind, sides in enumerate(_SIDES):
        found = [next((plain[name] for name in one if name in plain), None) for one in sides]
        if None not in found:
            return kind, [name for name in found if name is not None]
    return (_CORNER_AND_SIZE, [plain["bbox"]]) if "bbox" in plain else None


def read_box_table(
    path: Path, notes: list[str], *, options: ListOptions | None = None, table: Table | None = None
) -> list[Drawing]:  # fmt: skip
    """The boxes of each image; DataError where columns are missing. A row with a path alone is an image without boxes.

    What was guessed goes into `notes`. The `table` in the file may have been read before.
    """
    table = table or read_table(path)
    notes += table.notes
    names, given = [*table.columns], (options.columns if options else None) or {}
    sides = _side_columns(names)
    image = given.get("path") or recognise_column("path", names)
    if sides is None or image not in table.columns:
        raise DataError(f"{path} has no columns of boxes: xmin, ymin, xmax, ymax and a path are needed; columns found: {', '.join(names)}.")
    kind, columns = sides
    free = [name for name in names if name not in (image, *columns)]
    label = given.get("label") or recognise_column("label", free) or _label_column(free)
    others = [name for name in free if name != label and name.casefold() != "source"]  # who drew it, or where the image came from
    roles = {role: given.get(role, recognise_column(role, others)) for role in ("split", "group")}
    texts = path_texts(table.columns[image], image, path)
    parts = row_parts(table, roles["split"] or None, path, notes, explicit="split" in given)
    groups = row_groups(table, roles["group"] or None, texts, notes) or [""] * len(table)
    boxes = _boxes(table, kind, columns)
    relative = _are_relative(boxes)
    labels = _labels(table, label, path)
    if label is None:
        notes.append(f"{path.name} has no column of classes: all boxes are of the class {ONLY!r}. Columns: {', '.join(names)}.")
    if relative:
        notes.append(f"No side of a box in {path.name} is above 1: they are read as parts of the width and height of the image.")
    size, crowd = _sizes(table, free), _crowd(table, free)
    nameless = [row + 1 for row, box in enumerate(boxes) if box is not None and not labels[row]]
    if nameless:
        raise DataError(
            f"{path}: {plural(len(nameless), 'row')} with a box and no class in the column {label!r}, the first is row {nameless[0]}. "
            f"Fill it in, or remove the rows; {setting('columns', {'label': 'NAME'})} names another column."
        )
    rows = _rows_by_image(texts, image, path)
    return [
        Drawing(
            name,
            size[of[0]],
            tuple(_shape(labels[row], boxes[row], relative=relative, crowd=crowd[row]) for row in of if boxes[row] is not None),
            path,
            part=parts[of[0]] or part_of(path.stem) or "",
            group=groups[of[0]] if any(groups) else "",
        )
        for name, of in rows.items()
    ]


def _rows_by_image(texts: Sequence[str], column: str, path: Path) -> dict[str, list[int]]:
    """The rows of each image, however its path is spelled; DataError for a row without one."""
    rows = defaultdict[str, list[int]](list)
    for row, text in enumerate(texts):
        if not text.strip():
            raise DataError(f"{path}: row {row + 1} has a box and no path in the column {column!r}. Fill it in, or remove the row.")
        rows[posixpath.normpath(text.strip().replace("\\", "/"))].append(row)
    return rows


def _shape(label: str, sides: Sequence[float] | None, *, relative: bool, crowd: bool) -> Shape:
    assert sides is not None
    box = Rectangle(*sides)
    return Shape(label, Relative(box) if relative else box, crowd=crowd)


def _boxes(table: Table, kind: int, columns: Sequence[str]) -> list[tuple[float, float, float, float] | None]:
    """Left, top, right and bottom of each row; None for a row without any, nan for what is no number."""
    if len(columns) == 1:
        cells: list[Sequence[Any]] = [_four(cell) for cell in table.columns[columns[0]]]
    else:
        cells = [*zip(*(table.columns[name] for name in columns), strict=True)]
    found = list[tuple[float, float, float, float] | None]()
    for row in cells:
        if all(not label_text(cell) for cell in row):
            found.append(None)
            continue
        a, b, c, d = map(_number, row)
        if kind == _CENTRE:
            a, b = a - c / 2, b - d / 2
        found.append((a, b, c, d) if kind == _CORNERS else (a, b, a + c, b + d))
    return found


def _four(cell: Any) -> Sequence[Any]:
    numbers = [*cell] if isinstance(cell, list | tuple) else re.findall(r"[^\s,;\[\]()]+", label_text(cell))
    return numbers if len(numbers) == 4 else [""] * 4 if not numbers else ["nan"] * 4


def _number(cell: Any) -> float:
    try:
        return float(label_text(cell))
    except ValueError:
        return math.nan


def _are_relative(boxes: Sequence[tuple[float, ...] | None]) -> bool:
    """Whether the sides are parts of the image: none is above 1, and some are not whole."""
    sides = [side for box in boxes if box is not None for side in box if math.isfinite(side)]
    return bool(sides) and max(sides) <= 1.01 and any(side != int(side) for side in sides)


def _label_column(names: Sequence[str]) -> str | None:
    """A column of classes that is called otherwise than those of whole images."""
    plain = _plain(names)
    return next((plain[name] for name in _LABELS if name in plain), None)


def _labels(table: Table, label: str | None, path: Path) -> list[str]:
    if label is None:
        return [ONLY] * len(table)
    if label not in table.columns:
        raise DataError(f"{path} has no column {label!r} for the label. Columns found: {', '.join(table.columns)}.")
    texts = [label_text(cell) for cell in table.columns[label]]
    described = _descriptions(path) if any(text.startswith("/m/") for text in texts) else {}
    if not any(texts):
        return [ONLY] * len(table)
    return [described.get(text, text) for text in texts]


def _descriptions(path: Path) -> Mapping[str, str]:
    """The names of Open Images' classes, where the file with them lies beside the table."""
    file = next((path.parent / name for name in _DESCRIPTIONS if (path.parent / name).is_file()), None)
    if file is None:
        return {}
    with file.open(encoding="utf-8-sig", newline="") as lines:
        return {row[0]: row[1] for row in csv.reader(lines) if len(row) == 2}


def _sizes(table: Table, free: Sequence[str]) -> list[tuple[int, int] | None]:
    """Height and width of the image of each row, where the table has them beside the sides of boxes."""
    plain = _plain(free)
    columns = [next((plain[name] for name in one if name in plain), None) for one in _IMAGE_SIZE]
    if None in columns:
        return [None] * len(table)
    pairs = zip(*(map(_number, table.columns[name]) for name in columns if name is not None), strict=True)
    return [(int(height), int(width)) if 1 <= height < math.inf and 1 <= width < math.inf else None for height, width in pairs]


def _crowd(table: Table, free: Sequence[str]) -> list[bool]:
    plain = _plain(free)
    columns = [table.columns[plain[name]] for name in _CROWDS if name in plain]
    return [any(label_text(column[row]).casefold() in _TRUE for column in columns) for row in range(len(table))]
