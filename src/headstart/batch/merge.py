"""Putting the tables of all shards together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headstart.batch.job import BatchResult
from headstart.batch.output import Form, form_for
from headstart.batch.parts import read_json, record_of, write_json
from headstart.data.shards import Shard
from headstart.errors import DataError, ParameterError
from headstart.files import file_digest, replacing
from headstart.run import load


def merge(run: str | Path, tables: Sequence[str | Path], *, out: str | Path) -> BatchResult:
    """Make one table of those that jobs with ``--shard`` wrote: the very table that one job would have written.

    Args:
        run: the run folder that all of them used.
        tables: the tables of all shards, each with its ``.job.json`` beside it, in any order.
        out: the table; of the same form as they are.

    Raises:
        ParameterError: `out` is there already, cannot be written, or is of another form.
        DataError: a shard is missing, given twice, damaged, or of another job or folder.
        RunError: the run cannot be opened.
    """
    out, begun = Path(out), time.perf_counter()
    opened = load(run)
    if out.exists():
        raise ParameterError(f"{out} is there already. Remove it, or give another --out.")
    records = [_record(Path(table)) for table in tables]
    asked = dict(records[0]["asked"]) if records else {}
    if asked.get("run") != opened.manifest.digest:
        raise DataError(f"{tables[0] if tables else 'no table'}: was not made with the run {run}. Give the tables of its shards.")
    ordered = _in_order(list(map(Path, tables)), records)
    form = form_for(out, top=asked["--top"], multilabel=opened.multilabel)
    if form.name != asked["form"]:
        raise ParameterError(f"--out {out} asks for {form.name}, and the shards are {asked['form']}. Give it the same suffix as theirs.")
    with replacing(out) as partial:
        form.join(_by_turns(form, ordered, rows=asked["images in a part"]), partial)
        images, refused = (sum(record[key] for record in records) for key in ("images", "refused"))
        if images != records[0]["listed"]:
            raise DataError(f"the shards have {images} rows together, and {records[0]['listed']} images were listed. Make them again.")
        digest = file_digest(partial)
    kept = {key: records[0][key] for key in ("listing", "listed")}
    write_json(record_of(out), {"asked": asked | {"--shard": None}, **kept, "images": images, "refused": refused, "sha256": digest})
    return BatchResult(out=out, images=images, refused=refused, computed=0, seconds=time.perf_counter() - begun)


def _record(table: Path) -> dict[str, Any]:
    """What is written beside a table, after a look at whether the table is still the one it is about."""
    if not table.is_file():
        raise DataError(f"{table}: no such file. Give the tables that `headstart predict --batch --shard` wrote.")
    record = read_json(record_of(table))
    if record is None or not isinstance(record.get("asked"), dict):
        raise DataError(f"{table}: there is no {record_of(table).name} beside it, which says how it came about. Copy it along.")
    if record.get("sha256") != file_digest(table):
        raise DataError(f"{table}: has been changed since it was written (its SHA-256 differs). Copy it again, or make it again.")
    if record["asked"].get("--shard") is None:
        raise DataError(f"{table}: is a whole table and not that of a shard.")
    return record


def _in_order(tables: list[Path], records: list[dict[str, Any]]) -> list[Path]:
    """The tables by the number of their shard."""
    first = records[0]
    for table, record in zip(tables, records, strict=True):
        same = all(record["asked"].get(key) == value for key, value in first["asked"].items() if key not in ("--shard", "images of"))
        if not same:
            raise DataError(f"{table} and {tables[0]} are of different jobs. Make all shards with the same run and options.")
        if (record["listing"], record["listed"]) != (first["listing"], first["listed"]):
            raise DataError(
                f"{table} and {tables[0]} saw different images ({record['listed']} and {first['listed']}): the folder was not the same. "
                "Make the shards again from the same folder."
            )
    shards = [Shard.parse(record["asked"]["--shard"]) for record in records]
    count = shards[0].count
    where = {shard.index: table for shard, table in zip(shards, tables, strict=True) if shard.count == count}
    missing = [f"{index}/{count}" for index in range(1, count + 1) if index not in where]
    if missing:
        raise DataError(
            f"the table of shard {', '.join(missing[:5])} is missing{' and others' if len(missing) > 5 else ''}. Give all {count}."
        )
    if len(tables) > count:
        raise DataError(f"{len(tables)} tables are given for {count} shards. Give each once.")
    return [where[index] for index in range(1, count + 1)]


def _by_turns(form: Form, tables: list[Path], *, rows: int) -> Iterator[bytes]:
    """The parts in their order: shard i has every n-th of them."""
    readers = [form.parts(table, rows=rows) for table in tables]
    while readers:
        for reader in readers:
            part = next(reader, None)
            if part is None:
                return
            yield part
