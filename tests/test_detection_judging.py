"""What a fit says of boxes that look missing or wrong, and of inputs unlike the training inputs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drawn_scenes import CLASSES, scene
from headstart.data import Boxes, Dataset
from headstart.features.prepared import ExtractorSettings, prepare
from headstart.metrics.boxes import Detections
from headstart.metrics.matching import match
from headstart.pipeline import deep_check
from headstart.progress import Listener, Seconds
from headstart.settings import FineTuning, FitSettings
from headstart.tasks import Judged, Learned, LearningContext
from headstart.tasks.detection.architectures import ARCHITECTURES
from headstart.tasks.detection.judging import can_be_doubted, doubtful_boxes, judge, missing, of_another_class, unconfirmed
from headstart.tasks.detection.learning import Crossed
from headstart.tasks.detection.task import Detection


def boxes_of(rows: list[list[tuple[str, tuple[float, ...]]]], *, crowd: bool = False) -> Boxes:
    every = [thing for row in rows for thing in row]
    return Boxes(
        classes=CLASSES, boxes=np.array([box for _, box in every], np.float32).reshape(-1, 4),
        labels=np.array([CLASSES.index(name) for name, _ in every], np.int64), crowd=np.full(len(every), crowd),
        starts=np.cumsum([0, *map(len, rows)]), sizes=np.full((len(rows), 2), 100), ids=(1, 2),
    )  # fmt: skip


def detections(rows: list[list[tuple[str, tuple[float, ...], float]]]) -> Detections:
    return Detections.joined(
        (np.array([box for _, box, _ in row]).reshape(-1, 4), np.array([score for *_, score in row]), [CLASSES.index(n) for n, *_ in row])
        for row in rows
    )


IMAGES = 64
BOX, FAR, NEXT = (10, 10, 30, 30), (60, 60, 90, 90), (32, 10, 52, 30)


def test_a_thing_is_missing_where_no_box_is_near_it() -> None:
    truth = boxes_of([[("disc", BOX)], []])
    sure = detections([[("plate", FAR, 0.9), ("disc", (62, 60, 90, 90), 0.8), ("disc", (12, 12, 18, 18), 0.9), ("disc", BOX, 0.9)],
                       [("disc", BOX, 0.95)]])  # fmt: skip
    assert [(one.row, one.text) for one in missing(sure, truth)] == [
        (0, "plate at (60, 60, 90, 90), confidence 0.90"), (1, "disc at (10, 10, 30, 30), confidence 0.95")
    ]  # fmt: skip
    assert not missing(sure, boxes_of([[("disc", (0, 0, 100, 100))], [("disc", (0, 0, 100, 100))]], crowd=True))


def test_a_class_is_wrong_where_another_one_is_surer() -> None:
    truth = boxes_of([[("disc", BOX), ("plate", FAR)]])
    other = detections([[("plate", BOX, 0.9)]])
    assert [one.text for one in of_another_class(other, other, truth)] == [
        "labelled disc at (10, 10, 30, 30), found as plate, confidence 0.90"
    ]
    surer = detections([[("plate", BOX, 0.9), ("disc", BOX, 0.95)]])
    assert not of_another_class(other, surer, truth)
    assert not of_another_class(other, other, boxes_of([[("disc", BOX), ("plate", BOX)]]))
    assert not of_another_class(detections([[("plate", NEXT, 0.9)]]), other, truth)


def test_a_box_is_unconfirmed_where_others_of_its_size_are_found() -> None:
    rows = [[("disc", BOX)]] * 9 + [[("plate", FAR)], [("disc", (0, 0, 4, 4))]]
    found = [[("plate", (11, 11, 30, 30), 0.3)]] * 9 + [[("plate", FAR, 0.01)], []]
    assert not unconfirmed(detections(found), boxes_of(rows))  # nothing else is as large as the one, or as small as the other
    rows[9], found[9] = [("plate", BOX)], [("plate", FAR, 0.9)]
    assert [(one.row, one.text) for one in unconfirmed(detections(found), boxes_of(rows))] == [(9, "plate at (10, 10, 30, 30)")]


def test_it_is_silent_where_little_is_found() -> None:
    truth = boxes_of([[("disc", BOX)]] * 20)
    right, wrong = [("disc", BOX, 0.9)], [("disc", FAR, 0.9)]
    for found, kinds in (([right] * 19 + [wrong], {"missing boxes", "unconfirmed boxes"}), ([right] * 9 + [wrong] * 11, set())):
        crossed = Crossed(match(detections(found), truth, classes=2), None, np.arange(len(truth)))
        assert {one.kind for one in doubtful_boxes(crossed, truth, [str(row) for row in range(20)])} == kinds


def faulty() -> Dataset:
    """Images of which one lacks a box, one has a wrong class, and one a box of nothing."""
    scenes = [scene(number) for number in range(IMAGES)]
    rows = [[(thing.label, thing.box) for thing in things] for _, things in scenes]
    del rows[2][1]
    rows[12][0] = ("plate", rows[12][0][1])
    rows[7].append(("disc", (50, 30, 80, 60)))
    targets = replace(boxes_of(rows), sizes=np.full((IMAGES, 2), (96, 128)))
    return Dataset(inputs=np.stack([pixels for pixels, _ in scenes]), targets=targets, parts=np.full(IMAGES, "train"))


@pytest.fixture(scope="module")
def planted(cache: Path) -> Judged:
    """What is known of such images."""
    pytest.importorskip("torch", reason="the head is trained with PyTorch")
    dataset, task = faulty(), Detection()
    settings = task.settings(
        FitSettings(
            backbone="lite0@96", cache=cache, fine_tuning=FineTuning(strategy="probe", epochs=30, batch_size=8, label_smoothing=0, views=2)
        )
    )
    prepared = prepare(ExtractorSettings.of(settings, dataset.levels))
    table, context = (
        prepared.table(dataset, seconds=Seconds(), maps=task.maps(settings, dataset)),
        LearningContext(settings=settings, prepared=prepared),
    )
    crossed = Crossed.of(table, ARCHITECTURES["light"].recipe.plan(settings, len(dataset)), context)
    learned = Learned(choice=None, table=table, prepared=prepared, beside=crossed)  # type: ignore[arg-type]
    return judge(learned, context)


def test_planted_faults_are_named(planted: Judged) -> None:
    found = {one.kind: one for one in planted.findings}
    assert {kind: one.count for kind, one in found.items()} == {"missing boxes": 1, "wrong classes": 1, "unconfirmed boxes": 1}
    assert re.fullmatch(r"array\[2\]: plate at \(\d+, \d+, \d+, \d+\), confidence 0\.[89]\d", found["missing boxes"].examples[0])
    assert re.fullmatch(r"array\[12\]: labelled plate at \(.*\), found as disc, confidence 0\.[89]\d", found["wrong classes"].examples[0])
    assert found["unconfirmed boxes"].examples == ("array[7]: disc at (50, 30, 80, 60)",)
    assert all("look at it. " in one.message for one in found.values())


@pytest.mark.slow
def test_a_deep_check_names_planted_faults_without_a_fit(cache: Path) -> None:
    pytest.importorskip("torch", reason="the head is trained with PyTorch")
    dataset, swapped = faulty(), (20, 33, 41, 50)
    labels, starts = dataset.targets.labels.copy(), dataset.targets.starts  # type: ignore[attr-defined]
    for row in swapped:
        labels[starts[row]] = 1 - labels[starts[row]]
    parts = np.where(np.arange(IMAGES) == 50, "test", "train")  # these may have faults, too
    dataset = replace(dataset, targets=replace(dataset.targets, labels=labels), parts=parts)  # type: ignore[type-var]
    found = {one.kind: one for one in deep_check(dataset, settings=FitSettings(backbone="lite0@96", cache=cache)).audit.findings}
    assert found["missing boxes"].severity == "warning"
    assert found["missing boxes"].examples[0].startswith("array[2]: plate at (")
    named = {int(re.findall(r"array\[(\d+)\]: labelled", one)[0]) for one in found["wrong classes"].examples}
    assert len(named & set(swapped)) >= 3
    assert found["unconfirmed boxes"].examples[0] == "array[7]: disc at (50, 30, 80, 60)"


def test_without_boxes_or_with_few_images_nothing_is_trained() -> None:
    few, none = faulty().take(np.arange(10)), replace(faulty(), targets=boxes_of([[]] * IMAGES))
    assert not can_be_doubted(few, Listener())
    assert not can_be_doubted(none, Listener())


def test_images_unlike_the_training_images_are_told(planted: Judged) -> None:
    assert planted.reliability is not None
    assert planted.reliability.novelty is not None
    assert planted.reliability.novelty.images == IMAGES
