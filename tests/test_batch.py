"""Batch prediction: what one command would have printed, whatever happened in between."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batches import make_foreign, make_many
from headstart.batch import BatchSettings, predict_folder
from headstart.batch import folder as folder_module
from headstart.batch.folder import Part, read_listing, write_listing
from headstart.batch.job import Tasks, Work
from headstart.data import list_images
from headstart.data.tables import read_table
from headstart.errors import DataError, HeadstartError, RunError
from headstart.progress import Progress
from headstart.reliability.shift import MEANING, REMEDY
from headstart.run import Run, load

pytestmark = pytest.mark.filterwarnings("ignore:Passed over", "ignore:.*cannot be read and")

Cli = Callable[..., Any]
SMALL = BatchSettings(part=8, top=2)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `make_many`."""
    return make_many(tmp_path_factory.mktemp("many"))


# Listing


def test_the_listing_is_that_of_the_other_commands(many: Path, tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is sorted in pieces, and where a folder is full of traps."""
    odd = tmp_path / "odd"
    shutil.copytree(many, odd)
    shutil.copytree(run, odd / "run")
    (odd / ".hidden").mkdir()
    for name in (".hidden/x.png", "Thumbs.db", "UPPER.JPG", "a/é.png", "a.png", "a0.png"):
        (odd / name).write_bytes(b"x")
    (odd / "loop").symlink_to(odd)
    (odd / "nowhere.png").symlink_to(odd / "gone.png")
    (odd / "linked.png").symlink_to(odd / "a.png")
    monkeypatch.setattr(folder_module, "_SORTED_TOGETHER", 7)
    monkeypatch.setattr(folder_module, "_READ", 5)
    sources = [odd / "a.png", odd, many / "z"]
    listed = write_listing(sources, tmp_path / "listing")
    assert [Path(name) for name in read_listing(tmp_path / "listing")] == list_images(sources)
    assert listed.images == len(list_images(sources))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["listing", "odd"]  # the pieces are gone
    assert "run folder" in " ".join(listed.notes)


def test_the_digest_of_a_listing_is_of_the_names_below_the_folder(many: Path, tmp_path: Path) -> None:
    shutil.copytree(many, tmp_path / "elsewhere")
    first, second = (write_listing([folder], tmp_path / "listing") for folder in (many, tmp_path / "elsewhere"))
    assert first.digest == second.digest
    (tmp_path / "elsewhere" / "a" / "0.png").rename(tmp_path / "elsewhere" / "a" / "00.png")
    assert write_listing([tmp_path / "elsewhere"], tmp_path / "listing").digest != first.digest


def test_names_that_are_no_text(tmp_path: Path, run: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    try:
        (tmp_path / name).write_bytes(b"no image")
    except OSError:
        pytest.skip("this file system takes only names that are valid text")
    for suffix in ("csv", "jsonl", "parquet"):
        result = predict_folder(run, [tmp_path / name], out=tmp_path / f"t.{suffix}")
        assert result.refused == 1
        assert read_table(result.out).columns["path"] == [f"{tmp_path}/\\udcff.png"]


# The table


def test_csv_is_what_predict_prints(cli: Cli, run: Path, many: Path) -> None:
    printed = cli("predict", run, many, "--format", "csv", "--top", "3", "-q")
    done = cli("predict", run, many, "--batch", "--out", "t.csv", "--top", "3", "-q")
    assert done.code == 0
    assert Path("t.csv").read_text("utf-8") == printed.out
    assert done.out == "43 images, 2 of them refused in t.csv\n"
    assert sorted(path.name for path in Path().iterdir()) == ["t.csv", "t.csv.job.json"]


def test_images_of_another_world_are_told_before_their_table(cli: Cli, run: Path, tmp_path: Path) -> None:
    foreign = make_foreign(tmp_path / "foreign")
    warning = (
        "Warning: The images come from another world than the training images: 100 % of them are unlike these, where 3.0 % are expected. "
        f"{MEANING} {REMEDY}\n"
    )
    assert cli("predict", run, foreign, "-q").err == warning
    done = cli("predict", run, foreign, "--batch", "--out", "t.csv", "-q")
    assert (done.code, done.err, done.out) == (0, warning, "24 images in t.csv\n")
    assert json.loads(Path("t.csv.job.json").read_text())["unlike"] == 24
    assert cli("predict", run, foreign, "--batch", "--out", "t.csv", "--resume", "-q").err == warning, "a table that is there says it again"


def test_json_lines_are_what_predict_prints(cli: Cli, run: Path, many: Path) -> None:
    printed = json.loads(cli("predict", run, many, "--format", "json", "--accuracy", "0.5", "--top", "2", "-q").out)
    assert cli("predict", run, many, "--batch", "--out", "t.jsonl", "--accuracy", "0.5", "--top", "2", "-q").code == 0
    assert [json.loads(line) for line in Path("t.jsonl").read_text("utf-8").split("\n")[:-1]] == printed


def test_parquet_has_the_same_rows_with_types(run: Path, many: Path, tmp_path: Path) -> None:
    for suffix in ("parquet", "jsonl"):
        predict_folder(run, [many], out=tmp_path / f"t.{suffix}", settings=SMALL)
    table = read_table(tmp_path / "t.parquet").columns
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text("utf-8").split("\n")[:-1]]
    for key in ("path", "label", "error", "set", "unlike", "nearest"):
        assert table[key] == [row.get(key) for row in rows]
    for key in ("probability", "unlikeness"):
        assert table[key] == [None if key not in row else pytest.approx(row[key], abs=1e-5) for row in rows]
    assert table["label_2"] == [row["top"][1]["label"] if "top" in row else None for row in rows]
    assert set(table) == {
        "path", "label", "probability", "error", "set", "unlike", "unlikeness", "nearest", "label_2", "probability_2",
    }  # fmt: skip
    assert type(table["unlike"][0]) is bool


def test_several_labels(many: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    from headstart import FitSettings, fit

    rows = [f"{path},{path.parent.name}{';seen' if index % 2 else ''}" for index, path in enumerate(sorted(pictures.glob("*/*.png")))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    run = fit(tmp_path / "list.csv", out=tmp_path / "run", settings=FitSettings(head="ridge", cache=cache)).run
    assert run is not None
    tables = {}
    for suffix in ("csv", "jsonl", "parquet"):
        tables[suffix] = read_table(predict_folder(run, [many], out=tmp_path / f"t.{suffix}", settings=SMALL).out).columns
    assert tables["parquet"]["label"] == tables["jsonl"]["label"]
    assert [";".join(labels or ()) for labels in tables["parquet"]["label"]] == tables["csv"]["label"]
    assert any(len(labels or ()) > 1 for labels in tables["parquet"]["label"])
    wanted = load(run).predict(list_images([many]))
    assert [tuple(labels) for labels in tables["parquet"]["label"] if labels is not None] == list(wanted.labels)


# What cannot be


def test_mistakes_are_answered(cli: Cli, run: Path, many: Path) -> None:
    Path("folder.csv").mkdir()
    Path("there.csv").write_text("mine")
    Path("x.csv.parts").mkdir()
    Path("x.csv.parts", "mine.txt").touch()
    for given, message in {
        ("--batch",): "say where, for example --out predictions.parquet",
        ("--out", "t.csv"): "--out belongs to --batch",
        ("--ray", "local"): "--ray belongs to --batch",
        ("--batch", "--out", "t.xlsx"): r"--out must end in .parquet, .csv or .jsonl",
        ("--batch", "--out", "no/t.csv"): "there is no folder",
        ("--batch", "--out", "folder.csv"): "already exists",
        ("--batch", "--out", "there.csv"): "already exists",
        ("--batch", "--out", "there.csv", "--resume"): "no record says of which job",
        ("--batch", "--out", "x.csv"): "holds other files",
        ("--batch", "--out", "t.csv", "--format", "csv"): "Leave --format out",
        ("--batch", "--out", "t.csv", "--shard", "3/2"): "--shard must be i/n",
        ("--batch", "--out", "t.csv", "--top", "0"): "top must be a whole number of at least 1, got 0",
        ("--batch", "--out", "t.csv", "--ray", "ray://head:10001"): "Ray's client is not supported",
        ("--batch", "--out", "t.csv", "--ray", "192.0.2.1:6379"): "is open to its network",
        ("--merge", "--out", "t.csv", "--resume"): "--merge reads tables that are done",
    }.items():
        done = cli("predict", run, many, *given)
        assert (done.code, message in done.err) == (2, True), done.err
        assert not Path("t.csv").exists()
    assert Path("there.csv").read_text() == "mine"


def test_what_is_no_folder_of_images(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, message in (("gone", "no such file or folder"), ("empty", "no images at any depth")):
        with pytest.raises(DataError, match=message):
            predict_folder(run, [tmp_path / source], out=tmp_path / "t.csv")
        shutil.rmtree(tmp_path / "t.csv.parts")


def test_a_worker_with_another_run_is_refused(run: Path, many: Path, tmp_path: Path) -> None:
    def compute(work: Work, opened: Run, tasks: Tasks, progress: Progress) -> Iterator[Part]:
        manifest = run / "manifest.json"
        content = json.loads(manifest.read_text("utf-8"))
        assert work.digest == content["digest"]
        with pytest.raises(RunError, match="another run than the one that this job began with"):
            type(work)(**{**vars(work), "digest": "0" * 64}).open()
        yield from ()

    with pytest.raises(HeadstartError, match="0 of 43 images have a row"):
        predict_folder(run, [many], out=tmp_path / "t.csv", compute=compute)


def test_nothing_that_can_be_read_is_bad_input(cli: Cli, run: Path) -> None:
    Path("broken.png").write_bytes(b"no image")
    done = cli("predict", run, "broken.png", "--batch", "--out", "t.csv")
    assert done.code == 2
    assert done.out == "1 images, 1 of them refused in t.csv\n"
