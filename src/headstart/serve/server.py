"""Runs the service: one process or several, with limits on connections, and an orderly end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from headstart.errors import ParameterError
from headstart.serve.app import LOOPBACK_NAMES, create_app
from headstart.serve.limits import Limits, Refusal
from headstart.serve.models import named
from headstart.serve.monitoring import SHARED_FOLDER, logging_settings
from headstart.serve.security import is_loopback, read_token

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Config

SETTINGS = "HEADSTART_SERVE"
"""The environment variable through which a worker process learns what to serve. The token is not in it, only its file."""

_BACKLOG = 128
_PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 429: b"Too Many Requests", 431: b"Headers Too Large", 503: b"Service Unavailable"}
_CLOSING_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What to serve, and where.

    Attributes:
        runs: folders of runs.
        host: address to listen on; any but this machine's own requires `token_file`.
        port: 0 for any that is free.
        token_file: holds the token that clients must send.
        origins: of web pages, beside the service's own, that may send requests (CORS).
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        workers: processes; each has its own copy of the models, and its own limits.
        limits: of each process.
    """

    runs: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    origins: tuple[str, ...] = ()
    engine: str = "auto"
    workers: int = 1
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ParameterError(f"--port must be from 0 to 65535, got {self.port}.")
        if not 1 <= self.workers <= 64:
            raise ParameterError(f"--workers must be from 1 to 64, got {self.workers}.")
        if self.token_file is None and not is_loopback(self.host):
            raise ParameterError(
                f"--host {self.host} can be reached from other machines: give a token with --token-file FILE, or keep --host at 127.0.0.1."
            )
        for origin in self.origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2 or "*" in origin:
                raise ParameterError(f"--cors {origin}: name one address such as https://example.org, without a path and without *.")

    def to_json(self) -> str:
        """For a worker process."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> ServerSettings:
        """The inverse of `to_json`."""
        values = json.loads(text)
        values["runs"] = tuple(Path(run) for run in values["runs"])
        values["token_file"] = None if values["token_file"] is None else Path(values["token_file"])
        values["origins"], values["limits"] = tuple(values["origins"]), Limits.from_dict(values["limits"])
        return cls(**values)


def app_of(settings: ServerSettings) -> FastAPI:
    """The application for these settings.

    Raises:
        ParameterError: a token file that cannot be used, or two runs of one name.
        RunError: a run that cannot be opened.
    """
    token = None if settings.token_file is None else read_token(settings.token_file)
    hosts = (*LOOPBACK_NAMES, settings.host)
    return create_app(settings.runs, limits=settings.limits, token=token, origins=settings.origins, hosts=hosts, engine=settings.engine)


def app_of_environment() -> FastAPI:
    """The application of a worker process."""
    return app_of(ServerSettings.from_json(os.environ[SETTINGS]))


def serve(settings: ServerSettings, *, announce: Callable[[str], None] = print) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are finished first.

    Args:
        settings: what to serve, and where.
        announce: called with the address once the service listens; by default it is printed.

    Raises:
        ParameterError: the address is not available, or what `app_of` raises.
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
    os.environ[SETTINGS] = settings.to_json()
    config = _config("headstart.serve.server:app_of_environment", settings, factory=True)
    announce()
    Multiprocess(config, [listening]).run()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere this would let two services share a port
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
            listening.set_inheritable(True)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ParameterError(
            f"Cannot listen on {host}, port {port}: {error.strerror or error}. Choose another with --host or --port."
        ) from None
    return listening


def _config(app: Any, settings: ServerSettings, *, factory: bool = False) -> Config:
    import uvicorn

    limits = settings.limits
    return uvicorn.Config(
        app,
        factory=factory,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="asyncio",
        http="headstart.serve.server:LimitedConnection",
        ws="none",
        lifespan="on",
        log_config=logging_settings(),
        access_log=False,
        proxy_headers=False,  # anyone could claim to have another address
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=max(1, round(limits.idle_seconds)),
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
        h11_max_incomplete_event_size=limits.headers,
    )


class LimitedConnection(H11Protocol):
    """One connection to the service, within the `Limits` that the application has as ``state.limits``.

    uvicorn waits forever for the end of a request's headers once a first byte has arrived, and for a client that does not read its
    response. Here both have a time limit, and the number of connections is limited.
    """

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
        """Handle what has arrived, and run a timer while headers are incomplete."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._stop_headers_timer()
        elif self._headers_timer is None and self.conn.trailing_data[0]:
            self._headers_timer = self.loop.call_later(self._limits.header_seconds, self._headers_too_slow)

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
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self._limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client is reading again."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, whether or not its last response has been read."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)

    def _stop_headers_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _headers_too_slow(self) -> None:
        self._headers_timer = None
        if not self.conn.trailing_data[0]:
            self.transport.close()  # no request, no response: browsers open connections speculatively
            return
        seconds = f"{self._limits.header_seconds:g}"
        self._refuse(Refusal(408, "headers_too_slow", f"The headers of the request did not arrive within {seconds} seconds."))

    def _refuse(self, refusal: Refusal) -> None:
        """Respond below HTTP's state machine, which may be in any state, and close; unless a response has begun already."""
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
        """Close as soon as the buffer is sent, and soon even if the client does not read it."""
        self.transport.close()
        self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)


def _address(connection: Any) -> str:
    """The address of the client."""
    return connection.client[0] if connection.client else ""
