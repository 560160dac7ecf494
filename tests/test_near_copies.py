"""Near copies: planted ones of every kind are found and grouped, pictures that are merely alike are left alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from headstart.audit.copies import find_near_copies
from headstart.audit.near_copies import SIDE, NearCopies, likeness, near_copies, thumbnails
from headstart.data import Dataset, class_targets
from headstart.errors import ParameterError
from headstart.modalities.image import image_digest


def texture(seed: int, *, side: int = 120) -> np.ndarray:
    """A picture with details at all scales, as photographs have: noise whose strength falls with the frequency."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = 1
    waves = np.fft.fft2(random.normal(size=(side, side, 3)), axes=(0, 1)) / frequency[:, :, None] ** 1.2
    values = np.fft.ifft2(waves, axes=(0, 1)).real
    values = (values - values.mean()) / values.std()
    return np.clip(128 + 50 * values, 0, 255).astype(np.uint8)


def recompressed(pixels: np.ndarray, quality: int = 40) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def resized(pixels: np.ndarray, side: int = 120) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), Image.Resampling.BICUBIC))


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "resized": lambda pixels: resized(resized(pixels, 70)),
    "recompressed": recompressed,
    "cropped in a corner": lambda pixels: resized(pixels[6:, 6:]),
    "cropped on one side": lambda pixels: resized(pixels[:, :112]),
    "mirrored": lambda pixels: recompressed(pixels[:, ::-1], 90),
    "brighter": lambda pixels: np.clip(pixels.astype(int) + 25, 0, 255).astype(np.uint8),
    "all at once": lambda pixels: recompressed(resized(resized(pixels[3:117, 1:115][:, ::-1], 80))),
}
TEXTURES = np.stack([texture(seed) for seed in range(40)])


def search(pixels: np.ndarray, **options) -> NearCopies:
    return near_copies(pixels, digests=[image_digest(picture) for picture in pixels], **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_each_kind_is_found_and_nothing_else(kind: str) -> None:
    copies = [KINDS[kind](TEXTURES[row]) for row in range(10)]
    found = search(np.concatenate([TEXTURES, np.stack(copies)]))
    assert found.pairs.tolist() == [[row, 40 + row] for row in range(10)]
    assert found.components == tuple((row, 40 + row) for row in range(10))
    assert (found.likeness > 0.87).all()
    assert (found.likeness <= 1).all()


def test_different_pictures_have_no_copies() -> None:
    found = search(TEXTURES)
    assert found.pairs.shape == (0, 2)
    assert found.components == ()


def test_pictures_that_are_alike_are_no_copies() -> None:
    written = load_digits()
    grey = (written.images * 15.9).astype(np.uint8)
    ones = thumbnails(grey[written.target == 1])
    assert np.median(likeness(ones[1:], ones[:-1])) > 0.4  # they do agree, so that there is something to be fooled by
    named = np.unique(search(np.repeat(grey[:600, :, :, None], 3, axis=3)).pairs)
    assert len(named) <= 6


def test_a_burst_is_one_group() -> None:
    random = np.random.default_rng(0)
    burst = [np.clip(TEXTURES[0] + random.normal(0, 4, TEXTURES[0].shape), 0, 255).astype(np.uint8) for _ in range(9)]
    others = [texture(seed, side=120) for seed in range(100, 140)]
    assert search(np.concatenate([TEXTURES, np.stack(burst), np.stack(others)])).components == ((0, *range(40, 49)),)


def test_exact_copies_join_a_group_and_make_none() -> None:
    pixels = np.concatenate([TEXTURES, TEXTURES[:2], recompressed(TEXTURES[0])[None]])
    found = search(pixels)
    assert found.pairs.tolist() == [[0, 42]]
    assert found.components == ((0, 40, 42),)


def test_features_find_what_small_pictures_miss() -> None:
    part = np.stack([resized(TEXTURES[row][22:, 22:]) for row in range(5)])
    pixels = np.concatenate([TEXTURES, part])
    features = np.random.default_rng(0).normal(size=(45, 64)).astype(np.float32)
    features[40:] = features[:5] + 0.01
    without = {tuple(pair) for pair in search(pixels).pairs.tolist()}
    within = {tuple(pair) for pair in search(pixels, features=features).pairs.tolist()}
    assert without < within <= {(row, 40 + row) for row in range(5)}


def test_equal_features_are_no_proof() -> None:
    assert len(search(TEXTURES, features=np.ones((40, 8), np.float32)).pairs) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_very_few_images(count: int) -> None:
    assert search(TEXTURES[:count]).components == ()
    if count:
        assert search(np.stack([*TEXTURES[:count], recompressed(TEXTURES[0])])).components == ((0, count),)


def test_flat_and_unreadable_images_are_like_nothing(tmp_path: Path) -> None:
    paths = []
    for value in range(0, 250, 25):
        paths.append(tmp_path / f"{value}.png")
        Image.fromarray(np.full((30, 30, 3), value, np.uint8)).save(paths[-1])
    for number in range(3):
        paths.append(tmp_path / f"broken {number}.jpg")
        paths[-1].write_bytes(b"broken %d" % number)
    found = near_copies(paths, digests=[image_digest(path.read_bytes()) for path in paths])
    assert found.components == ()


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(ParameterError, match="there are 40 images and digests of 1; one for each image is needed"):
        near_copies(TEXTURES, digests=[b"1"])
    with pytest.raises(ParameterError, match="there are 40 images and features of 3; one for each image is needed"):
        search(TEXTURES, features=np.zeros((3, 2), np.float32))


def test_progress_reaches_the_end() -> None:
    calls: list[tuple[int, int]] = []
    search(TEXTURES, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (40, 40)


def test_likeness_of_a_known_crop_and_of_strangers() -> None:
    small = thumbnails(TEXTURES)
    crops = thumbnails(np.stack([resized(picture[4:116, 2:114]) for picture in TEXTURES]))
    assert small.shape == (40, SIDE, SIDE)
    assert likeness(small, crops).min() > 0.95
    assert likeness(small, crops, fine=False).min() > 0.95
    assert likeness(small, np.roll(small, 1, axis=0)).max() < 0.6
    np.testing.assert_allclose(likeness(small, small), 1, atol=1e-3)
    assert np.abs(likeness(np.full((1, SIDE, SIDE), 9, np.uint8), np.full((1, SIDE, SIDE), 9, np.uint8))).max() < 1e-3


def dataset(targets: Sequence[int], parts: Sequence[str]) -> Dataset:
    images = np.zeros((len(targets), 8, 8, 3), np.uint8)
    return Dataset(images, class_targets(np.array(targets), ("cat", "dog")), np.array(parts))


def findings(targets: Sequence[int], parts: Sequence[str], components, digests: str) -> dict[str, tuple[str, int, tuple[str, ...], str]]:
    copies = NearCopies(np.empty((0, 2), np.int64), np.empty(0), tuple(components))
    found = find_near_copies(dataset(targets, parts), copies, digests=[letter.encode() for letter in digests])
    return {finding.kind: (finding.severity, finding.count, finding.examples, finding.message) for finding in found}


def test_copies_across_parts() -> None:
    found = findings([0] * 4, ["train", "test", "test", "val"], [(0, 1, 2, 3)], "abcd")
    assert set(found) == {"near copies across parts", "near copies in validation"}
    severity, count, examples, message = found["near copies across parts"]
    assert (severity, count, examples) == ("error", 2, ("array[1] ~ array[0]", "array[2] ~ array[0]"))
    assert "2 test images are near copies of training images" in message
    assert "the score is too high" in message
    assert found["near copies in validation"][:3] == ("warning", 1, ("array[3] ~ array[0]",))


def test_what_an_exact_copy_tells_is_not_told_again() -> None:
    found = findings([0] * 3, ["train", "test", "train"], [(0, 1, 2)], "aab")
    assert set(found) == {"near copies"}
    assert found["near copies"][:3] == ("warning", 1, ("array[2] ~ array[0]",))
    assert findings([0, 0], ["train", "train"], [], "aa") == {}


def test_copies_in_two_classes() -> None:
    severity, count, examples, message = findings([0, 1], ["train", "train"], [(0, 1)], "ab")["near copies in two classes"]
    assert (severity, count, examples) == ("warning", 2, ("array[0] (cat) ~ array[1] (dog)",))
    assert "2 images are near copies of images in another class" in message


def test_copies_within_a_part() -> None:
    few = findings([0] * 300, ["train"] * 300, [(3, 7)], "".join(chr(0x4E00 + i) for i in range(300)))
    assert few["near copies"][:3] == ("note", 1, ("array[7] ~ array[3]",))
    assert "they count more than once" in few["near copies"][3]
    unsplit = findings([0, 0], ["", ""], [(0, 1)], "ab")["near copies"]
    assert unsplit[0] == "warning"
    assert "may fall on both sides of a split" in unsplit[3]


@pytest.mark.data
def test_photographs(shared_data: Path) -> None:
    paths = sorted((shared_data / "cats_dogs/train").rglob("*.jpg"))[::5]
    planted = []
    for path in paths[::10]:
        picture = np.asarray(Image.open(path).convert("RGB"))
        height, width = picture.shape[:2]
        planted.append(recompressed(picture[height // 20 :, : width - width // 20][:, ::-1], 50))
    small = np.concatenate([np.asarray([np.asarray(Image.open(path).convert("RGB").resize((160, 160))) for path in paths])])
    found = search(np.concatenate([small, np.stack([resized(picture, 160) for picture in planted])]))
    assert found.components == tuple((10 * row, len(paths) + row) for row in range(len(planted)))
