"""Gathering images of many requests, and runs that change while they are served."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import ParameterError, RunError
from headstart.serve.models import Models
from headstart.serve.refusals import Refusal
from headstart.serve.threads import MAX_BATCH, BatchingQueue


class Engine:
    """Gives the first pixel of each image back. Waits before the first image of a batch while `held`; fails on a 255."""

    name = "test"

    def __init__(self) -> None:
        self.held, self.begun = threading.Event(), threading.Event()
        self.held.set()

    def run(self, images: Iterable[np.ndarray]) -> Iterator[Any]:
        for image in images:
            self.begun.set()
            self.held.wait(10)
            if image[0, 0, 0] == 255:
                raise ValueError("broken")
            yield (image[0, 0].astype(np.float32),)


@pytest.fixture
def engine() -> Engine:
    return Engine()


def image(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


def test_each_gets_the_result_of_its_own_image(engine: Engine) -> None:
    queue = BatchingQueue(engine)
    futures = [queue.submit(image(value)) for value in range(200)]
    assert [int(future.result(10)[0][0]) for future in futures] == list(range(200))
    queue.close()


def test_what_comes_while_the_engine_computes_joins_the_batch(engine: Engine) -> None:
    batches: list[int] = []
    queue = BatchingQueue(engine, on_batch=batches.append)
    engine.held.clear()
    futures = [queue.submit(image(0))]
    assert engine.begun.wait(10)  # the first did not wait for company
    futures += [queue.submit(image(value)) for value in range(1, 6)]
    engine.held.set()
    assert [int(future.result(10)[0][0]) for future in futures] == list(range(6))
    queue.close()
    assert batches == [6]


def test_a_batch_is_not_endless(engine: Engine) -> None:
    batches: list[int] = []
    queue = BatchingQueue(engine, on_batch=batches.append)
    engine.held.clear()
    futures = [queue.submit(image(value)) for value in range(2 * MAX_BATCH + 1)]
    engine.held.set()
    for future in futures:
        future.result(10)
    queue.close()
    assert max(batches) == MAX_BATCH
    assert sum(batches) == 2 * MAX_BATCH + 1


def test_a_failure_is_told_to_those_who_wait_and_ends_nothing(engine: Engine) -> None:
    queue = BatchingQueue(engine)
    engine.held.clear()
    futures = [queue.submit(image(255)), queue.submit(image(1))]
    engine.held.set()
    with pytest.raises(ValueError, match="broken"):
        futures[0].result(10)
    assert int(queue.submit(image(7)).result(10)[0][0]) == 7
    queue.close()


def test_what_nobody_waits_for_any_more_is_not_computed(engine: Engine) -> None:
    queue = BatchingQueue(engine)
    engine.held.clear()
    first = queue.submit(image(1))
    assert engine.begun.wait(10)
    dropped, kept = queue.submit(image(255)), queue.submit(image(3))
    assert dropped.cancel()
    engine.held.set()
    assert [int(future.result(10)[0][0]) for future in (first, kept)] == [1, 3]
    with pytest.raises(CancelledError):
        dropped.result()
    queue.close()


def test_closing_finishes_what_was_handed_in(engine: Engine) -> None:
    queue = BatchingQueue(engine)
    engine.held.clear()
    futures = [queue.submit(image(value)) for value in range(5)]
    threading.Timer(0.1, engine.held.set).start()
    queue.close()
    assert [int(future.result(0)[0][0]) for future in futures] == list(range(5))
    with pytest.raises(RuntimeError):
        queue.submit(image(0))


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "served")


def rewritten(folder: Path, title: str) -> None:
    """Give the run another title, as a run that was fitted again has other contents."""
    import json

    from headstart.run.manifest import digest_of as manifest_digest

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["story"]["title"] = title
    manifest["digest"] = manifest_digest(manifest)
    other = folder / "manifest.new"
    other.write_text(json.dumps(manifest))
    other.replace(folder / "manifest.json")


def test_a_run_that_is_written_anew_is_opened_again(folder: Path) -> None:
    models = Models([folder])
    assert models.reload_changed() == []
    rewritten(folder, "second")
    assert models.reload_changed() == ["served"]
    assert models.facts()[0]["title"] == "second"
    assert models.reload_changed() == []
    models.close()


def test_requests_under_way_keep_the_old_one(folder: Path) -> None:
    models = Models([folder])
    with models.use() as old:
        rewritten(folder, "second")
        assert models.reload_changed() == ["served"]
        size = old.run.preprocessing.size
        assert len(old.queue.submit(np.zeros((size, size, 3), np.uint8)).result(10)) == 3
        with models.use() as new:
            assert new is not old
    for _ in range(100):  # its thread ends after the last who used it
        if not old.queue._started().is_alive():
            break
        time.sleep(0.05)
    assert not old.queue._started().is_alive()
    assert new.queue._started().is_alive()
    models.close()


def test_a_damaged_run_is_not_taken_and_a_mended_one_is(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.serve.models._RETRY_SECONDS", 0)
    models = Models([folder])
    title = models.facts()[0]["title"]
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert (models.reload_changed(), models.reload_changed()) == ([], [])
    assert [record.levelname for record in caplog.records if "reload failed" in record.message] == ["WARNING"]
    with models.use() as old:
        size = old.run.preprocessing.size
        assert old.queue.submit(np.zeros((size, size, 3), np.uint8)).result(10)
    assert models.facts()[0]["title"] == title
    (folder / "model.onnx").write_bytes(whole)
    assert models.reload_changed() == ["served"]
    shutil.rmtree(folder)
    assert models.reload_changed() == []
    assert models.facts()[0]["title"] == title
    models.close()


def test_a_run_that_changes_while_it_is_opened_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.serve import models

    def changing(path: Path, *, engine: str) -> Any:
        opened = load(path, engine=engine)
        rewritten(folder, "while it was opened")
        return opened

    load = models.load
    monkeypatch.setattr(models, "load", changing)
    with pytest.raises(RunError, match="is being changed"):
        Models([folder])


def test_models_are_known_by_their_folders(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    models = Models([folder, other])
    assert models.names == ("served", "other")
    with models.use() as first, models.use("other") as second:
        assert (first.name, second.name) == ("served", "other")
    with (
        pytest.raises(Refusal, match=r"There is no model 'othr'\. Did you mean other\? Models: served, other\.") as caught,
        models.use("othr"),
    ):
        pass
    assert caught.value.status == 404
    models.close()
    with pytest.raises(ParameterError, match="Two runs are called 'other'"):
        Models([other, tmp_path / "elsewhere" / "other"])
    with pytest.raises(ParameterError, match="There is no run"):
        Models([])
