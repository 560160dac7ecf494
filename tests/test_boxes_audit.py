"""The audit of boxes: what is drawn twice, in two classes, tiny or over everything; and statistics that hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headstart.audit import Audit, check
from headstart.audit.boxes import find_box_faults
from headstart.data import Dataset, boxes_of, read_dataset
from made_boxes import SAMPLE, Images, Thing, voc


def audited(root: Path, images: Images) -> dict[str, tuple[str, str, tuple[str, ...], int]]:
    voc(root, images)
    audit: Audit = check(read_dataset(root))
    return {one.kind: (one.severity, one.message, one.examples, one.count) for one in audit.findings}


def test_things_that_are_drawn_twice(tmp_path: Path) -> None:
    twice = [Thing("cat", (10, 5, 30, 35)), Thing("cat", (10, 5, 30.5, 35)), Thing("dog", (40, 5, 50, 15)), Thing("cat", (40, 5, 50, 15))]
    found = audited(tmp_path, {"a.jpg": ((40, 60), twice), **{name: one for name, one in SAMPLE.items() if name != "a.jpg"}})
    severity, message, examples, count = found["repeated boxes"]
    assert (severity, examples, count) == ("warning", ("JPEGImages/a.jpg: 1",), 1)
    assert message.startswith("1 image with a box that lies on another of the same class (IoU above 0.9)")
    severity, message, examples, count = found["boxes of two classes"]
    assert (severity, examples, count) == ("warning", ("JPEGImages/a.jpg",), 1)
    assert "'cat' and 'dog' (1)" in message


def test_neighbours_are_no_copies(tmp_path: Path) -> None:
    found = audited(tmp_path, SAMPLE)
    assert not {"repeated boxes", "boxes of two classes", "repeated annotations", "tiny boxes", "whole images", "crowds", "one class"} & {
        *found
    }
    assert found["few boxes"][1].startswith("Fewer than 10 training boxes of 'cat' (2 in 2 images) and 'dog' (2 in 2 images).")


def test_annotations_under_a_wrong_name(tmp_path: Path) -> None:
    found = audited(tmp_path, {**SAMPLE, "e.jpg": ((40, 60), SAMPLE["a.jpg"][1][::-1])})
    assert found["repeated annotations"][2:] == (("JPEGImages/a.jpg = JPEGImages/e.jpg",), 2)


def test_tiny_boxes_and_whole_images(tmp_path: Path) -> None:
    images: Images = {
        "a.jpg": ((400, 600), [Thing("cat", (10, 10, 16, 17)), Thing("cat", (100, 100, 110, 110)), Thing("dog", (1, 1, 600, 400))]),
    }
    found = audited(tmp_path, images)
    assert found["tiny boxes"][0] == "warning"
    assert found["tiny boxes"][2:] == (("JPEGImages/a.jpg: 'cat'",), 1)
    assert found["whole images"][2:] == (("JPEGImages/a.jpg: 'dog'",), 1)


def test_statistics_are_those_of_the_boxes(tmp_path: Path) -> None:
    images: Images = {
        "a.jpg": ((200, 200), [Thing("cat", (0, 0, 20, 20)), Thing("cat", (0, 0, 50, 50)), Thing("cat", (0, 0, 100, 200))]),
        "b.jpg": ((200, 200), []),
    }
    message = audited(tmp_path, images)["sizes of boxes"][1]
    assert message.startswith("3 boxes in 2 images, 1.5 in each (0 to 3; 1 image without any). ")
    assert "Their longer side is 25 % of the image's in the middle" in message
    assert "1 are small, 1 medium and 1 large" in message
    assert message.endswith("The middle of their centres is at 12 % of the width and 12 % of the height.")


def test_a_class_without_a_training_box(tmp_path: Path) -> None:
    array = np.zeros((2, 2, 6), np.float32)
    array[:, 0, :3] = 1, 40, 40
    array[:, 1, :5] = [[5, 5, 20, 20, 0], [5, 5, 20, 20, 1]]
    data = Dataset((tmp_path / "a.jpg", tmp_path / "b.jpg"), boxes_of(array, ("cat", "dog")), np.array(["train", "test"]))
    (found,) = (one for one in find_box_faults(data) if one.kind == "no boxes")
    assert (found.severity, found.count) == ("error", 1)
    assert found.message == "No training box of 'dog': it cannot be learned."


def test_copies_with_other_boxes(tmp_path: Path) -> None:
    voc(tmp_path, SAMPLE)
    (tmp_path / "JPEGImages/d.jpg").write_bytes((tmp_path / "JPEGImages/b.jpg").read_bytes())
    xml = tmp_path / "Annotations/d.xml"
    xml.write_text(xml.read_text().replace("<width>32", "<width>50").replace("<height>64", "<height>50"))
    found = {one.kind: one.message for one in check(read_dataset(tmp_path)).findings}
    assert "2 image files" in found["contradictory copies"] or "with other boxes (1 different pictures)" in found["contradictory copies"]
    assert "at least one set of boxes of each is wrong, and no model can be right about both" in found["contradictory copies"]


def test_many_boxes_are_compared_in_blocks() -> None:
    rng = np.random.default_rng(0)
    count = 1200
    array = np.zeros((1, 1 + count, 6), np.float32)
    array[0, 0, :3] = count, 4000, 4000
    array[0, 1:, :2] = rng.integers(0, 3900, (count, 2))
    array[0, 1:, 2:4] = array[0, 1:, :2] + 50
    array[0, 1100, :4] = array[0, 20, :4]
    data = Dataset((Path("a.jpg"),), boxes_of(array, ("cat",)), np.array([""]))
    (found,) = (one for one in find_box_faults(data) if one.kind == "repeated boxes")
    assert found.examples == ("a.jpg: 1",)
