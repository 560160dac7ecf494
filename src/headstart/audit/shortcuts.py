"""Properties that give the class away without a look at the picture: file format, image size, colour mode, file size.

Where there is one, a classifier may learn how the pictures were made instead of what they show. It is measured, not guessed: a
small decision tree is cross-validated on each of these properties alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headstart.audit.facts import Fact, Facts
from headstart.audit.findings import Finding, Severity
from headstart.datasets import Dataset

_AT_MOST = 4000  # images measured: enough for an error below one per cent
_PER_CLASS = 10  # smaller classes are left out
_FOLDS = 3
_NOTE, _WARNING = 0.2, 0.5  # share of the way from guessing to certainty
_CLEARLY = 4.0  # standard errors above guessing
_ADVICE = {
    "file format": "Save all images in one format",
    "image size": "Crop or resize all images to one size and shape",
    "colour mode": "Save all images in one colour mode",
    "file size": "File size also follows from what a picture shows; make sure that all were saved with the same program and quality",
}


def find_shortcuts(dataset: Dataset, facts: Facts, *, seed: int = 0) -> list[Finding]:
    """Return a finding for each property from which alone the class can be told clearly better than by guessing."""
    if dataset.multilabel or isinstance(dataset.images, np.ndarray):
        return []
    usable = np.array([not row.reason and row.width > 0 for row in facts.rows], bool)
    large = np.bincount(dataset.targets[usable], minlength=len(dataset.classes)) >= _PER_CLASS
    rows = np.flatnonzero(usable & large[dataset.targets])
    if len(rows) > _AT_MOST:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _AT_MOST, replace=False))
        large &= np.bincount(dataset.targets[rows], minlength=len(dataset.classes)) >= _PER_CLASS
        rows = rows[large[dataset.targets[rows]]]
    if large.sum() < 2:
        return []
    labels = dataset.targets[rows]
    chosen = [facts.rows[i] for i in rows]
    findings = []
    for name, columns in _properties(chosen).items():
        if (columns == columns[0]).all():
            continue
        score, error = _cross_validated(columns, labels, seed)
        guess = 1 / len(np.unique(labels))
        gain = (score - guess) / (1 - guess)
        if gain < (_WARNING if name == "file size" else _NOTE) or score - guess < _CLEARLY * error:
            continue
        findings.append(_finding(name, score, guess, gain, chosen, labels, dataset.classes))
    return findings


def _finding(
    name: str, score: float, guess: float, gain: float, rows: Sequence[Fact], labels: npt.NDArray[np.int64], classes: tuple[str, ...]
) -> Finding:
    severity: Severity = "warning" if gain >= _WARNING and name != "file size" else "note"
    message = (
        f"From the {name} alone, without a look at the picture, the class can be told in {score:.0%} of cases (guessing: {guess:.0%}; "
        f"mean over classes). A classifier may learn this instead of what the pictures show, and fail elsewhere. {_ADVICE[name]}."
    )
    examples = []
    for index in np.unique(labels):
        members = [row for row, label in zip(rows, labels, strict=True) if label == index]
        examples.append(f"{classes[index]}: {_summary(name, members)}")
    return Finding("shortcut", severity, message, tuple(examples), len(examples))


def _summary(name: str, rows: Sequence[Fact]) -> str:
    if name == "file size":
        return f"median {np.median([row.size for row in rows]):,.0f} bytes"
    texts = {
        "file format": [row.format for row in rows],
        "image size": [f"{row.width}x{row.height}" for row in rows],
        "colour mode": [row.mode for row in rows],
    }[name]
    common = Counter(texts).most_common(3)
    listed = ", ".join(f"{text} {count / len(rows):.0%}" for text, count in common)
    if name == "image size" and common[0][1] < len(rows) / 10:
        return f"median {np.median([row.width for row in rows]):.0f}x{np.median([row.height for row in rows]):.0f}"
    return listed


def _properties(rows: Sequence[Fact]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the columns (n, p) of each property."""
    width, height = (np.array([getattr(row, side) for row in rows], np.float64) for side in ("width", "height"))
    size = np.array([row.size for row in rows], np.float64)
    return {
        "file format": _one_hot([row.format for row in rows]),
        "image size": np.column_stack([width, height, width / height]),
        "colour mode": _one_hot([row.mode for row in rows]),
        "file size": np.column_stack([size, size / (width * height)]),
    }


def _one_hot(values: Sequence[str]) -> npt.NDArray[np.float64]:
    names, index = np.unique(values, return_inverse=True)
    return np.eye(len(names))[index]


def _cross_validated(columns: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], seed: int) -> tuple[float, float]:
    """Return balanced accuracy of a small tree, out of sample, and its standard error."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=5, min_samples_leaf=5, class_weight="balanced", random_state=seed)
    predicted = cross_val_predict(tree, columns, labels, cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=seed))
    names, counts = np.unique(labels, return_counts=True)
    recall = np.array([(predicted[labels == name] == name).mean() for name in names])
    smoothed = (recall * counts + 1) / (counts + 2)  # so that a recall of 0 or 1 is not without error
    return float(recall.mean()), float(np.sqrt((smoothed * (1 - smoothed) / counts).sum()) / len(names))
