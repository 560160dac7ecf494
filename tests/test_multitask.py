"""Several columns of labels on one backbone: each is learned as if it were alone, from the images that have a label there."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file

from headstart import FitResult, FitSettings, ListOptions, fit, load, read_dataset
from headstart.data import LabelColumns, Labels, LabelSets, label_columns
from headstart.errors import DataError, ParameterError
from headstart.metrics import SIGMOID, SOFTMAX, accuracy_interval, mean_accuracy_interval
from headstart.tasks.multitask.evaluation import ColumnsEvaluation
from headstart.text import percent
from sealed import seal

pytestmark = pytest.mark.cards
Cli = Callable[..., Any]
Rows = list[dict[str, str]]
BOTH = ("shape", "form")


def rows_of(pictures: Path, folder: Path, *, lacking: Callable[[int], bool] = lambda index: False) -> Rows:
    """A row for each picture: its shape (that of its folder), whether that is round, and a part; some `lacking` the second label."""
    found = []
    for index, path in enumerate(sorted(pictures.glob("*/*.png"))):
        form = "round" if path.parent.name == "rings" else "straight"
        row = {"path": os.path.relpath(path, folder), "shape": path.parent.name, "form": "" if lacking(index) else form}
        found.append({**row, "split": "test" if index % 4 == 0 else "train"})
    return found


def written(rows: Rows, file: Path) -> Path:
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists")


@pytest.fixture(scope="module")
def listed(pictures: Path, folder: Path) -> Path:
    """A list with a third of the second labels missing."""
    return written(rows_of(pictures, folder, lacking=lambda index: index % 3 == 1), folder / "two.csv")


@pytest.fixture(scope="module")
def result(listed: Path, cache: Path, folder: Path) -> FitResult:
    return fit(listed, out=folder / "run", settings=FitSettings(labels=BOTH, cache=cache, folds=3))


@pytest.fixture(scope="module")
def images(pictures: Path) -> list[Path]:
    return sorted(pictures.glob("*/*.png"))[::7]


# Learning -------------------------------------------------------------------------------------------------------------------------------


def test_each_column_is_learned_as_if_it_were_alone(result: FitResult, listed: Path, cache: Path) -> None:
    """The same heads and the same logits as fits of one column each, on the rows that have a label there."""
    assert isinstance(result.test, ColumnsEvaluation)
    for name in BOTH:
        alone = fit(listed, settings=FitSettings(labels=(name,), cache=cache, allow_missing=True))
        rows = result.test.rows[name]
        np.testing.assert_array_equal(result.tested[f"{name}.logits"][rows], alone.tested["logits"])
        assert result.test.columns[name].to_dict() == alone.test.to_dict()
        own = [row for row in result.choice.evidence if row.column == name]
        assert [(row.view, row.head, row.log_loss) for row in own] == [(row.view, row.head, row.log_loss) for row in alone.choice.evidence]
        ours, theirs = result.judged.columns[name].reliability, alone.judged.reliability
        assert ours is not None
        assert theirs is not None
        assert ours.state()[0]["sets"] == theirs.state()[0]["sets"]
        assert ours.state()[0]["abstention"] == theirs.state()[0]["abstention"]


def test_missing_labels_of_one_column_leave_the_others_as_they_are(result: FitResult, pictures: Path, cache: Path, folder: Path) -> None:
    whole = written(rows_of(pictures, folder), folder / "whole.csv")
    other = fit(whole, settings=FitSettings(labels=BOTH, cache=cache))
    np.testing.assert_array_equal(result.tested["shape.logits"], other.tested["shape.logits"])
    assert (result.test.columns["form"].images, other.test.columns["form"].images) == (10, 15)
    first, second = result.judged.reliability, other.judged.reliability
    assert first is not None
    assert second is not None
    assert first.novelty is not None
    assert second.novelty is not None
    assert first.novelty.threshold == second.novelty.threshold


def test_the_headline_is_the_mean_of_the_accuracies(result: FitResult) -> None:
    name, value, (low, high) = result.test.headline
    accuracies = [one.accuracy for one in result.test.columns.values()]
    assert (name, value) == ("mean_accuracy", pytest.approx(np.mean(accuracies)))
    assert low <= value <= high
    assert min(accuracies) > 0.8
    assert result.cross_validation is not None
    assert result.cross_validation.scores["mean_accuracy"] > 0.8


def changed_run(run: Path, folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """A copy of a run with other outputs for its test images."""
    shutil.copytree(run, folder)
    arrays = load_file(folder / "evaluation.safetensors")
    change(arrays)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "evaluation.safetensors")
    seal(folder, json.loads((folder / "manifest.json").read_text("utf-8")))
    return folder


def test_runs_are_compared_by_their_mean_and_column_by_column(cli: Callable[..., Any], result: FitResult, tmp_path: Path) -> None:
    assert result.run is not None

    def turned(arrays: dict[str, np.ndarray]) -> None:
        arrays["form.logits"] = -arrays["form.logits"]

    worse = changed_run(result.run, tmp_path / "worse", turned)
    done = cli("compare", worse, result.run, "--out", "comparison.json")
    assert done.code == 0, done.err
    first, second = (load(run).test_evaluation() for run in (result.run, worse))
    pair = json.loads(Path("comparison.json").read_text("utf-8"))["pairs"][0]
    assert pair["mean_accuracy"]["difference"] == pytest.approx(second.headline[1] - first.headline[1])
    assert pair["by_class"]["shape"]["difference"] == 0
    accuracies = [one.columns["form"].accuracy for one in (second, first)]  # type: ignore[attr-defined]
    assert pair["by_class"]["form"]["difference"] == pytest.approx(accuracies[0] - accuracies[1])
    assert done.out.splitlines()[-1].startswith("run is better than worse: mean accuracy +")

    def shuffled(arrays: dict[str, np.ndarray]) -> None:
        order = np.random.default_rng(0).permutation(len(arrays["digests"]))
        arrays.update({name: array[order] for name, array in arrays.items()})

    same = cli("compare", result.run, changed_run(result.run, tmp_path / "same", shuffled))
    assert same.code == 0, same.err
    assert same.out.splitlines()[-1] == "No difference between run and same is shown: mean accuracy +0.0 points."

    def relabelled(arrays: dict[str, np.ndarray]) -> None:
        arrays["targets"] = arrays["targets"].copy()
        arrays["targets"][0, 0] = 1 - min(1, arrays["targets"][0, 0])

    other = cli("compare", result.run, changed_run(result.run, tmp_path / "other", relabelled))
    assert "Left out, as the runs have different labels for it: 1 image." in other.out


def test_a_dataset_says_that_it_has_several_columns(listed: Path, cache: Path, result: FitResult) -> None:
    dataset = read_dataset(listed, lists=ListOptions(labels=BOTH))
    again = fit(dataset, settings=FitSettings(cache=cache))
    assert again.task.name == "multitask"
    assert again.test.headline == result.test.headline
    with pytest.raises(ParameterError, match="one column of labels, and this fit learned 2: shape, form"):
        _ = again.classifier


def test_class_weights_are_those_of_each_column(listed: Path, cache: Path) -> None:
    both = fit(listed, settings=FitSettings(labels=BOTH, cache=cache, class_weight="balanced"))
    alone = fit(listed, settings=FitSettings(labels=("form",), cache=cache, class_weight="balanced", allow_missing=True))
    np.testing.assert_array_equal(both.tested["form.logits"][both.test.rows["form"]], alone.tested["logits"])


def test_where_nothing_is_given_every_class_of_every_column_is_on_both_sides(pictures: Path, cache: Path, folder: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "split"} for row in rows_of(pictures, folder)]
    for row in rows[8:]:
        row["form"] = ""  # few labels, of which some must be tested
    rows[0]["form"], rows[1]["form"] = "round", "straight"
    found = fit(written(rows, folder / "unsplit.csv"), settings=FitSettings(labels=BOTH, cache=cache))
    targets = found.dataset.targets
    assert isinstance(targets, LabelColumns)
    for part in ("train", "test"):
        chosen = targets.take(found.dataset.part(part))
        assert {*chosen.columns["shape"].array[chosen.rows("shape")]} == {0, 1, 2}
        assert len(chosen.rows("form")) > 0


# Targets --------------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-1, 2), st.none() | st.tuples(st.booleans(), st.booleans())), min_size=1, max_size=12))
def test_targets_are_what_was_stored_of_them(entries: list[tuple[int, tuple[bool, bool] | None]]) -> None:
    classes = {"one": (("a", "b", "c"), SOFTMAX), "many": (("x", "y"), SIGMOID)}
    array = np.array([[number, *((-1, -1) if pair is None else pair)] for number, pair in entries])
    targets = label_columns(array, classes)
    np.testing.assert_array_equal(targets.array, array)
    assert isinstance(targets.columns["one"], Labels)
    assert isinstance(targets.columns["many"], LabelSets)
    rows = np.arange(len(entries))[::-1]
    np.testing.assert_array_equal(targets.take(rows).array, array[rows])
    expected = [[number == 0, number == 1, number == 2, *(pair or (False, False))] for number, pair in entries]
    np.testing.assert_array_equal(targets.strata, expected)
    for index, (number, pair) in enumerate(entries):
        cells = targets.cells(index)
        assert cells["one"] == ("" if number < 0 else "abc"[number])
        assert cells["many"] == ("" if pair is None else ";".join(np.array(["x", "y"])[list(pair)]) or "[]")


def test_a_column_of_several_labels_knows_none_from_missing(pictures: Path, folder: Path, cache: Path) -> None:
    rows = rows_of(pictures, folder)
    for index, row in enumerate(rows):
        marks = [name for name, there in (("round", row["shape"] == "rings"), ("square", row["shape"] == "checks")) if there]
        row["marks"] = "" if index % 5 == 2 else ";".join(marks) or "[]"
    file = written(rows, folder / "marks.csv")
    targets = read_dataset(file, lists=ListOptions(labels=("shape", "marks"))).targets
    assert isinstance(targets, LabelColumns)
    marks = targets.columns["marks"]
    assert isinstance(marks, LabelSets)
    assert targets.known[:, 1].tolist() == [index % 5 != 2 for index in range(60)]
    assert [marks.names(index) for index in targets.rows("marks")] == [
        tuple(sorted(row["marks"].replace("[]", "").split(";"))) if row["marks"] != "[]" else () for row in rows if row["marks"]
    ]
    done = fit(file, out=folder / "marked", settings=FitSettings(labels=("shape", "marks"), cache=cache))
    assert done.test.columns["marks"].outcome.link is SIGMOID
    again = load(folder / "marked").read(folder / "marked" / "split.csv").targets
    np.testing.assert_array_equal(again.array, done.dataset.targets.array)


@given(st.lists(st.booleans(), min_size=2, max_size=30), st.integers(1, 4))
def test_the_interval_of_tasks_that_always_agree_is_that_of_one(correct: list[bool], tasks: int) -> None:
    column = np.array(correct)[:, None]
    found = mean_accuracy_interval(np.repeat(column, tasks, axis=1), np.ones((len(correct), tasks), bool))
    assert found == pytest.approx(accuracy_interval(int(column.sum()), len(correct)))


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    random, covered, p = np.random.default_rng(0), 0, np.array([0.7, 0.9])
    for _ in range(1000):
        shared = random.random((80, 1))
        correct = np.where(random.random((80, 2)) < 0.5, shared, random.random((80, 2))) < p
        known = np.column_stack([np.ones(80, bool), random.random(80) < 0.6])
        low, high = mean_accuracy_interval(correct, known)
        covered += low <= p.mean() <= high
    assert 0.93 < covered / 1000 < 0.975


# The run --------------------------------------------------------------------------------------------------------------------------------


def test_the_run_says_what_the_fit_said(result: FitResult, images: list[Path]) -> None:
    run = load(result.run)
    assert run.manifest.task == "multitask"
    assert run.metrics["test_mean_accuracy"] == result.test.headline[1]
    found = run.predict(list(result.dataset.take(result.table.test).inputs))
    for name in BOTH:
        logits = found.outputs[f"{name}.logits"]
        np.testing.assert_allclose(logits, result.tested[f"{name}.logits"], atol=2e-3)
        np.testing.assert_allclose(found.probabilities[name].sum(axis=1), 1, atol=1e-5)
    again, predictions = run.evaluate(run.read(result.run / "split.csv").take(result.table.test))
    assert again.headline[1] == result.test.headline[1]
    assert predictions.judgement.sets.shape == (15, 5)
    part = run.read(result.run / "split.csv", lists=ListOptions(labels=("form",)))
    only, _ = run.evaluate(part.take(part.part("test")))
    assert list(only.columns) == ["form"]
    assert only.columns["form"].accuracy == result.test.columns["form"].accuracy
    assert run.training_image(0)[1].startswith("shape: ")


def test_records_have_the_columns_of_each(cli: Cli, result: FitResult, images: list[Path], tmp_path: Path) -> None:
    found = load(result.run).predict(images)
    done = cli("predict", result.run, *images, "--format", "csv", "--top", "2")
    assert done.code == 0, done.err
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert list(rows[0])[:6] == ["path", "shape.label", "shape.probability", "form.label", "form.probability", "error"]
    for place, row in enumerate(rows):
        for name in BOTH:
            assert row[f"{name}.label"] == found.labels[name][place]
            assert float(row[f"{name}.probability"]) == pytest.approx(float(found.probabilities[name][place].max()), abs=1e-6)
            assert row[f"{name}.label"] in row[f"{name}.set"].split(";")
    done = cli("predict", result.run, images[0])
    assert f"shape: {rows[0]['shape.label']} " in done.out
    assert f"form: {rows[0]['form.label']} " in done.out
    done = cli("predict", result.run, *images, "--batch", "--out", tmp_path / "all.jsonl", "--top", "2")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text("utf-8").splitlines()]
    assert [line["form.label"] for line in lines] == [row["form.label"] for row in rows]
    assert len(lines[0]["shape.top"]) == 2


def test_an_exported_file_says_the_same_of_every_column(
    cli: Cli, result: FitResult, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr("headstart.export.job.engines_for", lambda file: ("onnxruntime",))
    file = tmp_path / "two.onnx"
    done = cli("export", result.run, "--format", "onnx", "--out", file)
    assert done.code == 0, done.err
    assert "shape.probabilities and form.probabilities" in done.out + done.err
    session = onnxruntime.InferenceSession(str(file))
    wanted = load(result.run, engine="onnxruntime").predict(images).outputs
    for name in (f"{column}.{kind}" for column in BOTH for kind in ("probabilities", "logits")):
        found = np.concatenate([session.run([name], {"images": np.asarray(Image.open(path))[None]})[0] for path in images])
        np.testing.assert_allclose(found, wanted[name], atol=1e-3)
    metadata = session.get_modelmeta().custom_metadata_map
    assert [entry["name"] for entry in json.loads(metadata["headstart.columns"])] == list(BOTH)
    done = cli("export", result.run, "--snippet", "python", "--out", file)
    assert "'form: '" in done.out or '"form: "' in done.out
    compile(done.out, "snippet", "exec")
    done = cli("export", result.run, "--snippet", "cpp", "--out", file)
    assert done.code == 2
    assert "this one has 2" in done.err


def test_heat_maps_are_of_the_column_that_is_named(cli: Cli, result: FitResult, images: list[Path], tmp_path: Path) -> None:
    for options, expected in (((), "rings stripes checks"), (("--label", "form"), "round straight"), (("--class", "straight"), "straight")):
        done = cli("explain", result.run, images[0], "--out", tmp_path / "heat", *options)
        assert done.code == 0, done.err
        assert done.out.split("  ")[1].split()[0] in expected.split()
    done = cli("explain", result.run, images[0], "--out", tmp_path / "heat", "--label", "size")
    assert (done.code, "It has the columns shape, form." in done.err) == (2, True)


def test_the_report_has_a_section_for_each_column(cli: Cli, result: FitResult) -> None:
    page = (result.run / "report.html").read_text("utf-8")
    assert percent(result.test.headline[1]).replace(" ", "\N{NO-BREAK SPACE}") in page
    for place, name in enumerate(BOTH, 1):
        assert f'<section id="column-{place}"' in page
        assert f"ROC: {name}" in page
    assert "What the columns share" in page
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert len(anchors) > 10
    assert {*anchors} <= {*re.findall(r'id="([^"]+)"', page)}
    assert cli("report", result.run).code == 0
    card = (result.run / "MODEL_CARD.md").read_text("utf-8")
    assert "test accuracy of form" in card


def test_the_service(result: FitResult, images: list[Path]) -> None:
    from headstart.serve import create_app
    from served import TestClient

    with TestClient(create_app([result.run], watch_seconds=0), base_url="http://127.0.0.1") as client:
        answer = client.post("/predict", content=images[0].read_bytes(), headers={"content-type": "image/png"})
        assert answer.status_code == 200, answer.text
        (prediction,) = answer.json()["predictions"]
        found = load(result.run).predict([images[0]])
        assert prediction["kind"] == "columns"
        assert {name: one["label"] for name, one in prediction["columns"].items()} == {name: found.labels[name][0] for name in BOTH}
        sure = float(min(own.max() for own in found.probabilities.values()))
        for least in (0.0, sure, 1.0):
            (record,) = load(result.run).records([""], found, least=least)
            tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(images[0].read_bytes()).decode()]}
            asked = {"inputs": [tensor], "parameters": {"confidence": least}}
            said = client.post(f"/v2/models/{result.run.name}/infer", json=asked).json()
            labels = {entry["name"]: entry["data"][0] for entry in said["outputs"] if entry["name"].endswith(".labels")}
            assert labels == {f"{name}.labels": "" if record.abstained else found.labels[name][0] for name in BOTH}
        assert record.abstained
        (model,) = client.get("/models").json()["models"]
        assert model["columns"]["form"]["classes"] == ["round", "straight"]
        assert model["columns"]["form"]["accuracy"] == result.test.columns["form"].accuracy
        for query, status in (("", 200), ("&column=form", 200), ("&column=size", 422)):
            heat = client.post(f"/predict?explain=1{query}", content=images[0].read_bytes(), headers={"content-type": "image/png"})
            assert heat.status_code == status, heat.text
        said = client.get(f"/v2/models/{result.run.name}").json()
        assert "form.probabilities" in [output["name"] for output in said["outputs"]]
        assert json.loads(said["parameters"]["classes"])["form"] == ["round", "straight"]


# What is wrong with lists, and what is not for several columns -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, ("--label", "shape", "--label", "size"), "has no column 'size' to learn. Columns found: 'path', 'shape', 'form', 'split'"),
        ({}, ("--label", "shape", "--label", "shape"), "names different columns of a list, and got 'shape' twice"),
        ({}, ("--label", "shape", "--label", "split"), "none can be called 'split'"),
        ({}, ("--label", "shape", "--column", "label=form"), "both name the column of labels"),
        ({"form": ""}, BOTH, "broken.csv is empty: there is nothing to learn in it"),
        ({"form": "straight"}, BOTH, "there is one class only, 'straight', so"),
        ({"form": "", "shape": ""}, BOTH, "without a label in any of the columns 'shape', 'form'"),
        ({}, (*BOTH, "--task", "classification"), "learns one column of labels"),
        ({}, (*BOTH, "--budget", "1m"), "--budget is for one column of labels, and these data have 2: name the backbone with --backbone."),
        ({}, (*BOTH, "--adapt-to", "."), "--adapt-to is for one column of labels, and these data have 2: leave it out."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_sentence(
    cli: Cli, pictures: Path, folder: Path, tmp_path: Path, change: dict[str, str], options: tuple[str, ...], words: str
) -> None:
    rows = [{**row, **change} for row in rows_of(pictures, folder)]
    if len(change) == 2:
        rows[1:] = rows_of(pictures, folder)[1:]
    words_typed = [word for name in BOTH for word in ("--label", name)] if options[:2] == BOTH else []
    file = written(rows, folder / "broken.csv")
    done = cli("fit", file, *words_typed, *(options[2:] if words_typed else options), "--out", tmp_path / "run")
    assert done.code == 2, done.err
    assert words.casefold() in done.err.casefold(), done.err
    assert not (tmp_path / "run").exists()


def test_a_column_without_test_labels_is_refused(cli: Cli, pictures: Path, folder: Path, tmp_path: Path) -> None:
    rows = [{**row, "form": "" if row["split"] == "test" else row["form"]} for row in rows_of(pictures, folder)]
    done = cli("fit", written(rows, folder / "untested.csv"), "--label", "shape", "--label", "form", "--out", tmp_path / "run")
    assert done.code == 2
    assert "no test image has a label in the column 'form'" in done.err


def test_measurements_are_refused_with_what_to_do(pictures: Path, folder: Path) -> None:
    rows = [{**row, "age": str(index)} for index, row in enumerate(rows_of(pictures, folder))]
    with pytest.raises(DataError, match=r"column 'age'.* 60 different numbers are measurements, write groups"):
        read_dataset(written(rows, folder / "ages.csv"), lists=ListOptions(labels=("shape", "age")))


def test_columns_are_those_of_lists(cli: Cli, pictures: Path, result: FitResult, listed: Path, tmp_path: Path) -> None:
    done = cli("fit", pictures, "--label", "shape", "--label", "form", "--out", tmp_path / "run")
    assert (done.code, "names columns of a list, and" in done.err) == (2, True)
    done = cli("fit", pictures, "--task", "multitask", "--out", tmp_path / "run")
    assert (done.code, "learns several columns of labels of a list" in done.err) == (2, True)
    done = cli("evaluate", result.run, pictures)
    assert (done.code, "is not a list" in done.err) == (2, True)
    done = cli("evaluate", result.run, listed, "--label", "size")
    assert (done.code, "the run has not learned this column" in done.err) == (2, True)
    done = cli("predict", result.run, pictures, "--accuracy", "0.9")
    assert (done.code, "has learned the task multitask" in done.err) == (2, True)


def test_an_audit_is_of_each_column(cli: Cli, pictures: Path, folder: Path, tmp_path: Path) -> None:
    rows = rows_of(pictures, folder)
    copy = tmp_path / "copy.png"
    copy.write_bytes((folder / rows[1]["path"]).read_bytes())
    again = {**rows[1], "path": os.path.relpath(copy, folder), "form": ""}
    done = cli("check", written([*rows, again], folder / "copies.csv"), "--label", "shape", "--label", "form")
    assert "shape: rings" in done.out + done.err
    assert "in another class" not in done.out + done.err  # one of them lacks a label, which contradicts nothing
    wrong = {**again, "form": "straight" if rows[1]["form"] == "round" else "round"}
    done = cli("check", written([*rows, wrong], folder / "copies.csv"), "--label", "shape", "--label", "form")
    assert "in another class" in done.out + done.err
