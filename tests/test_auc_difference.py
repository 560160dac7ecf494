"""Two rankings of the same images: against DeLong's formula written out, and against the truth of many samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from headstart import metrics
from headstart.errors import ParameterError
from test_metrics import near


def _delong(positive: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Difference and its standard error, from the matrices of all pairs."""
    wins = [
        (scores[positive][:, None] > scores[~positive][None, :]) + 0.5 * (scores[positive][:, None] == scores[~positive][None, :])
        for scores in (first, second)
    ]
    above, below = (np.cov([matrix.mean(axis=axis) for matrix in wins]) for axis in (1, 0))
    together = above / positive.sum() + below / (~positive).sum()
    return wins[0].mean() - wins[1].mean(), math.sqrt(together[0, 0] + together[1, 1] - 2 * together[0, 1])


@given(st.integers(0, 2**32 - 1), st.integers(6, 60), st.sampled_from([None, 4]))
def test_the_difference_of_areas_is_tested_as_delong_did(seed: int, n: int, steps: int | None) -> None:
    rng = np.random.default_rng(seed)
    positive = np.arange(n) < rng.integers(2, n - 1)
    first, second = positive + rng.normal(size=n), 0.5 * positive + rng.normal(size=n)
    if steps:
        first, second = np.round(first * steps) / steps, np.round(second * steps) / steps
    found, (value, error) = metrics.auc_difference(positive, first, second), _delong(positive, first, second)
    assert (found.first, found.second) == near((metrics.roc_auc(positive, first)[0], metrics.roc_auc(positive, second)[0]))
    assert found.value == near(value)
    if error > 1e-9:
        assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(value) / error), rel=1e-6, abs=1e-12)
        assert found.interval == pytest.approx((max(-1, value - 1.959964 * error), min(1, value + 1.959964 * error)), abs=1e-6)


def test_two_columns_of_two_classes_say_the_same_as_one() -> None:
    rng = np.random.default_rng(0)
    positive, first, second = rng.random(80) < 0.4, rng.random(80), rng.random(80)
    one = metrics.auc_difference(positive, first, second)
    both = metrics.auc_difference(*(np.column_stack([1 - values, values]) for values in (1 * positive, first, second)))
    assert (both.value, both.p_value, *both.interval) == pytest.approx((one.value, one.p_value, *one.interval), abs=1e-9)


def _two_models(rng: np.random.Generator, n: int, skills: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    targets = rng.integers(0, 4, n)
    positive, common = np.eye(4, dtype=bool)[targets], rng.normal(size=(n, 4))
    first, second = (skill * positive + common + 0.5 * rng.normal(size=(n, 4)) for skill in skills)
    return positive, first, second


def test_the_interval_of_a_difference_of_mean_areas_covers_it() -> None:
    rng = np.random.default_rng(3)
    truth = metrics.auc_difference(*_two_models(rng, 200_000, (1.0, 1.3))).value
    found = [metrics.auc_difference(*_two_models(rng, 150, (1.0, 1.3))).interval for _ in range(400)]
    assert 0.92 <= np.mean([low <= truth <= high for low, high in found]) <= 0.98
    same = [metrics.auc_difference(*_two_models(rng, 150, (1.0, 1.0))).p_value < 0.05 for _ in range(400)]
    assert 0.02 <= np.mean(same) <= 0.08


def test_where_nothing_varies_there_is_no_interval() -> None:
    positive, perfect = np.array([False, False, True, True]), np.array([0.1, 0.2, 0.8, 0.9])
    same, turned = metrics.auc_difference(positive, perfect, perfect), metrics.auc_difference(positive, perfect, -perfect)
    assert (same.value, same.p_value) == (0, 1)
    assert turned.value == 1
    assert all(math.isnan(bound) for bound in (*same.interval, *turned.interval, turned.p_value))


def test_areas_are_compared_on_the_same_images_of_two_kinds() -> None:
    with pytest.raises(ParameterError, match=r"the same images twice, got \(3,\), \(3,\) and \(2,\)"):
        metrics.auc_difference(np.array([True, False, True]), np.zeros(3), np.zeros(2))
    with pytest.raises(ParameterError, match="a class that some of the images have and others have not"):
        metrics.auc_difference(np.array([True, True]), np.zeros(2), np.zeros(2))


def test_holm_by_hand() -> None:
    assert metrics.holm([0.01, 0.04, 0.03]) == near((0.03, 0.06, 0.06))
    assert metrics.holm([0.5, math.nan, 0.9]) == near((1.0, math.nan, 1.0))
    assert metrics.holm([0.02]) == (0.02,)
    assert metrics.holm([]) == ()
