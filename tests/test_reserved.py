"""Names are taken before the work begins, and nothing that Headstart did not write is overwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from forked import Command
from headstart import FitSettings, fit, load
from headstart.errors import DataError, RunError
from headstart.run import reserved, writing_run

Cli = Callable[..., SimpleNamespace]
QUICK = ("--head", "centroid", "-q")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_fits_at_once_each_have_a_run_of_their_own(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun = [Command("fit", pictures, *QUICK, "--seed", str(seed)) for seed in (1, 2, 3)]
    assert all(command.ended().returncode == 0 for command in begun)
    runs = tmp_path / "runs"
    assert names(runs) == [pictures.name, f"{pictures.name}-2", f"{pictures.name}-3"]
    assert {load(run).manifest.provenance["settings"]["seed"] for run in runs.iterdir()} == {1, 2, 3}


def test_of_two_fits_into_one_folder_the_second_is_refused(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "R"
    with reserved(run):
        assert names(run) == []
        other = cli("fit", pictures, *QUICK, "--out", run)
        assert other.code == 2
        assert other.err == f"Error: Another fit is writing the run {run}. Wait for it, or choose another --out.\n"
        with pytest.raises(RunError, match="Another fit is writing the run"):
            fit(pictures, out=run, settings=FitSettings(head="centroid"))
    assert cli("fit", pictures, *QUICK, "--out", run).code == 0
    with reserved(run):
        assert cli("fit", pictures, *QUICK, "--out", run).code == 2
    assert cli("fit", pictures, *QUICK, "--out", run).code == 0  # an earlier run is replaced


def test_a_fit_that_fails_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    here = tmp_path / "here"
    assert cli("fit", "nothing").code == 2
    assert cli("fit", "nothing", "--out", "a/b/c").code == 2
    assert list(here.iterdir()) == []
    (here / "mine").mkdir()
    assert cli("fit", "nothing", "--out", "mine").code == 2
    assert [path.name for path in here.iterdir()] == ["mine"]  # it was there before


def test_names_that_are_taken_are_passed_over(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a-2").write_text("a file")
    (tmp_path / "runs" / "a-3").symlink_to(tmp_path / "nowhere")
    (tmp_path / "runs" / "a-4.training").mkdir()
    with reserved(run, numbered=True) as target, reserved(run, numbered=True) as next_one:
        assert (target.name, next_one.name) == ("a-5", "a-6")
    assert not target.exists()
    assert not next_one.exists()


def test_a_reserved_folder_becomes_the_run_at_once(tmp_path: Path) -> None:
    run = tmp_path / "R"
    with reserved(run):
        with writing_run(run) as folder:
            assert folder.parent.parent == tmp_path  # beside it: it is replaced as a whole
            (folder / "manifest.json").write_text("{}")
            assert names(run) == []
        assert names(run) == ["manifest.json"]
    assert names(run) == ["manifest.json"]


def test_what_comes_into_the_folder_meanwhile_is_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "R"
    with reserved(run):
        (run / "thesis.txt").write_text("mine")
        with pytest.raises(RunError, match="not an earlier run; it is left as it is"), writing_run(run):
            pytest.fail("it began")
    assert (run / "thesis.txt").read_text() == "mine"


def test_a_copy_of_a_run_in_use_can_be_fitted_elsewhere(pictures: Path, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    with pytest.raises(DataError), reserved(copy):
        raise DataError("the data are bad")
    assert json.loads((copy / "manifest.json").read_text()) == manifest


MINE = b"a thesis, a photograph, or what else is not Headstart's"


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "RUN", "DATA", "--out", "FILE.json"),
        ("evaluate", "RUN", "DATA", "--picture", "FILE.png"),
        ("check", "DATA", "--out", "FILE.json"),
        ("report", "RUN", "--out", "FILE.html"),
        ("compare", "RUN", "RUN", "--out", "FILE.json"),
        ("export", "RUN", "--out", "FILE.onnx"),
        ("predict", "RUN", "DATA", "--batch", "--out", "FILE.csv"),
    ],
    ids=" ".join,
)
def test_a_command_replaces_its_own_file_alone(cli: Cli, run: Path, pictures: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    given = [{"RUN": str(run), "DATA": str(pictures)}.get(word, word) for word in words]
    file = tmp_path / "here" / given[-1]
    file.write_bytes(MINE)
    done = cli(*given)
    assert (done.code, file.read_bytes()) == (2, MINE)
    assert f"{file.name} " in done.err
    assert "Traceback" not in done.err
    if words[0] in ("export", "compare"):  # takes long, and is not for one run twice
        return
    file.unlink()
    assert cli(*given).code == 0
    assert cli(*given, *(["--resume"] if "--batch" in words else [])).code == 0  # its own


def test_pictures_of_explanations_take_other_names(cli: Cli, run: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "here"
    mine = out / f"{photo.stem}.jpg"
    mine.write_bytes(MINE)
    for _ in range(2):
        assert cli("explain", run, photo, "--out", ".").code == 0
    assert names(out) == [f"{photo.stem}-2.jpg", f"{photo.stem}.jpg"]
    assert mine.read_bytes() == MINE


def test_the_record_of_a_batch_replaces_no_other_file(cli: Cli, run: Path, photo: Path, tmp_path: Path) -> None:
    record = tmp_path / "here" / "t.csv.job.json"
    record.write_bytes(MINE)
    done = cli("predict", run, photo, "--batch", "--out", "t.csv")
    assert (done.code, record.read_bytes()) == (2, MINE)
    assert "t.csv.job.json would record this job, and Headstart did not write it" in done.err
