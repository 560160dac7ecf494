"""Leaks: which test images were known beforehand, by the definition; and the accuracy with and without them, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from headstart import FitSettings, fit
from headstart.audit.copies import LeakTest, known_beforehand, leak_tests
from headstart.data import Dataset, dataset_from_paths


def dataset(parts: str, groups: str | None = None) -> Dataset:
    """Images that are never opened: a letter each for the part (a, v, t for train, val, test) and for the group."""
    named = [{"a": "train", "v": "val", "t": "test"}[letter] for letter in parts]
    names = [f"{index}.png" for index in range(len(parts))]
    labels = [f"class {index % 2}" for index in range(len(parts))]
    return dataset_from_paths(names, labels, parts=named, groups=None if groups is None else list(groups), classes=["class 0", "class 1"])


def digests(pictures: str) -> list[bytes]:
    return [letter.encode() for letter in pictures]


def as_text(known: dict[str, Any]) -> dict[str, str]:
    return {name: "".join("x" if value else "." for value in rows) for name, rows in known.items()}


@pytest.mark.parametrize(
    ("parts", "pictures", "groups", "components", "known"),
    [
        ("aattt", "ABCDE", None, [], {}),
        ("aattt", "ABCAB", None, [], {"copies": ".xx"}),
        # the validation images are known too; a copy inside the test part is not
        ("avttt", "ABBCC", None, [], {"copies": "x.."}),
        ("aattt", "ABCDE", None, [(0, 3)], {"near copies": ".x."}),
        # a component without training images gives nothing away; one with brings all of its test images
        ("aattt", "ABCDE", None, [(2, 3)], {}),
        ("aattt", "ABCDE", None, [(1, 2, 4)], {"near copies": "x.x"}),
        # an exact copy is called that, and not a near copy as well
        ("aattt", "ABACD", None, [(0, 2, 3)], {"copies": "x..", "near copies": ".x."}),
        ("aattt", "ABCDE", "pqqrp", [], {"groups": "x.x"}),
        ("aattt", "ABCDE", "pqrst", [], {}),
        # groups are told for all, copies or not
        ("aattt", "ABADE", "pqprs", [(0, 2, 4)], {"copies": "x..", "near copies": "..x", "groups": "x.."}),
        ("aatta", "ABCDC", None, [], {"copies": "x."}),
    ],
)
def test_what_was_known_beforehand(
    parts: str, pictures: str, groups: str | None, components: list[tuple[int, ...]], known: dict[str, str]
) -> None:
    assert as_text(known_beforehand(dataset(parts, groups), digests(pictures), components)) == known


@given(st.lists(st.tuples(st.sampled_from("avt"), st.integers(0, 7), st.integers(0, 7), st.integers(0, 7)), min_size=2, max_size=24))
def test_against_the_definition(drawn: list[tuple[str, int, int, int]]) -> None:
    """Every image against every other."""
    parts = "at" + "".join(part for part, _, _, _ in drawn)
    pictures = "YZ" + "".join("ABCDEFGH"[picture] for _, picture, _, _ in drawn)
    groups = "yz" + "".join("abcdefgh"[group] for _, _, group, _ in drawn)
    families = [-1, -2, *(family for _, _, _, family in drawn)]
    components = [[i for i, other in enumerate(families) if other == family] for family in range(8)]
    data = dataset(parts, groups)
    found = known_beforehand(data, digests(pictures), [rows for rows in components if len(rows) > 1])
    test, train = [i for i, part in enumerate(parts) if part == "t"], [i for i, part in enumerate(parts) if part != "t"]
    copies = [any(pictures[i] == pictures[j] for j in train) for i in test]
    near = [any(families[i] == families[j] for j in train) and not copy for i, copy in zip(test, copies, strict=True)]
    grouped = [any(groups[i] == groups[j] for j in train) for i in test]
    wanted = {"copies": copies, "near copies": near, "groups": grouped}
    assert {name: rows.tolist() for name, rows in found.items()} == {name: rows for name, rows in wanted.items() if any(rows)}


def wilson(right: int, of: int) -> Any:
    interval = binomtest(right, of).proportion_ci(method="wilson")
    return pytest.approx((interval.low, interval.high))


def rows(text: str) -> Any:
    return np.array([letter == "x" for letter in text])


def test_the_accuracy_with_and_without_counted_by_hand() -> None:
    right = rows("xxx.x...")
    known = {"copies": rows("xx......"), "groups": rows(".xx.x...")}
    tests = leak_tests(right, known)
    assert [(test.label, test.accuracy, test.images) for test in tests] == [
        ("all test images", 4 / 8, 8),
        ("those that are copies of training images", 1.0, 2),
        ("those whose group is in the training part", 1.0, 3),
        ("those not seen in training in any form", 0.0, 4),
    ]
    assert [test.interval for test in tests] == [wilson(4, 8), wilson(2, 2), wilson(3, 3), wilson(0, 4)]
    low, high = binomtest(2, 2).proportion_ci(method="wilson")
    assert tests[1].line() == f"accuracy 1.0000 [{low:.4f}, {high:.4f}] on those that are copies of training images (2)"
    assert tests[1].to_dict() == {
        "label": "those that are copies of training images", "accuracy": 1.0, "interval": tests[1].interval, "images": 2,
    }  # fmt: skip


def test_nothing_known_is_nothing_to_tell() -> None:
    assert leak_tests(rows("x."), {}) == ()


def test_where_everything_was_known_there_is_no_honest_score() -> None:
    tests = leak_tests(rows("x.x"), {"near copies": rows("xxx")})
    assert [(test.label, test.images) for test in tests] == [
        ("all test images", 3), ("those that are near copies of training images", 3),
    ]  # fmt: skip
    assert tests[1] == LeakTest.of("those that are near copies of training images", rows("x.x"))


def test_a_fit_tells_the_score_without_copies(pictures: Path, cache: Path) -> None:
    """Half of the test images are copies of training images; of the others half are of a kind that was never shown."""

    def drawn(kind: str, *numbers: int) -> list[Path]:
        return [pictures / kind / f"{kind} {number:02d}.png" for number in numbers]

    train = drawn("rings", *range(8)) + drawn("checks", *range(8))
    copied = drawn("rings", 0, 1, 2) + drawn("checks", 0, 1, 2)
    fresh = drawn("rings", 10, 11, 12) + drawn("stripes", 0, 1, 2)
    labels = ["rings"] * 8 + ["checks"] * 8 + (["rings"] * 3 + ["checks"] * 3) + ["rings"] * 3 + ["rings"] * 3
    data = dataset_from_paths([*train, *copied, *fresh], labels, parts=["train"] * 16 + ["test"] * 12)
    result = fit(data, settings=FitSettings(head="centroid", cache=cache))
    right = result.test.outcome.targets == result.test.outcome.predicted
    assert [(test.label, test.images) for test in result.leaks] == [
        ("all test images", 12), ("those that are copies of training images", 6), ("those not seen in training in any form", 6),
    ]  # fmt: skip
    whole, seen, unseen = result.leaks
    assert whole.accuracy == result.test.accuracy
    assert seen.accuracy == right[:6].mean()
    assert unseen.accuracy == right[6:].mean()
    assert seen.accuracy != unseen.accuracy
