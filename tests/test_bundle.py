"""The run folder: the saved model says what the classifier said, damage is told in words, and an earlier run is never half replaced."""

from __future__ import annotations

import ast
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import headstart
from headstart import FitResult, FitSettings, fit, load
from headstart.bundle import PROTOCOL, RunContents, check_target, write, write_run
from headstart.bundle.run import manifest_digest
from headstart.datasets import dataset_from_paths
from headstart.errors import DataError, ParameterError, RunError
from headstart.fitting.contents import run_contents
from headstart.images import read_image
from headstart.strategy import HEADS
from headstart.strategy.pipeline import HeadPipeline

FILES = {
    "model.onnx", "head.safetensors", "reference.safetensors", "manifest.json", "report.html", "MODEL_CARD.md", "split.csv",
    "confusion_matrix.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(pictures: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], FitResult]:
    """A run of each head, fitted when first asked for; ``several`` is multi-label."""
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, FitResult] = {}

    def run(head: str) -> FitResult:
        if head not in made:
            data: Any = pictures
            if head == "several":
                paths = sorted(pictures.glob("*/*.png"))
                data = dataset_from_paths(paths, [{path.parent.name, path.name[-5]} for path in paths], root=pictures)
            settings = FitSettings(head="ridge" if head == "several" else head, cache=cache)
            made[head] = fit(data, out=folder / head, settings=settings)
        return made[head]

    return run


@pytest.fixture(scope="module")
def whole(runs: Callable[[str], FitResult]) -> Path:
    """A run folder that no test changes."""
    run = runs("centroid").run
    assert run is not None
    return run


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A run folder to be harmed."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture(scope="module")
def contents(runs: Callable[[str], FitResult], cache: Path) -> RunContents:
    """What goes into a run folder, without the report, which takes a second."""
    result = runs("centroid")
    values = result.classifier.extract(result.dataset.images).values
    made = run_contents(result, values, settings=FitSettings(cache=cache), command="headstart fit")
    return replace(made, further=lambda folder: None)


def _sealed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as somebody would who knows how it is sealed."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text("utf-8"))
    change(manifest)
    manifest["digest"] = manifest_digest(manifest)
    file.write_text(json.dumps(manifest), "utf-8")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("head", [*HEADS, "several"])
def test_the_saved_model_says_what_the_classifier_said(runs: Callable[[str], FitResult], head: str, engine: str) -> None:
    result = runs(head)
    dataset = result.dataset.take(result.dataset.part("test"))
    wanted = result.classifier.predict_proba(dataset.images)
    run = load(result.run, engine=engine)
    found = run.predict(dataset.images)
    assert run.classes == dataset.classes
    assert run.multilabel == dataset.multilabel == (head == "several")
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-4)
    if engine == "openvino":
        evaluation, _ = run.evaluate(dataset)
        assert evaluation.accuracy == result.test.accuracy == run.metrics["test_accuracy"]
        assert run.metrics["test_images"] == len(dataset)


@pytest.mark.parametrize("head", [*HEADS, "several"])
def test_the_head_can_be_made_again_from_its_file(runs: Callable[[str], FitResult], head: str) -> None:
    from safetensors import safe_open

    result = runs(head)
    assert result.run is not None
    file = result.run / "head.safetensors"
    with safe_open(file, framework="numpy") as opened:
        settings = json.loads(opened.metadata()["head"])
    again = HeadPipeline.from_state(settings, load_file(file))
    values = result.classifier.extract(result.dataset.images).values
    np.testing.assert_array_equal(again.logits(values), result.choice.estimator.logits(values))


def test_what_is_in_the_folder(runs: Callable[[str], FitResult], whole: Path) -> None:
    assert {file.name for file in whole.iterdir()} == FILES
    result = runs("centroid")
    train = result.dataset.part("train")
    reference = load_file(whole / "reference.safetensors")
    np.testing.assert_array_equal(reference["targets"], result.dataset.targets[train])
    last = result.classifier.extractor_.layers[-1]
    values = result.classifier.extract(result.dataset.images).values[train]
    np.testing.assert_array_equal(reference["features"], values[:, last.start : last.stop].astype(np.float16))
    assert reference["out_of_sample_logits"].shape == (len(train), 3)


def test_the_manifest_is_strict_json(runs: Callable[[str], FitResult]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for head in ("auto", "several", "neighbours"):
        run = runs(head).run
        assert run is not None
        manifest = json.loads((run / "manifest.json").read_text("utf-8"), parse_constant=refuse)
        assert manifest["protocol"] == PROTOCOL
        assert sum(row["chosen"] for row in manifest["evidence"]) == 1
        assert manifest["provenance"]["settings"]["seed"] == 0


def test_values_that_json_does_not_have() -> None:
    given = {
        "a": float("nan"),
        5: [np.float32("inf"), np.int64(3), Path("x\udcff")],
        "b": ("caf\u00e9", True, None, np.array([1.5, np.nan])),
    }
    assert write.jsonable(given) == {"a": None, "5": [None, 3, "x\\udcff"], "b": ["caf\u00e9", True, None, [1.5, None]]}


def test_the_model_alone_knows_its_classes(whole: Path) -> None:
    import onnx

    model = onnx.load(whole / "model.onnx")
    onnx.checker.check_model(model)
    told = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert told["classes"] == ["checks", "rings", "stripes"]
    assert told["preprocessing"]["size"] == 224
    assert {output.name for output in model.graph.output} == {"features", "logits", "probabilities"}


def test_no_pickle_anywhere(whole: Path) -> None:
    """Not in the run, and nothing in the package that could read or write one (`pickle_programs` takes .pth files apart without it)."""
    for file in whole.iterdir():
        assert not file.read_bytes().startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), file.name
    for file in Path(headstart.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            assert not {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"} & {module.split(".")[0], *names}, file


# Damage


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    file.write_bytes(data)


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_flipped_bit_is_noticed(folder: Path, name: str) -> None:
    _flip(folder / name)
    with pytest.raises(RunError, match=rf"{name}: .*(fit again|no protocol number|damaged)"):
        load(folder)


def test_every_byte_of_the_manifest_counts(folder: Path) -> None:
    """Only a space between two entries may differ."""
    file = folder / "manifest.json"
    whole = file.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 300):
        changed = bytearray(whole)
        changed[place] ^= 0x04
        file.write_bytes(changed)
        try:
            meant = json.loads(changed) == json.loads(whole)
        except ValueError:
            meant = False
        if not meant:
            with pytest.raises(RunError):
                load(folder)


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: is missing. The run is incomplete: copy it again, or fit again"):
        load(folder)


def test_what_is_no_run(tmp_path: Path, folder: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    file = tmp_path / "file"
    file.write_text("")
    for path, message in (
        (empty, "not a run folder \\(it has no manifest.json\\)"),
        (file, "is a file and not a run folder"),
        (tmp_path / "rnu", "no such run folder. Did you mean run\\?"),
        (tmp_path, "not a run folder.*It holds the runs run: give one of them"),
        (folder / "model.onnx", "is a file and not a run folder"),
    ):
        with pytest.raises(RunError, match=message):
            load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "cannot be read \\(JSONDecodeError\\)"),
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read \\(UnicodeDecodeError\\)"),
        (b"[" * 100_000, "cannot be read \\(RecursionError\\)"),
        (b"[]", "no protocol number"),
        (b"{}", "no protocol number"),
        (b'{"protocol": "1"}', "no protocol number"),
        (b'{"protocol": true}', "no protocol number"),
        (b'{"protocol": 0}', "protocol 0; this version reads 1 to 1"),
        (b'{"protocol": 99}', "protocol 99; this version reads 1 to 1. Update with: pip install -U headstart"),
        (b'{"protocol": 1}', "'classes' is missing or is no list"),
    ],
)
def test_a_manifest_that_is_none(folder: Path, text: bytes, message: str) -> None:
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(RunError, match=message):
        load(folder)


def test_a_truncated_manifest(folder: Path) -> None:
    file = folder / "manifest.json"
    whole = file.read_bytes()
    for share in (0.01, 0.3, 0.6, 0.9, 0.999):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(RunError, match=r"manifest.json: cannot be read \(JSONDecodeError\). Copy the run again, or fit again."):
            load(folder)


@pytest.mark.parametrize("key", ["classes", "multilabel", "preprocessing", "files", "metrics", "backbone", "digest"])
@pytest.mark.parametrize("value", [None, 5, "text"])
def test_entries_of_a_wrong_type(folder: Path, key: str, value: Any) -> None:
    file = folder / "manifest.json"
    manifest = {**json.loads(file.read_text("utf-8")), key: value}
    file.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(RunError, match=f"'{key}' is missing or is no|its digest differs"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(classes=["a", "a", "b"]), "'classes' must be different names"),
        (lambda m: m.update(classes=[1, 2, 3]), "'classes' must be different names"),
        (lambda m: m.update(classes=[]), "'classes' must be different names"),
        (lambda m: m.update(preprocessing={}), "'preprocessing' cannot be used"),
        (lambda m: m["preprocessing"].update(size=-5), "'preprocessing' cannot be used .*8 to 4096"),
        (lambda m: m["preprocessing"].update(size="224"), "'preprocessing' cannot be used"),
        (lambda m: m["preprocessing"].update(crop="all"), "'preprocessing' cannot be used"),
        (lambda m: m["preprocessing"].update(colour="red"), "'preprocessing' cannot be used"),
        (lambda m: m["files"].pop("model.onnx"), "lists no model.onnx"),
        (lambda m: m["files"].update({"model.onnx": 5}), "has been changed since"),
        (lambda m: m["files"].update({"report.html": None}), "has been changed since"),
        *(
            ((lambda m, name=name: m["files"].update({name: "0" * 64})), "outside the run folder .*Do not use this run")
            for name in ("../other", "/etc/passwd", "..", ".", "", "a/b", "..\\other", "C:x", "nul\0", "\ud800", "a\nb")
        ),
    ],
)
def test_a_manifest_made_to_deceive(folder: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    _sealed(folder, change)
    with pytest.raises(RunError, match=message):
        load(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a thing of Unix")
def test_a_pipe_in_place_of_a_file_does_not_hang(folder: Path) -> None:
    (folder / "report.html").unlink()
    os.mkfifo(folder / "report.html")
    with pytest.raises(RunError, match=r"report.html: is missing"):
        load(folder)


# Writing


def _state(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _alone(path: Path) -> None:
    """Nothing was left beside the run."""
    assert [entry.name for entry in path.parent.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("made", ["absent", "empty", "earlier", "deep", "link", "leftover"])
def test_a_run_is_written(contents: RunContents, tmp_path: Path, made: str, folder: Path) -> None:
    path = tmp_path / "deep" / "er" / "run" if made == "deep" else tmp_path / "target"
    if made in ("empty", "leftover"):
        path.mkdir()
    if made == "leftover":
        (path / ".target-x.part").mkdir()
        (path / ".DS_Store").write_text("")
    if made == "earlier":
        folder.rename(path)
    if made == "link":
        path.symlink_to(folder)
    write_run(path, contents)
    assert load(path).classes == ("checks", "rings", "stripes")
    assert not (path / "report.html").exists()  # the earlier one had it
    assert path.is_symlink() == (made == "link")
    _alone(path)


def test_the_current_folder(contents: RunContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is filled, and not replaced by another folder of its name, in which nobody would be standing."""
    monkeypatch.chdir(tmp_path)
    write_run(Path(), contents)
    assert load(Path.cwd()).path == tmp_path
    assert (Path("manifest.json")).is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"thesis.txt": "years of work"}, "is a folder that is not an earlier run; it is left as it is. Choose another --out, or empty it"),
        ({"manifest.json": '{"name": "my web page"}'}, "is a folder that is not an earlier run"),
        ({"manifest.json": '{"protocol": 1}', "model.onnx": ""}, "is not a whole earlier run; it is left as it is"),
    ],
)
def test_a_foreign_folder_is_left_alone(contents: RunContents, tmp_path: Path, content: dict[str, str], message: str) -> None:
    path = tmp_path / "mine"
    path.mkdir()
    for name, text in content.items():
        (path / name).write_text(text)
    before = _state(tmp_path)
    for refuse in (lambda: check_target(path), lambda: write_run(path, contents)):
        with pytest.raises(RunError, match=message):
            refuse()
    assert _state(tmp_path) == before


def test_an_earlier_run_with_something_added_is_left_alone(contents: RunContents, folder: Path) -> None:
    (folder / "notes.txt").write_text("important")
    with pytest.raises(RunError, match=r"is an earlier run, but it also holds notes.txt, which Headstart did not write"):
        write_run(folder, contents)
    assert (folder / "notes.txt").exists()


def test_targets_that_cannot_be(contents: RunContents, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path, message in (
        (tmp_path / "file", "is a file; it is left as it is"),
        (tmp_path / "file" / "run", r"file is a file. Choose another --out"),
        (tmp_path / "circle" / "run", "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written"),
        (Path("nul\0"), "cannot be written"),
    ):
        with pytest.raises(RunError, match=message):
            write_run(path, contents)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
def test_an_interrupted_writing_leaves_the_old_run_whole(contents: RunContents, folder: Path, error: BaseException) -> None:
    before = _state(folder)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    kind, message = (RunError, "No space left on device") if isinstance(error, OSError) else (type(error), None)
    with pytest.raises(kind, match=message):
        write_run(folder, replace(contents, further=fail))
    assert _state(folder) == before
    _alone(folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(13, "Permission denied")])
def test_an_interruption_between_the_two_renamings(
    contents: RunContents, folder: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = _state(folder), Path.rename

    def renamed(self: Path, target: Path) -> Path:
        if self.name == "run" and self.parent.suffix == ".part":
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises((RunError, KeyboardInterrupt)):
        write_run(folder, contents)
    assert _state(folder) == before
    _alone(folder)


def test_what_a_killed_process_left_is_tidied_up_later(contents: RunContents, folder: Path) -> None:
    """Killed between the two renamings: the old run is brought back; other processes' work of this hour is not touched."""
    left, fresh = folder.parent / ".run-killed.part", folder.parent / ".run-writing.part"
    (left / "old").mkdir(parents=True)
    fresh.mkdir()
    before = _state(folder)
    folder.rename(left / "old" / "0")
    hours_ago = time.time() - 7200
    os.utime(left, (hours_ago, hours_ago))
    write._tidy(folder)
    assert _state(folder) == before
    assert not left.exists()
    assert fresh.exists()


def test_many_writers_of_one_place(contents: RunContents, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes last wins, nobody fails, and the place is never anything but a whole run for long."""
    monkeypatch.setattr(write, "_write_files", lambda new, contents: shutil.copytree(folder, new, dirs_exist_ok=True))
    path, failures = tmp_path / "place" / "run", []

    def work() -> None:
        try:
            for _ in range(4):
                write_run(path, contents)
        except RunError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    load(path)
    _alone(path)


# Predicting


def test_predictions(whole: Path, pictures: Path, tmp_path: Path) -> None:
    good = sorted((pictures / "rings").iterdir())[:2]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"rubbish")
    seen: list[tuple[int, int]] = []
    given = [broken, good[0], tmp_path / "absent.png", good[1]]
    found = load(whole).predict(given, progress=lambda done, total: seen.append((done, total)))
    assert len(found) == 2
    assert found.kept.tolist() == [1, 3]
    assert found.refused_at == (0, 2)
    assert [error.path for error in found.refused] == [str(broken), str(tmp_path / "absent.png")]
    assert seen[-1] == (4, 4)
    assert found.labels == ("rings", "rings")
    best = found.top(0, 2)
    assert best[0][0] == "rings"
    assert best[0][1] >= best[1][1]
    assert len(found.top(0, 99)) == 3
    np.testing.assert_array_equal(load(whole).predict(np.stack([read_image(path) for path in good])).probabilities, found.probabilities)
    nothing = load(whole).predict([])
    assert nothing.probabilities.shape == (0, 3)
    assert nothing.labels == ()


def test_labels_of_a_run_with_several(runs: Callable[[str], FitResult], pictures: Path) -> None:
    result = runs("several")
    found = load(result.run).predict(sorted((pictures / "rings").iterdir())[:3])
    assert all("rings" in labels for labels in found.labels)


def test_a_run_says_what_it_is(whole: Path) -> None:
    assert repr(load(whole)) == f"<Run {whole}: 3 classes, tf_efficientnet_lite0>"


def test_misuse_is_told_in_words(whole: Path, pictures: Path, tmp_path: Path) -> None:
    run = load(whole)
    picture = pictures / "rings" / "rings 00.png"
    for single in (picture, str(picture), picture.read_bytes()):
        with pytest.raises(ParameterError, match="put the single one into a list"):
            run.predict(single)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="Engine must be one of"):
        load(whole, engine="tpu").predict([picture])
    other = dataset_from_paths([picture, picture], ["a", "b"])
    with pytest.raises(DataError, match=r"have the classes a, b and the run checks, rings, stripes. Read the data with"):
        run.evaluate(other)
    gone = dataset_from_paths([tmp_path / "x.png", tmp_path / "y.png"], ["rings", "checks"], classes=list(run.classes))
    with pytest.raises(DataError, match=r"None of the 2 images can be read. The first: .*x.png"):
        run.evaluate(gone)
