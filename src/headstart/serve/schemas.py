"""The JSON of requests and responses, for the OpenAPI document. Responses themselves are made as plain objects."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from headstart.records import DEFAULT_KIND


class Error(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="One sentence for people.")
    code: str = Field(description="One word for programs.")


class RankedClass(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class Neighbour(BaseModel):
    """A training image, or a training text."""

    name: str = Field(description="File name, without its folder; of a text an excerpt.")
    label: str


class Prediction(BaseModel):
    """What the model predicts for one image or text; or, in a response about several, why this one is refused.

    The fields are those of classes, the default `kind`. Records of another kind have `name`, `kind` and fields of their own, such as
    `value` for a number.
    """

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="What the client called the input, or its row or line in a list; empty where it has no name.")
    input: str | None = Field(None, description="With echo=1: the text, of a long one the beginning and the end.")
    kind: str = Field(DEFAULT_KIND, description="What kind of record this is; classes where it is missing.")
    label: str | list[str] | None = Field(
        None, description="The most probable class; in multi-label runs the list of those of one half or more."
    )
    probability: float | None = Field(None, description="Calibrated.")
    top: list[RankedClass] | None = Field(None, description="The most probable classes, the most probable first.")
    set: list[str] | None = Field(
        None, description="The prediction set: classes that contain the right one with the coverage of the model; null: not known."
    )
    unlike: bool | None = Field(None, description="Whether the input is unlike anything seen in training; null: not known.")
    unlikeness: float | None = Field(None, description="How much; the higher, the more.")
    nearest: list[Neighbour] | None = Field(None, description="The most similar training images or texts, the nearest first.")
    heat: str | None = Field(None, description="With explain=1: a PNG as a data URI, the part that the model sees with its heat map.")
    error: str | None = Field(None, description="Why the input is refused; the other fields but `name` are missing then.")


class FoundBox(BaseModel):
    """A thing and where it is."""

    label: str
    confidence: float = Field(description="Calibrated; 0 to 1.")
    box: list[float] = Field(
        min_length=4,
        max_length=4,
        description="Left, top, right and bottom in pixels of the upright image; from 0, right and bottom outside.",
    )


class BoxPrediction(BaseModel):
    """What a model of the kind `boxes` finds in one image."""

    model_config = ConfigDict(extra="allow")

    name: str
    kind: Literal["boxes"]
    width: int = Field(description="Of the upright image in pixels, as `height`.")
    height: int
    count: int = Field(description="How many `boxes`.")
    counts: dict[str, int] = Field(description="How many of each class.")
    boxes: list[FoundBox] = Field(description="Those of the threshold and more, the most confident first.")
    unsure: list[FoundBox] = Field(description="Those of a lower confidence, but 0.05 and more.")
    threshold: float = Field(description="The lowest confidence of `boxes`.")
    ids: dict[str, int] = Field(description="The number of each class in COCO's form.")
    colours: dict[str, str] = Field(description="Of each class, #rrggbb, to draw with.")


class Recent(BaseModel):
    """The last images of a model, of all clients."""

    images: int
    unlike: int = Field(description="How many of them are unlike the training images.")
    expected: float = Field(description="The share to expect of images like the training images.")
    drifted: bool = Field(
        description="Whether they come from another world than the training images, so that probabilities and prediction sets do not hold."
    )


class Predictions(BaseModel):
    """The response to a request."""

    model: str
    drift: Recent | None = Field(None, description="There where the last images come from another world than the training images.")
    predictions: list[BoxPrediction | Prediction] = Field(description="One for each input, in the order of the request.")


class ModelFacts(BaseModel):
    """A model of the service. Those whose records are not classes have other fields than the class names and what follows from them."""

    model_config = ConfigDict(extra="allow")

    name: str
    title: str
    modality: str = Field("image", description="What it takes; images where it is missing.")
    kind: str = Field(DEFAULT_KIND, description="What kind of records it returns; classes where it is missing.")
    classes: list[str] | None = None
    multilabel: bool | None = None
    accuracy: float | None = Field(None, description="On the test data.")
    accuracy_interval: list[float] | None = Field(None, description="95 %, Wilson.")
    test_images: int | None = None
    coverage: float | None = Field(None, description="Nominal coverage of the prediction sets.")
    created: str | None = Field(description="ISO 8601.")
    backbone: str | None
    size: int = Field(description="Height and width of the images that the network takes; 0 of texts.")
    digest: str = Field(description="SHA-256 of the run's manifest.")
    recent: Recent | None = Field(None, description="The last images; null where the run cannot tell which are unlike the training images.")
    report: bool
    card: bool


class RequestLimits(BaseModel):
    """What one request may hold."""

    body: int = Field(description="Bytes.")
    images: int
    explained: int = Field(description="Images with heat maps.")
    texts: int
    text_bytes: int = Field(description="Bytes of one text in UTF-8.")


class ModelList(BaseModel):
    """All models; the first is the default of requests that name none."""

    models: list[ModelFacts]
    limits: RequestLimits


class Health(BaseModel):
    """That the service runs."""

    status: str
    models: int


_REASONS = {
    400: "The request is not valid.", 401: "A token is required.", 403: "The request comes from a web page of another address.",
    404: "There is nothing of that name.", 408: "Headers or body arrived too slowly.",
    413: "The body is too large, or holds too many images or texts.",
    415: "The body is of an unsupported type, or the single image is not an image.",
    421: "The service was called by a name that it does not know.",
    422: "A parameter is outside its limits, or the single image or text cannot be read.",
    429: "This client has too many requests in progress.", 500: "An error of the service.", 503: "The service is busy.",
}  # fmt: skip
REFUSALS: dict[int | str, dict[str, Any]] = {status: {"model": Error, "description": text} for status, text in _REASONS.items()}
"""The refusals that every route may respond with."""


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(items: dict[str, Any], **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def _body(**content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind, schema in content.items()}}}


_BASE64 = {"type": "string", "contentEncoding": "base64"}
_BYTES = {"type": "string", "contentMediaType": "application/octet-stream"}
_NAMED_IMAGE = _object({"name": {"type": "string"}, "data": _BASE64}, "data")
_TEXT = {"type": "string", "minLength": 1}
_NAMED_TEXT = _object({"name": {"type": "string"}, "text": {"type": "string"}, "pair": {"type": "string"}}, "text")

PREDICT_BODY = _body(**{
    "multipart/form-data": _object({"file": _list(_BYTES, minItems=1)}, "file"),
    "application/json": {"anyOf": [
        _object({"images": _list({"anyOf": [_BASE64, _NAMED_IMAGE]}, minItems=1)}, "images"),
        _object({"texts": _list({"anyOf": [{"type": "string"}, _NAMED_TEXT]}, minItems=1)}, "texts"), _NAMED_TEXT,
    ]},
    "application/octet-stream": _BYTES | {"minLength": 1},
    "image/*": {"type": "string", "contentMediaType": "image/*", "minLength": 1},
    "text/plain": _TEXT, "text/csv": _TEXT,
})  # fmt: skip
"""The body of ``POST /predict``, which is read without FastAPI."""

_TENSOR = _object({
    "name": {"enum": ["images", "pixels", "text"]}, "shape": _list({"type": "integer", "minimum": 0}),
    "datatype": {"enum": ["BYTES", "UINT8"]}, "data": {"type": "array"},
}, "name", "shape", "datatype", "data")  # fmt: skip
_OUTPUTS = _list(_object({"name": {"type": "string"}}, "name"))
INFER_BODY = _body(**{
    "application/json": _object(
        {
            "id": {"type": "string"}, "inputs": _list(_TENSOR, minItems=1, maxItems=1), "outputs": _OUTPUTS,
            "parameters": _object({"confidence": {"type": "number", "minimum": 0, "maximum": 1}}),
        }, "inputs",
    ),
    "application/octet-stream": _BYTES | {"minLength": 1},
})  # fmt: skip
"""The body of ``POST /v2/models/{name}/infer``."""
