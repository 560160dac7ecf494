"""Every entrance says the same of the same file: a file of each format and mode, and two runs, one of them with levels."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from encoded_images import encoded, every_mode
from headstart import FitSettings, evaluate_run, fit, load, read_dataset
from headstart.batch import BatchSettings, predict_folder
from headstart.export import export, snippet
from headstart.pipeline.result import FitResult
from headstart.run import Run
from test_image_table import ROWS

pytest.importorskip("onnxruntime")
pytest.importorskip("fastapi", reason="needs headstart[serve]")
from headstart.serve.app import create_app
from served import TestClient

Said = Mapping[str, tuple[str, float]]
KINDS = ("rings", "stripes", "checks")
LARGE = "large.jpg"  # decoded at a reduced scale by all but the printed program: see benchmarks/decoding_scale.py for what that changes


def files_of_all_modes(folder: Path) -> Path:
    """100 files or more, in a folder a class."""
    for kind, name in enumerate(KINDS):
        (folder / name).mkdir(parents=True)
        for title, data in [*every_mode(draw(kind, 700 + kind, side=64))][kind :: len(KINDS)]:
            (folder / name / title).write_bytes(data)
        large = Image.fromarray(draw(kind, 790, side=64)).resize((1203, 1101), Image.Resampling.BICUBIC)
        (folder / name / LARGE).write_bytes(encoded(large, "JPEG", quality=92))
    for number, row in enumerate(row for row in ROWS if row.read is not None):
        suffix = {"JPEG": "jpg", "WebP": "webp", "GIF": "gif", "BMP": "bmp", "PNG": "png"}.get(row.format, "tif")
        (folder / "rings" / f"row {number}.{suffix}").write_bytes(row.data)
    return folder


def files_of_12_bits(folder: Path) -> Path:
    """Files that use 12 of 16 bits, in two formats."""
    for kind, name in enumerate(KINDS):
        (folder / name).mkdir(parents=True)
        for index in range(14):
            samples = (draw(kind, 100 * kind + index).mean(axis=2) * 16).astype(np.uint16)
            form, suffix = ("TIFF", "tif") if index % 2 else ("PNG", "png")
            (folder / name / f"{index}.{suffix}").write_bytes(encoded(Image.fromarray(samples), form))
    return folder


def best(run: Run, names: Any, probabilities: Any) -> Said:
    return {Path(name).as_posix(): (run.classes[row.argmax()], float(row.max())) for name, row in zip(names, probabilities, strict=True)}


@dataclass(frozen=True)
class Case:
    """A run, the files that it is asked about, and what `predict` says of them."""

    result: FitResult
    run: Run
    paths: list[Path]
    expected: Said


@pytest.fixture(scope="module", params=["all modes", "12 bits"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pictures: Path, cache: Path) -> Case:
    folder = tmp_path_factory.mktemp("entrances")
    files = (files_of_all_modes if request.param == "all modes" else files_of_12_bits)(folder / "files")
    data = pictures if request.param == "all modes" else files
    result = fit(data, out=folder / "run", settings=FitSettings(head="logistic", cache=cache))
    assert result.run is not None
    run, paths = load(result.run), sorted(path for path in files.rglob("*") if path.is_file())
    assert len(paths) >= (100 if run.preprocessing.levels is None else 40)
    return Case(result, run, paths, best(run, paths, run.predict(paths).probabilities))


def by_batch(run: Run, result: FitResult, paths: list[Path], folder: Path) -> Said:
    out = folder / "batch.jsonl"
    predict_folder(run.path, [paths[0].parents[1]], out=out, settings=BatchSettings())
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {row["path"]: (row["label"], row["probability"]) for row in rows}


def by_service(run: Run, result: FitResult, paths: list[Path], folder: Path) -> Said:
    said: dict[str, tuple[str, float]] = {}
    with TestClient(create_app([run.path], watch_seconds=0), base_url="http://127.0.0.1") as client:
        for path in paths:
            answer = client.post("/predict", content=path.read_bytes()).json()["predictions"][0]
            said[path.as_posix()] = (answer["label"], answer["probability"])
    return said


def by_the_program(run: Run, result: FitResult, paths: list[Path], folder: Path) -> Said:
    export(run, folder / "run.onnx", images=3)
    blocked = "import sys\nsys.modules['headstart'] = None\n"
    (folder / "classify.py").write_text(blocked + snippet("python", run, file="run.onnx"))
    done = subprocess.run([sys.executable, "classify.py", *paths], cwd=folder, capture_output=True, text=True, check=True)
    said = (line.split("  ") for line in done.stdout.splitlines())
    return {parts[0]: (parts[1], float(parts[2])) for parts in said}


def by_evaluate(run: Run, result: FitResult, paths: list[Path], folder: Path) -> Said:
    data = read_dataset(paths[0].parents[1])
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # the run has learned from some
        patch.setattr("headstart.evaluate.adapting._training_features", lambda run: None)  # what adapting would bring takes seconds
        found = evaluate_run(run, data).predictions
    assert not found.refused
    return best(run, data.inputs, found.probabilities)


def by_the_estimator(run: Run, result: FitResult, paths: list[Path], folder: Path) -> Said:
    return best(run, paths, result.classifier.predict_proba(paths))  # labels are numbers


@pytest.mark.parametrize(
    "entrance", [by_batch, by_service, pytest.param(by_the_program, marks=pytest.mark.slow), by_evaluate, by_the_estimator]
)
def test_every_entrance_says_the_same(case: Case, tmp_path: Path, entrance: Callable[[Run, FitResult, list[Path], Path], Said]) -> None:
    said = entrance(case.run, case.result, case.paths, tmp_path)
    assert said.keys() == case.expected.keys()
    wrong = {}
    for name, (label, probability) in case.expected.items():
        scaled = Path(name).name == LARGE and entrance is by_the_program
        if said[name][0] != label or abs(said[name][1] - probability) > (0.01 if scaled else 1e-3):
            wrong[name] = (said[name], (label, probability))
    assert not wrong
