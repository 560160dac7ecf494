"""A task that is one file and one line in the table goes through everything: fit, predict, evaluate, report, export, serve, batch."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import FitResult, FitSettings, fit, load, tasks
from toy_regression import Regression

Cli = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def _in_the_table() -> Iterator[None]:
    tasks.TASKS.append(Regression())
    yield
    tasks.TASKS.pop()


@pytest.fixture(scope="module")
def brightness(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of the pictures with their mean brightness from 0 to 1."""
    file = tmp_path_factory.mktemp("brightness") / "list.csv"
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["path", "label"])
        for path in sorted(pictures.glob("*/*.png")):
            writer.writerow([os.path.relpath(path, file.parent), f"{np.asarray(Image.open(path)).mean() / 255:.6f}"])
    return file


@pytest.fixture(scope="module")
def result(brightness: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    out = tmp_path_factory.mktemp("runs") / "brightness"
    return fit(brightness, out=out, settings=FitSettings(task="regression", cache=cache, folds=3))


def truth(paths: list[Path]) -> np.ndarray:
    return np.array([np.asarray(Image.open(path)).mean() / 255 for path in paths])


def test_it_learns_better_than_the_mean(result: FitResult) -> None:
    targets = result.table.targets
    error = result.test.headline[1]
    assert error < 0.6 * np.abs(targets[result.table.test] - targets[result.table.train].mean()).mean()
    assert result.cross_validation is not None
    assert result.cross_validation.images == len(result.table.train)
    assert result.judged.reliability is None


def test_the_run_says_what_the_fit_said(result: FitResult) -> None:
    run = load(result.run)
    assert (run.manifest.protocol, run.manifest.task, run.classes, run.link) == (2, "regression", (), None)
    assert run.metrics["test_mean_absolute_error"] == result.test.headline[1]
    test = result.table.take(result.table.test)
    found = run.predict(list(test.dataset.inputs))
    np.testing.assert_allclose(found.outputs["value"], result.tested["value"], atol=1e-3)
    again, _ = run.evaluate(run.read(result.run / "split.csv").take(result.table.test))
    assert again.headline[1] == pytest.approx(result.test.headline[1], abs=1e-3)
    assert run.test_evaluation().headline[1] == pytest.approx(result.test.headline[1], abs=1e-6)


def test_the_commands(cli: Cli, result: FitResult, brightness: Path, pictures: Path, tmp_path: Path) -> None:
    images = sorted(pictures.glob("rings/*.png"))
    found = load(result.run).predict(images).outputs["value"][:, 0]
    done = cli("predict", result.run, *images)
    assert done.code == 0, done.err
    assert f"{found[0]:.4f}" in done.out.splitlines()[0]
    done = cli("predict", result.run, *images, "--format", "csv")
    rows = list(csv.DictReader(done.out.splitlines()))
    assert list(rows[0]) == ["path", "value", "error"]
    np.testing.assert_allclose([float(row["value"]) for row in rows], found, atol=1e-4)
    done = cli("evaluate", result.run, brightness)
    assert done.code == 0, done.err
    assert "mean absolute error" in done.out.splitlines()[-1]
    done = cli("fit", brightness, "--task", "regression", "--out", tmp_path / "again", "--strategy", "full")
    assert done.code == 2
    assert "cannot be trained further for the task regression" in done.err
    done = cli("fit", brightness, "--task", "regresion", "--out", tmp_path / "again")
    assert done.code == 2
    assert "Did you mean regression" in done.err


def test_what_needs_classes_says_so(cli: Cli, result: FitResult, photo: Path, tmp_path: Path) -> None:
    for arguments in (
        ("explain", result.run, photo),
        ("compare", result.run, shutil.copytree(result.run, tmp_path / "other")),
        ("predict", result.run, photo, "--accuracy", "0.9"),
    ):
        done = cli(*arguments)
        assert done.code == 2
        assert "has learned the task regression" in done.err


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_batch_job(cli: Cli, result: FitResult, pictures: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"table.{suffix}"
    done = cli("predict", result.run, pictures, "--batch", "--out", out)
    assert done.code == 0, done.err
    paths = sorted(pictures.glob("*/*.png"))
    if suffix == "csv":
        values = {row["path"]: float(row["value"]) for row in csv.DictReader(out.read_text("utf-8").splitlines())}
    elif suffix == "jsonl":
        values = {row["path"]: row["value"] for row in map(json.loads, out.read_text("utf-8").splitlines())}
    else:
        import arro3.io

        table = arro3.io.read_parquet(str(out)).read_all()
        values = dict(zip(table["path"].to_pylist(), table["value"].to_pylist(), strict=True))
    assert len(values) == len(paths)
    by_name = {Path(name).name: value for name, value in values.items()}
    error = np.abs(np.array([by_name[path.name] for path in paths]) - truth(paths)).mean()
    assert error < 0.1


def test_the_report_is_written_and_can_be_written_again(cli: Cli, result: FitResult) -> None:
    page = (result.run / "report.html").read_text("utf-8")
    assert f"{result.test.headline[1]:.4f}" in page
    assert "Regression" in page
    assert "no training images" not in page
    assert "Mean absolute error" in page
    assert cli("report", result.run).code == 0
    load(result.run)


def test_the_exported_file_says_the_same(cli: Cli, result: FitResult, pictures: Path, tmp_path: Path) -> None:
    import onnxruntime

    done = cli("export", result.run, "--format", "onnx", "--out", tmp_path / "brightness.onnx")
    assert done.code == 0, done.err
    session = onnxruntime.InferenceSession(str(tmp_path / "brightness.onnx"))
    images = sorted(pictures.glob("stripes/*.png"))[:5]
    wanted = load(result.run, engine="onnxruntime").predict(images).outputs["value"]
    found = np.concatenate([session.run(["value"], {"images": np.asarray(Image.open(path))[None]})[0] for path in images])
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_the_service(result: FitResult, pictures: Path) -> None:
    from headstart.serve import create_app
    from served import TestClient

    image = sorted(pictures.glob("checks/*.png"))[0]
    with TestClient(create_app([result.run], watch_seconds=0), base_url="http://127.0.0.1") as client:
        answer = client.post("/predict", content=image.read_bytes(), headers={"content-type": "image/png"})
        assert answer.status_code == 200, answer.text
        (prediction,) = answer.json()["predictions"]
        assert prediction["kind"] == "number"
        refused = client.post("/predict?explain=1", content=image.read_bytes(), headers={"content-type": "image/png"})
        assert (refused.status_code, refused.json()["code"]) == (422, "no_heat_maps")
        assert prediction["value"] == pytest.approx(float(load(result.run).predict([image]).outputs["value"][0, 0]), abs=1e-3)
