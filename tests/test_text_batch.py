"""Batch jobs on texts: lists are read a few rows at a time, and a job that was interrupted is continued."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.batch import merge, predict_folder
from headstart.batch.job import Work
from headstart.data import ListOptions
from headstart.data.table_parts import table_parts
from headstart.data.tables import read_table
from headstart.data.text_lists import read_texts, text_parts
from headstart.errors import DataError, ParameterError
from headstart.pipeline import fit
from headstart.progress import Listener
from headstart.run import load
from headstart.settings import FitSettings
from headstart.settings.batch import BatchSettings, Shard

ROWS = 2500


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    lines = [f"{'warm and funny' if i % 2 else 'dull and long'} film {i},{'good' if i % 2 else 'bad'}" for i in range(80)]
    (folder / "reviews.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    fit(folder / "reviews.csv", out=folder / "run", settings=FitSettings(backbone="tfidf"))
    return folder / "run"


def written(folder: Path, suffix: str) -> Path:
    rng = np.random.default_rng(0)
    texts = [f"{rng.choice(['warm', 'dull', 'odd'])} film, number {i}\nof many" for i in range(ROWS)]
    texts[7], texts[1500] = "", 'she said "no"'
    path = folder / f"many{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",").writerows([["id", "text"], *enumerate(texts)])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_parts_are_the_whole(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    parts = list(table_parts(path))
    assert [len(part) for part in parts] == [1000, 1000, 500]
    whole = read_table(path)
    for name, cells in whole.columns.items():
        assert [cell for part in parts for cell in part.columns[name]] == cells
    texts = [text for part in text_parts(path, ListOptions()) for text in part]
    assert texts == list(read_texts(path, ListOptions()))
    assert (texts[0].name, texts[-1].name) == ("row 1", f"row {ROWS}")


def test_a_parquet_file_in_parts(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    polars.DataFrame({"text": [f"text {i}" for i in range(ROWS)]}).write_parquet(tmp_path / "many.parquet")
    assert [cell for part in table_parts(tmp_path / "many.parquet") for cell in part.columns["text"]] == [f"text {i}" for i in range(ROWS)]


def test_damage_behind_the_first_part_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, ".jsonl")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"text": "cut')
    with pytest.raises(DataError, match=f"line {ROWS + 1}, is not JSON"):
        list(table_parts(path))
    path = written(tmp_path, ".csv")
    with path.open("a", encoding="utf-8") as file:
        file.write("1,2,3\n")
    with pytest.raises(DataError, match="do not have 2 cells as the first line has"):
        list(table_parts(path))


class Told(Listener):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, message: str) -> None:
        self.warned.append(message)


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_job_says_what_predict_says_row_by_row(run: Path, tmp_path: Path) -> None:
    path = written(tmp_path, ".csv")
    told = Told()
    done = predict_folder(run, [path], out=tmp_path / "out.csv", listener=told)
    assert told.warned == [f"1 of {ROWS} texts cannot be read and have a row with the reason:\n  row 8: empty"]
    found = rows_of(tmp_path / "out.csv")
    assert (done.images, done.refused, len(found)) == (ROWS, 1, ROWS)
    assert [row["row"] for row in found] == [str(number) for number in range(1, ROWS + 1)]
    assert found[7]["error"] == "empty"
    texts = read_texts(path, ListOptions())
    predictions = load(run).predict(texts, warn=lambda message: None)
    assert [row["label"] for row in found if not row["error"]] == list(predictions.labels)


def test_a_job_is_continued_after_an_interruption(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, do, made = written(tmp_path, ".csv"), Work.do, list[int]()

    def interrupted(self: Work, opened: Any, index: int, names: Any, **further: Any) -> Any:
        if index == 2 and len(made) < 3:
            made.append(index)
            raise KeyboardInterrupt
        made.append(index)
        return do(self, opened, index, names, **further)

    monkeypatch.setattr(Work, "do", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(run, [path], out=tmp_path / "out.csv")
    done = predict_folder(run, [path], out=tmp_path / "out.csv", settings=BatchSettings(resume=True), listener=Told())
    assert made == [0, 1, 2, 2, 3, 4]
    assert (done.images, done.computed) == (ROWS, ROWS - 1024)
    predict_folder(run, [path], out=tmp_path / "whole.csv", listener=Told())
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_shards_are_merged(run: Path, tmp_path: Path) -> None:
    path = written(tmp_path, ".jsonl")
    for index in (1, 2):
        predict_folder(run, [path], out=tmp_path / f"{index}.parquet", settings=BatchSettings(shard=Shard(index, 2)), listener=Told())
    merge(run, [tmp_path / "1.parquet", tmp_path / "2.parquet"], out=tmp_path / "merged.parquet")
    predict_folder(run, [path], out=tmp_path / "whole.parquet", listener=Told())
    assert (tmp_path / "merged.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_columns_belong_to_the_job(run: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("first,second\na warm film,a dull film\n", encoding="utf-8")
    lists = ListOptions(columns={"text": "second"})
    predict_folder(run, [tmp_path / "list.csv"], out=tmp_path / "out.csv", lists=lists)
    assert rows_of(tmp_path / "out.csv")[0]["label"] == "bad"
    with pytest.raises(ParameterError, match="of another job"):
        predict_folder(run, [tmp_path / "list.csv"], out=tmp_path / "out.csv", settings=BatchSettings(resume=True))
