"""Settings as data: what a field of a dataclass says about itself, and everything that follows from it.

    @documented
    @dataclass(frozen=True, kw_only=True)
    class Example(Settings):
        rate: float = option(0.1, "Learning rate.", number(above=0))

From that one field come the check of the value, the option ``--rate`` (made by `headstart.cli.options`), the entry in the manifest, the
comparison before a training is resumed, and the entry under "Attributes" in the docstring of the class.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from headstart.errors import ParameterError, nearest, setting

_KEY = "option"
_LIKE_THE_FIELD = "--"
_T = TypeVar("_T", bound=type)


@dataclass(frozen=True)
class Limit:
    """What a value may be: `words` for an error message ("a number above 0"), and `choices` where it is one of several names."""

    words: str
    allows: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def one_of(*names: str) -> Limit:
    """One of several names."""
    words = f"one of {', '.join(names)}" if len(names) > 1 else repr(names[0])
    return Limit(words, lambda value: isinstance(value, str) and value in names, names)


def number(*, above: float | None = None, least: float | None = None, below: float | None = None, most: float | None = None) -> Limit:
    """A finite number within bounds."""
    words = [f"{word} {bound:g}" for word, bound in (("above", above), ("of at least", least), ("below", below), ("at most", most))
             if bound is not None]  # fmt: skip

    def allows(value: Any) -> bool:
        return (
            isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(bounded := float(value))
            and (above is None or bounded > above) and (least is None or bounded >= least)
            and (below is None or bounded < below) and (most is None or bounded <= most)
        )  # fmt: skip

    return Limit(f"a number {' and '.join(words)}".rstrip(), allows)


def whole(least: int, most: int | None = None) -> Limit:
    """A whole number within bounds."""
    words = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    within = number(least=least, most=most)
    return Limit(words, lambda value: isinstance(value, numbers.Integral) and within.allows(value))


def list_of(limit: Limit) -> Limit:
    """A list or tuple whose items are each within a limit."""
    words = limit.words.removeprefix("a ").replace("number", "numbers", 1)
    return Limit(f"a list of {words}", lambda value: isinstance(value, list | tuple) and all(map(limit.allows, value)))


def table_of(*names: str) -> Limit:
    """A mapping from some of these names to texts."""
    return Limit(
        f"a table of names of columns for {', '.join(names)}",
        lambda value: isinstance(value, Mapping) and value.keys() <= {*names} and all(isinstance(one, str) for one in value.values()),
        names,
    )


def either(words: str, *limits: Limit) -> Limit:
    """Within one of several limits."""
    return Limit(words, lambda value: any(limit.allows(value) for limit in limits))


def instance_of(kind: type, words: str) -> Limit:
    """Any value of a type."""
    return Limit(words, lambda value: isinstance(value, kind))


TEXT = instance_of(str, "text")
PATH = Limit("the path of a file or folder", lambda value: isinstance(value, str | Path))
SWITCH = instance_of(bool, "true or false")
LEVELS = Limit("two numbers, the smaller first", lambda value: list_of(number()).allows(value) and len(value) == 2 and value[0] < value[1])
SHARE = number(above=0, below=1)


def measure(typed: str, units: Mapping[str, float], *, words: str, flag: str) -> float:
    """What was typed for a measure, such as ``10m``, by a table of units in lower case ("" for none); it is above 0."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", typed.strip().casefold())
    if not found or found[2] not in units or not float(found[1]):
        raise ParameterError(f"{flag} must be {words}, got {typed!r}.")
    return float(found[1]) * units[found[2]]


def require(limit: Limit, *, or_none: bool = False, flag: str = "", **values: Any) -> None:
    """Raise ParameterError for a value outside its limit: which it is (on the command line by its `flag`), what it must be, what it is."""
    for name, value in values.items():
        if not (or_none and value is None) and not limit.allows(value):
            words = f"{limit.words} or None" if or_none else limit.words
            got = str(value) if isinstance(value, Path) else value
            wrong = next((key for key in value if key not in limit.choices), "") if isinstance(value, Mapping) else value
            shown = setting(name, flag=flag).removesuffix("=...") if flag else name
            raise ParameterError(f"{shown} must be {words}, got {got!r}.{nearest(str(wrong), limit.choices)}")


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a field of settings knows besides its type and default."""

    help: str  # what the setting is, in a line; the help of the option
    limit: Limit  # what its value may be; None is allowed as well where it is the default or `optional`
    details: str = ""  # what else is to be said about it; for the docstring
    flag: str = _LIKE_THE_FIELD  # the option on the command line; empty for settings of Python and of recipes only
    metavar: str | None = None  # stands for its value in ``--help``
    panel: str | None = None  # the heading it is listed under
    shown: str = ""  # its default as the help text has it, where that is not the default of the field
    parse: Callable[[Any], Any] | None = None  # turns what is typed into the value; it raises ParameterError
    several: bool = False  # may be given more than once; `parse` takes the list
    off: tuple[str, str] | None = None  # flag and help of a second option, which sets None
    optional: bool = False  # None is allowed, and is not the default
    recorded: bool = True  # whether the manifest has it and a resumed training must agree in it
    nested: type[Settings] | None = None  # the class of settings that is its value


def option(default: Any, help: str, limit: Limit, **rest: Any) -> Any:
    """A field of settings: its default, documentation and limit, and by keyword what else `Option` has."""
    return field(default=default, metadata={_KEY: Option(help=help, limit=limit, **rest)})


def options(cls: type) -> dict[str, Option]:
    """The options of a class of settings by the names of its fields, in their order."""
    own = sorted(fields(cls), key=lambda one: one.name not in cls.__annotations__)  # what is inherited comes last
    found = {one.name: one.metadata[_KEY] for one in own if _KEY in one.metadata}
    return {name: of if of.flag != _LIKE_THE_FIELD else replace(of, flag=f"--{name.replace('_', '-')}") for name, of in found.items()}


class Settings:
    """Base of the settings: frozen dataclasses all of whose fields are made by `option`."""

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            if isinstance(one.default, tuple) and isinstance(value := getattr(self, one.name), list):
                object.__setattr__(self, one.name, tuple(value))
        self.check(**{name: getattr(self, name) for name in options(type(self))})

    @classmethod
    def check(cls, **values: Any) -> None:
        """Refuse values outside the limits of their fields: the ParameterError says which, what it must be, and what it is."""
        known, defaults = options(cls), {one.name: one.default for one in fields(cls)}  # type: ignore[arg-type]
        for name, value in values.items():
            if name not in known:
                raise ParameterError(f"{cls.__name__} has no setting {name!r}.{nearest(name, known)} Allowed: {', '.join(known)}.")
            of = known[name]
            if value is not None or (defaults[name] is not None and not of.optional):
                require(of.limit, flag=of.flag, **{name: value})

    def to_dict(self) -> dict[str, Any]:
        """The recorded settings as plain values for JSON."""
        return {name: plain(getattr(self, name)) for name, of in options(type(self)).items() if of.recorded}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **others: Any) -> Self:
        """The inverse of `to_dict`; settings that are missing have their defaults, and `others` are further ones, not recorded."""
        cls.check(**{name: value for name, value in values.items() if not isinstance(value, Mapping)})
        nested = {name: of.nested for name, of in options(cls).items() if of.nested is not None}
        built = {
            name: nested[name].from_dict(value) if name in nested and isinstance(value, Mapping) else value
            for name, value in values.items()
        }  # fmt: skip
        return cls(**{**built, **others})


def plain(value: Any) -> Any:
    """A value of a field as JSON has it."""
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return value


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], *, run: Path) -> None:
    """Refuse to resume a training of `run` with other settings, or some of them, than those it was begun with; both as of `to_dict`."""
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            check_same(old, value, run=run)
        elif old != value:
            raise ParameterError(
                f"The training of {run} was begun with {name} {old!r} and cannot be resumed with {value!r}. Leave that setting out, since "
                f"all settings are taken over, or begin anew with another {setting('out')}."
            )


def documented(cls: _T) -> _T:
    """Write the documentation of the fields into the docstring of a class, under "Attributes"."""
    lines = (f"    {name}: {of.help}{' ' if of.details else ''}{of.details}" for name, of in options(cls).items())
    cls.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "Attributes:", *lines])
    return cls
