"""Splits: shares, partition, groups, determinism; against closed forms and by Hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data.split import folds, hold_out
from headstart.errors import DataError, ParameterError

SLOW = settings(deadline=None, max_examples=60)


@st.composite
def labelled(draw, *, grouped=False):
    count = draw(st.integers(2, 120))
    classes = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    targets = rng.choice(classes, count, p=rng.dirichlet(np.ones(classes)))
    groups = None
    if grouped:
        groups = rng.integers(0, draw(st.integers(1, count)), count)
        if draw(st.booleans()):
            groups = groups * 100 + targets  # groups of one class each, as patients mostly are
    return targets, groups


def split_or_none(targets, **arguments):
    try:
        return hold_out(targets, **arguments)
    except DataError:
        return None


@SLOW
@given(labelled(), st.floats(0.05, 0.6), st.integers(0, 99))
def test_hold_out_is_a_stratified_partition(data, share, seed):
    targets, _ = data
    split = split_or_none(targets, share=share, seed=seed)
    counts = np.bincount(targets)
    if split is None:
        assert counts.max() <= 1
        return
    train, test = split
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(targets)))
    assert len(test)
    in_test = np.bincount(targets[test], minlength=len(counts))
    assert (in_test[counts == 1] == 0).all()
    assert (counts - in_test)[counts > 0].min() >= 1
    assert np.abs(in_test - share * counts)[counts > 1].max() <= 1 + 1e-9
    owed = share * counts[counts > 1].sum()
    assert len(test) == 1 or abs(len(test) - owed) < 1.5 + (counts == 2).sum() * (share > 0.5)


@SLOW
@given(labelled(grouped=True), st.floats(0.1, 0.5), st.integers(0, 99))
def test_hold_out_keeps_groups_together(data, share, seed):
    targets, groups = data
    split = split_or_none(targets, groups=groups, share=share, seed=seed)
    if split is None:
        return
    train, test = split
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(targets)))
    assert not set(groups[train]) & set(groups[test])
    assert set(targets[train]) == set(targets)
    single = [c for c in np.unique(targets) if len(set(groups[targets == c])) == 1]
    assert not np.isin(targets[test], single).any()


@SLOW
@given(labelled(grouped=True), st.integers(2, 6), st.booleans(), st.integers(0, 99))
def test_folds_are_disjoint_and_never_part_a_group_or_lose_a_class(data, count, grouped, seed):
    targets, groups = data
    if not grouped:
        groups = None
    try:
        parts = folds(targets, count=count, groups=groups, seed=seed)
    except ParameterError:
        return
    assert len(parts) == count
    assert all(len(part) for part in parts)
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    units = np.arange(len(targets)) if groups is None else groups
    for part in parts:
        rest = np.setdiff1d(np.arange(len(targets)), part)
        assert not set(units[part]) & set(units[rest])
        assert set(targets[rest]) == set(targets)
    left_out = np.setdiff1d(np.arange(len(targets)), together)
    if groups is None:
        assert set(targets[left_out]) == {c for c in np.unique(targets) if (targets == c).sum() == 1}
        counts = np.array([np.bincount(targets[part], minlength=targets.max() + 1) for part in parts])
        assert np.ptp(counts, axis=0).max() <= 1
        assert np.ptp([len(part) for part in parts]) <= 2


@SLOW
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_grouped_splits_depend_on_the_groups_and_not_on_the_order_of_images(state, seed):
    rng = np.random.default_rng(state)
    groups = rng.integers(0, 30, 100)
    targets = rng.integers(0, 3, 100)
    order = rng.permutation(100)
    _, test = hold_out(targets, groups=groups, seed=seed)
    _, shuffled = hold_out(targets[order], groups=groups[order], seed=seed)
    assert set(groups[test]) == set(groups[order][shuffled])
    parts, again = folds(targets, groups=groups, seed=seed), folds(targets[order], groups=groups[order], seed=seed)
    assert [set(groups[part]) for part in parts] == [set(groups[order][part]) for part in again]


@SLOW
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.booleans())
def test_several_labels(state, classes, grouped):
    rng = np.random.default_rng(state)
    targets = rng.random((80, classes)) < rng.uniform(0.02, 0.6, classes)
    groups = rng.integers(0, 40, 80) if grouped else None
    train, test = hold_out(targets, share=0.25, groups=groups, seed=3)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(80))
    assert (targets[train].any(axis=0) == targets.any(axis=0)).all()
    parts = folds(targets, count=4, groups=groups, seed=3)
    for part in parts:
        rest = np.setdiff1d(np.arange(80), part)
        assert (targets[rest].any(axis=0) == targets.any(axis=0)).all()
        if grouped:
            assert not set(groups[part]) & set(groups[rest])


def test_iterative_stratification_beats_random_folds_on_rare_labels():
    rng = np.random.default_rng(0)
    targets = rng.random((600, 12)) < np.linspace(0.02, 0.4, 12)
    wanted = targets.sum(axis=0) / 5

    def off(parts):
        return np.array([np.abs(targets[part].sum(axis=0) - wanted) for part in parts])

    ours = off(folds(targets))
    random = np.mean([off(np.array_split(rng.permutation(600), 5)).mean() for _ in range(20)])
    assert ours[:, :4].max() <= 1  # the rare labels come out as evenly as whole images allow
    assert ours.mean() < random / 2


def test_one_hot_matrix_is_split_like_its_classes():
    targets = np.repeat([0, 1, 2], [50, 30, 20])
    _, test = hold_out(np.eye(3, dtype=bool)[targets])
    assert np.bincount(targets[test]).tolist() == [10, 6, 4]
    assert [np.bincount(targets[part]).tolist() for part in folds(np.eye(3)[targets])] == [[10, 6, 4]] * 5


def test_exact_shares_and_totals():
    targets = np.repeat(["a", "b", "c"], [100, 50, 10])
    train, test = hold_out(targets, share=0.2, seed=1)
    assert [int((targets[test] == name).sum()) for name in "abc"] == [20, 10, 2]
    assert train.dtype == test.dtype == np.int64
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    # Forty per cent of two images in each of a hundred classes: what is owed in fractions adds up.
    assert len(hold_out(np.repeat(np.arange(100), 2), share=0.2)[1]) == 40


def test_groups_of_all_sizes_are_held_out_and_shares_match():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 30, 300)
    groups = np.repeat(np.arange(300), sizes)
    targets = np.repeat(rng.integers(0, 4, 300), sizes)
    _, test = hold_out(targets, groups=groups, seed=0)
    share = np.bincount(targets[test]) / np.bincount(targets)
    assert np.abs(share - 0.2).max() < 0.02
    held = sizes[np.unique(groups[test])]
    assert held.max() > 15 > held.min()  # a test part of small groups only would be another kind of data
    assert abs(held.mean() - sizes.mean()) < 6


def test_single_images_and_single_groups_stay_in_training():
    targets = np.array([0] * 10 + [1])
    _, test = hold_out(targets, share=0.5)
    assert 10 not in test
    assert all(10 not in part for part in folds(targets, count=3))
    groups = np.array([*range(10), 10, 10, 10])
    targets = np.array([0] * 10 + [1, 1, 1])
    _, test = hold_out(targets, groups=groups, share=0.5)
    assert set(targets[test]) == {0}


def test_a_class_whose_groups_meet_other_classes_is_never_missing_from_training():
    # Groups x, y, z hold the classes AB, BC, CA: two folds cannot keep each class on both sides, so one group is tested in none.
    groups = np.repeat(["x", "y", "z", "u", "v"], 2)
    targets = np.array([0, 1, 1, 2, 2, 0, 3, 3, 3, 3])
    for seed in range(5):
        parts = folds(targets, count=2, groups=groups, seed=seed)
        for part in parts:
            assert set(np.delete(targets, part)) == {0, 1, 2, 3}


def test_the_seed_decides():
    targets = np.repeat([0, 1], 50)
    assert np.array_equal(hold_out(targets, seed=4)[1], hold_out(targets, seed=4)[1])
    assert not np.array_equal(hold_out(targets, seed=4)[1], hold_out(targets, seed=5)[1])
    assert all(np.array_equal(a, b) for a, b in zip(folds(targets, seed=4), folds(targets, seed=4), strict=True))
    groups = np.repeat(np.arange(25), 4)
    tests = {tuple(hold_out(targets, groups=groups, seed=seed)[1]) for seed in range(6)}
    assert len(tests) > 3


def test_numbering_of_classes_does_not_matter_for_counts():
    targets = np.repeat([0, 1, 2], [33, 17, 9])
    renamed = np.array([7, 3, 5])[targets]
    for a, b in zip(folds(targets), folds(renamed), strict=True):
        assert len(a) == len(b)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_share_outside_its_limits(share):
    with pytest.raises(ParameterError, match="share must be a number above 0 and below 1, got"):
        hold_out([0, 1, 0, 1], share=share)


@pytest.mark.parametrize("count", [1, 0, -3, 2.5, True])
def test_count_outside_its_limits(count):
    with pytest.raises(ParameterError, match="count must be a whole number of at least 2, got"):
        folds([0, 1, 0, 1], count=count)


def test_too_few_images_or_groups():
    with pytest.raises(DataError, match="no test part can be held out of 3 images: every class has a single image only"):
        hold_out([0, 1, 2])
    with pytest.raises(DataError, match="every class has a single group only"):
        hold_out([0, 0, 1, 1], groups=["a", "a", "b", "b"])
    with pytest.raises(ParameterError, match=r"5 folds need at least 5 images .* there are 4\. Take fewer folds"):
        folds([0, 0, 1, 1])
    with pytest.raises(ParameterError, match="5 folds need at least 5 groups"):
        folds(np.zeros(50, int), groups=np.repeat([1, 2, 3], [20, 20, 10]))


def test_shapes_that_do_not_fit():
    with pytest.raises(ParameterError, match="4 targets but 3 groups"):
        hold_out([0, 0, 1, 1], groups=[1, 2, 3])
    with pytest.raises(ParameterError, match="two dimensions must hold 0 and 1 only"):
        folds(np.full((10, 2), 0.5))
    with pytest.raises(ParameterError, match=r"shape \(0,\)"):
        hold_out([])


def test_sixty_thousand_images():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 100, 60_000)
    assert sorted(np.concatenate(folds(targets)).tolist()) == list(range(60_000))
    groups = rng.integers(0, 30_000, 60_000)
    train, test = hold_out(targets, groups=groups)
    assert not set(groups[train]) & set(groups[test])
    train, test = hold_out(rng.random((60_000, 10)) < 0.1)
    assert abs(len(test) - 12_000) <= 600
