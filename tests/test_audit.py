"""The audit: every fault is put into real files and must be found, and clean data must stay without findings."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.audit import Audit, Finding, check
from headstart.data import dataset_from_arrays, dataset_from_paths, read_dataset


def picture(path: Path, seed: int, *, size: tuple[int, int] = (24, 24), mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def seed_of(*key: object) -> int:
    return zlib.crc32(repr(key).encode())


@pytest.fixture
def clean(tmp_path):
    """Two classes, 24 training and 4 test images each, of one form, names without numbers that belong together."""
    for j, (part, count) in enumerate((("train", 24), ("test", 4))):
        for k, name in enumerate(("cat", "dog")):
            for i in range(count):
                picture(tmp_path / part / name / f"{i:03d}.png", seed=1000 * j + 100 * k + i)
    return tmp_path


def kinds(audit: Audit) -> set[str]:
    return {finding.kind for finding in audit.findings}


def the(audit: Audit, kind: str) -> Finding:
    found = [finding for finding in audit.findings if finding.kind == kind]
    assert len(found) == 1, audit.lines()
    return found[0]


def test_clean_data(clean):
    audit = check(read_dataset(clean))
    assert kinds(audit) == {"small test part"}
    assert audit.ok
    assert audit.images == 56
    assert audit.counts == {"train": {"cat": 24, "dog": 24}, "test": {"cat": 4, "dog": 4}}
    assert "an accuracy of 90 % would be known within 21% only" in the(audit, "small test part").message


def test_unreadable_files(clean):
    (clean / "train/cat/000.png").write_bytes(b"")
    (clean / "train/cat/001.png").write_bytes((clean / "train/cat/001.png").read_bytes()[:300])
    (clean / "train/dog/000.png").write_text("<html>")
    audit = check(read_dataset(clean))
    finding = the(audit, "unreadable")
    assert finding.severity == "warning"
    assert finding.count == 3
    assert "3 of 56 files cannot be read" in finding.message
    assert "left out of training and of the score" in finding.message
    assert set(audit.refused) == {"train/cat/000.png", "train/cat/001.png", "train/dog/000.png"}
    assert audit.refused["train/cat/000.png"] == "the file is empty"
    assert any(example == "train/cat/000.png: the file is empty" for example in finding.examples)


def test_a_class_of_which_nothing_can_be_read(clean):
    for path in (clean / "train/cat").iterdir():
        path.write_bytes(b"no image")
    finding = the(check(read_dataset(clean)), "class lost")
    assert finding.severity == "error"
    assert "No training image of 'cat' can be read" in finding.message


def test_files_that_vanish_after_reading_are_unreadable(clean):
    data = read_dataset(clean)
    (clean / "train/cat/000.png").unlink()
    assert "cannot be read" in check(data).refused["train/cat/000.png"]


def test_copies_within_a_class(clean):
    shutil.copy(clean / "train/cat/000.png", clean / "train/cat/copy.png")
    finding = the(check(read_dataset(clean)), "copies")
    assert finding.count == 1
    assert finding.examples == ("train/cat/copy.png",)
    assert "1 image is an exact copy of another image of the same class: they count more than once" in finding.message
    unsplit = the(check(read_dataset(clean / "train")), "copies")
    assert unsplit.severity == "warning"
    assert "may fall on both sides of a split" in unsplit.message


def test_copies_with_another_label(clean):
    shutil.copy(clean / "train/cat/000.png", clean / "train/dog/same.png")
    finding = the(check(read_dataset(clean)), "contradictory copies")
    assert finding.severity == "error"
    assert finding.examples == ("train/cat/000.png (cat) = train/dog/same.png (dog)",)
    assert "2 image files are exact copies of files in another class (1 different pictures)" in finding.message
    assert "no classifier can be right about both" in finding.message


def test_copies_in_the_test_part(clean):
    shutil.copy(clean / "train/cat/000.png", clean / "test/cat/leak.png")
    audit = check(read_dataset(clean))
    finding = the(audit, "leak")
    assert not audit.ok
    assert finding.count == 1
    assert "1 test image is an exact copy of training images" in finding.message
    assert "the score is too high" in finding.message
    assert finding.examples == ("test/cat/leak.png = train/cat/000.png",)
    assert "copies" not in kinds(audit)


def test_copies_in_the_validation_part(clean):
    (clean / "val/cat").mkdir(parents=True)
    shutil.copy(clean / "train/cat/000.png", clean / "val/cat/leak.png")
    finding = the(check(read_dataset(clean)), "leak into validation")
    assert "1 validation image is an exact copy of training images" in finding.message


def test_groups_on_both_sides(clean):
    for part in ("train", "test"):
        picture(clean / part / "cat/p7_1.png", seed=5000 + len(part))
    finding = the(check(read_dataset(clean, group_from=r"p\d")), "parted groups")
    assert finding.severity == "error"
    assert finding.examples == ("p7",)
    assert "1 groups are in both the test part and the training part (1 test images)" in finding.message


def test_one_class_and_no_training_images(tmp_path):
    picture(tmp_path / "a/cat/1.png", 1)
    one = the(check(read_dataset(tmp_path / "a")), "one class")
    assert one.severity == "error"
    assert "There is only one class, 'cat': a classifier needs at least two" in one.message
    picture(tmp_path / "b/test/cat/1.png", 1)
    picture(tmp_path / "b/test/dog/1.png", 2)
    assert "these data can be used for a test only" in the(check(read_dataset(tmp_path / "b")), "no training images").message


def test_few_images_and_imbalance(tmp_path):
    for i in range(60):
        picture(tmp_path / "cat" / f"{i}.png", i)
    for i in range(5):
        picture(tmp_path / "dog" / f"{i}.png", 100 + i)
    audit = check(read_dataset(tmp_path))
    assert "Fewer than 10 training images in 'dog' (5)" in the(audit, "few images").message
    imbalance = the(audit, "imbalance")
    assert imbalance.severity == "warning"
    assert "'cat' has 12 times as many training images as 'dog'; always answering 'cat' would be right in 92% of cases" in imbalance.message


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("file format", {"suffix": ".png"}, {"suffix": ".bmp"}),
        ("image size", {"size": (40, 30)}, {"size": (30, 40)}),
        ("colour mode", {"mode": "RGB"}, {"mode": "L"}),
    ],
)
def test_shortcuts(tmp_path, name, first, second):
    for label, form in (("ill", first), ("well", second)):
        form = dict(form)
        suffix = form.pop("suffix", ".png")
        for i in range(40):
            picture(tmp_path / label / f"{i:02d}{suffix}", i + 1000 * (label == "ill"), **form)
    found = [
        finding
        for finding in check(read_dataset(tmp_path)).findings
        if finding.kind == "shortcut" and f"From the {name}" in finding.message
    ]
    assert len(found) == 1
    assert found[0].severity == "warning"
    assert "the class can be predicted in 100% of cases (chance: 50%" in found[0].message
    assert "A classifier may learn this instead of the content" in found[0].message
    assert len(found[0].examples) == 2
    assert found[0].examples[0].startswith("ill: ")


def test_forms_that_do_not_depend_on_the_class_are_no_shortcut(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("a", "b", "c"):
        for i in range(60):
            size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
            suffix = rng.choice([".png", ".bmp", ".jpg"])
            picture(tmp_path / label / f"{i:02d}{suffix}", int(rng.integers(1 << 30)), size=size, mode=str(rng.choice(["RGB", "L"])))
    assert "shortcut" not in kinds(check(read_dataset(tmp_path)))


def test_groups_in_file_names(tmp_path):
    rng = np.random.default_rng(0)
    seed = iter(range(10_000))
    for label in ("ill", "well"):
        for person in range(30):
            for i in range(rng.integers(1, 5)):
                picture(tmp_path / label / f"{label}-person{person}_scan_{i}.png", next(seed))
    data = read_dataset(tmp_path)
    finding = the(check(data), "groups in names")
    assert finding.severity == "warning"
    assert "60 groups in" in finding.message
    assert "the score is too high" in finding.message
    pattern = finding.message.split("--group-from ")[1].strip("'")
    grouped = read_dataset(tmp_path, group_from=pattern)
    assert len(set(grouped.groups)) == 60
    assert "groups in names" not in kinds(check(grouped))


def test_groups_in_file_names_that_the_parts_tear_apart(tmp_path):
    for part in ("train", "test"):
        for label in ("a", "b"):
            for person in range(12):
                for i in range(2):
                    picture(tmp_path / part / label / f"{label}{person}_{part}{i}.png", seed_of(part, label, person, i))
    finding = the(check(read_dataset(tmp_path)), "groups in names")
    assert finding.severity == "warning"
    assert "24 of them have images in the test part and outside it" in finding.message


def test_folders_below_classes_as_groups(tmp_path):
    for label in ("a", "b"):
        for person in range(12):
            for i in range(2):
                picture(tmp_path / label / f"{label} patient {person}" / f"{i}.png", seed_of(label, person, i))
    finding = the(check(read_dataset(tmp_path)), "groups in names")
    assert "24 groups in 48 images" in finding.message
    assert "--group-from '([^/]+)/[^/]+$'" in finding.message


def test_numbers_that_start_again_in_each_class_are_no_groups(tmp_path):
    for label in ("a", "b", "c"):
        for i in range(20):
            picture(tmp_path / label / f"img{i}_x.png", seed_of(label, i))
    assert "groups in names" not in kinds(check(read_dataset(tmp_path)))


def test_notes_of_reading_are_part_of_the_audit(clean):
    (clean / "train/cat/readme.txt").touch()
    audit = check(read_dataset(clean))
    assert "Passed over 1 non-image file:" in the(audit, "reading").message


def test_arrays_and_several_labels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 8, 8, 3), dtype=np.uint8)
    images[1] = images[0]
    audit = check(dataset_from_arrays(images, ["a", "b"] * 20))
    assert the(audit, "contradictory copies").examples == ("array[0] (a) = array[1] (b)",)
    with pytest.warns(RuntimeWarning, match="a matrix with one 1 in each row. It is read as several labels per image"):
        labelled = dataset_from_arrays(images, np.tile([[1, 0], [1, 0]], (20, 1)).astype(bool), classes=["a", "b"])
    several = check(labelled)
    assert "contradictory copies" not in kinds(several)
    assert "copies" in kinds(several)


def test_progress_and_deep(clean):
    seen: list[tuple[int, int]] = []
    audit = check(read_dataset(clean), deep=True, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 56) for i in range(56)]
    assert audit.findings == check(read_dataset(clean)).findings


def test_an_interruption_ends_it_at_once(clean):
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(read_dataset(clean), progress=stop)


def test_lines_and_dictionary(clean):
    for i in range(5):
        shutil.copy(clean / "train/cat/000.png", clean / f"test/cat/leak{i}.png")
    (clean / "train/dog/000.png").write_bytes(b"")
    audit = check(read_dataset(clean))
    lines = audit.lines()
    assert lines[0] == f"61 images in {clean}"
    assert [line.split() for line in lines[2:5]] == [["class", "train", "test"], ["cat", "24", "9"], ["dog", "24", "4"]]
    severities = [line.split(":")[0] for line in lines if line.startswith(("error: ", "warning: ", "note: "))]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert lines[-1] == "1 error, 2 warnings, 1 note"
    assert str(audit) == "\n".join(lines)
    again = json.loads(json.dumps(audit.to_dict()))
    assert again["images"] == 61
    assert again["counts"]["train"] == {"cat": 24, "dog": 24}
    assert again["refused"] == {"train/dog/000.png": "the file is empty"}
    assert [finding["kind"] for finding in again["findings"]] == [finding.kind for finding in audit.findings]


def test_many_examples_and_many_classes_are_shortened(tmp_path):
    for i in range(30):
        picture(tmp_path / str(i) / "x.png", i)
    for i in range(5):
        (tmp_path / str(i) / "y.png").write_bytes(b"")
    lines = check(read_dataset(tmp_path)).lines()
    assert "... and 10 more classes" in lines
    assert "    ... and 2 more" in lines


@pytest.mark.data
def test_hostile_files(shared_data):
    paths = sorted(path for path in (shared_data / "bad_images").rglob("*") if path.is_file())
    data = dataset_from_paths(paths, [path.parent.name for path in paths], root=shared_data / "bad_images")
    audit = check(data)
    assert audit.images == 654
    assert len(audit.refused) >= 40
    assert all(audit.refused.values())


@pytest.mark.slow
@pytest.mark.data
def test_chest_xray(shared_data):
    audit = check(read_dataset(shared_data / "chest_xray"))
    assert audit.ok
    finding = the(audit, "groups in names")
    assert finding.severity == "note"  # the set is split by patient
    assert "The parts keep them together" in finding.message


@pytest.mark.data
def test_nothing_is_made_up_about_ordinary_sets(shared_data):
    assert check(read_dataset(shared_data / "cats_dogs")).findings == ()
    assert check(read_dataset(shared_data / "digits" / "mnist")).findings == ()
