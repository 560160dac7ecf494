"""The names of classes beside files of YOLO: ``data.yaml``, ``classes.txt``, ``obj.names``, ``_darknet.labels``, ``notes.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headstart.data.class_lists import ClassList, read_class_list
from headstart.errors import DataError

_LISTS = ("classes.txt", "obj.names", "_darknet.labels", "notes.json", "class_names.txt", "labels.txt", "names.txt", "class.names")
_OTHERS = ("readme.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "trainval.txt", "predefined_classes.txt", "requirements.txt")
_TOP = re.compile(r"([A-Za-z_][\w-]*)\s*:(?:\s+(.*)|)$")
_MOST_BYTES = 1 << 22


def is_names_file(path: Path) -> bool:
    """Whether a file is called like a list of classes, or of images, and not like an annotation."""
    name = path.name.casefold()
    return name in _LISTS or name in _OTHERS or name.startswith("readme.")


def find_names(folder: Path, beside: Sequence[Path]) -> tuple[ClassList | None, int]:
    """The list of classes in a folder, in folders of annotations or in those above these; and the number of key points of each thing.

    DataError where it cannot be understood.
    """
    above = [one for path in beside for one in (path, *path.parents) if one == folder or folder in one.parents]
    folders = [*dict.fromkeys([folder, *above])]
    for one in folders:
        for path in _yaml_files(one):
            if (found := read_yaml_names(path)) is not None:
                return found
    for one in folders:
        present = {path.name.casefold(): path for path in _files(one)}
        names = [present[name] for name in _LISTS if name in present] or sorted(
            path for path in present.values() if path.suffix == ".names"
        )
        if names:
            return _read_list(names[0]), 0
    return None, 0


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except OSError:
        return


def _yaml_files(folder: Path) -> list[Path]:
    found = [path for path in _files(folder) if path.suffix.lower() in (".yaml", ".yml") and path.stat().st_size <= _MOST_BYTES]
    return sorted(found, key=lambda path: (path.stem.casefold() not in ("data", "dataset"), path.name))


def _read_list(path: Path) -> ClassList:
    if path.suffix.lower() == ".json":
        try:
            categories = json.loads(path.read_bytes())["categories"]
            return ClassList(
                tuple(str(one["name"]) for one in categories), tuple(int(one["id"]) for one in categories), None, str(path), False
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: the list of classes is damaged: {type(error).__name__} {error}. Export it again.") from None
    return read_class_list(path)


def read_yaml_names(path: Path) -> tuple[ClassList, int] | None:
    """The names in a file of YOLO, and the number of key points; None for other files. DataError where the names cannot be understood."""
    blocks = _read_blocks(path)
    if "names" not in blocks:
        return None
    names = _names(blocks["names"])
    twice = next((name for name in names.values() if [*names.values()].count(name) > 1), None)
    if not names or min(names) < 0 or twice is not None:
        what = f"the class {twice!r} is listed twice" if twice is not None else "'names' holds no list of classes"
        raise DataError(f"{path}: {what}. Expected: names: [cat, dog]")
    points = re.findall(r"[0-9]+", " ".join(blocks.get("kpt_shape", [])))
    return ClassList(tuple(names.values()), tuple(names), None, str(path)), int(points[0]) if points else 0


def parts_by_folder(path: Path, folders: Sequence[Path]) -> dict[Path, str]:
    """The part of each folder of annotations that the paths ``train``, ``val`` and ``test`` in a file of YOLO mean.

    A path is that of another machine mostly: its end tells, as far as it is there. Nothing where two parts are one folder.
    """
    blocks, found = _read_blocks(path), dict[Path, str]()
    for key in ("train", "val", "valid", "test"):
        pieces = _pieces(Path(_unquoted(blocks.get(key, [""])[0].strip("[]- ")).replace("\\", "/")))
        for count in range(len(pieces), 0, -1):
            there = [folder for folder in folders if _pieces(folder)[-count:] == pieces[-count:]]
            if there and pieces[-count:] != ["images"]:
                if any(folder in found for folder in there):
                    return {}
                found |= dict.fromkeys(there, "val" if key == "valid" else key)
                break
    return found if len({*found.values()}) > 1 else {}


def _pieces(folder: Path) -> list[str]:
    return ["images" if name == "labels" else name for name in folder.parts if name not in ("", ".", "..", "/")]


def _read_blocks(path: Path) -> dict[str, list[str]]:
    try:
        lines = path.read_bytes().decode("utf-8-sig", "replace").splitlines()
    except OSError:
        return {}
    return _blocks([_without_comment(line) for line in lines])


def _blocks(lines: Sequence[str]) -> dict[str, list[str]]:
    """The lines of each entry at the left margin, the rest of its own line first."""
    blocks, current = dict[str, list[str]](), list[str]()
    for line in lines:
        if (top := _TOP.fullmatch(line)) is not None:
            current = blocks.setdefault(top[1], [])
            current.append(top[2] or "")
        else:
            current.append(line)
    return {name: [line.strip() for line in block if line.strip()] for name, block in blocks.items()}


def _without_comment(line: str) -> str:
    return re.sub(r"""^((?:[^'"#]|'[^']*'|"[^"]*")*?)(?:(?<=\s)|^)#.*$""", r"\1", line).rstrip()


def _names(block: Sequence[str]) -> dict[int, str]:
    """Names by number: ``[a, b]``, ``{0: a}``, or a line for each with ``- a`` or ``0: a``."""
    text = " ".join(block)
    if text[:1] in "[{" and text[-1:] in "]}":
        items = [item.strip() for item in re.findall(r"""(?:[^,'"]|'(?:[^']|'')*'|"[^"]*")+""", text[1:-1])]
    else:
        items = [re.sub(r"^-\s*", "", line) for line in block]
    found = dict[int, str]()
    for place, item in enumerate(filter(None, items)):
        numbered = re.fullmatch(r"""['"]?([0-9]+)['"]?\s*:\s*(.+)""", item)
        number, name = (int(numbered[1]), numbered[2]) if numbered else (place, item)
        found[number] = _unquoted(name.strip())
    return found


def _unquoted(text: Any) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return str(text[1:-1]).replace("''", "'") if text[0] == "'" else str(text[1:-1])
    return str(text)
