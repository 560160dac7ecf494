"""Folders as data sets, and everything that a hurried person gets wrong about them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from headstart.data import Dataset, Labels, ListOptions, read_dataset
from headstart.errors import DataError, ParameterError


def make(root: Path, *names: str) -> Path:
    """Create files; the reader looks at names only, so that they may be empty."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def noted(data: Dataset, *words: str) -> bool:
    return any(all(word in note for word in words) for note in data.notes)


def test_class_folders(tmp_path):
    data = read_dataset(make(tmp_path, "dog/b.JPG", "cat/2.png", "cat/a/deep/1.webp", "dog/a.tiff"))
    assert data.classes == ("cat", "dog")
    assert data.names() == ("cat/2.png", "cat/a/deep/1.webp", "dog/a.tiff", "dog/b.JPG")
    assert data.targets.array.tolist() == [0, 0, 1, 1]
    assert data.targets.array.dtype == np.int64
    assert data.parts.tolist() == [""] * 4
    assert not data.grouped
    assert len(set(data.groups)) == len(data)
    assert data.notes == ()
    assert isinstance(data.targets, Labels)
    assert data.inputs[0] == tmp_path / "cat/2.png"
    assert data.root == tmp_path
    assert data.counts() == {"cat": 2, "dog": 2}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "valid", "TESTING"), ("TRAIN", "Validation", "Test"), ("training_set", "dev", "test-set")],
)
def test_parts(tmp_path, train, val, test):
    make(tmp_path, *(f"{part}/{name}/1.jpg" for part in (train, val, test) for name in "ab"), f"{train}/a/2.jpg", f"{train}/b/2.jpg")
    data = read_dataset(tmp_path)
    assert data.classes == ("a", "b")
    assert data.parts.tolist() == ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert data.counts("train") == {"a": 2, "b": 2}
    assert data.part("val", "test").tolist() == [4, 5, 6, 7]
    assert data.notes == ()


def test_val_and_valid_are_one_part_and_that_is_said(tmp_path):
    data = read_dataset(make(tmp_path, *(f"{part}/{name}/{i}.jpg" for part in ("train", "val", "valid") for name in "ab" for i in "12")))
    assert data.counts("val") == {"a": 4, "b": 4}
    assert noted(data, "'val'", "'valid'", "are read as one part")


def test_a_class_may_be_called_train(tmp_path):
    data = read_dataset(make(tmp_path, *(f"{name}/{i}.jpg" for name in ("train", "bus", "car") for i in range(3))))
    assert data.classes == ("bus", "car", "train")
    data = read_dataset(make(tmp_path / "deep", *(f"{name}/x/{i}.jpg" for name in ("train", "bus", "test") for i in range(3))))
    assert data.classes == ("bus", "test", "train")


def test_folders_beside_the_parts_are_named(tmp_path):
    make(tmp_path, *(f"{part}/{name}/{i}.jpg" for part in ("train", "test") for name in "ab" for i in "12"), "extra/x/1.jpg", "loose.jpg")
    data = read_dataset(tmp_path)
    assert data.classes == ("a", "b")
    assert noted(data, "Passed over 1 image in 'extra'", "beside 'test', 'train'")
    assert noted(data, "1 image directly in the data folder")


def test_parts_inside_the_classes(tmp_path):
    data = read_dataset(make(tmp_path, *(f"{name}/{part}/{i}.jpg" for part in ("train", "test") for name in "ab" for i in "12")))
    assert data.counts("train") == data.counts("test") == {"a": 2, "b": 2}
    assert noted(data, "inside the classes name the parts: 'test', 'train'")


def test_an_unpacked_archive_is_entered(tmp_path):
    make(tmp_path, "pets-v2/data/cat/1.jpg", "pets-v2/data/dog/1.jpg", "__MACOSX/pets-v2/._x", ".DS_Store")
    data = read_dataset(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.names()[0] == "cat/1.jpg"
    assert noted(data, "Read from 'pets-v2/data', the only folder")
    make(tmp_path / "other", "name/train/cat/1.jpg", "name/train/dog/1.jpg", "name/test/cat/1.jpg")
    assert read_dataset(tmp_path / "other").parts.tolist() == ["train", "train", "test"]


def test_folders_that_hold_the_classes_one_level_deeper(tmp_path):
    data = read_dataset(make(tmp_path, *(f"{domain}/{digit}/1.png" for domain in ("mnist", "usps") for digit in range(3))))
    assert data.classes == ("mnist", "usps")
    assert noted(data, "'mnist' holds the folders '0', '1', '2'", f"give the folder '{tmp_path / 'mnist'}'")


def test_what_is_passed_over_is_counted(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg", "a/.hidden.jpg", "a/Thumbs.db", ".git/x.jpg", "b/notes.txt", "b/2.heic", "b/3.heic", "a/README")
    make(tmp_path, "stray.jpg")
    (tmp_path / "empty").mkdir()
    data = read_dataset(tmp_path)
    assert data.names() == ("a/1.jpg", "b/1.jpg")
    assert noted(data, "Passed over 3 hidden or system files: .git, a/.hidden.jpg and a/Thumbs.db.")
    assert noted(data, "Passed over 1 non-image file: b/notes.txt.")
    assert noted(data, "Passed over 3 unrecognised files: a/README, b/2.heic and b/3.heic.")
    assert noted(data, "Passed over 1 image directly in the data folder")
    assert noted(data, "No images in 1 class folder of the data folder: 'empty'")
    assert noted(data, "Only one training image of 'a', 'b'")


def test_unlabelled_test_images_are_passed_over(tmp_path):
    data = read_dataset(make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/1.jpg", "test/2.jpg"))
    assert data.parts.tolist() == ["train", "train"]
    assert noted(data, "2 images directly in test/", "no class folder")


def test_numbers_are_sorted_as_numbers(tmp_path):
    data = read_dataset(make(tmp_path, *(f"{i}/x.png" for i in (0, 1, 2, 9, 10, 11))))
    assert data.classes == ("0", "1", "2", "9", "10", "11")
    assert [data.labels(i) for i in range(6)] == [("0",), ("1",), ("2",), ("9",), ("10",), ("11",)]


def test_unicode_and_spaces(tmp_path):
    data = read_dataset(make(tmp_path, "naïve café/ä ö.jpg", "日本 猫/写真 1.png", "a\nb/x.jpg"))
    assert set(data.classes) == {"naïve café", "日本 猫", "a\nb"}
    assert "日本 猫/写真 1.png" in data.names()


@pytest.mark.skipif(os.name == "nt", reason="file names are bytes on POSIX only")
def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    os.close(os.open(folder + b"/\xff.jpg", os.O_CREAT | os.O_WRONLY))
    make(tmp_path, "b/1.jpg")
    data = read_dataset(tmp_path)
    assert all(name.encode() for name in (*data.names(), *data.classes))
    assert all(path.exists() for path in data.inputs)


def test_look_alike_classes_are_noted(tmp_path):
    data = read_dataset(make(tmp_path, "Cat/1.jpg", "cat/1.jpg", "big dog/1.jpg", "big_dog/1.jpg", "horse/1.jpg"))
    assert len(data.classes) == 5
    assert noted(data, "'Cat' and 'cat' differ only by case") or noted(data, "'cat' and 'Cat' differ only by case")
    assert noted(data, "'big dog'", "'big_dog'", "probably one class")


def test_one_class_is_read_and_noted(tmp_path):
    assert noted(read_dataset(make(tmp_path, "cat/1.jpg", "cat/2.jpg")), "only one class, 'cat'")


def test_symlinks(tmp_path):
    make(tmp_path, "data/a/1.jpg", "data/b/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/a/self").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/b/gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "data/b/linked.jpg").symlink_to(tmp_path / "elsewhere/2.jpg")
    (tmp_path / "data/c").symlink_to(tmp_path / "elsewhere")
    data = read_dataset(tmp_path / "data")
    assert data.names() == ("a/1.jpg", "a/more/2.jpg", "b/1.jpg", "b/linked.jpg", "c/2.jpg")
    assert noted(data, "2 repeated folders: a/loop and a/self.")
    assert noted(data, "1 broken link: b/gone.jpg.")


def test_links_between_classes_do_not_explode(tmp_path):
    names = [f"c{i}" for i in range(12)]
    make(tmp_path, *(f"{name}/1.jpg" for name in names))
    for one in names:
        for other in names:
            if one != other:
                (tmp_path / one / f"to-{other}").symlink_to(tmp_path / other)
    assert len(read_dataset(tmp_path)) == 144  # entered once each: the ways through all links are without number


def test_unreadable_folders(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "b/1.jpg", "locked/1.jpg")
    original = os.scandir

    def scandir(path):
        if "locked" in os.fspath(path):
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"1 folder cannot be read, so that images would be missing: .*locked \(Permission denied\)"):
        read_dataset(tmp_path)
    with pytest.raises(DataError, match=r"locked \(Permission denied\) cannot be read; check its permissions"):
        read_dataset(tmp_path / "locked")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_image(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg")
    os.mkfifo(tmp_path / "a/2.jpg")
    data = read_dataset(tmp_path)
    assert len(data) == 2
    assert noted(data, "1 special")


def test_path_that_is_missing_names_the_nearest(tmp_path):
    make(tmp_path, "photos/a/1.jpg", "list.csv")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path / "fotos" / "a")
    assert "there is no file or folder" in str(caught.value)
    assert "'list.csv', 'photos/'" in str(caught.value)
    assert "Did you mean photos?" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cat.jpg", "is a single image; give the folder"),
        ("data.zip", "is an archive; unpack it"),
        ("data.tar.gz", "is an archive; unpack it"),
        ("data.what", r"lists end in \.csv, \.tsv"),
    ],
)
def test_a_file_instead_of_a_folder(tmp_path, name, words):
    make(tmp_path, name)
    with pytest.raises(DataError, match=words):
        read_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("https://example.org/data", "is an address; data are read from folders and files only"),
        ("torchvison:MNIST", "Did you mean torchvision?"),
        ("", "the name of the data is empty"),
        ("tfds:mnist", "Public sets are called torchvision:NAME"),
    ],
)
def test_addresses_and_unknown_kinds(source, words):
    with pytest.raises(DataError) as caught:
        read_dataset(source)
    assert words in str(caught.value)


def test_layouts_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"is empty\. The layout must be DATA/CLASS/image\.jpg"):
        read_dataset(tmp_path)
    make(tmp_path, "flat/1.jpg", "flat/2.jpg", "text/a/1.log", "parts/train/1.jpg", "parts/test/1.jpg")
    with pytest.raises(DataError, match=r"2 images lie directly in .*flat, and there are no class folders.*The layout must be"):
        read_dataset(tmp_path / "flat")
    with pytest.raises(DataError, match=r"there are no images in .*text or below it\. Passed over 1 non-image file: a/1\.log"):
        read_dataset(tmp_path / "text")
    with pytest.raises(DataError, match=r"1 image lies directly in .*train, and there are no class folders"):
        read_dataset(tmp_path / "parts")


def test_a_test_class_that_training_lacks_is_refused_with_the_nearest_name(tmp_path):
    make(tmp_path, "train/horse/1.jpg", "train/cow/1.jpg", "test/horze/1.jpg", "test/cow/1.jpg")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert "the test part" in str(caught.value)
    assert "has a class that the training data does not have: 'horze' (1 image)" in str(caught.value)
    assert "Did you mean horse?" in str(caught.value)


def test_separate_test_data(tmp_path):
    make(tmp_path, "train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "train/dog/2.jpg", "exam/dog/9.jpg")
    data = read_dataset(tmp_path / "train", test=tmp_path / "exam")
    assert data.parts.tolist() == ["train"] * 4 + ["test"]
    assert data.labels(4) == ("dog",)
    assert noted(data, "Test part: no image of 'cat'")
    make(tmp_path, "exam/dogs/1.jpg")
    with pytest.raises(DataError, match=r"the test part of .*exam has a class .*'dogs' \(1 image\).*Did you mean dog\?"):
        read_dataset(tmp_path / "train", test=tmp_path / "exam")


def test_test_data_matched_across_unicode_forms(tmp_path):
    name = "café"
    make(tmp_path, f"train/{unicodedata.normalize('NFC', name)}/1.jpg", "train/b/1.jpg")
    make(tmp_path, f"exam/{unicodedata.normalize('NFD', name)}/1.jpg", "exam/b/1.jpg")
    if len(list((tmp_path / "exam").iterdir())) < 2:
        pytest.skip("this file system normalises names")
    data = read_dataset(tmp_path / "train", test=tmp_path / "exam")
    assert data.counts("test") == {"b": 1, unicodedata.normalize("NFC", name): 1}
    assert noted(data, "is read as the class")


def test_the_same_folder_for_training_and_test(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg")
    with pytest.raises(DataError, match="2 images are in the training data and in the test data"):
        read_dataset(tmp_path, test=tmp_path)


def test_own_test_part_gives_way_to_the_one_given(tmp_path):
    make(tmp_path, *(f"d/{part}/{name}/1.jpg" for part in ("train", "test") for name in "ab"))
    make(tmp_path, *(f"e/{part}/{name}/1.jpg" for part in ("train", "test") for name in "ab"))
    data = read_dataset(tmp_path / "d", test=tmp_path / "e")
    assert data.parts.tolist() == ["train", "train", "test", "test"]
    assert noted(data, "2 images of the test part", "are left out")
    assert noted(data, "only its own test part is used (2 of 4 images)")


def test_classes_of_a_model_are_matched_by_name(tmp_path):
    make(tmp_path, "dog/1.jpg", "ant/1.jpg")
    data = read_dataset(tmp_path, classes=("dog", "cat", "ant"))
    assert data.classes == ("dog", "cat", "ant")
    assert sorted(data.targets.cell(i) for i in range(len(data))) == ["ant", "dog"]
    with pytest.raises(DataError, match=r"'ant' \(1 image\).*Known classes: 'dog', 'aunt'.* Did you mean aunt\?"):
        read_dataset(tmp_path, classes=("dog", "aunt"))
    with pytest.raises(DataError, match="a class is given twice: 'dog'"):
        read_dataset(tmp_path, classes=("dog", "dog", "ant"))


def test_groups_from_names(tmp_path):
    make(tmp_path, "a/person1_1.jpg", "a/person1_2.jpg", "b/person2_1.jpg", "b/other.jpg")
    data = read_dataset(tmp_path, group_from=r"person(\d+)_")
    assert dict(zip(data.names(), data.groups, strict=True)) == {
        "a/person1_1.jpg": "1",
        "a/person1_2.jpg": "1",
        "b/other.jpg": "b/other.jpg (alone)",
        "b/person2_1.jpg": "2",
    }
    assert noted(data, "1 of 4 names do not match", "'b/other.jpg'")
    whole = read_dataset(tmp_path, group_from=r"person\d|other")
    assert set(whole.groups) == {"person1", "person2", "other"}
    assert noted(read_dataset(tmp_path, group_from=".*"), "every image a group of its own")
    assert noted(read_dataset(tmp_path, group_from=r"\.jpg"), "all images into one group")


def test_group_patterns_that_do_not_work(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg")
    with pytest.raises(ParameterError, match=r"group_from='\(' is not a regular expression: .* An example: 'person"):
        read_dataset(tmp_path, group_from="(")
    with pytest.raises(ParameterError, match=r"matches none of the 2 names, for example 'a/1\.jpg'"):
        read_dataset(tmp_path, group_from="patient")
    with pytest.raises(ParameterError, match="both say what belongs together"):
        read_dataset(tmp_path, group_from="a", lists=ListOptions(columns={"group": "b"}))


def test_groups_of_training_and_test_data(tmp_path):
    make(tmp_path, "t/a/p1_1.jpg", "t/b/p2_1.jpg", "e/a/p1_2.jpg", "e/b/p3_1.jpg")
    data = read_dataset(tmp_path / "t", test=tmp_path / "e", group_from=r"p\d")
    assert data.groups.tolist() == ["p1", "p2", "p1", "p3"]


def test_ten_thousand_files(tmp_path):
    for name in range(10):
        folder = tmp_path / str(name)
        folder.mkdir()
        for i in range(1000):
            os.close(os.open(folder / f"{i}.jpg", os.O_CREAT | os.O_WRONLY))
    data = read_dataset(tmp_path)
    assert len(data) == 10_000
    assert set(data.counts().values()) == {1000}


def test_order_is_that_of_the_names_and_not_of_the_disk(tmp_path, monkeypatch):
    make(tmp_path, *(f"{name}/{i}.jpg" for name in "cab" for i in (3, 1, 2)))
    expected = read_dataset(tmp_path).names()
    original = os.scandir

    class Backwards:
        def __init__(self, path):
            with original(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Backwards)
    assert read_dataset(tmp_path).names() == expected


@pytest.mark.data
def test_shared_sets(shared_data):
    data = read_dataset(shared_data / "cats_dogs")
    assert data.counts("train") == {"cats": 300, "dogs": 300}
    assert data.counts("test") == {"cats": 150, "dogs": 150}
    chest = read_dataset(shared_data / "chest_xray", group_from=r"person\d+|(?:NORMAL2-)?IM-\d+")
    train, test = (set(chest.groups[chest.part(part)]) for part in ("train", "test"))
    assert not train & test  # the set is split by patient
    assert read_dataset(shared_data / "cifar10_12k", test=shared_data / "cifar10_12k" / "test").counts("test")["frog"] == 200
