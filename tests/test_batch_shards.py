"""Shards of a batch job: put together, they are the table of one job."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batches import make_many
from headstart.batch import BatchResult, BatchSettings, merge, predict_folder
from headstart.settings.batch import Shard

pytestmark = pytest.mark.filterwarnings("ignore:Passed over", "ignore:.*cannot be read and")

Cli = Callable[..., Any]
SMALL = BatchSettings(part=8, top=2)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `make_many`."""
    return make_many(tmp_path_factory.mktemp("many"))


@pytest.mark.parametrize(("suffix", "count"), [("csv", 4), ("jsonl", 3), ("parquet", 3), ("parquet", 7)])
def test_merged_shards_are_the_whole_table(run: Path, many: Path, tmp_path: Path, suffix: str, count: int) -> None:
    whole = predict_folder(run, [many], out=tmp_path / f"whole.{suffix}", settings=SMALL)
    done: list[BatchResult] = []
    for index in range(1, count + 1):
        settings = BatchSettings(part=8, top=2, shard=Shard(index, count))
        done.append(predict_folder(run, [many], out=tmp_path / f"{index}.{suffix}", settings=settings))
    assert sum(result.images for result in done) == 43
    tables = [result.out for result in done]
    random.Random(0).shuffle(tables)
    result = merge(run, tables, out=tmp_path / f"merged.{suffix}")
    assert (result.images, result.refused) == (43, 2)
    assert result.out.read_bytes() == whole.out.read_bytes()
    assert result.shift == whole.shift
    assert (tmp_path / f"merged.{suffix}.job.json").read_text() == (tmp_path / f"whole.{suffix}.job.json").read_text()


def test_shards_that_cannot_be_merged(cli: Cli, run: Path, many: Path) -> None:
    for index in (1, 2, 3):
        name = f"{index}.csv"
        assert cli("predict", run, many, "--batch", "--out", name, "--shard", f"{index}/3").code == 0
    other = Path("other")
    shutil.copytree(many, other)
    (other / "z" / "3.png").unlink()
    assert cli("predict", run, other, "--batch", "--out", "other.csv", "--shard", "3/3").code == 0
    assert cli("predict", run, many, "--batch", "--out", "top.csv", "--shard", "3/3", "--top", "2").code == 0
    assert cli("predict", run, many, "--batch", "--out", "whole.csv").code == 0
    for given, message in {
        ("1.csv", "3.csv"): "the table of shard 2/3 is missing",
        ("1.csv", "2.csv", "other.csv"): "saw different images",
        ("1.csv", "2.csv", "top.csv"): "different jobs",
        ("1.csv", "2.csv", "3.csv", "1.csv"): "4 tables are given for 3 shards",
        ("whole.csv",): "is a whole table",
        ("4.csv",): "no such file",
    }.items():
        done = cli("predict", run, *given, "--merge", "--out", "m.csv")
        assert done.code == 2
        assert message in done.err
        assert not Path("m.csv").exists()
    assert "asks for jsonl" in cli("predict", run, "1.csv", "2.csv", "3.csv", "--merge", "--out", "m.jsonl").err
    with Path("3.csv").open("a") as file:
        file.write("x,y\n")
    assert "3.csv: has been changed" in cli("predict", run, "1.csv", "2.csv", "3.csv", "--merge", "--out", "m.csv").err
