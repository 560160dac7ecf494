"""The Open Inference Protocol: the examples of its text, its binary form, and requests that do not follow it."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import load

pytest.importorskip("fastapi", reason="needs headstart[serve]")
from conftest import draw
from headstart.serve.app import create_app
from served import TestClient

INFER = "/v2/models/pictures/infer"


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(create_app([run], watch_seconds=0), base_url="http://127.0.0.1") as made:
        yield made


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.stack([draw(kind, 7 + kind) for kind in range(3)])


def as_json(pixels: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.ravel().tolist()}], **more}


def outputs(said: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry for entry in said["outputs"]}


def test_the_service_and_its_models_describe_themselves(client: TestClient) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").status_code == client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2/models/pictures/ready").json() == {"name": "pictures", "ready": True}
    said = client.get("/v2/models/pictures").json()
    assert (said["name"], said["versions"]) == ("pictures", ["1"])
    assert [(entry["name"], entry["datatype"], entry["shape"]) for entry in said["inputs"]] == [
        ("images", "BYTES", [-1]), ("pixels", "UINT8", [-1, -1, -1, 3]),
    ]  # fmt: skip
    assert client.get("/v2/models/pictures/versions/1").json() == said
    for path in ("/v2/models/none", "/v2/models/none/ready", "/v2/models/pictures/versions/2"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("nested", [False, True])
def test_pixels_in_json_are_predicted_as_the_run_does(client: TestClient, run: Path, pixels: np.ndarray, nested: bool) -> None:
    request = as_json(pixels, id="7")
    if nested:
        request["inputs"][0]["data"] = pixels.tolist()
    said = client.post(INFER, json=request).json()
    assert (said["model_name"], said["model_version"], said["id"]) == ("pictures", "1", "7")
    expected = load(run).predict(pixels)
    assert expected.judgement is not None
    found = outputs(said)
    np.testing.assert_allclose(
        np.reshape(found["probabilities"]["data"], found["probabilities"]["shape"]), expected.probabilities, rtol=1e-5
    )
    assert found["labels"]["data"] == list(expected.labels)
    assert np.reshape(found["sets"]["data"], (3, 3)).tolist() == np.asarray(expected.judgement.sets).tolist()
    np.testing.assert_allclose(found["unlikeness"]["data"], expected.judgement.unlikeness, rtol=1e-3)
    logits = np.reshape(found["logits"]["data"], (3, 3))
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), expected.probabilities, atol=1e-5)


def test_files_are_predicted_in_json_and_in_binary_form(client: TestClient, run: Path, photo: Path) -> None:
    data = photo.read_bytes()
    expected = load(run).predict([data]).probabilities
    entry = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.encodebytes(data).decode()]}
    found = outputs(client.post(INFER, json={"inputs": [entry]}).json())
    np.testing.assert_allclose([found["probabilities"]["data"]], expected, rtol=1e-5)
    said = {
        "inputs": [{"name": "images", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 2 * (4 + len(data))}}],
        "outputs": [
            {"name": "labels", "parameters": {"binary_data": True}},
            {"name": "probabilities", "parameters": {"binary_data": True}},
        ],
    }
    head = json.dumps(said).encode()
    body = head + (struct.pack("<I", len(data)) + data) * 2
    answer = client.post("/v2/models/pictures/versions/1/infer", content=body, headers={"Inference-Header-Content-Length": str(len(head))})
    assert answer.status_code == 200
    length = int(answer.headers["inference-header-content-length"])
    told, behind = json.loads(answer.content[:length]), answer.content[length:]
    assert [(entry["name"], entry["shape"]) for entry in told["outputs"]] == [("labels", [2]), ("probabilities", [2, 3])]
    first = told["outputs"][0]["parameters"]["binary_data_size"]
    assert behind[:first] == (struct.pack("<I", 5) + b"rings") * 2
    np.testing.assert_allclose(np.frombuffer(behind[first:], "<f4").reshape(2, 3), np.repeat(expected, 2, axis=0), rtol=1e-5)


def test_a_request_can_choose_the_confidence(client: TestClient, run: Path, pixels: np.ndarray) -> None:
    opened = load(run)
    sure = float(np.sort(opened.predict(pixels).probabilities.max(axis=1))[1])
    for least in (0, sure, 1.0):
        records = opened.records(["", "", ""], opened.predict(pixels), least=least)
        found = outputs(client.post(INFER, json=as_json(pixels, parameters={"confidence": least})).json())
        assert found["labels"]["data"] == ["" if one.abstained else one.values["label"] for one in records]
    assert found["labels"]["data"].count("") == 3


def test_pixels_in_binary_form(client: TestClient, pixels: np.ndarray) -> None:
    by_json = outputs(client.post(INFER, json=as_json(pixels)).json())["probabilities"]["data"]
    entry = {"name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8", "parameters": {"binary_data_size": pixels.nbytes}}
    head = json.dumps({"inputs": [entry], "outputs": [{"name": "probabilities"}]}).encode()
    said = client.post(INFER, content=head + pixels.tobytes(), headers={"Inference-Header-Content-Length": str(len(head))}).json()
    assert [entry["name"] for entry in said["outputs"]] == ["probabilities"]
    assert said["outputs"][0]["data"] == by_json


GOOD = {"name": "pixels", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [0] * 192}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ([], "'inputs'"),
        ({"inputs": []}, "'inputs'"),
        ({"inputs": [3]}, "object with a 'name'"),
        ({"inputs": [GOOD, GOOD]}, "one input"),
        ({"inputs": [GOOD | {"name": "x"}]}, "one input"),
        ({"inputs": [GOOD | {"datatype": "FP32"}]}, "must be UINT8"),
        ({"inputs": [GOOD | {"shape": [1, 8, 8, 4]}]}, "height, width, 3"),
        ({"inputs": [GOOD | {"shape": [192]}]}, "height, width, 3"),
        ({"inputs": [GOOD | {"shape": [-1, 8, 8, 3]}]}, "whole numbers"),
        ({"inputs": [GOOD | {"shape": [0, 8, 8, 3], "data": []}]}, "height, width, 3"),
        ({"inputs": [GOOD | {"shape": [1 << 30] * 3 + [3]}]}, "does not fit"),
        ({"inputs": [GOOD | {"data": [256] * 192}]}, "0 to 255"),
        ({"inputs": [GOOD | {"data": [0.5] * 192}]}, "0 to 255"),
        ({"inputs": [GOOD | {"data": ["a"] * 192}]}, "0 to 255"),
        ({"inputs": [GOOD | {"data": [10**30] * 192}]}, "0 to 255"),
        ({"inputs": [GOOD | {"data": [[1], [2, 3]]}]}, "different lengths"),
        ({"inputs": [GOOD | {"data": None}]}, "must be a list"),
        ({"inputs": [GOOD | {"parameters": {"binary_data_size": 5}}]}, "does not fit the body"),
        ({"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["%"]}]}, "base64"),
        ({"inputs": [{"name": "images", "shape": [0], "datatype": "BYTES", "data": []}]}, "no image"),
        ({"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["aGVsbG8="]}]}, "Image 0 is refused: not an image"),
        ({"inputs": [GOOD], "outputs": [{"name": "nothing"}]}, "'outputs' may name"),
        ({"inputs": [GOOD], "outputs": {"name": "labels"}}, "'outputs' may name"),
        ({"inputs": [GOOD], "parameters": {"confidence": 1.5}}, "'confidence' must be a number of at least 0 and at most 1, got 1.5"),
        ({"inputs": [GOOD], "parameters": {"confidence": True}}, "at most 1, got True"),
        ({"inputs": [GOOD], "parameters": {"confidence": "high"}}, "at most 1, got 'high'"),
        ({"inputs": [GOOD], "parameters": {"confidence": [0.5]}}, "at most 1."),
    ],
)
def test_what_does_not_follow_the_protocol_is_refused(client: TestClient, request_: Any, words: str) -> None:
    answer = client.post(INFER, json=request_)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "length", "words"),
    [
        (b"{", None, "not valid JSON"),
        (b"[" * 50_000, None, "not valid JSON"),
        (b"{}", "9", "number of bytes"),
        (b"{}", "-1", "number of bytes"),
        (b"{}", "x", "number of bytes"),
        (json.dumps({"inputs": [GOOD]}).encode() + b"left over", str(len(json.dumps({"inputs": [GOOD]}))), "belong to no input"),
    ],
)
def test_bodies_that_do_not_follow_the_protocol_are_refused(client: TestClient, body: bytes, length: str | None, words: str) -> None:
    answer = client.post(INFER, content=body, headers={} if length is None else {"Inference-Header-Content-Length": length})
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x01\x00", b"\x05\x00\x00\x00abc"])
def test_bytes_that_are_cut_off_are_refused(client: TestClient, data: bytes) -> None:
    entry = {"name": "images", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [entry]}).encode()
    answer = client.post(INFER, content=head + data, headers={"Inference-Header-Content-Length": str(len(head))})
    assert answer.status_code == 400
    assert "cut off" in answer.json()["error"]


def test_too_many_images_are_refused(client: TestClient) -> None:
    entry = GOOD | {"shape": [65, 1, 1, 3], "data": [0] * 195}
    answer = client.post(INFER, json={"inputs": [entry]})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")
