"""Annotation files of COCO, LabelMe and CVAT, for masks: found in a folder, or given by name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from headstart.data.annotations import Annotations
from headstart.data.coco import is_coco, read_coco
from headstart.data.cvat import is_cvat, read_cvat
from headstart.data.drawings import Drawing, annotations_of
from headstart.data.labelme import is_labelme, read_labelme
from headstart.data.listing import RUN_FILES
from headstart.data.shapes import DrawnShapes
from headstart.data.xml_documents import MOST_BYTES
from headstart.errors import DataError

_DEPTH = 3  # folders below the one given
COCO_MARKS = (
    (b'"images"', b'"annotations"', b'"categories"'),
    (b'"images"', b'"category_id"'),  # where the others are in the middle of a large file
    (b'"categories"', b'"category_id"'),
    (b'"annotations"', b'"file_name"'),
)
"""What a file of COCO has in it: two entries of one of these lines."""
LABELME_MARKS = ((b'"shapes"', b'"imagePath"'),)
"""What a file of LabelMe has in it."""
_MARKS = (*COCO_MARKS, *LABELME_MARKS)
_ENDS = 1 << 16  # bytes at each end of a file in which some of the marks stand
PREFERRED = "instances"
"""What COCO calls the file of things, beside those of key points and captions."""
_DOCUMENTS = (".json", ".xml")


def read_drawing_folder(source: Path) -> Annotations | None:
    """Read the annotation files in a folder of images; None where there are none with shapes. DataError for what is damaged."""
    files = [path for path in documents(os.fspath(source), _DOCUMENTS) if may_be_annotations(path, _MARKS)]
    if instances := [path for path in files if path.name.startswith(PREFERRED)]:
        files = instances
    drawings = [drawing for path in files for drawing in _drawings(path)]
    return annotations_of(drawings, source, source) if any(one.has_mask for one in drawings) else None


def read_drawing_file(path: Path, image_root: Path | None) -> Annotations | None:
    """Read one annotation file; its images lie below `image_root`, by default the folder of the file or the one above it.

    None for a file of another kind, one of boxes only, and one of LabelMe, which is for a single image.
    """
    drawings = _drawings(path) if may_be_annotations(path, _MARKS) else []
    if not any(one.has_mask for one in drawings) or (_suffix(path) == ".json" and is_labelme(read_json(path))):
        return None
    return annotations_of(drawings, path, images_of(path) if image_root is None else image_root)


def images_of(path: Path) -> Path:
    """The folder below which the images of an annotation file are: its own, or the one above."""
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


def cvat_drawings(path: Path) -> list[Drawing]:
    """The drawings in a file of CVAT; none in other XML."""
    data = read_bytes(path)
    return read_cvat(data, path) if is_cvat(data) else []


def documents(folder: str, suffixes: Sequence[str], depth: int = 0, *, dotted: bool = False) -> Iterator[Path]:
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
        yield from documents(one, suffixes, depth + 1, dotted=dotted)


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def may_be_annotations(path: Path, known: Sequence[Sequence[bytes]]) -> bool:
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
        return cvat_drawings(path)
    value = read_json(path)
    if is_coco(value):
        return read_coco(value, path)
    return [read_labelme(value, path)] if is_labelme(value) else []


def read_json(path: Path) -> Any:
    """A JSON document; DataError for what is none."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: the annotations are not JSON: {error}. Export them again.") from None


def read_bytes(path: Path) -> bytes:
    """The content of a file; DataError where it cannot be read, or is larger than anything that is one annotation file."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; at most {MOST_BYTES} are read. Export it in parts.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
