"""One way to interrupt or kill a process at a chosen moment, for all tests of what is left behind and resumed."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 200.0


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its exit code, all that it printed, and the seconds that it took to end after the signal."""

    code: int
    out: str
    err: str
    seconds: float


def interrupted(
    command: Sequence[object], *, when: Callable[[str], bool], send: int = signal.SIGKILL, delay: float = 0.0,
    environment: Mapping[str, str] | None = None,
) -> Ended:  # fmt: skip
    """Start a process, and send it a signal; it may have ended before.

    Args:
        command: program and arguments.
        when: asked every few milliseconds, with all that was printed until then; the signal is sent when it is true.
        send: the signal.
        delay: seconds to wait before it is sent.
        environment: of the process; by default the present one.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with out.open("wb") as out_stream, err.open("wb") as err_stream:
            process = subprocess.Popen(list(map(str, command)), stdout=out_stream, stderr=err_stream, env=environment)
            try:
                deadline = time.monotonic() + LIMIT
                while process.poll() is None and not when(_read(out) + _read(err)):
                    assert time.monotonic() < deadline, f"nothing to interrupt in {LIMIT:g} seconds: {_read(err)}"
                    time.sleep(0.003)
                time.sleep(delay)
                began = time.monotonic()
                process.send_signal(send)
                process.wait(timeout=LIMIT)
            finally:
                process.kill()
        return Ended(process.returncode, _read(out), _read(err), time.monotonic() - began)


def line_that_starts_with(start: str) -> Callable[[str], bool]:
    """For `when`: whether such a line was printed."""
    return lambda printed: any(line.startswith(start) for line in printed.splitlines())


def _read(path: Path) -> str:
    return path.read_text("utf-8", errors="replace")
