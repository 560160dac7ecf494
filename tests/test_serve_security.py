"""Who may ask the service, what a browser may do with its answers, and what is written into its log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headstart.errors import ParameterError

pytest.importorskip("fastapi", reason="needs headstart[serve]")
from headstart.serve.app import PAGE_FOLDER, create_app
from headstart.serve.monitoring import JsonLines
from headstart.serve.security import Guard, read_token
from headstart.settings.serving import Limits, ServerSettings
from served import TestClient

TOKEN = "a-token-of-the-tests-0123456789"
HERE = "http://127.0.0.1"
PAGE = "https://page.example"


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    """A service with a token, which a page of another address may use."""
    with TestClient(create_app([run], token=TOKEN, origins=[PAGE], watch_seconds=0), base_url="http://any.name") as made:
        yield made


@pytest.fixture(scope="module")
def local(run: Path) -> Iterator[TestClient]:
    """A service without a token."""
    with TestClient(create_app([run], watch_seconds=0), base_url=HERE) as made:
        yield made


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong-token-0123456789"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Cookie": f"token={TOKEN}"},
    ],
)
def test_without_the_token_there_is_nothing(client: TestClient, sent: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/predict"), ("GET", "/models"), ("GET", "/models/pictures/report"), ("GET", "/models/pictures/card"), ("GET", "/metrics"),
        ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/v2"), ("GET", "/v2/models/pictures"), ("POST", "/v2/models/pictures/infer"),
        ("GET", "/nothing"), ("GET", "/healthz/"), ("GET", "/static/../models"),
    ):  # fmt: skip
        answer = client.request(method, path, headers=sent)
        assert (path, answer.status_code, answer.json().get("code")) == (path, 401, "token_wanted")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_with_the_token_there_is_everything(client: TestClient, photo: Path) -> None:
    for word in ("Bearer", "bearer"):
        headers = {"Authorization": f"{word} {TOKEN}"}
        assert client.post("/predict", headers=headers, files={"file": photo.read_bytes()}).json()["predictions"][0]["label"] == "rings"
        assert client.get("/models", headers=headers).status_code == 200


def test_the_page_and_the_health_need_no_token(client: TestClient) -> None:
    names = ["/", "/healthz", "/v2/health/live", "/v2/health/ready", *(f"/static/{file.name}" for file in PAGE_FOLDER.iterdir())]
    assert [client.get(path).status_code for path in names] == [200] * len(names)


def test_nothing_of_the_body_is_taken_from_those_who_may_not_ask() -> None:
    """The application behind the guard is never called, and the answer is there before the body is."""
    told: list[Any] = []
    drained = False

    async def application(*_: Any) -> None:
        raise AssertionError("called")

    async def receive() -> Any:
        nonlocal drained
        assert told, "read before the refusal was sent"
        drained = True
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        told.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"host", b"x"), (b"content-length", b"10")]}
    asyncio.run(Guard(application, token=TOKEN)(scope, receive, send))
    assert (told[0]["status"], dict(told[0]["headers"])[b"connection"], drained) == (401, b"close", True)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "", "127.0.0.2", "[::2]"])
def test_without_a_token_the_service_answers_to_its_own_names_only(local: TestClient, host: str) -> None:
    answer = local.get("/models", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "unknown_host")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:9", "LOCALHOST", "[::1]:8000"])
def test_its_own_names_are_those_of_this_machine(local: TestClient, host: str) -> None:
    assert local.get("/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1.evil.example"])
def test_pages_of_other_addresses_may_not_ask(local: TestClient, photo: Path, origin: str) -> None:
    answer = local.post("/predict", files={"file": photo.read_bytes()}, headers={"Origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_its_own_page_may_ask(local: TestClient, photo: Path) -> None:
    answer = local.post("/predict", files={"file": photo.read_bytes()}, headers={"Origin": HERE})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_page_that_was_named_may_ask_with_the_token(client: TestClient, photo: Path) -> None:
    wanted = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    before = client.options("/predict", headers=wanted)
    assert (before.status_code, before.headers["access-control-allow-origin"]) == (200, PAGE)
    assert client.options("/predict", headers=wanted | {"Origin": "https://evil.example"}).status_code == 400
    files = {"file": photo.read_bytes()}
    answer = client.post("/predict", files=files, headers={"Origin": PAGE, "Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    assert client.post("/predict", files=files, headers={"Origin": PAGE}).status_code == 401


def test_every_answer_has_the_security_headers(local: TestClient, client: TestClient) -> None:
    answers = [
        local.get(path) for path in ("/", "/models", "/nothing", "/models/pictures/report", "/models/pictures/card", "/metrics", "/docs")
    ]
    answers += [local.put("/predict"), local.post("/predict"), local.get("/", headers={"Host": "x"}), client.get("/models")]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 200, 200, 200, 200, 405, 422, 421, 401]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "'unsafe-inline'" not in policy or policy.startswith("sandbox;")
        assert "'unsafe-eval'" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
        assert len([1 for name in answer.headers.raw if name[0].lower() == b"content-security-policy"]) == 1


def test_a_token_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"  {TOKEN}\n")
    assert read_token(file) == TOKEN


@pytest.mark.parametrize("text", ["", "short", "\n\n", "x" * 15, "two words in one line", "twoooooooo\nlineeeeeeees", "ä" * 20, "x" * 5000])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match="must hold one line of at least 16"):
        read_token(file)
    with pytest.raises(ParameterError, match="cannot be read"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.example.org", ""])
def test_other_addresses_than_this_machines_own_need_a_token(host: str) -> None:
    with pytest.raises(ParameterError, match="can be reached from other machines: give a token with --token-file"):
        ServerSettings(runs=(), host=host)
    assert ServerSettings(runs=(), host=host, token_file=Path("token")).host == host


def test_this_machines_own_addresses_need_none() -> None:
    assert [ServerSettings(runs=(), host=host).host for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8")]


@pytest.mark.parametrize("origin", ["*", "https://*.example.org", "example.org", "https://example.org/page", "https://example.org/"])
def test_a_page_is_named_by_one_address(origin: str) -> None:
    with pytest.raises(ParameterError, match="name one address such as"):
        ServerSettings(runs=(), origins=(origin,))


def test_the_settings_of_a_worker_are_those_of_the_service() -> None:
    settings = ServerSettings(runs=(Path("a"),), token_file=Path("t"), origins=(PAGE,), workers=3, limits=Limits(body=5))
    assert ServerSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_a_line_of_the_log_is_one_json_object() -> None:
    record = logging.makeLogRecord(
        {"msg": "request\nevil %s", "args": ("x\r\n",), "levelname": "INFO", "path": '/\n{"forged": 1}', "status": 200}
    )
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line) | {"time": ""} == {
        "time": "", "level": "info", "event": "request\nevil x", "path": '/\n{"forged": 1}', "status": 200,
    }  # fmt: skip


def test_requests_are_logged_without_token_query_and_body(client: TestClient, photo: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="headstart.serve"):
        client.post(
            "/predict?model=pictures", headers={"Authorization": f"Bearer {TOKEN}"}, files={"file": ("secret.png", photo.read_bytes())}
        )
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "headstart.serve.monitoring"]
    assert len(lines) == 1
    assert {name: lines[0][name] for name in ("event", "method", "path", "status", "images", "client")} == {
        "event": "request", "method": "POST", "path": "/predict", "status": 200, "images": 1, "client": "testclient",
    }  # fmt: skip
    assert not [word for word in (TOKEN, "secret.png", "model=") if word in json.dumps(lines)]
