"""Boxes as targets: what is stored and listed of them is the same again; overlaps and turns against pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data import Boxes, boxes_of
from headstart.errors import DataError
from headstart.metrics.boxes import areas, iou
from headstart.modalities.image.rgb import turned
from headstart.pixels.boxes import turned_boxes

CLASSES = ("cat", "dog", "Über-Hund")
SIDES = st.floats(-10, 5000, width=32)
IMAGES = st.lists(
    st.tuples(
        st.integers(1, 5000), st.integers(1, 5000),
        st.lists(st.tuples(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2), st.booleans()), max_size=5),
    ),
    max_size=6,
)  # fmt: skip


def made(images: list[tuple[int, int, list[tuple[float, float, float, float, int, bool]]]], **further: object) -> Boxes:
    rows = [box for _, _, boxes in images for box in boxes]
    return Boxes(
        classes=CLASSES,
        boxes=np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        labels=np.array([row[4] for row in rows], np.int64),
        crowd=np.array([row[5] for row in rows], np.bool_),
        starts=np.concatenate([[0], np.cumsum([len(boxes) for _, _, boxes in images])]).astype(np.int64),
        sizes=np.array([image[:2] for image in images], np.int64).reshape(-1, 2),
        ids=(3, 7, 9),
        **further,  # type: ignore[arg-type]
    )


def assert_same(one: Boxes, other: Boxes) -> None:
    assert (one.classes, one.ids) == (other.classes, other.ids)
    for name in ("boxes", "labels", "crowd", "starts", "sizes"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second, err_msg=name)


@settings(deadline=None)
@given(IMAGES, st.randoms(use_true_random=False))
def test_the_stored_array_and_any_of_its_rows_are_the_same_boxes(images: list, random: object) -> None:
    boxes = made(images)
    assert_same(boxes_of(boxes.array, CLASSES, (3, 7, 9)), boxes)
    rows = np.array(random.choices(range(len(images)), k=4) if images else [], np.int64)  # type: ignore[attr-defined]
    taken = boxes.take(rows)
    assert_same(boxes_of(boxes.array[rows], CLASSES, (3, 7, 9)), taken)
    for place, row in enumerate(rows):
        for one, other in zip(taken.of(place), boxes.of(row), strict=True):
            np.testing.assert_array_equal(one, other)
        assert taken.names(place) == boxes.names(row)


@settings(deadline=None)
@given(IMAGES)
def test_the_cells_hold_every_bit(images: list) -> None:
    boxes = made(images)
    for row in range(len(boxes)):
        listed = json.loads(boxes.cells(row)["boxes"])
        found, labels, crowd = boxes.of(row)
        assert [one["label"] for one in listed] == [CLASSES[label] for label in labels]
        assert [one.get("crowd", False) for one in listed] == crowd.tolist()
        np.testing.assert_array_equal(np.array([one["box"] for one in listed], np.float32).reshape(-1, 4), found)


def test_crowds_are_counted_nowhere() -> None:
    boxes = made(
        [(9, 9, [(0, 0, 5, 5, 0, True), (0, 0, 5, 5, 1, False), (1, 1, 2, 2, 1, False)]), (9, 9, []), (9, 9, [(0, 0, 1, 1, 2, True)])]
    )
    assert boxes.counts() == {"cat": 0, "dog": 1, "Über-Hund": 0}
    assert boxes.objects() == {"cat": 0, "dog": 2, "Über-Hund": 0}
    np.testing.assert_array_equal(boxes.strata, [[False, True, False], [False] * 3, [False] * 3])
    assert [boxes.names(row) for row in range(3)] == [("dog",), (), ()]


def test_boxes_agree_whatever_their_order_and_the_scale_of_the_image() -> None:
    first = [(10, 10, 50, 50, 0, False), (60, 10, 90, 50, 1, False)]
    moved = [(10.4, 10, 50, 50, 0, False), (60, 10, 90, 50, 1, False)]
    doubled = [(120, 20, 180, 100, 1, False), (20, 20, 100, 100, 0, False)]
    swapped = [(10, 10, 50, 50, 1, False), (60, 10, 90, 50, 0, False)]
    twice = [(10, 10, 50, 50, 0, False), (10, 10, 50, 50, 0, False)]
    two = [(10, 10, 50, 50, 0, False), (60, 10, 90, 50, 0, False)]
    boxes = made([(100, 100, first), (100, 100, moved), (200, 200, doubled), (100, 100, swapped), (100, 100, twice), (100, 100, two)])
    assert boxes.agree([0, 1, 2])
    assert not boxes.agree([0, 3])
    assert not boxes.agree([4, 5])
    assert not boxes.agree([5, 4])


def test_files_follow_their_images() -> None:
    boxes = made([(9, 9, []), (9, 9, [(0, 0, 1, 1, 0, False)])], files=("a.xml", "b.xml"))
    assert boxes.take(np.array([1, 1])).files == ("b.xml", "b.xml")
    assert boxes_of(boxes.array, CLASSES).ids == (1, 2, 3)


@pytest.mark.parametrize(
    ("array", "ids", "words"),
    [
        (np.zeros((2, 6)), (), "must have the shape"),
        (np.zeros((2, 3, 5)), (), "must have the shape"),
        (np.zeros((1, 2, 6)), (1, 2), "as many category numbers"),
        (np.full((1, 2, 6), 2.0), (), "from 0 to 1 are needed"),
        (np.array([[[1, 9, 9, 0, 0, 0], [0, 0, 5, 5, 3, 0]]], float), (), "have labels from 3 to 3"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, ids: tuple[int, ...], words: str) -> None:
    with pytest.raises(DataError, match=words):
        boxes_of(array, CLASSES, ids)


def test_overlaps_are_those_of_pixels() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (2, 20, 2, 2))
    first, second = (np.concatenate([np.minimum(c[:, 0], c[:, 1]), np.maximum(c[:, 0], c[:, 1])], axis=1) for c in corners)

    def drawn(box: np.ndarray) -> np.ndarray:
        image = np.zeros((12, 12), np.bool_)
        image[box[1] : box[3], box[0] : box[2]] = True
        return image

    inside = iou(first, second, np.ones(len(second), np.bool_))  # in a crowd it is the share of the first alone
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            both, either = (drawn(one) & drawn(other)).sum(), (drawn(one) | drawn(other)).sum()
            assert inside[i, j] * areas(first)[i] == pytest.approx(both)
            assert iou(first, second)[i, j] == pytest.approx(both / max(either, 1))
        assert areas(first)[i] == drawn(one).sum()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_like_pixels(orientation: int) -> None:
    stored = np.zeros((7, 11, 1), np.uint8)
    stored[1:4, 3:9] = 1
    upright = turned(stored, orientation)[:, :, 0]
    ((left, top, right, bottom),) = turned_boxes(np.array([[3, 1, 9, 4]]), orientation, upright.shape).astype(int)
    again = np.zeros_like(upright)
    again[top:bottom, left:right] = 1
    np.testing.assert_array_equal(again, upright)
