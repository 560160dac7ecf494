"""Connections to a real service, from bare sockets: half-sent headers, too many, unread answers, an orderly end."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from served import SMALL, Process, everything, head, refusal, service, trickle

pytest.importorskip("fastapi", reason="needs headstart[serve]")
httpx = pytest.importorskip("httpx", reason="needs httpx")
unix = pytest.mark.skipif(sys.platform != "linux", reason="binds to further loopback addresses")

pytest_plugins = ["served_small"]
pytestmark = pytest.mark.usefixtures("still_well")


def test_headers_that_never_end_are_cut_off(served: Process) -> None:
    begun = time.monotonic()
    with served.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert refusal(everything(connection)) == (408, "headers_too_slow")
    assert time.monotonic() - begun > 0.6


def test_headers_that_trickle_are_cut_off(served: Process) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        with pytest.raises(OSError):  # the service goes away, although something comes all the time
            trickle(connection, b"X-More: 1\r\n")


def test_headers_that_never_end_are_cut_off_in_a_later_request(served: Process) -> None:
    with served.connect() as connection:
        connection.sendall(head("GET", "/healthz"))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        time.sleep(0.2)
        connection.sendall(b"GET /healthz HT")
        assert b"headers_too_slow" in everything(connection)


def test_a_silent_connection_is_closed_without_a_word(served: Process) -> None:
    with served.connect() as connection:
        assert everything(connection) == b""


def test_a_connection_that_is_not_used_again_is_closed(served: Process) -> None:
    with served.connect() as connection:
        connection.sendall(head("GET", "/healthz"))
        assert everything(connection).startswith(b"HTTP/1.1 200")


def test_headers_that_are_too_large_are_refused(served: Process) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"x" * 20_000)
        assert refusal(everything(connection)) == (431, "headers_too_large")


def test_what_is_no_http_is_refused(served: Process) -> None:
    with served.connect() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert refusal(everything(connection)) == (400, "bad_request")


def test_one_client_may_not_take_all_connections(served: Process) -> None:
    with ExitStack() as stack:
        for _ in range(SMALL.connections_per_client):
            stack.enter_context(served.connect())
        time.sleep(0.2)
        answer = everything(stack.enter_context(served.connect()))
    assert refusal(answer) == (429, "too_many_connections")
    assert b"retry-after: 1" in answer


@unix
def test_all_clients_together_may_not_have_more_connections_than_the_limit(served: Process) -> None:
    with ExitStack() as stack:
        for place in range(SMALL.connections):
            stack.enter_context(served.connect(source=f"127.0.0.{2 + place % 2}"))
        time.sleep(0.2)
        answer = everything(stack.enter_context(served.connect(source="127.0.0.9")))
    assert refusal(answer) == (503, "too_many_connections")
    assert b"retry-after: 1" in answer


def test_an_answer_that_is_not_read_is_cut_off(served: Process) -> None:
    whole = httpx.get(f"{served.address}/models/pictures/report").content
    with served.connect(receive_buffer=4096) as connection:
        connection.sendall(head("GET", "/models/pictures/report") * 60)
        time.sleep(1.5)
        with contextlib.suppress(ConnectionResetError):
            assert len(everything(connection)) < 60 * len(whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of Unix")
def test_a_request_under_way_is_finished_when_the_service_is_told_to_end(run: Path, tmp_path: Path, photo: Path) -> None:
    data = photo.read_bytes()
    with service([run], tmp_path / "log", limits=SMALL) as ending:
        httpx.get(f"{ending.address}/healthz")  # it may take longer than an open connection may be without headers
        with ending.connect() as connection:
            connection.sendall(head("POST", "/predict", Content_Type="image/png", Content_Length=len(data)) + data[:50])
            time.sleep(0.2)
            ending.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(OSError):
                ending.connect().close()
            connection.sendall(data[50:])
            assert b'"label":"rings"' in everything(connection)
        ending.process.wait(10)


@pytest.mark.slow
def test_several_processes_count_together(run: Path, tmp_path: Path, photo: Path) -> None:
    with service([run], tmp_path / "log", workers=2) as served:
        seen = []

        def ask() -> None:
            with httpx.Client(timeout=20) as client:
                seen.append(client.post(f"{served.address}/predict", files={"file": photo.read_bytes()}).json()["predictions"][0]["label"])

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        text = httpx.get(f"{served.address}/metrics").text
    assert seen == ["rings"] * 8
    assert 'headstart_images_total{model="pictures",outcome="predicted"} 8.0' in text
