"""The feature store: its public interface."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from headstart.errors import ParameterError
from headstart.features import maintenance
from headstart.features.database import Database, find_extractor, insert, need_extractor, now, read, refuse_other_dim
from headstart.progress import Progress
from headstart.settings.field import number, require

DIGEST_BYTES = 32
RESULT_BYTES = 512 << 20  # of all cached results together
_USE_RESOLUTION = 3600  # seconds; a finer record of use would turn reads into writes


class FeatureStore:
    """Keeps feature vectors by (extractor id, image digest) in one SQLite file, for any number of threads and processes at once.

    The first writer of a key wins, so all readers see the same bytes. Nothing is opened or created before it is needed, and reading
    from a store that does not exist finds nothing. Every method may raise `StoreError`, and the caller can continue without a store.
    Use it as a context manager, or close it with `close`. It can be carried over a fork and pickled (as its path).

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._database = Database(self.path)
        self._noted: set[int] = set()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return (FeatureStore, (self.path,))

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r})"

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._database.close()

    def get(self, extractor_id: str, digests: Sequence[bytes]) -> dict[bytes, np.ndarray[Any, np.dtype[np.float32]]]:
        """Return the vectors that are there, by digest: float32 (dim,), views of one buffer. Damaged rows count as missing."""
        unique = list(dict.fromkeys(_checked(extractor_id, digests)))
        with self._database.reading() as connection:
            extractor = find_extractor(connection, extractor_id) if connection else None
        if extractor is None or not unique:
            return {}
        values = np.empty((len(unique), extractor.dim), np.float32)
        found = self.get_into(extractor_id, unique, values)
        return {unique[i]: values[i] for i in np.flatnonzero(found)}

    def get_into(
        self, extractor_id: str, digests: Sequence[bytes], out: np.ndarray[Any, np.dtype[np.float32]]
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Fill row i of `out`, float32 (n, dim), with the vector of ``digests[i]``, and return which rows were filled, bool (n,).

        The others are left as they were. Digests may come more than once. The fastest way to a whole matrix. Raises
        `ParameterError` for an `out` of another shape or dtype, and `StoreError` where the extractor's vectors have another length.
        """
        _refuse_shape(out, len(_checked(extractor_id, digests)), "out")
        places: dict[bytes, int] = {}
        first = [places.setdefault(digest, i) for i, digest in enumerate(digests)]
        found = np.zeros(len(digests), bool)
        batches: set[int] = set()
        with self._database.reading() as connection:
            extractor = find_extractor(connection, extractor_id) if connection else None
            if connection is not None and extractor is not None:
                refuse_other_dim(extractor, out.shape[1])
                for digest, vector, batch in read(connection, extractor, list(places)):
                    place = places[digest]
                    out[place] = np.frombuffer(vector, "<f4")
                    found[place] = True
                    batches.add(batch)
        if len(places) < len(digests):
            found = found[first]
            again = np.flatnonzero(found & (np.asarray(first) != np.arange(len(digests))))
            out[again] = out[np.asarray(first)[again]]
        self._note_use(batches)
        return found

    def put(self, extractor_id: str, digests: Sequence[bytes], features: np.ndarray[Any, np.dtype[np.float32]]) -> int:
        """Store `features`, float32 (n, dim), under their digests in one transaction, all or nothing, and return how many were written.

        Vectors that are there already stay (also where the same digest comes twice), damaged ones are replaced. When this returns,
        nothing short of a power failure can lose the rows. Raises `ParameterError` for another shape or dtype, and `StoreError`.
        """
        _refuse_shape(features, len(_checked(extractor_id, digests)), "features")
        if not len(digests):
            return 0
        values = np.ascontiguousarray(features, "<f4")
        vectors: dict[bytes, memoryview] = {}
        for digest, value in zip(digests, values, strict=True):
            vectors.setdefault(digest, memoryview(value).cast("B"))
        with self._database.writing() as connection:
            extractor = need_extractor(connection, extractor_id, values.shape[1])
            return insert(connection, extractor, vectors)[0]

    def missing(self, extractor_id: str, digests: Sequence[bytes]) -> list[bytes]:
        """Return the digests, each once and in order, that have no vector or a damaged one."""
        unique = dict.fromkeys(_checked(extractor_id, digests))
        with self._database.reading() as connection:
            extractor = find_extractor(connection, extractor_id) if connection else None
            if connection is not None and extractor is not None:
                for digest, _, _ in read(connection, extractor, list(unique)):
                    del unique[digest]
        return list(unique)

    def __contains__(self, key: tuple[str, bytes]) -> bool:
        """Tell whether (extractor id, digest) has a whole vector."""
        extractor_id, digest = key
        return not self.missing(extractor_id, [digest])

    def get_result(self, key: str) -> bytes | None:
        """Return what `put_result` stored under `key`; None where there is nothing, or it is damaged."""
        with self._database.reading() as connection:
            if connection is None:
                return None
            found = connection.execute("SELECT value, checksum, used FROM memos WHERE key = ?", (key,)).fetchone()
        if found is None or not isinstance(found[0], bytes) or _result_checksum(key, found[0]) != found[1]:
            return None
        if now() - found[2] > _USE_RESOLUTION:
            with contextlib.suppress(sqlite3.Error), self._database.noting() as connection:
                connection.execute("UPDATE memos SET used = ? WHERE key = ?", (now(), key))
        return bytes(found[0])

    def put_result(self, key: str, value: bytes) -> None:
        """Store a derived result under `key` (which must cover everything it depends on), replacing an earlier one.

        All results together take `RESULT_BYTES` at most: the least recently used ones make room, and a larger value is not stored.
        """
        if len(value) > RESULT_BYTES:
            return
        with self._database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO memos VALUES (?, ?, ?, ?)", (key, _result_checksum(key, value), now(), value))
            maintenance.drop_results(connection, RESULT_BYTES)

    def summary(self) -> maintenance.StoreSummary:
        """Return what the store holds, by extractor."""
        return maintenance.summarise(self._database)

    def verify(self, *, repair: bool = False, progress: Progress | None = None) -> maintenance.Verification:
        """Check every row's checksum and the file's structure; `progress` is called with (rows done, rows in all).

        With `repair`, damaged rows are removed, and a file whose structure is damaged is rebuilt from its intact rows (run this
        while no other process uses the store). Raises `StoreError` for a file that is not a store at all.
        """
        return maintenance.verify(self._database, repair=repair, progress=progress)

    def prune(
        self, *, extractor_id: str | None = None, older_than_days: float | None = None, max_bytes: int | None = None
    ) -> maintenance.Pruned:
        """Remove features and give their space back to the disk.

        `extractor_id` alone removes all of that extractor, and beside another condition limits it to that extractor.
        `older_than_days` removes what has not been used for that long, `max_bytes` the least recently used until the file is no larger.
        Rows go by the batch they were written in. Raises `ParameterError` where no condition is given or the extractor is unknown.
        """
        if extractor_id is None and older_than_days is None and max_bytes is None:
            raise ParameterError("Nothing to prune by: give an extractor, an age in days, or the size to keep.")
        require(number(least=0), or_none=True, older_than_days=older_than_days, max_bytes=max_bytes)
        return maintenance.prune(self._database, extractor_id=extractor_id, older_than_days=older_than_days, max_bytes=max_bytes)

    def merge(self, other: Path, *, progress: Progress | None = None) -> maintenance.Merged:
        """Copy the features of another store, such as one filled with ``--shard i/n``; what is here already stays.

        Damaged rows are skipped. Merging twice changes nothing. Cached results are not copied. Raises `StoreError` where `other` is not
        a store of this protocol, or is this one.
        """
        return maintenance.merge(self._database, Path(other), progress=progress)

    def _note_use(self, batches: set[int]) -> None:
        """Record that these batches were used: once per batch and process, and only if it can be done immediately."""
        unnoted = batches - self._noted
        if not unnoted:
            return
        self._noted |= unnoted
        moment = now()
        with contextlib.suppress(sqlite3.Error), self._database.noting() as connection:
            connection.executemany(
                "UPDATE batches SET used = ? WHERE batch = ? AND used < ?", [(moment, batch, moment - _USE_RESOLUTION) for batch in unnoted]
            )


def _checked(extractor_id: str, digests: Sequence[bytes]) -> Sequence[bytes]:
    if not isinstance(extractor_id, str) or not extractor_id or "\0" in extractor_id:
        raise ParameterError(f"an extractor id is a string of at least one character, got {extractor_id!r}.")
    for digest in digests:
        if not isinstance(digest, bytes) or len(digest) != DIGEST_BYTES:
            raise ParameterError(f"an image digest is {DIGEST_BYTES} bytes, got {digest!r}.")
    return digests


def _refuse_shape(array: np.ndarray[Any, Any], count: int, name: str) -> None:
    if array.dtype != np.float32 or array.ndim != 2 or array.shape[0] != count or not array.shape[1]:
        raise ParameterError(f"{name} must be float32 of shape ({count}, dim), one row for each digest, got {array.dtype} {array.shape}.")


def _result_checksum(key: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key.encode()))
