"""The table that a batch job writes: CSV, JSON lines or Parquet, by the suffix of its name.

A job makes its table in parts. A part is some bytes; joined in order they are the table. CSV and JSON lines are simply put one after the
other. Parts of Parquet are small Parquet files, whose rows are written anew in larger row groups, a part in memory at a time.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from headstart.batch.answers import Answer, cells, entry, header, labels_of, width_of
from headstart.errors import DataError, ParameterError

ROW_GROUP = 65_536  # rows; a multiple of the rows of a part, so that a table can be read back part by part


class Form(Protocol):
    """A form of table: answers become a part, parts become a table, and a table becomes parts again."""

    @property
    def name(self) -> str:
        """What the form is called."""
        ...

    def part(self, answers: Iterable[Answer]) -> bytes:
        """The bytes of one part."""
        ...

    def join(self, parts: Iterable[bytes], file: Path) -> None:
        """Write the table of all parts, in their order."""
        ...

    def parts(self, file: Path, *, rows: int) -> Iterator[bytes]:
        """Read a table back as parts of so many rows, the last one with what is left."""
        ...


@dataclass(frozen=True)
class CsvForm:
    """CSV in UTF-8 with a line of column names, as ``headstart predict --format csv`` prints it."""

    width: int
    name: str = "csv"

    def part(self, answers: Iterable[Answer]) -> bytes:
        """The lines of these answers."""
        return _lines(cells(answer, self.width) for answer in answers)

    def join(self, parts: Iterable[bytes], file: Path) -> None:
        """Write the names of the columns and then all lines."""
        with file.open("wb") as target:
            target.write(_lines([header(self.width)]))
            _append(parts, target)

    def parts(self, file: Path, *, rows: int) -> Iterator[bytes]:
        """Read a table that `join` wrote."""
        with file.open(encoding="utf-8", newline="") as source:
            reader = csv.reader(source)
            next(reader, None)
            while some := list(islice(reader, rows)):
                yield _lines(some)


@dataclass(frozen=True)
class JsonLinesForm:
    """An object a line, the same as in the list that ``headstart predict --format json`` prints."""

    multilabel: bool
    name: str = "jsonl"

    def part(self, answers: Iterable[Answer]) -> bytes:
        """The lines of these answers."""
        return "".join(json.dumps(entry(answer, multilabel=self.multilabel), ensure_ascii=False) + "\n" for answer in answers).encode()

    def join(self, parts: Iterable[bytes], file: Path) -> None:
        """Write all lines."""
        with file.open("wb") as target:
            _append(parts, target)

    def parts(self, file: Path, *, rows: int) -> Iterator[bytes]:
        """Read a table that `join` wrote."""
        with file.open("rb") as source:
            while some := list(islice(source, rows)):
                yield b"".join(some)


@dataclass(frozen=True)
class ParquetForm:
    """Parquet: the columns of the CSV and ``unlikeness``, with types; what is not known is null.

    ``path``, ``label``, ``error``, ``nearest`` are text; ``probability`` and ``unlikeness`` float32; ``unlike`` bool; ``set`` a list of
    text, as is ``label`` in runs whose images may have several.
    """

    width: int
    multilabel: bool
    name: str = "parquet"

    def part(self, answers: Iterable[Answer]) -> bytes:
        """A Parquet file of these answers."""
        arro3 = _arro3()
        held = list(answers)
        columns = [_column(kind, [value(answer) for answer in held]) for _, kind, value in self._plan]
        batch = arro3.core.RecordBatch.from_arrays(columns, schema=self._schema)
        buffer = io.BytesIO()
        arro3.io.write_parquet(batch, buffer, compression="lz4_raw")
        return buffer.getvalue()

    def join(self, parts: Iterable[bytes], file: Path) -> None:
        """Write the rows of all parts into one file."""
        arro3 = _arro3()
        batches = (batch for part in parts for batch in _read(io.BytesIO(part)))
        reader = arro3.core.RecordBatchReader.from_batches(self._schema, batches)
        arro3.io.write_parquet(reader, str(file), compression="zstd(3)", max_row_group_size=ROW_GROUP)

    def parts(self, file: Path, *, rows: int) -> Iterator[bytes]:
        """Read a table that `join` wrote, from parts of so many rows."""
        arro3 = _arro3()
        for batch in _read(str(file), batch_size=rows):
            buffer = io.BytesIO()
            arro3.io.write_parquet(batch, buffer, compression="lz4_raw")
            yield buffer.getvalue()

    @property
    def _plan(self) -> list[tuple[str, str, Callable[[Answer], Any]]]:
        """Name, kind and content of every column."""
        text = (lambda answer: labels_of(answer.best[0][0]) if answer.best else None) if self.multilabel else _label(0)
        plan: list[tuple[str, str, Callable[[Answer], Any]]] = [
            ("path", "name", lambda answer: answer.name),
            ("label", "texts" if self.multilabel else "text", text),
            ("probability", "number", _probability(0)),
            ("error", "text", lambda answer: answer.error or None),
            ("set", "texts", lambda answer: answer.candidates),
            ("unlike", "truth", lambda answer: answer.unlike),
            ("unlikeness", "number", lambda answer: answer.unlikeness),
            ("nearest", "text", lambda answer: answer.nearest or None),
        ]
        for k in range(1, self.width):
            plan += [(f"label_{k + 1}", "text", _label(k)), (f"probability_{k + 1}", "number", _probability(k))]
        return plan

    @property
    def _schema(self) -> Any:
        core = _arro3().core
        return core.Schema([core.Field(name, _type(kind), nullable=kind != "name") for name, kind, _ in self._plan])


def form_for(out: Path, *, top: int, multilabel: bool) -> Form:
    """The form of table that the suffix of `out` asks for.

    Raises:
        ParameterError: another suffix.
    """
    width = width_of(top, multilabel=multilabel)
    suffix = out.suffix.lower()
    if suffix == ".csv":
        return CsvForm(width)
    if suffix in (".jsonl", ".ndjson"):
        return JsonLinesForm(multilabel)
    if suffix in (".parquet", ".pq"):
        _arro3()
        return ParquetForm(width, multilabel)
    raise ParameterError(f"--out must end in .parquet, .csv or .jsonl, which says how the table is written; got {str(out)!r}.")


def _label(k: int) -> Callable[[Answer], str | None]:
    return lambda answer: answer.best[k][0] if k < len(answer.best) else None


def _probability(k: int) -> Callable[[Answer], float | None]:
    return lambda answer: answer.best[k][1] if k < len(answer.best) else None


def _lines(rows: Iterable[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _append(parts: Iterable[bytes], target: BinaryIO) -> None:
    for part in parts:
        target.write(part)


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
    return {"name": text, "text": text, "number": core.DataType.float32(), "truth": core.DataType.bool()}[kind]


def _column(kind: str, values: list[Any]) -> Any:
    core = _arro3().core
    if kind != "texts":
        return core.Array(values, _type(kind))
    import numpy as np

    offsets = np.cumsum([0, *(len(value or ()) for value in values)], dtype=np.int32)
    flat = core.Array([name for value in values for name in value or ()], _type("text"))
    absent = core.Array([value is None for value in values], core.DataType.bool())
    return core.list_array(core.Array.from_numpy(offsets), flat, type=_type(kind), mask=absent)


def _read(source: Any, *, batch_size: int | None = None) -> Iterator[Any]:
    try:
        yield from _arro3().io.read_parquet(source, batch_size=batch_size)
    except (KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit):
        raise
    except BaseException as error:  # damaged files end in pyo3's PanicException, which is no Exception
        where = source if isinstance(source, str) else "a part"
        raise DataError(f"{where} is a damaged Parquet file: {error}. Make it again.") from None
