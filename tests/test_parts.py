"""Which folders are parts of a data set, and which are classes: never guessed from one level alone, and never in silence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headstart.data import read_dataset
from headstart.data.annotations import part_of
from headstart.errors import DataError
from headstart.progress import Warned

Cli = Callable[..., Any]
PARTS = {
    "train": ("train", "Training", "training_set", "TRAIN_IMAGES", "seg_train", "train2017", "trainset", "Train (1)", "trainval"),
    "val": ("val", "valid", "Validation", "dev", "eval", "evaluation", "val_images", "validation set", "seg-val"),
    "test": ("test", "testing", "test-set", "holdout", "hold-out", "held_out", "seg_test", "Test Images", "testset", "test_2"),
}  # fmt: skip


def tree(root: Path, folders: dict[str, int]) -> Path:
    """A folder with so many empty pictures in each of these folders."""
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index}.jpg").touch()
    return root


def both(part: str, count: int = 3) -> dict[str, int]:
    return {f"{part}/{name}": count for name in ("bar", "disc")}


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in PARTS.items() for name in names])
def test_names_of_parts(part: str, name: str) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize(
    "name", ["", "_", "2017", "images", "data", "set", "latest", "strain", "brain", "interval", "train_station", "pred"]
)
def test_names_of_no_part(name: str) -> None:
    assert part_of(name) is None


@pytest.mark.parametrize(
    ("folders", "counts", "passed_over"),
    [
        (both("train") | {"predict": 5}, {"train": 6}, "5 images in 'predict'"),
        (both("train") | both("samples"), {"train": 6}, "6 images in 'samples'"),
        (both("train") | both("test") | both("extra", 1), {"train": 6, "test": 6}, "2 images in 'extra'"),
        (both("seg_train/seg_train") | both("seg_test/seg_test", 2) | {"seg_pred/seg_pred": 7}, {"train": 6, "test": 4}, "7 images in"),
        (both("seg_train") | both("seg_test", 2), {"train": 6, "test": 4}, ""),
        (both("Training") | both("Evaluation", 2), {"train": 6, "val": 4}, ""),
        (both("train") | both("hold-out", 2) | {"unlabelled": 1}, {"train": 6, "test": 4}, "1 image in 'unlabelled'"),
        (both("archive/train") | {"archive/pred": 2}, {"train": 6}, "2 images in 'pred'"),
        (both("train2017") | both("val2017", 1), {"train": 6, "val": 2}, ""),
        (both("train/images") | both("test/images", 2), {"train": 6, "test": 4}, ""),
        (both("train_zip/train") | both("test_zip/test", 2), {"train": 6, "test": 4}, ""),
        (both("train_crops") | both("test_crops", 2), {"train": 6, "test": 4}, ""),
        (both("train") | both("publicTest", 1) | both("private-test", 2), {"train": 6, "test": 6}, ""),
        ({"bar": 3, "disc": 3} | both("val", 2), {"train": 6, "val": 4}, ""),
        (both("train") | {"test": 4, "notes": 1}, {"train": 6}, "1 image in 'notes'"),
    ],
)  # fmt: skip
def test_parts_whatever_stands_beside_them(tmp_path: Path, folders: dict[str, int], counts: dict[str, int], passed_over: str) -> None:
    data = read_dataset(tree(tmp_path, folders))
    assert data.classes == ("bar", "disc")
    assert {part: int((data.parts == part).sum()) for part in counts} == counts
    assert len(data) == sum(counts.values())
    warned = [note for note in data.notes if isinstance(note, Warned)]
    assert sum("which are beside" in note for note in warned) == bool(passed_over)
    assert passed_over in "".join(warned)
    assert sum(folders.values()) - len(data) == sum(int(note.split()[2]) for note in data.notes if note.startswith("Passed over"))


@pytest.mark.parametrize(
    ("folders", "classes", "told"),
    [
        ({"train": 3, "bus": 3, "car": 3}, ("bus", "car", "train"), ""),
        ({"train/x": 3, "bus/x": 3, "test/x": 3}, ("bus", "test", "train"), "Read as classes: 'test', 'train', with images in the folder"),
        ({"bar": 3, "disc": 3, "predict": 3}, ("bar", "disc", "predict"), "Read as a class: 'predict'.* with test='DIR'"),
        ({"trainA": 3, "trainB": 3, "testA": 1}, ("testA", "trainA", "trainB"), "Read as classes: 'testA', 'trainA', 'trainB'"),
        ({"bar/images": 3, "disc/images": 3}, ("bar", "disc"), ""),
        ({"bar": 3, "disc/2019": 3, "disc/2020": 3}, ("bar", "disc"), "Read as the class 'disc', .*'2019', '2020'.*/disc'"),
        (both("images") | both("more"), ("images", "more"), "the classes 'images', 'more', .*'images' holds the folders 'bar', 'disc'"),
        ({"animals/cat": 1, "animals/dog": 1, "plants/fern": 1}, ("animals", "plants"), "'animals' holds the folders 'cat', 'dog'"),
        ({"bar": 3, "disc/train": 2, "disc/test": 2}, ("bar", "disc"), "'disc' holds the folders 'test', 'train'"),
    ],
)  # fmt: skip
def test_classes_that_hold_folders_are_told(tmp_path: Path, folders: dict[str, int], classes: tuple[str, ...], told: str) -> None:
    data = read_dataset(tree(tmp_path, folders))
    assert data.classes == classes
    assert len(data) == sum(folders.values())
    warned = "\n".join(note for note in data.notes if isinstance(note, Warned))
    assert bool(warned) == bool(told)
    assert re.search(told, warned)


def test_deeper_classes_within_parts_are_told(tmp_path: Path) -> None:
    data = read_dataset(tree(tmp_path, both("train/images") | both("test/images") | both("train/other") | both("test/other")))
    assert data.classes == ("images", "other")
    assert any(isinstance(note, Warned) and "'images' holds the folders 'bar', 'disc'" in note for note in data.notes)


def test_a_test_part_beside_a_folder_of_classes_is_refused(tmp_path: Path, cli: Cli) -> None:
    tree(tmp_path / "data", both("images") | both("test"))
    with pytest.raises(DataError, match=r"holds the part 'test' and none that is called train; beside it: 'images'.*, with test='.*/test'"):
        read_dataset(tmp_path / "data")
    done = cli("check", tmp_path / "data")
    assert done.code == 2
    assert f"give '{tmp_path / 'data' / 'images'}' as the data, with --test {tmp_path / 'data' / 'test'}" in done.err
    assert cli("check", tmp_path / "data" / "images", "--test", tmp_path / "data" / "test").code == 0


def test_what_changes_the_result_is_a_warning_even_when_quiet(cli: Cli, pictures: Path) -> None:
    for name in ("rings", "checks"):
        Path("train").mkdir(exist_ok=True)
        (Path("train") / name).symlink_to(pictures / name)
    Path("predict").symlink_to(pictures / "stripes")
    done = cli("fit", ".", "--head", "centroid", "--out", "run", "-q")
    assert done.code == 0, done.err
    assert "Warning: Passed over 20 images in 'predict', which are beside 'train'." in done.err
    assert "warning: Passed over 20 images in 'predict'" in cli("check", ".").out
