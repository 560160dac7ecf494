"""The Open Inference Protocol, version 2: what Triton, KServe and their clients speak.

A model of images takes one of two inputs: ``images``, BYTES [n], files of images as they are; or ``pixels``, UINT8 [n, height, width, 3].
A model of texts takes ``text``, BYTES [n], in UTF-8, which in JSON are plain strings; U+001E parts the two texts of a pair. A model returns
the outputs of its network but the features, and what its task knows beside them: see the metadata of the model. The parameter
``confidence`` of a request is the lowest confidence of what the task names, a number from 0 to 1.

Protocol: https://github.com/kserve/open-inference-protocol; binary form: the extension ``binary_tensor_data`` of Triton.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

import headstart
from headstart.serve.models import Array, Model
from headstart.serve.refusals import Refusal
from headstart.serve.requests import Input, Tensor
from headstart.serve.schemas import INFER_BODY, REFUSALS
from headstart.serve.service import NamedModel, Served
from headstart.tasks import Predictions

HEADER_LENGTH = "inference-header-content-length"
VERSION = "1"  # of every model: an older state of a run is gone when it is rewritten
_MAX_AXES = 8


def _check_version(request: Request) -> None:
    if request.path_params.get("version", VERSION) != VERSION:
        raise Refusal(404, "unknown_version", f"Models have the version {VERSION} only.")


router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], responses=REFUSALS, dependencies=[Depends(_check_version)])


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
async def model_ready(model: NamedModel) -> dict[str, Any]:
    """True, or 404."""
    return {"name": model.name, "ready": True}


@router.get("/models/{name}/versions/{version}", include_in_schema=False)
@router.get("/models/{name}", summary="The inputs and outputs of a model.")
async def model_metadata(model: NamedModel) -> dict[str, Any]:
    """As the protocol has them."""
    outputs = [_description(name, value) for name, value in model.tensors.items()]
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "headstart",
        "inputs": [{"name": name, "datatype": one.datatype, "shape": list(one.shape)} for name, one in model.intake.tensors.items()],
        "outputs": [entry | {"shape": [-1, *entry["shape"][1:]]} for entry in outputs],
        "parameters": {"classes": json.dumps(_classes(model), ensure_ascii=False)},
    }


def _classes(model: Model) -> Any:
    """The class names; by the column of labels, where there are several."""
    outputs = model.run.class_outputs
    return {one.column: one.classes for one in outputs} if len(outputs) > 1 else model.run.classes


@router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
@router.post("/models/{name}/infer", summary="Predict images, or texts.", openapi_extra=INFER_BODY)
async def infer(request: Request, service: Served, model: NamedModel) -> Response:
    """Predict all images or texts of the input; one that cannot be read refuses the request, as the protocol has no place for it."""
    body, length = await request.body(), request.headers.get(HEADER_LENGTH)
    header, inputs = await service.threads.run("decode", lambda: _read(body, length, model))
    least, noun = model.least(_confidence(header)), model.intake.modality.noun
    predictions = await service.predict(request, model, inputs)
    if predictions.refused:
        raise _bad(f"{noun.capitalize()} {predictions.refused_at[0]} is refused: {predictions.refused[0].reason}.")
    return await service.threads.run("compute", lambda: _response(header, model, predictions, least=least))


def _bad(message: str) -> Refusal:
    """A request that does not follow the protocol."""
    return Refusal(400, "bad_inference_request", message)


def _read(body: bytes, header_length: str | None, model: Model) -> tuple[dict[str, Any], list[Input]]:
    """The JSON part of a request, and its inputs."""
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
    tensor = header["inputs"][0]
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise _bad("Each input must be an object with a 'name'.")
    forms = model.intake.tensors
    if len(header["inputs"]) != 1 or tensor["name"] not in forms:
        known = [f"{name!r} ({one.datatype})" for name, one in forms.items()]
        raise _bad(f"There must be one input, {'either ' if len(known) > 1 else ''}{' or '.join(known)}.")
    data = _values(tensor, forms[tensor["name"]], memoryview(body)[length:])
    if not data:
        raise _bad(f"There is no {model.intake.modality.noun} in the request.")
    return header, [Input(f"{tensor['name']}[{place}]", one) for place, one in enumerate(data)]


def _values(tensor: dict[str, Any], form: Tensor, binary: memoryview) -> list[Any]:
    """The values of the input: of BYTES what the form makes of each, or arrays of pixels; in binary form they are behind the JSON."""
    name, shape = tensor["name"], tensor.get("shape")
    if not isinstance(shape, list) or len(shape) > _MAX_AXES or not all(type(side) is int and 0 <= side < 1 << 31 for side in shape):
        raise _bad(f"Input {name!r}: 'shape' must be a list of whole numbers.")
    fits = len(shape) in (1, 2) if form.from_bytes else len(shape) == 4 and shape[3] == 3 and 0 not in shape
    if tensor.get("datatype") != form.datatype or not fits:
        raise _bad(f"The input {name!r} must be {form.datatype} of the shape {form.words}.")
    size = _parameters(tensor).get("binary_data_size")
    if size is None and len(binary):
        raise _bad(f"{len(binary)} bytes of the body belong to no input.")
    if size is None:
        values: Any = _from_json(tensor, form)
    elif type(size) is not int or size != len(binary):
        raise _bad(f"Input {name!r}: 'binary_data_size' does not fit the body, which has {len(binary)} bytes after its JSON part.")
    else:
        values = [form.from_bytes(one) for one in _strings(binary, name)] if form.from_bytes else np.frombuffer(binary, np.uint8)
    if math.prod(shape) != len(values):
        raise _bad(f"Input {name!r}: the shape {shape} does not fit its {len(values)} values.")
    return list(values if form.from_bytes else values.reshape(shape))


def _from_json(tensor: dict[str, Any], form: Tensor) -> list[Any] | Array:
    name, data = tensor["name"], tensor.get("data")
    if not isinstance(data, list):
        raise _bad(f"Input {name!r}: 'data' must be a list, or 'binary_data_size' be given.")
    try:
        if form.from_json:
            return [form.from_json(one) for one in data]
        values = np.asarray(data).ravel()
    except (ValueError, TypeError, OverflowError, RecursionError):
        reason = f"BYTES in JSON must be {form.values}" if form.from_json else "its lists are of different lengths"
        raise _bad(f"Input {name!r}: {reason}.") from None
    if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise _bad(f"Input {name!r}: UINT8 are whole numbers from 0 to 255.")
    return values.astype(np.uint8)


def _strings(data: memoryview, name: str) -> list[bytes]:
    """BYTES in binary form: before each string its length as four bytes, the lowest first."""
    found, at = [], 0
    while at < len(data):
        length = struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else len(data)
        if at + 4 + length > len(data):
            raise _bad(f"Input {name!r}: its BYTES are cut off.")
        found.append(bytes(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("parameters")
    return found if isinstance(found, dict) else {}


def _confidence(header: dict[str, Any]) -> float | None:
    """The lowest confidence that the parameters of a request ask for; None for the default of the model."""
    confidence = _parameters(header).get("confidence")
    if confidence is not None and (type(confidence) not in (int, float) or not 0 <= confidence <= 1):
        got = f", got {confidence!r:.60}" if isinstance(confidence, str | int | float) else ""
        raise _bad(f"'parameters': 'confidence' must be a number of at least 0 and at most 1{got}.")
    return confidence


def _response(header: dict[str, Any], model: Model, predictions: Predictions, *, least: float | None) -> Response:
    outputs = model.tensors_of(predictions, least=least)
    entries, behind = [], []
    for name, binary in _requested(header, outputs).items():
        value = outputs[name]
        entry = _description(name, value)
        if binary:
            behind.append(_encoded(value))
            entry["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            entry["data"] = value if isinstance(value, list) else value.ravel().tolist()
        entries.append(entry)
    content: dict[str, Any] = {"model_name": model.name, "model_version": VERSION, "outputs": entries}
    if isinstance(header.get("id"), str):
        content["id"] = header["id"]
    if not behind:
        return JSONResponse(content)
    head = json.dumps(content).encode()
    return Response(head + b"".join(behind), media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(head))})


def _requested(header: dict[str, Any], outputs: dict[str, Any]) -> dict[str, bool]:
    """The outputs that are requested, all by default, and whether each is requested in binary form."""
    by_default = _parameters(header).get("binary_data_output") is True
    requested = header.get("outputs") or [{"name": name} for name in outputs]
    known = tuple(outputs)  # compared and not looked up: a name may be anything
    if not isinstance(requested, list) or not all(isinstance(entry, dict) and entry.get("name") in known for entry in requested):
        raise _bad(f"'outputs' may name: {', '.join(outputs)}.")
    return {entry["name"]: _parameters(entry).get("binary_data", by_default) is True for entry in requested}


def _description(name: str, value: Array | list[str]) -> dict[str, Any]:
    if isinstance(value, list):
        return {"name": name, "datatype": "BYTES", "shape": [len(value)]}
    return {"name": name, "datatype": "BOOL" if value.dtype == np.bool_ else "FP32", "shape": list(value.shape)}


def _encoded(value: Array | list[str]) -> bytes:
    """An output in binary form; numbers have the lowest byte first."""
    if isinstance(value, list):
        texts = [text.encode("utf-8", "replace") for text in value]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return value.astype("?" if value.dtype == np.bool_ else "<f4").tobytes()
