"""The sections on examples, curves, confidence, leaks and later uses: what they say is what the numbers say."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from headstart import metrics
from headstart.errors import ParameterError
from headstart.reliability import ReliabilityTest
from headstart.report.page import MOST_BYTES
from headstart.report.run_report import jpeg
from headstart.report.training import learning_chart
from headstart.sections import Picture
from headstart.tasks.classification.curves import (
    FEW,
    SHOWN,
    coverage_chart,
    precision_recall_chart,
    reliability,
    reliability_chart,
    roc_chart,
    shown_classes,
)  # fmt: skip
from headstart.tasks.classification.evaluation import ClassEvaluation as Evaluation
from headstart.tasks.classification.evaluation import evaluate
from headstart.tasks.classification.sections import example_rows
from reports import Facts, Reading, answered, curve, example, model_card, page, rich_report, run_report, use, write_report


def section(report: Facts, anchor: str) -> str:
    """The text of one section, and nothing where the page has no such section."""
    found = re.search(f'<section id="{anchor}">.*?</section>', page(report), flags=re.DOTALL)
    return " ".join(Reading(found[0]).text.split()) if found else ""


def gists(report: Facts) -> str:
    """The list below the result."""
    found = re.search("<ul class=short>.*?</ul>", page(report), flags=re.DOTALL)
    assert found
    return found[0]


def noisy(n: int = 2000, k: int = 3, *, seed: int = 0, sharpness: float = 1.0) -> Evaluation:
    """Images whose probabilities are true where `sharpness` is 1, and too sure above."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, k)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = (random.random(n)[:, None] > true.cumsum(axis=1)).sum(axis=1).clip(max=k - 1)
    said = np.exp(sharpness * logits)
    return evaluate(said / said.sum(axis=1, keepdims=True), targets, tuple(f"class {index}" for index in range(k)))


# examples


def test_mistakes_come_first_and_the_surest_of_them_before_all() -> None:
    text = section(rich_report(), "examples")
    wrong, right = text.split("Correct, the least confident first")
    assert wrong.index("80.0 % confident: cats") < wrong.index("70.0 % confident: dogs")
    assert "60.0 % confident test/cats/8.jpg" in right
    assert "Nearest in training" in wrong


def test_a_cell_of_the_matrix_leads_to_its_images_and_only_then() -> None:
    report = rich_report()
    matrix, gallery = page(report).split('<section id="examples">')
    links = set(re.findall(r'href="#(predicted-\d+-\d+)"', matrix))
    assert links == {"predicted-0-0", "predicted-0-1", "predicted-1-0"}
    assert links == set(re.findall(r'<div class=group id="(predicted-\d+-\d+)"', gallery))
    at = gallery.index('id="predicted-0-1"')
    assert "test/cats/0.jpg" in gallery[at : gallery.index("</article>", at)]
    assert 'href="#predicted' not in page(run_report())
    assert "links to examples" not in page(run_report())


@pytest.mark.parametrize("count", [16, 60])
def test_a_drawn_matrix_has_links_too(count: int) -> None:
    source = page(rich_report(tuple(f"class {index}" for index in range(count))))
    drawing = re.search(r'<svg class="matrix".*?</svg>', source, flags=re.DOTALL)
    assert drawing
    assert set(re.findall(r'<a href="#(.*?)">', drawing[0])) == {"predicted-0-0", "predicted-0-1", "predicted-1-2"}


def test_pictures_arrive_unchanged() -> None:
    shown = example("cats", "dogs", row=5)
    source = page(rich_report(examples=(shown,)))
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/jpeg;base64,(.*?)"', source)]
    assert shown.card.neighbours[0].picture is not None
    assert pictures == [*(picture.data for picture in shown.card.pictures), shown.card.neighbours[0].picture.data]


def test_how_many_of_a_confusion_are_shown_is_said() -> None:
    report = rich_report()  # of 2 cats predicted as dogs one is shown
    assert "cats predicted as dogs 1 of 2" in section(report, "examples")


def test_a_page_of_too_many_pictures_stays_small_and_says_so() -> None:
    large = jpeg(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8), side=512, quality=95)
    fit = MOST_BYTES // len(large)
    one = example("cats", "dogs", 0.9)
    card = dataclasses.replace(one.card, pictures=(Picture(data=large, alt=""),), neighbours=())
    shown = (dataclasses.replace(one, card=card),) * (fit + 3)
    source = page(run_report(examples=shown))
    assert len(source) < 5_000_000
    assert source.count("<img") == fit
    assert "3 pictures left out to keep this page small." in Reading(source).text


def test_examples_of_a_perfect_model_say_so() -> None:
    perfect = evaluate(np.eye(2)[[0, 1]], np.array([0, 1]), ("cats", "dogs"))
    assert section(rich_report(evaluation=perfect, examples=(example("cats", "cats"),)), "examples").startswith(
        "Examples No image was misclassified."
    )


@pytest.mark.parametrize("data", [b"<svg onload=alert(1)>", b"GIF89a", b""])
def test_pictures_of_other_kinds_are_refused(data: bytes) -> None:
    with pytest.raises(ParameterError, match="the pictures of a report are JPEG, PNG or WebP as bytes; these start with"):
        Picture(data=data, alt="a")
    with pytest.raises(ParameterError, match="JPEG, PNG or WebP"):
        dataclasses.replace(example("a", "b").card.pictures[0], mask=data)


# which images


def test_rows_to_show_are_the_surest_of_each_confusion_in_turn() -> None:
    found = noisy(500)
    rows = example_rows(found, wrong=1000, right=0)
    targets, predicted, sure = found.outcome.targets[rows], found.outcome.predicted[rows], found.outcome.probabilities[rows].max(axis=1)
    assert sorted(rows) == np.flatnonzero(found.outcome.targets != found.outcome.predicted).tolist()
    cells = list(zip(targets.tolist(), predicted.tolist(), strict=True))
    first = cells[: len(set(cells))]
    assert len(set(first)) == len(first) == 6
    assert (np.diff(sure[:6]) <= 0).all()
    for cell in set(cells):
        assert (np.diff(sure[[index for index, other in enumerate(cells) if other == cell]]) <= 0).all()


def test_right_rows_are_the_least_sure_and_the_surest_of_each_class() -> None:
    found = noisy(500)
    rows = example_rows(found, wrong=0, right=6)
    outcome = found.outcome
    assert (outcome.targets[rows] == outcome.predicted[rows]).all()
    for label in range(3):
        own = np.flatnonzero((outcome.targets == label) & (outcome.predicted == label))
        sure = outcome.probabilities[own].max(axis=1)
        assert {own[sure.argmin()], own[sure.argmax()]} == set(rows[outcome.targets[rows] == label])


def test_multilabel_rows_are_those_with_the_largest_error() -> None:
    targets = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=bool)
    said = np.array([[0.9, 0.6], [0.2, 0.9], [0.1, 0.2], [0.4, 0.7]])  # errors 0.6 and 0.8 wrong, 0.2 and 0.4 right
    assert example_rows(evaluate(said, targets, ("a", "b"))).tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize(("shape", "expected"), [((400, 200), (50, 100)), ((30, 60), (60, 30))])
def test_a_jpeg_is_brought_to_its_size_and_never_enlarged(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), (200, 30, 60), dtype=np.uint8)
    with Image.open(io.BytesIO(jpeg(pixels, side=100))) as image:
        assert (image.format, image.size) == ("JPEG", expected)
        assert np.abs(np.asarray(image).astype(int) - (200, 30, 60)).max() <= 3


# curves


def points(x: Any, y: Any) -> set[tuple[float, float]]:
    return set(zip(np.round(x, 9).tolist(), np.round(y, 9).tolist(), strict=True))


def test_the_curves_are_those_of_scikit_learn() -> None:
    found = noisy(400)
    positive, scores = found.outcome.indicators, found.outcome.probabilities
    for line, index in zip(roc_chart(found, [0, 2]).series, (0, 2), strict=False):
        false, true, _ = roc_curve(positive[:, index], scores[:, index])
        assert points(line.x, line.y) <= points(false, true)
        assert np.trapezoid(line.y, line.x) == pytest.approx(np.trapezoid(true, false))
        assert line.name == f"class {index} ({found.by_class['roc_auc'][index]:.4f})"
    for line, index in zip(precision_recall_chart(found, [0, 2]).series, (0, 2), strict=False):
        precision, recall, _ = precision_recall_curve(positive[:, index], scores[:, index])
        assert points(line.x, line.y) <= points(recall, precision)
        assert max(line.x) == 1


def test_of_many_classes_those_that_are_told_apart_worst_are_drawn() -> None:
    found = noisy(900, 9)
    chosen = shown_classes(found)
    assert len(chosen) == SHOWN
    areas = found.by_class["roc_auc"]
    assert max(areas[chosen]) <= min(np.delete(areas, chosen))
    assert "Shown are the 5 of 9 classes with the lowest ROC-AUC." in section(run_report(found.classes, evaluation=found), "curves")


def test_there_are_no_curves_where_nothing_is_to_be_told_apart() -> None:
    lonely = evaluate(np.eye(2)[[0, 0]], np.array([0, 0]), ("cats", "dogs"))
    assert section(run_report(evaluation=lonely), "curves") == ""


# confidence


@pytest.mark.parametrize("n", [3, 20, 300, 5000])
def test_reliability_keeps_every_image_and_joins_small_groups(n: int) -> None:
    found = noisy(n)
    sure, right, images = reliability(found)
    confidence, correct = found.outcome.probabilities.max(axis=1), found.outcome.targets == found.outcome.predicted
    assert images.sum() == n
    assert np.isclose((sure * images).sum(), confidence.sum())
    assert np.isclose((right * images).sum(), correct.sum())
    assert (np.diff(sure) > 0).all()
    assert n < FEW or images.min() >= FEW


def test_a_model_that_is_too_sure_lies_below_the_line_before_calibration_and_on_it_after() -> None:
    before, after = noisy(4000, sharpness=3.0), noisy(4000)
    chart = reliability_chart(after, before)
    lines = {series.name: series for series in chart.series}
    high = [index for index, x in enumerate(lines["before calibration"].x) if x > 0.6]
    assert all(lines["before calibration"].y[index] < lines["before calibration"].x[index] - 0.04 for index in high)
    inside = zip(lines["after calibration"].x, lines["after calibration"].y, strict=True)
    assert all(abs(x - y) < 0.08 for x, y in inside)
    text = section(run_report(after.classes, evaluation=after, uncalibrated=before), "confidence")
    errors = [100 * found.scores["calibration_error"] for found in (after, before)]
    assert f"differ by {errors[0]:.1f} points on average (calibration error); before calibration, {errors[1]:.1f} points." in text


def test_intervals_hold_their_points() -> None:
    found = noisy(600)
    strokes, points = reliability_chart(found, None).series[-2:]
    ends = np.array(strokes.y).reshape(-1, 3)
    assert (ends[:, 0] <= points.y).all()
    assert (points.y <= ends[:, 1]).all()
    assert np.isnan(ends[:, 2]).all()
    _, right, images = reliability(found)
    assert ends[0, :2].tolist() == list(metrics.accuracy_interval(round(right[0] * images[0]), int(images[0])))


def test_the_coverage_curve_ends_at_the_accuracy_and_its_mark_is_where_the_threshold_is() -> None:
    found = noisy(1000)
    sure = found.outcome.probabilities.max(axis=1)
    threshold = float(np.quantile(sure, 0.25))
    right = (found.outcome.targets == found.outcome.predicted)[sure >= threshold].mean()
    test = ReliabilityTest(images=1000, answered=(answered(0.9, threshold, 0.75, right),))
    report = run_report(found.classes, evaluation=found, reliability=test)
    chart = coverage_chart(report.tested)
    assert (chart.series[0].x[-1], chart.series[0].y[-1]) == (1.0, found.accuracy)
    assert chart.mark
    assert chart.mark.x == (sure >= threshold).mean()
    assert f"90.0 % {100 * threshold:.1f} % 75.0 % {100 * right:.1f} %" in section(report, "confidence")


def test_prediction_sets_and_false_alarms_are_told() -> None:
    text = section(rich_report(), "confidence")
    said = "Prediction sets: mean size 1.25, coverage 92.0 % of the test images (95 % interval 88.0 % to 95.0 %); 90.0 % was asked for."
    assert said in text
    assert "1 class 240 2 classes 60" in text
    assert "3.1 % of the test images are flagged as novel." in text


def test_very_large_sets_are_counted_together() -> None:
    test = ReliabilityTest(images=3435, asked=0.9, coverage=1.0)
    report = rich_report(reliability=test, set_sizes={size: 100 + size for size in range(30)})
    text = section(report, "confidence")
    assert (
        f"no class 100 1 class 101 2 classes 102 3 classes 103 4 classes 104 5 classes 105 6 classes 106 7 classes or more {23 * 118}"
        in text
    )


def test_without_trust_there_is_reliability_and_no_empty_table() -> None:
    text = section(run_report(), "confidence")
    assert "Thresholds" not in text
    assert "Prediction sets" not in text
    assert "the model" in text


def test_multilabel_reports_tell_what_is_known_of_labels() -> None:
    targets = np.random.default_rng(0).random((80, 3)) < 0.4
    said = np.clip(np.where(targets, 0.8, 0.2) + np.random.default_rng(1).normal(0, 0.2, targets.shape), 0, 1)
    found = evaluate(said, targets, ("a", "b", "c"))
    report = rich_report(("a", "b", "c"), evaluation=found, uncalibrated=None, examples=(example("a, b", "a"), example("c", "c")))
    source = page(report)
    assert "predicted-" not in source
    assert "a, b predicted as a" in section(report, "examples")
    assert "probability of the label" in source
    assert "Abstention" not in section(report, "confidence")
    Reading(source)
    model_card(report)


# learning, leaks, uses, in short


def test_the_learning_curve_shows_points_with_their_errors() -> None:
    found = curve((100, 200), (0.9, 0.99), (0.02, 0.03), "More would help.")
    strokes, points = learning_chart(found).series
    assert (list(points.x), list(points.y)) == ([100.0, 200.0], [0.9, 0.99])
    assert strokes.y[:2] == [0.88, 0.92]
    assert strokes.y[4] == 1.0  # no accuracy is above it
    assert section(run_report(learning_curve=found), "learning").startswith("Learning curve More would help. Learning curve")
    assert section(run_report(), "learning") == ""


def test_leaks_stand_beside_each_other() -> None:
    text = section(rich_report(), "data")
    assert "all test images 98.7 % 96.6 % to 99.5 % 300" in text
    assert "those not seen in training 95.1 % 92.0 % to 97.0 % 260" in text
    assert "with and without leaks" not in section(run_report(), "data")


def test_later_uses_are_told_at_the_top_and_in_full() -> None:
    report = rich_report(uses=(use("photos"), use("more")))
    assert "The test part has been used 2 more times since this score was measured." in section(report, "result")
    assert section(report, "uses").endswith(f"{use('photos').sentence()} {use('more').sentence()}")
    assert "has been used" not in section(run_report(), "result")
    assert section(run_report(), "uses") == ""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([], ""),
        ([(0, 1)], "1 image misclassified: a as b (1 of 3)."),
        ([(0, 1), (0, 1)], "2 images misclassified, always a as b (2 of 3)."),
        ([(0, 1), (0, 1), (2, 1)], "3 images misclassified, most often a as b (2 of 3)."),
        ([(0, 1), (2, 1)], "2 images misclassified, no confusion more than once."),
    ],
)
def test_the_mistakes_in_short(wrong: list[tuple[int, int]], said: str) -> None:
    targets = np.repeat(np.arange(3), 3)
    predicted = targets.copy()
    for place, (target, other) in enumerate(wrong):
        predicted[3 * target + place % 3] = other
    found = evaluate(np.eye(3)[predicted], targets, ("a", "b", "c"))
    text = " ".join(Reading(gists(run_report(("a", "b", "c"), evaluation=found))).text.split())
    assert (said + " more" in text) if said else "misclassified" not in text


def test_what_is_said_in_short_leads_on() -> None:
    text = " ".join(Reading(gists(rich_report())).text.split())
    assert "On the 90 % of images with the highest confidence, the accuracy is" in text
    assert "4 leaks. Take them out. more" in text
    assert "Twice as many would add 1.2 points." in text
    assert re.findall('href="#(.*?)"', gists(rich_report())) == ["data", "uses", "confused", "confidence", "learning"]


def test_the_other_scores_have_their_intervals() -> None:
    found = noisy(400)
    low, high = found.bootstrap.intervals["roc_auc"]
    report = run_report(found.classes, evaluation=found)
    assert f"{found.scores['roc_auc']:.4f} {low:.4f} to {high:.4f}" in section(report, "result")
    assert found.bootstrap.method in section(report, "result").replace("\xa0", " ")
    assert f"| ROC-AUC | {found.scores['roc_auc']:.4f} (95 % interval {low:.4f} to {high:.4f}) |" in model_card(report)


# MODEL_CARD.md


def test_the_card_tells_the_same_of_confidence_leaks_and_uses_as_the_page() -> None:
    report = rich_report()
    card = model_card(report)
    for heading in ("Uses", "Bias, risks and limitations", "Training details", "Evaluation", "Reproducing"):
        assert f"\n## {heading}\n" in card
    assert "- Prediction sets: mean size 1.25, coverage 92.0 % of the test images" in card
    assert "| target accuracy | confidence threshold | test images answered | test accuracy of these |" in card
    assert "| 95.0 % | 62.0 % | 100 % | 97.0 % |" in card
    assert "| those not seen in training | 0.9510 (95 % interval 0.9200 to 0.9700) | 260 |" in card
    assert "- The test part was used once more after the score was measured." in card
    assert "- Twice as many would add 1.2 points." in card
    yaml.safe_load(card.split("---\n")[1])


def test_a_rich_report_is_written_the_same_twice(tmp_path: Any) -> None:
    first = [path.read_bytes() for path in write_report(tmp_path, rich_report())]
    assert [path.read_bytes() for path in write_report(tmp_path, rich_report())] == first


def test_adaptation_says_what_was_tried_and_what_came_of_it() -> None:
    text = section(rich_report(), "adaptation")
    for said in (
        "To sketches, 90 unlabelled images: by coral: 40.0 % of 90 images have another label now; on the source 95.0 % before and",
        "with a ROC-AUC of 0.98", "Test images among them: 1", "coral", "90.0 % ± 1.0",
        "loses the source: below 76.0 % in reverse", "less informative",
    ):  # fmt: skip
        assert said in text
    assert section(rich_report(adaptation=None), "adaptation") == ""
