"""Tensors of the Open Inference Protocol, version 2, as JSON and in binary form.

Protocol: https://github.com/kserve/open-inference-protocol; binary form: the extension ``binary_tensor_data`` of Triton.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.serve.refusals import Refusal

Array = npt.NDArray[Any]
_TYPES = {"FP32": "<f4", "BOOL": "?"}
_MOST_AXES = 8


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named array: ``UINT8`` as uint8, ``BYTES`` as a list of bytes objects in `strings`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    array: Array | None = None
    strings: tuple[bytes, ...] = ()


def bad(message: str) -> Refusal:
    """A request that does not follow the protocol."""
    return Refusal(400, "bad_inference_request", message)


def split_body(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON part of a request, and the binary data behind it.

    Args:
        body: of the request.
        header_length: the header ``Inference-Header-Content-Length``, where it came.

    Raises:
        Refusal: 400.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12 and int(header_length) <= length):
            raise bad("Inference-Header-Content-Length must be the number of bytes of the JSON part of the body.")
        length = int(header_length)
    try:
        said = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise bad("The body, or its first part, is not valid JSON.") from None
    if not isinstance(said, dict) or not isinstance(said.get("inputs"), list) or not said["inputs"]:
        raise bad("The body must be a JSON object with a list of 'inputs'.")
    return said, memoryview(body)[length:]


def read_tensors(said: dict[str, Any], binary: memoryview) -> list[Tensor]:
    """The inputs of a request.

    Raises:
        Refusal: 400, data that do not fit their shape or type.
    """
    tensors, at = [], 0
    for entry in said["inputs"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise bad("Each input must be an object with a 'name'.")
        size = _parameters(entry).get("binary_data_size")
        if size is None:
            tensors.append(_of_json(entry))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary) - at:
            raise bad(f"Input {entry['name'][:80]!r}: 'binary_data_size' does not fit the body.")
        tensors.append(_of_binary(entry, binary[at : at + size]))
        at += size
    if at != len(binary):
        raise bad(f"{len(binary) - at} bytes of the body belong to no input.")
    return tensors


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("parameters")
    return found if isinstance(found, dict) else {}


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(type(side) is int and 0 <= side < 1 << 31 for side in shape):
        raise bad(f"Input {entry['name'][:80]!r}: 'shape' must be a list of whole numbers.")
    return tuple(shape)


def _of_json(entry: dict[str, Any]) -> Tensor:
    name, datatype, shape, data = entry["name"], entry.get("datatype"), _shape(entry), entry.get("data")
    if not isinstance(data, list):
        raise bad(f"Input {name[:80]!r}: 'data' must be a list, or 'binary_data_size' be given.")
    if datatype == "BYTES":
        try:
            strings = tuple(base64.b64decode(text, validate=True) for text in data)
        except (binascii.Error, ValueError, TypeError):
            raise bad(f"Input {name[:80]!r}: BYTES in JSON must be base64 in strings.") from None
        return _checked(Tensor(name, "BYTES", shape, strings=strings), len(strings))
    if datatype != "UINT8":
        raise bad(f"Input {name[:80]!r}: the datatype must be UINT8 or BYTES.")
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError, RecursionError):
        raise bad(f"Input {name[:80]!r}: its lists are of different lengths.") from None
    if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise bad(f"Input {name[:80]!r}: UINT8 are whole numbers from 0 to 255.")
    return _checked(Tensor(name, "UINT8", shape, values.astype(np.uint8)), values.size)


def _of_binary(entry: dict[str, Any], data: memoryview) -> Tensor:
    name, datatype, shape = entry["name"], entry.get("datatype"), _shape(entry)
    if datatype == "BYTES":
        strings = _strings(name, data)
        return _checked(Tensor(name, "BYTES", shape, strings=strings), len(strings))
    if datatype != "UINT8":
        raise bad(f"Input {name[:80]!r}: the datatype must be UINT8 or BYTES.")
    return _checked(Tensor(name, "UINT8", shape, np.frombuffer(data, np.uint8)), len(data))


def _strings(name: str, data: memoryview) -> tuple[bytes, ...]:
    found, at = [], 0
    while at < len(data):
        length = struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else len(data)
        if at + 4 + length > len(data):
            raise bad(f"Input {name[:80]!r}: its BYTES are cut off.")
        found.append(bytes(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return tuple(found)


def _checked(tensor: Tensor, count: int) -> Tensor:
    if math.prod(tensor.shape) != count:
        raise bad(f"Input {tensor.name[:80]!r}: the shape {list(tensor.shape)} does not fit its {count} values.")
    array = None if tensor.array is None else tensor.array.reshape(tensor.shape)
    return Tensor(tensor.name, tensor.datatype, tensor.shape, array, tensor.strings)


def write_tensors(outputs: dict[str, Array | list[str]], *, binary: set[str]) -> tuple[list[dict[str, Any]], bytes]:
    """Outputs as the protocol has them.

    Args:
        outputs: float32 and bool arrays, and lists of strings, by name.
        binary: names of those that are wanted in binary form.

    Returns:
        The entries of ``outputs``, and the binary data to put behind the JSON.
    """
    entries, behind = [], []
    for name, value in outputs.items():
        datatype, shape = _described(value)
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if name in binary:
            data = _encoded(value, datatype)
            entry["parameters"] = {"binary_data_size": len(data)}
            behind.append(data)
        else:
            entry["data"] = value if isinstance(value, list) else value.ravel().tolist()
        entries.append(entry)
    return entries, b"".join(behind)


def _described(value: Array | list[str]) -> tuple[str, list[int]]:
    if isinstance(value, list):
        return "BYTES", [len(value)]
    return ("BOOL" if value.dtype == np.bool_ else "FP32"), list(value.shape)


def _encoded(value: Array | list[str], datatype: str) -> bytes:
    if isinstance(value, list):
        texts = [text.encode("utf-8", "replace") for text in value]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return value.astype(_TYPES[datatype]).tobytes()
