"""Lists as data sets: a table with a path and a label in each row, and perhaps a part and a group."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from headstart.data.annotations import LABEL, Annotations, Column, Labels, part_of
from headstart.data.cells import SEVERAL, label_text, read_cells, whole_number, whole_numbers
from headstart.data.labels import shortened
from headstart.data.tables import Table, read_table
from headstart.errors import DataError, ParameterError, nearest, setting
from headstart.modalities import IMAGE
from headstart.modalities.image import IMAGE_SUFFIXES, is_image_name
from headstart.progress import Listener, Warned
from headstart.settings import ListOptions
from headstart.text import enumeration, plural, unprintable

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "path": (
        "path", "filepath", "file", "filename", "image", "imagepath", "imagefile", "imagefilename", "imagename", "img", "imgpath",
        "imgname", "imgfile", "picture", "photo", "relpath", "fname", "imageid", "id", "name",
    ),
    "label": (
        "label", "labels", "class", "classes", "classname", "target", "targets", "category", "categories", "labelname", "classlabel",
        "tag", "tags", "species", "breed", "diagnosis", "y",
    ),
    "split": ("split", "part", "subset", "fold", "partition", "set", "phase", "dataset", "usage"),
    "group": (
        "group", "groups", "groupid", "patient", "patientid", "subject", "subjectid", "source", "person", "case", "caseid", "scene",
        "individual",
    ),
}  # fmt: skip
"""Column names that are recognised, letters and digits only, the likeliest first."""
_TRUTH = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True, "x": True}
_SEARCHED = 20_000  # files below the folder of a list that are looked at for one that is listed otherwise
_INDICATORS = "columns of 0 and 1"  # the name of the column made of them
RESERVED = ("path", "split", "group")
"""Columns of the list that a run keeps of its images."""


def read_list(
    source: Path, options: ListOptions, *, known: Collection[str] = (), several: Sequence[str] = (), table: Table | None = None
) -> Annotations:  # fmt: skip
    """Read a list of images; DataError where columns, files or labels are missing, or a file is listed with two labels or parts.

    Labels that are `known` classes are taken as they are. Columns of labels in which an image may have none are `several`, even one.
    The `table` in the file may have been read before.
    """
    table = table or read_table(source)
    notes = list(table.notes)
    chosen = _choose_columns(table, given_columns(table, options, several, source), source, notes, others=several[1:])
    root = source.parent if options.image_root is None else Path(options.image_root).expanduser()
    texts = path_texts(table.columns[chosen["path"]], chosen["path"], source)
    names = tuple(several) or (chosen["label"],)
    columns = {name: label_column(table, name, options, source, known=known, notes=notes, alone=not several) for name in names}
    parts = row_parts(table, chosen.get("split"), source, notes, explicit="split" in (options.columns or {}))
    groups = row_groups(table, chosen.get("group"), texts, notes)
    if without := _without_path(texts, source):
        if not options.allow_missing:
            count = plural(sum(not text.strip() for text in texts), "row")
            column = chosen["path"]
            raise DataError(
                f"{count} of {source} without a path in the column {column!r}; fill it in, or remove them. "
                f"{setting('allow_missing', True)} passes over them."
            )
        notes += without
    labels = list(zip(*(column.values for column in columns.values()), strict=True))
    if not several:
        labels = columns[names[0]].values
        keep = labelled_rows(labels, texts, names[0], source, notes, allow_missing=options.allow_missing)
    else:
        keep = rows_with_any(labels, texts, names, source, notes, allow_missing=options.allow_missing)
    resolved = existing_files(texts, [i for i in keep if texts[i].strip()], root, source, notes, allow_missing=options.allow_missing)
    rows = _distinct(resolved, {"labels": labels, "parts": parts, "groups": groups or []}, source, notes)
    if not rows:
        raise DataError(f"no row of {source} has both a file and a label")
    return Annotations(
        inputs=tuple(Path(resolved[i]) for i in rows),
        columns={name if several else LABEL: column.take(rows) for name, column in columns.items()},
        parts=[parts[i] for i in rows],
        groups=None if groups is None else [groups[i] for i in rows],
        grouped_by="" if groups is None else f"the column {chosen['group']!r} of {source.name}",
        source=str(source),
        root=root,
        notes=notes,
        learned=names if several else (LABEL,),
    )


def given_columns(table: Table, options: ListOptions, several: Sequence[str], source: Path) -> dict[str, str]:
    """The columns that the options name, with the first of those to learn as the label; DataError where one of these is not there."""
    names = list(table.columns)
    learned = several or options.labels
    for name in learned:
        if name not in names:
            raise DataError(f"{source} has no column {name!r} to learn. Columns found: {shortened(names)}.{nearest(name, names)}")
        if several and name in RESERVED:
            raise DataError(
                f"Of several columns to learn none can be called {name!r}, which means something else in the list that a run keeps of its "
                "images. Rename the column."
            )
    return {**(options.columns or {}), **({"label": learned[0]} if learned else {})}


def label_column(
    table: Table, name: str, options: ListOptions, source: Path, *, known: Collection[str], notes: list[str], alone: bool
) -> Column:  # fmt: skip
    """A column of labels; where it is not `alone`, a cell that is empty is a missing label, None, and notes name the column."""
    cells, origin, told = list(table.columns[name]), f"the column {name!r} of {source.name}", list[str]()
    there = [not isinstance(cell, SEVERAL) and not label_text(cell) for cell in cells]
    given = [cell for cell, missing in zip(cells, there, strict=True) if not missing]
    try:
        if alone:
            return Column(cast("list[Any]", read_cells(cells, separator=options.label_separator, known=known, notes=notes)), cells, origin)
        read = iter(read_cells(given, separator=options.label_separator, known=known, notes=told))
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
    notes += [type(note)(f"Column {name!r}: {note}") for note in told]
    return Column([None if missing else next(read) for missing in there], cells, origin)


def rows_with_any(
    labels: Sequence[tuple[Any, ...]], texts: Sequence[str], names: Sequence[str], source: Path, notes: list[str], *, allow_missing: bool,
    noun: str = IMAGE.noun,
) -> list[int]:  # fmt: skip
    """The rows that have a label in any of several columns, and a note of how many lack one in each."""
    empty = [i for i, row in enumerate(labels) if all(label is None for label in row)]
    if empty and not allow_missing and len(names) > 1:
        raise DataError(
            f"{plural(len(empty), 'row')} of {source} without a label in any of the columns {', '.join(map(repr, names))}, for example "
            f"{shortened([texts[i] for i in empty[:3]])}. Fill one in or remove the rows. "
            f"{setting('allow_missing', True)} passes over them."
        )
    if empty:
        notes.append(f"Passed over {plural(len(empty), 'row')} without a label: {_first([texts[i] for i in empty])}.")
    for place, name in enumerate(names):
        lacking = sum(row[place] is None for row in labels) - len(empty)
        if lacking == len(labels) - len(empty):
            raise DataError(f"the column {name!r} of {source} is empty: there is nothing to learn in it. Fill it in, or leave it out.")
        if lacking:
            notes.append(f"{plural(lacking, noun)} without a label in the column {name!r}: used for the other columns.")
    return [i for i, row in enumerate(labels) if any(label is not None for label in row)]


def recognise_column(role: str, names: Iterable[str]) -> str | None:
    """Return the column for the path, label, split or group that is recognised by its name, the likeliest first."""
    by_plain = {plain_name(name): name for name in names}
    return next((by_plain[synonym] for synonym in SYNONYMS[role] if synonym in by_plain), None)


def plain_name(name: str) -> str:
    """The letters and digits of a name, without case."""
    return re.sub(r"[\W_]+", "", name.casefold())


def read_paths(source: Path, options: ListOptions, listener: Listener | None = None) -> list[Path]:
    """Return the paths in a list of images, whether it has labels or not; one that leads nowhere is returned as the list has it.

    `listener` is told which column was chosen, and of rows without a path.
    """
    table, notes, root = read_table(source), list[str](), Path(options.image_root or source.parent).expanduser()
    column = _choose_columns(table, options.columns or {}, source, notes, needed=("path",))["path"]
    texts = path_texts(table.columns[column], column, source)
    (listener or Listener()).tell_notes([*table.notes, *notes, *_without_path(texts, source)])
    return [Path(_existing(str(root), text) or root / text) for text in texts if text.strip()]


def _without_path(texts: Sequence[str], source: Path) -> list[str]:
    empty = [str(number) for number, text in enumerate(texts, 1) if not text.strip()]
    return [Warned(f"Passed over {plural(len(empty), 'row')} of {source} without a path: {_first(empty)}.")] if empty else []


def _first(names: Sequence[str]) -> str:
    return enumeration([*names[:5]], count=len(names))


def _choose_columns(
    table: Table, columns: Mapping[str, str], source: Path, notes: list[str], *, needed: Sequence[str] = ("path", "label"),
    others: Sequence[str] = (),
) -> dict[str, str]:  # fmt: skip
    """Return the column for each role, none of them one of the `others`; what is needed is always there."""
    names = list(table.columns)
    for role, given in columns.items():
        if given and given not in names:
            raise DataError(f"{source} has no column {given!r} for the {role}. Columns found: {shortened(names)}.{nearest(given, names)}")
    chosen = {role: given for role, given in columns.items() if given}
    if len(set(chosen.values())) < len(chosen):
        raise ParameterError(f"one column of {source} is given for two purposes: {chosen}")
    for role in SYNONYMS:
        match = recognise_column(role, (name for name in names if name not in chosen.values() and name not in others))
        if role not in columns and match is not None:
            chosen[role] = match
    if ("path" in chosen) != ("label" in chosen) and len(names) == 2:
        present, missing = ("path", "label") if "path" in chosen else ("label", "path")
        chosen[missing] = next(name for name in names if name != chosen[present])
    if "label" not in chosen and "label" not in columns:
        _read_indicators(table, [name for name in names if name not in chosen.values()], source, notes)
        chosen |= {"label": _INDICATORS} if _INDICATORS in table.columns else {}
    if needed == ("path",) and len(names) == 1:
        chosen["path"] = names[0]
    for role in needed:
        if role not in chosen:
            examples, free = ", ".join(SYNONYMS[role][:6]), [name for name in names if name not in chosen.values()]
            guess = nearest(role, names) or nearest(SYNONYMS[role][1], names)
            likely = _likely(table, free, role)
            ways = " or ".join(setting("columns", {role: name}) for name in likely[:3]) or "Add one"
            raise DataError(
                f"{source} has no column for the {role}. Expected one called {examples} or the like; columns found: {shortened(names)}."
                f"{guess} {'To name it: ' if likely else ''}{ways}{_of_indicators(table, free) if role == 'label' else ''}"
            )
    told = {role: name for role, name in chosen.items() if role not in columns and name in names}
    notes += _guessed({role: name for role, name in told.items() if any(map(label_text, table.columns[name]))}, source)
    return chosen


def _likely(table: Table, names: Sequence[str], role: str) -> list[str]:
    """The columns that may serve a purpose, the likeliest first: paths look like files, and labels are fewer than images."""
    if role == "path":
        return [name for name in names if any(isinstance(cell, str) and "." in cell for cell in table.columns[name])]
    values = {name: len({str(cell) for cell in table.columns[name]}) for name in names}
    return sorted(names, key=lambda name: not 1 < values[name] < max(len(table), 3))


def _of_indicators(table: Table, names: Sequence[str]) -> str:
    """What to do where some columns hold 0 and 1, one for each class, and others do not."""
    classes = [name for name in names if len({*(_truths(table.columns[name]) or ())}) == 2]
    if len(classes) < 2:
        return ""
    others = [name for name in names if name not in classes]
    return f". If {shortened(classes, limit=3)} are classes, with 0 and 1 for each image, remove the columns {shortened(others, limit=3)}."


def _guessed(chosen: Mapping[str, str], source: Path) -> list[str]:
    """Say which columns were recognised by names that may mean something else."""
    plain = {"path": SYNONYMS["path"], "label": ("label", "labels"), "split": SYNONYMS["split"], "group": ("group", "groups")}
    told = [f"{name!r} is taken as the {role}" for role, name in chosen.items() if plain_name(name) not in plain[role]]
    leave_out = f" {setting('columns', {'group': ''})} leaves the group out." if told and told[-1].endswith("group") else ""
    return [f"Columns of {source.name}: {enumeration(told)}.{leave_out}"] if told else []


def _read_indicators(table: Table, names: list[str], source: Path, notes: list[str]) -> None:
    """Add a column of labels to a table that has a column of 0 and 1 for each class instead."""
    truths = {name: _truths(table.columns[name]) for name in names}
    read = {name: column for name, column in truths.items() if column is not None}
    classes = [name for name, column in read.items() if any(column)]
    if len(classes) > 1 and len(read) == len(truths):
        rows = zip(*(read[name] for name in classes), strict=True)
        table.columns[_INDICATORS] = [tuple(itertools.compress(classes, row)) for row in rows]
        notes.append(f"The columns {shortened(classes, limit=6)} of {source.name} hold 0 and 1: each is read as a label.")


def _truths(cells: Sequence[Any]) -> list[bool] | None:
    """What a column of 0 and 1, or of words for them, says; None for other columns."""
    texts = [whole_number(label_text(cell)).casefold() for cell in cells]
    told = {*texts} <= _TRUTH.keys() and ("x" not in texts or "" in texts)
    return [_TRUTH[text] for text in texts] if told else None


def path_texts(cells: Sequence[Any], column: str, source: Path) -> list[str]:
    """The cells of a column of paths; DataError for images themselves, lists and addresses."""
    if any(isinstance(cell, dict | bytes) for cell in cells):
        raise DataError(
            f"the column {column!r} of {source} holds images themselves, not paths. "
            "Save them as files and list their paths, or read the data set with hf:NAME"
        )
    if any(isinstance(cell, SEVERAL) for cell in cells):
        raise DataError(f"the column {column!r} of {source} holds lists, not paths; write one row for each image")
    texts = [cell if isinstance(cell, str) else label_text(cell) for cell in cells]
    address = next((text for text in texts if re.match(r"(https?|s3|gs|ftp)://", text)), None)
    if address is not None:
        raise DataError(
            f"{source} lists an address, {address!r}; images are read from files only: download them first and list their paths"
        )
    return texts


def row_parts(table: Table, column: str | None, source: Path, notes: list[str], *, explicit: bool) -> list[str]:
    """The part of each row, empty where there is none; DataError for a column that names others, if it was given or names some parts."""
    if column is None:
        return [""] * len(table)
    texts = [label_text(cell) for cell in table.columns[column]]
    known = {text: part_of(text) if text else "" for text in set(texts)}
    wrong = sorted(text for text, part in known.items() if part is None)
    if wrong and (explicit or any(known.values())):
        raise DataError(
            f"the column {column!r} of {source} must hold train, val or test; found {shortened(wrong)}."
            f"{nearest(wrong[0], ('train', 'val', 'test'))} {setting('columns', {'split': ''})} leaves the column out."
        )
    if wrong:
        notes.append(f"The column {column!r} does not hold train, val or test but {shortened(wrong, limit=4)}: it is not used.")
        return [""] * len(table)
    parts = [known[text] or "" for text in texts]
    if "" in parts and any(parts):
        notes.append(f"{parts.count('')} rows have no part in the column {column!r}: they are used for training.")
        parts = [part or "train" for part in parts]
    return parts


def row_groups(table: Table, column: str | None, texts: Sequence[str], notes: list[str]) -> list[str] | None:
    """The group of each row, by itself where the cell is empty; None where there are none."""
    if column is None:
        return None
    groups = whole_numbers([label_text(cell) for cell in table.columns[column]])
    if not any(groups):
        return None
    empty = groups.count("")
    if empty:
        notes.append(f"{empty} rows have no group in the column {column!r}: each is a group of its own.")
    return [group or f"{text} (alone)" for group, text in zip(groups, texts, strict=True)]


def labelled_rows(
    labels: Labels, texts: Sequence[str], column: str, source: Path, notes: list[str], *, allow_missing: bool, noun: str = IMAGE.noun
) -> list[int]:
    """The rows that have a label; DataError where one has none, unless they may be missing."""
    empty = [i for i, label in enumerate(labels) if not label]
    if empty and isinstance(labels[0], tuple):
        notes.append(f"{len(empty)} {noun}s have no label: they count as examples of none of the classes.")
        return list(range(len(labels)))
    if empty and not allow_missing:
        raise DataError(
            f"{len(empty)} rows of {source} have no label in the column {column!r}, for example "
            f"{shortened([texts[i] for i in empty[:3]])}. Fill them in or remove the rows; "
            f"{setting('allow_missing', True)} passes over them."
        )
    if empty:
        notes.append(f"Passed over {plural(len(empty), 'row')} without a label: {_first([texts[i] for i in empty])}.")
    return [i for i, label in enumerate(labels) if label]


def existing_files(
    texts: Sequence[str], rows: Sequence[int], root: Path, source: Path, notes: list[str], *, allow_missing: bool
) -> dict[int, str]:
    """Return the path of each row whose file exists."""
    resolved: dict[int, str] = {}
    missing: list[str] = []
    folder = os.fspath(root)
    for i in rows:
        path = _existing(folder, texts[i])
        if path is None:
            missing.append(texts[i])
        else:
            resolved[i] = path
    if missing and (found := _moved(folder, missing, notes)):
        resolved |= {i: found[texts[i]] for i in rows if texts[i] in found}
        missing = [text for text in missing if text not in found]
    if missing and (not allow_missing or not resolved):
        raise DataError(
            f"{len(missing)} of {plural(len(rows), 'file')} listed in {source} do not exist, for example {shortened(missing[:3])}. "
            f"Paths are relative to {root.absolute()}.{_elsewhere(missing, root)}"
            + (f" {setting('allow_missing', True)} passes over them." if resolved else "")
        )
    if missing:
        notes.append(f"Passed over {plural(len(missing), 'row')} whose file does not exist: {_first(missing)}.")
    return resolved


# What programs make of a path, the path itself first; each is tried in turn, as they rarely write what is to be read again.
_SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.strip,
    unprintable,
    lambda text: unquote(re.sub(r"^file:(//(localhost)?(?=/))?(/(?=[A-Za-z]:))?", "", text)),
    lambda text: re.sub(r"^/data/local-files/\?d=", "", unquote(text)),  # Label Studio
    lambda text: os.path.expanduser(text) if text[:1] == "~" else text,  # noqa: PTH111 - some users have no home folder
    lambda text: text.replace("\\", "/"),
)


def _existing(folder: str, text: str) -> str | None:
    """Return the path of a regular file: as `_SPELLINGS` have it, or with the suffix that a list of ids leaves out."""
    for spelling in _SPELLINGS:
        candidate = os.path.join(folder, spelling(text))  # noqa: PTH118 - called for every row
        suffixes = [""] if is_image_name(candidate) else ["", *sorted(IMAGE_SUFFIXES)]
        for suffix in suffixes:
            if os.path.isfile(candidate + suffix):  # noqa: PTH113 - called for every row
                return os.path.normpath(candidate + suffix)
    return None


def _moved(folder: str, missing: Sequence[str], notes: list[str]) -> dict[str, str]:
    """Return the paths of files that are listed with the whole path of another place, and lie in the same way below the folder."""
    texts = {text: functools.reduce(lambda path, spelling: spelling(path), _SPELLINGS, text) for text in missing}
    first = texts[missing[0]]
    if not re.match(r"/|[A-Za-z]:", first):
        return {}
    ends = (first[found.end() :] for found in re.finditer("/", first))
    end = next((end for end in ends if _existing(folder, end)), None)
    if end is None:
        return {}
    before = first.removesuffix(end)
    found = {text: path for text, whole in texts.items() if whole.startswith(before) and (path := _existing(folder, whole[len(before) :]))}
    notes.append(f"{before!r} is not there: {len(found)} of the files are read from {folder or '.'}, for example {end!r}.")
    return found


def _elsewhere(missing: Sequence[str], root: Path) -> str:
    """Say where the files lie, if they are near the list, and what to type or to write."""
    name = missing[0].replace("\\", "/")
    if (root / name).is_dir():
        return f" {name!r} is a folder; a list names files, one in each row."
    folders = [folder for folder in sorted(root.glob("*/"))[:200] if folder.is_dir()] if root.is_dir() else []
    for folder in [*folders, root.parent]:
        if all(_existing(str(folder), text.replace("\\", "/")) for text in missing[:200]):
            found = setting("image_root", str(folder.absolute()))
            return f" {name!r} is in {folder.absolute()}; {found} reads the paths from there."
    stem = Path(name).stem
    below = itertools.islice(root.rglob("*"), _SEARCHED) if root.is_dir() else ()
    there = next((path for path in below if path.stem == stem and is_image_name(path.name)), None)
    if there is None:
        return ""
    return f" There is {there.relative_to(root).as_posix()!r}: write that in place of {name!r}, and likewise the others."


_ONE_ROW_EACH = {
    "labels": "Give each file one row; several labels go into one cell, as in cat;dog.",
    "parts": "A file in two parts makes the test score worthless; keep one of the rows.",
    "groups": "Keep one of the rows.",
}


def _distinct(resolved: Mapping[int, str], said: Mapping[str, Sequence[Any]], source: Path, notes: list[str]) -> list[int]:
    """Return one row for each file; refuse files listed with two labels, parts or groups."""
    by_path: dict[str, list[int]] = defaultdict(list)
    for i, path in resolved.items():
        by_path[path].append(i)
    repeated = {path: rows for path, rows in by_path.items() if len(rows) > 1}
    for what, values in said.items():
        differing = [(path, rows) for path, rows in repeated.items() if values and len({values[i] for i in rows}) > 1]
        if differing:
            examples = "; ".join(f"{path} ({', '.join(str(values[i]) for i in rows[:3])})" for path, rows in differing[:3])
            raise DataError(f"{len(differing)} files of {source} are listed with different {what}: {examples}. {_ONE_ROW_EACH[what]}")
    if repeated:
        extra = sum(len(rows) - 1 for rows in repeated.values())
        notes.append(f"Passed over {plural(extra, 'row')} that list{'s' * (extra == 1)} a file again: {_first([*repeated])}.")
    return [rows[0] for rows in by_path.values()]
