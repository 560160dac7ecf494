"""Reads weight files: safetensors, and PyTorch's ``.pth`` without PyTorch and without executing anything.

A ``.pth`` is a pickle program beside raw numbers: a zip archive (since PyTorch 1.6), or a stream of four programs followed by the
storages. Python's own unpickler is never called on it. The program is only *parsed* (by `pickletools`), and a machine of some forty
instructions carries it out that can make dictionaries, lists, numbers, strings and descriptions of tensors. Any other instruction, and
any name that is not in `_ALLOWED`, is refused with its position; nothing is imported or called by name. Everything is bounded by the
length of the program: no instruction copies a container that the program has already built, and what could be nested without end is
refused as a key and walked to a limited depth.

Why not ``torch.load(weights_only=True)``: it needs 5 GB of PyTorch for 18 MB of numbers, and it was broken twice
(CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.backbones.weights import given_file
from headstart.errors import BackboneError

Array = np.ndarray[Any, np.dtype[Any]]

_CODES = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?",
}  # fmt: skip
_STORAGES: dict[str, np.dtype[Any]] = {f"torch {name}Storage": np.dtype(code) for name, code in _CODES.items()}
_DICTIONARY, _REBUILT, _PARAMETER = "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_ALLOWED = frozenset({_DICTIONARY, _REBUILT, _PARAMETER, *_STORAGES})
_MAX_BITS = 128  # of an integer: sizes need 63, PyTorch's magic number 77
_MAX_DIMENSIONS = 32
_MAX_DEPTH = 8  # of dictionaries in dictionaries
_MAX_VISITS = 1_000_000
_MAGIC = 0x1950A86A20F9469CFC6C  # first value of PyTorch's older format
_MAX_BYTES = 8 << 30  # no image backbone is larger
_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
_MAX_HEADER = 100 << 20  # as safetensors itself has it
_MAX_COPIES = 4  # how often the file's own size all tensors together may take (tied weights are views of one storage)
_WRAPPERS = ("state_dict.", "model_state_dict.", "model.", "module.")


def read_tensors(path: str | Path) -> dict[str, Array]:
    """Read every tensor of a ``.safetensors`` file, or of a ``.pth`` / ``.pt`` / ``.bin`` file of PyTorch in either of its formats.

    Gives names (dotted for nested dictionaries) and C-contiguous arrays, in the order of the file (that of safetensors is the writer's,
    mostly sorted). Numbers and strings beside tensors are ignored. Raises BackboneError where the file is missing, cut off, or holds
    anything else. Nothing in it is executed, and reading takes time and memory in proportion to its length.
    """
    path = given_file(path)
    if path.stat().st_size > _MAX_BYTES:
        raise BackboneError(f"{path}: {path.stat().st_size >> 30} GiB is larger than any image backbone (limit {_MAX_BYTES >> 30} GiB).")
    try:
        read = _read_safetensors if _is_safetensors(path) else _read_zip if zipfile.is_zipfile(path) else _read_stream
        tensors = read(path)
        if not tensors:
            raise Refused("holds no tensors")
    except Exception as error:  # the parsers meet hostile bytes: whatever they raise is a refusal
        reason = str(error) if isinstance(error, Refused) else f"cannot be parsed ({type(error).__name__})"
        raise BackboneError(
            f"{path}: {reason}. Weight files may hold tensors and nothing else; nothing in it was executed. "
            "Convert it with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') where you trust it."
        ) from None
    return tensors


def _prefixes(names: Iterable[str]) -> set[str]:
    """Everything that could stand in front of a parameter's own name: nothing, ``module.``, ``state_dict.module.``, ..."""
    found = {""}
    for name in names:
        parts = name.split(".")
        found.update(".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), 4)))
    return found


def unwrapped(tensors: Mapping[str, Array], expected: Iterable[str]) -> dict[str, Array]:
    """The entries under the prefix that fits the most of the `expected` names, without the prefix.

    Training scripts wrap weights as ``{"state_dict": ...}`` or ``{"model": ...}`` and prefix names with ``module.``; where several
    copies fit equally (weights and their moving average), the one with the shortest prefix is taken.
    """
    names = set(expected)

    def fitting(prefix: str) -> tuple[int, int]:
        return (sum(prefix + name in tensors for name in names), -len(prefix))

    best = max(sorted(_prefixes(tensors)), key=fitting)
    if fitting(best)[0] == 0:  # other names altogether: at least the usual wrappers are known
        best = ""
        while (wrapper := next((word for word in _WRAPPERS if any(name.startswith(best + word) for name in tensors)), None)) is not None:
            best += wrapper
    return {name.removeprefix(best): value for name, value in tensors.items() if name.startswith(best)}


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
        found = dict(_tensors_in(Machine().run(io.BytesIO(archive.read(programs[0])))))
        raw: dict[str, Array] = {}
        for key, storage in _storages(found, file_size=path.stat().st_size).items():
            member = members.get(f"{folder}data/{key}")
            if member is None or member.file_size != storage.size:
                raise Refused(f"announces storage {key[:40]!r} in two ways")
            raw[key] = np.frombuffer(archive.read(member), dtype=storage.dtype)
    return {name: _array(tensor, raw[tensor.storage.key]) for name, tensor in found.items()}


def _read_stream(path: Path) -> dict[str, Array]:
    stream = io.BytesIO(path.read_bytes())
    if Machine().run(stream) != _MAGIC:
        raise Refused("is not a file that PyTorch wrote")
    Machine().run(stream)  # protocol version
    Machine().run(stream)  # sizes of C types on the writing machine
    found = dict(_tensors_in(Machine().run(stream)))
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
    return {name: _array(tensor, raw[tensor.storage.key]) for name, tensor in found.items()}


def _read_safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError, deserialize
    from safetensors.numpy import load_file

    with path.open("rb") as stream:
        header = stream.read(min(int.from_bytes(stream.read(8), "little"), _MAX_HEADER))
    try:
        if b'"BF16"' in header:  # which NumPy has not
            return {name: _of_view(view) for name, view in deserialize(path.read_bytes())}  # type: ignore[no-untyped-call]
        return dict(load_file(path))
    except SafetensorError as error:
        raise Refused(f"is not a readable safetensors file ({error})") from None


def _of_view(view: Mapping[str, Any]) -> Array:
    """An array of a safetensors file; bfloat16, the upper half of a float32, as that."""
    kind, data = view["dtype"], view["data"]
    if kind == "BF16":
        found: Array = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    elif kind in _SAFETENSORS:
        found = np.frombuffer(data, _SAFETENSORS[kind])
    else:
        raise Refused(f"holds numbers of the type {kind}, which NumPy has not")
    return found.reshape(view["shape"])


def _is_safetensors(path: Path) -> bool:
    """By its name, or by its beginning: the length of a JSON header, and its brace."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:] == b"{" and head[:2] != b"PK")


@dataclass(frozen=True)
class Name:
    """A dotted name met in the program: compared, never imported."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A reference to the raw numbers of one storage; `size` is its length in bytes."""

    dtype: np.dtype[Any]
    key: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """A tensor before its numbers are read: a view (offset, shape, strides in elements) of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Refused(Exception):  # noqa: N818 - becomes part of the message of a BackboneError
    """The file asks for more than tensors."""


_MARK = object()


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise Refused("builds a tensor from something that is not a storage")
    fits = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= _MAX_DIMENSIONS
    if not (fits and all(type(size) is int and 0 <= size < 1 << 62 for size in (offset, *shape, *strides))):
        raise Refused("builds a tensor of impossible shape")
    return Tensor(storage, offset, shape, strides)


def _rebuild(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise Refused("calls something that is not a name")
    if function.text == _REBUILT:
        return _tensor(arguments)
    if function.text == _PARAMETER:
        return arguments[0]
    if function.text != _DICTIONARY:
        raise Refused(f"calls {function.text.replace(' ', '.')}")
    if arguments:
        raise Refused("fills a dictionary in an unknown way")
    return {}


def _persistent(reference: Any) -> Storage:
    """Turn PyTorch's ('storage', type, key, device, count, ...) into a `Storage`."""
    if not (isinstance(reference, tuple) and len(reference) >= 5 and isinstance(reference[0], str) and reference[0] == "storage"):
        raise Refused("refers to something that is not a storage")
    kind, key, count = reference[1], reference[2], reference[4]
    dtype = _STORAGES.get(kind.text) if isinstance(kind, Name) else None
    if dtype is None or not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 62:
        raise Refused("refers to a storage in an unknown way")
    return Storage(dtype, key, count)


def _set_items(target: Any, flat: list[Any]) -> None:
    if not isinstance(target, dict):
        raise Refused("fills something that is not a dictionary")
    if not all(isinstance(key, str | int) for key in flat[::2]):  # a deeply nested tuple would take forever to hash
        raise Refused("has a key that is neither a string nor a number")
    target.update(zip(flat[::2], flat[1::2], strict=True))


def _name(module: Any, name: Any) -> Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise Refused("names something in an unknown way")
    text = f"{module} {name}"
    if text not in _ALLOWED:
        raise Refused(f"names {text[:80].replace(' ', '.')}, which is not part of a tensor")
    return Name(text)


class Machine:
    """Carries out one program on a stack of plain values."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _pop(self, count: int) -> list[Any]:
        return [self._stack.pop() for _ in range(count)][::-1]

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "INT" | "LONG":
                if argument.bit_length() > _MAX_BITS:  # multiplying such numbers could take hours
                    raise Refused("holds an integer beyond all sizes")
                stack.append(argument)
            case "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE" | "UNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self._memo[len(self._memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[opcode]())
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(opcode[-1]))))
            case "SETITEM" | "SETITEMS":
                flat = self._pop(2) if opcode == "SETITEM" else self._pop_to_mark()
                _set_items(stack[-1], flat)
            case "APPEND" | "APPENDS":
                extra = self._pop(1) if opcode == "APPEND" else self._pop_to_mark()
                if not isinstance(stack[-1], list):
                    raise Refused("appends to something that is not a list")
                stack[-1].extend(extra)
            case "GLOBAL":
                stack.append(_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(_name(*self._pop(2)))
            case "REDUCE":
                stack.append(_rebuild(*self._pop(2)))
            case "BUILD":  # attributes of an OrderedDict, such as `_metadata`: of no use here
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise Refused("sets attributes of something that is not a dictionary")
            case "BINPERSID":
                stack.append(_persistent(stack.pop()))
            case other:
                raise Refused(f"uses the instruction {other}")

    def run(self, stream: io.BytesIO) -> Any:
        """Run one program from the stream's position up to its STOP. Raises Refused, or an IndexError, KeyError, ValueError, ..."""
        for opcode, argument, position in pickletools.genops(stream):
            if opcode.name == "STOP":
                if len(self._stack) != 1:
                    break
                return self._stack[0]
            try:
                self._step(opcode.name, argument)
            except Refused as refusal:
                raise Refused(f"{refusal} (at byte {position})") from None
        raise Refused("ends before it is complete")


def _tensors_in(checkpoint: Any) -> Iterator[tuple[str, Tensor]]:
    """Walk the dictionaries of a checkpoint and yield its tensors under dotted names; everything else is ignored."""
    visits = 0

    def walk(value: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        nonlocal visits
        visits += 1
        if depth > _MAX_DEPTH or visits > _MAX_VISITS:
            raise Refused("nests its dictionaries without end")
        if isinstance(value, Tensor):
            yield prefix, value
        elif isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(key, str) and isinstance(inner, Tensor | dict):
                    yield from walk(inner, f"{prefix}.{key}" if prefix else key, depth + 1)

    yield from walk(checkpoint, "", 0)
