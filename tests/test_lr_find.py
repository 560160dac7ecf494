"""The search for a learning rate on real pictures: what it finds is of use, what it must not touch stays untouched."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm", reason="needs headstart[torch]")

from PIL import Image

from headstart import FitSettings, TransferClassifier, fit
from headstart.errors import DataError, Interrupted, ParameterError
from headstart.features.table import FeatureTable
from headstart.pipeline import find_learning_rate
from headstart.progress import Listener
from headstart.settings import DEFAULT_LR, FineTuning
from headstart.tasks.classification import learning
from headstart.training.learning_rates import LearningRates

Cli = Callable[..., Any]

RANDOM_HEAD = {"strategy": "partial", "unfreeze": 1, "start": "random", "augment": "none", "image_size": 64, "device": "cpu"}
TYPED = ("--strategy", "probe", "--head-layers", "16", "--augment", "none", "--image-size", "64", "--device", "cpu")


def search(data: Path, *, seed: int = 0, listener: Listener | None = None, steps: int = 60, **plan: Any) -> LearningRates:
    settings = FitSettings(fine_tuning=FineTuning(**(RANDOM_HEAD | {"image_size": 32} | plan)), seed=seed, engine="onnxruntime")
    return find_learning_rate(data, settings, steps=steps, listener=listener)


@pytest.fixture(scope="module")
def found(pictures: Path, cache: Path) -> LearningRates:
    settings = FitSettings(fine_tuning=FineTuning(**RANDOM_HEAD, optimizer="sgd"), cache=cache)
    return find_learning_rate(pictures, settings, low=1e-5, high=1e4, steps=60)


def test_a_diverging_rate_is_recognised_and_the_suggestion_lies_below_it(found: LearningRates) -> None:
    assert found.diverged
    assert len(found.losses) < 60
    assert found.smoothed[-1] > np.log(3)
    assert found.suggested <= found.lrs[found.smoothed.argmin()] / 10
    assert found.lrs == pytest.approx(np.geomspace(1e-5, 1e4, 60)[: len(found.lrs)])
    assert found.losses[0] == pytest.approx(found.losses[1], rel=0.5)  # nothing happens at first


def test_a_training_with_the_suggestion_lowers_the_loss(found: LearningRates, pictures: Path) -> None:
    paths = sorted(pictures.rglob("*.png"))
    plan = FineTuning(**RANDOM_HEAD, optimizer="sgd", lr=found.suggested, steps=24)
    classifier = TransferClassifier(fine_tuning=plan, engine="onnxruntime").fit(paths, [path.parent.name for path in paths])
    assert classifier.fine_tuned_ is not None
    losses = [epoch.loss for epoch in classifier.fine_tuned_.history.epochs]
    assert losses[-1] < 0.6 * losses[0]
    assert "explo" not in classifier.fine_tuned_.history.stopped


def test_the_same_seed_gives_the_same_curve(pictures: Path) -> None:
    one, same, other = (search(pictures, seed=seed, steps=20, augment="light", views=2, dropout=0.3) for seed in (0, 0, 1))
    assert np.array_equal(one.losses, same.losses)
    assert (one.suggested, one.reason) == (same.suggested, same.reason)
    assert not np.array_equal(one.losses, other.losses)


@pytest.mark.slow
def test_a_head_that_is_already_good_is_told_so(pictures: Path) -> None:
    found = search(pictures, start="probe", image_size=128, steps=40, label_smoothing=0.0)
    assert found.losses[0] < 0.3
    assert "and does not clearly fall: the head is already good" in found.reason
    assert found.suggested <= DEFAULT_LR["adamw"]


def test_no_more_images_are_prepared_than_the_search_will_see(pictures: Path) -> None:
    said: list[str] = []

    class Ear(Listener):
        def say(self, message: str) -> None:
            said.append(message)

    search(pictures, listener=Ear(), steps=20, batch_size=1)
    assert any("computed once for 20 images" in message for message in said), said


# Which images are used ---------------------------------------------------------------------------------------------------------------


def test_test_images_are_not_opened_where_the_data_have_them(pictures: Path, tmp_path: Path) -> None:
    for name in ("rings", "stripes", "checks"):
        for place, path in enumerate(sorted((pictures / name).iterdir())):
            target = tmp_path / "data" / ("test" if place >= 15 else "train") / name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    before = search(tmp_path / "data", steps=20)
    for path in (tmp_path / "data" / "test").rglob("*.png"):
        path.write_bytes(b"no image")
    assert np.array_equal(search(tmp_path / "data", steps=20).losses, before.losses)


@pytest.mark.filterwarnings("ignore:.*cannot be read and")
def test_the_images_are_those_that_fit_learns_from(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    for index in range(6):  # copies of an image are on one side
        shutil.copy(data / "rings" / f"rings {index:02d}.png", data / "rings" / f"copy {index}.png")
    (data / "checks" / "broken.png").write_bytes(b"no image")
    given: list[FeatureTable] = []
    monkeypatch.setattr(learning, "find_learning_rate", lambda table, context, **rest: given.append(table))
    search(data)
    learned = fit(data, settings=FitSettings(head="centroid")).dataset
    train, (table,) = learned.part("train"), given
    assert [table.dataset.inputs[row] for row in table.train] == [learned.inputs[row] for row in train]
    assert table.targets[table.train].tolist() == learned.targets.array[train].tolist()
    by_digest: dict[bytes, set[int]] = {}
    for row in table.train:
        by_digest.setdefault(Path(table.dataset.inputs[row]).read_bytes(), set()).add(int(table.groups[row]))
    assert all(len(groups) == 1 for groups in by_digest.values())


def test_what_lies_about_is_removed_and_ctrl_c_says_that_nothing_is_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.training.loop import Training

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Training, "step", interrupt)
    with pytest.raises(Interrupted, match=r"^Interrupted\. Nothing of the search was saved\.$"):
        search(pictures, steps=20)
    assert not list(tmp_path.glob("headstart-search-*"))


# The command -------------------------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_ends_with_a_command_that_runs(cli: Cli, pictures: Path) -> None:
    done = cli("lr-find", pictures, *TYPED, "--seed", "3", "--steps", "40", "--out", "curve.png")
    assert done.code == 0, done.err
    assert [path.name for path in Path().iterdir()] == ["curve.png"]
    with Image.open("curve.png") as image:
        assert image.format == "PNG"
        assert len(image.getcolors(1 << 24) or []) > 10
    lines = done.out.splitlines()
    assert lines[0].split() == ["lr", "loss"]
    rows = [tuple(map(float, line.split())) for line in lines[1 : lines.index("")]]
    assert rows[0][0] == 1e-6
    assert all(lower < higher for (lower, _), (higher, _) in pairwise(rows))
    assert re.search(r"^search    \d+ steps, up to ", done.out, re.MULTILINE)
    assert re.search(r"^why       The loss ", done.out, re.MULTILINE)
    assert "curve     curve.png" in lines
    words = shlex.split(lines[-1])
    assert words[:5] == ["headstart", "fit", str(pictures), "--strategy", "probe"]
    assert words[-2] == "--lr"
    assert set(TYPED) <= set(words)
    assert words[words.index("--seed") + 1] == "3"
    assert not {"--steps", "--out"} & set(words)
    trained = cli(*words[1:], "--steps", "3", "--quiet")
    assert trained.code == 0, trained.err
    assert trained.out.startswith("test accuracy")


def test_quiet_prints_the_command_alone_and_writes_nothing(cli: Cli, pictures: Path) -> None:
    done = cli("lr-find", pictures, *TYPED, "--steps", "20", "--no-cache", "-q")
    assert done.code == 0, done.err
    assert re.fullmatch(r"headstart fit \S+ --strategy probe .*--no-cache.* --lr \d(\.\d)?e-\d\n", done.out), done.out
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--strategy", "probe"), "there is no learning rate to find. Give --strategy partial or full; or --head-layers"),
        (("--out", "curve.jpg"), "out must be the name of a .png file, got 'curve.jpg'."),
        (("--out", "nowhere/curve.png"), "cannot be written: there is no folder"),
        (("--low", "1", "--high", "2"), "must go from a rate above 0 to one at least 10 times as high, got 1 to 2."),
        (("--steps", "5"), "must have at least 20 steps, got 5."),
        (("--unfreeze", "stage99"), "This backbone has no stage 'stage99'"),
        (("--optimizer", "adma"), "optimizer must be one of adamw"),
        (("--test-share", "2"), "--test-share must be a number above 0 and below 1"),
    ],
)
def test_mistakes(cli: Cli, pictures: Path, arguments: tuple[str, ...], said: str) -> None:
    done = cli("lr-find", pictures, *arguments)
    assert done.code == 2
    assert said in done.err
    assert not done.out


def test_data_that_are_none(cli: Cli, pictures: Path) -> None:
    done = cli("lr-find", "nowhere")
    assert done.code == 2
    assert "nowhere" in done.err
    with pytest.raises(ParameterError, match=r"the settings have no fine_tuning\. Give a FineTuning"):
        find_learning_rate(pictures, FitSettings())
    with pytest.raises(ParameterError, match=r"fine_tuning is None\. Give a FineTuning"):
        TransferClassifier().find_learning_rate([], np.array([]))
    with pytest.raises(DataError, match="there are no class folders"):
        search(pictures / "rings")
