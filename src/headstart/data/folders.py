"""Folders as data sets: ``DATA/CLASS/*`` and ``DATA/{train,val,test}/CLASS/*``, images found at any depth below a class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from headstart.data.annotations import Annotations, part_of
from headstart.data.labels import natural_order, shortened
from headstart.errors import DataError, nearest, setting
from headstart.modalities.image import is_image_name
from headstart.progress import Listener, Warned
from headstart.text import enumeration, plural, printable

LAYOUT = (
    "The layout must be DATA/CLASS/image.jpg or DATA/train/CLASS/image.jpg (beside train also val and test), "
    "with one folder for each class; or give a CSV list with the columns path and label."
)
SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir", "__pycache__", "icon\r"})
RUN_FILES = frozenset({"manifest.json", "model.onnx", "head.safetensors"})  # together the mark of a run folder
NO_IMAGES = frozenset({
    ".txt", ".md", ".log", ".ini", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".htm", ".py", ".ipynb", ".db",
    ".npy", ".npz", ".parquet", ".pkl", ".xmp", ".aae", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".zip", ".tar", ".gz",
    ".tgz", ".7z", ".rar", ".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".mp3", ".wav",
})  # fmt: skip
"""What `predict` and the like pass over in a folder, and name; all else is an input, and read or refused by its content."""

_HIDDEN = "hidden or system file"
_MAX_DESCENT = 5
Row = tuple[str, str, str]  # part, class, path


class PassedOver:
    """What was passed over, by kind: how many, and the first five paths."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[Any]] = {}

    def add(self, kind: str, path: str) -> None:
        """Count something of a kind, such as ``link``."""
        count, *names = self._kinds.get(kind, [0])
        self._kinds[kind] = [count + 1, *sorted([*names, path])[:5]]

    def notes(self, root: str = "") -> list[str]:
        """A sentence for each kind, with the paths below a folder."""
        return [
            f"Passed over {plural(count, kind)}: {enumeration([_below(path, root) or path for path in paths], count=count)}."
            for kind, (count, *paths) in self._kinds.items()
        ]


def tell_passed(notes: Iterable[str], listener: Listener) -> None:
    """Say what was passed over; as a warning where it is more than what systems hide."""
    for note in notes:
        (listener.say if _HIDDEN in note else listener.left_out)(note)


class Tree:
    """Lists folders, each once, and notes what is `passed` over; `listing` gives the sorted paths of folders and of images in one."""

    def __init__(self) -> None:
        self.passed, self.unreadable, self._repeated = PassedOver(), list[str](), set[str]()
        self.listing = cache(self._list)

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        folders, images, others, names = list[str](), list[str](), list[tuple[str, str]](), set[str]()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    names.add(name)
                    if _is_hidden(name):
                        self.passed.add(_HIDDEN, entry.path)
                    elif entry.is_dir():
                        folders.append(entry.path)
                    elif not entry.is_file():
                        others.append(("broken link" if entry.is_symlink() else "special file", entry.path))
                    elif is_image_name(name):
                        images.append(entry.path)
                    else:
                        others.append(("non-image file", entry.path))
        except OSError as error:
            self.unreadable.append(f"{folder} ({error.strerror or error})")
        if names >= RUN_FILES:  # pictures of an earlier run are not data
            self.passed.add("run folder", folder)
            return [], []
        for kind, path in others:
            self.passed.add(kind, path)
        return sorted(folders), sorted(images)

    def collect(self, folder: str, *, above: Iterable[str] = ()) -> list[str]:
        """Return the images at any depth below `folder`, sorted; each real folder is entered once, and none of those in `above`."""
        entered = {_identity(path) for path in above}
        found: list[str] = []
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            identity = _identity(current)
            if identity not in entered:
                entered.add(identity)
                folders, images = self.listing(current)
                found += images
                waiting += reversed(folders)
            elif current not in self._repeated:
                self._repeated.add(current)
                self.passed.add("repeated folder", current)
        return sorted(found)


def _is_hidden(name: str) -> bool:
    return name[0] == "." or name.lower() in SYSTEM_NAMES


def _identity(folder: str) -> tuple[int, int] | str:
    try:
        status = os.stat(folder)  # noqa: PTH116 - paths are strings here, for speed
    except OSError:
        return folder
    return (status.st_dev, status.st_ino)


def _below(path: str, root: str) -> str:
    return printable(path.removeprefix(root).lstrip(os.sep) if root else path)


def _name(folder: str) -> str:
    return printable(os.path.basename(folder))  # noqa: PTH119 - paths are strings here, for speed


def read_folder(source: Path) -> Annotations:
    """Read a folder of class folders; DataError where it holds no images, images without class folders, or a folder that is unreadable."""
    tree = Tree()
    notes: list[str] = []
    root = _descend(tree, os.fspath(source), notes)
    parts = _part_folders(tree, root)
    if parts:
        rows = [row for part, folder in parts for row in _read_classes(tree, folder, part, notes, above=[root])]
        _note_part_folders(tree, root, parts, notes)
        _note_deeper_classes(tree, parts[0][1], notes)
    else:
        rows = _parts_below_classes(root, _read_classes(tree, root, "", notes), notes)
        if not any(part for part, _, _ in rows):
            _note_deeper_classes(tree, root, notes)
    if tree.unreadable:
        raise DataError(
            f"{plural(len(tree.unreadable), 'folder')} cannot be read, so that images would be missing: "
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
        notes=notes + tree.passed.notes(root),
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

    Beside other folders, one that is called like a part is a part if it holds folders of classes; a class may be called "train", too.
    DataError where only the part to test on is called so.
    """
    folders, _ = tree.listing(root)
    named = [(part, _inside(tree, folder, part)) for folder in folders if (part := part_of(_name(folder)))]
    others = [folder for folder in folders if not part_of(_name(folder)) and tree.collect(folder, above=[root])]
    if not others:
        return named
    parts = {part: folder for part, folder in named if len(_with_images(tree, folder)) > 1}
    if parts and "train" not in parts:
        part, folder = next(iter(parts.items()))
        raise DataError(
            f"{printable(root)} holds the part {part!r} and none that is called train; beside it: {shortened([*map(_name, others)])}. "
            f"If the training images are there, give {printable(others[0])!r} as the data, with {setting('test', printable(folder))}."
        )
    return named if parts else []


def _inside(tree: Tree, folder: str, part: str) -> str:
    """The folder of a part; where archives were unpacked into folders of their own names, the inner one."""
    folders, images = tree.listing(folder)
    return folders[0] if not images and len(folders) == 1 and part_of(_name(folders[0])) == part else folder


def _with_images(tree: Tree, folder: str) -> list[str]:
    """The folders in a folder that hold images at any depth."""
    return [below for below in tree.listing(folder)[0] if tree.collect(below, above=[folder])]


def _read_classes(tree: Tree, folder: str, part: str, notes: list[str], *, above: Iterable[str] = ()) -> list[Row]:
    folders, direct = tree.listing(folder)
    found = {class_folder: tree.collect(class_folder, above=[*above, folder]) for class_folder in folders}
    rows = [(part, _name(class_folder), path) for class_folder, paths in found.items() for path in paths]
    empty = [_name(class_folder) for class_folder, paths in found.items() if not paths]
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
        notes.append(Warned(f"Passed over {count} images in {shortened([*map(_name, others)])}, which are beside {beside}."))
    direct = tree.listing(root)[1]
    if direct:
        notes.append(f"Passed over {len(direct)} images directly in the data folder: they are in no class folder.")


def _parts_below_classes(root: str, rows: list[Row], notes: list[str]) -> list[Row]:
    """Recognise ``DATA/CLASS/{train,test}/*``: every image lies in such a folder, and there is more than one part."""
    pieces = [Path(path).relative_to(root).parts for _, _, path in rows]
    parts = [part_of(names[1]) if len(names) > 2 else None for names in pieces]
    named = {part for part in parts if part is not None}
    if None in parts or len(named) < 2:
        return rows
    notes.append(f"The folders inside the classes name the parts: {shortened(sorted(named))}.")
    return [(part or "", label, path) for part, (_, label, path) in zip(parts, rows, strict=True)]


def _note_deeper_classes(tree: Tree, root: str, notes: list[str]) -> None:
    """Point out classes that hold no images themselves, only folders: these may be the classes, or parts, that were meant."""
    deep = {folder: _with_images(tree, folder) for folder in tree.listing(root)[0] if not tree.listing(folder)[1]}
    deep = {folder: below for folder, below in deep.items() if below}
    if all(len(below) == 1 for below in deep.values()) and len({_name(below[0]) for below in deep.values()}) == 1:
        return  # CLASS/images/*, say
    folder, below = max(deep.items(), key=lambda item: len(item[1]), default=(root, []))
    if below:
        names = shortened([_name(one) for one in deep], limit=4)
        inner = shortened(natural_order(map(_name, below)), limit=4)
        notes.append(
            Warned(
                f"Read as the class{'es' * (len(deep) > 1)} {names}, which hold{'s' * (len(deep) == 1)} folders and no images directly. "
                f"{_name(folder)!r} holds the folders {inner}: if those are the classes that you mean, "
                f"give the folder {printable(folder)!r}."
            )
        )


def _nothing_found(tree: Tree, root: str, source: Path) -> str:
    met = tree.passed.notes(root)
    if not met and not tree.listing(root)[0]:
        return f"the folder {printable(str(source))} is empty. {LAYOUT}"
    return f"there are no images in {printable(str(source))} or below it. {' '.join(met)}{' ' if met else ''}{LAYOUT}"


def list_images(sources: Iterable[str | Path], listener: Listener | None = None) -> list[Path]:
    """Return the paths of `inputs`; `listener` is told what was passed over."""
    passed = PassedOver()
    found = [Path(path) for path, _ in inputs(sources, passed)]
    tell_passed(passed.notes(), listener or Listener())
    return found


def inputs(
    sources: Iterable[str | Path], passed: PassedOver, *, in_order: Callable[[Iterator[str]], Iterable[str]] = sorted
) -> Iterator[tuple[str, str]]:
    """Yield the path and the name below its source of each given file, and in the place of a folder of all that may be images below it.

    What is not there or cannot be read is yielded as well, for the others to be done and it to be refused with a reason. DataError where no
    source holds anything.
    """
    missing, given = list[str](), list(map(Path, sources))
    for source in given:
        root, empty = str(source), True
        for path in in_order(_files_below(root, passed)) if source.is_dir() else ():
            empty = False
            yield path, path.removeprefix(root).lstrip(os.sep)
        if empty and source.is_dir():
            missing.append(f"{source}: no images at any depth below this folder. {' '.join(passed.notes())}".rstrip())
        elif empty and not os.path.lexists(source):
            beside = [entry.name for entry in source.parent.iterdir()] if source.parent.is_dir() else []
            missing.append(f"{source}: no such file or folder.{nearest(source.name, beside)}")
        if empty:
            yield root, source.name
    if missing and len(missing) == len(given):
        raise DataError(missing[0])


def _files_below(root: str, passed: PassedOver) -> Iterator[str]:
    """What may be an image below a folder, and folders that cannot be read, in any order; each real folder is entered once."""
    entered, waiting = set[Any](), [root]
    while waiting:
        folder = waiting.pop()
        if (identity := _identity(folder)) in entered:
            passed.add("repeated folder", folder)
            continue
        entered.add(identity)
        if all(os.path.lexists(os.path.join(folder, name)) for name in RUN_FILES):  # noqa: PTH118
            passed.add("run folder", folder)
            continue
        below: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is_hidden(entry.name):
                        passed.add(_HIDDEN, entry.path)
                    elif entry.is_dir():
                        below.append(entry.path)
                    elif os.path.splitext(entry.name)[1].lower() in NO_IMAGES:  # noqa: PTH122
                        passed.add("non-image file", entry.path)
                    else:
                        yield entry.path
        except OSError:
            yield folder
        waiting += sorted(below, reverse=True)
