"""Files and folders: written so that a reader or a crash never meets half of one, their SHA-256, and where the cache is."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import ParameterError, StoreError

PARTIAL = ".partial"
"""Ends the name of a file that is being written."""

WRITTEN = "Written by Headstart"
"""Stands near the beginning or the end of every file that a command writes where its user says, so that it may be written anew."""

_MARKS = (WRITTEN.encode(), b'"headstart_plan"', b'"headstart": "')
_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache made by Headstart; backup programs may pass it over (https://bford.info/cachedir/).
"""
_SHARED_FILESYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "drvfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"ocfs2", "orangefs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs"}
)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_full(error: OSError) -> bool:
    """Whether a file could not be written since the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def packed(entries: Any, arrays: Mapping[str, Any]) -> bytes:
    """JSON values and NumPy arrays as bytes (safetensors)."""
    import numpy as np
    from safetensors.numpy import save

    made: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata={"json": json.dumps(entries)})
    return made


def unpacked(data: bytes) -> tuple[Any, dict[str, Any]]:
    """The inverse of `packed`."""
    from safetensors.numpy import load

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["json"]), load(data)


def sync(path: Path) -> None:
    """Have the operating system write to the disk what it still holds of a file."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True, shared: bool = False) -> Iterator[Path]:
    """Yield a path beside `path` to write to; the file written there replaces `path` when the block ends, and is removed if it fails.

    At every moment `path` is either what it was or complete. With `durable` the content is on the disk before it replaces `path`, so that a
    power failure cannot leave an empty file. Where other processes may be writing the same `path` now, `shared` must be True; else the name
    beside it is always the same, so that a killed process leaves one such file at most. Raises OSError where it cannot be written.
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
def writable(path: Path) -> Iterator[None]:
    """Turn a failure to write a file that the user asked for into a `ParameterError`; also where one that is not ours is there by now."""
    _check_ours(path)
    try:
        yield
    except OSError as error:
        raise ParameterError(f"{path} cannot be written: {error.strerror or error}.") from None


def check_writable(*paths: Path | None) -> None:
    """Refuse with a ParameterError, before any work is done, files that could not be written after it."""
    for path in paths:
        if path is not None and path.is_dir():
            raise ParameterError(f"{path} cannot be written: it is a folder. Give the name of a file.")
        if path is not None and not path.absolute().parent.is_dir():
            raise ParameterError(f"{path} cannot be written: there is no folder {path.absolute().parent}.")
        if path is not None:
            _check_ours(path)


def _check_ours(path: Path) -> None:
    if path.is_file() and not is_ours(path):
        raise ParameterError(f"{path} is there, and Headstart did not write it: it is left as it is. Give another name, or move it away.")


def is_ours(path: Path) -> bool:
    """Whether a file says that Headstart wrote it, or is empty."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        head = stream.read(4096)
        stream.seek(max(0, path.stat().st_size - 4096))
        text = head + stream.read()
        return not text or any(mark in text for mark in _MARKS)
    return False


def marked_png(data: bytes) -> bytes:
    """A PNG file that says that Headstart wrote it."""
    chunk = b"tEXtSoftware\0" + WRITTEN.encode()
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]  # after the header


def lock(path: Path) -> int | None:
    """Lock a file or folder as long as the descriptor that is returned is open; the system releases it, however the process ends.

    None where the system or the file system has no locks. Raises BlockingIOError where another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


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


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The cache folder: `given`, else the environment variable ``HEADSTART_CACHE``, else the user's cache folder on this system.

    It holds only what can be made again, such as converted networks and features, and is not created here.
    """
    chosen = os.fspath(given) if given is not None else os.environ.get("HEADSTART_CACHE", "")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("headstart", appauthor=False)


def feature_store_file(cache: Path) -> Path:
    """The file of the feature store in a cache folder."""
    return cache / "features.sqlite"


def create_folder(folder: Path) -> Path:
    """Create `folder` and its parents where they are missing, mark it as a cache (``CACHEDIR.TAG``), and return it.

    Raises `StoreError` where it cannot be created.
    """
    if folder.is_dir():
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the folder {folder} cannot be created ({error.strerror or error}). Choose another one with --cache DIR or the environment "
            "variable HEADSTART_CACHE, or work without one: --no-cache."
        ) from error
    with contextlib.suppress(OSError):  # the mark is a courtesy to backup programs, and nothing depends on it
        (folder / "CACHEDIR.TAG").write_text(_TAG, encoding="utf-8")
    return folder


def is_shared_between_machines(path: Path, *, mounts: Path = Path("/proc/mounts")) -> bool:
    r"""Whether `path` lies on a network file system or a folder shared with another machine, as far as the system reveals it.

    On Linux the table `mounts` is read; on Windows ``\\server\share`` is recognised; elsewhere the result is False.
    """
    whole = os.path.realpath(path)
    if whole.startswith("\\\\"):
        return True
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    best, kind = "", ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1])
        if len(point) >= len(best) and (whole == point or whole.startswith(point.rstrip("/") + "/")):
            best, kind = point, fields[2]  # of two mounts on one point, the later one is on top
    return kind in _SHARED_FILESYSTEMS or kind.startswith("fuse.")
