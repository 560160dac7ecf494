"""`fit --budget`: which backbone, by out-of-sample scores of training images, within a time."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import headstart
from headstart import FitResult, FitSettings
from headstart.errors import ParameterError
from headstart.features.prepared import ExtractorSettings, prepare
from headstart.pipeline import searching
from headstart.progress import Listener
from headstart.selection import Tried, best_of
from headstart.settings import FineTuning

NAMES = ("lite1@48", "lite0+lite1@64")


class Heard(Listener):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def fixed(*names: str) -> None:
        monkeypatch.setattr(searching.Searching, "_candidates", lambda self: iter(names))

    fixed(*NAMES)
    return fixed


def fitted(data: Path, budget: float, *, listener: Listener | None = None, **settings: Any) -> FitResult:
    asked = FitSettings(backbone="lite0@64", budget=budget, **settings)
    return headstart.fit(data, settings=asked, listener=listener)


def test_the_best_out_of_sample_is_chosen_and_the_run_says_what_was_tried(
    cli: Callable[..., SimpleNamespace], pictures: Path, tmp_path: Path, candidates: Callable[..., None]
) -> None:
    done = cli("fit", pictures, "--backbone", "lite0@64", "--budget", "5m", "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert done.code == 0, done.err
    run = headstart.load(tmp_path / "run")
    tried = run.record.tried
    assert [row.backbone for row in tried] == ["lite0@64", *NAMES]
    (chosen,) = [row for row in tried if row.outcome == "chosen"]
    assert chosen.backbone == best_of(tried).backbone
    assert all(row.images == len(run.reference["targets"]) and row.milliseconds > 0 for row in tried)
    assert run.record.evidence[0].accuracy == chosen.accuracy
    assert f"{chosen.backbone}, the best of 3 tried ones" in done.out
    for row in tried[1:]:
        assert (untouched(run, row.backbone, tmp_path / "cache") == 0) == (row.outcome == "chosen"), "test images are for the chosen one"
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in NAMES)


def untouched(run: headstart.Run, backbone: str, cache: Path) -> int:
    """How many test images have no features by this backbone."""
    prepared = prepare(ExtractorSettings(backbone, None, None, "auto", str(cache)))
    with prepared.store() as store:
        assert store is not None
        return len(store.missing(prepared.extractor.parts[-1].id, [row.tobytes() for row in run.tested["digests"]]))


def test_what_takes_too_long_is_skipped_with_its_time(pictures: Path, candidates: Callable[..., None]) -> None:
    result = fitted(pictures, 0.01)
    assert [row.outcome for row in result.tried] == ["chosen", "skipped", "skipped"]
    assert all("it would take" in row.reason and row.images == 0 and row.seconds > 0 for row in result.tried[1:])
    assert result.learned.prepared.settings.backbone == "lite0@64"


def test_a_candidate_that_is_worse_on_few_images_is_dropped(
    pictures: Path, candidates: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "FEW", 20)
    monkeypatch.setattr(searching, "_SMALL_SHARE", 0.0)
    learn = searching.Searching._learn

    def worse(self: Any, prepared: Any, rows: Any, stage: str, values: Any = None) -> Any:
        learned = learn(self, prepared, rows, stage, values)
        if "lite1" in prepared.settings.backbone:
            bad = [replace(row, accuracy=0.1, log_loss=9.0) for row in learned.choice.evidence]
            learned = SimpleNamespace(choice=SimpleNamespace(evidence=bad))
        return learned

    monkeypatch.setattr(searching.Searching, "_learn", worse)
    result = fitted(pictures, 300.0)
    assert [row.outcome for row in result.tried] == ["chosen", "dropped", "dropped"]
    assert all(0 < row.images <= 24 and "lite0@64 has" in row.reason for row in result.tried[1:])


def test_an_interrupted_search_keeps_the_best_so_far(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any) -> Iterator[str]:
        yield "lite1@48"
        raise KeyboardInterrupt

    monkeypatch.setattr(searching.Searching, "_candidates", interrupted)
    listener = Heard()
    result = fitted(pictures, 300.0, listener=listener)
    assert {row.backbone for row in result.tried} == {"lite0@64", "lite1@48"}
    assert "Continuing with the best backbone so far" in listener.warnings[0]


def test_a_search_that_has_nothing_yet_is_interrupted_as_a_whole(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(searching.Searching, "_score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(pictures, 300.0)


def test_a_backbone_that_cannot_be_loaded_is_skipped_with_the_reason(pictures: Path, candidates: Callable[..., None]) -> None:
    candidates("lite0@64+lite0", "lite1@48")
    result = fitted(pictures, 300.0)
    assert "the same network twice" in result.tried[1].reason
    assert len(result.tried) == 3


def test_candidates_begin_with_what_most_often_helps(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(searching.Searching, "_consider", lambda self, name: names.append(name))
    fitted(pictures, 0.01)
    assert names == ["lite0+lite2", "lite2", "lite1", "lite0@320", "lite0@64+mirrored", "lite0@320+mirrored"]


def test_a_budget_and_a_training_exclude_each_other() -> None:
    with pytest.raises(ParameterError, match="cannot be combined with a training"):
        FitSettings(budget=60.0, fine_tuning=FineTuning())


@pytest.mark.parametrize("typed", ["0m", "ten", "-1", "5 d", ""])
def test_what_is_no_time(cli: Callable[..., SimpleNamespace], pictures: Path, typed: str) -> None:
    refused = cli("fit", pictures, "--budget", typed)
    assert refused.code == 2
    assert "--budget must be a time such as 90s, 10m or 1h" in refused.err


def test_the_best_is_best_among_those_scored_on_most_images() -> None:
    rows = [
        Tried(backbone="a", outcome="tried", images=100, accuracy=0.9, log_loss=0.3),
        Tried(backbone="b", outcome="tried", images=100, accuracy=0.92, log_loss=0.25),
        Tried(backbone="c", outcome="dropped", images=10, accuracy=1.0, log_loss=0.01),
        Tried(backbone="d", outcome="skipped", reason="no time"),
    ]
    assert best_of(rows).backbone == "b"
    close = Tried(backbone="a+b", outcome="tried", images=100, accuracy=0.915, log_loss=0.26)
    assert best_of([*rows, close]).backbone == "b", "behind by more than the error, which is not known"
    rows[1] = replace(rows[1], accuracy_error=0.02)
    assert best_of([*rows, close]).backbone == "a+b"
    assert best_of([*rows, replace(close, backbone="a+mirrored")]).backbone == "b", "one network, twice"
    assert best_of([*rows, replace(close, log_loss=0.27)]).backbone == "b"
    assert rows[3].sentence() == "d: skipped; no time"
    assert "out of sample on 100 images" in rows[1].sentence()
