"""The command in a process of its own: pipes, terminals, signals, encodings, limits of the disk."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from headstart import FeatureStore, FitSettings, fit, load
from headstart.backbones import Backbone
from headstart.files import feature_store_file
from interrupting import Ended, interrupted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals are those of Unix")
COMMAND = [sys.executable, "-m", "headstart"]
RESULT = re.compile(r"test accuracy \d\.\d{4} \[\d\.\d{4}, \d\.\d{4}\] on \d+ images?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def run(pictures: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pictures"
    fit(pictures, out=folder, settings=FitSettings(head="centroid", cache=cache))
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 pictures: seconds of work, time enough to interrupt it."""
    folder = tmp_path_factory.mktemp("many")
    for kind in (0, 1):
        (folder / str(kind)).mkdir()
        for index in range(128):
            Image.fromarray(draw(kind, 1000 * kind + index, side=32)).save(folder / str(kind) / f"{index}.png", compress_level=1)
    return folder


@pytest.fixture
def own_cache(backbone: Backbone, tmp_path: Path) -> Path:
    """A cache that holds the converted network and no features."""
    shutil.copytree(backbone.network.parent, tmp_path / "cache" / "networks")
    return tmp_path / "cache"


def _call(*arguments: str | Path, timeout: float = 100, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload, no-any-return]


def _on_a_terminal(*arguments: str | Path, **environment: str) -> tuple[int, str]:
    """Run with a terminal for stdin, stdout and stderr; return exit code and all that it was shown."""
    import pty

    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdin=secondary, stdout=secondary, stderr=secondary,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )  # fmt: skip
    os.close(secondary)
    shown = b""
    while True:
        try:
            if not select.select([primary], [], [], 60)[0]:
                process.kill()
                break
            piece = os.read(primary, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(primary)
    return process.wait(), shown.decode()


# Terminals and pipes


def test_the_last_line_is_the_same_on_a_terminal_and_in_a_pipe(pictures: Path, tmp_path: Path) -> None:
    arguments = ("fit", pictures, "--head", "centroid", "--out", tmp_path / "run")
    code, shown = _on_a_terminal(*arguments)
    assert code == 0
    last = shown.rstrip().splitlines()[-1]
    assert "\x1b[1;32m" in last  # coloured here
    piped = _call(*arguments)
    assert RESULT.fullmatch(piped.stdout.splitlines()[-1])
    assert _COLOUR.sub("", last) == piped.stdout.splitlines()[-1]
    assert "\x1b" not in piped.stdout + piped.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert f"test accuracy {manifest['metrics']['test_accuracy']:.4f} " in last
    assert "60/60" in shown or "Extracting features of 60 images" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # the cursor is shown again


def test_no_color(pictures: Path, tmp_path: Path) -> None:
    code, shown = _on_a_terminal("fit", pictures, "--head", "centroid", "--out", tmp_path / "run", NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)
    assert RESULT.fullmatch(_COLOUR.sub("", shown.rstrip().splitlines()[-1]))


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_reader_that_goes_away(run: Path, pictures: Path, form: str) -> None:
    command = [*COMMAND, "predict", str(run), str(pictures / "rings" / "rings 00.png"), "--format", form]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize(("encoding", "form"), [("ascii", "table"), ("latin-1", "csv"), ("utf-8", "json")])
def test_any_encoding_of_the_terminal(run: Path, pictures: Path, tmp_path: Path, encoding: str, form: str) -> None:
    picture = tmp_path / "Käse 輪 caf\udce9.png"
    try:
        shutil.copy(pictures / "rings" / "rings 00.png", picture)
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    done = subprocess.run(
        [*COMMAND, "predict", str(run), os.fsencode(picture), "--format", form],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"rings" in done.stdout
    assert b"K\xc3\xa4se \xe8\xbc\xaa" in done.stdout or encoding != "utf-8"


def test_closed_streams(run: Path, pictures: Path) -> None:
    command = " ".join([*COMMAND, "predict", f"'{run}'", f"'{pictures}/rings'"])
    assert subprocess.run(["/bin/sh", "-c", f"{command} >&- 2>&-"], check=False).returncode == 0


def test_what_comes_before_any_command(tmp_path: Path) -> None:
    done = _call(tmp_path)
    assert (done.returncode, done.stderr) == (2, f"Error: There is no command '{tmp_path}'. Did you mean: headstart fit {tmp_path}\n")
    version = _call("--version")
    assert re.fullmatch(r"headstart \d+\.\d+\.\d+\n", version.stdout)
    done = _call("fti", "x")
    assert done.returncode == 2
    assert "No such command 'fti'" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    executable = Path(sys.executable).with_name("headstart")
    environment = {**os.environ, "_HEADSTART_COMPLETE": f"source_{shell}"}
    done = subprocess.run([executable], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0
    assert "headstart" in done.stdout
    if shell == "bash":
        asked = {**os.environ, "_HEADSTART_COMPLETE": "complete_bash", "COMP_WORDS": "headstart pre", "COMP_CWORD": "1"}
        assert subprocess.run([executable], capture_output=True, text=True, check=False, env=asked).stdout.split() == ["predict"]


def test_predicting_imports_nothing_heavy(run: Path, pictures: Path) -> None:
    code = (
        "import sys\nfrom headstart.cli import main\n"
        f"sys.argv = ['headstart', 'predict', {str(run)!r}, {str(pictures / 'rings' / 'rings 00.png')!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'onnx', 'matplotlib', 'pandas', 'timm'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# Interruptions


def _stored(cache: Path) -> int:
    with FeatureStore(feature_store_file(cache)) as store:
        return sum(entry.rows for entry in store.summary().extractors) if store.path.exists() else 0


def _interrupted(many: Path, cache: Path, out: Path, send: int) -> Ended:
    """Start a fit, and send a signal when it has stored some features."""
    before = _stored(cache)
    command = [*COMMAND, "fit", many, "--cache", cache, "--out", out, "--head", "centroid"]
    return interrupted(command, when=lambda printed: _stored(cache) > before, send=send)


def test_ctrl_c_keeps_what_was_finished(many: Path, own_cache: Path, tmp_path: Path) -> None:
    done = _interrupted(many, own_cache, tmp_path / "run", signal.SIGINT)
    assert done.code == 130
    assert done.seconds < 30  # a second or two where nothing else runs
    assert done.err.splitlines()[-1] == "Interrupted. Finished work is kept; run the same command again to resume."
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()
    kept = _stored(own_cache)
    assert 64 <= kept < 256
    result = fit(many, settings=FitSettings(head="centroid", cache=own_cache))
    assert _stored(own_cache) == 256
    assert len(result.dataset) == 256


def test_killed_at_any_moment_leaves_nothing_half_written(many: Path, own_cache: Path, tmp_path: Path) -> None:
    counts: list[int] = []
    for _ in range(2):
        assert _interrupted(many, own_cache, tmp_path / "run", signal.SIGKILL).code == -signal.SIGKILL
        counts.append(_stored(own_cache))
    assert counts[0] < counts[1]
    assert not (tmp_path / "run").exists()
    done = _call("fit", many, "--cache", own_cache, "--out", tmp_path / "run", "--head", "centroid", "-q")
    assert done.returncode == 0
    load(tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "run"]


def test_ctrl_c_at_the_very_beginning() -> None:
    process = subprocess.Popen([*COMMAND, "backbones"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(0.15)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode in (0, 130, -signal.SIGINT)  # the last: Python itself was not yet up
    assert "headstart" not in said or process.returncode == -signal.SIGINT


# The disk


def test_a_full_disk_while_the_run_is_written(run: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    """No file may grow beyond 5 MB here, so that the model of 13 MB cannot be written. The earlier run stays."""
    out = tmp_path / "out" / "run"
    shutil.copytree(run, out)
    done = _call(
        "fit", pictures, "--out", out, "--cache", cache, "--head", "centroid",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000)),
    )  # fmt: skip
    assert done.returncode == 2
    assert re.search(r"Error: The run cannot be written to .*run: File too large. Choose another --out.", done.stderr)
    assert "test accuracy" not in done.stdout
    assert load(out).metrics == load(run).metrics
    assert [path.name for path in out.parent.iterdir()] == ["run"]


def test_a_full_disk_under_the_cache(pictures: Path, tmp_path: Path) -> None:
    """Not even the network can be kept: everything is still done, or refused in one sentence."""
    done = _call(
        "fit", pictures, "--out", tmp_path / "run", "--cache", tmp_path / "cache", "--head", "centroid",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000)),
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(r"Error: The converted network cannot be written to .*: File too large. Free some space", done.stderr)


def test_two_at_once_into_one_place(pictures: Path, cache: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "fit", str(pictures), "--out", str(tmp_path / "run"), "--cache", str(cache), "--head", "centroid", "-q"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, said = process.communicate(timeout=100)
        assert (process.returncode, said) == (0, "")
        assert RESULT.fullmatch(out.strip())
    assert load(tmp_path / "run").predict([np.zeros((32, 32, 3), np.uint8)]).probabilities.shape == (1, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
