"""Training the backbone of a detector: what its targets show, what is shipped, and folds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the head is trained with PyTorch")

import headstart
from headstart.backbones.stage_maps import MapLayer
from headstart.data.boxes import boxes_of
from headstart.errors import DataError, ParameterError
from headstart.metrics.boxes import Detections
from headstart.metrics.matching import match
from headstart.metrics.proposals import THRESHOLD
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.augment import Augmentation
from headstart.pipeline import fit
from headstart.progress import Listener
from headstart.settings import FineTuning, FitSettings
from headstart.tasks.detection import learning
from headstart.tasks.detection.architectures import ARCHITECTURES
from headstart.tasks.detection.evaluation import DetectionEvaluation
from headstart.tasks.detection.fine_tuning import BoxHead
from headstart.tasks.detection.task import Detection
from headstart.training.box_targets import DrawnViews, PositionTargets
from headstart.training.boxes import BoxLoss, BoxTraining, Objective
from headstart.training.inputs import Pixels

pytest_plugins = ["boxes_run"]
pytestmark = pytest.mark.cards

PLAN = FineTuning(strategy="partial", epochs=1, batch_size=4, lr=1e-3)


def one_box(size: tuple[int, int], box: tuple[int, int, int, int]) -> Any:
    """The targets of one image with one box."""
    array = np.zeros((1, 2, 6), np.float32)
    array[0, 0, :3], array[0, 1, :4] = (1, *size), box
    return boxes_of(array, ["plate"])


def test_a_training_from_pixels_sees_the_boxes_that_its_targets_show() -> None:
    left, top, right, bottom = box = (30, 20, 90, 70)
    image = np.zeros((100, 150, 3), np.uint8)
    image[top:bottom, left:right] = 255
    augmentation = Augmentation(flip=0.5, crop=0.5)
    pixels = Pixels([image], preprocessing=Preprocessing(96, fit="squash"), augmentation=augmentation, seed=4, memory=1 << 24)
    layers = (MapLayer("fine", 1, 12, 12), MapLayer("coarse", 1, 6, 6))
    targets = PositionTargets(one_box((100, 150), box), layers, DrawnViews(augmentation, 4))
    sides = []
    for number in (None, *range(8)):
        seen = pixels.plain(0) if number is None else pixels.view(0, number)
        rows, columns = np.nonzero(seen[..., 0] > 127)
        shown = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        (found,) = targets(np.array([0]), number)
        given = found[found[:, 0] == 0]
        assert len(given)
        np.testing.assert_allclose(96 * given[:, 1:], np.tile(shown, (len(given), 1)), atol=1.5)
        sides.append(tuple(shown))
    assert len(set(sides)) > 5


@pytest.fixture(scope="module")
def few(scenes: Path) -> Any:
    """The data with so few training images that there are no halves of them."""
    dataset = headstart.read_dataset(scenes)
    train, test = (np.flatnonzero(dataset.parts == part) for part in ("train", "test"))
    return dataset.take(np.concatenate([train[:14], test]))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Heads are trained for a few steps."""
    light = ARCHITECTURES["light"]
    monkeypatch.setitem(ARCHITECTURES, "light", replace(light, recipe=replace(light.recipe, steps=(40, 40), views=3)))
    return monkeypatch


class Told(Listener):
    """Remembers what was said."""

    text = ""

    def say(self, message: str) -> None:
        self.text += message + "\n"


@pytest.mark.parametrize("strategy", ["partial", pytest.param("full", marks=pytest.mark.slow)])
def test_a_trained_backbone_finds_in_its_run_what_it_found_in_the_fit(
    few: Any, cache: Path, tmp_path: Path, quick: pytest.MonkeyPatch, strategy: str
) -> None:
    quick.setattr("headstart.training.tuning.Trained.learned", True)
    quick.setattr(BoxHead, "pays", lambda self, after, before: True)
    settings = FitSettings(cache=cache, backbone="lite0@64", fine_tuning=replace(PLAN, strategy=strategy))
    told = Told()
    result = fit(few, out=tmp_path / "run", settings=settings, listener=told)
    assert result.learned.is_tuned
    assert re.search(r"^epoch +1/\d+: loss [\d.]+, localisation accuracy [\d.]+%; validation: loss ", told.text, re.MULTILINE)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "The localisation accuracy by epoch: training from" in page
    assert "The accuracy by epoch" not in page
    threshold, fact = result.learned.fine_tuned.facts[-2:]
    assert threshold.startswith(f"threshold {result.choice.estimator.threshold:.2f}")
    assert "held-out training images" in threshold
    assert "training further changed the AP by " in fact
    assert result.choice.reason == fact
    gain = result.probe.gain
    assert (gain.score, result.probe.shipped) == ("ap", "trained")
    assert gain.value == pytest.approx(result.test.result.means["ap"] - result.probe.test.result.means["ap"])
    run = headstart.load(tmp_path / "run")
    again, _ = run.evaluate(result.dataset.take(result.table.test))
    assert again.result.means["ap50"] == pytest.approx(result.test.result.means["ap50"], abs=0.02)
    assert run.test_evaluation().to_dict() == result.test.to_dict()
    assert run.manifest.state["threshold"] == result.choice.estimator.threshold
    assert "Fine-tuning changed the AP by " in result.probe.summary()


@pytest.mark.slow
def test_the_frozen_backbone_is_kept_where_held_out_images_have_no_higher_precision(
    few: Any, cache: Path, quick: pytest.MonkeyPatch
) -> None:
    quick.setattr("headstart.training.tuning.Trained.learned", True)
    quick.setattr(BoxHead, "gain", lambda self, after, before: 0.0)
    result = fit(few, settings=FitSettings(cache=cache, backbone="lite0@64", fine_tuning=PLAN))
    assert not result.learned.is_tuned
    assert result.learned.fine_tuned.shipped == "probe"
    assert result.choice.reason.endswith("the head on the frozen backbone is kept")
    assert result.choice.estimator is result.learned.probe.estimator
    assert "Fine-tuning changed nothing" in result.probe.summary()


def test_folds_test_every_training_image(few: Any, cache: Path, tmp_path: Path, quick: pytest.MonkeyPatch) -> None:
    seen, learn = [], learning.learn

    def watched(table: Any, context: Any) -> Any:
        seen.append({table.digests[row] for row in table.train.tolist()})
        return learn(table, context)

    quick.setattr(learning, "learn", watched)
    plan = FineTuning(strategy="probe", epochs=12, batch_size=4)
    result = fit(few, out=tmp_path / "run", settings=FitSettings(cache=cache, backbone="lite0@64", fine_tuning=plan, folds=2))
    whole, *folds = seen
    assert folds[0] | folds[1] == whole
    assert not folds[0] & folds[1]
    found, truth = result.cross_validation, result.dataset.targets.take(result.table.train)
    np.testing.assert_array_equal(found.boxes.boxes, truth.boxes)
    np.testing.assert_array_equal(found.boxes.starts, truth.starts)
    assert len(result.by_fold) == 2
    assert found.result.means["ap50"] > 0.1


def test_parts_are_joined_whatever_boxes_they_have() -> None:
    task, rng, parts, whole = Detection(), np.random.default_rng(0), [], []
    state = {"classes": ["a", "b"], "ids": [1, 2], "threshold": 0.5}
    for counts in ((0, 2), (3, 1, 0), (0,)):
        own = []
        for count in counts:
            corner = rng.uniform(0, 50, (count, 2))
            own.append((np.hstack([corner, corner + 9]), rng.random(count), rng.integers(0, 2, count)))
        whole += own
        array = np.zeros((len(counts), 1 + max(counts), 6), np.float32)
        for row, (boxes, _, labels) in enumerate(own):
            array[row, 0, :3], array[row, 1 : 1 + len(boxes), :4], array[row, 1 : 1 + len(boxes), 4] = (len(boxes), 80, 90), boxes, labels
        evaluation = DetectionEvaluation(Detections.joined(own), task.targets(array, state), 0.5)
        parts.append(task.stored({}, evaluation.boxes, evaluation))
    found = task.evaluation_of(task.joined(parts), state)
    expected = Detections.joined(whole)
    np.testing.assert_allclose(found.detections.boxes, expected.boxes)
    np.testing.assert_array_equal(found.detections.starts, expected.starts)
    np.testing.assert_array_equal(found.boxes.starts, expected.starts)
    assert found.result.means["ap"] == 1.0


def test_the_epoch_with_the_highest_precision_is_the_best() -> None:
    import torch

    layers = (MapLayer("only", 1, 4, 4),)
    positions = PositionTargets(one_box((100, 100), (30, 30, 70, 70)), layers, DrawnViews(Augmentation(), 0))
    seen: list[Any] = []

    def precision(predictions: Any) -> float:
        seen.append(predictions)
        return 0.75

    loss_alone = BoxTraining(objective=Objective(positions, BoxLoss()), network=None, shape=(16, 5))
    predictions, targets = torch.zeros(1, 16, 5), loss_alone.targets(np.array([0]))
    found = replace(loss_alone, precision=precision).validate(predictions, targets)
    assert found.criterion == -0.75
    assert found.loss == loss_alone.validate(predictions, targets).criterion
    np.testing.assert_array_equal(seen[0], predictions)


def test_confidence_is_as_before_where_nothing_is_found() -> None:
    truth = one_box((100, 100), (10, 10, 50, 50))
    nothing = Detections.joined([(np.zeros((0, 4)), np.zeros(0), np.zeros(0))])
    found = learning.Confidence.of(match(nothing, truth, classes=1))
    assert found.threshold == THRESHOLD
    assert found.fact("on held-out images") == "threshold 0.30, as always where nothing was found on held-out images"


def test_what_cannot_be_trained_is_refused(few: Any, cache: Path) -> None:
    small = few.take(np.concatenate([np.arange(6), np.flatnonzero(few.parts == "test")]))
    with pytest.raises(DataError, match=r"6 training images; to train the backbone, some are held out: 8 are needed. Use --strategy probe"):
        fit(small, settings=FitSettings(cache=cache, fine_tuning=PLAN))
    with pytest.raises(ParameterError, match="windows=2 is for masks, not for boxes"):
        fit(few, settings=FitSettings(cache=cache, windows=2))
