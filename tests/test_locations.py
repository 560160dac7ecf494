from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from headstart import locations
from headstart.errors import StoreError


def test_the_given_folder_wins_over_the_environment_and_that_over_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "environment"))
    assert locations.cache_folder(tmp_path / "given") == tmp_path / "given"
    assert locations.cache_folder() == tmp_path / "environment"
    monkeypatch.setenv("HEADSTART_CACHE", "")
    assert locations.cache_folder() == platformdirs.user_cache_path("headstart", appauthor=False)
    assert list(tmp_path.iterdir()) == []  # nothing is created by asking


def test_the_cache_folder_is_absolute_and_knows_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert locations.cache_folder("near") == tmp_path / "near"
    assert locations.cache_folder("~/far") == tmp_path / "home" / "far"


def test_the_parts_of_the_cache_are_three_different_places(tmp_path: Path) -> None:
    parts = {locations.feature_store_file(tmp_path), locations.networks_folder(tmp_path), locations.weights_folder(tmp_path)}
    assert {part.parent for part in parts} == {tmp_path}
    assert len(parts) == 3


def test_a_new_folder_is_marked_as_a_cache_and_an_old_one_is_left_alone(tmp_path: Path) -> None:
    made = locations.create_folder(tmp_path / "a" / "b")
    assert (made / "CACHEDIR.TAG").read_text("utf-8").startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    assert locations.create_folder(tmp_path) == tmp_path
    assert not (tmp_path / "CACHEDIR.TAG").exists()


def test_a_folder_below_a_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"the folder .*file.* cannot be created \(.+\)\. Choose another one with --cache DIR"):
            locations.create_folder(folder)


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
    assert locations.is_shared_between_machines(Path(folder), mounts=table) is shared


def test_without_a_table_of_mounts_nothing_is_called_shared(tmp_path: Path) -> None:
    assert not locations.is_shared_between_machines(tmp_path, mounts=tmp_path / "absent")
