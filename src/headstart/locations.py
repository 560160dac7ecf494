"""Where Headstart keeps what it can make again: converted networks, downloaded weights, features.

Everything here returns paths; nothing is created until `create_folder` is called.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from headstart.errors import StoreError

_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache made by Headstart; backup programs may pass it over (https://bford.info/cachedir/).
"""
_SHARED_FILESYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "drvfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"ocfs2", "orangefs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs"}
)


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the cache folder: `given`, else the environment variable ``HEADSTART_CACHE``, else the user's cache folder on this system."""
    chosen = os.fspath(given) if given is not None else os.environ.get("HEADSTART_CACHE", "")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("headstart", appauthor=False)


def feature_store_file(cache: Path) -> Path:
    """Return the file of the feature store inside the cache folder `cache`."""
    return cache / "features.sqlite"


def networks_folder(cache: Path) -> Path:
    """Return the folder of converted networks inside the cache folder `cache`."""
    return cache / "networks"


def weights_folder(cache: Path) -> Path:
    """Return the folder of downloaded weights inside the cache folder `cache`."""
    return cache / "weights"


def create_folder(folder: Path) -> Path:
    """Create `folder` and its parents where they are missing, and return it.

    A folder made here is marked as a cache (``CACHEDIR.TAG``). Raises `StoreError` where it cannot be created.
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
    r"""Tell whether `path` lies on a network file system or a folder shared with another machine, as far as this system says so.

    On Linux the table `mounts` is read; on Windows ``\\server\share`` is recognised; elsewhere the answer is False.
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
