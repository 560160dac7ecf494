"""The words of a report for inputs that are no images."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from headstart.modalities import Modality
from headstart.sections import Gallery, MarkedText, Span
from headstart.text import reworded

_Item = TypeVar("_Item")
_KEPT = frozenset(
    {"anchor", "back", "command", "hub", "hub_id", "backbone", "licence", "layout", "marked", "names", "picture", "rows", "title"}
)
"""Fields that hold names, addresses and what the user wrote."""
_QUOTED = ("quote", "strong", "code", "tag")


def in_words_of(modality: Modality, said: _Item) -> _Item:
    """The same with sentences about inputs of this kind in place of sentences about images; what users wrote and named stays."""
    found: _Item = _reworded(said, modality)
    return found


def _reworded(value: Any, modality: Modality) -> Any:
    if isinstance(value, str):
        return reworded(value, modality.noun, modality.article)
    if isinstance(value, tuple):
        return tuple(_reworded(one, modality) for one in value)
    if isinstance(value, MarkedText | Gallery) or (isinstance(value, Span) and value.kind in _QUOTED):
        return value
    if not is_dataclass(value) or isinstance(value, type):
        return value
    found = {one.name: getattr(value, one.name) for one in fields(value) if one.init and one.name not in _KEPT}
    changed = {name: new for name, old in found.items() if (new := _reworded(old, modality)) is not old}
    return replace(value, **changed) if changed else value
