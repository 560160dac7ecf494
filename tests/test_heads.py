"""Heads against closed forms, refits without an image, scikit-learn, and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics.pairwise import rbf_kernel

from headstart.errors import ParameterError, RunError
from headstart.heads import (
    HEADS,
    Head,
    KernelRidgeHead,
    LogisticHead,
    NearestCentroidHead,
    NearestNeighboursHead,
    RidgeHead,
    head_from_state,
)
from headstart.heads.calibration import calibrate
from headstart.heads.labels import encode, image_weights, stratified_rows
from headstart.heads.linalg import gaussian, squared_distances
from headstart.heads.logistic import BIAS_PENALTY
from headstart.heads.ridge import Design, dual_fit, primal_fit
from headstart.metrics.link import SIGMOID, SOFTMAX
from headstart.onnx_graph import OnnxGraph

Array = npt.NDArray[Any]


def blobs(n: int = 120, k: int = 3, dimension: int = 12, *, seed: int = 0, spread: float = 1.6) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % k
    centres = generator.normal(size=(k, dimension)) * 1.2
    return (centres[labels] + spread * generator.normal(size=(n, dimension))).astype(np.float32), labels


def tags(n: int = 150, k: int = 4, dimension: int = 10, *, seed: int = 0) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(n, dimension)).astype(np.float32)
    return X, (X @ generator.normal(size=(dimension, k)) + generator.normal(size=(n, k)) > 0.5)


def all_heads() -> list[Head]:
    return [
        LogisticHead(),
        RidgeHead(),
        KernelRidgeHead(),
        KernelRidgeHead(exact_up_to=50, landmarks=40),
        NearestNeighboursHead(),
        NearestCentroidHead(),
    ]


every_head = pytest.mark.parametrize(
    "head", all_heads(), ids=lambda head: f"{head.name}{'-landmarks' if getattr(head, 'landmarks', 0) == 40 else ''}"
)


def run_onnx(head: Head, X: Array) -> Array:
    graph = OnnxGraph()
    logits = head.write_onnx(graph, "features")
    graph.node("Identity", logits, output="logits")
    model = graph.model(
        inputs={"features": (np.float32, ["N", X.shape[1]])}, outputs={"logits": (np.float32, ["N", head.logits(X[:1]).shape[1]])}
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"features": X})[0])


@every_head
@pytest.mark.parametrize("k", [2, 3])
def test_onnx_gives_the_same_logits(head: Head, k: int) -> None:
    X, y = blobs(k=k)
    head.fit(X, y)
    fresh, _ = blobs(k=k, seed=7)
    np.testing.assert_allclose(run_onnx(head, fresh), head.logits(fresh), rtol=2e-3, atol=2e-3)


@every_head
def test_onnx_gives_the_same_logits_for_several_labels(head: Head) -> None:
    X, y = tags()
    head.fit(X, y)
    fresh, _ = tags(seed=5)
    np.testing.assert_allclose(run_onnx(head, fresh), head.logits(fresh), rtol=2e-3, atol=2e-3)


@every_head
@pytest.mark.parametrize("labels", [np.array(["cat", "dog", "élan"]), np.array([3, 5, 9])])
def test_state_makes_the_same_head_again(head: Head, labels: Array) -> None:
    import json

    X, y = blobs()
    head.fit(X, labels[y])
    state, arrays = head.state()
    again = head_from_state(json.loads(json.dumps(state)), {name: array.copy() for name, array in arrays.items()})
    older = {name: value for name, value in state.items() if name != "link"} | {"multilabel": head.link_.independent}
    assert head_from_state(older, arrays).state()[0] == state
    assert type(again) is type(head)
    np.testing.assert_array_equal(again.logits(X), head.logits(X))
    np.testing.assert_array_equal(again.predict(X), head.predict(X))
    assert again.predict(X).dtype.kind == labels.dtype.kind


def test_damaged_state_is_refused_in_words() -> None:
    X, y = blobs()
    state, arrays = RidgeHead().fit(X, y).state()
    with pytest.raises(RunError, match=r"saved head \(ridge\) is damaged.*coef_"):
        head_from_state(state, {name: array for name, array in arrays.items() if name != "coef_"})
    with pytest.raises(RunError, match=r"saved head is 'tree'; this version reads logistic, ridge"):
        head_from_state({**state, "head": "tree"}, arrays)


@every_head
def test_learns_and_is_calibrated(head: Head) -> None:
    X, y = blobs(600, 4, 12)
    fresh, truth = blobs(600, 4, 12)
    generator = np.random.default_rng(3)
    centres = np.stack([X[y == c].mean(axis=0) for c in range(4)])
    fresh = (centres[truth] + 1.6 * generator.normal(size=fresh.shape)).astype(np.float32)
    head.fit(X, y)
    p = head.predict_proba(fresh)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    right = head.predict(fresh) == truth
    assert right.mean() > 0.8
    assert abs(right.mean() - p.max(axis=1).mean()) < 0.06  # says how often it is right
    out = head.out_of_sample_logits_
    assert out.shape == (600, 4)
    assert abs((out.argmax(axis=1) == y).mean() - right.mean()) < 0.07


@every_head
def test_several_labels(head: Head) -> None:
    X, y = tags(600)
    head.fit(X[:300], y[:300])
    np.testing.assert_allclose(head.predict_proba(X), expit(head.logits(X)))
    assert head.predict(X).dtype == bool
    assert (head.predict(X[300:]) == y[300:]).mean() > 0.72
    np.testing.assert_array_equal(head.classes_, np.arange(4))


@every_head
def test_two_classes_have_one_decision_column(head: Head) -> None:
    X, y = blobs(k=2)
    head.fit(X, np.array(["no", "yes"])[y])
    np.testing.assert_allclose(head.predict_proba(X), softmax(head.logits(X), axis=1), atol=1e-7)
    np.testing.assert_allclose(head.predict_proba(X)[:, 1], expit(head.decision_function(X)), atol=1e-6)


@every_head
def test_the_same_data_give_the_same_bits(head: Head) -> None:
    X, y = blobs()
    first = head.fit(X, y).state()[1]
    second = head.fit(X.copy(), y.copy()).state()[1]
    for name in first:
        assert first[name].tobytes() == second[name].tobytes()


@every_head
@pytest.mark.parametrize(
    "labels",
    [[0, 1], [0, 0, 1], [0, 1, 2], [0, 0, 1, 1], [0, 0, 0, 0, 1, 2], [*range(9), 0, 0]],
    ids=lambda labels: f"{len(labels)} images",
)
def test_very_small_sets_work(head: Head, labels: list[int]) -> None:
    X = np.random.default_rng(0).normal(size=(len(labels), 30)).astype(np.float32)
    X[:, 3] = 1.0
    head.fit(X, labels)
    assert np.isfinite(head.logits(X)).all()
    assert np.isfinite(head.out_of_sample_logits_).all()


@every_head
def test_constant_features_work(head: Head) -> None:
    head.fit(np.ones((8, 5), dtype=np.float32), [0, 1] * 4)
    assert np.isfinite(head.logits(np.ones((2, 5), dtype=np.float32))).all()


@every_head
def test_balanced_weights_help_the_rare_class(head: Head) -> None:
    X, y = blobs(800, 2, 4, spread=3.5)
    kept = np.flatnonzero((y == 0) | (np.arange(800) % 20 == 1))
    X, y = X[kept], y[kept]
    plain = head.fit(X, y).predict(X)
    head.set_params(class_weight="balanced")
    balanced = head.fit(X, y).predict(X)
    assert (balanced == 1).sum() > (plain == 1).sum()
    head.set_params(class_weight=None)


@every_head
def test_an_image_of_weight_zero_is_absent(head: Head) -> None:
    X, y = blobs()
    weights = np.ones(len(X))
    weights[::4] = 0
    weighted = head.fit(X, y, sample_weight=weights).logits(X)
    np.testing.assert_array_equal(head.fit(X[weights > 0], y[weights > 0], sample_weight=weights[weights > 0]).logits(X), weighted)


# Out-of-sample scores are what a fit without the images says.


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(4, 30),
    dimension=st.integers(1, 8),
    strength=st.sampled_from([1e-2, 0.3, 5.0]),
    weighted=st.booleans(),
    grouped=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_closed_form_equals_leaving_out(n: int, dimension: int, strength: float, weighted: bool, grouped: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(n, dimension))
    Y = generator.normal(size=(n, 2))
    weights = generator.uniform(0.3, 3, size=n) if weighted else None
    groups = generator.integers(0, max(2, n // 3), size=n) if grouped else None
    if groups is not None:
        groups[0], groups[-1] = 0, 1
    K = X @ X.T
    dual = dual_fit(K, Y, strength, weights=weights, groups=groups)
    primal = primal_fit(Design(X.__getitem__, X.mean(axis=0)), Y, strength, weights=weights, groups=groups)
    assert dual is not None
    assert primal is not None
    np.testing.assert_allclose(X.T @ dual.coefficients, primal.coefficients, atol=1e-8)
    np.testing.assert_allclose(dual.bias, primal.bias, atol=1e-8)
    for i in range(n):
        left = np.arange(n) != i if groups is None else groups != groups[i]
        w = None if weights is None else weights[left]
        reference = Ridge(alpha=strength, solver="cholesky").fit(X[left], Y[left], sample_weight=w).predict(X[i : i + 1])[0]
        np.testing.assert_allclose(dual.out_of_sample[i], reference, atol=1e-6)
        np.testing.assert_allclose(primal.out_of_sample[i], reference, atol=1e-6)


def test_kernel_that_is_not_positive_definite_is_told() -> None:
    assert dual_fit(np.array([[0.0, 1.0], [1.0, 0.0]]), np.eye(2), 1e-3) is None


def test_distances_and_kernel_against_scikit_learn() -> None:
    X, _ = blobs(50)
    Z, _ = blobs(30, seed=1)
    expected = rbf_kernel(X.astype(np.float64), Z.astype(np.float64), gamma=0.03)
    np.testing.assert_allclose(gaussian(squared_distances(X, Z), 0.03), expected, atol=1e-5)
    assert (np.diag(squared_distances(X, X)) == 0).all()


def test_kernel_ridge_is_the_closed_form_scaled() -> None:
    X, y = blobs()
    head = KernelRidgeHead(width=1.5, regularisation=0.2).fit(X, y)
    K = rbf_kernel(X.astype(np.float64), gamma=float(head.gamma_[0]))
    Y = np.where(y[:, None] == np.arange(3), 1.0, -1.0)
    n = len(X)
    system = np.block([[K + 0.2 * np.eye(n), np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    solved = np.linalg.solve(system, np.concatenate([Y, np.zeros((1, 3))]))
    raw = K @ solved[:-1] + solved[-1]
    slope, shift = np.polyfit(raw[:, 0], head.logits(X)[:, 0], 1)
    np.testing.assert_allclose(slope * raw[:, 0] + shift, head.logits(X)[:, 0], atol=2e-3)
    assert slope > 0


def test_landmarks_come_near_the_exact_kernel() -> None:
    X, y = blobs(400, 4)
    exact = KernelRidgeHead(width=2.0, regularisation=0.3).fit(X, y)
    near = KernelRidgeHead(width=2.0, regularisation=0.3, exact_up_to=10, landmarks=300).fit(X, y)
    all_of_them = KernelRidgeHead(width=2.0, regularisation=0.3, exact_up_to=10, landmarks=400).fit(X, y)
    assert len(near.support_) == 300
    assert (near.predict(X) == exact.predict(X)).mean() > 0.97
    np.testing.assert_allclose(all_of_them.logits(X), exact.logits(X), atol=0.05)


def test_logistic_equals_scikit_learn_at_the_same_c() -> None:
    X, y = blobs(150, 4)
    head = LogisticHead(C=0.05).fit(X, y)
    centred = X - X.mean(axis=0)
    design = np.concatenate([centred, np.full((len(X), 1), np.sqrt(1 / (0.05 * BIAS_PENALTY)))], axis=1)
    reference = LogisticRegression(C=0.05, fit_intercept=False, tol=1e-10, max_iter=10000).fit(design, y)
    ours = head.coef_ * head.temperature_
    np.testing.assert_allclose(ours - ours.mean(axis=0), reference.coef_[:, :-1] - reference.coef_[:, :-1].mean(axis=0), atol=2e-3)


def test_logistic_with_two_classes_equals_scikit_learn() -> None:
    X, y = blobs(150, 2)
    head = LogisticHead(C=0.05).fit(X, y)
    centred = X - X.mean(axis=0)
    design = np.concatenate([centred, np.full((len(X), 1), np.sqrt(1 / (0.05 * BIAS_PENALTY)))], axis=1)
    reference = LogisticRegression(C=0.05, fit_intercept=False, tol=1e-10, max_iter=10000).fit(design, y)
    ours = (head.coef_[1] - head.coef_[0]) * head.temperature_
    np.testing.assert_allclose(ours, reference.coef_[0, :-1], atol=2e-3)


def test_logistic_where_features_outnumber_images() -> None:
    X, y = blobs(40, 3, 200)
    head = LogisticHead(C=0.01).fit(X, y)
    design = np.concatenate([X - X.mean(axis=0), np.full((len(X), 1), np.sqrt(1 / (0.01 * BIAS_PENALTY)))], axis=1)
    reference = LogisticRegression(C=0.01, fit_intercept=False, tol=1e-10, max_iter=10000).fit(design, y)
    ours = head.coef_ * head.temperature_
    np.testing.assert_allclose(ours - ours.mean(axis=0), reference.coef_[:, :-1] - reference.coef_[:, :-1].mean(axis=0), atol=2e-3)


def test_held_out_logits_never_saw_their_group() -> None:
    """Every group has its own direction and random label: seen, it is remembered; unseen, it is a guess."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    y = np.repeat(generator.integers(0, 2, 40), 5)
    X = (np.eye(40)[groups] * 5 + 0.1 * generator.normal(size=(200, 40))).astype(np.float32)
    for head in all_heads():
        loose = head.fit(X, y).out_of_sample_logits_
        strict = head.fit(X, y, groups=groups).out_of_sample_logits_
        if not isinstance(head, NearestCentroidHead):
            assert (loose.argmax(axis=1) == y).mean() > 0.9
        assert (strict.argmax(axis=1) == y).mean() < 0.75


def test_neighbours_vote() -> None:
    X = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]], dtype=np.float32)
    head = NearestNeighboursHead(neighbours=3).fit(X, [0, 0, 0, 1, 1, 1])
    assert head.predict(np.array([[1.5], [10.2]], dtype=np.float32)).tolist() == [0, 1]


@every_head
def test_probabilities_do_not_jump(head: Head) -> None:
    """From one image to another of another class, in small steps: a pixel that is rounded the other way changes little."""
    X, y = blobs(90, 3, spread=0.5)
    head.fit(X, y)
    for start, stop in ((0, 1), (1, 2), (5, 0)):
        one, other = X[y == y[start]][0], X[y == y[stop]][-1]
        steps = np.linspace(0, 1, 4001, dtype=np.float32)[:, None]
        probabilities = head.predict_proba(one + steps * (other - one))
        assert np.abs(np.diff(probabilities, axis=0)).max() < 0.01
        assert np.ptp(probabilities, axis=0).max() > 0.5


def test_neighbours_far_away_or_as_near_as_each_other_all_count() -> None:
    X = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
    head = NearestNeighboursHead(neighbours=2).fit(X, [0, 0, 0, 1, 1, 1])
    assert np.isfinite(head.logits(X)).all()
    assert head.predict(X).tolist() == [0, 0, 0, 1, 1, 1]
    every = NearestNeighboursHead(neighbours=6).fit(X, [0, 0, 0, 0, 1, 1])  # one fewer than there are
    assert every.neighbours_ == 5
    assert np.isfinite(every.logits(X)).all()


def test_nearest_centroid_is_nearest() -> None:
    X, y = blobs(90, 3)
    head = NearestCentroidHead().fit(X, y)
    centres = np.stack([X[y == c].mean(axis=0) for c in range(3)])
    np.testing.assert_allclose(head.centroids_, centres, atol=1e-5)
    balanced = head.logits(X) - (head.intercept_ - head.intercept_)
    distance = ((X[:, None] - centres) ** 2).sum(axis=2)
    assert (balanced.argmax(axis=1) == distance.argmin(axis=1)).mean() > 0.95


# Calibration.


def test_calibration_finds_scale_and_shift() -> None:
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(20000, 3)) + [0.5, 0.0, -0.5]
    labels = np.array([generator.choice(3, p=row) for row in softmax(logits, axis=1)])
    found = calibrate(logits / 7 - 1, labels[:, None] == np.arange(3), link=SOFTMAX)
    np.testing.assert_allclose(found.scale, 7, rtol=0.05)
    np.testing.assert_allclose(found.shift - found.shift.mean(), 0, atol=0.15)


@settings(max_examples=30, deadline=None)
@example(seed=3140, n=2, k=3, several=False, scale=1e-4)
@given(
    seed=st.integers(0, 2**20), n=st.integers(2, 60), k=st.integers(2, 5), several=st.booleans(), scale=st.sampled_from([1e-4, 1.0, 1e4])
)
def test_calibration_never_makes_the_log_loss_worse_than_no_knowledge(seed: int, n: int, k: int, several: bool, scale: float) -> None:
    generator = np.random.default_rng(seed)
    scores = scale * generator.normal(size=(n, k))
    indicators = generator.integers(0, 2, (n, k)).astype(bool) if several else generator.integers(0, k, n)[:, None] == np.arange(k)
    link = SIGMOID if several else SOFTMAX
    found = calibrate(scores, indicators, link=link)
    assert found.scale > 0
    assert np.isfinite(found.shift).all()
    ignorance = link.losses(np.zeros((n, k)), indicators).mean()
    assert link.losses(found(scores), indicators).mean() <= ignorance + 0.02


def test_perfect_scores_keep_a_finite_scale() -> None:
    y = np.arange(40) % 2
    indicators = y[:, None] == np.arange(2)
    found = calibrate(np.where(indicators, 1.0, -1.0), indicators, link=SOFTMAX)
    p = SOFTMAX.probabilities(found(np.where(indicators, 1.0, -1.0)))
    assert 0.95 < p[indicators].min() < 0.9999


# Labels and weights.


def test_one_class_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"at least two classes; all 3 have the one class 'cat'"):
        LogisticHead().fit(np.eye(3, dtype=np.float32), ["cat"] * 3)


def test_a_matrix_that_is_no_choice_of_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold only 0 and 1"):
        encode(np.array([[0, 2], [1, 0]]))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("equal", "class_weight must be None, 'balanced' or a dictionary of label to weight, got 'equal'"),
        ({"cat": 1, "cow": 2}, "names the label 'cow', which the data do not have. Their labels: 'cat', 'dog'"),
        ({"cat": -1}, "must hold positive numbers"),
    ],
)
def test_wrong_class_weights(weight: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        image_weights(encode(["cat", "dog"]), weight)


def test_class_weights() -> None:
    targets = encode(["a", "a", "a", "b"])
    np.testing.assert_allclose(image_weights(targets, "balanced"), [2 / 3, 2 / 3, 2 / 3, 2])
    np.testing.assert_allclose(image_weights(targets, {"b": 5}), [1, 1, 1, 5])
    assert image_weights(targets, None) is None


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (LogisticHead(C=0), "C must be a number above 0 or None, got 0"),
        (LogisticHead(folds=1), "folds must be a whole number of at least 2, got 1"),
        (RidgeHead(regularisation=-1), "regularisation must be a number above 0 or None, got -1"),
        (KernelRidgeHead(width=0), "width must be a number above 0 or None, got 0"),
        (NearestNeighboursHead(neighbours=0), "neighbours must be a whole number of at least 1 or None, got 0"),
    ],
)
def test_parameters_outside_their_limits(head: Head, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        head.fit(*blobs())


@given(counts=st.lists(st.integers(1, 60), min_size=2, max_size=6), count=st.integers(4, 80))
def test_subsample_keeps_every_class(counts: list[int], count: int) -> None:
    targets = encode(np.repeat(np.arange(len(counts)), counts))
    rows = stratified_rows(targets, count, seed=0)
    assert (np.diff(rows) > 0).all()
    assert len(rows) <= max(count + 3 * len(counts), min(count, len(targets)))
    kept = np.bincount(targets.codes[rows], minlength=len(counts))
    assert (kept >= np.minimum(counts, 2)).all()


def test_heads_are_named_once() -> None:
    assert {name: head.name for name, head in HEADS.items()} == {name: name for name in HEADS}
