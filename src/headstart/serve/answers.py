"""The shapes of the answers, for the OpenAPI document. The answers themselves are made as plain objects."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Error(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="One sentence for people.")
    code: str = Field(description="One word for programs.")


class Chance(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class Neighbour(BaseModel):
    """A training image."""

    name: str = Field(description="File name, without its folder.")
    label: str


class Prediction(BaseModel):
    """What the model says of one image; or, in an answer about several images, why this one is refused."""

    name: str = Field(description="As the client called the image; empty where it did not.")
    label: str | list[str] | None = Field(
        None, description="The most probable class; in multi-label runs the list of those of one half or more."
    )
    probability: float | None = Field(None, description="Calibrated.")
    top: list[Chance] | None = Field(None, description="The most probable classes, the most probable first.")
    set: list[str] | None = Field(
        None, description="Classes that together hold the right one with the coverage of the model; null: not known."
    )
    unlike: bool | None = Field(None, description="Whether the image is unlike anything seen in training; null: not known.")
    unlikeness: float | None = Field(None, description="How much; the higher, the more.")
    nearest: list[Neighbour] | None = Field(None, description="The training images that are most alike, the nearest first.")
    heat: str | None = Field(None, description="With explain=1: a PNG as a data URI, the part that the model sees with its heat map.")
    error: str | None = Field(None, description="Why the image is refused; the other fields but `name` are missing then.")


class Predicted(BaseModel):
    """The answer to a request."""

    model: str
    predictions: list[Prediction] = Field(description="One for each image, in the order of the request.")


class ModelFacts(BaseModel):
    """A model of the service."""

    name: str
    title: str
    classes: list[str]
    multilabel: bool
    accuracy: float | None = Field(description="On the test images.")
    accuracy_interval: list[float] | None = Field(description="95 %, Wilson.")
    test_images: int | None
    coverage: float | None = Field(description="Asked of the prediction sets.")
    created: str | None = Field(description="ISO 8601.")
    backbone: str | None
    size: int = Field(description="Height and width of the images that the network takes.")
    digest: str = Field(description="SHA-256 of the run's manifest.")
    report: bool
    card: bool


class RequestLimits(BaseModel):
    """What one request may hold."""

    body: int = Field(description="Bytes.")
    images: int
    explained: int = Field(description="Images with heat maps.")


class ModelList(BaseModel):
    """All models; the first answers where a request names none."""

    models: list[ModelFacts]
    limits: RequestLimits


class Health(BaseModel):
    """That the service runs."""

    status: str
    models: int


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": words}
    for status, words in {
        400: "Not a valid request.",
        401: "A token is wanted.",
        403: "Asked by a web page of another address.",
        404: "There is none of that name.",
        408: "Headers or body came too slowly.",
        413: "The body is too large, or holds too many images.",
        415: "The body is of a type that is not read, or the single image is no image.",
        421: "The service was called by a name that it does not know.",
        422: "A parameter is outside its limits, or the single image cannot be read.",
        429: "This client has too many requests under way.",
        500: "An error of the service.",
        503: "The service is busy.",
    }.items()
}
"""What any route may answer beside its own."""

PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "contentMediaType": "application/octet-stream"},
                        }
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "anyOf": [
                                    {"type": "string", "contentEncoding": "base64"},
                                    {
                                        "type": "object",
                                        "required": ["data"],
                                        "properties": {"name": {"type": "string"}, "data": {"type": "string", "contentEncoding": "base64"}},
                                    },
                                ]
                            },
                        }
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}},
            "image/*": {"schema": {"type": "string", "contentMediaType": "image/*", "minLength": 1}},
        },
    }
}
"""The body of ``POST /predict``, which is read without FastAPI."""
