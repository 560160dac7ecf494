"""Annotation files of COCO, LabelMe and CVAT: found in a folder, or given by name."""

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
from headstart.data.shapes import ShapeMask
from headstart.errors import DataError

_DEPTH = 3  # folders below the one given
_MARKS = ((b'"images"', b'"annotations"', b'"categories"'), (b'"shapes"', b'"imagePath"'))
_ENDS = 1 << 16  # bytes at each end of a file in which some of the marks stand
_PREFERRED = "instances"  # what COCO calls the file of things, beside those of key points and captions


def read_drawing_folder(source: Path) -> Annotations | None:
    """Read the annotation files in a folder of images; None where there are none with shapes. DataError for what is damaged."""
    files = [path for path in _documents(os.fspath(source)) if _may_be_annotations(path)]
    if instances := [path for path in files if path.name.startswith(_PREFERRED)]:
        files = instances
    drawings = [drawing for path in files for drawing in _drawings(path)]
    return annotations_of(drawings, source, source) if _has_masks(drawings) else None


def read_drawing_file(path: Path, image_root: Path | None) -> Annotations | None:
    """Read one annotation file; its images lie below `image_root`, by default the folder of the file or the one above it.

    None for a file of another kind, one of boxes only, and one of LabelMe, which is for a single image.
    """
    drawings = _drawings(path) if _may_be_annotations(path) else []
    if not _has_masks(drawings) or (path.suffix.lower() == ".json" and is_labelme(_json(path))):
        return None
    folder = path.absolute().parent if path.parent == Path() else path.parent
    above = folder.parent if folder.name.casefold() in ("annotations", "labels") else folder
    return annotations_of(drawings, path, above if image_root is None else image_root)


class DrawingFiles:
    """Annotation files that a list names; each is read once."""

    def __init__(self) -> None:
        self._drawings = cache(_drawings)

    def mask(self, file: Path, image: str) -> ShapeMask:
        """What a file says of an image, by its name and as much of its folders as is needed; DataError where it says nothing of it."""
        drawings = self._drawings(file)
        if len(drawings) == 1:  # one of LabelMe, whose image may have another name by now
            return drawings[0].mask(image)
        name = image.replace(os.sep, "/")
        found = [one for one in drawings if one.image.rpartition("/")[2] == name.rpartition("/")[2]]
        exact = [one for one in found if f"/{name}".endswith(f"/{one.image.lstrip('./')}")]
        for chosen in (exact, found):
            if len(chosen) == 1:
                return chosen[0].mask(image)
        raise DataError(f"{file}: {'nothing is said of' if not found else 'it is not clear which image is'} {image}.")


def _has_masks(drawings: Sequence[Drawing]) -> bool:
    """Whether some shape is more than a box: boxes alone are for detection."""
    return any(len(drawing.shapes) > drawing.boxes for drawing in drawings)


def _documents(folder: str, depth: int = 0) -> Iterator[Path]:
    below, files, names = list[str](), list[str](), set[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.add(entry.name)
                if entry.name.startswith("."):
                    continue
                if entry.name.endswith((".json", ".xml", ".JSON", ".XML")) and entry.is_file():
                    files.append(entry.path)
                elif "." not in entry.name and entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
    except OSError:
        return  # told where images are looked for
    if names >= RUN_FILES:
        return
    yield from map(Path, sorted(files))
    for one in sorted(below) if depth < _DEPTH else ():
        yield from _documents(one, depth + 1)


def _may_be_annotations(path: Path) -> bool:
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
    return any(sum(mark in ends for mark in marks) >= 2 for marks in _MARKS)


def _drawings(path: Path) -> list[Drawing]:
    if path.suffix.lower() == ".xml":
        data = path.read_bytes()
        return read_cvat(data, path) if is_cvat(data) else []
    value = _json(path)
    if is_coco(value):
        return read_coco(value, path)
    return [read_labelme(value, path)] if is_labelme(value) else []


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: the annotations are not JSON: {error}. Export them again.") from None
