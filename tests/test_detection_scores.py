"""Average precision against pycocotools, resamples against images written out several times, curves and thresholds against closed forms."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from headstart.errors import ParameterError
from headstart.metrics.boxes import Detections, image_of_each, rows_of_images
from headstart.metrics.detection import (
    RECALLS,
    _levels_reached,
    best_threshold,
    detection_curve,
    detection_difference,
    detection_intervals,
    detection_scores,
    resampled_scores,
)
from headstart.metrics.intervals import percentile_interval, resamples, share_interval
from headstart.metrics.matching import IGNORED, RIGHT, WRONG, match

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from detection_scores import Truth, as_coco, from_coco, large_case, largest_difference, ours, pycocotools_scores, random_case


def _differences(seeds: range) -> list[float]:
    pytest.importorskip("pycocotools")
    cases = [random_case(seed) for seed in seeds]
    return [largest_difference(ours(case), pycocotools_scores(*as_coco(*case))[0]) for case in cases]


def test_scores_are_those_of_pycocotools() -> None:
    assert max(_differences(range(60))) < 1e-12


@pytest.mark.slow
def test_scores_are_those_of_pycocotools_in_a_thousand_cases() -> None:
    assert max(_differences(range(60, 1000))) < 1e-12


def test_the_cases_hold_what_is_easily_wrong() -> None:
    cases = [random_case(seed) for seed in range(60)]
    assert any(truth.crowd.any() for _, truth, _ in cases)
    assert any(len(np.unique(found.scores)) < len(found.scores) for found, _, _ in cases)
    assert any((np.diff(truth.starts) == 0).any() for _, truth, _ in cases)
    assert any((np.diff(found.starts) == 0).any() for found, _, _ in cases)
    matches = [match(found, truth, classes=k) for found, truth, k in cases]
    assert max(one.ranks.max(initial=0) for one in matches) >= 100
    assert any((one.outcomes[..., 0] == IGNORED).any() for one in matches)
    assert all((np.sum([one.objects() for one in matches if one.classes == 3], axis=(0, 1)) > 0).tolist())
    assert any(math.isnan(detection_scores(one).means["ap"]) for one in matches)


def test_levels_of_recall_are_reached_to_the_last_bit() -> None:
    recall = np.concatenate([np.arange(count + 1) / count for count in range(1, 1500)])
    np.testing.assert_array_equal(_levels_reached(recall), np.searchsorted(RECALLS, recall, side="right"))


def test_files_of_coco_are_read_back() -> None:
    case = random_case(3)
    found, truth, classes = from_coco(*as_coco(*case))
    assert classes == case[2]
    for own, expected in ((found, case[0]), (truth, case[1])):
        for name in ("boxes", "labels", "starts"):
            np.testing.assert_array_equal(getattr(own, name), getattr(expected, name))


BOX = [0.0, 0.0, 40.0, 40.0]
AWAY = [100.0, 100.0, 140.0, 140.0]


def _truth(*images: list[tuple[list[float], int]], crowd: bool = False) -> Truth:
    none = (np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    parts = [(np.array([box for box, _ in own]), np.array([label for _, label in own]), np.full(len(own), crowd)) for own in images if own]
    starts = np.cumsum([0, *(len(own) for own in images)])
    joined = Truth.joined([none, *parts])
    return Truth(joined.boxes, joined.labels, joined.crowd, starts)


def _found(*images: list[tuple[list[float], float, int]]) -> Detections:
    return Detections.joined(tuple(zip(*own, strict=True)) if own else (np.zeros((0, 4)), [], []) for own in images)


def test_a_second_box_on_one_object_is_wrong_and_beside_a_crowd_is_not() -> None:
    found = _found([(BOX, 0.5, 0), (BOX, 0.9, 0), (AWAY, 0.1, 0)])
    matches = match(found, _truth([(BOX, 0)]), classes=1)
    assert matches.outcomes[:, :, 0].T.tolist() == [[WRONG, RIGHT, WRONG]] * 10
    assert matches.ranks.tolist() == [1, 0, 2]
    crowd = match(found, _truth([([0.0, 0.0, 80.0, 80.0], 0)], crowd=True), classes=1)
    assert crowd.outcomes[:, :, 0].T.tolist() == [[IGNORED, IGNORED, WRONG]] * 10
    assert crowd.objects().tolist() == [[0, 0, 0, 0]]


def test_the_average_precision_of_two_of_three() -> None:
    # Right, wrong, right of three objects: precision 1 up to a recall of 1/3, 2/3 up to 2/3.
    truth = _truth([(BOX, 0), (AWAY, 0), ([200.0, 0.0, 230.0, 30.0], 0)])
    found = _found([(BOX, 0.9, 0), ([0.0, 200.0, 9.0, 209.0], 0.8, 0), (AWAY, 0.7, 0)])
    matches = match(found, truth, classes=2)
    scores = detection_scores(matches)
    assert scores.ap50[0] == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert scores.means["ap"] == pytest.approx(scores.ap50[0])
    assert math.isnan(scores.ap50[1])
    assert scores.objects[:, 0].tolist() == [3, 0]
    assert scores.means["ar_1"] == pytest.approx(1 / 3)
    assert scores.means["ar_100"] == pytest.approx(2 / 3)
    # Boxes of 900 square pixels are small and never found, those of 1,600 are medium.
    assert scores.ap_by_size[0, :2].tolist() == pytest.approx([0, 1])
    assert math.isnan(scores.means["ap_large"])

    precision, recall, thresholds = detection_curve(matches, 0)
    assert recall.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3])
    assert precision.tolist() == pytest.approx([1, 1, 1 / 2, 2 / 3])
    assert thresholds.tolist() == pytest.approx([np.inf, 0.9, 0.8, 0.7])
    assert [len(values) for values in detection_curve(matches, 1)] == [1, 1, 1]
    best = best_threshold(matches)
    assert (best.threshold, best.f1) == (pytest.approx(0.7), pytest.approx(2 / 3))
    assert (best.precision, best.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert math.isnan(best_threshold(matches, 1).threshold)


def test_the_best_threshold_is_the_best_of_all() -> None:
    for seed in range(20):
        found, truth, classes = random_case(seed)
        matches = match(found, truth, classes=classes)
        best = best_threshold(matches)
        right, scores, objects = matches.at_half()
        f1 = [2 * right[scores >= score].sum() / ((scores >= score).sum() + objects) for score in np.unique(scores)[::-1]]
        if not objects or not right.any():
            assert math.isnan(best.f1)
            continue
        assert best.f1 == pytest.approx(max(f1))
        assert best.threshold == np.unique(scores)[::-1][int(np.argmax(f1))]


def _drawn(truth: Truth, images: np.ndarray) -> Truth:
    rows, starts = rows_of_images(truth.starts, images)
    return Truth(truth.boxes[rows], truth.labels[rows], truth.crowd[rows], starts)


def test_a_resample_is_as_if_its_images_were_there_several_times() -> None:
    found, truth, classes = large_case(25, classes=3)
    crowd = np.random.default_rng(1).random(len(truth.boxes)) < 0.1
    truth = Truth(truth.boxes, np.where(image_of_each(truth.starts) < 23, truth.labels % 2, 2), crowd, truth.starts)
    matches = match(found, truth, classes=classes)
    drawn = resampled_scores(matches, replicates=8, seed=4)
    weights = np.concatenate(list(resamples(25, replicates=8, seed=4)), axis=1).astype(np.int64)
    assert (weights[23:].sum(axis=0) == 0).any()  # a class that is not in every resample
    for column in range(8):
        images = np.repeat(np.arange(25), weights[:, column])
        own = detection_scores(match(found.take(images), _drawn(truth, images), classes=classes))
        for name in ("ap", "ap50", "ap75"):
            assert drawn[name][column] == pytest.approx(own.means[name], abs=1e-6), name
        np.testing.assert_allclose(drawn["class_ap"][:, column], own.ap, atol=1e-6)
        np.testing.assert_allclose(drawn["class_ap50"][:, column], own.ap50, atol=1e-6)


def test_intervals_hold_the_scores_and_narrow_with_more_images() -> None:
    widths = []
    for count in (20, 320):
        found, truth, classes = large_case(count, classes=2)
        matches = match(found, truth, classes=classes)
        intervals, scores = detection_intervals(matches, replicates=200), detection_scores(matches)
        for name, (low, high) in intervals.scores.items():
            assert low < scores.means[name] < high, name
        assert intervals.ap.shape == intervals.ap50.shape == (2, 2)
        assert ((intervals.ap50[:, 0] < scores.ap50) & (scores.ap50 < intervals.ap50[:, 1])).all()
        widths.append(np.diff(intervals.scores["ap"])[0])
    assert 2 < widths[0] / widths[1] < 8  # the root of 16 is 4
    assert intervals.method == "percentile bootstrap over images, centred on the score, 95 %, 200 resamples, seed 0"


def test_intervals_hold_what_other_images_give() -> None:
    found, truth, classes = large_case(3000, classes=10)
    generator, drawn, intervals = np.random.default_rng(0), [], []
    for _ in range(60):
        images = generator.integers(0, 3000, 60)
        matches = match(found.take(images), _drawn(truth, images), classes=classes)
        drawn.append(detection_scores(matches).means["ap50"])
        intervals.append(detection_intervals(matches, replicates=100).scores["ap50"])
    low, high = np.array(intervals).T
    assert ((low <= np.mean(drawn)) & (np.mean(drawn) <= high)).mean() > 0.85
    assert ((low < drawn) & (drawn < high)).all()


def test_matches_of_equal_overlap_go_to_the_last_box() -> None:
    # As in pycocotools: the box in the middle takes the true box on the right, which the other one would need.
    truth = _truth([([0.0, 0.0, 10.0, 10.0], 0), ([4.0, 0.0, 14.0, 10.0], 0)])
    found = _found([([2.0, 0.0, 12.0, 10.0], 0.9, 0), ([5.0, 0.0, 15.0, 10.0], 0.8, 0)])
    assert match(found, truth, classes=1).outcomes[:, 0, 0].tolist() == [RIGHT, WRONG]
    pytest.importorskip("pycocotools")
    case = (found, truth, 1)
    assert largest_difference(ours(case), pycocotools_scores(*as_coco(*case))[0]) < 1e-12


def test_intervals_of_the_perfect_and_of_nothing() -> None:
    images = [[(BOX, 0)]] * 7
    perfect = match(_found(*[[(BOX, 0.9, 0)]] * 7), _truth(*images), classes=2)
    intervals = detection_intervals(perfect, replicates=50)
    assert intervals.scores["ap"] == pytest.approx(share_interval(1.0, 7))
    assert intervals.ap[0] == pytest.approx(share_interval(1.0, 7))
    assert np.isnan(intervals.ap[1]).all()
    nothing = match(
        _found(), Truth(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(1, np.int64)), classes=1
    )
    assert all(math.isnan(value) for value in detection_scores(nothing).means.values())
    assert all(np.isnan(pair).all() for pair in detection_intervals(nothing).scores.values())
    assert percentile_interval(np.array([0.2, np.nan, 0.4]), 0.3, 5) == pytest.approx((0.205, 0.395))


def test_two_detectors_are_compared_on_the_same_images() -> None:
    found, truth, classes = large_case(60, classes=2)
    generator = np.random.default_rng(0)
    worse = Detections(
        found.boxes + generator.normal(size=found.boxes.shape).astype(np.float32) * 4, found.scores, found.labels, found.starts
    )  # fmt: skip
    first, second = (match(one, truth, classes=classes) for one in (found, worse))
    apart = detection_difference(first, second, replicates=200)["ap"]
    assert apart.value == pytest.approx(detection_scores(first).means["ap"] - detection_scores(second).means["ap"])
    assert apart.interval[0] < apart.value < apart.interval[1]
    assert apart.clear
    assert apart.above == 1
    same = detection_difference(first, first, replicates=50)["ap50"]
    assert (same.value, same.interval, same.above, same.clear) == (0, (0, 0), 0.5, False)
    with pytest.raises(ParameterError, match="on the same images with the same true boxes only"):
        detection_difference(first, match(found, _drawn(truth, np.arange(60)[::-1]), classes=3))


def test_what_does_not_fit_together_is_refused() -> None:
    found, truth = _found([(BOX, 0.5, 3)]), _truth([(BOX, 0)])
    with pytest.raises(ParameterError, match="labels of 2 classes run from 0 to 1; got 3 to 3"):
        match(found, truth, classes=2)
    with pytest.raises(ParameterError, match="the detections are of 1 images, and the true boxes of 2"):
        match(found, _truth([(BOX, 0)], []), classes=4)
    with pytest.raises(ParameterError, match=r"1 boxes have labels of shape \(1,\); got \(2,\)"):
        Detections(truth.boxes, np.zeros(1), np.zeros(2, np.int64), truth.starts)
    with pytest.raises(ParameterError, match=r"1 boxes have crowd of shape \(1,\); got \(2,\)"):
        match(found, SimpleNamespace(boxes=truth.boxes, labels=truth.labels, crowd=np.zeros(2, bool), starts=truth.starts), classes=4)
