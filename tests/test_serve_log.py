"""The log: one JSON object a line, whatever clients send."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("fastapi", reason="needs headstart[serve]")

SAID = """
import logging, logging.config
from headstart.serve.monitoring import logging_settings
logging.config.dictConfig(logging_settings())
logging.getLogger("python_multipart.multipart").warning("Expected boundary character %d, got %d at index %d", 117, 45, 12)
logging.getLogger("headstart.serve").warning("of the service")
logging.getLogger("uvicorn.error").error("of the server")
"""


def test_every_line_is_an_object_and_odd_bodies_add_none() -> None:
    done = subprocess.run([sys.executable, "-c", SAID], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == 2
    assert "of the service" in str(lines[0])
    assert "of the server" in str(lines[1])
