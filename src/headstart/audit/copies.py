"""Copies of images, exact and near: the findings about them, and what those that leak into the test part do to the score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.audit.excerpts import Named
from headstart.audit.facts import Facts
from headstart.audit.findings import Finding, Severity
from headstart.audit.inspections import inspection_of
from headstart.audit.near_copies import NearCopies
from headstart.data import Boxes, Dataset, Masks
from headstart.data.translations import Translations
from headstart.metrics import accuracy_interval

_SEEN = "the model has seen them, so the score is too high"
_TWO_SIDES = "they may fall on both sides of a split, and the score is then too high"


def find_copies(dataset: Dataset, facts: Facts) -> list[Finding]:
    """Return what images there are with the same bytes: in two classes, across parts, and within both."""
    names, words = Named(dataset), inspection_of(dataset)
    several = isinstance(dataset.targets, Translations)  # a text may have several right ones
    contradictory, leaks = list[list[int]](), list[str]()
    leaking, validation, surplus = list[int](), list[int](), list[int]()
    for rows in facts.copies():
        places = [(dataset.labels(i), str(dataset.parts[i])) for i in rows]
        parts = [part for _, part in places]
        if not several and not dataset.agree(rows):
            contradictory.append(rows)
        known = [i for i, part in zip(rows, parts, strict=True) if part in ("train", "val")]
        tested = [i for i, part in zip(rows, parts, strict=True) if part == "test"]
        if known and tested:
            leaking += tested
            leaks.append(f"{names[tested[0]]} = {names[known[0]]}")
        elif len(set(parts)) > 1:
            validation += [i for i, part in zip(rows, parts, strict=True) if part == "val"]
        first = dict(zip(reversed(places), reversed(rows), strict=True))
        surplus += [i for i, place in zip(rows, places, strict=True) if first[place] != i]
    pairs = [" = ".join(f"{names[i]} ({', '.join(dataset.labels(i))})" for i in rows[:3]) for rows in contradictory]
    effect, severity = _of_surplus(dataset, surplus)
    spatial, pictures = isinstance(dataset.targets, Masks | Boxes), f"({len(contradictory)} different {words.picture}s): at least one"
    model = "model" if spatial else "classifier"
    differing = f"with another mask {pictures} mask" if spatial else f"in another class {pictures} label"
    if isinstance(dataset.targets, Boxes):
        differing = f"with other boxes {pictures} set of boxes"
    return [
        *_copies(
            "contradictory copies", "error", words.file, sum(map(len, contradictory)), pairs,
            f"of {words.files} {differing} of each is wrong, and no {model} can be right about both. Look at them and delete the "
            "wrong ones.",
        ),
        *_copies("leak", "error", "test image", len(leaking), leaks, f"of training images: {_SEEN}. Delete them from the test part."),
        *_copies(
            "leak into validation", "warning", "validation image", len(validation), [names[i] for i in validation],
            "of training images: choices made on them are wrong. Delete them.",
        ),
        *_copies(
            "copies", severity, "image", len(surplus), [names[i] for i in surplus],
            f"of another image{'' if spatial or several else ' of the same class'}: {effect}. Delete the copies.",
        ),
    ]  # fmt: skip


def find_near_copies(dataset: Dataset, copies: NearCopies, *, digests: Sequence[bytes]) -> list[Finding]:
    """Return what near copies there are: across parts, in two classes, and others. Exact copies are left to `find_copies`."""
    leaks, validation, two_classes, surplus = (list[tuple[int, int]]() for _ in range(4))
    for group in copies.components:
        for row in group:
            near = [other for other in group if digests[other] != digests[row]]
            exact = [other for other in group if digests[other] == digests[row] and other != row]
            if not isinstance(dataset.targets, Masks | Boxes | Translations):  # those of near copies differ by the way
                two_classes += [(row, other) for other in near if not dataset.agree((row, other))][:1]
            part = str(dataset.parts[row])
            known = {"test": ("train", "val"), "val": ("train",)}.get(part, ())
            if any(dataset.parts[other] in known for other in exact):
                continue  # an exact copy is the graver finding, and made elsewhere
            seen = [(row, other) for other in near if dataset.parts[other] in known]
            (leaks if part == "test" else validation).extend(seen[:1])
            if not seen and not any(other < row for other in exact):
                surplus += [(row, other) for other in near if other < row and dataset.parts[other] == part][:1]
    names, words = Named(dataset), inspection_of(dataset)
    once = [(row, other) for row, other in two_classes if row < other] or two_classes
    effect, severity = _of_surplus(dataset, [row for row, _ in surplus])
    return [
        *_copies(
            "near copies across parts", "error", "test image", len(leaks), _pairs(names, leaks),
            f"of training images {words.changed}: {_SEEN}. Delete them from the test part, or keep each {words.picture} and its copies "
            "in one part.",
        ),
        *_copies(
            "near copies in validation", "warning", "validation image", len(validation), _pairs(names, validation),
            f"of training images: choices made on them are wrong. Delete them, or keep each {words.picture} and its copies in one part.",
        ),
        *_copies(
            "near copies in two classes", "warning", "image", len(two_classes), _pairs(names, once, dataset),
            "of images in another class: at least one label of each is wrong. Look at them and delete the wrong ones.",
        ),
        *_copies(
            "near copies", severity, "image", len(surplus), _pairs(names, surplus),
            f"of another image {words.changed}: {effect}. Keep each {words.picture} and its copies together, or delete the copies.",
        ),
    ]  # fmt: skip


def _pairs(names: Named, pairs: Sequence[tuple[int, int]], labelled: Dataset | None = None) -> list[str]:
    """Each pair as an example, with the labels in the data where these are given."""

    def called(row: int) -> str:
        return names[row] if labelled is None else f"{names[row]} ({', '.join(labelled.labels(row)) or 'no label'})"

    return [f"{called(row)} ~ {called(other)}" for row, other in pairs]


def _of_surplus(dataset: Dataset, rows: Sequence[int]) -> tuple[str, Severity]:
    """What copies within a class and part do, and how grave that is."""
    unsplit = bool((dataset.parts[list(rows)] == "").any())
    return _TWO_SIDES if unsplit else "they count more than once", "warning" if unsplit or len(rows) > len(dataset) / 100 else "note"


def _copies(kind: str, severity: Severity, images: str, count: int, examples: Sequence[str], rest: str) -> list[Finding]:
    """A finding such as ``1 test image is an exact copy ...`` or ``5 images are near copies ...``; none where there is no copy."""
    how = "near" if kind.startswith("near") else "exact"
    copies = f"1 {images} is {'a near' if how == 'near' else 'an exact'} copy" if count == 1 else f"{count} {images}s are {how} copies"
    return Finding.of(kind, severity, f"{copies} {rest}", examples, count)


@dataclass(frozen=True, kw_only=True)
class LeakTest:
    """The accuracy of one model on the test images that `label` names: its 95 % Wilson `interval`, and the number of `images`."""

    label: str
    accuracy: float
    interval: tuple[float, float]
    images: int

    @classmethod
    def of(cls, label: str, right: npt.NDArray[np.bool_]) -> LeakTest:
        """Count the right ones, of at least one image."""
        interval = accuracy_interval(int(right.sum()), len(right))
        return cls(label=label, accuracy=float(right.mean()), interval=interval, images=len(right))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def line(self) -> str:
        """As text."""
        low, high = self.interval
        return f"accuracy {self.accuracy:.4f} [{low:.4f}, {high:.4f}] on {self.label} ({self.images})"


def known_beforehand(
    dataset: Dataset, digests: Sequence[bytes], components: Iterable[Sequence[int]] = ()
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which images of the test part training has seen in some form, bool (m,) for each way in which it has."""
    train, test = dataset.part("train", "val"), dataset.part("test")
    seen = {digests[index] for index in train}
    found = {"copies": np.array([digests[index] in seen for index in test.tolist()], dtype=bool)}
    trained = set(train.tolist())
    near = {row for component in components if not trained.isdisjoint(component) for row in component}
    found["near copies"] = np.isin(test, np.array(sorted(near), dtype=np.int64)) & ~found["copies"]
    if dataset.grouped:
        found["groups"] = np.isin(dataset.groups[test], dataset.groups[train])
    return {name: rows for name, rows in found.items() if rows.any()}


_WORDS = {
    "copies": "that are copies of training images",
    "near copies": "that are near copies of training images",
    "groups": "whose group is in the training part",
}


def leak_tests(right: npt.NDArray[np.bool_], known: dict[str, npt.NDArray[np.bool_]]) -> tuple[LeakTest, ...]:
    """The accuracy on all test images, on those `known` beforehand, and on the others; `right` is bool (m,). Nothing where none were."""
    if not known:
        return ()
    unseen = ~np.logical_or.reduce(list(known.values()))
    return (
        LeakTest.of("all test images", right),
        *(LeakTest.of(f"those {_WORDS[name]}", right[rows]) for name, rows in known.items()),
        *([LeakTest.of("those not seen in training in any form", right[unseen])] if unseen.any() else []),
    )
