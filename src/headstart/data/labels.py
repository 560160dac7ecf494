"""Class names: their natural order, several in one cell, look-alikes, and matching by name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError, nearest

SEPARATORS = (";", "|", ",")
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]+)?")
_WHOLE_FLOAT = re.compile(r"([+-]?[0-9]+)\.0+")


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names as a person would: numbers by value ("9" before "10", "-1" before "0"), words without regard to case."""
    unique = sorted(set(names))
    if all(_NUMBER.fullmatch(name) for name in unique):
        return sorted(unique, key=float)
    return sorted(unique, key=_natural_key)


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    pieces = re.split(r"([0-9]+)", name.casefold())
    # Digits by length and then as text: the order of the numbers, however long they are.
    return [(0, len(p.lstrip("0")), p.lstrip("0")) if p.isdecimal() else (1, 0, p) for p in pieces if p]


def label_text(value: Any) -> str:
    """Return the text of one label as it came from a table or an array: stripped, None and NaN as an empty string."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)  # tables turn whole numbers into floats as soon as one cell is empty
    return str(value).strip()


def whole_numbers(labels: Sequence[str]) -> list[str]:
    """Return "3" for "3.0" if every label that is not empty is such a number, else the labels as they are."""
    if any(labels) and all(_WHOLE_FLOAT.fullmatch(label) for label in set(labels) if label):
        return [_WHOLE_FLOAT.sub(r"\1", label) for label in labels]
    return list(labels)


def detect_separator(cells: Iterable[str]) -> str | None:
    """Return the separator that splits cells into several labels, or None.

    A separator counts only if some label met in a split cell is met in another cell too; so a class called "Smith, John" stays whole.
    """
    distinct = set(cells)
    for separator in SEPARATORS:
        split = [cell for cell in distinct if separator in cell]
        if not split:
            continue
        met = Counter(piece for cell in distinct for piece in set(split_cell(cell, separator)))
        if any(met[piece] > 1 for cell in split for piece in split_cell(cell, separator)):
            return separator
    return None


def split_cell(cell: str, separator: str) -> tuple[str, ...]:
    """Return the labels of one cell, stripped, without empty and repeated ones."""
    return tuple(dict.fromkeys(piece.strip() for piece in cell.split(separator) if piece.strip()))


def fold_name(name: str) -> str:
    """Return the form under which two spellings of one name agree: Unicode NFC, single spaces, trimmed."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of names that differ only by case, spaces, ``_`` or ``-``, or Unicode normalisation."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        plain = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
        alike[plain].append(name)
    return [tuple(group) for group in alike.values() if len(group) > 1]


def match_names(found: Mapping[str, int], classes: Sequence[str], *, where: str, known: str) -> dict[str, str]:
    """Match class names by name: first as they are, then in Unicode NFC with spaces trimmed.

    Args:
        found: the names met, with their number of images.
        classes: the names allowed.
        where: what to call the side of the names met, in the error.
        known: what to call the side of the names allowed.

    Returns:
        the entry of `classes` for each name found.

    Raises:
        DataError: a name that is not among `classes`; it names the nearest.
    """
    folded = {fold_name(name): name for name in reversed(classes)}
    matched = {name: name if name in set(classes) else folded.get(fold_name(name)) for name in found}
    extra = [name for name, match in matched.items() if match is None]
    if extra:
        listed = ", ".join(f"{name!r} ({_images(found[name])})" for name in extra[:5]) + (", ..." if len(extra) > 5 else "")
        raise DataError(
            f"{where} has {_classes(len(extra))} that {known} does not have: {listed}. Known classes: {shortened(classes)}."
            f"{nearest(extra[0], classes)} Rename or remove what is not known: labels are matched by name."
        )
    return {name: match for name, match in matched.items() if match is not None}


def _images(count: int) -> str:
    return f"{count} image{'s' if count != 1 else ''}"


def _classes(count: int) -> str:
    return f"{count} classes" if count != 1 else "a class"


def shortened(names: Sequence[str], *, limit: int = 12) -> str:
    """Return the names in quotes, joined by commas, at most `limit` of them."""
    text = ", ".join(map(repr, names[:limit]))
    return f"{text}, ... ({len(names)} in all)" if len(names) > limit else text or "none"


def encode_single(labels: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return int64 (n,) indices of the labels in `classes`."""
    index = {name: i for i, name in enumerate(classes)}
    return np.fromiter((index[label] for label in labels), np.int64, len(labels))


def encode_several(labels: Sequence[tuple[str, ...]], classes: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return bool (n, k): True where an image has a class."""
    index = {name: i for i, name in enumerate(classes)}
    targets = np.zeros((len(labels), len(classes)), np.bool_)
    for row, several in zip(targets, labels, strict=True):
        row[[index[label] for label in several]] = True
    return targets
