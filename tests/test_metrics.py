"""Scores against scikit-learn, SciPy, closed forms and cases small enough to count by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from headstart import metrics
from headstart.errors import ParameterError


def problem(seed: int, *, n: int, k: int, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Random targets (n,) and probabilities (n, k); `steps` rounds the scores, so that many are equal."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), targets] += rng.normal(1.0)
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    if steps:
        probabilities = np.round(probabilities * steps) + 1e-3
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return targets, probabilities


problems = st.builds(
    problem,
    st.integers(0, 2**32 - 1),
    n=st.integers(1, 60),
    k=st.integers(2, 6),
    steps=st.sampled_from([None, 2, 5]),
)


def near(expected: Any) -> Any:
    return pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


# accuracy and its interval


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_scipys_wilson(counts: tuple[int, int]) -> None:
    correct, total = counts
    expected = stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert metrics.accuracy_interval(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_interval_of_296_in_300() -> None:
    low, high = metrics.accuracy_interval(296, 300)
    assert (round(low, 4), round(high, 4)) == (0.9662, 0.9948)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_interval_covers_the_truth_in_about_95_of_100_cases(share: float) -> None:
    total = 200
    weights = stats.binom.pmf(np.arange(total + 1), total, share)
    covered = [low <= share <= high for low, high in (metrics.accuracy_interval(c, total) for c in range(total + 1))]
    assert 0.93 < weights[covered].sum() < 0.97


def test_interval_ends_exactly_at_0_and_1() -> None:
    assert metrics.accuracy_interval(0, 7)[0] == 0.0
    assert metrics.accuracy_interval(7, 7)[1] == 1.0


@pytest.mark.parametrize(("correct", "total"), [(5, 4), (-1, 4), (0, 0)])
def test_interval_refuses_what_are_no_counts(correct: int, total: int) -> None:
    with pytest.raises(ParameterError, match=rf"0 <= correct <= total and total >= 1, and got correct={correct}, total={total}"):
        metrics.accuracy_interval(correct, total)


# hard decisions


@given(problems)
def test_decisions_are_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    targets, probabilities = case
    predicted, k = probabilities.argmax(axis=1), probabilities.shape[1]
    assert metrics.accuracy(targets, predicted) == near(reference.accuracy_score(targets, predicted))
    expected = reference.confusion_matrix(targets, predicted, labels=range(k))
    assert (metrics.confusion_matrix(targets, predicted, count=k) == expected).all()

    scores = metrics.precision_recall_f1(targets, predicted, count=k)
    precision, recall, f1, images = reference.precision_recall_fscore_support(
        targets, predicted, labels=range(k), average=None, zero_division=np.nan
    )
    assert scores.precision == near(precision)
    assert scores.recall == near(recall)
    assert scores.f1 == near(f1)
    assert (scores.images == images).all()
    for name in ("precision", "recall", "f1"):
        score = getattr(reference, f"{name}_score")
        for average, weighted in (("macro", False), ("weighted", True)):
            expected = score(targets, predicted, labels=np.unique(targets), average=average, zero_division=0)
            assert metrics.class_average(getattr(scores, name), scores.images, weighted=weighted) == near(expected)


@given(problems, st.integers(1, 6))
def test_top_k_is_scikit_learns_where_nothing_is_equal(case: tuple[np.ndarray, np.ndarray], k: int) -> None:
    targets, probabilities = case
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    assert metrics.top_k_accuracy(targets, probabilities, k=1) == near(metrics.accuracy(targets, predicted))
    assert metrics.top_k_accuracy(targets, probabilities, k=classes) == 1.0
    if 2 < classes > k and all(len(np.unique(row)) == classes for row in probabilities):
        expected = reference.top_k_accuracy_score(targets, probabilities, k=k, labels=range(classes))
        assert metrics.top_k_accuracy(targets, probabilities, k=k) == near(expected)


def test_undefined_scores_are_nan_and_a_class_given_up_counts_as_0() -> None:
    # Class 0: 3 images, all right. Class 1: 1 image, never named. Class 2: no image, named once. Class 3: no image, never named.
    targets, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 2])
    scores = metrics.precision_recall_f1(targets, predicted, count=4)
    assert scores.precision == near([1, math.nan, 0, math.nan])
    assert scores.recall == near([1, 0, math.nan, math.nan])
    assert scores.f1 == near([1, 0, 0, math.nan])
    assert metrics.class_average(scores.precision, scores.images) == 0.5
    assert metrics.class_average(scores.precision, scores.images, weighted=True) == 0.75
    assert metrics.class_average(scores.recall, scores.images) == 0.5


def test_scores_of_nothing_are_nan() -> None:
    none, scores = np.empty(0, dtype=np.int64), np.empty((0, 3))
    assert math.isnan(metrics.accuracy(none, none))
    assert math.isnan(metrics.class_average(np.full(3, math.nan), np.zeros(3, dtype=np.int64)))
    assert math.isnan(metrics.top_k_accuracy(none, scores, k=1))
    assert math.isnan(metrics.log_loss(none, scores))
    assert math.isnan(metrics.brier_score(none, scores))
    assert math.isnan(metrics.hamming_loss(scores > 0, scores > 0))
    assert math.isnan(metrics.expected_calibration_error(np.empty(0), np.empty(0, dtype=bool)))
    assert np.isnan(metrics.roc_auc(scores > 0, scores)).all()
    assert np.isnan(metrics.average_precision(scores > 0, scores)).all()


def test_class_scores_of_indices_need_the_number_of_classes() -> None:
    with pytest.raises(ParameterError, match="needs count, the number of classes"):
        metrics.precision_recall_f1(np.array([0]), np.array([0]))


# probabilities


@given(problems)
def test_log_loss_and_brier_score_are_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    targets, probabilities = case
    k = probabilities.shape[1]
    assert metrics.log_loss(targets, probabilities) == near(reference.log_loss(targets, probabilities, labels=range(k)))
    assert metrics.brier_score(targets, probabilities) == near(reference.brier_score_loss(targets, probabilities, labels=range(k)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sure_mistake_costs_as_much_as_in_scikit_learn(dtype: type[np.floating[Any]]) -> None:
    targets, probabilities = np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]], dtype=dtype)
    assert metrics.log_loss(targets, probabilities) == pytest.approx(reference.log_loss(targets, probabilities), rel=1e-6)
    assert metrics.log_loss(targets, probabilities) == pytest.approx(-math.log(np.finfo(dtype).eps) / 2, rel=1e-6)


def test_brier_score_of_hand_made_cases() -> None:
    assert metrics.brier_score(np.array([1]), np.array([[0.3, 0.7]])) == pytest.approx(0.09)
    assert metrics.brier_score(np.array([2]), np.array([[1.0, 0.0, 0.0]])) == 2.0


# ranking


@given(problems)
def test_ranking_scores_are_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    targets, probabilities = case
    positive = metrics.indicators(targets, count=probabilities.shape[1])
    areas = metrics.roc_auc(positive, probabilities)
    precisions = metrics.average_precision(positive, probabilities)
    for column in range(positive.shape[1]):
        labels, scores = positive[:, column], probabilities[:, column]
        both = 0 < labels.sum() < len(labels)
        assert areas[column] == near(reference.roc_auc_score(labels, scores) if both else math.nan)
        assert precisions[column] == near(reference.average_precision_score(labels, scores) if labels.any() else math.nan)
        assert metrics.roc_auc(labels, scores) == near(areas[column : column + 1])
    if len(np.unique(targets)) == positive.shape[1] > 2:
        expected = reference.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
        assert metrics.defined_mean(areas) == near(expected)


@given(problems)
def test_roc_curve_is_scikit_learns_and_its_area_the_auc(case: tuple[np.ndarray, np.ndarray]) -> None:
    targets, probabilities = case
    positive, scores = targets == 0, probabilities[:, 0]
    false_rate, true_rate, thresholds = metrics.roc_curve(positive, scores)
    if not 0 < positive.sum() < len(positive):
        assert np.isnan(false_rate).all() or np.isnan(true_rate).all()
        return
    expected = reference.roc_curve(positive, scores, drop_intermediate=False)
    area = metrics.roc_auc(positive, scores)[0]
    assert ((false_rate[1:] - false_rate[:-1]) * (true_rate[1:] + true_rate[:-1]) / 2).sum() == near(area)
    assert (false_rate[0], true_rate[0], thresholds[0]) == (0, 0, math.inf)
    assert (false_rate[-1], true_rate[-1]) == (1, 1)
    points = set(zip(*(np.round(values, 9).tolist() for values in expected), strict=True))
    assert points >= set(zip(*(np.round(values, 9).tolist() for values in (false_rate, true_rate, thresholds)), strict=True))


def test_auc_counts_pairs_and_ties_by_half() -> None:
    positive = np.array([True, True, False, False])
    assert metrics.roc_auc(positive, np.array([0.9, 0.5, 0.5, 0.1])) == near([3.5 / 4])
    assert metrics.roc_auc(positive, np.zeros(4)) == near([0.5])
    assert metrics.roc_auc(positive, np.array([1, 2, 3, 4], dtype=np.float32)) == near([0.0])


@given(problems)
def test_auc_does_not_change_under_a_monotone_map(case: tuple[np.ndarray, np.ndarray]) -> None:
    targets, probabilities = case
    positive = metrics.indicators(targets, count=probabilities.shape[1])
    steps = np.searchsorted(np.unique(probabilities), probabilities).astype(float)
    assert metrics.roc_auc(positive, probabilities) == near(metrics.roc_auc(positive, steps))


def test_roc_curve_leaves_out_points_on_a_line() -> None:
    # Three positives first, then three negatives: up, then right, and nothing else to say.
    false_rate, true_rate, thresholds = metrics.roc_curve(np.array([1, 1, 1, 0, 0, 0], dtype=bool), np.arange(6.0)[::-1])
    assert false_rate.tolist() == [0, 0, 1]
    assert true_rate.tolist() == [0, 1, 1]
    assert thresholds.tolist() == [math.inf, 3.0, 0.0]


def test_mean_of_defined_values() -> None:
    assert metrics.defined_mean(np.array([0.5, math.nan, 1.0])) == 0.75
    assert math.isnan(metrics.defined_mean(np.array([math.nan])))


# calibration


def test_calibration_error_by_hand() -> None:
    # Bin (0.6, 0.667]: said 0.65 and 0.65, one true; bin (0.933, 1]: said 1.0 twice, both true. Gap 0.15 on half the images.
    confidence, correct = np.array([0.65, 0.65, 1.0, 1.0]), np.array([True, False, True, True])
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(0.075)


@given(problems, st.integers(1, 30))
def test_calibration_error_is_the_definition(case: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    targets, probabilities = case
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    expected = 0.0
    edges = np.arange(bins + 1) / bins
    for low, high in pairwise(edges):
        inside = (np.ceil(confidence * bins) / bins > low + 1e-12) & (np.ceil(confidence * bins) / bins <= high + 1e-12)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert metrics.expected_calibration_error(confidence, correct, bins=bins) == pytest.approx(expected, abs=1e-9)


def test_probabilities_that_tell_the_truth_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=200_000)
    assert metrics.expected_calibration_error(confidence, rng.uniform(size=200_000) < confidence) < 0.01


def test_bins_hold_every_image_and_their_means() -> None:
    found = metrics.calibration_bins(np.array([0.0, 0.2, 0.5, 1.0]), np.array([False, False, True, True]), bins=2)
    assert found.images.tolist() == [3, 1]
    assert found.confidence == near([0.7 / 3, 1.0])
    assert found.accuracy == near([1 / 3, 1.0])


# multi-label


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 5))
def test_multilabel_scores_are_scikit_learns(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.random((n, k)) < rng.uniform(0.1, 0.9)
    probabilities = np.round(np.clip(0.4 * targets + 0.6 * rng.random((n, k)), 0, 1), 1)
    predicted = probabilities >= 0.5
    assert metrics.accuracy(targets, predicted) == near(reference.accuracy_score(targets, predicted))
    assert metrics.hamming_loss(targets, predicted) == near(reference.hamming_loss(targets, predicted))
    scores = metrics.precision_recall_f1(targets, predicted)
    expected = reference.precision_recall_fscore_support(targets, predicted, average=None, zero_division=np.nan)
    assert scores.precision == near(expected[0])
    assert scores.recall == near(expected[1])
    assert scores.f1 == near(expected[2])
    micro = reference.precision_recall_fscore_support(targets, predicted, average="micro", zero_division=np.nan)[:3]
    assert metrics.micro_scores(targets, predicted) == near(micro)
    assert metrics.brier_score(targets, probabilities) == near(np.mean((targets - probabilities) ** 2))
    inside = np.clip(probabilities, 1e-6, 1 - 1e-6)
    by_label = [reference.log_loss(targets[:, j], inside[:, j], labels=[False, True]) for j in range(k)]
    assert metrics.log_loss(targets, inside) == near(np.mean(by_label))


def test_no_heavy_library_is_imported() -> None:
    code = (
        "import sys, headstart.metrics, headstart.tasks.classification.evaluation;"
        "print(sorted({'scipy', 'sklearn', 'matplotlib', 'PIL', 'pandas', 'torch', 'statistics'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# two classifiers on the same images


def _paired(both: int, first: int, second: int, neither: int) -> metrics.PairedDifference:
    right = np.repeat([[True, True], [True, False], [False, True], [False, False]], [both, first, second, neither], axis=0)
    right = right[np.random.default_rng(0).permutation(len(right))]
    return metrics.paired_difference(right[:, 0], right[:, 1])


counts = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


@given(counts)
def test_mcnemar_is_scipys_binomial_test(found: tuple[int, int, int, int]) -> None:
    both, first, second, neither = found
    result = _paired(*found)
    assert (result.first_only, result.second_only) == (first, second)
    assert result.value == near((first - second) / sum(found))
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert result.p_value == near(expected)
    low, high = result.interval
    assert -1 <= low <= high <= 1
    turned = _paired(both, second, first, neither)
    assert (turned.value, turned.p_value) == (-result.value, result.p_value)
    assert turned.interval == near((-high, -low))


def test_paired_difference_in_closed_form() -> None:
    same = _paired(7, 0, 0, 3)
    half = 1.959963984540054 * math.sqrt(1 / 12**2)  # half an image in each count: b = c = 1/2, n = 12
    assert (same.value, same.p_value) == (0, 1)
    assert same.interval == near((-half, half))
    apart = _paired(40, 12, 2, 46)
    b, c, n = 12.5, 2.5, 102
    width = 1.959963984540054 * math.sqrt((b + c) / n - ((b - c) / n) ** 2) / math.sqrt(n)
    assert apart.value == near(0.1)
    assert apart.interval == near(((b - c) / n - width, (b - c) / n + width))
    assert apart.p_value == near(2 * (1 + 14 + 91) / 2**14)
    assert _paired(0, 5, 0, 0).interval[1] <= 1
    assert _paired(0, 5000, 5000, 0).p_value == 1  # large counts, for which floats have no powers of two
    assert _paired(0, 5100, 4900, 0).p_value == pytest.approx(stats.binomtest(5100, 10000).pvalue, rel=1e-9)


@pytest.mark.parametrize(("first", "second", "n"), [(0.10, 0.05, 60), (0.02, 0.02, 100), (0.30, 0.10, 30), (0.08, 0.0, 300)])
def test_the_interval_of_a_difference_covers_it(first: float, second: float, n: int) -> None:
    drawn = np.random.default_rng(1).multinomial(n, [0.5, first, second, 0.5 - first - second], size=600)
    covered = [low <= first - second <= high for low, high in (_paired(*row).interval for row in drawn.tolist())]
    assert 0.93 <= np.mean(covered) <= 0.995


def test_chance_is_seldom_called_a_difference() -> None:
    drawn = np.random.default_rng(2).multinomial(80, [0.6, 0.1, 0.1, 0.2], size=600)
    assert np.mean([_paired(*row).p_value < 0.05 for row in drawn.tolist()]) <= 0.05  # the exact test is never too bold


def test_a_paired_comparison_needs_the_same_images() -> None:
    for one, two in (([True], [True, False]), ([], []), ([[True]], [[True]])):
        with pytest.raises(ParameterError, match="A paired comparison needs the same images twice"):
            metrics.paired_difference(np.array(one, bool), np.array(two, bool))


# curves


@given(problems)
def test_precision_recall_curve_is_scikit_learns_and_its_area_the_average_precision(case: tuple[np.ndarray, np.ndarray]) -> None:
    targets, probabilities = case
    positive, scores = targets == 0, probabilities[:, 0]
    precision, recall, thresholds = metrics.precision_recall_curve(positive, scores)
    assert (precision[0], thresholds[0]) == (1, math.inf)
    if not positive.any():
        assert np.isnan(recall).all()
        return
    expected = reference.precision_recall_curve(positive, scores, drop_intermediate=False)
    points = set(zip(*(np.round(values[::-1], 9).tolist() for values in (expected[0][:-1], expected[1][:-1], expected[2])), strict=True))
    assert points >= set(zip(*(np.round(values[1:], 9).tolist() for values in (precision, recall, thresholds)), strict=True))
    assert (np.diff(recall) * precision[1:]).sum() == near(metrics.average_precision(positive, scores)[0])
    # What is left out lies between two points of its recall that are kept.
    for share in np.unique(expected[1][:-1]):
        kept, every = precision[1:][np.isclose(recall[1:], share)], expected[0][:-1][np.isclose(expected[1][:-1], share)]
        assert (kept.min(), kept.max()) == near((every.min(), every.max()))
    assert (recall[0], recall[-1]) == (0, 1)


def test_precision_recall_curve_of_nothing() -> None:
    precision, recall, thresholds = metrics.precision_recall_curve(np.empty(0, dtype=bool), np.empty(0))
    assert (precision.tolist(), thresholds.tolist()) == ([1.0], [math.inf])
    assert np.isnan(recall).all()


@given(problems)
def test_accuracy_by_coverage_is_that_of_the_surest_images(case: tuple[np.ndarray, np.ndarray]) -> None:
    targets, probabilities = case
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    coverage, accuracy, thresholds = metrics.accuracy_coverage(confidence, predicted == targets)
    assert thresholds.tolist() == np.unique(confidence)[::-1].tolist()
    for share, right, threshold in zip(coverage, accuracy, thresholds, strict=True):
        answered = confidence >= threshold
        assert share == near(answered.mean())
        assert right == near(reference.accuracy_score(targets[answered], predicted[answered]))
    assert coverage[-1] == 1


def test_coverage_of_nothing() -> None:
    assert [values.tolist() for values in metrics.accuracy_coverage(np.empty(0), np.empty(0, dtype=bool))] == [[], [], []]


def test_the_calibration_error_that_comes_of_chance_is_that_of_true_probabilities() -> None:
    generator = np.random.default_rng(5)
    confidence = generator.uniform(0.5, 1, 400)
    seen = [metrics.expected_calibration_error(confidence, generator.random(400) < confidence) for _ in range(2000)]
    mean, low, high = metrics.calibration_error_by_chance(confidence, draws=2000)
    assert mean == pytest.approx(np.mean(seen), rel=0.03)
    assert 0.9 < np.mean([low <= value <= high for value in seen]) < 0.99
    fewer = metrics.calibration_error_by_chance(confidence[:50])
    assert fewer[0] > 2 * mean
    assert metrics.calibration_error_by_chance(np.ones(10)) == (0, 0, 0)
    assert np.isnan(metrics.calibration_error_by_chance(np.empty(0))).all()


def test_the_threshold_belongs_to_the_label_and_softmax_and_sigmoid_agree_with_scipy() -> None:
    from scipy.special import expit, softmax

    logits = np.random.default_rng(3).normal(size=(40, 5)) * 20
    np.testing.assert_allclose(metrics.SOFTMAX.probabilities(logits), softmax(logits, axis=1), rtol=1e-12)
    np.testing.assert_allclose(metrics.SIGMOID.probabilities(logits), expit(logits), rtol=1e-12)
    assert metrics.SIGMOID.decisions(np.array([[0.5, np.nextafter(0.5, 0)]])).tolist() == [[True, False]]
    assert metrics.SOFTMAX.decisions(np.array([[0.4, 0.4, 0.2]])).tolist() == [0]
    assert metrics.SIGMOID.correct(np.array([[True, False], [True, True]]), np.array([[True, False], [True, False]])).tolist() == [
        True,
        False,
    ]
