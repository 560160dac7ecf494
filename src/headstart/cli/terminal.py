"""What a person sees: progress with time left on a terminal, plain lines in a pipe. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from headstart.progress import Listener

if TYPE_CHECKING:
    from rich.progress import Progress


class TerminalListener(Listener):
    """Shows stages, progress and messages on stderr.

    Args:
        quiet: show warnings only.
        verbose: say how long each stage took.
        mute: show nothing at all, for all but one of several processes that work together.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, mute: bool = False) -> None:
        self._mute = mute
        self._quiet = quiet = quiet or mute
        self._verbose = verbose
        self._bar: Progress | None = None
        self._task: Any = None
        self._total: int | None = None
        self._name = ""
        self._begun = time.perf_counter()
        self._fancy = sys.stderr.isatty() and not quiet

    def __enter__(self) -> TerminalListener:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, message: str, *, style: str = "") -> None:
        if self._fancy:
            from rich.console import Console
            from rich.text import Text

            console = self._bar.console if self._bar is not None else Console(stderr=True)
            console.print(Text(message, style), soft_wrap=True)
        else:
            print(message, file=sys.stderr, flush=True)

    def stage(self, name: str) -> None:
        """Begin a stage."""
        if self._verbose and self._name and not self._mute:
            self._print(f"  {self._name}: {time.perf_counter() - self._begun:.2f} s")
        self._close()
        self._name, self._begun = name, time.perf_counter()
        if self._fancy:
            self._draw(None)
        elif not self._quiet:
            self._print(name)

    def progress(self, done: int, total: int) -> None:
        """Move the bar; in a pipe, nothing."""
        if not self._fancy or total == 0:
            return
        if self._bar is None or self._total is None:
            self._close()
            self._draw(total)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)

    def detail(self, text: str) -> None:
        """Show what is new beside the bar; in a pipe, nothing."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self._name}: {text}")

    def _draw(self, total: int | None) -> None:
        """What moves while a stage lasts, and is gone afterwards: a bar, or a mark as long as nothing is known of how much there is."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

        bar = () if total is None else (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(SpinnerColumn(), TextColumn("{task.description}"), *bar, console=Console(stderr=True), transient=True)
        self._task, self._total = self._bar.add_task(self._name, total=total), total
        self._bar.start()

    def say(self, message: str) -> None:
        """Print something worth knowing."""
        if not self._quiet:
            self._print(message, style="dim")

    def warn(self, message: str) -> None:
        """Print something that changes what the result means, even when quiet."""
        if not self._mute:
            self._print(f"Warning: {message}", style="yellow")


def hanging(text: str, *, indent: int) -> str:
    """A long line, wrapped to the terminal's width with its further lines indented; in a pipe, left as it is."""
    if not sys.stdout.isatty():
        return text
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def print_result(text: str = "", *, style: str | None = None) -> None:
    """Print to stdout: in colour on a terminal, plain in a pipe."""
    if sys.stdout.isatty() and style:
        from rich.console import Console
        from rich.text import Text

        Console().print(Text(text, style), soft_wrap=True)
    else:
        print(text, flush=True)
