"""The service as strangers see it: a client of another project's, and a fuzzer that knows nothing but the OpenAPI document."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import load

pytest.importorskip("fastapi", reason="needs headstart[serve]")
from conftest import draw
from served import Process, service


@pytest.fixture(scope="module")
def serving(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with service([run], tmp_path_factory.mktemp("clients") / "log") as process:
        yield process


@pytest.fixture
def triton(serving: Process) -> Iterator[Any]:
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    client = http.InferenceServerClient(serving.address.removeprefix("http://").rstrip("/"))
    yield client
    client.close()


def test_tritons_client_finds_the_service_and_its_model(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("pictures")
    assert not triton.is_model_ready("photographs")
    assert triton.get_server_metadata()["name"] == "headstart"
    assert [entry["name"] for entry in triton.get_model_metadata("pictures", model_version="1")["inputs"]] == ["images", "pixels"]


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_what_the_run_says(triton: Any, run: Path, binary: bool) -> None:
    http = pytest.importorskip("tritonclient.http")
    pixels = np.stack([draw(kind, 7 + kind) for kind in range(3)])
    given = http.InferInput("pixels", list(pixels.shape), "UINT8").set_data_from_numpy(pixels, binary_data=binary)
    wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "labels", "sets", "unlike", "unlikeness")]
    found = triton.infer("pictures", [given], outputs=wanted, request_id="7")
    expected = load(run).predict(pixels)
    assert expected.judgement is not None
    assert found.get_response()["id"] == "7"
    np.testing.assert_allclose(found.as_numpy("probabilities"), expected.probabilities, rtol=1e-5)
    assert [label.decode() if binary else label for label in found.as_numpy("labels")] == list(expected.labels)
    np.testing.assert_array_equal(found.as_numpy("sets"), expected.judgement.sets)
    np.testing.assert_array_equal(found.as_numpy("unlike"), expected.judgement.unlike)
    np.testing.assert_allclose(found.as_numpy("unlikeness"), expected.judgement.unlikeness, rtol=1e-3)


def test_tritons_client_sends_files(triton: Any, run: Path, photo: Path) -> None:
    http = pytest.importorskip("tritonclient.http")
    files = np.array([photo.read_bytes(), photo.read_bytes()], dtype=object)
    found = triton.infer("pictures", [http.InferInput("images", [2], "BYTES").set_data_from_numpy(files)]).as_numpy("probabilities")
    np.testing.assert_allclose(found, load(run).predict([photo, photo]).probabilities, rtol=1e-5)


def test_tritons_client_is_told_what_is_wrong(triton: Any) -> None:
    http = pytest.importorskip("tritonclient.http")
    utils = pytest.importorskip("tritonclient.utils")
    text = http.InferInput("images", [1], "BYTES").set_data_from_numpy(np.array([b"no image at all"], dtype=object))
    with pytest.raises(utils.InferenceServerException, match="image"):
        triton.infer("pictures", [text])
    with pytest.raises(utils.InferenceServerException, match="Models: pictures"):
        triton.infer("photographs", [text])


@pytest.mark.slow
def test_the_service_does_what_its_openapi_document_says(serving: Process, tmp_path: Path) -> None:
    """Thousands of requests made from the document alone: no status, header or body that it does not tell, and no error of the service.

    That every body which fits the document is accepted is not asked: JSON Schema cannot say that a file has to be an image.
    """
    pytest.importorskip("schemathesis", reason="needs schemathesis")
    done = subprocess.run(
        [
            sys.executable, "-c", "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())", "run",
            f"{serving.address.rstrip('/')}/openapi.json", "--phases", "coverage,fuzzing", "--max-examples", "6", "--seed", "1",
            "--exclude-checks", "positive_data_acceptance", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "12 selected / 12 total" in done.stdout
