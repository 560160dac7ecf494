"""Runs compared on the images that all were tested on: figures against the metrics, and every mistake in words."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from headstart import FitSettings, fit
from headstart.errors import DataError, ParameterError, RunError
from headstart.evaluate import compare_runs, read_compared
from headstart.files import WRITTEN
from headstart.metrics import auc_difference, paired_difference
from headstart.metrics.differences import Difference
from headstart.modalities.image import Preprocessing
from sealed import seal

Cli = Callable[..., Any]
ANIMALS = ("cat", "dog", "hare")


def saved(
    folder: Path, logits: np.ndarray, targets: np.ndarray, images: Sequence[int], *, classes: Sequence[str] = ANIMALS, backbone: str = "net"
) -> Path:
    """A run folder with no more in it than a comparison needs; image number i has the digest of i."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"network")
    digests = np.array([list(i.to_bytes(32, "big")) for i in images], dtype=np.uint8).reshape(-1, 32)
    arrays = {"logits": logits.astype(np.float32), "targets": targets, "digests": digests}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "evaluation.safetensors")
    seal(folder, {
        "protocol": 1, "classes": list(classes), "multilabel": targets.ndim == 2, "preprocessing": Preprocessing(size=32).to_dict(),
        "metrics": {}, "backbone": {"name": backbone},
    })  # fmt: skip
    return folder


def answers(seed: int, *, n: int = 200, k: int = 3, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, k) of a model of some skill, and the targets, which are the same for every seed."""
    targets = np.random.default_rng(0).integers(0, k, n)
    logits = np.random.default_rng(seed + 1).normal(size=(n, k))
    logits[np.arange(n), targets] += skill
    return logits, targets


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    logits, targets = answers(1, skill=1.0)
    better, _ = answers(2, skill=2.5)
    return saved(tmp_path / "old", logits, targets, range(200)), saved(tmp_path / "new", better, targets, range(200), backbone="big_net")


# figures


def test_the_figures_are_those_of_the_metrics(two: tuple[Path, Path]) -> None:
    found = compare_runs(two)
    assert found.images == 200
    assert found.notes == ()
    (pair,) = found.pairs
    (old, targets), (new, _) = answers(1, skill=1.0), answers(2, skill=2.5)
    expected = paired_difference(old.argmax(axis=1) == targets, new.argmax(axis=1) == targets)
    assert pair.headline == Difference.of_accuracy(expected)
    assert pair.p_values[0] == expected.p_value  # one pair: nothing to correct
    chances = [np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) for logits in (old, new)]
    areas = auc_difference(np.eye(3, dtype=bool)[targets], *chances)
    assert (pair.of("roc_auc").value, pair.of("roc_auc").p_value) == pytest.approx((areas.value, areas.p_value), abs=1e-6)
    assert [run.evaluation.accuracy for run in found.runs] == [(logits.argmax(axis=1) == targets).mean() for logits in (old, new)]
    assert found.best.name == "new"


def test_the_better_one_is_named_whichever_comes_first(two: tuple[Path, Path]) -> None:
    forth, back = compare_runs(two), compare_runs(two[::-1])
    assert forth.summary() == back.summary()
    assert forth.summary().startswith("new is better than old: accuracy +")
    pair = forth.pairs[0]
    again = pair.reversed().reversed()
    assert (again.first, again.second, again.differences) == (pair.first, pair.second, pair.differences)
    assert pair.headline.wins is not None
    assert f"It alone is right on {pair.headline.wins[1]} images, the other alone on {pair.headline.wins[0]}." in forth.summary()
    assert "ROC-AUC +0." in forth.summary()


def test_images_are_matched_by_content_and_classes_by_name(two: tuple[Path, Path], tmp_path: Path) -> None:
    """The same answers with images and classes in another order are the same run."""
    better, targets = answers(2, skill=2.5)
    images, columns = np.random.default_rng(5).permutation(200), [2, 0, 1]
    mixed = saved(
        tmp_path / "mixed",
        better[images][:, columns],
        np.argsort(columns)[targets[images]],
        images.tolist(),
        classes=[ANIMALS[c] for c in columns],
    )
    found = compare_runs([two[1], mixed])
    pair = found.pairs[0]
    assert (pair.headline.wins, pair.p_values[0]) == ((0, 0), 1.0)
    assert pair.of("roc_auc").value == pytest.approx(0, abs=1e-12)
    assert found.runs[0].evaluation.confusion is not None
    assert np.array_equal(found.runs[0].evaluation.confusion, found.runs[1].evaluation.confusion)
    assert found.summary().startswith("No difference between new and mixed is shown: accuracy +0.0 points")
    old, again = compare_runs([two[0], two[1]]).pairs[0], compare_runs([two[0], mixed]).pairs[0]
    assert old.headline == again.headline


def test_only_shared_images_count_and_that_is_said(two: tuple[Path, Path], tmp_path: Path) -> None:
    better, targets = answers(2, skill=2.5)
    part = saved(tmp_path / "part", better[50:150], targets[50:150], range(50, 150))
    found = compare_runs([two[0], part])
    assert found.images == 100
    old = answers(1)[0][50:150]
    expected = paired_difference(old.argmax(axis=1) == targets[50:150], better[50:150].argmax(axis=1) == targets[50:150])
    assert found.pairs[0].headline == Difference.of_accuracy(expected)
    assert found.notes == ("Only images that both runs were tested on count, each once: 100. Test images of each: old 200 and part 100.",)


def test_an_image_that_a_run_has_twice_counts_once(two: tuple[Path, Path], tmp_path: Path) -> None:
    better, targets = answers(2, skill=2.5)
    rows = [*range(200), 7, 7]
    logits = better[rows]
    logits[200:] *= -1  # the first time counts
    double = saved(tmp_path / "double", logits, targets[rows], rows)
    found = compare_runs([two[0], double])
    assert found.images == 200
    assert found.pairs[0].headline == compare_runs(two).pairs[0].headline


def test_images_with_different_labels_are_left_out(two: tuple[Path, Path], tmp_path: Path) -> None:
    better, targets = answers(2, skill=2.5)
    changed = targets.copy()
    changed[:3] = (changed[:3] + 1) % 3
    found = compare_runs([two[0], saved(tmp_path / "relabelled", better, changed, range(200))])
    assert found.images == 197
    assert found.notes == ("Left out, as the runs have different labels for them: 3 images.",)
    none = saved(tmp_path / "none", better, (targets + 1) % 3, range(200))
    with pytest.raises(DataError, match=r"The runs share 200 test images, and agree on the label of none\. Check the labels."):
        compare_runs([two[0], none])


def test_several_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = rng.random((150, 3)) < 0.4
    logits = [rng.normal(size=(150, 3)) + skill * (2 * targets - 1) for skill in (0.5, 2.0)]
    runs = [saved(tmp_path / name, values, targets, range(150)) for name, values in zip("ab", logits, strict=True)]
    found = compare_runs(runs)
    right = [((values > 0) == targets).all(axis=1) for values in logits]
    assert found.pairs[0].headline == Difference.of_accuracy(paired_difference(*right))
    assert found.summary().startswith("b is better than a: ")
    chances = read_compared(runs[0])[0].evaluation.outcome.probabilities
    assert chances == pytest.approx(1 / (1 + np.exp(-logits[0])), abs=1e-6)


def test_p_values_of_several_pairs_are_corrected(two: tuple[Path, Path], tmp_path: Path) -> None:
    logits, targets = answers(3, skill=1.4)
    third = saved(tmp_path / "third", logits, targets, range(200))
    found = compare_runs([*two, third])
    raw = sorted(pair.headline.p_value for pair in found.pairs)
    corrected = sorted(pair.p_values[0] for pair in found.pairs)
    assert corrected == pytest.approx(
        [min(1, 3 * raw[0]), min(1, max(3 * raw[0], 2 * raw[1])), min(1, max(2 * raw[1], raw[2], 3 * raw[0]))]
    )
    assert "p values are corrected for 3 comparisons (Holm)." in found.notes[0]
    assert found.summary().startswith("new has the highest accuracy, 0.")
    assert found.summary().endswith(": better than old and third.")
    four = compare_runs([*two, third, saved(tmp_path / "fourth", logits + 0.01, targets, range(200))])
    assert len(four.pairs) == 6
    assert sum(line.startswith("  new is better than") for line in four.lines()) == 3  # the best against the others, and no more
    assert not any("third is" in line for line in four.lines())


def test_a_run_that_only_ranks_better_is_said_to_rank_better(tmp_path: Path) -> None:
    """The same decisions, but the mistakes of one are made with less confidence."""
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], 150)
    margin = np.abs(rng.normal(size=300)) + 0.1
    wrong = rng.random(300) < 0.2
    side = np.where(wrong, -1, 1) * np.where(targets == 1, 1, -1)
    careless, careful = side * rng.permutation(margin), side * np.where(wrong, 0.01, margin)
    runs = [
        saved(tmp_path / name, np.column_stack([-score, score]), targets, range(300), classes=("a", "b"))
        for name, score in (("careless", careless), ("careful", careful))
    ]
    said = compare_runs(runs).summary()
    assert said.startswith("careful ranks the images better than careless: ROC-AUC +0.")
    assert said.endswith("no difference in accuracy is shown: accuracy +0.0 points (95 % interval -0.6 to +0.6, McNemar p = 1).")


def test_where_nothing_can_be_told_nothing_is_claimed(tmp_path: Path) -> None:
    perfect = np.eye(2)[[0, 0, 1, 1]] * 9
    runs = [saved(tmp_path / name, perfect, np.array([0, 0, 1, 1]), range(4), classes=("a", "b")) for name in ("one", "other")]
    found = compare_runs(runs)
    assert found.summary().startswith("No difference between one and other is shown: accuracy +0.0 points (95 % interval -32.7 to +32.7")
    assert found.summary().endswith("So few images cannot tell differences of less than about 32.7 points.")
    assert "ROC-AUC" not in found.summary()
    assert found.to_dict()["pairs"][0]["roc_auc"]["interval"] is None
    only = [saved(tmp_path / name, perfect[:2], np.array([0, 0]), range(2), classes=("a", "b")) for name in ("cats", "cats again")]
    assert math.isnan(compare_runs(only).pairs[0].of("roc_auc").value)
    assert json.loads(json.dumps(compare_runs(only).to_dict(), allow_nan=False))["pairs"][0]["roc_auc"] is None


# the command


def test_compare_prints_a_table_and_a_verdict(cli: Cli, two: tuple[Path, Path]) -> None:
    done = cli("compare", *two, "--out", "comparison.json")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    found = compare_runs(two)
    assert lines == found.lines()
    assert lines[0] == "200 images that both runs were tested on"
    assert lines[1].split() == ["run", "backbone", "accuracy", "95", "%", "interval", "ROC-AUC", "log", "loss", "ECE"]
    new = found.runs[1].evaluation
    row = ["new", "big_net", f"{new.accuracy:.4f}", f"[{new.interval[0]:.4f},", f"{new.interval[1]:.4f}]", f"{new.scores['roc_auc']:.4f}"]
    assert lines[3].split()[:6] == row
    assert lines[-1] == found.summary()
    data = json.loads(Path("comparison.json").read_text(encoding="utf-8"))
    assert data == {**json.loads(json.dumps(found.to_dict())), "about": WRITTEN}
    assert data["best"] == "new"
    assert data["pairs"][0]["accuracy"]["difference"] == pytest.approx(found.pairs[0].headline.value)
    assert cli("compare", *two, "-q").out == found.summary() + "\n"


def test_runs_of_one_name_are_told_apart(cli: Cli, two: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(two[0], tmp_path / "elsewhere" / "new")
    done = cli("compare", two[1], tmp_path / "elsewhere" / "new")
    assert done.code == 0
    assert f"  {two[1]} " in done.out or "…" in done.out
    assert len({line.split()[0] for line in done.out.splitlines()[2:4]}) == 2


def test_real_runs_are_compared(cli: Cli, run: Path, pictures: Path, cache: Path) -> None:
    fit(pictures, out=Path("ridge"), settings=FitSettings(head="ridge", cache=cache))
    done = cli("compare", run, "ridge")
    assert done.code == 0, done.err
    tested = json.loads(Path("ridge/manifest.json").read_text("utf-8"))["metrics"]
    assert done.out.startswith(f"{tested['test_images']} images that both runs were tested on\n")
    assert f"{tested['test_accuracy']:.4f}" in done.out.splitlines()[3]


# mistakes


def test_what_cannot_be_compared_is_refused_in_words(cli: Cli, two: tuple[Path, Path], tmp_path: Path) -> None:
    logits, targets = answers(1)
    apart = saved(tmp_path / "apart", logits, targets, range(1000, 1200))
    strangers = saved(tmp_path / "strangers", logits, targets, range(200), classes=("cat", "dog", "horse"))
    several = saved(tmp_path / "several", logits, np.eye(3, dtype=bool)[targets], range(200))
    old = two[0]
    for given, said in (
        ([old], "A comparison needs two runs at least, and got 1. Type: headstart compare RUN RUN"),
        ([old, old.parent / "." / "old"], f"{old} is given twice. Give different runs"),
        (
            [old, apart],
            "The runs were tested on different images: none of them is shared (old and apart share 0). old has 200 and apart has 200.",
        ),
        ([old, strangers], f"The runs have different classes: only {old} has hare and only {strangers} has horse."),
        ([several, old], f"In {several} an image may have several labels, in {old} it has one: the two cannot be compared."),
        ([old, tmp_path / "nowhere"], "nowhere: no such run folder"),
    ):
        done = cli("compare", *given)
        assert done.code == 2
        assert said in done.err
        assert done.out == ""
    assert cli("compare", *two, "--out", tmp_path).code == 2
    with pytest.raises(ParameterError, match="got 0"):
        compare_runs([])


def test_three_runs_that_share_nothing_say_who_shares_what(two: tuple[Path, Path], tmp_path: Path) -> None:
    logits, targets = answers(1)
    with pytest.raises(DataError, match="old and new share 200; old and third share 0; new and third share 0"):
        compare_runs([*two, saved(tmp_path / "third", logits, targets, range(500, 700))])


def test_runs_of_an_earlier_version_are_named(two: tuple[Path, Path]) -> None:
    (two[0] / "evaluation.safetensors").unlink()
    seal(two[0], json.loads((two[0] / "manifest.json").read_text("utf-8")))
    with pytest.raises(RunError, match=r"old: holds no outputs for the test images.*earlier version.*Fit it again"):
        compare_runs(two)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"logits": np.zeros((200, 2), np.float32)}, r"damaged: probabilities must have the shape \(images, 3\).*got \(200, 2\)"),
        ({"logits": np.full((200, 3), math.nan, np.float32)}, "damaged: probabilities must lie between 0 and 1"),
        ({"digests": np.zeros((200, 16), np.uint8)}, r"damaged: digests \(200, 16\) of 200 images"),
        ({"targets": np.full(200, 3)}, "damaged: .*3"),
        ({"targets": np.zeros(199, np.int64)}, r"damaged: targets must be integers of the shape \(200,\)"),
        ({"targets": np.zeros((200, 3), bool)}, "targets do not fit"),
        ({"targets": None}, "damaged: 'targets' is missing"),
    ],
)
def test_damaged_answers_are_noticed(two: tuple[Path, Path], change: dict[str, Any], said: str) -> None:
    from safetensors.numpy import load_file

    arrays = {**load_file(two[0] / "evaluation.safetensors"), **change}
    save_file({name: array for name, array in arrays.items() if array is not None}, two[0] / "evaluation.safetensors")
    seal(two[0], json.loads((two[0] / "manifest.json").read_text("utf-8")))
    with pytest.raises(RunError, match=said):
        compare_runs(two)
