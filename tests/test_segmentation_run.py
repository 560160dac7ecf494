"""A run of a segmentation from one end to the other: command line, report, table, service, exported file."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drawn_shapes import CLASSES, drawn
from headstart import load
from headstart.errors import ParameterError
from headstart.export import export, onnx_model, snippet
from headstart.export.comparison import Comparison
from headstart.export.formats import ExportedModel, engines_for
from headstart.export.gate import Gate
from headstart.export.onnx_file import IMAGES
from headstart.export.parity import Parity, Reference
from headstart.export.sample import some_sample_of
from headstart.pixels.runs import decoded
from headstart.run import Run

pytest.importorskip("torch", reason="the decoder is trained with PyTorch")
pytest_plugins = ["masks_run"]
pytestmark = pytest.mark.cards

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def run(shapes_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, which tests may change."""
    return shutil.copytree(shapes_run, tmp_path_factory.mktemp("runs") / "shapes")


@pytest.fixture(scope="module")
def opened(run: Path) -> Run:
    return load(run)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images that the run has not seen, of differing sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in ((50, (48, 64)), (51, (150, 200)), (52, (33, 90))):
        Image.fromarray(drawn(number, size=size)[0]).save(folder / f"{number}.png")
    return folder


def test_masks_are_right(run: Path, photos: Path, cli: Cli) -> None:
    done = cli("predict", run, photos, "--out", "masks", "--overlay", "--format", "coco")
    assert done.code == 0, done.err
    assert done.out.strip() == "3 images: 6 files in masks"
    for number, size in ((50, (48, 64)), (51, (150, 200)), (52, (33, 90))):
        picture = Image.open(f"masks/{number}.png")
        assert (picture.mode, picture.size) == ("P", size[::-1])
        mask = np.asarray(picture)
        assert set(np.unique(mask)) <= {0, 1, 2}
        assert (mask == drawn(number, size=size)[1]).mean() > 0.85
        with Image.open(f"masks/{number}_overlay.jpg") as over:
            assert over.size == size[::-1]
    document = json.loads(Path("masks/annotations.json").read_text())
    assert [category["name"] for category in document["categories"]] == list(CLASSES)
    for annotation in document["annotations"]:
        mask = np.asarray(Image.open(f"masks/{50 + annotation['image_id'] - 1}.png"))
        np.testing.assert_array_equal(decoded(annotation["segmentation"]), mask == annotation["category_id"] - 1)


def test_other_formats(run: Path, photos: Path, cli: Cli) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("predict", run, photos, "--format", "csv").out)))
    assert list(rows[0]) == ["path", "height", "width", *(f"{name}.share" for name in CLASSES), "error"]
    assert [(row["height"], row["width"]) for row in rows] == [("48", "64"), ("150", "200"), ("33", "90")]
    assert all(sum(float(row[f"{name}.share"]) for name in CLASSES) == pytest.approx(1, abs=1e-5) for row in rows)
    polygons = json.loads(cli("predict", run, photos, "--format", "coco-polygons").out)
    assert sum(annotation["area"] for annotation in polygons["annotations"]) == 48 * 64 + 150 * 200 + 33 * 90
    line = cli("predict", run, photos / "50.png").out
    assert re.fullmatch(r".*50\.png  ground \d+\.\d %  (disc|bar) \d+\.\d %.*\n", line)


def test_a_table_of_a_batch(run: Path, photos: Path, cli: Cli) -> None:
    arro3 = pytest.importorskip("arro3.io")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    assert cli("predict", run, photos, "--batch", "--out", "t.parquet").code == 0
    table = arro3.read_parquet("t.parquet").read_all()
    rows = [{name: table.column(name)[at].as_py() for name in table.schema.names} for at in range(4)]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True]
    assert rows[3]["disc.area"] is None
    for row, number, size in zip(rows, (50, 51, 52), ((48, 64), (150, 200), (33, 90)), strict=False):
        areas = [row[f"{name}.area"] for name in CLASSES]
        assert sum(areas) == row["height"] * row["width"] == size[0] * size[1]
        disc = decoded({"size": size, "counts": row["disc.rle"]})
        assert disc.sum() == row["disc.area"]
        truth = drawn(number, size=size)[1] == 1
        assert (disc & truth).sum() / (disc | truth).sum() > 0.5


def test_evaluate_on_new_masks(run: Path, shapes: Path, cli: Cli) -> None:
    done = cli("evaluate", run, shapes, "--part", "test", "--out", "e.json", "--picture", "c.png")
    assert done.code == 0, done.err
    assert re.fullmatch(r"test mean IoU 0\.\d{4} \[0\.\d{4}, [01]\.\d{4}\] on 6 images", done.out.splitlines()[-1])
    found, again = load(run).test_evaluation(), json.loads(Path("e.json").read_text())
    assert found.headline[1] == pytest.approx(again["mean_iou"], abs=2e-3)  # by the graph, and by the decoder in PyTorch
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_shows_true_and_predicted_masks(run: Path) -> None:
    text = (run / "report.html").read_text()
    assert text.count("class=over") == 3 * 6
    assert "From left to right: the true classes" in text
    assert "mean IoU" in (run / "MODEL_CARD.md").read_text()


def test_a_rewritten_report_finds_the_masks_again(run: Path, cli: Cli) -> None:
    assert cli("report", run, "--out", "again.html").code == 0
    assert Path("again.html").read_text().count("class=over") == 3 * 6


@pytest.mark.parametrize("options", [(), ("--out", "masks"), ("--batch", "--out", "masks.csv")])
def test_masks_have_no_lowest_confidence(run: Path, photos: Path, cli: Cli, options: tuple[str, ...]) -> None:
    done = cli("predict", run, photos, *options, "--confidence", "0.5")
    assert done.code == 2
    said = "A run of the task segmentation has no lowest confidence to choose: leave out --confidence 0.5."
    assert said in " ".join(done.err.split())
    assert not Path("masks").exists()
    assert not Path("masks.csv").exists()


def test_the_service_gives_masks(run: Path, photos: Path) -> None:
    pytest.importorskip("fastapi")
    from headstart.serve.app import create_app
    from served import TestClient

    wanted = load(run).predict([photos / "51.png"]).mask(0)
    with TestClient(create_app([run], watch_seconds=0), base_url="http://127.0.0.1") as client:
        (found,) = client.post("/predict", files={"file": (photos / "51.png").read_bytes()}).json()["predictions"]
        assert (found["kind"], found["height"], found["width"]) == ("mask", 150, 200)
        picture = Image.open(io.BytesIO(base64.b64decode(found["png"])))
        np.testing.assert_array_equal(np.asarray(picture), wanted)
        np.testing.assert_array_equal(decoded(found["masks"]["disc"]), wanted == 1)
        (explained,) = client.post("/predict?explain=1", files={"file": (photos / "51.png").read_bytes()}).json()["predictions"]
        heat = Image.open(io.BytesIO(base64.b64decode(explained["heat"].removeprefix("data:image/png;base64,"))))
        assert heat.width == heat.height
        model = client.get("/models").json()["models"][0]
        assert (model["kind"], model["classes"]) == ("mask", list(CLASSES))
        assert 0.5 < model["mean_iou"] <= 1
        image = base64.b64encode((photos / "51.png").read_bytes()).decode()
        asked = {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [image]}]}
        outputs = {entry["name"]: entry for entry in client.post("/v2/models/shapes/infer", json=asked).json()["outputs"]}
        said = "A run of the task segmentation has no lowest confidence to choose: leave out confidence=0.5."
        refused = client.post("/v2/models/shapes/infer", json=asked | {"parameters": {"confidence": 0.5}})
        assert (refused.status_code, refused.json()["error"]) == (422, said)
        refused = client.post("/predict?confidence=0.5", content=(photos / "51.png").read_bytes(), headers={"content-type": "image/png"})
        assert (refused.status_code, refused.json()) == (422, {"error": said, "code": "bad_parameter"})
        assert outputs["logits"]["shape"][:2] == [1, 3]
        assert outputs["areas"]["data"] == [(wanted == index).sum() for index in range(3)]
        assert outputs["sizes"]["data"] == [150, 200]
        np.testing.assert_array_equal(decoded(json.loads(outputs["masks"]["data"][0])["bar"]), wanted == 2)


# exported files ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(opened: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    file = tmp_path_factory.mktemp("exported") / "shapes.onnx"
    (first, *_) = export(opened, file).parities
    assert (first.decision, first.images) == ("pixel class", 6)
    assert first.same >= 0.999
    return file


def test_a_file_gives_a_class_map_of_the_size_of_the_image(opened: Run, exported: Path) -> None:
    sizes = ((48, 64), (31, 17), (200, 333), (64, 64), (1000, 700))
    images = [drawn(70 + place, size=size)[0] for place, size in enumerate(sizes)]
    predictions = opened.predict(images)
    for engine in engines_for(exported):
        model = ExportedModel(exported, engine=engine)
        for row, image in enumerate(images):
            found = {name: values[0] for name, values in model([image]).items()}
            assert found["classes"].dtype == np.uint8
            assert found["classes"].shape == image.shape[:2]
            assert (found["classes"] == predictions.mask(row)).mean() >= 0.999
            assert found["probabilities"].shape == (3, *image.shape[:2])
            np.testing.assert_allclose(found["probabilities"].sum(axis=0), 1, atol=1e-5)
            np.testing.assert_allclose(found["probabilities"].max(axis=0), predictions.confidence(row), atol=2e-3)


def test_a_file_of_another_model_is_refused(opened: Run) -> None:
    """The parity of outputs that are those of the run, and of some that are not."""
    reference = Reference(opened, some_sample_of(opened, 4))
    own, keep = reference.outputs(), reference.comparison.keep
    predictions = opened.predict([*reference.sample])

    def outputs(shift: float, turn: int) -> dict[str, np.ndarray]:
        rows = [
            keep({"logits": own["logits"][row] + shift * np.eye(3)[0][:, None, None], "classes": np.roll(predictions.mask(row), turn)})
            for row in range(4)
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    engine = reference.default_engine
    assert Parity.of(reference, outputs(0, 0), engine=engine).faults() == ()
    (fault,) = Parity.of(reference, outputs(0, 4), engine=engine).faults()[:1]
    assert re.fullmatch(r"\d+\.\d% of the pixels of 4 images get another class", fault)
    assert any("probabilities differ by" in fault for fault in Parity.of(reference, outputs(1, 0), engine=engine).faults())
    gate = Gate.worst(reference, outputs(0, 4), max_drop=0.005)
    assert not gate.passed
    assert gate.summary().startswith(f"int8: {gate.agreement:.2%} of the pixels of 4 test images keep the class")
    assert Gate.worst(reference, outputs(0, 0), max_drop=0.005).passed


def test_pixels_alone_are_kept_of_an_image(opened: Run) -> None:
    comparison = Comparison.of(opened)
    assert comparison.pixels
    kept = comparison.keep({"logits": np.zeros((3, 2, 2)), "classes": np.zeros((50, 60), np.uint8), "probabilities": np.zeros((3, 50, 60))})
    assert sorted(kept) == ["classes", "logits"]
    assert len(kept["classes"][()].data) < 100
    assert kept["classes"][()].open().shape == (50, 60)


def test_the_graph_names_its_outputs(opened: Run) -> None:
    model = onnx_model(opened)
    sides = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert sides[IMAGES] == ["N", "height", "width", 3]
    assert sides["classes"] == ["N", "height", "width"]
    assert sides["probabilities"] == ["N", 3, "height", "width"]


def test_the_program_in_python_prints_the_areas(opened: Run, exported: Path, photos: Path) -> None:
    import subprocess
    import sys

    file = exported.parent / "program.py"
    file.write_text(snippet("python", opened, file=exported.name))
    done = subprocess.run([sys.executable, file, photos / "50.png"], capture_output=True, text=True, check=True, cwd=exported.parent)
    mask = opened.predict([photos / "50.png"]).mask(0)
    shown = "; ".join(f"{name} {(mask == index).mean():.1%}" for index, name in enumerate(CLASSES))
    assert done.stdout.startswith(f"{photos / '50.png'}  {shown}")
    for language in ("javascript", "cpp"):
        with pytest.raises(ParameterError, match="the program is in python only"):
            snippet(language, opened, file=exported.name)


def test_litert_is_refused(opened: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.export import job

    monkeypatch.setattr(job, "find_converter", lambda: "onnx2tf")
    with pytest.raises(ParameterError, match="litert files are of one size"):
        export(opened, tmp_path / "x.tflite", form="litert")


@pytest.mark.slow
def test_int8_is_written_where_few_pixels_change(opened: Run, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    done = export(opened, tmp_path / "shapes.xml", form="int8", max_drop=0.02)
    assert done.gates[-1].passed
    assert done.gates[-1].unit == "pixels"
    found = ExportedModel(tmp_path / "shapes.xml", engine="openvino")([drawn(80, size=(90, 70))[0]])
    assert found["classes"].shape == (1, 90, 70)
    assert (found["classes"][0] == opened.predict([drawn(80, size=(90, 70))[0]]).mask(0)).mean() > 0.95
