"""What adapting a run would bring: against a run that was adapted, by hand, and where nothing can be said."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from headstart import FitSettings, Run, evaluate_run, fit, load
from headstart.adaptation import AdaptationGain, AdaptationRecord, AdaptationTrial, trials
from headstart.data.folders import is_unlabelled
from headstart.evaluate import evaluate_unlabelled
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


@pytest.fixture(autouse=True)
def _few_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that take no training; all of them are tried in the tests of adaptation itself."""
    known = {name: plan for name, plan in trials.plans().items() if name in ("none", "standardised", "coral", "ot")}
    for module in (trials, sys.modules["headstart.adaptation.adapt"]):
        monkeypatch.setattr(module, "plans", lambda: known)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in white on black: `chalk`, and others of them in `newer`; and still others in black on white: `paper`."""
    folder, digits = tmp_path_factory.mktemp("worlds"), load_digits()
    for label, name in enumerate(("zero", "one", "two", "three")):
        for count, index in enumerate(np.flatnonzero(digits.target == label)[:90]):
            world = "chalk" if count < 40 else "newer" if count < 60 else "paper"
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
    assert gain.images == 120  # all of them
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
    assert "Adapting to them without their labels would change the accuracy on 120 images from" in printed
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


@pytest.fixture(scope="module")
def unlabelled(worlds: Path) -> Path:
    """The images of `paper` in one folder, without labels."""
    folder = worlds / "unlabelled"
    folder.mkdir()
    for path in sorted((worlds / "paper").rglob("*.png")):
        shutil.copy(path, folder / f"{path.parent.name}{path.name}")
    return folder


@pytest.mark.slow
def test_images_without_labels_are_told_from_the_training_images(worlds: Path, run: Run, unlabelled: Path) -> None:
    assert is_unlabelled(unlabelled)
    assert not is_unlabelled(worlds / "paper")
    assert not is_unlabelled(unlabelled / "one060.png")
    found, labelled = evaluate_unlabelled(run, unlabelled), evaluate_run(run, worlds / "paper")
    assert found.shift.found
    assert found.separation is not None
    assert found.separation.auc > 0.99
    gain = found.adapting
    assert gain is not None
    assert (gain.before, gain.after, gain.difference) == (None, None, None)
    assert labelled.adapting is not None
    assert gain.record.changed > 0.2  # most of what the model gets wrong
    assert gain.sentence("TYPE").endswith("What it is worth only labels of some of them can tell. Type: TYPE")
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert said["images"] == said["unlike"] == 120
    assert said["adapting"]["difference"] is None
    assert said["shift"]["novel"]["events"] == 120


def test_scores_without_labels_are_those_of_the_best_method_and_of_none() -> None:
    def trial(method: str, reverse: float, informative: float, *, chosen: bool) -> AdaptationTrial:
        return AdaptationTrial(method=method, reverse_accuracy=reverse, reverse_error=0, information=informative, seconds=0, chosen=chosen)

    trials = (trial("none", 0.4, 0.27, chosen=False), trial("ot", 0.9, 1.5, chosen=True), trial("tca", 0.95, 1.6, chosen=True))
    said = AdaptationGain(images=40, known=60, record=replace(record(), trials=trials, changed=0.25)).sentence("TYPE")
    assert said.startswith("Adapting to them would give 25.0 % of 40 images another label, estimated from 60 training images.")
    assert "reverse accuracy 95.0 % against 40.0 % before, information 1.60 against 0.27 nats." in said


@pytest.mark.slow
def test_the_command_takes_a_folder_of_images_without_labels(run: Run, unlabelled: Path, cli: Callable[..., SimpleNamespace]) -> None:
    done = cli("evaluate", run.path, unlabelled, "--out", "evaluation.json")
    assert done.code == 0
    assert "come from another world" in " ".join(done.err.split())
    assert "Adapting to them would give" in " ".join(done.out.split())
    assert json.loads(Path("evaluation.json").read_text())["images"] == 120
    for option in (("--part", "test"), ("--picture", "matrix.png")):
        done = cli("evaluate", run.path, unlabelled, *option)
        assert done.code == 2
        assert f"{option[0]} needs labels, and {unlabelled} is a folder of images without any" in " ".join(done.err.split())
