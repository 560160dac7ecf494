"""The bodies of requests, read within the limits, and what all kinds of input in them share. No addresses are opened, and no paths."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from headstart.errors import UnreadableError
from headstart.serve.refusals import Refusal, refuse
from headstart.serve.threads import Pixels
from headstart.settings.serving import Limits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FIELD = "file"
_MAX_FIELDS = 16
_MAX_NAME = 200
RAW = ("application/octet-stream", "application/x-www-form-urlencoded")  # the latter is what curl --data-binary says of any file


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
        return Refusal(413, "body_too_large", f"The body is larger than the limit of {limit} bytes. Send less in one request.")

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
    """One input of a request: what the client calls it, and its content: bytes of an image, or pixels, uint8 (H, W, 3); a text; or why it
    is refused.
    """

    name: str
    data: bytes | str | Pixels | UnreadableError


@dataclass(frozen=True)
class Asked:
    """What a request says of its lists and files of texts: which column holds the texts; whether each line of a file is one."""

    text_column: str | None = None
    lines: bool = False


@dataclass(frozen=True)
class Tensor:
    """An input of the Open Inference Protocol: datatype and shape, -1 for any; and the shape in words for messages.

    Of BYTES, what turns a value of JSON into an input (ValueError for what is none), and bytes; and what values in JSON must be.
    """

    datatype: str
    shape: tuple[int, ...]
    words: str
    from_json: Callable[[Any], Any] | None = None
    from_bytes: Callable[[bytes], Any] | None = None
    values: str = ""


@dataclass(frozen=True, eq=False)
class Sent:
    """A file in a form: its name as it may be shown, its content type, and its bytes."""

    name: str
    type: str
    data: bytes

    @classmethod
    def of(cls, file: UploadFile, data: bytes) -> Sent:
        """From the parser's own."""
        return cls(display_name(file.filename or ""), (file.content_type or "").partition(";")[0].strip().lower(), data)


async def read_form(
    request: Request, body: bytes, *, most: int, too_many: Refusal, fields: int = _MAX_FIELDS
) -> list[tuple[str, str | Sent]]:  # fmt: skip
    """Names and values of the fields of a form, with at most `most` files and `fields` others; 422 where it is damaged, and `too_many`."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(request.headers, stream(), max_files=most, max_fields=fields, max_part_size=len(body) + 1)
    parser.spool_max_size = len(body) + 1  # in memory, where it is already, and not in temporary files
    try:
        form = await parser.parse()
        found = [
            (name, Sent.of(value, await value.read()) if isinstance(value, UploadFile) else value) for name, value in form.multi_items()
        ]
        await form.close()
        return found
    except Exception as error:  # the parser raises its own errors and others on hostile bodies
        if isinstance(error, MultiPartException) and "Too many" in error.message and (fields > _MAX_FIELDS or "files" in error.message):
            raise too_many from None
        raise Refusal(422, "bad_form", "The body is not complete multipart/form-data.") from None


def decode_base64(text: Any) -> bytes:
    """The bytes of a text, also if it was wrapped into lines; ValueError for what is not base64."""
    if not isinstance(text, str):
        raise ValueError("not a string")
    return base64.b64decode("".join(text.split()), validate=True)


def display_name(name: str) -> str:
    """What a client calls an input, safe to send back and to log: no folders, no characters that cannot be printed."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in last)[:_MAX_NAME]
