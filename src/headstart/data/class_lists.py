"""Lists of classes beside masks: which value or colour of a mask stands for which class."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import DataError

LIST_NAMES = (
    "classes.txt", "labelmap.txt", "label_map.txt", "labels.txt", "class_names.txt", "names.txt", "label_colors.txt", "label_colours.txt",
    "colormap.txt", "class_dict.csv", "classes.csv", "labelmap.csv", "classes.json", "labelmap.json", "label_map.json",
    "labels.json", "class_names.json", "id2label.json", "_classes.csv",
)  # fmt: skip
"""What a list of classes is called, the likeliest first."""

_VOID = re.compile(r"(void|ignored?|un+label+ed|border|dontcare)(class|label|region|pixels?|area)?")
MOST = 254  # classes: 255 is kept for pixels without one
Colour = int


@dataclass(frozen=True)
class ClassList:
    """What a list says of the classes of masks, in its order.

    Attributes:
        names: a name for each entry; what is called void, ignored or unlabelled is no class, see `is_void`.
        values: the value of each entry in a mask of indices.
        colours: the colour of each entry (red << 16 | green << 8 | blue), or None where the list has none.
        source: the file, for messages.
        from_zero: whether the values follow from the order alone.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    colours: tuple[Colour, ...] | None
    source: str
    from_zero: bool = True


VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC = ClassList(names=VOC_NAMES, values=tuple(range(len(VOC_NAMES))), colours=None, source="Pascal VOC")
"""The classes of Pascal VOC, whose masks lie in ``SegmentationClass``."""


def is_void(name: str) -> bool:
    """Whether pixels of this name have no class: void, ignore, unlabelled and the like."""
    return _VOID.fullmatch(re.sub(r"[\W_]+", "", name.casefold())) is not None


def find_class_list(folders: Sequence[Path]) -> ClassList | None:
    """The list of classes in the first of these folders that has one; DataError where it cannot be understood."""
    for folder in folders:
        try:
            present = {path.name.lower(): path for path in folder.iterdir() if path.is_file()}
        except OSError:
            continue
        for name in LIST_NAMES:
            if name in present:
                return read_class_list(present[name])
    return None


def read_class_list(path: Path) -> ClassList:
    """Read a list of classes: names, one in each line, with or without numbers or colours; or JSON. DataError for what is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: the list of classes cannot be read ({getattr(error, 'strerror', None) or error}); save it in UTF-8"
        ) from None
    entries = _json_entries(text, path) if path.suffix.lower() == ".json" else _text_entries(text, path)
    if not entries:
        raise DataError(f"{path}: the list of classes is empty; write one name in each line, the class of value 0 first")
    names = [name for name, _, _ in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: the class {twice!r} is listed twice; rename one of them")
    colours = [colour for _, _, colour in entries]
    if None not in colours and len({*colours}) < len(colours):
        same = next(colour for colour in colours if colours.count(colour) > 1)
        alike = [name for name, colour in zip(names, colours, strict=True) if colour == same]
        raise DataError(f"{path}: {alike[0]!r} and {alike[1]!r} have the same colour {colour_text(same or 0)}; give each its own")
    numbered = [value for _, value, _ in entries]
    given = None not in numbered and len({*numbered}) == len(numbered)
    return ClassList(
        names=tuple(names),
        values=tuple(value or 0 for value in numbered) if given else tuple(range(len(names))),
        colours=None if None in colours else tuple(colour or 0 for colour in colours),
        source=str(path),
        from_zero=not given,
    )


def colour_text(colour: Colour) -> str:
    """A colour as red, green and blue: ``128,0,0``."""
    return f"{colour >> 16 & 255},{colour >> 8 & 255},{colour & 255}"


Entry = tuple[str, int | None, Colour | None]
_SPLIT = re.compile(r"[,;\t ]+")


def _text_entries(text: str, path: Path) -> list[Entry]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("# ", "#\t", "//"))]
    for reader in (_with_parts, _with_colours, _numbered):
        entries = [reader(line) for line in lines]
        if len(lines) > 1 and entries[0] is None and all(entries[1:]):  # a line of column names
            entries = entries[1:]
        if entries and all(entries):
            return [entry for entry in entries if entry is not None]
    if path.suffix.lower() == ".csv":
        cells = [_SPLIT.split(line)[0].strip('"') for line in lines]
        return [(cell, None, None) for cell in (cells[1:] if cells and cells[0].casefold() in ("name", "class", "label") else cells)]
    return [(line, None, None) for line in lines]


def _with_parts(line: str) -> Entry | None:
    """``name:r,g,b:parts:actions``, as CVAT writes it."""
    name, *rest = line.rsplit(":", 3) if line.count(":") >= 3 else line.rsplit(":", 1)
    colour = _colour(_SPLIT.split(rest[0].strip())) if rest else None
    return None if colour is None or not name.strip() else (name.strip(), None, colour)


def _with_colours(line: str) -> Entry | None:
    """``name r g b`` or ``r g b name``, perhaps with a number before it; separated by spaces, tabs, commas or semicolons."""
    pieces = [piece.strip('"') for piece in _SPLIT.split(line) if piece]
    if len(pieces) < 4:
        return None
    if (colour := _colour(pieces[-3:])) is not None and not pieces[0].isdecimal():
        return " ".join(pieces[:-3]), None, colour
    if colour is not None and len(pieces) > 4 and pieces[0].isdecimal():
        return " ".join(pieces[1:-3]), int(pieces[0]), colour
    colour = _colour(pieces[:3])
    return None if colour is None else (" ".join(pieces[3:]), None, colour)


def _numbered(line: str) -> Entry | None:
    """``0 name``, ``0: name``, ``0,name`` or ``name,0``."""
    if found := re.fullmatch(r"([0-9]{1,5})\s*[:,;=\t ]\s*(.*\D.*)", line):
        return found[2].strip().strip('"'), int(found[1]), None
    if found := re.fullmatch(r"(.*\D.*?)\s*[:,;=\t]\s*([0-9]{1,5})", line):
        return found[1].strip().strip('"'), int(found[2]), None
    return None


def _colour(pieces: Sequence[Any]) -> Colour | None:
    if len(pieces) != 3 or not all(re.fullmatch("[0-9]{1,3}", str(piece)) and int(piece) <= 255 for piece in pieces):
        return None
    red, green, blue = map(int, pieces)
    return red << 16 | green << 8 | blue


def _json_entries(text: str, path: Path) -> list[Entry]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: the list of classes is not JSON: {error}") from None
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(inner := next(iter(value.values())), list | dict):
        value = inner  # {"classes": [...]}
    entries = [_json_entry(one) for one in (value.items() if isinstance(value, Mapping) else value if isinstance(value, list) else [None])]
    if None in entries:
        raise DataError(
            f'{path}: the list of classes is not understood; expected ["sky", "road"], {{"0": "sky"}}, {{"sky": 0}}, '
            '{"sky": [0, 128, 0]} or [{"name": "sky", "id": 0, "color": [0, 128, 0]}]'
        )
    return [entry for entry in entries if entry is not None]


def _json_entry(one: Any) -> Entry | None:
    if isinstance(one, str):
        return one, None, None
    if isinstance(one, tuple):
        key, value = one
        if isinstance(value, str):
            return (value, int(key), None) if key.isdecimal() else _named(key, None, value)
        if isinstance(value, bool):
            return None
        return (key, value, None) if isinstance(value, int) and value >= 0 else _named(key, None, value)
    if isinstance(one, Mapping):
        name = next((one[key] for key in ("name", "label", "class", "readable") if isinstance(one.get(key), str)), None)
        number = next((one[key] for key in ("id", "value", "index", "trainId") if isinstance(one.get(key), int)), None)
        colour = next((one[key] for key in ("color", "colour", "rgb") if key in one), None)
        return None if name is None else _named(name, number, colour) if colour is not None else (name, number, None)
    return None


def _named(name: str, number: int | None, colour: Any) -> Entry | None:
    if isinstance(colour, str) and re.fullmatch("#[0-9a-fA-F]{6}", colour):
        return name, number, int(colour[1:], 16)
    found = _colour(colour) if isinstance(colour, list) else None
    return None if found is None else (name, number, found)
