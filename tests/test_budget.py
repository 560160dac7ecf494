"""`fit --budget`: which backbone, by out-of-sample scores of training images, within a time."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart import FitResult, FitSettings
from headstart.backbones import find
from headstart.backbones.composed import Specification
from headstart.errors import MissingExtraError, ParameterError
from headstart.features.prepared import ExtractorSettings, prepare
from headstart.heads.labels import encode
from headstart.pipeline import forecast, further, searching
from headstart.progress import Listener
from headstart.selection import Tried, tried
from headstart.selection.proposals import Proposal, first_size, proposals
from headstart.selection.tried import Advantage, OutOfSample, needed
from headstart.settings import FineTuning
from headstart.tasks.classification import fine_tuning, learning

OTHERS = ("lite2", "lite1")
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
        monkeypatch.setattr(searching.Searching, "_candidates", lambda self: (Proposal(name, 0.5) for name in names))

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
    assert all(row.images == len(run.reference["targets"]) and row.milliseconds > 0 for row in tried)
    assert run.record.evidence[0].accuracy == chosen.accuracy
    assert f"{chosen.backbone}; the best of 3 tried ones" in done.out
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
    monkeypatch.setattr(searching, "FEW", 15)
    monkeypatch.setattr(searching, "_SMALL_SHARE", 0.0)
    spoil(monkeypatch, "lite1")
    result = fitted(pictures, 300.0)
    assert [row.outcome for row in result.tried] == ["chosen", "dropped", "dropped"]
    assert all(0 < row.images <= 24 and "points" in row.reason and "lite0@64 on these images" in row.reason for row in result.tried[1:])


def spoil(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Backbones with this in their names say something else than they would."""
    learn = searching.Searching._learn

    def worse(self: Any, prepared: Any, *rest: Any) -> Any:
        learned = learn(self, prepared, *rest)
        if part in prepared.settings.backbone:
            learned = replace(learned, choice=replace(learned.choice, out_of_sample=-learned.choice.out_of_sample))
        return learned

    monkeypatch.setattr(searching.Searching, "_learn", worse)


def test_a_search_ends_where_nothing_could_be_shown_to_be_better(
    pictures: Path, candidates: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    result = fitted(pictures, 300.0)
    wrong = round(result.tried[0].images * (1 - result.tried[0].accuracy))
    monkeypatch.setattr(tried, "ENOUGH", result.tried[0].images)
    for most, found in ((wrong, 1), (wrong - 1, 3)):
        monkeypatch.setattr(tried, "UNBEATABLE", most)
        assert len(fitted(pictures, 300.0).tried) == found


def test_what_is_worse_is_not_taken(pictures: Path, candidates: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, "lite1")
    result = fitted(pictures, 300.0)
    assert [row.outcome for row in result.tried] == ["chosen", "tried", "tried"]
    assert all(row.reason.startswith("-") and row.reason.endswith("against lite0@64") for row in result.tried[1:])


def test_an_extraction_that_turns_out_too_slow_is_stopped_and_what_it_computed_is_stored(
    pictures: Path, tmp_path: Path, candidates: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "_KNOWN_AFTER", 4)
    clock, call = [0.0], forecast._Watched.__call__

    def slow(self: Any, done: int, total: int) -> None:
        clock[0] += 1e4 * (self._prepared.settings.backbone != "lite0@64")
        call(self, done, total)

    monkeypatch.setattr(forecast._Watched, "__call__", slow)
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: time.monotonic() + clock[0])
    candidates("lite1@48")
    result = fitted(pictures, 20_000.0, cache=tmp_path / "cache")
    assert [row.outcome for row in result.tried] == ["chosen", "skipped"]
    assert "stopped after" in result.tried[1].reason
    prepared = prepare(ExtractorSettings("lite1@48", None, None, "auto", str(tmp_path / "cache")))
    with prepared.store() as store:
        assert store is not None
        left = len(store.missing(prepared.extractor.id, result.table.digests))
    assert len(result.table.test) < left < len(result.table), "some are there, and none of the test images"


def test_an_interrupted_search_keeps_the_best_so_far(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any) -> Iterator[Proposal]:
        yield Proposal("lite1@48", 1.0)
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


def test_candidates_come_by_what_they_promise_for_their_time(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(searching.Searching, "_consider", lambda self, name, **_: names.append(name))
    monkeypatch.setattr(searching, "train_further", lambda self, name: None)
    result = fitted(pictures, 300.0)
    assert names[0] == "lite0@64+lite2", "its first half is stored"
    assert set(names) == {one.backbone for one in proposals(Specification(("lite0",), 64), OTHERS, size=64, usual=64, side=96)}
    assert len(names) == len(set(names))
    assert result.learned.prepared.settings.backbone == "lite0@64"


def test_proposals_go_on_from_the_best() -> None:
    sizes = {"size": 224, "usual": 224, "side": 300}
    names = [one.backbone for one in proposals(Specification(("lite0", "lite2"), 224), OTHERS, **sizes)]
    assert names[0] == "lite0@224+lite2+lite1"
    assert not any("@192" in name for name in names)
    assert {"lite0@260+lite2", "lite0@224+lite2+mirrored", "lite1@224"} <= set(names)
    assert not any("@320" in name for name in names), "no image has that many pixels"
    mirrored = [one.backbone for one in proposals(Specification(("lite0",), mirrored=True), OTHERS, **sizes)]
    assert "lite0@260+mirrored" in mirrored
    assert not any("mirrored+mirrored" in name for name in mirrored)
    small = [one.backbone for one in proposals(Specification(("lite0",), 128), OTHERS, size=128, usual=224, side=32)]
    assert {"lite0@128+lite2", "lite0@192", "lite0@224"} <= set(small)
    assert not any("@260" in name for name in small)
    for name in (*names, *mirrored, *small):
        find(name)


@pytest.mark.parametrize(("side", "size"), [(8, 128), (32, 128), (40, 160), (56, 224), (500, 224)])
def test_small_images_begin_small(side: int, size: int) -> None:
    assert first_size(side, 224) == size


def test_a_search_on_small_images_begins_at_a_small_size_unless_one_was_asked_for(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for number in range(12):
            noise = np.random.default_rng(number).integers(0, 255, (20, 34, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / kind / f"{number}.png")
    dataset = headstart.read_dataset(tmp_path)

    def first(backbone: str) -> str:
        return searching.first_settings(dataset, FitSettings(backbone=backbone, budget=60.0)).backbone

    assert first("lite0") == "lite0@128"
    assert first("lite0+lite2") == "lite0@128+lite2"
    assert first("lite0@224") == "lite0@224"
    assert first("resnet50") == "resnet50", "a network whose size may be fixed"


def trained(monkeypatch: pytest.MonkeyPatch, *, shipped: str) -> None:
    """The only candidate is the training of the first backbone, and this comes of it."""
    one = Proposal("lite0@64", 1.0, "partial")
    monkeypatch.setattr(searching.Searching, "_candidates", lambda self: iter([one]))
    monkeypatch.setattr(further, "MOST_EPOCHS", 2)
    monkeypatch.setattr(fine_tuning, "best_of", lambda found: found.get(shipped, found["probe"]))


@pytest.mark.slow
def test_a_training_that_pays_is_chosen_and_written_as_one(
    pictures: Path, tmp_path: Path, candidates: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    frozen = Proposal("lite0@64+lite1", 1.0), Proposal("lite0@64", 1.0, "partial")
    trained(monkeypatch, shipped="mean")
    monkeypatch.setattr(searching.Searching, "_candidates", lambda self: iter(frozen))
    from headstart.training import tuning

    monkeypatch.setattr(tuning.Trained, "learned", True)
    monkeypatch.setattr(searching.Searching, "compared", lambda *_: (Advantage(0.1, 0.01, 5.0), -5.0))
    settings = FitSettings(backbone="lite0@64", budget=300.0, cache=tmp_path / "cache")
    result = headstart.fit(pictures, out=tmp_path / "run", settings=settings)
    assert [(row.backbone, row.strategy, row.outcome) for row in result.tried] == [
        ("lite0@64", "probe", "tried"), ("lite0@64+lite1", "probe", "tried"), ("lite0@64", "partial", "chosen"),
    ]  # fmt: skip
    assert "the mean of both: +10.0 points" in result.tried[-1].reason
    assert result.tried[-1].images < len(result.table.train), "scored on what the training held out"
    run = headstart.load(tmp_path / "run")
    assert run.record.training is not None
    assert run.record.training.shipped == "mean"
    assert run.record.tried == result.tried
    again = run.predict([result.dataset.inputs[row] for row in result.table.test])
    np.testing.assert_allclose(again.outputs["logits"], result.tested["logits"], atol=2e-3)


def test_a_training_that_does_not_pay_leaves_the_best_frozen_backbone(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    trained(monkeypatch, shipped="probe")
    result = fitted(pictures, 300.0)
    assert [(row.strategy, row.outcome) for row in result.tried] == [("probe", "chosen"), ("partial", "tried")]
    assert "did not pay" in result.tried[-1].reason
    assert result.learned.fine_tuned is None


def test_no_training_where_it_does_not_fit_or_torch_is_missing(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(monkeypatch, shipped="trained")
    result = fitted(pictures, 0.01)
    assert result.tried[-1].outcome == "skipped"
    assert "it would take" in result.tried[-1].reason

    def missing(what: str) -> None:
        raise MissingExtraError(what, extra="torch")

    monkeypatch.setattr(learning.timm_models, "require", missing)
    result = fitted(pictures, 300.0)
    assert "Fine-tuning needs" in result.tried[-1].reason
    assert "headstart[torch]" in result.tried[-1].sentence()


def test_a_budget_and_a_training_exclude_each_other() -> None:
    with pytest.raises(ParameterError, match="cannot be combined with a training"):
        FitSettings(budget=60.0, fine_tuning=FineTuning())


@pytest.mark.parametrize("typed", ["0m", "ten", "-1", "5 d", ""])
def test_what_is_no_time(cli: Callable[..., SimpleNamespace], pictures: Path, typed: str) -> None:
    refused = cli("fit", pictures, "--budget", typed)
    assert refused.code == 2
    assert "--budget must be a time such as 90s, 10m or 1h" in refused.err


def test_the_sentences_of_what_was_tried() -> None:
    row = Tried(backbone="a", outcome="tried", images=100, accuracy=0.92, accuracy_error=0.02, log_loss=0.25, reason="+1.0 points")
    assert row.sentence() == "a: 92.0 % (± 2.0) out of sample on 100 images, 0 ms; +1.0 points"
    assert Tried(backbone="d", outcome="skipped", reason="no time").sentence() == "d: skipped; no time"


def test_the_advantage_is_paired_and_counts_in_standard_errors() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000)
    targets = encode(labels)
    signs = np.where(labels[:, None] == np.arange(2), 1.0, -1.0)
    easy = rng.normal(size=(4000, 1))
    weak, strong = (OutOfSample(signs * (easy + shift), targets) for shift in (0.5, 0.6))
    found = Advantage.of(strong, weak)
    moved = strong.correct - weak.correct
    assert found.accuracy == pytest.approx(moved.mean())
    assert found.accuracy_error == pytest.approx(moved.std() / np.sqrt(4000))
    assert found.evidence > 3
    assert Advantage.of(weak, strong).evidence == pytest.approx(-found.evidence)
    assert Advantage.of(weak, weak).evidence == 0
    chance = [Advantage.of(*(OutOfSample(signs * (easy + rng.normal(size=easy.shape)), targets) for _ in range(2))) for _ in range(100)]
    assert np.mean([one.evidence > 1 for one in chance]) < 0.3


def test_networks_added_need_no_evidence_and_everything_else_a_standard_error() -> None:
    assert needed("lite0+lite2@224", "lite0") == 0
    assert needed("lite0+lite1+lite2", "lite0+lite2") == 0
    assert needed("lite0+mirrored", "lite0") == needed("lite0", "lite0+lite2") == needed("lite0@320+lite2", "lite0+lite2") == 1
