"""Augmentation: what can be asked for, what is drawn, and the views that need no torch."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from augmented import ALL, numbers, smooth
from headstart.errors import ImageError, MissingExtraError, ParameterError
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.augment import LIGHT, NONE, STANDARD, Augmentation
from headstart.modalities.image.augment_sheet import describe, sheet
from headstart.modalities.image.warp import View, render


@pytest.fixture
def pixels() -> np.ndarray:
    return np.stack([smooth(seed=seed) for seed in range(7)])


# What can be asked for


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Augmentation()), ("light", LIGHT), (" standard ", STANDARD), ("flip=0.5", Augmentation(flip=0.5)),
        ("flip=.5, rotation = 10,mixup=2e-1", Augmentation(flip=0.5, rotation=10, mixup=0.2)),
    ],
)  # fmt: skip
def test_parse(text: str, expected: Augmentation) -> None:
    assert Augmentation.parse(text) == expected


def test_parse_reads_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("# for microscopes\nvertical_flip = 0.5\nrotation = 180\n")
    assert Augmentation.parse(str(file)) == Augmentation(vertical_flip=0.5, rotation=180)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lite", r"must be none, light, standard, entries such as 'flip=0.5,rotation=10', or a .toml file; got 'lite'. Did you mean light"),
        ("rotation", "got 'rotation'. Did you mean rotation"),
        ("", "got ''"),
        ("rotate=10", "no setting 'rotate'. Did you mean rotation.*Allowed: flip, vertical_flip, rotation"),
        ("flip=0.5,flip=0.2", "flip is given twice"),
        ("flip=often", "flip must be a number, as in 'flip=0.5'; got 'often'"),
        ("flip=1.5", r"flip must be a number from 0 to 1 \(a probability\), got 1.5"),
        ("rotation=-3", r"rotation must be a number from 0 to 180 \(degrees\), got -3.0"),
        ("crop=0", r"crop must be a number from 0.01 to 1 \(the smallest share of the area\), got 0.0"),
        ("mixup=nan", "mixup must be a number from 0 to 100.*got nan"),
        ("absent.toml", "no file absent.toml"),
    ],
)
def test_what_cannot_be_parsed(text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Augmentation.parse(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"flip 0.5", "is not a TOML file.*one entry on each line"),
        (b"\xff", "is not a TOML file"),
        (b"color = 0.2", "no setting 'color'. Did you mean colour"),
        (b'flip = "0.5"', "flip must be a number.*got '0.5'"),
        (b"flip = true", "flip must be a number.*got True"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(ParameterError, match=message):
        Augmentation.parse(str(file))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ParameterError, match="cannot be read"):
        Augmentation.parse(str(tmp_path / "folder.toml"))


shares = st.floats(0, 0.5)


@given(st.builds(Augmentation, flip=shares, rotation=shares, crop=st.floats(0.01, 1), hue=shares, cutmix=shares))
def test_dictionary_and_text_bring_it_back(made: Augmentation) -> None:
    assert Augmentation.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert Augmentation.parse(made.text) == made


def test_id() -> None:
    assert STANDARD.id == "flip=0.5,rotation=10,crop=0.5,colour=0.2,erase=0.1-a1"
    assert NONE.id == "none-a1"


def test_still() -> None:
    assert Augmentation(mixup=0.2, cutmix=1).still
    for name, value in ALL.to_dict().items():
        assert Augmentation(**{name: value}).still == (name in ("mixup", "cutmix")), name


def test_parsing_does_not_import_torch() -> None:
    code = (
        "import sys; from headstart.modalities.image.augment import Augmentation; Augmentation.parse('standard'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# What is drawn


def corners(view: View) -> Iterator[tuple[tuple[float, float, float, float], str]]:
    yield view.crop, "crop"
    if view.erased:
        yield view.erased, "erased"


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32), st.integers(0, 50), st.floats(0.01, 1))
@settings(deadline=None)
def test_draws_stay_within_their_limits(key: int, seed: int, number: int, crop: float) -> None:
    made = Augmentation.from_dict(ALL.to_dict() | {"crop": crop, "erase": 1})
    view = made.view(key=key, seed=seed, view=number)
    assert abs(view.rotation) <= 30
    assert abs(view.shear) <= 15
    assert all(0.7 <= factor <= 1.3 for factor in view.zoom)
    assert all(abs(share) <= 0.2 for share in view.shift)
    assert all(0.5 <= factor <= 1.5 for factor in (view.brightness, view.contrast, view.saturation))
    assert abs(view.hue) <= 0.2
    limits = {"crop": (crop, 1, 3 / 4), "erased": (0.02, 0.2, 0.3)}
    for (top, left, bottom, right), name in corners(view):
        least, most, aspect = limits[name]
        assert 0 <= top < bottom <= 1
        assert 0 <= left < right <= 1
        assert least - 1e-9 <= (bottom - top) * (right - left) <= most + 1e-9
        assert aspect - 1e-9 <= (right - left) / (bottom - top) <= 1 / aspect + 1e-9


def test_distribution_of_the_draws() -> None:
    views = [ALL.view(key=key, seed=3, view=1) for key in range(4000)]
    uniform = {
        "rotation": [(view.rotation + 30) / 60 for view in views],
        "shear": [(view.shear + 15) / 30 for view in views],
        "zoom of the height": [(view.zoom[0] - 0.7) / 0.6 for view in views],
        "zoom of the width": [(view.zoom[1] - 0.7) / 0.6 for view in views],
        "shift": [(view.shift[1] + 0.2) / 0.4 for view in views],
        "area": [((view.crop[2] - view.crop[0]) * (view.crop[3] - view.crop[1]) - 0.4) / 0.6 for view in views],
        "top": [view.crop[0] / (1 - view.crop[2] + view.crop[0]) for view in views],
        "left": [view.crop[1] / (1 - view.crop[3] + view.crop[1]) for view in views],
        "brightness": [view.brightness - 0.5 for view in views],
        "hue": [(view.hue + 0.2) / 0.4 for view in views],
    }
    for name, values in uniform.items():
        assert stats.kstest(values, "uniform").pvalue > 1e-3, name
    for chance, happened in (
        (0.5, [view.mirrored for view in views]), (0.5, [view.upside_down for view in views]),
        (0.3, [view.gray for view in views]), (0.5, [view.erased is not None for view in views]),
    ):  # fmt: skip
        assert stats.binomtest(sum(happened), len(views), chance).pvalue > 1e-3
    assert abs(np.corrcoef([uniform["rotation"], uniform["shear"], uniform["shift"], uniform["hue"]]) - np.eye(4)).max() < 0.07


def test_small_crops_have_a_log_uniform_aspect_ratio() -> None:
    small = Augmentation(crop=0.01)
    crops = [small.view(key=key, seed=0, view=0).crop for key in range(6000)]
    narrow = [math.log((right - left) / (bottom - top)) for top, left, bottom, right in crops if (right - left) * (bottom - top) < 0.75]
    assert stats.kstest((np.array(narrow) / math.log(4 / 3) + 1) / 2, "uniform").pvalue > 1e-3


def test_one_setting_does_not_change_what_is_drawn_for_another() -> None:
    alone = Augmentation(rotation=10).view(key=5, seed=1, view=2)
    assert STANDARD.view(key=5, seed=1, view=2).rotation == alone.rotation != 0


def test_views_seeds_and_keys_differ() -> None:
    drawn = {ALL.view(key=key, seed=seed, view=view).rotation for key in (-1, 0, 1, 2**40) for seed in (0, 1) for view in (0, 1)}
    assert len(drawn) == 16


# Views without torch


def test_nothing_asked_nothing_done(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(NONE.views(pixels, size=96, keys=numbers(pixels), seed=0, view=0), pixels)
    np.testing.assert_array_equal(Augmentation(mixup=1).views(pixels, size=96, keys=numbers(pixels), seed=0, view=0), pixels)


def test_flips_are_exact(pixels: np.ndarray) -> None:
    keys = numbers(pixels)
    np.testing.assert_array_equal(Augmentation(flip=1).views(pixels, size=96, keys=keys, seed=0, view=0), pixels[:, :, ::-1])
    np.testing.assert_array_equal(Augmentation(vertical_flip=1).views(pixels, size=96, keys=keys, seed=0, view=0), pixels[:, ::-1])


def test_half_of_the_images_are_mirrored() -> None:
    images = np.broadcast_to(smooth(16), (400, 16, 16, 3))
    views = Augmentation(flip=0.5).views(images, size=16, keys=np.arange(400), seed=0, view=0)
    mirrored = sum(np.array_equal(view, images[0, :, ::-1]) for view in views)
    assert mirrored + sum(np.array_equal(view, images[0]) for view in views) == 400
    assert stats.binomtest(mirrored, 400, 0.5).pvalue > 1e-3


def test_without_a_crop_the_whole_is_resized(pixels: np.ndarray) -> None:
    views = NONE.views(pixels, size=40, keys=numbers(pixels), seed=0, view=0)
    np.testing.assert_array_equal(views[2], np.asarray(Image.fromarray(pixels[2]).resize((40, 40), Image.Resampling.BILINEAR)))


def test_a_crop_is_that_part_of_the_image() -> None:
    image = smooth(100)
    view = View(crop=(0.2, 0.1, 0.6, 0.5), mirrored=True)
    np.testing.assert_array_equal(render(image, view, size=40), image[20:60, 10:50][:, ::-1])


def test_torch_is_asked_for_in_words(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert LIGHT.views(pixels, size=64, keys=numbers(pixels), seed=0, view=0).shape == (7, 64, 64, 3)
    with pytest.raises(MissingExtraError, match=r"This augmentation needs .* pip install 'headstart\[torch\]'"):
        STANDARD.views(pixels, size=64, keys=numbers(pixels), seed=0, view=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pixels": np.zeros((7, 8, 8, 3))}, r"uint8 and shape \(n, H, W, 3\), got float64"),
        ({"pixels": np.zeros((7, 8, 8), np.uint8)}, r"got uint8 \(7, 8, 8\)"),
        ({"keys": np.arange(3)}, r"Views of 7 images need as many whole numbers as keys, got int64 \(3,\)"),
        ({"keys": np.zeros(7)}, "whole numbers as keys, got float64"),
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"view": -1}, "view must be a whole number of at least 0, got -1"),
    ],
)
def test_wrong_arguments(pixels: np.ndarray, changed: dict, message: str) -> None:
    given_ = {"pixels": pixels, "size": 32, "keys": numbers(pixels), "seed": 0, "view": 0} | changed
    with pytest.raises(ParameterError, match=message):
        LIGHT.views(given_.pop("pixels"), **given_)


# Mixing


def test_without_mixing() -> None:
    assert STANDARD.mix(seed=0, step=0, count=8) is None


@given(st.integers(0, 2**32), st.integers(0, 10**6), st.integers(1, 70), st.floats(1e-3, 100), st.floats(1e-3, 100))
def test_what_is_drawn_for_a_batch(seed: int, step: int, count: int, mixup: float, cutmix: float) -> None:
    both = Augmentation(mixup=mixup, cutmix=cutmix)
    mixing = both.mix(seed=seed, step=step, count=count)
    again = both.mix(seed=seed, step=step, count=count)
    assert mixing is not None
    assert again is not None
    assert sorted(mixing.partners.tolist()) == list(range(count))
    assert mixing.partners.dtype == np.int64
    assert 0 <= mixing.share <= 1
    assert mixing.partners.tolist() == again.partners.tolist()
    assert (mixing.share, mixing.box) == (again.share, again.box)
    if mixing.box is not None:
        top, left, bottom, right = mixing.box
        assert 0 <= top <= bottom <= 1
        assert 0 <= left <= right <= 1
        assert mixing.share == pytest.approx(1 - (bottom - top) * (right - left))


def test_distribution_of_the_shares() -> None:
    shares = [Augmentation(mixup=0.4).mix(seed=0, step=step, count=2).share for step in range(1000)]
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    mixings = [Augmentation(cutmix=1).mix(seed=0, step=step, count=2) for step in range(1500)]
    sides = np.array([(bottom - top, right - left) for top, left, bottom, right in (mixing.box for mixing in mixings)])
    whole = [min(top, left) > 0 and max(bottom, right) < 1 for top, left, bottom, right in (mixing.box for mixing in mixings)]
    np.testing.assert_allclose(sides[whole, 0], sides[whole, 1], atol=1e-12)
    # A box of side r about a uniform centre keeps r - r²/4 of its side in the mean, and r² is uniform where alpha is 1.
    areas = sides.prod(axis=1)
    assert abs(areas.mean() - (1 / 2 - 1 / 5 + 1 / 48)) < 4 * areas.std() / math.sqrt(1500)
    both = [Augmentation(mixup=1, cutmix=1).mix(seed=0, step=step, count=2).box is None for step in range(400)]
    assert stats.binomtest(sum(both), 400, 0.5).pvalue > 1e-3


# The sheet


def test_sheet_shows_the_views(tmp_path: Path) -> None:
    image, size = smooth(200), 200
    Image.fromarray(image).save(tmp_path / "photo.png")
    drawn = np.asarray(sheet([tmp_path / "photo.png", image], LIGHT, preprocessing=Preprocessing(size), seed=3, columns=3))
    assert drawn.ndim == 3

    def places(tile: np.ndarray) -> list[tuple[int, int]]:
        corners = np.argwhere((drawn[: -size + 1 or None, : -size + 1 or None] == tile[0, 0]).all(axis=2))
        return [(y, x) for y, x in corners.tolist() if np.array_equal(drawn[y : y + size, x : x + size], tile)]

    plain = places(image)
    assert [x for _, x in plain] == [28, 28]
    for row in range(2):
        for number in range(2):
            view = LIGHT.views(image[None], size=size, keys=np.array([row]), seed=3, view=number)[0]
            ((y, x),) = places(view)
            assert y == plain[row][0]
            assert x > 28 + size * (number + 1)


def test_words_for_a_view() -> None:
    assert describe(View()) == []
    view = View(mirrored=True, crop=(0, 0, 0.5, 0.5), rotation=-7.4, brightness=0.8, saturation=1.01, erased=(0, 0, 0.1, 0.3))
    assert describe(view) == ["mirrored", "cropped to 25 %", "turned −7°", "light −20 %", "part erased"]
    assert describe(View(upside_down=True, shear=3, zoom=(0.9, 1.2), shift=(0.1, -0.2), hue=0.1, gray=True)) == [
        "upside down", "sheared +3°", "zoom 1.20 × 0.90", "moved −20 +10 %", "gray",
    ]  # fmt: skip


def test_sheets_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="at least one image"):
        sheet([], LIGHT, preprocessing=Preprocessing(32))
    with pytest.raises(ParameterError, match=r"at least 2 columns.*got 1"):
        sheet([smooth(32)], LIGHT, preprocessing=Preprocessing(32), columns=1)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.jpg"):
        sheet([tmp_path / "text.jpg"], LIGHT, preprocessing=Preprocessing(32))
