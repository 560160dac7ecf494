"""Reads weight files: safetensors, and PyTorch's ``.pth`` without PyTorch and without executing anything.

A ``.pth`` is a pickle program beside raw numbers. Python's own unpickler is never called on it: the program is only *parsed* (by
`pickletools`), and a machine of some twenty instructions carries it out that can make dictionaries, lists, numbers, strings and tensors.
Any other instruction, and any name that is not in `_ALLOWED`, is refused with its position. Both of PyTorch's formats are read: the
zip archive (since 1.6) and the older stream of four programs followed by the storages.

Why not ``torch.load(weights_only=True)``: it needs 5 GB of PyTorch for 18 MB of numbers, and it was broken twice
(CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import BackboneError

_MAGIC = 0x1950A86A20F9469CFC6C  # first value of PyTorch's older format
_MAX_BYTES = 8 << 30  # larger files are no image backbone
_DTYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_ALLOWED = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *(f"torch {name}" for name in _DTYPES),
    }
)


@dataclass(frozen=True)
class _Name:
    """A dotted name met in the program: compared, never imported."""

    text: str


@dataclass(frozen=True)
class _Storage:
    """A reference to the raw numbers of one storage."""

    dtype: np.dtype[Any]
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor before its numbers are read: a view (offset, shape, strides in elements) of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Refused(Exception):
    """The program asks for something that is not a tensor."""


_MARK = object()


def _rebuild(function: Any, arguments: Any) -> Any:
    """Carry out the four calls that a file of tensors may contain."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise _Refused("calls something that is not a name")
    match function.text:
        case "collections OrderedDict":
            return dict(arguments[0]) if arguments else {}
        case "torch._utils _rebuild_tensor_v2":
            storage, offset, shape, strides = arguments[:4]
            if not isinstance(storage, _Storage):
                raise _Refused("builds a tensor from something that is not a storage")
            sizes = (offset, *shape, *strides)
            if not all(isinstance(size, int) and size >= 0 for size in sizes) or len(shape) != len(strides):
                raise _Refused("builds a tensor of impossible shape")
            return _Tensor(storage, offset, tuple(shape), tuple(strides))
        case "torch._utils _rebuild_parameter":
            return arguments[0]
        case other:
            raise _Refused(f"calls {other}")


def _persistent(reference: Any) -> _Storage:
    """Turn PyTorch's ('storage', type, key, place, count, ...) into a `_Storage`."""
    if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
        raise _Refused("refers to something that is not a storage")
    kind, key, count = reference[1], reference[2], reference[4]
    if not (isinstance(kind, _Name) and isinstance(key, str) and isinstance(count, int) and count >= 0):
        raise _Refused("refers to a storage in an unknown way")
    return _Storage(_DTYPES[kind.text.removeprefix("torch ")], key, count)


class _Machine:
    """Carries out one parsed pickle program on a stack of plain values."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _set_items(self, target: Any, flat: list[Any]) -> None:
        if not isinstance(target, dict):
            raise _Refused("fills something that is not a dictionary")
        target.update(zip(flat[::2], flat[1::2], strict=True))

    def _name(self, text: str) -> _Name:
        if text not in _ALLOWED:
            raise _Refused(f"names {text.replace(' ', '.')}, which is not part of a tensor")
        return _Name(text)

    def _containers(self, opcode: str) -> bool:
        """Instructions that build or fill containers. Returns whether `opcode` was one of them."""
        stack = self._stack
        match opcode:
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode[-1])
                items = tuple(stack[-size:])
                del stack[-size:]
                stack.append(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items(stack[-1], [key, value])
            case "SETITEMS":
                flat = self._pop_to_mark()
                self._set_items(stack[-1], flat)
            case "APPEND" | "APPENDS":
                extra = [stack.pop()] if opcode == "APPEND" else self._pop_to_mark()
                if not isinstance(stack[-1], list):
                    raise _Refused("appends to something that is not a list")
                stack[-1].extend(extra)
            case _:
                return False
        return True

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if self._containers(opcode):
            return
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "INT" | "LONG" | "BINFLOAT"
                | "BINUNICODE" | "SHORT_BINUNICODE" | "UNICODE" | "BINSTRING" | "SHORT_BINSTRING"
            ):  # fmt: skip
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(self._name(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self._name(f"{module} {name}"))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_rebuild(stack.pop(), arguments))
            case "BUILD":  # attributes of an OrderedDict, such as `_metadata`: of no use here
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise _Refused("sets attributes of something that is not a dictionary")
            case "BINPERSID":
                stack.append(_persistent(stack.pop()))
            case other:
                raise _Refused(f"uses the instruction {other}")

    def run(self, stream: io.BufferedIOBase | io.BytesIO) -> Any:
        """Run one program from the stream's position up to and including its STOP."""
        for opcode, argument, position in pickletools.genops(stream):  # type: ignore[arg-type]
            if opcode.name == "STOP":
                if len(self._stack) != 1:
                    break
                return self._stack[0]
            try:
                self._step(opcode.name, argument)
            except _Refused as refusal:
                raise _Refused(f"{refusal} (at byte {position})") from None
        raise _Refused("ends before it is complete")


def _tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, _Tensor]]:
    """Walk the dictionaries of a checkpoint; everything that is not a tensor is passed over."""
    if isinstance(value, _Tensor):
        yield prefix, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _tensors(inner, f"{prefix}.{key}" if prefix else key)


def _array(tensor: _Tensor, storage: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A contiguous copy of the view that `tensor` describes."""
    reach = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) == 0:
        return np.empty(tensor.shape, storage.dtype)
    if reach >= len(storage) or math.prod(tensor.shape) > max(len(storage), 1):
        raise _Refused("describes a tensor that reaches outside its storage")
    step = storage.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(
        storage[tensor.offset :], tensor.shape, [stride * step for stride in tensor.strides], writeable=False
    )
    return np.array(view, order="C")


def _collect(checkpoint: Any, read: Callable[[_Storage], np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    found = {name: _array(tensor, read(tensor.storage)) for name, tensor in _tensors(checkpoint)}
    if not found:
        raise _Refused("holds no tensors")
    return found


def _read_zip(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with zipfile.ZipFile(path) as archive:
        programs = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == "data.pkl"]
        if len(programs) != 1:
            raise _Refused("is a zip archive, but not one that PyTorch wrote")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise _Refused("is compressed, which PyTorch never does")
        folder = programs[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise _Refused("was written on a big-endian machine")
        checkpoint = _Machine().run(io.BytesIO(archive.read(programs[0])))

        def read(storage: _Storage) -> np.ndarray[Any, Any]:
            return np.frombuffer(archive.read(f"{folder}data/{storage.key}"), dtype=storage.dtype)

        return _collect(checkpoint, read)


def _read_stream(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    stream = io.BytesIO(path.read_bytes())
    if _Machine().run(stream) != _MAGIC:
        raise _Refused("is not a file that PyTorch wrote")
    _Machine().run(stream)  # protocol version
    _Machine().run(stream)  # sizes of C types on the writing machine
    checkpoint = _Machine().run(stream)
    keys = _Machine().run(stream)
    storages: dict[str, _Storage] = {tensor.storage.key: tensor.storage for _, tensor in _tensors(checkpoint)}
    raw: dict[str, np.ndarray[Any, Any]] = {}
    for key in keys:
        head = stream.read(8)
        count = struct.unpack("<q", head)[0] if len(head) == 8 else -1
        storage = storages.get(key)
        if storage is None or count != storage.count:
            raise _Refused(f"announces storage {key!r} in two ways")
        data = stream.read(count * storage.dtype.itemsize)
        if len(data) != count * storage.dtype.itemsize:
            raise _Refused("ends in the middle of its numbers: the file is cut off")
        raw[key] = np.frombuffer(data, dtype=storage.dtype)
    return _collect(checkpoint, lambda storage: raw[storage.key])


def _read_safetensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise _Refused(f"is not a readable safetensors file ({error})") from None


def read_tensors(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read every tensor of a weight file, in the order of the file.

    Args:
        path: a ``.safetensors`` file, or a ``.pth`` / ``.pt`` / ``.bin`` file of PyTorch in either of its formats. Nested dictionaries
            (``{"state_dict": {...}}``) give dotted names.

    Returns:
        Names to C-contiguous arrays. Objects in the file that are neither dictionaries, lists, numbers, strings nor tensors are refused.

    Raises:
        BackboneError: the file is missing, cut off, or holds anything but tensors. Nothing in it is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise BackboneError(f"{path}: no such weight file. Give a .safetensors or .pth file.")
    if path.stat().st_size > _MAX_BYTES:
        raise BackboneError(f"{path}: {path.stat().st_size >> 30} GiB is larger than any image backbone (limit 8 GiB).")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_stream(path)
    except (_Refused, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, RecursionError,
            struct.error, zipfile.BadZipFile, UnicodeDecodeError, OverflowError, MemoryError) as error:  # fmt: skip
        reason = str(error) if isinstance(error, _Refused) else f"cannot be parsed ({type(error).__name__})"
        raise BackboneError(
            f"{path}: {reason}. Weight files may hold tensors and nothing else; nothing in it was executed. "
            "Convert it with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') where you trust it."
        ) from None
