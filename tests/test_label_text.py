"""The text of a label is what it is: names with commas, brackets, numbers and bytes that are not UTF-8 survive every way through lists."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from PIL import Image

from conftest import draw
from headstart.data import Labels, LabelSets, ListOptions, class_targets, read_dataset
from headstart.data.annotations import part_of
from headstart.data.cells import label_cell, read_cells
from headstart.data.listing import SYSTEM_NAMES
from headstart.errors import DataError
from headstart.evaluate import evaluate_run
from headstart.pipeline import fit
from headstart.records import csv_lines
from headstart.settings import FitSettings
from headstart.text import printable

Cli = Callable[..., Any]
QUICK = FitSettings(head="centroid")


def folders(root: Path, *names: str, each: int = 6) -> Path:
    """A folder of small pictures for each class."""
    for kind, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(each):
            Image.fromarray(draw(kind % 3, 100 * kind + index)).save(root / name / f"{index}.png")
    return root


def listed(root: Path, *labels: str, column: str = "label") -> Path:
    """A list of pictures that lie beside it, one for each label."""
    root.mkdir(exist_ok=True)
    for index in range(len(labels)):
        (root / f"{index}.png").touch()
    path = root / "list.csv"
    path.write_text(csv_lines([["path", column], *([f"{index}.png", label] for index, label in enumerate(labels))]), "utf-8")
    return path


@pytest.mark.parametrize(
    "names", [("Apple, healthy", "Apple, scab"), ("1.0", "2.0"), ("a;b", "a|b", "['cat', 'x']"), (" cat", "cat", "[]")]
)
def test_a_run_reads_its_own_split_again(cli: Cli, names: tuple[str, ...]) -> None:
    folders(Path("data"), *names)
    assert cli("fit", "data", "--out", "R", "--head", "centroid").code == 0
    done = cli("evaluate", "R", "R/split.csv", "--part", "test", "--out", "E.json")
    assert done.code == 0, done.err
    assert cli("fit", "R/split.csv", "--out", "again", "--head", "centroid").code == 0
    manifests = [json.loads(Path(run, "manifest.json").read_text("utf-8")) for run in ("R", "again")]
    assert sorted(manifests[0]["state"]["classes"]) == sorted(names)
    assert manifests[0]["state"] == manifests[1]["state"]
    assert manifests[0]["provenance"]["images"] == manifests[1]["provenance"]["images"]


_LETTERS = st.characters(exclude_categories=("Cs",), exclude_characters="/\0")
_NASTY = st.text(st.sampled_from(" ,;|[]{}()'\"\\\t\n\r.#=0-1aé"), min_size=1, max_size=6)
_BYTES = st.binary(min_size=1, max_size=6).map(lambda raw: os.fsdecode(raw.replace(b"/", b"-").replace(b"\0", b"-")))
NAMES = st.lists(st.text(_LETTERS, min_size=1, max_size=12) | _NASTY | _BYTES, min_size=2, max_size=5, unique=True)


def usable(names: list[str]) -> bool:
    """Whether a file system can have folders of these names beside each other, none of them hidden, a part or a system's own."""
    fine = all(name[0] != "." and name.lower() not in SYSTEM_NAMES and not part_of(name) and len(os.fsencode(name)) < 200 for name in names)
    return fine and len({printable(name) for name in names}) == len(names)


@given(NAMES)
@example(["\udce9", "1.0", "Apple, scab", '["a"]', "a\rb"])
@profile(max_examples=3)
def test_any_folder_names_give_the_same_data_again(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    assume(usable(names))
    here = tmp_path_factory.mktemp("names")
    first = fit(folders(here / "data", *names, each=3), out=here / "R", settings=QUICK)
    assert sorted(first.dataset.classes) == sorted(map(printable, names))
    second = fit(here / "R" / "split.csv", out=here / "again", settings=QUICK)
    for data in (read_dataset(here / "R" / "split.csv"), second.dataset):
        said = [{path.resolve(): (one.labels(i), one.parts[i]) for i, path in enumerate(one.inputs)} for one in (first.dataset, data)]
        assert said[0] == said[1]
    assert second.dataset.classes == first.dataset.classes
    assert evaluate_run(here / "R", here / "R" / "split.csv", part="test").evaluation.images == first.test.images
    shutil.rmtree(here)


@given(NAMES, st.data())
@profile(max_examples=200)
def test_cells_are_read_as_they_were_written(names: list[str], data: st.DataObject) -> None:
    names = sorted({printable(name) for name in names})
    single = class_targets(np.arange(len(names)), names)
    written = csv_lines([[single.cell(i)] for i in range(len(names))])
    cells = [row[0] for row in csv.reader(io.StringIO(written, newline=""))]
    for known in ((), names):
        assert read_cells(cells, known=known, notes=[]) == names
    assert read_cells(names, known=names, notes=[]) == names
    several = data.draw(st.lists(st.lists(st.sampled_from(names), unique=True), min_size=1))
    found = read_cells([label_cell(labels) for labels in several], known=names, notes=[])
    assert [{label} if isinstance(label, str) else {*label} for label in found] == [
        {*labels} or {""} if isinstance(found[0], str) else {*labels} for labels in several
    ]


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["Apple, healthy", "Apple, scab"], ["Apple, healthy", "Apple, scab"]),
        (["Pepper, bell, healthy", "Pepper, healthy", "Apple, healthy"], ["Pepper, bell, healthy", "Pepper, healthy", "Apple, healthy"]),
        (["tench, Tinca tinca", "maillot", "maillot, tank suit"], ["tench, Tinca tinca", "maillot", "maillot, tank suit"]),
        (["cat, dog", "dog"], [("cat", "dog"), ("dog",)]),
        (["cat, dog", "dog, horse"], [("cat", "dog"), ("dog", "horse")]),
        (["cat|dog", "dog|horse"], [("cat", "dog"), ("dog", "horse")]),
        (["['bar']", "['bar', 'dark']"], [("bar",), ("bar", "dark")]),
        (["['bar']", "['disc']"], ["bar", "disc"]),
        (['["Apple, healthy"]', '["Apple, scab"]'], ["Apple, healthy", "Apple, scab"]),
        (['{"choices": ["disc", "dark"]}', "disc"], [("disc", "dark"), ("disc",)]),
        (['{"choices": "disc"}', '{"choices": ["bar"]}'], ["disc", "bar"]),
        (["['bar' 'dark']", "['bar']"], [("bar", "dark"), ("bar",)]),
        (["('bar', 'dark')", "{'bar'}"], [("bar", "dark"), ("bar",)]),
        (["[]", "['bar']"], [(), ("bar",)]),
        (["[cat, dog]", "{cat,dog}"], [("cat", "dog"), ("cat", "dog")]),
        (["[cat, dog]", "[dog]"], [("cat", "dog"), ("dog",)]),
        (["array(['cat', 'dog'], dtype=object)", "array(['dog'], dtype=object)"], [("cat", "dog"), ("dog",)]),
        (["frozenset({'cat'})", "set()"], [("cat",), ()]),
        (["0 1", "1"], ["0 1", "1"]),
        (["[unknown]", "(other)", "{x}", "cat"], ["[unknown]", "(other)", "{x}", "cat"]),
        (["['Apple, healthy', 'wet; cold']", "dog"], [("Apple, healthy", "wet; cold"), ("dog",)]),
        (["[1, 2]", "[2]"], [("1", "2"), ("2",)]),
        (["1.0", "2.0"], ["1", "2"]),
        (["1.0", "2.5"], ["1.0", "2.5"]),
        (["nan", "None", "null", "NA"], ["nan", "None", "null", "NA"]),
        (["007", "7", "1e3", "0x1"], ["007", "7", "1e3", "0x1"]),
    ],
)  # fmt: skip
def test_what_a_column_of_cells_says(cells: list[str], read: list[Any]) -> None:
    assert read_cells(cells, notes=[]) == read


@pytest.mark.parametrize("cell", ["['cat', None]", '["cat", null]'])
def test_lists_with_a_missing_label_are_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"a list of labels holds a missing value: .*; leave it out"):
        read_dataset(listed(tmp_path, "dog", cell))


@pytest.mark.parametrize("cell", ['{"cat": 1}', '[{"rectanglelabels": ["cat"], "x": 3}]', "[['cat'], ['dog']]", '{"choices": {"a": 1}}'])
def test_cells_that_hold_something_else_are_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"a label must be a name or a list of names, and .* is something else; write cat, or \[\"cat\""):
        read_dataset(listed(tmp_path, "dog", cell))


def test_what_is_guessed_about_cells_is_said(tmp_path: Path) -> None:
    whole = read_dataset(listed(tmp_path, "Apple, healthy", "Apple, scab"))
    assert "Labels with ',', as 'Apple, healthy', are read whole; label_separator=',' separates them there." in whole.notes
    split = read_dataset(listed(tmp_path, "Apple, healthy", "Apple, scab"), lists=ListOptions(label_separator=","))
    assert split.classes == ("Apple", "healthy", "scab")
    assert "The labels are whole numbers: '1.0' is read as '1'." in read_dataset(listed(tmp_path, "1.0", "2.0")).notes


def test_where_classes_are_known_the_whole_cell_comes_first(tmp_path: Path) -> None:
    known = ("Apple, healthy", "Apple", "healthy", "1.0", "['x']")
    data = read_dataset(listed(tmp_path / "a", *known), classes=known)
    assert isinstance(data.targets, Labels)
    assert data.targets.array.tolist() == [0, 1, 2, 3, 4]
    several = read_dataset(listed(tmp_path / "b", "healthy;Apple, healthy", "1.0"), classes=known)
    assert isinstance(several.targets, LabelSets)
    assert several.targets.array.tolist() == [[True, False, True, False, False], [False, False, False, True, False]]
    with pytest.raises(DataError, match=r"a class that the list of classes given does not have: 'Apple, rust' \(1 image\)"):
        read_dataset(listed(tmp_path / "c", "Apple, rust", "Apple"), classes=known)


def test_test_data_are_read_with_the_classes_of_the_training_data(tmp_path: Path) -> None:
    for name in ("Apple, healthy", "Apple, scab", "Apple"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "x.png").touch()
    test = listed(tmp_path / "test", "Apple, healthy", "Apple, scab", "Apple")
    data = read_dataset(tmp_path / "train", test=test)
    assert isinstance(data.targets, Labels)
    assert [data.labels(i) for i in data.part("test")] == [("Apple, healthy",), ("Apple, scab",), ("Apple",)]
    for name in ("1", "2"):
        (tmp_path / "numbers" / name).mkdir(parents=True)
        (tmp_path / "numbers" / name / "x.png").touch()
    data = read_dataset(tmp_path / "numbers", test=listed(tmp_path / "floats", "1.0", "2.0", "1"))
    assert [data.labels(i) for i in data.part("test")] == [("1",), ("2",), ("1",)]


@pytest.mark.parametrize("written", ["pandas", "labelstudio"])
def test_lists_written_into_cells(cli: Cli, written: str) -> None:
    folders(Path("data"), "disc", "bar", each=10)
    rows = [["path", "choice"]]
    for name in ("disc", "bar"):
        for index in range(10):
            labels = [name, "dark"] if index % 2 else [name]
            cell = repr(labels) if written == "pandas" else name if len(labels) == 1 else json.dumps({"choices": labels})
            rows.append([f"data/{name}/{index}.png", cell])
    Path("list.csv").write_text(csv_lines(rows))
    done = cli("fit", "list.csv", "--column", "label=choice", "--out", "R", "--head", "centroid")
    assert done.code == 0, done.err
    assert json.loads(Path("R/manifest.json").read_text())["state"] == {"classes": ["bar", "dark", "disc"], "link": "sigmoid"}
