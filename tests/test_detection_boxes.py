"""Overlaps against pycocotools and a loop, non-maximum suppression against torchvision, mistakes against drawn cases."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from headstart.errors import ParameterError
from headstart.metrics import boxes as boxes_module
from headstart.metrics.boxes import Detections, iou, nms, overlapping
from headstart.metrics.mistakes import Kind, find_mistakes

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from detection_scores import Truth, large_case, random_case


def _boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    centres, sizes = generator.uniform(0, 100, (count, 2)), generator.uniform(0, 60, (count, 2))
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1).astype(np.float32)


def test_overlaps_are_those_of_pycocotools() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(0)
    for count in (1, 30):
        first, second, crowd = _boxes(generator, 40), _boxes(generator, count), generator.random(count) < 0.3
        forms = [np.concatenate([own[:, :2], own[:, 2:].astype(float) - own[:, :2]], axis=1) for own in (first, second)]
        np.testing.assert_allclose(iou(first, second, crowd), mask.iou(*forms, crowd.astype(np.uint8)), atol=1e-12)
        np.testing.assert_allclose(iou(first, second), mask.iou(*forms, np.zeros(count, np.uint8)), atol=1e-12)
    assert iou(first, second[:0]).shape == (40, 0)


def test_overlaps_in_closed_form() -> None:
    box = [[0, 0, 10, 10]]
    others = [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [3, 3, 3, 8], [2, 2, 4, 4], [-50, -50, 50, 50]]
    assert iou(box, others)[0].tolist() == pytest.approx([1, 1 / 3, 0, 0, 0.04, 0.01])
    assert iou(box, others, np.ones(6, bool))[0].tolist() == pytest.approx([1, 0.5, 0, 0, 0.04, 1])


def test_pairs_are_those_of_all_boxes_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    first, second = _boxes(generator, 70), _boxes(generator, 50)
    groups, crowd = (generator.integers(0, 4, 70), generator.integers(1, 6, 50)), generator.random(50) < 0.2
    every = np.where(groups[0][:, None] == groups[1][None], iou(first, second, crowd), 0)
    expected = np.nonzero(every >= 0.1)
    for at_once in (2_000_000, 17):
        monkeypatch.setattr(boxes_module, "_PAIRS_AT_ONCE", at_once)
        rows, others, shares = overlapping(first, second, groups, least=0.1, crowd=crowd)
        assert (rows.tolist(), others.tolist()) == (expected[0].tolist(), expected[1].tolist())
        np.testing.assert_array_equal(shares, every[expected])


@pytest.mark.torch
@pytest.mark.parametrize("per_class", [True, False])
def test_suppression_is_that_of_torchvision(per_class: bool) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    for seed, count in enumerate([0, 1, 2, 7, 60, 255, 256, 257, 300, 900, 1500] * 2):
        generator = np.random.default_rng(seed)
        boxes, labels = _boxes(generator, count), generator.integers(0, 3, count)
        scores = generator.permutation(count).astype(np.float32) / 2000
        limit = float(generator.uniform(0.2, 0.8))
        own = nms(boxes, scores, labels, iou=limit, per_class=per_class)
        tensors = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels if per_class else np.zeros_like(labels))
        expected = ops.batched_nms(*tensors, limit).numpy()
        np.testing.assert_array_equal(own, expected)
        for most in (0, 1, 20, 300):
            np.testing.assert_array_equal(nms(boxes, scores, labels, iou=limit, per_class=per_class, most=most), expected[:most])


def test_of_equal_scores_the_earlier_box_remains() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    assert nms(boxes, np.array([0.5, 0.5, 0.5, 0.9]), np.zeros(4), iou=0.5).tolist() == [3, 0]
    assert nms(boxes, np.array([0.5, 0.5, 0.5, 0.9]), np.array([0, 0, 1, 0]), iou=0.5).tolist() == [3, 0, 2]
    # An overlap of exactly the limit remains.
    assert nms(np.array([[0, 0, 10, 10], [0, 0, 10, 5]]), np.array([0.9, 0.8]), np.zeros(2), iou=0.5).tolist() == [0, 1]
    with pytest.raises(ParameterError, match=r"4 boxes have scores of shape \(4,\); got \(3,\)"):
        nms(boxes, np.zeros(3), np.zeros(4))


def test_detections_are_joined_taken_and_cut() -> None:
    found = random_case(7)[0]
    parts = [found.take(np.array([image])) for image in range(len(found))]
    again = Detections.joined((part.boxes, part.scores, part.labels) for part in parts)
    for name in ("boxes", "scores", "labels", "starts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    twice = found.take(np.array([2, 0, 2]))
    assert np.diff(twice.starts).tolist() == np.diff(found.starts)[[2, 0, 2]].tolist()
    np.testing.assert_array_equal(twice.boxes[: len(parts[2].boxes)], parts[2].boxes)
    sure = found.at_least(0.5)
    np.testing.assert_array_equal(sure.images, found.images[found.scores >= 0.5])
    assert len(Detections.joined([])) == 0
    for starts in ([0, 3], [1, 2], [0, 2, 1, 2], []):
        with pytest.raises(ParameterError, match="starts lead from 0 up to the number of boxes, 2"):
            Detections(np.zeros((2, 4), np.float32), np.zeros(2), np.zeros(2, np.int64), np.array(starts))
    with pytest.raises(ParameterError, match=r"boxes have the shape \(m, 4\)"):
        Detections(np.zeros((2, 5), np.float32), np.zeros(2), np.zeros(2, np.int64), np.array([0, 2]))


def _shifted(x: float, y: float = 0, side: float = 10) -> list[float]:
    return [x, y, x + side, y + side]


def test_each_kind_of_mistake() -> None:
    true = [_shifted(0), _shifted(100), _shifted(200), _shifted(300), [400, 0, 440, 40]]
    truth = Truth.joined([
        (np.array(true), np.array([0, 1, 0, 1, 1]), np.array([0, 0, 0, 0, 1])),
        (np.zeros((0, 4)), np.zeros(0), np.zeros(0)),
    ])  # fmt: skip
    found = [
        (_shifted(1), 0.9, 0, Kind.RIGHT), (_shifted(101), 0.9, 0, Kind.WRONG_CLASS), (_shifted(207), 0.9, 0, Kind.MISPLACED),
        (_shifted(307), 0.9, 0, Kind.ALONE), (_shifted(3), 0.9, 0, Kind.ALONE), (_shifted(410), 0.9, 1, Kind.PASSED),
        (_shifted(420), 0.9, 0, Kind.ALONE), (_shifted(300), 0.4, 1, Kind.PASSED),
    ]  # fmt: skip
    kinds = [row[3] for row in found]
    detections = Detections.joined([tuple(zip(*(row[:3] for row in found), strict=True)), ([_shifted(0)], [0.5], [1])])
    mistakes = find_mistakes(detections, truth, threshold=0.5)
    assert mistakes.found.tolist() == [*kinds, Kind.ALONE]
    assert mistakes.true.tolist() == [Kind.RIGHT, Kind.WRONG_CLASS, Kind.MISPLACED, Kind.ALONE, Kind.PASSED]
    assert mistakes.partner.tolist() == [0, 1, 2, *[-1] * 6]
    assert mistakes.confusion(2).tolist() == [[1, 0, 1], [1, 0, 1], [4, 1, 0]]
    counts = mistakes.by_image()
    assert (counts.true.tolist(), counts.found.tolist()) == ([4, 0], [6, 1])
    assert (counts.missed.tolist(), counts.invented.tolist()) == ([1, 0], [3, 1])
    assert (counts.wrong_class.tolist(), counts.misplaced.tolist(), counts.right.tolist()) == ([1, 0], [1, 0], [1, 0])
    assert counts.worst_first().tolist() == [0, 1]


def test_the_pair_that_overlaps_most_goes_first() -> None:
    truth = Truth.joined([(np.array([_shifted(0), _shifted(4)]), np.array([0, 0]), np.zeros(2))])
    one = Detections.joined([([_shifted(2), _shifted(3)], [0.9, 0.6], [0, 0])])
    # The second overlaps the true box on the right by 9/11, and leaves the one on the left to the first, which overlaps both alike.
    assert find_mistakes(one, truth, threshold=0).partner.tolist() == [0, 1]
    # Equally close: the right class first, then the surer one.
    other = Detections.joined([([_shifted(0)] * 3, [0.9, 0.6, 0.7], [1, 0, 0])])
    assert find_mistakes(other, truth, threshold=0).found.tolist() == [Kind.ALONE, Kind.MISPLACED, Kind.RIGHT]


def test_counts_add_up_and_the_worst_image_is_first() -> None:
    for seed in range(20):
        found, truth, classes = random_case(seed) if seed else large_case(30, classes=3)
        mistakes = find_mistakes(found, truth, threshold=0.5)
        counts, confusion = mistakes.by_image(), mistakes.confusion(classes)
        np.testing.assert_array_equal(counts.true, counts.right + counts.wrong_class + counts.misplaced + counts.missed)
        np.testing.assert_array_equal(counts.found, counts.right + counts.wrong_class + counts.misplaced + counts.invented)
        np.testing.assert_array_equal(confusion[:-1].sum(axis=1), np.bincount(truth.labels[~truth.crowd], minlength=classes))
        assert confusion[:, :-1].sum() == counts.found.sum()
        assert confusion[:-1, :-1].trace() == counts.right.sum()
        assert (np.diff(counts.wrong[counts.worst_first()]) <= 0).all()
        paired = np.flatnonzero(mistakes.partner >= 0)
        overlaps = np.array([iou(found.boxes[[row]], truth.boxes[[mistakes.partner[row]]])[0, 0] for row in paired])
        assert (overlaps >= np.where(mistakes.found[paired] == Kind.MISPLACED, 0.1, 0.5)).all()
        assert len(np.unique(mistakes.partner[paired])) == len(paired)
