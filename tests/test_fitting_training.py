"""`fit` with a fine-tuning: what is written down, what the run predicts, and where a training is kept while it lasts."""

from __future__ import annotations

import json
import pickle
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from headstart import FineTuning, FitResult, FitSettings, fit, load
from headstart.backbones import load_backbone
from headstart.data import Dataset, dataset_from_arrays, read_dataset
from headstart.errors import DataError, Interrupted, ParameterError, RunError
from headstart.explanation import HeatMaps
from headstart.features import BackboneExtractor
from headstart.features.table import FeatureTable, groups_of
from headstart.files import cache_folder
from headstart.metrics import paired_difference
from headstart.metrics.differences import Difference
from headstart.modalities.image.augment import Augmentation
from headstart.pipeline import augmentation_sheet, settings_to_resume
from headstart.pipeline.resuming import check_resumable, checkpoints_of, resumable_or_removed
from headstart.progress import Listener
from headstart.selection.mean import MeanHead
from headstart.training.checkpoint import CheckpointFolder
from headstart.training.job import Processes, Resumable

PLAN = FineTuning(unfreeze=2, epochs=2, batch_size=16, image_size=32, lr=1e-4, validation_share=0.25, ship="trained")
SETTINGS = FitSettings(head="centroid", engine="onnxruntime", fine_tuning=PLAN)


# From data to run


class Largest(Listener):
    """Notes the largest total of every stage."""

    totals: ClassVar[dict[str, int]] = {}

    def stage(self, name: str) -> None:
        self.name = name

    def progress(self, done: int, total: int) -> None:
        self.totals[self.name] = max(total, self.totals.get(self.name, 0))


@pytest.fixture(scope="module")
def fitted(pictures: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    pytest.importorskip("timm", reason="needs headstart[torch]")
    run = tmp_path_factory.mktemp("training") / "run"
    settings = replace(SETTINGS, folds=2, cache=cache)
    result = fit(pictures, out=run, settings=settings, listener=Largest(), command="headstart fit pictures --strategy partial")
    assert [path.name for path in run.parent.iterdir()] == ["run"]  # and no RUN.training
    return result


@pytest.fixture(scope="module")
def run(fitted: FitResult) -> Path:
    assert fitted.run is not None
    return fitted.run


@pytest.mark.torch
def test_the_run_says_what_was_tested(fitted: FitResult, run: Path) -> None:
    test = fitted.dataset.take(fitted.dataset.part("test"))
    loaded = load(run, engine="onnxruntime")
    np.testing.assert_allclose(loaded.predict(test.inputs).probabilities, fitted.test.outcome.probabilities, atol=1e-5)
    np.testing.assert_allclose(fitted.classifier.predict_proba(test.inputs), fitted.test.outcome.probabilities, atol=1e-6)
    named = np.array(loaded.classes)[fitted.classifier.predict(test.inputs)]
    assert tuple(named.tolist()) == loaded.predict(test.inputs).labels
    assert loaded.metrics["test_accuracy"] == fitted.test.accuracy >= 0.75
    assert fitted.cross_validation is not None
    assert fitted.cross_validation.images == 48
    assert fitted.cross_validation.accuracy > 0.7
    extracted = [Largest.totals[f"fold {fold} of 2: Extracting features of the trained network"] for fold in (1, 2)]
    assert extracted == [24, 24]  # the images that the fold tests, and no others


@pytest.mark.torch
def test_the_manifest_tells_of_the_training(fitted: FitResult, run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    tuned = fitted.classifier.fine_tuned_
    assert tuned is not None
    training = manifest["story"]["training"]
    assert FineTuning.from_dict(training["plan"]) == PLAN
    assert training["augmentation"] == Augmentation.parse("flip=0.5,crop=0.7").id
    assert training["trained"] == ["stage7", "last"]
    assert training["frozen"] == ["stem", *(f"stage{number}" for number in range(1, 7))]
    assert type(tuned.history).from_dict(training["history"]) == tuned.history
    assert len(tuned.history.epochs) == 2
    assert training["facts"] == list(tuned.facts)
    assert any("are bit-identical after training (SHA-256 " in fact for fact in training["facts"])
    assert manifest["provenance"]["settings"]["fine_tuning"] == PLAN.to_dict()
    assert manifest["backbone"]["weights_source"].endswith(", fine-tuned (stage7, last)")

    assert fitted.probe is not None
    probe, part = fitted.probe, fitted.dataset.part("test")
    targets = fitted.dataset.targets.array[part]
    before = probe.test.outcome.predicted == targets
    after = fitted.test.outcome.predicted == targets
    assert probe.gain == Difference.of_accuracy(paired_difference(after, before))
    assert training["probe"]["gain"] == probe.gain.value == pytest.approx(fitted.test.accuracy - probe.test.accuracy)
    assert training["probe"]["accuracy"] == before.mean()
    assert training["probe"]["roc_auc_gain"] == pytest.approx(fitted.test.scores["roc_auc"] - probe.test.scores["roc_auc"])


@pytest.mark.torch
def test_report_and_card_tell_of_the_training(fitted: FitResult, run: Path) -> None:
    assert (run / "training_curves.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "report.html").read_text("utf-8")
    for text in ("Training", "<svg", "are bit-identical after training", "The head on the frozen backbone (centroid on", "McNemar p ="):
        assert text in page, text
    assert re.search(r"2 epochs|epoch \d of 2", (run / "MODEL_CARD.md").read_text("utf-8"))


@pytest.mark.torch
def test_a_head_alone_from_the_beginning(tmp_path: Path, pictures: Path) -> None:
    """No closed form anywhere, no validation images: the test images are watched, and nothing is chosen on them. Two labels an image."""
    pytest.importorskip("timm", reason="needs headstart[torch]")
    labels = {"rings": "round;dark", "stripes": "dark", "checks": ""}
    rows = ["path,label", *(f"{path},{labels[path.parent.name]}" for path in sorted(pictures.glob("*/*.png")))]
    (tmp_path / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    plan = FineTuning(
        strategy="probe", start="random", head_layers=(16,), dropout=0.2, epochs=6, batch_size=8, image_size=64, lr=3e-3,
        validation_share=0, keep="last", augment="none",
    )  # fmt: skip
    result = fit(
        tmp_path / "list.csv", out=tmp_path / "run", settings=FitSettings(fine_tuning=plan, class_weight="balanced", engine="onnxruntime")
    )
    assert result.probe is None
    assert result.classifier.fine_tuned_ is not None
    assert result.classifier.fine_tuned_.history.watched == "test"
    assert result.head == "dense 16 head on the frozen backbone"
    assert result.test.accuracy > 0.6
    loaded = load(tmp_path / "run", engine="onnxruntime")
    assert loaded.link.independent
    images = result.dataset.take(result.dataset.part("test")).inputs
    np.testing.assert_allclose(loaded.predict(images).probabilities, result.test.outcome.probabilities, atol=1e-5)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))["story"]["training"]["probe"] is None


@pytest.mark.torch
def test_interrupted_after_the_training_it_need_not_be_trained_again(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm", reason="needs headstart[torch]")
    from headstart.training.loop import Training
    from headstart.training.tuning import FineTuned

    settings = replace(SETTINGS, fine_tuning=FineTuning(strategy="probe", start="random", steps=2, image_size=32))
    with monkeypatch.context() as patch:
        patch.setattr(FineTuned, "features", _interrupt)
        with pytest.raises(Interrupted) as caught:
            fit(pictures, out=tmp_path / "run", settings=settings, command="the first")
    said = f"Interrupted. The state of the training is saved. To resume: headstart fit {pictures} --resume {tmp_path / 'run'}"
    assert str(caught.value) == said
    assert settings_to_resume(tmp_path / "run") == (settings, str(pictures))
    monkeypatch.setattr(Training, "step", lambda *_: pytest.fail("a step was done again"))
    fit(pictures, out=tmp_path / "run", settings=settings, resume=True, command="the second")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))["provenance"]["command"] == "the first"


# What is shipped


def _fit_that_ships(
    name: str, patch: pytest.MonkeyPatch, data: Path, out: Path, plan: FineTuning, settings: FitSettings = SETTINGS, **more: Any
) -> FitResult:
    """A fit whose validation images are said to prefer this model."""
    pytest.importorskip("timm", reason="needs headstart[torch]")
    from headstart.tasks.classification import fine_tuning

    with patch.context() as inner:
        inner.setattr(fine_tuning, "best_of", lambda found: found[name])
        return fit(data, out=out, settings=replace(settings, fine_tuning=plan), **more)


@pytest.mark.torch
def test_the_mean_of_both_is_one_model(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(PLAN, image_size=None, epochs=1, lr=1e-3, ship="auto", augment="none", keep="last")
    small = replace(SETTINGS, backbone="lite0@96")
    result = _fit_that_ships("mean", monkeypatch, pictures, tmp_path / "run", plan, small)
    backbone, head = result.learned.prepared.extractor.backbone, result.choice.estimator
    assert isinstance(head, MeanHead)
    test = result.dataset.take(result.dataset.part("test"))
    run = load(tmp_path / "run", engine="onnxruntime")
    np.testing.assert_allclose(run.predict(test.inputs).probabilities, result.test.outcome.probabilities, atol=1e-5)
    frozen = BackboneExtractor(load_backbone("lite0@96", cache=cache_folder()), engine="onnxruntime")(test.inputs).values
    assert result.learned.probe is not None
    np.testing.assert_allclose(result.learned.probe.estimator.logits(frozen), head.heads[0].logits(frozen), atol=1e-9)
    assert backbone.dim == 2 * frozen.shape[1]
    copied = pickle.loads(pickle.dumps(result.classifier))
    np.testing.assert_allclose(copied.predict_proba(test.inputs), result.test.outcome.probabilities, atol=1e-6)
    training = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))["story"]["training"]
    assert training["shipped"] == training["probe"]["shipped"] == "mean"
    assert "Then trained on all 48 training images for 1 epoch." in training["history"]["stopped"]
    chosen, other = result.choice.evidence[:2]
    assert (chosen.chosen, chosen.head) == (True, "mean of centroid and linear head")
    assert chosen.view == "the frozen backbone and stage7, last trained"
    assert (other.chosen, chosen.images) == (False, 12)
    assert result.probe is not None
    assert "The mean with the fine-tuned model changed the accuracy by" in result.probe.summary()
    preprocessing = run.manifest.preprocessing  # heat maps by its stages are refused where the poolings are not found
    HeatMaps(run.path / "model.onnx", preprocessing=preprocessing, classes=run.classes, method="cells", engine="onnxruntime")


@pytest.mark.torch
@pytest.mark.parametrize("ruined", [True, False])
def test_a_training_that_does_not_pay_leaves_the_probe(
    ruined: bool, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ruined by a rate that is far too high; and where it went well, but validation images prefer the probe."""
    plan = replace(PLAN, ship="auto", **({"lr": 0.3, "clip": 0} if ruined else {"keep": "last"}))
    result = _fit_that_ships("probe", monkeypatch, pictures, tmp_path / "run", plan)
    plain = fit(pictures, settings=replace(SETTINGS, fine_tuning=None))
    np.testing.assert_array_equal(result.test.outcome.probabilities, plain.test.outcome.probabilities)
    np.testing.assert_array_equal(result.choice.out_of_sample, plain.choice.out_of_sample)
    assert "the training was asked for, and did not pay" in result.choice.reason
    assert ("no epoch was better than the first head" in result.choice.reason) == ruined
    assert result.probe is not None
    assert result.probe.summary().endswith("Fine-tuning changed nothing: the head on the frozen backbone is the model")
    assert result.judged.learning_curve is not None
    assert result.choice.evidence[0].head == "centroid"
    assert result.classifier.fine_tuned_ is not None
    assert result.classifier.fine_tuned_.shipped == "probe"
    assert "The head on the frozen backbone is kept." in (tmp_path / "run" / "report.html").read_text("utf-8")
    images = result.dataset.inputs[:3]
    copied = pickle.loads(pickle.dumps(result.classifier))
    np.testing.assert_array_equal(copied.predict_proba(images), plain.classifier.predict_proba(images))


@pytest.mark.slow
@pytest.mark.torch
def test_interrupted_while_it_is_trained_again(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as without the interruption; and the first training is not done again."""
    from headstart.training.loop import Training

    plan, usual, steps = replace(PLAN, ship="auto", teacher=0.3, epochs=1, keep="last"), Training.step, 0
    _fit_that_ships("trained", monkeypatch, pictures, tmp_path / "whole", plan)

    def step(self: Training, batch: Any) -> str | None:
        nonlocal steps
        steps += 1
        if steps == 5:  # the second of the second training: there are three batches of 16 in 36 images, and in 48
            signal.raise_signal(signal.SIGINT)
        return usual(self, batch)

    monkeypatch.setattr(Training, "step", step)
    with pytest.raises(Interrupted):
        _fit_that_ships("trained", monkeypatch, pictures, tmp_path / "run", plan)
    _fit_that_ships("trained", monkeypatch, pictures, tmp_path / "run", plan, resume=True)
    assert steps == 6
    for name in ("model.onnx", "head.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


# Where a training is kept


def _begun(run: Path, settings: FitSettings, dataset: Dataset, digests: Sequence[bytes] = (b"1", b"2"), **more: Any) -> Resumable:
    check_resumable(run, settings, resume=more.get("resume", False))
    return checkpoints_of(run, settings, table_of(dataset, digests), processes=Processes(), **{"resume": False, **more})


def table_of(dataset: Dataset, digests: Sequence[bytes] = (b"1", b"2")) -> FeatureTable:
    """Inputs without features."""
    return FeatureTable(
        dataset=dataset, rows=np.arange(len(dataset)), values=np.zeros((len(dataset), 0), np.float32), digests=tuple(digests),
        groups=groups_of(dataset, digests), layers=(),
    )  # fmt: skip


@pytest.fixture
def dataset() -> Dataset:
    return dataset_from_arrays(np.zeros((2, 8, 8, 3), np.uint8), ["a", "b"])


def test_only_a_training_is_kept(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(ParameterError, match=r"Only a fine-tuning can be resumed \(--strategy partial or full\)"):
        check_resumable(tmp_path / "run", FitSettings(), resume=True)
    with pytest.raises(ParameterError, match="To resume a training, give the run that it was to become"):
        check_resumable(None, SETTINGS, resume=True)
    assert _begun(tmp_path / "run", FitSettings(), dataset) == Resumable()
    check_resumable(None, SETTINGS, resume=False)
    assert checkpoints_of(None, SETTINGS, table_of(dataset), processes=Processes(), resume=False) == Resumable()
    assert list(tmp_path.iterdir()) == []


def test_what_may_be_resumed(tmp_path: Path, dataset: Dataset) -> None:
    run, other = tmp_path / "run", replace(SETTINGS, seed=1)
    with pytest.raises(RunError, match="there is no interrupted training to resume"):
        check_resumable(run, SETTINGS, resume=True)
    kept = _begun(run, SETTINGS, dataset)
    assert kept.checkpoints is not None
    assert kept.checkpoints.path == tmp_path / "run.training"
    _begun(run, other, dataset)  # without a checkpoint nothing is lost
    _begun(run, SETTINGS, dataset)
    (tmp_path / "run.training" / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(
        ParameterError, match=r"run\.training holds the state of a training that was interrupted\. .* --resume .*run\. To beg"
    ):
        check_resumable(run, SETTINGS, resume=False)
    assert _begun(run, SETTINGS, dataset, resume=True).resume
    for settings, message in (
        (other, "begun with seed 0 and cannot be resumed with 1"),
        (replace(SETTINGS, fine_tuning=replace(PLAN, epochs=3)), "begun with epochs 2 and cannot be resumed with 3"),
        (replace(SETTINGS, head="ridge"), "begun with head 'centroid' and cannot be resumed with 'ridge'"),
    ):
        with pytest.raises(ParameterError, match=message):
            check_resumable(run, settings, resume=True)
    for changed, digests in (
        (dataset, (b"1", b"3")),
        (replace(dataset, targets=dataset.targets.take(np.arange(len(dataset))[::-1])), (b"1", b"2")),
        (replace(dataset, parts=np.array(["train", "test"])), (b"1", b"2")),
        (replace(dataset, targets=replace(dataset.targets, classes=("a", "c"))), (b"1", b"2")),
    ):
        with pytest.raises(DataError, match=r"The images or labels have changed since the training of .*run was begun"):
            _begun(run, SETTINGS, changed, digests, resume=True)


def test_an_augmentation_in_a_file_must_stay_as_it_was(tmp_path: Path, dataset: Dataset) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("flip = 0.5\n")
    settings = replace(SETTINGS, fine_tuning=replace(PLAN, augment=str(path)))
    _begun(tmp_path / "run", settings, dataset)
    assert settings_to_resume(tmp_path / "run")[0] == settings
    path.write_text("flip = 0.1\n")
    with pytest.raises(ParameterError, match=r"begun with augmentation 'flip=0\.5.*' and cannot be resumed with 'flip=0\.1"):
        check_resumable(tmp_path / "run", settings, resume=True)


def test_event_files_lie_beside_the_run(tmp_path: Path, dataset: Dataset) -> None:
    logged = _begun(tmp_path / "run", replace(SETTINGS, fine_tuning=replace(PLAN, logger="tensorboard")), dataset)
    assert logged.events == tmp_path / "run-tensorboard"


@pytest.mark.parametrize(
    ("error", "raised", "checkpoint", "left"),
    [
        (ParameterError("x"), ParameterError, False, False),
        (ParameterError("x"), ParameterError, True, True),
        (ZeroDivisionError(), ZeroDivisionError, False, False),
        (RunError("the disk is full"), RunError, False, True),
        (KeyboardInterrupt(), KeyboardInterrupt, False, False),
        (KeyboardInterrupt(), Interrupted, True, True),
        (Interrupted("x"), Interrupted, True, True),
    ],
)
def test_what_is_left_after_a_failure(
    tmp_path: Path, dataset: Dataset, error: BaseException, raised: type[BaseException], checkpoint: bool, left: bool
) -> None:
    resumable = _begun(tmp_path / "run", SETTINGS, dataset)
    folder = CheckpointFolder.beside(tmp_path / "run").path
    if checkpoint:
        (folder / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(BaseException) as caught, resumable_or_removed(resumable, command="do this"):
        raise error
    assert type(caught.value) is raised
    assert folder.exists() is left
    if raised is Interrupted:
        assert str(caught.value) == "Interrupted. The state of the training is saved. To resume: do this"


def test_only_the_process_that_leads_writes_and_removes(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "barrier", lambda self: None)
    other = checkpoints_of(tmp_path / "run", SETTINGS, table_of(dataset, (b"1", b"2")), processes=Processes(1, 2, 1), resume=False)
    assert list(tmp_path.iterdir()) == []
    _begun(tmp_path / "run", SETTINGS, dataset)
    with pytest.raises(ParameterError), resumable_or_removed(other, command=""):
        raise ParameterError
    assert (tmp_path / "run.training").exists()


def test_the_sheet_shows_training_images_only(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import headstart.pipeline.sheet as module

    shown: list[Any] = []
    monkeypatch.setattr(module, "sheet", lambda images, *_, **more: shown.append((images, more)))
    dataset = read_dataset(pictures)
    parts = np.where(np.arange(len(dataset)) % 2, "test", "train")
    augmentation_sheet(replace(dataset, parts=parts), FitSettings(seed=3, fit_image="squash"), augment="standard", size=64)
    images, more = shown[0]
    assert len(images) == 6
    assert set(images) <= {image for image, part in zip(dataset.inputs, parts, strict=True) if part == "train"}
    assert (more["preprocessing"].size, more["preprocessing"].fit, more["seed"]) == (64, "squash", 3)


@pytest.mark.torch
def test_nothing_is_trained_where_the_probe_can_not_be_beaten(
    pictures: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    pytest.importorskip("timm", reason="needs headstart[torch]")
    monkeypatch.setattr("headstart.selection.tried.ENOUGH", 10)
    plan = replace(PLAN, ship="auto", image_size=None)
    fit(pictures, out=tmp_path / "probe", settings=replace(SETTINGS, cache=cache, fine_tuning=None), listener=Listener())
    fit(pictures, out=tmp_path / "run", settings=replace(SETTINGS, cache=cache, fine_tuning=plan), listener=Listener())
    training = load(tmp_path / "run").record.training
    assert training is not None
    assert (training.shipped, training.trained) == ("probe", ("stage7", "last"))
    assert not training.history.epochs
    assert re.fullmatch(
        r"Nothing was trained: the head on the frozen backbone is wrong about (none|1|2) of 12 validation images\. "
        r"The head on the frozen backbone is kept\.",
        training.history.stopped,
    )
    first, second = (load(tmp_path / name, engine="onnxruntime").test_evaluation() for name in ("probe", "run"))
    assert first.scores == second.scores
