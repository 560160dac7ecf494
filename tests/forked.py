"""Commands of Headstart in processes of their own that need no imports: they are forked from one that has imported everything.

A start of Headstart with PyTorch and timm takes seconds of processor time. What a start itself does is tested in `test_cli_process`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["headstart.cli", "headstart.pipeline", "headstart.explain", "headstart.training.tuning", "timm"])
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # by which processes that train together find each other


@dataclass(frozen=True)
class Ended:
    """What became of a command: exit code (the negative number of a signal), and all that it printed."""

    returncode: int
    stdout: str
    stderr: str


class Command:
    """A command that runs.

    Args:
        arguments: of ``headstart``.
        environment: variables that are set, or, as None, removed.
    """

    def __init__(self, *arguments: str | Path, environment: dict[str, str | None] | None = None) -> None:
        self._folder = TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        variables = {**dict.fromkeys(_VARIABLES), "HEADSTART_CACHE": os.environ.get("HEADSTART_CACHE"), **(environment or {})}
        words = [str(argument) for argument in arguments]
        self._process = _CONTEXT.Process(target=_headstart, args=(words, str(Path.cwd()), self._files, variables))
        self._process.start()

    def signal_after(self, line: str, number: signal.Signals, *, timeout: float = 600) -> Command:
        """Send a signal when a line of stderr begins like this."""
        deadline = time.monotonic() + timeout
        while not any(one.startswith(line) for one in self._files[1].read_text("utf-8").splitlines()):
            assert self._process.is_alive(), f"ended before {line!r}: {self._files[1].read_text('utf-8')}"
            assert time.monotonic() < deadline, f"{line!r} was never printed"
            time.sleep(0.005)
        assert self._process.pid is not None
        os.kill(self._process.pid, number)
        return self

    def ended(self, *, timeout: float = 600) -> Ended:
        """Wait for its end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        assert self._process.exitcode is not None
        stdout, stderr = (file.read_text("utf-8") for file in self._files)
        self._folder.cleanup()
        return Ended(self._process.exitcode, stdout, stderr)


def together(processes: int, *arguments: str | Path) -> list[Command]:
    """Commands that train together, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [Command(*arguments, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)]


def _headstart(arguments: Sequence[str], folder: str, files: Sequence[Path], variables: dict[str, str | None]) -> None:
    """In the process: what ``headstart ARGUMENTS`` does in a folder."""
    for stream, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.chdir(folder)
    sys.argv = ["headstart", *arguments]
    from headstart.cli import main

    main()
