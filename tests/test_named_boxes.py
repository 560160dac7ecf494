"""Sets of torchvision with boxes, read by torchvision itself from folders laid out as it unpacks them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import Dataset, read_dataset
from headstart.data.boxes import Boxes
from headstart.errors import DataError

pytest.importorskip("torchvision")

VOC = """<annotation><source><database>The VOC2007 Database</database></source><size><width>40</width><height>30</height><depth>3</depth>
</size><object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>16</ymax>
</bndbox></object></annotation>"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "datasets" / "torchvision"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 255, (30, 40, 3), np.uint8)).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def voc(folder: Path, **parts: tuple[str, ...]) -> None:
    for part, names in parts.items():
        text(folder / "ImageSets" / "Main" / f"{part}.txt", *names)
        for name in names:
            picture(folder / "JPEGImages" / f"{name}.jpg")
            text(
                folder / "Annotations" / f"{name}.xml",
                VOC.format(name="dog" if name[-1] in "13" else "cat", difficult=int(name == "000003")),
            )


def read(name: str, tmp_path: Path) -> tuple[Dataset, Boxes]:
    data = read_dataset(f"torchvision:{name}", cache=tmp_path, announce=str)
    assert isinstance(data.targets, Boxes)
    return data, data.targets


def test_voc_2007_has_three_parts_and_counts_from_one(root: Path, tmp_path: Path) -> None:
    voc(root / "VOCdevkit" / "VOC2007", train=("000001", "000002"), val=("000003",), test=("000004",))
    data, targets = read("VOCDetection:2007", tmp_path)
    assert [path.stem for path in data.inputs] == ["000001", "000002", "000003", "000004"]
    assert data.parts.tolist() == ["train", "train", "val", "test"]
    assert targets.classes == ("cat", "dog")
    assert targets.labels.tolist() == [1, 0, 1, 0]
    assert targets.crowd.tolist() == [False, False, True, False]
    np.testing.assert_array_equal(targets.boxes[0], [4, 5, 20, 16])


def test_of_voc_2012_the_validation_part_is_tested_on(root: Path, tmp_path: Path) -> None:
    voc(root / "VOCdevkit" / "VOC2012", train=("000001", "000002"), val=("000005",))
    data, _ = read("VOCDetection", tmp_path)
    assert data.parts.tolist() == ["train", "train", "test"]


def test_kitti_and_its_regions_that_nobody_marked(root: Path, tmp_path: Path) -> None:
    raw = root / "Kitti" / "raw" / "training"
    picture(raw / "image_2" / "000000.png")
    picture(raw / "image_2" / "000001.png")
    text(raw / "label_2" / "000000.txt", "Car 0.00 0 1.85 3.5 4 21 18.25 1.67 1.87 3.69 -16.53 2.39 58.49 1.57",
         "DontCare -1 -1 -10 25 2 38 9 -1 -1 -1 -1000 -1000 -1000 -10")  # fmt: skip
    text(raw / "label_2" / "000001.txt", "Tram 0.00 0 1.85 1 2 30 28 1.67 1.87 3.69 -16.53 2.39 58.49 1.57")
    _, targets = read("Kitti", tmp_path)
    boxes, labels, crowd = targets.of(0)
    named = dict(zip(np.array(targets.classes)[labels].tolist(), zip(boxes.tolist(), crowd.tolist(), strict=True), strict=True))
    assert named["Tram"] == ([25, 2, 38, 9], True)  # there may be a tram in the region
    cars = sorted(
        zip(boxes[labels == targets.classes.index("Car")].tolist(), crowd[labels == targets.classes.index("Car")].tolist(), strict=True)
    )
    assert cars == [([3.5, 4, 21, 18.25], False), ([25, 2, 38, 9], True)]
    assert targets.of(1)[2].tolist() == [False]
    text(raw / "label_2" / "000001.txt", "Tram 0.00 0 1.85 1 2")
    with pytest.raises(DataError, match=r"000001\.txt: damaged"):
        read("Kitti", tmp_path)


def test_faces_of_wider_face(root: Path, tmp_path: Path) -> None:
    base = root / "widerface"
    for part in ("train", "val"):
        picture(base / f"WIDER_{part}" / "images" / f"{part}.jpg")
        picture(base / f"WIDER_{part}" / "images" / f"{part} empty.jpg")
        faces = ("2", "3 4 10 12 0 0 0 0 0 0", "20 4 5 6 2 0 0 1 2 0")
        listed = base / "wider_face_split" / f"wider_face_{part}_bbx_gt.txt"
        text(listed, f"{part}.jpg", *faces, f"{part} empty.jpg", "0", "0 0 0 0 0 0 0 0 0 0")
    (base / "WIDER_test").mkdir()
    data, targets = read("WIDERFace", tmp_path)
    assert data.parts.tolist() == ["train", "train", "test", "test"]
    assert targets.classes == ("face",)
    np.testing.assert_array_equal(targets.of(2)[0], [[3, 4, 13, 16], [20, 4, 25, 10]])
    assert targets.of(2)[2].tolist() == [False, True]  # the annotators call the second face invalid
    assert len(targets.of(1)[0]) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("VOCDetection:2014", "torchvision:VOCDetection:2014 is not known; known are torchvision:VOCDetection:2012,"),
        ("Kitti:2", "torchvision:Kitti:2 is not known; it has no versions."),
        ("VOCDetektion", "Did you mean VOCDetection?"),
    ],
)
def test_what_there_is_not(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_dataset(f"torchvision:{name}", cache=tmp_path, announce=str)
    assert words in str(caught.value)


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import voc as module

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(module, "download_and_extract_archive", offline)
    with pytest.raises(DataError, match=r"torchvision:VOCDetection could not be downloaded \(OSError: no route to host\).*copy it into"):
        read_dataset("torchvision:VOCDetection", cache=tmp_path, announce=str)
