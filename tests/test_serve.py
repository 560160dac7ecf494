"""The routes of the service: predictions as the run makes them, refusals in words, and nothing that was not asked for."""

from __future__ import annotations

import base64
import io
import json
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import load
from headstart.metrics import SIGMOID
from headstart.tasks import task_named
from headstart.tasks.classification.predictions import ClassPredictions

pytest.importorskip("fastapi", reason="needs headstart[serve]")
from batches import make_foreign
from headstart.serve.app import create_app
from headstart.settings.serving import Limits
from served import TestClient

HERE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    app = create_app([run], limits=Limits(images=6, explained=2), watch_seconds=0)
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as made:
        yield made


@pytest.fixture(scope="module")
def files(pictures: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(pictures.rglob("*.png"))[::13]]


def form(files: list[bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("file", (f"{number}.png", data, "image/png")) for number, data in enumerate(files)]


def test_predictions_are_those_of_the_run(client: TestClient, run: Path, files: list[bytes]) -> None:
    opened = load(run)
    said = client.post("/predict?top=3&nearest=2", files=form(files))
    assert said.status_code == 200
    expected = opened.predict(files, neighbours=2)
    judged = expected.judgement
    assert judged is not None
    assert said.json()["model"] == "pictures"
    for row, entry in enumerate(said.json()["predictions"]):
        assert entry["name"] == f"{row}.png"
        assert [one["label"] for one in entry["top"]] == [name for name, _ in expected.top(row, 3)]
        np.testing.assert_allclose([one["probability"] for one in entry["top"]], [chance for _, chance in expected.top(row, 3)], rtol=1e-5)
        assert (entry["label"], entry["probability"]) == (entry["top"][0]["label"], entry["top"][0]["probability"])
        assert entry["set"] == [name for name, inside in zip(opened.classes, judged.sets[row], strict=True) if inside]
        assert entry["unlike"] == judged.unlike[row]
        assert entry["unlikeness"] == pytest.approx(judged.unlikeness[row], rel=1e-4)
        names = [Path(opened.training_names[index]) for index in judged.nearest[row]]
        assert entry["nearest"] == [{"name": name.name, "label": name.parent.name} for name in names]


def test_all_forms_of_a_request_get_the_same_answer(client: TestClient, files: list[bytes]) -> None:
    data = files[0]
    encoded = base64.b64encode(data).decode()
    answers = [
        client.post("/predict", files=form([data])),
        client.post("/predict", content=data, headers={"content-type": "image/png"}),
        client.post("/predict", content=data, headers={"content-type": "application/octet-stream"}),
        client.post("/predict", content=data),
        client.post("/predict", json={"images": [encoded]}),
        client.post("/predict", json={"images": [base64.encodebytes(files[0]).decode()]}),
        client.post("/predict", json={"images": ["\r\n".join(textwrap.wrap(encoded, 64))]}),
        client.post("/predict", json={"images": [{"name": "x", "data": "data:image/png;base64," + encoded}]}),
    ]
    entries = [answer.json()["predictions"][0] for answer in answers]
    assert [entry.pop("name") for entry in entries] == ["0.png", "", "", "", "", "", "", "x"]
    assert all(entry == entries[0] for entry in entries)


def test_a_bad_image_among_others_has_its_error_in_its_place(client: TestClient, files: list[bytes]) -> None:
    said = client.post("/predict", files=form([files[0], files[1][:300], b"words", files[1]]))
    assert said.status_code == 200
    entries = said.json()["predictions"]
    assert ["error" in entry for entry in entries] == [False, True, True, False]
    assert entries[1] == {"name": "1.png", "error": "cannot be decoded (the file is cut off)"}
    assert "not an image of a known format" in entries[2]["error"]
    mixed = client.post("/predict", json={"images": [base64.b64encode(files[0]).decode(), "%%%", 7]}).json()["predictions"]
    assert [entry.get("error") for entry in mixed] == [None, "cannot be decoded: not base64", "not an image: it must be base64 in a string"]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"files": [("file", ("a.png", b"", "image/png"))]}, "The image is refused: the file is empty."),
        ({"json": {"images": [""]}}, "The image is refused: the file is empty."),
        ({"json": {"images": [{"name": "x", "data": "data:image/png;base64,"}]}}, "The image is refused: the file is empty."),
        ({"content": b"", "headers": {"content-type": "image/png"}}, "There is no image in the request. The body is empty."),
        ({"content": b""}, "There is no image in the request. The body is empty."),
    ],
)
def test_an_empty_upload_says_that_it_is_empty(client: TestClient, sent: dict[str, Any], reason: str) -> None:
    said = client.post("/predict", **sent)
    assert said.status_code == 422
    assert said.json()["error"].startswith(reason)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"content": b"\x89PNG\r\n\x1a\n and no more", "headers": {"content-type": "image/png"}}, 422, "bad_image"),
        ({"content": b"just words", "headers": {"content-type": "image/png"}}, 415, "no_image_format"),
        ({"content": b"just words", "headers": {"content-type": "text/plain"}}, 415, "unsupported_type"),
        ({"content": b"a=1", "headers": {"content-type": "application/x-www-form-urlencoded"}}, 415, "no_image_format"),
        ({"content": b""}, 422, "no_image"),
        ({"files": [("other", ("a.png", b"x", "image/png"))]}, 422, "no_image"),
        ({"data": {"file": "no file"}, "files": [("other", ("a", b"x"))]}, 422, "no_image"),
        ({"json": {"images": []}}, 422, "no_image"),
        ({"json": {"url": "http://127.0.0.1/secret.png"}}, 422, "bad_json"),
        ({"json": {"images": ["x"] * 7}}, 413, "too_many_images"),
        ({"files": [("file", ("a.png", b"x"))] * 7}, 413, "too_many_images"),
        ({"files": [("other", ("a.png", b"x"))] * 7}, 413, "too_many_images"),
        ({"content": b"[" * 90_000, "headers": {"content-type": "application/json"}}, 422, "bad_json"),
        ({"content": b"--x\r\nContent-", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 422, "no_image"),
        ({"content": b"nothing", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 422, "bad_form"),
        ({"content": b"--x\r\n\r\n", "headers": {"content-type": "multipart/form-data"}}, 422, "bad_form"),
    ],
)
def test_what_is_no_image_is_refused(client: TestClient, sent: dict[str, Any], status: int, code: str) -> None:
    answer = client.post("/predict", **sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("name", ["/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/a.png"])
def test_no_path_and_no_address_of_a_client_is_opened(client: TestClient, name: str) -> None:
    for sent in ({"content": name.encode(), "headers": {"content-type": "image/png"}}, {"json": {"images": [name]}}):
        assert client.post("/predict", **sent).status_code in (415, 422)


def test_names_are_fit_to_be_shown(client: TestClient, files: list[bytes]) -> None:
    said = client.post("/predict", json={"images": [{"name": "../../a\\b\n\x1b[31m.png", "data": base64.b64encode(files[0]).decode()}]})
    assert said.json()["predictions"][0]["name"] == "b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m.png"


def test_an_image_that_announces_too_many_pixels_is_refused(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, format="PNG")
    answer = client.post("/predict", content=file.getvalue(), headers={"content-type": "image/png"})
    assert answer.status_code == 422
    assert "megapixels" in answer.json()["error"]


def test_a_heat_map_is_that_of_the_run(client: TestClient, run: Path, files: list[bytes]) -> None:
    from headstart.explanation import HeatMaps, overlay

    said = client.post("/predict?explain=1", files=form(files[:1])).json()["predictions"][0]
    assert said["heat"].startswith("data:image/png;base64,")
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(said["heat"].partition(",")[2]))))
    opened = load(run)
    maps = HeatMaps(run / "model.onnx", preprocessing=opened.preprocessing, classes=opened.classes, method="fast")
    heat = maps(opened.preprocessing(files[0])[None], [opened.classes.index(said["label"])])[0]
    import dataclasses

    sharp = dataclasses.replace(opened.preprocessing, size=384)(files[0])
    np.testing.assert_allclose(found.astype(int), np.asarray(overlay(sharp, heat)).astype(int), atol=2)


def test_heat_maps_are_made_of_few_images(client: TestClient, files: list[bytes]) -> None:
    answer = client.post("/predict?explain=1", files=form(files[:3]))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("model=picture", 404, "There is no model 'picture'. Did you mean pictures?"),
        ("top=0", 422, "top: "),
        ("nearest=21", 422, "nearest: "),
        ("explain=perhaps", 422, "explain: "),
    ],
)
def test_parameters_outside_their_limits_are_refused(client: TestClient, files: list[bytes], query: str, status: int, words: str) -> None:
    answer = client.post(f"/predict?{query}", files=form(files[:1]))
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_a_multilabel_answer_lists_the_classes_of_one_half_or_more(run: Path) -> None:
    probabilities = np.array([[0.9, 0.6, 0.1], [0.2, 0.3, 0.1]], np.float32)
    predictions = ClassPredictions(classes=("a", "b", "c"), link=SIGMOID, outputs={"probabilities": probabilities}, kept=np.array([0, 1]))
    entries = [record.values for record in task_named("classification").records(["x", "y"], predictions, load(run).training_image, top=2)]
    assert [(entry["label"], round(entry["probability"], 4)) for entry in entries] == [(["a", "b"], 0.6), ([], 0.7)]
    assert (entries[0]["set"], entries[0]["unlike"], entries[0]["nearest"]) == (None, None, [])


def test_the_models_are_described_without_a_word_about_the_machine(client: TestClient, run: Path) -> None:
    answer = client.get("/models").json()
    said = answer["models"]
    manifest = json.loads((run / "manifest.json").read_text())
    assert [model["name"] for model in said] == ["pictures"]
    assert said[0]["classes"] == manifest["state"]["classes"]
    assert said[0]["accuracy"] == manifest["metrics"]["test_accuracy"]
    assert said[0]["created"] == manifest["provenance"]["created"]
    limits = {"body": Limits.body, "images": 6, "explained": 2, "texts": Limits.texts, "text_bytes": Limits.text_bytes}
    assert answer["limits"] == limits
    assert str(run.parent) not in json.dumps(answer)


def test_report_and_card_are_those_of_the_run(client: TestClient, run: Path) -> None:
    report = client.get("/models/pictures/report")
    assert report.content == (run / "report.html").read_bytes()
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert client.get("/models/pictures/card").text == (run / "MODEL_CARD.md").read_text()
    assert client.get("/models/other/report").status_code == 404


def test_everything_is_counted(client: TestClient, files: list[bytes]) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    def values() -> dict[tuple[str, ...], float]:
        text = client.get("/metrics").text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples}

    before = values()
    client.post("/predict", files=form([*files[:2], b"x"]))
    client.get("/made-up")
    after = values()
    for key, more in {
        ("headstart_images_total", "pictures", "predicted"): 2,
        ("headstart_images_total", "pictures", "refused"): 1,
        ("headstart_requests_total", "/predict", "200", "POST"): 1,
        ("headstart_requests_total", "404", "GET", "none"): 1,
    }.items():
        assert after[key] - before.get(key, 0) == more
    assert after["headstart_waiting_images",] == 0


def test_images_of_another_world_are_counted_and_told(
    run: Path, files: list[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = [file.read_bytes() for file in sorted(make_foreign(tmp_path / "foreign").iterdir())]
    with TestClient(create_app([run], watch_seconds=0), base_url=HERE) as client, caplog.at_level("WARNING", "headstart.serve.monitoring"):
        text = client.get("/metrics").text  # before the first image
        assert 'headstart_novel_expected_share{model="pictures"} 0.03' in text
        assert 'headstart_novel_images_total{model="pictures"} 0.0' in text
        assert "drift" not in client.post("/predict", files=form(files[:2])).json()
        assert client.get("/models").json()["models"][0]["recent"] == {"images": 2, "unlike": 0, "expected": 0.03, "drifted": False}
        assert not caplog.records
        said = [client.post("/predict", files=form(foreign)).json() for _ in range(2)]
        recent = {"images": 50, "unlike": 48, "expected": 0.03, "drifted": True}
        assert said[1]["drift"] == client.get("/models").json()["models"][0]["recent"] == recent
        assert next(iter(said[1].items())) == ("model", "pictures")
        text = client.get("/metrics").text
        assert 'headstart_judged_images_total{model="pictures"} 50.0' in text
        assert 'headstart_novel_images_total{model="pictures"} 48.0' in text
        assert 'headstart_drifted{model="pictures"} 1.0' in text
    assert [record.getMessage() for record in caplog.records] == ["images come from another world than the training images"]


def test_the_openapi_document_has_all_routes_and_loads_nothing_from_elsewhere(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert {"/predict", "/models", "/healthz", "/metrics", "/v2", "/v2/models/{name}/infer"} <= set(document["paths"])
    assert set(document["paths"]["/predict"]["post"]["requestBody"]["content"]) == {
        "multipart/form-data", "application/json", "application/octet-stream", "image/*", "text/plain", "text/csv",
    }  # fmt: skip
    assert {"413", "415", "422", "429", "503"} <= set(document["paths"]["/predict"]["post"]["responses"])
    page = client.get("/docs").text
    assert "POST /predict" in page
    assert "http" not in page.replace("HTTP", "")
    assert "<script" not in page


def test_only_files_of_the_page_are_sent(client: TestClient) -> None:
    assert client.get("/").headers["content-type"].startswith("text/html")
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/app.py", "/static/"):
        assert client.get(path).status_code == 404


def test_a_fault_inside_is_not_shown_outside(client: TestClient, files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("secret inner workings")

    monkeypatch.setattr("headstart.serve.app._entry", broken)
    answer = client.post("/predict", files=form(files[:1]))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    monkeypatch.undo()
    assert client.post("/predict", files=form(files[:1])).status_code == 200


def test_large_images_of_one_request_are_few(run: Path, files: list[bytes]) -> None:
    """A form of 64 images of 98 megapixels each takes a minute to decode, in a body of 1 MB."""
    large = io.BytesIO()
    Image.new("1", (3000, 3000)).save(large, "PNG")
    some = [large.getvalue()] * 3
    with TestClient(create_app([run], limits=Limits(large_pixels=20_000_000), watch_seconds=0), base_url=HERE) as client:
        refused = client.post("/predict", files=form([*some, *files[:2]]))
        assert (refused.status_code, refused.json()["code"]) == (413, "too_many_pixels")
        assert "27 megapixels" in refused.json()["error"]
        tensor = {"name": "images", "shape": [3], "datatype": "BYTES", "data": [base64.b64encode(one).decode() for one in some]}
        assert client.post("/v2/models/pictures/infer", json={"inputs": [tensor]}).json()["code"] == "too_many_pixels"
        for taken in (some[:2] + files[:4], some[:1]):
            said = client.post("/predict", files=form(taken))
            assert said.status_code == 200
            assert len(said.json()["predictions"]) == len(taken)


class _Stuck:
    """An engine that waits for a sign."""

    def __init__(self, engine: Any) -> None:
        self.name, self._engine, self.go, self.begun = "stuck", engine, threading.Event(), threading.Event()

    def run(self, images: Any) -> Any:
        self.begun.set()
        self.go.wait(20)
        yield from self._engine.run(images)


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        (Limits(images=2, explained=1, waiting_per_client=2, waiting=99), 429, "too_many_requests"),
        (Limits(images=2, explained=1, waiting_per_client=2, waiting=2), 429, "too_many_requests"),
        (Limits(answer_seconds=0.3), 503, "too_slow"),
    ],
)
def test_too_much_at_once_is_refused_and_may_come_again(run: Path, files: list[bytes], limits: Limits, status: int, code: str) -> None:
    app = create_app([run], limits=limits, watch_seconds=0)
    with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(2) as pool:
        with app.state.service.models.use() as model:
            stuck = model.queue._engine = _Stuck(model.run.engine)
        waiting = pool.submit(client.post, "/predict", files=form(files[:2]))
        assert stuck.begun.wait(10)
        refused = waiting.result() if code == "too_slow" else client.post("/predict", files=form(files[:1]))
        stuck.go.set()
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert int(refused.headers["retry-after"]) > 0
        if code != "too_slow":
            assert waiting.result().status_code == 200
        assert client.post("/predict", files=form(files[:1])).status_code == 200
        assert app.state.service.admission.images == 0


def test_all_clients_together_may_not_have_more_images_waiting_than_the_limit() -> None:
    from headstart.serve.refusals import Refusal
    from headstart.serve.service import AdmissionControl

    admission = AdmissionControl(Limits(images=2, explained=1, waiting_per_client=2, waiting=3))
    with admission.admit("a", 2):
        with pytest.raises(Refusal) as caught, admission.admit("b", 2):
            pass
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "busy", 1)
        with admission.admit("b", 1):
            assert admission.images == 3
    assert admission.images == 0
