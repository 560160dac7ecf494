"""How a request is refused: with a status, a code and a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Send

_LINGER_SECONDS = 1.0
_LINGER_BYTES = 64 << 20


class Refusal(Exception):  # noqa: N818 - a response, not an error of the service
    """A request that is refused: with a status of HTTP, a code for programs, and a sentence that may be shown to anyone.

    `retry_after` is after how many whole seconds the same request may succeed; None where it never will.
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
    """Respond with a refusal; `unread` is whether some of the body may not have been read.

    The connection is closed then; for a moment, what still arrives is discarded, because a connection closed on a client that is still
    sending is reset, and the client never sees the response.
    """
    headers = {**refusal.headers, "content-length": str(len(refusal.body))}
    if unread:
        headers["connection"] = "close"
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": refusal.body, "more_body": unread})
    if not unread:
        return
    left, more = _LINGER_BYTES, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while left > 0 and more:
                message = await receive()
                more = message.get("more_body", False)  # a message of disconnection has none
                left -= len(message.get("body", b""))
    await send({"type": "http.response.body", "body": b"", "more_body": False})
