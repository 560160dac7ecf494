"""The SQLite file of the feature store: its one connection in this process, its rows, and readable messages for SQLite's errors.

Every row carries a CRC-32 over the extractor's id, the image digest and the vector. A row whose checksum or length is wrong counts as
missing: it is never returned, and the next `insert` of its key replaces it.

Journal: WAL with ``synchronous=NORMAL``. What was committed survives the death of the process at any moment; a power failure can
lose the last transactions but cannot damage the file (https://sqlite.org/wal.html). WAL needs memory shared by all who use the
file, which a network file system does not give; there the rollback journal with ``synchronous=FULL`` is used.

Fork: a connection must not be carried into a child process, not even unused, since SQLite would then rely on locks that the
child does not hold (https://sqlite.org/howtocorrupt.html, section 2.6). Every idle connection is therefore closed just before a
fork, and opened again on next use.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from headstart.errors import StoreError
from headstart.files import create_folder, is_shared_between_machines

APPLICATION = 0x48534653  # "HSFS", in the header of every store
PROTOCOL = 1
_PATIENCE = 60.0  # seconds to wait for other writers; one transaction takes a few milliseconds
_PAGE_BYTES = 8192  # measured: 4 kB to 64 kB, features of 2,064 numbers; this reads fastest and wastes little
_CHECKPOINT_PAGES = 2048  # 16 MB of log between two checkpoints
_LOG_BYTES = 64 << 20
FLOAT_BYTES = 4
_AT_ONCE = 500  # values in one IN list; SQLite allowed 999 before 2020
_T = TypeVar("_T")
_TABLES = """
CREATE TABLE extractors (extractor INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, dim INTEGER NOT NULL,
                         created INTEGER NOT NULL);
CREATE TABLE batches (batch INTEGER PRIMARY KEY, extractor INTEGER NOT NULL, created INTEGER NOT NULL, used INTEGER NOT NULL);
CREATE TABLE features (row INTEGER PRIMARY KEY, extractor INTEGER NOT NULL, batch INTEGER NOT NULL, checksum INTEGER NOT NULL,
                       digest BLOB NOT NULL, vector BLOB NOT NULL);
CREATE UNIQUE INDEX features_by_key ON features (extractor, digest);
CREATE INDEX features_by_batch ON features (batch);
CREATE TABLE memos (key TEXT PRIMARY KEY, checksum INTEGER NOT NULL, used INTEGER NOT NULL, value BLOB NOT NULL);
"""
SCHEMA = tuple(" ".join(statement.split()) for statement in _TABLES.split(";") if statement.strip())


class Database:
    """One SQLite file: opened when first needed, one connection shared by all threads of the process, closed before a fork.

    With `lenient`, SQLite also reads what it can of a file that is cut off or whose schema is damaged; such a database must not be written.
    """

    def __init__(self, path: Path, *, lenient: bool = False) -> None:
        self.path = path
        self._lenient = lenient
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._in_use = False
        self._forked_in_use = False
        _databases.add(self)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Give a connection that sees one state of the file until the block ends; None where there is no store yet. Raises `StoreError`."""
        with self._lock, _readable_errors(self.path):
            connection = self._connected(create=False)
            with self._transaction(connection, "BEGIN") if connection else contextlib.nullcontext():
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that may write; all is committed when the block ends without an error, else nothing. Raises `StoreError`."""
        with self._lock, _readable_errors(self.path):
            connection = self._connected(create=True)
            assert connection is not None
            with self._transaction(connection, "BEGIN IMMEDIATE"):
                yield connection

    @contextlib.contextmanager
    def noting(self) -> Iterator[sqlite3.Connection]:
        """Like `writing`, for what may be left out: does not wait for other writers; the caller suppresses `sqlite3.Error`."""
        with self._lock:
            if self._connection is None:
                raise sqlite3.OperationalError("the store is closed")
            self._connection.execute("PRAGMA busy_timeout = 0")
            try:
                with self._transaction(self._connection, "BEGIN IMMEDIATE"):
                    yield self._connection
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {int(_PATIENCE * 1000)}")

    @contextlib.contextmanager
    def outside_transactions(self) -> Iterator[sqlite3.Connection | None]:
        """Give the bare connection, for VACUUM and checkpoints; None where there is no store yet. Raises `StoreError`."""
        with self._lock, _readable_errors(self.path):
            yield self._connected(create=False)

    def close(self) -> None:
        """Close the connection, if there is one; the next use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    @contextlib.contextmanager
    def _transaction(self, connection: sqlite3.Connection, begin: str) -> Iterator[None]:
        if self._in_use:
            raise RuntimeError("the feature store was called from within its own transaction")
        self._in_use = True
        try:
            connection.execute(begin)
            yield
            connection.execute("COMMIT")
        finally:
            self._in_use = False
            if connection.in_transaction:  # also after Ctrl-C
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    def _connected(self, *, create: bool) -> sqlite3.Connection | None:
        if self._forked_in_use:
            raise StoreError(
                f"the feature store {self.path} was in use while this process was forked. Start processes with 'spawn' instead."
            )
        if self._connection is not None and self._file != _identity(self.path):
            self.close()  # the file was deleted or replaced: what is written into the old one would be lost
        if self._connection is None:
            if create:
                create_folder(self.path.parent)
            elif not os.path.lexists(self.path):
                return None
            self._connection = _open(self.path, create=create, lenient=self._lenient)
            self._file = _identity(self.path)
        return self._connection


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open(path: Path, *, create: bool, lenient: bool) -> sqlite3.Connection | None:
    """Return a connection to the store at `path`; None where the file holds nothing yet and `create` is False."""

    def prepare(connection: sqlite3.Connection) -> bool:
        return _recognise(connection, path, lenient=True) if lenient else _prepare(connection, path, create=create)

    try:
        return _connect(path, "mode=rwc" if create else "mode=rw", prepare)
    except sqlite3.OperationalError as error:
        if _code(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or not path.is_file() or file_size(path, "-wal"):
            raise
        # A store on a read-only disk can still be read.
        return _connect(path, "mode=ro&immutable=1", lambda connection: _recognise(connection, path, lenient=lenient))


def _connect(path: Path, mode: str, prepare: Callable[[sqlite3.Connection], bool]) -> sqlite3.Connection | None:
    uri = f"{path.absolute().as_uri()}?{mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    recognised = False
    try:
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # damaged text must not raise, it is simply not found
        recognised = prepare(connection)
    finally:
        if not recognised:
            connection.close()
    return connection if recognised else None


def file_size(path: Path, ending: str = "") -> int:
    """Bytes of the store at `path`, or of SQLite's file of that ending beside it (``-wal``); 0 where there is none."""
    file = path.with_name(path.name + ending)
    return file.stat().st_size if file.exists() else 0


def _prepare(connection: sqlite3.Connection, path: Path, *, create: bool) -> bool:
    """Set the connection up and create the tables where they are missing; return False where they are missing and `create` is False."""
    known = _recognise(connection, path)
    if not known and not create:
        return False
    if not known:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # these two only work on an empty file
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    logged = _set_journal(connection, "DELETE" if is_shared_between_machines(path) else "WAL") == "wal"
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if logged else 'FULL'}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    connection.execute("PRAGMA secure_delete = OFF")
    if not known:
        connection.execute("BEGIN IMMEDIATE")
        if not _recognise(connection, path):  # another process may have been first
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {PROTOCOL}")
        connection.execute("COMMIT")
    return True


def _recognise(connection: sqlite3.Connection, path: Path, *, lenient: bool = False) -> bool:
    """Return True for a store, False for an empty file; refuse everything else."""
    if lenient:
        connection.execute("PRAGMA writable_schema = ON")  # lifts the checks of file length and schema, https://sqlite.org/pragma.html
    application, protocol, tables = _header(connection)
    if application == APPLICATION and protocol == PROTOCOL:
        return True
    if application == APPLICATION:
        raise StoreError(
            f"the feature store {path} was written by another version of Headstart (protocol {protocol}; this version reads {PROTOCOL}). "
            "Upgrade Headstart, or choose another folder with --cache DIR."
        )
    if application or protocol or tables:
        raise StoreError(
            f"{path} is the SQLite file of another program, not a feature store. Move it away, or choose another folder with --cache DIR."
        )
    return False


def _header(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Application id, protocol and number of tables, of one moment: another process may be creating them just now."""
    alone = not connection.in_transaction
    if alone:
        connection.execute("BEGIN")
    try:
        queries = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        application, protocol, tables = (int(connection.execute(query).fetchone()[0]) for query in queries)
        return application, protocol, tables
    finally:
        if alone:
            connection.execute("ROLLBACK")


def _set_journal(connection: sqlite3.Connection, target: str) -> str:
    """Return the journal mode in force; while another process prevents a change, the present mode will do."""
    deadline = time.monotonic() + 2.0
    while True:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == target.lower() or time.monotonic() > deadline:
            return str(mode)
        try:
            (mode,) = connection.execute(f"PRAGMA journal_mode = {target}").fetchone()
            return str(mode)
        except sqlite3.OperationalError as error:
            if _code(error) == sqlite3.SQLITE_BUSY:
                time.sleep(0.01)  # SQLite does not wait by itself here
            elif target == "DELETE":
                raise
            else:
                target = "DELETE"  # a file system without shared memory


def _code(error: BaseException | None) -> int:
    """Return SQLite's primary result code, 0 where there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


@contextlib.contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise StoreError(_message(path, error)) from error


def is_damage(error: BaseException | None) -> bool:
    """Tell whether an error means that a part of the file is damaged (and not that it is not an SQLite file at all)."""
    # The statements here are right, so where SQLite finds them wrong (SQLITE_ERROR), it is the schema in the file that is damaged;
    # and Python cannot decode SQLite's message when that quotes a damaged schema.
    return isinstance(error, UnicodeDecodeError) or _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH)


_ELSEWHERE = "choose another folder with --cache DIR."
_MESSAGES = {
    sqlite3.SQLITE_FULL: "the disk is full: {path}. Free some space, run 'headstart cache prune', or",
    sqlite3.SQLITE_IOERR: "the disk refuses to read or write {path} ({error}). Is it full, or a quota exhausted? Free some space, or",
    sqlite3.SQLITE_READONLY: "the feature store {path} is read-only. Grant yourself write permission for the file and its folder, or",
    sqlite3.SQLITE_CANTOPEN: "the feature store {path} cannot be opened ({why}). Check the permissions of the file and its folder, or",
    sqlite3.SQLITE_NOTADB: "{path} is not a feature store, or its beginning is damaged ({error}). Move or delete it, "
    "and a new one is created; or",
    sqlite3.SQLITE_BUSY: "another process has locked the feature store {path} for more than {patience:.0f} seconds. Wait for it, or",
}


def _message(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> str:
    """Say what happened to the store at `path`, and what to do."""
    if is_damage(error):
        return (
            f"the feature store {path} is damaged ({error}). Run 'headstart cache verify --repair' to keep what is intact, "
            "or delete the file: its features are then recomputed."
        )
    code = sqlite3.SQLITE_BUSY if _code(error) == sqlite3.SQLITE_LOCKED else _code(error)
    message = _MESSAGES.get(code, "the feature store {path} cannot be used ({error}). Run 'headstart cache verify', or")
    why = "it is a folder" if path.is_dir() else "its folder cannot be used" if not path.parent.is_dir() else str(error)
    return f"{message.format(path=path, error=error, why=why, patience=_PATIENCE)} {_ELSEWHERE}"


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_forking = threading.Lock()
_held: list[Database] = []


def _before_fork() -> None:
    _forking.acquire()
    for database in list(_databases):
        database._lock.acquire()  # waits for a transaction in another thread
        _held.append(database)
        if not database._in_use:  # else the forking thread itself is inside a transaction
            database.close()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()._lock.release()
    _forking.release()


def _after_fork_in_child() -> None:
    for database in _held:
        database._forked_in_use = database._in_use
    _after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


@dataclass(frozen=True)
class Extractor:
    """One row of the table of extractors: its number in this file, its id, and the numbers in each of its vectors."""

    key: int
    name: str
    dim: int

    def checksum(self, digest: bytes, vector: bytes | memoryview) -> int:
        """Return the CRC-32 of one row, an unsigned 32-bit integer."""
        return zlib.crc32(vector, zlib.crc32(digest, zlib.crc32(self.name.encode())))

    def is_whole(self, digest: object, vector: object, checksum: object) -> bool:
        """Tell whether a row holds what was written."""
        if not isinstance(digest, bytes) or not isinstance(vector, bytes) or len(vector) != self.dim * FLOAT_BYTES:
            return False
        return self.checksum(digest, vector) == checksum


def find_extractor(connection: sqlite3.Connection, name: str) -> Extractor | None:
    """Return the extractor of that id, or None where the store has none."""
    found = connection.execute("SELECT extractor, dim FROM extractors WHERE name = ?", (name,)).fetchone()
    return None if found is None else Extractor(found[0], name, found[1])


def need_extractor(connection: sqlite3.Connection, name: str, dim: int) -> Extractor:
    """Return the extractor of that id, adding it where it is missing. Raises `StoreError` where it is there with another dim."""
    if find_extractor(connection, name) is None:
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
            "An extractor that gives something else needs another id; 'headstart cache prune --extractor ID' removes the old vectors."
        )


def read(connection: sqlite3.Connection, extractor: Extractor, digests: Sequence[bytes]) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield (digest, vector, batch) for every whole row among `digests`, each once, in the order of the file."""
    rows = _rows_of(connection, extractor, digests)
    for some, marks in _chunks(sorted(rows)):
        query = f"SELECT row, batch, checksum, vector FROM features WHERE row IN ({marks})"  # noqa: S608 - question marks only
        for row, batch, checksum, vector in connection.execute(query, some):
            digest = rows[row]
            if extractor.is_whole(digest, vector, checksum):
                yield digest, vector, batch


def insert(connection: sqlite3.Connection, extractor: Extractor, vectors: Mapping[bytes, memoryview | bytes]) -> tuple[int, int, int]:
    """Write vectors (float32, little-endian) by digest as one batch; intact rows that are there already stay as they are.

    Returns how many were written, were there already, and were there with another vector.
    """
    rows = {digest: row for row, digest in _rows_of(connection, extractor, list(vectors)).items()}
    present = {digest: vector == vectors[digest] for digest, vector, _ in read(connection, extractor, list(rows))} if rows else {}
    damaged = [(row,) for digest, row in rows.items() if digest not in present]
    connection.executemany("DELETE FROM features WHERE row = ?", damaged)
    new = [digest for digest in vectors if digest not in present]
    if new:
        moment = now()
        batch = connection.execute(
            "INSERT INTO batches (extractor, created, used) VALUES (?, ?, ?)", (extractor.key, moment, moment)
        ).lastrowid
        connection.executemany(
            "INSERT INTO features (extractor, batch, checksum, digest, vector) VALUES (?, ?, ?, ?, ?)",
            ((extractor.key, batch, extractor.checksum(digest, vectors[digest]), digest, vectors[digest]) for digest in new),
        )
    return len(new), len(present), sum(not same for same in present.values())


def now() -> int:
    """The time in whole seconds since 1970."""
    return int(time.time())


def _rows_of(connection: sqlite3.Connection, extractor: Extractor, digests: Sequence[bytes]) -> dict[int, bytes]:
    """Return row number -> digest, from the index alone; the rows are then read in the order of the file, which spares a hard disk."""
    found: dict[int, bytes] = {}
    for some, marks in _chunks(digests):
        query = f"SELECT row, digest FROM features WHERE extractor = ? AND digest IN ({marks})"  # noqa: S608 - question marks only
        found.update(connection.execute(query, (extractor.key, *some)))
    return found


def _chunks(items: Sequence[_T]) -> Iterator[tuple[Sequence[_T], str]]:
    """Yield the items some at a time, with a placeholder for each of them."""
    for start in range(0, len(items), _AT_ONCE):
        some = items[start : start + _AT_ONCE]
        yield some, ",".join("?" * len(some))
