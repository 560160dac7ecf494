"""What a person sees: progress with time left on a terminal, plain lines in a pipe. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any, TextIO

from headstart.modalities import IMAGE, Modality
from headstart.progress import Listener
from headstart.text import reworded, visible_lines

if TYPE_CHECKING:
    from rich.progress import Progress


class Terminal(Listener):
    """Shows stages, progress and messages on stderr, and prints results on stdout; when quiet, warnings and results only."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.leads, self._verbose = quiet, True, verbose
        self._bar: Progress | None = None
        self._task: Any = None
        self._total: int | None = None
        self._name = ""
        self._begun = time.perf_counter()
        self._fancy = sys.stderr.isatty() and not quiet
        self._modality = IMAGE

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def speak_of(self, modality: Modality) -> None:
        """From now on, what is said of images is said of inputs of this kind."""
        self._modality = modality

    def lead(self) -> None:
        """Where torchrun started several processes: show nothing from now on in all but the first."""
        if os.environ.get("RANK", "0") != "0":
            self.quiet, self.leads, self._fancy = True, False, False

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str, style: str | None, stream: TextIO) -> None:
        """In colour on a terminal, plain in a pipe; results go into a pipe as they are, all else without control characters."""
        text = reworded(text, self._modality.noun, self._modality.article)
        if stream is not sys.stdout or stream.isatty():
            text = visible_lines(text)
        if style and stream.isatty():
            from rich.console import Console
            from rich.text import Text

            console = self._bar.console if self._bar is not None else Console(file=stream)
            console.print(Text(text, style), soft_wrap=True)
        else:
            print(text, file=stream, flush=True)

    def stage(self, name: str) -> None:
        """Begin a stage."""
        self._close()
        if self._verbose and self._name and self.leads:
            self._print(f"  {self._name}: {time.perf_counter() - self._begun:.2f} s", None, sys.stderr)
        self._name, self._begun = name, time.perf_counter()
        if self._fancy:
            self._draw(None)
        elif not self.quiet:
            self._print(name, None, sys.stderr)

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
        if not self.quiet:
            self._print(message, "dim", sys.stderr)

    def warn(self, message: str) -> None:
        """Print something that changes what the result means, even when quiet."""
        if self.leads:
            self._print(f"Warning: {message}", "yellow", sys.stderr)

    def result(self, *lines: str, style: str | None = None) -> None:
        """Print the result to stdout. Progress ends first: while it is drawn, all that is printed would join it on stderr."""
        self._close()
        for line in lines if self.leads else ():
            self._print(line, style, sys.stdout)

    def tell(self, *lines: str, style: str | None = None) -> None:
        """Print to stdout what belongs to the result, unless quiet."""
        if not self.quiet:
            self.result(*lines, style=style)

    def fact(self, name: str, text: str, *, style: str | None = None) -> None:
        """Print a line of a summary, unless quiet. On a terminal it is wrapped, with its further lines indented."""
        line = f"{name:<9} {text}"
        if sys.stdout.isatty():
            width = max(40, shutil.get_terminal_size().columns)
            line = textwrap.fill(line, width, subsequent_indent=" " * 10, break_long_words=False, break_on_hyphens=False)
        self.tell(line, style=style)
