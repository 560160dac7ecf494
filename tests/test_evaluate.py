"""What an evaluation says, as data, as text and as a table; and what it refuses."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from headstart import metrics
from headstart.errors import ParameterError
from headstart.metrics import SIGMOID
from headstart.metrics.intervals import _WeightedScores
from headstart.reliability import confidence
from headstart.tasks.classification.evaluation import ClassEvaluation as Evaluation
from headstart.tasks.classification.evaluation import evaluate
from headstart.tasks.classification.predictions import ClassPredictions
from headstart.tasks.classification.scores import MULTI_LABEL, SCORE_WORDS, SINGLE_LABEL, Outcome
from headstart.text import enumeration, pad, percent, plural, shorten, visible, width


def sure(targets: list[int], predicted: list[int], classes: tuple[str, ...], *, confidence: float = 0.9) -> Evaluation:
    """An evaluation in which `predicted` is named with `confidence`, the rest shared by the other classes."""
    probabilities = np.full((len(targets), len(classes)), (1 - confidence) / (len(classes) - 1))
    probabilities[np.arange(len(targets)), predicted] = confidence
    return evaluate(probabilities, np.array(targets), classes)


@pytest.fixture
def cats_dogs() -> Evaluation:
    return sure([0] * 150 + [1] * 150, [0] * 149 + [1] * 148 + [0] * 3, ("cat", "dog"))


@pytest.fixture
def labels() -> Evaluation:
    probabilities = np.array([[0.9, 0.2, 0.1], [0.8, 0.7, 0.4], [0.1, 0.6, 0.3], [0.3, 0.1, 0.2]])
    targets = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=bool)
    return evaluate(probabilities, targets, ("indoor", "people", "night"))


# figures


def test_figures_of_a_small_case(cats_dogs: Evaluation) -> None:
    assert cats_dogs.images == 300
    assert cats_dogs.correct == 296
    assert cats_dogs.accuracy == pytest.approx(296 / 300)
    assert cats_dogs.confusion is not None
    assert cats_dogs.confusion.tolist() == [[149, 1], [3, 147]]
    assert cats_dogs.scores["balanced_accuracy"] == pytest.approx((149 / 150 + 147 / 150) / 2)
    assert cats_dogs.scores["log_loss"] == pytest.approx(-(296 * math.log(0.9) + 4 * math.log(0.1)) / 300)
    assert cats_dogs.scores["most_frequent_class_accuracy"] == 0.5
    assert cats_dogs.scores["calibration_error"] == pytest.approx(296 / 300 - 0.9)
    assert cats_dogs.by_class["precision"].tolist() == pytest.approx([149 / 152, 147 / 148])


def test_every_score_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    targets = np.concatenate((np.arange(12), rng.integers(0, 12, 500)))
    probabilities = rng.dirichlet(np.full(12, 0.3), 512)
    probabilities[np.arange(512), targets] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    scores, predicted = evaluate(probabilities, targets, tuple("abcdefghijkl")).scores, probabilities.argmax(axis=1)
    expected = {
        "accuracy": reference.accuracy_score(targets, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(targets, predicted),
        "most_frequent_class_accuracy": np.bincount(targets).max() / 512,
        "top_5_accuracy": reference.top_k_accuracy_score(targets, probabilities, k=5),
        "log_loss": reference.log_loss(targets, probabilities),
        "brier_score": reference.brier_score_loss(targets, probabilities),
        "roc_auc": reference.roc_auc_score(targets, probabilities, multi_class="ovr"),
        "average_precision": reference.average_precision_score(targets, probabilities),
        **{
            f"{name}_{average}": getattr(reference, f"{name}_score")(targets, predicted, average=average)
            for name in ("precision", "recall", "f1")
            for average in ("macro", "weighted")
        },
    }
    assert scores.keys() == expected.keys() | {"calibration_error"}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_figures_of_multilabel_data(labels: Evaluation) -> None:
    assert labels.outcome.link.independent
    assert labels.confusion is None
    assert labels.confusions() == ()
    assert labels.accuracy == 0.5  # the first and the last image
    assert labels.scores["hamming_loss"] == pytest.approx(2 / 12)
    assert (labels.scores["precision_micro"], labels.scores["recall_micro"]) == (0.75, 0.75)
    assert labels.by_class["images"].tolist() == [2, 1, 1]
    assert labels.by_class["roc_auc"].tolist() == [1, 1, 1]
    assert labels.summary() == "test accuracy 0.5000 [0.1500, 0.8500] on 4 images"
    assert labels.lines()[1] == "  accuracy (all labels right)      0.5000  95 % interval [0.1500, 0.8500] (Wilson)"


def test_evaluators_never_yield_a_name_twice_and_floats_or_one_value_a_class() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(12), 30)
    for table, targets in ((SINGLE_LABEL, rng.integers(0, 12, 30)), (MULTI_LABEL, rng.random((30, 12)) < 0.3)):
        outcome = Outcome(targets, probabilities)
        seen = [(name, np.shape(value)) for evaluator in table for name, value in evaluator(outcome)]
        assert len(seen) == len(set(seen))
        assert {shape for _, shape in seen} == {(), (12,)}


def test_integers_bools_and_half_floats_are_taken() -> None:
    exact = np.array([[1, 0], [0, 1]])
    assert evaluate(exact, np.array([0, 1], dtype=np.uint8), ("a", "b")).accuracy == 1
    assert evaluate(exact.astype(np.float16), np.array([0, 0]), ["a", "b"]).accuracy == 0.5
    assert evaluate(exact.astype(bool), exact.astype(bool), ("a", "b")).outcome.link.independent


def test_an_evaluation_is_frozen(cats_dogs: Evaluation) -> None:
    with pytest.raises(FrozenInstanceError):
        cats_dogs.interval = (0, 1)  # type: ignore[misc]


# classes without images


@pytest.fixture
def lacking() -> Evaluation:
    """Ten images of the classes a and b; none of c, which is named once, and none of d."""
    return sure([0] * 6 + [1] * 4, [0] * 6 + [2] + [0] * 3, ("a", "b", "c", "d"))


def test_missing_classes_are_said_in_words(lacking: Evaluation) -> None:
    assert lacking.absent == ("c", "d")
    assert lacking.remarks("validation") == (
        "No validation image is of c and d: what cannot be known is shown as '-', and averages are over the 2 that occur.",
        "Never named by the model: b. The precision is unknown, and counts as 0 in averages.",
        "With only 10 images, the accuracy is known to about ± 26 percentage points: more labelled images would narrow it.",
    )


def test_missing_classes_have_a_dash_for_a_score_and_none_in_json(lacking: Evaluation) -> None:
    line = next(line for line in lacking.lines() if line.startswith("  d "))
    assert line.split() == ["d", "0", "-", "-", "-", "-"]
    entry = lacking.to_dict()["by_class"]["d"]
    assert entry["precision"] is entry["recall"] is entry["f1"] is entry["roc_auc"] is entry["average_precision"] is None
    assert entry["images"] == 0
    assert lacking.scores["balanced_accuracy"] == 0.5


def test_one_class_only_has_no_auc() -> None:
    found = sure([0, 0], [0, 1], ("a", "b"))
    assert math.isnan(found.scores["roc_auc"])
    assert "  ROC-AUC                              -" in found.lines()
    assert "averages are over the 1 that occurs." in found.remarks()[0]


def test_nothing_to_remark_on_a_plain_result(cats_dogs: Evaluation) -> None:
    assert cats_dogs.remarks() == ()


# text


def test_summary_is_the_one_line_that_fit_ends_with(cats_dogs: Evaluation) -> None:
    assert cats_dogs.summary() == "test accuracy 0.9867 [0.9662, 0.9948] on 300 images"
    assert cats_dogs.summary("validation") == "validation accuracy 0.9867 [0.9662, 0.9948] on 300 images"
    assert sure([0], [0], ("a", "b")).summary() == "test accuracy 1.0000 [0.2065, 1.0000] on 1 image"


def test_lines(cats_dogs: Evaluation) -> None:
    assert cats_dogs.lines() == [
        "test: 300 images, 2 classes",
        "  accuracy                        0.9867  95 % interval [0.9662, 0.9948] (Wilson)",
        "  balanced accuracy               0.9867  95 % interval [0.9733, 0.9967] (bootstrap)",
        "  always the most frequent class  0.5000",
        "  F1, mean of classes (macro)     0.9867  95 % interval [0.9733, 0.9967] (bootstrap)",
        "  log loss                        0.1347  95 % interval [0.1127, 0.1640] (bootstrap)",
        "  Brier score                     0.0207",
        "  ROC-AUC                         0.9867  95 % interval [0.9733, 0.9967] (bootstrap)",
        "  average precision               0.9802",
        "  calibration error (ECE)         0.0867  0.0000 to 0.0400 by chance alone",
        "",
        "  class     images  precision     recall         F1    ROC-AUC",
        "  cat          150     0.9803     0.9933     0.9868     0.9867",
        "  dog          150     0.9932     0.9800     0.9866     0.9867",
        "",
        "  most often confused:",
        "    3 of 150 dog named cat",
        "    1 of 150 cat named dog",
    ]
    assert str(cats_dogs) == "\n".join(cats_dogs.lines())


def many(count: int) -> Evaluation:
    targets = np.repeat(np.arange(count), 10)
    predicted = targets.copy()
    predicted[-5:] = 0  # half of the last class
    predicted[10:13] = 2  # a third of class 1
    return sure(targets.tolist(), predicted.tolist(), tuple(f"class {index}" for index in range(count)))


def test_of_many_classes_the_worst_ten_are_shown_and_the_rest_summed_up() -> None:
    lines = many(30).lines()
    start = next(index for index, line in enumerate(lines) if line.startswith("  worst 10 of 30"))
    assert [line.split()[1] for line in lines[start + 1 : start + 4]] == ["29", "0", "1"]
    assert lines[start + 11] == "  the 20 others: F1 from 1.0000 to 1.0000, median 1.0000"
    assert "among the first five" in "\n".join(lines)
    assert len(many(20).lines()[12:32]) == 20
    assert "worst" not in "\n".join(many(20).lines())


def test_intervals_are_those_of_the_metrics_and_said_to_be(cats_dogs: Evaluation, labels: Evaluation) -> None:
    for found in (cats_dogs, labels):
        expected = metrics.bootstrap_intervals(found.outcome.targets, found.outcome.probabilities)
        assert found.bootstrap == expected
        assert found.bootstrap is found.bootstrap  # made once
        data = found.to_dict()
        assert data["intervals"] == {name: list(bounds) for name, bounds in expected.intervals.items()}
        assert data["intervals_method"] == expected.method
        for name, (low, high) in expected.intervals.items():
            assert low <= found.scores[name] <= high
            line = next(line for line in found.lines() if line.startswith(f"  {SCORE_WORDS[name]} "))
            assert line.endswith(f"  95 % interval [{low:.4f}, {high:.4f}] (bootstrap)")
    assert cats_dogs.bootstrap.intervals.keys() == {"balanced_accuracy", "f1_macro", "log_loss", "roc_auc"}
    assert "balanced_accuracy" not in labels.bootstrap.intervals
    assert cats_dogs.to_dict()["intervals_method"] == "percentile bootstrap, 95 %, 1000 resamples, stratified by class, seed 0"


def test_no_interval_is_claimed_where_every_image_is_right() -> None:
    found = sure([0, 0, 1, 1], [0, 0, 1, 1], ("a", "b"))
    assert found.to_dict()["intervals"] == {}
    assert "  balanced accuracy               1.0000" in found.lines()
    assert sum("interval" in line for line in found.lines()) == 1  # Wilson's, of the accuracy


def test_the_rest_of_one_class_and_of_none() -> None:
    names = tuple(f"c{index}" for index in range(21))
    eleven = sure(list(range(11)), list(range(11)), names)
    assert "  the one other class: F1 1.0000" in eleven.lines()
    assert "other" not in "\n".join(sure(list(range(10)), list(range(10)), names).lines())


def test_confusions_come_most_frequent_first_and_never_more_than_there_are() -> None:
    found = many(30)
    assert [(c.target, c.predicted, c.images, c.of) for c in found.confusions()] == [
        ("class 29", "class 0", 5, 10),
        ("class 1", "class 2", 3, 10),
    ]
    assert [str(c) for c in found.confusions(1)] == ["5 of 10 class 29 named class 0"]
    assert found.confusions(0) == ()


def test_columns_stand_under_each_other_with_long_and_wide_names() -> None:
    names = ("cat", "犬の写真", "a " + "very " * 20 + "long name", "naïve\u0301")
    lines = sure([0, 1, 2, 3], [0, 1, 2, 3], names).lines()
    start = next(index for index, line in enumerate(lines) if line.startswith("  class"))
    assert len({width(line) for line in lines[start : start + 5]}) == 1
    assert all(width(line) < 100 for line in lines[: start + 5])


def test_names_cannot_give_orders_to_the_terminal() -> None:
    found = sure([0, 1], [0, 0], ("\x1b[31mred", "two\nlines"))
    everything = "\n".join(found.lines())
    assert "\x1b" not in everything
    assert "�[31mred" in everything
    assert "two�lines" in everything


def test_notebook_table_escapes_names() -> None:
    shown = sure([0, 1, 1], [0, 0, 1], ("<script>alert(1)</script>", "b"))._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<strong>accuracy 66.7 %</strong>" in shown
    assert shown.count("<tr>") == 3
    assert "worst 10 of 30 classes" in many(30)._repr_html_()


# as data


def test_to_dict_is_strict_json(cats_dogs: Evaluation, labels: Evaluation, lacking: Evaluation) -> None:
    for found in (cats_dogs, labels, lacking):
        again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert again == found.to_dict()
        assert list(again["by_class"]) == list(found.classes)
    data = cats_dogs.to_dict()
    assert data["accuracy"] == pytest.approx(296 / 300)
    assert data["accuracy_interval"] == list(cats_dogs.interval)
    assert data["accuracy_interval_method"] == "Wilson, 95 %"
    assert (data["images"], data["correct"]) == (300, 296)
    assert data["confusion_matrix"] == [[149, 1], [3, 147]]
    assert data["by_class"]["dog"]["recall"] == pytest.approx(0.98)
    assert labels.to_dict()["confusion_matrix"] is None


@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(1, 25), st.booleans())
def test_whatever_the_data_no_warning_and_figures_within_limits(seed: int, n: int, k: int, multilabel: bool) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((n, k)).round(1) if multilabel else rng.dirichlet(np.full(k, 0.2), n)
    targets = rng.random((n, k)) < 0.2 if multilabel else rng.integers(0, k, n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(probabilities, targets, tuple(map(str, range(k))))
        text = "\n".join([*found.lines(), found.summary(), found._repr_html_(), json.dumps(found.to_dict(), allow_nan=False)])
    assert "nan" not in text
    assert found.interval[0] <= found.accuracy <= found.interval[1]
    for name, value in found.scores.items():
        assert math.isnan(value) or 0 <= value <= (math.inf if name == "log_loss" else 2 if name == "brier_score" else 1 + 1e-12)


def test_every_score_with_words_exists(cats_dogs: Evaluation, labels: Evaluation) -> None:
    assert set(SCORE_WORDS) <= set(cats_dogs.scores) | set(labels.scores) | {"top_5_accuracy"}


# what is refused


@pytest.mark.parametrize(
    ("probabilities", "targets", "classes", "message"),
    [
        (np.ones((3, 3)) / 3, [0, 1, 2], "ab", r"must have the shape \(images, 2\), one column for each class; got \(3, 3\)"),
        (np.ones(3) / 3, [0, 1, 2], "abc", r"must have the shape \(images, 3\)"),
        (np.ones((0, 2)), [], "ab", "there are no images to evaluate. Give at least one labelled image"),
        (np.ones((2, 2)) / 2, [0], "ab", r"targets must be integers of the shape \(2,\), .* got int64 of the shape \(1,\)"),
        (np.ones((2, 2)) / 2, [0.0, 1.0], "ab", r"targets must be integers of the shape \(2,\), .* got float64"),
        (np.ones((2, 2)) / 2, [True, False], "ab", r"bool of the shape \(2, 2\); got bool of the shape \(2,\)"),
        (np.ones((2, 2)) / 2, [[True], [False]], "ab", r"got bool of the shape \(2, 1\)"),
        (np.ones((2, 2)) / 2, [0, 2], "ab", "must lie between 0 and 1, as there are 2 classes; they go from 0 to 2"),
        (np.ones((2, 2)) / 2, [-1, 1], "ab", "they go from -1 to 1"),
        (np.array([[3.0, -2.0]]), [0], "ab", "between 0 and 1; give the output of predict_proba, not logits"),
        (np.array([[math.nan, 1.0]]), [0], "ab", "between 0 and 1; give the output of predict_proba"),
        (np.array([[0.9, 0.9]]), [0], "ab", "must sum to 1; for multi-label data, give targets as a bool matrix"),
        (np.ones((2, 2)) / 2, [0, 1], "aa", r"classes must have different names, and \['a'\] stand twice"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(probabilities: np.ndarray, targets: list[object], classes: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        evaluate(probabilities, np.array(targets), tuple(classes))


# wording


def test_percentages_are_never_rounded_to_perfection() -> None:
    assert [percent(x) for x in (1.0, 0.0, 0.9867, 0.99999, 0.00001, math.nan)] == [
        "100 %",
        "0 %",
        "98.7 %",
        "over 99.9 %",
        "under 0.1 %",
        "-",
    ]


def test_plurals_and_enumerations() -> None:
    assert [plural(1, "image"), plural(0, "image"), plural(2, "class")] == ["1 image", "0 images", "2 classes"]
    assert enumeration([]) == ""
    assert enumeration(["a"]) == "a"
    assert enumeration(["a", "b", "c"]) == "a, b and c"
    assert enumeration(list("abcd"), most=2) == "a, b and 2 more"


@given(st.text(), st.integers(3, 40))
def test_shortened_names_fit_and_print(name: str, columns: int) -> None:
    short = shorten(name, columns)
    assert width(short) <= columns
    assert width(pad(short, columns)) == columns
    assert all(c.isprintable() or c in "\u200c\u200d" for c in short)
    if width(visible(name)) <= columns:
        assert short == visible(name)


def test_visible_keeps_what_prints() -> None:
    assert visible("naïve 犬 👩\u200d🔬") == "naïve 犬 👩\u200d🔬"
    assert visible("a\u00a0b\u3000c") == "a b c"
    assert visible("a\nb\u202ec\udcff") == "a�b�c�"


def test_a_probability_of_one_half_is_the_same_decision_everywhere() -> None:
    rng = np.random.default_rng(0)
    probabilities = (rng.integers(0, 11, (200, 3)) / 10).astype(np.float32)
    probabilities[:3] = 0.5
    classes = ("a", "b", "c")
    predictions = ClassPredictions(outputs={"probabilities": probabilities}, kept=np.arange(200), classes=classes, link=SIGMOID)
    predicted = np.array([[name in labels for name in classes] for labels in predictions.labels])
    assert predicted[:3].all()
    exact = evaluate(probabilities, predicted, classes)
    assert exact.scores["accuracy"] == exact.scores["f1_macro"] == 1
    assert confidence(probabilities, predicted)[1].all()
    targets = rng.random((200, 3)) < 0.5
    resampled = _WeightedScores(targets, probabilities)(np.ones((200, 1), dtype=np.float32))
    assert resampled["f1_macro"] == pytest.approx(evaluate(probabilities, targets, classes).scores["f1_macro"], rel=1e-6)
