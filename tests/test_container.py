"""The recipe of the container, read: what it copies is there, what it calls exists, and what it promises holds. Nothing is built."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer.main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
HEAVY = {"torch", "torchvision", "timm", "tensorflow", "ray", "nncf", "transformers"}


def _instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, in order, each on one line; comments are left out, between continued lines too."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(first.upper(), rest.strip()) for first, _, rest in (line.strip().partition(" ") for line in joined.splitlines()) if first]


RECIPE = _instructions((ROOT / "Dockerfile").read_text("utf-8"))
LAST_STAGE = RECIPE[max(index for index, (word, _) in enumerate(RECIPE) if word == "FROM") :]


def _only(word: str) -> str:
    """The value of an instruction that the last stage has once."""
    found = [rest for name, rest in LAST_STAGE if name == word]
    assert len(found) == 1, word
    return found[0]


def _health_check() -> list[str]:
    command: list[str] = json.loads(_only("HEALTHCHECK").partition(" CMD ")[2])
    return command


def _option(name: str) -> str:
    entry = json.loads(_only("ENTRYPOINT"))
    return str(entry[entry.index(name) + 1])


def _copied() -> list[str]:
    """What is copied from the folder of the project."""
    return [source for word, rest in RECIPE if word == "COPY" and not rest.startswith("--from=") for source in rest.split()[:-1]]


def _kept_out(path: str) -> bool:
    """Whether .dockerignore keeps a path out; as Docker has it, the last line that fits decides, and a folder stands for what is in it."""
    out = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        wanted = pattern.removeprefix("!")
        parts = path.split("/")
        places = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        if wanted.startswith("**/"):
            fits = any(fnmatch(part, wanted[3:]) for part in parts)
        else:
            fits = any(place.count("/") == wanted.count("/") and fnmatch(place, wanted) for place in places)
        if fits:
            out = not pattern.startswith("!")
    return out


def test_instructions_are_read_as_docker_reads_them() -> None:
    assert _instructions("# no\nFROM a\n\nRUN b \\\n # between\n  c\nenv D=1\n") == [("FROM", "a"), ("RUN", "b c"), ("ENV", "D=1")]


def test_every_image_is_slim_and_named_by_a_version() -> None:
    images = [rest.split()[0] for word, rest in RECIPE if word == "FROM"]
    assert images
    for image in images:
        name, _, tag = image.partition(":")
        assert name == "python"
        version = re.fullmatch(r"3\.(\d+)-slim-\w+", tag)
        assert version, image
        assert int(version[1]) >= int(PROJECT["requires-python"].removeprefix(">=3."))
        assert f"Programming Language :: Python :: 3.{version[1]}" in PROJECT["classifiers"]


def test_it_runs_as_a_user_without_rights() -> None:
    user, _, group = _only("USER").partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    made = next(rest for word, rest in LAST_STAGE if word == "RUN" and "useradd" in rest)
    assert f"--uid {user} " in made
    assert f"groupadd --gid {group} " in made
    assert LAST_STAGE.index(("USER", _only("USER"))) < [word for word, _ in LAST_STAGE].index("ENTRYPOINT")
    after = [word for word, _ in LAST_STAGE[[word for word, _ in LAST_STAGE].index("USER") :]]
    assert not {"RUN", "COPY", "ADD"} & set(after)  # nothing that this user could change


def test_there_is_no_torch_in_it() -> None:
    """Neither in words, nor through an extra."""
    installs = [rest for word, rest in RECIPE if word == "RUN" and "pip install" in rest]
    assert len(installs) == 1
    assert re.search(r'"\.\[serve\]"$', installs[0])
    requirements = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["serve"]
    names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}  # type: ignore[index]
    assert "fastapi" in names
    assert not names & (HEAVY | {"headstart"})
    assert not any(re.search(rf"\b{name}\b", rest) for _, rest in RECIPE for name in HEAVY)


def test_what_is_copied_is_there_and_let_through() -> None:
    wanted = {"pyproject.toml", "src", PROJECT["readme"], *PROJECT["license-files"]}
    assert set(_copied()) == wanted
    for name in _copied():
        assert (ROOT / name).exists()
        assert not _kept_out(name)
    assert not _kept_out("src/headstart/serve/page/index.html")


@pytest.mark.parametrize(
    "name", [".git/config", "token.txt", "runs/photos/model.onnx", "tests/conftest.py", ".env", "src/a/__pycache__/b.pyc"]
)
def test_all_else_is_kept_out(name: str) -> None:
    assert _kept_out(name)


def test_what_is_copied_between_stages_was_made_there_and_is_on_the_path() -> None:
    source, target = next(rest.split()[1:] for word, rest in LAST_STAGE if word == "COPY")
    assert source == target  # the programs of a virtual environment have its path in their first line
    assert any(f"python -m venv {source} " in rest and f"{source}/bin/pip install" in rest for word, rest in RECIPE if word == "RUN")
    path = next(value for value in _only("ENV").split() if value.startswith("PATH="))
    assert path.removeprefix("PATH=").split(":")[0] == f"{target}/bin"


def test_the_command_is_one_that_the_service_takes() -> None:
    pytest.importorskip("fastapi", reason="needs headstart[serve]")
    from headstart.cli.application import application, register_commands
    from headstart.settings.serving import ServerSettings

    register_commands()
    program, name, *arguments = json.loads(_only("ENTRYPOINT"))
    assert program in PROJECT["scripts"]
    group: Any = typer.main.get_command(application)
    with group.commands[name].make_context(name, [*arguments, *json.loads(_only("CMD"))]) as context:
        given = context.params
    assert given["host"] == "0.0.0.0"
    ServerSettings(runs=tuple(given["runs"]), host=given["host"], port=given["port"], token_file=given["token_file"])
    assert str(given["token_file"]).startswith("/run/secrets/")
    assert str(given["runs"][0]).startswith(f"{_only('WORKDIR')}/")
    assert str(given["port"]) == _only("EXPOSE")


def test_no_secret_and_no_address_is_in_it() -> None:
    assert not any(word in ("ADD", "ARG") for word, _ in RECIPE)
    assert not any(mark in rest for _, rest in RECIPE for mark in ("http://", "https://", "curl", "wget", "sudo", "chmod 777"))


@contextmanager
def _answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that answers everything with one status; its port, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *said: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()


def _checked(port: int) -> int:
    program, *arguments = (part.replace(f" {_option('--port')},", f" {port},") for part in _health_check())
    assert program == "python"
    assert str(port) in arguments[-1]
    environment = {"http_proxy": "http://127.0.0.1:9"}  # a proxy that is not there
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, timeout=20, check=False).returncode


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (204, False), (302, False), (404, False), (503, False)])
def test_the_health_check_believes_only_a_good_answer(status: int, healthy: bool) -> None:
    with _answering(status) as (port, asked):
        assert (_checked(port) == 0) == healthy
        assert asked == ["/healthz"]


def test_the_health_check_fails_when_nothing_listens() -> None:
    with _answering(200) as (port, _):
        pass
    assert _checked(port) != 0


def test_the_health_check_needs_no_token() -> None:
    pytest.importorskip("fastapi", reason="needs headstart[serve]")
    from headstart.serve.security import OPEN

    assert "/healthz" in OPEN
