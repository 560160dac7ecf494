"""Who is told how a long job goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, in all)."""


class Listener:
    """Is told how a long job goes; this one says nothing. The command line has one that draws progress bars."""

    def stage(self, name: str) -> None:
        """A stage of the work begins."""

    def progress(self, done: int, total: int) -> None:
        """So much of the current stage is done."""

    def detail(self, text: str) -> None:
        """What is new in the current stage, such as the loss of a training; shown beside its progress."""

    def say(self, message: str) -> None:
        """Something worth knowing."""

    def warn(self, message: str) -> None:
        """Something that changes what the result means."""
