"""Annotation files of COCO, LabelMe, CVAT and others: found in a folder, or given by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from headstart.data.annotations import BOX, Annotations
from headstart.data.box_tables import is_box_table, read_box_table
from headstart.data.coco import is_coco, read_coco
from headstart.data.cvat import is_cvat, read_cvat
from headstart.data.drawings import Drawing, annotations_of
from headstart.data.label_studio import is_label_studio, read_label_studio
from headstart.data.labelme import is_labelme, read_labelme
from headstart.data.listing import RUN_FILES, Tree
from headstart.data.shapes import DrawnShapes
from headstart.data.voc import is_voc, read_voc
from headstart.data.xml_documents import MOST_BYTES
from headstart.data.yolo import read_yolo
from headstart.data.yolo_names import read_yaml_names
from headstart.errors import DataError
from headstart.progress import Warned
from headstart.text import enumeration, plural

_DEPTH = 3  # folders below the one given
_MARKS = ((b'"images"', b'"annotations"', b'"categories"'), (b'"shapes"', b'"imagePath"'))
_MARKS_OF_BOXES = (
    *_MARKS,
    (b'"annotations"', b'"result"'),
    (b'"original_width"', b'"original_height"'),
    (b'"image"', b'"rectanglelabels"'),
)
_ENDS = 1 << 16  # bytes at each end of a file in which some of the marks stand
_PREFERRED = "instances"  # what COCO calls the file of things, beside those of key points and captions
_TABLES = (".csv", ".tsv")
_DOCUMENTS = (".json", ".xml")


def read_drawing_folder(source: Path) -> Annotations | None:
    """Read the annotation files in a folder of images; None where there are none with shapes. DataError for what is damaged."""
    files = [path for path in _documents(os.fspath(source), _DOCUMENTS) if _may_be_annotations(path, _MARKS)]
    if instances := [path for path in files if path.name.startswith(_PREFERRED)]:
        files = instances
    drawings = [drawing for path in files for drawing in _drawings(path)]
    return annotations_of(drawings, source, source) if any(one.has_mask for one in drawings) else None


def read_box_folder(source: Path) -> Annotations | None:
    """Read the files with boxes, or with shapes that have one around, in a folder of images; None where there are none.

    Of several formats the first is read that says something of an image. DataError for what is damaged, as of `annotations_of`.
    """
    files = [*_documents(os.fspath(source), (*_DOCUMENTS, *_TABLES, ".txt"), dotted=True)]
    formats: dict[str, Callable[[], list[Drawing]]] = {
        "COCO": lambda: _coco(files),
        "Pascal VOC": lambda: _voc(files),
        "CVAT": lambda: [one for path in files if _suffix(path) == ".xml" and _may_be_annotations(path, ()) for one in _read_cvat(path)],
        "LabelMe": lambda: [read_labelme(value, path) for path, value in _documents_of(files) if is_labelme(value)],
        "Label Studio": lambda: [
            one for path, value in _documents_of(files) if is_label_studio(value) for one in read_label_studio(value, path)
        ],
        "YOLO": lambda: _yolo(files, source),
        "CSV": lambda: [one for path in files if _suffix(path) in _TABLES and is_box_table(path) for one in read_box_table(path)],
    }
    found = {name: read() for name, read in formats.items()}
    found = {name: drawings for name, drawings in found.items() if any(one.shapes or one.damage for one in drawings)}
    if not found:
        return None
    kind, drawings = next(iter(found.items()))
    read = annotations_of(drawings, source, source, column=BOX, kind=f"the annotations of {kind}", silence=kind == "YOLO")
    if others := [*found][1:]:
        counts = [f"{plural(len({one.file for one in found[name]}), 'file')} of {name}" for name in others]
        read.notes.append(Warned(f"Boxes are read from {kind}; passed over: {enumeration(counts)}."))
    return read


def read_drawing_file(path: Path, image_root: Path | None) -> Annotations | None:
    """Read one annotation file; its images lie below `image_root`, by default the folder of the file or the one above it.

    None for a file of another kind, one of boxes only, and one of LabelMe, which is for a single image.
    """
    drawings = _drawings(path) if _may_be_annotations(path, _MARKS) else []
    if not any(one.has_mask for one in drawings) or (_suffix(path) == ".json" and is_labelme(_json(path))):
        return None
    return annotations_of(drawings, path, _above(path) if image_root is None else image_root)


def read_box_file(path: Path, image_root: Path | None) -> Annotations | None:
    """Read one annotation file with boxes, or with shapes that have one around, as `read_drawing_file` does; or ``data.yaml`` of YOLO.

    None for a file of another kind, and one that is for a single image.
    """
    suffix, root = _suffix(path), image_root
    if suffix in (".yaml", ".yml"):
        folder = path.absolute().parent if path.parent == Path() else path.parent
        return read_box_folder(root or folder) if read_yaml_names(path) is not None else None
    drawings, kind = list[Drawing](), ""
    if suffix == ".xml" and is_cvat(data := _bytes(path)):
        drawings, kind = read_cvat(data, path), "CVAT"
    elif suffix == ".json" and _may_be_annotations(path, _MARKS_OF_BOXES):
        value = _json(path)
        if is_coco(value, boxes=True):
            drawings, kind = read_coco(value, path), "COCO"
        elif is_label_studio(value):
            drawings, kind = read_label_studio(value, path), "Label Studio"
    if not any(one.shapes for one in drawings):
        return None
    return annotations_of(drawings, path, _above(path) if root is None else root, column=BOX, kind=f"the annotations of {kind}")


def _above(path: Path) -> Path:
    folder = path.absolute().parent if path.parent == Path() else path.parent
    return folder.parent if folder.name.casefold() in ("annotations", "labels") else folder


class DrawingFiles:
    """Annotation files that a list names; each is read once."""

    def __init__(self) -> None:
        self._drawings = cache(_drawings)

    def mask(self, file: Path, image: str) -> DrawnShapes:
        """What a file says of an image, by its name and as much of its folders as is needed; DataError where it says nothing of it."""
        drawings = self._drawings(file)
        if len(drawings) == 1:  # one of LabelMe, whose image may have another name by now
            return drawings[0].on(image)
        name = image.replace(os.sep, "/")
        found = [one for one in drawings if one.image.rpartition("/")[2] == name.rpartition("/")[2]]
        exact = [one for one in found if f"/{name}".endswith(f"/{one.image.lstrip('./')}")]
        for chosen in (exact, found):
            if len(chosen) == 1:
                return chosen[0].on(image)
        raise DataError(f"{file}: {'nothing is said of' if not found else 'it is not clear which image is'} {image}.")


def _coco(files: Sequence[Path]) -> list[Drawing]:
    """The boxes of COCO's files; those of things, where there are such beside those of key points."""
    found = [path for path in files if _suffix(path) == ".json" and _may_be_annotations(path, _MARKS)]
    if instances := [path for path in found if path.name.startswith(_PREFERRED)]:
        found = instances
    return [one for path in found if is_coco(value := _json(path), boxes=True) for one in read_coco(value, path)]


def _voc(files: Sequence[Path]) -> list[Drawing]:
    """The files of Pascal VOC, and all others in their folders, which are damaged."""
    documents = [path for path in files if _suffix(path) == ".xml"]
    folders = {path.parent for path in documents if is_voc(_start(path))}
    return [_read_voc(path) for path in documents if path.parent in folders]


def _read_voc(path: Path) -> Drawing:
    try:
        return read_voc(_bytes(path), path)
    except DataError as error:
        return Drawing(path.stem, None, (), path, own=True, damage=str(error))


def _read_cvat(path: Path) -> list[Drawing]:
    data = _bytes(path)
    return read_cvat(data, path) if is_cvat(data) else []


def _documents_of(files: Sequence[Path]) -> Iterator[tuple[Path, Any]]:
    """The JSON files that look like annotations, opened."""
    return ((path, _json(path)) for path in files if _suffix(path) == ".json" and _may_be_annotations(path, _MARKS_OF_BOXES))


def _yolo(files: Sequence[Path], source: Path) -> list[Drawing]:
    texts = [path for path in files if _suffix(path) == ".txt"]
    return read_yolo(Tree().collect(os.fspath(source)), texts, source) if texts else []


def _documents(folder: str, suffixes: Sequence[str], depth: int = 0, *, dotted: bool = False) -> Iterator[Path]:
    """The files with these endings, to some depth; in folders with a dot in their names only where that is asked for."""
    below, files, names = list[str](), list[str](), set[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.add(entry.name)
                if entry.name.startswith("."):
                    continue
                if os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():  # noqa: PTH122
                    files.append(entry.path)
                elif (dotted or "." not in entry.name) and entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
    except OSError:
        return  # told where images are looked for
    if names >= RUN_FILES:
        return
    yield from map(Path, sorted(files))
    for one in sorted(below) if depth < _DEPTH else ():
        yield from _documents(one, suffixes, depth + 1, dotted=dotted)


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""


def _may_be_annotations(path: Path, known: Sequence[Sequence[bytes]]) -> bool:
    """Whether a file looks like one of these formats, by its two ends."""
    try:
        with path.open("rb") as file:
            ends = file.read(_ENDS)
            if path.suffix.lower() == ".xml":
                return b"<annotations" in ends
            file.seek(max(path.stat().st_size - _ENDS, 0))
            ends += file.read(_ENDS)
    except OSError:
        return False
    return any(sum(mark in ends for mark in marks) >= 2 for marks in known)


def _drawings(path: Path) -> list[Drawing]:
    if _suffix(path) == ".xml":
        return _read_cvat(path)
    value = _json(path)
    if is_coco(value):
        return read_coco(value, path)
    return [read_labelme(value, path)] if is_labelme(value) else []


def _json(path: Path) -> Any:
    try:
        return json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: the annotations are not JSON: {error}. Export them again.") from None


def _bytes(path: Path) -> bytes:
    """The content of a file; DataError where it cannot be read, or is larger than anything that is one annotation file."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; at most {MOST_BYTES} are read. Export it in parts.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
