"""Scores of class maps against scikit-learn, scipy and closed forms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from headstart.data.masks import Masks
from headstart.errors import ParameterError
from headstart.metrics.intervals import share_interval
from headstart.metrics.scores import expected_calibration_error
from headstart.metrics.segmentation import (
    EDGES,
    ImageStatistics,
    Tally,
    boundary_counts,
    boundary_f1,
    image_scores,
    image_statistics,
    most_frequent_mean_iou,
    pixel_calibration,
    pixel_calibration_error,
    pixel_coverage,
    segmentation_intervals,
    segmentation_scores,
)
from headstart.tasks.segmentation.evaluation import SegmentationEvaluation, evaluate, mask_statistics


def _pairs(count: int = 6, k: int = 4, *, wrong: float = 0.2, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Smooth truth with void, predictions that are partly wrong, confidence."""
    generator = np.random.default_rng(seed)
    found = []
    for index in range(count):
        shape = (40 + index, 50 - index)
        truth = ndimage.gaussian_filter(generator.normal(size=(k, *shape)), (0, 3, 3)).argmax(axis=0).astype(np.uint8)
        predicted = np.where(generator.random(shape) < wrong, generator.integers(0, k, shape), truth).astype(np.uint8)
        truth[:3] = 255
        found.append((truth, predicted, generator.uniform(1 / k, 1, shape).astype(np.float32)))
    return found


def _statistics(pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]], k: int = 4) -> ImageStatistics:
    return ImageStatistics.joined([image_statistics(*pair, classes=k) for pair in pairs], classes=k)


def test_scores_are_those_of_scikit_learn() -> None:
    pairs = _pairs()
    statistics = _statistics(pairs)
    known = [truth < 4 for truth, _, _ in pairs]
    truth = np.concatenate([pair[0][there] for pair, there in zip(pairs, known, strict=True)])
    predicted = np.concatenate([pair[1][there] for pair, there in zip(pairs, known, strict=True)])
    np.testing.assert_array_equal(statistics.confusion.sum(axis=0), confusion_matrix(truth, predicted))
    scores = segmentation_scores(statistics)
    np.testing.assert_allclose(scores.iou, jaccard_score(truth, predicted, average=None))
    np.testing.assert_allclose(scores.dice, f1_score(truth, predicted, average=None))
    assert scores.means["mean_iou"] == pytest.approx(jaccard_score(truth, predicted, average="macro"))
    assert scores.pixel_accuracy == pytest.approx((truth == predicted).mean())
    assert scores.most_frequent == pytest.approx(np.bincount(truth).max() / len(truth))
    expected = jaccard_score(truth, np.full_like(truth, np.bincount(truth).argmax()), average="macro")
    assert most_frequent_mean_iou(statistics.confusion.sum(axis=0)) == pytest.approx(expected)
    each = [jaccard_score(pair[0][there], pair[1][there], average="macro") for pair, there in zip(pairs, known, strict=True)]
    np.testing.assert_allclose(image_scores(statistics), each)


def test_a_class_in_neither_is_left_out_and_a_false_one_counts() -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    same = segmentation_scores(image_statistics(truth, truth, classes=4))
    assert same.means["mean_iou"] == 1
    assert np.isnan(same.iou[2:]).all()
    other = segmentation_scores(image_statistics(truth, np.array([[0, 0, 1, 3]], np.uint8), classes=4))
    assert other.iou.tolist()[:2] == [1, 0.5]
    assert other.iou[3] == 0
    assert other.means["mean_iou"] == pytest.approx(0.5)


def test_void_counts_nowhere() -> None:
    truth = np.full((5, 6), 255, np.uint8)
    statistics = image_statistics(truth, np.zeros_like(truth), np.ones((5, 6), np.float32), classes=2)
    assert not statistics.confusion.any()
    assert not statistics.confidence.any()
    assert not statistics.boundaries.any()
    assert math.isnan(segmentation_scores(statistics).means["mean_iou"])
    assert math.isnan(image_scores(statistics)[0])
    assert math.isnan(pixel_calibration_error(statistics.confidence[0]))


def _boundaries_by_distance(truth: np.ndarray, predicted: np.ndarray, k: int, tolerance: float) -> np.ndarray:
    """The same counts from exact distances."""
    void, found = truth >= k, np.zeros((k, 4), np.int64)
    radius = max(1.0, tolerance * math.hypot(*truth.shape))

    def boundary(values: np.ndarray, index: int) -> np.ndarray:
        edge = np.zeros(values.shape, bool)
        for row, column in np.argwhere((values == index) & ~void).tolist():
            around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
            edge[row, column] = any(
                0 <= r < values.shape[0] and 0 <= c < values.shape[1] and not void[r, c] and values[r, c] != index for r, c in around
            )
        return edge

    for index in range(k):
        edges = [boundary(values, index) for values in (predicted, truth)]
        for column, (own, other) in enumerate((edges, edges[::-1])):
            near = ndimage.distance_transform_edt(~other) <= radius + 1e-9 if other.any() else np.zeros_like(other)
            found[index, 2 * column : 2 * column + 2] = own.sum(), (own & near).sum()
    return found


@pytest.mark.parametrize("tolerance", [0.0075, 0.06, 0.2, 2.0])
def test_boundaries_are_those_of_exact_distances(tolerance: float) -> None:
    for truth, predicted, _ in _pairs(2, 4, wrong=0.02, seed=3):
        found = boundary_counts(truth, predicted, classes=4, tolerance=tolerance)
        np.testing.assert_array_equal(found, _boundaries_by_distance(truth, predicted, 4, tolerance))
        assert found.sum() > 500


def test_boundaries_of_many_classes() -> None:
    truth = np.arange(40, dtype=np.uint8).repeat(3).reshape(1, -1).repeat(9, axis=0)
    predicted = np.roll(truth, 1, axis=1)
    predicted[:, 0] = 0
    found = boundary_counts(truth, predicted, classes=40)
    np.testing.assert_array_equal(found, _boundaries_by_distance(truth, predicted, 40, 0.0075))
    assert boundary_f1(found[None])[0].tolist() == pytest.approx([1.0] * 40)  # one pixel away is near


def test_a_shifted_square_has_a_known_boundary_f1() -> None:
    """Moved by five pixels, with a tolerance of four, two sides of a square of 20 are near along their length, less the ends."""
    truth = np.zeros((400, 300), np.uint8)
    predicted = truth.copy()
    truth[100:120, 100:120], predicted[100:120, 105:125] = 1, 1
    same = boundary_f1(boundary_counts(truth, truth, classes=2)[None])[0]
    assert same.tolist() == [1, 1]
    found = boundary_f1(boundary_counts(truth, predicted, classes=2)[None])[0]
    assert 0.3 < found[1] < 0.65
    near = boundary_f1(boundary_counts(truth, predicted, classes=2, tolerance=5 / 500)[None])[0]
    assert near[1] == 1


def test_a_boundary_on_one_side_only_scores_nothing() -> None:
    found = boundary_f1(np.array([[[5, 0, 0, 0], [0, 0, 7, 0], [0, 0, 0, 0], [4, 2, 4, 4]]]))[0]
    assert found[:2].tolist() == [0, 0]
    assert math.isnan(found[2])
    assert found[3] == pytest.approx(2 * 0.5 * 1 / 1.5)


def test_calibration_is_that_of_single_pixels() -> None:
    pairs = _pairs(3)
    statistics = _statistics(pairs)
    known = [truth < 4 for truth, _, _ in pairs]
    confidence = np.concatenate([pair[2][there] for pair, there in zip(pairs, known, strict=True)])
    correct = np.concatenate([(pair[0] == pair[1])[there] for pair, there in zip(pairs, known, strict=True)])
    together = statistics.confidence.sum(axis=0)
    assert pixel_calibration_error(together) == pytest.approx(expected_calibration_error(confidence, correct), abs=1e-6)
    sure, right, pixels = pixel_calibration(together)
    assert pixels.sum() == len(confidence)
    assert np.nansum(sure * pixels) == pytest.approx(confidence.sum(), rel=1e-5)
    assert np.nansum(right * pixels) == pytest.approx(correct.sum())
    coverage, accuracy, least = pixel_coverage(together)
    assert coverage[-1] == 1
    for share, rate, low in zip(coverage, accuracy, least, strict=True):
        above = confidence > low
        assert share == pytest.approx(above.mean(), abs=1e-4)
        assert rate == pytest.approx(correct[above].mean(), abs=1e-3)


@given(confidence=st.floats(0, 1, width=32))
def test_each_confidence_is_in_its_bin(confidence: float) -> None:
    tally = Tally(2)
    one = np.zeros((1, 1), np.uint8)
    tally.add(one, one, np.full((1, 1), confidence, np.float32))
    place = int(tally.statistics(np.zeros((2, 4), np.int64)).confidence[0, :, 0].argmax())
    low = EDGES[place - 1] if place else 0.0
    assert low - 2e-5 <= confidence <= EDGES[place] + 1e-6


def test_intervals_are_those_of_resampled_images() -> None:
    statistics = _statistics(_pairs(12, wrong=0.3))
    found = segmentation_intervals(statistics)
    generator = np.random.default_rng(5)
    means = []
    for _ in range(1500):
        drawn = segmentation_scores(statistics.take(generator.integers(0, 12, 12)))
        means.append([drawn.means["mean_iou"], drawn.means["boundary_f1"], drawn.pixel_accuracy, drawn.iou[2]])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    own = [*(found.scores[name] for name in ("mean_iou", "boundary_f1", "pixel_accuracy")), tuple(found.iou[2])]
    for (a, b), least, most in zip(own, low, high, strict=True):
        assert a == pytest.approx(least, abs=0.12 * (most - least))
        assert b == pytest.approx(most, abs=0.12 * (most - least))
    assert "1000 resamples" in found.method


def test_a_single_image_has_a_wide_interval() -> None:
    statistics = _statistics(_pairs(1))
    value = segmentation_scores(statistics).means["mean_iou"]
    low, high = segmentation_intervals(statistics).scores["mean_iou"]
    assert (low, high) == pytest.approx(share_interval(value, 1))
    assert low < value < high
    assert high - low > 0.5


def test_statistics_come_back_from_what_is_stored() -> None:
    statistics = _statistics(_pairs())
    stored = statistics.stored()
    assert all(len(array) == 6 for array in stored.values())
    assert stored["confusion"].dtype == np.uint16
    again = ImageStatistics.of_arrays({name: array.astype(np.float64) for name, array in stored.items()})
    for name in ("confusion", "boundaries", "confidence"):
        np.testing.assert_array_equal(getattr(again, name), getattr(statistics, name))
    with pytest.raises(ParameterError, match="must have the shapes"):
        ImageStatistics(statistics.confusion, statistics.boundaries[:2], statistics.confidence)


def test_maps_of_differing_sizes_are_refused() -> None:
    with pytest.raises(ParameterError, match="same height and width"):
        image_statistics(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), classes=2)


class _Made:
    """A mask that is an array."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask = mask

    def read(self) -> np.ndarray:
        return self.mask


def masks_of_arrays(masks: list[np.ndarray], classes: tuple[str, ...]) -> Masks:
    k = len(classes)
    areas = [np.append(np.bincount(mask[mask < k], minlength=k), (mask >= k).sum()) for mask in masks]
    return Masks(classes, np.array(areas, np.int64), tuple(_Made(mask) for mask in masks))  # type: ignore[arg-type]


def _logits(truth: np.ndarray, k: int, *, sure: float = 4.0) -> np.ndarray:
    """Logits at the resolution of the truth, void for the first class."""
    own = np.where(truth < k, truth, 0)
    return (sure * (np.arange(k)[:, None, None] == own)).astype(np.float32)


def test_an_evaluation_of_perfect_logits() -> None:
    truths = [pair[0] for pair in _pairs()]
    found = evaluate([_logits(truth, 4) for truth in truths], masks_of_arrays(truths, ("sky", "road", "car", "tree")))
    name, value, (low, high) = found.headline
    assert (name, value) == ("mean_iou", 1.0)
    assert high == 1
    assert low == pytest.approx(share_interval(1.0, 6)[0])
    assert found.summary() == f"test mean IoU 1.0000 [{low:.4f}, 1.0000] on 6 images"
    sure = math.exp(4) / (math.exp(4) + 3)
    assert found.scores["calibration_error"] == pytest.approx(1 - sure, abs=1e-5)
    assert found.correct_rows is None


def test_evaluation_interpolates_the_logits_to_the_size_of_the_mask() -> None:
    """Two halves at 2 x 2; at 8 x 8 the boundary between them is in the middle."""
    logits = np.array([[[1, -1], [1, -1]], [[-1, 1], [-1, 1]]], np.float32)
    truth = np.zeros((8, 8), np.uint8)
    truth[:, 4:] = 1
    found = mask_statistics(logits, truth, classes=2)
    assert found.confusion[0].tolist() == [[32, 0], [0, 32]]
    assert found.confidence[0, :, 0].sum() == 64


def test_the_evaluation_as_text_and_as_data() -> None:
    pairs = _pairs(5, 3)
    classes = ("background", "person", "dog")
    truths = [np.where(truth == 2, 255, truth).astype(np.uint8) for truth, _, _ in pairs]
    truths[4][:] = 255
    found = evaluate([_logits(predicted, 3) for _, predicted, _ in pairs], masks_of_arrays(truths, classes))
    text = "\n".join(found.lines())
    assert text.startswith(f"test: 5 images, 3 classes, {int(found.confusion.sum())} pixels")
    assert "No pixel of the test images is of dog" in text
    assert "their IoU is 0." in text
    assert "1 test image has no pixel with a class, and counts for nothing." in text
    assert "of background named person" in text
    data = found.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["by_class"]["dog"]["recall"] is None
    assert data["by_class"]["dog"]["iou"] == 0
    assert data["mean_iou"] == pytest.approx(found.mean_iou)
    assert data["mean_iou_interval"] == list(found.headline[2])
    again = SegmentationEvaluation.of_arrays(found.stored(), classes)
    assert again.lines() == found.lines()


def test_progress_is_told() -> None:
    truths = [pair[0] for pair in _pairs(3)]
    told: list[tuple[int, int]] = []
    evaluate([_logits(t, 4) for t in truths], masks_of_arrays(truths, ("a", "b", "c", "d")), progress=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_evaluations_of_nothing_and_of_other_counts_are_refused() -> None:
    masks = masks_of_arrays([np.zeros((2, 2), np.uint8)], ("a", "b"))
    with pytest.raises(ParameterError, match="logits of 2 images, and masks of 1"):
        evaluate([np.zeros((2, 1, 1))] * 2, masks)
    with pytest.raises(ParameterError, match="no images to evaluate"):
        evaluate([], masks.take(np.zeros(0, np.int64)))
    with pytest.raises(ParameterError, match="there are 3 classes, and statistics of 2"):
        SegmentationEvaluation(("a", "b", "c"), image_statistics(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), classes=2))
