"""Cells of a column of labels: from their text to one label or several, and back."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from headstart.errors import DataError, setting

SEPARATORS = (";", "|", ",")
SEVERAL = (list, tuple, set, frozenset)  # the types of cells with any number of labels
_BRACKETS = ("[]", "()", "{}")
_CONSTRUCTED = re.compile(
    r"(?:np\.|numpy\.)?(?:array|set|frozenset|tuple|list|Index)\(([\[({].*[\])}])?(?:,\s*dtype=[^\[\]]*)?\)", re.DOTALL
)
_VECTOR = re.compile(r"[\[(]?\s*[01](?:\.0*)?(?:[\s;,|]+[01](?:\.0*)?)+\s*[\])]?")
_WHOLE_FLOAT = re.compile(r"([+-]?[0-9]+)\.0+")


def is_missing(value: Any) -> bool:
    """Whether a value is missing, as `pandas.isna` says: None, NaN of any type, NaT, pandas.NA; also what NumPy masks."""
    if value is None or value is np.ma.masked or type(value).__name__ == "NAType":
        return True
    if isinstance(value, (str, bytes, np.ndarray, dict, *SEVERAL)):
        return False
    try:
        return bool(value != value)
    except Exception:  # values that cannot be compared
        return False


def label_text(value: Any) -> str:
    """Return the text of one label as it came from a table or an array: stripped; what is missing as an empty string."""
    if is_missing(value):
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)  # tables turn whole numbers into floats as soon as one cell is empty
    return str(value).strip()


def label_texts(value: Any) -> tuple[str, ...]:
    """Return the texts of one label or of several, without empty and repeated ones."""
    return tuple(dict.fromkeys(filter(None, map(label_text, value if isinstance(value, SEVERAL) else [value]))))


def whole_number(label: str) -> str:
    """Return "3" for "3.0", and any other label as it is."""
    return _WHOLE_FLOAT.sub(r"\1", label) if _WHOLE_FLOAT.fullmatch(label) else label


def whole_numbers(labels: Sequence[str]) -> list[str]:
    """Return "3" for "3.0" if every label that is not empty is such a number, else the labels as they are."""
    if any(labels) and all(_WHOLE_FLOAT.fullmatch(label) for label in set(labels) if label):
        return [whole_number(label) for label in labels]
    return list(labels)


def read_cells(
    cells: Sequence[Any], *, separator: str | None = None, known: Collection[str] = (), notes: list[str]
) -> list[str] | list[tuple[str, ...]]:
    """Return a label for each cell, or tuples of labels where an input may have several. What is guessed is noted.

    A text that is one of the `known` classes is that class. Without a `separator`, lists in JSON or Python are read as such, and a
    separator is looked for in what is left (`detect_separator`); with "" every text is one label.
    """
    whole = [cell if isinstance(cell, SEVERAL) or (isinstance(cell, str) and cell in known) else label_text(cell) for cell in cells]
    for cell in whole:
        if isinstance(cell, SEVERAL):
            check_names(cell)
    texts = {cell for cell in whole if not isinstance(cell, SEVERAL)}
    free = sorted(texts.difference(known, [""]))  # sorted, so that an example in a note is always the same
    read: dict[str, str | tuple[str, ...]] = {text: text for text in texts}
    if separator is None:
        _refuse_vectors([*free, *(repr(cell) for cell in whole if isinstance(cell, SEVERAL))])
        bare = any(_is_bare_list(text) and "," in text for text in free)
        lists = {text: labels for text in free if (labels := _written_list(text, bare=bare)) is not None}
        free = [text for text in free if text not in lists]
        separator = detect_separator([*free, *(texts & {*known})], known)
        read |= lists
        read |= _told_numbers(free, notes) if separator is None else {}
        _tell_separator(free, separator, known, notes)
    if separator:
        read |= {text: split_cell(text, separator) for text in free}
    found = [label_texts(cell) if isinstance(cell, SEVERAL) else read[cell] for cell in whole]
    many = [labels for labels in found if isinstance(labels, tuple)]
    if not separator and all(len(labels) == 1 for labels in many):
        return [labels[0] if isinstance(labels, tuple) else labels for labels in found]
    return [labels if isinstance(labels, tuple) else (labels,) if labels else () for labels in found]


def _told_numbers(texts: list[str], notes: list[str]) -> dict[str, str]:
    numbers = dict(zip(texts, whole_numbers(texts), strict=True))
    if any(text != number for text, number in numbers.items()):
        notes.append(f"The labels are whole numbers: {texts[0]!r} is read as {numbers[texts[0]]!r}.")
    return numbers


def _tell_separator(texts: list[str], separator: str | None, known: Collection[str], notes: list[str]) -> None:
    for mark in SEPARATORS if separator is None else (separator,):
        example = next((text for text in texts if mark in text), None)
        if example is not None and separator:
            notes.append(
                f"Several labels in one cell, separated by {mark!r} (as in {example!r}): each image may have any number of labels."
            )
        elif example is not None and not known:
            notes.append(f"Labels with {mark!r}, as {example!r}, are read whole; {setting('label_separator', mark)} separates them there.")


def _is_bare_list(text: str) -> bool:
    """Whether a text is in brackets as YAML and PostgreSQL write lists: ``[cat, dog]`` and ``{cat,dog}``."""
    return text[:1] + text[-1:] in ("[]", "{}")


def _written_list(text: str, *, bare: bool) -> tuple[str, ...] | None:
    """Return the labels of a text that is a list in JSON or Python, or of {"choices": [...]}, as Label Studio exports it; else None.

    What is in quotes stays as it is, spaces included. With `bare`, lists need no quotes. DataError for JSON that holds anything else than
    labels.
    """
    if made := _CONSTRUCTED.fullmatch(text):
        text = made[1] or "[]"
    if text[:1] + text[-1:] not in _BRACKETS:
        return None
    value: Any = None
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
    if value is None:
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = ast.literal_eval(re.sub(r"(['\"])\s+(['\"])", r"\1,\2", text))  # NumPy writes no commas
    if isinstance(value, dict):
        value = value.get("choices", value)
    if value is None and bare and _is_bare_list(text):
        value = [one.strip().strip("'\"") for one in text[1:-1].split(",")]
    labels = [value] if isinstance(value, str) else list(value) if isinstance(value, SEVERAL) else None
    if isinstance(value, dict) or labels is not None:
        check_names([value] if isinstance(value, dict) else labels or (), text)
    return None if labels is None else tuple(dict.fromkeys(one if isinstance(one, str) else label_text(one) for one in labels if one != ""))


def check_names(labels: Collection[Any], shown: str = "") -> None:
    """Refuse with a DataError labels of one input that are not names: lists of lists, mappings, missing values."""
    shown = (shown or repr(labels))[:80]
    if any(isinstance(one, (dict, *SEVERAL)) for one in labels):
        raise DataError(f'a label must be a name or a list of names, and {shown!r} is something else; write cat, or ["cat", "dog"]')
    if any(map(is_missing, labels)):
        raise DataError(f"a list of labels holds a missing value: {shown}; leave it out")


def _refuse_vectors(texts: Sequence[str]) -> None:
    """Refuse a column in which every cell is a vector of 0 and 1, one for each class: as names, 0 and 1 would be the only labels."""
    if texts and all(map(_VECTOR.fullmatch, texts)) and len({len(re.split(r"[\s;,|]+", text.strip())) for text in texts}) == 1:
        raise DataError(
            f"each label is a vector of 0 and 1, such as {min(texts)}, which does not name the classes; write their names, as in cat;dog, "
            "or a column of 0 and 1 for each class, with its name in the first line. "
            f"{setting('label_separator', '')} reads every text as the name of a class."
        )


def label_cell(labels: Iterable[str]) -> str:
    """Return a cell that `read_cells` reads as these labels: joined by semicolons where no name can be misread, else a JSON list."""
    names = list(labels)
    return ";".join(names) if all(map(_is_plain, names)) else json.dumps(names, ensure_ascii=False)


def _is_plain(name: str) -> bool:
    marked = any(mark in name for mark in SEPARATORS)
    marked = marked or bool(_CONSTRUCTED.fullmatch(name) or _VECTOR.fullmatch(name))
    return not marked and label_text(name) == name == whole_number(name) and name[:1] + name[-1:] not in _BRACKETS


def detect_separator(cells: Iterable[str], known: Collection[str] = ()) -> str | None:
    """Return the separator that splits cells into several labels, or None.

    A semicolon or a bar counts if some label met in a split cell is met in another cell too. A comma is common in names: it counts if most
    of the split cells have a label that is also a cell of its own, or at another place among several; so "Smith, John" stays whole, and
    "Apple, healthy" beside "Apple, scab". Where classes are `known`, a cell must consist of these.
    """
    distinct = {*cells}
    for separator in SEPARATORS:
        split = {cell: split_cell(cell, separator) for cell in distinct if separator in cell and cell not in known}
        if known:
            if any(labels and {*labels} <= {*known} for labels in split.values()):
                return separator
            continue
        met = Counter(label for cell in distinct for label in split_cell(cell, separator))
        places = defaultdict[str, set[str]](set)
        for cell in distinct:
            labels = split_cell(cell, separator)
            for i, label in enumerate(labels):
                places[label].add("alone" if len(labels) == 1 else "first" if not i else "last" if i == len(labels) - 1 else "between")
        moving = sum(any(len(places[label]) > 1 for label in labels) for labels in split.values())
        if 2 * moving > len(split) if separator == "," else any(met[label] > 1 for labels in split.values() for label in labels):
            return separator
    return None


def split_cell(cell: str, separator: str) -> tuple[str, ...]:
    """Return the labels of one cell, stripped, without empty and repeated ones."""
    return label_texts(cell.split(separator))
