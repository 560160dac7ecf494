"""Groups from file names: images of one patient, scene or video belong on the same side of every split."""

from __future__ import annotations

import re
from collections.abc import Sequence

from headstart.errors import ParameterError


def groups_from_names(names: Sequence[str], pattern: str) -> tuple[list[str], str | None]:
    """Return the group of each name, and a note if some names do not match or nothing is grouped.

    The group is the pattern's first group, or the whole match if it has none, wherever it is found first in the name (the path
    relative to the data folder, with ``/``). A name without a match is a group of its own.

    Raises:
        ParameterError: the pattern is no regular expression, or matches no name at all.
    """
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ParameterError(
            f"group_from={pattern!r} is not a regular expression: {error}. An example: 'person(\\d+)_' takes the number after 'person'."
        ) from None
    groups: list[str] = []
    unmatched: list[str] = []
    for name in names:
        match = expression.search(name)
        found = match and (match.group(1) if expression.groups else match.group(0))
        if not found:
            unmatched.append(name)
        groups.append(found or f"{name} (alone)")
    if names and len(unmatched) == len(names):
        raise ParameterError(
            f"group_from={pattern!r} matches none of the {len(names)} names, for example {names[0]!r}. "
            "It is searched in the path below the data folder."
        )
    note = None
    if unmatched:
        some = f"{len(unmatched)} of {len(names)} names do not match group_from={pattern!r}"
        note = f"{some} and are each a group of their own, for example {unmatched[0]!r}."
    elif len(set(groups)) == len(groups) > 1:
        note = f"group_from={pattern!r} gives every image a group of its own, so it changes nothing."
    elif len(set(groups)) == 1 and len(groups) > 1:
        note = f"group_from={pattern!r} puts all images into one group, {groups[0]!r}: no part can be held out."
    return groups, note
