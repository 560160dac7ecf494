"""Annotation files with boxes, of all formats that are known: found in a folder, or given by name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from headstart.data.annotations import BOX, Annotations
from headstart.data.box_tables import is_box_table, read_box_table
from headstart.data.coco import is_coco, read_coco
from headstart.data.drawing_files import (
    COCO_MARKS,
    LABELME_MARKS,
    PREFERRED,
    cvat_drawings,
    documents,
    images_of,
    may_be_annotations,
    read_bytes,
    read_json,
)  # fmt: skip
from headstart.data.drawings import Drawing, annotations_of
from headstart.data.label_studio import is_label_studio, read_label_studio
from headstart.data.labelme import is_labelme, read_labelme
from headstart.data.listing import Tree
from headstart.data.voc import is_voc, read_voc
from headstart.data.yolo import read_yolo
from headstart.data.yolo_names import read_yaml_names
from headstart.errors import DataError
from headstart.progress import Warned
from headstart.text import enumeration, plural

_LABEL_STUDIO = ((b'"annotations"', b'"result"'), (b'"original_width"', b'"original_height"'), (b'"image"', b'"rectanglelabels"'))
_TABLES = (".csv", ".tsv")
_FORMATS = ("COCO", "Pascal VOC", "CVAT", "LabelMe", "Label Studio", "YOLO", "CSV")
"""Of several in one folder the first is read."""


def read_box_folder(source: Path) -> Annotations | None:
    """Read the files with boxes, or with shapes that have one around, in a folder of images; None where there are none.

    Of several formats the first is read that says something of an image. DataError for what is damaged, as of `annotations_of`.
    """
    files = defaultdict[str, list[Path]](list)
    for path in documents(os.fspath(source), (".json", ".xml", ".txt", *_TABLES), dotted=True):
        files[path.suffix.lower()].append(path)
    notes = list[str]()
    found = {**_of_json(files[".json"]), "Pascal VOC": _voc(files[".xml"])}
    found["CVAT"] = [one for path in files[".xml"] if may_be_annotations(path, ()) for one in cvat_drawings(path)]
    found["YOLO"] = read_yolo(Tree().collect(os.fspath(source)), files[".txt"], source) if files[".txt"] else []
    tables = [path for suffix in _TABLES for path in files[suffix] if is_box_table(path)]
    found["CSV"] = [one for path in tables for one in read_box_table(path, notes)]
    kinds = [name for name in _FORMATS if any(one.shapes or one.damage for one in found.get(name, ()))]
    if not kinds:
        return None
    read = annotations_of(found[kinds[0]], source, source, column=BOX, kind=f"the annotations of {kinds[0]}", silence=kinds[0] == "YOLO")
    read.notes[:0] = notes if kinds[0] == "CSV" else []
    if any(one.classes is not None and not one.classes.source for one in (found["YOLO"] if kinds[0] == "YOLO" else ())):
        read.notes.append(
            f"No file names the classes of YOLO: write their names, one a line from that of class 0, into {source / 'classes.txt'}."
        )
    if others := kinds[1:]:
        counts = [f"{plural(len({one.file for one in found[name]}), 'file')} of {name}" for name in others]
        read.notes.append(Warned(f"Boxes are read from {kinds[0]}; passed over: {enumeration(counts)}."))
    return read


def read_box_file(path: Path, image_root: Path | None) -> Annotations | None:
    """Read one annotation file with boxes, or with shapes that have one around; or all files beside ``data.yaml`` of YOLO.

    Its images lie below `image_root`, by default the folder of the file or the one above it. None for a file of another kind, and one that
    is for a single image.
    """
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        folder = path.absolute().parent if path.parent == Path() else path.parent
        return read_box_folder(image_root or folder) if read_yaml_names(path) is not None else None
    found: dict[str, list[Drawing]] = {"CVAT": cvat_drawings(path)} if suffix == ".xml" else _of_json([path]) if suffix == ".json" else {}
    kind = next((name for name in ("COCO", "CVAT", "Label Studio") if any(one.shapes for one in found.get(name, ()))), None)
    if kind is None:
        return None
    root = images_of(path) if image_root is None else image_root
    return annotations_of(found[kind], path, root, column=BOX, kind=f"the annotations of {kind}")


def _of_json(files: Sequence[Path]) -> dict[str, list[Drawing]]:
    """What JSON files say, by format, each opened once; of COCO's the files of things, where there are such."""
    instances = any(path.name.startswith(PREFERRED) and may_be_annotations(path, COCO_MARKS) for path in files)
    found: dict[str, list[Drawing]] = {"COCO": [], "LabelMe": [], "Label Studio": []}
    for path in files:
        if instances and not path.name.startswith(PREFERRED) and may_be_annotations(path, COCO_MARKS):
            continue
        if may_be_annotations(path, LABELME_MARKS):
            found["LabelMe"] += [one for one in (_or_damage(_labelme, path),) if one is not None]
        elif may_be_annotations(path, (*COCO_MARKS, *_LABEL_STUDIO)):
            value = read_json(path)
            if is_coco(value, boxes=True):
                found["COCO"] += read_coco(value, path)
            elif is_label_studio(value):
                found["Label Studio"] += read_label_studio(value, path)
    found["LabelMe"] += _cut_off(files, found["LabelMe"])
    return found


def _cut_off(files: Sequence[Path], read: Sequence[Drawing]) -> list[Drawing]:
    """Of files beside those that were read for one image each, the ones that are no JSON at all: cut off before it shows what they are."""
    folders, known = {one.file.parent for one in read}, {one.file for one in read}
    beside = [path for path in files if path.parent in folders and path not in known and not may_be_annotations(path, COCO_MARKS)]
    return [one for path in beside if (one := _or_damage(_labelme, path)) is not None and one.damage]


def _or_damage(read: Callable[[Path], Drawing | None], path: Path) -> Drawing | None:
    """What a file says of its one image; where it is damaged, why."""
    try:
        return read(path)
    except DataError as error:
        return Drawing(path.stem, None, (), path, own=True, damage=str(error))


def _labelme(path: Path) -> Drawing | None:
    value = read_json(path)
    return read_labelme(value, path) if is_labelme(value) else None


def _voc(files: Sequence[Path]) -> list[Drawing]:
    """The files of Pascal VOC, and all others in their folders, which are damaged."""
    folders = {path.parent for path in files if is_voc(_start(path))}
    read = [_or_damage(lambda path: read_voc(read_bytes(path), path), path) for path in files if path.parent in folders]
    return [one for one in read if one is not None]


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""
