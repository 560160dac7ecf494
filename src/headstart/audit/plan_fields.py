"""`Fields`: the values of a plan as a person wrote them, checked one by one; every error says where it is and what belongs there."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import DataError, nearest


@dataclass(frozen=True)
class Fields:
    """The values of one JSON object, and where it stands in which file."""

    file: str
    place: str
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path, *, version: int, allowed: Sequence[str]) -> Fields:
        """Read the outermost object of a plan.

        Raises:
            DataError: the file cannot be read, is no JSON, no plan, one of another version, or has entries of an unknown name.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(f"{path}: the plan cannot be read ({reason}). `headstart check DATA --fix FILE` writes one.") from None
        try:
            values = json.loads(text, object_pairs_hook=_without_repeats)
        except (json.JSONDecodeError, RecursionError) as error:
            where = (
                f"line {error.lineno}, column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
            )
            raise DataError(
                f"{path}: the plan is not valid JSON ({where}). Between two entries stands a comma, after the last one none."
            ) from None
        except _RepeatedError as error:
            raise DataError(f"{path}: the plan has {error} twice in one place; put both together") from None
        if not isinstance(values, dict) or "headstart_plan" not in values:
            raise DataError(f'{path}: is JSON, but no plan: "headstart_plan": {version} is missing')
        given = values["headstart_plan"]
        if isinstance(given, bool) or given != version:
            raise DataError(f"{path}: is a plan of version {given!r}; this Headstart reads version {version}. Make the plan again")
        fields = cls(str(path), "", values)
        fields._only(allowed)
        return fields

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def error(self, message: str) -> DataError:
        """An error that begins with the file and the place."""
        return DataError(f"{self.file}: {f'{self.place}: ' if self.place else ''}{message}")

    def text(self, key: str, *, default: str | None = None) -> str:
        """A text; an error if it is missing and there is no default."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(f"{key!r} is {value!r}; a text belongs there")
        return value

    def text_or_none(self, key: str) -> str | None:
        """A text, or None for null or a missing entry."""
        return None if self.values.get(key) is None else self.text(key)

    def number(self, key: str) -> float:
        """A finite number."""
        value = self._get(key, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(f"{key!r} is {value!r}; a number belongs there")
        return float(value)

    def labels(self, key: str) -> tuple[str, ...]:
        """One label, or a list of labels."""
        value = self._get(key, None)
        labels = (value,) if isinstance(value, str) else value
        if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
            raise self.error(f"{key!r} is {value!r}; a class belongs there, or a list of classes")
        return tuple(labels)

    def entries(self, key: str, allowed: Sequence[str]) -> Iterator[Fields]:
        """The objects of a list; none if it is missing."""
        for place, value in self._list(key):
            if not isinstance(value, dict):
                raise self.error(f'{place} is {value!r}; an object such as {{"path": "cat/1.jpg"}} belongs there')
            entry = Fields(self.file, place, value)
            entry._only(allowed)
            yield entry

    def lists(self, key: str) -> Iterator[tuple[str, ...]]:
        """The lists of texts in a list; none if it is missing."""
        for place, value in self._list(key):
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise self.error(f'{place} is {value!r}; a list of images such as ["cat/1.jpg", "cat/2.jpg"] belongs there')
            yield tuple(value)

    def _list(self, key: str) -> Iterator[tuple[str, Any]]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise self.error(f"{key!r} is {value!r}; a list belongs there, empty if need be: []")
        return ((f"{key!r}, entry {i}", entry) for i, entry in enumerate(value, start=1))

    def _get(self, key: str, default: Any) -> Any:
        if key not in self.values and default is None:
            raise self.error(f"{key!r} is missing")
        return self.values.get(key, default)

    def _only(self, allowed: Sequence[str]) -> None:
        for key in self.values:
            if key not in allowed:
                raise self.error(f"{key!r} is not known here.{nearest(key, allowed)} Allowed are {', '.join(allowed)}.")


class _RepeatedError(ValueError):
    """A name stands twice in one object."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that stands twice: JSON would keep the last and lose the rest without a word."""
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise _RepeatedError(repr(key))
    return dict(pairs)
