"""`TransferSegmenter`: masks as arrays and as files, in and out."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart import TransferSegmenter
from headstart.errors import DataError, ParameterError
from headstart.settings import FineTuning
from headstart.tasks.segmentation import learning

PLAN = FineTuning(strategy="probe", epochs=10, batch_size=4)


def discs(count: int, *, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Bright discs (1) on dark noise (0), with a strip of void, in images of differing sizes."""
    rng, images, masks = np.random.default_rng(seed), [], []
    for number in range(count):
        height, width = 48 + 8 * (number % 3), 64
        rows, columns = np.mgrid[:height, :width]
        mask = ((rows - rng.integers(14, 34)) ** 2 + (columns - rng.integers(14, 50)) ** 2 < rng.integers(8, 14) ** 2).astype(np.uint8)
        pixels = np.where(mask[..., None], (220, 160, 60), (40, 60, 90)) + rng.integers(-20, 20, (height, width, 3))
        mask[:2] = 255
        images.append(pixels.clip(0, 255).astype(np.uint8))
        masks.append(mask)
    return images, masks


@pytest.fixture(scope="module")
def fitted(cache: Path) -> TransferSegmenter:
    images, masks = discs(18, seed=0)
    segmenter = TransferSegmenter("lite0@64", fine_tuning=PLAN, cache=cache)
    return segmenter.fit(images, masks, classes=["ground", "disc"])


def test_it_learns_masks_and_predicts_them_at_the_size_of_each_image(fitted: TransferSegmenter) -> None:
    images, masks = discs(6, seed=1)
    assert fitted.classes_.tolist() == ["ground", "disc"]
    found, chances = fitted.predict(images), fitted.predict_proba(images)
    assert [one.shape for one in found] == [one.shape for one in masks]
    for mask, chance, truth in zip(found, chances, masks, strict=True):
        assert np.allclose(chance.sum(axis=0), 1, atol=1e-5)
        assert (chance.argmax(axis=0) == mask).mean() > 0.999
        assert (mask == truth)[truth != 255].mean() > 0.9
    assert fitted.score(images, masks) > 0.75


def test_a_copy_predicts_the_same(fitted: TransferSegmenter) -> None:
    images, _ = discs(2, seed=2)
    again = copy.deepcopy(fitted)
    assert all(np.array_equal(one, other) for one, other in zip(fitted.predict(images), again.predict(images), strict=True))


@pytest.mark.slow
def test_a_copy_carries_a_trained_backbone_along(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "RECIPE", replace(learning.RECIPE, steps=(10, 2800)))
    monkeypatch.setattr("headstart.training.tuning.Trained.learned", True)
    images, masks = discs(12, seed=5)
    plan = FineTuning(strategy="partial", epochs=1, batch_size=4, lr=1e-3)
    segmenter = TransferSegmenter("lite0@64", fine_tuning=plan, cache=cache).fit(images, masks)
    again = copy.deepcopy(segmenter)
    expected = segmenter.predict_proba(images[:2])
    del segmenter
    assert all(np.allclose(one, other, atol=1e-3) for one, other in zip(again.predict_proba(images[:2]), expected, strict=True))


def test_masks_may_be_files(cache: Path, tmp_path: Path) -> None:
    images, masks = discs(8, seed=3)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image).save(tmp_path / f"image{number}.png")
        Image.fromarray(mask).save(tmp_path / f"mask{number}.png")
    paths = [[tmp_path / f"{kind}{number}.png" for number in range(8)] for kind in ("image", "mask")]
    segmenter = TransferSegmenter("lite0@64", fine_tuning=FineTuning(strategy="probe", epochs=1), cache=cache).fit(*paths)
    assert len(segmenter.classes_) == 2
    assert segmenter.predict(paths[0])[1].shape == masks[1].shape


def test_what_is_wrong_is_said(cache: Path) -> None:
    images, masks = discs(4, seed=4)
    segmenter = TransferSegmenter("lite0@64", fine_tuning=PLAN, cache=cache)
    with pytest.raises(DataError, match="4 images but 3 masks"):
        segmenter.fit(images, masks[:3])
    with pytest.raises(DataError, match=r"y\[1\] must be a mask \(H, W\) of whole numbers"):
        segmenter.fit(images, [masks[0], masks[1].astype(float), *masks[2:]])
    with pytest.raises(DataError, match="have the class 1, and there are 1 name of classes"):
        segmenter.fit(images, masks, classes=["ground"])
    with pytest.raises(ParameterError, match="architecture must be one of"):
        TransferSegmenter(architecture="segnet").fit(images, masks)
    with pytest.raises(DataError, match="X is empty"):
        segmenter.fit([], [])
    quick = TransferSegmenter("lite0@64", fine_tuning=FineTuning(strategy="probe", epochs=1), cache=cache).fit(images, masks)
    with pytest.raises(DataError, match="have no mask"):
        quick.predict([b"no image"])
