"""The evaluation of several columns of labels: the scores of each, and the mean of their accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.metrics import mean_accuracy_interval
from headstart.tasks.classification.evaluation import ClassEvaluation
from headstart.text import number, pad, plural, shorten, width

SHOWN = {"accuracy": "accuracy", "most_frequent_class_accuracy": "most frequent", "f1_macro": "macro F1", "log_loss": "log loss"}
"""The scores of each column that are named beside each other, and what they are called there."""


@dataclass(frozen=True, eq=False)
class ColumnsEvaluation:
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
        count = 1 + max(int(rows.max()) for rows in self.rows.values())
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
