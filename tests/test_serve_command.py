"""``headstart serve``: what it starts, what it refuses to start, and how little it needs."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from headstart.settings.serving import Limits

pytest.importorskip("fastapi", reason="needs headstart[serve]")
httpx = pytest.importorskip("httpx", reason="needs httpx")

Cli = Callable[..., SimpleNamespace]


def test_the_command_serves_until_it_is_told_to_end(run: Path, photo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headstart", "serve", str(run), "--port", "0", "--max-body", "50KB"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.match(r"Serving at (http://127\.0\.0\.1:\d+)  \(Ctrl-C ends it\)", line)
    assert address, line
    answer = httpx.post(f"{address[1]}/predict", files={"file": photo.read_bytes()}, timeout=20)
    assert answer.json()["predictions"][0]["label"] == "rings"
    assert httpx.post(f"{address[1]}/predict", content=b"x" * 50_001).status_code == 413
    process.send_signal(signal.SIGINT if sys.platform != "win32" else signal.CTRL_C_EVENT)
    rest, _ = process.communicate(timeout=20)
    assert (process.returncode, rest) == (0, "")
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 can be reached from other machines: give a token with --token-file"),
        (["--token-file", "nothing"], "--token-file nothing: cannot be read (No such file or directory)"),
        (["--port", "70000"], "--port must be a whole number from 0 to 65535, got 70000"),
        (["--workers", "0"], "--workers must be a whole number from 1 to 64, got 0"),
        (["--max-body", "large"], "'LARGE' is not a size. Write it as 10MB, 512KB or 10MiB."),
        (["--cors", "*"], "--cors *: name one address such as https://example.org"),
        (["--body-seconds", "0"], "--body-seconds must be a number above 0, got 0.0"),
        (["--host", "192.0.2.1", "--token-file", "token"], "Cannot listen on 192.0.2.1, port 8000:"),
    ],
)
def test_what_cannot_be_served_is_said_in_words(cli: Cli, run: Path, options: list[str], words: str) -> None:
    Path("token").write_text("a-token-of-the-tests")
    done = cli("serve", run, *options)
    assert done.code == 2
    assert words.lower() in done.err.lower()


def test_a_port_that_is_taken_is_said_in_words(cli: Cli, run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("serve", run, "--port", str(port))
    assert done.code == 2
    assert f"Cannot listen on 127.0.0.1, port {port}: Address already in use. Choose another with --host or --port." in done.err


@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_a_folder_that_is_no_run_is_said_in_words(cli: Cli, tmp_path: Path, more: list[str]) -> None:
    done = cli("serve", tmp_path, "--port", "0", *more)
    assert done.code == 2
    assert "not a run folder" in done.err


def test_without_the_optional_part_the_command_that_installs_it_is_named(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "fastapi" or name.startswith("headstart.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    done = cli("serve", run)
    assert done.code == 2
    assert "pip install 'headstart[serve]'" in done.err


def test_the_defaults_of_the_command_are_those_of_the_limits(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr("headstart.serve.server.serve", lambda settings, *, announce: given.append(settings))
    assert cli("serve", run).code == 0
    assert given[0].limits == Limits()
    assert (given[0].host, given[0].port, given[0].workers, given[0].token_file) == ("127.0.0.1", 8000, 1, None)


def test_a_service_needs_nothing_heavy(run: Path) -> None:
    """Heat maps read the graph with onnx, in a thread of their own."""
    code = f"""
import sys
from pathlib import Path
from headstart.serve.app import create_app
app = create_app([Path({str(run)!r})], watch_seconds=0)
import asyncio
async def once():
    async with app.router.lifespan_context(app):
        with app.state.service.models.use() as model:
            await asyncio.sleep(0.2)
            await app.state.service.threads.run("explain", lambda: model.heat_maps)
asyncio.run(once())
print(*sorted({{name.split('.')[0] for name in sys.modules}} & {{'torch', 'sklearn', 'scipy', 'matplotlib', 'pandas'}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
