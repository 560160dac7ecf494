"""The folder of a job under way: what the job is, the list of its images, and the finished parts.

A part has its number, its counts and the SHA-256 of its bytes in its name, and gets that name only when it is complete. So a process may
be killed at any moment: finished parts are found by name, and damaged ones are made again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.batch.listing import Listed
from headstart.errors import ParameterError
from headstart.files import PARTIAL, file_digest, sync, write_file

JOB, LISTING, JOINED = "job.json", "listing", "joined"
_NAME = re.compile(r"(\d{8,})-(\d+)-(\d+)-([0-9a-f]{64})\.part")


@dataclass(frozen=True)
class Part:
    """A part that was made: its number from 0, its rows, how many of them were refused, and its bytes."""

    index: int
    rows: int
    refused: int
    body: bytes


@dataclass(frozen=True)
class StoredPart:
    """A part in the folder: its file, its rows, and how many of them were refused."""

    file: Path
    rows: int
    refused: int


def folder_of(out: Path) -> Path:
    """The working folder of the job that writes `out`; removed when the job is done."""
    return out.with_name(out.name + ".parts")


def record_of(out: Path) -> Path:
    """The file beside `out` that records how it was made."""
    return out.with_name(out.name + ".job.json")


class PartsFolder:
    """The folder of one job.

    Args:
        path: where it is, or will be.
        identity: of the job, as JSON values; two jobs are the same where these are equal.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path, self._identity = path, identity
        self._lock: Any = None

    @property
    def listing(self) -> Path:
        """The list of the job's images."""
        return self.path / LISTING

    @property
    def joined(self) -> Path:
        """The table until it is complete."""
        return self.path / JOINED

    def begin(self, *, resume: bool, listed: Callable[[Path], Listed]) -> Listed:
        """Resume the job in the folder, or start one in it.

        Args:
            resume: whether a job that was interrupted may be resumed.
            listed: writes the listing of a new job.

        Raises:
            ParameterError: there is a job and `resume` is False, there is another job, or another process works on it.
        """
        begun = read_json(self.path / JOB)
        if begun is not None and not resume:
            raise ParameterError(
                f"{self.path} holds a job that was begun and not finished. Add --resume to continue it, or remove that folder "
                "to start again."
            )
        if begun is None and self.path.is_dir() and not self._is_ours():
            raise ParameterError(
                f"{self.path} would be the folder of this job, and holds other files. Give another --out, or move it away."
            )
        self.path.mkdir(exist_ok=True)
        self._acquire()
        if begun is not None:
            check_same(self.path, begun.get("asked"), self._identity)
            return Listed(begun["images"], begun["listing"], ())
        found = listed(self.listing)
        write_json(self.path / JOB, {"asked": self._identity, "images": found.images, "listing": found.digest})
        return found

    def _is_ours(self) -> bool:
        return all(entry.name.lstrip(".").split(".")[0] in ("lock", LISTING, "job") for entry in self.path.iterdir())

    def _acquire(self) -> None:
        """Lock the folder as long as this process lives; the system releases the lock, however the process ends."""
        try:
            import fcntl
        except ImportError:  # Windows: two processes would do the same work twice, and write the same bytes
            return
        self._lock = (self.path / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ParameterError(f"{self.path}: another process is working on this job. Wait for it, or stop it.") from None
        except OSError:  # a file system without locks
            return

    def store(self, part: Part) -> StoredPart:
        """Write a part, completely or not at all."""
        digest = hashlib.sha256(part.body).hexdigest()
        stored = StoredPart(self.path / f"{part.index:08d}-{part.rows}-{part.refused}-{digest}.part", part.rows, part.refused)
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
            if file_digest(file) == match[4]:
                stored[int(match[1])] = StoredPart(file, int(match[2]), int(match[3]))
            else:
                file.unlink()
                damaged += 1
        return stored, damaged

    def finish(self, out: Path, record: dict[str, Any]) -> None:
        """Move the joined table to its place, write its record, and remove the folder."""
        sync(self.joined)
        self.joined.replace(out)
        write_json(record_of(out), record)
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def check_same(where: Path, found: Any, identity: dict[str, Any]) -> None:
    """Refuse to resume another job.

    Raises:
        ParameterError: `found` differs from `identity`; the message says where.
    """
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
