"""Properties that reveal the class without looking at the picture: file format, size, shape, colour mode, compression, frame, file size.

Where there is one, a classifier may learn how the pictures were made instead of what they show. It is measured, not guessed: a
small decision tree is cross-validated on each of these properties alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.audit.facts import Fact, Facts
from headstart.audit.findings import Finding, Severity
from headstart.data import Dataset, Labels

Columns = npt.NDArray[np.float64]

_AT_MOST = 4000  # images measured: enough for an error below one per cent
_PER_CLASS = 10  # smaller classes are left out
_FOLDS = 3
_NOTE, _WARNING = 0.2, 0.5  # share of the way from guessing to certainty
_CLEARLY = 4.0  # standard errors above guessing
_RARE = 0.05  # kinds of frames in a smaller share of a class are not listed


@dataclass(frozen=True)
class Property:
    """What is measured: `columns` (n, p) of the rows (facts of files, or texts) that `known` holds for, and the words for it."""

    name: str
    columns: Callable[[Sequence[Any]], Columns]
    summary: Callable[[Sequence[Any]], str]
    advice: str
    known: Callable[[Any], bool] = lambda row: True
    follows_from: tuple[str, ...] = ()  # not worth a word where one of these was found
    at_most: Severity = "warning"


@dataclass(frozen=True)
class Measured:
    """How well a property tells the class, out of sample."""

    recall: Columns  # (k,), the share of each class that is recognised
    mistaken: Columns  # (k,), the share of the other images that is taken for it
    rows: tuple[Any, ...]  # those that were measured
    labels: npt.NDArray[np.int64]  # their classes
    classes: npt.NDArray[np.int64]  # (k,), the values of `labels`

    @property
    def score(self) -> float:
        """Balanced accuracy."""
        return float(self.recall.mean())

    @property
    def guess(self) -> float:
        """What guessing reaches."""
        return 1 / len(self.classes)

    @property
    def gain(self) -> float:
        """The share of the way from guessing to certainty."""
        return (self.score - self.guess) / (1 - self.guess)

    @property
    def clear(self) -> bool:
        """Whether the score is far and surely above guessing."""
        counts = np.unique(self.labels, return_counts=True)[1]
        smoothed = (self.recall * counts + 1) / (counts + 2)  # so that a recall of 0 or 1 is not without error
        error = float(np.sqrt((smoothed * (1 - smoothed) / counts).sum()) / len(counts))
        return self.gain >= _NOTE and self.score - self.guess >= _CLEARLY * error

    @property
    def given_away(self) -> list[int]:
        """The positions of the classes that are distinguished from all others, the plainest first: the mean over many classes hides one."""
        apart = self.recall - self.mistaken
        return [int(j) for j in np.argsort(-apart, kind="stable") if apart[j] >= _WARNING]


def find_shortcuts(dataset: Dataset, facts: Facts, *, seed: int = 0) -> list[Finding]:
    """Return a finding for each property that alone predicts the class, or one class of many, clearly better than chance.

    The properties: file format, image size, aspect ratio, colour mode, JPEG compression (among JPEGs), border (among the images whose
    frame was measured) and file size. What follows from another property that was found is not reported again. Nothing is measured for
    data with several labels per image.
    """
    if not isinstance(dataset.targets, Labels):
        return []
    rows = [row if not row.reason and row.width > 0 else None for row in facts.rows]
    return telling_properties(_PROPERTIES, dataset, rows, seen="looking at the picture", seed=seed)


def telling_properties(
    properties: Sequence[Property], dataset: Dataset, rows: Sequence[Any], *, seen: str, seed: int = 0
) -> list[Finding]:  # fmt: skip
    """Return a finding for each property of `rows`, one for each input and None where it has none, that alone predicts the class.

    `seen` says what a prediction from a property does without.
    """
    found: dict[str, Finding] = {}
    for wanted in properties:
        measured = None if found.keys() & set(wanted.follows_from) else _measure(wanted, dataset, rows, seed)
        if measured and (measured.gain >= _WARNING or (wanted.at_most == "warning" and (measured.clear or measured.given_away))):
            found[wanted.name] = _finding(wanted, measured, dataset.classes, seen)
    return list(found.values())


def _measure(wanted: Property, dataset: Dataset, every: Sequence[Any], seed: int) -> Measured | None:
    """Measure one property on the classes that have enough images; None where there are not two of them or all images are the same."""
    rows = rows_measured(np.array([row is not None and wanted.known(row) for row in every], bool), dataset, seed)
    labels = dataset.targets.array[rows]
    classes = np.unique(labels)
    if len(classes) < 2:
        return None
    chosen = tuple(every[i] for i in rows)
    columns = wanted.columns(chosen)
    if (columns == columns[0]).all():
        return None
    return measured_by(_cross_validated(columns, labels, seed), labels, chosen)


def measured_by(told: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], rows: Sequence[Any]) -> Measured:
    """How well what was `told` out of sample (n,) fits the labels (n,)."""
    classes = np.unique(labels)
    recall = np.array([(told[labels == name] == name).mean() for name in classes])
    mistaken = np.array([(told[labels != name] == name).mean() for name in classes])
    return Measured(recall, mistaken, tuple(rows), labels, classes)


def rows_measured(usable: npt.NDArray[np.bool_], dataset: Dataset, seed: int) -> npt.NDArray[np.int64]:
    """The usable rows of classes with enough of them, ascending; of many a random part."""
    rows = _of_large_classes(np.flatnonzero(usable), dataset.targets.array)
    if len(rows) > _AT_MOST:
        drawn = np.sort(np.random.default_rng(seed).choice(rows, _AT_MOST, replace=False))
        rows = _of_large_classes(drawn, dataset.targets.array)
    return rows


def _of_large_classes(rows: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return rows[np.bincount(targets[rows])[targets[rows]] >= _PER_CLASS]


def _finding(wanted: Property, measured: Measured, classes: tuple[str, ...], seen: str) -> Finding:
    apart = measured.given_away
    severity: Severity = "warning" if (measured.gain >= _WARNING or apart) and wanted.at_most == "warning" else "note"
    if measured.clear:
        told = f"the class can be predicted in {measured.score:.0%} of cases (chance: {measured.guess:.0%}; mean over classes)"
    else:
        named = ", ".join(
            f"{classes[measured.classes[j]]!r} ({measured.recall[j]:.0%} of it; {measured.mistaken[j]:.0%} of the others are taken for it)"
            for j in apart[:3]
        )
        told = f"{len(apart)} of {len(classes)} classes can be distinguished from all others: {named}"
    message = (
        f"From the {wanted.name} alone, without {seen}, {told}. A classifier may learn this instead of the content, and "
        f"fail elsewhere. {wanted.advice}."
    )
    examples = []
    for j in sorted(range(len(measured.classes)), key=lambda j: 0 if measured.clear else -(j in apart)):
        members = [row for row, label in zip(measured.rows, measured.labels, strict=True) if label == measured.classes[j]]
        examples.append(f"{classes[measured.classes[j]]}: {wanted.summary(members)}")
    return Finding("shortcut", severity, message, tuple(examples), len(examples))


def _cross_validated(columns: Columns, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Return what a small tree says of each image without having seen it."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=5, min_samples_leaf=5, class_weight="balanced", random_state=seed)
    return np.asarray(cross_val_predict(tree, columns, labels, cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)))


def one_hot(values: Sequence[str]) -> Columns:
    """A column for each of the values that there are, float64 (n, values)."""
    names, index = np.unique(values, return_inverse=True)
    return np.eye(len(names))[index]


def _stacked(rows: Sequence[Fact], *values: Callable[[Fact], float]) -> Columns:
    return np.array([[value(row) for value in values] for row in rows], np.float64)


def shares(texts: Sequence[str], *, shown: int = 3) -> str:
    """The commonest of some texts and the share of each, such as ``JPEG 90%, PNG 10%``."""
    return ", ".join(f"{text} {count / len(texts):.0%}" for text, count in Counter(texts).most_common(shown))


def _size_summary(rows: Sequence[Fact]) -> str:
    texts = [f"{row.width}x{row.height}" for row in rows]
    if Counter(texts).most_common(1)[0][1] < len(rows) / 10:
        return f"median {np.median([row.width for row in rows]):.0f}x{np.median([row.height for row in rows]):.0f}"
    return shares(texts)


def _compression_columns(rows: Sequence[Fact]) -> Columns:
    return np.column_stack([_stacked(rows, lambda row: row.quality), one_hot([row.sampling for row in rows])])


def _compression_summary(rows: Sequence[Fact]) -> str:
    low, middle, high = np.quantile([row.quality for row in rows], [0.1, 0.5, 0.9])
    spread = f" ({low:.0f} to {high:.0f})" if round(low) < round(high) else ""
    return f"quality about {middle:.0f}{spread}, colours {shares([row.sampling or 'none' for row in rows], shown=2)}"


def _frame_columns(rows: Sequence[Fact]) -> Columns:
    frames = [row.frame for row in rows if row.frame is not None]
    return np.array([[frame.around, frame.across, frame.along, frame.grey] for frame in frames], np.float64)


def _frame_summary(rows: Sequence[Fact]) -> str:
    frames = [row.frame for row in rows if row.frame is not None]
    kinds = {
        "with a frame": [frame for frame in frames if frame.around],
        "with bars left and right": [frame for frame in frames if frame.across and not frame.along],
        "with bars at top and bottom": [frame for frame in frames if frame.along and not frame.across],
    }
    told = []
    for name, members in kinds.items():
        if len(members) >= _RARE * len(frames):
            wide = np.median([frame.around or max(frame.across, frame.along) for frame in members])
            grey = np.median([frame.grey for frame in members])
            told.append(f"{len(members) / len(frames):.0%} {name} (median {wide:.0f} pixels wide, brightness {grey:.0f} of 255)")
    without = sum(not frame.across and not frame.along for frame in frames)
    return ", ".join([*told, *([f"{without / len(frames):.0%} without"] if without else [])])


_PROPERTIES = (
    Property(
        "file format", lambda rows: one_hot([row.format for row in rows]), lambda rows: shares([row.format for row in rows]),
        "Save all images in one format",
    ),
    Property(
        "image size", lambda rows: _stacked(rows, lambda row: row.width, lambda row: row.height), _size_summary,
        "Crop or resize all images to one size",
    ),
    Property(
        "aspect ratio", lambda rows: _stacked(rows, lambda row: row.width / row.height),
        lambda rows: f"median {np.median([row.width / row.height for row in rows]):.2f} (width / height)",
        "Crop all images to one shape; squeezing them leaves a trace",
    ),
    Property(
        "colour mode", lambda rows: one_hot([row.mode for row in rows]), lambda rows: shares([row.mode for row in rows]),
        "Save all images in one colour mode",
    ),
    Property(
        "JPEG compression", _compression_columns, _compression_summary,
        "Save all images again with the same program at one quality, the lowest among them", known=lambda row: row.quality > 0,
    ),
    Property(
        "border", _frame_columns, _frame_summary, "Cut the border off, from all images", known=lambda row: row.frame is not None
    ),
    Property(
        "file size", lambda rows: _stacked(rows, lambda row: row.size, lambda row: row.size / (row.width * row.height)),
        lambda rows: f"median {np.median([row.size for row in rows]):,.0f} bytes",
        "File size also follows from what a picture shows; make sure that all were saved with the same program and quality",
        follows_from=("file format", "image size", "colour mode", "JPEG compression", "border"), at_most="note",
    ),
)  # fmt: skip
