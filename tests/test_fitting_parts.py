"""Which images are learned from and which are tested on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart import FitSettings, fit
from headstart.data import Dataset, dataset_from_paths
from headstart.errors import DataError
from headstart.features.table import FeatureTable, groups_of, stand_alone
from headstart.pipeline import reading
from headstart.progress import Listener
from headstart.tasks import task_named

QUICK = FitSettings(head="centroid")


def _dataset(parts: list[str], *, kinds: int = 2, groups: list[str] | None = None) -> Dataset:
    """Images that are never opened, their classes in turn."""
    names = [f"{index}.png" for index in range(len(parts))]
    classes = [f"class {kind}" for kind in range(kinds)]
    return dataset_from_paths(names, [classes[index % kinds] for index in range(len(parts))], parts=parts, groups=groups, classes=classes)


def split(dataset: Dataset, settings: FitSettings, *, digests: list[bytes] | None = None) -> tuple[Dataset, str]:
    """The split of inputs without features."""
    digests = digests or [str(index).encode() for index in range(len(dataset))]
    table = FeatureTable(
        dataset=dataset, rows=np.arange(len(dataset)), values=np.zeros((len(dataset), 1), np.float32), digests=tuple(digests),
        groups=groups_of(dataset, digests), layers=(),
    )  # fmt: skip
    done, how = reading.split(task_named("classification"), table, settings)
    return done.dataset, how


@pytest.mark.parametrize(
    ("parts", "tested", "how"),
    [
        (["train"] * 6 + ["test"] * 2, [6, 7], "the data's own test part"),
        (["train"] * 6 + ["val"] * 2, [6, 7], "the data's validation part: nothing was chosen on it"),
        (["train"] * 4 + ["val"] * 2 + ["test"] * 2, [6, 7], "the data's own test part; the validation part is used for training"),
        ([""] * 6 + ["test"] * 2, [6, 7], "the data's own test part"),
    ],
)
def test_the_datas_own_parts_are_respected(parts: list[str], tested: list[int], how: str) -> None:
    done, said = split(_dataset(parts), QUICK)
    assert done.part("test").tolist() == tested
    assert set(done.parts.tolist()) == {"train", "test"}
    assert said.startswith(how)


def test_a_part_is_held_out_by_class_and_by_seed() -> None:
    dataset = _dataset([""] * 40)
    one, how = split(dataset, FitSettings(test_share=0.25, seed=3))
    assert one.counts("test") == {"class 0": 5, "class 1": 5}
    assert how == "10 images held out, stratified by class, seed 3"
    np.testing.assert_array_equal(split(dataset, FitSettings(test_share=0.25, seed=3))[0].parts, one.parts)
    assert (split(dataset, FitSettings(test_share=0.25, seed=4))[0].parts != one.parts).any()


def test_groups_stay_on_one_side() -> None:
    groups = [f"patient {index // 5}" for index in range(60)]
    done, how = split(_dataset([""] * 60, groups=groups), QUICK)
    assert "held out by group" in how
    sides = {name: set(done.parts[[g == name for g in groups]].tolist()) for name in groups}
    assert all(len(side) == 1 for side in sides.values())
    assert {"train"} in sides.values()
    assert {"test"} in sides.values()


def test_copies_stay_on_one_side() -> None:
    digests = [bytes([index // 4]) for index in range(80)]
    done, how = split(_dataset([""] * 80), QUICK, digests=digests)
    assert how.endswith("copies of an image on one side")
    parts = np.array(done.parts).reshape(20, 4)
    assert (parts == parts[:, :1]).all()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_groups_are_the_finest_that_parts_neither(pairs: list[tuple[int, int]]) -> None:
    """Against the definition: images are together when a chain of shared groups and shared digests connects them."""
    digests = [b"digest %d" % digest for _, digest in pairs]
    found = groups_of(_dataset([""] * len(pairs), groups=[str(group) for group, _ in pairs]), digests)
    linked = np.array([[a == c or b == d for c, d in pairs] for a, b in pairs])
    for _ in range(len(pairs)):
        linked = linked @ linked
    np.testing.assert_array_equal(found[:, None] == found[None, :], linked)


def test_without_copies_groups_are_as_they_were() -> None:
    assert stand_alone(groups_of(_dataset([""] * 2), [b"a", b"b"]))
    grouped = groups_of(_dataset([""] * 3, groups=["y", "x", "y"]), [b"a", b"b", b"c"])
    assert grouped.tolist() == [1, 0, 1]
    alone = groups_of(_dataset([""] * 3), [b"a", b"b", b"a"])
    assert alone[0] == alone[2] != alone[1]


def test_rows_that_are_the_same_picture_are_joined() -> None:
    groups = groups_of(_dataset([""] * 5, groups=["a", "b", "c", "a", "d"]), [b"1", b"2", b"3", b"4", b"5"], together=[(0, 2), (1, 4)])
    assert groups[0] == groups[2] == groups[3] != groups[1] == groups[4]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (_dataset([""] * 6, kinds=1), "there is one class only, 'class 0', so there is nothing to tell apart. Add a second folder"),
        (_dataset([""] * 2), "no test part can be held out of 2 images: every class has a single image only"),
        (_dataset(["test"] * 4), "there are test images but no training images. Put these into class folders below"),
        (_dataset(["train", "test", "train", "test"]), "no training image of class 1: it cannot be learned. Add some, or remove the class"),
    ],
)
def test_parts_that_cannot_be_used_are_told_before_any_work(dataset: Dataset, message: str) -> None:
    stages: list[str] = []
    listener = Listener()
    listener.stage = stages.append  # type: ignore[method-assign]
    with pytest.raises(DataError, match=message):
        fit(dataset, settings=QUICK, listener=listener)
    assert stages == ["Reading the data"]
