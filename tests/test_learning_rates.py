"""Which learning rate follows from a curve: on problems whose limit is known, on noise alone, and in words. NumPy only."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import ParameterError
from headstart.report.chart import Scale, lines, scales
from headstart.report.training import lr_chart
from headstart.training.learning_rates import DivergenceTest, LearningRates, lr_text, rising, rounded_down, smooth


def searched(losses: np.ndarray, *, guessing: float = 1.0, default: float = 5e-4, low: float = 1e-6, high: float = 1.0) -> LearningRates:
    """Losses of a whole search, as it would have gone: to its end, or until it diverges."""
    watch = DivergenceTest(guessing)
    stop = next((place + 1 for place, loss in enumerate(losses) if watch(float(loss))), None)
    lrs = rising(low, high, len(losses))
    return LearningRates.of(lrs, losses[:stop], guessing=guessing, default=default, diverged=stop is not None)


class Quadratic:
    """Gradient descent on the mean of curvature / 2 (w - c)^2 over the c of a batch: it diverges above a rate of 2 / curvature."""

    def __init__(self, curvature: float, seed: int, *, noise: float = 0.05) -> None:
        self.curvature, self.noise, self.random = curvature, noise, np.random.default_rng(seed)
        self.w = math.sqrt(2 / curvature)  # where the loss is 1

    def step(self, lr: float) -> float:
        centre = self.random.normal(0, self.noise * math.sqrt(2 / self.curvature))
        loss = self.curvature / 2 * (self.w - centre) ** 2
        self.w = float(np.clip(self.w - lr * self.curvature * (self.w - centre), -1e100, 1e100))
        return loss


@pytest.mark.parametrize("curvature", [0.2, 3.0, 50.0, 4000.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_rate_for_a_quadratic_lies_below_divergence_and_its_training_falls(curvature: float, seed: int) -> None:
    toy = Quadratic(curvature, seed)
    losses = np.array([toy.step(lr) for lr in rising(1e-6, 1e3, 150)])
    found = searched(losses, high=1e3)
    assert found.diverged
    assert found.lrs[-1] > 2 / curvature
    assert 0.01 / curvature < found.suggested < 1 / curvature
    trained = Quadratic(curvature, seed + 100)
    after = [trained.step(found.suggested) for _ in range(200)]
    assert np.mean(after[-20:]) < 0.05 * after[0]


@pytest.mark.parametrize("shape", [1.0, 4.0, 50.0], ids=lambda shape: f"gamma{shape:g}")
@pytest.mark.parametrize("level", [0.02, 0.3, 1.0])
def test_noise_alone_is_not_taken_for_a_fall(shape: float, level: float) -> None:
    t = np.linspace(-6, 0, 100)
    rise = 1 + np.exp(np.clip((t + 1) * 6, -50, 8))  # from about 0.1 on
    wrong = 0
    for seed in range(100):
        found = searched(level * rise * np.random.default_rng(seed).gamma(shape, 1 / shape, 100))
        assert ("does not clearly fall" in found.reason) or ("falls most steeply" in found.reason)
        wrong += "falls most steeply" in found.reason
        if "the default, less than a tenth" in found.reason:
            assert found.suggested == 5e-4
    assert wrong <= 2


def test_a_good_head_is_said_to_be_good_and_gets_the_default() -> None:
    t = np.linspace(-6, 0, 100)
    losses = 0.03 + np.exp((t + 1.5) * 6)
    found = searched(losses, guessing=1.1)
    assert found.suggested == 5e-4
    assert found.diverged
    assert "starts at 0.03 (guessing: 1.1) and does not clearly fall: the head is already good. It rises from 0.0" in found.reason
    early = searched(0.03 + np.exp((t + 4) * 6), guessing=1.1)
    assert early.suggested == 3e-6
    assert early.reason.endswith("on. The suggestion is a tenth of that; the default, 5e-4, is higher.")
    flat = searched(np.full(100, 0.9))
    assert flat.suggested == 5e-4
    assert "already good" not in flat.reason
    assert "It does not rise either. The suggestion is the default." in flat.reason


def test_where_both_rules_hold_the_lower_rate_is_taken() -> None:
    t = np.linspace(-6, 0, 100)
    slow = searched(1 - 0.5 / (1 + np.exp(-(t + 4) * 4)) - 0.03 * (t + 6))
    assert slow.suggested == pytest.approx(1e-4, rel=0.35)  # steepest where the curve is steepest
    assert "It does not rise up to the highest rate tried. The suggestion is the first" in slow.reason
    late = searched(np.where(t < -1.5, 1 - 0.2 * (t + 6) ** 4 / 4.5**4, 0.8 + 20 * (t + 1.5)))
    assert 5e-4 < late.suggested < 10**-2.5  # steepest just before the lowest
    assert "The suggestion is a tenth of the second." in late.reason


def test_a_search_stops_at_four_times_the_lowest_loss_when_that_is_worse_than_guessing() -> None:
    watch = DivergenceTest(1.0)
    assert not any(watch(loss) for loss in [1.0] * 5 + [0.5] * 60 + [1.9] * 60)
    assert any(watch(loss) for loss in [2.1] * 60)
    noisy = DivergenceTest(1.0)
    assert not any(noisy(float(loss)) for loss in 0.01 * np.random.default_rng(0).gamma(0.2, 5, 2000))
    assert DivergenceTest(1.0)(math.nan)


def test_smoothing_does_not_lag() -> None:
    line = np.arange(100.0)
    assert smooth(line)[15:85] == pytest.approx(line[15:85], abs=1e-3)
    bump = np.exp(-0.5 * ((line - 50) / 6) ** 2)
    assert smooth(bump).argmax() == 50
    noise = np.random.default_rng(0).normal(size=2000)
    assert smooth(noise)[200:-200].std() == pytest.approx(1 / math.sqrt(2 * math.sqrt(math.pi) * 60), rel=0.5)


@given(st.floats(1e-9, 99.0))
def test_a_rate_is_rounded_down_to_one_digit_and_written_so_that_it_is_read_back(rate: float) -> None:
    rounded = rounded_down(rate)
    assert rate / 2 < rounded <= rate * (1 + 1e-8)
    assert float(lr_text(rounded)) == pytest.approx(rounded, rel=1e-9)
    assert len(lr_text(rounded).replace("0.0", "").replace("0.", "").split("e")[0]) <= 2


@pytest.mark.parametrize(("rate", "words"), [(3e-4, "3e-4"), (1e-6, "1e-6"), (2.34e-3, "2.3e-3"), (0.02, "0.02"), (1.0, "1"), (0.5, "0.5")])
def test_a_rate_lr_text(rate: float, words: str) -> None:
    assert lr_text(rate) == words


@pytest.mark.parametrize(
    ("low", "high", "steps", "said"),
    [
        (0.0, 1.0, 100, "must go from a rate above 0 to one at least 10 times as high, got 0 to 1."),
        (1e-3, 5e-3, 100, "got 0.001 to 0.005"),
        (1e-3, math.inf, 100, "got 0.001 to inf"),
        (math.nan, 1.0, 100, "got nan to 1"),
        (1e-6, 1.0, 19, "must have at least 20 steps, got 19"),
    ],
)
def test_limits_that_are_none(low: float, high: float, steps: int, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        rising(low, high, steps)


def test_a_search_that_begins_too_high() -> None:
    for losses in ([], [1.0, 50.0, 9e9]):
        with pytest.raises(ParameterError, match=r"rose from the first steps on, at a learning rate of 0\.1\. Start lower: --low 1e-4"):
            LearningRates.of(rising(0.1, 10, 100), np.array(losses), guessing=1.0, default=5e-4, diverged=True)


def test_the_chart_shows_the_curve_where_it_is() -> None:
    toy = Quadratic(3.0, 0)
    found = searched(np.array([toy.step(lr) for lr in rising(1e-6, 1e3, 150)]), high=1e3)
    chart = lr_chart(found)
    x, y = scales(chart)
    assert x.axis.log
    assert chart.mark is not None
    assert chart.mark.x == found.suggested
    assert chart.mark.label == f"{lr_text(found.suggested)} suggested"
    (smoothed,) = lines(chart.series[1], x, y)
    assert smoothed[0][0] == pytest.approx(Scale.around(chart.x, found.lrs)(found.lrs[0]), abs=0.02)
    lowest = min(smoothed, key=lambda point: point[1])
    assert lowest[0] == pytest.approx(x(float(found.lrs[found.smoothed.argmin()])))
    assert found.reason in chart.description


def test_the_table_holds_both_ends() -> None:
    found = searched(np.full(100, 0.9))
    rows = found.rows(13)
    assert len(rows) == 13
    assert (rows[0][0], rows[-1][0]) == (found.lrs[0], found.lrs[-1])
    assert len(found.rows(1000)) == 100
