"""Fixtures shared by all tests: where the measurement data lie, and a few small real images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of measurement data; tests that need it are skipped, with the reason, where it is absent."""
    folder = Path(os.environ.get("HEADSTART_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"measurement data are not at {folder}; set HEADSTART_SHARED_DATA to their folder")
    return folder
