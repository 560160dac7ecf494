"""Folders as data sets: ``DATA/CLASS/*`` and ``DATA/{train,val,test}/CLASS/*``, images found at any depth below a class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from headstart.data.annotations import PART_NAMES, Annotations
from headstart.data.labels import natural_order, shortened
from headstart.errors import DataError
from headstart.modalities.image import is_image_name
from headstart.text import printable

LAYOUT = (
    "The layout must be DATA/CLASS/image.jpg or DATA/train/CLASS/image.jpg (beside train also val and test), "
    "with one folder for each class; or give a CSV list with the columns path and label."
)
SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir", "__pycache__", "icon\r"})
RUN_FILES = frozenset({"manifest.json", "model.onnx", "head.safetensors"})  # together the mark of a run folder
_MAX_DESCENT = 5


class Tree:
    """Lists folders, each once, and keeps account of what was passed over."""

    def __init__(self) -> None:
        self.hidden = 0
        self.others: Counter[str] = Counter()
        self.broken_links: list[str] = []
        self.loops: list[str] = []
        self.unreadable: list[str] = []
        self.runs: list[str] = []
        self._listed: dict[str, tuple[list[str], list[str]]] = {}

    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the paths of the folders and of the images directly in `folder`, each sorted."""
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        return self._listed[folder]

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        folders: list[str] = []
        images: list[str] = []
        others: Counter[str] = Counter()
        names: set[str] = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    names.add(name)
                    if name[0] == "." or name.lower() in SYSTEM_NAMES:
                        self.hidden += 1
                    elif entry.is_dir():
                        folders.append(entry.path)
                    elif not entry.is_file():
                        (self.broken_links.append(entry.path) if entry.is_symlink() else others.update(["special"]))
                    elif is_image_name(name):
                        images.append(entry.path)
                    else:
                        others[os.path.splitext(name)[1].lower() or "without a suffix"] += 1  # noqa: PTH122 - called for every file
        except OSError as error:
            self.unreadable.append(f"{folder} ({error.strerror or error})")
        if names >= RUN_FILES:  # pictures of an earlier run are no data
            self.runs.append(folder)
            return [], []
        self.others.update(others)
        return sorted(folders), sorted(images)

    def collect(self, folder: str, *, above: Iterable[str] = ()) -> list[str]:
        """Return the images at any depth below `folder`, sorted; each real folder is entered once, and none of those in `above`."""
        entered = {_identity(path) for path in above}
        found: list[str] = []
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            identity = _identity(current)
            if identity in entered:
                if current not in self.loops:
                    self.loops.append(current)
                continue
            entered.add(identity)
            folders, images = self.listing(current)
            found += images
            waiting += reversed(folders)
        return sorted(found)

    def notes(self, root: str) -> list[str]:
        """Return one sentence for each kind of thing passed over."""
        notes = []
        if self.hidden:
            notes.append(f"Passed over {self.hidden} hidden or system files or folders.")
        if self.others:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in self.others.most_common(6))
            notes.append(f"Passed over {self.others.total()} files that are not images: {kinds}.")
        for paths, what in (
            (self.broken_links, "links that lead nowhere"),
            (self.loops, "links to folders that were read already (or lead in a circle)"),
            (self.unreadable, "folders that cannot be read"),
            (self.runs, "run folders that `headstart fit` wrote"),
        ):
            if paths:
                notes.append(f"Passed over {len(paths)} {what}: {shortened([_below(path, root) for path in sorted(paths)], limit=3)}.")
        return notes


def _identity(folder: str) -> tuple[int, int] | str:
    try:
        status = os.stat(folder)  # noqa: PTH116 - paths are strings here, for speed
    except OSError:
        return folder
    return (status.st_dev, status.st_ino)


def _below(path: str, root: str) -> str:
    return printable(path.removeprefix(root).lstrip(os.sep))


def _name(folder: str) -> str:
    return printable(os.path.basename(folder))  # noqa: PTH119 - paths are strings here, for speed


def part_of(name: str) -> str | None:
    """Return "train", "val" or "test" for the ways people write them, else None."""
    return PART_NAMES.get(name.strip().casefold().replace("-", "_").replace(" ", "_"))


def read_folder(source: Path) -> Annotations:
    """Read a folder of class folders.

    Raises:
        DataError: the folder holds no images, or images without class folders, or a folder that cannot be read.
    """
    tree = Tree()
    notes: list[str] = []
    root = _descend(tree, os.fspath(source), notes)
    parts = _part_folders(tree, root)
    rows: list[tuple[str, str, str]] = []  # part, class, path
    if parts:
        for part, folder in parts:
            rows += _read_classes(tree, folder, part, notes, above=[root])
        _note_part_folders(tree, root, parts, notes)
    else:
        rows = _read_classes(tree, root, "", notes)
        rows = _parts_below_classes(root, rows, notes)
        _note_deeper_classes(tree, root, notes)
    if tree.unreadable:
        raise DataError(
            f"{len(tree.unreadable)} folder{'s' if len(tree.unreadable) > 1 else ''} cannot be read, so that images would be missing: "
            f"{shortened([printable(folder) for folder in sorted(tree.unreadable)], limit=3)}. Check the permissions, or move it away."
        )
    if not rows:
        raise DataError(_nothing_found(tree, root, source))
    order = {name: i for i, name in enumerate(natural_order(label for _, label, _ in rows))}
    rank = {"train": 0, "": 0, "val": 1, "test": 2}
    rows.sort(key=lambda row: (rank[row[0]], order[row[1]], row[2]))
    return Annotations.labelled(
        tuple(Path(path) for _, _, path in rows),
        [label for _, label, _ in rows],
        origin="the names of the folders",
        parts=[part for part, _, _ in rows],
        source=str(source),
        root=Path(root),
        notes=notes + tree.notes(root),
    )


def _descend(tree: Tree, start: str, notes: list[str]) -> str:
    """Step into a folder that holds nothing but one folder of folders, as unpacked archives often have it."""
    root = start
    folders, images = tree.listing(root)
    if tree.unreadable:
        raise DataError(f"the folder {printable(tree.unreadable[0])} cannot be read; check its permissions")
    for _ in range(_MAX_DESCENT):
        if images or len(folders) != 1 or part_of(_name(folders[0])):
            break
        below, images = tree.listing(folders[0])
        if images or not below or _identity(folders[0]) == _identity(root):
            break
        root, folders = folders[0], below
    if root != start:
        notes.append(f"Read from {_below(root, start)!r}, the only folder in {printable(start)}.")
    return root


def _part_folders(tree: Tree, root: str) -> list[tuple[str, str]]:
    """Return (part, folder) if the folders in `root` are parts; an empty list if they are classes.

    A class may be called "train": its folder then holds images, and not folders of classes.
    """
    folders, _ = tree.listing(root)
    named = [(part, folder) for folder in folders if (part := part_of(_name(folder)))]
    others = [folder for folder in folders if not part_of(_name(folder)) and tree.collect(folder, above=[root])]
    if not others:
        return named
    with_classes = {part for part, folder in named if len(tree.listing(folder)[0]) > 1 and not tree.listing(folder)[1]}
    return named if "train" in with_classes and len(with_classes) > 1 else []


def _read_classes(tree: Tree, folder: str, part: str, notes: list[str], *, above: Iterable[str] = ()) -> list[tuple[str, str, str]]:
    folders, direct = tree.listing(folder)
    rows: list[tuple[str, str, str]] = []
    empty = []
    for class_folder in folders:
        found = tree.collect(class_folder, above=[*above, folder])
        rows += [(part, _name(class_folder), path) for path in found]
        if not found:
            empty.append(_name(class_folder))
    where = f"{_name(folder)}/" if part else "the data folder"
    if direct and (part == "train" or not part) and not rows:
        raise DataError(
            f"{len(direct)} images lie directly in {printable(folder)}, and there are no class folders with images in it. {LAYOUT}"
        )
    if direct:
        notes.append(f"Passed over {len(direct)} images directly in {where}: they are in no class folder, so nothing says what they show.")
    if empty:
        notes.append(f"No images in {len(empty)} class folder{'s' * (len(empty) > 1)} of {where}: {shortened(natural_order(empty))}.")
    return rows


def _note_part_folders(tree: Tree, root: str, parts: list[tuple[str, str]], notes: list[str]) -> None:
    for part in dict.fromkeys(part for part, _ in parts):
        same = [_name(folder) for known, folder in parts if known == part]
        if len(same) > 1:
            notes.append(f"The folders {' and '.join(map(repr, same))} are read as one part, {part!r}.")
    others = [folder for folder in tree.listing(root)[0] if not part_of(_name(folder))]
    count = sum(len(tree.collect(folder, above=[root])) for folder in others)
    if count:
        beside = shortened([_name(folder) for _, folder in parts])
        notes.append(f"Passed over {count} images in {shortened([_name(folder) for folder in others])}, which stand beside {beside}.")
    direct = tree.listing(root)[1]
    if direct:
        notes.append(f"Passed over {len(direct)} images directly in the data folder: they are in no class folder.")


def _parts_below_classes(root: str, rows: list[tuple[str, str, str]], notes: list[str]) -> list[tuple[str, str, str]]:
    """Recognise ``DATA/CLASS/{train,test}/*``: every image lies in such a folder, and there is more than one part."""
    parts: list[str] = []
    for _, _, path in rows:
        pieces = Path(path).relative_to(root).parts
        part = part_of(pieces[1]) if len(pieces) > 2 else None
        if part is None:
            return rows
        parts.append(part)
    if len(set(parts)) < 2:
        return rows
    notes.append(f"The folders inside the classes name the parts: {shortened(sorted(set(parts)))}.")
    return [(part, label, path) for part, (_, label, path) in zip(parts, rows, strict=True)]


def _note_deeper_classes(tree: Tree, root: str, notes: list[str]) -> None:
    """Point out folders that all hold folders of the same names: these may be the classes that were meant."""
    folders = [folder for folder in tree.listing(root)[0] if any(tree.listing(folder))]
    if len(folders) < 2 or any(tree.listing(folder)[1] for folder in folders):
        return
    shared = set.intersection(*({_name(below) for below in tree.listing(folder)[0]} for folder in folders))
    if len(shared) > 1 and not all(part_of(name) for name in shared):
        names = shortened([_name(folder) for folder in folders], limit=4)
        notes.append(
            f"Read as the classes {names}. Each of these folders holds the folders {shortened(natural_order(shared), limit=4)}: "
            "if those are the classes that you mean, give one of the folders."
        )


def _nothing_found(tree: Tree, root: str, source: Path) -> str:
    met = [note for note in tree.notes(root) if note]
    if not met and not tree.listing(root)[0]:
        return f"the folder {printable(str(source))} is empty. {LAYOUT}"
    return f"there are no images in {printable(str(source))} or below it. {' '.join(met)}{' ' if met else ''}{LAYOUT}"
