"""Models that take texts are served: what requests may bring, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs headstart[serve]")

from starlette.testclient import TestClient

from headstart.pipeline import fit
from headstart.run import load
from headstart.serve.app import create_app
from headstart.settings import FitSettings
from headstart.settings.serving import Limits

HERE = "http://127.0.0.1:8000"
TEXTS = ["a warm and funny film", "dull and long", "warm, then dull"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    lines = [f"{'warm and funny' if i % 2 else 'dull and long'} film {i},{'good' if i % 2 else 'bad'}" for i in range(80)]
    (folder / "reviews.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    fit(folder / "reviews.csv", out=folder / "run", settings=FitSettings(backbone="tfidf"))
    return folder / "run"


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    app = create_app([run], limits=Limits(texts=8, text_bytes=1000), watch_seconds=0)
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as made:
        yield made


def labels(answer: dict) -> list[str]:
    return [one["label"] for one in answer["predictions"]]


def test_texts_in_json_are_predicted_as_the_run_predicts_them(client: TestClient, run: Path) -> None:
    said = client.post("/predict", json={"texts": TEXTS})
    assert said.status_code == 200, said.text
    expected = load(run).predict(TEXTS)
    assert labels(said.json()) == list(expected.labels)
    found = [one["probability"] for one in said.json()["predictions"]]
    assert found == pytest.approx(expected.probabilities.max(axis=1).tolist(), abs=1e-5)
    assert labels(client.post("/predict", json={"text": TEXTS[0]}).json()) == [expected.labels[0]]


def test_a_text_and_a_list_as_they_are(client: TestClient) -> None:
    assert labels(client.post("/predict", content=TEXTS[1], headers={"content-type": "text/plain"}).json()) == ["bad"]
    content = "id,text\n1,warm and funny\n2,dull and long\n"
    assert labels(client.post("/predict", content=content, headers={"content-type": "text/csv"}).json()) == ["good", "bad"]
    assert labels(client.post("/predict", files={"file": ("some.csv", content, "text/csv")}).json()) == ["good", "bad"]


def test_the_open_inference_protocol_takes_bytes(client: TestClient) -> None:
    name = client.get("/models").json()["models"][0]["name"]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": TEXTS[:2]}
    said = client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]})
    assert said.status_code == 200, said.text
    assert {one["name"]: one for one in said.json()["outputs"]}["labels"]["data"] == ["good", "bad"]


@pytest.mark.parametrize("text", ["", "  ", "\0", "\ud800", "x" * 5000, "\u202eolleh", "🙂" * 100, "好看"])
def test_hostile_texts_have_an_answer_or_a_reason_each(client: TestClient, text: str) -> None:
    said = client.post("/predict", content=json.dumps({"texts": [text, TEXTS[0]]}), headers={"content-type": "application/json"})
    assert said.status_code == 200, said.text
    first, second = said.json()["predictions"]
    assert second["label"] == "good"
    assert bool(first.get("error")) != bool(first.get("label"))


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (json.dumps({"texts": ["a"] * 9}), "application/json", 413),
        (json.dumps({"texts": []}), "application/json", 422),
        (json.dumps({"texts": "a"}), "application/json", 422),
        (json.dumps({"images": ["aa"]}), "application/json", 422),
        ("{", "application/json", 422),
        ("a,b\n1,2\n", "text/csv", 422),
        ("x", "video/mp4", 415),
    ],
)
def test_what_is_refused(client: TestClient, content: str, kind: str, status: int) -> None:
    said = client.post("/predict", content=content, headers={"content-type": kind})
    assert said.status_code == status, said.text


def test_training_texts_are_not_told_to_clients(client: TestClient) -> None:
    said = client.post("/predict?nearest=3", json={"texts": TEXTS})
    assert "film 1" not in said.text
