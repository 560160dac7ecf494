"""From annotation files to boxes as targets: each lies in its image, has a class, and what was repaired or left out is said."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.annotations import BOX, LABEL, MASK, Annotations
from headstart.data.box_sizes import Frame, placed, settle, tell
from headstart.data.boxes import Boxes
from headstart.data.class_lists import ClassList
from headstart.data.labels import match_names, natural_order, shortened, spelling_notes
from headstart.errors import DataError
from headstart.modalities.image.values import upright_size
from headstart.progress import Warned
from headstart.text import enumeration, plural

MOST_BOXES = 5_000
"""Boxes of one image that can be learned."""

KNOWN = (
    "Known are the files of Pascal VOC, COCO, YOLO, LabelMe, CVAT and Label Studio beside images or in a folder of their own, and tables "
    "with the columns filename, class, xmin, ymin, xmax, ymax."
)
"""Where boxes are looked for."""

_THREADS = 4
_SHOWN = 5
_ROUNDING = 0.5  # pixels outside of an image that are not worth a word


def box_reason(found: Annotations) -> str | None:
    """Why data look like boxes and nothing else: some have boxes, and neither masks nor labels of whole images; None where not so."""
    if BOX not in found.columns or MASK in found.columns or LABEL in found.columns:
        return None
    return f"boxes, from {found.columns[BOX].origin}"


def read_boxes(found: Annotations, classes: Sequence[str] | None = None) -> Boxes:
    """Read the boxes of annotations. With the `classes` of a run, matched with these by name.

    What was guessed, repaired or left out is noted in `found`, and images whose boxes do not fit them are removed there. DataError, naming
    the file, where there are no boxes or a class is not one of `classes`.
    """
    column = found.columns.get(BOX)
    if column is None or not any(value is not None for value in column.values):
        raise DataError(f"{found.source}: there are no boxes. {KNOWN}")
    frames = _frames(found)
    settle(frames, found.notes)
    odd = defaultdict[str, list[str]](list)
    sides = [placed(one, odd) for one in frames]
    tell(frames, odd, found.notes)
    kept = [i for i, one in enumerate(frames) if not one.problem]
    if 2 * len(kept) < len(frames):
        raise DataError(f"{found.source}: {len(frames) - len(kept)} of {plural(len(frames), 'image')} have another size than their "
                        f"annotation file says, for example {next(one.problem for one in frames if one.problem)}.")  # fmt: skip
    found.keep(kept)
    frames, sides = [frames[i] for i in kept], [sides[i] for i in kept]
    repaired = [_repaired(one, *two, odd) for one, two in zip(frames, sides, strict=True)]
    found.notes += _repairs(odd)
    shapes = [[shape for shape, there in zip(one.drawn.shapes, rows[1], strict=True) if there]
              for one, rows in zip(frames, repaired, strict=True)]  # fmt: skip
    labels = [[shape.label for shape in one] for one in shapes]
    names, ids, renamed = _classes(found, frames, labels, classes)
    counts = [len(one) for one in labels]
    _check_counts(found, frames, counts)
    position = {name: names.index(match) for name, match in renamed.items()}
    return Boxes(
        classes=names,
        boxes=np.concatenate([np.zeros((0, 4)), *(rows[0] for rows in repaired)]).astype(np.float32),
        labels=np.array([position[name] for one in labels for name in one], np.int64),
        crowd=np.array([shape.crowd for one in shapes for shape in one], np.bool_),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        sizes=np.array([one.upright for one in frames], np.int64).reshape(-1, 2),
        ids=ids,
        files=tuple(one.drawn.file if one.drawn.file != "." else "" for one in frames),
    )


def _frames(found: Annotations) -> list[Frame]:
    values, names, images = found.columns[BOX].values, found.names(), found.inputs
    lacking = [names[i] for i, value in enumerate(values) if value is None]
    if lacking:
        raise DataError(
            f"{found.source}: {plural(len(lacking), 'image')} of which nothing says what boxes are there, for example "
            f"{enumeration(lacking[:_SHOWN])}. Add their annotations, or remove the images."
        )
    from headstart.modalities.image import rgb  # noqa: F401 - before the threads, which would all import it

    def size(source: Any) -> tuple[tuple[int, int], int] | None:
        return ((source.shape[0], source.shape[1]), 1) if isinstance(source, np.ndarray) else upright_size(source)

    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(size, images))
    return [Frame(*one) for one in zip(names, values, sizes, strict=True)]


def _repaired(
    one: Frame, sides: npt.NDArray[np.float64], wrong: Sequence[str], odd: dict[str, list[str]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The boxes of an image inside it, float64 (m, 4), and which of the shapes they are, bool; what was done goes into `odd`."""
    height, width = one.upright
    limits = np.array([width, height] * 2, np.float64)

    def note(what: str, rows: npt.NDArray[np.bool_]) -> None:
        odd[what] += [_described(one, sides, row) for row in np.flatnonzero(rows).tolist()]

    damaged = np.asarray(~np.isfinite(sides).all(axis=1))
    odd["damaged"] += [f"{_described(one, sides, row)}{': ' * bool(wrong[row])}{wrong[row]}" for row in np.flatnonzero(damaged).tolist()]
    there = ~damaged
    unknown = there if one.image is None and one.drawn.size is None else np.zeros_like(there)
    there = there & ~unknown
    note("unknown", unknown)
    swapped = there & ((sides[:, 0] > sides[:, 2]) | (sides[:, 1] > sides[:, 3]))
    note("swapped", swapped)
    ordered = np.concatenate([np.minimum(sides[:, :2], sides[:, 2:]), np.maximum(sides[:, :2], sides[:, 2:])], axis=1)
    flat = there & (ordered[:, :2] >= ordered[:, 2:]).any(axis=1)
    note("flat", flat)
    outside = there & ~flat & ((ordered[:, 2:] <= 0) | (ordered[:, :2] >= limits[:2])).any(axis=1)
    note("outside", outside)
    there &= ~flat & ~outside
    clipped = np.clip(ordered, 0, limits)
    note("clipped", there & (np.abs(np.where(there[:, None], clipped - ordered, 0)) > _ROUNDING).any(axis=1))
    shrunk = clipped.astype(np.float32)
    vanished = there & (shrunk[:, :2] >= shrunk[:, 2:]).any(axis=1)  # thinner than float32 can tell
    note("flat", vanished)
    there &= ~vanished
    return clipped[there], there


def _described(one: Frame, sides: npt.NDArray[np.float64], row: int) -> str:
    box = ", ".join(f"{side:g}" for side in np.round(sides[row], 2).tolist())
    return f"{one.drawn.shapes[row].label!r} ({box}) in {one.drawn.file if one.drawn.file.endswith(('.xml', '.txt')) else one.drawn.name}"


_SAID = {
    "swapped": "{} with left and right, or top and bottom, swapped: put in order",
    "clipped": "{} partly outside of the image: cut at its edge",
    "flat": "Left out {} without an area",
    "outside": "Left out {} wholly outside of the image",
    "damaged": "Left out {} with sides that are no numbers, or damaged",
    "unknown": "Left out {} of images that cannot be opened",
}


def _repairs(odd: dict[str, list[str]]) -> list[str]:
    return [
        Warned(f"{said.format(_boxes(len(odd[what])))}: {enumeration(odd[what][:_SHOWN], count=len(odd[what]))}.")
        for what, said in _SAID.items()
        if odd[what]
    ]


def _boxes(count: int) -> str:
    return f"{count} box{'es' * (count != 1)}"


def _classes(
    found: Annotations, frames: Sequence[Frame], labels: Sequence[Sequence[str]], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, str]]:
    """The classes, their category numbers, and the class of each name in the data."""
    lists = [*dict.fromkeys(one.drawn.classes for one in frames if one.drawn.classes is not None)]
    present = Counter(name for one in labels for name in {*one})
    if classes is not None:
        renamed = match_names(present, classes, where=f"the boxes of {found.source}", known="the run")
        found.notes += [f"{name!r} is read as the class {match!r}." for name, match in renamed.items() if name != match]
        return tuple(classes), _ids(classes, lists), renamed
    if not present:
        raise DataError(f"{found.source}: there are no boxes in {plural(len(frames), 'image')}: nothing can be learned.")
    listed = [*dict.fromkeys(name for one in lists for name in one.names)]
    names = tuple([name for name in listed if name in present] + natural_order(name for name in present if name not in listed))
    if absent := [name for name in listed if name not in present]:
        found.notes.append(f"Left out, since no box is of them: {shortened(absent)}.")
    found.notes += spelling_notes({name: present[name] for name in names})
    return names, _ids(names, lists), {name: name for name in names}


def _ids(names: Sequence[str], lists: Sequence[ClassList]) -> tuple[int, ...]:
    """The category numbers of classes as all lists of the data have them; where one has none or they differ, from 1."""
    numbers = defaultdict[str, set[int]](set)
    for one in lists:
        for name, value in zip(one.names, one.values, strict=True):
            numbers[name].add(value)
    known = [next(iter(numbers[name])) for name in names if len(numbers[name]) == 1]
    return tuple(known) if len(known) == len(names) == len({*known}) else tuple(range(1, len(names) + 1))


def _check_counts(found: Annotations, frames: Sequence[Frame], counts: Sequence[int]) -> None:
    if max(counts, default=0) > MOST_BOXES:
        row = int(np.argmax(counts))
        raise DataError(f"{found.source}: {frames[row].name} has {counts[row]} boxes; at most {MOST_BOXES} in an image can be learned.")
