"""Evaluation: all scores of one set of images, as data, as text and as a table for notebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from headstart import metrics
from headstart.errors import ParameterError
from headstart.metrics.differences import Difference, Differences
from headstart.tasks.classification.scores import CLASS_COLUMNS, MULTI_LABEL, SCORE_WORDS, SINGLE_LABEL, Outcome
from headstart.tasks.comparable import Comparable, unlike_classes
from headstart.text import enumeration, number, pad, percent, plural, shorten, visible, width

ALL_SHOWN = 20  # up to so many classes, each has its line
WORST_SHOWN = 10  # of more, so many


class Confusion(NamedTuple):
    """`images` of the `of` images of class `target` were named `predicted`."""

    target: str
    predicted: str
    images: int
    of: int

    def __str__(self) -> str:
        return f"{self.images} of {self.of} {shorten(self.target, 40)} named {shorten(self.predicted, 40)}"


@dataclass(frozen=True, eq=False)
class ClassEvaluation(Comparable):
    """All scores of one set of images.

    Attributes:
        classes: the names of the k classes.
        outcome: the targets and probabilities that were judged.
        scores: name -> score of the whole; nan where it is undefined.
        by_class: name -> one score for each class, (k,); nan where it is undefined.
        interval: 95 % confidence interval of the accuracy (Wilson).
    """

    classes: tuple[str, ...]
    outcome: Outcome = field(repr=False)
    scores: dict[str, float]
    by_class: dict[str, NDArray[Any]] = field(repr=False)
    interval: tuple[float, float]

    @cached_property
    def bootstrap(self) -> metrics.BootstrapIntervals:
        """95 % intervals of balanced accuracy, macro F1, log loss and ROC-AUC, by name: percentiles of seeded resamples of the images."""
        return metrics.bootstrap_intervals(self.outcome.targets, self.outcome.probabilities)

    @cached_property
    def calibration_by_chance(self) -> tuple[float, float, float]:
        """What the calibration error would be if every probability were exactly true, on so many images: mean, and the middle 95 %."""
        return metrics.calibration_error_by_chance(self.outcome.statements[0])

    @property
    def headline(self) -> tuple[str, float, tuple[float, float]]:
        """The accuracy with its 95 % interval."""
        return "accuracy", self.accuracy, self.interval

    @property
    def correct_rows(self) -> NDArray[np.bool_]:
        """Which images are right, bool (n,)."""
        return self.outcome.correct

    @property
    def images(self) -> int:
        """How many images were judged."""
        return len(self.outcome.targets)

    @property
    def accuracy(self) -> float:
        """The share of images whose class is right; multi-label: all of whose labels are."""
        return self.scores["accuracy"]

    @property
    def correct(self) -> int:
        """The number of images whose class is right; multi-label: all of whose labels are."""
        return round(self.accuracy * self.images)

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes that none of the images has."""
        return tuple(name for name, images in zip(self.classes, self.by_class["images"], strict=True) if not images)

    @cached_property
    def confusion(self) -> NDArray[np.int64] | None:
        """int64 (k, k): row i, column j is the number of images of class i named class j; None for multi-label."""
        if self.outcome.link.independent:
            return None
        return metrics.confusion_matrix(self.outcome.targets, self.outcome.predicted, count=len(self.classes))

    def confusions(self, top: int = 5) -> tuple[Confusion, ...]:
        """Return the `top` most frequent confusions, the most frequent first; none for multi-label."""
        if self.confusion is None:
            return ()
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = [index for index in np.argsort(-wrong, axis=None, kind="stable")[: max(0, top)] if wrong.flat[index]]
        cells = [divmod(int(index), len(self.classes)) for index in order]
        rows = self.confusion.sum(axis=1)
        return tuple(Confusion(self.classes[i], self.classes[j], int(wrong[i, j]), int(rows[i])) for i, j in cells)

    def worst(self, top: int) -> list[int]:
        """Return the indices of the `top` classes with the lowest F1 among those that have images, the worst first."""
        f1, images = self.by_class["f1"], self.by_class["images"]
        return [int(index) for index in np.lexsort((-images, f1)) if images[index]][:top]

    def remarks(self, part: str = "test") -> tuple[str, ...]:
        """Return what must be known to read the figures rightly, in sentences."""
        found = []
        if self.absent:
            there = len(self.classes) - len(self.absent)
            found.append(
                f"No {part} image is of {enumeration([visible(name) for name in self.absent])}: "
                f"what cannot be known is shown as '-', and averages are over the {there} that {'occurs' if there == 1 else 'occur'}."
            )
        never = [
            visible(name)
            for name, images, precision in zip(self.classes, self.by_class["images"], self.by_class["precision"], strict=True)
            if images and math.isnan(precision)
        ]
        if never:
            found.append(f"Never named by the model: {enumeration(never)}. The precision is unknown, and counts as 0 in averages.")
        low, high = self.interval
        if high - low > 0.1:
            found.append(
                f"With only {plural(self.images, 'image')}, the accuracy is known to about ± {50 * (high - low):.0f} percentage points: "
                "more labelled images would narrow it."
            )
        return tuple(found)

    def summary(self, part: str = "test") -> str:
        """The result in one line: ``test accuracy 0.9867 [0.9662, 0.9948] on 300 images``."""
        low, high = self.interval
        return f"{part} accuracy {self.accuracy:.4f} [{low:.4f}, {high:.4f}] on {plural(self.images, 'image')}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the single images as data for JSON; what is undefined is None."""
        return {
            "images": self.images,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.interval),
            "accuracy_interval_method": "Wilson, 95 %",
            **{name: _plain(value) for name, value in self.scores.items()},
            "intervals": {name: list(found) for name, found in self.bootstrap.intervals.items()},
            "intervals_method": self.bootstrap.method,
            "calibration_error_by_chance": [_plain(value) for value in self.calibration_by_chance],
            "by_class": {
                name: {score: _plain(values[i]) for score, values in self.by_class.items()} for i, name in enumerate(self.classes)
            },
            "confusion_matrix": None if self.confusion is None else self.confusion.tolist(),
        }

    def lines(self, title: str = "test") -> list[str]:
        """Return the evaluation as lines of plain text, without colours."""
        low, high = self.interval
        words = {**SCORE_WORDS, "accuracy": "accuracy (all labels right)" if self.outcome.link.independent else "accuracy"}
        intervals = {name: f"  95 % interval [{a:.4f}, {b:.4f}] (bootstrap)" for name, (a, b) in self.bootstrap.intervals.items()}
        intervals["accuracy"] = f"  95 % interval [{low:.4f}, {high:.4f}] (Wilson)"
        least, most = self.calibration_by_chance[1:]
        intervals["calibration_error"] = f"  {least:.4f} to {most:.4f} by chance alone"
        shown = [(words[name], number(self.scores[name]), intervals.get(name, "")) for name in SCORE_WORDS if name in self.scores]
        column = max(width(label) for label, _, _ in shown)
        found = [f"{title}: {plural(self.images, 'image')}, {plural(len(self.classes), 'class')}"]
        found += [f"  {pad(label, column)}  {value:>6}{interval}" for label, value, interval in shown]
        found += ["", *self._class_lines()]
        if confusions := self.confusions():
            found += ["", "  most often confused:", *(f"    {confusion}" for confusion in confusions)]
        if remarks := self.remarks(title):
            found += ["", *(f"  {remark}" for remark in remarks)]
        return found

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _class_lines(self) -> list[str]:
        head, *rows = self._class_table()
        column = max(width(row[0]) for row in (head, *rows))
        found = ["  " + pad(row[0], column) + "".join(f"  {cell:>9}" for cell in row[1:]) for row in (head, *rows)]
        others = self.worst(len(self.classes))[len(rows) :] if len(rows) < len(self.classes) else []
        f1 = self.by_class["f1"][others]
        if len(others) == 1:
            found.append(f"  the one other class: F1 {f1[0]:.4f}")
        elif others:
            found.append(f"  the {len(others)} others: F1 from {f1.min():.4f} to {f1.max():.4f}, median {np.median(f1):.4f}")
        return found

    def _class_table(self) -> list[list[str]]:
        """The scores of the classes, of many the worst, as cells: a row with the head, then a row for each class."""
        few = len(self.classes) <= ALL_SHOWN
        chosen = list(range(len(self.classes))) if few else self.worst(WORST_SHOWN)
        shown = [name for name in CLASS_COLUMNS if name in self.by_class]
        head = ["class" if few else f"worst {len(chosen)} of {len(self.classes)} classes", *(CLASS_COLUMNS[name] for name in shown)]
        rows = [[shorten(self.classes[i], 32), *(number(self.by_class[name][i].item()) for name in shown)] for i in chosen]
        return [head, *rows]

    # compared with others

    @property
    def leading(self) -> tuple[str, float, tuple[float, float]]:
        """The accuracy."""
        return "accuracy", self.accuracy, self.interval

    @property
    def beside(self) -> Mapping[str, float]:
        """ROC-AUC, log loss and calibration error."""
        return {"ROC-AUC": self.scores["roc_auc"], "log loss": self.scores["log_loss"], "ECE": self.scores["calibration_error"]}

    @property
    def rank(self) -> tuple[float, ...]:
        """Accuracy, then log loss."""
        return self.accuracy, -self.scores["log_loss"]

    def unlike(self, other: Self, *, mine: str, theirs: str) -> str | None:
        """That one has images of several labels and the other has not, or that they have different classes."""
        if (several := self.outcome.link.independent) != other.outcome.link.independent:
            first, second = (mine, theirs) if several else (theirs, mine)
            return f"In {first} an image may have several labels, in {second} it has one: the two cannot be compared."
        return unlike_classes(self.classes, other.classes, mine=mine, theirs=theirs)

    def part(self, rows: NDArray[np.int64], *, like: Self) -> Self:
        """The evaluation of some images, with the classes in the order of another one."""
        columns, targets = [self.classes.index(name) for name in like.classes], self.outcome.targets
        targets = targets[:, columns] if self.outcome.link.independent else np.argsort(columns)[targets]
        found = evaluate(self.outcome.probabilities[rows][:, columns], targets[rows], like.classes)
        return replace(self, **vars(found))

    def same_truth(self, other: Self) -> NDArray[np.bool_]:
        """Which images have the same labels."""
        return self.outcome.link.correct(self.outcome.targets, other.outcome.targets)

    def differences(self, other: Self) -> Differences:
        """Of accuracy, by McNemar's test, and of the area under the ROC curve, by DeLong's."""
        first, second = self.outcome, other.outcome
        defined = not math.isnan(self.scores["roc_auc"])
        area = metrics.auc_difference(first.indicators, first.probabilities, second.probabilities) if defined else None
        accuracy = metrics.paired_difference(first.correct, second.correct)
        return Differences((Difference.of_accuracy(accuracy), Difference.of_auc(area)))

    def _repr_html_(self) -> str:
        low, high = self.interval
        head, *rows = self._class_table()
        heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        remarks = "".join(f"<p>{escape(remark)}</p>" for remark in self.remarks())
        return (
            f"<p><strong>accuracy {percent(self.accuracy)}</strong> (95 % interval {percent(low)} to {percent(high)}) "
            f"on {plural(self.images, 'image')}</p>"
            f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>{remarks}"
        )


def evaluate(probabilities: NDArray[Any], targets: NDArray[Any], classes: Sequence[str]) -> ClassEvaluation:
    """Judge `probabilities`, float (n, k), by `targets`: int (n,) indices into `classes`, or bool (n, k) for multi-label.

    Some classes may be without images; then what cannot be known is nan. Raises ParameterError for no images at all, shapes that do not fit
    together, targets outside the classes, and values that are no probabilities.
    """
    classes = tuple(classes)
    outcome = Outcome(*_checked(np.asarray(probabilities), np.asarray(targets), classes))
    scores: dict[str, float] = {}
    by_class: dict[str, NDArray[Any]] = {}
    for evaluator in MULTI_LABEL if outcome.link.independent else SINGLE_LABEL:
        for name, value in evaluator(outcome):
            if isinstance(value, np.ndarray):
                by_class[name] = value
            else:
                scores[name] = value
    interval = metrics.accuracy_interval(round(scores["accuracy"] * len(targets)), len(targets))
    return ClassEvaluation(classes, outcome, scores, by_class, interval)


def _checked(probabilities: NDArray[Any], targets: NDArray[Any], classes: tuple[str, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return targets and probabilities, or say what is wrong with them."""
    count = len(classes)
    if len(set(classes)) != count:
        raise ParameterError(f"classes must have different names, and {sorted({c for c in classes if classes.count(c) > 1})} stand twice.")
    if probabilities.ndim != 2 or probabilities.shape[1] != count:
        raise ParameterError(f"probabilities must have the shape (images, {count}), one column for each class; got {probabilities.shape}.")
    if len(probabilities) == 0:
        raise ParameterError("there are no images to evaluate. Give at least one labelled image.")
    several = targets.dtype == bool and targets.ndim == 2
    fits = targets.shape == probabilities.shape if several else targets.ndim == 1 and len(targets) == len(probabilities)
    if not fits or targets.dtype.kind not in "biu" or (targets.dtype == bool and not several):
        raise ParameterError(
            f"targets must be integers of the shape ({len(probabilities)},), indices of classes, or, for multi-label data, bool of the "
            f"shape {probabilities.shape}; got {targets.dtype} of the shape {targets.shape}."
        )
    if not several and (targets.min() < 0 or targets.max() >= count):
        raise ParameterError(
            f"targets must lie between 0 and {count - 1}, as there are {plural(count, 'class')}; "
            f"they go from {targets.min()} to {targets.max()}."
        )
    probabilities = probabilities.astype(np.promote_types(probabilities.dtype, np.float32), copy=False)
    if not np.isfinite(probabilities).all() or probabilities.min() < -1e-6 or probabilities.max() > 1 + 1e-3:
        raise ParameterError("probabilities must lie between 0 and 1; give the output of predict_proba, not logits.")
    if not several and np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
        raise ParameterError("the probabilities of each image must sum to 1; for multi-label data, give targets as a bool matrix.")
    return targets if several else targets.astype(np.int64, copy=False), probabilities


def _plain(value: Any) -> float | None:
    """Return a number for JSON, where nan does not exist."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value
