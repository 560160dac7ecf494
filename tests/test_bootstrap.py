"""Bootstrap intervals: against scikit-learn on every resample, and how often they cover the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from headstart import metrics
from headstart.errors import ParameterError
from test_metrics import problem


@pytest.mark.parametrize("several", [False, True])
def test_every_resample_has_the_scores_that_scikit_learn_gives_its_images(several: bool) -> None:
    """The intervals are percentiles of the scores of repeated images, computed here one resample at a time."""
    rng = np.random.default_rng(0)
    targets, probabilities = problem(5, n=90, k=3, steps=20)
    if several:
        targets, probabilities = rng.random((90, 3)) < 0.4, np.round(rng.random((90, 3)), 1) * 0.9 + 0.05
    found = metrics.bootstrap_intervals(targets, probabilities, replicates=60, seed=4)
    scores: dict[str, list[float]] = {}
    for weights in metrics.resamples(90, replicates=60, strata=None if several else targets, seed=4):
        for column in weights.T.astype(int):
            rows = np.repeat(np.arange(90), column)
            for name, value in _expected(targets[rows], probabilities[rows]).items():
                scores.setdefault(name, []).append(value)
    assert found.intervals.keys() == scores.keys() == {"f1_macro", "log_loss", "roc_auc"} | (set() if several else {"balanced_accuracy"})
    for name, values in scores.items():
        assert found.intervals[name] == pytest.approx(np.percentile(values, [2.5, 97.5]), rel=1e-5)


def _expected(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    if targets.ndim == 2:
        by_label = [reference.log_loss(targets[:, j], probabilities[:, j], labels=[False, True]) for j in range(3)]
        return {
            "f1_macro": reference.f1_score(targets, probabilities >= 0.5, average="macro", zero_division=0),
            "log_loss": float(np.mean(by_label)),
            "roc_auc": reference.roc_auc_score(targets, probabilities, average="macro"),
        }
    predicted = probabilities.argmax(axis=1)
    return {
        "balanced_accuracy": reference.balanced_accuracy_score(targets, predicted),
        "f1_macro": reference.f1_score(targets, predicted, average="macro", zero_division=0),
        "log_loss": reference.log_loss(targets, probabilities),
        "roc_auc": reference.roc_auc_score(targets, probabilities, multi_class="ovr"),
    }


def test_bootstrap_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(0)

    def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
        targets = rng.integers(0, 3, n)
        logits = rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[targets]
        return targets, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    truth = _expected(*sample(200_000))
    found = [metrics.bootstrap_intervals(*sample(200), replicates=300).intervals for _ in range(200)]
    for name, value in truth.items():
        covered = np.mean([low <= value <= high for low, high in (intervals[name] for intervals in found)])
        assert 0.90 <= covered <= 0.99, name


def test_resamples_draw_each_class_as_often_as_it_occurs() -> None:
    strata = np.array([0] * 5 + [7] * 3 + [2])
    drawn = np.concatenate(list(metrics.resamples(9, replicates=500, strata=strata, seed=1)), axis=1)
    assert drawn.shape == (9, 500)
    assert (drawn[:5].sum(axis=0) == 5).all()
    assert (drawn[5:8].sum(axis=0) == 3).all()
    assert (drawn[8] == 1).all()
    assert drawn.mean(axis=1) == pytest.approx(np.ones(9), abs=0.15)
    assert drawn[0].var() == pytest.approx(4 / 5, abs=0.15)  # binomial: five draws of a fifth each
    loose = np.concatenate(list(metrics.resamples(9, replicates=500, seed=1)), axis=1)
    assert (loose.sum(axis=0) == 9).all()
    assert loose[8].var() > 0.5


def test_large_data_are_resampled_in_blocks() -> None:
    blocks = list(metrics.resamples(1_500_000, replicates=3))
    assert [block.shape for block in blocks] == [(1_500_000, 1)] * 3
    assert all(block.sum(dtype=np.float64) == 1_500_000 for block in blocks)
    assert not np.array_equal(blocks[0], blocks[1])


def test_what_does_not_vary_has_no_interval() -> None:
    sure = metrics.bootstrap_intervals(np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]]))
    assert sure.intervals.keys() == {"log_loss"}  # all right, all ranked rightly: that says nothing about the next image
    assert metrics.bootstrap_intervals(np.array([0, 0]), np.array([[0.9, 0.1], [0.4, 0.6]])).intervals.keys() >= {"f1_macro", "log_loss"}
    assert "roc_auc" not in metrics.bootstrap_intervals(np.array([0, 0]), np.array([[0.9, 0.1], [0.4, 0.6]])).intervals
    assert metrics.bootstrap_intervals(np.empty(0, dtype=np.int64), np.empty((0, 2))).intervals == {}


def test_the_method_is_stated_and_the_seed_counts() -> None:
    targets, probabilities = problem(0, n=50, k=3)
    found = metrics.bootstrap_intervals(targets, probabilities)
    assert found.method == "percentile bootstrap, 95 %, 1000 resamples, stratified by class, seed 0"
    assert found == metrics.bootstrap_intervals(targets, probabilities)
    other = metrics.bootstrap_intervals(targets, probabilities, seed=1, confidence=0.8, replicates=500)
    assert other.method == "percentile bootstrap, 80 %, 500 resamples, stratified by class, seed 1"
    assert all(other.intervals[name][0] > low and other.intervals[name][1] < high for name, (low, high) in found.intervals.items())
    several = metrics.bootstrap_intervals(targets[:, None] == np.arange(3), probabilities)
    assert several.method == "percentile bootstrap, 95 %, 1000 resamples, seed 0"


@pytest.mark.parametrize(
    ("given", "said"),
    [({"replicates": 1}, "replicates must be a whole number of at least 2 or None, got 1"), ({"confidence": 95}, "below 1, got 95")],
)
def test_a_bootstrap_of_nothing_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        metrics.bootstrap_intervals(np.array([0, 1]), np.eye(2), **given)
