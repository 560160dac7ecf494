"""For the benchmarks of the service: `headstart serve` in a process of its own, its memory, and clients in bare HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOST = "127.0.0.1"


class Served:
    """A service that listens.

    Attributes:
        port: of it.
        process: of it.
        log: the file that it writes its log into.
    """

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def memory(self, what: str = "VmRSS") -> float:
        """Megabytes (2**20 bytes) that the process has in memory, or had at most (``VmHWM``)."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else float("nan")

    def processor_seconds(self) -> float:
        """Of all its threads, since it began."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def complaints(self) -> list[str]:
        """The lines of its log that tell of an error or hold a traceback, and those that are no JSON."""
        found = []
        for line in self.log.read_text("utf-8", "replace").splitlines():
            try:
                entry = json.loads(line)
                bad = entry["level"] in ("error", "critical") or "traceback" in entry
            except (ValueError, KeyError, TypeError):
                bad = True
            if bad:
                found.append(line)
        return found


@contextmanager
def serving(run: Path, log: Path, *options: str) -> Iterator[Served]:
    """Serve a run on a free port, and end it in order."""
    command = [sys.executable, "-m", "headstart", "serve", str(run), "--port", "0", *options]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        found = re.search(rf"http://{re.escape(HOST)}:(\d+)", said)
        if not found:
            raise SystemExit(f"the service did not start: {said}{log.read_text()}")
        yield Served(process, int(found[1]), log)
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print("the service did not end within 20 seconds of SIGTERM")
        process.stdout.close()


class Client:
    """One client with one connection, which is opened again when the service has closed it.

    Args:
        port: of the service.
        source: the address of this client; all of 127.0.0.0/8 is this machine.
        seconds: to wait for anything.
    """

    def __init__(self, port: int, *, source: str = HOST, seconds: float = 60) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=seconds, source_address=(source, 0))

    def post(self, body: bytes, *, path: str = "/predict", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            OSError, http.client.HTTPException: there was no answer.
        """
        for attempt in (1, 2):
            fresh = self._connection.sock is None
            try:
                self._connection.request("POST", path, body, headers or {"Content-Type": "image/jpeg"})
                answer = self._connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
                if fresh or attempt == 2:  # an old connection may have been closed while it lay idle
                    raise
        raise AssertionError

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def wait_until(moment: float) -> None:
    """Sleep until a moment of `time.perf_counter`."""
    left = moment - time.perf_counter()
    if left > 0:
        time.sleep(left)
