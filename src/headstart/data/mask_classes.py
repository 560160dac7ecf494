"""What the values of masks mean: which value, colour or name is which class, which have none, and which are smeared or unknown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.annotations import Annotations
from headstart.data.class_lists import MOST, ClassList, colour_text, is_void
from headstart.data.labels import fold_name, match_names, natural_order, shortened
from headstart.data.masks import VOID, Coding, MaskFile, Named, key_text
from headstart.errors import DataError, setting
from headstart.modalities.image.values import Values, unpacked
from headstart.progress import Warned
from headstart.text import percent, plural

BACKGROUND, FOREGROUND = "background", "foreground"
_WHITE = 255
_SMEARED_KINDS = 16  # so many different values that stand for nothing are no class that was forgotten
_SMEARED_SHARE = 0.1  # of the pixels may lie between the known values
_SMEARED_LARGEST = 0.02  # of the pixels may have one of the values between
_APART = 8  # between two values that a JPEG leaves apart
_NEAR = 0.25  # of the distance between two known values: what is farther from both is not clearly of one
_MOST_LEVELS = 8  # gray levels that are told apart in smeared masks
_SMOOTHED_VALUES = 8  # so many gray levels between black and white, few of the pixels, are no classes where many are light


@dataclass(frozen=True, eq=False)
class Content:
    """What one mask holds: its `values` and how many pixels have each; `opened` has no pixels any more."""

    file: MaskFile
    opened: Values | Named
    values: npt.NDArray[Any]
    counts: npt.NDArray[np.int64]
    size: tuple[int, int]  # height and width
    image: tuple[tuple[int, int], int] | None  # the size of the image when upright, and its orientation


@dataclass(frozen=True, eq=False)
class Understood:
    """The classes of a data set, and how the values of one mask become their positions."""

    classes: tuple[str, ...]
    coding: Coding


@dataclass(frozen=True, eq=False)
class _Naming:
    """What the values of masks with one list of classes mean."""

    by: str
    names: Mapping[Any, str | None]  # by value; None for pixels without a class
    order: tuple[str, ...]  # the classes
    snapped: bool = False
    guessed: bool = False  # whether the names are made up
    notes: list[str] = field(default_factory=list)


def understand(contents: Sequence[Content], found: Annotations, classes: Sequence[str] | None) -> list[Understood]:
    """For each mask the classes and how its values become their positions; errors as of `read_masks`.

    Masks with one list of classes are understood together, and lists of others are matched by name.
    """
    groups = defaultdict[_Key, list[int]](list)
    for row in sorted(range(len(contents)), key=lambda row: found.parts[row] not in ("train", "")):
        groups[isinstance(contents[row].opened, Named), contents[row].file.classes].append(row)
    namings = _namings({key: [contents[row] for row in rows] for key, rows in groups.items()}, found.background, classes)
    training = [key for key, rows in groups.items() if any(found.parts[row] in ("train", "") for row in rows)] or [*groups]
    known = "the classes of the run" if classes is not None else "the training data"
    if classes is None:
        classes = [*dict.fromkeys(name for key in training for name in namings[key].order)]
        classes = _present(classes, {key: (namings[key], [contents[row] for row in rows]) for key, rows in groups.items()}, found)
        _check_classes(classes, found)
    understood: dict[int, Understood] = {}
    for key, rows in groups.items():
        naming = namings[key]
        found.notes += naming.notes
        renamed = _matched(naming, [contents[row] for row in rows], classes, found, known)
        positions = {value: VOID if name is None else classes.index(renamed[name]) for value, name in naming.names.items()
                     if name is None or name in renamed}  # fmt: skip
        one = Understood(tuple(classes), Coding(naming.by, positions, naming.snapped))
        understood |= dict.fromkeys(rows, one)
    return [understood[row] for row in range(len(contents))]


_Key = tuple[bool, ClassList | None]


def _namings(groups: Mapping[_Key, Sequence[Content]], background: str, classes: Sequence[str] | None) -> dict[_Key, _Naming]:
    """What the values of each group mean. The first class of a run may be a background that the data themselves have no name for."""
    if classes and not background and is_void(classes[0]):
        background = classes[0]
    namings = {key: _naming(contents, key[1], background) for key, contents in groups.items()}
    if not classes or background or any(classes[0] in naming.order for naming in namings.values()):
        return namings
    if all({*naming.order} <= {*classes} or (naming.guessed and len(classes) == 2) for naming in namings.values()):
        return namings
    return {key: _naming(contents, key[1], classes[0]) for key, contents in groups.items()}


def _present(classes: Sequence[str], groups: Mapping[Any, tuple[_Naming, list[Content]]], found: Annotations) -> list[str]:
    """The classes that have a pixel in some mask; what is listed beside them is noted."""
    held = {name for naming, contents in groups.values() for content in contents for name in _names_in(naming, content)}
    absent = [name for name in classes if name not in held]
    if absent and held:
        found.notes.append(f"Left out, since no mask has a pixel of them: {shortened(absent)}.")
    return [name for name in classes if name in held]


def _check_classes(classes: Sequence[str], found: Annotations) -> None:
    if len(classes) < 2:
        only = f"only {classes[0]!r}" if classes else "no class at all"
        raise DataError(
            f"{found.source}: the masks hold {only}, so there is nothing to tell apart. Look at them: a mask needs pixels of two classes "
            "or more, and the background counts as one."
        )
    if len(classes) > MOST:
        raise DataError(f"{found.source}: the masks have {len(classes)} classes; at most {MOST} can be learned. Merge some of them.")


def _matched(
    naming: _Naming, contents: Sequence[Content], classes: Sequence[str], found: Annotations, known: str
) -> dict[str, str]:  # fmt: skip
    """The class of the model for each name of a naming that is not there for nothing."""
    if naming.order == tuple(classes):
        return {name: name for name in naming.order}
    if naming.guessed and len(classes) == 2 and set(naming.order) <= {BACKGROUND, FOREGROUND}:
        pair = dict(zip((BACKGROUND, FOREGROUND), classes, strict=True))
        if naming.order and set(naming.order) - set(classes):
            found.notes.append(f"The masks name no classes: {_pairs(pair[name] for name in naming.order)}, by their values.")
        return {name: pair[name] for name in naming.order}
    counts: Counter[str] = Counter()
    for content in contents:
        counts.update({name for name in _names_in(naming, content) if name is not None})
    renamed = match_names(counts, classes, where=f"the masks of {found.source}", known=known)
    found.notes += [f"{name!r} is read as the class {match!r}." for name, match in renamed.items() if name != match]
    return renamed


def _names_in(naming: _Naming, content: Content) -> Iterable[str | None]:
    known = [*naming.names]
    coding = Coding(naming.by, {key: place for place, key in enumerate(known)}, naming.snapped)
    places = coding.of_values(content.opened, content.values)
    return {naming.names[known[place]] for place in places.tolist() if place >= 0}


def _pairs(names: Iterable[str]) -> str:
    return " and ".join(f"{what} is read as {name!r}" for what, name in zip(("the lower value", "the higher"), names, strict=False))


def _naming(contents: Sequence[Content], listed: ClassList | None, background: str) -> _Naming:
    if isinstance(contents[0].opened, Named):
        return _of_names(contents, listed, background)
    by = "colour" if _by_colour(contents, listed) else "index"
    totals = _totals(contents, by)
    if listed is not None and (by == "index" or listed.colours is not None):
        return _of_list(contents, listed, by, totals, background)
    if listed is not None:
        raise DataError(
            f"{listed.source} names classes without colours, and {_first_coloured(contents).file.name} holds colours. "
            "Write the colour behind each name, as in: road 128 64 128"
        )
    return _of_colours(contents, totals, background) if by == "colour" else _of_values(contents, totals, background)


def _first_coloured(contents: Sequence[Content]) -> Content:
    return next((one for one in contents if isinstance(one.opened, Values) and one.opened.coloured), contents[0])


def _totals(contents: Sequence[Content], by: str) -> Counter[int]:
    """The number of pixels by value or colour."""
    totals: Counter[int] = Counter()
    coding = Coding(by, {})
    for one in contents:
        totals.update(dict(_summed(coding.keys(one.opened, one.values), one.counts)))
    return totals


def _summed(keys: Sequence[int], counts: npt.NDArray[np.int64]) -> Counter[int]:
    found: Counter[int] = Counter()
    for key, count in zip(keys, counts.tolist(), strict=True):
        found[key] += count
    return found


def _by_colour(contents: Sequence[Content], listed: ClassList | None) -> bool:
    """Whether classes are told by colour: masks are coloured, have the colours of the list, or palettes that do not agree."""
    palettes: dict[int, int] = {}
    agree, in_list = True, listed is not None and listed.colours is not None
    for one in contents:
        opened = one.opened
        assert isinstance(opened, Values)
        if opened.coloured:
            return True
        if opened.colours is None:  # 16 bits
            in_list = False
            continue
        if in_list:
            assert listed is not None
            assert listed.colours is not None
            in_list = {*opened.colours[one.values].tolist()} <= {*listed.colours}
        if opened.palette:
            for value, colour in zip(one.values.tolist(), opened.colours[one.values].tolist(), strict=True):
                agree = agree and palettes.setdefault(value, colour) == colour
    return in_list or not agree


def _of_names(contents: Sequence[Content], listed: ClassList | None, background: str) -> _Naming:
    """Masks whose values have names: what nothing is said of is the background."""
    present = [name for one in contents for name in Coding("name", {}).keys(one.opened, one.values)]
    rest = background or BACKGROUND
    known = [name for name in dict.fromkeys(present) if name]
    void = [name for name in known if is_void(name) and name != background]
    ground = [name for name in known if fold_name(name).strip("_").casefold() == rest.casefold()]
    ordered = [name for name in (() if listed is None else listed.names) if name in known]
    ordered += natural_order(name for name in known if name not in ordered)
    order = [rest] if "" in present or ground else []
    order += [name for name in ordered if name not in (*void, *ground)]
    names: dict[str, str | None] = {**{name: name for name in known}, **dict.fromkeys(["", *ground], rest), **dict.fromkeys(void, None)}
    notes = [f"Pixels inside no shape are the class {rest!r}."] if "" in present else []
    return _Naming("name", names, tuple(order), notes=notes + _void_note(void))


def _void_note(named: Sequence[str]) -> list[str]:
    if not named:
        return []
    return [
        f"Pixels of {shortened(named)} count as pixels without a class: neither learned nor scored. To learn them: "
        f"{setting('background', named[0])}."
    ]


def _of_list(contents: Sequence[Content], listed: ClassList, by: str, totals: Counter[int], background: str) -> _Naming:
    """Masks with a list of classes, by colour or by value."""
    notes, order = list[str](), list(listed.names)
    if by == "colour":
        assert listed.colours is not None
        names: dict[int, str | None] = dict(zip(listed.colours, order, strict=True))
        ground = 0
    else:
        values, order, told = _listed_values(listed, totals, background)
        names, ground = dict(zip(values, order, strict=True)), min(values)
        notes += told
        names.setdefault(_WHITE, None)
    names, order = _with_background(names, order, ground, background)
    kept = [name for place, name in enumerate(order) if not is_void(name) or (background and place == 0)]
    void = [name for name in order if name not in kept]
    names = {key: name if name in kept else None for key, name in names.items()}
    snapped = _check_known(contents, names, by, totals, f"{listed.source} has {plural(len(listed.names), 'class')}", notes)
    return _Naming(by, names, tuple(kept), snapped=snapped, notes=[*notes, *_void_note(void)])


def _listed_values(listed: ClassList, totals: Counter[int], background: str) -> tuple[list[int], list[str], list[str]]:
    """The value of each listed class, where some count from 1, list no background, or are 0 and 255."""
    order, count = list(listed.names), len(listed.names)
    seen = sorted(value for value in totals if value != _WHITE)
    ground = background or BACKGROUND
    if listed.from_zero and not set(seen) - {0} and totals[_WHITE]:
        if count <= 2:
            return [0, _WHITE], order if count == 2 else [ground, *order], []
        raise DataError(f"the masks hold 0 and 255 only, and {listed.source} names {count} classes. Which of them is 255? List two.")
    if listed.from_zero and seen and seen[-1] == count:
        if seen[0] == 0 and ground not in order:
            told = f"The values of the masks are 0 to {count}, and {listed.source} names {plural(count, 'class')}: 0 is read as {ground!r}."
            return list(range(count + 1)), [ground, *order], [told]
        if seen[0] > 0:
            return [*range(1, count + 1)], order, [f"The values of the masks count from 1, as the lines of {listed.source}."]
    return list(listed.values), order, []


def _with_background(
    names: Mapping[int, str | None], order: Sequence[str], ground: int, background: str
) -> tuple[dict[int, str | None], list[str]]:
    """The names with that of the background: a class of that name is it; else the lowest value, or black, is called so."""
    if not background:
        return dict(names), list(order)
    match = next((name for name in order if fold_name(name).casefold() == fold_name(background).casefold()), None)
    if match is None:
        old = names.get(ground)
        renamed = {**names, ground: background}
        return renamed, [background, *(name for name in order if name != old)]
    return dict(names), [match, *(name for name in order if name != match)]


def _check_known(
    contents: Sequence[Content], names: Mapping[int, str | None], by: str, totals: Counter[int], known: str, notes: list[str]
) -> bool:
    """Whether some values lie between the known ones and are taken for the nearest; DataError where they are unknown or not clear."""
    unknown = Counter({key: count for key, count in totals.items() if key not in names})
    lossy = any(isinstance(one.opened, Values) and one.opened.lossy for one in contents)
    present = sorted(key for key in names if totals[key])
    if lossy and by == "index" and (np.diff(present) < _APART).any():
        raise _not_clear(contents)
    if not unknown:
        return False
    pixels, worst = sum(totals.values()), unknown.most_common(1)[0]
    holders = [one for one in contents if worst[0] in Coding(by, {}).keys(one.opened, one.values)]
    first = holders[0]
    few = unknown.total() <= _SMEARED_SHARE * pixels and worst[1] <= _SMEARED_LARGEST * pixels
    spread = _clear(unknown, [key for key, name in names.items() if name is not None or by == "colour"], by, pixels)
    if (lossy or (few and len(unknown) >= _SMEARED_KINDS)) and spread:
        notes.append(_smeared_note(contents, unknown.total() / pixels))
        return True
    if lossy:
        raise _not_clear(contents)
    count = int(first.counts[Coding(by, {}).keys(first.opened, first.values).index(worst[0])])
    black = f" {setting('background', 'NAME')} makes it a class of its own." if worst[0] == 0 else ""
    raise DataError(
        f"{first.file.name}: {plural(count, 'pixel')} of {key_text(by, worst[0])}, which stands for no class: {known}. In "
        f"{plural(len(holders), 'mask')} of {len(contents)}; {plural(len(unknown), by)} unknown in all: "
        f"{shortened([colour_text(key) if by == 'colour' else str(key) for key, _ in unknown.most_common(5)])}. Add what is missing to the "
        f"list, or correct the masks.{black}"
    )


def _smeared_note(contents: Sequence[Content], share: float) -> str:
    first = next((one for one in contents if isinstance(one.opened, Values) and one.opened.lossy), contents[0])
    return Warned(
        f"The masks have values between those of the classes, as JPEG and resizing make them ({percent(share)} of the pixels, for "
        f"example in {first.file.name}): each is read as the nearest class. Save masks as PNG, without smoothing."
    )


def _not_clear(contents: Sequence[Content]) -> DataError:
    lossy = next((one for one in contents if isinstance(one.opened, Values) and one.opened.lossy), None)
    name = (lossy or contents[0]).file.name
    how = "is a JPEG, which changes values" if lossy is not None else "was smoothed, by resizing perhaps"
    return DataError(
        f"{name}: the mask {how}, and its {plural(len((lossy or contents[0]).values), 'value')} cannot be told apart for sure. Save the "
        "masks as PNG from the program that made them, without smoothing."
    )


def _clear(unknown: Mapping[int, int], known: Sequence[int], by: str, pixels: int) -> bool:
    """Whether next to all pixels are clearly of one of the known values: nearer than a quarter of the distance between two of these."""
    if len(known) < 2 or not unknown:
        return len(known) >= 2
    places = unpacked(np.array(known)).astype(np.int64) if by == "colour" else np.array(known)[:, None]
    apart = np.abs(places[:, None] - places[None]).sum(axis=2)
    least = apart[~np.eye(len(places), dtype=bool)].min()
    keys = np.array([*unknown])
    there = unpacked(keys).astype(np.int64) if by == "colour" else keys[:, None]
    distance = np.array([np.abs(places - one).sum(axis=1).min() for one in there])
    far = np.array([*unknown.values()])[distance > _NEAR * least].sum()
    return bool(least >= _APART and far <= _SMEARED_SHARE / 2 * pixels)


def _of_colours(contents: Sequence[Content], totals: Counter[int], background: str) -> _Naming:
    """Coloured masks without a list: every colour is a class, black is the background."""
    if len(totals) > MOST:
        worst = max(contents, key=lambda one: len(one.values))
        raise DataError(
            f"{worst.file.name}: the mask has {len(worst.values)} colours, so it is no mask of classes, or one that was smoothed or saved "
            "as JPEG. List the colours of the classes in classes.txt beside the masks, one in each line: road 128 64 128"
        )
    black = background or BACKGROUND
    ordered = sorted(totals)
    names: dict[int, str | None] = {colour: black if colour == 0 else f"#{colour:06x}" for colour in ordered}
    if len(totals) == 2 and 0 in totals:
        names[ordered[1]] = FOREGROUND
    listed = shortened([f"{name} ({colour_text(colour)})" for colour, name in names.items()], limit=6)
    note = f"The colours of the masks are read as classes: {listed}. Name them in classes.txt, one in each line: road 128 64 128"
    return _Naming("colour", names, tuple(name for name in names.values() if name), guessed=len(totals) == 2, notes=[note])


def _of_values(contents: Sequence[Content], totals: Counter[int], background: str) -> _Naming:
    """Masks of values without a list."""
    ground, notes = background or BACKGROUND, list[str]()
    lossy = any(isinstance(one.opened, Values) and one.opened.lossy for one in contents)
    levels, snapped = _levels(totals, lossy)
    if not levels:
        if lossy or len(totals) > MOST + 1:
            raise _not_clear(contents) if lossy or max(totals) <= _WHITE else _too_many(contents, totals)
        levels = sorted(totals)
    if snapped:
        notes.append(_smeared_note(contents, 1 - sum(totals[level] for level in levels) / sum(totals.values())))
    spread = len(levels) > 2 and _evenly_spread(levels)
    white = _WHITE if any(one.opened.array.dtype == np.uint8 for one in contents) else 65535
    void = [] if len(levels) == 2 or spread else [value for value in (_WHITE, white) if value in levels]
    values = [value for value in levels if value not in void]
    names: dict[int, str | None] = {value: f"class {value}" for value in values} | dict.fromkeys(void, None)
    binary = len(values) <= 2 and (values[:1] == [0] or void == [])
    if len(values) == 2 and values[0] == 0:
        names |= {0: ground, values[1]: FOREGROUND}
        notes.append(f"Masks of the values 0 and {values[1]}: read as {ground!r} and {FOREGROUND!r}.")
    elif 0 in names and (background or values == [0]):
        names[0] = ground
    if len(values) > 2:
        told = f"{len(values)} values, {values[0]} to {values[-1]}"
        notes.append(f"No list of classes beside the masks: their {told}, are read as classes called {names[values[1]]!r} and so on. "
                     "Name them in classes.txt, one in each line.")  # fmt: skip
    if spread:
        notes.append(
            Warned("255 is read as a class, since the values of the masks are evenly spread gray levels. List the classes if not.")
        )
    return _Naming("index", names, tuple(name for name in names.values() if name), snapped=snapped, guessed=binary, notes=notes)


def _too_many(contents: Sequence[Content], totals: Counter[int]) -> DataError:
    worst = max(contents, key=lambda one: len(one.values))
    return DataError(
        f"{worst.file.name}: the mask has {len(worst.values)} values up to {max(totals)}, and all together {len(totals)}; at most {MOST} "
        "classes can be learned. Masks of instances have a number for each thing: give those of classes."
    )


def _evenly_spread(levels: Sequence[int]) -> bool:
    even = np.linspace(0, _WHITE, len(levels))
    return len(levels) <= 16 and bool((np.abs(np.array(levels) - even) <= 1).all())


def _levels(totals: Counter[int], lossy: bool) -> tuple[list[int], bool]:
    """The gray levels of masks with values between them: two or a few, evenly spread from black to white. None for masks without such."""
    pixels = totals.total()
    if max(totals) > _WHITE or _evenly_spread(sorted(totals)) or not (lossy or _smoothed(totals)):
        return [], False
    for count in range(2, _MOST_LEVELS + 1):
        levels = np.linspace(0, _WHITE, count).round().astype(int).tolist()
        unknown = {value: total for value, total in totals.items() if value not in levels}
        near = [sum(total for value, total in totals.items() if abs(value - level) <= _NEAR * _WHITE / (count - 1)) for level in levels]
        if near[0] and near[-1] and _clear(unknown, levels, "index", pixels):
            return [level for level, held in zip(levels, near, strict=True) if held > _SMEARED_LARGEST * pixels / count], True
    return [], False


def _smoothed(totals: Counter[int]) -> bool:
    """Whether the values look like black and white that was smoothed: many others, each rare, up to the light ones; indices are small."""
    between = {value: count for value, count in totals.items() if value not in (0, _WHITE)}
    light = sum(value > _WHITE // 2 for value in between)
    rare = max(between.values(), default=0) <= _SMEARED_LARGEST * totals.total()
    return len(between) >= _SMOOTHED_VALUES and 4 * light >= len(between) and rare
