"""An export says what its run says, or is not written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from headstart import load
from headstart.errors import BackboneError, DataError, ParameterError
from headstart.export import ExportError, Gate, Parity, export, int8, job, onnx_model, read_drop, snippet
from headstart.export.formats import ExportedModel, engines_for
from headstart.export.onnx_file import IMAGES
from headstart.export.parity import Reference, rounded_up
from headstart.export.sample import Sample, sample_of, some_sample_of
from headstart.run import Run, uses_of

Cli = Callable[..., Any]
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def opened(run: Path) -> Run:
    return load(run)


@pytest.fixture(scope="module")
def exported(opened: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "pictures.onnx"
    export(opened, file)
    return file


def test_a_file_takes_images_of_any_size_and_says_what_the_run_says(opened: Run, exported: Path) -> None:
    images = [draw(seed % 3, 900 + seed, side=side) for seed, side in enumerate((48, 31, 200, 333))]
    images.append(np.ascontiguousarray(draw(1, 7, side=300)[:, :90]))
    wanted = opened.predict(images)
    assert wanted.judgement is not None
    for engine in engines_for(exported):
        found = ExportedModel(exported, engine=engine)(images)
        assert np.abs(found["probabilities"] - wanted.probabilities).max() < 1e-3
        assert np.abs(found["unlikeness"] - wanted.judgement.unlikeness).max() < 0.1
        assert np.ptp(wanted.judgement.unlikeness) > 1


def test_the_outputs_go_together(opened: Run, exported: Path) -> None:
    outputs = ExportedModel(exported, engine="onnxruntime")([draw(0, 5)])
    found = {name: values[0] for name, values in outputs.items()}
    assert list(found) == ["probabilities", "logits", "features", "unlikeness"]
    logits = found["logits"].astype(np.float64)
    assert np.allclose(np.exp(logits) / np.exp(logits).sum(), found["probabilities"], atol=1e-6)
    (_, _, features), *_ = opened.engine.run(iter([opened.preprocessing(draw(0, 5))]))
    assert np.abs(found["features"] - features).max() < 0.02 * np.abs(features).max()


def test_the_file_says_what_it_is(opened: Run, exported: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    told = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert opened.reliability is not None
    assert opened.reliability.novelty is not None
    assert told["headstart.classes"] == ["checks", "rings", "stripes"]
    assert told["headstart.unlike_threshold"] == opened.reliability.novelty.threshold
    assert told["headstart.run_digest"] == opened.manifest.digest
    assert told["headstart.preprocessing"] == opened.preprocessing.to_dict()
    given = session.get_inputs()[0]
    assert (given.name, given.type, given.shape) == (IMAGES, "tensor(uint8)", ["N", "height", "width", 3])


def test_the_report_beside_the_file_names_its_bytes_and_the_differences(exported: Path) -> None:
    import hashlib

    report = json.loads(exported.with_name("pictures.onnx.parity.json").read_text())
    assert report["files"] == {"pictures.onnx": hashlib.sha256(exported.read_bytes()).hexdigest()}
    assert [one["engine"] for one in report["compared"]] == list(engines_for(exported))
    for one in report["compared"]:
        assert one["same"] == 1.0
        assert one["difference"] < 1e-3
        assert (one["part"], one["images"]) == ("test", 12)
    assert sorted(path.name for path in exported.parent.iterdir()) == ["pictures.onnx", "pictures.onnx.parity.json"]


@pytest.mark.parametrize("fault", ["crop", "colours", "score"])
def test_a_file_that_says_something_else_is_not_written(opened: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    from onnx import numpy_helper

    def broken(run: Run) -> Any:
        if fault == "crop":
            return onnx_model(Run(run.path, replace(run.manifest, preprocessing=replace(run.preprocessing, crop=0.6))))
        model = onnx_model(run)
        if fault == "score":
            next(node for node in model.graph.node if node.output[0] == "unlikeness").op_type = "Neg"
            return model
        kernel = next(one for one in model.graph.initializer if len(one.dims) == 4)
        kernel.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(kernel)[:, ::-1]), kernel.name))
        return model

    monkeypatch.setattr(job, "onnx_model", broken)
    monkeypatch.setattr(job, "engines_for", lambda file: ("onnxruntime",))  # the first that is compared with
    with pytest.raises(ExportError, match=r"differs from the run in onnxruntime and is not written"):
        export(opened, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_faults_are_told_with_their_figures(opened: Run) -> None:
    sample = some_sample_of(opened, 8)
    reference, engine = Reference(opened, sample), opened.engine.name
    right = reference.outputs()
    assert Parity.of(reference, right, engine=engine).faults() == ()
    swapped = right["probabilities"].copy()
    swapped[0] = np.roll(swapped[0], 1)
    found = Parity.of(reference, {**right, "probabilities": swapped}, engine=engine)
    assert found.same == pytest.approx(7 / 8)
    assert "12.5% of 8 images get another label" in found.faults()
    assert "probabilities differ by" in found.faults()[1]
    nan = right["probabilities"].copy()
    nan[3, 1] = np.nan
    assert any("differ by inf" in fault for fault in Parity.of(reference, {"probabilities": nan}, engine=engine).faults())
    moved = {**right, "unlikeness": right["unlikeness"] + np.float32(0.2)}
    assert "novelty score differs by 0.2" in Parity.of(reference, moved, engine=engine).faults()[0]
    almost = Parity.of(reference, right, engine=engine)
    assert replace(almost, difference=0.02, same=0.99).faults(0.02) == ()
    assert replace(almost, difference=0.02, same=0.99).allowing() == 0.02
    assert replace(almost, difference=0.0004, same=0.99).allowing() == 0.0011  # two labels as good as each other
    assert replace(almost, difference=0.02, same=0.9).allowing() is None
    assert replace(almost, difference=0.02, novelty=1.0).allowing() is None
    numbers = replace(almost, decision="value", difference=0.02, same=0.1)
    assert numbers.faults(0.02) == ()


def test_the_run_on_the_files_has_limits_of_its_own(opened: Run) -> None:
    """Files that the run decodes otherwise than it is told: the sample has black images."""

    class Other(Sample):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index) * 0

    sample = some_sample_of(opened, 8)
    other = Other(sample.part, sample.paths, sample.targets)
    reference = Reference(opened, other)
    found = Parity.of(reference, reference.outputs(), engine=opened.engine.name)
    assert found.difference == 0
    assert found.median_from_files > 0.01
    assert re.search(r"from the run on the files themselves, probabilities differ by \S+ in the median, more than 0.01", found.faults()[0])
    assert all("in the median" not in fault for fault in found.faults(found.median_from_files))
    near = replace(found, median_from_files=1e-5, same_from_files=7 / 8)
    assert near.faults() == ()  # one image of few
    assert replace(near, same_from_files=6 / 8).faults() == ("25.0% of 8 images get another label from the run on the files themselves",)
    assert replace(near, same_from_files=6 / 8).allowing() is None
    assert replace(near, median_from_files=0.0123).allowing() == 0.013


def test_an_inexact_file_is_written_if_that_is_asked_for_and_says_so(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from onnx import numpy_helper

    def steeper(run: Run) -> Any:
        model = onnx_model(run)
        head = next(one for one in model.graph.initializer if len(one.dims) == 2 and one.dims[0] == len(run.classes))
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(1.02), head.name))
        return model

    monkeypatch.setattr(job, "onnx_model", steeper)
    monkeypatch.setattr(job, "engines_for", lambda file: ("onnxruntime",))
    refused = cli("export", run, "--images", "4")
    assert refused.code != 0
    told = re.search(r"--max-difference (\S+) writes it, as (\S+)\.$", " ".join(refused.err.split()))
    assert told is not None
    least, name = told.groups()
    assert name == f"{run.name}.max-diff-{least}.onnx"
    assert not list(Path().iterdir())
    written = cli("export", run, "--images", "4", "--max-difference", least, "--out", "a.max-diff-0.5.onnx")
    assert written.code == 0, written.err
    assert "not exact, as --max-difference" in written.err
    assert sorted(path.name for path in Path().iterdir()) == [f"a.max-diff-{least}.onnx", f"a.max-diff-{least}.onnx.parity.json"]
    session = onnxruntime.InferenceSession(f"a.max-diff-{least}.onnx", providers=["CPUExecutionProvider"])
    inside = json.loads(session.get_modelmeta().custom_metadata_map["headstart.parity"])
    report = json.loads(Path(f"a.max-diff-{least}.onnx.parity.json").read_text())
    assert inside == report["compared"]
    assert report["max_difference"] == float(least)
    assert 0.001 < max(one["difference"] for one in inside) <= float(least)
    assert f"{float(least):g}" == f"{rounded_up(max(one['difference'] for one in inside)):g}"
    smaller = cli("export", run, "--images", "4", "--max-difference", float(least) * 0.9)
    assert "is not written" in smaller.err


@pytest.mark.parametrize(
    ("value", "figure"), [(0.00318, 0.0032), (0.0032, 0.0032), (0.0321, 0.033), (0.999, 1.0), (0.0, 0.0), (np.inf, np.inf)]
)
def test_a_figure_in_a_name_is_never_below_the_difference(value: float, figure: float) -> None:
    assert rounded_up(value) == figure


def test_openvino_writes_two_files_that_say_the_same(opened: Run, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    done = export(opened, tmp_path / "pictures.xml", form="openvino", images=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures.bin", "pictures.xml", "pictures.xml.parity.json"]
    assert [path.name for path in done.files] == ["pictures.xml", "pictures.bin"]
    import openvino as ov

    model = ov.Core().read_model(tmp_path / "pictures.xml")
    assert json.loads(model.get_rt_info(["headstart", "classes"]).astype(str)) == ["checks", "rings", "stripes"]
    images = some_sample_of(opened, 6)
    found = ExportedModel(tmp_path / "pictures.xml", engine="openvino")(images)
    assert np.abs(found["probabilities"] - opened.predict(images).probabilities).max() < 1e-3
    with pytest.raises(ParameterError, match="onnxruntime"):
        ExportedModel(tmp_path / "pictures.xml", engine="onnxruntime")


def test_images_are_found_again_by_name_and_digest(run: Path, pictures: Path, tmp_path: Path) -> None:
    far = load(shutil.copytree(run, tmp_path / "a" / "b" / "run"))
    far.manifest.provenance["data"] = str(tmp_path / "gone")
    with pytest.raises(DataError, match="Give their folder with --data"):
        some_sample_of(far, 5)
    assert len(sample_of(far, "test", 99, data=pictures)) == 12
    changed = shutil.copytree(pictures, tmp_path / "changed")
    for path in changed.rglob("*.png"):
        if path.parent.name == "rings":
            Image.fromarray(draw(0, 1)).save(path)
    kept = sample_of(far, "test", 99, data=changed)
    assert len(kept) == 8
    assert {path.parent.name for path in kept.paths} == {"stripes", "checks"}
    assert [far.classes[target] for target in kept.targets] == [path.parent.name for path in kept.paths]


def test_the_gate_counts_what_is_lost_and_gained() -> None:
    targets = np.array([0, 0, 1, 1])
    before = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    after = np.array([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [0.3, 0.7]])

    def compared(before: np.ndarray, after: np.ndarray, targets: np.ndarray, max_drop: float) -> Gate:
        return Gate.of(before, after, Sample("test", (), targets), max_drop=max_drop)

    gate = compared(before, after, targets, 0.0)
    assert (gate.before, gate.after, gate.agreement, gate.lost, gate.gained) == (0.75, 0.75, 0.5, 1, 1)
    assert not gate.passed  # as accurate, and yet another model
    assert compared(before, before, targets, 0.0).passed
    many = np.repeat(before, 50, axis=0)
    worse = many.copy()
    worse[0] = worse[0, ::-1]
    assert not compared(many, worse, np.repeat(targets, 50), 0.0049).passed
    assert compared(many, worse, np.repeat(targets, 50), 0.005).passed
    several = compared(np.array([[0.9, 0.2]]), np.array([[0.9, 0.8]]), np.array([[True, False]]), 0.5)
    assert (several.before, several.after, several.agreement) == (1.0, 0.5, 0.0)


@pytest.mark.parametrize(("text", "value"), [("0.5%", 0.005), ("0.005", 0.005), ("0", 0.0), (" 2 %", 0.02)])
def test_a_drop_is_a_share(text: str, value: float) -> None:
    assert read_drop(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "much", "-1%", "101%", "nan"])
def test_other_drops_are_refused(text: str) -> None:
    with pytest.raises(ParameterError, match=r"--max-drop must be a share such as 0\.5%"):
        read_drop(text)


def test_a_python_snippet_needs_onnxruntime_pillow_and_numpy_only(opened: Run, exported: Path, photo: Path, tmp_path: Path) -> None:
    text = snippet("python", opened, file=exported.name)
    blocked = "import sys\nfor name in ('headstart', 'onnx', 'openvino', 'torch', 'sklearn', 'scipy'): sys.modules[name] = None\n"
    (exported.parent / "predict.py").write_text(blocked + text)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 400, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    done = subprocess.run(
        [sys.executable, "predict.py", photo, tmp_path / "noise.png"], cwd=exported.parent, capture_output=True, text=True, check=True
    )
    (exported.parent / "predict.py").unlink()
    lines = done.stdout.splitlines()
    wanted = opened.predict([photo, tmp_path / "noise.png"])
    assert lines[0] == f"{photo}  rings  {wanted.probabilities[0].max():.4f}"
    assert lines[1].endswith("unlike anything seen in training")


def test_names_of_classes_cannot_break_out_of_a_snippet(opened: Run) -> None:
    state = {**opened.manifest.state, "classes": ['x"; evil(); "', "back\\slash", "new\nline"]}
    hostile = Run(opened.path, replace(opened.manifest, state=state, reliability=None))
    for language in ("javascript", "cpp"):
        text = snippet(language, hostile, file='a"b.onnx')
        assert r'"x\"; evil(); \"", "back\\slash", "new line"' in text
        assert r'"a\"b.onnx"' in text
        assert text.count("{") == text.count("}")
    with pytest.raises(ParameterError, match="python, javascript, cpp"):
        snippet("rust", hostile, file="x")


def test_javascript_is_javascript(opened: Run, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (tmp_path / "x.mjs").write_text(snippet("javascript", opened, file="x.onnx"))
    subprocess.run([node, "--check", tmp_path / "x.mjs"], check=True)


def test_the_command_writes_and_tells(cli: Cli, run: Path) -> None:
    done = cli("export", run)
    assert done.code == 0, done.err
    assert "same label for all of 12 test images" in done.out
    assert sorted(path.name for path in Path().iterdir()) == [f"{run.name}.onnx", f"{run.name}.onnx.parity.json"]
    printed = cli("export", run, "--snippet", "cpp")
    assert '{"checks", "rings", "stripes"}' in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "litert", "--out", "x.onnx"), "as in x.tflite"),
        (("--format", "coreml"), "no longer reads ONNX"),
        (("--format", "pdf"), "--format must be onnx, openvino, int8"),
        (("--out", "x.bin"), "as in x.onnx"),
        (("--images", "0"), "at least 1"),
        (("--max-drop", "much"), "must be a share"),
        (("--max-difference", "0"), "--max-difference must be a number above 0 and at most 1, got 0.0"),
        (("--format", "int8", "--max-difference", "0.01"), "--max-difference is for formats in float32"),
        (("--snippet", "rust"), "--snippet must be"),
        (("--out", "nowhere/x.onnx"), "there is no folder"),
    ],
)
def test_mistakes_are_told(cli: Cli, run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = cli("export", run, *arguments)
    assert done.code == 2
    assert message in done.err
    assert list(Path().iterdir()) == []


def test_bench_lists_every_way(cli: Cli, run: Path, exported: Path) -> None:
    done = cli("bench", run, "--images", "3", "--rounds", "1", "--exported", exported, "--out", "speed.json", "-q")
    assert done.code == 0, done.err
    rows = json.loads(Path("speed.json").read_text())
    assert {row["what"] for row in rows} >= {"run, files, onnxruntime", "run, decoded, onnxruntime", "pictures.onnx, decoded, onnxruntime"}
    assert all(row["rate"] > 0 and 0 < row["median"] <= row["slow"] for row in rows)
    assert len(done.out.splitlines()) == len(rows) + 1


def test_no_exported_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    for engine in engines_for(tmp_path / "x.onnx"):
        with pytest.raises(BackboneError, match="cannot open this file"):
            ExportedModel(tmp_path / "x.onnx", engine=engine)


@pytest.mark.slow
def test_int8_passes_its_gate_or_leaves_layers_or_is_refused(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    here = load(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.setattr(int8, "CALIBRATION", 4)
    every, rank = int8.layers_of, int8.ranked_by_error

    def rank_two(*given: Any, **named: Any) -> list[str]:
        """Of 49 layers, which would take long to try."""
        with monkeypatch.context() as patched:
            patched.setattr(int8, "layers_of", lambda model: every(model)[:2])
            return rank(*given, **named)

    monkeypatch.setattr(int8, "ranked_by_error", rank_two)
    real, seen = Gate.of, []

    def first_fails(*given: Any, **named: Any) -> Gate:
        seen.append(named["in_float"])
        before, after, sample = given
        return real(before, 1 - after if len(seen) == 1 else after, sample, **{**named, "max_drop": 0.2})

    monkeypatch.setattr(Gate, "of", first_fails)
    done = export(here, tmp_path / "x.xml", form="int8", images=6, data=pictures)
    assert seen == [0, 2]  # a tenth of 49 layers would be 5
    assert [gate.passed for gate in done.gates] == [False, True]
    assert [use.tested for use in uses_of(here.path)] == [6, 6]
    assert isinstance(done.parities[0], Parity)
    text = (tmp_path / "x.xml").read_text()
    assert text.count('type="FakeQuantize"') > 40

    monkeypatch.setattr(int8, "FLOAT_SHARES", (0.0,))
    monkeypatch.setattr(int8, "quantised", lambda model, *_, **__: model)  # the gate alone decides
    monkeypatch.setattr(Gate, "of", lambda *given, **named: real(given[0], 1 - given[1], given[2], **named))
    with pytest.raises(ExportError, match=r"is not written\. int8: accuracy .* failed\."):
        export(here, tmp_path / "y.xml", form="int8", images=6, data=pictures)
    assert not list(tmp_path.glob("y*"))
