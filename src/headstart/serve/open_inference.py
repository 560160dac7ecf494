"""The Open Inference Protocol, version 2: what Triton, KServe and their clients speak.

A model takes one of two inputs: ``images``, BYTES [n], files of images as they are; or ``pixels``, UINT8 [n, height, width, 3]. It returns
the outputs of its network but the features, and what its task knows beside them: see the metadata of the model.

Protocol: https://github.com/kserve/open-inference-protocol; binary form: the extension ``binary_tensor_data`` of Triton.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

import headstart
from headstart.serve.limits import Refusal
from headstart.serve.models import Array, Model
from headstart.serve.requests import Input
from headstart.serve.schemas import INFER_BODY, REFUSALS
from headstart.serve.service import Predicted

if TYPE_CHECKING:
    from headstart.serve.service import Service

HEADER_LENGTH = "inference-header-content-length"
VERSION = "1"  # of every model: an older state of a run is gone when it is rewritten
router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], responses=REFUSALS)
_TYPES = {"FP32": "<f4", "BOOL": "?"}
_MAX_AXES = 8


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get("", summary="What this service is.")
async def server_metadata() -> dict[str, Any]:
    """Name, version and extensions."""
    return {"name": "headstart", "version": headstart.__version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live", summary="Whether the service runs.")
async def live() -> dict[str, bool]:
    """Always true."""
    return {"live": True}


@router.get("/health/ready", summary="Whether all models are ready.")
async def ready() -> dict[str, bool]:
    """Always true: models are opened before the first request is accepted."""
    return {"ready": True}


@router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
@router.get("/models/{name}/ready", summary="Whether a model is ready.")
async def model_ready(request: Request, name: str, version: str = VERSION) -> dict[str, Any]:
    """True, or 404."""
    _check_version(version)
    with _service(request).models.use(name):
        return {"name": name, "ready": True}


@router.get("/models/{name}/versions/{version}", include_in_schema=False)
@router.get("/models/{name}", summary="The inputs and outputs of a model.")
async def model_metadata(request: Request, name: str, version: str = VERSION) -> dict[str, Any]:
    """As the protocol has them."""
    _check_version(version)
    with _service(request).models.use(name) as model:
        inputs = [("images", "BYTES", [-1]), ("pixels", "UINT8", [-1, -1, -1, 3])]
        outputs = []
        for output, value in model.tensors.items():
            datatype, shape = _description(value)
            outputs.append((output, datatype, [-1, *shape[1:]]))
        return {
            "name": name,
            "versions": [VERSION],
            "platform": "headstart",
            "inputs": [{"name": tensor, "datatype": datatype, "shape": shape} for tensor, datatype, shape in inputs],
            "outputs": [{"name": tensor, "datatype": datatype, "shape": shape} for tensor, datatype, shape in outputs],
            "parameters": {"classes": json.dumps(model.run.classes, ensure_ascii=False)},
        }


def _check_version(version: str) -> None:
    if version != VERSION:
        raise Refusal(404, "unknown_version", f"Models have the version {VERSION} only.")


@router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
@router.post("/models/{name}/infer", summary="Predict images.", openapi_extra=INFER_BODY)
async def infer(request: Request, name: str, version: str = VERSION) -> Response:
    """Predict all images of the input; one that cannot be read refuses the request, as the protocol has no place for it."""
    _check_version(version)
    service = _service(request)
    with service.models.use(name) as model:
        body, length = await request.body(), request.headers.get(HEADER_LENGTH)
        header, inputs = await service.threads.read(lambda: _read(body, length))
        predicted = await service.predict(request, model, inputs)
        if predicted.predictions.refused:
            place, error = predicted.predictions.refused_at[0], predicted.predictions.refused[0]
            raise _bad(f"Image {place} is refused: {error.reason}.")
        return _response(header, model, predicted)


def _read(body: bytes, header_length: str | None) -> tuple[dict[str, Any], list[Input]]:
    """The JSON part of a request, and its images."""
    header, binary = _split(body, header_length)
    tensors = _read_tensors(header, binary)
    if len(tensors) != 1 or tensors[0].name not in ("images", "pixels"):
        raise _bad("There must be one input, either 'images' (BYTES) or 'pixels' (UINT8).")
    tensor = tensors[0]
    if tensor.name == "images" and (tensor.datatype != "BYTES" or len(tensor.shape) not in (1, 2)):
        raise _bad("The input 'images' must be BYTES of the shape [n]: files of images.")
    if tensor.name == "pixels" and (tensor.array is None or len(tensor.shape) != 4 or tensor.shape[3] != 3 or 0 in tensor.shape):
        raise _bad("The input 'pixels' must be UINT8 of the shape [n, height, width, 3].")
    data: list[Any] = list(tensor.strings) if tensor.array is None else list(tensor.array)
    if not data:
        raise _bad("There is no image in the request.")
    return header, [Input(f"{tensor.name}[{place}]", one) for place, one in enumerate(data)]


def _response(header: dict[str, Any], model: Model, predicted: Predicted) -> Response:
    outputs = model.tensors_of(predicted.predictions)
    names, binary = _requested(header, outputs)
    entries, behind = _write_tensors({name: outputs[name] for name in names}, binary=binary)
    content: dict[str, Any] = {"model_name": model.name, "model_version": VERSION, "outputs": entries}
    if isinstance(header.get("id"), str):
        content["id"] = header["id"]
    if not behind:
        return JSONResponse(content)
    head = json.dumps(content).encode()
    return Response(head + behind, media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(head))})


def _requested(header: dict[str, Any], outputs: dict[str, Any]) -> tuple[list[str], set[str]]:
    """The names of the outputs that are requested, and of those among them that are requested in binary form."""
    by_default = _parameters(header).get("binary_data_output") is True
    requested = header.get("outputs") or [{"name": name} for name in outputs]
    known = tuple(outputs)  # compared and not looked up: a name may be anything
    if not isinstance(requested, list) or not all(isinstance(entry, dict) and entry.get("name") in known for entry in requested):
        raise _bad(f"'outputs' may name: {', '.join(outputs)}.")
    binary = {entry["name"] for entry in requested if _parameters(entry).get("binary_data", by_default) is True}
    return [entry["name"] for entry in requested], binary


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A named array: ``UINT8`` as uint8, ``BYTES`` as a list of bytes objects in `strings`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    array: Array | None = None
    strings: tuple[bytes, ...] = ()


def _bad(message: str) -> Refusal:
    """A request that does not follow the protocol."""
    return Refusal(400, "bad_inference_request", message)


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON part of a request, and the binary data behind it."""
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12 and int(header_length) <= length):
            raise _bad("Inference-Header-Content-Length must be the number of bytes of the JSON part of the body.")
        length = int(header_length)
    try:
        header = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise _bad("The body, or its first part, is not valid JSON.") from None
    if not isinstance(header, dict) or not isinstance(header.get("inputs"), list) or not header["inputs"]:
        raise _bad("The body must be a JSON object with a list of 'inputs'.")
    return header, memoryview(body)[length:]


def _read_tensors(header: dict[str, Any], binary: memoryview) -> list[_Tensor]:
    tensors, at = [], 0
    for entry in header["inputs"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise _bad("Each input must be an object with a 'name'.")
        size = _parameters(entry).get("binary_data_size")
        if size is None:
            tensors.append(_tensor_of_json(entry))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary) - at:
            raise _bad(f"Input {entry['name'][:80]!r}: 'binary_data_size' does not fit the body.")
        tensors.append(_tensor_of_binary(entry, binary[at : at + size]))
        at += size
    if at != len(binary):
        raise _bad(f"{len(binary) - at} bytes of the body belong to no input.")
    return tensors


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("parameters")
    return found if isinstance(found, dict) else {}


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > _MAX_AXES or not all(type(side) is int and 0 <= side < 1 << 31 for side in shape):
        raise _bad(f"Input {entry['name'][:80]!r}: 'shape' must be a list of whole numbers.")
    return tuple(shape)


def _tensor_of_json(entry: dict[str, Any]) -> _Tensor:
    name, datatype, shape, data = entry["name"], entry.get("datatype"), _shape(entry), entry.get("data")
    if not isinstance(data, list):
        raise _bad(f"Input {name[:80]!r}: 'data' must be a list, or 'binary_data_size' be given.")
    if datatype == "BYTES":
        try:
            strings = tuple(base64.b64decode(text, validate=True) for text in data)
        except (binascii.Error, ValueError, TypeError):
            raise _bad(f"Input {name[:80]!r}: BYTES in JSON must be base64 in strings.") from None
        return _checked(_Tensor(name, "BYTES", shape, strings=strings), len(strings))
    if datatype != "UINT8":
        raise _bad(f"Input {name[:80]!r}: the datatype must be UINT8 or BYTES.")
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError, RecursionError):
        raise _bad(f"Input {name[:80]!r}: its lists are of different lengths.") from None
    if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise _bad(f"Input {name[:80]!r}: UINT8 are whole numbers from 0 to 255.")
    return _checked(_Tensor(name, "UINT8", shape, values.astype(np.uint8)), values.size)


def _tensor_of_binary(entry: dict[str, Any], data: memoryview) -> _Tensor:
    name, datatype, shape = entry["name"], entry.get("datatype"), _shape(entry)
    if datatype == "BYTES":
        strings = _strings(name, data)
        return _checked(_Tensor(name, "BYTES", shape, strings=strings), len(strings))
    if datatype != "UINT8":
        raise _bad(f"Input {name[:80]!r}: the datatype must be UINT8 or BYTES.")
    return _checked(_Tensor(name, "UINT8", shape, np.frombuffer(data, np.uint8)), len(data))


def _strings(name: str, data: memoryview) -> tuple[bytes, ...]:
    found, at = [], 0
    while at < len(data):
        length = struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else len(data)
        if at + 4 + length > len(data):
            raise _bad(f"Input {name[:80]!r}: its BYTES are cut off.")
        found.append(bytes(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return tuple(found)


def _checked(tensor: _Tensor, count: int) -> _Tensor:
    if math.prod(tensor.shape) != count:
        raise _bad(f"Input {tensor.name[:80]!r}: the shape {list(tensor.shape)} does not fit its {count} values.")
    return tensor if tensor.array is None else replace(tensor, array=tensor.array.reshape(tensor.shape))


def _write_tensors(outputs: dict[str, Array | list[str]], *, binary: set[str]) -> tuple[list[dict[str, Any]], bytes]:
    """The entries of ``outputs`` for float32 and bool arrays and lists of strings, and the binary data of those in `binary`."""
    entries, behind = [], []
    for name, value in outputs.items():
        datatype, shape = _description(value)
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if name in binary:
            data = _encoded(value, datatype)
            entry["parameters"] = {"binary_data_size": len(data)}
            behind.append(data)
        else:
            entry["data"] = value if isinstance(value, list) else value.ravel().tolist()
        entries.append(entry)
    return entries, b"".join(behind)


def _description(value: Array | list[str]) -> tuple[str, list[int]]:
    if isinstance(value, list):
        return "BYTES", [len(value)]
    return ("BOOL" if value.dtype == np.bool_ else "FP32"), list(value.shape)


def _encoded(value: Array | list[str], datatype: str) -> bytes:
    if isinstance(value, list):
        texts = [text.encode("utf-8", "replace") for text in value]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return value.astype(_TYPES[datatype]).tobytes()
