"""How a request is refused: a status, a code for programs, a sentence for people, and never more than that."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Send

_LINGER_SECONDS = 1.0
_LINGER_BYTES = 64 << 20


class Refusal(Exception):  # noqa: N818 - a refusal is an answer and no error of the service
    """A request that is not served.

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
        """The JSON object ``{"error": message, "code": code}``; the Open Inference Protocol wants a string under ``error``."""
        return json.dumps({"error": self.message, "code": self.code}, ensure_ascii=False).encode("utf-8", "replace")

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer, without its length."""
        headers = {"content-type": "application/json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


async def refuse(receive: Receive, send: Send, refusal: Refusal, *, unread: bool) -> None:
    """Answer with a refusal.

    Args:
        receive: of the request.
        send: of the request.
        refusal: what to say.
        unread: whether some of the body may not have been read. The connection is closed then; for a moment what still comes is thrown
            away, because a connection closed on a client that is still sending is reset, and the client never sees the answer.
    """
    headers = {**refusal.headers, "content-length": str(len(refusal.body))}
    if unread:
        headers["connection"] = "close"
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": refusal.body, "more_body": unread})
    if unread:
        await _throw_away(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _throw_away(receive: Receive) -> None:
    left = _LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
