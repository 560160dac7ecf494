"""The Open Inference Protocol, version 2: what Triton, KServe and their clients speak.

A model takes one of two inputs: ``images``, BYTES [n], files of images as they are; or ``pixels``, UINT8 [n, height, width, 3]. It gives
``probabilities`` and ``logits``, FP32 [n, k], ``labels``, BYTES [n], and where the run knows them ``sets``, BOOL [n, k], ``unlike``,
BOOL [n], and ``unlikeness``, FP32 [n].
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

import headstart
from headstart.serve.answers import REFUSALS
from headstart.serve.models import Model
from headstart.serve.predicting import Given, Predicted
from headstart.serve.refusals import Refusal
from headstart.serve.tensors import Array, Tensor, bad, read_tensors, split_body, write_tensors

if TYPE_CHECKING:
    from headstart.serve.service import Service

HEADER_LENGTH = "inference-header-content-length"
VERSION = "1"  # of every model: an older state of a run is gone when it is written anew
router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], responses=REFUSALS)

_INFER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype", "data"],
                                "properties": {
                                    "name": {"enum": ["images", "pixels"]},
                                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                                    "datatype": {"enum": ["BYTES", "UINT8"]},
                                    "data": {"type": "array"},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
                        },
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}},
        },
    }
}


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


@router.get("/health/ready", summary="Whether all models can be asked.")
async def ready() -> dict[str, bool]:
    """Always true: models are opened before the first request is taken."""
    return {"ready": True}


@router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
@router.get("/models/{name}/ready", summary="Whether a model can be asked.")
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
        k = len(model.run.classes)
        outputs = [("probabilities", "FP32", [-1, k]), ("logits", "FP32", [-1, k]), ("labels", "BYTES", [-1])]
        trust = model.run.trust
        if trust is not None and trust.sets is not None:
            outputs.append(("sets", "BOOL", [-1, k]))
        if trust is not None and trust.novelty is not None:
            outputs += [("unlike", "BOOL", [-1]), ("unlikeness", "FP32", [-1])]
        inputs = [("images", "BYTES", [-1]), ("pixels", "UINT8", [-1, -1, -1, 3])]
        return {
            "name": name,
            "versions": [VERSION],
            "platform": "headstart",
            "inputs": [_described(*entry) for entry in inputs],
            "outputs": [_described(*entry) for entry in outputs],
            "parameters": {"classes": json.dumps(model.run.classes, ensure_ascii=False)},
        }


def _described(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _check_version(version: str) -> None:
    if version != VERSION:
        raise Refusal(404, "unknown_version", f"Models have the version {VERSION} only.")


@router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
@router.post("/models/{name}/infer", summary="Predict images.", openapi_extra=_INFER_BODY)
async def infer(request: Request, name: str, version: str = VERSION) -> Response:
    """Predict all images of the input; one that cannot be read refuses the request, as the protocol has no place for it."""
    _check_version(version)
    service = _service(request)
    with service.models.use(name) as model:
        body, length = await request.body(), request.headers.get(HEADER_LENGTH)
        said, given = await service.lanes.read(lambda: _read(body, length))
        predicted = await service.predict(request, model, given)
        if predicted.predictions.refused:
            place, error = predicted.predictions.refused_at[0], predicted.predictions.refused[0]
            raise bad(f"Image {place} is refused: {error.reason}.")
        return _answer(said, model, predicted)


def _read(body: bytes, length: str | None) -> tuple[dict[str, Any], list[Given]]:
    said, binary = split_body(body, length)
    return said, _given(read_tensors(said, binary))


def _given(tensors: list[Tensor]) -> list[Given]:
    if len(tensors) != 1 or tensors[0].name not in ("images", "pixels"):
        raise bad("There must be one input, either 'images' (BYTES) or 'pixels' (UINT8).")
    tensor = tensors[0]
    if tensor.name == "images" and (tensor.datatype != "BYTES" or len(tensor.shape) not in (1, 2)):
        raise bad("The input 'images' must be BYTES of the shape [n]: files of images.")
    if tensor.name == "pixels" and (tensor.array is None or len(tensor.shape) != 4 or tensor.shape[3] != 3 or 0 in tensor.shape):
        raise bad("The input 'pixels' must be UINT8 of the shape [n, height, width, 3].")
    data: list[Any] = list(tensor.strings) if tensor.array is None else list(tensor.array)
    if not data:
        raise bad("There is no image in the request.")
    return [Given(f"{tensor.name}[{place}]", one) for place, one in enumerate(data)]


def _answer(said: dict[str, Any], model: Model, predicted: Predicted) -> Response:
    outputs = _outputs(model, predicted)
    wanted, binary = _wanted(said, outputs)
    entries, behind = write_tensors({name: outputs[name] for name in wanted}, binary=binary)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": VERSION, "outputs": entries}
    if isinstance(said.get("id"), str):
        answer["id"] = said["id"]
    if not behind:
        return JSONResponse(answer)
    head = json.dumps(answer).encode()
    return Response(head + behind, media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(head))})


def _outputs(model: Model, predicted: Predicted) -> dict[str, Array | list[str]]:
    predictions, judged = predicted.predictions, predicted.predictions.judgement
    labels = [";".join(label) if isinstance(label, tuple) else label for label in predictions.labels]
    logits = np.stack([result[1] for result in predicted.outputs])
    found: dict[str, Array | list[str]] = {"probabilities": predictions.probabilities, "logits": logits, "labels": labels}
    if judged is not None and judged.sets is not None:
        found["sets"] = judged.sets
    if judged is not None and judged.unlike is not None and judged.unlikeness is not None:
        found |= {"unlike": judged.unlike, "unlikeness": judged.unlikeness.astype(np.float32)}
    return found


def _wanted(said: dict[str, Any], outputs: dict[str, Any]) -> tuple[list[str], set[str]]:
    """The names of the outputs that are asked for, and of those among them that are wanted in binary form."""
    whole = said.get("parameters")
    by_default = isinstance(whole, dict) and whole.get("binary_data_output") is True
    asked = said.get("outputs") or [{"name": name} for name in outputs]
    if not isinstance(asked, list) or not all(isinstance(entry, dict) and entry.get("name") in outputs for entry in asked):
        raise bad(f"'outputs' may name: {', '.join(outputs)}.")
    binary = set()
    for entry in asked:
        parameters = entry.get("parameters")
        if (parameters.get("binary_data", by_default) if isinstance(parameters, dict) else by_default) is True:
            binary.add(entry["name"])
    return [entry["name"] for entry in asked], binary
