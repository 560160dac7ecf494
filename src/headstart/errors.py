"""Every error that Headstart raises on purpose.

    HeadstartError
    ├── InputError            what the user gave cannot be used (command line: exit code 2)
    │   ├── DataError         a data set or a list of images
    │   ├── UnreadableError   one input
    │   │   ├── ImageError    an image file
    │   │   └── TextError     a text
    │   ├── BackboneError     an unknown backbone, or weights that do not fit it
    │   ├── ParameterError    a parameter outside its limits
    │   └── RunError          a run folder that is not one, is damaged, or is of another version
    ├── MissingExtraError     an optional dependency is needed
    └── StoreError            the feature store cannot be read or written

The text of each says what came, what is allowed, and what to do next.
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

_FLAGS = {"columns": "--column", "labels": "--label"}  # where an option is not called as its setting


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed, and what was finished has been kept; the message says how to go on from there."""


class HeadstartError(Exception):
    """Base class of all errors that Headstart raises on purpose."""


class InputError(HeadstartError):
    """What the user gave cannot be used as it is."""


class DataError(InputError, ValueError):
    """A data set, a list or a folder of images cannot be used.

    It is a ValueError too, as scikit-learn's tools expect of bad X and y.
    """


class UnreadableError(InputError):
    """An input is refused.

    Attributes:
        path: the file, or what the input is called, such as ``"<bytes>"`` or the row of a list.
        reason: why it is refused, without the path.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, str]]:
        return (type(self), (self.path, self.reason))


class ImageError(UnreadableError):
    """An image file is refused."""


class TextError(UnreadableError):
    """A text is refused."""


class BackboneError(InputError):
    """A backbone is unknown, or its weights cannot be had or do not fit."""


class ParameterError(InputError, ValueError):
    """A parameter is outside its limits."""


class RunError(InputError):
    """A run folder is missing, damaged, or of another version."""


class MissingExtraError(HeadstartError, ImportError):
    """An optional dependency is needed; the message carries the command that installs it."""

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what} needs an optional part of Headstart. Install it with: pip install 'headstart[{extra}]'")
        self.extra = extra


class StoreError(HeadstartError):
    """The feature store cannot be read or written."""


_entrance = SimpleNamespace(typed=False)


@contextlib.contextmanager
def options_typed() -> Iterator[None]:
    """Messages made in the block name settings as options of the command line (`setting`)."""
    before, _entrance.typed = _entrance.typed, True
    try:
        yield
    finally:
        _entrance.typed = before


def setting(name: str, value: Any = ..., *, flag: str = "") -> str:
    """Name a setting, or with its value, in the words of the entrance: ``--image-root DIR``, or in Python ``image_root='DIR'``."""
    if not _entrance.typed:
        return f"{name}=..." if value is ... else f"{name}={value!r}"
    flag = flag or _FLAGS.get(name, f"--{name.replace('_', '-')}")
    if isinstance(value, Mapping):
        return " ".join(f"{flag} {shlex.quote(f'{key}={one}')}" for key, one in value.items())
    if isinstance(value, tuple):
        return " ".join(f"{flag} {shlex.quote(str(one))}" for one in value)
    return flag if value is ... or value is True else f"{flag} {shlex.quote(str(value))}"


def nearest(name: str, allowed: Iterable[str], *, count: int = 3) -> str:
    """Return ``" Did you mean ...?"`` for the entries of `allowed` closest to `name`, or an empty string."""
    choices = {choice.casefold(): choice for choice in allowed}
    close = difflib.get_close_matches(name.casefold(), choices, n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(choices[c] for c in close)}?" if close else ""


@contextlib.contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Raise RunError where the block fails on something saved: `what` is "The saved head is", say, and the entry that fails is named."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(f"{what} damaged: {error} is missing or wrong. Fit again.") from error
