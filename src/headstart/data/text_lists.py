"""Lists of texts as data sets: a table with a text and a label in each row, and perhaps a second text, a part and a group."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from headstart.data.annotations import LABEL, Annotations
from headstart.data.cells import label_text
from headstart.data.labels import shortened
from headstart.data.lists import (
    given_columns,
    label_column,
    labelled_rows,
    plain_name,
    recognise_column,
    row_groups,
    row_parts,
    rows_with_any,
)
from headstart.data.table_parts import table_parts
from headstart.data.tables import Table, read_table
from headstart.data.translations import TRANSLATION, read_translations, translation_columns
from headstart.errors import DataError, nearest, setting
from headstart.modalities import TEXT
from headstart.modalities.image import is_image_name
from headstart.modalities.text import Text, clean, joined_pair
from headstart.settings import ListOptions
from headstart.text import enumeration, plural

TEXTS = (
    "text", "texts", "sentence", "sentences", "review", "reviews", "reviewtext", "reviewbody", "comment", "comments",
    "commenttext", "content", "body", "message", "sms", "tweet", "post", "utterance", "document", "article", "abstract",
    "headline", "question", "questiontext", "description", "summary", "phrase", "email", "query", "title", "transcript",
    "caption", "statement", "input",
)  # fmt: skip
"""Names of columns of texts, letters and digits only, the likeliest first."""

PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"), ("texta", "textb"),
    ("sentencea", "sentenceb"), ("question", "sentence"), ("question", "answer"), ("query", "document"), ("query", "passage"),
    ("title", "body"),
)  # fmt: skip
"""Names of two columns whose texts are a pair."""

_LABELS = ("sentiment", "stars", "star", "rating", "score", "polarity", "intent", "topic", "emotion", "spam", "genre", "language", "lang")
_LONG = 12  # characters that the cells of a column of texts have, in the mean, at least
_LOOKED_AT = 1000  # rows


def is_text_list(table: Table, options: ListOptions) -> bool:
    """Whether a table lists texts: a column of them is named, or there is one and none of paths."""
    given = options.columns or {}
    if given.get("text") or given.get(TRANSLATION):
        return True
    if given.get("path") or any(_holds_paths(table, name) for name in table.columns):
        return False
    others = [given["label"]] if given.get("label") else [*options.labels]
    return bool(_text_columns(table, others)) or (not others and translation_columns(table, given) is not None)


def read_text_list(
    source: Path, options: ListOptions, *, known: Collection[str] = (), several: Sequence[str] = (), table: Table | None = None
) -> Annotations:  # fmt: skip
    """Read a list of texts; DataError where columns or labels are missing. Arguments as of `headstart.data.lists.read_list`.

    Each text is called by its row, which counts from 1 for the first after the names of the columns. Rows without a text are passed over,
    and noted; a row without a label is refused, or passed over with ``allow_missing``.
    """
    table = table or read_table(source)
    notes = list(table.notes)
    given = given_columns(table, options, several, source)
    if (pairs := translation_columns(table, given)) is not None and not several:
        return read_translations(table, pairs, given, source)
    text = _chosen_texts(table, given, source, notes)
    free = [name for name in table.columns if name not in text]
    labels = tuple(several) or (_label(table, given, free, source, text[0], notes),)
    texts = texts_of(table, text, source)
    columns = {name: label_column(table, name, options, source, known=known, notes=notes, alone=not several) for name in labels}
    split, group = (
        given[role] if role in given else recognise_column(role, [name for name in free if name not in labels])
        for role in ("split", "group")
    )
    parts = row_parts(table, split or None, source, notes, explicit=bool(given.get("split")))
    groups = row_groups(table, group or None, [one.name for one in texts], notes)
    keep = _labelled(columns, texts, labels, source, notes, options, several=bool(several))
    empty = [i for i in keep if not texts[i].strip()]
    if empty:
        names = enumeration([texts[i].name for i in empty[:5]], count=len(empty))
        notes.append(f"Passed over {plural(len(empty), 'row')} without a text in the column {text[0]!r}: {names}.")
        keep = [i for i in keep if texts[i].strip()]
    if not keep:
        raise DataError(f"no row of {source} has both a text and a label")
    return Annotations(
        inputs=tuple(texts[i] for i in keep),
        columns={name if several else LABEL: column.take(keep) for name, column in columns.items()},
        parts=[parts[i] for i in keep],
        groups=None if groups is None else [groups[i] for i in keep],
        grouped_by="" if groups is None else f"the column {group!r} of {source.name}",
        source=str(source),
        notes=notes,
        learned=labels if several else (LABEL,),
        modality=TEXT,
    )


def read_texts(source: Path, options: ListOptions) -> tuple[Text, ...]:
    """The texts of a list, whether it has labels or not, one for each row, empty ones included; DataError where no column holds texts."""
    table = read_table(source)
    given = given_columns(table, options, (), source)
    pairs = translation_columns(table, given)
    return tuple(texts_of(table, [pairs[0]] if pairs is not None else _chosen_texts(table, given, source, []), source))


def text_parts(source: Path, options: ListOptions) -> Iterator[list[Text]]:
    """The texts of a list of any length, some rows at a time, as of `read_texts`; the columns are recognised in the first rows."""
    columns: list[str] = []
    start = 0
    for table in table_parts(source):
        columns = columns or _chosen_texts(table, given_columns(table, options, (), source), source, [])
        yield [Text(text, f"row {start + number}") for number, text in enumerate(texts_of(table, columns, source), 1)]
        start += len(table)


def texts_of(table: Table, columns: Sequence[str], source: Path) -> list[Text]:
    """The texts in one column, or pairs of the texts in two, called by the row."""
    cells = [[_text(cell) for cell in table.columns[name]] for name in columns]
    rows = cells[0] if len(cells) == 1 else [joined_pair(*pair) if any(map(str.strip, pair)) else "" for pair in zip(*cells, strict=True)]
    return [Text(row, f"row {number}") for number, row in enumerate(rows, 1)]


def _text(cell: Any) -> str:
    return clean(cell if isinstance(cell, str) else label_text(cell))


def _chosen_texts(table: Table, given: dict[str, str], source: Path, notes: list[str]) -> list[str]:
    """One column of texts or two; what was recognised is noted."""
    names = list(table.columns)
    for role in ("text", "pair"):
        if given.get(role) and given[role] not in names:
            raise DataError(
                f"{source} has no column {given[role]!r} for the text. Columns found: {shortened(names)}.{nearest(given[role], names)}"
            )
    if given.get("text"):
        return [given["text"], *([given["pair"]] if given.get("pair") else [])]
    found = _text_columns(table, [given["label"]] if given.get("label") else [])
    if not found:
        raise DataError(
            f"{source} has no column of texts. Expected one called {', '.join(TEXTS[:6])} or the like; columns found: {shortened(names)}. "
            f"To name it: {setting('columns', {'text': names[0]})}"
        )
    if "pair" in given:
        found = [name for name in found if name != given["pair"]][:1] + [given["pair"]] * bool(given["pair"])
    what = " and ".join(map(repr, found))
    kind = "the texts, as pairs" if len(found) > 1 else "the text"
    if plain_name(found[0]) != "text":
        notes.append(f"Columns of {source.name}: {what} {'are' if len(found) > 1 else 'is'} taken as {kind}.")
    return found


def _text_columns(table: Table, others: Sequence[str]) -> list[str]:
    """The column of texts, or two that are a pair, by their names, else by what is in them; none where nothing looks like texts."""
    plain = {plain_name(name): name for name in table.columns if name not in others}
    pair = next(([plain[a], plain[b]] for a, b in PAIRS if a in plain and b in plain and plain[a] != plain[b]), None)
    if pair is not None and all(_holds_texts(table, name) for name in pair):
        return pair
    named = next((plain[name] for name in TEXTS if name in plain and _holds_texts(table, plain[name])), None)
    if named is not None:
        return [named]
    lengths = {
        name: sum(map(len, cells)) / len(cells)
        for name in plain.values()
        if (cells := [*_strings(table, name)]) and _holds_texts(table, name)
    }
    longest = max(lengths, key=lambda name: lengths[name], default=None)
    return [longest] if longest is not None and lengths[longest] >= _LONG and len({*_strings(table, longest)}) > 1 else []


def _strings(table: Table, name: str) -> Iterator[str]:
    """The first cells of a column that are strings and not empty."""
    return (cell for cell in table.columns[name][:_LOOKED_AT] if isinstance(cell, str) and cell.strip())


def _holds_texts(table: Table, name: str) -> bool:
    """Whether what is in a column may be texts: strings, mostly, which are no paths of images, no addresses and no numbers."""
    cells = [cell for cell in table.columns[name][:_LOOKED_AT] if cell is not None and cell != ""]
    strings = [*_strings(table, name)]
    if not strings or len(strings) < len(cells) / 2:
        return False
    return not any(is_image_name(cell) for cell in strings[:100]) and any(not cell.strip().replace(".", "").isdigit() for cell in strings)


def _holds_paths(table: Table, name: str) -> bool:
    """Whether what is in a column looks like paths of images."""
    cells = [*_strings(table, name)]
    return bool(cells) and sum(is_image_name(cell.strip()) for cell in cells) > len(cells) / 2


def _label(table: Table, given: dict[str, str], free: list[str], source: Path, text: str, notes: list[str]) -> str:
    """The column of labels: as given, by its name, or the only other one."""
    if given.get("label"):
        if given["label"] not in table.columns:
            raise DataError(
                f"{source} has no column {given['label']!r} for the label. Columns found: {shortened(list(table.columns))}."
                f"{nearest(given['label'], table.columns)}"
            )
        return given["label"]
    roles = {recognise_column(role, free) for role in ("split", "group")} - {None}
    by_name = recognise_column("label", free) or next((name for name in free if plain_name(name) in _LABELS), None)
    rest = [name for name in free if name not in roles]
    found = by_name or (rest[0] if len(rest) == 1 else None)
    if found is None:
        ways = [name for name in rest if 1 < len({str(cell) for cell in table.columns[name]}) < max(3, len(table) / 2)] or rest
        how = " or ".join(setting("columns", {"label": name}) for name in ways[:3]) or "Add one"
        raise DataError(
            f"{source} has no column for the label beside the texts in {text!r}. Expected one called label, class, category or the like; "
            f"columns found: {shortened(list(table.columns))}. {'To name it: ' if ways else ''}{how}"
        )
    if plain_name(found) not in ("label", "labels"):
        notes.append(f"Columns of {source.name}: {found!r} is taken as the label.")
    return found


def _labelled(
    columns: dict[str, Any], texts: Sequence[Text], names: Sequence[str], source: Path, notes: list[str], options: ListOptions, *,
    several: bool,
) -> list[int]:  # fmt: skip
    """The rows that have a label."""
    called = [one.name for one in texts]
    if several:
        values = list(zip(*(column.values for column in columns.values()), strict=True))
        return rows_with_any(values, called, names, source, notes, allow_missing=options.allow_missing, noun=TEXT.noun)
    values = columns[names[0]].values
    return labelled_rows(values, called, names[0], source, notes, allow_missing=options.allow_missing, noun=TEXT.noun)
