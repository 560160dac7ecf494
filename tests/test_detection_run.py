"""A run of a detection from one end to the other: command line, formats, report, service, exported file."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from drawn_scenes import CLASSES, scene
from headstart import load
from headstart.batch import BatchSettings, predict_folder
from headstart.batch.job import Tasks, Work
from headstart.errors import Interrupted, ParameterError
from headstart.export import export
from headstart.export.formats import ExportedModel, engines_for
from headstart.metrics.boxes import iou
from headstart.run import Run

pytest.importorskip("torch", reason="the head is trained with PyTorch")
pytest_plugins = ["boxes_run"]
pytestmark = pytest.mark.cards

Cli = Callable[..., Any]
SIZES = {50: (96, 128), 51: (200, 150), 55: (96, 128)}  # the last one shows nothing


@pytest.fixture(scope="module")
def opened(scenes_run: Path) -> Run:
    return load(scenes_run)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in SIZES.items():
        Image.fromarray(scene(number, size=size)[0]).save(folder / f"{number}.png")
    return folder


def test_things_are_found(opened: Run) -> None:
    found = opened.test_evaluation()
    assert found.result.means["ap50"] > 0.8
    assert found.images == 8
    assert (found.counts.true == 0).sum() == 1
    assert re.fullmatch(r"test AP50 [01]\.\d{3} \[0\.\d\d, [01]\.\d\d\], AP 0\.\d{3} \[0\.\d\d, [01]\.\d\d\] on 8 images", found.summary())
    lines = "\n".join(found.lines())
    assert "8 images, 1 of them without any, 2 classes" in lines
    assert all(name in lines for name in CLASSES)
    predictions = opened.predict([scene(number, size=size)[0] for number, size in SIZES.items()])
    for row, (number, size) in enumerate(SIZES.items()):
        named, true = predictions.boxes(row), scene(number, size=size)[1]
        assert all(box["confidence"] >= predictions.threshold for box in named)
        sure = predictions.boxes(row, threshold=0.9)
        assert len(sure) == len(true)
        for thing in true:
            overlaps = iou(np.array([thing.box]), np.array([box["box"] for box in sure]))[0]
            assert overlaps.max() > 0.5
            assert sure[int(overlaps.argmax())]["label"] == thing.label


def test_every_format_has_the_same_boxes(scenes_run: Path, opened: Run, photos: Path, cli: Cli) -> None:
    expected = opened.predict(sorted(photos.iterdir()))
    boxes = {path.name: expected.boxes(row) for row, path in enumerate(sorted(photos.iterdir()))}
    done = cli("predict", scenes_run, photos, "--format", "coco")
    assert done.code == 0, done.err
    results = json.loads(done.out)
    assert [one["image_id"] for one in results] == [name for name, own in boxes.items() for _ in own]
    for one, box in zip(results, (box for own in boxes.values() for box in own), strict=True):
        assert (one["category_name"], one["category_id"]) == (box["label"], CLASSES.index(box["label"]) + 1)
        assert one["score"] == box["confidence"]
        left, top, width, height = one["bbox"]
        np.testing.assert_allclose([left, top, left + width, top + height], box["box"], atol=0.11)
    done = cli("predict", scenes_run, photos, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [Path(row["path"]).name for row in rows if row["label"]] == [name for name, own in boxes.items() for _ in own]
    assert [Path(row["path"]).name for row in rows if not row["label"]] == [name for name, own in boxes.items() if not own]
    assert cli("predict", scenes_run, photos, "--format", "voc", "--out", "voc").code == 0
    assert cli("predict", scenes_run, photos, "--format", "yolo", "--out", "yolo").code == 0
    assert Path("yolo/classes.txt").read_text().split() == list(CLASSES)
    for name, own in boxes.items():
        things = ElementTree.parse(f"voc/{Path(name).stem}.xml").getroot().findall("object")
        sides = [[float(thing.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")] for thing in things]
        np.testing.assert_allclose(np.reshape(sides, (-1, 4)) - [1, 1, 0, 0], np.reshape([box["box"] for box in own], (-1, 4)), atol=0.01)
        lines = [line.split() for line in Path(f"yolo/{Path(name).stem}.txt").read_text().splitlines()]
        assert [CLASSES[int(line[0])] for line in lines] == [box["label"] for box in own]
        height, width = SIZES[int(Path(name).stem)]
        for line, box in zip(lines, own, strict=True):
            x, y, across, down = (float(share) for share in line[1:5])
            corners = [(x - across / 2) * width, (y - down / 2) * height, (x + across / 2) * width, (y + down / 2) * height]
            np.testing.assert_allclose(corners, box["box"], atol=0.01)


def test_a_batch_job_writes_the_list_of_coco_and_resumes(scenes_run: Path, photos: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    expected = json.loads(cli("predict", scenes_run, photos, "--format", "coco").out)
    small = BatchSettings(part=1)

    def compute(work: Work, run: Run, tasks: Tasks, progress: Any) -> Any:
        for index, names in tasks:
            if index == 2:
                raise KeyboardInterrupt
            yield work.do(run, index, names)

    with pytest.raises(Interrupted):
        predict_folder(scenes_run, [photos], out="found.json", settings=small, compute=compute)
    with pytest.warns(RuntimeWarning, match="1 of 4 images cannot be read"):
        predict_folder(scenes_run, [photos], out="found.json", settings=replace(small, resume=True))
    found = json.loads(Path("found.json").read_text())
    assert [one | {"image_id": Path(one["image_id"]).name} for one in found] == expected
    assert {one["image_id"] for one in found} == {str(photos / "50.png"), str(photos / "51.png")}
    done = cli("predict", scenes_run, photos / "55.png", "--batch", "--out", "nothing.json")
    assert done.code == 0, done.err
    assert json.loads(Path("nothing.json").read_text()) == []
    done = cli("predict", scenes_run, photos, "--batch", "--out", "shard.json", "--shard", "1/2")
    assert done.code == 2
    assert "--shard 1/2 makes a part of a table, and shard.json is a list: use .parquet or .jsonl." in done.err


def test_boxes_are_drawn_and_the_confidence_can_be_chosen(scenes_run: Path, photos: Path, cli: Cli) -> None:
    done = cli("predict", scenes_run, photos, "--format", "coco", "--out", "all.json", "--confidence", "0.05", "--draw", "drawn")
    assert done.code == 0, done.err
    assert sorted(path.name for path in Path("drawn").iterdir()) == [f"{number}_boxes.jpg" for number in SIZES]
    with Image.open("drawn/51_boxes.jpg") as picture:
        assert picture.size == (150, 200)
    many = json.loads(Path("all.json").read_text())
    done = cli("predict", scenes_run, photos, "--format", "coco", "--confidence", "0.99999")
    assert len(json.loads(done.out)) < len(many)
    assert min(one["score"] for one in many) >= 0.05


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "voc"], "--format voc writes a file for each image: give a folder for them as --out DIR"),
        (["--format", "coco-polygons"], "boxes can be written as table, csv, json or coco"),
        (["--confidence", "2"], "must be a number of at least 0 and at most 1"),
        (["--confidence", "0.5", "--accuracy", "0.9"], "Give one of them"),
        (["--format", "coco", "--out", "photos"], "a folder is for pictures, and the task detection predicts none"),
        (["--format", "yolo", "--out", "photos", "--draw", "drawn"], "--draw DIR and --out DIR are both for files of each image"),
        (["--batch", "--out", "a.csv", "--draw", "drawn"], "--draw is not for --batch"),
        (["--merge", "--out", "a.csv", "--confidence", "0.5"], "leave --shard, --ray, --resume and --confidence out"),
    ],
)
def test_what_cannot_be_is_refused(scenes_run: Path, photos: Path, cli: Cli, options: list[str], said: str) -> None:
    Path("photos").mkdir(exist_ok=True)
    done = cli("predict", scenes_run, photos, *options)
    assert done.code == 2
    assert said in re.sub(r"\s+", " ", done.err)


def test_a_run_can_be_tested_again_and_compared(scenes_run: Path, scenes: Path, cli: Cli) -> None:
    done = cli("evaluate", scenes_run, scenes / "test")
    assert done.code == 0, done.err
    assert "AP50" in done.out
    shutil.copytree(scenes_run, "copy")
    done = cli("compare", scenes_run, "copy")
    assert done.code == 0, done.err
    assert "AP" in done.out


def test_the_report_shows_true_and_found_boxes(scenes_run: Path) -> None:
    page = (scenes_run / "report.html").read_text()
    assert page.count('<span class="box colour') > 8
    for words in ("AP50", "Precision and recall", "Mistakes", "Scores by class and size", "Object detector", "badly placed"):
        assert words in page


@pytest.fixture(scope="module")
def exported(opened: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    file = tmp_path_factory.mktemp("exported") / "scenes.onnx"
    (first, *_) = export(opened, file).parities
    assert (first.decision, first.images, first.same) == ("box", 8, 1.0)
    return file


def test_a_file_finds_the_same_boxes(opened: Run, exported: Path) -> None:
    images = [scene(70 + place, size=size)[0] for place, size in enumerate(((96, 128), (61, 47), (300, 500)))]
    predictions = opened.predict(images)
    for engine in engines_for(exported):
        model = ExportedModel(exported, engine=engine)
        for row, image in enumerate(images):
            found = {name: values[0] for name, values in model([image]).items()}
            there, own = found["found_classes"] >= 0, predictions.boxes(row)
            assert [CLASSES[label] for label in found["found_classes"][there]] == [box["label"] for box in own]
            np.testing.assert_allclose(found["found_scores"][there], [box["confidence"] for box in own], atol=1e-3)
            np.testing.assert_allclose(found["found_boxes"][there], np.reshape([box["box"] for box in own], (-1, 4)), atol=1)


def test_the_threshold_of_a_file_can_be_changed(exported: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(exported), options)
    image = scene(70)[0][None]

    def count(**given: float) -> int:
        values = {name: np.array(value, np.float32) for name, value in given.items()}
        return int((session.run(["found_classes"], {"images": image, **values})[0] >= 0).sum())

    assert count(threshold=0.05) > count() >= count(threshold=1.1) == 0


def test_int8_is_admitted_by_its_precision(opened: Run) -> None:
    from headstart.export.gate import Gate
    from headstart.export.parity import Reference
    from headstart.export.sample import some_sample_of

    reference = Reference(opened, some_sample_of(opened, 8))
    own = reference.outputs()
    same = Gate.worst(reference, own, max_drop=0.01)
    assert (same.unit, same.passed, same.before) == ("AP50", True, same.after)
    shifted = {**own, "boxes": np.clip(own["boxes"] + 0.3, 0, 1)}
    worse = Gate.worst(reference, shifted, max_drop=0.01)
    assert not worse.passed
    assert "AP50" in worse.summary()


def test_settings_that_do_not_suit_boxes_are_refused(scenes: Path, cli: Cli) -> None:
    for options, said in (
        (["--windows", "2"], "for masks"), (["--architecture", "unet"], "use light"), (["--fit-image", "crop"], "cut off boxes"),
        (["--head", "ridge"], "boxes are learned by a head on maps"),
    ):  # fmt: skip
        done = cli("fit", scenes, *options)
        assert done.code == 2
        assert said in re.sub(r"\s+", " ", done.err)


def test_a_record_has_what_the_page_draws(opened: Run) -> None:
    predictions = opened.predict([scene(50)[0]])
    (record,) = opened.records(["50.png"], predictions)
    assert record.kind == "boxes"
    values = record.values
    assert values["counts"] == {name: sum(box["label"] == name for box in values["boxes"]) for name in CLASSES}
    assert all(box["confidence"] < values["threshold"] for box in values["unsure"])
    assert {"height", "width", "threshold", "colours", "ids"} <= set(values)
    with pytest.raises(ParameterError, match="coco"):
        opened.task.document("coco-polygons", [record], opened.manifest.state)
