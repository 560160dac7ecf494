"""Reads weight files: safetensors, and PyTorch's ``.pth`` without PyTorch and without executing anything.

A ``.pth`` is a pickle program beside raw numbers. Python's own unpickler is never called on it; see `pickle_programs`. Both of PyTorch's
formats are read: the zip archive (since 1.6) and the older stream of four programs followed by the storages.

Why not ``torch.load(weights_only=True)``: it needs 5 GB of PyTorch for 18 MB of numbers, and it was broken twice
(CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from headstart.backbones.pickle_programs import Machine, Refused, Storage, Tensor, tensors_in
from headstart.errors import BackboneError

Array = np.ndarray[Any, np.dtype[Any]]

_MAGIC = 0x1950A86A20F9469CFC6C  # first value of PyTorch's older format
_MAX_BYTES = 8 << 30  # larger files are no image backbone
_MAX_COPIES = 4  # how often the file's own size all tensors together may take (tied weights are views of one storage)


def _array(tensor: Tensor, storage: Array) -> Array:
    """A contiguous copy of the view that `tensor` describes."""
    if math.prod(tensor.shape) == 0:
        return np.empty(tensor.shape, storage.dtype)
    reach = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if reach >= len(storage) or math.prod(tensor.shape) > len(storage):
        raise Refused("describes a tensor that reaches outside its storage")
    step = storage.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(
        storage[tensor.offset :], tensor.shape, [stride * step for stride in tensor.strides], writeable=False
    )
    return np.array(view, order="C")  # and not ascontiguousarray, which makes a number a vector


def _storages(found: dict[str, Tensor], *, file_size: int) -> dict[str, Storage]:
    """The storages that tensors refer to, after checks that need none of their numbers."""
    storages: dict[str, Storage] = {}
    for tensor in found.values():
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise Refused(f"announces storage {tensor.storage.key[:40]!r} in two ways")
    if sum(storage.size for storage in storages.values()) > file_size:
        raise Refused("announces more numbers than it holds")
    if sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in found.values()) > _MAX_COPIES * file_size:
        raise Refused("describes the same numbers over and over")
    return storages


def _found(checkpoint: Any) -> dict[str, Tensor]:
    found = dict(tensors_in(checkpoint))
    if not found:
        raise Refused("holds no tensors")
    return found


def _collect(found: dict[str, Tensor], read: Callable[[str], Array]) -> dict[str, Array]:
    return {name: _array(tensor, read(tensor.storage.key)) for name, tensor in found.items()}


def _read_zip(path: Path) -> dict[str, Array]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        programs = [name for name in members if name.rsplit("/", 1)[-1] == "data.pkl"]
        if len(programs) != 1:
            raise Refused("is a zip archive, but not one that PyTorch wrote")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise Refused("is compressed, which PyTorch never does")
        folder = programs[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
            raise Refused("was written on a big-endian machine")
        found = _found(Machine().run(io.BytesIO(archive.read(programs[0]))))
        raw: dict[str, Array] = {}
        for key, storage in _storages(found, file_size=path.stat().st_size).items():
            member = members.get(f"{folder}data/{key}")
            if member is None or member.file_size != storage.size:
                raise Refused(f"announces storage {key[:40]!r} in two ways")
            raw[key] = np.frombuffer(archive.read(member), dtype=storage.dtype)
    return _collect(found, raw.__getitem__)


def _read_stream(path: Path) -> dict[str, Array]:
    stream = io.BytesIO(path.read_bytes())
    if Machine().run(stream) != _MAGIC:
        raise Refused("is not a file that PyTorch wrote")
    Machine().run(stream)  # protocol version
    Machine().run(stream)  # sizes of C types on the writing machine
    found = _found(Machine().run(stream))
    keys = Machine().run(stream)
    storages = _storages(found, file_size=path.stat().st_size)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("lists its storages in an unknown way")
    raw: dict[str, Array] = {}
    for key in keys:
        head = stream.read(8)
        count = struct.unpack("<q", head)[0] if len(head) == 8 else -1
        storage = storages.get(key)
        if storage is None or count != storage.count or key in raw:
            raise Refused(f"announces storage {key[:40]!r} in two ways")
        data = stream.read(storage.size)
        if len(data) != storage.size:
            raise Refused("ends in the middle of its numbers: the file is cut off")
        raw[key] = np.frombuffer(data, dtype=storage.dtype)
    return _collect(found, raw.__getitem__)


def _read_safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = dict(load_file(path))
    except SafetensorError as error:
        raise Refused(f"is not a readable safetensors file ({error})") from None
    if not found:
        raise Refused("holds no tensors")
    return found


def _is_safetensors(path: Path) -> bool:
    """By its name, or by its beginning: the length of a JSON header, and its brace."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:] == b"{" and head[:2] != b"PK")


def read_tensors(path: str | Path) -> dict[str, Array]:
    """Read every tensor of a weight file.

    Args:
        path: a ``.safetensors`` file, or a ``.pth`` / ``.pt`` / ``.bin`` file of PyTorch in either of its formats. Nested dictionaries
            (``{"state_dict": {...}}``) give dotted names.

    Returns:
        Names to C-contiguous arrays, in the order of the file (that of safetensors is the writer's, mostly sorted). Besides tensors the
        file may hold dictionaries, lists, numbers and strings, which are passed over; anything else is refused.

    Raises:
        BackboneError: the file is missing, cut off, or holds anything but tensors. Nothing in it is executed, and reading takes time and
            memory in proportion to its length.
    """
    path = Path(path)
    if not path.is_file():
        raise BackboneError(f"{path}: no such weight file. Give a .safetensors or .pth file.")
    if path.stat().st_size > _MAX_BYTES:
        raise BackboneError(f"{path}: {path.stat().st_size >> 30} GiB is larger than any image backbone (limit {_MAX_BYTES >> 30} GiB).")
    try:
        if _is_safetensors(path):
            return _read_safetensors(path)
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_stream(path)
    except Exception as error:  # the parsers meet hostile bytes: whatever they raise is a refusal
        reason = str(error) if isinstance(error, Refused) else f"cannot be parsed ({type(error).__name__})"
        raise BackboneError(
            f"{path}: {reason}. Weight files may hold tensors and nothing else; nothing in it was executed. "
            "Convert it with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') where you trust it."
        ) from None
