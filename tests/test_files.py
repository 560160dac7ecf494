from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from headstart.files import file_digest, folder_beside, move_files, replacing, write_file


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "data").write_bytes(data)
    assert file_digest(tmp_path / "data") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_as_a_whole(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(b"old")
    with replacing(path, shared=shared) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_replaces_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "kept.json", []
    monkeypatch.setattr("headstart.files.os.fsync", lambda descriptor: synced.append(path.exists()))
    write_file(path, b"new")
    write_file(path, b"newer", durable=False)
    assert synced == [False]
    assert path.read_bytes() == b"newer"


def test_a_killed_writer_leaves_one_partial_file_at_most_and_two_writers_do_not_share_one(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    with replacing(path) as first, replacing(path, shared=True) as second, replacing(path, shared=True) as third:
        for partial in (first, second, third):
            partial.write_bytes(b"data")
        assert first.name == ".kept.json.partial"
        assert len({first, second, third}) == 3


def test_files_are_moved_with_the_one_that_matters_last(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("old")
    with folder_beside(tmp_path / "b") as beside:
        assert beside.parent == tmp_path
        for name in ("a", "b", "c"):
            (beside / name).write_text(name)
        assert move_files(beside, tmp_path, last="b") == [tmp_path / "a", tmp_path / "c", tmp_path / "b"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "a", "b": "b", "c": "c"}
