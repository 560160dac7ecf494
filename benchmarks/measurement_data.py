"""Where the sets of images lie that the benchmarks use by default: `HEADSTART_SHARED_DATA`, as for the tests (see CONTRIBUTING.md)."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("HEADSTART_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
