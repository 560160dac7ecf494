"""Carries out the pickle programs of PyTorch's weight files, as far as they make tensors, and nothing else.

The program is only *parsed* (by `pickletools`), and a machine of some forty instructions carries it out that can make dictionaries,
lists, numbers, strings and descriptions of tensors. Any other instruction, and any name that is not in `_ALLOWED`, is refused with its
position. Nothing is imported or called by name. Everything is bounded by the length of the program: no instruction copies a container
that the program has already built, and what could be nested without end is refused as a key and walked to a limited depth.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

STORAGES: dict[str, np.dtype[Any]] = {
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
        *(f"torch {name}" for name in STORAGES),
    }
)
_MAX_BITS = 128  # of an integer: sizes need 63, PyTorch's magic number 77
_MAX_DIMENSIONS = 32
_MAX_DEPTH = 8  # of dictionaries in dictionaries
_MAX_VISITS = 1_000_000


@dataclass(frozen=True)
class Name:
    """A dotted name met in the program: compared, never imported."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A reference to the raw numbers of one storage."""

    dtype: np.dtype[Any]
    key: str
    count: int

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """A tensor before its numbers are read: a view (offset, shape, strides in elements) of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Refused(Exception):  # noqa: N818  (what happens, not an error of ours; its message becomes part of one)
    """The file asks for something that is not a tensor."""


_MARK = object()


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise Refused("builds a tensor from something that is not a storage")
    if not (isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= _MAX_DIMENSIONS):
        raise Refused("builds a tensor of impossible shape")
    if not all(type(size) is int and 0 <= size < 1 << 62 for size in (offset, *shape, *strides)):
        raise Refused("builds a tensor of impossible shape")
    return Tensor(storage, offset, shape, strides)


def _rebuild(function: Any, arguments: Any) -> Any:
    """Carry out the three calls that a file of tensors may contain."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise Refused("calls something that is not a name")
    match function.text:
        case "collections OrderedDict":
            if arguments:
                raise Refused("fills a dictionary in an unknown way")
            return {}
        case "torch._utils _rebuild_tensor_v2":
            return _tensor(arguments)
        case "torch._utils _rebuild_parameter":
            return arguments[0]
        case other:
            raise Refused(f"calls {other.replace(' ', '.')}")


def _persistent(reference: Any) -> Storage:
    """Turn PyTorch's ('storage', type, key, place, count, ...) into a `Storage`."""
    if not (isinstance(reference, tuple) and len(reference) >= 5 and isinstance(reference[0], str) and reference[0] == "storage"):
        raise Refused("refers to something that is not a storage")
    kind, key, count = reference[1], reference[2], reference[4]
    dtype = STORAGES.get(kind.text.removeprefix("torch ")) if isinstance(kind, Name) else None
    if dtype is None or not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 62:
        raise Refused("refers to a storage in an unknown way")
    return Storage(dtype, key, count)


def _set_items(target: Any, flat: list[Any]) -> None:
    if not isinstance(target, dict):
        raise Refused("fills something that is not a dictionary")
    if not all(isinstance(key, str | int) for key in flat[::2]):  # a tuple of tuples of ... would take for ever to hash
        raise Refused("uses something else than a word or a number as a key")
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
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                flat = self._pop_to_mark()
                _set_items(stack[-1], flat)
            case "APPEND" | "APPENDS":
                extra = [stack.pop()] if opcode == "APPEND" else self._pop_to_mark()
                if not isinstance(stack[-1], list):
                    raise Refused("appends to something that is not a list")
                stack[-1].extend(extra)
            case _:
                return False
        return True

    def _values(self, opcode: str, argument: Any) -> bool:
        """Instructions that push or remember plain values. Returns whether `opcode` was one of them."""
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
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case _:
                return False
        return True

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if self._values(opcode, argument) or self._containers(opcode):
            return
        match opcode:
            case "GLOBAL":
                stack.append(_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_name(module, name))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_rebuild(stack.pop(), arguments))
            case "BUILD":  # attributes of an OrderedDict, such as `_metadata`: of no use here
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise Refused("sets attributes of something that is not a dictionary")
            case "BINPERSID":
                stack.append(_persistent(stack.pop()))
            case other:
                raise Refused(f"uses the instruction {other}")

    def run(self, stream: io.BytesIO) -> Any:
        """Run one program from the stream's position up to and including its STOP.

        Raises:
            Refused: it does something that no file of tensors does. Anything else that a broken program can raise is an ordinary
                exception of Python (IndexError, KeyError, ValueError, ...).
        """
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


def tensors_in(checkpoint: Any) -> Iterator[tuple[str, Tensor]]:
    """Walk the dictionaries of a checkpoint and yield its tensors under dotted names; everything else is passed over.

    Raises:
        Refused: one dictionary stands in itself, or so often in others that the walk would not end.
    """
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
