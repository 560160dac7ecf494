"""The images of a request, from each of the three forms in which they may come. There are no addresses among them, and no paths."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from headstart.errors import ImageError
from headstart.serve.limits import Limits
from headstart.serve.pictures import Lanes
from headstart.serve.predicting import Given
from headstart.serve.refusals import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request

FIELD = "file"
_FIELDS = 16
_LONGEST_NAME = 200
_RAW = ("application/octet-stream", "application/x-www-form-urlencoded")  # the latter is what curl --data-binary says of any file
_ALLOWED = "Send multipart/form-data with the field 'file', an image itself (image/* or application/octet-stream), or application/json."


async def images_of(request: Request, *, limits: Limits, lanes: Lanes) -> list[Given]:
    """Read the images of a request.

    Args:
        request: with its body read by `headstart.serve.bodies.BodyLimits`.
        limits: of the service.
        lanes: threads to read long bodies in.

    Raises:
        Refusal: 415 for another content type, 413 for too many files, 422 for none or for what cannot be understood.
    """
    body = await request.body()
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        given = await _of_form(request, body, limits)
    elif kind == "application/json":
        given = await lanes.read(lambda: _of_json(body, limits))
    elif kind.startswith("image/") or kind in _RAW:
        given = [Given("", body)] if body else []
    else:
        raise Refusal(415, "unsupported_type", f"Bodies of the type {kind[:80]!r} are not read. {_ALLOWED}")
    if not given:
        raise Refusal(422, "no_image", f"There is no image in the request. {_ALLOWED}")
    return given


async def _of_form(request: Request, body: bytes, limits: Limits) -> list[Given]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(request.headers, stream(), max_files=limits.images, max_fields=_FIELDS)
    parser.spool_max_size = len(body) + 1  # in memory, where it is already, and not in temporary files
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise Refusal(413, "too_many_images", f"More than {limits.images} files in one request. Send them in several.") from None
        raise _bad_form() from None
    except Exception:  # the parser raises its own errors and others on hostile bodies
        raise _bad_form() from None
    try:
        return [
            Given(shown_name(value.filename or ""), await value.read())
            for name, value in form.multi_items()
            if name == FIELD and isinstance(value, UploadFile)
        ]
    finally:
        await form.close()


def _bad_form() -> Refusal:
    return Refusal(422, "bad_form", "The body is no complete multipart/form-data.")


def _of_json(body: bytes, limits: Limits) -> list[Given]:
    """``{"images": [...]}``, each base64, a data URI, or an object with ``data`` and, if wanted, ``name``."""
    said = read_json(body)
    images = said.get("images") if isinstance(said, dict) else None
    if not isinstance(images, list):
        raise Refusal(422, "bad_json", 'The body must be a JSON object such as {"images": ["...base64..."]}.')
    if len(images) > limits.images:  # before anything is made of them: a few megabytes can hold a million
        raise Refusal(413, "too_many_images", f"More than {limits.images} images in one request. Send them in several.")
    return [_of_entry(entry) for entry in images]


def _of_entry(entry: Any) -> Given:
    name, data = (shown_name(str(entry.get("name", ""))), entry.get("data")) if isinstance(entry, dict) else ("", entry)
    if not isinstance(data, str):
        return Given(name, ImageError(name, "not an image: base64 in a string is wanted"))
    if data.startswith("data:"):
        data = data.partition(",")[2]
    try:
        return Given(name, base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return Given(name, ImageError(name, "cannot be decoded: not base64"))


def read_json(body: bytes) -> Any:
    """What a JSON body says.

    Raises:
        Refusal: 422, it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(422, "bad_json", "The body is not valid JSON.") from None


def shown_name(name: str) -> str:
    """What a client calls an image, fit to be sent back and written into a log: no folders, nothing that cannot be printed."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in last)[:_LONGEST_NAME]
