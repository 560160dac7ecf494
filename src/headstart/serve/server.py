"""Runs the service: one process or several, with limits on connections, and an orderly end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from headstart.errors import ParameterError
from headstart.serve.app import LOOPBACK_NAMES, create_app
from headstart.serve.models import named
from headstart.serve.monitoring import SHARED_FOLDER, logging_settings
from headstart.serve.refusals import Refusal
from headstart.serve.security import read_token
from headstart.settings.serving import Limits, ServerSettings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Config

SETTINGS = "HEADSTART_SERVE"
"""The environment variable through which a worker process learns what to serve. The token is not in it, only its file."""

_BACKLOG = 128
_CLOSING_SECONDS = 2.0


def app_of(settings: ServerSettings) -> FastAPI:
    """The application for these settings; errors as of `create_app`, and ParameterError for a token file that cannot be used."""
    token = None if settings.token_file is None else read_token(settings.token_file)
    hosts = (*LOOPBACK_NAMES, settings.host)
    return create_app(settings.runs, limits=settings.limits, token=token, origins=settings.origins, hosts=hosts, engine=settings.engine)


def app_of_environment() -> FastAPI:
    """The application of a worker process."""
    return app_of(ServerSettings.from_dict(json.loads(os.environ[SETTINGS])))


def serve(settings: ServerSettings, *, announce: Callable[[str], None] = print) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are finished first. `announce` is called with the address once it listens.

    Raises:
        ParameterError: the address is not available, the token file cannot be used, or two runs have one name.
        RunError: a run that cannot be opened.
    """
    import uvicorn

    with ExitStack() as resources:
        listening = resources.enter_context(_listen(settings.host, settings.port))
        port = listening.getsockname()[1]
        address = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{port}"
        try:
            if settings.workers == 1:
                config = _config(app_of(settings), settings)
                announce(address)
                uvicorn.Server(config).run([listening])
            else:
                _run_workers(settings, listening, resources, lambda: announce(address))
        except KeyboardInterrupt:
            pass  # Ctrl-C is the way to end a service, and it has ended in order


def _run_workers(settings: ServerSettings, listening: socket.socket, resources: ExitStack, announce: Callable[[], None]) -> None:
    from uvicorn.supervisors import Multiprocess

    from headstart.run import read_manifest

    for path in named(settings.runs).values():  # here rather than in each worker
        read_manifest(path)
    if settings.token_file is not None:
        read_token(settings.token_file)
    os.environ[SHARED_FOLDER] = resources.enter_context(tempfile.TemporaryDirectory(prefix="headstart-metrics-"))
    os.environ[SETTINGS] = json.dumps(settings.to_dict())
    config = _config("headstart.serve.server:app_of_environment", settings, factory=True)
    announce()
    Multiprocess(config, [listening]).run()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while attempting")[0]
        raise ParameterError(f"Cannot listen on {host}, port {port}: {reason}. Choose another with --host or --port.") from None
    listening.set_inheritable(True)
    return listening


def _config(app: Any, settings: ServerSettings, *, factory: bool = False) -> Config:
    import uvicorn

    limits = settings.limits
    return uvicorn.Config(
        app, factory=factory, host=settings.host, port=settings.port, workers=settings.workers, backlog=_BACKLOG,
        http="headstart.serve.server:LimitedConnection", loop="asyncio", ws="none", lifespan="on",
        proxy_headers=False,  # anyone could claim to have another address
        server_header=False, access_log=False, log_config=logging_settings(),
        timeout_keep_alive=max(1, round(limits.idle_seconds)), timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
        h11_max_incomplete_event_size=limits.headers,
    )  # fmt: skip


class LimitedConnection(H11Protocol):
    """One connection to the service, within the `Limits` that the application has as ``state.limits``.

    uvicorn waits forever for the end of a request's headers once a first byte has arrived, and for a client that does not read its
    response. Here both have a time limit, and the number of connections is limited.
    """

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits: Limits = config.loaded_app.state.limits
        self._timers: dict[str, asyncio.TimerHandle] = {}
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
            self._start("headers", limits.header_seconds, self._headers_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop("headers")
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if not self._refused and not self.transport.is_closing():
            super().data_received(data)

    def handle_events(self) -> None:
        """Handle what has arrived, and run a timer while headers are incomplete."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._stop("headers")
        elif self.conn.trailing_data[0]:
            self._start("headers", self._limits.header_seconds, self._headers_too_slow)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP. The parser reports headers that are too large only through their size."""
        if len(self.conn.trailing_data[0]) > self._limits.headers:
            self._refuse(Refusal(431, "headers_too_large", f"The headers are larger than the limit of {self._limits.headers} bytes."))
        else:
            self._refuse(Refusal(400, "bad_request", "This is not a valid HTTP request."))

    def on_response_complete(self) -> None:
        """Prepare for the next request; there is none where the client still has to send a body that nobody waits for."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._close()

    def pause_writing(self) -> None:
        """The client reads more slowly than the response is sent."""
        super().pause_writing()
        self._start("unread", self._limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client is reading again."""
        self._stop("unread")
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, whether or not its last response has been read."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)

    def _start(self, name: str, seconds: float, then: Callable[[], None]) -> None:
        if name not in self._timers:
            self._timers[name] = self.loop.call_later(seconds, then)

    def _stop(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()

    def _headers_too_slow(self) -> None:
        self._stop("headers")
        if not self.conn.trailing_data[0]:
            self.transport.close()  # no request, no response: browsers open connections speculatively
            return
        seconds = f"{self._limits.header_seconds:g}"
        self._refuse(Refusal(408, "headers_too_slow", f"The headers of the request did not arrive within {seconds} seconds."))

    def _refuse(self, refusal: Refusal) -> None:
        """Respond below HTTP's state machine, which may be in any state, and close; unless a response has begun already."""
        self._refused = True
        self._stop("headers")
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        headers = {"connection": "close", "x-content-type-options": "nosniff", "content-length": len(refusal.body), **refusal.headers}
        lines = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + refusal.body)
        self.logger.warning("connection refused", extra={"status": refusal.status, "code": refusal.code})
        self._close()

    def _close(self) -> None:
        """Close as soon as the buffer is sent, and soon even if the client does not read it."""
        self.transport.close()
        self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)


def _address(connection: Any) -> str:
    """The address of the client."""
    return connection.client[0] if connection.client else ""
