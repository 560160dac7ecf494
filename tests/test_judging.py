"""What a run says beside the class: the same as `Reliability` says directly, in the order of the images, without scikit-learn."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from conftest import draw
from headstart import FitSettings, fit, load
from headstart.data import dataset_from_paths
from headstart.errors import ParameterError
from headstart.files import file_digest
from headstart.metrics.link import SIGMOID
from headstart.reliability import Abstention, Novelty, PredictionSets, Reliability
from headstart.run import Run
from headstart.run.collected import Collected
from headstart.run.manifest import digest_of as manifest_digest
from headstart.tasks import Judgement, Output
from headstart.tasks.classification.task import Classification

Array = npt.NDArray[Any]
Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def images(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Training images, test images, noise, and one between two kinds."""
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    one, two = (np.asarray(Image.open(pictures / kind / f"{kind} 03.png")) for kind in ("rings", "stripes"))
    Image.fromarray(np.hstack([one[:, :24], two[:, 24:]])).save(folder / "both.png")
    return [*sorted(pictures.glob("*/* 0[0-4].png")), folder / "noise.png", folder / "both.png"]


def outputs(run: Run, images: list[Path]) -> dict[str, Array]:
    """What the saved model says, by ONNX Runtime alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(run.path / "model.onnx")
    names = ("probabilities", "logits", "features")
    given = np.stack([run.preprocessing(image) for image in images])
    return dict(zip(names, session.run(names, {"images": given}), strict=True))


@pytest.fixture(scope="module")
def opened(run: Path) -> Run:
    return load(run, engine="onnxruntime")


def of_earlier_version(run: Path, place: Path) -> Path:
    """A run as it was written before there was anything to trust."""
    folder = Path(shutil.copytree(run, place))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for entry in ("reliability_test", "learning_curve", "leaks", "title"):
        del manifest["story"][entry]
    del manifest["reliability"], manifest["digest"]
    kept = {
        name: array for name, array in load_file(folder / "reference.safetensors").items() if not name.startswith(("trust.", "digests"))
    }
    assert set(kept) == {"features", "targets", "out_of_sample_logits"}
    save_file(kept, folder / "reference.safetensors")
    (folder / "evaluation.safetensors").unlink()
    del manifest["files"]["evaluation.safetensors"]
    manifest["files"]["reference.safetensors"] = file_digest(folder / "reference.safetensors")
    (folder / "manifest.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}), "utf-8")
    return folder


# against Reliability asked directly


def test_predictions_are_judged_as_trust_judges_them(opened: Run, images: list[Path]) -> None:
    said = outputs(opened, images)
    trust, judged = opened.reliability, opened.predict(images, neighbours=3).judgement
    assert judged is not None
    assert trust is not None
    assert trust.sets is not None
    assert trust.novelty is not None
    np.testing.assert_array_equal(judged.sets, trust.sets(said["probabilities"], never_empty=True))
    assert judged.unlikeness == pytest.approx(trust.novelty.score(said["features"]), abs=1e-3)
    np.testing.assert_array_equal(judged.unlike, trust.novelty(said["features"]))
    np.testing.assert_array_equal(judged.nearest, trust.novelty.nearest(said["features"], 3)[0])
    assert judged.nearest is not None
    assert judged.nearest.shape == (len(images), 3)


def test_the_nearest_of_a_training_image_is_itself(opened: Run) -> None:
    names = opened.training_names
    judged = opened.predict([opened.path / name for name in names[:10]]).judgement
    assert judged is not None
    assert judged.nearest is not None
    assert judged.nearest.tolist() == [[row] for row in range(10)]
    assert len(names) == len(opened.reference["targets"]) == 48
    folders = [Path(name).parent.name for name in names]
    assert folders == [opened.classes[target] for target in opened.reference["targets"]]


def test_noise_is_unlike_and_training_images_are_not(opened: Run, images: list[Path]) -> None:
    judged = opened.predict(images).judgement
    assert judged is not None
    assert judged.unlike is not None
    assert judged.unlikeness is not None
    noise = images.index(next(path for path in images if path.name == "noise.png"))
    assert judged.unlike[noise]
    assert judged.unlikeness.argmax() == noise
    assert judged.unlike[:15].sum() <= 1


@pytest.mark.filterwarnings("ignore:.*cannot be read and")
def test_the_judgement_says_of_which_image_it_is(opened: Run, images: list[Path], tmp_path: Path) -> None:
    """Images that cannot be read leave no row behind, and an order is kept over the borders of what is judged together."""
    (tmp_path / "broken.png").write_bytes(b"rubbish")
    mixed: list[Path] = [tmp_path / "broken.png", *images[:3], tmp_path / "absent.png", *images[3:], tmp_path / "broken.png"]
    alone, found = opened.predict(images).judgement, opened.predict(mixed)
    assert [mixed[place] for place in found.kept] == images
    assert found.judgement is not None
    assert alone is not None
    for name in ("sets", "unlikeness", "unlike", "nearest"):
        np.testing.assert_array_equal(getattr(found.judgement, name), getattr(alone, name))


class Layer:
    name, start, stop = "last", 0, 8


class Whole:
    name, start, stop = "last", 0, 4


def judgement_of(reliability: Reliability, answers: np.ndarray, features: np.ndarray, *, neighbours: int) -> Judgement:
    """The judgement of a run that has this reliability, on its outputs for some images."""
    manifest = SimpleNamespace(outputs=(Output("probabilities", "probabilities", answers.shape[1:]),), state={})
    one = Classification()
    task = SimpleNamespace(predictions=lambda predictions, state: predictions, prediction_sets=one.prediction_sets, spatial=False)
    run = SimpleNamespace(outputs=("probabilities", "features"), manifest=manifest, task=task, reliability=reliability)
    collected = Collected(run, neighbours=neighbours)  # type: ignore[arg-type]
    for row, outputs in enumerate(zip(answers, features, strict=True)):
        collected.add(row, outputs)
    found = collected.predictions().judgement
    assert found is not None
    return found


@pytest.mark.parametrize("count", [1, 255, 256, 257, 700])
def test_hundreds_of_images_are_judged_in_parts(count: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(120, 8)).astype(np.float32)
    odds = rng.random((120, 3))
    probabilities, targets = odds / odds.sum(axis=1, keepdims=True), rng.integers(0, 3, 120)
    trust = Reliability.fit(values, targets, np.log(probabilities), layers=[Layer()])
    assert trust.sets is not None
    assert trust.novelty is not None
    features, answers = rng.normal(size=(count, 8)).astype(np.float32), rng.random((count, 3)).astype(np.float32)
    found = judgement_of(trust, answers, features, neighbours=2)
    np.testing.assert_array_equal(found.sets, trust.sets(answers, never_empty=True))
    assert found.unlikeness == pytest.approx(trust.novelty.score(features), rel=1e-5, abs=1e-5)
    np.testing.assert_array_equal(found.unlike, trust.novelty(features))
    np.testing.assert_array_equal(found.nearest, trust.novelty.nearest(features, 2)[0])


def test_what_cannot_be_told_is_left_out() -> None:
    sets = PredictionSets(0.9, np.array([0.3, 0.3]), by_class=False)
    answers = np.array([[0.8, 0.2]], np.float32)
    found = judgement_of(Reliability(sets=sets, abstention=None, novelty=None), answers, np.zeros((1, 4), np.float32), neighbours=1)
    assert found.sets is not None
    assert found.sets.tolist() == [[True, False]]
    assert (found.unlikeness, found.unlike, found.nearest) == (None, None, None)
    curve = Abstention.fit(np.array([0.9]), np.array([True]))
    blind = Novelty.fit(np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 3], np.zeros(12), layers=[Whole()])
    found = judgement_of(Reliability(sets=None, abstention=curve, novelty=blind), answers, np.eye(4, dtype=np.float32)[:1], neighbours=99)
    assert found.sets is None
    assert found.nearest is not None
    assert sorted(found.nearest[0].tolist()) == list(range(12))  # no more than there are


def test_no_images_and_no_neighbours(opened: Run, images: list[Path]) -> None:
    judged = opened.predict([]).judgement
    assert judged is not None
    assert (judged.sets, judged.unlike, judged.unlikeness, judged.nearest) == (None, None, None, None)
    with pytest.raises(ParameterError, match="count must be a whole number of at least 1, got 0"):
        opened.predict(images[:1], neighbours=0)


def test_the_saved_model_holds_what_fit_measured(pictures: Path, cache: Path, tmp_path: Path) -> None:
    """The test of trust in the manifest, made from features in memory, comes out again from the pixels; of several labels too."""
    from headstart.reliability import ReliabilityTest

    paths = sorted(pictures.glob("*/*.png"))
    labels = [{path.parent.name, path.name[-5]} for path in paths]
    data = dataset_from_paths(paths, labels, root=pictures)
    result = fit(data, out=tmp_path / "several", settings=FitSettings(head="ridge", cache=cache, coverage=0.7))
    run, test = load(tmp_path / "several"), result.dataset.take(result.dataset.part("test"))
    evaluation, predictions = run.evaluate(test)
    assert run.reliability is not None
    assert predictions.judgement is not None
    again = ReliabilityTest.of(run.reliability, evaluation.outcome.probabilities, test.targets.array, predictions.judgement.unlike)
    kept = ReliabilityTest.from_dict(run.manifest.story["reliability_test"])
    assert again == kept == result.judged.reliability_test
    assert kept.asked == 0.7
    assert run.reliability.sets is not None
    assert run.reliability.sets.link is SIGMOID


# earlier versions, and what is not imported


def test_a_run_of_an_earlier_version_still_predicts(cli: Cli, run: Path, opened: Run, images: list[Path], tmp_path: Path) -> None:
    old = of_earlier_version(run, tmp_path / "old")
    earlier = load(old, engine="onnxruntime")
    found = earlier.predict(images)
    np.testing.assert_array_equal(found.probabilities, opened.predict(images).probabilities)
    assert found.judgement is None
    assert earlier.reliability is None
    assert earlier.tested == {}
    assert earlier.seen(opened.predict(images).digests) == (0, 0)
    done = cli("predict", old, images[0], "--format", "csv")
    assert done.code == 0
    row = next(csv.DictReader(io.StringIO(done.out)))
    assert (row["label"], row["set"], row["unlike"], row["nearest"]) == (found.labels[0], "", "", "")
    assert set(json.loads(cli("predict", old, images[0], "--format", "json").out)[0]) == {"path", "label", "probability"}
    shutil.copytree(images[0].parents[1], "data")
    assert cli("evaluate", old, "data", "--out", "scores.json").code == 0
    scores = json.loads(Path("scores.json").read_text("utf-8"))
    assert scores["reliability"] is None
    assert scores["seen"] == {"trained": 0, "tested": 0}
    assert not (old / "uses.jsonl").exists()


def test_predicting_imports_none_of_what_only_learning_needs(run: Path, images: list[Path]) -> None:
    """Judged as well: sets, unlike, nearest."""
    learning = ("sklearn", "scipy", "torch", "timm", "onnx", "matplotlib", "pandas")
    program = (
        "import sys\n"
        "from headstart.run import load\n"
        "judged = load(sys.argv[1]).predict(sys.argv[2:]).judgement\n"
        "assert judged.sets.shape == (2, 3) and judged.unlike is not None and judged.nearest.shape == (2, 1)\n"
        f"print([name for name in {learning!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, run, *images[:2]], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


# the command


@pytest.fixture
def judged(opened: Run, images: list[Path]) -> Any:
    return opened.predict(images).judgement


def test_the_command_says_what_the_run_says(cli: Cli, run: Path, opened: Run, images: list[Path], judged: Any) -> None:
    as_csv = list(csv.DictReader(io.StringIO(cli("predict", run, *images, "--format", "csv", "--engine", "onnxruntime").out)))
    as_json = json.loads(cli("predict", run, *images, "--format", "json", "--engine", "onnxruntime").out)
    assert len(as_csv) == len(as_json) == len(images)
    given = {path: row for row, path in enumerate(map(str, images))}
    for cells, entry in zip(as_csv, as_json, strict=True):
        row = given[cells["path"]]
        candidates = [name for name, inside in zip(opened.classes, judged.sets[row], strict=True) if inside]
        assert cells["set"].split(";") == entry["set"] == candidates
        assert cells["label"] == entry["label"]
        assert (cells["unlike"] == "yes") == entry["unlike"] == judged.unlike[row]
        assert entry["unlikeness"] == pytest.approx(judged.unlikeness[row])
        nearest = opened.path / opened.training_names[judged.nearest[row, 0]]
        assert cells["nearest"] == entry["nearest"]
        assert Path(cells["nearest"]).samefile(nearest)  # from where the command was typed


def test_the_table_says_only_what_speaks_against_an_answer(cli: Cli, run: Path, opened: Run, images: list[Path], judged: Any) -> None:
    plain = next(row for row in range(len(images)) if judged.sets[row].sum() == 1 and not judged.unlike[row])
    assert cli("predict", run, images[plain]).out.count("  ") == 1
    noise = next(path for path in images if path.name == "noise.png")
    name = opened.path / opened.training_names[judged.nearest[images.index(noise), 0]]
    said = cli("predict", run, noise).out.rstrip("\n")
    assert "  unlike anything seen in training; nearest: " in said
    assert Path(said.split("nearest: ")[1]).samefile(name)


def test_the_table_names_the_classes_that_come_into_question(cli: Cli, run: Path, images: list[Path], tmp_path: Path) -> None:
    """A run whose sets are large, because they were asked to hold the right class nearly always."""
    careful = Path(shutil.copytree(run, tmp_path / "careful"))
    manifest = json.loads((careful / "manifest.json").read_text("utf-8"))
    manifest["reliability"]["sets"]["thresholds"] = [0.0, 0.0, 1.1]
    del manifest["digest"]
    (careful / "manifest.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}), "utf-8")
    assert cli("predict", careful, images[0]).out.rstrip("\n").endswith("  may be checks or rings")


def test_where_an_accuracy_is_asked_for_the_doubtful_and_the_foreign_stay_open(cli: Cli, tmp_path: Path, cache: Path) -> None:
    generator = np.random.default_rng(0)
    folder = tmp_path / "data"
    for kind, name in enumerate(("rings", "stripes")):
        (folder / name).mkdir(parents=True)
        for seed in range(60):
            Image.fromarray(draw(kind, seed)).save(folder / name / f"{seed}.png")
    fit(folder, out=tmp_path / "run", settings=FitSettings(head="centroid", cache=cache))
    Image.fromarray(generator.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(tmp_path / "noise.png")
    images = (tmp_path / "noise.png", folder / "rings" / "0.png")
    asked = cli("predict", tmp_path / "run", *images, "--accuracy", "0.9", "--format", "json", "-q")
    noise, ring = json.loads(asked.out)
    assert noise["unlike"]
    assert noise["error"].startswith("no answer: ")
    assert ring["label"] == "rings"
    assert "error" not in ring
    table = cli("predict", tmp_path / "run", tmp_path / "noise.png", "--accuracy", "0.9", "-q").out
    assert "no answer: " in table
    assert "refused" not in table
    asked = cli("predict", tmp_path / "run", tmp_path / "noise.png", "--accuracy", "0.9999")
    assert asked.code == 2
    assert "cannot be assured with" in asked.err
