"""Label errors: closed forms, planted errors in simulated and real data, and clean labels of which nothing may be said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.audit.label_errors import describe, find_label_errors, rank_label_errors
from headstart.data import dataset_from_arrays
from headstart.errors import ParameterError
from headstart.metrics import SIGMOID, SOFTMAX


def calibrated(seed, *, images=2000, classes=4, spread=3.0):
    """Logits, and targets drawn from the very probabilities that they state: nothing but hard pictures."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (images, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = (random.random((images, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return logits, targets


def test_order_suggestion_and_score_in_closed_form():
    probabilities = np.array([[0.9, 0.08, 0.02], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4], [0.01, 0.01, 0.98]])
    errors = rank_label_errors(np.log(probabilities), [0, 0, 2, 1])
    assert errors.order.tolist() == [3, 1, 2, 0]
    assert errors.suggested.tolist() == [2, 1, 0, 1]
    assert errors.score == pytest.approx([0.99, 0.9, 0.6, 0.1])
    assert (errors.likely, errors.share) == (0, 0.0)  # four labels are too few to tell wrong from hard
    assert errors.order.dtype == errors.suggested.dtype == np.int64


def test_two_classes_give_the_probability_of_the_other_class():
    logits, targets = calibrated(0, classes=2)
    errors = rank_label_errors(logits, targets)
    margin = logits[np.arange(len(targets)), 1 - targets] - logits[np.arange(len(targets)), targets]
    assert errors.score == pytest.approx(1 / (1 + np.exp(-margin[errors.order])))
    assert (np.diff(errors.score) <= 0).all()
    assert np.array_equal(errors.suggested, 1 - targets[errors.order])


def test_images_without_logits_are_left_out():
    logits, targets = calibrated(1, images=300)
    gone = np.arange(0, 300, 3)
    holed = logits.copy()
    holed[gone] = np.nan
    errors, whole = rank_label_errors(holed, targets), rank_label_errors(np.delete(logits, gone, axis=0), np.delete(targets, gone))
    assert not np.isin(gone, errors.order).any()
    assert np.array_equal(errors.order, np.delete(np.arange(300), gone)[whole.order])
    assert np.array_equal(errors.score, whole.score)
    nothing = rank_label_errors(np.full((5, 2), np.nan), np.zeros(5, int))
    assert (len(nothing.order), nothing.likely) == (0, 0)


def test_hard_pictures_are_not_called_wrong():
    called = [rank_label_errors(*calibrated(seed, images=1000)).likely for seed in range(60)]
    assert np.mean(np.array(called) > 0) < 0.2  # by chance in one of twelve
    logits, targets = calibrated(0)
    assert (logits.argmax(axis=1) != targets).mean() > 0.1


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_planted_errors_are_called_wrong(share, classes):
    found, right, estimated = [], [], []
    for seed in range(10):
        logits, targets = calibrated(seed, spread=6.0, classes=classes)
        random = np.random.default_rng(100 + seed)
        wrong = random.choice(len(targets), round(share * len(targets)), replace=False)
        targets[wrong] = (targets[wrong] + random.integers(1, classes, len(wrong))) % classes
        errors = rank_label_errors(logits, targets)
        called = errors.order[: errors.likely]
        found.append(np.isin(wrong, called).mean())
        right.append(np.isin(called, wrong).mean())
        estimated.append(errors.share)
    assert np.mean(estimated) == pytest.approx(share, rel=0.25)
    assert np.mean(found) > 0.5
    assert np.mean(right) > 0.75  # each was held for rather wrong than right


def test_logits_made_modest_by_wrong_labels_are_seen_through():
    """Calibration to labels of which some are wrong shrinks the logits; the same images are called wrong whatever the scale."""
    logits, targets = calibrated(5, spread=6.0, classes=2)
    wrong = np.random.default_rng(0).choice(len(targets), 40, replace=False)
    targets[wrong] = 1 - targets[wrong]
    whole, modest = rank_label_errors(logits, targets), rank_label_errors(logits / 2, targets)
    assert whole.likely > 20
    assert modest.likely == pytest.approx(whole.likely, abs=2)
    assert np.array_equal(modest.order[:20], whole.order[:20])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 60))
def test_the_order_of_the_images_does_not_matter(seed, classes, images):
    logits, targets = calibrated(seed, images=images, classes=classes)
    shuffled = np.random.default_rng(seed).permutation(images)
    one, other = rank_label_errors(logits, targets), rank_label_errors(logits[shuffled], targets[shuffled])
    assert other.likely == one.likely
    assert np.array_equal(np.sort(shuffled[other.order]), np.sort(one.order))
    assert other.score == pytest.approx(one.score)
    assert 0 <= one.likely <= images


def test_real_digits_with_planted_errors():
    from sklearn.datasets import load_digits
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import cross_val_predict

    data = load_digits()
    random = np.random.default_rng(0)
    wrong = random.choice(len(data.target), 18, replace=False)  # 1 %
    targets = data.target.copy()
    targets[wrong] = (targets[wrong] + random.integers(1, 10, 18)) % 10
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)
    logits = cross_val_predict(model, data.data, targets, cv=5, method="decision_function")
    errors = rank_label_errors(logits, targets)
    first = errors.order[: round(0.03 * len(targets))]
    assert np.isin(wrong, first).mean() >= 0.8
    named = np.isin(errors.order, wrong)
    assert (errors.suggested[named] == data.target[errors.order[named]]).mean() > 0.8


def test_several_labels():
    random = np.random.default_rng(0)
    logits = random.normal(0, 8, (1000, 3))
    targets = random.random((1000, 3)) < 1 / (1 + np.exp(-logits))
    assert rank_label_errors(logits, targets, link=SIGMOID).likely <= 3
    sure = np.flatnonzero(np.abs(logits[:, 1]) > 9)[:15]
    targets[sure, 1] ^= True
    errors = rank_label_errors(logits, targets, link=SIGMOID)
    assert np.isin(sure, errors.order[:30]).all()
    assert (errors.suggested[np.isin(errors.order, sure)] == 1).all()
    assert 10 <= errors.likely <= 30


def grey(images):
    return np.zeros((images, 4, 4, 3), np.uint8)


def test_findings():
    logits, targets = calibrated(3, images=1000, classes=2, spread=8.0)
    sure = np.flatnonzero(np.abs(logits[:, 0] - logits[:, 1]) > 15)[:20]
    targets[sure] = 1 - targets[sure]
    data = dataset_from_arrays(grey(1200), np.array(["cat", "dog"])[np.concatenate([np.zeros(200, int), targets])])
    (finding,) = find_label_errors(data, np.arange(200, 1200), logits)
    assert finding.kind == "label errors"
    assert finding.severity == "warning"
    assert 20 <= finding.count <= 50
    assert finding.message.startswith(f"{finding.count} of 1000 labels are probably wrong")
    assert "Review them in this order, and correct or delete them" in finding.message
    assert len(finding.examples) == 20
    row = 200 + sure[0]
    own, other = ("cat", "dog") if targets[sure[0]] == 0 else ("dog", "cat")
    assert any(example == f"array[{row}]: labelled {own}, looks like {other} (1.00)" for example in finding.examples)


def test_no_finding_about_good_labels():
    logits, targets = calibrated(4, classes=2)
    data = dataset_from_arrays(grey(len(targets)), np.array(["cat", "dog"])[targets])
    assert find_label_errors(data, np.arange(len(targets)), logits) == []
    assert find_label_errors(data, np.arange(3), np.full((3, 2), np.nan)) == []


def test_words_for_several_labels():
    data = dataset_from_arrays(grey(3), np.array([[1, 0], [1, 1], [0, 0]], bool), classes=["cat", "dog"])
    assert describe(data, 0, 1) == "labelled cat, probably also dog"
    assert describe(data, 1, 0) == "labelled cat, dog, probably not cat"
    assert describe(data, 2, 0) == "labelled nothing, probably also cat"


@pytest.mark.parametrize(
    ("logits", "targets", "link", "message"),
    [
        (np.zeros(4), [0] * 4, SOFTMAX, r"logits have the shape \(4,\); they are \(images, classes\)"),
        (np.zeros((4, 2)), [0] * 3, SOFTMAX, r"targets have the shape \(3,\); to logits of shape \(4, 2\) belongs \(4,\)"),
        (np.zeros((4, 2)), [0, 1, 2, 0], SOFTMAX, "targets go from 0 to 2, but the logits have 2 classes"),
        (np.zeros((4, 2)), [-1, 1, 1, 0], SOFTMAX, "targets go from -1 to 1"),
        (np.zeros((2, 2)), [0.0, 1.0], SOFTMAX, "targets are float64; they are integers"),
        (np.zeros((2, 1)), [0, 0], SOFTMAX, "with a single class no label can be wrong"),
        (np.zeros((2, 2)), [0, 0], SIGMOID, r"belongs \(2, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(logits, targets, link, message):
    with pytest.raises(ParameterError, match=message):
        rank_label_errors(logits, targets, link=link)


def test_rows_outside_the_data_are_refused():
    data = dataset_from_arrays(grey(3), ["cat", "dog", "cat"])
    with pytest.raises(ParameterError, match="rows go from 1 to 3, but the data have 3 images"):
        find_label_errors(data, [1, 2, 3], np.zeros((3, 2)))
