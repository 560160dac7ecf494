"""The table that a batch job writes: CSV, JSON lines or Parquet, or COCO's list of results, by the suffix of its name.

A job makes its table in parts. A part is some bytes; joined in order they are the table. CSV and JSON lines are simply put one after the
other. Parts of Parquet are small Parquet files, whose rows are written anew in larger row groups, a part in memory at a time.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

from headstart.errors import DataError, ParameterError
from headstart.records import Column, Record, columns_for, csv_header, csv_lines, csv_records, json_object

ROW_GROUP = 65_536  # rows; a multiple of the rows of a part, so that a table can be read back part by part


class FileFormat(ABC):
    """A file format: records become a part, and parts become a file."""

    name: ClassVar[str]

    @abstractmethod
    def part(self, records: Iterable[Record]) -> bytes:
        """The bytes of one part."""

    @abstractmethod
    def join(self, parts: Iterable[bytes], file: Path) -> None:
        """Write the file of all parts, in their order."""


@dataclass(frozen=True)
class TableFormat(FileFormat):
    """A table, which becomes parts again, so that those of several shards can be merged."""

    columns: tuple[Column, ...]

    @property
    def header(self) -> bytes:
        """What stands before the first part."""
        return b""

    def join(self, parts: Iterable[bytes], file: Path) -> None:
        """Write the table of all parts, in their order."""
        with file.open("wb") as target:
            target.writelines(chain([self.header], parts))

    @abstractmethod
    def parts(self, file: Path, *, rows: int) -> Iterator[bytes]:
        """Read a table that `join` wrote as parts of so many rows, the last one with what is left."""


class Csv(TableFormat):
    """CSV in UTF-8 with a line of column names, as ``headstart predict --format csv`` prints it."""

    name = "csv"

    @property
    def header(self) -> bytes:
        """The line of column names."""
        return csv_header(self.columns).encode()

    def part(self, records: Iterable[Record]) -> bytes:
        """The lines of these records."""
        return csv_records(self.columns, records).encode()

    def parts(self, file: Path, *, rows: int) -> Iterator[bytes]:
        """So many rows at a time, which may hold line ends."""
        with file.open(encoding="utf-8", newline="") as source:
            reader = csv.reader(source)
            next(reader, None)
            while some := list(islice(reader, rows)):
                yield csv_lines(some).encode()


class JsonLines(TableFormat):
    """An object a line, the same as in the list that ``headstart predict --format json`` prints."""

    name = "jsonl"

    def part(self, records: Iterable[Record]) -> bytes:
        """The lines of these records."""
        return "".join(json.dumps(json_object(self.columns, record), ensure_ascii=False) + "\n" for record in records).encode()

    def parts(self, file: Path, *, rows: int) -> Iterator[bytes]:
        """So many lines at a time."""
        with file.open("rb") as source:
            while some := list(islice(source, rows)):
                yield b"".join(some)


class Parquet(TableFormat):
    """Parquet with typed columns; values that are not known are null.

    Text and names are strings, numbers float32, whole numbers int64, truth values bool, and texts lists of strings.
    """

    name = "parquet"

    def part(self, records: Iterable[Record]) -> bytes:
        """A Parquet file of these records."""
        held = list(records)
        arrays = [_array(column.type, [column.value(record) for record in held]) for column in columns_for("parquet", self.columns)]
        return _written(_arro3().core.RecordBatch.from_arrays(arrays, schema=self._schema))

    def join(self, parts: Iterable[bytes], file: Path) -> None:
        """Write the rows of all parts into one file."""
        arro3 = _arro3()
        batches = (batch for part in parts for batch in _read(io.BytesIO(part)))
        reader = arro3.core.RecordBatchReader.from_batches(self._schema, batches)
        arro3.io.write_parquet(reader, str(file), compression="zstd(3)", max_row_group_size=ROW_GROUP)

    def parts(self, file: Path, *, rows: int) -> Iterator[bytes]:
        """So many rows at a time."""
        return map(_written, _read(str(file), batch_size=rows))

    @property
    def _schema(self) -> Any:
        core = _arro3().core
        shown = columns_for("parquet", self.columns)
        return core.Schema([core.Field(column.name, _type(column.type), nullable=column.type != "name") for column in shown])


Entries = Callable[[Iterable[Record]], Iterator[dict[str, Any]]]
"""From records to the entries of a list, as of `headstart.tasks.Task.results`."""


@dataclass(frozen=True)
class Results(FileFormat):
    """COCO's list of results in JSON: an entry for each thing found, and none for an image without. A part has an entry a line.

    Its images are called as in a table, since a folder of any size may hold a name twice.
    """

    entries: Entries
    name = "coco"

    def part(self, records: Iterable[Record]) -> bytes:
        """The lines of these records."""
        return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.entries(records)).encode()

    def join(self, parts: Iterable[bytes], file: Path) -> None:
        """Write the list of all entries."""
        between = b""
        with file.open("wb") as target:
            target.write(b"[")
            for part in filter(None, parts):
                target.write(between + b"\n" + part[:-1].replace(b"\n", b",\n"))
                between = b","
            target.write(b"\n]\n")


def format_for(out: Path, columns: tuple[Column, ...], results: Entries | None = None) -> FileFormat:
    """The format that the suffix of `out` asks for; ParameterError for another suffix. `results` are those of the task, if it has such."""
    if results is not None and out.suffix.lower() == ".json":
        return Results(results)
    return table_for(out, columns, also="" if results is None else ", or in .json for COCO's list of results")


def table_for(out: Path, columns: tuple[Column, ...], *, also: str = "") -> TableFormat:
    """The table that the suffix of `out` asks for; ParameterError for another suffix, which names what there is `also`."""
    match out.suffix.lower():
        case ".csv":
            return Csv(columns)
        case ".jsonl" | ".ndjson":
            return JsonLines(columns)
        case ".parquet" | ".pq":
            _arro3()
            return Parquet(columns)
    raise ParameterError(f"--out must end in .parquet, .csv or .jsonl, which sets the format of the table{also}; got {str(out)!r}.")


def _arro3() -> Any:
    try:
        import arro3.core
        import arro3.io
    except ImportError as error:
        raise ParameterError(
            f"writing Parquet needs the packages arro3-core and arro3-io, which cannot be imported here ({error}); "
            "install them with: pip install arro3-core arro3-io. Or let --out end in .csv or .jsonl."
        ) from None
    return arro3


def _type(kind: str) -> Any:
    core = _arro3().core
    text = core.DataType.utf8()
    if kind == "texts":
        return core.DataType.list(core.Field("item", text))
    return {"number": core.DataType.float32(), "whole": core.DataType.int64(), "truth": core.DataType.bool()}.get(kind, text)


def _array(kind: str, values: list[Any]) -> Any:
    core = _arro3().core
    if kind != "texts":
        return core.Array(values, _type(kind))
    import numpy as np

    offsets = np.cumsum([0, *(len(value or ()) for value in values)], dtype=np.int32)
    flat = core.Array([name for value in values for name in value or ()], _type("text"))
    absent = core.Array([value is None for value in values], core.DataType.bool())
    return core.list_array(core.Array.from_numpy(offsets), flat, type=_type(kind), mask=absent)


def _written(batch: Any) -> bytes:
    buffer = io.BytesIO()
    _arro3().io.write_parquet(batch, buffer, compression="lz4_raw")
    return buffer.getvalue()


def _read(source: Any, *, batch_size: int | None = None) -> Iterator[Any]:
    try:
        yield from _arro3().io.read_parquet(source, batch_size=batch_size)
    except (KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit):
        raise
    except BaseException as error:  # damaged files end in pyo3's PanicException, which is not an Exception
        where = source if isinstance(source, str) else "a part"
        raise DataError(f"{where} is a damaged Parquet file: {error}. Make it again.") from None
