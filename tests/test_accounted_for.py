"""Every input of a command is a row with a label or a reason, or is named as passed over; one that is missing stops none of the others."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import string
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart import FitSettings, evaluate_run, fit, load, read_dataset
from headstart.batch import predict_folder
from headstart.data import ListOptions, list_images
from headstart.errors import DataError
from headstart.modalities import TEXT
from headstart.records import csv_lines
from headstart.text import unread

Cli = Callable[..., SimpleNamespace]
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def rows(out: str) -> dict[str, dict[str, str]]:
    return {row["path"]: row for row in csv.DictReader(io.StringIO(out))}


@pytest.fixture
def phone(tmp_path: Path, photo: Path) -> Path:
    """A folder as phones, browsers and archives leave it."""
    folder = tmp_path / "phone"
    (folder / "below" / "empty").mkdir(parents=True)
    (folder / "folder.jpg").mkdir()
    for name in ("0.png", "photo.jpg_large", "b.JPG", "c.png?size=large", "noext", "below/d.jpg", "folder.jpg/e.webp", "é ü.png"):
        shutil.copy(photo, folder / name)
    (folder / "IMG_1.HEIC").write_bytes(HEIC)
    (folder / "cut.png").write_bytes(photo.read_bytes()[:200])
    (folder / "page.jpg").write_bytes(b"<html>not found</html>")
    (folder / "empty.png").touch()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    for name in ("notes.txt", "labels.csv", "clip.mov", ".DS_Store", "below/Thumbs.db"):
        (folder / name).write_bytes(b"x")
    return folder


READ = {"0.png", "photo.jpg_large", "b.JPG", "c.png?size=large", "noext", "below/d.jpg", "folder.jpg/e.webp", "é ü.png"}
REFUSED = {
    "IMG_1.HEIC": "HEIC",
    "cut.png": "cut off",
    "page.jpg": "HTML",
    "empty.png": "empty",
    "gone.png": "No such",
    "pipe.png": "regular",
}
PASSED = ("notes.txt", "labels.csv", "clip.mov", ".DS_Store", "below/Thumbs.db")


def check_rows(found: dict[str, dict[str, str]], folder: Path) -> None:
    assert {name for name, row in found.items() if row["label"]} == {f"{folder}/{name}" for name in READ}
    assert {name for name, row in found.items() if row["error"]} == {f"{folder}/{name}" for name in REFUSED}
    assert all(reason in found[f"{folder}/{name}"]["error"] for name, reason in REFUSED.items())


def test_a_folder_is_predicted_with_a_row_for_each_file(cli: Cli, run: Path, phone: Path) -> None:
    done = cli("predict", run, phone, "--format", "csv")
    assert done.code == 0
    check_rows(rows(done.out), phone)
    assert "Warning: 6 of 14 images cannot be read and have no prediction:" in done.err
    assert "\n  and 1 more" in done.err  # five are named
    assert f"Passed over 3 non-image files: {phone}/clip.mov, {phone}/labels.csv and {phone}/notes.txt." in done.err
    assert f"Passed over 2 hidden or system files: {phone}/.DS_Store and {phone}/below/Thumbs.db." in done.err


def test_a_batch_has_the_same_rows_and_names_the_same(cli: Cli, run: Path, phone: Path) -> None:
    done = cli("predict", run, phone, "--batch", "--out", "t.csv")
    assert done.code == 0
    check_rows(rows(Path("t.csv").read_text()), phone)
    assert "6 of 14 images cannot be read and have a row with the reason:" in done.err
    assert "IMG_1.HEIC: " in done.err
    recorded = json.loads(Path("t.csv.job.json").read_text())
    assert all(any(name in note for note in recorded["passed over"]) for name in PASSED)


def test_one_missing_file_does_not_stop_the_others(cli: Cli, run: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "here" / "none").mkdir()
    for more in ((), ("--batch", "--out", "t.csv")):
        done = cli("predict", run, photo, "nope.jpg", "none", photo, *(more or ("--format", "csv")))
        assert done.code == 0
        found = rows(Path("t.csv").read_text() if more else done.out)
        assert (found[str(photo)]["label"], found["nope.jpg"]["label"]) == ("rings", "")
        assert "No such file" in found["nope.jpg"]["error"]
        assert "directory" in found["none"]["error"]
        assert "2 of 4 images cannot be read" in done.err
        assert "nope.jpg: cannot be read" in done.err
    done = cli("explain", run, photo, "nope.jpg")
    assert (done.code, "Warning: nope.jpg: cannot be read (No such file" in done.err) == (0, True)


def test_nothing_but_missing_files_is_an_error(cli: Cli, run: Path, tmp_path: Path) -> None:
    (tmp_path / "here" / "phone").mkdir()
    (tmp_path / "here" / "phone" / "a.txt").touch()
    done = cli("predict", run, "nope.jpg", "nope2.jpg")
    assert (done.code, done.err) == (2, "Error: nope.jpg: no such file or folder.\n")
    assert "no such file or folder. Did you mean phone?" in cli("predict", run, "phon").err
    done = cli("predict", run, "phone")
    assert (done.code, "no images at any depth below this folder. Passed over 1 non-image file: phone/a.txt." in done.err) == (2, True)


def test_a_name_that_would_become_another_is_refused(cli: Cli, run: Path, photo: Path) -> None:
    done = cli("predict", run, "")
    assert (done.code, "the name is empty (an unset variable of the shell?)" in done.err) == (2, True)
    done = cli("predict", run, "https://example.org/a.jpg")
    assert (done.code, "is an address; images are read from files only: download them" in re.sub(r"[\s│]+", " ", done.err)) == (2, True)
    assert rows(cli("predict", run, photo.as_uri(), "--format", "csv").out)[str(photo)]["label"] == "rings"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything can be read by root")
def test_a_folder_that_cannot_be_read_is_a_row(cli: Cli, run: Path, photo: Path, tmp_path: Path) -> None:
    locked = tmp_path / "in" / "locked"
    locked.mkdir(parents=True)
    shutil.copy(photo, tmp_path / "in")
    locked.chmod(0)
    try:
        done = cli("predict", run, tmp_path / "in", "--format", "csv")
    finally:
        locked.chmod(0o700)
    assert "Permission denied" in rows(done.out)[str(locked)]["error"]


def test_a_folder_that_cannot_be_listed_is_an_input(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    shutil.copy(photo, tmp_path)
    listing = os.scandir

    def scandir(folder: str) -> object:
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert list_images([tmp_path]) == [tmp_path / "locked", tmp_path / photo.name]


def test_in_python_what_is_left_out_is_a_warning(run: Path, phone: Path, photo: Path, pictures: Path, tmp_path: Path) -> None:
    opened = load(run)
    with pytest.warns(RuntimeWarning, match="1 of 2 images cannot be read and have no prediction:\n  .*empty.png: the file is empty"):
        assert opened.predict([photo, phone / "empty.png"]).labels == ("rings",)
    with pytest.warns(RuntimeWarning, match="Passed over 3 non-image files: .*clip.mov"):
        list_images([phone])
    with pytest.warns(RuntimeWarning) as caught:
        predict_folder(run, [phone], out=tmp_path / "t.csv")
    assert len(caught) == 2
    data = shutil.copytree(pictures, tmp_path / "data")
    (data / "rings" / "rings 00.png").write_bytes(b"x")
    with pytest.warns(RuntimeWarning, match="1 of 60 images cannot be read and are left out:\n  .*rings 00.png: not an image"):
        assert len(fit(data, settings=FitSettings(head="centroid")).refused) == 1
    with pytest.warns(RuntimeWarning, match="1 of 60 images cannot be read"):
        found = evaluate_run(run, read_dataset(data, classes=opened.classes))
    refused = found.to_dict()["refused"]
    assert [Path(one["path"]).name for one in refused] == ["rings 00.png"]
    assert refused[0]["reason"].startswith("not an image")


def test_fit_names_the_files_of_a_folder_that_it_passes_over(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    for name in ("IMG_1.HEIC", "IMG_2.HEIC", "photo.jpg_large"):
        (data / "rings" / name).write_bytes(HEIC)
    done = cli("fit", data, "--head", "centroid", "--out", "R", "-q")
    assert "Warning: Passed over 3 unrecognised files: rings/IMG_1.HEIC, rings/IMG_2.HEIC and rings/photo.jpg_large." in done.err
    assert any("rings/IMG_2.HEIC" in note for note in json.loads(Path("R/manifest.json").read_text())["story"]["notes"])


def test_of_many_the_first_five_and_a_count() -> None:
    text = unread([f"{index}.png: gone" for index in range(9)], 30, "are left out")
    assert text.startswith("9 of 30 images cannot be read and are left out:\n  0.png: gone\n  1.png: gone")
    assert text.endswith("  4.png: gone\n  and 4 more")
    assert unread(["a: gone"], 1, "have no row", count=7).endswith("7 of 1 image cannot be read and have no row:\n  a: gone\n  and 6 more")


NAMES = st.text(st.sampled_from(string.ascii_letters + "._ é-"), min_size=1, max_size=8).filter(lambda name: name.strip(". ") != "")
SUFFIXES = st.sampled_from(["", ".png", ".JPG", ".jpeg_large", ".heic", ".txt", ".xyz", ".png.1", ".tiff", ".mov"])
TREES = st.lists(st.tuples(st.lists(NAMES, max_size=2), NAMES, SUFFIXES, st.sampled_from([b"", b"x", HEIC])), min_size=1, max_size=12)


def planted(root: Path, tree: list[tuple[list[str], str, str, bytes]]) -> Path:
    """A folder with these files, as far as they can be beside each other."""
    for folders, name, suffix, content in tree:
        path = root.joinpath(*folders, name + suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError:  # a file is where a folder should be
            continue
    return root


def counted(note: str) -> int:
    """How many files a note says were passed over."""
    found = re.match(r"Passed over (\d+) (image|non-image file|unrecognised file|hidden or system file)s? ?", note)
    return int(found[1]) if found else 0


PARTS = st.sampled_from(["train", "test", "val", "seg_train", "pred", "images", "a", "b", "x.jpg"])
SETS = st.lists(st.tuples(st.lists(PARTS, max_size=3), NAMES, SUFFIXES, st.just(b"x")), min_size=1, max_size=12)


@settings(max_examples=60)
@given(tree=SETS)
def test_every_file_of_a_data_set_is_used_or_counted(
    tree: list[tuple[list[str], str, str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = planted(tmp_path_factory.mktemp("set"), tree)
    files = {path for path in root.rglob("*") if path.is_file() and not any(part[0] == "." for part in path.relative_to(root).parts[:-1])}
    try:
        data = read_dataset(root)
    except DataError:
        return
    if data.modality is TEXT:  # what was read of the files, which are named below the folder
        assert {*data.names()} <= {path.relative_to(root).as_posix() for path in files}
        return
    assert {*data.inputs} <= files
    beside = [note for note in data.notes if "which are beside" in note or "is the only folder" in note]
    passed = sum(map(counted, data.notes))
    assert len(data) + passed == len(files) or (beside and len(data) + passed <= len(files)), data.notes


CELLS = st.text(st.sampled_from("ab ,;|[]{}()'\"\\=.0-1é\n"), max_size=8)
ROWS = st.lists(st.tuples(st.sampled_from(["0.jpg", "1.jpg", "d/2.jpg", "gone.jpg", "", " 0.jpg"]), CELLS), min_size=1, max_size=8)


@settings(max_examples=100)
@given(rows=ROWS, head=st.sampled_from([["path", "label"], ["image", "x"], ["a", "b"]]), allow=st.booleans())
def test_every_row_of_a_list_is_used_or_counted(
    rows: list[tuple[str, str]], head: list[str], allow: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = planted(
        tmp_path_factory.getbasetemp() / "listed", [([], "0", ".jpg", b"x"), ([], "1", ".jpg", b"x"), (["d"], "2", ".jpg", b"x")]
    )
    (root / "list.csv").write_text(csv_lines([head, *map(list, rows)]), "utf-8")
    rows = [row for row in rows if any(cell.strip() for cell in row)]  # lines of spaces are none
    try:
        data = read_dataset(root / "list.csv", lists=ListOptions(allow_missing=allow))
    except DataError:
        return
    passed = [int(found[1]) for note in data.notes if (found := re.match(r"Passed over (\d+) rows? ", note))]
    assert len(data) + sum(passed) == len(rows), data.notes


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
def test_every_file_of_any_folder_is_listed_or_named(
    tree: list[tuple[list[str], str, str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = planted(tmp_path_factory.mktemp("tree"), tree)
    files = {path for path in root.rglob("*") if path.is_file() and not any(part[0] == "." for part in path.relative_to(root).parts)}
    noted: list[str] = []
    listener = SimpleNamespace(say=noted.append, left_out=noted.append)
    try:
        listed = set(list_images([root], listener))  # type: ignore[arg-type]
    except DataError as error:
        listed, noted = set(), [str(error)]
    passed = files - listed
    assert listed <= files
    shown = [path for path in passed if any(str(path) in note for note in noted)]
    assert len(shown) == min(5, len(passed))
    assert len(passed) <= 5 or any(f"and {len(passed) - 5} more" in note for note in noted)
