"""The evaluation of detections: all scores of one set of images, from what was found and what is there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from headstart.data.boxes import Boxes
from headstart.errors import ParameterError
from headstart.metrics.boxes import Detections
from headstart.metrics.detection import (
    DetectionDifference,
    DetectionIntervals,
    DetectionScores,
    detection_difference,
    detection_intervals,
    detection_scores,
)  # fmt: skip
from headstart.metrics.differences import Difference, Differences
from headstart.metrics.matching import Matches, match
from headstart.metrics.mistakes import ImageCounts, Mistakes, find_mistakes
from headstart.metrics.scores import expected_calibration_error
from headstart.tasks.comparable import Comparable, unlike_classes
from headstart.text import enumeration, number, pad, plural, shorten, visible, width

SCORE_WORDS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "AP of small boxes", "ap_medium": "AP of medium boxes",
    "ap_large": "AP of large boxes", "ar_1": "AR with 1 box an image", "ar_10": "AR with 10", "ar_100": "AR with 100",
    "precision": "precision at the threshold", "recall": "recall at the threshold", "f1": "F1 at the threshold",
    "calibration_error": "calibration error of confidence (ECE)",
}  # fmt: skip
"""The scores of the whole, in this order, and what they are called."""

BACKGROUND = "(nothing)"
"""In the confusion matrix: what is missed, and what is invented."""

_PACKED = 6  # of a detection: left, top, right, bottom, confidence, class


@dataclass(frozen=True, eq=False)
class DetectionEvaluation(Comparable):
    """All scores of one set of n images.

    Attributes:
        detections: what was found, in pixels.
        boxes: what is there.
        threshold: lowest confidence of a box that is named.
    """

    detections: Detections
    boxes: Boxes
    threshold: float

    correct_rows: None = None
    truth: ClassVar[str] = "box"

    def __post_init__(self) -> None:
        if not len(self.boxes):
            raise ParameterError("there are no images to evaluate. Give at least one image with its boxes.")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the k classes."""
        return self.boxes.classes

    @cached_property
    def matches(self) -> Matches:
        """Which detections are right, at overlaps from 0.50 to 0.95."""
        return match(self.detections, self.boxes, classes=len(self.classes))

    @cached_property
    def result(self) -> DetectionScores:
        """Average precision and recall of each class."""
        return detection_scores(self.matches)

    @cached_property
    def intervals(self) -> DetectionIntervals:
        """Their 95 % intervals."""
        return detection_intervals(self.matches, self.result)

    @cached_property
    def mistakes(self) -> Mistakes:
        """What is wrong at the threshold."""
        return find_mistakes(self.detections, self.boxes, threshold=self.threshold)

    @cached_property
    def counts(self) -> ImageCounts:
        """Boxes of each image by what is wrong with them."""
        return self.mistakes.by_image()

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """int64 (k + 1, k + 1): true boxes by class (row) and class that was found (column); the last are `BACKGROUND`."""
        return self.mistakes.confusion(len(self.classes))

    @property
    def images(self) -> int:
        """How many images were tested."""
        return len(self.boxes)

    @property
    def headline(self) -> tuple[str, float, tuple[float, float]]:
        """AP50 with its 95 % interval."""
        return "ap50", self.result.means["ap50"], self.intervals.scores["ap50"]

    @cached_property
    def scores(self) -> dict[str, float]:
        """All scores of the whole, by name; nan where one is undefined."""
        right, found, true = (int(one.sum()) for one in (self.counts.right, self.counts.found, self.counts.true))
        precision, recall = (right / many if many else math.nan for many in (found, true))
        hits, confidence, _ = self.matches.at_half()
        error = expected_calibration_error(confidence.astype(np.float64), hits) if len(hits) else math.nan
        known = self.result.means | {
            "precision": precision, "recall": recall, "f1": 2 * right / (found + true) if found + true else math.nan,
            "calibration_error": error,
        }  # fmt: skip
        return {name: float(known[name]) for name in SCORE_WORDS}

    @property
    def objects(self) -> NDArray[np.int64]:
        """How many boxes of each class there are to be found, int64 (k,)."""
        return self.result.objects[:, 0]

    def by_class(self) -> list[dict[str, float]]:
        """Of each class: ``objects``, ``ap``, ``ap50``, and ``precision`` and ``recall`` at the threshold."""
        cells = self.confusion
        named, there, right = cells[:, :-1].sum(axis=0), cells[:-1].sum(axis=1), cells.diagonal()[:-1]
        return [
            {
                "objects": float(self.objects[index]), "ap": float(self.result.ap[index]), "ap50": float(self.result.ap50[index]),
                "precision": float(right[index] / named[index]) if named[index] else math.nan,
                "recall": float(right[index] / there[index]) if there[index] else math.nan,
            }
            for index in range(len(self.classes))
        ]  # fmt: skip

    def confusions(self, top: int = 5) -> list[tuple[str, str, int]]:
        """The most frequent mistakes of class: true class, named class, and how many boxes; the most first."""
        cells = self.confusion[:-1, :-1].copy()
        np.fill_diagonal(cells, 0)
        order = [int(index) for index in np.argsort(-cells, axis=None, kind="stable")[:top] if cells.flat[index]]
        return [(self.classes[i // len(self.classes)], self.classes[i % len(self.classes)], int(cells.flat[i])) for i in order]

    def remarks(self, part: str = "test") -> tuple[str, ...]:
        """What must be known to read the figures rightly, in sentences."""
        found = []
        absent = [visible(name) for name, objects in zip(self.classes, self.objects.tolist(), strict=True) if not objects]
        if absent:
            found.append(f"No {part} image has a box of {enumeration(absent)}: what cannot be known is shown as '-'.")
        low, high = self.intervals.scores["ap50"]
        if high - low > 0.1:
            found.append(
                f"With only {plural(self.images, 'image')}, AP50 is known to about ± {50 * (high - low):.0f} percentage points: more "
                "images with boxes would narrow it."
            )
        if crowds := int(self.boxes.crowd.sum()):
            found.append(f"{plural(crowds, 'region')} of many or difficult things: what is found there counts neither as right nor wrong.")
        return tuple(found)

    def summary(self, part: str = "test") -> str:
        """The result in one line: ``test AP50 0.914 [0.86, 0.96], AP 0.541 [0.49, 0.60] on 40 images``."""
        values = [
            f"{SCORE_WORDS[name]} {self.result.means[name]:.3f} [{low:.2f}, {high:.2f}]"
            for name, (low, high) in ((name, self.intervals.scores[name]) for name in ("ap50", "ap"))
        ]
        return f"{part} {', '.join(values)} on {plural(self.images, 'image')}"

    def lines(self, title: str = "test") -> list[str]:
        """The evaluation as lines of plain text, without colours."""
        boxes, empty = int(self.counts.true.sum()), int((self.counts.true == 0).sum())
        without = f", {empty} of them without any" if empty else ""
        found = [f"{title}: {plural(self.images, 'image')}{without}, {plural(len(self.classes), 'class')}, {plural(boxes, 'box')}"]
        column = max(width(word) for word in SCORE_WORDS.values())
        for name, word in SCORE_WORDS.items():
            interval = self.intervals.scores.get(name)
            known = "" if interval is None or math.isnan(interval[0]) else f"  95 % interval [{interval[0]:.4f}, {interval[1]:.4f}]"
            found.append(f"  {pad(word, column)}  {number(self.scores[name]):>6}{known}")
        missed, invented = int(self.counts.missed.sum()), int(self.counts.invented.sum())
        wrong, misplaced = int(self.counts.wrong_class.sum()), int(self.counts.misplaced.sum())
        found += [
            "", f"  at the threshold of {self.threshold:.2f}: {int(self.counts.right.sum())} of {boxes} right, {missed} missed, "
            f"{invented} invented, {wrong} of the wrong class, {misplaced} badly placed",
        ]  # fmt: skip
        found += ["", *self._class_lines()]
        if confusions := self.confusions():
            found += ["", "  most often confused:"]
            found += [f"    {count} of {shorten(true, 40)} named {shorten(named, 40)}" for true, named, count in confusions]
        if remarks := self.remarks(title):
            found += ["", *(f"  {remark}" for remark in remarks)]
        return found

    def _class_lines(self) -> list[str]:
        head = ["class", "boxes", "AP50", "AP", "precision", "recall", "AP50, 95 % interval"]
        rows = []
        for index, (name, own) in enumerate(zip(self.classes, self.by_class(), strict=True)):
            low, high = self.intervals.ap50[index].tolist()
            values = [number(own[key]) for key in ("ap50", "ap", "precision", "recall")]
            rows.append([shorten(name, 32), f"{own['objects']:.0f}", *values, "-" if math.isnan(low) else f"[{low:.4f}, {high:.4f}]"])
        column = max(width(row[0]) for row in (head, *rows))
        return ["  " + pad(row[0], column) + "".join(f"  {cell:>9}" for cell in row[1:]) for row in (head, *rows)]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single images as data for JSON; what is undefined is None."""
        intervals = {name: [_plain(a), _plain(b)] for name, (a, b) in self.intervals.scores.items()}
        by_class = {
            name: {key: _plain(value) for key, value in own.items()} | {"ap50_interval": [_plain(side) for side in interval]}
            for name, own, interval in zip(self.classes, self.by_class(), self.intervals.ap50.tolist(), strict=True)
        }
        return {
            "images": self.images, "boxes": int(self.counts.true.sum()), "threshold": self.threshold,
            **{name: _plain(value) for name, value in self.scores.items()},
            **{f"{name}_interval": interval for name, interval in intervals.items()}, "intervals_method": self.intervals.method,
            "by_class": by_class, "confusion_matrix": self.confusion.tolist(),
        }  # fmt: skip

    def __str__(self) -> str:
        return "\n".join(self.lines())

    # compared with others

    @property
    def leading(self) -> tuple[str, float, tuple[float, float]]:
        """AP, which asks for boxes that fit closely."""
        return "AP", self.result.means["ap"], self.intervals.scores["ap"]

    @property
    def beside(self) -> Mapping[str, float]:
        """AP50, and precision and recall at the threshold."""
        return {"AP50": self.scores["ap50"], "precision": self.scores["precision"], "recall": self.scores["recall"]}

    @property
    def rank(self) -> tuple[float, ...]:
        """AP, then AP50; nothing is below what is undefined."""
        return tuple(-1.0 if math.isnan(value) else value for value in (self.scores["ap"], self.scores["ap50"]))

    def unlike(self, other: Self, *, mine: str, theirs: str) -> str | None:
        """That they have different classes."""
        return unlike_classes(self.classes, other.classes, mine=mine, theirs=theirs)

    def part(self, rows: NDArray[np.int64], *, like: Self) -> Self:
        """The evaluation of some images, with the classes in the order of another one."""
        places = np.array([like.classes.index(name) for name in self.classes], np.int64)
        found, boxes = self.detections.take(rows), self.boxes.take(rows)
        return replace(
            self, detections=replace(found, labels=places[found.labels]),
            boxes=replace(boxes, labels=places[boxes.labels], classes=like.classes, ids=like.boxes.ids),
        )  # fmt: skip

    def same_truth(self, other: Self) -> NDArray[np.bool_]:
        """Which images have the same boxes of the same classes."""
        return np.array([_same(self.boxes.of(row), other.boxes.of(row)) for row in range(self.images)], np.bool_)

    def differences(self, other: Self) -> Differences:
        """Of AP and AP50, by resampling images."""
        found = detection_difference(self.matches, other.matches)
        wrong, others = self.counts.wrong, other.counts.wrong
        wins = int((wrong < others).sum()), int((wrong > others).sum())
        ap = _difference(found["ap"], "ap", wins=wins, won="It makes fewer mistakes on {}, more on {}.")
        return Differences((ap, _difference(found["ap50"], "ap50", phrases=("finds things better", "finds things worse"))))

    def stored(self) -> dict[str, NDArray[Any]]:
        """What a run stores of it: arrays with a row for each image."""
        return {"detections": packed(self.detections), "targets": self.boxes.array}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], truth: Boxes, threshold: float) -> DetectionEvaluation:
        """The evaluation again, from the arrays of `stored` and the targets in them."""
        return cls(unpacked(arrays["detections"]), truth, threshold)


def _difference(found: DetectionDifference, score: str, **more: Any) -> Difference:
    return Difference(
        score=score, word=SCORE_WORDS[score], value=found.value, interval=found.interval,
        p_value=min(1.0, 2 * min(found.above, 1 - found.above)), test="bootstrap", points=True, **more,
    )  # fmt: skip


def _same(one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> bool:
    return all(a.shape == b.shape and np.allclose(a, b) for a, b in zip(one, other, strict=True))


def packed(found: Detections) -> NDArray[np.float32]:
    """Detections as float32 (n, most, 6): left, top, right, bottom, confidence and class of each; unused rows have the class -1."""
    counts = np.diff(found.starts)
    array = np.full((len(found), int(counts.max(initial=0)), _PACKED), -1, np.float32)
    places = np.arange(len(found.boxes)) - found.starts[:-1][found.images]
    array[found.images, places] = np.column_stack([found.boxes, found.scores, found.labels])
    return array


def unpacked(array: NDArray[Any]) -> Detections:
    """The inverse of `packed`."""
    there = array[..., 5] >= 0
    rows, starts = array[there], np.append(0, np.cumsum(there.sum(axis=1))).astype(np.int64)
    return Detections(rows[:, :4].astype(np.float32), rows[:, 4], rows[:, 5].astype(np.int64), starts)


def padded(arrays: Sequence[NDArray[Any]], fill: int) -> NDArray[Any]:
    """Arrays (n, most, d) one after the other, the second axis of each filled up to the longest."""
    most = max(array.shape[1] for array in arrays)
    return np.concatenate([np.pad(one, ((0, 0), (0, most - one.shape[1]), (0, 0)), constant_values=fill) for one in arrays])


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
