"""Abstention: the curve counted by hand, the binomial test against SciPy, and the promise on fresh draws."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from headstart.errors import ParameterError, RunError
from headstart.reliability import Abstention
from headstart.reliability.guarantees import POINTS, _at_most

Array = npt.NDArray[Any]


def answers(n: int, *, seed: int) -> tuple[Array, Array]:
    """Confidences (n,) and whether the answers are right; sure answers are more often right, but less often than they say."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.5, 1, n)
    return confidence, rng.random(n) < 0.55 + 0.44 * (2 * confidence - 1) ** 0.5


def test_the_curve_counted_by_hand() -> None:
    curve = Abstention.fit(np.array([0.5, 0.75, 1.0, 0.75, 0.25]), np.array([False, True, True, False, True]))
    assert curve.thresholds.tolist() == [1.0, 0.75, 0.5, 0.25]
    assert curve.answered.tolist() == [1, 3, 4, 5]
    assert curve.correct.tolist() == [1, 2, 2, 3]
    assert curve.coverage.tolist() == [0.2, 0.6, 0.8, 1.0]
    assert curve.accuracy.tolist() == [1, 2 / 3, 0.5, 0.6]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.sampled_from([3, 50, 10**6]))
def test_every_point_is_what_counting_gives_and_the_last_answers_all(seed: int, n: int, steps: int) -> None:
    confidence, correct = answers(n, seed=seed)
    confidence = np.round(confidence * steps) / steps
    curve = Abstention.fit(confidence, correct)
    assert 1 <= len(curve.thresholds) <= POINTS
    assert (np.diff(curve.thresholds) < 0).all()
    assert curve.answered[-1] == curve.images == n
    for threshold, answered, right in zip(curve.thresholds, curve.answered, curve.correct, strict=True):
        chosen = confidence.astype(np.float32) >= threshold
        assert (answered, right) == (chosen.sum(), correct[chosen].sum())


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.001, 0.999))
def test_the_binomial_tail_is_scipys(counts: tuple[int, int], probability: float) -> None:
    events, trials = counts
    assert _at_most(events, trials, probability) == pytest.approx(stats.binom.cdf(events, trials, probability), abs=1e-9)


def test_the_binomial_tail_of_many_trials_is_scipys() -> None:
    assert _at_most(120, 50_000, 0.003) == pytest.approx(stats.binom.cdf(120, 50_000, 0.003), rel=1e-6)


def test_the_threshold_passes_the_bound_of_clopper_and_pearson_and_is_the_last_that_does() -> None:
    confidence, correct = answers(20_000, seed=0)
    curve = Abstention.fit(confidence, correct)
    found = curve.threshold_for(0.9)
    assert found is not None
    error = 0.05 / (1 + math.ceil(math.log2(len(curve.thresholds))))
    bounds = stats.beta.ppf(error, curve.correct, curve.answered - curve.correct + 1)
    point = curve.thresholds.tolist().index(found[0])
    assert bounds[point] >= 0.9 > bounds[point + 1]
    assert found[1] == curve.coverage[point] == pytest.approx((confidence >= found[0]).mean(), abs=1e-6)


@pytest.mark.parametrize("n", [300, 2000])
def test_the_wanted_accuracy_is_kept_on_fresh_images_in_all_but_few_fits(n: int) -> None:
    """Taking the threshold where the accuracy was just reached on the fitted images would fail in about half of the fits."""
    fresh_confidence, fresh_correct = answers(200_000, seed=10**6)
    failed = naive = given_ = 0
    for seed in range(200):
        curve = Abstention.fit(*answers(n, seed=seed))
        naive_threshold = curve.thresholds[np.flatnonzero(curve.accuracy >= 0.9)[-1]]
        naive += bool(fresh_correct[fresh_confidence >= naive_threshold].mean() < 0.9)
        found = curve.threshold_for(0.9)
        if found is not None:
            given_ += 1
            failed += bool(fresh_correct[fresh_confidence >= found[0]].mean() < 0.9)
    assert given_ > 40
    assert failed <= 15  # 5 % are 10 of 200
    assert naive > 40


def test_answers_all_where_all_is_good_enough() -> None:
    curve = Abstention.fit(np.linspace(0.5, 1, 1000), np.ones(1000, dtype=bool))
    assert curve.threshold_for(0.95) == (0.5, 1.0)


@pytest.mark.parametrize("right", [5, 0])
def test_gives_none_where_nothing_can_be_assured(right: int) -> None:
    curve = Abstention.fit(np.linspace(0.5, 1, 5), np.arange(5) < right)
    assert curve.threshold_for(0.95) is None


def test_a_higher_accuracy_never_answers_more() -> None:
    curve = Abstention.fit(*answers(5000, seed=2))
    found = [curve.threshold_for(accuracy) for accuracy in (0.8, 0.9, 0.92, 0.999)]
    shares = [0.0 if entry is None else entry[1] for entry in found]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert shares[-1] == 0.0


def test_leaves_out_what_has_no_prediction() -> None:
    curve = Abstention.fit(np.array([0.9, np.nan, 0.8]), np.array([True, False, True]))
    assert curve.images == 2
    assert curve.accuracy[-1] == 1


def test_survives_json() -> None:
    curve = Abstention.fit(*answers(700, seed=0))
    again = Abstention.from_dict(json.loads(json.dumps(curve.to_dict())))
    assert again.to_dict() == curve.to_dict()
    assert again.threshold_for(0.8) == curve.threshold_for(0.8)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"thresholds": "high"}, "damaged"),
        ({"answered": [1]}, "points do not go together"),
        ({"thresholds": [], "answered": [], "correct": []}, "points do not go together"),
        ({"images": 1}, "points do not go together"),
    ],
)
def test_damaged_entries_are_named(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        Abstention.from_dict(Abstention.fit(*answers(20, seed=0)).to_dict() | entries)


def test_a_missing_entry_is_named() -> None:
    with pytest.raises(RunError, match="'thresholds' is missing"):
        Abstention.from_dict({})


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        (np.zeros(3), np.zeros(2, dtype=bool), r"same length, and have \(3,\) and \(2,\)"),
        (np.zeros((3, 2)), np.zeros((3, 2), dtype=bool), "two vectors"),
        (np.zeros(0), np.zeros(0, dtype=bool), "at least one image"),
        (np.full(3, np.nan), np.zeros(3, dtype=bool), "at least one image"),
    ],
)
def test_refuses_what_does_not_fit(confidence: Array, correct: Array, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Abstention.fit(confidence, correct)


@pytest.mark.parametrize(("name", "value"), [("accuracy", 1.0), ("accuracy", 95), ("confidence", 0), ("accuracy", True)])
def test_refuses_limits_that_are_none(name: str, value: Any) -> None:
    curve = Abstention.fit(*answers(20, seed=0))
    with pytest.raises(ParameterError, match=f"{name} must be a number above 0 and below 1, got {value}"):
        curve.threshold_for(**({"accuracy": 0.9} | {name: value}))
