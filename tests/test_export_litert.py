"""LiteRT: what is given to the converter, what is made of its work, and, where onnx2tf is installed, the whole way."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import draw
from headstart import FitSettings, fit, load
from headstart.errors import ParameterError
from headstart.export import ConverterError, ExportError, export, snippet
from headstart.export.formats import CONVERTER, ExportedModel, find_converter, square_model
from headstart.modalities.image import Preprocessing
from headstart.run import Run

Cli = Callable[..., Any]
onnxruntime = pytest.importorskip("onnxruntime")
_CONVERTER = """#!{python}
import shutil, sys
import numpy as np
tried = np.load("calibration_image_sample_data_20x128x128x3_float32.npy")
assert tried.shape == (20, 128, 128, 3) and 0 <= tried.min() < 0.3 and 0.7 < tried.max() <= 1
assert "-osd" in sys.argv
{then}
"""
_COPIES = "import os; os.mkdir('made'); shutil.copy('model.onnx', 'made/model_float32.tflite')"


@pytest.fixture(scope="module")
def opened(run: Path) -> Run:
    return load(run)


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program in the place of onnx2tf; what it makes is opened by ONNX Runtime."""

    def put(then: str) -> None:
        program = tmp_path / "onnx2tf"
        program.write_text(_CONVERTER.format(python=sys.executable, then=then))
        program.chmod(0o755)
        monkeypatch.setenv(CONVERTER, str(program))

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr("headstart.export.formats._open_litert", _with_onnxruntime)
    return put


def _with_onnxruntime(file: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, {"pixels": batch.transpose(0, 3, 1, 2)}), strict=True))


def test_the_converter_is_given_the_saved_model_with_colours_first(opened: Run, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(square_model(opened).SerializeToString())
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    pixels = opened.preprocessing(draw(1, 3, side=90))
    size = opened.preprocessing.size
    assert [(one.name, one.shape, one.type) for one in session.get_inputs()] == [("pixels", [1, 3, size, size], "tensor(uint8)")]
    assert all(output.shape[0] == 1 for output in session.get_outputs())
    (found,) = session.run(["probabilities"], {"pixels": pixels.transpose(2, 0, 1)[None]})
    np.testing.assert_allclose(found, opened.predict([draw(1, 3, side=90)]).probabilities, atol=1e-4)


@pytest.mark.slow
def test_mirror_images_are_gathered_for_the_converter(pictures: Path, tmp_path: Path) -> None:
    fit(pictures, out=tmp_path / "run", settings=FitSettings(backbone="lite0@64+mirrored", head="centroid"))
    run = load(tmp_path / "run")
    model = square_model(run)
    assert sum(node.op_type == "Gather" for node in model.graph.node) == 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = run.preprocessing(draw(1, 3, side=90)).transpose(2, 0, 1)[None]
    (found,) = session.run(["probabilities"], {"pixels": pixels})
    np.testing.assert_allclose(found, run.predict([draw(1, 3, side=90)]).probabilities, atol=1e-4)


def test_a_file_is_compared_with_the_run_and_has_its_labels_beside_it(
    opened: Run, tmp_path: Path, converter: Callable[[str], None]
) -> None:
    converter(_COPIES)
    done = export(opened, tmp_path / "p.tflite", form="litert", images=6)
    assert [file.name for file in done.files] == ["p.tflite", "p.labels.txt"]
    assert (tmp_path / "p.labels.txt").read_text().splitlines() == list(opened.classes)
    (found,) = done.parities
    assert (found.engine, found.same, found.images) == ("litert", 1.0, 6)
    assert 0 <= found.difference < 1e-3
    assert json.loads(done.report.read_text())["format"] == "litert"


def test_a_file_that_differs_is_not_written(
    opened: Run, tmp_path: Path, converter: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    converter(_COPIES)
    real = _with_onnxruntime
    monkeypatch.setattr(
        "headstart.export.formats._open_litert",
        lambda file: lambda batch: {name: value[:, ::-1] for name, value in real(file)(batch).items()},
    )
    with pytest.raises(ExportError, match="differs from the run in litert and is not written"):
        export(opened, tmp_path / "p.tflite", form="litert", images=6)
    assert not list(tmp_path.glob("p*"))


@pytest.mark.parametrize(
    ("then", "message"),
    [("sys.exit('no such layer')", "could not convert the network .no such layer."), ("pass", "it printed nothing")],
)
def test_a_converter_that_fails_is_quoted(opened: Run, tmp_path: Path, converter: Callable[[str], None], then: str, message: str) -> None:
    converter(then)
    with pytest.raises(ConverterError, match=message):
        export(opened, tmp_path / "p.tflite", form="litert", images=6)
    assert not list(tmp_path.glob("p*"))


def test_without_a_converter_it_is_told_where_to_get_it(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONVERTER, "no-such-program")
    done = cli("export", run, "--format", "litert")
    assert done.code == 2
    assert "pipx install onnx2tf" in done.err
    assert list(Path().iterdir()) == []
    assert "in python only" in cli("export", run, "--format", "litert", "--snippet", "cpp").err


def test_a_litert_file_wants_the_preprocessing(tmp_path: Path, converter: Callable[[str], None]) -> None:
    with pytest.raises(ParameterError, match="takes preprocessed images"):
        ExportedModel(tmp_path / "p.tflite", engine="litert")
    with pytest.raises(ParameterError, match=r"p\.tflite runs on litert, not on 'openvino'"):
        ExportedModel(tmp_path / "p.tflite", engine="openvino")


@pytest.mark.parametrize("preprocessing", [Preprocessing(64, 0.875), Preprocessing(50, fit="squash", interpolation="bilinear")])
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_the_program_prepares_images_as_the_run_does(
    opened: Run, tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    preprocessing: Preprocessing, link: str,
) -> None:  # fmt: skip
    """Run with an interpreter in the place of LiteRT's that keeps what it is given. The photo is a PNG, which is decoded whole."""
    seen: list[np.ndarray] = []

    def runner(*, pixels: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(pixels)
        return {"probabilities": np.array([[0.3, 0.9, 0.6]])}

    from PIL import Image

    Image.open(photo).convert("RGB").save(tmp_path / "x.png")
    state = {"classes": ['a"', "b", "c"], "link": link}
    program = snippet("python", Run(opened.path, replace(opened.manifest, state=state, preprocessing=preprocessing)), file="p.tflite")
    interpreter = type("Interpreter", (), {"__init__": lambda self, file: None, "get_signature_runner": lambda self: runner})
    fake = type(sys)("ai_edge_litert.interpreter")
    fake.Interpreter = interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_edge_litert", type(sys)("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", fake)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(tmp_path / "x.png")])
    exec(compile(program, "predict.py", "exec"), {"__name__": "__main__"})
    np.testing.assert_array_equal(seen[0][0], preprocessing(tmp_path / "x.png"))
    assert capsys.readouterr().out.split("  ")[1:] == ["b;c" if link == "sigmoid" else "b", "0.9000\n"]


def test_the_whole_way_with_onnx2tf(opened: Run, tmp_path: Path, photo: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs headstart[litert]")
    try:
        find_converter()
    except ParameterError:
        pytest.skip("onnx2tf is not installed")
    done = export(opened, tmp_path / "p.tflite", form="litert")
    assert done.parities[0].same == 1.0
    assert done.parities[0].difference < 1e-3
    program = snippet("python", opened, file="p.tflite")
    (tmp_path / "predict.py").write_text(program)
    said = subprocess.run([sys.executable, "predict.py", shutil.copy(photo, tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    label, probability = opened.predict([photo]).top(0, 1)[0]
    assert said.stdout.split("  ")[1] == label
    assert float(said.stdout.split("  ")[2]) == pytest.approx(probability, abs=2e-3)
