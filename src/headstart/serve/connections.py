"""Connections: how many, and how long a client may take for its headers or leave an answer unread.

uvicorn waits forever for the end of a request's headers once a first byte has come, and for a client that does not read its answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from headstart.serve.refusals import Refusal

if TYPE_CHECKING:
    from headstart.serve.limits import Limits

_PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 429: b"Too Many Requests", 431: b"Headers Too Large", 503: b"Service Unavailable"}
_CLOSING_SECONDS = 2.0


class LimitedConnection(H11Protocol):
    """One connection to the service, within the `Limits` that the application carries as ``state.limits``."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits: Limits = config.loaded_app.state.limits
        self._headers_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it where there are too many."""
        super().connection_made(transport)
        limits, address = self._limits, _address(self)
        if len(self.connections) > limits.connections:
            self._refuse(Refusal(503, "too_many_connections", "This service has too many open connections. Try again.", retry_after=1))
        elif sum(_address(other) == address for other in self.connections) > limits.connections_per_client:
            self._refuse(Refusal(429, "too_many_connections", "You have too many connections open. Close some of them.", retry_after=1))
        else:
            self._headers_timer = self.loop.call_later(limits.header_seconds, self._headers_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_headers_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._refused or self.transport.is_closing():
            return
        super().data_received(data)

    def handle_events(self) -> None:
        """Go on with what has come, and watch the time while headers are incomplete."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._stop_headers_timer()
        elif self._headers_timer is None and self.conn.trailing_data[0]:
            self._headers_timer = self.loop.call_later(self._limits.header_seconds, self._headers_too_slow)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP. The parser tells headers that are too large by their size only."""
        if len(self.conn.trailing_data[0]) > self._limits.headers:
            self._refuse(Refusal(431, "headers_too_large", f"The headers are larger than the limit of {self._limits.headers} bytes."))
        else:
            self._refuse(Refusal(400, "bad_request", "This is not a valid HTTP request."))

    def on_response_complete(self) -> None:
        """Make ready for the next request; there is none where the client still owes a body that nobody waits for."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._close()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered."""
        super().pause_writing()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self._limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read on."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has not been used for some time, whether or not its last answer has been read."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)

    def _stop_headers_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _headers_too_slow(self) -> None:
        self._headers_timer = None
        if not self.conn.trailing_data[0]:
            self.transport.close()  # nothing was asked, so nothing is answered: browsers open connections on suspicion
            return
        seconds = f"{self._limits.header_seconds:g}"
        self._refuse(Refusal(408, "headers_too_slow", f"The headers of the request did not come within {seconds} seconds."))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer below HTTP's state machine, which may be in any state, and close; unless an answer has begun already."""
        self._refused = True
        self._stop_headers_timer()
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        head = [f"HTTP/1.1 {refusal.status} ".encode(), _PHRASES[refusal.status], b"\r\nconnection: close\r\n"]
        head += [f"{name}: {value}\r\n".encode() for name, value in refusal.headers.items()]
        head.append(f"content-length: {len(refusal.body)}\r\nx-content-type-options: nosniff\r\n\r\n".encode())
        self.transport.write(b"".join(head) + refusal.body)
        self.logger.warning("connection refused", extra={"status": refusal.status, "code": refusal.code})
        self._close()

    def _close(self) -> None:
        """Close as soon as what was written is sent, and soon even if the client does not take it."""
        self.transport.close()
        self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)


def _address(connection: Any) -> str:
    """Of the client."""
    return connection.client[0] if connection.client else ""
