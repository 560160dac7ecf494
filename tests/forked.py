"""Commands of Headstart, and functions, in processes of their own that need no imports: they are forked from one that has them all.

A start of Headstart with PyTorch and timm takes seconds of processor time. What a start itself does is tested in `test_cli_process`.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_CONTEXT = multiprocessing.get_context("forkserver")
_OURS = [f"headstart.{name}" for name in ("cli", "pipeline", "explanation", "training.tuning", "report.page")]
_CONTEXT.set_forkserver_preload(
    [*_OURS, "timm", "jinja2", "onnx", "onnxruntime", "openvino", "PIL.Image", "pydantic", "sklearn.linear_model"]
)
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
        terminal: a device that is its stdin, stdout and stderr.
        largest_file: bytes that a file may have.
    """

    def __init__(
        self, *arguments: str | Path, environment: dict[str, str | None] | None = None, terminal: str = "", largest_file: int = 0
    ) -> None:
        self._folder = TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        variables = {**dict.fromkeys(_VARIABLES), "HEADSTART_CACHE": os.environ.get("HEADSTART_CACHE"), **(environment or {})}
        words = [str(argument) for argument in arguments]
        streams = [terminal] * 3 if terminal else [os.devnull, *map(str, self._files)]
        self._process = _CONTEXT.Process(target=_headstart, args=(words, str(Path.cwd()), streams, variables, largest_file))
        self._process.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def signal_when(self, when: Callable[[str], bool], number: signal.Signals, *, timeout: float = 600) -> Command:
        """Send a signal as soon as `when` is true of all that was printed on stderr."""
        deadline = time.monotonic() + timeout
        while not when(self._files[1].read_text("utf-8")):
            assert self.running, f"ended before its signal: {self._files[1].read_text('utf-8')}"
            assert time.monotonic() < deadline, "there was no moment for its signal"
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
    return [Command(*arguments, environment=dict(variables)) for variables in _ranks(processes)]


def called(function: Callable[..., None], *arguments: object, processes: int = 1) -> None:
    """Call a function in another process, or in some that train together, as torchrun starts them, and wait for the end."""
    each = _ranks(processes) if processes > 1 else [{}]
    started = [_CONTEXT.Process(target=_called, args=(variables, function, arguments)) for variables in each]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    for process in started:
        process.kill()
    assert [process.exitcode for process in started] == [0] * len(started)


def _ranks(processes: int) -> list[dict[str, str]]:
    """The variables that torchrun sets for each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _called(variables: dict[str, str], function: Callable[..., None], arguments: Sequence[object]) -> None:
    """In the process."""
    for name in _VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(variables)
    function(*arguments)


def _headstart(arguments: Sequence[str], folder: str, streams: Sequence[str], variables: dict[str, str | None], largest_file: int) -> None:
    """In the process: what ``headstart ARGUMENTS`` does in a folder."""
    for stream, file in enumerate(streams):
        os.dup2(os.open(file, os.O_RDWR | os.O_APPEND | os.O_NOCTTY), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, encoding="utf-8", closefd=False) for stream in (1, 2))
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.chdir(folder)
    sys.argv = ["headstart", *arguments]
    from headstart.cli import main

    main()
