"""For the tests of the service: one in a process of its own, and what is said to it through bare sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from headstart.settings.serving import Limits, ServerSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette says that it will want another client one day
    fastapi = pytest.importorskip("fastapi", reason="needs headstart[serve]")
    from fastapi.testclient import TestClient

__all__ = ["SMALL", "Process", "TestClient", "everything", "head", "refusal", "service", "trickle"]

SMALL = Limits(
    body=100_000, bodies=400_000, headers=8192, connections=12, connections_per_client=8, header_seconds=0.7, body_seconds=1.0,
    idle_seconds=1, send_seconds=0.7, stop_seconds=5,
)  # fmt: skip
"""Limits so small that a test can reach them."""

SERVE = """
import json, sys
from headstart.serve import ServerSettings, serve
serve(ServerSettings.from_dict(json.loads(sys.argv[1])), announce=lambda address: print(address, flush=True))
"""


class Process:
    """A service in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: Path) -> None:
        self.process, self.address, self.log = process, address, log
        self.port = urlsplit(address).port or 0

    def connect(self, *, source: str = "127.0.0.1", receive_buffer: int | None = None) -> socket.socket:
        """A bare connection, which gives up after 10 seconds."""
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(10)
        try:
            made.bind((source, 0))
            made.connect(("127.0.0.1", self.port))
        except OSError:
            made.close()
            raise
        return made


def head(method: str, path: str, **headers: Any) -> bytes:
    """The first lines of a request, complete."""
    named = {"Host": "127.0.0.1"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return "\r\n".join([f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]).encode()


def refusal(answer: bytes) -> tuple[int, str]:
    """The status of an answer to a bare socket, and the code in its JSON."""
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in top.lower()
    said = json.loads(body)
    assert set(said) == {"error", "code"}
    return int(top.split()[1]), said["code"]


def trickle(connection: socket.socket, piece: bytes) -> None:
    """Send a piece every tenth of a second, for ten seconds."""
    for _ in range(100):
        connection.sendall(piece)
        time.sleep(0.1)


def everything(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


@contextmanager
def service(runs: list[Path], log: Path, **settings: Any) -> Iterator[Process]:
    """Serve runs in a process of its own, on a free port."""
    said = json.dumps(ServerSettings(runs=tuple(runs), port=0, **settings).to_dict())
    with log.open("w") as errors:
        process = subprocess.Popen([sys.executable, "-c", SERVE, said], stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, log.read_text()
        yield Process(process, address, log)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
