"""What a service accepts, in numbers, and how a request beyond them is refused: with a status, a code and a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from headstart.errors import ParameterError

if TYPE_CHECKING:
    from starlette.types import Receive, Send

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_NOT_ABOVE = (
    ("body", "bodies"), ("images", "waiting_per_client"), ("waiting_per_client", "waiting"), ("connections_per_client", "connections"),
)  # fmt: skip
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a service, each for one of its processes. Images also have those of `headstart.modalities.image`.

    Attributes:
        body: bytes of one request's body; more is refused with 413.
        bodies: bytes of all bodies in memory together; beyond them the slowest sender is refused with 503.
        headers: bytes of one request's headers; more is refused with 431.
        images: in one request; more is refused with 413.
        large_pixels: of the images of one request together, counting only those that are slow to decode: JPEGs of more than 50 megapixels,
            and others, progressive JPEGs among them, of more than 8; more is refused with 413.
        explained: images in one request for heat maps; more is refused with 413.
        waiting: images that are being predicted or queued; beyond them requests are refused with 503.
        waiting_per_client: the same of one client address; beyond them its requests are refused with 429.
        connections: open at the same time; beyond them new ones are refused with 503.
        connections_per_client: the same of one client address, refused with 429.
        header_seconds: from the first byte of a request, or the opening of a connection, to the end of its headers; then 408.
        body_seconds: from the headers to the end of the body; then 408.
        answer_seconds: for predicting; then 503.
        idle_seconds: that an open connection is kept between two requests.
        send_seconds: that a client may leave a response unread; then the connection is cut.
        stop_seconds: for requests in progress when the service is stopped.
    """

    body: int = 10_000_000
    bodies: int = 256_000_000
    headers: int = 16_384
    images: int = 64
    large_pixels: int = 300_000_000
    explained: int = 8
    waiting: int = 256
    waiting_per_client: int = 128
    connections: int = 512
    connections_per_client: int = 384
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 30.0
    idle_seconds: float = 15.0
    send_seconds: float = 20.0
    stop_seconds: float = 10.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = field.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 < value < float("inf"):
                kind = "a whole number" if whole else "a number"
                raise ParameterError(f"The limit {field.name!r} must be {kind} above 0, got {value!r}.")
        for small, large in _NOT_ABOVE:
            if getattr(self, small) > getattr(self, large):
                raise ParameterError(
                    f"The limit {small!r} ({getattr(self, small)}) must not be above {large!r} ({getattr(self, large)}): "
                    "no request could ever reach it."
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**values)


def read_bytes(text: str) -> int:
    """A number of bytes as a person writes it: ``10MB`` is 10,000,000, ``10MiB`` is 10,485,760, ``512`` is 512.

    Raises:
        ParameterError: it cannot be understood.
    """
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([KMG]?I?B?)\s*", text.upper(), flags=re.ASCII)
    unit = found and (found[2] if found[2].endswith("B") or not found[2] else f"{found[2]}B")
    if not found or unit not in _UNITS:
        raise ParameterError(f"{text!r} is not a size. Write it as 10MB, 512KB or 10MiB.")
    return int(float(found[1]) * _UNITS[unit])


class Refusal(Exception):  # noqa: N818 - a response, not an error of the service
    """A request that is refused.

    Attributes:
        status: of HTTP, from 400 to 599.
        code: one word for programs, for example ``body_too_large``.
        message: one sentence, which may be shown to anyone.
        retry_after: whole seconds after which the same request may succeed; None where it never will.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    @property
    def body(self) -> bytes:
        """The JSON object ``{"error": message, "code": code}``; the Open Inference Protocol requires a string under ``error``."""
        return json.dumps({"error": self.message, "code": self.code}, ensure_ascii=False).encode("utf-8", "replace")

    @property
    def headers(self) -> dict[str, str]:
        """Of the response, without its length."""
        headers = {"content-type": "application/json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


async def refuse(receive: Receive, send: Send, refusal: Refusal, *, unread: bool) -> None:
    """Respond with a refusal.

    Args:
        receive: of the request.
        send: of the request.
        refusal: the response.
        unread: whether some of the body may not have been read. The connection is closed then; for a moment, what still arrives is
            discarded, because a connection closed on a client that is still sending is reset, and the client never sees the response.
    """
    headers = {**refusal.headers, "content-length": str(len(refusal.body))}
    if unread:
        headers["connection"] = "close"
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": refusal.body, "more_body": unread})
    if unread:
        await _discard(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    left = _LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
