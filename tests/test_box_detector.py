"""`TransferDetector`: boxes as arrays, dicts and `Boxes`, in and out."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from drawn_scenes import scene
from headstart import TransferDetector
from headstart.data import Boxes
from headstart.data.given_boxes import given_boxes
from headstart.errors import DataError, ParameterError
from headstart.metrics.boxes import iou
from headstart.settings import FineTuning
from headstart.tasks.detection.architectures import ARCHITECTURES

pytest.importorskip("torch", reason="the head is trained with PyTorch")

PLAN = FineTuning(strategy="probe", epochs=25, batch_size=8, label_smoothing=0)
QUICK = FineTuning(strategy="probe", epochs=1, batch_size=8)


def drawn(numbers: range) -> tuple[list[np.ndarray], list[tuple[np.ndarray, list[str]]]]:
    scenes = [scene(number) for number in numbers]
    return [pixels for pixels, _ in scenes], [
        (np.array([thing.box for thing in things]).reshape(-1, 4), [thing.label for thing in things]) for _, things in scenes
    ]


@pytest.fixture(scope="module")
def fitted(cache: Path) -> TransferDetector:
    images, boxes = drawn(range(24))
    return TransferDetector("lite0@96", fine_tuning=PLAN, cache=cache).fit(images, boxes)


def test_it_learns_boxes_and_finds_them(fitted: TransferDetector) -> None:
    images, truth = drawn(range(24, 32))
    assert fitted.classes_.tolist() == ["disc", "plate"]
    assert fitted.score(images, truth) > 0.8
    right = []
    for found, (boxes, labels) in zip(fitted.predict(images, threshold=0.9), truth, strict=True):
        assert (found["boxes"].dtype, found["scores"].dtype) == (np.float32, np.float32)
        assert len(found["boxes"]) == len(found["labels"]) == len(found["scores"])
        assert (np.diff(found["scores"]) <= 0).all()
        assert (found["scores"] >= 0.9).all()
        for box, label in zip(found["boxes"], found["labels"], strict=True):
            overlaps = iou(box[None], boxes)[0]
            right.append(overlaps.max() > 0.5 and label == labels[int(overlaps.argmax())])
    assert len(right) > 8
    assert np.mean(right) > 0.85
    assert all((found["scores"] >= fitted.threshold_).all() for found in fitted.predict(images))


def test_the_score_is_one_for_the_truth_alone(fitted: TransferDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    images, truth = drawn(range(24, 30))
    own = [(boxes.astype(np.float32), np.ones(len(boxes), np.float32), np.array([["disc", "plate"].index(one) for one in labels], int))
           for boxes, labels in truth]  # fmt: skip
    monkeypatch.setattr(fitted, "_found", lambda images: iter(own), raising=True)
    assert fitted.score(images, truth) == 1.0


def test_a_pickle_finds_the_same_and_a_clone_is_unfitted(fitted: TransferDetector) -> None:
    images, truth = drawn(range(24, 27))
    again = pickle.loads(pickle.dumps(fitted))
    for one, other in zip(fitted.predict(images), again.predict(images), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in ("boxes", "labels", "scores"))
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    for call in (lambda: fresh.predict(images), lambda: fresh.score(images, truth)):
        with pytest.raises(NotFittedError):
            call()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "plan"),
    [
        ("light", FineTuning(strategy="partial", epochs=3, batch_size=8, lr=1e-3)),
        ("fcos", FineTuning(strategy="probe", epochs=25, batch_size=8, label_smoothing=0)),
    ],
)
def test_other_trainings_find_boxes_too(architecture: str, plan: FineTuning, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ARCHITECTURES[architecture]
    monkeypatch.setitem(ARCHITECTURES, architecture, replace(usual, recipe=replace(usual.recipe, steps=(100, 2400))))  # fewer, for time
    images, boxes = drawn(range(32))
    detector = TransferDetector("lite0@96", architecture=architecture, fine_tuning=plan, cache=cache).fit(images, boxes)
    new, truth = drawn(range(32, 40))
    assert detector.score(new, truth) > 0.5
    again = pickle.loads(pickle.dumps(detector))
    for one, other in zip(detector.predict(new), again.predict(new), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in ("boxes", "labels", "scores"))


def test_numbers_stay_numbers_and_may_have_names(cache: Path, tmp_path: Path) -> None:
    images, boxes = drawn(range(16))
    paths = [tmp_path / f"{number}.png" for number in range(16)]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    y = [{"boxes": own, "labels": [3 if name == "disc" else 11 for name in labels], "image_id": 7} for own, labels in boxes]
    detector = TransferDetector("lite0@96", fine_tuning=QUICK, cache=cache).fit([str(path) for path in paths], y)
    assert detector.classes_.tolist() == [3, 11]
    assert detector.predict(paths[:2])[0]["labels"].dtype == np.int64
    assert 0 <= detector.score(paths, y) <= 1
    names = ["", "", "", "disc", *[""] * 7, "plate"]
    named = clone(detector).fit([Image.open(path) for path in paths], y, classes=names)
    assert named.classes_.tolist() == ["disc", "plate"]
    assert named.score([path.read_bytes() for path in paths], y) == pytest.approx(detector.score(paths, y))


def test_targets_of_a_data_set_are_taken() -> None:
    boxes = Boxes(
        classes=("cat", "dog"), boxes=np.array([[1, 2, 30, 40], [0, 0, 9, 9]], np.float32), labels=np.array([1, 0]),
        crowd=np.array([False, True]), starts=np.array([0, 2, 2]), sizes=np.array([[96, 128], [96, 128]]), ids=(1, 2),
    )  # fmt: skip
    first, second = given_boxes(boxes, [np.zeros((96, 128, 3), np.uint8)] * 2).column.values
    assert [(shape.label, shape.bounds((96, 128)), shape.crowd) for shape in first.shapes] == [
        ("dog", (1, 2, 30, 40), False), ("cat", (0, 0, 9, 9), True)
    ]  # fmt: skip
    assert second.shapes == ()


BOX = [[1, 2, 30, 40]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"y\[1\] must say what boxes an image has, got NoneType"),
        ({"bboxes": BOX, "labels": ["a"]}, r"y\[1\] has no 'boxes'; it has 'bboxes' and 'labels'"),
        ((BOX, ["a", "b"]), r"y\[1\] has boxes of the shape \(1, 4\) and 2 labels; each box needs one"),
        (([[1, 2, 3]], ["a"]), r"y\[1\] has boxes of the shape \(1, 3\); \(m, 4\) is needed"),
        (([[40, 50, 30, 20]], ["a"]), r"y\[1\] has the box \(40, 50, 30, 20\), which has no area.*boxes\[:, 2:\] \+= boxes\[:, :2\]"),
        (([[0, 0, float("nan"), 5]], ["a"]), r"y\[1\] has the box \(0, 0, nan, 5\)"),
        ((["left"], ["a"]), r"y\[1\] has boxes that are no numbers"),
        ((BOX, [1.5]), r"y\[1\] must have labels that are names or whole numbers"),
        ((BOX, [True]), r"y\[1\] must have labels that are names or whole numbers"),
        ((BOX, [" "]), r"y\[1\] has a label without a name"),
        ((BOX, [4]), "names in some images and whole numbers in others"),
        ({"boxes": BOX, "labels": ["a"], "iscrowd": [0, 1]}, r"'iscrowd' of 2"),
    ],
)
def test_what_is_wrong_with_boxes_is_said(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TransferDetector().fit([np.zeros((50, 50, 3), np.uint8)] * 2, [(BOX, ["a"]), value])


def test_what_is_wrong_is_said(cache: Path, fitted: TransferDetector) -> None:
    images, boxes = drawn(range(8))
    detector = TransferDetector("lite0@96", fine_tuning=QUICK, cache=cache)
    with pytest.raises(DataError, match="8 images but boxes of 7 in y"):
        detector.fit(images, boxes[:7])
    with pytest.raises(DataError, match="X is empty; at least one image"):
        detector.fit([], [])
    with pytest.raises(DataError, match="there are no boxes in 8 images"):
        detector.fit(images, [([], [])] * 8)
    with pytest.raises(DataError, match=r"boxes from 0 to 1.*boxes \* \[width, height, width, height\]"):
        detector.fit(images, [(own / [128, 96, 128, 96], labels) for own, labels in boxes])
    with pytest.raises(DataError, match=r"y\[0\] has labels from 5 to 5, and there are 2 names of classes"):
        detector.fit(images, [(own, [5] * len(own)) for own, _ in boxes], classes=["a", "b"])
    with pytest.raises(ParameterError, match="strategy"):
        TransferDetector(fine_tuning=FineTuning(strategy="sideways"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"have no boxes\. Leave them out"):
        fitted.predict([b"no image"])
    with pytest.raises(DataError, match="cat"):
        fitted.score(images[:1], [(BOX, ["cat"])])
    outside = [(own + np.array([0, 0, 200, 0]), labels) for own, labels in boxes]
    with pytest.warns(RuntimeWarning, match="partly outside of the image: cut at its edge"):
        assert len(detector.fit(images, outside).classes_) == 2
