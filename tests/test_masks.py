"""Masks as targets: what is read of folders of images and masks, and what is counted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import VOID, read_annotations, read_dataset, read_masks
from headstart.errors import DataError, ImageError
from headstart.modalities.image import quiet_decoding, read_image
from headstart.modalities.image.values import read_values
from headstart.pipeline.reading import read
from headstart.settings import FitSettings
from made_masks import BLOCKS, masks_in, measured, pair, photo


def test_indices_with_a_list_of_classes(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    pair(tmp_path, "b", BLOCKS.T.copy())
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    data = read_dataset(tmp_path)
    masks = masks_in(data)
    assert data.names() == ("images/a.jpg", "images/b.jpg")
    assert masks.classes == ("sky", "road", "car", "tree")
    assert masks.areas.tolist() == [[200, 100, 100, 100, 100]] * 2
    assert np.array_equal(masks.read(0), BLOCKS)
    assert np.array_equal(masks.read(1), BLOCKS.T)
    assert masks.counts() == dict.fromkeys(masks.classes, 2)
    assert masks.strata.all()
    assert masks.take(np.array([1])).read(0).shape == (30, 20)
    assert masks.cells(0) == {"mask": str(tmp_path / "masks" / "a.png")}


def test_binary_masks(tmp_path: Path) -> None:
    pair(tmp_path, mask=(BLOCKS == 1).astype(np.uint8) * 255)
    data = read_dataset(tmp_path)
    assert masks_in(data).classes == ("background", "foreground")
    assert masks_in(data).areas.tolist() == [[500, 100, 0]]
    assert any("0 and 255" in note for note in data.notes)


@pytest.mark.parametrize(
    ("images", "masks", "part"),
    [
        ("images", "masks", ""), ("image", "label", ""), ("images", "labels", ""), ("images", "annotations", ""), ("imgs", "gt", ""),
        ("train/images", "train/masks", "train"), ("images/train", "masks/train", "train"), ("train", "train_masks", "train"),
        ("train", "trainannot", "train"), ("val", "val_labels", "val"), ("images/test2017", "annotations/test2017", "test"),
        ("JPEGImages", "SegmentationClass", ""), ("data/set/images", "data/set/masks", ""),
    ],
)  # fmt: skip
def test_folders_of_images_and_masks(tmp_path: Path, images: str, masks: str, part: str) -> None:
    pair(tmp_path, images=images, masks=masks)
    data = read_dataset(tmp_path)
    assert data.names() == (f"{images}/1.jpg",)
    assert data.parts.tolist() == [part]
    assert np.array_equal(masks_in(data).read(0) == VOID, BLOCKS == 255)


def test_classes_called_like_masks_are_classes(tmp_path: Path) -> None:
    for folder in ("mask", "no_mask"):
        for stem in "12":
            photo(tmp_path / folder / f"{stem}.jpg")
    assert read_dataset(tmp_path).classes == ("mask", "no_mask")


def test_the_people(shared_data: Path) -> None:
    data = read_dataset(measured(shared_data, "seg_human"))
    assert data.classes == ("background", "foreground")
    assert {part: int((data.parts == part).sum()) for part in ("train", "test")} == {"train": 232, "test": 58}
    expected = sum(int((np.asarray(Image.open(path)) == 255).sum()) for path in (measured(shared_data, "seg_human") / "masks").iterdir())
    assert masks_in(data).pixels()["foreground"] == expected


def test_the_streets(shared_data: Path) -> None:
    data = read_dataset(measured(shared_data, "seg_camvid_small"))
    masks = masks_in(data)
    assert masks.classes == tuple((measured(shared_data, "seg_camvid_small") / "classes.txt").read_text().split())[:11]
    assert data.counts("train")["Road"] == 120
    assert len(data.part("test")) == 60
    assert masks.areas.sum() == 180 * 240 * 180
    first = masks.read(0)
    stored = np.asarray(Image.open(masks.sources[0].file.name))
    assert np.array_equal(first, np.where(stored == 11, VOID, stored))


def test_images_without_masks_have_no_targets(tmp_path: Path) -> None:
    for folder in ("cat", "dog"):
        photo(tmp_path / folder / "1.jpg")
    found = read_annotations(tmp_path)
    with pytest.raises(DataError, match="there are no masks"):
        read_masks(found)


def test_odd_files_are_upright_or_refused_as_images_are(shared_data: Path) -> None:
    seen = {True: 0, False: 0}
    with quiet_decoding():
        for path in sorted(measured(shared_data, "bad_images").rglob("*.png")):
            try:
                values = read_values(path)
            except ImageError as error:
                with pytest.raises(ImageError, match=re.escape(error.reason)):
                    read_image(path)
                seen[False] += 1
            else:
                pixels = read_image(path)
                assert values.array.shape == pixels.shape[:2]
                seen[True] += 1
    assert min(seen.values()) > 10


def test_the_background_is_a_setting(tmp_path: Path) -> None:
    pair(tmp_path, "a", (BLOCKS == 1).astype(np.uint8))
    task, data = read(tmp_path, FitSettings(background="ground"))
    assert task.name == "segmentation"
    assert data.classes == ("ground", "foreground")
    assert "Task: segmentation (masks, from the masks in 'masks')." in data.notes
