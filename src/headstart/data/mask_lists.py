"""Lists of images and masks: a table with the path of an image and of its mask, or of the annotation file it is in, in each row."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from headstart.data.annotations import LABEL, MASK, Annotations, Column
from headstart.data.cells import read_cells
from headstart.data.class_lists import ClassList, find_class_list
from headstart.data.drawing_files import DrawingFiles
from headstart.data.lists import existing_files, path_texts, recognise_column, row_groups, row_parts
from headstart.data.masks import MaskFile, PictureMask
from headstart.data.tables import Table
from headstart.errors import DataError, setting
from headstart.modalities.image import is_image_name
from headstart.progress import Warned
from headstart.settings import ListOptions
from headstart.text import enumeration, plural

NAMES = (
    "mask", "masks", "maskpath", "maskfile", "maskfilename", "maskname", "segmentation", "segmentationpath", "segmentationmask",
    "segmentationfile", "annotation", "annotationpath", "annotationfile", "labelpath", "labelfile", "groundtruth", "groundtruthpath", "gt",
    "gtpath",
)  # fmt: skip
"""What a column of masks is called, letters and digits only, the likeliest first; else it is the column of labels, if that holds paths."""
_MOST_MISSING = 0.5  # of the images may lack a mask


def read_mask_list(table: Table, source: Path, options: ListOptions) -> Annotations | None:
    """Read the rows of a list; None where no column holds the paths of masks.

    Where there is a column of labels as well, and every row has one, it is read, too; then rows may lack a mask, and what is learned are
    the masks only where all of them have one. Else rows without a mask are left out, and noted. DataError where files are missing, most
    rows have no mask, or an image is listed twice with different masks or labels.
    """
    column = _mask_column(table, options)
    given = options.columns or {}
    if column is None or column == given.get("path"):
        return None
    others = [name for name in table.columns if name != column]
    path = given.get("path") or recognise_column("path", others) or (others[0] if len(others) == 1 else None)
    if path is None or path not in table.columns:
        return None  # told where labels are read
    roles = {role: given.get(role, recognise_column(role, [name for name in others if name != path])) for role in ("split", "group")}
    labels = _labels_beside(table, {column, path, *roles.values()}, source)
    notes = list(table.notes)
    root = source.parent if options.image_root is None else Path(options.image_root).expanduser()
    texts = [text.strip() for text in path_texts(table.columns[path], path, source)]
    masks = [text.strip() for text in path_texts(table.columns[column], column, source)]
    parts = row_parts(table, roles["split"] or None, source, notes, explicit="split" in given)
    groups = row_groups(table, roles["group"] or None, texts, notes)
    rows = _rows_with_masks(texts, masks, column, source, notes, labelled=labels is not None)
    images = existing_files(texts, rows, root, source, notes, allow_missing=options.allow_missing)
    there = [row for row in rows if row in images and masks[row]]
    files = existing_files(masks, there, root, source, notes, allow_missing=options.allow_missing)
    kept = _distinct(
        images, [row for row in images if row in files or (labels is not None and not masks[row])], files, labels, source, notes
    )
    lists, drawn = dict[str, ClassList | None](), DrawingFiles()
    values: list[MaskFile | None] = [
        None if row not in files
        else drawn.mask(Path(files[row]), images[row]) if _is_document(files[row])
        else _mask(files[row], root, lists) for row in kept
    ]  # fmt: skip
    columns = {MASK: Column(list(values), [masks[row] for row in kept], f"the column {column!r} of {source.name}")}
    return Annotations(
        inputs=tuple(Path(images[row]) for row in kept),
        columns=columns if labels is None else {LABEL: labels.take(kept), **columns},
        parts=[parts[row] for row in kept],
        groups=None if groups is None else [groups[row] for row in kept],
        grouped_by="" if groups is None else f"the column {roles['group']!r} of {source.name}",
        source=str(source),
        root=root,
        notes=notes,
        learned=() if labels is None or None not in values else (LABEL,),
    )


def _labels_beside(table: Table, used: Collection[str | None], source: Path) -> Column | None:
    """The labels in the column that is called so; None where there is none, or a row has no label."""
    name = recognise_column("label", [name for name in table.columns if name not in used])
    if name is None:
        return None
    cells = list(table.columns[name])
    try:
        values = read_cells(cells, notes=[])
    except DataError:
        return None
    return Column([*values], cells, f"the column {name!r} of {source.name}") if all(values) else None


def _mask_column(table: Table, options: ListOptions) -> str | None:
    """The column that holds masks: the one given for the label, or the one called like masks, or like labels; all its cells are files."""
    named = (options.columns or {}).get("label") or (options.labels[0] if len(options.labels) == 1 else None)
    if named is None:
        plain = {re.sub(r"[\W_]+", "", name.casefold()): name for name in table.columns}
        named = next((plain[name] for name in NAMES if name in plain), None) or recognise_column("label", table.columns)
    cells = [cell for cell in table.columns.get(named or "", []) if not (cell is None or cell == "")]
    return named if cells and all(isinstance(cell, str) and (is_image_name(cell.strip()) or _is_document(cell)) for cell in cells) else None


def _is_document(name: str) -> bool:
    return name.strip().lower().endswith((".json", ".xml"))


def _rows_with_masks(
    texts: Sequence[str], masks: Sequence[str], column: str, source: Path, notes: list[str], *, labelled: bool
) -> list[int]:  # fmt: skip
    """The rows that have a mask, or a label in its place."""
    lacking = [text for text, mask in zip(texts, masks, strict=True) if text and not mask]
    nameless = [str(row) for row, text in enumerate(texts, 1) if not text]
    if nameless:
        raise DataError(
            f"{plural(len(nameless), 'row')} of {source} without the path of an image: {enumeration(nameless[:5], count=len(nameless))}. "
            "Fill it in, or remove the rows."
        )
    if labelled:
        return list(range(len(texts)))
    if len(lacking) > _MOST_MISSING * len(texts):
        raise DataError(
            f"{len(lacking)} of {plural(len(texts), 'row')} of {source} have no mask in the column {column!r}, for example "
            f"{enumeration(lacking[:3])}. Fill them in, or remove the rows."
        )
    if lacking:
        names = enumeration(lacking[:5], count=len(lacking))
        notes.append(Warned(f"Left out {plural(len(lacking), 'image')} without a mask: {names}."))
    return [row for row, mask in enumerate(masks) if mask]


def _distinct(
    images: Mapping[int, str], rows: Sequence[int], files: Mapping[int, str], labels: Column | None, source: Path, notes: list[str]
) -> list[int]:  # fmt: skip
    """The rows, each image once; DataError for an image with two masks or labels."""
    first: dict[str, int] = {}
    again = list[str]()
    for row in rows:
        other = first.setdefault(images[row], row)
        if files.get(other) != files.get(row):
            raise DataError(f"{source}: {images[row]} has two masks: {files.get(other)} and {files.get(row)}. Keep one of the rows.")
        if labels is not None and labels.values[other] != labels.values[row]:
            raise DataError(
                f"{source}: {images[row]} has two labels: {labels.values[other]} and {labels.values[row]}. Keep one of the rows."
            )
        if other != row:
            again.append(images[row])
    if again:
        notes.append(f"Passed over {plural(len(again), 'row')} that list an image again: {enumeration(again[:5], count=len(again))}.")
    if not first:
        raise DataError(f"no row of {source} has both an image and a mask; {setting('image_root')} says where the paths begin")
    return [*first.values()]


def _mask(path: str, root: Path, lists: dict[str, ClassList | None]) -> PictureMask:
    """A mask with the list of classes in its folder, in one above it up to that of the list, or beside the list.

    Where the masks lie elsewhere, as for the list of a run, in up to two folders above theirs: ``masks/test`` has it two above.
    """
    folder = os.path.dirname(path)  # noqa: PTH120
    if folder not in lists:
        above = [Path(folder), *Path(folder).parents]
        lists[folder] = find_class_list(above[: above.index(root) + 1] if root in above else [*above[:3], root])
    return PictureMask(path, lists[folder])
