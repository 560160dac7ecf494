"""The folder of a job under way: what the job is, the list of its images, and the finished parts.

Where `list_images` holds names in memory, they are in a file here, each ended by a zero byte, the same names in the same order. They are
sorted a piece at a time, and the pieces are then merged, so that a folder of ten million files needs no more memory than one of two
hundred thousand.

A part has its number, its counts and the SHA-256 of its bytes in its name, and gets that name only when it is complete. So a process may
be killed at any moment: finished parts are found by name, and damaged ones are made again.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from headstart.data.listing import PassedOver, inputs
from headstart.errors import ParameterError
from headstart.files import PARTIAL, file_digest, lock, sync, write_file

JOB, LISTING, JOINED = "job.json", "listing", "joined"
_NAME = re.compile(r"(\d{8,})-(\d+)-(\d+)(?:-(\d+))?-([0-9a-f]{64})\.part")
_SORTED_TOGETHER = 200_000  # names
_READ = 1 << 16  # bytes


ListEntries = Callable[[PassedOver], Iterator[tuple[str, str]] | None]
"""Yields what is written down of each input, and what of that is the same wherever the inputs lie."""


@dataclass(frozen=True)
class Listed:
    """A list of images on disk: how many, and a sentence for each kind of file passed over.

    `digest` is the SHA-256 of their names below the folders listed, hexadecimal; the same wherever the same folder lies.
    """

    images: int
    digest: str
    notes: tuple[str, ...]


def write_listing(sources: Sequence[str | Path], file: Path, entries: ListEntries | None = None) -> Listed:
    """Write down the `inputs` of sources, or the `entries` of inputs that are no files; errors as of these."""
    digest, images, passed = hashlib.sha256(), 0, PassedOver()
    listed = None if entries is None else entries(passed)
    if listed is None:
        listed = inputs(sources, passed, in_order=lambda names: _sorted(names, file))
    with file.open("wb") as target:
        for path, below in listed:
            target.write(os.fsencode(path) + b"\0")
            digest.update(os.fsencode(below.replace(os.sep, "/")) + b"\0")
            images += 1
    return Listed(images, digest.hexdigest(), tuple(passed.notes()))


def read_listing(file: Path) -> Iterator[str]:
    """The names in a file that `write_listing` wrote, in order."""
    rest = b""
    with file.open("rb") as source:
        while some := source.read(_READ):
            *whole, rest = (rest + some).split(b"\0")
            yield from map(os.fsdecode, whole)


def _sorted(names: Iterator[str], beside: Path) -> Iterator[str]:
    """Sort any number of names, a bounded number of them in memory."""
    pieces: list[Path] = []
    try:
        while len(piece := sorted(islice(names, _SORTED_TOGETHER))) == _SORTED_TOGETHER:
            pieces.append(beside.with_name(f"{beside.name}.{len(pieces)}"))
            pieces[-1].write_bytes(b"".join(os.fsencode(name) + b"\0" for name in piece))
        yield from heapq.merge(piece, *map(read_listing, pieces))
    finally:
        for path in pieces:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Part:
    """A part that was made: its number from 0, its rows, how many of them were refused, its bytes, and the first refusals.

    `novel` is how many images are unlike the training images; None where that is not known.
    """

    index: int
    rows: int
    refused: int
    body: bytes
    refusals: tuple[str, ...] = ()
    novel: int | None = None


@dataclass(frozen=True)
class StoredPart:
    """A part in the folder: its file, its rows, how many of them were refused, and how many are of images unlike the training images."""

    file: Path
    rows: int
    refused: int
    novel: int | None


def record_of(out: Path) -> Path:
    """The file beside `out` that records how it was made."""
    return out.with_name(out.name + ".job.json")


class PartsFolder:
    """The folder beside `out` of the job that writes it, with the list of its images and its table until that is complete.

    It is removed when the job is done. `identity`, of JSON values, is what makes two jobs the same.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.path, self._out, self._identity = out.with_name(f"{out.name}.parts"), out, identity
        self.listing, self.joined = self.path / LISTING, self.path / JOINED
        self._lock: int | None = None

    def begin(self, sources: Sequence[str | Path], *, resume: bool, entries: ListEntries | None = None) -> Listed:
        """Resume the job in the folder if `resume` allows it, or start one and list the images of the sources.

        Raises ParameterError where there is a job that may not be resumed, another job, or another process that works on it.
        """
        begun = read_json(self.path / JOB)
        if begun is not None and not resume:
            again = "Add --resume to continue it, or remove that folder to start again."
            raise ParameterError(f"{self.path} holds a job that was begun and not finished. {again}")
        if begun is None and self.path.is_dir() and not self._is_ours():
            raise ParameterError(
                f"{self.path} would be the folder of this job, and holds other files. Give another --out, or move it away."
            )
        self.path.mkdir(exist_ok=True)
        self._acquire()
        if begun is not None:
            check_same(self.path, begun.get("asked"), self._identity)
            return Listed(begun["images"], begun["listing"], tuple(begun.get("passed over", ())))
        found = write_listing(sources, self.listing, entries)
        described = {"asked": self._identity, "images": found.images, "listing": found.digest, "passed over": found.notes}
        write_json(self.path / JOB, described)
        return found

    def _is_ours(self) -> bool:
        return all(entry.name.lstrip(".").split(".")[0] in ("lock", LISTING, "job") for entry in self.path.iterdir())

    def _acquire(self) -> None:
        """Lock the folder; where that cannot be done, two processes would do the same work twice, and write the same bytes."""
        try:
            self._lock = lock(self.path)
        except BlockingIOError:
            raise ParameterError(f"{self.path}: another process is working on this job. Wait for it, or stop it.") from None

    def store(self, part: Part) -> StoredPart:
        """Write a part, completely or not at all."""
        digest = hashlib.sha256(part.body).hexdigest()
        counts = [part.rows, part.refused, *([] if part.novel is None else [part.novel])]
        name = "-".join([f"{part.index:08d}", *map(str, counts), digest])
        stored = StoredPart(self.path / f"{name}.part", part.rows, part.refused, part.novel)
        write_file(stored.file, part.body)
        return stored

    def stored(self) -> tuple[dict[int, StoredPart], int]:
        """The complete parts, by their number; and how many were damaged, which are removed."""
        stored: dict[int, StoredPart] = {}
        damaged = 0
        for file in sorted(self.path.iterdir()):
            match = _NAME.fullmatch(file.name)
            if file.suffix == PARTIAL:
                file.unlink()
            if match is None:
                continue
            if file_digest(file) == match[5]:
                novel = None if match[4] is None else int(match[4])
                stored[int(match[1])] = StoredPart(file, int(match[2]), int(match[3]), novel)
            else:
                file.unlink()
                damaged += 1
        return stored, damaged

    def finish(self, counts: dict[str, Any]) -> None:
        """Move the joined table to its place, write its record, and remove the folder."""
        digest = file_digest(self.joined)
        if self._out.exists() and file_digest(self._out) != digest:
            raise ParameterError(f"{self._out} was written by something else meanwhile, and is left as it is. The table is {self.joined}.")
        record = {"asked": self._identity, **counts, "sha256": digest}
        sync(self.joined)
        self.joined.replace(self._out)
        write_json(record_of(self._out), record)
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def check_same(where: Path, found: Any, identity: dict[str, Any]) -> None:
    """Refuse with a ParameterError to resume a job whose record differs from `identity`; the message says where."""
    found = found if isinstance(found, dict) else {}
    for key, value in identity.items():
        if found.get(key) != value:
            raise ParameterError(
                f"{where} is of another job: its {key!r} is {_shown(found.get(key))}, and now {_shown(value)} is asked for. "
                "Give the same options as then, or another --out."
            )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}..."


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing or holds something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write a JSON object, completely or not at all."""
    write_file(file, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
