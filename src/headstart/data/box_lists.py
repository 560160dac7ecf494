"""Lists with the boxes of an image in one cell, in JSON or as Parquet and JSON lines have it: as runs and public sets write them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart.data.annotations import BOX, Annotations, Column
from headstart.data.cells import label_text
from headstart.data.drawings import parsing
from headstart.data.lists import existing_files, path_texts, recognise_column, row_groups, row_parts
from headstart.data.shapes import DrawnShapes, Rectangle, Shape
from headstart.data.tables import Table
from headstart.errors import DataError
from headstart.settings import ListOptions
from headstart.text import plural

NAMES = ("boxes", "objects", "bboxes", "boundingboxes")
"""What a column of boxes is called, letters and digits only."""
_LABELS = ("label", "class", "category", "name", "category_name")


def read_box_list(table: Table, source: Path, options: ListOptions) -> Annotations | None:
    """Read the rows of a list; None where no column holds boxes. An image with an empty cell or ``[]`` has none.

    DataError where files are missing, a cell is damaged, or an image is listed twice with different boxes.
    """
    column = _box_column(table)
    given = options.columns or {}
    path = given.get("path") or recognise_column("path", [name for name in table.columns if name != column])
    if column is None or path is None or path not in table.columns:
        return None
    others = [name for name in table.columns if name not in (column, path)]
    roles = {role: given.get(role, recognise_column(role, others)) for role in ("split", "group")}
    notes = list(table.notes)
    root = source.parent if options.image_root is None else Path(options.image_root).expanduser()
    texts = [text.strip() for text in path_texts(table.columns[path], path, source)]
    nameless = [row for row, text in enumerate(texts, 1) if not text]
    if nameless:
        raise DataError(f"{plural(len(nameless), 'row')} of {source} without the path of an image: row {nameless[0]}. Fill it in.")
    parts = row_parts(table, roles["split"] or None, source, notes, explicit="split" in given)
    groups = row_groups(table, roles["group"] or None, texts, notes)
    images = existing_files(texts, range(len(texts)), root, source, notes, allow_missing=options.allow_missing)
    drawn, kept = dict[str, DrawnShapes](), list[int]()
    for row, image in images.items():
        found = DrawnShapes(str(source), image, None, shapes_in(table.columns[column][row], source, row + 1))
        if image not in drawn:
            drawn[image] = found
            kept.append(row)
        elif [(one.label, one.outline) for one in drawn[image].shapes] != [(one.label, one.outline) for one in found.shapes]:
            raise DataError(f"{source}: {image} is listed twice, with different boxes. Keep one of the rows.")
    if len(kept) < len(images):
        notes.append(f"Passed over {plural(len(images) - len(kept), 'row')} that list an image again.")
    values = [drawn[images[row]] for row in kept]
    return Annotations(
        inputs=tuple(Path(images[row]) for row in kept),
        columns={BOX: Column(list(values), [table.columns[column][row] for row in kept], f"the column {column!r} of {source.name}")},
        parts=[parts[row] for row in kept],
        groups=None if groups is None else [groups[row] for row in kept],
        grouped_by="" if groups is None else f"the column {roles['group']!r} of {source.name}",
        source=str(source),
        root=root,
        notes=notes,
        learned=(),
        reason=f"{source} lists boxes, and nothing says which class an image as a whole has.",
    )


def _box_column(table: Table) -> str | None:
    plain = {re.sub(r"[\W_]+", "", name.casefold()): name for name in table.columns}
    named = next((plain[name] for name in NAMES if name in plain), None)
    cells = [cell for cell in table.columns.get(named or "", []) if cell is not None and cell != ""]
    return named if cells and all(isinstance(cell, list | dict) or str(cell).lstrip()[:1] in ("[", "{") for cell in cells) else None


def shapes_in(cell: Any, source: Path, row: int, *, names: Sequence[str] | None = None) -> tuple[Shape, ...]:
    """The boxes in a cell: ``[{"label": "cat", "box": [left, top, right, bottom]}]``, or ``bbox`` with x, y, width and height.

    Labels are positions in `names`, where these are given. DataError, with the row, for what is damaged.
    """
    if cell is None or cell == "":
        return ()
    with parsing(source, f'in row {row} a list of boxes such as [{{"label": "cat", "box": [left, top, right, bottom]}}]'):
        value = json.loads(cell) if isinstance(cell, str) else cell
        if isinstance(value, Mapping):  # lists side by side: {"bbox": [...], "category": [...]}
            boxes = value["bbox"] if "bbox" in value else value["boxes"]
            labels = next((value[name] for name in (*_LABELS, "categories", "labels", "classes") if name in value), [None] * len(boxes))
            value = [{"label": label, "bbox": box} for label, box in zip(labels, boxes, strict=True)]
        return tuple(_shape(one, names) for one in value)


def _shape(one: Mapping[str, Any], names: Sequence[str] | None) -> Shape:
    given = next((one[name] for name in _LABELS if name in one), None)
    label = label_text(given) if names is None or given is None else names[int(given)]
    if not label:
        raise ValueError("a box without a label")
    if "box" in one:
        left, top, right, bottom = map(_number, one["box"])
    else:
        left, top, width, height = map(_number, one["bbox"])
        right, bottom = left + width, top + height
    return Shape(label, Rectangle(left, top, right, bottom), crowd=bool(one.get("crowd") or one.get("iscrowd")))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
