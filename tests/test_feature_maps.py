"""Maps that are learned for a task, against scikit-learn, closed forms, finite differences and ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import rbf_kernel

from headstart.errors import ParameterError, RunError
from headstart.heads import KernelRidgeHead, LogisticHead, MLPHead
from headstart.heads.labels import EncodedLabels, encode
from headstart.heads.linalg import median_distance, squared_distances
from headstart.heads.mlp import gradients
from headstart.maps import (
    KINDS,
    MAPS,
    FeatureMap,
    FourierMap,
    GradientProjection,
    HiddenLayer,
    LinearDiscriminants,
    NystroemMap,
    PrincipalComponents,
    map_from_state,
)  # fmt: skip
from headstart.maps.linear import outer_gradients
from headstart.onnx_graph import OnnxGraph

SMALL: dict[str, dict[str, Any]] = {"mlp": {"epochs": 3, "hidden": 12}, "nystroem": {"components": 20}, "fourier": {"components": 40}}


def blobs(n: int = 90, d: int = 12, k: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) of k classes with a covariance of their own, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, k, n)
    spread = np.random.default_rng(9).normal(size=(d, d))
    features = generator.normal(size=(n, d)) @ spread + np.random.default_rng(8).normal(size=(k, d))[labels] * 2 + 5
    return features.astype(np.float32), labels


def same_up_to_signs(ours: np.ndarray, theirs: np.ndarray, *, tolerance: float = 2e-3) -> None:
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours * signs, theirs, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("n", [90, 9])  # more and fewer rows than features
@pytest.mark.parametrize("whiten", [True, False])
def test_principal_components_are_those_of_scikit_learn(n: int, whiten: bool) -> None:
    X, _ = blobs(n)
    ours = PrincipalComponents(components=5, whiten=whiten, shrinkage=0.0).fit(X)
    theirs = PCA(5, whiten=whiten, svd_solver="full").fit(X.astype(np.float64))
    other = blobs(40, seed=1)[0]
    same_up_to_signs(ours.transform(other), theirs.transform(other.astype(np.float64)))


def test_whitened_features_have_the_covariance_that_shrinkage_leaves() -> None:
    X, _ = blobs(200)
    variances = PCA().fit(X.astype(np.float64)).explained_variance_
    for shrinkage in (0.0, 0.5):
        found = np.cov(PrincipalComponents(shrinkage=shrinkage).fit_transform(X).T)
        np.testing.assert_allclose(found, np.diag(variances / (variances + shrinkage * variances.mean())), atol=2e-3)


@pytest.mark.parametrize("k", [2, 4])
def test_discriminants_are_those_of_scikit_learn(k: int) -> None:
    X, y = blobs(90, 12, k)
    ours = LinearDiscriminants(shrinkage=0.0).fit(X, y)
    theirs = LinearDiscriminantAnalysis(solver="eigen").fit(X.astype(np.float64), y)
    other = blobs(40, 12, k, seed=1)[0]
    assert ours.dimension == k - 1
    mean = theirs.transform(X.astype(np.float64).mean(axis=0, keepdims=True))
    same_up_to_signs(ours.transform(other), theirs.transform(other.astype(np.float64)) - mean)


@pytest.mark.parametrize(("n", "d", "shrinkage"), [(90, 12, 0.0), (90, 12, 0.3), (30, 60, 0.3), (30, 60, 0.9)])
@pytest.mark.parametrize("k", [2, 4])
def test_distances_between_discriminants_are_the_scores_of_scikit_learn(n: int, d: int, shrinkage: float, k: int) -> None:
    """Half the squared distance to the mean of a class, less the logarithm of its frequency, with the sign changed."""
    X, y = blobs(n, d, k)
    ours = LinearDiscriminants(shrinkage=shrinkage).fit(X, y)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X.astype(np.float64), y)
    other = blobs(40, d, k, seed=1)[0]
    mapped, centres = ours.transform(other), np.stack([ours.transform(X[y == code]).mean(axis=0) for code in range(k)])
    scores = np.log(np.bincount(y) / n) - ((mapped[:, None] - centres) ** 2).sum(axis=2) / 2
    decided = theirs.decision_function(other.astype(np.float64))
    expected = np.stack([-decided, decided], axis=1) / 2 if k == 2 else decided - decided.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(scores - scores.mean(axis=1, keepdims=True), expected, rtol=5e-3, atol=2e-2)


def weighted(y: np.ndarray, weights: np.ndarray) -> EncodedLabels:
    return replace(encode(y), weights=weights)


@pytest.mark.parametrize("d", [12, 80])
def test_a_weight_of_two_is_an_image_given_twice(d: int) -> None:
    X, y = blobs(40, d)
    twice = np.arange(40) % 4 == 0
    light = LinearDiscriminants().learn(X, weighted(y, 1.0 + twice))
    copied = LinearDiscriminants().learn(np.concatenate([X, X[twice]]), encode(np.concatenate([y, y[twice]])))
    same_up_to_signs(light.transform(X), copied.transform(X))


def test_independent_labels_have_a_direction_each() -> None:
    """That of Fisher: the inverse covariance times the difference of the means, with variance 1."""
    X, y = blobs(120)
    labels = np.stack([y == 0, X[:, 0] > 5], axis=1)
    found = LinearDiscriminants(shrinkage=0.2).fit(X, labels)
    exact = X.astype(np.float64)
    covariance = np.cov(exact.T, bias=True)
    covariance = 0.8 * covariance + 0.2 * np.trace(covariance) / 12 * np.eye(12)
    for column, own in enumerate(labels.T):
        direction = np.linalg.solve(covariance, exact[own].mean(axis=0) - exact[~own].mean(axis=0))
        direction /= np.sqrt(direction @ covariance @ direction)
        np.testing.assert_allclose(found.matrix_[:, column], direction, rtol=1e-3, atol=1e-4)


def test_a_class_without_images_takes_no_part() -> None:
    X, y = blobs(60)
    targets = encode(y)
    rows = np.flatnonzero(y != 1)
    left = LinearDiscriminants().learn(X[rows], targets.take(rows))
    assert left.dimension == 1
    same_up_to_signs(left.transform(X), LinearDiscriminants().fit(X[rows], y[rows]).transform(X))


def test_gradients_are_those_of_the_kernel_classifier() -> None:
    """Central differences of a kernel ridge head with the same settings, at all rows."""
    X, y = blobs(50, 4, 3)
    X = X / 4
    metric = outer_gradients(X, encode(y))
    distances = squared_distances(X, X)
    from headstart.heads.kernel_ridge import search_kernel

    best = search_kernel(distances, encode(y), widths=(4.0, 2.0), regularisations=(3e-2, 1e-1))[0]
    gamma = 1 / (best.width * median_distance(distances))
    kernel = rbf_kernel(X.astype(np.float64), gamma=gamma)
    goals = encode(y).signed.astype(np.float64)
    system = np.block([[kernel + best.regularisation * np.eye(50), np.ones((50, 1))], [np.ones((1, 50)), np.zeros((1, 1))]])
    coefficients = np.linalg.solve(system, np.concatenate([goals, np.zeros((1, 3))]))[:50]
    exact, step = X.astype(np.float64), 1e-4
    slopes = np.stack([
        (rbf_kernel(exact + step * axis, exact, gamma=gamma) - rbf_kernel(exact - step * axis, exact, gamma=gamma)) @ coefficients
        for axis in np.eye(4)
    ])  # fmt: skip
    expected = np.einsum("ank,bnk->ab", slopes, slopes)
    np.testing.assert_allclose(metric, expected * 4 / np.trace(expected), rtol=2e-2, atol=1e-3)


def test_a_learned_projection_finds_what_the_classes_depend_on() -> None:
    """The sign of a product of two features of fifteen: no linear map can, and the kernel alone is lost in the others."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(600, 15)).astype(np.float32)
    y = (X[:, 3] * X[:, 11] > 0).astype(int)
    train, test = slice(0, 400), slice(400, 600)
    found = GradientProjection(rounds=4).fit(X[train], y[train])
    lengths = np.linalg.norm(found.matrix_, axis=1)
    assert set(np.argsort(-lengths)[:2].tolist()) == {3, 11}
    plain = KernelRidgeHead().fit(X[train], y[train]).score(X[test], y[test])
    mapped = KernelRidgeHead().fit(found.transform(X[train]), y[train]).score(found.transform(X[test]), y[test])
    assert mapped > 0.88 > 0.83 > plain


@pytest.mark.parametrize("components", [90, 25])
def test_nystroem_features_are_those_of_scikit_learn(components: int) -> None:
    """Scalar products, since the root of the kernel among the landmarks is not unique."""
    X, _ = blobs(90)
    ours = NystroemMap(components=components, width=1.0).fit(X)
    landmarks = (ours.support_ / np.sqrt(ours.gamma_)).astype(np.float64)
    theirs = Nystroem(gamma=float(ours.gamma_[0]), n_components=components).fit(landmarks)
    other = blobs(40, seed=1)[0]
    a, b = ours.transform(other), theirs.transform(other.astype(np.float64))
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=5e-3)
    if components == 90:
        mapped = ours.transform(X)
        np.testing.assert_allclose(mapped @ mapped.T, rbf_kernel(X.astype(np.float64), gamma=float(ours.gamma_[0])), atol=5e-3)


def test_the_width_is_in_median_squared_distances() -> None:
    X, _ = blobs(90)
    gaps = ((X[:, None] - X[None]).astype(np.float64) ** 2).sum(axis=2)
    median = np.median(gaps[gaps > 0])
    assert float(NystroemMap(width=3.0).fit(X).gamma_[0]) == pytest.approx(1 / (3 * median), rel=1e-3)
    drawn = np.random.default_rng(0).standard_normal((12, 20), dtype=np.float32) * np.sqrt(2 / (3 * median))
    np.testing.assert_allclose(FourierMap(components=40, width=3.0).fit(X).frequencies_, drawn, rtol=1e-3)


def test_the_error_of_fourier_features_falls_with_the_root_of_their_number() -> None:
    X, _ = blobs(60)
    gamma = 1 / (4 * median_distance(squared_distances(X, X)))
    kernel = rbf_kernel(X.astype(np.float64), gamma=gamma)

    def error(components: int) -> float:
        squares = []
        for seed in range(12):
            mapped = FourierMap(components=components, seed=seed).fit_transform(X).astype(np.float64)
            squares.append(((mapped @ mapped.T - kernel) ** 2).mean())
        return float(np.sqrt(np.mean(squares)))

    errors = {count: error(count) for count in (64, 256, 1024, 4096)}
    for count in (64, 256, 1024):
        assert errors[count] / errors[4 * count] == pytest.approx(2, rel=0.25)
    assert errors[64] < 1 / np.sqrt(32)


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("dropping", [False, True])
def test_gradients_of_the_perceptron_are_those_of_finite_differences(sigmoid: bool, dropping: bool) -> None:
    generator = np.random.default_rng(0)
    X, goal = generator.normal(size=(7, 4)), np.eye(3)[generator.integers(0, 3, 7)]
    if sigmoid:
        goal = (generator.random((7, 3)) > 0.5).astype(float)
    weights = generator.random(7) + 0.1
    parameters = [generator.normal(size=shape) for shape in ((4, 5), (5,), (5, 3), (3,))]
    dropped = ((generator.random((7, 4)) > 0.3) * 1.4, (generator.random((7, 5)) > 0.3) * 1.4) if dropping else None

    def loss() -> float:
        return gradients(parameters, X, goal, weights, sigmoid=sigmoid, dropped=dropped)[0]

    _, slopes = gradients(parameters, X, goal, weights, sigmoid=sigmoid, dropped=dropped)
    for one, slope in zip(parameters, slopes, strict=True):
        for place in np.ndindex(one.shape):
            value = one[place]
            one[place] = value + 1e-6
            above = loss()
            one[place] = value - 1e-6
            assert slope[place] == pytest.approx((above - loss()) / 2e-6, abs=1e-6)
            one[place] = value


def test_a_perceptron_learns_what_no_linear_head_can() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(500, 6)).astype(np.float32)
    y = np.where(np.hypot(X[:, 0], X[:, 1]) > 1.2, "out", "in")
    head = MLPHead().fit(X[:300], y[:300])
    assert head.score(X[300:], y[300:]) > 0.8
    assert (head.out_of_sample_logits_.argmax(axis=1) == (y[:300] == "out")).mean() > 0.8
    assert LogisticHead().fit(X[:300], y[:300]).score(X[300:], y[300:]) < 0.65
    mapped = HiddenLayer().fit(X[:300], y[:300])
    assert LogisticHead().fit(mapped.transform(X[:300]), y[:300]).score(mapped.transform(X[300:]), y[300:]) > 0.8


def test_a_perceptron_learns_several_labels_and_its_seed_is_all_the_chance_there_is() -> None:
    X, _ = blobs(200)
    labels = np.stack([X[:, 0] > 5, X[:, 1] + X[:, 2] > 10], axis=1)
    head = MLPHead(epochs=20).fit(X, labels)
    assert (head.predict(X) == labels).mean() > 0.9
    np.testing.assert_array_equal(head.logits(X), MLPHead(epochs=20).fit(X, labels).logits(X))
    assert np.abs(head.logits(X) - MLPHead(epochs=20, seed=1).fit(X, labels).logits(X)).max() > 1e-3


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("n", "d"), [(60, 12), (20, 50)])
def test_onnx_and_state_give_the_same(name: str, n: int, d: int) -> None:
    X, y = blobs(n, d)
    fitted = MAPS[name](**SMALL.get(name, {})).fit(X, y)
    new = blobs(25, d, seed=1)[0] * 2
    expected = fitted.transform(new)
    assert expected.dtype == np.float32
    assert expected.shape == (25, fitted.dimension)
    graph = OnnxGraph()
    graph.node("Identity", fitted.write_onnx(graph, "features"), output="mapped")
    model = graph.model(inputs={"features": (np.float32, ["N", d])}, outputs={"mapped": (np.float32, ["N", fitted.dimension])})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    network = openvino.compile_model(openvino.Core().read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for found in (session.run(None, {"features": new})[0], network({"features": new})[0]):
        np.testing.assert_allclose(found, expected, atol=1e-3 * max(1.0, float(np.abs(expected).max())))
    settings, arrays = fitted.state()
    again = map_from_state(json.loads(json.dumps(settings)), arrays)
    np.testing.assert_array_equal(again.transform(new), expected)
    assert again.get_params() == fitted.get_params()


@pytest.mark.parametrize("name", MAPS)
def test_what_is_the_same_everywhere_is_mapped_to_finite_values(name: str) -> None:
    X, y = blobs(24, 6)
    constant = X.copy()
    constant[:, 2] = 7.0
    for features in (constant, np.full_like(X, 3.0), np.repeat(X[:6], 4, axis=0)):
        assert np.isfinite(MAPS[name](**SMALL.get(name, {})).fit(features, y).transform(X)).all()


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    X, y = blobs(24, 6)
    fitted = MAPS[name](**SMALL.get(name, {})).fit(X, y)
    X[3, 2] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        fitted.transform(X)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        MAPS[name]().fit(X, y)


@pytest.mark.parametrize("name", [name for name, made in MAPS.items() if made.supervised])
def test_a_map_that_learns_from_labels_needs_them(name: str) -> None:
    X, _ = blobs()
    with pytest.raises(ValueError, match="requires y to be passed"):
        MAPS[name]().fit(X)
    with pytest.raises(ValueError, match="at least two classes"):
        MAPS[name]().fit(X, np.zeros(len(X)))


@pytest.mark.parametrize(
    ("map_", "message"),
    [
        (PrincipalComponents(components=0), "components must be a whole number of at least 1 or None, got 0"),
        (PrincipalComponents(shrinkage=-1.0), "shrinkage must be a number of at least 0"),
        (LinearDiscriminants(shrinkage=1.5), "shrinkage must be a number of at least 0 and at most 1, got 1.5"),
        (GradientProjection(rounds=0), "rounds must be a whole number"),
        (GradientProjection(least=0.0), "least must be a number above 0"),
        (NystroemMap(width=0.0), "width must be a number above 0"),
        (FourierMap(components=1), "components must be a whole number of at least 2"),
        (HiddenLayer(hidden=0), "hidden must be a whole number"),
    ],
)
def test_parameters_outside_their_limits(map_: FeatureMap, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        map_.fit(*blobs())


def test_every_map_is_of_one_kind_and_named_once() -> None:
    assert {name: made.name for name, made in MAPS.items()} == {name: name for name in MAPS}
    assert sorted(name for names in KINDS.values() for name in names) == sorted(MAPS)


def test_a_saved_map_that_is_unknown_or_damaged_is_refused() -> None:
    settings, arrays = LinearDiscriminants().fit(*blobs()).state()
    with pytest.raises(RunError, match=r"The saved map is 'swirl'; this version reads pca, lda"):
        map_from_state({**settings, "name": "swirl"}, arrays)
    with pytest.raises(RunError, match=r"The saved map \(lda\) is damaged: 'matrix_'"):
        map_from_state(settings, {"mean_": arrays["mean_"]})
