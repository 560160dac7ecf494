"""Scores made into probabilities: those that were drawn are found again, and their order stays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from headstart.errors import ParameterError
from headstart.metrics.confidence import BetaCalibration, fit_calibration
from headstart.metrics.scores import expected_calibration_error


def _drawn(calibration: BetaCalibration, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores = generator.beta(0.6, 1.5, count)
    return scores, generator.random(count) < calibration(scores)


@pytest.mark.parametrize("true", [BetaCalibration(1.0, 1.0, 0.0), BetaCalibration(0.5, 2.0, 0.8), BetaCalibration(0.0, 3.0, -2.0)])
def test_the_probabilities_are_found_again(true: BetaCalibration) -> None:
    scores, right = _drawn(true, 20_000, 0)
    found = fit_calibration(scores, right)
    grid = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(found(grid), true(grid), atol=0.03)
    others = _drawn(true, 20_000, 1)
    assert expected_calibration_error(found(others[0]), others[1]) < 0.015
    if true.level:
        assert expected_calibration_error(*others) > 0.05


def test_it_is_the_best_within_its_bounds() -> None:
    for seed in range(6):
        generator = np.random.default_rng(seed)
        scores = generator.random(80)
        right = generator.random(80) < (scores if seed % 2 else 1 - scores) ** (1 + seed)
        found = fit_calibration(scores, right)
        hits = right.sum()
        targets = np.where(right, (hits + 1) / (hits + 2), 1 / (80 - hits + 2))

        def loss(weights: np.ndarray, scores: np.ndarray = scores, targets: np.ndarray = targets) -> float:
            chances = BetaCalibration(*weights)(scores)
            return float(-(targets * np.log(chances) + (1 - targets) * np.log(1 - chances)).mean())

        best = minimize(loss, np.array([0.5, 0.5, 0.0]), bounds=[(0, None), (0, None), (None, None)])
        assert loss(np.array([found.rise, found.fall, found.level])) == pytest.approx(best.fun, abs=1e-6)


def test_a_higher_score_never_has_a_lower_probability() -> None:
    grid = np.linspace(0, 1, 101)
    scores = np.linspace(0, 1, 40)
    against = fit_calibration(scores, scores < 0.5)  # the surer, the worse: nothing is to be had from the score
    assert np.ptp(against(grid)) < 1e-12
    assert against(grid)[0] == pytest.approx(0.5, abs=0.01)
    apart = fit_calibration(scores, scores > 0.5)
    values = apart(grid)
    assert (np.diff(values) >= 0).all()
    assert 0 < values[0] < 0.05 < 0.95 < values[-1] < 1
    assert apart(np.float32(0.7)).shape == ()


@pytest.mark.parametrize("right", [False, True])
def test_few_or_equal_scores_say_little(right: bool) -> None:
    one = fit_calibration(np.array([0.8]), np.array([right]))
    assert float(one(np.array(0.8))) == pytest.approx(2 / 3 if right else 1 / 3)
    equal = fit_calibration(np.full(30, 0.4), np.arange(30) % 3 == 0)
    assert float(equal(np.array(0.4))) == pytest.approx(1 / 3, abs=0.02)
    nothing = fit_calibration(np.zeros(0), np.zeros(0, bool))
    assert nothing(np.array([0.2, 0.9])) == pytest.approx([0.2, 0.9])


def test_scores_outside_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"scores from 0 to 1; got -2 to 0\.5"):
        fit_calibration(np.array([-2.0, 0.5]), np.array([True, False]))
    with pytest.raises(ParameterError, match="scores from 0 to 1; got nan to nan"):
        fit_calibration(np.array([np.nan, 0.5]), np.array([True, False]))
    with pytest.raises(ParameterError, match="of one length"):
        fit_calibration(np.array([0.5]), np.array([True, False]))
