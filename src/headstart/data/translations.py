"""Pairs of texts as data sets: a text and its translation in each row of a list; and `Translations`, which are the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from headstart.data.annotations import Annotations, Column
from headstart.data.cells import label_text
from headstart.data.lists import plain_name, recognise_column, row_groups, row_parts
from headstart.data.tables import Table
from headstart.errors import DataError, nearest
from headstart.metrics.link import Link
from headstart.modalities import TEXT
from headstart.modalities.text import Text, clean, text_digest
from headstart.text import enumeration, plural

TRANSLATION = "translation"
"""The column of annotations with the translation of each text."""

MOST = 4000
"""Characters of a text that are stored and tested: more than networks take."""

_NAMES = (
    ("source", "target"), ("src", "tgt"), ("src", "trg"), ("sourcetext", "targettext"), ("srctext", "tgttext"), ("text", "translation"),
    ("sentence", "translation"), ("original", "translation"), ("source", "translation"), ("inputtext", "targettext"),
)  # fmt: skip
"""Names of columns of a text and its translation, letters and digits only."""

_CODES = (
    "af am ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gl gu he hi hr hu hy id is it ja ka kk km kn ko ky lb lo lt lv "
    "mk ml mn mr ms my nb ne nl nn no pa pl ps pt ro ru si sk sl sq sr sv sw ta te th tl tr uk ur uz vi xh yi zh zu"
)
LANGUAGES = frozenset(_CODES.split()) | {
    "english", "german", "french", "spanish", "italian", "portuguese", "dutch", "russian", "chinese", "japanese", "korean", "arabic",
    "turkish", "polish", "czech", "swedish", "finnish", "danish", "norwegian", "hindi", "vietnamese", "ukrainian", "romanian", "hungarian",
    "greek", "hebrew", "thai", "indonesian", "deutsch", "francais", "espanol",
}  # fmt: skip
"""Codes and names of languages."""


@dataclass(frozen=True, eq=False)
class Translations:
    """The translation of each of n texts; and the names of the columns of both, which may be those of languages."""

    texts: tuple[str, ...]
    columns: tuple[str, str] = ("", "")

    classes: ClassVar[tuple[str, ...]] = ()
    link: ClassVar[Link | None] = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The SHA-256 of each, uint8 (n, 32): what a run keeps of the translations that it learned from."""
        digests = b"".join(map(text_digest, self.texts))
        return np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """Four parts by length, int64 (n,)."""
        lengths = np.array([len(text) for text in self.texts], dtype=np.float64)
        return np.searchsorted(np.quantile(lengths, [0.25, 0.5, 0.75]), lengths) if len(lengths) >= 40 else np.zeros(len(lengths), np.int64)

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """Those of some texts."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return type(self)(tuple(self.texts[row] for row in chosen.tolist()), self.columns)

    def names(self, index: int) -> tuple[str, ...]:
        """The translation."""
        return (self.texts[index],)

    def cells(self, index: int) -> dict[str, str]:
        """The translation, in a column that is recognised."""
        return {TRANSLATION: self.texts[index]}

    def counts(self) -> dict[str, int]:
        """Empty: there are no classes."""
        return {}


def text_rows(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The first `MOST` characters of texts in UTF-8, each with zeros after it: uint8 (n, bytes of the longest). A NUL becomes a space."""
    encoded = [text[:MOST].replace("\0", " ").encode("utf-8", "replace") for text in texts]
    found = np.zeros((len(encoded), max(map(len, encoded), default=0)), dtype=np.uint8)
    for row, one in zip(found, encoded, strict=True):
        row[: len(one)] = np.frombuffer(one, dtype=np.uint8)
    return found


def texts_in(rows: npt.NDArray[np.uint8]) -> list[str]:
    """The inverse of `text_rows`."""
    return [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in np.ascontiguousarray(rows)]


def translation_columns(table: Table, given: Mapping[str, str]) -> tuple[str, str] | None:
    """The columns of texts and translations of a list: as given, or by their names; None where it has none."""
    names = list(table.columns)
    if given.get(TRANSLATION):
        others = [name for name in names if name != given[TRANSLATION]]
        return given.get("text") or next(iter(_of_texts(table, others)), ""), given[TRANSLATION]
    if given.get("text") or given.get("label") or given.get("path"):
        return None
    plain = {plain_name(name): name for name in names}
    found = next(((plain[a], plain[b]) for a, b in _NAMES if a in plain and b in plain), None)
    called = [name for name in names if plain_name(name) in LANGUAGES or plain_name(name.split("_")[0]) in LANGUAGES]
    languages = _of_texts(table, called)
    if found is None and len(languages) == 2:
        found = languages[0], languages[1]
    return found if found is not None and len(_of_texts(table, found)) == 2 else None


def _of_texts(table: Table, names: Sequence[str]) -> list[str]:
    """The columns with mostly different strings of several words, or of many characters."""
    return [name for name in names if _holds_sentences(table.columns[name][:1000])]


def _holds_sentences(cells: Sequence[Any]) -> bool:
    strings = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    if len(strings) < len(cells) / 2 or len({*strings}) <= len(strings) / 2:
        return False
    return sum(len(text.split()) > 1 or len(text) > 5 for text in strings) > len(strings) / 2


def read_translations(table: Table, columns: tuple[str, str], given: Mapping[str, str], source: Path) -> Annotations:
    """Read a list of texts and their translations; rows without one of the two are passed over, and noted. DataError where none is left.

    Texts are called by their row. A part or a group of each row is read as of other lists.
    """
    names, notes = list(table.columns), list(table.notes)
    for name, role in zip(columns, ("text", "translation"), strict=True):
        if name not in names:
            known = enumeration([repr(one) for one in names], most=8)
            raise DataError(f"{source} has no column {name!r} for the {role}. Columns found: {known}.{nearest(name, names)}")
    if columns[0] == columns[1]:
        raise DataError(f"the column {columns[0]!r} of {source} cannot be both the text and its translation; name two columns.")
    texts, translations = ([clean(cell if isinstance(cell, str) else label_text(cell)) for cell in table.columns[name]] for name in columns)
    inputs = [Text(text, f"row {number}") for number, text in enumerate(texts, 1)]
    free = [name for name in names if name not in columns]
    split, group = (given[role] if role in given else recognise_column(role, free) for role in ("split", "group"))
    parts = row_parts(table, split or None, source, notes, explicit=bool(given.get("split")))
    groups = row_groups(table, group or None, [one.name for one in inputs], notes)
    notes.append(f"Columns of {source.name}: {columns[1]!r} is taken as the translation of {columns[0]!r}.")
    keep = [row for row in range(len(inputs)) if inputs[row].strip() and translations[row].strip()]
    if not keep:
        raise DataError(f"no row of {source} has both a text in {columns[0]!r} and a translation in {columns[1]!r}")
    if len(keep) < len(inputs):
        without = [inputs[row].name for row in sorted({*range(len(inputs))} - {*keep})]
        notes.append(
            f"Passed over {plural(len(without), 'row')} without a text or a translation: {enumeration(without[:5], count=len(without))}."
        )
    values: list[Any] = [translations[row] for row in keep]
    return Annotations(
        inputs=tuple(inputs[row] for row in keep),
        columns={TRANSLATION: Column(values, [columns] * len(values), f"the column {columns[1]!r} of {source.name}")},
        parts=[parts[row] for row in keep],
        groups=None if groups is None else [groups[row] for row in keep],
        grouped_by="" if groups is None else f"the column {group!r} of {source.name}",
        source=str(source),
        notes=notes,
        learned=(),
        reason=f"{source} has texts and their translations, and no column of labels.",
        modality=TEXT,
    )
