"""What adapting a run would bring: against a run that was adapted, by hand, and where nothing can be said."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from headstart import FitSettings, Run, evaluate_run, fit, load
from headstart.adaptation import AdaptationGain, AdaptationRecord, AdaptationTrial
from headstart.evaluate.adapting import adapting_command
from headstart.metrics import paired_difference
from headstart.progress import Listener

STAGE = "Estimating what adapting would bring"


class Heard(Listener):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def warn(self, message: str) -> None:
        """Of the shift; what it says is tested elsewhere."""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in white on black: `chalk`, and others of them in `newer`; and still others in black on white: `paper`."""
    folder, digits = tmp_path_factory.mktemp("worlds"), load_digits()
    for label, name in enumerate(("zero", "one", "two", "three")):
        for count, index in enumerate(np.flatnonzero(digits.target == label)[:130]):
            world = "chalk" if count < 50 else "newer" if count < 70 else "paper"
            (folder / world / name).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(np.rint(digits.images[index] * (255 / 16)).astype(np.uint8))
            picture = picture.resize((64, 64), Image.Resampling.BICUBIC)
            (ImageOps.invert(picture) if world == "paper" else picture).save(folder / world / name / f"{count:03d}.png")
    return folder


@pytest.fixture(scope="module")
def run(worlds: Path, cache: Path) -> Run:
    fit(worlds / "chalk", out=worlds / "run", settings=FitSettings(cache=str(cache)))
    return load(worlds / "run")


def test_the_gain_is_that_of_adapting(worlds: Path, run: Run, cache: Path) -> None:
    heard = Heard()
    found = evaluate_run(run, worlds / "paper", listener=heard)
    gain = found.adapting
    assert gain is not None
    assert STAGE in heard.stages
    assert gain.images == 240  # all of them
    assert gain.before == found.evaluation.headline[1] < 0.8
    fit(worlds / "chalk", out=worlds / "adapted", settings=FitSettings(cache=str(cache), adapt_to=worlds / "paper"))
    adapted = evaluate_run(worlds / "adapted", worlds / "paper")
    assert gain.after == pytest.approx(adapted.evaluation.headline[1], abs=0.03)
    assert gain.shown
    assert gain.record.methods
    assert adapted.adapting is None  # it was adapted already
    assert found.sentences[-1 - len(found.reliability.threshold_sentences() if found.reliability else ())] == gain.sentence(found.command)
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))["adapting"]
    assert said["after"] == gain.after
    assert {trial["method"] for trial in said["trials"]} > {"none", "coral"}


def test_the_command_prints_it(worlds: Path, run: Run, cli: Callable[..., SimpleNamespace]) -> None:
    done = cli("evaluate", run.path, worlds / "paper")
    assert done.code == 0
    printed = " ".join(done.out.split())
    assert "Adapting to them without their labels would change the accuracy on 240 images from" in printed
    assert f"--adapt-to {worlds / 'paper'}" in printed


def test_nothing_is_tried_in_the_same_world(worlds: Path, run: Run) -> None:
    heard = Heard()
    found = evaluate_run(run, worlds / "newer", listener=heard)
    assert not found.shift.found
    assert found.adapting is None
    assert STAGE not in heard.stages
    assert found.to_dict()["adapting"] is None


def test_without_stored_features_nothing_is_said(worlds: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "empty"))
    assert evaluate_run(run, worlds / "paper").adapting is None
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "features.sqlite").write_bytes(b"not a database" * 100)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "broken"))
    assert evaluate_run(run, worlds / "paper").adapting is None


def record(*methods: str) -> AdaptationRecord:
    trials = [AdaptationTrial(method=name, reverse_accuracy=1, reverse_error=0, information=1, seconds=0, chosen=True) for name in methods]
    reason = "No adaptation: no method was shown to gain."
    return AdaptationRecord(images=8, used=8, apart=1.0, before=(1, 0), after=(1, 0), trials=tuple(trials), reason=reason)


def test_figures_are_those_of_the_same_images() -> None:
    before, after = np.arange(100) % 2 == 0, np.arange(100) % 10 < 9  # 45 more are right, and 5 fewer
    gain = AdaptationGain.of(before, after, known=60, record=record("coral"))
    assert (gain.before, gain.after, gain.difference.value) == (0.5, 0.9, pytest.approx(0.4))
    assert gain.difference.interval == paired_difference(after, before).interval
    assert gain.sentence("TYPE THIS").startswith(
        "Adapting to them without their labels would change the accuracy on 100 images from 50.0 % to 90.0 %: +40.0 points"
    )
    assert gain.sentence("TYPE THIS").endswith("estimated from 60 training images. Type: TYPE THIS")


def test_what_gains_nothing_names_no_command() -> None:
    right = np.arange(100) % 2 == 0
    assert AdaptationGain.of(right, ~right, known=60, record=record("coral")).sentence("TYPE").endswith("No gain is shown.")
    said = AdaptationGain.of(right, right, known=60, record=record()).sentence("TYPE")
    assert said == "Adapting to them without their labels would change nothing. No adaptation: no method was shown to gain."


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("headstart fit 'my photos' --out runs/a --head ridge -q", "headstart fit 'my photos' --head ridge --adapt-to"),
        ("headstart fit photos --out=runs/a", "headstart fit photos --adapt-to"),
        ("headstart recipe run dogs", "headstart fit DATA --adapt-to"),
        ("", "headstart fit DATA --adapt-to"),
        ("headstart fit 'torn", "headstart fit DATA --adapt-to"),
    ],
)
def test_the_command_is_the_earlier_one_with_the_images(run: Run, tmp_path: Path, typed: str, command: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    opened = load(copy)
    opened.manifest.provenance["command"] = typed  # type: ignore[index]
    there = tmp_path / "the others"
    there.mkdir()
    assert adapting_command(opened, there) == f"{command} {shlex.quote(str(there))}"
    assert adapting_command(opened, tmp_path / "list.csv") == f"{command} FOLDER"
