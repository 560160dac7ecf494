"""Exported runs that take texts: the file, what stands beside it, and a program that uses them without Headstart."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headstart.errors import ParameterError
from headstart.export import export, snippet
from headstart.pipeline import fit
from headstart.run import Run, load
from headstart.settings import FitSettings

GOOD, BAD = ("warm", "funny", "touching", "bright", "lovely"), ("dull", "long", "noisy", "stale", "sloppy")
ODD = ("", "a", "Straße, ÉTÉ!", "好看的电影", "x" * 3000, "a\nb\tc", "warm , warm . warm", "🙂 lovely 🙂")


def reviews(path: Path, *, seed: int = 0, count: int = 120) -> Path:
    rng = np.random.default_rng(seed)
    nouns = ("film", "plot", "cast", "score", "ending", "scene", "story")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(count):
            words = GOOD if i % 2 else BAD
            parts = [f"a {rng.choice(words)} {rng.choice(nouns)}" for _ in range(rng.integers(1, 4))]
            writer.writerow([" and ".join(parts) + rng.choice([".", " !", ""]), "good" if i % 2 else "bad"])
    return path


@pytest.fixture(scope="module", params=["tfidf", "minilm"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if request.param == "minilm":
        pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp(request.param)
    result = fit(reviews(folder / "reviews.csv"), out=folder / "run", settings=FitSettings(backbone=request.param))
    assert result.run is not None
    return load(result.run)


def test_the_file_gives_what_the_run_gives(run: Run, tmp_path: Path) -> None:
    done = export(run, tmp_path / "reviews.onnx")
    assert all(parity.same == 1 and parity.difference < 1e-4 for parity in done.parities)
    names = {path.name for path in done.files}
    assert names == {"reviews.onnx", *(f"reviews.{name}" for name in run.preprocessing.files())}
    import onnx

    inputs = {one.name for one in onnx.load(str(tmp_path / "reviews.onnx")).graph.input}
    assert inputs == set(run.preprocessing.inputs)


def test_a_program_without_headstart_says_the_same(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    if run.preprocessing.sketch and "sketch" in run.preprocessing.inputs:
        with pytest.raises(ParameterError, match="the sketch of its terms"):
            snippet("python", run, file="reviews.onnx")
        return
    export(run, tmp_path / "reviews.onnx")
    (tmp_path / "use.py").write_text(snippet("python", run, file="reviews.onnx"), encoding="utf-8")
    texts = ["a warm film and a dull ending", "noisy", *(text for text in ODD if text.strip())]
    done = subprocess.run(
        [sys.executable, "-W", "error", "use.py", *texts], cwd=tmp_path, capture_output=True, encoding="utf-8", check=True
    )
    predictions = run.predict(texts)
    said = re.findall(r"  (good|bad)  (\d\.\d{4})(?:  unlike|\n)", done.stdout)
    assert [label for label, _ in said] == list(predictions.labels)
    np.testing.assert_allclose([float(value) for _, value in said], predictions.probabilities.max(axis=1), atol=2e-4)


def test_formats_for_images_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"--format int8 is for images, and .* takes texts\. Use onnx or openvino"):
        export(run, tmp_path / "reviews.xml", form="int8")
    with pytest.raises(ParameterError, match="the program is in python"):
        snippet("javascript", run, file="reviews.onnx")


def test_the_metadata_say_how_texts_become_numbers(run: Run, tmp_path: Path) -> None:
    import onnx

    export(run, tmp_path / "reviews.onnx")
    entries = {one.key: json.loads(one.value) for one in onnx.load(str(tmp_path / "reviews.onnx")).metadata_props}
    assert entries["headstart.classes"] == ["bad", "good"]
    assert entries["headstart.preprocessing"]["max_length"] == run.preprocessing.max_length
