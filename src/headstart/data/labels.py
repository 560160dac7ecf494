"""Class names: their natural order, look-alikes, matching by name; and from annotations to class targets."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from headstart.data.annotations import LABEL, Annotations
from headstart.data.cells import whole_number
from headstart.data.targets import LabelColumns, Labels, LabelSets, class_targets
from headstart.errors import DataError, nearest, setting
from headstart.metrics.link import Link
from headstart.progress import Warned
from headstart.text import plural

_MISSING = ("nan", "nat", "<na>", "n/a", "#n/a", "null")
_MANY_NUMBERS = 5  # classes
_LONG = 100  # characters: what is longer is no name of which one would look for the misspelt
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]+)?")
_RARE, _FREQUENT, _SLIPS = (
    2,
    5,
    5,
)  # images with a class whose name may be a slip of the pen; and how many times as many have the right one; how many slips


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names as a person would: numbers by value ("9" before "10", "-1" before "0"), words without regard to case."""
    unique = sorted(set(names))
    if all(_NUMBER.fullmatch(name) for name in unique):
        return sorted(unique, key=float)
    return sorted(unique, key=_natural_key)


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    pieces = re.split(r"([0-9]+)", name.casefold())
    # Digits by length and then as text: the order of the numbers, however long they are.
    return [(0, len(p.lstrip("0")), p.lstrip("0")) if p.isdecimal() else (1, 0, p) for p in pieces if p]


def fold_name(name: str) -> str:
    """Return the form under which two spellings of one name agree: Unicode NFC, single spaces, trimmed, "3" for "3.0"."""
    return whole_number(" ".join(unicodedata.normalize("NFC", name).split()))


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of names that differ only by case, spaces, ``_`` or ``-``, Unicode normalisation, or a ``.0``."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        plain = whole_number(re.sub(r"[\s_]+|-+(?=\D|$)|(?<=\w)-+", " ", unicodedata.normalize("NFKC", name)).strip().casefold())
        alike[plain].append(name)
    return [tuple(group) for group in alike.values() if len(group) > 1]


def spelling_notes(images: Mapping[str, int]) -> list[str]:
    """Sentences about classes that may be one, by their names; `images` has the number of images of each.

    They are `look_alikes`, or a rare one is a slip of the pen away from a frequent one: a letter too many, too few, swapped or wrong.
    """
    notes = [
        f"Classes {' and '.join(map(repr, group))} differ only by case, spaces or spelling of the same letters: probably one class; "
        "give both the same name if so."
        for group in look_alikes(images)
    ]
    frequent, slips = defaultdict[str, list[str]](list), list[str]()
    for name in (name for name, count in images.items() if count >= _FREQUENT):
        for form in _without_a_letter(name):
            frequent[form].append(name)
    for name, count in images.items():
        near = sorted({one for form in _without_a_letter(name) for one in frequent[form]}) if 0 < count <= _RARE else []
        slips += [
            f"Only {plural(count, 'image')} {'has' if count == 1 else 'have'} the class {name!r}, and {images[one]} have {one!r}: if that "
            "is a slip of the pen, give them the same name."
            for one in near
            if images[one] >= _FREQUENT * count and _is_slip(name.casefold(), one.casefold())
        ]
    return notes + (slips if len(slips) <= _SLIPS else [])  # names that all differ by a letter do so on purpose


def _without_a_letter(name: str) -> set[str]:
    """The name, and all that is left of it without one letter; of a long one only itself."""
    folded = name.casefold()
    if len(folded) > _LONG:
        return {folded}
    return {folded, *(folded[:at] + folded[at + 1 :] for at in range(len(folded)))}


def _is_slip(name: str, other: str) -> bool:
    """Whether a letter is too many, missing, swapped with its neighbour or, in words of five and more, another; digits mean something."""
    short, long = sorted((name, other), key=len)
    if len(short) < 3 or name == other:
        return False
    at = next((at for at, (one, two) in enumerate(zip(short, long, strict=False)) if one != two), len(short))
    if len(short) < len(long):
        return short[at:] == long[at + 1 :] and long[at].isalpha()
    if not (short[at].isalpha() and long[at].isalpha()):
        return False
    swapped = short[at : at + 2] == long[at : at + 2][::-1] and short[at + 2 :] == long[at + 2 :]
    return swapped or (len(short) >= 5 and short[at + 1 :] == long[at + 1 :])


def match_names(found: Mapping[str, int], classes: Sequence[str], *, where: str, known: str) -> dict[str, str]:
    """Return the entry of `classes` for each name found: the name itself, or else the one that `fold_name` makes the same.

    `found` has the number of images of each name; `where` and `known` are what to call the two sides in the DataError that is raised, with
    the nearest names, for a name that is not among `classes`.
    """
    folded = {fold_name(name): name for name in reversed(classes)} | {name: name for name in classes}
    matched = {name: folded.get(name) or folded.get(fold_name(name)) for name in found}
    extra = [name for name, match in matched.items() if match is None]
    if extra:
        listed = ", ".join(f"{name!r} ({plural(found[name], 'image')})" for name in extra[:5]) + (", ..." if len(extra) > 5 else "")
        unknown = "a class" if len(extra) == 1 else f"{len(extra)} classes"
        raise DataError(
            f"{where} has {unknown} that {known} does not have: {listed}. Known classes: {shortened(classes)}."
            f"{nearest(extra[0], classes)} Rename or remove what is not known: labels are matched by name."
        )
    return {name: match for name, match in matched.items() if match is not None}


def shortened(names: Sequence[str], *, limit: int = 12) -> str:
    """Return the names in quotes, joined by commas, at most `limit` of them."""
    text = ", ".join(map(repr, names[:limit]))
    return f"{text}, ... ({len(names)} in all)" if len(names) > limit else text or "none"


def read_labels(found: Annotations, classes: Sequence[str] | None = None) -> Labels | LabelSets:
    """Read class labels; the classes are those of the training part, or `classes` if given. What is guessed is noted in `found`."""
    known_as = "the list of classes given"
    if classes is None:
        training = found.label_counts(("train", ""))
        classes = natural_order(training or found.label_counts())
        known_as = "the training data"
    elif len(set(classes)) < len(classes):
        raise DataError(f"a class is given twice: {shortened([name for name, n in Counter(classes).items() if n > 1])}")
    if not classes:
        raise DataError(f"no image of {found.source} has a label")
    notes: list[str] = []
    renamed: dict[str, str] = {}
    for parts, what in ((("train", ""), "the data"), (("val",), "the validation part"), (("test",), "the test part")):
        counts = found.label_counts(parts)
        matched = match_names(counts, classes, where=f"{what} of {found.source_of(parts[0])}", known=known_as)
        renamed |= matched
        absent = [name for name in classes if name not in matched.values()]
        if counts and absent and known_as == "the training data":
            notes.append(f"{what.removeprefix('the ').capitalize()}: no image of {shortened(absent)}; it is scored on the others.")
    notes += [f"{name!r} is read as the class {match!r}." for name, match in renamed.items() if name != match]
    if known_as == "the training data":
        notes += _class_notes(found, classes)
        if found.columns[LABEL].origin.startswith("the column"):
            notes += _doubtful(classes, Path(found.source).name)
    found.notes += notes
    index = {name: i for i, name in enumerate(classes)}
    if not found.several:
        return Labels(np.array([index[renamed[name]] for name in cast("list[str]", found.labels)], np.int64), tuple(classes))
    indicators = np.zeros((len(found.labels), len(classes)), np.bool_)
    for row, several in zip(indicators, found.labels, strict=True):
        row[[index[renamed[name]] for name in several]] = True
    return LabelSets(indicators, tuple(classes))


def read_label_columns(found: Annotations, known: Mapping[str, tuple[Sequence[str], Link]] | None = None) -> LabelColumns:
    """Read the labels of several columns, of each as `read_labels` does.

    With the classes and links of columns that are `known`, these columns are read, and one that the data do not have is without labels.
    """
    if not found.learned:
        raise DataError(found.reason or f"{found.source}: nothing says which classes an image has.")
    columns, count = dict[str, Labels | LabelSets](), len(found.parts)
    labelled = np.zeros((count, len(found.learned if known is None else known)), np.bool_)
    for place, name in enumerate(found.learned if known is None else known):
        rows, classes, part = list[int](), None, found
        if known is not None:
            classes, link = known[name]
            targets = class_targets(np.zeros((0, len(classes)) if link.independent else 0, np.int64), classes)
        if name in found.learned:
            rows, part = found.of_column(name)
            if known is not None and link.independent:
                part.to_several()
            try:
                targets = read_labels(part, classes)
            except DataError as error:
                raise DataError(f"{found.columns[name].origin}: {error}{_if_measured(part)}") from None
            found.notes += [type(note)(f"Column {name!r}: {note}") for note in part.notes]
        columns[name] = _spread(targets, rows, count)
        labelled[rows, place] = True
    return LabelColumns(columns, labelled)


def _spread(targets: Labels | LabelSets, rows: Sequence[int], count: int) -> Labels | LabelSets:
    """The targets of `count` inputs, of which only these rows have any."""
    array = np.zeros((count, *targets.array.shape[1:]), targets.array.dtype)
    array[list(rows)] = targets.array
    return replace(targets, array=array)


def _if_measured(found: Annotations) -> str:
    """What to do about a column of many numbers, which may be measurements."""
    names = found.known_labels()
    if len(names) <= _MANY_NUMBERS or not all(map(_NUMBER.fullmatch, names)):
        return ""
    return f" If its {len(names)} different numbers are measurements, write groups in their place, such as 30-39: classes are learned."


def _doubtful(classes: Sequence[str], source: str) -> list[str]:
    """Warn of classes that may be none: texts that programs write for missing values, and numbers that may be measurements."""
    texts = sorted(name for name in classes if name.casefold() in _MISSING)
    fractions = [name for name in sorted(classes) if re.fullmatch(r"[+-]?[0-9]*\.[0-9]+", name)]
    notes = list[str]()
    if texts:
        notes.append(
            f"The label {texts[0]!r} of {source} is read as a class of that name. If a label is missing there, empty the cells; "
            f"{setting('allow_missing', True)} then passes over them."
        )
    if fractions and len(classes) > _MANY_NUMBERS and all(re.fullmatch(r"[+-]?[0-9.]+", name) for name in classes):
        notes.append(f"The labels of {source} are numbers, such as {fractions[-1]}: each of the {len(classes)} is read as a class.")
    return [Warned(note) for note in notes]


def _class_notes(found: Annotations, classes: Sequence[str]) -> list[str]:
    notes = spelling_notes({name: found.label_counts().get(name, 0) for name in classes})
    single = [name for name, count in found.label_counts(("train", "")).items() if count == 1]
    if single:
        notes.append(
            f"Only one training image of {shortened(natural_order(single))}: it stays in training, but is too little to learn from."
        )
    if len(classes) == 1:
        notes.append(f"There is only one class, {classes[0]!r}: nothing can be told apart until there is a second.")
    return notes
