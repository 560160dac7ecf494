"""`Annotations`: what a folder, list, archive or public set says of its inputs, whatever the task; and how it becomes a `Dataset`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from headstart.data.dataset import Dataset, Images
from headstart.data.targets import Targets
from headstart.errors import DataError

Labels = list[str] | list[tuple[str, ...]]

LABEL = "label"
"""The column of what is to be learned: class names, or whatever the task reads out of its cells."""

PART_NAMES = {
    **dict.fromkeys(("train", "training", "trn", "training_set", "train_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "validation_set", "val_set"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "test_set"), "test"),
}
"""How people write the parts of a data set, in lower case."""


@dataclass(frozen=True)
class Column:
    """One thing that the data say of each input.

    Attributes:
        values: as read for classification: a text for each input, or a tuple of texts where there may be several.
        cells: the same as they stand in the data, for tasks that read them otherwise.
        origin: where it came from, for messages: "the column 'label' of list.csv".
    """

    values: list[Any]
    cells: list[Any]
    origin: str

    def take(self, rows: Sequence[int]) -> Column:
        """The column for some inputs."""
        return Column([self.values[i] for i in rows], [self.cells[i] for i in rows], self.origin)

    def __add__(self, other: Column) -> Column:
        return Column(self.values + other.values, self.cells + other.cells, self.origin)


@dataclass
class Annotations:
    """Inputs and what the data say of them, on their way to a `Dataset`.

    Attributes:
        images: one path for each image, or uint8 (n, H, W, 3).
        columns: what is said of each input, by name; `LABEL` is always there.
        parts: "train", "val", "test" or "" for each image.
        source: what the user gave.
        test_source: what the user gave as separate test data, if any.
        groups: one text for each image, or None.
        root: the folder that names are relative to.
        notes: what was guessed, passed over or repaired, a sentence each.
    """

    images: Images
    columns: dict[str, Column]
    parts: list[str]
    source: str
    test_source: str = ""
    groups: list[str] | None = None
    root: Path | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def labelled(cls, images: Images, labels: Labels, *, origin: str, cells: list[Any] | None = None, **further: Any) -> Annotations:
        """Inputs with a column of labels."""
        values = cast("list[Any]", labels)
        return cls(images, {LABEL: Column(values, values if cells is None else cells, origin)}, **further)

    @property
    def labels(self) -> Labels:
        """The column of labels."""
        return self.columns[LABEL].values

    @property
    def several(self) -> bool:
        """Whether an input may have several labels."""
        return bool(self.labels) and isinstance(self.labels[0], tuple)

    def label_counts(self, parts: Sequence[str] | None = None) -> Counter[str]:
        """Return how many inputs have each label, of some parts only if `parts` is given."""
        chosen = [label for label, part in zip(self.labels, self.parts, strict=True) if parts is None or part in parts]
        if self.several:
            return Counter(name for several in chosen for name in several)
        return Counter(cast("list[str]", chosen))

    def to_several(self) -> None:
        """Make labels tuples, so that they can stand beside those of inputs with several."""
        if not self.several:
            old = self.columns[LABEL]
            self.columns[LABEL] = Column([(label,) for label in old.values], old.cells, old.origin)

    def source_of(self, part: str) -> str:
        """What the user gave for this part."""
        return self.test_source if self.test_source and part == "test" else self.source


def dataset_of(found: Annotations, targets: Targets) -> Dataset:
    """The data set of these inputs with the targets that a task read out of them."""
    return Dataset(
        images=found.images,
        targets=targets,
        parts=np.array(found.parts, dtype="U5"),
        groups=None if found.groups is None else np.array(found.groups, dtype=np.str_),  # type: ignore[arg-type]
        source=found.source,
        notes=tuple(found.notes),
        root=found.root,
    )


def join(training: Annotations, test: Annotations) -> Annotations:
    """Put the images of a separate test set beside the training data.

    Raises:
        DataError: arrays beside paths, arrays of different sizes, or images that stand on both sides.
    """
    kept = [i for i, part in enumerate(training.parts) if part != "test"]
    notes = [*training.notes, *(f"Test data: {note}" for note in test.notes)]
    if len(kept) < len(training.parts):
        notes.append(
            f"{len(training.parts) - len(kept)} images of the test part of {training.source} are left out: {test.source} is the test data."
        )
    chosen = [i for i, part in enumerate(test.parts) if part == "test"] or list(range(len(test.parts)))
    if len(chosen) < len(test.parts):
        notes.append(f"Of {test.source} only its own test part is used ({len(chosen)} of {len(test.parts)} images).")
    if training.several or test.several:
        training.to_several()
        test.to_several()
    groups = None
    if training.groups is not None or test.groups is not None:
        first = training.groups or [f"training image {i}" for i in range(len(training.parts))]
        second = test.groups or [f"test image {i}" for i in range(len(test.parts))]
        groups = [first[i] for i in kept] + [second[i] for i in chosen]
    shared = [name for name in training.columns if name in test.columns]
    return Annotations(
        images=_join_images(training, kept, test, chosen),
        columns={name: training.columns[name].take(kept) + test.columns[name].take(chosen) for name in shared},
        parts=[training.parts[i] or "train" for i in kept] + ["test"] * len(chosen),
        groups=groups,
        source=training.source,
        test_source=test.source,
        root=training.root,
        notes=notes,
    )


def _join_images(training: Annotations, kept: list[int], test: Annotations, chosen: list[int]) -> Images:
    if isinstance(training.images, np.ndarray) and isinstance(test.images, np.ndarray):
        if training.images.shape[1:] != test.images.shape[1:]:
            shapes = f"{training.images.shape[1:3]} and {test.images.shape[1:3]}"
            raise DataError(f"training and test images are arrays of different height and width: {shapes}; resize one of them")
        return np.concatenate([training.images[kept], test.images[chosen]])
    if isinstance(training.images, np.ndarray) or isinstance(test.images, np.ndarray):
        raise DataError(
            "training and test data must both be files or both be arrays; save the arrays as image files, or read both as arrays"
        )
    first, second = [training.images[i] for i in kept], [test.images[i] for i in chosen]
    shared = {path.absolute() for path in first} & {path.absolute() for path in second}
    if shared:
        example = min(map(str, shared))
        raise DataError(
            f"{len(shared)} images stand in the training data and in the test data, for example {example}: the score would say nothing. "
            "Give a test folder with other images, or no --test at all: then a part is held out."
        )
    return (*first, *second)
