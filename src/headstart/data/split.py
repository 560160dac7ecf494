"""Splits that keep the shares of the classes and never part a group: one held-out part, or folds.

Everything is done on *units*: a unit is a group of images, or one image where there are no groups. A class with a single unit cannot be
in two places, so that unit always stays in training: a head that never saw a class cannot be tested on it.

Single label: units of several images are placed one by one, the larger first, where the squared deviations from the wanted shares grow
least; single images then fill exactly what is missing. Several labels: iterative stratification (Sechidis, Tsoumakas and Vlahavas,
"On the stratification of multi-label data", ECML PKDD 2011), on units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError, ParameterError
from headstart.settings.field import number, require, whole

Indices: TypeAlias = npt.NDArray[np.int64]
_ALWAYS_TRAIN = -1  # the fold of a unit that is tested in none
_UNPLACED = -2


def hold_out(targets: npt.ArrayLike, *, share: float = 0.2, groups: npt.ArrayLike | None = None, seed: int = 0) -> tuple[Indices, Indices]:
    """Split once, into training and test indices, int64 and ascending.

    Targets are the class of each image (n,), of any type; or a bool or 0/1 matrix (n, k) for several labels per image. Images of equal
    `groups` stay on one side. The same seed gives the same split; with groups it depends on them and not on the order of the images.
    Without groups the test part has `share` of each class within one image. Every class is in the training part. DataError where nothing
    can be held out, because every class has a single image or group.
    """
    require(number(above=0, below=1), share=share)
    units = _units(targets, groups)
    place = np.full(units.count, _UNPLACED)
    place[units.indispensable()] = 0
    _assign(units, place, np.array([1 - share, share]), np.random.default_rng(seed))
    _leave_each_class_in_training(units, place)
    if not (place == 1).any() and not _move_one(units, place, source=0, target=1):
        raise DataError(_nothing_to_hold_out(units))
    inside = place[units.unit] == 1
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def check_hold_out(targets: npt.ArrayLike, *, groups: npt.ArrayLike | None = None, grouped_by: str = "") -> None:
    """Refuse, before any work is done, data of which `hold_out` can hold nothing out; arguments and errors as of that.

    `grouped_by` says where the groups came from.
    """
    units = _units(targets, groups)
    if len(units.indispensable()) == units.count:
        raise DataError(_nothing_to_hold_out(units, grouped_by))


def _nothing_to_hold_out(units: _Units, grouped_by: str = "") -> str:
    origin = f" ({grouped_by} says what belongs together)" if grouped_by else ""
    return (
        f"no test part can be held out of {len(units.unit)} images: every class has a single {units.what} only{origin}. "
        "Add images, or give test data of their own."
    )


def folds(targets: npt.ArrayLike, *, count: int = 5, groups: npt.ArrayLike | None = None, seed: int = 0) -> tuple[Indices, ...]:
    """Split into at least 2 folds for cross-validation; arguments as of `hold_out`.

    Returned are for each fold the int64 indices of its test images, ascending; its training images are all others. Folds do not overlap.
    They cover all images but those of classes with a single image (or group), which are in training every time; so every class is in the
    training images of every fold. ParameterError where there are fewer images (or groups) than folds.
    """
    require(whole(2), count=count)
    units = _units(targets, groups)
    place = np.full(units.count, _UNPLACED)
    place[units.indispensable()] = _ALWAYS_TRAIN
    free = int((place == _UNPLACED).sum())
    if free < count:
        raise ParameterError(
            f"{count} folds need at least {count} {units.what}s of classes with more than one {units.what}; there are {free}. "
            "Take fewer folds."
        )
    _assign(units, place, np.full(count, 1 / count), np.random.default_rng(seed))
    _leave_each_class_outside(units, place, count)
    for fold in range(count):
        if not (place == fold).any():
            fullest = int(np.argmax(np.bincount(place[place >= 0], minlength=count)))
            if not _move_one(units, place, source=fullest, target=fold):
                raise ParameterError(f"{count} folds cannot be made of {free} {units.what}s without parting a class; take fewer folds.")
    of_image = place[units.unit]
    return tuple(np.flatnonzero(of_image == fold) for fold in range(count))


@dataclass(frozen=True)
class _Units:
    """Units and the number of images of each class in them, as rows of a sparse matrix."""

    unit: Indices  # (n,), the unit of each image
    sizes: Indices
    start: Indices  # row u has the classes `classes[start[u]:start[u + 1]]` with `images[...]` images each
    classes: Indices
    images: Indices
    class_count: int
    several: bool
    what: str

    @property
    def count(self) -> int:
        return len(self.sizes)

    @property
    def real_classes(self) -> int:
        """How many of the columns are classes; for several labels the last stands for images without any."""
        return self.class_count - self.several

    def row(self, unit: int) -> tuple[Indices, Indices]:
        part = slice(self.start[unit], self.start[unit + 1])
        return self.classes[part], self.images[part]

    def rows(self) -> Indices:
        """The unit of each stored entry."""
        entries: Indices = np.repeat(np.arange(self.count), np.diff(self.start))
        return entries

    def indispensable(self) -> Indices:
        """The units that are the only one of some class."""
        alone = np.bincount(self.classes, minlength=self.class_count) == 1
        alone[self.real_classes :] = False
        found: Indices = np.unique(self.rows()[alone[self.classes]])
        return found

    def per_place(self, place: Indices, count: int) -> npt.NDArray[np.float64]:
        """How many images of each class are in each place (count, k); units that are in none are left out."""
        where = place[self.rows()]
        inside = where >= 0
        found = np.zeros((count, self.class_count))
        np.add.at(found, (where[inside], self.classes[inside]), self.images[inside])
        return found

    def totals(self, place: Indices) -> npt.NDArray[np.float64]:
        """How many images of each class there are (k,), without those that are always in training."""
        counted = place[self.rows()] != _ALWAYS_TRAIN
        return np.bincount(self.classes[counted], weights=self.images[counted], minlength=self.class_count).astype(np.float64)

    def units_of(self, label: int) -> Indices:
        """The units with a class, the smallest first."""
        found = self.rows()[self.classes == label]
        return np.asarray(found[np.argsort(self.sizes[found], kind="stable")], np.int64)


def _units(targets: npt.ArrayLike, groups: npt.ArrayLike | None) -> _Units:
    array = np.asarray(targets)
    count = len(array) if array.ndim else 0
    if array.ndim not in (1, 2) or not count:
        raise ParameterError(f"targets have the shape {array.shape}; expected (n,) classes, or (n, k) of 0 and 1, with n at least 1")
    if array.ndim == 2 and not np.isin(array, (0, 1)).all():
        raise ParameterError("targets with two dimensions must hold 0 and 1 only: one column for each class")
    if groups is None:
        unit = np.arange(count)
    else:
        if len(np.atleast_1d(groups)) != count:
            raise ParameterError(f"{count} targets but {len(np.atleast_1d(groups))} groups; one for each image is needed")
        unit = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if array.ndim == 1:
        names, column = np.unique(array, return_inverse=True)
        image, column, class_count = np.arange(count), column.reshape(-1), len(names)
    else:
        # Images without any label get a column of their own, so that they are spread like the others.
        matrix = np.column_stack([array.astype(bool), ~array.any(axis=1)])
        image, column = np.nonzero(matrix)
        class_count = matrix.shape[1]
    entries, images = np.unique(unit[image].astype(np.int64) * class_count + column, return_counts=True)
    rows = entries // class_count
    sizes = np.bincount(unit)
    return _Units(
        unit=unit,
        sizes=sizes,
        start=np.searchsorted(rows, np.arange(len(sizes) + 1)),
        classes=entries % class_count,
        images=images,
        class_count=class_count,
        several=array.ndim == 2,
        what="image" if groups is None else "group",
    )


def _assign(units: _Units, place: Indices, weights: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    """Fill in `place` for every unit that is `_UNPLACED`; those placed already count as what they take up."""
    if units.several:
        _assign_iteratively(units, place, weights, rng)
        return
    placed, totals = units.per_place(place, len(weights)), units.totals(place)
    large = np.flatnonzero((place == _UNPLACED) & (units.sizes > 1))
    scale = 1 / np.maximum(totals, 1) ** 2
    for unit in _larger_first(units, large, rng):
        classes, images = units.row(int(unit))
        growth = ((2 * placed[:, classes] + images) * (images * scale[classes])).sum(axis=1) / weights
        filled = placed.sum(axis=1) / weights
        best = np.flatnonzero(growth <= growth.min() * (1 + 1e-9))
        chosen = int(best[np.argmin(filled[best])])
        place[unit] = chosen
        placed[chosen, classes] += images
    _fill_with_single_images(units, place, weights[:, None] * totals - placed, rng)


def _larger_first(units: _Units, chosen: Indices, rng: np.random.Generator) -> Indices:
    """Order units by size, those within a factor of two at random: so that the seed matters, and small ones can even things out."""
    shuffled = rng.permutation(chosen)
    return shuffled[np.argsort(-np.floor(np.log2(units.sizes[shuffled])), kind="stable")]


def _fill_with_single_images(units: _Units, place: Indices, wanted: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    """Place units of one image, class by class, so that each place gets what it still wants, within one image.

    What a place is owed in fractions is carried from class to class, so that the totals come out right too.
    """
    single = np.flatnonzero((place == _UNPLACED) & (units.sizes == 1))
    label = units.classes[units.start[single]]
    order = rng.permutation(len(single))
    order = order[np.argsort(label[order], kind="stable")]
    bounds = np.searchsorted(label[order], np.arange(units.class_count + 1))
    owed = rng.random(len(wanted)) * 1e-6  # breaks ties at random
    for c in rng.permutation(units.class_count):
        members = single[order[bounds[c] : bounds[c + 1]]]
        if not len(members):
            continue
        exact = _pour(wanted[:, c], len(members))
        given = np.floor(exact + 1e-9)
        fraction = np.maximum(exact - given, 0)
        left = len(members) - int(given.sum())
        owed += fraction
        candidates = np.flatnonzero(fraction > 1e-9) if (fraction > 1e-9).sum() >= left else np.arange(len(wanted))
        lucky = candidates[np.argsort(-owed[candidates], kind="stable")[:left]]
        given[lucky] += 1
        owed[lucky] -= 1
        place[members] = np.repeat(np.arange(len(wanted)), given.astype(np.int64))


def _pour(wanted: npt.NDArray[np.float64], amount: int) -> npt.NDArray[np.float64]:
    """Return x >= 0 with sum `amount` and the least squared distance to `wanted` (projection onto a simplex)."""
    descending = np.sort(wanted)[::-1]
    excess = (np.cumsum(descending) - amount) / np.arange(1, len(wanted) + 1)
    level = excess[np.flatnonzero(descending > excess)[-1]]
    poured: npt.NDArray[np.float64] = np.maximum(wanted - level, 0)
    return poured


def _assign_iteratively(units: _Units, place: Indices, weights: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    """Place units label by label, the rarest first, each where that label is wanted most in relation to the share of the place."""
    wanted = np.tile(units.totals(place), (len(weights), 1))  # divided by the share of the place, throughout
    room = np.full(len(weights), float(units.sizes[place != _ALWAYS_TRAIN].sum()))

    def put(unit: int, chosen: int) -> None:
        classes, images = units.row(unit)
        place[unit] = chosen
        wanted[chosen, classes] -= images / weights[chosen]
        room[chosen] -= units.sizes[unit] / weights[chosen]

    for unit in np.flatnonzero(place >= 0):
        put(int(unit), int(place[unit]))
    rows = units.rows()
    while (place == _UNPLACED).any():
        waiting = place[rows] == _UNPLACED
        remaining = np.bincount(units.classes[waiting], minlength=units.class_count)
        label = int(np.argmin(np.where(remaining > 0, remaining, np.iinfo(np.int64).max)))
        for unit in _larger_first(units, rows[waiting & (units.classes == label)], rng):
            most = np.flatnonzero(wanted[:, label] >= wanted[:, label].max() - 1e-9)
            most = most[room[most] >= room[most].max() - 1e-9]
            put(int(unit), int(most[0] if len(most) == 1 else rng.choice(most)))


def _leave_each_class_in_training(units: _Units, place: Indices) -> None:
    training, test = units.per_place(place, 2)[:, : units.real_classes]
    for label in np.flatnonzero((training == 0) & (test > 0)):
        members = units.units_of(int(label))
        if (place[members] == 1).all():
            place[members[0]] = 0


def _leave_each_class_outside(units: _Units, place: Indices, count: int) -> None:
    """Move a unit wherever one fold holds a whole class; where no other fold can take it, it is tested in none."""
    counts = units.per_place(place, count)[:, : units.real_classes]
    for label in np.flatnonzero(np.count_nonzero(counts, axis=0) == 1):
        members = units.units_of(int(label))
        if (place[members] == _ALWAYS_TRAIN).any() or len(np.unique(place[members])) > 1:
            continue
        source = int(place[members[0]])
        filled = np.bincount(place[place >= 0], weights=units.sizes[place >= 0], minlength=count)
        targets = [int(fold) for fold in np.argsort(filled, kind="stable") if fold != source]
        if not any(_move_one(units, place, source=source, target=fold, among=members) for fold in targets):
            place[members[0]] = _ALWAYS_TRAIN


def _move_one(units: _Units, place: Indices, *, source: int, target: int, among: Indices | None = None) -> bool:
    """Move the smallest unit from one place to another that leaves each of its classes with a unit outside the target."""
    candidates = np.arange(units.count) if among is None else among
    candidates = candidates[place[candidates] == source]
    rows = units.rows()
    outside = np.bincount(units.classes[place[rows] != target], minlength=units.class_count)
    for unit in candidates[np.argsort(units.sizes[candidates], kind="stable")]:
        if (outside[units.row(int(unit))[0]] > 1).all():
            place[unit] = target
            return True
    return False
