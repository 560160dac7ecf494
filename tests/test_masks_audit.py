"""The audit of masks: few pixels, nothing drawn, copies with other masks, and masks that do not lie on their images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.audit import Audit, check
from headstart.audit.alignment import REACH, boundaries, fits
from headstart.data import VOID, Dataset, Masks, dataset_of, masks_of, read_annotations, read_dataset, read_masks
from headstart.modalities.image import read_image
from made_masks import measured, pair, write

Pixels = NDArray[np.uint8]


def scene(seed: int, *, side: int = 96) -> tuple[Pixels, Pixels]:
    """Two coloured things on a ground with a gradient, noise and clutter, and their mask."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side, 3), random.integers(90, 150, 3), np.float64) + (x / 3)[:, :, None] + random.normal(0, 8, (side, side, 3))
    for _ in range(4):  # clutter
        top, left = random.integers(0, side - 10, 2)
        image[top : top + 5, left : left + 8] += random.normal(0, 30, 3)
    mask = np.zeros((side, side), np.uint8)
    for label in (1, 2):
        cy, cx = random.integers(16, side - 16, 2)
        inside = (y - cy) ** 2 / random.integers(60, 300) + (x - cx) ** 2 / random.integers(60, 300) < 1
        image[inside] += random.choice([-60, 60], 3)
        mask[inside] = label
    return np.clip(image, 0, 255).astype(np.uint8), mask


def scenes(root: Path, change: dict[int, str] | str = "", *, count: int = 24) -> Dataset:
    for seed in range(count):
        image, mask = scene(seed)
        how = change if isinstance(change, str) else change.get(seed, "")
        write(root / "images" / f"{seed:02}.png", image)
        write(root / "masks" / f"{seed:02}.png", changed(mask, how))
    return read_dataset(root)


def changed(mask: Pixels, how: str) -> Pixels:
    moved = {"": mask, "mirrored": mask[:, ::-1], "upside down": mask[::-1], "turned": mask[::-1, ::-1]}
    return np.ascontiguousarray(moved.get(how, np.roll(mask, (-9, 6), axis=(0, 1))))


def kinds(audit: Audit) -> dict[str, str]:
    return {finding.kind: finding.message for finding in audit.findings}


def test_boundaries_lie_between_classes() -> None:
    mask = np.zeros((256, 256), np.uint8)
    mask[:, 128:] = 1
    mask[128:] = VOID
    found = boundaries(mask)
    assert set(np.flatnonzero(found.any(axis=0))) == {63, 64}
    assert not found[64:].any()


@pytest.mark.parametrize(("how", "place"), [("", 0), ("mirrored", 1), ("upside down", 2), ("turned", 3)])
def test_masks_fit_where_they_lie(how: str, place: int) -> None:
    maps = np.mean([fits(image, changed(mask, how)) for image, mask in map(scene, range(12))], axis=0)
    kind, row, column = np.unravel_index(maps.argmax(), maps.shape)
    assert kind == place
    assert abs(row - REACH) <= 1
    assert abs(column - REACH) <= 1


def test_nothing_is_said_of_masks_that_fit(tmp_path: Path) -> None:
    assert "misaligned masks" not in kinds(check(scenes(tmp_path)))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("mirrored", "Mirrored left to right they would"), ("upside down", "Mirrored upside down they would"),
        ("turned", "Turned by half a turn they would"), ("moved", "Moved by 9% of its height down and 6% of its width to the left"),
    ],
)  # fmt: skip
def test_a_fault_that_all_masks_share(tmp_path: Path, how: str, words: str) -> None:
    audit = check(scenes(tmp_path, how))
    finding = next(finding for finding in audit.findings if finding.kind == "misaligned masks")
    assert finding.severity == "error"
    assert words in finding.message
    assert finding.count == 24


def test_some_masks_that_do_not_lie_on_their_images(tmp_path: Path) -> None:
    wrong = {3: "mirrored", 8: "upside down", 11: "moved", 17: "mirrored"}
    audit = check(scenes(tmp_path, wrong))
    finding = next(finding for finding in audit.findings if finding.kind == "misaligned masks")
    assert finding.severity == "warning"
    named = {int(example.split("/")[1][:2]): example.split("fit ")[1] for example in finding.examples}
    assert set(named) <= set(wrong)
    assert len(named) >= 3
    expected = {"mirrored": "mirrored left to right", "upside down": "mirrored upside down", "moved": "moved by"}
    assert all(said.startswith(expected[wrong[seed]]) for seed, said in named.items())


@pytest.mark.parametrize("by", [-5, 6])
def test_masks_drawn_too_large_or_too_small_are_not_moved(tmp_path: Path, by: int) -> None:
    for seed in range(24):
        y, x = np.mgrid[:96, :96]
        cy, cx, radius = *np.random.default_rng(seed).integers(34, 62, 2), 18
        image, _ = scene(100 + seed)
        distance = np.maximum(abs(y - cy), abs(x - cx))
        write(tmp_path / "images" / f"{seed}.png", np.where((distance < radius)[:, :, None], np.minimum(image, 175) + 80, image))
        write(tmp_path / "masks" / f"{seed}.png", (distance < radius + by).astype(np.uint8))
    assert "misaligned masks" not in kinds(check(read_dataset(tmp_path)))


def test_masks_without_boundaries_tell_nothing() -> None:
    image, mask = scene(0)
    assert fits(image, mask * 0) is None
    assert fits(image, np.full_like(mask, VOID)) is None


def test_good_masks_are_not_suspected(shared_data: Path) -> None:
    for name in ("seg_human", "seg_camvid_small"):
        data = read_dataset(measured(shared_data, name))
        assert "misaligned masks" not in kinds(check(data.take(np.arange(0, len(data), 4))))


@pytest.mark.parametrize("name", ["seg_human", "seg_camvid_small"])
def test_mirrored_masks_of_photographs(shared_data: Path, name: str) -> None:
    data = read_dataset(measured(shared_data, name))
    masks = data.targets
    assert isinstance(masks, Masks)
    rows = np.arange(0, len(data), 8)
    maps = np.mean([fits(read_image(data.inputs[row]), masks.read(row)[:, ::-1]) for row in rows.tolist()], axis=0)
    assert np.unravel_index(maps.argmax(), maps.shape)[0] == 1


def test_few_pixels_and_no_pixels(tmp_path: Path) -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[:30] = 1
    mask[40, 40:42] = 2
    for name in "abcdef":
        pair(tmp_path / "train", name, mask)
    pair(tmp_path / "test", "g", np.where(mask == 2, 3, mask).astype(np.uint8))
    found = kinds(check(read_dataset(tmp_path)))
    assert "Few pixels to learn from: 'class 2' (0.06 %, in 6 images) of the training pixels." in found["few pixels"]
    assert found["no pixels"] == "No training pixel of 'class 3': it cannot be learned."


def test_few_images_with_a_class(tmp_path: Path) -> None:
    for name in "abcdefgh":
        mask = np.zeros((60, 60), np.uint8)
        mask[:20] = 1
        mask[30:40] = 2 * (name in "abc")
        pair(tmp_path, name, mask)
    assert "'class 2' (6.25 %, in 3 images)" in kinds(check(read_dataset(tmp_path)))["few pixels"]


def test_masks_of_nothing(tmp_path: Path) -> None:
    mask = np.zeros((30, 30), np.uint8)
    mask[:10] = 1
    for name, array in {"a": mask, "b": mask * 0, "c": mask * 0 + 255, "d": mask}.items():
        pair(tmp_path, name, array)
    audit = check(read_dataset(tmp_path))
    found = {finding.kind: finding for finding in audit.findings}
    assert found["empty masks"].message.startswith("1 mask of 4 holds 'background' alone.")
    assert found["empty masks"].severity == "note"
    assert found["empty masks"].examples == ("images/b.jpg",)
    assert found["masks without classes"].examples == ("images/c.jpg",)
    assert "25.0 %" not in found.get("void pixels", found["empty masks"]).message
    pair(tmp_path, "d", mask * 0 + 255)
    assert kinds(check(read_dataset(tmp_path)))["void pixels"].startswith("50.0 % of all pixels have no class")


def test_one_mask_for_several_images(tmp_path: Path) -> None:
    for seed in range(6):
        image, mask = scene(seed)
        write(tmp_path / "images" / f"{seed}.png", image)
        write(tmp_path / "masks" / f"{seed}.png", mask if seed != 5 else scene(4)[1])
    audit = check(read_dataset(tmp_path))
    finding = next(finding for finding in audit.findings if finding.kind == "repeated masks")
    assert finding.count == 2
    assert finding.examples == ("images/4.png = images/5.png",)


def test_copies_of_an_image_with_other_masks(tmp_path: Path) -> None:
    scenes(tmp_path, count=6)
    shutil.copy(tmp_path / "images" / "00.png", tmp_path / "images" / "90.png")
    write(tmp_path / "masks" / "90.png", scene(3)[1])
    shutil.copy(tmp_path / "images" / "01.png", tmp_path / "images" / "91.png")
    shutil.copy(tmp_path / "masks" / "01.png", tmp_path / "masks" / "91.png")
    found = kinds(check(read_dataset(tmp_path)))
    assert found["contradictory copies"].startswith("2 image files are exact copies of files with another mask (1 different pictures)")
    assert found["copies"].startswith("2 images are exact copies of another image: they may fall on both sides")


def test_copies_on_both_sides(tmp_path: Path) -> None:
    for part in ("train", "test"):
        image, mask = scene(1)
        write(tmp_path / part / "images" / "a.png", image)
        write(tmp_path / part / "masks" / "a.png", mask)
    assert kinds(check(read_dataset(tmp_path)))["leak"].startswith("1 test image is an exact copy of training images")


def test_masks_that_a_run_stored_are_compared_by_their_areas() -> None:
    masks = masks_of(np.array([[5, 5, 0], [5, 5, 0], [4, 6, 0]]), ("a", "b"))
    assert masks.agree((0, 1))
    assert not masks.agree((0, 2))


def test_an_image_that_cannot_be_read_is_told_once(tmp_path: Path) -> None:
    scenes(tmp_path, count=4)
    (tmp_path / "images" / "00.png").write_bytes(b"nothing")
    found = read_annotations(tmp_path)
    audit = check(dataset_of(found, read_masks(found)))
    assert [finding.kind for finding in audit.findings if finding.severity == "warning"] == ["unreadable", "few pixels"]
