"""What is done in blocks for large data is what would be done at once; and what a landmark's own out-of-sample score is."""

from __future__ import annotations

import json
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from headstart import matrix
from headstart.errors import DataError
from headstart.features.prepared import result_key
from headstart.heads import Head, KernelRidgeHead, RidgeHead, head_from_state
from headstart.heads.calibration import calibrate
from headstart.heads.ridge import Design, primal_fit
from headstart.maps import LayerMap
from headstart.matrix import RowView, column_moments, compacted, spread_out, take_rows
from headstart.metrics import SOFTMAX, calibration_error_by_chance, expected_calibration_error
from headstart.selection import HeadPipeline, choose_head, learning_curve
from test_strategy import LAYERS as TOY_LAYERS
from test_strategy import layered

LAYERS = (("a", 0, 5), ("b", 20, 52))


def features(n: int = 3000, width: int = 52, *, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).gamma(2.0, size=(n, width)) * np.linspace(0, 3, width)).astype(np.float32)


# Leaving out a row that is the origin of a column: against fits without both, in the dual form.


@pytest.mark.parametrize("grouped", [False, True])
def test_a_row_is_left_out_with_the_column_made_from_it(grouped: bool) -> None:
    generator = np.random.default_rng(0)
    n, strength = 30, 0.4
    X, Y = generator.normal(size=(n, 3)), generator.normal(size=(n, 2))
    weights = generator.uniform(0.5, 2, n)
    kernel = np.exp(-((X[:, None] - X) ** 2).sum(axis=2))
    landmarks = np.arange(0, n, 3)
    groups = np.arange(n) // 4 if grouped else None
    own = np.full(n, -1)
    own[landmarks] = np.arange(len(landmarks))

    def fitted(rows: np.ndarray, columns: np.ndarray, **further: Any) -> Any:
        upper = np.linalg.cholesky(kernel[np.ix_(columns, columns)] + 1e-9 * np.eye(len(columns))).T
        place = np.full(n, -1)
        place[columns] = np.arange(len(columns))
        design = Design(lambda some: kernel[np.ix_(rows[some], columns)], np.zeros(len(columns)), np.linalg.inv(upper), place[rows])
        return primal_fit(design, Y[rows], strength, weights=weights[rows], **further)

    whole = fitted(np.arange(n), landmarks, groups=groups)
    for row in range(n):
        out = np.arange(n) == row if groups is None else groups == groups[row]
        columns = landmarks[~out[landmarks]]
        without = fitted(np.flatnonzero(~out), columns)
        np.testing.assert_allclose(whole.out_of_sample[row], kernel[row, columns] @ without.coefficients + without.bias, atol=1e-5)


def test_landmarks_score_like_other_images_out_of_sample() -> None:
    """A narrow kernel knows its landmarks by heart: if not left out as such, they would not score as other images do."""
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(1200, 6)).astype(np.float32), generator.integers(0, 2, 1200)
    X += y[:, None].astype(np.float32)
    head = KernelRidgeHead(width=0.15, regularisation=0.01, exact_up_to=10, landmarks=400).fit(X, y)
    correct = head.out_of_sample_logits_.argmax(axis=1) == y
    landmark = np.isin(X[:, 0], head.support_[:, 0] / np.sqrt(head.gamma_))
    fresh = generator.integers(0, 2, 4000)
    reached = (head.predict(generator.normal(size=(4000, 6)).astype(np.float32) + fresh[:, None]) == fresh).mean()
    assert abs(correct.mean() - reached) < 0.03
    assert landmark.sum() in range(300, 401)
    assert abs(correct[landmark].mean() - reached) < 0.05


def test_a_regularisation_from_few_images_is_chosen_again_on_all() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(2000, 4)).astype(np.float32)
    y = (np.sin(2 * X[:, 0]) + np.sin(2 * X[:, 1]) > 0).astype(int)
    settings: dict[str, Any] = {"width": 0.5, "exact_up_to": 10, "landmarks": 400}
    refined = KernelRidgeHead(**settings, regularisation=3.0, refine=True).fit(X, y)
    plain = KernelRidgeHead(**settings, regularisation=3.0).fit(X, y)
    assert plain.regularisation_ == 3.0
    assert refined.regularisation_ < 1.0
    again = KernelRidgeHead(**settings, regularisation=refined.regularisation_).fit(X, y)
    np.testing.assert_array_equal(refined.logits(X), again.logits(X))


# Matrices read in blocks.


def test_moments_are_those_of_numpy() -> None:
    X = features()
    X[:, 3] = 7.1
    for given in (X, RowView(X, np.arange(len(X))[::-1].copy())):
        mean, variance = column_moments(given)
        np.testing.assert_allclose(mean, X.mean(axis=0, dtype=np.float64), rtol=1e-6)
        np.testing.assert_allclose(variance, X.var(axis=0, dtype=np.float64), rtol=1e-4, atol=1e-10)
        assert variance[3] == 0


def test_views_are_the_rows_and_their_maps() -> None:
    X = features()
    rows = np.random.default_rng(1).permutation(len(X))[:2500]
    view = RowView(X, rows)
    np.testing.assert_array_equal(np.asarray(view), X[rows])
    np.testing.assert_array_equal(view[10:20], X[rows[10:20]])
    np.testing.assert_array_equal(view[np.array([3, 1])], X[rows[[3, 1]]])
    nested = RowView(view, np.arange(5, 900))
    np.testing.assert_array_equal(np.asarray(nested), X[rows[5:900]])
    map_ = LayerMap(LAYERS).fit(view)
    np.testing.assert_array_equal(map_.mean_, LayerMap(LAYERS).fit(X[rows]).mean_)
    mapped = RowView(view, map=map_._mapped, width=37)
    assert mapped.shape == (2500, 37)
    np.testing.assert_array_equal(np.asarray(mapped), map_.transform(X[rows]))


def test_consecutive_rows_are_no_copy_and_others_only_where_small(monkeypatch: pytest.MonkeyPatch) -> None:
    X = features()
    assert np.shares_memory(take_rows(X, np.arange(100, 3000)), X)
    scattered = np.arange(0, 3000, 2)
    assert isinstance(take_rows(X, scattered), np.ndarray)
    monkeypatch.setattr(matrix, "SMALL", 1000)
    taken = take_rows(X, scattered)
    assert isinstance(taken, RowView)
    np.testing.assert_array_equal(np.asarray(taken), X[scattered])


def test_rows_are_moved_within_a_matrix_and_back() -> None:
    X = features()
    rows = np.flatnonzero(np.random.default_rng(2).random(len(X)) < 0.9)
    own = X.copy()
    np.testing.assert_array_equal(compacted(own, rows), X[rows])
    spread_out(own, rows)
    np.testing.assert_array_equal(own[rows], X[rows])


def test_a_large_matrix_lies_in_a_file_that_is_gone_with_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "MAPPED", 1000)
    made = matrix.allocated(100, 7, folder=tmp_path)
    assert type(made) is np.ndarray
    assert isinstance(made.base, np.memmap)
    made[:] = 3
    assert made.sum() == 2100
    assert not list(tmp_path.iterdir())
    assert matrix.allocated(100, 7, folder=tmp_path / "missing").base is None
    assert matrix.allocated(10, 7, folder=tmp_path).base is None


@pytest.mark.parametrize("head", [RidgeHead(regularisation=0.1), KernelRidgeHead(width=4.0, regularisation=0.1, landmarks=100)])
def test_a_fit_makes_no_copy_of_the_features_and_gives_the_same(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = features(20_000, 300), np.arange(20_000) % 3
    X[np.arange(20_000), y] += 3
    rows = np.random.default_rng(3).permutation(20_000)
    at_once = HeadPipeline(LayerMap((("a", 0, 250),)), head).fit(X[rows], y[rows])
    monkeypatch.setattr(matrix, "SMALL", 1000)
    monkeypatch.setattr("headstart.maps.layers.SMALL", 1000)
    pipeline = HeadPipeline(LayerMap((("a", 0, 250),)), head)
    tracemalloc.start()
    try:
        pipeline.fit(take_rows(X, rows), y[rows])
        logits = pipeline.logits(RowView(X))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * X.nbytes
    np.testing.assert_array_equal(pipeline.out_of_sample_logits_, at_once.out_of_sample_logits_)
    np.testing.assert_array_equal(logits, at_once.logits(X))


def test_a_choice_from_a_view_is_that_from_the_rows() -> None:
    X, y = layered(500, 3, where="stage2", noise=2.0)
    rows = np.random.default_rng(4).permutation(500)[:400]
    choices = [choose_head(given, y[rows], layers=TOY_LAYERS) for given in (X[rows], RowView(X, rows))]
    assert choices[0].reason == choices[1].reason
    np.testing.assert_array_equal(choices[0].out_of_sample, choices[1].out_of_sample)
    curves = [learning_curve(given, y[rows], choice=choices[0], layers=TOY_LAYERS) for given in (X[rows], RowView(X, rows))]
    assert curves[0] == curves[1]
    assert result_key("k", X[rows]) == result_key("k", RowView(X, rows))
    X[rows[7], 3] = np.nan
    with pytest.raises(DataError, match=r"1 of 400 feature vectors hold NaN or infinite values \(the first is number 7\)"):
        choose_head(RowView(X, rows), y[rows], layers=TOY_LAYERS)


# The calibration of least squares.


def test_scores_of_least_squares_are_bent_to_log_odds() -> None:
    """Scores that are twice the probability less one, plus noise: on a straight line their calibration error is several times chance."""
    generator = np.random.default_rng(0)
    truth = softmax(1.5 * generator.normal(size=(20000, 5)), axis=1)
    labels = (truth.cumsum(axis=1) < generator.random((20000, 1))).sum(axis=1)
    scores = 2 * truth - 1 + 0.02 * generator.normal(size=truth.shape)
    errors = {}
    for bends in (False, True):
        found = calibrate(scores[:10000], labels[:10000, None] == np.arange(5), link=SOFTMAX, bends=bends)
        p = softmax(found(scores[10000:]), axis=1)
        sure, right = p.max(axis=1), p.argmax(axis=1) == labels[10000:]
        errors[bends] = expected_calibration_error(sure, right)
        assert (right == (scores[10000:].argmax(axis=1) == labels[10000:])).mean() > 0.995
    assert errors[True] < calibration_error_by_chance(sure)[2] < errors[False] / 1.5


def test_a_bend_keeps_the_order_beyond_what_was_seen() -> None:
    generator = np.random.default_rng(1)
    truth = softmax(2 * generator.normal(size=(3000, 4)), axis=1)
    labels = (truth.cumsum(axis=1) < generator.random((3000, 1))).sum(axis=1)
    found = calibrate(2 * truth - 1, labels[:, None] == np.arange(4), link=SOFTMAX, bends=True)
    assert found.bend is not None
    far = np.linspace(-8, 8, 2000)[:, None] * np.ones(4)
    assert (np.diff(found(far), axis=0) > 0).all()


def test_bends_of_a_saved_head_and_its_graph() -> None:
    X, y = features(900, 12), np.arange(900) % 3
    X[np.arange(900), y] += 2
    head = RidgeHead(regularisation=0.1).fit(X, y)
    assert head.bend_ is not None
    state, arrays = head.state()
    np.testing.assert_array_equal(head_from_state(json.loads(json.dumps(state)), arrays).logits(X), head.logits(X))
    straight = {name: value for name, value in state.items() if name != "bend"}  # as earlier versions wrote it
    assert head_from_state(straight, arrays).bend_ is None


# The learning curve.


def test_the_height_of_the_curve_is_that_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = layered(1500, 3, where="last", noise=3.0)
    choice = choose_head(X, y, layers=TOY_LAYERS, head="ridge")
    correct = choice.out_of_sample.argmax(axis=1) == y
    assert 0.5 < correct.mean() < 0.97
    monkeypatch.setattr(sys.modules["headstart.selection.learning_curve"], "TESTED", 150)
    found = learning_curve(X, y, choice=choice, layers=TOY_LAYERS)
    assert found.tested in range(140, 161)
    assert found.accuracy[-1] == pytest.approx(correct.mean(), abs=1e-9)
    assert found.error[-1] < 2 * np.sqrt(correct.mean() * (1 - correct.mean()) / 1500)
    assert found.accuracy[0] < found.accuracy[-1]
