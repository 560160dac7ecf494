from __future__ import annotations

import hashlib
from pathlib import Path

import platformdirs
import pytest

from headstart import files
from headstart.errors import StoreError
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


def test_the_given_folder_wins_over_the_environment_and_that_over_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "environment"))
    assert files.cache_folder(tmp_path / "given") == tmp_path / "given"
    assert files.cache_folder() == tmp_path / "environment"
    monkeypatch.setenv("HEADSTART_CACHE", "")
    assert files.cache_folder() == platformdirs.user_cache_path("headstart", appauthor=False)
    assert list(tmp_path.iterdir()) == []  # nothing is created by asking


def test_the_cache_folder_is_absolute_and_knows_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert files.cache_folder("near") == tmp_path / "near"
    assert files.cache_folder("~/far") == tmp_path / "home" / "far"


def test_a_new_folder_is_marked_as_a_cache_and_an_old_one_is_left_alone(tmp_path: Path) -> None:
    made = files.create_folder(tmp_path / "a" / "b")
    assert (made / "CACHEDIR.TAG").read_text("utf-8").startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    assert files.create_folder(tmp_path) == tmp_path
    assert not (tmp_path / "CACHEDIR.TAG").exists()


def test_a_folder_below_a_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"the folder .*file.* cannot be created \(.+\)\. Choose another one with --cache DIR"):
            files.create_folder(folder)


@pytest.mark.parametrize(
    ("folder", "shared"),
    [
        ("/", False),
        ("/home/me", True),
        ("/home/me/cache", True),
        ("/home/meadow", False),
        ("/home/me/local disk/x", False),
        ("/stack", True),
        ("/remote/x", True),
        ("/ntfs", False),
    ],
)
def test_network_file_systems_are_recognised_by_the_nearest_mount(tmp_path: Path, folder: str, shared: bool) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/sda / ext4 rw 0 0\nserver:/home /home/me nfs4 rw 0 0\n/dev/sdb /home/me/local\\040disk xfs rw 0 0\n"
        "tmpfs /stack tmpfs rw 0 0\n//server/share /stack cifs rw 0 0\nhost: /remote fuse.sshfs rw 0 0\n/dev/sdc /ntfs fuseblk rw 0 0\n\n"
    )
    assert files.is_shared_between_machines(Path(folder), mounts=table) is shared


def test_without_a_table_of_mounts_nothing_is_called_shared(tmp_path: Path) -> None:
    assert not files.is_shared_between_machines(tmp_path, mounts=tmp_path / "absent")
