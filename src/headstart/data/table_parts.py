"""Tables of any length as parts of some rows each, in bounded memory: CSV, JSON lines and Parquet, as `read_table` reads them whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from headstart.data.tables import READERS, Table, csv_form, encoding_of, numbered_rows, parquet_parts, read_table
from headstart.errors import DataError

ROWS = 1000  # in a part; what is recognised of columns is recognised by the first
_BEGINNING = 1 << 24  # characters in which a first part must end
_READ = 1 << 20  # bytes


def table_parts(path: Path) -> Iterator[Table]:
    """Read a table as parts of 1000 rows with the same columns; DataError as of `read_table`, which joins them.

    What cannot be read in parts, such as JSON that is one array, is one part.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            parts: Iterator[Table] = map(Table, parquet_parts(path, rows=ROWS))
        elif suffix in READERS:
            parts = (_csv_parts if suffix in (".csv", ".tsv", ".txt") else _json_parts)(path)
        else:
            parts = iter([])
        first = next(parts, None)
        if first is None or not len(first):
            first = read_table(path)  # refuses it
        yield from chain([first], parts)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _csv_parts(path: Path) -> Iterator[Table]:
    notes: list[str] = []
    encoding = _encoding(path, notes)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        form, _ = csv_form(_beginning(file), path, notes)
        if not form.header:
            return
        file.seek(0)
        file.read(form.begins)
        rows = numbered_rows(_checked(file, path), **form.options)
        try:
            if form.named:
                next(rows)
            while some := list(islice(rows, ROWS)):
                cells = form.checked(some, path)
                yield Table({name: [row[i] for row in cells] for i, name in enumerate(form.header)}, notes)
                notes = []
        except csv.Error as error:
            raise DataError(f"{path} is not a CSV file that can be read: {error}") from None


def _encoding(path: Path, notes: list[str]) -> str:
    """The encoding in which the file can be read, as `read_table` finds it."""
    import codecs

    with path.open("rb") as file:
        start = file.read(4096)
        file.seek(0)
        encoding = encoding_of(start)
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            while data := file.read(_READ):
                decoder.decode(data)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            if b"\0" in start or encoding == "utf-16":
                raise DataError(f"{path} is not a text file (it is not {encoding}); save it as CSV in UTF-8") from None
            notes.append(f"{path.name} is not UTF-8 and was read as Windows-1252; save it as CSV in UTF-8 if names look wrong.")
            return "cp1252"
    return encoding


def _beginning(file: TextIO) -> str:
    """The lines of about one part, as far as the quotes in them are even in number: no cell is cut."""
    found = io.StringIO()
    quotes = 0
    for lines, line in enumerate(file, 1):
        found.write(line)
        quotes += line.count('"')
        if (lines > ROWS and quotes % 2 == 0) or found.tell() > _BEGINNING:
            break
    return found.getvalue()


def _checked(file: TextIO, path: Path) -> Iterator[str]:
    for line in file:
        if "\0" in line:
            raise DataError(f"{path} is not a text file (it holds zero bytes); save it as CSV in UTF-8")
        yield line


def _json_parts(path: Path) -> Iterator[Table]:
    """An object a line; all else is read whole."""
    notes: list[str] = []
    encoding = _encoding(path, notes)
    with path.open(encoding=encoding, errors="replace") as file:
        start = file.read(_READ).lstrip()
        if start.startswith("[") or start.partition("\n")[0].strip() in ("{", "{}"):
            yield read_table(path)
            return
        file.seek(0)
        rows = _objects(file, path)
        names: list[str] = []
        while some := list(islice(rows, ROWS)):
            names = names or list(dict.fromkeys(name for row in some for name in row))
            yield Table({name: [row.get(name) for row in some] for name in names}, notes)
            notes = []


def _objects(file: TextIO, path: Path) -> Iterator[dict[str, Any]]:
    """The object in each line; DataError, with the line, where there is none."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}, is not JSON: {error}. Expected one object per line") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}, is not an object; expected one object per line")
        yield row
