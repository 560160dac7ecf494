"""Writing files so that a reader or a crash never meets half of one, and their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
"""Ends the name of a file that is being written."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the operating system write to the disk what it still holds of a file."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True, shared: bool = False) -> Iterator[Path]:
    """Yield a path beside `path` to write to; the file written there replaces `path` when the block ends, and is removed if it fails.

    At every moment `path` is either what it was or complete.

    Args:
        path: in a folder that exists.
        durable: whether the content must be on the disk before it replaces `path`, so that a power failure cannot leave an empty file.
        shared: whether other processes may be writing the same `path` now. If not, the name beside it is always the same, so that a
            killed process leaves one such file at most.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    partial = path.with_name(f".{path.name}{f'-{secrets.token_hex(8)}' if shared else ''}{PARTIAL}")
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_file(path: Path, data: bytes, *, durable: bool = True, shared: bool = False) -> None:
    """Write a file as a whole or not at all; arguments and errors as of `replacing`."""
    with replacing(path, durable=durable, shared=shared) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Create a temporary folder on the disk of `path`, in whose files a result is prepared; it is removed when the block ends."""
    with tempfile.TemporaryDirectory(
        dir=path.absolute().parent, prefix=f".{path.name}-", suffix=".part", ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


def move_files(source: Path, target: Path, *, last: str) -> list[Path]:
    """Move every file of one folder into another on the same disk, replacing those of the same name; return the new paths.

    `last` is the file without which the others mean nothing: it comes last.
    """
    return [file.replace(target / file.name) for file in sorted(source.iterdir(), key=lambda file: (file.name == last, file.name))]
