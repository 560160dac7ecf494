"""`Dataset` itself, lists of paths, and class names: their order, and several in one cell."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.data import Dataset, class_targets, dataset_from_paths
from headstart.data.cells import detect_separator
from headstart.data.labels import natural_order, spelling_notes
from headstart.errors import DataError


def test_take_and_part():
    data = dataset_from_paths(
        [f"{name}/p{i}_x.jpg" for name in "abc" for i in range(4)], list("aaaabbbbcccc"), groups=[f"p{i}" for i in range(4)] * 3
    )
    some = data.take([5, 0])
    assert some.names() == ("b/p1_x.jpg", "a/p0_x.jpg")
    assert some.targets.array.tolist() == [1, 0]
    assert some.classes == ("a", "b", "c")
    assert some.groups.tolist() == ["p1", "p0"]
    assert len(data.take(data.targets.array == 2)) == 4
    assert len(data.take([])) == 0
    assert [labels for _, labels in some] == [("b",), ("a",)]
    with pytest.raises(DataError, match="'tests' is not a part of a data set; parts are 'train', 'val', 'test', ''"):
        data.part("tests")


def test_fields_that_do_not_fit():
    with pytest.raises(DataError, match="2 images, 1 labels, 2 parts"):
        Dataset(inputs=(Path("a"), Path("b")), targets=class_targets(np.zeros(1, np.int64), ("x",)), parts=np.array(["", ""]))


def test_paths():
    data = dataset_from_paths(
        ["x/1.jpg", "x/2.jpg", "y/3.jpg"], [3, 10, 3], root="x", parts=["train", "Training", "test"], groups=[1, 1, 2]
    )
    assert data.classes == ("3", "10")
    assert data.names() == ("1.jpg", "2.jpg", "y/3.jpg")
    assert data.parts.tolist() == ["train", "train", "test"]
    assert data.groups.tolist() == ["1", "1", "2"]


@given(st.lists(st.integers(-(10**12), 10**12).map(str), unique=True))
def test_natural_order_of_numbers(names):
    assert [int(name) for name in natural_order(names)] == sorted(map(int, names))


@given(st.lists(st.text(max_size=8), unique=True))
def test_natural_order_is_an_order(names):
    once = natural_order(names)
    assert sorted(once) == sorted(names)
    assert natural_order(reversed(once)) == once


def test_natural_order_of_words():
    assert natural_order(["img10", "img9", "Img1", "b", "A"]) == ["A", "b", "Img1", "img9", "img10"]


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["cat", "dog"], None),
        (["cat;dog", "cat"], ";"),
        (["cat|dog", "dog|horse"], "|"),
        (["cat, dog", "dog"], ","),
        (["Smith, John", "Doe, Jane"], None),
        ([], None),
    ],
)
def test_separators(cells, separator):
    assert detect_separator(cells) == separator


@pytest.mark.parametrize(
    ("rare", "frequent", "slip"),
    [
        ("caat", "cat", True), ("ct", "cat", False), ("cats", "cat", True), ("act", "cat", True), ("car", "cat", False),
        ("tigre", "tiger", True), ("tiher", "tiger", True), ("Zebrra", "zebra", True), ("class1", "class2", False),
        ("plate12", "plate1", False),
        ("horse", "mouse", False), ("", "cat", False), ("wolf", "tiger", False),
    ],
)  # fmt: skip
def test_a_rare_class_a_slip_of_the_pen_away_is_told(rare: str, frequent: str, slip: bool) -> None:
    notes = spelling_notes({rare: 1, frequent: 7, "something else": 30})
    told = f"Only 1 image has the class '{rare}', and 7 have '{frequent}': if that is a slip of the pen, give them the same name."
    assert notes == ([told] if slip else [])
    assert spelling_notes({rare: 3, frequent: 40}) == []
    assert spelling_notes({rare: 2, frequent: 9}) == []
    assert bool(spelling_notes({rare: 2, frequent: 10})) == slip


def test_names_that_differ_by_a_letter_on_purpose_are_no_slips() -> None:
    names = {f"species {chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)} of the field": 1 + 9 * (i % 2) for i in range(6000)}
    began = time.process_time()
    assert spelling_notes(names) == []
    assert time.process_time() - began < 10
