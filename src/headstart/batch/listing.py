"""The images of a folder of any size, listed on disk.

Where `list_images` holds names in memory, they are in a file here, each ended by a zero byte. The names are the same and in the same
order. They are sorted a piece at a time, and the pieces are then merged, so that a folder of ten million files needs no more memory than
one of two hundred thousand.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.data import list_images
from headstart.data.folders import RUN_FILES, SYSTEM_NAMES
from headstart.errors import DataError
from headstart.modalities.image import is_image_name

_SORTED_TOGETHER = 200_000  # names
_READ = 1 << 16  # bytes


@dataclass(frozen=True)
class Listed:
    """A list of images on disk.

    Attributes:
        images: how many there are.
        digest: SHA-256 of their names below the folders listed, hexadecimal; the same wherever the same folder lies.
        notes: a sentence for each kind of file passed over.
    """

    images: int
    digest: str
    notes: tuple[str, ...]


def write_listing(sources: Sequence[str | Path], file: Path) -> Listed:
    """List files as they are passed in, and in place of each folder the images at any depth below it, sorted.

    Args:
        sources: files and folders.
        file: where the names are written, beside some temporary files.

    Raises:
        DataError: a source that does not exist, a folder without images, or a folder that cannot be read.
    """
    digest, images, passed = hashlib.sha256(), 0, Counter[str]()
    with file.open("wb") as target:
        for source in map(Path, sources):
            if not source.is_dir():
                list_images([source])  # says what is wrong, if anything is
                named: Iterator[tuple[str, str]] = iter([(str(source), source.name)])
            else:
                root = str(source)
                named = ((path, path.removeprefix(root).lstrip(os.sep)) for path in _sorted(_walk(root, passed), file))
            before = images
            for path, below in named:
                target.write(os.fsencode(path) + b"\0")
                digest.update(os.fsencode(below.replace(os.sep, "/")) + b"\0")
                images += 1
            if images == before:
                list_images([source])  # says so, and what there is instead
                raise DataError(f"{source}: the images in this folder disappeared while they were being listed. Start again.")
    notes = tuple(f"Passed over {count} {what}." for what, count in passed.items())
    return Listed(images, digest.hexdigest(), notes)


def read_listing(file: Path) -> Iterator[str]:
    """The names in a file that `write_listing` wrote, in order."""
    rest = b""
    with file.open("rb") as source:
        while some := source.read(_READ):
            *whole, rest = (rest + some).split(b"\0")
            yield from map(os.fsdecode, whole)


def _walk(root: str, passed: Counter[str]) -> Iterator[str]:
    """The images below a folder, in any order; each real folder is entered once."""
    entered: set[Any] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        status = os.stat(folder)  # noqa: PTH116 - paths are strings here, for speed
        identity = (status.st_dev, status.st_ino)
        if identity in entered:
            passed["links to folders that were read already (or lead in a circle)"] += 1
            continue
        entered.add(identity)
        if all(os.path.lexists(os.path.join(folder, name)) for name in RUN_FILES):  # noqa: PTH118
            passed["run folders that `headstart fit` wrote"] += 1
            continue
        below: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == "." or name.lower() in SYSTEM_NAMES:
                        passed["hidden or system files or folders"] += 1
                    elif entry.is_dir():
                        below.append(entry.path)
                    elif entry.is_file() and is_image_name(name):
                        yield entry.path
                    else:
                        passed["files that are not images"] += 1
        except OSError as error:
            raise DataError(
                f"{folder}: this folder cannot be read ({error.strerror or error}), so that images would be missing. "
                "Check the permissions, or move it away."
            ) from None
        waiting += sorted(below, reverse=True)


def _sorted(names: Iterator[str], beside: Path) -> Iterator[str]:
    """Sort any number of names, a bounded number of them in memory."""
    pieces: list[Path] = []
    try:
        piece: list[str] = []
        for name in names:
            piece.append(name)
            if len(piece) == _SORTED_TOGETHER:
                pieces.append(_write_piece(piece, beside.with_name(f"{beside.name}.{len(pieces)}")))
                piece = []
        yield from heapq.merge(sorted(piece), *map(read_listing, pieces))
    finally:
        for path in pieces:
            path.unlink(missing_ok=True)


def _write_piece(names: list[str], file: Path) -> Path:
    names.sort()
    file.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
    return file
