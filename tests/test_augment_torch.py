"""Views that torch computes, and mixing, against independent references: scipy, and the formulas of the papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

import forked
from augmented import ALL, numbers, smooth, views_of_stored
from headstart.modalities.image.augment import Augmentation, Mixing
from headstart.modalities.image.warp import View, one_thread, render

pytest.importorskip("timm", reason="needs headstart[torch]")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.stack([smooth(seed=seed) for seed in range(7)])


def reference(image: np.ndarray, view: View, size: int) -> np.ndarray:
    """The same picture by way of scipy: float64 (size, size, 3). Written from the meaning of each change, in pixels, step by step."""
    height, width = image.shape[:2]
    out = np.empty((size, size, 3))
    # From a pixel of the view to a point (y, x) of the image; each step undoes one change, the last one first.
    y, x = np.indices((size, size)) + 0.5
    y, x = y / size, x / size
    if view.upside_down:
        y = 1 - y
    if view.mirrored:
        x = 1 - x
    top, left, bottom, right = view.crop
    y, x = top + y * (bottom - top) - view.shift[0], left + x * (right - left) - view.shift[1]
    y, x = (y - 0.5) * height, (x - 0.5) * width
    angle = np.deg2rad(view.rotation)
    # Counter-clockwise on the screen, where y points down; so the point is turned clockwise.
    y, x = np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y
    x = x - np.tan(np.deg2rad(view.shear)) * y
    y, x = y / view.zoom[0] + height / 2 - 0.5, x / view.zoom[1] + width / 2 - 0.5
    for channel in range(3):
        ndimage.map_coordinates(image[..., channel].astype(np.float64), [y, x], out[..., channel], order=1, mode="nearest")
    return out


@pytest.mark.parametrize(
    "view",
    [
        View(rotation=25), View(shear=20), View(zoom=(0.7, 1.4)), View(shift=(0.2, -0.3)), View(rotation=-170, mirrored=True),
        View(zoom=(1.2, 0.8), shear=-10, rotation=40, shift=(-0.1, 0.15), crop=(0.1, 0.3, 0.8, 0.9), upside_down=True, mirrored=True),
    ],
    ids=["rotation", "shear", "zoom", "shift", "turned far", "all"],
)  # fmt: skip
@pytest.mark.parametrize(("shape", "size"), [((96, 96), 96), ((96, 96), 80), ((60, 90), 64)])
def test_geometry_against_scipy(view: View, shape: tuple[int, int], size: int) -> None:
    image = np.ascontiguousarray(smooth(96)[: shape[0], : shape[1]])
    np.testing.assert_allclose(render(image, view, size=size), reference(image, view, size), atol=0.51)


def test_zoom_and_rotation_against_scipys_own_affine_transform() -> None:
    image, angle = smooth(96), np.deg2rad(12)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / 1.1  # of (y, x)
    centre = np.array([47.5, 47.5])
    found = render(image, View(rotation=12, zoom=(1.1, 1.1)), size=96)
    for channel in range(3):
        expected = ndimage.affine_transform(image[..., channel].astype(float), matrix, centre - matrix @ centre, order=1, mode="nearest")
        np.testing.assert_allclose(found[..., channel], expected, atol=0.51)


def test_a_right_angle_is_exact() -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(render(noise, View(rotation=90), size=64), np.rot90(noise))
    np.testing.assert_array_equal(render(noise, View(rotation=-90), size=64), np.rot90(noise, -1))
    np.testing.assert_array_equal(render(noise, View(rotation=180), size=64), noise[::-1, ::-1])


def test_a_shift_by_whole_pixels_repeats_the_edge() -> None:
    noise = np.random.default_rng(0).integers(256, size=(50, 50, 3), dtype=np.uint8)
    moved = render(noise, View(shift=(0.1, -0.2)), size=50)
    np.testing.assert_array_equal(moved[5:, :40], noise[:45, 10:])
    np.testing.assert_array_equal(moved[:5, :40], np.broadcast_to(noise[:1, 10:], (5, 40, 3)))
    np.testing.assert_array_equal(moved[5:, 40:], np.broadcast_to(noise[:45, -1:], (45, 10, 3)))


def test_both_ways_of_cropping_agree() -> None:
    image, crop = smooth(96), (0.1, 0.2, 0.7, 0.9)
    plain = render(image, View(crop=crop), size=80).astype(int)
    sampled = render(image, View(crop=crop, rotation=1e-9), size=80).astype(int)
    inner = np.s_[2:-2, 2:-2]  # at the border Pillow takes the edge of the crop, the other the pixels beyond it
    assert np.abs(plain - sampled)[inner].max() <= 1


def test_colours_against_their_formulas() -> None:
    image = smooth(48)
    values = image.astype(np.float64)
    luma = values @ [0.2989, 0.587, 0.114]
    expected = {
        View(brightness=1.3): values * 1.3,
        View(contrast=0.6): 0.6 * values + 0.4 * luma.mean(),
        View(saturation=1.5): 1.5 * values - 0.5 * luma[..., None],
        View(gray=True): np.repeat(luma[..., None], 3, axis=2),
    }
    for view, result in expected.items():
        np.testing.assert_allclose(render(image, view, size=48), np.clip(result, 0, 255), atol=1.6, err_msg=str(view))


def test_a_third_of_the_colour_circle_exchanges_the_channels() -> None:
    image = smooth(48)
    found = render(image, View(hue=1 / 3), size=48).astype(int)
    assert np.abs(found - image[..., [2, 0, 1]]).max() <= 3


def test_erased_parts() -> None:
    images = np.full((60, 80, 80, 3), 77, dtype=np.uint8)
    views = Augmentation(erase=1).views(images, size=80, keys=np.arange(60), seed=0, view=0)
    noise = []
    for view in views:
        rows, columns = np.nonzero((view != 77).any(axis=2))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert 0.02 - 0.01 <= height * width / 6400 <= 0.2 + 0.01  # in whole pixels
        assert 0.25 <= height / width <= 4
        inside = view[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (inside == 77).mean() < 0.03
        noise.append(inside.ravel())
    mean, deviation = np.concatenate(noise).mean(), np.concatenate(noise).std()
    assert abs(mean - 127.5) < 1
    assert abs(deviation - math.sqrt((256**2 - 1) / 12)) < 1
    unchanged = Augmentation(erase=0.25).views(np.repeat(images, 10, axis=0), size=80, keys=np.arange(600), seed=1, view=0)
    assert stats.binomtest(int((unchanged != 77).any(axis=(1, 2, 3)).sum()), 600, 0.25).pvalue > 1e-3


def test_a_view_depends_on_seed_number_and_key_alone(pixels: np.ndarray) -> None:
    keys = numbers(pixels)
    whole = ALL.views(pixels, size=64, keys=keys, seed=4, view=2)
    order = np.random.default_rng(0).permutation(len(pixels))
    shuffled = ALL.views(pixels[order], size=64, keys=keys[order], seed=4, view=2)
    np.testing.assert_array_equal(shuffled, whole[order])
    parts = [ALL.views(pixels[part], size=64, keys=keys[part], seed=4, view=2) for part in (np.s_[:1], np.s_[1:5], np.s_[5:5], np.s_[5:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)

    def one(index: int) -> np.ndarray:
        part = np.s_[index : index + 1]
        return ALL.views(pixels[part], size=64, keys=keys[part], seed=4, view=2)[0]

    np.random.seed(0)  # noqa: NPY002 - the global generators must not matter
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(np.stack(list(pool.map(one, [*range(7)] * 6))), np.concatenate([whole] * 6))
    for other in ({"seed": 5}, {"view": 3}, {"keys": keys + 1}):
        changed = ALL.views(pixels, **({"size": 64, "keys": keys, "seed": 4, "view": 2} | other))
        assert (changed != whole).any(axis=(1, 2, 3)).all(), other


@pytest.mark.slow
def test_a_view_is_the_same_in_another_process(pixels: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", pixels)
    forked.called(views_of_stored, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "views.npy"), ALL.views(pixels, size=64, keys=numbers(pixels), seed=4, view=2))


def test_one_thread_limits_the_calling_thread_only() -> None:
    import torch

    def limited() -> int:
        with one_thread():
            return int(torch.get_num_threads())

    def in_a_new_thread(function: Callable[[], int]) -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function).result()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert in_a_new_thread(limited) == 1
        with one_thread():
            assert torch.get_num_threads() == 1
            assert in_a_new_thread(torch.get_num_threads) == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_mixup_is_the_weighted_mean() -> None:
    import torch

    own, targets = torch.rand(5, 3, 8, 9), torch.eye(5)
    mixing = Augmentation(mixup=1).mix(seed=0, step=3, count=5)
    assert mixing is not None
    partners = torch.from_numpy(mixing.partners)
    torch.testing.assert_close(mixing.images(own, own[partners]), mixing.share * own + (1 - mixing.share) * own[partners])
    expected = mixing.share * np.eye(5) + (1 - mixing.share) * np.eye(5)[mixing.partners]
    np.testing.assert_allclose(mixing.targets(targets, targets[partners]).numpy(), expected, rtol=1e-6)
    whole = (own * 255).to(torch.uint8)
    mixed = mixing.images(whole, whole[partners])
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, mixing.share * whole.float() + (1 - mixing.share) * whole[partners].float())


def test_cutmix_copies_the_box() -> None:
    import torch

    own, other = torch.rand(2, 3, 20, 40), torch.rand(2, 3, 20, 40)
    expected = own.clone()
    expected[:, :, 5:15, 4:20] = other[:, :, 5:15, 4:20]
    mixing = Mixing(np.array([1, 0]), 1 - 0.5 * 0.4, (0.25, 0.1, 0.75, 0.5))
    torch.testing.assert_close(mixing.images(own, other), expected)
    assert mixing.images(own.bfloat16(), other.bfloat16()).dtype == torch.bfloat16


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None)
def test_the_share_of_the_target_is_that_of_the_pixels(step: int, height: int, width: int) -> None:
    import torch

    mixing = Augmentation(cutmix=1).mix(seed=0, step=step, count=2)
    assert mixing is not None
    kept = mixing.images(torch.ones(1, 1, height, width, dtype=torch.float64), torch.zeros(1, 1, height, width, dtype=torch.float64))
    assert float(kept.mean()) == pytest.approx(mixing.share, abs=1e-9)
