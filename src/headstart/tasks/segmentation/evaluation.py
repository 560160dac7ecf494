"""The evaluation of class maps: all scores of one set of images, from counts of pixels alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from headstart.data.masks import Masks
from headstart.engine import available_cores
from headstart.errors import ParameterError
from headstart.metrics.differences import Difference, Differences, ResampledDifferences
from headstart.metrics.segmentation import (
    ImageStatistics,
    SegmentationIntervals,
    SegmentationScores,
    Tally,
    boundary_counts,
    image_scores,
    most_frequent_mean_iou,
    pixel_calibration_error,
    segmentation_differences,
    segmentation_intervals,
    segmentation_scores,
)
from headstart.pixels.interpolation import class_strips
from headstart.tasks.comparable import Comparable, unlike_classes
from headstart.text import enumeration, number, pad, plural, shorten, visible, width

SCORE_WORDS = {
    "mean_iou": "mean IoU", "mean_dice": "mean Dice", "boundary_f1": "boundary F1", "pixel_accuracy": "pixel accuracy",
    "mean_class_accuracy": "mean of the classes' accuracies", "most_frequent_class_accuracy": "always the most frequent class",
    "most_frequent_mean_iou": "its mean IoU", "calibration_error": "calibration error of pixels (ECE)",
}  # fmt: skip
"""The scores of the whole, in this order, and what they are called."""

CLASS_COLUMNS = {"iou": "IoU", "dice": "Dice", "precision": "precision", "recall": "recall", "boundary_f1": "boundary"}
"""The scores of each class, in this order."""

CONFUSIONS = 5


@dataclass(frozen=True, eq=False)
class SegmentationEvaluation(Comparable):
    """All scores of one set of images.

    Attributes:
        classes: the names of the k classes.
        statistics: counts of pixels, a row for each image.
    """

    classes: tuple[str, ...]
    statistics: ImageStatistics

    correct_rows: None = None
    truth: ClassVar[str] = "mask"

    def __post_init__(self) -> None:
        if self.statistics.classes != len(self.classes):
            raise ParameterError(f"there are {plural(len(self.classes), 'class')}, and statistics of {self.statistics.classes}.")
        if not len(self.statistics):
            raise ParameterError("there are no images to evaluate. Give at least one image with a mask.")

    @cached_property
    def result(self) -> SegmentationScores:
        """Scores of the whole and of each class."""
        return segmentation_scores(self.statistics)

    @cached_property
    def intervals(self) -> SegmentationIntervals:
        """Their 95 % intervals."""
        return segmentation_intervals(self.statistics)

    @cached_property
    def image_iou(self) -> NDArray[np.float64]:
        """The mean IoU of each image alone, float64 (n,); nan where its mask has no class."""
        return image_scores(self.statistics)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """int64 (k, k): row i, column j is the number of pixels of class i that were named class j."""
        return np.asarray(self.statistics.confusion.sum(axis=0))

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Pixels, correct ones and sum of confidence by bins of confidence, of all images: float64 (bins, 3)."""
        return np.asarray(self.statistics.confidence.sum(axis=0))

    @property
    def images(self) -> int:
        """How many images were tested."""
        return len(self.statistics)

    @property
    def mean_iou(self) -> float:
        """The mean IoU over the classes that are in truth or prediction."""
        return self.result.means["mean_iou"]

    @property
    def headline(self) -> tuple[str, float, tuple[float, float]]:
        """The mean IoU with its 95 % interval."""
        return "mean_iou", self.mean_iou, self.intervals.scores["mean_iou"]

    @cached_property
    def scores(self) -> dict[str, float]:
        """All scores of the whole, by name; nan where one is undefined."""
        found = {
            **self.result.means, "most_frequent_mean_iou": most_frequent_mean_iou(self.confusion),
            "calibration_error": pixel_calibration_error(self.confidence),
        }  # fmt: skip
        return {name: found[name] for name in SCORE_WORDS}

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes that no test image has a pixel of."""
        return tuple(name for name, pixels in zip(self.classes, self.confusion.sum(axis=1), strict=True) if not pixels)

    def by_class(self) -> dict[str, NDArray[np.float64]]:
        """The scores of each class, float64 (k,), by the names of `CLASS_COLUMNS`."""
        return {name: getattr(self.result, name) for name in CLASS_COLUMNS}

    def confusions(self, top: int = CONFUSIONS) -> list[tuple[str, str, float]]:
        """The most frequent confusions: true class, named class, and the share of pixels of the true class; by pixels, the most first."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        total = self.confusion.sum(axis=1)
        order = [int(index) for index in np.argsort(-wrong, axis=None, kind="stable")[:top] if wrong.flat[index]]
        cells = [divmod(index, len(self.classes)) for index in order]
        return [(self.classes[i], self.classes[j], float(wrong[i, j] / total[i])) for i, j in cells]

    def remarks(self, part: str = "test") -> tuple[str, ...]:
        """What must be known to read the figures rightly, in sentences."""
        found = []
        if self.absent:
            named = enumeration([visible(name) for name in self.absent])
            falsely = " Pixels that were named so are errors, and their IoU is 0." if np.any(self.result.iou[self._absent_at] == 0) else ""
            found.append(f"No pixel of the {part} images is of {named}: what cannot be known is shown as '-'.{falsely}")
        if (empty := int(np.isnan(self.image_iou).sum())) > 0:
            verb = "has no pixel with a class, and counts" if empty == 1 else "have no pixel with a class, and count"
            found.append(f"{plural(empty, f'{part} image')} {verb} for nothing.")
        low, high = self.intervals.scores["mean_iou"]
        if high - low > 0.1:
            found.append(
                f"With only {plural(self.images, 'image')}, the mean IoU is known to about ± {50 * (high - low):.0f} percentage points: "
                "more images with masks would narrow it."
            )
        return tuple(found)

    @property
    def _absent_at(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.confusion.sum(axis=1) == 0)

    def summary(self, part: str = "test") -> str:
        """The result in one line: ``test mean IoU 0.9312 [0.9185, 0.9421] on 58 images``."""
        low, high = self.intervals.scores["mean_iou"]
        return f"{part} mean IoU {self.mean_iou:.4f} [{low:.4f}, {high:.4f}] on {plural(self.images, 'image')}"

    def lines(self, title: str = "test") -> list[str]:
        """The evaluation as lines of plain text, without colours."""
        found = [f"{title}: {plural(self.images, 'image')}, {plural(len(self.classes), 'class')}, {int(self.confusion.sum())} pixels"]
        column = max(width(word) for word in SCORE_WORDS.values())
        for name, word in SCORE_WORDS.items():
            interval = self.intervals.scores.get(name)
            known = "" if interval is None or math.isnan(interval[0]) else f"  95 % interval [{interval[0]:.4f}, {interval[1]:.4f}]"
            found.append(f"  {pad(word, column)}  {number(self.scores[name]):>6}{known}")
        found += ["", *self._class_lines()]
        if confusions := self.confusions():
            found += ["", "  most often confused:"]
            found += [f"    {100 * share:.1f} % of {shorten(true, 40)} named {shorten(named, 40)}" for true, named, share in confusions]
        if remarks := self.remarks(title):
            found += ["", *(f"  {remark}" for remark in remarks)]
        return found

    def _class_lines(self) -> list[str]:
        total = max(1, int(self.confusion.sum()))
        head = ["class", "pixels", *CLASS_COLUMNS.values(), "IoU, 95 % interval"]
        rows = []
        for index, name in enumerate(self.classes):
            low, high = self.intervals.iou[index].tolist()
            share = f"{100 * self.confusion[index].sum() / total:.1f} %"
            values = [number(float(values[index])) for values in self.by_class().values()]
            rows.append([shorten(name, 32), share, *values, "-" if math.isnan(low) else f"[{low:.4f}, {high:.4f}]"])
        column = max(width(row[0]) for row in (head, *rows))
        return ["  " + pad(row[0], column) + "".join(f"  {cell:>9}" for cell in row[1:]) for row in (head, *rows)]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single images as data for JSON; what is undefined is None."""
        low, high = self.intervals.scores["mean_iou"]
        intervals = {name: [_plain(a), _plain(b)] for name, (a, b) in self.intervals.scores.items()}
        by_class = {
            name: {
                "pixels": int(self.confusion[index].sum()), **{key: _plain(values[index]) for key, values in self.by_class().items()},
                "iou_interval": [_plain(value) for value in self.intervals.iou[index]],
            }
            for index, name in enumerate(self.classes)
        }  # fmt: skip
        return {
            "images": self.images, "pixels": int(self.confusion.sum()),
            **{name: _plain(value) for name, value in self.scores.items()}, "mean_iou_interval": [_plain(low), _plain(high)],
            "intervals": intervals, "intervals_method": self.intervals.method, "by_class": by_class,
            "confusion_matrix": self.confusion.tolist(),
        }  # fmt: skip

    def __str__(self) -> str:
        return "\n".join(self.lines())

    # compared with others

    @property
    def leading(self) -> tuple[str, float, tuple[float, float]]:
        """The mean IoU."""
        return "mean IoU", self.mean_iou, self.intervals.scores["mean_iou"]

    @property
    def beside(self) -> Mapping[str, float]:
        """Boundary F1, pixel accuracy and calibration error."""
        names = {"boundary F1": "boundary_f1", "pixel accuracy": "pixel_accuracy", "ECE": "calibration_error"}
        return {title: self.scores[name] for title, name in names.items()}

    @property
    def rank(self) -> tuple[float, ...]:
        """Mean IoU, then boundary F1; nothing is below what is undefined."""
        return tuple(-1.0 if math.isnan(value) else value for value in (self.mean_iou, self.scores["boundary_f1"]))

    def unlike(self, other: Self, *, mine: str, theirs: str) -> str | None:
        """That they have different classes."""
        return unlike_classes(self.classes, other.classes, mine=mine, theirs=theirs)

    def part(self, rows: NDArray[np.int64], *, like: Self) -> Self:
        """The evaluation of some images, with the classes in the order of another one."""
        order = [self.classes.index(name) for name in like.classes]
        return replace(self, classes=like.classes, statistics=self.statistics.take(rows).reordered(order))

    def same_truth(self, other: Self) -> NDArray[np.bool_]:
        """Which images have masks with as many pixels of each class: of the masks themselves no more is known."""
        own, others = (one.statistics.confusion.sum(axis=2) for one in (self, other))
        return np.asarray((own == others).all(axis=1))

    def differences(self, other: Self) -> Differences:
        """Of mean IoU, boundary F1 and the IoU of each class, by resampling images and by exchanging them between the two."""
        found, apart = segmentation_differences(self.statistics, other.statistics), self.image_iou - other.image_iou
        higher, lower = int((apart > 0).sum()), int((apart < 0).sum())
        mean = _difference(found, 0, "mean_iou", wins=(higher, lower), won="Its IoU is higher on {}, lower on {}.")
        outlines = _difference(found, 1, "boundary_f1", phrases=("draws outlines better", "draws outlines worse"))
        return Differences((mean, outlines), {name: _difference(found, 2 + index, "iou") for index, name in enumerate(self.classes)})

    def stored(self) -> dict[str, NDArray[Any]]:
        """What a run stores of it: arrays with a row for each image."""
        return self.statistics.stored()

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> SegmentationEvaluation:
        """The evaluation again, from the arrays of `stored`."""
        return cls(tuple(classes), ImageStatistics.of_arrays(arrays))


def _difference(found: ResampledDifferences, index: int, score: str, **more: Any) -> Difference:
    return Difference(
        score=score, word=SCORE_WORDS.get(score, "IoU"), value=float(found.values[index]), interval=found.interval(index),
        p_value=float(found.p_values[index]), test="randomization test", points=True, **more,
    )  # fmt: skip


def evaluate(
    logits: Sequence[NDArray[Any]] | NDArray[Any], targets: Masks, *, progress: Callable[[int, int], None] | None = None
) -> SegmentationEvaluation:
    """Score logits, (k, h, w) of each image, against masks, at the size of each mask: the logits are interpolated, never the mask.

    Masks are read in threads, one for each core, and forgotten. ImageError where a mask cannot be read any more.
    """
    if len(logits) != len(targets):
        raise ParameterError(f"there are logits of {plural(len(logits), 'image')}, and masks of {len(targets)}.")
    classes = len(targets.classes)

    def one(index: int) -> ImageStatistics:
        return mask_statistics(np.asarray(logits[index]), targets.read(index), classes=classes)

    found = []
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-masks") as pool:
        for done, statistics in enumerate(pool.map(one, range(len(targets))), 1):
            found.append(statistics)
            if progress is not None:
                progress(done, len(targets))
    return SegmentationEvaluation(targets.classes, ImageStatistics.joined(found, classes=classes))


def mask_statistics(logits: NDArray[Any], truth: NDArray[np.uint8], *, classes: int) -> ImageStatistics:
    """The statistics of one image: logits (k, h, w) against its mask uint8 (H, W)."""
    tally, predicted = Tally(classes), np.empty_like(truth)
    for strip in class_strips(logits, truth.shape):
        predicted[strip.rows] = strip.classes
        tally.add(truth[strip.rows], strip.classes, strip.confidence)
    return tally.statistics(boundary_counts(truth, predicted, classes=classes))


def _plain(value: Any) -> float | None:
    """A number for JSON, where nan does not exist."""
    found = float(value)
    return None if math.isnan(found) else found
