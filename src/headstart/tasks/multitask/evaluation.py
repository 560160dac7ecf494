"""The evaluation of several columns of labels: the scores of each, and the mean of their accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from headstart.metrics import mean_accuracy_interval
from headstart.metrics.differences import Difference, Differences, resampled_differences
from headstart.metrics.scores import ratio
from headstart.tasks.classification.evaluation import ClassEvaluation
from headstart.tasks.comparable import Comparable
from headstart.text import enumeration, number, pad, plural, shorten, visible, width

SHOWN = {"accuracy": "accuracy", "most_frequent_class_accuracy": "most frequent", "f1_macro": "macro F1", "log_loss": "log loss"}
"""The scores of each column that are named beside each other, and what they are called there."""


@dataclass(frozen=True, eq=False)
class ColumnsEvaluation(Comparable):
    """All scores of one set of images.

    Attributes:
        columns: the evaluation of each column of labels, on the images that have a label there; a column without any is not there.
        rows: by column the positions of these images among all, int64 (m,), ascending.
        images: how many images have a label in any of the columns.
    """

    columns: Mapping[str, ClassEvaluation]
    rows: Mapping[str, NDArray[np.int64]]
    images: int

    correct_rows: None = None

    @property
    def mean_accuracy(self) -> float:
        """The mean of the accuracies of the columns, each counting the same."""
        return float(np.mean([one.accuracy for one in self.columns.values()]))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean accuracy, see `headstart.metrics.mean_accuracy_interval`."""
        return mean_accuracy_interval(*self._correct())

    @cached_property
    def all_right(self) -> float:
        """The share of images all of whose labels are right."""
        correct, known = self._correct()
        return float((correct | ~known)[known.any(axis=1)].all(axis=1).mean())

    def _correct(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Bool (n, c) twice: which labels are right, and which are known."""
        count = max(self.images, 1 + max(int(rows.max()) for rows in self.rows.values()))
        correct, known = np.zeros((2, count, len(self.columns)), np.bool_)
        for place, (name, one) in enumerate(self.columns.items()):
            correct[self.rows[name], place], known[self.rows[name], place] = one.correct_rows, True
        return correct, known

    @property
    def headline(self) -> tuple[str, float, tuple[float, float]]:
        """The mean accuracy with its 95 % interval."""
        return "mean_accuracy", self.mean_accuracy, self.interval

    @property
    def scores(self) -> dict[str, float]:
        """The mean accuracy, the share of images with all labels right, and all scores of the columns, which begin with their name."""
        own = {f"{name}.{score}": value for name, one in self.columns.items() for score, value in one.scores.items()}
        return {"mean_accuracy": self.mean_accuracy, "all_right": self.all_right, **own}

    def summary(self, part: str = "test") -> str:
        """The result in one line."""
        low, high = self.interval
        each = ", ".join(f"{shorten(name, 30)} {one.accuracy:.4f}" for name, one in self.columns.items())
        return f"{part} mean accuracy {self.mean_accuracy:.4f} [{low:.4f}, {high:.4f}] on {plural(self.images, 'image')}: {each}"

    def lines(self, title: str = "test") -> list[str]:
        """The evaluation as lines of plain text: the columns beside each other, then each alone."""
        low, high = self.interval
        found = [
            f"{title}: {plural(self.images, 'image')}, {plural(len(self.columns), 'column')} of labels",
            f"  mean accuracy {self.mean_accuracy:.4f}  95 % interval [{low:.4f}, {high:.4f}]",
            f"  all labels right {self.all_right:.4f}",
            "",
            *self._table(),
        ]
        for name, one in self.columns.items():
            _, *lines = one.lines(title)
            found += ["", f"{name}: {plural(one.images, 'image')}, {plural(len(one.classes), 'class')}", *lines]
        return found

    def _table(self) -> list[str]:
        column = max(width(name) for name in ("column", *self.columns))
        rows = [f"  {pad('column', column)}  {'images':>6}" + "".join(f"  {word:>13}" for word in SHOWN.values())]
        for name, one in self.columns.items():
            scores = (number(one.scores.get(score, math.nan)) for score in SHOWN)
            rows.append(f"  {pad(name, column)}  {one.images:>6}" + "".join(f"  {value:>13}" for value in scores))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single images as data for JSON; what is undefined is None."""
        return {
            "images": self.images,
            "mean_accuracy": self.mean_accuracy,
            "mean_accuracy_interval": list(self.interval),
            "mean_accuracy_interval_method": "Wilson, effective number of images, 95 %",
            "all_right": self.all_right,
            "columns": {name: one.to_dict() for name, one in self.columns.items()},
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())

    # compared with others

    @property
    def leading(self) -> tuple[str, float, tuple[float, float]]:
        """The mean accuracy."""
        return "mean accuracy", self.mean_accuracy, self.interval

    @property
    def beside(self) -> Mapping[str, float]:
        """The accuracy of each column."""
        return {shorten(name, 20): one.accuracy for name, one in self.columns.items()}

    @property
    def rank(self) -> tuple[float, ...]:
        """The mean accuracy."""
        return (self.mean_accuracy,)

    def unlike(self, other: Self, *, mine: str, theirs: str) -> str | None:
        """That they have different columns, or a column of different classes."""
        if set(self.columns) != set(other.columns):
            own, others = (enumeration([visible(name) for name in one.columns]) for one in (self, other))
            said = f"{mine} was tested on {own}, and {theirs} on {others}"
            return f"The runs have different columns: {said}. Compare runs with the same columns."
        reasons = (one.unlike(other.columns[name], mine=mine, theirs=theirs) for name, one in self.columns.items())
        return next(filter(None, reasons), None)

    def part(self, rows: NDArray[np.int64], *, like: Self) -> Self:
        """The evaluation of some images, with columns and classes in the order of another one.

        A column without a label there is left out.
        """
        columns, places = dict[str, ClassEvaluation](), dict[str, NDArray[np.int64]]()
        for name, given in like.columns.items():
            at = {row: index for index, row in enumerate(self.rows[name].tolist())} if name in self.rows else {}
            kept = np.array([place for place, row in enumerate(rows.tolist()) if row in at], np.int64)
            if len(kept):
                columns[name] = self.columns[name].part(np.array([at[row] for row in rows[kept].tolist()], np.int64), like=given)
                places[name] = kept
        return replace(self, columns=columns, rows=places, images=len(rows))

    def same_truth(self, other: Self) -> NDArray[np.bool_]:
        """Which images have the same labels, and the same ones missing."""
        same = np.ones(self.images, np.bool_)
        for name in {**self.columns, **other.columns}:
            own, others = (one.rows.get(name, np.zeros(0, np.int64)) for one in (self, other))
            same[np.setxor1d(own, others)] = False
            both, first, second = np.intersect1d(own, others, return_indices=True)
            if len(both):
                outcomes = self.columns[name].outcome, other.columns[name].outcome
                same[both] &= outcomes[0].link.correct(outcomes[0].targets[first], outcomes[1].targets[second])
        return same

    def differences(self, other: Self) -> Differences:
        """Of the mean accuracy and of the accuracy of each column, by resampling images and by exchanging them between the two."""
        count = len(self.columns)

        def scores(sums: NDArray[np.float64]) -> NDArray[np.float64]:
            each = ratio(sums[:, :count], sums[:, count:])
            return np.concatenate([each.mean(axis=1, keepdims=True), each], axis=1)

        one, two = (np.concatenate([correct & known, known], axis=1) for correct, known in (self._correct(), other._correct()))
        found = resampled_differences(one, two, scores)
        mean, *each = (
            Difference(
                score="accuracy" if index else "mean_accuracy", word="accuracy" if index else "mean accuracy", points=True,
                value=float(found.values[index]), interval=found.interval(index), p_value=float(found.p_values[index]),
                test="randomization test",
            )
            for index in range(count + 1)
        )  # fmt: skip
        return Differences((mean,), dict(zip(self.columns, each, strict=True)))
