"""The evaluators: each looks at an Outcome and yields (name, value) pairs.

A value is a float, one score of the whole, or an array (k,), one score for each class. A new score is a new line in an evaluator, or a new
evaluator in a table at the end of this file; everything that shows or stores an evaluation finds it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart import metrics

SCORE_WORDS = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "most_frequent_class_accuracy": "always the most frequent class",
    "top_5_accuracy": "among the first five", "hamming_loss": "wrong labels (Hamming loss)",
    "f1_micro": "F1, all labels together (micro)", "f1_macro": "F1, mean of classes (macro)", "log_loss": "log loss",
    "brier_score": "Brier score", "roc_auc": "ROC-AUC", "average_precision": "average precision",
    "calibration_error": "calibration error (ECE)",
}  # fmt: skip
"""The scores that are shown, in this order, and what they are called; all others are stored only."""

CLASS_COLUMNS = {"images": "images", "precision": "precision", "recall": "recall", "f1": "F1", "roc_auc": "ROC-AUC"}
"""The scores of each class that are shown, in this order."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a model said about images with known labels: targets int64 (n,) or, multi-label, bool (n, k); probabilities float (n, k)."""

    targets: NDArray[Any]
    probabilities: NDArray[np.floating[Any]]

    @property
    def link(self) -> metrics.Link:
        """Whether an image has one label, or any number of them."""
        return metrics.link_of(self.targets)

    @cached_property
    def predicted(self) -> NDArray[Any]:
        """The decisions of the link: the most probable class, int64 (n,); of several labels those assigned, bool (n, k)."""
        return self.link.decisions(self.probabilities)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Which images are right, bool (n,); of several labels, with all of them."""
        return self.link.correct(self.predicted, self.targets)

    @cached_property
    def indicators(self) -> NDArray[np.bool_]:
        """Which image has which label, bool (n, k)."""
        return metrics.indicators(self.targets, count=self.probabilities.shape[1])

    @property
    def statements(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The confidence of each statement, and whether it came true: of the class named (n,); multi-label: of each label (n * k,)."""
        if self.link.independent:
            return self.probabilities.ravel().astype(np.float64), self.targets.ravel()
        return self.probabilities.max(axis=1).astype(np.float64), self.correct

    @cached_property
    def class_scores(self) -> metrics.ClassScores:
        """Precision, recall and F1 of each class."""
        return metrics.precision_recall_f1(self.targets, self.predicted, count=self.probabilities.shape[1])


Evaluator = Callable[[Outcome], Iterator[tuple[str, float | NDArray[Any]]]]


def correctness(outcome: Outcome) -> Iterator[tuple[str, float]]:
    """How often the class is right; and how often it would be for the most frequent class of these images, always."""
    yield "accuracy", metrics.accuracy(outcome.targets, outcome.predicted)
    yield "balanced_accuracy", metrics.class_average(outcome.class_scores.recall, outcome.class_scores.images)
    yield "most_frequent_class_accuracy", float(outcome.class_scores.images.max() / len(outcome.targets))
    if outcome.probabilities.shape[1] > 10:
        yield "top_5_accuracy", metrics.top_k_accuracy(outcome.targets, outcome.probabilities, k=5)


def label_correctness(outcome: Outcome) -> Iterator[tuple[str, float]]:
    """Multi-label: how often all labels of an image are right, how often a single one is wrong, and all labels thrown together."""
    yield "accuracy", metrics.accuracy(outcome.targets, outcome.predicted)
    yield "hamming_loss", metrics.hamming_loss(outcome.targets, outcome.predicted)
    names = ("precision_micro", "recall_micro", "f1_micro")
    yield from zip(names, metrics.micro_scores(outcome.targets, outcome.predicted), strict=True)


def class_scores(outcome: Outcome) -> Iterator[tuple[str, float | NDArray[Any]]]:
    """Precision, recall and F1 of each class, and their averages by class (macro) and by image (weighted)."""
    found = outcome.class_scores
    yield "images", found.images
    for name, values in (("precision", found.precision), ("recall", found.recall), ("f1", found.f1)):
        yield name, values
        yield f"{name}_macro", metrics.class_average(values, found.images)
        yield f"{name}_weighted", metrics.class_average(values, found.images, weighted=True)


def probability_scores(outcome: Outcome) -> Iterator[tuple[str, float | NDArray[Any]]]:
    """How good the probabilities are as probabilities.

    Expected calibration error, 15 bins: of the class that is named; multi-label: of the probability of every label. ROC-AUC and average
    precision: of each class against all others, and the mean over classes that have both kinds of images.
    """
    yield "log_loss", metrics.log_loss(outcome.targets, outcome.probabilities)
    yield "brier_score", metrics.brier_score(outcome.targets, outcome.probabilities)
    for name, score in (("roc_auc", metrics.roc_auc), ("average_precision", metrics.average_precision)):
        values = score(outcome.indicators, outcome.probabilities)
        yield name, values
        yield name, metrics.defined_mean(values)
    yield "calibration_error", metrics.expected_calibration_error(*outcome.statements)


SINGLE_LABEL: tuple[Evaluator, ...] = (correctness, class_scores, probability_scores)
MULTI_LABEL: tuple[Evaluator, ...] = (label_correctness, class_scores, probability_scores)
