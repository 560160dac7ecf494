"""What happens to a feature store: killed writers, full and read-only disks, damaged files, files of others."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headstart.errors import StoreError
from headstart.features import FeatureStore, database
from interrupting import interrupted
from store_writer import EXTRACTOR, digest, vectors

WRITER = Path(__file__).with_name("store_writer.py")


def start(*arguments: object, before: str = "pass") -> subprocess.Popen[str]:
    """Start a writer; `before` is a piece of Python that it runs first."""
    code = f"import runpy, sys; {before}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(WRITER), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_own_mounts(script: str, *arguments: object) -> str:
    """Run a shell script that may mount things no one else sees; skip the test where this system does not allow it."""
    try:
        allowed = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False, timeout=30).returncode == 0
    except OSError:
        allowed = False
    if not allowed:
        pytest.skip("this system does not let the test mount a disk of its own")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-ec", script, "sh", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def committed(output: str) -> list[int]:
    """Return the numbers that a writer says are kept; the last line may be torn by the kill."""
    return [int(number) for line in output.splitlines(keepends=True) if line.endswith("\n") for number in line.split() if number.isdigit()]


def assert_holds(store: FeatureStore, numbers: list[int]) -> None:
    values = store.get(EXTRACTOR, [digest(number) for number in numbers])
    for number in numbers:
        assert values[digest(number)].tobytes() == vectors([number])[0].tobytes()


def fill(path: Path, count: int, batch: int = 10) -> None:
    with FeatureStore(path) as store:
        for first in range(0, count, batch):
            some = list(range(first, min(count, first + batch)))
            store.put(EXTRACTOR, [digest(number) for number in some], vectors(some))


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_it_had_committed(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    chance = random.Random(5)
    known: set[int] = set()
    for turn in range(5):
        command = [sys.executable, WRITER, path, turn * 4000, 1_000_000, 8]
        killed = interrupted(command, when=bool, delay=chance.uniform(0.0, 0.15))
        assert (killed.code, killed.err) == (-signal.SIGKILL, "")
        known |= set(committed(killed.out))
        with FeatureStore(path) as store:
            assert_holds(store, sorted(known))
            (each,) = store.summary().extractors
            assert len(known) <= each.rows <= len(known) + 8 * (turn + 1)  # whole batches that were kept but not yet reported
            assert each.rows % 8 == 0
            assert store.verify().sound


@pytest.mark.slow
def test_processes_fill_one_store_with_overlapping_keys(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    writers = [start(path, first, first + 200, 7, seed) for seed, first in enumerate((0, 100, 50, 100))]
    for writer in writers:
        output, complaints = writer.communicate(timeout=60)
        assert (writer.returncode, complaints) == (0, "")
        assert len(committed(output)) == 200
    with FeatureStore(path) as store:
        assert_holds(store, list(range(300)))
        assert [each.rows for each in store.summary().extractors] == [300]
        assert store.verify().sound


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_a_limit_on_the_size_of_files_is_reported_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    writer = start(path, 0, 10_000, 10, before="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))")
    output, complaints = writer.communicate(timeout=60)
    assert complaints == ""
    assert "refused: the disk refuses to read or write" in output
    assert "Is it full, or a quota exhausted? Free some space, or choose another folder with --cache DIR." in output
    kept = committed(output.split("refused")[0])
    assert len(kept) >= 20
    with FeatureStore(path) as store:
        assert_holds(store, kept)
        assert store.verify().sound
        store.put(EXTRACTOR, [digest(-1)], vectors([20_000]))


def test_a_full_disk_is_reported_and_nothing_is_lost(tmp_path: Path) -> None:
    script = (
        'mount -t tmpfs -o size=600k none "$1"; "$2" "$3" "$1/s.sqlite" 0 10000 10; "$2" "$3" "$1/s.sqlite" 5 6 1; cp "$1"/s.sqlite* "$4"'
    )
    (tmp_path / "disk").mkdir()
    (tmp_path / "copy").mkdir()
    output = in_own_mounts(script, tmp_path / "disk", sys.executable, WRITER, tmp_path / "copy")
    assert "refused: the disk is full: " in output
    assert "Free some space, run 'headstart cache prune', or choose another folder with --cache DIR." in output
    kept = committed(output.split("refused")[0])
    assert len(kept) >= 50
    with FeatureStore(tmp_path / "copy" / "s.sqlite") as store:
        assert_holds(store, kept)
        assert store.verify().sound


READ_ONLY = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
from interrupting import interrupted
from store_writer import EXTRACTOR, StoreError, FeatureStore, digest, vectors
for name in ("s.sqlite", "none.sqlite"):
    with FeatureStore(Path(sys.argv[2]) / name) as store:
        print(len(store.get(EXTRACTOR, [digest(n) for n in range(30)])), store.verify().good)
        try:
            store.put(EXTRACTOR, [digest(99)], vectors([99]))
        except StoreError as error:
            print(error)
"""


def test_from_a_read_only_disk_features_are_still_read(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    fill(tmp_path / "disk" / "s.sqlite", 20)
    script = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; "$2" -W error -c "$3" "$4" "$1"'
    lines = in_own_mounts(script, tmp_path / "disk", sys.executable, READ_ONLY, WRITER).splitlines()
    assert lines[0] == "20 20"
    assert "s.sqlite is read-only. Grant yourself write permission for the file and its folder, or choose another folder" in lines[1]
    assert lines[2] == "0 0"
    assert "none.sqlite cannot be opened (unable to open database file). Check the permissions of the file and its folder" in lines[3]


def test_a_store_below_a_file_and_a_folder_in_its_place_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with FeatureStore(tmp_path / "file" / "s.sqlite") as store:
        assert store.get("e", [digest(1)]) == {}
        with pytest.raises(StoreError, match=r"the folder .*file cannot be created"):
            store.put("e", [digest(1)], vectors([1]))
    with FeatureStore(tmp_path) as store, pytest.raises(StoreError, match=r"cannot be opened \(it is a folder\)"):
        store.get("e", [digest(1)])


def test_a_store_that_another_process_keeps_busy_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite"
    fill(path, 10)
    monkeypatch.setattr(database, "_PATIENCE", 0.2)
    blocker = sqlite3.connect(path, isolation_level=None)
    try:
        blocker.execute("BEGIN IMMEDIATE")
        with FeatureStore(path) as store:
            with pytest.raises(StoreError, match=r"another process has locked the feature store .* for more than 0 seconds. Wait for it"):
                store.put(EXTRACTOR, [digest(99)], vectors([99]))
            assert len(store.get(EXTRACTOR, [digest(1)])) == 1
            blocker.execute("ROLLBACK")
            assert store.put(EXTRACTOR, [digest(99)], vectors([99])) == 1
    finally:
        blocker.close()


def test_a_text_in_place_of_the_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_text("my diary\n" * 1000)
    with FeatureStore(path) as store:
        for attempt in (
            lambda: store.get("e", [digest(1)]),
            lambda: store.put("e", [digest(1)], vectors([1])),
            lambda: store.verify(repair=True),
        ):
            with pytest.raises(StoreError, match=r"s\.sqlite is not a feature store, or its beginning is damaged.*Move or delete it"):
                attempt()
    assert path.read_text() == "my diary\n" * 1000


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE diary (day TEXT)")
    connection.close()
    before = path.read_bytes()
    with FeatureStore(path) as store:
        for attempt in (
            lambda: store.get("e", [digest(1)]),
            lambda: store.put("e", [digest(1)], vectors([1])),
            lambda: store.verify(repair=True),
        ):
            with pytest.raises(StoreError, match=r"s\.sqlite is the SQLite file of another program, not a feature store"):
                attempt()
    assert path.read_bytes() == before


def test_a_newer_protocol_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    fill(path, 3)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with (
        FeatureStore(path) as store,
        pytest.raises(StoreError, match=r"\(protocol 2; this version reads 1\)\. Upgrade Headstart, or choose"),
    ):
        store.get(EXTRACTOR, [digest(1)])


def test_a_store_that_another_process_is_creating_is_never_seen_half_made(tmp_path: Path) -> None:
    path = tmp_path / "features.sqlite"
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("PRAGMA journal_mode = WAL")
    created: list[str] = []

    def create(statement: str) -> None:
        if "user_version" in statement and not created:  # between the two questions
            created.append(statement)
            with FeatureStore(path) as store:
                store.put(EXTRACTOR, [digest(1)], vectors([1]))

    reader.set_trace_callback(create)
    assert not database._recognise(reader, path)
    assert created
    assert database._recognise(reader, path)
    reader.close()


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.touch()
    with FeatureStore(path) as store:
        assert store.get("e", [digest(1)]) == {}
        assert store.put("e", [digest(1)], vectors([1])) == 1


def damaged(raw: bytes, kind: str, chance: random.Random) -> bytes:
    changed = bytearray(raw)
    place = chance.randrange(len(raw))
    if kind == "flip":
        changed[place] ^= 1 << chance.randrange(8)
    elif kind == "page":
        changed[place : place + 8192] = bytes(min(8192, len(raw) - place))
    elif kind == "burst":
        changed[place : place + 64] = chance.randbytes(min(64, len(raw) - place))
    elif kind == "schema":
        changed[chance.randrange(100, 8192)] ^= 255
    else:
        del changed[place:]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["flip", "page", "burst", "schema", "cut"])
def test_a_damaged_file_never_gives_wrong_features_and_can_be_repaired(tmp_path: Path, kind: str) -> None:
    fill(tmp_path / "whole.sqlite", 60)
    raw = (tmp_path / "whole.sqlite").read_bytes()
    keys, values = [digest(number) for number in range(60)], vectors(list(range(60)))
    saved = []
    for seed in range(25):
        path = tmp_path / f"{seed}.sqlite"
        path.write_bytes(damaged(raw, kind, random.Random(f"{kind}{seed}")))
        with FeatureStore(path) as store:
            try:
                for key, value in store.get(EXTRACTOR, keys).items():
                    assert value.tobytes() == values[keys.index(key)].tobytes()
            except StoreError as error:
                assert f"the feature store {path} is damaged (" in str(error) or "not a feature store" in str(error)  # noqa: PT017 - either is right
                assert "headstart cache verify --repair" in str(error) or "Move or delete it" in str(error)  # noqa: PT017
            try:
                store.verify(repair=True)
            except StoreError as error:
                assert "delete it" in str(error) or "Move it away" in str(error)  # noqa: PT017
                continue
            assert store.verify().sound
            saved.append(len(store.get(EXTRACTOR, keys)))
            assert store.put(EXTRACTOR, keys, values) == 60 - saved[-1]
            out = np.empty_like(values)
            assert store.get_into(EXTRACTOR, keys, out).all()
            assert out.tobytes() == values.tobytes()
            assert store.verify().sound
    assert len(saved) >= 20
    assert np.mean(saved) > {"flip": 57, "page": 30, "burst": 50, "schema": 30, "cut": 15}[kind]


def test_an_interrupted_repair_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite"
    fill(path, 60)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with FeatureStore(path) as store:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
            with pytest.raises(StoreError, match=r"cannot be rebuilt \(Permission denied\)\. Delete it"):
                store.verify(repair=True)
        assert path.stat().st_size == len(raw) // 2
        assert store.verify(repair=True).rebuilt
        assert store.verify().sound


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")
def test_a_writer_that_was_killed_in_the_middle_of_a_transaction_leaves_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    fill(path, 10)
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('PRAGMA cache_size = 1');"
        "c.execute('BEGIN IMMEDIATE');"
        "c.executemany('INSERT INTO features VALUES (?, 1, 1, 0, ?, ?)', [(n, bytes([n]) * 32, bytes(2800)) for n in range(50, 250)]);"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60).returncode == -9
    with FeatureStore(path) as store:
        assert [each.rows for each in store.summary().extractors] == [10]
        assert store.verify().sound
        assert_holds(store, list(range(10)))


FORK = """
import os, sys, numpy as np
from pathlib import Path
from headstart.features import FeatureStore
store = FeatureStore(Path(sys.argv[1]))
key = lambda n: bytes([n]) * 32
put = lambda n: store.put("e", [key(n)], np.full((1, 9), n, np.float32))
put(1)
ready, go = os.pipe()
child = os.fork()
if child == 0:
    os.read(ready, 1)
    for n in range(100, 130):
        put(n)
    os._exit(0)
put(2)
store.close()  # takes the log away, unless the child holds a lock of its own
os.write(go, b"x")
for n in range(3, 60):
    put(n)
    store.close()
assert os.waitpid(child, 0)[1] == 0
assert store.missing("e", [key(n) for n in [*range(1, 60), *range(100, 130)]]) == []
assert store.verify().sound
with store._database.writing():
    child = os.fork()
    if child == 0:
        try:
            store._database._lock.release()
            store.get("e", [key(1)])
        except Exception as error:
            os._exit(7 if "start processes with 'spawn'" in str(error).lower() else 1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] >> 8 == 7
store.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_store_is_carried_over_a_fork(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, str(tmp_path / "s.sqlite")], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_where_a_folder_is_shared_between_machines_no_shared_memory_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite"

    def journal() -> str:
        connection = sqlite3.connect(path)
        try:
            return str(connection.execute("PRAGMA journal_mode").fetchone()[0])
        finally:
            connection.close()

    monkeypatch.setattr(database, "is_shared_between_machines", lambda _: True)
    with FeatureStore(path) as store:
        store.put(EXTRACTOR, [digest(0)], vectors([0]))
        assert [file.name for file in tmp_path.iterdir()] == ["s.sqlite"]
    assert journal() == "delete"
    monkeypatch.undo()
    with FeatureStore(path) as store:
        assert_holds(store, [0])
        assert journal() == "wal"
