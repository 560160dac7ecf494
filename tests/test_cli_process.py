"""The command in a process of its own: pipes, terminals, signals, encodings, limits of the disk, trainings that are stopped.

Processes are forked from one that has imported everything, where their start is not what is tested.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from forked import Command, Ended, together
from headstart import FeatureStore, load
from headstart.backbones import Backbone
from headstart.files import feature_store_file
from interrupting import line_that_starts_with

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals are those of Unix")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs headstart[torch]")
Cli = Callable[..., Any]
COMMAND = [sys.executable, "-m", "headstart"]
RESULT = re.compile(r"test accuracy \d\.\d{4} \[\d\.\d{4}, \d\.\d{4}\] on \d+ images?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """192 pictures: seconds of work, time enough to interrupt it."""
    folder = tmp_path_factory.mktemp("many")
    for kind in (0, 1):
        (folder / str(kind)).mkdir()
        for index in range(96):
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
    command = Command(*arguments, environment={"TERM": "xterm-256color", "COLUMNS": "120", **environment}, terminal=os.ttyname(secondary))
    shown, running = b"", True
    while running or select.select([primary], [], [], 0)[0]:
        running = command.running
        if select.select([primary], [], [], 0.05)[0]:
            shown += os.read(primary, 65536)
    os.close(primary)
    os.close(secondary)
    return command.ended().returncode, shown.decode()


# Terminals and pipes


@pytest.mark.slow
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


@pytest.mark.slow
def test_no_color(pictures: Path, tmp_path: Path) -> None:
    code, shown = _on_a_terminal("fit", pictures, "--head", "centroid", "--out", tmp_path / "run", NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)
    assert RESULT.fullmatch(_COLOUR.sub("", shown.rstrip().splitlines()[-1]))


@pytest.mark.slow
def test_a_reader_that_goes_away(run: Path, pictures: Path) -> None:
    command = [*COMMAND, "predict", str(run), str(pictures / "rings" / "rings 00.png"), "--format", "csv"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize(
    ("encoding", "form"),
    [
        ("ascii", "table"), pytest.param("latin-1", "csv", marks=pytest.mark.slow), pytest.param("utf-8", "json", marks=pytest.mark.slow),
    ],
)  # fmt: skip
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


def _interrupted(many: Path, cache: Path, out: Path, send: signal.Signals) -> Ended:
    """Start a fit, and send a signal when it has stored some features."""
    before = _stored(cache)
    command = Command("fit", many, "--cache", cache, "--out", out, "--head", "centroid")
    return command.signal_when(lambda printed: _stored(cache) > before, send).ended()


@pytest.mark.slow
def test_interrupted_and_killed_it_keeps_what_was_finished_and_nothing_half_written(many: Path, own_cache: Path, tmp_path: Path) -> None:
    done = _interrupted(many, own_cache, tmp_path / "run", signal.SIGINT)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "Interrupted. Finished work is kept; run the same command again to resume."
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
    kept = _stored(own_cache)
    assert 64 <= kept < 192
    assert _interrupted(many, own_cache, tmp_path / "run", signal.SIGKILL).returncode == -signal.SIGKILL
    assert kept < _stored(own_cache) <= 192
    assert list((tmp_path / "run").iterdir()) == []  # the name it had taken
    done = Command("fit", many, "--cache", own_cache, "--out", tmp_path / "run", "--head", "centroid").ended()
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith(" on 38 images")
    assert _stored(own_cache) == 192
    load(tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "run"]


def test_ctrl_c_at_the_very_beginning() -> None:
    process = subprocess.Popen([*COMMAND, "backbones"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(0.15)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (
        process.returncode in (0, 130, -signal.SIGINT) or "init_import_site" in said or "import runpy" in said
    )  # all but two: Python itself was not yet up
    assert "headstart" not in said or process.returncode == -signal.SIGINT


# Trainings

BEGIN = ("--strategy", "full", "--image-size", "32", "--epochs", "2", "--batch-size", "6", "--average", "2", "--head", "centroid")


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = Command("fit", pictures, "--out", run, "--cache", cache, *BEGIN).ended()
    assert done.returncode == 0, done.stderr
    assert [path.name for path in run.parent.iterdir()] == ["run"]
    return run


@pytest.mark.slow
@needs_torch
@pytest.mark.torch
def test_ctrl_c_and_a_kill_and_then_the_same_model(cli: Cli, pictures: Path, cache: Path, undisturbed: Path) -> None:
    stopped = (
        Command("fit", pictures, "--out", "run", "--cache", cache, *BEGIN)
        .signal_when(line_that_starts_with("Epoch 1"), signal.SIGINT)
        .ended()
    )
    said = stopped.stderr
    assert stopped.returncode == 130, said
    assert said.splitlines()[-1] == f"Interrupted. The state of the training is saved. To resume: headstart fit {pictures} --resume run"
    assert "Traceback" not in said
    assert "epoch 1/2" not in said
    assert sorted(path.name for path in Path().iterdir()) == ["run.training"]

    # What is refused meanwhile
    shutil.copytree(pictures, "other")
    (Path("other/rings") / "rings 00.png").unlink()
    for arguments, message in (
        (
            (pictures, "--out", "run", *BEGIN),
            "run.training holds the state of a training that was interrupted. Resume it: --resume run",
        ),
        ((pictures, "--resume", "run", "--lr", "0.1"), "begun with lr None and cannot be resumed with 0.1. Leave that setting out"),
        ((pictures, "--resume", "run", "--seed", "4"), "begun with seed 0 and cannot be resumed with 4"),
        ((pictures, "--resume", "run", "--strategy", "partial"), "begun with strategy 'full' and cannot be resumed with 'partial'"),
        ((pictures, "--resume", "run", "--out", "elsewhere"), "--resume run resumes that run; leave out --out elsewhere"),
        (("other", "--resume", "run"), "The images or labels have changed since the training of run was begun"),
    ):
        done = cli("fit", *arguments)
        assert done.code == 2
        assert message in done.err
    assert cli("fit", pictures, "--head", "centroid", "-q").code == 0  # another run is not hindered

    killed = (
        Command("fit", pictures, "--resume", "run.training", "--cache", cache)
        .signal_when(line_that_starts_with("Epoch 2"), signal.SIGKILL)
        .ended()
    )
    said = killed.stderr
    assert killed.returncode == -signal.SIGKILL
    assert "Resuming run, which was begun on " in said
    assert "Resuming after step " in said
    assert "epoch 1/2" in said
    # the whole command, typed again, does no harm
    done = Command("fit", pictures, "--resume", "run", "--out", "run", "--cache", cache, *BEGIN).ended()
    assert done.returncode == 0, done.stderr
    assert re.search(r"Resuming after step (\d+) of (\d+)\.", done.stderr)
    assert not Path("run.training").exists()
    assert Path("run/model.onnx").read_bytes() == (undisturbed / "model.onnx").read_bytes()
    first, second = (json.loads((run / "manifest.json").read_text("utf-8")) for run in (undisturbed, Path("run")))
    assert second["metrics"] == first["metrics"]
    assert second["story"]["training"]["plan"] == first["story"]["training"]["plan"]
    assert f"--out run --cache {cache} --strategy full" in second["provenance"]["command"]  # the one that repeats it
    assert "--resume" not in second["provenance"]["command"]
    assert cli("fit", pictures, "--resume", "run").err.startswith("Error: run: there is no interrupted training to resume")


@pytest.mark.slow
@needs_torch
@pytest.mark.torch
def test_two_processes_stop_together_and_come_to_the_same_predictions(cli: Cli, pictures: Path, cache: Path, undisturbed: Path) -> None:
    both = together(2, "fit", pictures, "--out", "run", "--cache", cache, *BEGIN)
    both[0].signal_when(line_that_starts_with("Epoch 2"), signal.SIGINT)
    stopped = [command.signal_when(lambda _: True, signal.SIGINT).ended() for command in both[1:]] + [both[0].ended()]
    said = "".join(one.stderr for one in stopped)
    assert 0 not in [one.returncode for one in stopped]
    assert said.count("Interrupted.") == 1
    assert said.count("Reading the data\n") == 1
    assert "bug in Headstart" not in said
    assert sorted(path.name for path in Path().iterdir()) == ["run.training"]
    ended = [command.ended() for command in together(2, "fit", pictures, "--resume", "run", "--cache", cache)]
    said = "".join(one.stderr for one in ended)
    assert [one.returncode for one in ended] == [0, 0], said
    assert [sum(line.startswith("test accuracy ") for line in one.stdout.splitlines()) for one in ended] == [1, 0]
    assert said.count("epoch 2/2") == 1
    assert [path.name for path in Path().iterdir()] == ["run"]
    images = sorted(pictures.glob("*/*.png"))
    one, two = (load(run).predict(images).probabilities for run in (undisturbed, Path("run")))
    np.testing.assert_allclose(two, one, atol=1e-4)
    assert ended[0].stdout.splitlines()[-1] == "test " + _summary(undisturbed)


def _summary(run: Path) -> str:
    metrics = json.loads((run / "manifest.json").read_text("utf-8"))["metrics"]
    low, high = metrics["test_accuracy_interval"]
    return f"accuracy {metrics['test_accuracy']:.4f} [{low:.4f}, {high:.4f}] on 12 images"


# The disk


@pytest.mark.slow
def test_a_full_disk_while_the_run_is_written(run: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    """No file may grow beyond 5 MB here, so that the model of 13 MB cannot be written. The earlier run stays."""
    out = tmp_path / "out" / "run"
    shutil.copytree(run, out)
    done = Command("fit", pictures, "--out", out, "--cache", cache, "--head", "centroid", largest_file=5_000_000).ended()
    assert done.returncode == 2
    assert re.search(r"Error: The run cannot be written to .*run: File too large. Choose another --out.", done.stderr)
    assert "test accuracy" not in done.stdout
    assert load(out).metrics == load(run).metrics
    assert [path.name for path in out.parent.iterdir()] == ["run"]


@pytest.mark.slow
def test_a_full_disk_under_the_cache(pictures: Path, tmp_path: Path) -> None:
    """Not even the network can be kept: everything is still done, or refused in one sentence."""
    arguments = ("fit", pictures, "--out", tmp_path / "run", "--cache", tmp_path / "cache", "--head", "centroid")
    done = Command(*arguments, largest_file=5_000_000).ended()
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(r"Error: The converted network cannot be written to .*: File too large. Free some space", done.stderr)


@pytest.mark.slow
def test_two_at_once_into_one_place(pictures: Path, cache: Path, tmp_path: Path) -> None:
    arguments = ("fit", pictures, "--out", tmp_path / "run", "--cache", cache, "--head", "centroid", "-q")
    refused, done = sorted((process.ended() for process in [Command(*arguments) for _ in range(2)]), key=lambda one: -one.returncode)
    said = f"Error: Another fit is writing the run {tmp_path / 'run'}. Wait for it, or choose another --out.\n"
    assert (refused.returncode, refused.stderr) == (2, said)
    assert (done.returncode, done.stderr) == (0, "")
    assert RESULT.fullmatch(done.stdout.strip())
    assert load(tmp_path / "run").predict([np.zeros((32, 32, 3), np.uint8)]).probabilities.shape == (1, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
