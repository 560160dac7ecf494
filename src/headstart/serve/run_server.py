"""Runs the service: one process or several, with limits on connections, logs as JSON, and an orderly end."""

from __future__ import annotations

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

from headstart.errors import ParameterError
from headstart.serve.app import LOOPBACK_NAMES, create_app
from headstart.serve.limits import Limits
from headstart.serve.log_lines import logging_settings
from headstart.serve.metrics_text import SHARED_FOLDER
from headstart.serve.models import named
from headstart.serve.security import is_loopback, read_token

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Config

SETTINGS = "HEADSTART_SERVE"
"""The environment variable through which a worker process learns what to serve. The token is not in it, only its file."""

_BACKLOG = 128


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What to serve, and where.

    Attributes:
        runs: folders of runs.
        host: address to listen on; any other than this machine's own needs `token_file`.
        port: 0 for any that is free.
        token_file: holds the token that clients have to send.
        origins: addresses of web pages, beside the service's own, that may ask (CORS).
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        workers: processes; each has the models and the limits for itself.
        limits: what is accepted.
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
                f"--host {self.host} can be reached from other machines: give a token with --token-file FILE, or leave --host at 127.0.0.1."
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
        said = json.loads(text)
        said["runs"] = tuple(Path(run) for run in said["runs"])
        said["token_file"] = None if said["token_file"] is None else Path(said["token_file"])
        said["origins"], said["limits"] = tuple(said["origins"]), Limits.from_dict(said["limits"])
        return cls(**said)


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
    """Serve until the process is told to end by SIGINT or SIGTERM; requests under way are finished first.

    Args:
        settings: what to serve, and where.
        announce: called with the address when the service listens; by default it is printed.

    Raises:
        ParameterError: the address cannot be had, or what `app_of` raises.
        RunError: a run that cannot be opened.
    """
    import uvicorn

    with ExitStack() as until_the_end:
        listening = until_the_end.enter_context(_listen(settings.host, settings.port))
        port = listening.getsockname()[1]
        address = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{port}"
        try:
            if settings.workers == 1:
                config = _config(app_of(settings), settings)
                announce(address)
                uvicorn.Server(config).run([listening])
            else:
                _run_workers(settings, listening, until_the_end, lambda: announce(address))
        except KeyboardInterrupt:
            pass  # Ctrl-C is how a service ends, and it has ended in order


def _run_workers(settings: ServerSettings, listening: socket.socket, until_the_end: ExitStack, announce: Callable[[], None]) -> None:
    from uvicorn.supervisors import Multiprocess

    from headstart.run.run import read_manifest

    for path in named(settings.runs).values():  # rather here than in each worker
        read_manifest(path)
    if settings.token_file is not None:
        read_token(settings.token_file)
    os.environ[SHARED_FOLDER] = until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="headstart-metrics-"))
    os.environ[SETTINGS] = settings.to_json()
    config = _config("headstart.serve.run_server:app_of_environment", settings, factory=True)
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
        http="headstart.serve.connections:LimitedConnection",
        ws="none",
        lifespan="on",
        log_config=logging_settings(),
        access_log=False,
        proxy_headers=False,  # anyone could claim another address
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=max(1, round(limits.idle_seconds)),
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
        h11_max_incomplete_event_size=limits.headers,
    )
