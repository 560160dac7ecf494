"""`Listing`: what a reader found, labels still as text; and the one place where it becomes a `Dataset`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from headstart.data.dataset import Dataset, Images
from headstart.data.labels import encode_several, encode_single, look_alikes, match_names, natural_order, shortened
from headstart.errors import DataError

Labels = list[str] | list[tuple[str, ...]]

PART_NAMES = {
    **dict.fromkeys(("train", "training", "trn", "training_set", "train_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "validation_set", "val_set"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "test_set"), "test"),
}
"""How people write the parts of a data set, in lower case."""


@dataclass
class Listing:
    """Images with labels as text, on their way to a `Dataset`.

    Attributes:
        images: one path per image, or uint8 (n, H, W, 3).
        labels: one text per image, or a tuple of texts per image for multi-label data.
        parts: "train", "val", "test" or "" per image.
        source: what the user gave.
        test_source: what the user gave as separate test data, if any.
        groups: one text per image, or None.
    """

    images: Images
    labels: Labels
    parts: list[str]
    source: str
    test_source: str = ""
    groups: list[str] | None = None
    root: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def multilabel(self) -> bool:
        """Whether labels are tuples."""
        return bool(self.labels) and isinstance(self.labels[0], tuple)

    def label_counts(self, parts: Sequence[str] | None = None) -> Counter[str]:
        """Return how many images have each label, of some parts only if `parts` is given."""
        wanted = [label for label, part in zip(self.labels, self.parts, strict=True) if parts is None or part in parts]
        if self.multilabel:
            return Counter(name for several in wanted for name in several)
        return Counter(cast("list[str]", wanted))

    def to_several(self) -> None:
        """Make labels tuples, so that they can stand beside multi-label ones."""
        if not self.multilabel:
            several: list[tuple[str, ...]] = [(label,) for label in cast("list[str]", self.labels)]
            self.labels = several


def build(listing: Listing, *, classes: Sequence[str] | None = None) -> Dataset:
    """Turn a listing into a `Dataset`; the classes are those of the training part, or `classes` if given.

    Raises:
        DataError: a label that the training part (or `classes`) does not have, classes given twice, or no label at all.
    """
    known_as = "the list of classes given"
    if classes is None:
        training = listing.label_counts(("train", ""))
        classes = natural_order(training or listing.label_counts())
        known_as = "the training data"
    elif len(set(classes)) < len(classes):
        raise DataError(f"a class is given twice: {shortened([name for name, n in Counter(classes).items() if n > 1])}")
    if not classes:
        raise DataError(f"no image of {listing.source} has a label")
    notes = list(listing.notes)
    renamed: dict[str, str] = {}
    for parts, what in ((("train", ""), "the data"), (("val",), "the validation part"), (("test",), "the test part")):
        counts = listing.label_counts(parts)
        matched = match_names(counts, classes, where=f"{what} of {_source_of(listing, parts)}", known=known_as)
        renamed |= matched
        absent = [name for name in classes if name not in matched.values()]
        if counts and absent and known_as == "the training data":
            notes.append(f"{what.removeprefix('the ').capitalize()}: no image of {shortened(absent)}; it is scored on the others.")
    notes += [f"{name!r} is taken for the class {match!r}." for name, match in renamed.items() if name != match]
    if known_as == "the training data":
        notes += _class_notes(listing, classes)
    targets: npt.NDArray[Any]
    if listing.multilabel:
        several = [tuple(renamed[name] for name in row) for row in listing.labels]
        targets = encode_several(several, classes)
    else:
        targets = encode_single([renamed[name] for name in cast("list[str]", listing.labels)], classes)
    return Dataset(
        images=listing.images,
        targets=targets,
        classes=tuple(classes),
        parts=np.array(listing.parts, dtype="U5"),
        groups=None if listing.groups is None else np.array(listing.groups, dtype=np.str_),
        source=listing.source,
        notes=tuple(notes),
        root=listing.root,
    )


def _source_of(listing: Listing, parts: Sequence[str]) -> str:
    return listing.test_source if listing.test_source and parts == ("test",) else listing.source


def _class_notes(listing: Listing, classes: Sequence[str]) -> list[str]:
    notes = [
        f"Classes {' and '.join(map(repr, group))} differ only by case, spaces or spelling of the same letters: probably one class; "
        "give both the same name if so."
        for group in look_alikes(classes)
    ]
    single = [name for name, count in listing.label_counts(("train", "")).items() if count == 1]
    if single:
        notes.append(
            f"One training image only of {shortened(natural_order(single))}: it stays in training, but is too little to learn from."
        )
    if len(classes) == 1:
        notes.append(f"There is one class only, {classes[0]!r}: nothing can be told apart until there is a second.")
    return notes


def join(training: Listing, test: Listing) -> Listing:
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
    if training.multilabel or test.multilabel:
        training.to_several()
        test.to_several()
    groups = None
    if training.groups is not None or test.groups is not None:
        first = training.groups or [f"training image {i}" for i in range(len(training.parts))]
        second = test.groups or [f"test image {i}" for i in range(len(test.parts))]
        groups = [first[i] for i in kept] + [second[i] for i in chosen]
    return Listing(
        images=_join_images(training, kept, test, chosen),
        labels=cast("Labels", [training.labels[i] for i in kept] + [test.labels[i] for i in chosen]),
        parts=[training.parts[i] or "train" for i in kept] + ["test"] * len(chosen),
        groups=groups,
        source=training.source,
        test_source=test.source,
        root=training.root,
        notes=notes,
    )


def _join_images(training: Listing, kept: list[int], test: Listing, chosen: list[int]) -> Images:
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
