"""The real service in a thread of the test process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def serving(*runs: Path, **options: Any) -> Iterator[str]:
    """The address of a service of these runs; skipped where it is not installed."""
    uvicorn = pytest.importorskip("uvicorn", reason="the service needs headstart[serve]")
    pytest.importorskip("fastapi", reason="the service needs headstart[serve]")
    from headstart.serve.app import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(list(runs), **options), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "the service did not start"
        assert time.monotonic() < until, "the service did not start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(20)
