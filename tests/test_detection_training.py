"""Which position is to give which box, boxes in views, and the loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from headstart.backbones.stage_maps import MapLayer  # noqa: E402
from headstart.modalities.image.augment import Augmentation  # noqa: E402
from headstart.modalities.image.warp import View, one_thread, render  # noqa: E402
from headstart.training.box_targets import IGNORED, NOTHING, Positions, boxes_in  # noqa: E402
from headstart.training.boxes import BoxLoss, iou_of_pairs  # noqa: E402

LAYERS = (MapLayer("fine", 1, 40, 40), MapLayer("middle", 1, 20, 20), MapLayer("coarse", 1, 10, 10))
NEVER = np.zeros(8, np.bool_)


def assigned(boxes: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    labels = np.arange(len(boxes), dtype=np.int64)
    return Positions.of(LAYERS).assign(boxes.astype(np.float32), labels, NEVER[: len(boxes)] if crowd is None else crowd)


def test_large_boxes_are_for_coarse_maps_and_only_near_their_middle() -> None:
    small, large = [0.1, 0.1, 0.225, 0.225], [0.3, 0.3, 0.95, 0.95]
    found = assigned(np.array([small, large]))
    fine, middle, coarse = np.split(found, [1600, 2000])
    assert set(fine[:, 0]) == {NOTHING, 0}
    assert set(middle[:, 0]) <= {NOTHING, 1}
    assert set(coarse[:, 0]) == {NOTHING, 1}
    places = Positions.of(LAYERS).centres[found[:, 0] == 0]
    assert len(places) == 9  # 1.5 strides around the middle
    np.testing.assert_allclose(places.mean(axis=0), [0.1625, 0.1625], atol=0.001)
    np.testing.assert_allclose(found[found[:, 0] == 1, 1:], np.tile(np.float32(large), ((found[:, 0] == 1).sum(), 1)))


def test_of_two_boxes_the_smaller_one_is_given() -> None:
    found = assigned(np.array([[0.4, 0.4, 0.6, 0.6], [0.45, 0.45, 0.55, 0.55]]))
    centre = np.abs(Positions.of(LAYERS).centres - 0.5).max(axis=1) < 0.03
    assert set(found[:1600][centre[:1600], 0]) == {1}


@given(st.integers(0, 10_000))
def test_every_box_is_given_by_one_position_at_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner, sides = rng.uniform(0, 0.95, (5, 2)), rng.uniform(0.001, 1, (5, 2)) ** 2
    boxes = np.concatenate([corner, np.minimum(corner + sides, 1)], axis=1)
    alone = boxes[:1]
    assert 0 in assigned(alone)[:, 0]
    found = assigned(boxes)
    given_ = found[:, 0] >= 0
    np.testing.assert_allclose(found[given_, 1:], boxes[found[given_, 0].astype(int)], rtol=1e-6)


def test_crowds_are_neither_learned_nor_wrong() -> None:
    found = assigned(np.array([[0.0, 0.0, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2]]), np.array([True, False]))
    inside = (Positions.of(LAYERS).centres < 0.5).all(axis=1)
    assert set(found[inside, 0]) == {IGNORED, 1}
    assert set(found[~inside, 0]) == {NOTHING}
    assert set(assigned(np.zeros((0, 4)))[:, 0]) == {NOTHING}


@given(st.integers(0, 10_000))
def test_a_box_goes_where_its_pixels_go(seed: int) -> None:
    """A bright rectangle, drawn and then seen in a view, fills the box that is computed for the view."""
    rng = np.random.default_rng(seed)
    view = Augmentation(flip=0.5, vertical_flip=0.3, crop=0.4, zoom=0.2, shift=0.1).view(key=seed, seed=1, view=2)
    left, top = rng.uniform(0.05, 0.5, 2)
    box = np.array([[left, top, left + rng.uniform(0.2, 0.4), top + rng.uniform(0.2, 0.4)]], np.float32)
    pixels, side = np.zeros((200, 200, 3), np.uint8), 160
    edges = (box[0] * 200).round().astype(int)
    pixels[edges[1] : edges[3], edges[0] : edges[2]] = 255
    with one_thread():
        seen = render(pixels, view, size=side)[..., 0] > 127
    (moved,), (enough,) = boxes_in(view, (edges[None] / 200).astype(np.float32))
    if not enough or min(moved[2] - moved[0], moved[3] - moved[1]) < 0.05:
        return
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    np.testing.assert_allclose(moved * side, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=2.5)


def test_boxes_that_have_left_the_view_are_told() -> None:
    boxes = np.array([[0.0, 0.0, 0.4, 0.4], [0.45, 0.45, 0.9, 0.9]], np.float32)
    moved, seen = boxes_in(View(crop=(0.4, 0.4, 1.0, 1.0)), boxes)
    assert seen.tolist() == [False, True]
    np.testing.assert_allclose(moved[1], (boxes[1] - 0.4) / 0.6, atol=1e-6)


def test_overlaps_are_those_of_torchvision() -> None:
    ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1, (2, 50, 2))
    one, other = (torch.from_numpy(np.concatenate([low, low + rng.uniform(0.05, 0.5, (50, 2))], axis=1)) for low in corner)
    overlap, generalised = iou_of_pairs(one, other)
    np.testing.assert_allclose(overlap, ops.box_iou(one, other).diagonal(), atol=1e-6)
    np.testing.assert_allclose(generalised, ops.generalized_box_iou(one, other).diagonal(), atol=1e-6)


def test_the_loss_is_nothing_where_all_is_right_and_crowds_cost_nothing() -> None:
    targets = torch.from_numpy(assigned(np.array([[0.3, 0.3, 0.6, 0.6]])))[None]
    right = torch.zeros(1, targets.shape[1], 5)
    right[..., 0] = torch.where(targets[..., 0] >= 0, 30.0, -30.0)
    right[..., 1:] = targets[..., 1:]
    loss = BoxLoss()
    assert float(loss(right, targets)) == pytest.approx(0, abs=1e-4)
    assert float(loss.weights(targets)) == int((targets[..., 0] >= 0).sum()) > 8
    wrong = right.clone()
    wrong[..., 1:] += 0.05
    assert float(loss(wrong, targets)) > 1
    noisy, ignored = right.clone(), targets.clone()
    place = int((targets[0, :, 0] == NOTHING).nonzero()[0])
    noisy[0, place, 0] = 5.0
    assert float(loss(noisy, targets)) > 1
    ignored[0, place, 0] = IGNORED
    assert float(loss(noisy, ignored)) == pytest.approx(0, abs=1e-4)
