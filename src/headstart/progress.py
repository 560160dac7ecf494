"""Progress of long jobs: who is notified of it, and which messages of libraries are suppressed."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from headstart.text import reworded

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, in all)."""

Say: TypeAlias = Callable[[str], None]
"""Called with a message."""


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Suppress what libraries log below errors; their callers report what matters."""
    before = {logger: logger.level for logger in map(logging.getLogger, loggers)}
    try:
        for logger in before:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


class Warned(str):
    """A note on data that changes what the result means: it is told as a warning."""

    __slots__ = ()


def to_warnings(message: str) -> None:
    """Issue a message as a warning of Python, where nobody else is to be told."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)


class Listener:
    """Is notified of the progress of a long job. This one only warns of inputs that are left out; that of the command line draws bars."""

    def stage(self, name: str) -> None:
        """A stage of the work begins."""

    def progress(self, done: int, total: int) -> None:
        """`done` of `total` units of the current stage are done."""

    def detail(self, text: str) -> None:
        """News of the current stage, such as the training loss; shown beside its progress."""

    def say(self, message: str) -> None:
        """Something worth knowing."""

    def warn(self, message: str) -> None:
        """Something that changes what the result means."""

    def tell_notes(self, notes: Iterable[str]) -> None:
        """What was noted while data were read."""
        for note in notes:
            (self.left_out if isinstance(note, Warned) else self.say)(note)

    def left_out(self, message: str) -> None:
        """Inputs are passed over or cannot be read; a warning of Python where `warn` does nothing, so that nobody misses them."""
        (to_warnings if type(self).warn is Listener.warn else self.warn)(message)


class Part(Listener):
    """Tells another listener what stages and warnings are a part of; what is worth knowing of each part is not said."""

    def __init__(self, listener: Listener, name: str) -> None:
        self.progress, self.detail = listener.progress, listener.detail  # type: ignore[method-assign]
        self._listener, self._name = listener, name

    def stage(self, name: str) -> None:
        """As of the other, with the name of the part before it."""
        self._listener.stage(self._name + name)

    def warn(self, message: str) -> None:
        """As of the other, with the name of the part before it."""
        self._listener.warn(self._name + message)


class Reworded(Listener):
    """Tells another listener everything about inputs of another kind than images, in their words; see `headstart.text.reworded`."""

    def __init__(self, listener: Listener, noun: str, article: str) -> None:
        self.progress = listener.progress  # type: ignore[method-assign]
        self._listener, self._noun, self._article = listener, noun, article

    def _reworded(self, text: str) -> str:
        found = reworded(text, self._noun, self._article)
        return type(text)(found) if isinstance(text, Warned) else found

    def stage(self, name: str) -> None:
        """As of the other."""
        self._listener.stage(self._reworded(name))

    def detail(self, text: str) -> None:
        """As of the other."""
        self._listener.detail(self._reworded(text))

    def say(self, message: str) -> None:
        """As of the other."""
        self._listener.say(self._reworded(message))

    def warn(self, message: str) -> None:
        """As of the other."""
        self._listener.warn(self._reworded(message))

    def left_out(self, message: str) -> None:
        """As of the other."""
        self._listener.left_out(self._reworded(message))


class Seconds(dict[str, float]):
    """Seconds by stage."""

    @contextmanager
    def lap(self, stage: str) -> Iterator[None]:
        """Measure how long a stage takes."""
        began = time.perf_counter()
        yield
        self[stage] = time.perf_counter() - began
