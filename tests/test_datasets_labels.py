"""`Dataset` itself, lists of paths, and class names: their order, and several in one cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.data import Dataset, class_targets, dataset_from_paths
from headstart.data.cells import detect_separator
from headstart.data.labels import natural_order
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
        Dataset(images=(Path("a"), Path("b")), targets=class_targets(np.zeros(1, np.int64), ("x",)), parts=np.array(["", ""]))


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
