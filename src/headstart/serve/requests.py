"""The bodies of requests, read within the limits, and the images in them. No addresses are opened, and no paths."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from headstart.errors import ImageError
from headstart.serve.refusals import Refusal, refuse
from headstart.serve.threads import Pixels, WorkerThreads
from headstart.settings.serving import Limits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FIELD = "file"
_MAX_FIELDS = 16
_MAX_NAME = 200
_RAW = ("application/octet-stream", "application/x-www-form-urlencoded")  # the latter is what curl --data-binary says of any file
_ALLOWED = "Send multipart/form-data with the field 'file', an image itself (image/* or application/octet-stream), or application/json."


@dataclass(eq=False)
class _Body:
    """How much of the body of one request has been received."""

    size: int = 0
    deadline: asyncio.Timeout | None = None
    complete: bool = False
    dropped: bool = False


class BodyLimits:
    """ASGI middleware that reads bodies completely, within the limits ``body``, ``body_seconds`` and ``bodies``.

    Servers leave this to the application, and frameworks leave it to the server: without it a body may be of any size and take forever.
    When all bodies together are too large, the one that has been arriving for longest is dropped, so that slow senders, however many,
    do not keep others out.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._bodies: list[_Body] = []  # in the order in which they began

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused, body = None, _Body()
        self._bodies.append(body)
        try:
            data = await self._read(body, Headers(scope=scope), receive)
            if data is not None:
                await self._app(scope, _replay(data, receive), send)
        except Refusal as refusal:
            refused = refusal
        finally:
            self._bodies.remove(body)
        if refused is not None:
            await refuse(receive, send, refused, unread=True)

    async def _read(self, body: _Body, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None where the client disconnected, and no one is left to be told."""
        if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
            raise Refusal(415, "encoded_body", "Compressed bodies are not supported. Send the body without Content-Encoding.")
        length = headers.get("content-length", "0")
        if "transfer-encoding" not in headers and length.isdigit():
            if int(length[:20]) > self._limits.body:
                raise self._too_large()
            body.complete = length == "0"
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.body_seconds) as body.deadline:
                while not body.complete:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    chunks.append(message.get("body", b""))
                    self._count(body, len(chunks[-1]))
                    body.complete = not message.get("more_body", False)
        except TimeoutError:
            if body.dropped:
                raise self._too_many() from None
            seconds = f"{self._limits.body_seconds:g}"
            reason = f"The body did not arrive within {seconds} seconds. Send it faster, or less of it."
            raise Refusal(408, "body_too_slow", reason) from None
        return b"".join(chunks)

    def _count(self, body: _Body, size: int) -> None:
        body.size += size
        if body.size > self._limits.body:
            raise self._too_large()
        if sum(one.size for one in self._bodies) > self._limits.bodies:
            oldest = next((other for other in self._bodies if not other.complete and not other.dropped), body)
            oldest.dropped = True
            if oldest is body or oldest.deadline is None:
                raise self._too_many()
            oldest.deadline.reschedule(asyncio.get_running_loop().time())

    def _too_large(self) -> Refusal:
        limit = self._limits.body
        return Refusal(413, "body_too_large", f"The body is larger than the limit of {limit} bytes. Send fewer or smaller images.")

    def _too_many(self) -> Refusal:
        return Refusal(503, "too_many_bodies", "Too much data is being sent to this service. Try again.", retry_after=1)


def _replay(data: bytes, receive: Receive) -> Receive:
    """What the application receives: the whole body, and then the further messages of the server."""
    first: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed


@dataclass(frozen=True, eq=False)
class Input:
    """One image of a request: what the client calls it, and its bytes; or its pixels, uint8 (H, W, 3); or why it is not an image."""

    name: str
    data: bytes | Pixels | ImageError


def too_many_images(limits: Limits) -> Refusal:
    """For more than one request may have."""
    return Refusal(413, "too_many_images", f"More than {limits.images} images in one request. Send them in several.")


async def read_inputs(request: Request, *, limits: Limits, threads: WorkerThreads) -> list[Input]:
    """The images of a request; 415 for another content type, 413 for too many, 422 for none or a body that cannot be parsed."""
    body = await request.body()
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        inputs = await _read_form(request, body, limits)
    elif kind == "application/json":
        inputs = await threads.run("decode", lambda: _read_json(body, limits))
    elif kind.startswith("image/") or kind in _RAW:
        inputs = [Input("", body)] if body else []
    else:
        raise Refusal(415, "unsupported_type", f"Bodies of the type {kind[:80]!r} are not supported. {_ALLOWED}")
    if not inputs:
        empty = "" if body else " The body is empty."
        raise Refusal(422, "no_image", f"There is no image in the request.{empty} {_ALLOWED}")
    return inputs


async def _read_form(request: Request, body: bytes, limits: Limits) -> list[Input]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(request.headers, stream(), max_files=limits.images, max_fields=_MAX_FIELDS)
    parser.spool_max_size = len(body) + 1  # in memory, where it is already, and not in temporary files
    try:
        form = await parser.parse()
    except Exception as error:  # the parser raises its own errors and others on hostile bodies
        if isinstance(error, MultiPartException) and "Too many files" in error.message:
            raise too_many_images(limits) from None
        raise Refusal(422, "bad_form", "The body is not complete multipart/form-data.") from None
    inputs = []
    for name, value in form.multi_items():
        shown = display_name(value.filename or "") if isinstance(value, UploadFile) else display_name(value)
        if name == FIELD and isinstance(value, UploadFile):
            inputs.append(Input(shown, await value.read()))
        elif name == FIELD:
            inputs.append(Input(shown, ImageError(shown, f"the field {FIELD!r} holds a text, not a file (curl: -F {FIELD}=@NAME)")))
        elif isinstance(value, UploadFile):
            inputs.append(Input(shown, ImageError(shown, f"a file in the field {display_name(name)!r}, and only {FIELD!r} is read")))
    await form.close()
    if inputs and all(isinstance(one.data, ImageError) for one in inputs):
        reasons = "; ".join(f"{one.name}: {one.data.reason}" for one in inputs[:5] if isinstance(one.data, ImageError))
        raise Refusal(422, "no_image", f"There is no image in the request ({reasons}). {_ALLOWED}")
    return inputs


def _read_json(body: bytes, limits: Limits) -> list[Input]:
    """``{"images": [...]}``, each base64, a data URI, or an object with ``data`` and, optionally, ``name``."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(422, "bad_json", "The body is not valid JSON.") from None
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise Refusal(422, "bad_json", 'The body must be a JSON object such as {"images": ["...base64..."]}.')
    if len(images) > limits.images:  # before any is decoded: a few megabytes can hold a million
        raise too_many_images(limits)
    return [_read_entry(entry) for entry in images]


def _read_entry(entry: Any) -> Input:
    name, data = (display_name(str(entry.get("name", ""))), entry.get("data")) if isinstance(entry, dict) else ("", entry)
    if not isinstance(data, str):
        return Input(name, ImageError(name, "not an image: it must be base64 in a string"))
    if data.lstrip().startswith("data:"):
        data = data.partition(",")[2]
    try:
        return Input(name, decode_base64(data))
    except ValueError:
        return Input(name, ImageError(name, "cannot be decoded: not base64"))


def decode_base64(text: Any) -> bytes:
    """The bytes of a text, also if it was wrapped into lines; ValueError for what is not base64."""
    if not isinstance(text, str):
        raise ValueError("not a string")
    return base64.b64decode("".join(text.split()), validate=True)


def display_name(name: str) -> str:
    """What a client calls an image, safe to send back and to log: no folders, no characters that cannot be printed."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in last)[:_MAX_NAME]
