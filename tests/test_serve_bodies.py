"""Bodies sent to a real service, from bare sockets: half-sent, too slow, too large, too many."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from served import SMALL, Process, everything, head, refusal, trickle

pytest.importorskip("fastapi", reason="needs headstart[serve]")
httpx = pytest.importorskip("httpx", reason="needs httpx")
unix = pytest.mark.skipif(sys.platform != "linux", reason="binds to further loopback addresses")

pytest_plugins = ["served_small"]
pytestmark = pytest.mark.usefixtures("still_well")


def test_a_body_that_never_ends_is_cut_off(served: Process) -> None:
    with served.connect() as connection:
        connection.sendall(head("POST", "/predict", Content_Type="image/png", Content_Length=5000) + b"x" * 100)
        assert refusal(everything(connection)) == (408, "body_too_slow")


def test_a_body_that_trickles_is_cut_off(served: Process) -> None:
    with served.connect() as connection:
        connection.sendall(head("POST", "/predict", Content_Type="image/png", Transfer_Encoding="chunked"))
        begun = time.monotonic()
        with pytest.raises(OSError):
            trickle(connection, b"1\r\nx\r\n")
        assert time.monotonic() - begun < 8


@pytest.mark.parametrize("path", ["/predict", "/nothing"])
def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(served: Process, path: str) -> None:
    with served.connect() as connection:
        connection.sendall(head("POST", path, Content_Type="image/png", Content_Length=10**12))
        assert refusal(everything(connection)) == (413, "body_too_large")


def test_a_body_of_unknown_length_is_refused_when_it_is_too_large(served: Process) -> None:
    with served.connect() as connection:
        connection.sendall(head("POST", "/predict", Content_Type="image/png", Transfer_Encoding="chunked"))
        connection.sendall(b"%x\r\n" % 200_000 + b"x" * 200_000)
        assert refusal(everything(connection)) == (413, "body_too_large")


def test_a_client_that_sends_all_of_a_large_body_still_reads_the_answer(served: Process) -> None:
    with served.connect() as connection:
        connection.sendall(head("POST", "/predict", Content_Type="image/png", Content_Length=20_000_000))
        connection.sendall(b"x" * 20_000_000)  # fails where the connection is closed on what has not been read
        assert refusal(everything(connection)) == (413, "body_too_large")


def test_a_body_of_the_largest_size_is_read(served: Process) -> None:
    answer = httpx.post(f"{served.address}/predict", content=b"x" * SMALL.body, headers={"content-type": "image/png"}, timeout=10)
    assert answer.status_code == 415
    assert answer.json()["code"] == "no_image_format"


def test_a_compressed_body_is_not_read(served: Process) -> None:
    answer = httpx.post(f"{served.address}/predict", content=b"x" * 10, headers={"content-encoding": "gzip", "content-type": "image/png"})
    assert answer.status_code == 415
    assert answer.json()["code"] == "encoded_body"


def test_half_sent_bodies_do_not_keep_others_out(served: Process, photo: Path) -> None:
    """Five bodies of 90 KB are more than may be held together: the oldest gives way, with 503."""
    with ExitStack() as stack:
        slow = [stack.enter_context(served.connect()) for _ in range(5)]
        for connection in slow:
            connection.sendall(head("POST", "/predict", Content_Type="image/png", Content_Length=99_000) + b"x" * 90_000)
            time.sleep(0.05)
        good = httpx.post(f"{served.address}/predict", files={"file": photo.read_bytes()}, timeout=5)
        assert good.status_code == 200
        assert refusal(everything(slow[0])) == (503, "too_many_bodies")
        assert refusal(everything(slow[4])) == (408, "body_too_slow")


def test_what_comes_in_another_field_has_an_error_in_its_place(served: Process, photo: Path) -> None:
    files = [("file", ("a.png", photo.read_bytes())), ("image", ("b.png", photo.read_bytes())), ("file", (None, "photo.jpg"))]
    found = httpx.post(f"{served.address}/predict", files=files, timeout=5).json()["predictions"]
    assert [one["name"] for one in found] == ["a.png", "b.png", "photo.jpg"]
    assert [one.get("label") for one in found] == ["rings", None, None]
    assert found[1]["error"] == "a file in the field 'image', and only 'file' is read"
    assert found[2]["error"] == "the field 'file' holds a text, not a file (curl: -F file=@NAME)"
