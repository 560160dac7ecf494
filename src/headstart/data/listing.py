"""What lies in folders: images, what may be one, and what is passed over, counted and named."""

from __future__ import annotations

import heapq
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from headstart.errors import DataError, nearest
from headstart.modalities.image import is_image_name
from headstart.progress import Listener, Warned
from headstart.text import enumeration, plural, printable

SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir", "__pycache__", "icon\r"})
RUN_FILES = frozenset({"manifest.json", "model.onnx", "head.safetensors"})  # together the mark of a run folder
NO_IMAGES = frozenset({
    ".txt", ".md", ".log", ".ini", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".htm", ".py", ".ipynb", ".db",
    ".npy", ".npz", ".parquet", ".pkl", ".xmp", ".aae", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".zip", ".tar", ".gz",
    ".tgz", ".7z", ".rar", ".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".mp3", ".wav",
})  # fmt: skip
"""What `predict` and the like pass over in a folder, and name; all else is an input, and read or refused by its content."""

_HIDDEN = "hidden or system file"
_USUAL = (_HIDDEN, "non-image file", "non-text file", "repeated folder", "run folder")  # what is passed over and changes no result


class PassedOver:
    """What was passed over, by kind: the paths, and how often each."""

    def __init__(self) -> None:
        self._kinds: dict[str, Counter[str]] = {}

    def add(self, kind: str, path: str) -> None:
        """Count something of a kind, such as ``link``."""
        self._kinds.setdefault(kind, Counter())[path] += 1

    def used(self, kind: str, path: str) -> None:
        """One of a kind was not passed over after all."""
        paths = self._kinds.get(kind, Counter())
        paths.pop(path, None)
        if not paths:
            self._kinds.pop(kind, None)

    def notes(self, root: str = "") -> list[str]:
        """A sentence for each kind, with the paths below a folder; warnings of what may have been meant as an input."""
        return [
            (str if kind in _USUAL else Warned)(
                f"Passed over {plural(paths.total(), kind)}: "
                f"{first_names([below_folder(path, root) or path for path in heapq.nsmallest(5, paths.elements())], paths.total())}."
            )
            for kind, paths in self._kinds.items()
        ]


def first_names(names: list[str], count: int) -> str:
    """The first five of `count` names, and how many more there are."""
    return enumeration(names[:5], count=count)


def tell_passed(notes: Iterable[str], listener: Listener) -> None:
    """Say what was passed over; as a warning where it is more than what systems hide."""
    for note in notes:
        (listener.say if _HIDDEN in note else listener.left_out)(note)


class Tree:
    """Lists folders, each once, and notes what is `passed` over; `listing` gives the sorted paths of folders and of inputs in one.

    Inputs are the files whose names it is to `accept`; `noun` is what one is called.
    """

    def __init__(self, accept: Callable[[str], bool] = is_image_name, *, noun: str = "image") -> None:
        self.accept, self.noun = accept, noun
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
                    elif self.accept(name):
                        images.append(entry.path)
                    else:
                        others.append((f"non-{self.noun} file" if _suffix(name) in NO_IMAGES else "unrecognised file", entry.path))
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
        entered = {identity(path) for path in above}
        found: list[str] = []
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            real = identity(current)
            if real not in entered:
                entered.add(real)
                folders, images = self.listing(current)
                found += images
                waiting += reversed(folders)
            elif current not in self._repeated:
                self._repeated.add(current)
                self.passed.add("repeated folder", current)
        return sorted(found)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - called for every file


def _is_hidden(name: str) -> bool:
    return name[0] == "." or name.lower() in SYSTEM_NAMES


def identity(folder: str) -> tuple[int, int] | str:
    """What is the same for two paths of one folder."""
    try:
        status = os.stat(folder)  # noqa: PTH116 - paths are strings here, for speed
    except OSError:
        return folder
    return (status.st_dev, status.st_ino)


def below_folder(path: str, root: str) -> str:
    """A path as seen from a folder above it, printable."""
    return printable(path.removeprefix(root).lstrip(os.sep) if root else path)


def folder_name(folder: str) -> str:
    """The last part of a path, printable."""
    return printable(os.path.basename(folder))  # noqa: PTH119 - paths are strings here, for speed


def typed_path(text: str) -> Path:
    """The path of an image or folder as it was typed; DataError for what would silently become another one."""
    if not text:
        raise DataError("the name is empty (an unset variable of the shell?). Give an image or a folder; '.' is this folder.")
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    if re.match(r"[a-z0-9]+://", text):
        raise DataError(f"{text} is an address; images are read from files only: download them first.")
    return Path(text)


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
        if (real := identity(folder)) in entered:
            passed.add("repeated folder", folder)
            continue
        entered.add(real)
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
                    elif _suffix(entry.name) in NO_IMAGES:
                        passed.add("non-image file", entry.path)
                    else:
                        yield entry.path
        except OSError:
            yield folder
        waiting += sorted(below, reverse=True)
