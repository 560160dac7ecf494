"""Tables: CSV, TSV, JSON lines and Parquet as columns of plain Python values."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.errors import DataError
from headstart.modalities.image import is_image_name

_DELIMITERS = (",", ";", "\t", "|")
_SNIFFED_LINES = 50
_REPLACED, _BEYOND_ASCII = "\N{REPLACEMENT CHARACTER}", re.compile(r"[^\x00-\x7f]+")
_MOSTLY = 10  # times as many characters beyond ASCII that are UTF-8 as places that are not: it is UTF-8 that was damaged
_LONGEST = 1 << 30  # characters in a cell
_END, _LINE_ENDS = "\x1e\x1dend", "\r\n"  # a last row, which is lost in the cell before it where that has no end
_ANNOTATIONS = (  # the keys of an object, and what writes it
    ({"images", "annotations"}, "annotations in COCO's format without a shape or a box of a thing"),
    ({"data", "annotations"}, "Label Studio's JSON without a region of an image (export from there as CSV)"),
    ({"shapes", "imagePath"}, "the annotations of LabelMe for one image (give the folder of all of them)"),
    ({"image", "annotations"}, "annotations of CreateML"),
    ({"source-ref"}, "a manifest of SageMaker, with addresses"),
)
_EXPORT = "A list has one row for each image, with the columns path and label."


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length, and what had to be guessed in reading them."""

    columns: dict[str, list[Any]]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


def read_table(path: Path) -> Table:
    """Read a table by its suffix; DataError where that is not known, or the file cannot be read or is damaged."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is not a list that can be read; lists end in {', '.join(READERS)}")
    try:
        table = reader(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    if not len(table):
        raise DataError(f"the list {path} has no rows; it needs one row for each image, with the columns path and label")
    return table


def _text(path: Path, notes: list[str]) -> str:
    data = path.read_bytes()
    encoding = encoding_of(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" in data[:4096] or encoding == "utf-16":
            raise DataError(f"{path} is not a text file (byte {error.start} is not {encoding}); save it as CSV in UTF-8") from None
        text = data.decode(encoding, "replace")
        wrong = text.count(_REPLACED) - data.count(_REPLACED.encode())
        if wrong * _MOSTLY <= sum(map(len, _BEYOND_ASCII.findall(text))) - wrong:
            line = data.count(b"\n", 0, error.start) + 1
            notes.append(
                f"{path.name} is UTF-8 but for {wrong} damaged {'place' if wrong == 1 else 'places'}, the first in line {line}; "
                "the mark U+FFFD stands there."
            )
            return text
        notes.append(f"{path.name} is not UTF-8 and was read as Windows-1252; save it as CSV in UTF-8 if names look wrong.")
        return data.decode("cp1252", "replace")


def encoding_of(data: bytes) -> str:
    """UTF-16 where data begin with its mark, else UTF-8, whose mark is passed over."""
    return "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"


@dataclass(frozen=True)
class CsvForm:
    """How a CSV file is written: where its rows begin, what stands between cells, the names of columns, and whether a row holds these."""

    begins: int
    options: dict[str, Any]
    header: list[str]
    named: bool

    def checked(self, numbered: Iterable[tuple[int, list[str]]], path: Path) -> list[list[str]]:
        """Rows of as many cells as there are columns, one empty one at the end passed over; DataError, with the line, where one has not."""
        rows, wrong, size = list[list[str]](), list[tuple[int, int]](), len(self.header)
        for line, row in numbered:
            rows.append(row[:-1] if len(row) == size + 1 and not row[-1].strip() else row)
            if len(rows[-1]) != size:
                wrong.append((line, len(row)))
        if not wrong:
            return rows
        if size == 1 and len({len(row) for row in rows}) == 1:
            raise DataError(f"{path}: the first line, {self.header[0][:40]!r}, is not one of column names, as the next is; remove it")
        raise DataError(
            f"{path}: {len(wrong)} rows do not have {size} cells as the first line has; line {wrong[0][0]} has {wrong[0][1]}. "
            f"A cell that contains the delimiter {self.options['delimiter']!r} must be in double quotes."
        )


def _read_csv(path: Path) -> Table:
    notes: list[str] = []
    form, numbered = csv_form(_text(path, notes), path, notes)
    rows = form.checked(numbered, path)
    return Table({name: [row[i] for row in rows] for i, name in enumerate(form.header)}, notes)


def csv_form(text: str, path: Path, notes: list[str]) -> tuple[CsvForm, list[tuple[int, list[str]]]]:
    """How a CSV file is written, by its text or the rows that it begins with, and these with the numbers of their lines.

    What had to be guessed is added to `notes`. Raises DataError where it is not a CSV file.
    """
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path} is not a text file (it holds zero bytes, the first in line {line}); save it as CSV in UTF-8")
    said = re.match(r"\"?sep=(.)\"?\r?\n", text, re.IGNORECASE)  # Excel's own line
    begins = said.end() if said else 0
    text = text[begins:]
    options: dict[str, Any] = {"delimiter": said[1] if said else "\t" if path.suffix.lower() == ".tsv" else _sniff(text)}
    try:
        numbered = _csv_rows(text, path, **options)
        if _are_quoted_after_spaces(numbered):
            options["skipinitialspace"] = True
            numbered = _csv_rows(text, path, **options)
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file that can be read: {error}") from None
    if not numbered:
        return CsvForm(begins, options, [], False), []
    header = [cell.strip() for cell in numbered[0][1]]
    named = not any(is_image_name(cell) for cell in header)
    if named:
        numbered = numbered[1:]
    else:
        header = _names_for(numbered[0][1], path)
        notes.append(f"{path.name} has no line of column names; its columns are taken as {', '.join(header)}.")
    header = [name or f"column {i + 1}" for i, name in enumerate(header)]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path} has two columns called {twice!r}; rename one of them")
    return CsvForm(begins, options, header, named), numbered


def _csv_rows(text: str, path: Path, **options: Any) -> list[tuple[int, list[str]]]:
    """The rows with anything in them, and the line that each ends in; DataError where a quotation mark is left open."""
    lines = io.StringIO(f"{text.rstrip(_LINE_ENDS)}\n{_END}\n", newline="")
    with _LONG_FIELDS:
        reader = csv.reader(lines, **options)
        numbered = [(reader.line_num, row) for row in reader]
    if numbered[-1][1] != [_END]:
        line = numbered[-2][0] + 1 if len(numbered) > 1 else 1
        raise DataError(
            f"{path}: a cell in the row that begins in line {line} opens with a double quote that is never closed; close it, or write it "
            'twice ("") where it belongs to the text'
        )
    return [(line, row) for line, row in numbered[:-1] if any(cell.strip() for cell in row)]


def numbered_rows(lines: Iterable[str], **options: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows that have something in them, with the numbers of the lines in which they end; csv.Error where there is none."""
    with _LONG_FIELDS:
        reader = csv.reader(lines, **options)
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row


class _LongFields:
    """While it is entered, the csv module reads cells of any length; the limit is one of the process, and given back."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._before = csv.field_size_limit(_LONGEST)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                csv.field_size_limit(self._before)


_LONG_FIELDS = _LongFields()


def _are_quoted_after_spaces(numbered: list[tuple[int, list[str]]]) -> bool:
    """Whether a column has a space before the quotes in every row, as in ``path, "label"``; the quotes are then no part of its cells."""
    rows = [row for _, row in numbered[1:]]
    return bool(rows) and any(all(len(row) > i and re.match(r'\s+"', row[i]) for row in rows) for i in range(len(rows[0])))


def _sniff(text: str) -> str:
    """Return the delimiter that cuts the first lines into the most columns, the same number in each."""
    lines = text.split("\n", _SNIFFED_LINES)[:_SNIFFED_LINES]
    best, most = ",", 1
    for delimiter in _DELIMITERS:
        try:
            with _LONG_FIELDS:
                rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        widths = {len(row) for row in rows}
        if len(widths) == 1 and (width := widths.pop()) > most:
            best, most = delimiter, width
    if most == 1 and lines and all(len(line.split(" ")) == 2 for line in lines if line.strip()):
        return " "  # image and label with one space between, as older lists have it
    if most == 1 and lines:  # rows of different length: leave it to the line of column names, and let the reader complain
        best = max(_DELIMITERS, key=lambda delimiter: lines[0].count(delimiter))
    return best


def _names_for(row: list[str], path: Path) -> list[str]:
    """Name the columns of a list without a line of names: the one with an image in it, and the other."""
    if len(row) == 1:
        return ["path"]
    if len(row) == 6 and is_image_name(row[0].strip()):  # of a box, as Keras has it
        return ["path", "xmin", "ymin", "xmax", "ymax", "class"]
    if len(row) != 2:
        raise DataError(
            f"{path} has {len(row)} columns and no line of column names; "
            "write a first line that names them, for example path,label,split,group"
        )
    return ["path", "label"] if is_image_name(row[0].strip()) else ["label", "path"]


def _read_json_lines(path: Path) -> Table:
    notes: list[str] = []
    rows = _json_rows(_text(path, notes), path)
    if len(rows) == 1 and isinstance(rows[0], dict) and (columns := _json_columns(rows[0], path)):
        return Table(columns, notes)
    wrong = next((i for i, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise DataError(f'{path}: row {wrong + 1} is not an object; expected {{"path": "cats/1.jpg", "label": "cat"}}')
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table({name: [row.get(name) for row in rows] for name in names}, notes)


def _json_columns(value: dict[str, Any], path: Path) -> dict[str, list[Any]] | None:
    """The columns of one object that is a whole table: labels by path, or columns as pandas writes them; None where it is a single row."""
    if all(map(is_image_name, value)) and not any(isinstance(one, dict) for one in value.values()):
        return {"path": [*value], "label": [*value.values()]}
    if all(isinstance(column, dict) for column in value.values()) and len({tuple(column) for column in value.values()}) == 1:
        return {name: [*column.values()] for name, column in value.items()}
    if all(isinstance(column, list) for column in value.values()) and len({len(column) for column in value.values()}) == 1:
        return value
    if any(isinstance(one, (dict, list)) for one in value.values()):
        raise DataError(f"{path} is one object of {', '.join([*value][:3])}; expected one object for each image. {_EXPORT}")
    return None


def _json_rows(text: str, path: Path) -> list[Any]:
    """Parse one value per line, or the one array that some write into a .json file."""
    rows: list[Any] = []
    for number, line in enumerate([text] if _is_one_value(text) else text.split("\n"), 1):
        try:
            value = json.loads(line) if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}, is not JSON: {error}. Expected one object per line") from None
        rows += value if isinstance(value, list) else [value]
    _refuse_annotations(rows, path)
    return rows


def _is_one_value(text: str) -> bool:
    """Whether it is an array, or an object over several lines, and not an object a line."""
    if text.lstrip().startswith("["):
        return True
    if text.lstrip().partition("\n")[0].strip() not in ("{", "{}"):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_annotations(rows: list[Any], path: Path) -> None:
    """DataError for what annotation programs write: it is named."""
    for row in rows:
        keys = row.keys() if isinstance(row, dict) else set()
        kind = next((kind for marks, kind in _ANNOTATIONS if marks <= keys), "")
        if not kind and keys and all(isinstance(one, dict) and {"filename", "regions"} <= one.keys() for one in row.values()):
            kind = "the project of VGG's Image Annotator"
        if kind:
            raise DataError(f"{path} holds {kind}, which is not read. {_EXPORT}")


def _read_parquet(path: Path) -> Table:
    found: dict[str, list[Any]] = {}
    for part in parquet_parts(path):
        for name, cells in part.items():
            found.setdefault(name, []).extend(cells)
    return Table(found)


def parquet_parts(path: Path, *, rows: int | None = None) -> Iterator[dict[str, list[Any]]]:
    """The columns of a Parquet file, so many rows at a time; DataError where it is none, or damaged."""
    try:
        from arro3.io import read_parquet
    except ImportError as error:
        raise DataError(
            f"reading {path.name} needs the packages arro3-core and arro3-io, which cannot be imported here ({error}); "
            "install them with: pip install arro3-core arro3-io. Or save the list as CSV."
        ) from None
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0, io.SEEK_END)
        size = file.tell()
        file.seek(max(size - 4, 0))
        if start != b"PAR1" or file.read(4) != b"PAR1" or size < 12:
            raise DataError(f"{path} is not a Parquet file, or it is cut off; write it again, or save the list as CSV")
    try:
        for batch in read_parquet(str(path), batch_size=rows):
            yield {name: batch.column(name).to_pylist() for name in batch.schema.names}
    except (KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit):
        raise
    except BaseException as error:  # damaged files end in pyo3's PanicException, which is not an Exception
        raise DataError(f"{path} is a damaged Parquet file: {error}. Write it again, or save the list as CSV") from None


READERS: dict[str, Callable[[Path], Table]] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), _read_csv),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _read_json_lines),
    **dict.fromkeys((".parquet", ".pq"), _read_parquet),
}
