"""The folder of a job that is under way: what the job is, the list of its images, and the parts that are done.

A part has its number, its counts and the SHA-256 of its bytes in its name, and gets that name only when it is whole. So a process may be
killed at any moment: what has its name is there, and what is damaged is found and made again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.batch.listing import Listed
from headstart.batch.work import Part
from headstart.errors import ParameterError
from headstart.files import PARTIAL, file_digest, sync, write_file

JOB, LISTING, JOINED = "job.json", "listing", "joined"
_NAME = re.compile(r"(\d{8,})-(\d+)-(\d+)-([0-9a-f]{64})\.part")


@dataclass(frozen=True)
class Kept:
    """A part in the folder: its file, its rows, and how many of them were refused."""

    file: Path
    rows: int
    refused: int


def folder_of(out: Path) -> Path:
    """The folder in which the job works that writes `out`; it is gone when the job is done."""
    return out.with_name(out.name + ".parts")


def record_of(out: Path) -> Path:
    """The file beside `out` that says how it came about."""
    return out.with_name(out.name + ".job.json")


class PartsFolder:
    """The folder of one job.

    Args:
        path: where it is, or will be.
        asked: what the job is, as JSON values; two jobs are the same where these are equal.
    """

    def __init__(self, path: Path, asked: dict[str, Any]) -> None:
        self.path, self._asked = path, asked
        self._lock: Any = None

    @property
    def listing(self) -> Path:
        """The list of the job's images."""
        return self.path / LISTING

    @property
    def joined(self) -> Path:
        """The table in the making."""
        return self.path / JOINED

    def begin(self, *, resume: bool, listed: Callable[[Path], Listed]) -> Listed:
        """Go on with the job in the folder, or start one in it.

        Args:
            resume: whether a job that was begun may be gone on with.
            listed: writes the listing of a new job.

        Raises:
            ParameterError: there is a job and `resume` is False, there is another job, or a process is at work on it.
        """
        begun = read_json(self.path / JOB)
        if begun is not None and not resume:
            raise ParameterError(
                f"{self.path} holds a job that was begun and not finished. Add --resume to go on with it, or remove "
                "that folder to start anew."
            )
        if begun is None and self.path.is_dir() and not self._is_ours():
            raise ParameterError(f"{self.path} is where this job would work, and holds other files. Give another --out, or move it away.")
        self.path.mkdir(exist_ok=True)
        self._take()
        if begun is not None:
            check_same(self.path, begun.get("asked"), self._asked)
            return Listed(begun["images"], begun["listing"], ())
        found = listed(self.listing)
        write_json(self.path / JOB, {"asked": self._asked, "images": found.images, "listing": found.digest})
        return found

    def _is_ours(self) -> bool:
        return all(entry.name.lstrip(".").split(".")[0] in ("lock", LISTING, "job") for entry in self.path.iterdir())

    def _take(self) -> None:
        """Hold the folder as long as this process lives; the system lets go of it, however the process ends."""
        try:
            import fcntl
        except ImportError:  # Windows: two processes would do the same work twice, and write the same bytes
            return
        self._lock = (self.path / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ParameterError(f"{self.path}: another process is at work on this job. Wait for it, or stop it.") from None
        except OSError:  # a file system without locks
            return

    def keep(self, part: Part) -> Kept:
        """Write a part: whole, or not at all."""
        digest = hashlib.sha256(part.body).hexdigest()
        kept = Kept(self.path / f"{part.index:08d}-{part.rows}-{part.refused}-{digest}.part", part.rows, part.refused)
        write_file(kept.file, part.body)
        return kept

    def whole(self) -> tuple[dict[int, Kept], int]:
        """The parts that are whole, by their number; and how many were damaged, which are removed."""
        kept: dict[int, Kept] = {}
        damaged = 0
        for file in sorted(self.path.iterdir()):
            match = _NAME.fullmatch(file.name)
            if file.suffix == PARTIAL:
                file.unlink()
            if match is None:
                continue
            if file_digest(file) == match[4]:
                kept[int(match[1])] = Kept(file, int(match[2]), int(match[3]))
            else:
                file.unlink()
                damaged += 1
        return kept, damaged

    def finish(self, out: Path, record: dict[str, Any]) -> None:
        """Put the joined table in its place, write how it came about, and remove the folder."""
        sync(self.joined)
        self.joined.replace(out)
        write_json(record_of(out), record)
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def check_same(where: Path, found: Any, asked: dict[str, Any]) -> None:
    """Refuse to go on with another job.

    Raises:
        ParameterError: `found` differs from what is asked for; the message says where.
    """
    found = found if isinstance(found, dict) else {}
    for key, value in asked.items():
        if found.get(key) != value:
            raise ParameterError(
                f"{where} is of another job: its {key} is {_shown(found.get(key))}, and now {_shown(value)} is asked for. "
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
    """Write a JSON object: whole, or not at all."""
    write_file(file, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def bodies(kept: dict[int, Kept]) -> Iterator[bytes]:
    """The bytes of the parts, in order."""
    for index in sorted(kept):
        yield kept[index].file.read_bytes()
