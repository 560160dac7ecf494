"""The service and batch jobs with a run that finds things."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drawn_scenes import CLASSES, scene
from headstart import load
from headstart.tasks.detection.predictions import BoxPredictions

pytest.importorskip("fastapi", reason="needs headstart[serve]")
from headstart.serve.app import create_app
from headstart.serve.schemas import BoxPrediction
from served import TestClient

pytest_plugins = ["boxes_run"]
Cli = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def client(scenes_run: Path) -> Iterator[TestClient]:
    with TestClient(create_app([scenes_run], watch_seconds=0), base_url="http://127.0.0.1") as made:
        yield made


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of two sizes; the second is stored on its side, and the third has nothing in it."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number}.png" for number in (50, 52, 55)]
    Image.fromarray(scene(50)[0]).save(paths[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(scene(52, size=(120, 200))[0]).copy()).save(paths[1], exif=exif)
    Image.fromarray(scene(55)[0]).save(paths[2])
    return paths


@pytest.fixture(scope="module")
def expected(scenes_run: Path, photos: list[Path]) -> BoxPredictions:
    found = load(scenes_run).predict(photos)
    assert isinstance(found, BoxPredictions)
    assert [bool(found.boxes(row)) for row in range(3)] == [True, True, False]
    return found


def _sent(client: TestClient, photos: list[Path], query: str = "") -> list[dict[str, Any]]:
    answer = client.post(f"/predict{query}", files=[("file", (path.name, path.read_bytes())) for path in photos])
    assert answer.status_code == 200
    return list(answer.json()["predictions"])


def _check_boxes(found: list[dict[str, Any]], own: list[dict[str, Any]]) -> None:
    assert [box["label"] for box in found] == [box["label"] for box in own]
    np.testing.assert_allclose([box["confidence"] for box in found], [box["confidence"] for box in own], atol=1e-3)
    np.testing.assert_allclose(
        np.reshape([box["box"] for box in found], (-1, 4)), np.reshape([box["box"] for box in own], (-1, 4)), atol=0.2
    )


def test_the_service_finds_what_the_run_does(client: TestClient, photos: list[Path], expected: BoxPredictions) -> None:
    entries = _sent(client, photos)
    assert [(entry["name"], entry["kind"]) for entry in entries] == [(path.name, "boxes") for path in photos]
    assert [(entry["height"], entry["width"]) for entry in entries] == [(96, 128), (120, 200), (96, 128)]
    for row, entry in enumerate(entries):
        _check_boxes(entry["boxes"], expected.boxes(row))
        described = BoxPrediction.model_validate(entry)
        assert described.count == len(described.boxes) == sum(described.counts.values())
        assert all(box.confidence < entry["threshold"] for box in described.unsure)
        assert set(described.ids) == set(described.colours) == set(CLASSES)


def test_a_request_can_choose_the_confidence(client: TestClient, photos: list[Path], expected: BoxPredictions) -> None:
    for confidence in (0.05, 0.2, 0.99, 1.0):
        for row, entry in enumerate(_sent(client, photos, f"?confidence={confidence}")):
            _check_boxes(entry["boxes"], expected.boxes(row, threshold=confidence))
            assert entry["threshold"] == confidence
            assert len(entry["boxes"]) + len(entry["unsure"]) == len(expected.boxes(row, threshold=0.05))
    for wrong in ("-0.1", "1.5", "high", "nan"):
        answer = client.post(f"/predict?confidence={wrong}", content=photos[0].read_bytes(), headers={"content-type": "image/png"})
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")


def test_a_bad_image_among_good_ones_says_why(client: TestClient, photos: list[Path]) -> None:
    files = [("file", ("good.png", photos[0].read_bytes())), ("file", ("bad.png", photos[0].read_bytes()[:200]))]
    good, bad = client.post("/predict", files=files).json()["predictions"]
    assert "boxes" in good
    assert "error" not in good
    assert set(bad) == {"name", "error"}


def test_models_name_the_scores_and_the_schema_describes_boxes(client: TestClient, scenes_run: Path) -> None:
    (model,) = client.get("/models").json()["models"]
    scores = load(scenes_run).manifest.metrics["test"]
    assert (model["kind"], model["classes"]) == ("boxes", list(CLASSES))
    assert (model["ap50"], model["ap"]) == (scores["ap50"], scores["ap"])
    assert model["ap_interval"] == scores["ap_interval"]
    assert model["ap50_interval"][0] <= model["ap50"] <= model["ap50_interval"][1]
    assert 0 < model["threshold"] < 1
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"$ref": "#/components/schemas/BoxPrediction"} in schemas["Predictions"]["properties"]["predictions"]["items"]["anyOf"]
    assert set(schemas["FoundBox"]["properties"]) == {"label", "confidence", "box"}
    assert "confidence" in [one["name"] for one in document["paths"]["/predict"]["post"]["parameters"]]


def test_open_inference_has_detections_as_json(client: TestClient, photos: list[Path], expected: BoxPredictions, scenes_run: Path) -> None:
    pixels = scene(50)[0]
    tensor = {"name": "pixels", "shape": [1, *pixels.shape], "datatype": "UINT8", "data": pixels.ravel().tolist()}
    answer = client.post(f"/v2/models/{scenes_run.name}/infer", json={"inputs": [tensor]}).json()
    outputs = {entry["name"]: entry for entry in answer["outputs"]}
    assert (outputs["detections"]["datatype"], outputs["detections"]["shape"]) == ("BYTES", [1])
    _check_boxes(json.loads(outputs["detections"]["data"][0]), expected.boxes(0))
    assert outputs["counts"]["data"] == [len(expected.boxes(0))]
    assert {"boxes", "probabilities"} <= set(outputs)
    said = client.get(f"/v2/models/{scenes_run.name}").json()
    assert {"detections", "counts"} <= {entry["name"] for entry in said["outputs"]}
    for confidence in (0.05, 1):
        asked = {"inputs": [tensor], "parameters": {"confidence": confidence}}
        answer = client.post(f"/v2/models/{scenes_run.name}/infer", json=asked).json()
        outputs = {entry["name"]: entry["data"] for entry in answer["outputs"]}
        own = expected.boxes(0, threshold=confidence)
        _check_boxes(json.loads(outputs["detections"][0]), own)
        assert outputs["counts"] == [len(own)]
    few = client.post(f"/v2/models/{scenes_run.name}/infer", json={"inputs": [tensor], "outputs": [{"name": "counts"}]}).json()
    assert [entry["name"] for entry in few["outputs"]] == ["counts"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_batch_jobs_write_boxes_and_resume(scenes_run: Path, photos: list[Path], expected: BoxPredictions, cli: Cli, form: str) -> None:
    Path("in").mkdir()
    for path in photos:
        (Path("in") / path.name).write_bytes(path.read_bytes())
    (Path("in") / "60.png").write_bytes(b"none")
    job = ("predict", scenes_run, "in", "--batch", "--out", f"found.{form}", "--resume")
    assert cli(*job).code == 0
    written = Path(f"found.{form}").read_bytes()
    assert cli(*job).code == 0
    assert Path(f"found.{form}").read_bytes() == written
    if form == "parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table("found.parquet").to_pylist()
    elif form == "jsonl":
        rows = [json.loads(line) for line in written.splitlines()]
    else:
        rows = list(csv.DictReader(io.StringIO(written.decode())))
    assert [Path(row["path"]).name for row in rows] == ["50.png", "52.png", "55.png", "60.png"]
    for row, entry in enumerate(rows[:3]):
        boxes = entry["boxes"] if form == "jsonl" else json.loads(entry["boxes"])
        _check_boxes(boxes, expected.boxes(row))
        assert int(entry["count"]) == len(boxes)
        if form != "jsonl":
            assert [int(entry[f"{name}.count"]) for name in CLASSES] == [sum(box["label"] == name for box in boxes) for name in CLASSES]
    assert "not an image" in rows[3]["error"]


def test_batch_jobs_can_choose_the_confidence(scenes_run: Path, photos: list[Path], expected: BoxPredictions, cli: Cli) -> None:
    job = ("predict", scenes_run, *photos, "--batch", "--out", "found.jsonl", "--resume")
    assert cli(*job, "--confidence", 0.05).code == 0
    rows = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    for row, entry in enumerate(rows):
        _check_boxes(entry["boxes"], expected.boxes(row, threshold=0.05))
    assert sum(len(entry["boxes"]) for entry in rows) > sum(len(expected.boxes(row)) for row in range(3))
    done = cli(*job, "--confidence", 0.5)
    assert done.code == 2
    assert "its 'least confidence' is 0.05, and now 0.5 is asked for" in " ".join(done.err.split())


def test_the_service_explains_each_box(client: TestClient, photos: list[Path], expected: BoxPredictions) -> None:
    own = expected.boxes(1, threshold=0.05)
    sent = {"content": photos[1].read_bytes(), "headers": {"content-type": "image/png"}}
    heats = []
    for number in (0, len(expected.boxes(1)) - 1):
        (found,) = client.post(f"/predict?explain=1&box={number}", **sent).json()["predictions"]
        _check_boxes([*found["boxes"], *found["unsure"]], own)
        heats.append(found["heat"])
    assert heats[0] == _sent(client, photos[1:2], "?explain=1")[0]["heat"]  # the surest by default
    assert heats[0] != heats[1]
    answer = client.post("/predict?explain=1&box=900", **sent)
    assert (answer.status_code, answer.json()["error"]) == (422, "box: The model finds no box with the number 900 in this image.")
    assert client.post("/predict?box=0", **sent).json()["code"] == "bad_parameter"


def test_the_service_explains_the_surest_box(client: TestClient, photos: list[Path]) -> None:
    for found in _sent(client, photos, "?explain=1"):
        kind, _, data = found["heat"].partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.width == picture.height >= 96
