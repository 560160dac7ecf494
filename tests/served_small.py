"""A plugin for tests of the service: one in a process of its own, with limits so small that a test can reach them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from served import SMALL, Process, service


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The service."""
    with service([run], tmp_path_factory.mktemp("log") / "log", limits=SMALL) as process:
        yield process


@pytest.fixture
def still_well(served: Process, photo: Path) -> Iterator[None]:
    """After the test the service answers a good request, and has written no traceback."""
    httpx = pytest.importorskip("httpx", reason="needs httpx")
    yield
    for _ in range(50):  # connections of the test may still be closing
        answer = httpx.post(f"{served.address}/predict", files={"file": photo.read_bytes()}, timeout=5)
        if answer.status_code != 429:
            break
        time.sleep(0.1)
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["label"] == "rings"
    assert "Traceback" not in served.log.read_text()
