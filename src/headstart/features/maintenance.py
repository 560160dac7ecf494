"""Maintenance of a store, as ``headstart cache`` offers it: summary, verification, pruning, merging."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from headstart.errors import ParameterError, StoreError, nearest
from headstart.features.database import FLOAT_BYTES, SCHEMA, Database, Extractor, file_size, insert, is_damage, need_extractor
from headstart.progress import Progress

_T = TypeVar("_T")
_LAST_ROW = 1 << 40  # far more rows than any disk holds; where the file is damaged, the search ends here
_CHUNK = 256  # rows looked at between two reports, and written in one transaction
_FREED_AT_ONCE = 2048  # pages given back to the disk in one transaction


@dataclass(frozen=True)
class ExtractorSummary:
    """What the store holds of one extractor: rows, bytes of their vectors, numbers in a vector, first entry and last use (UTC)."""

    extractor_id: str
    rows: int
    bytes: int
    dim: int
    created: datetime
    last_used: datetime


@dataclass(frozen=True)
class StoreSummary:
    """What the store holds: its file with its bytes (log included), the extractors (most recently used first), and the cached results."""

    path: Path
    file_bytes: int
    extractors: tuple[ExtractorSummary, ...]
    results: int
    result_bytes: int


@dataclass(frozen=True)
class Verification:
    """What `verify` found: intact rows, damaged ones, how many were removed, faults of the file itself, whether it was rebuilt."""

    good: int
    bad: int
    removed: int
    faults: tuple[str, ...]
    rebuilt: bool

    @property
    def sound(self) -> bool:
        """Whether nothing was found to be wrong."""
        return not self.bad and not self.faults


@dataclass(frozen=True)
class Pruned:
    """What `prune` removed: rows and cached results; and the bytes of the file before and after."""

    rows: int
    results: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Merged:
    """What `merge` did: rows added or replaced, already present, damaged in the other store, and already present with another vector."""

    added: int
    present: int
    damaged: int
    different: int


@dataclass(frozen=True)
class _Row:
    number: int
    extractor: Extractor | None
    digest: bytes
    vector: bytes
    whole: bool


def summarise(database: Database) -> StoreSummary:
    """Return what the store holds; an absent one holds nothing."""
    with database.reading() as connection:
        if connection is None:
            return StoreSummary(database.path, 0, (), 0, 0)
        found = connection.execute(
            "SELECT name, dim, created, (SELECT count(*) FROM features WHERE extractor = each.extractor), "
            "(SELECT ifnull(max(used), each.created) FROM batches WHERE extractor = each.extractor) AS last FROM extractors AS each "
            "ORDER BY last DESC, extractor"
        ).fetchall()
        results, result_bytes = connection.execute("SELECT count(*), ifnull(sum(length(value)), 0) FROM memos").fetchone()
    extractors = tuple(
        ExtractorSummary(name, rows, rows * dim * FLOAT_BYTES, dim, datetime.fromtimestamp(created, UTC), datetime.fromtimestamp(last, UTC))
        for name, dim, created, rows, last in found
    )
    return StoreSummary(database.path, _file_bytes(database.path), extractors, results, result_bytes)


def verify(database: Database, *, repair: bool, progress: Progress | None) -> Verification:
    """Check every row and the structure of the file; see `FeatureStore.verify`."""
    good = 0
    bad: list[int] = []
    faults: list[str] = []
    lenient = Database(database.path, lenient=True)
    try:
        for chunk in _scan(lenient, faults, progress):
            good += sum(row.whole for row in chunk)
            bad += [row.number for row in chunk if not row.whole]
    finally:
        lenient.close()
    faults += [fault for fault in _structural_faults(database) if fault not in faults]
    if not repair or not (bad or faults):
        return Verification(good, len(bad), 0, tuple(faults), rebuilt=False)
    if faults:
        _rebuild(database)
        return Verification(good, len(bad), len(bad), tuple(faults), rebuilt=True)
    with database.writing() as connection:
        connection.executemany("DELETE FROM features WHERE row = ?", [(number,) for number in bad])
        _drop_empty(connection)
    return Verification(good, len(bad), len(bad), (), rebuilt=False)


def prune(database: Database, *, extractor_id: str | None, older_than_days: float | None, max_bytes: int | None) -> Pruned:
    """Remove batches, those used longest ago first, and shrink the file; see `FeatureStore.prune`."""
    before = _file_bytes(database.path)
    with database.reading() as connection:
        if connection is None:
            return Pruned(0, 0, 0, 0)
        known = dict(connection.execute("SELECT extractor, name FROM extractors"))
        chosen = [key for key, name in known.items() if extractor_id in (None, name)]
        if extractor_id is not None and not chosen:
            raise ParameterError(
                f"the store has no extractor {extractor_id!r}.{nearest(extractor_id, known.values())} 'headstart cache show' lists them."
            )
        order = connection.execute("SELECT batch, extractor, used FROM batches ORDER BY used, batch").fetchall()
    cutoff = None if older_than_days is None else time.time() - older_than_days * 86400
    everything = cutoff is None and max_bytes is None
    removed, dropped = 0, 0
    for batch, extractor, used in order:
        if extractor not in chosen:
            continue
        with database.writing() as connection:
            old = cutoff is not None and used <= cutoff
            if not (everything or old or (max_bytes is not None and _live_bytes(connection) > max_bytes)):
                break  # the following ones were used later
            removed += connection.execute("DELETE FROM features WHERE batch = ?", (batch,)).rowcount
            connection.execute("DELETE FROM batches WHERE batch = ?", (batch,))
    with database.writing() as connection:
        if extractor_id is None and cutoff is not None:
            dropped += connection.execute("DELETE FROM memos WHERE used <= ?", (cutoff,)).rowcount
        if extractor_id is None and max_bytes is not None and _live_bytes(connection) > max_bytes:
            dropped += drop_results(connection, max(0, max_bytes - _live_bytes(connection) + _result_bytes(connection)))
        _drop_empty(connection)
    _give_back(database)
    return Pruned(removed, dropped, before, _file_bytes(database.path))


def merge(database: Database, other: Path, *, progress: Progress | None) -> Merged:
    """Copy the intact rows of the store at `other` that are missing here; see `FeatureStore.merge`."""
    if not other.is_file():
        raise StoreError(f"there is no feature store at {other}. Give the file that a fit with --shard filled.")
    if database.path.exists() and database.path.samefile(other):
        raise StoreError(f"{other} is the store it should be merged into. Give another file.")
    added = present = different = damaged = 0
    source = Database(other)
    try:
        for chunk in _scan(source, None, progress):
            damaged += sum(not row.whole for row in chunk)
            for written, known, other_vector in _write(database, chunk):
                added, present, different = added + written, present + known, different + other_vector
    finally:
        source.close()
    return Merged(added, present, damaged, different)


def drop_results(connection: sqlite3.Connection, limit: int) -> int:
    """Remove the least recently used results until the others take `limit` bytes at most, and return how many were removed."""
    total, gone = _result_bytes(connection), 0
    for row, size in connection.execute("SELECT rowid, length(value) FROM memos ORDER BY used, rowid").fetchall() if total > limit else ():
        if total <= limit:
            break
        connection.execute("DELETE FROM memos WHERE rowid = ?", (row,))
        total, gone = total - size, gone + 1
    return gone


def _scan(database: Database, faults: list[str] | None, progress: Progress | None) -> Iterator[list[_Row]]:
    """Yield all rows in the order of the file, some at a time.

    Where a part of the file cannot be read, what SQLite says is added to `faults` and the scan continues behind it; with None it
    raises `StoreError`.
    """
    nothing: list[tuple[Any, ...]] = []
    rows = _tolerant(lambda: _rows(database, "SELECT extractor, name, dim FROM extractors"), nothing, faults)
    known = {key: Extractor(key, name, dim) for key, name, dim in rows}
    total = sum(count for (count,) in _tolerant(lambda: _rows(database, "SELECT count(*) FROM features"), nothing, faults))
    done, last, limit, step = 0, -1, _CHUNK, 1
    while last + step < _LAST_ROW:
        chunk = _tolerant(lambda: _read_chunk(database, known, last, limit), None, faults)  # noqa: B023 - called at once
        if chunk:
            last, limit, step, done = chunk[-1].number, min(_CHUNK, limit * 2), 1, done + len(chunk)
            yield chunk
            if progress is not None:
                progress(done, max(done, total))
        elif chunk is not None:
            return
        elif limit > 1:
            limit = 1  # come as near to the damage as possible
        else:
            last, step = last + step, step * 2


def _tolerant(attempt: Callable[[], _T], otherwise: _T, faults: list[str] | None) -> _T:
    """Return what `attempt` returns; where the file is damaged, note that in `faults` (or raise, if None) and return `otherwise`."""
    try:
        return attempt()
    except StoreError as error:
        if faults is None or not is_damage(error.__cause__):
            raise
        if str(error.__cause__) not in faults:
            faults.append(str(error.__cause__))
        return otherwise


def _rows(database: Database, query: str, *values: int) -> list[tuple[Any, ...]]:
    with database.reading() as connection:
        return connection.execute(query, values).fetchall() if connection else []


def _read_chunk(database: Database, known: dict[int, Extractor], last: int, limit: int) -> list[_Row] | None:
    """Return rows behind `last`, none at the end, None where the file is damaged."""
    query = "SELECT row, extractor, digest, vector, checksum FROM features WHERE row > ? ORDER BY row LIMIT ?"
    found = _rows(database, query, last, limit)
    chunk: list[_Row] = []
    for number, key, digest, vector, checksum in found:
        extractor = known.get(key)
        whole = extractor is not None and extractor.is_whole(digest, vector, checksum)
        if number <= last:
            return chunk or None  # the order of the file is damaged, and continuing would go round in circles
        last = number
        chunk.append(_Row(number, extractor, digest, vector, whole))
    return chunk


def _structural_faults(database: Database) -> list[str]:
    """Return what SQLite's own check of the file finds, at most ten lines."""
    faults: list[str] = []

    def check() -> list[str]:
        with database.outside_transactions() as connection:
            if connection is None:
                return []
            found = [line for (line,) in connection.execute("PRAGMA integrity_check(10)") if line != "ok"]
            tables = connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL AND tbl_name NOT LIKE 'sqlite%'")
            schema = {" ".join(text.split()) for (text,) in tables}
            return found if schema == set(SCHEMA) else [*found, "the tables are not those of a feature store"]

    return _tolerant(check, list[str](), faults) + faults


def _write(database: Database, chunk: list[_Row]) -> list[tuple[int, int, int]]:
    """Insert the intact rows of `chunk` in one transaction."""
    groups: dict[Extractor, dict[bytes, bytes]] = {}
    for row in chunk:
        if row.whole and row.extractor is not None:
            groups.setdefault(row.extractor, {}).setdefault(row.digest, row.vector)
    if not groups:
        return []
    with database.writing() as connection:
        return [
            insert(connection, need_extractor(connection, extractor.name, extractor.dim), vectors) for extractor, vectors in groups.items()
        ]


def _rebuild(database: Database) -> None:
    """Write the intact rows into a new file and replace the damaged one by it."""
    path = database.path
    new = path.with_name(path.name + ".rebuilt")
    lenient, fresh = Database(path, lenient=True), Database(new)
    try:
        _remove(new)
        try:
            with fresh.writing():
                pass  # creates the tables, in case there is no row
            for chunk in _scan(lenient, [], None):
                _write(fresh, chunk)
        finally:
            fresh.close()
            lenient.close()
            database.close()
        _remove(path, file=False)  # a log of the old file must never be applied to the new one
        new.replace(path)
    except OSError as error:
        raise StoreError(
            f"the feature store {path} cannot be rebuilt ({error.strerror or error}). Delete it, and a new one is created."
        ) from error


def _remove(path: Path, *, file: bool = True) -> None:
    for ending in ("-wal", "-shm", "-journal", *([""] if file else [])):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _drop_empty(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM batches WHERE NOT EXISTS (SELECT 1 FROM features WHERE features.batch = batches.batch)")
    connection.execute("DELETE FROM extractors WHERE NOT EXISTS (SELECT 1 FROM features WHERE features.extractor = extractors.extractor)")


def _result_bytes(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT ifnull(sum(length(value)), 0) FROM memos").fetchone()[0])


def _live_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of the file without the pages that are free."""
    pages, free, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size"))
    return int((pages - free) * size)


def _give_back(database: Database) -> None:
    """Shrink the file by its free pages, in place: unlike VACUUM this needs no room for a second file on a disk that may be full."""
    with database.outside_transactions() as connection:
        if connection is None:
            return
        free = -1
        while free and free != (free := connection.execute("PRAGMA freelist_count").fetchone()[0]):
            connection.execute(f"PRAGMA incremental_vacuum({_FREED_AT_ONCE})").fetchall()  # works page by page, as its rows are fetched
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _file_bytes(path: Path) -> int:
    """The bytes of the file and its log on disk, 0 where there is none."""
    return file_size(path) + file_size(path, "-wal")
