"""Forked children of a process that has used an engine: they answer with an engine of their own, or say why not, and end in order."""

from __future__ import annotations

import copy
import dataclasses
import functools
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import TransferClassifier, load
from headstart.engine import OfProcess, TorchEngine, open_session
from headstart.errors import BackboneError, ParameterError, RunError
from headstart.explanation import explain

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

KINDS = [kind for kind in ("openvino", "onnxruntime") if find_spec(kind)]


def in_child(work: Callable[[], Any]) -> Any:
    """What a forked child finds; the name and the text of the error that it raises instead."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def run() -> None:
        try:
            theirs.send(work())
        except Exception as error:
            theirs.send((type(error).__name__, str(error)))

    child = context.Process(target=run)
    child.start()
    try:
        assert ours.poll(60), "the child hangs"
        found = ours.recv()
        child.join(10)
        assert child.exitcode == 0
    finally:
        child.kill()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_predicts_as_its_parent_did(run: Path, photo: Path, kind: str) -> None:
    opened = load(run, engine=kind)
    before = opened.predict([photo]).probabilities.tolist()
    assert in_child(lambda: opened.predict([photo]).probabilities.tolist()) == before
    assert in_child(lambda: in_child(lambda: opened.predict([photo]).probabilities.tolist())) == before  # a child of a child
    assert in_child(lambda: load(run, engine=kind).predict([photo] * 9).labels) == ("rings",) * 9  # what is cached is the parent's
    assert opened.predict([photo]).probabilities.tolist() == before


@pytest.mark.skipif(len(KINDS) < 2, reason="only one engine is installed")
def test_a_child_may_use_another_engine_than_its_parent(run: Path, photo: Path) -> None:
    for kind, other in (KINDS, KINDS[::-1]):
        assert load(run, engine=kind).predict([photo]).labels == ("rings",)
        assert in_child(lambda other=other: load(run, engine=other).predict([photo]).labels) == ("rings",)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fast", "occlusion"])
def test_a_child_explains(run: Path, photo: Path, kind: str, method: str) -> None:
    from headstart.explanation import HeatMaps

    opened = load(run, engine=kind)
    maps, pixels = HeatMaps.of(opened, method=method, engine=kind), opened.preprocessing(photo)[None]
    before = maps(pixels, [0])
    np.testing.assert_allclose(in_child(lambda: maps(pixels, [0])), before, atol=1e-5)
    assert in_child(lambda: [found.name for found in explain(opened, [photo], method=method, engine=kind)]) == ["rings"]


@pytest.mark.slow
def test_a_child_fits_and_predicts_with_the_estimator(pictures: Path, cache: Path) -> None:
    images = sorted(pictures.rglob("*.png"))[::4]
    labels = [image.parent.name for image in images]
    classifier = TransferClassifier(head="centroid", cache=None).fit(images, labels)
    before = classifier.predict(images).tolist()
    assert in_child(lambda: classifier.predict(images).tolist()) == before
    assert in_child(lambda: TransferClassifier(head="centroid", cache=None).fit(images, labels).predict(images).tolist()) == before
    network = classifier.extractor_.backbone.network
    assert network.exists()  # a child ends with a copy of the classifier, and removes nothing of the parent's
    assert classifier.predict(images).tolist() == before


ENDS = """
import os, sys
from pathlib import Path
from headstart import TransferClassifier
images = sorted(Path(sys.argv[1]).rglob("*.png"))[::4]
classifier = TransferClassifier(head="centroid", cache=None).fit(images, [image.parent.name for image in images])
network = classifier.extractor_.backbone.network
child = os.fork()
if child == 0:
    classifier.predict(images)
    del classifier
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), network.exists(), len(classifier.predict(images)))
"""


@pytest.mark.slow
@pytest.mark.skipif("openvino" not in KINDS, reason="in such a child ONNX Runtime itself does not end, whether or not it was used")
def test_a_child_that_ends_as_programs_do_ends_and_removes_nothing(pictures: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ENDS, pictures], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["7", "True", "15"]


def labels_of(run: Any, images: list[Path]) -> Any:
    return run.predict(images).labels


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_run_is_sent_to_other_processes_by_its_path(run: Path, pictures: Path, method: str) -> None:
    opened, images = load(run), sorted(pictures.rglob("*.png"))
    before = opened.predict(images).labels
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(functools.partial(labels_of, opened), [images[:30], images[30:]], chunksize=1)
    assert (*found[0], *found[1]) == before


def test_a_copy_of_a_run_is_the_run_and_no_other(run: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    opened = load(run.name, engine=KINDS[-1])
    for made in (copy.copy(opened), copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))):
        assert (made.path, made.engine_kind, made.manifest) == (run, KINDS[-1], opened.manifest)
    sent = pickle.dumps(opened)
    assert len(sent) < 500  # the path alone
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(sent).predict([photo]).labels == ("rings",)
    other = shutil.copytree(run, tmp_path / "other")
    sent = pickle.dumps(load(other))
    dataclasses.replace(opened.manifest, provenance={}).write(other / "manifest.json")
    with pytest.raises(RunError, match="is another run than the one that was sent to this process"):
        pickle.loads(sent)
    shutil.rmtree(other)
    with pytest.raises(RunError, match="other"):
        pickle.loads(sent)


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_does_not_take_another_network_for_the_one_that_was_opened(run: Path, photo: Path, tmp_path: Path, kind: str) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    opened = load(copy, engine=kind)
    opened.predict([photo])
    (copy / "model.onnx").touch()
    name, message = in_child(lambda: opened.predict([photo]).labels)
    assert name == BackboneError.__name__
    assert message.endswith("model.onnx: has changed since the process was forked that had opened it. Load the run again.")


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_works_in_a_child(run: Path, kind: str) -> None:
    session = open_session(run / "model.onnx", kind=kind, outputs=("logits",))
    images = {"images": np.zeros((2, *(load(run).preprocessing.size,) * 2, 3), np.uint8)}
    before = session(images)["logits"]
    np.testing.assert_allclose(in_child(lambda: session(images)["logits"]), before, atol=1e-5)


def test_torch_works_in_a_child() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 64, 3)

        def forward(self, images: Any) -> Any:
            return self.layer(images.permute(0, 3, 1, 2).float()).mean((2, 3))

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine, images = TorchEngine(Network(), device="cpu"), [np.full((96, 96, 3), value, np.uint8) for value in range(8)]
        before = np.stack([row for (row,) in engine.run(images)])
        np.testing.assert_allclose(in_child(lambda: np.stack([row for (row,) in engine.run(images)])), before, rtol=1e-4)
        fresh = in_child(lambda: len(list(TorchEngine(Network(), device="cpu").run(images))))
        assert fresh == 8
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_gpu_that_the_parent_uses_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    engine = TorchEngine(torch.nn.Identity(), device="cpu")
    engine._device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(OfProcess, "forked", True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.raises(ParameterError, match=r"forked from one that has used the GPU.*get_context\('spawn'\)"):
        list(engine.run([np.zeros((8, 8, 3), np.uint8)]))


def test_a_preloaded_server_worker_answers(run: Path, photo: Path) -> None:
    pytest.importorskip("fastapi", reason="needs fastapi")
    from starlette.testclient import TestClient

    from headstart.serve.app import create_app

    app = create_app([run], hosts=["testserver"])  # as gunicorn --preload does, before it forks its workers

    def asked(path: str = "/predict") -> Any:
        with TestClient(app) as client:
            files = [("file", (photo.name, photo.read_bytes()))]
            return [one["label"] for one in client.post(path, files=files).json()["predictions"]]

    assert in_child(asked) == ["rings"]
    assert asked() == ["rings"]


def test_a_worker_forked_while_its_parent_serves_answers(run: Path, photo: Path) -> None:
    from headstart.serve.models import Model

    model = Model("pictures", run, engine="auto", on_batch=lambda name, count: None)
    pixels = model.run.preprocessing(photo)
    before = model.queue.submit(pixels).result(30)
    assert model.queue._lock.acquire()  # another thread of the parent holds it at this moment
    try:
        found = in_child(lambda: model.queue.submit(pixels).result(30))
    finally:
        model.queue._lock.release()
    np.testing.assert_allclose(found[1], before[1], atol=1e-5)
    model.queue.close()


def test_a_picture_that_was_opened_in_the_parent_is_read_in_the_child(run: Path, photo: Path) -> None:
    opened = load(run)
    image = np.asarray(Image.open(photo).convert("RGB"))
    assert in_child(lambda: opened.predict([image]).labels) == opened.predict([image]).labels
