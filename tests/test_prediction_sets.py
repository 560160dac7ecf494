"""Prediction sets: the order statistic by hand, the promise on fresh draws, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import ParameterError, RunError
from headstart.metrics.link import SIGMOID
from headstart.reliability import PredictionSets

Array = npt.NDArray[Any]


def answers(n: int, k: int, *, seed: int, skill: float = 1.5) -> tuple[Array, Array]:
    """Probabilities (n, k) of a middling, over-confident model, and the true classes; the first class is the hardest."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), targets] += np.where(targets == 0, 0.3, skill)
    odds = np.exp(2.5 * logits)
    return odds / odds.sum(axis=1, keepdims=True), targets


def test_the_threshold_is_the_order_statistic_counted_by_hand() -> None:
    own = np.array([0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55])
    probabilities = np.column_stack([own, 1 - own])
    sets = PredictionSets.fit(probabilities, np.zeros(9, dtype=int), coverage=0.8)
    # ceil(10 * 0.8) = 8: the eighth largest
    assert sets.thresholds.tolist() == [np.float32(0.6), np.float32(0.6)]
    assert sets(probabilities)[:, 0].tolist() == [True] * 8 + [False]


@pytest.mark.parametrize(("images", "always"), [(8, True), (9, False)])
def test_too_few_images_for_the_promise_put_every_class_in(images: int, always: bool) -> None:
    probabilities = np.full((images, 2), [0.9, 0.1])
    sets = PredictionSets.fit(probabilities, np.zeros(images, dtype=int), coverage=0.9)
    assert (sets.thresholds == 0).all() == always
    assert sets(np.array([[1.0, 0.0]])).tolist() == [[True, always]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([0.5, 0.7, 0.8, 0.9, 0.95]), st.booleans())
def test_covers_its_own_images_at_least_as_often_as_asked(seed: int, n: int, coverage: float, by_class: bool) -> None:
    probabilities, targets = answers(n, 3, seed=seed)
    inside = PredictionSets.fit(probabilities, targets, coverage=coverage, by_class=by_class)(probabilities)
    covered = inside[np.arange(n), targets]
    for rows in [targets == label for label in range(3)] if by_class else [np.ones(n, dtype=bool)]:
        if rows.any():
            assert covered[rows].sum() >= min(rows.sum(), np.ceil((rows.sum() + 1) * coverage - 1e-9))


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_mean_coverage_of_fresh_images_is_the_one_promised(coverage: float) -> None:
    """By theory it lies between `coverage` and `coverage` + 1 / (n + 1); the mean over 300 fits is known to about 0.002."""
    covered = []
    for seed in range(300):
        probabilities, targets = answers(400, 4, seed=seed)
        inside = PredictionSets.fit(probabilities[:150], targets[:150], coverage=coverage)(probabilities[150:])
        covered.append(inside[np.arange(250), targets[150:]].mean())
    assert coverage - 0.005 < np.mean(covered) < coverage + 1 / 151 + 0.005


def test_by_class_keeps_the_promise_in_the_hardest_class_too() -> None:
    probabilities, targets = answers(6000, 4, seed=1)
    calibration, fresh = slice(0, 3000), slice(3000, 6000)
    hard = targets[fresh] == 0

    def covered(by_class: bool) -> Array:
        inside = PredictionSets.fit(probabilities[calibration], targets[calibration], by_class=by_class)(probabilities[fresh])
        found: Array = inside[np.arange(3000), targets[fresh]]
        return found

    assert covered(False)[hard].mean() < 0.85
    assert abs(covered(True)[hard].mean() - 0.9) < 0.03
    assert abs(covered(True)[~hard].mean() - 0.9) < 0.03


def test_a_good_model_gives_empty_sets_unless_they_are_not_wanted() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.9, 1, 500)
    probabilities = np.column_stack([sure, 1 - sure])
    sets = PredictionSets.fit(probabilities, np.zeros(500, dtype=int), coverage=0.9)
    empty = ~sets(probabilities).any(axis=1)
    assert empty.sum() == 500 - np.ceil(501 * 0.9)
    filled = sets(probabilities, never_empty=True)
    assert (filled.sum(axis=1) == 1).all()
    assert filled[empty, 0].all()


def test_several_labels_are_covered_together() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random((4000, 3)) < [0.5, 0.3, 0.1]
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=truth.shape) + np.where(truth, 1.5, -1.5))))
    sets = PredictionSets.fit(probabilities[:2000], truth[:2000], coverage=0.9)
    labelled = truth[2000:].any(axis=1)
    held = (sets(probabilities[2000:]) | ~truth[2000:]).all(axis=1)
    assert sets.link is SIGMOID
    assert sets.images == truth[:2000].any(axis=1).sum()
    assert abs(held[labelled].mean() - 0.9) < 0.025
    each = PredictionSets.fit(probabilities[:2000], truth[:2000], coverage=0.9, by_class=True)(probabilities[2000:])
    for label in range(3):
        assert abs(each[truth[2000:, label], label].mean() - 0.9) < 0.05


def test_images_without_a_prediction_are_left_out() -> None:
    probabilities, targets = answers(50, 3, seed=0)
    more = np.vstack([probabilities, np.full((5, 3), np.nan)])
    sets = PredictionSets.fit(more, np.append(targets, [0] * 5))
    assert sets.images == 50
    assert (sets.thresholds == PredictionSets.fit(probabilities, targets).thresholds).all()


def test_a_probability_that_was_equal_to_the_threshold_stays_inside_in_float32() -> None:
    probabilities, targets = answers(101, 3, seed=5)
    sets = PredictionSets.fit(probabilities, targets, coverage=0.7)
    assert (sets(probabilities) == sets(probabilities.astype(np.float32))).all()
    own = probabilities[np.arange(101), targets].astype(np.float32)
    assert (own == sets.thresholds[0]).sum() == 1


def test_survives_json() -> None:
    probabilities, targets = answers(80, 3, seed=0)
    sets = PredictionSets.fit(probabilities, targets, by_class=True, coverage=0.8)
    again = PredictionSets.from_dict(json.loads(json.dumps(sets.to_dict())))
    assert again.to_dict() == sets.to_dict()
    older = {name: value for name, value in sets.to_dict().items() if name != "link"} | {"multilabel": sets.link.independent}
    assert PredictionSets.from_dict(older).to_dict() == sets.to_dict()
    assert (again(probabilities) == sets(probabilities)).all()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"thresholds": None}, "damaged"),
        ({"thresholds": []}, "'thresholds' must be a finite number for each class"),
        ({"thresholds": [0.5, float("nan")]}, "'thresholds' must be a finite number for each class"),
        ({"coverage": "much"}, "damaged"),
        ({"method": "of next year"}, "'of next year'.*pip install -U headstart"),
    ],
)
def test_damaged_entries_are_named(entries: dict[str, Any], message: str) -> None:
    probabilities, targets = answers(80, 2, seed=0)
    with pytest.raises(RunError, match=message):
        PredictionSets.from_dict(PredictionSets.fit(probabilities, targets).to_dict() | entries)


def test_a_missing_entry_is_named() -> None:
    with pytest.raises(RunError, match="'coverage' is missing"):
        PredictionSets.from_dict({})


@pytest.mark.parametrize("coverage", [0, 1, 90, -0.1, True, "0.9", float("nan")])
def test_refuses_a_coverage_that_is_none(coverage: Any) -> None:
    with pytest.raises(ParameterError, match="coverage must be a number above 0 and below 1, got"):
        PredictionSets.fit(np.full((4, 2), 0.5), np.zeros(4, dtype=int), coverage=coverage)


@pytest.mark.parametrize(
    ("probabilities", "targets", "message"),
    [
        (np.zeros(4), np.zeros(4, dtype=int), "shape \\(images, classes\\)"),
        (np.zeros((4, 2)), np.zeros(3, dtype=int), "class numbers \\(4,\\) or a bool matrix \\(4, 2\\)"),
        (np.zeros((4, 2)), np.zeros((4, 3), dtype=bool), "have the shape \\(4, 3\\)"),
        (np.zeros((4, 2)), np.array([0, 1, 2, 0]), "class numbers from 0 to 1"),
        (np.zeros((4, 2)), np.array([0, 1, -1, 0]), "class numbers from 0 to 1"),
        (np.zeros((4, 2)), np.array(list("abab")), "class numbers from 0 to 1"),
        (np.full((4, 2), np.nan), np.zeros(4, dtype=int), "at least one labelled image"),
        (np.zeros((4, 2)), np.zeros((4, 2), dtype=bool), "at least one labelled image"),
    ],
)
def test_refuses_what_does_not_fit(probabilities: Array, targets: Array, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        PredictionSets.fit(probabilities, targets)


def test_refuses_another_number_of_classes() -> None:
    probabilities, targets = answers(30, 3, seed=0)
    with pytest.raises(ParameterError, match=r"\(images, 3\), a column for each class, and have \(30, 2\)"):
        PredictionSets.fit(probabilities, targets)(probabilities[:, :2])
