"""Who is told how a long job goes, and what is not worth telling."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, in all)."""


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Hold back what libraries log below errors; what comes of their work is told by those who use them."""
    before = {logger: logger.level for logger in map(logging.getLogger, loggers)}
    try:
        for logger in before:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


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
