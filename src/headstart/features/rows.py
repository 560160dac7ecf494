"""Reads and writes the rows of a store inside a transaction that the caller holds.

Every row carries a CRC-32 over the extractor's id, the image digest and the vector. A row whose checksum or length is wrong counts
as missing: it is never returned, and the next `insert` of its key replaces it.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from headstart.errors import StoreError

FLOAT_BYTES = 4
_T = TypeVar("_T")
_AT_ONCE = 500  # values in one IN list; SQLite allowed 999 before 2020


@dataclass(frozen=True)
class Extractor:
    """One row of the table of extractors.

    Attributes:
        key: its number in this file.
        name: the extractor's id.
        dim: numbers in each of its vectors.
    """

    key: int
    name: str
    dim: int

    def checksum(self, digest: bytes, vector: bytes | memoryview) -> int:
        """Return the CRC-32 of one row, an unsigned 32-bit integer."""
        return zlib.crc32(vector, zlib.crc32(digest, zlib.crc32(self.name.encode())))

    def is_whole(self, digest: object, vector: object, checksum: object) -> bool:
        """Tell whether what a row holds is what was once written."""
        if not isinstance(digest, bytes) or not isinstance(vector, bytes) or len(vector) != self.dim * FLOAT_BYTES:
            return False
        return self.checksum(digest, vector) == checksum


@dataclass(frozen=True)
class Inserted:
    """How many of the rows given to `insert` are new, replace a damaged row, stood there already, and stood there with another vector."""

    added: int
    replaced: int
    present: int
    different: int


def find_extractor(connection: sqlite3.Connection, name: str) -> Extractor | None:
    """Return the extractor of that id, or None where the store has none."""
    found = connection.execute("SELECT extractor, dim FROM extractors WHERE name = ?", (name,)).fetchone()
    return None if found is None else Extractor(found[0], name, found[1])


def all_extractors(connection: sqlite3.Connection) -> dict[int, Extractor]:
    """Return all extractors by their number."""
    return {key: Extractor(key, name, dim) for key, name, dim in connection.execute("SELECT extractor, name, dim FROM extractors")}


def need_extractor(connection: sqlite3.Connection, name: str, dim: int) -> Extractor:
    """Return the extractor of that id, entering it where it is missing. Raises `StoreError` where it stands there with another dim."""
    extractor = find_extractor(connection, name)
    if extractor is None:
        connection.execute("INSERT INTO extractors (name, dim, created) VALUES (?, ?, ?)", (name, dim, now()))
        extractor = find_extractor(connection, name)
        assert extractor is not None
    refuse_other_dim(extractor, dim)
    return extractor


def refuse_other_dim(extractor: Extractor, dim: int) -> None:
    """Raise `StoreError` unless `extractor` gives vectors of `dim` numbers."""
    if extractor.dim != dim:
        raise StoreError(
            f"the feature store holds vectors of {extractor.dim} numbers for the extractor {extractor.name!r}, and {dim} are expected now. "
            "An extractor that gives something else needs another id; 'headstart cache prune --extractor ID' forgets the old vectors."
        )


def read(connection: sqlite3.Connection, extractor: Extractor, digests: Sequence[bytes]) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield (digest, vector, batch) for every whole row among `digests`, each once, in the order in which they lie in the file."""
    rows = _rows_of(connection, extractor, digests)
    for some in _chunks(sorted(rows)):
        query = f"SELECT row, batch, checksum, vector FROM features WHERE row IN ({_marks(some)})"  # noqa: S608 - question marks only
        for row, batch, checksum, vector in connection.execute(query, some):
            digest = rows[row]
            if extractor.is_whole(digest, vector, checksum):
                yield digest, vector, batch


def insert(connection: sqlite3.Connection, extractor: Extractor, vectors: Mapping[bytes, memoryview | bytes]) -> Inserted:
    """Write vectors (float32, little-endian) by digest as one batch; whole rows that stand there already stay as they are."""
    digests = list(vectors)
    rows = {digest: row for row, digest in _rows_of(connection, extractor, digests).items()}
    kept = {digest: vector == vectors[digest] for digest, vector, _ in read(connection, extractor, list(rows))} if rows else {}
    damaged = [(row,) for digest, row in rows.items() if digest not in kept]
    connection.executemany("DELETE FROM features WHERE row = ?", damaged)
    new = [digest for digest in digests if digest not in kept]
    if new:
        moment = now()
        batch = connection.execute(
            "INSERT INTO batches (extractor, created, used) VALUES (?, ?, ?)", (extractor.key, moment, moment)
        ).lastrowid
        connection.executemany(
            "INSERT INTO features (extractor, batch, checksum, digest, vector) VALUES (?, ?, ?, ?, ?)",
            ((extractor.key, batch, extractor.checksum(digest, vectors[digest]), digest, vectors[digest]) for digest in new),
        )
    return Inserted(len(new) - len(damaged), len(damaged), len(kept), sum(not same for same in kept.values()))


def now() -> int:
    """Return the time in whole seconds since 1970."""
    return int(time.time())


def _rows_of(connection: sqlite3.Connection, extractor: Extractor, digests: Sequence[bytes]) -> dict[int, bytes]:
    """Return row number -> digest, from the index alone; the rows are then read in the order of the file, which spares a disk."""
    found: dict[int, bytes] = {}
    for some in _chunks(digests):
        query = f"SELECT row, digest FROM features WHERE extractor = ? AND digest IN ({_marks(some)})"  # noqa: S608 - question marks only
        found.update(connection.execute(query, (extractor.key, *some)))
    return found


def _chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))


def _marks(items: Sequence[object]) -> str:
    return ",".join("?" * len(items))
