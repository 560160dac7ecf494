"""`Annotations`: what a folder, list, archive or public set says of its inputs, whatever the task; and how it becomes a `Dataset`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from headstart.data.dataset import Dataset, Inputs, names_of
from headstart.data.targets import Targets
from headstart.errors import DataError, ParameterError, setting
from headstart.modalities import IMAGE, Modality

Labels = list[str] | list[tuple[str, ...]]

LABEL = "label"
"""The column of what is to be learned: class names, or whatever the task reads out of its cells."""

MASK = "mask"
"""The column of masks: something that opens lazily (`headstart.data.masks.MaskFile`), or None where an input has none."""

BOX = "boxes"
"""The column of boxes: what an annotation file says of them (`headstart.data.shapes.DrawnShapes`), or None where an input has none."""

_PART_NAMES = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), "test"),
}
_AFTER_PART = re.compile(r"[\W_]*(set|data|dataset|images?|imgs|files|photos|pictures|jpe?gs?|pngs?|split|part|folder|[0-9]+)[\W_]*$")


def part_of(name: str) -> str | None:
    """Return "train", "val" or "test" for the ways people write them ("Training set", "seg_train", "val2017"), else None."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.strip()).casefold()  # PublicTest
    text = re.sub(r"(hold|held)[\W_]+out", r"\1out", text)
    while (shorter := _AFTER_PART.sub("", text)) != text:
        text = shorter
    return _PART_NAMES.get(re.split(r"[\W_]+", text)[-1])


@dataclass(frozen=True)
class Column:
    """One thing that the data say of each input."""

    values: list[Any]  # as read for classification: a text for each input, or a tuple of texts where there may be several
    cells: list[Any]  # the same as in the data, for tasks that read them otherwise
    origin: str  # where it came from, for messages: "the column 'label' of list.csv"

    def take(self, rows: Sequence[int]) -> Column:
        """The column for some inputs."""
        return Column([self.values[i] for i in rows], [self.cells[i] for i in rows], self.origin)

    def __add__(self, other: Column) -> Column:
        return Column(self.values + other.values, self.cells + other.cells, self.origin)


def has_sets(column: Column) -> bool:
    """Whether an input may have several labels in a column."""
    return isinstance(next((value for value in column.values if value is not None), None), tuple)


@dataclass
class Annotations:
    """Inputs and what the data say of them, on their way to a `Dataset`."""

    inputs: Inputs  # one path for each image, or uint8 (n, H, W, 3); or one string for each text
    columns: dict[str, Column]  # what is said of each input, by name; those that are `learned` are always there
    parts: list[str]  # "train", "val", "test" or "" for each image
    source: str  # what the user gave
    test_source: str = ""  # what the user gave as separate test data, if any
    groups: list[str] | None = None  # one text for each image
    grouped_by: str = ""  # where the groups came from, for messages
    root: Path | None = None  # the folder that names are relative to
    notes: list[str] = field(default_factory=list)  # what was guessed, passed over or repaired, a sentence each
    learned: tuple[str, ...] = (LABEL,)  # the columns of labels that are to be learned; of several, a value that is None is a missing label
    reason: str = ""  # why there is nothing to learn from, where no column of labels is
    background: str = ""  # what the user calls that of which the data say nothing, such as pixels in no shape
    modality: Modality = IMAGE  # what the inputs are

    @classmethod
    def labelled(cls, inputs: Inputs, labels: Labels, *, origin: str, **further: Any) -> Annotations:
        """Inputs with a column of labels."""
        values = cast("list[Any]", labels)
        return cls(inputs, {LABEL: Column(values, values, origin)}, **further)

    @property
    def labels(self) -> Labels:
        """The column of labels; DataError where there is none, or an input has none."""
        values: list[Any] = self.columns[LABEL].values if LABEL in self.columns else [None]
        if not self.learned and None in values:
            raise DataError(self.reason or f"{self.source}: nothing says which class {self.modality.article} {self.modality.noun} has.")
        return values

    @property
    def several(self) -> bool:
        """Whether an input may have several labels."""
        return LABEL in self.columns and has_sets(self.columns[LABEL])

    @property
    def masked(self) -> bool:
        """Whether the inputs have masks and no labels, or all of them both."""
        return MASK in self.columns and (LABEL not in self.columns or None not in self.columns[MASK].values)

    def names(self) -> tuple[str, ...]:
        """What to call each input, as `Dataset.names` does."""
        return names_of(self.inputs, self.root)

    def label_counts(self, parts: Sequence[str] | None = None) -> Counter[str]:
        """Return how many inputs have each label, of some parts only if `parts` is given."""
        chosen = [label for label, part in zip(self.labels, self.parts, strict=True) if parts is None or part in parts]
        return Counter(name for label in chosen for name in (label if isinstance(label, tuple) else (label,)))

    def known_labels(self) -> list[str]:
        """The names of all labels, of all columns that are to be learned."""
        values = [value for name in self.learned for value in self.columns[name].values if value is not None]
        return [*dict.fromkeys(name for value in values for name in (value if isinstance(value, tuple) else (value,)))]

    def to_several(self, name: str = LABEL) -> None:
        """Make the labels of a column tuples, so that they can stand beside those of inputs with several."""
        old = self.columns[name]
        if not has_sets(old):
            values = [None if label is None else (label,) for label in old.values]
            self.columns[name] = Column(values, old.cells, old.origin)

    def take(self, rows: Sequence[int]) -> Annotations:
        """What is said of some inputs, without the notes."""
        inputs: Any = self.inputs[list(rows)] if isinstance(self.inputs, np.ndarray) else tuple(self.inputs[i] for i in rows)
        groups = None if self.groups is None else [self.groups[i] for i in rows]
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return replace(self, inputs=inputs, columns=columns, parts=[self.parts[i] for i in rows], groups=groups, notes=[])

    def keep(self, rows: Sequence[int]) -> None:
        """Leave out all other inputs, here and now; the caller notes which."""
        if len(rows) < len(self.parts):
            part = self.take(rows)
            self.inputs, self.columns, self.parts, self.groups = part.inputs, part.columns, part.parts, part.groups

    def of_column(self, name: str) -> tuple[list[int], Annotations]:
        """The inputs that have a label in one of several columns, and what is said of them with this column for the labels."""
        rows = [i for i, value in enumerate(self.columns[name].values) if value is not None]
        return rows, replace(self.take(rows), columns={LABEL: self.columns[name].take(rows)}, groups=None, learned=(LABEL,))

    def source_of(self, part: str) -> str:
        """What the user gave for this part."""
        return self.test_source if self.test_source and part == "test" else self.source

    def group_by_names(self, pattern: str) -> None:
        """Give each image the group that a pattern finds in its file name; errors as of `groups_from_names`."""
        if isinstance(self.inputs, np.ndarray) or not all(isinstance(one, Path) for one in self.inputs):
            raise ParameterError(
                f"{setting('group_from', pattern)} works on file names, and {self.source} has none; give groups=... with the arrays"
            )
        if self.groups is not None:
            self.notes.append(f"The groups of {self.source} are replaced by those from {setting('group_from', pattern)}.")
        self.grouped_by = setting("group_from", pattern)
        self.groups, notes = groups_from_names(list(self.names()), pattern)
        self.notes += notes


def dataset_of(found: Annotations, targets: Targets) -> Dataset:
    """The data set of these inputs with the targets that a task read out of them."""
    return Dataset(
        inputs=found.inputs,
        targets=targets,
        parts=np.array(found.parts, dtype="U5"),
        groups=None if found.groups is None else np.array(found.groups, dtype=np.str_),  # type: ignore[arg-type]
        grouped_by=found.grouped_by,
        source=found.source,
        notes=tuple(found.notes),
        root=found.root,
        modality=found.modality,
    )


def join(training: Annotations, test: Annotations) -> Annotations:
    """Put the images of a separate test set beside the training data; DataError where they do not go together."""
    kept = [i for i, part in enumerate(training.parts) if part != "test"]
    notes = [*training.notes, *(type(note)(f"Test data: {note}") for note in test.notes)]
    if len(kept) < len(training.parts):
        notes.append(
            f"{len(training.parts) - len(kept)} images of the test part of {training.source} are left out: {test.source} is the test data."
        )
    if training.modality is not test.modality:
        what = f"{training.source} holds {training.modality.noun}s and {test.source} {test.modality.noun}s"
        raise DataError(f"{what}; the test data must be of the same kind")
    chosen = [i for i, part in enumerate(test.parts) if part == "test"] or list(range(len(test.parts)))
    if len(chosen) < len(test.parts):
        notes.append(f"Of {test.source} only its own test part is used ({len(chosen)} of {len(test.parts)} images).")
    for name in training.learned:
        if name not in test.columns:
            raise DataError(test.reason or f"{test.source}: nothing says which class an image has.")
        if has_sets(training.columns[name]) or has_sets(test.columns[name]):
            training.to_several(name)
            test.to_several(name)
    groups = None
    if training.groups is not None or test.groups is not None:
        first = training.groups or [f"training image {i}" for i in range(len(training.parts))]
        second = test.groups or [f"test image {i}" for i in range(len(test.parts))]
        groups = [first[i] for i in kept] + [second[i] for i in chosen]
    return Annotations(
        inputs=_join_inputs(training.inputs, kept, test.inputs, chosen),
        columns={
            name: _column_of(training, name, test).take(kept) + _column_of(test, name, training).take(chosen)
            for name in ({**training.columns, **test.columns} if not training.learned else training.columns)
        },
        parts=[training.parts[i] or "train" for i in kept] + ["test"] * len(chosen),
        groups=groups,
        grouped_by=training.grouped_by or test.grouped_by,
        source=training.source,
        test_source=test.source,
        root=training.root,
        notes=notes,
        learned=training.learned,
        reason=training.reason,
        background=training.background,
        modality=training.modality,
    )


def beside(first: Annotations, second: Annotations) -> Annotations:
    """The inputs of two parts of the same data, one after the other; what the first says of sources and columns holds for both."""
    for name in first.learned:
        if has_sets(first.columns[name]) or has_sets(second.columns[name]):
            first.to_several(name)
            second.to_several(name)
    groups = None
    if first.groups is not None and second.groups is not None:
        groups = [*first.groups, *second.groups]
    return replace(
        first, inputs=(*first.inputs, *second.inputs), parts=[*first.parts, *second.parts], groups=groups,
        columns={name: first.columns[name] + second.columns[name] for name in first.columns}, notes=[*first.notes, *second.notes],
    )  # fmt: skip


def _column_of(found: Annotations, name: str, other: Annotations) -> Column:
    """A column; where only the other has it, one without values."""
    nothing = [None] * len(found.parts)
    return found.columns[name] if name in found.columns else Column(nothing, [""] * len(nothing), other.columns[name].origin)


def _join_inputs(training: Inputs, kept: list[int], test: Inputs, chosen: list[int]) -> Any:
    if isinstance(training, np.ndarray) and isinstance(test, np.ndarray):
        if training.shape[1:] != test.shape[1:]:
            shapes = f"{training.shape[1:3]} and {test.shape[1:3]}"
            raise DataError(f"training and test images are arrays of different height and width: {shapes}; resize one of them")
        return np.concatenate([training[kept], test[chosen]])
    if isinstance(training, np.ndarray) or isinstance(test, np.ndarray):
        raise DataError(
            "training and test data must both be files or both be arrays; save the arrays as image files, or read both as arrays"
        )
    first, second = [training[i] for i in kept], [test[i] for i in chosen]
    shared = {one.absolute() for one in first if isinstance(one, Path)} & {one.absolute() for one in second if isinstance(one, Path)}
    if shared:
        raise DataError(
            f"{len(shared)} images are in the training data and in the test data, for example {min(map(str, shared))}: the score would say "
            "nothing. Give a test folder with other images, or no --test at all: then a part is held out."
        )
    return (*first, *second)


def groups_from_names(names: Sequence[str], pattern: str) -> tuple[list[str], list[str]]:
    """Return the group of each name, and a note if some names do not match or nothing is grouped.

    The group is the pattern's first group, or the whole match if it has none, wherever it is found first in the name (the path
    relative to the data folder, with ``/``). A name without a match is a group of its own. ParameterError for a pattern that is not a
    regular expression, or matches no name at all.
    """
    given = setting("group_from", pattern)
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ParameterError(
            f"{given} is not a regular expression: {error}. An example: 'person(\\d+)_' takes the number after 'person'."
        ) from None
    matches = [expression.search(name) for name in names]
    found = [match and match.group(1 if expression.groups else 0) for match in matches]
    groups = [group or f"{name} (alone)" for group, name in zip(found, names, strict=True)]
    unmatched = [name for group, name in zip(found, names, strict=True) if not group]
    if names and len(unmatched) == len(names):
        raise ParameterError(
            f"{given} matches none of the {len(names)} names, for example {names[0]!r}. It is searched in the path below the data folder."
        )
    if unmatched:
        some = f"{len(unmatched)} of {len(names)} names do not match {given}"
        return groups, [f"{some} and are each a group of their own, for example {unmatched[0]!r}."]
    different = len(set(groups))
    if different == len(groups) > 1:
        return groups, [f"{given} gives every image a group of its own, so it changes nothing."]
    if different == 1 < len(groups):
        return groups, [f"{given} puts all images into one group, {groups[0]!r}: no part can be held out."]
    return groups, []
