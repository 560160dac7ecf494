"""Annotations of YOLO: a text file for each image, with a line for each thing: the number of its class and parts of the image's sides.

A line has the centre, width and height of a box, or the corners of a polygon. The names of the classes are in ``data.yaml``,
``classes.txt``, ``obj.names`` or the like. The paths in ``data.yaml`` are those of another machine mostly: the files are
found by their names, and the ends of the paths say which part they are.

Source: https://docs.ultralytics.com/datasets/detect/
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headstart.data.class_lists import ClassList
from headstart.data.drawings import Drawing
from headstart.data.shapes import Outline, Polygons, Rectangle, Relative, Shape, corners
from headstart.data.yolo_names import find_names, is_names_file, parts_by_folder
from headstart.errors import DataError
from headstart.text import plural

MOST_BYTES = 1 << 26
_LOOKED_AT = 50  # files with lines, to tell what they are
_MOST_OTHERS = 0.5  # of the files may have other lines, where nothing else tells that these are files of YOLO
_FARTHEST = 1.5  # parts of the image: what lies farther outside is in other units


def read_yolo(images: Sequence[str], texts: Sequence[Path], folder: Path) -> list[Drawing]:
    """The shapes of each image that has a text file of its name; none where these are no files of YOLO.

    DataError where the number of a class is one that the list of classes does not have, or that list cannot be understood. A file that is
    damaged becomes a `Drawing` with its damage.
    """
    stems = {_stem(path) for path in images}
    files = [path for path in texts if path.stem.casefold() in stems and not is_names_file(path)]
    share = _share_of_yolo(files)
    if share == 0:
        return []
    listed, keypoints = find_names(folder, sorted({path.parent for path in files}))
    if share <= _MOST_OTHERS and listed is None:
        return []
    drawings = [_drawing(path, listed, keypoints) for path in files]
    if listed is not None and listed.source.lower().endswith((".yaml", ".yml")):
        parts = parts_by_folder(Path(listed.source), sorted({path.parent for path in files}))
        drawings = [replace(one, part=parts.get(one.file.parent, "")) for one in drawings]
    if listed is None:
        most = max((int(shape.label.removeprefix("class ")) for one in drawings for shape in one.shapes), default=0)
        listed = ClassList(tuple(f"class {number}" for number in range(most + 1)), tuple(range(most + 1)), None, "")
    return [replace(one, classes=listed) for one in drawings]


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0].casefold()  # noqa: PTH119, PTH122 - called for every file


def _share_of_yolo(files: Sequence[Path]) -> float:
    """The share of the first files with lines that have numbers in them as YOLO has."""
    told = list[bool]()
    for path in files:
        if len(told) == _LOOKED_AT:
            break
        try:
            with path.open("rb") as file:
                line = next(filter(None, (line.strip() for line in file.read(4096).splitlines())), b"")
        except OSError:
            continue
        if line:
            told.append(_numbers(line.decode("utf-8", "replace").lstrip("\ufeff")) is not None)
    return sum(told) / max(len(told), 1)


def _numbers(line: str) -> list[float] | None:
    """The numbers of a line: five or more, the first whole; None for other lines."""
    try:
        numbers = [float(text) for text in line.replace(",", " ").split()]
    except ValueError:
        return None
    return numbers if len(numbers) >= 5 and numbers[0].is_integer() else None


def _drawing(path: Path, listed: ClassList | None, keypoints: int) -> Drawing:
    """What a file says; ids are positions in the list of classes."""
    shapes, passed = list[Shape](), Counter[str]()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path.stat().st_size} bytes; at most {MOST_BYTES} are read")
        text = path.read_bytes().decode("utf-8-sig")
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            values = _numbers(line)
            if values is None:
                raise DataError(f"line {number} is not the number of a class and four numbers or more: {line.strip()[:60]!r}")
            shapes.append(Shape(_label(int(values[0]), listed, path, number), _outline(values[1:], keypoints, number)))
            if keypoints:
                passed["lists of key points"] += 1
    except _WrongClassError:
        raise
    except (OSError, UnicodeDecodeError, DataError) as error:
        return Drawing(path.stem, None, (), path, own=True, damage=str(error))
    return Drawing(path.stem, None, tuple(shapes), path, own=True, passed=passed)


class _WrongClassError(DataError):
    pass


def _label(number: int, listed: ClassList | None, path: Path, line: int) -> str:
    if listed is None and number >= 0:
        return f"class {number}"
    if listed is None or number not in listed.values:
        known = "numbers count from 0" if listed is None else (
            f"{Path(listed.source).name} has {plural(len(listed.names), 'class')}, {min(listed.values)} to {max(listed.values)}"
        )  # fmt: skip
        raise _WrongClassError(
            f"{path}, line {line}: the class {number}, and {known}. Add the name, or count from 0 in the files: YOLO's first class is 0."
        )
    return listed.names[listed.values.index(number)]


def _outline(values: Sequence[float], keypoints: int, line: int) -> Outline:
    """The box or polygon of a line, in parts of the image; a fifth number after a box is a score of some detector."""
    if not all(math.isfinite(value) for value in values):
        raise DataError(f"line {line} has numbers that are none")
    sides = list(values[:4] if keypoints or len(values) == 5 else values)
    if max(map(abs, sides)) > _FARTHEST:
        raise DataError(f"line {line} has {max(sides, key=abs):g} where parts of the image, 0 to 1, are expected")
    if len(sides) == 4:
        x, y, width, height = sides
        return Relative(Rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(sides) % 2 or len(sides) < 6:
        raise DataError(f"line {line} has {len(values) + 1} numbers: neither a box nor the corners of a polygon")
    return Relative(Polygons((corners(sides),)))
