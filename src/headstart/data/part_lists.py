"""Lists of names that say which image belongs to which part: ``train.txt``, ``ImageSets/Main/val.txt``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from headstart.data.annotations import part_of
from headstart.errors import DataError
from headstart.progress import Warned
from headstart.text import enumeration, plural


def listed_parts(folders: Iterable[Path], images: Sequence[str], what: str, notes: list[str]) -> tuple[dict[str, str], list[Path]]:
    """The part of each of these images, by path, that the lists in the first folder with such give; and these lists.

    Images in no list are left out by the caller, which is noted. `what` is what the images have: a mask, or boxes. DataError for an image
    in two parts.
    """
    lists = next(filter(None, map(part_lists, folders)), {})
    by_stem = {os.path.splitext(os.path.basename(path))[0].casefold(): path for path in images}  # noqa: PTH119, PTH122
    by_name = {os.path.basename(path): path for path in images}  # noqa: PTH119
    parts: dict[str, str] = {}
    for path, part in lists.items():
        unknown = list[str]()
        for line in filter(None, map(str.strip, path.read_text(encoding="utf-8", errors="replace").splitlines())):
            names = [os.path.basename(text.replace("\\", "/")) for text in (line, line.split()[0])]  # noqa: PTH119
            there = next((found for name in names if (found := by_stem.get(name.casefold()) or by_name.get(name))), None)
            if there is None:
                unknown.append(line)
            elif parts.setdefault(there, part) != part:
                raise DataError(f"{path}: {line!r} is also in the list of the part {parts[there]!r}. Keep it in one of them.")
        if unknown:
            notes.append(Warned(f"{path.name}: no image with {what} for {enumeration(unknown[:5], count=len(unknown))}."))
    if not parts:
        return {}, []
    notes.append(f"Parts from {enumeration([path.name for path in lists])} in {(next(iter(lists)).parent.name)!r}.")
    if left := len(images) - len(parts):
        notes.append(f"{plural(left, 'image')} in none of these lists: left out.")
    return parts, [*lists]


def part_lists(folder: Path) -> dict[Path, str]:
    """The lists in a folder that are called like parts; one of training and validation together only where these are not there alone."""
    if not folder.is_dir():
        return {}
    found = {path: part for path in sorted(folder.glob("*.txt")) if (part := part_of(path.stem)) and path.stem.casefold() != "trainval"}
    plain = {path: part for path, part in found.items() if "_" not in path.stem}
    if "train" in plain.values():  # beside those of single classes, as in ImageSets/Main
        return plain
    if "train" not in found.values() and (folder / "trainval.txt").is_file():
        found = {folder / "trainval.txt": "train", **{path: part for path, part in found.items() if part == "test"}}
    return found if "train" in found.values() else {}
