"""Interpolation, run lengths, outlines and pictures of class maps, against other programs, closed forms and drawings."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from scipy import ndimage

from headstart.errors import DataError, ParameterError
from headstart.pixels import interpolation
from headstart.pixels.interpolation import class_map, class_strips, resized, upsampled
from headstart.pixels.outlines import outlines, regions, signed_area
from headstart.pixels.pictures import VOID, heat_png, indexed_png, overlay, palette
from headstart.pixels.runs import class_run_lengths, counts_of, decoded, encoded, filled, run_lengths, text_of

SIDES = st.integers(1, 12)
MASKS = st.tuples(SIDES, SIDES).flatmap(lambda size: arrays(np.bool_, size))


def test_interpolation_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    for size, to in (((5, 7), (31, 44)), ((64, 64), (180, 240)), ((1, 3), (9, 2)), ((300, 300), (701, 650))):
        maps = generator.normal(size=(3, *size)).astype(np.float32)
        expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], to, mode="bilinear", align_corners=False)[0].numpy()
        np.testing.assert_allclose(resized(maps, to), expected, atol=5e-4)
        np.testing.assert_allclose(resized(maps[0], to), expected[0], atol=5e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 19])
@pytest.mark.parametrize("at_once", [300, 2_000_000])
def test_class_maps_are_those_of_interpolated_logits(count: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpolation, "_AT_ONCE", at_once)
    generator = np.random.default_rng(count)
    smooth = ndimage.gaussian_filter(generator.normal(size=(count, 24, 20)), (0, 2, 2)).astype(np.float32) * 20
    for size in ((97, 113), (24, 20), (11, 9)):
        whole = resized(smooth, size)
        chances = np.exp(whole - whole.max(axis=0)) / np.exp(whole - whole.max(axis=0)).sum(axis=0)
        classes, confidence = upsampled(smooth, size)
        clear = chances.max(axis=0) - np.sort(chances, axis=0)[-2] > 1e-5 if count > 1 else np.ones(size, bool)
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(classes[clear], whole.argmax(axis=0)[clear])
        np.testing.assert_allclose(confidence, chances.max(axis=0), atol=2e-6)
        np.testing.assert_array_equal(class_map(smooth, size)[clear], classes[clear])


def test_of_equal_logits_the_earlier_class_is_taken() -> None:
    for count in (2, 3):
        assert not class_map(np.zeros((count, 2, 2), np.float32), (5, 5)).any()


@pytest.mark.parametrize("shape", [(0, 4, 4), (256, 4, 4), (4, 4), (2, 0, 4)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match="with 1 to 255 classes; got"):
        list(class_strips(np.zeros(shape, np.float32), (8, 8)))


def test_a_map_of_no_height_is_refused() -> None:
    with pytest.raises(ParameterError, match="lengths of 1 and more"):
        resized(np.zeros((1, 3, 3), np.float32), (0, 5))


@given(mask=MASKS)
def test_run_lengths_and_their_text_come_back(mask: np.ndarray) -> None:
    found = encoded(mask)
    assert found["size"] == list(mask.shape)
    np.testing.assert_array_equal(decoded(found), mask)
    np.testing.assert_array_equal(decoded({"size": mask.shape, "counts": run_lengths(mask).tolist()}), mask)


@given(counts=st.lists(st.integers(0, 2**40), min_size=1, max_size=30))
def test_texts_of_large_numbers_come_back(counts: list[int]) -> None:
    assert counts_of(text_of(counts)).tolist() == counts


def _text_by_hand(counts: list[int]) -> str:
    """As the description says it, number by number."""
    found = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            found += chr(48 + digit + 32 * more)
            if not more:
                break
    return found


@given(counts=st.lists(st.integers(0, 3000), min_size=1, max_size=30))
def test_texts_are_those_of_the_description(counts: list[int]) -> None:
    assert text_of(counts) == _text_by_hand(counts)


def test_known_texts() -> None:
    """Worked out by hand: 6, 1, 40, 1 - 1 and 16 - 40: 54 '6', 49 '1', 40 = 8 + 32 with more: 'X1', '0',
    -24 = 8 - 32 with more: 'XO'."""
    assert text_of([6, 1, 40, 1, 16]) == "61X10XO"
    assert counts_of("61X10XO").tolist() == [6, 1, 40, 1, 16]
    assert run_lengths(np.array([[0, 1], [0, 1], [1, 0]])).tolist() == [2, 3, 1]  # column by column
    assert run_lengths(np.ones((2, 2))).tolist() == [0, 4]


@given(classes=st.tuples(SIDES, SIDES).flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 4))))
def test_run_lengths_of_all_classes_are_those_of_each(classes: np.ndarray) -> None:
    found = class_run_lengths(classes, 5)
    for index, counts in enumerate(found):
        assert counts.tolist() == run_lengths(classes == index).tolist()


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        ({"counts": "61"}, "must have 'size'"),
        ({"size": [2, 2]}, "'counts'"),
        ({"size": [2, 2], "counts": "~~"}, "is damaged"),
        ({"size": [2, 2], "counts": "P"}, "is damaged"),
        ({"size": [2, 2], "counts": "o" * 20 + "1"}, "over 60 bits"),
        ({"size": [2, 2], "counts": "61"}, "add up to 7"),
        ({"size": [2, 2], "counts": [-1, 5]}, "0 and more"),
        ({"size": [-2, -2], "counts": [4]}, "got -2 x -2"),
        ({"size": ["a", 2], "counts": [4]}, "damaged"),
    ],
)
def test_damaged_run_lengths_are_refused(damaged: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        decoded(damaged)


def test_filled_refuses_what_does_not_add_up() -> None:
    with pytest.raises(DataError, match="add up to 6"):
        filled([1, 2], (2, 3))


def _drawn(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres are inside an odd number of rings, by a scan line at ten times the resolution."""
    found = np.zeros(size, bool)
    for ring in rings:
        picture = Image.new("1", (size[1] * 10, size[0] * 10))
        ImageDraw.Draw(picture).polygon([(10 * x, 10 * y) for x, y in ring.tolist()], fill=1)
        found ^= np.asarray(picture)[5::10, 5::10]
    return found


@given(mask=MASKS)
def test_outlines_hold_exactly_the_pixels(mask: np.ndarray) -> None:
    rings = outlines(mask)
    np.testing.assert_array_equal(_drawn(rings, mask.shape), mask)
    assert sum(map(signed_area, rings)) == mask.sum()
    for ring in rings:
        steps = np.abs(np.roll(ring, -1, axis=0) - ring)
        assert ((steps > 0).sum(axis=1) == 1).all()  # each edge is along one axis, and each corner turns
        assert ((steps[:, 0] > 0) != (np.roll(steps, 1, axis=0)[:, 0] > 0)).all()


@given(mask=MASKS)
def test_regions_are_those_of_scipy(mask: np.ndarray) -> None:
    labels, count = ndimage.label(mask)
    found = regions(mask)
    assert sorted(region.area for region in found) == sorted(np.bincount(labels.ravel())[1:].tolist())
    assert len(found) == count
    boxes = [(s[1].start, s[0].start, s[1].stop - s[1].start, s[0].stop - s[0].start) for s in ndimage.find_objects(labels)]
    assert sorted(region.box for region in found) == sorted(boxes)
    for region in found:
        inside = _drawn([region.outline, *region.holes], mask.shape)
        assert inside.sum() == region.area
        assert len(set(labels[inside].tolist())) == 1
        assert signed_area(region.outline) > 0 > max([signed_area(hole) for hole in region.holes], default=-1)


def test_a_ring_within_a_ring() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    large, small = regions(mask)
    assert (large.area, small.area) == (24, 1)
    assert large.outline.tolist() == [[1, 1], [8, 1], [8, 8], [1, 8]]
    assert len(large.holes) == 1
    assert not small.holes


def test_the_palette_has_distinct_colours() -> None:
    colours = palette()
    assert colours.shape == (256, 3)
    assert len({tuple(colour) for colour in colours.tolist()}) == 256
    assert colours[0].tolist() == [0, 0, 0]
    first = colours[:9].astype(float)
    apart = np.linalg.norm(first[:, None] - first[None], axis=2)[~np.eye(9, dtype=bool)]
    assert apart.min() > 60


def test_an_indexed_png_holds_the_classes_and_their_colours() -> None:
    classes = np.array([[0, 1, 7], [254, VOID, 2]], np.uint8)
    picture = Image.open(io.BytesIO(indexed_png(classes)))
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), classes)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), palette()[classes])
    opacity = np.full(256, 255, np.uint8)
    opacity[7] = 10
    clear = Image.open(io.BytesIO(indexed_png(classes, opacity=opacity)))
    assert np.asarray(clear.convert("RGBA"))[..., 3].tolist() == [[255, 255, 10], [255, 255, 255]]


def test_an_overlay_mixes_colours_and_leaves_what_is_clear() -> None:
    picture = np.full((600, 2, 3), 100, np.uint8)
    classes = np.zeros((600, 2), np.uint8)
    classes[300:, 0], classes[:300, 1] = 1, VOID
    found = overlay(picture, classes, opacity=0.25, clear=0)
    assert (found[:, 1] == 100).all()
    assert (found[:300, 0] == 100).all()
    assert found[300:, 0].tolist() == [np.floor(75.5 + 0.25 * palette()[1]).astype(int).tolist()] * 300
    assert overlay(picture, classes, opacity=1.0)[0, 0].tolist() == [0, 0, 0]


def test_heat_grows_brighter() -> None:
    picture = Image.open(io.BytesIO(heat_png(np.linspace(-1, 3, 50)[None], low=0, high=2)))
    light = np.asarray(picture.convert("RGBA").convert("RGB").convert("L"))[0].astype(int)
    assert (np.diff(light) >= -1).all()
    assert light[0] < 10
    assert light[-1] > 230
    opacity = np.asarray(picture.convert("RGBA"))[0, :, 3]
    assert opacity[0] == 0
    assert opacity[-1] == 255
