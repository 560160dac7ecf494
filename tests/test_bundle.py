"""The run folder: the saved model says what the classifier said, damage is told in words, and an earlier run is never half replaced."""

from __future__ import annotations

import ast
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import headstart
from headstart import FitResult, FitSettings, fit, load
from headstart.data import LabelSets, dataset_from_paths
from headstart.errors import DataError, ParameterError, RunError
from headstart.modalities.image import read_image
from headstart.pipeline import writing
from headstart.pipeline.writing import contents_of
from headstart.run import PROTOCOL, RunContents, check_target, write, write_files, writing_run
from headstart.run.manifest import plain
from headstart.selection import HEADS, HeadPipeline

FILES = {
    "model.onnx", "head.safetensors", "reference.safetensors", "evaluation.safetensors", "manifest.json", "report.html",
    "MODEL_CARD.md", "split.csv", "confusion_matrix.png",
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
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("headstart.heads.mlp._LEAST", 60)  # steps, for the sake of time
                if head != "centroid":  # a report takes half a second
                    patch.setattr(writing, "write_report", lambda *_: None)
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
    return contents_of(result, command="headstart fit")


def write_run(path: Path, contents: RunContents) -> None:
    """Write a run without pages."""
    with writing_run(path) as folder:
        write_files(folder, contents)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("head", [*HEADS, "several"])
def test_the_saved_model_says_what_the_classifier_said(runs: Callable[[str], FitResult], head: str, engine: str) -> None:
    result = runs(head)
    dataset = result.dataset.take(result.dataset.part("test"))
    wanted = result.classifier.predict_proba(dataset.inputs)
    run = load(result.run, engine=engine)
    found = run.predict(dataset.inputs)
    assert run.classes == dataset.classes
    assert run.link.independent == isinstance(dataset.targets, LabelSets) == (head == "several")
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
    values = result.classifier.extract(result.dataset.inputs).values
    np.testing.assert_array_equal(again.logits(values), result.choice.estimator.logits(values))


def test_what_is_in_the_folder(runs: Callable[[str], FitResult], whole: Path) -> None:
    assert {file.name for file in whole.iterdir()} == FILES
    result = runs("centroid")
    train = result.dataset.part("train")
    reference = load_file(whole / "reference.safetensors")
    np.testing.assert_array_equal(reference["targets"], result.dataset.targets.array[train])
    last = result.classifier.extractor_.layers[-1]
    values = result.classifier.extract(result.dataset.inputs).values[train]
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
        assert sum(row["chosen"] for row in manifest["story"]["evidence"]) == 1
        assert manifest["provenance"]["settings"]["seed"] == 0


def test_values_that_json_does_not_have() -> None:
    given = {
        "a": float("nan"),
        5: [np.float32("inf"), np.int64(3), Path("x\udcff")],
        "b": ("caf\u00e9", True, None, np.array([1.5, np.nan])),
    }
    assert plain(given) == {"a": None, "5": [None, 3, "x\\udcff"], "b": ["caf\u00e9", True, None, [1.5, None]]}


def test_the_model_alone_knows_its_classes(whole: Path) -> None:
    import onnx

    model = onnx.load(whole / "model.onnx")
    onnx.checker.check_model(model)
    told = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert told["classes"] == ["checks", "rings", "stripes"]
    assert told["preprocessing"]["size"] == 224
    assert {output.name for output in model.graph.output} == {"features", "logits", "probabilities"}


def test_no_pickle_anywhere(whole: Path) -> None:
    """Not in the run, and nothing in the package that could read or write one (`weight_files` takes .pth files apart without it)."""
    for file in whole.iterdir():
        assert not file.read_bytes().startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), file.name
    for file in Path(headstart.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            assert not {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"} & {module.split(".")[0], *names}, file


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

    kind, message = (RunError, "No space left on device") if isinstance(error, OSError) else (type(error), None)

    def write_half() -> None:
        with writing_run(folder) as new:
            write_files(new, contents)
            (new / "half").write_text("half")
            raise error

    with pytest.raises(kind, match=message):
        write_half()
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


def test_a_run_that_is_replaced_while_it_is_looked_at_is_looked_at_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing of its files and the reading of its manifest another process renames it away, and puts a new one there."""
    usual, calls = write.is_run, 0

    def replaced(path: Path) -> bool:
        nonlocal calls
        calls += 1
        if calls > 1:
            return usual(path)
        path.rename(path.with_name("old"))
        found = usual(path)
        shutil.copytree(path.with_name("old"), path)
        return found

    monkeypatch.setattr(write, "is_run", replaced)
    check_target(folder)
    assert calls == 2


def test_many_writers_of_one_place(tmp_path: Path, folder: Path) -> None:
    """Whoever comes last wins, nobody fails, and the place is never anything but a whole run for long."""
    path, failures = tmp_path / "place" / "run", []

    def work() -> None:
        try:
            for _ in range(4):
                with writing_run(path) as new:
                    shutil.copytree(folder, new, dirs_exist_ok=True)
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


@pytest.mark.filterwarnings("ignore:.*cannot be read and")
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


@pytest.mark.filterwarnings("ignore:.*cannot be read and")
def test_misuse_is_told_in_words(whole: Path, pictures: Path, tmp_path: Path) -> None:
    run = load(whole)
    picture = pictures / "rings" / "rings 00.png"
    for single in (picture, str(picture), picture.read_bytes()):
        with pytest.raises(DataError, match=r"got a single one\. Put it into a list"):
            run.predict(single)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="Engine must be one of"):
        load(whole, engine="tpu").predict([picture])
    other = dataset_from_paths([picture, picture], ["a", "b"])
    with pytest.raises(DataError, match=r"have the classes a, b and the run checks, rings, stripes. Read the data with"):
        run.evaluate(other)
    gone = dataset_from_paths([tmp_path / "x.png", tmp_path / "y.png"], ["rings", "checks"], classes=list(run.classes))
    with pytest.raises(DataError, match=r"None of the 2 images can be read. The first: .*x.png"):
        run.evaluate(gone)
