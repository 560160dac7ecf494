"""Folders of good and defective things, and folders of images of which nothing is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headstart.data import LABEL, MASK, Annotations, read_annotations, read_dataset, read_defects, read_masks
from headstart.data.annotations import join
from headstart.data.defect_folders import is_good
from headstart.errors import DataError
from headstart.tasks.classification.task import Classification
from made_masks import measured, photo, write

SPOT = np.zeros((20, 30), np.uint8)
SPOT[5:9, 7:15] = 255


def things(root: Path, *, truth: str = "ground_truth") -> Annotations:
    for name in ("train/good/1", "train/good/2", "train/good/3", "test/good/1", "test/broken/1", "test/broken/2", "test/bent/1"):
        photo(root / f"{name}.jpg")
    write(root / truth / "broken" / "1_mask.png", SPOT)
    write(root / truth / "bent" / "1.png", SPOT)
    return read_annotations(root)


def test_the_layout_of_mvtec(tmp_path: Path) -> None:
    found = things(tmp_path)
    assert found.names() == (
        "train/good/1.jpg", "train/good/2.jpg", "train/good/3.jpg",
        "test/bent/1.jpg", "test/broken/1.jpg", "test/broken/2.jpg", "test/good/1.jpg",
    )  # fmt: skip
    assert found.columns[LABEL].values == ["good"] * 3 + ["bent", "broken", "broken", "good"]
    assert found.parts == ["train"] * 3 + ["test"] * 4
    assert found.learned == ()
    assert not found.notes
    files = found.columns[MASK].values
    assert [file is not None for file in files] == [False] * 3 + [True, True, False, False]
    masks = read_masks(found.take([3, 4]))
    assert masks.classes == ("background", "foreground")
    assert np.array_equal(masks.read(1), SPOT // 255)


def test_the_layout_of_mvtec_loco(tmp_path: Path) -> None:
    """A folder of pictures for each image, one for each defect, with a value for each kind: together they are its mask."""
    for name in ("train/good/1", "train/good/2", "test/good/1", "test/logical/1", "test/logical/2", "test/logical/3"):
        photo(tmp_path / f"{name}.jpg")
    other = np.zeros_like(SPOT)
    other[12:18, 20:28] = 254
    truth = tmp_path / "ground_truth" / "logical"
    write(truth / "1" / "000.png", SPOT)
    write(truth / "1" / "001.png", other)
    write(truth / "2" / "000.png", other)
    write(truth / "9" / "000.png", other)
    found = read_annotations(tmp_path)
    assert "1 image with several masks each: a pixel has a defect where any of them has one." in found.notes
    assert "Passed over 1 mask without an image of that name: ground_truth/logical/9/000.png." in found.notes
    defects = read_defects(found)
    named = {name: row for row, name in enumerate(found.names())}
    for name, expected in (("1", (SPOT > 0) | (other > 0)), ("2", other > 0)):
        mask, void = defects.defective(named[f"test/logical/{name}.jpg"])
        assert np.array_equal(mask, expected)
        assert not void.any()
    assert not defects.has_mask(named["test/logical/3.jpg"])
    assert defects.cells(named["test/logical/1.jpg"])["mask"] == str(truth / "1")
    write(truth / "1" / "002.png", SPOT[:10])
    with pytest.raises(DataError, match=r"002\.png: is 30x10, and .*000\.png, a mask of the same image, 30x20"):
        read_defects(read_annotations(tmp_path))
    (truth / "1" / "002.png").unlink()
    write(truth / "1_mask.png", SPOT)
    with pytest.raises(DataError, match=r"test/logical/1\.jpg has two masks: .*1_mask\.png and .*logical/1\. Move one of them away"):
        read_annotations(tmp_path)


def test_what_belongs_to_no_image_is_named(tmp_path: Path) -> None:
    things(tmp_path)
    write(tmp_path / "ground_truth" / "broken" / "9_mask.png", SPOT)
    photo(tmp_path / "extra" / "1.jpg")
    notes = read_annotations(tmp_path).notes
    assert "Passed over 1 mask without an image of that name: ground_truth/broken/9_mask.png." in notes
    assert "Passed over 1 image in 'extra', beside train and test." in notes
    write(tmp_path / "ground_truth" / "broken" / "1_gt.png", SPOT)
    with pytest.raises(DataError, match=r"test/broken/1\.jpg has two masks: .*1_gt\.png and .*1_mask\.png\. Move one of them away"):
        read_annotations(tmp_path)


def test_a_validation_part_of_good_images(tmp_path: Path) -> None:
    photo(tmp_path / "validation" / "good" / "1.jpg")
    assert things(tmp_path).parts.count("val") == 1


def test_the_layout_of_mvtec_has_no_classes_to_learn(tmp_path: Path) -> None:
    found = things(tmp_path)
    expected = "are all 'good', and some of those to test on are bent and broken: there is nothing to tell apart"
    assert expected in found.reason
    assert Classification().recognises(found) is None
    with pytest.raises(DataError, match="has 2 classes that the training data does not have"):
        read_dataset(tmp_path)


def test_two_classes_to_learn_from_are_classes(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "broken" / "9.jpg")
    photo(tmp_path / "train" / "bent" / "9.jpg")
    assert things(tmp_path, truth="elsewhere").learned == (LABEL,)


@pytest.mark.parametrize(("word", "good"), [("good", True), ("Defect-free", True), ("OK", True), ("broken", False), ("not good", False)])
def test_words_for_good(word: str, good: bool) -> None:
    assert is_good(word) is good


def test_the_cookies(shared_data: Path) -> None:
    found = read_annotations(measured(shared_data, "anomaly_cookie"))
    assert [found.parts.count(part) for part in ("train", "test")] == [31, 54]
    assert found.columns[LABEL].values.count("broken") == 40
    assert sum(file is not None for file in found.columns[MASK].values) == 32
    rows = [i for i, file in enumerate(found.columns[MASK].values) if file is not None]
    assert {found.columns[LABEL].values[i] for i in rows} == {"broken"}
    assert (read_masks(found.take(rows)).areas[:, 1] > 0).all()


def test_a_folder_of_images_says_nothing_of_them(tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / "photos" / f"{i}.jpg")
    found = read_annotations(tmp_path / "photos")
    assert found.columns == {}
    assert found.learned == ()
    assert found.names() == ("0.jpg", "1.jpg", "2.jpg")
    for read in (lambda: read_dataset(tmp_path / "photos"), lambda: found.labels, lambda: Classification().read_targets(found)):
        with pytest.raises(DataError, match=r"3 images lie directly in .*photos, and there are no class folders with images in it"):
            read()


def test_good_images_to_learn_from_without_a_folder_of_their_own(tmp_path: Path) -> None:
    for name in ("train/1", "train/2", "test/good/1", "test/bad/1"):
        photo(tmp_path / f"{name}.jpg")
    found = read_annotations(tmp_path)
    assert found.parts == ["train", "train", "test", "test"]
    assert found.columns[LABEL].values == [None, None, "bad", "good"]
    assert "2 images lie directly in" in found.reason


def test_good_images_with_others_to_test_on(tmp_path: Path) -> None:
    photo(tmp_path / "fine" / "1.jpg")
    photo(tmp_path / "newer" / "good" / "1.jpg")
    photo(tmp_path / "newer" / "bad" / "1.jpg")
    joined = join(read_annotations(tmp_path / "fine"), read_annotations(tmp_path / "newer"))
    assert joined.columns[LABEL].values == [None, "bad", "good"]
    assert joined.parts == ["train", "test", "test"]
    with pytest.raises(DataError, match=r"1 image lies directly in .*fine"):
        join(read_annotations(tmp_path / "newer"), read_annotations(tmp_path / "fine"))
