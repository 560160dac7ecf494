"""Reads the body of each request before anything else sees it: at most so many bytes, within so many seconds, in so much memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from headstart.serve.limits import Limits
from headstart.serve.refusals import Refusal, refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Held:
    """The body of one request, as far as it has come."""

    def __init__(self) -> None:
        self.deadline: asyncio.Timeout | None = None
        self.chunks: list[bytes] = []
        self.size = 0
        self.complete = self.given_up = False


class _Gone(Exception):  # noqa: N818 - nobody is left to be told
    """The client went away."""


class BodyLimits:
    """ASGI middleware that reads bodies whole, within the limits ``body``, ``body_seconds`` and ``bodies``.

    Servers leave this to the application, and frameworks leave it to the server: without it a body may be of any size and take forever.
    When all bodies together are too large, the one that has been coming for longest is given up, so that slow senders, however many,
    do not keep others out.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._held: dict[int, _Held] = {}  # in the order in which they began
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            declared = _declared(scope)
            if declared == 0:
                await self._app(scope, receive, send)
                return
            if declared is not None and declared > self._limits.body:
                raise self._too_large()
        except Refusal as refusal:
            await refuse(receive, send, refusal, unread=True)
            return
        held = _Held()
        self._held[id(held)] = held
        try:
            try:
                body = await self._read(held, receive)
            except Refusal as refusal:
                self._let_go(held)
                await refuse(receive, send, refusal, unread=True)
            except _Gone:
                pass
            else:
                await self._app(scope, _replay(body, receive), send)
        finally:
            self._let_go(held)

    async def _read(self, held: _Held, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body_seconds) as held.deadline:
                while not held.complete:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Gone
                    self._take(held, message.get("body", b""))
                    held.complete = not message.get("more_body", False)
        except TimeoutError:
            if held.given_up:
                raise self._too_many() from None
            raise Refusal(
                408, "body_too_slow", f"The body did not come within {self._limits.body_seconds:g} seconds. Send it faster, or less of it."
            ) from None
        body = b"".join(held.chunks)
        held.chunks.clear()
        return body

    def _let_go(self, held: _Held) -> None:
        if self._held.pop(id(held), None) is not None:
            self._bytes -= held.size
            held.chunks.clear()

    def _take(self, held: _Held, chunk: bytes) -> None:
        if held.size + len(chunk) > self._limits.body:
            raise self._too_large()
        held.chunks.append(chunk)
        held.size += len(chunk)
        self._bytes += len(chunk)
        if self._bytes > self._limits.bodies:
            oldest = next((other for other in self._held.values() if not other.complete and not other.given_up), held)
            oldest.given_up = True
            if oldest is held or oldest.deadline is None:
                raise self._too_many()
            oldest.deadline.reschedule(asyncio.get_running_loop().time())

    def _too_large(self) -> Refusal:
        return Refusal(
            413, "body_too_large", f"The body is larger than the limit of {self._limits.body} bytes. Send fewer or smaller images."
        )

    def _too_many(self) -> Refusal:
        return Refusal(503, "too_many_bodies", "Too much is being sent to this service at once. Try again.", retry_after=1)


def _declared(scope: Scope) -> int | None:
    """The length of the body as the headers have it: 0 for none, None where it is not told beforehand.

    Raises:
        Refusal: an encoding that would make the body larger than it is.
    """
    headers = dict(scope["headers"])
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise Refusal(415, "encoded_body", "Compressed bodies are not read. Send the body as it is, without Content-Encoding.")
    if b"transfer-encoding" in headers:
        return None
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() and len(length) < 20 else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the whole body, and then whatever the server has to say."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
