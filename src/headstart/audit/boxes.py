"""What is wrong with boxes: drawn twice, in two classes, tiny, over the whole image, few of a class; and how large they are and where."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from headstart.audit.findings import Finding
from headstart.data import Boxes, Dataset
from headstart.metrics.boxes import areas, iou
from headstart.text import enumeration, percent, plural

_SAME = 0.9  # the intersection over union of two boxes of one thing
_FEW = 10  # training boxes of a class
_TINY = 1 / 80  # of the longer side of the image: four pixels of 320
_WHOLE = 0.98  # of the image
_MANY = 0.1  # of the boxes
_BLOCK = 512  # boxes that are compared with all of their image at a time
_SMALL, _LARGE = 32**2, 96**2  # square pixels, as COCO counts sizes
_SHOWN = 8


def find_box_faults(dataset: Dataset) -> list[Finding]:
    """Return what is found in boxes; nothing for other targets. No image is opened."""
    boxes = dataset.targets
    if not isinstance(boxes, Boxes):
        return []
    return [*_few(dataset, boxes), *_doubled(dataset, boxes), *_repeated(dataset, boxes), *_odd_sizes(dataset, boxes), *_statistics(boxes)]


def _few(dataset: Dataset, boxes: Boxes) -> list[Finding]:
    training = boxes.take(dataset.part("train", "val", ""))
    counts, images = training.objects(), training.counts()
    few = sorted((name for name, count in counts.items() if 0 < count < _FEW), key=lambda name: counts[name])
    lacking = [name for name, count in counts.items() if not count]
    listed = enumeration([f"{name!r} ({counts[name]} in {plural(images[name], 'image')})" for name in few], most=_SHOWN)
    message = f"Fewer than {_FEW} training boxes of {listed}. These classes will be found poorly; add images with them, or merge classes."
    absent = f"No training box of {enumeration([repr(name) for name in lacking], most=_SHOWN)}: it cannot be learned."
    return [
        *Finding.of("few boxes", "warning", message, few if len(few) > _SHOWN else (), len(few)),
        *Finding.of("no boxes", "error", absent, lacking if len(lacking) > _SHOWN else (), len(lacking)),
    ]


def _pairs(boxes: Boxes) -> Iterator[tuple[int, int, int]]:
    """The image and two of its boxes, by their places in it, that lie on each other; crowds aside."""
    for row in np.flatnonzero(np.diff(boxes.starts) > 1).tolist():
        found, _, crowd = boxes.of(row)
        for start in range(0, len(found), _BLOCK):
            near = iou(found[start : start + _BLOCK], found) > _SAME
            for first, second in np.argwhere(near).tolist():
                if first + start < second and not crowd[first + start] and not crowd[second]:
                    yield row, first + start, second


def _doubled(dataset: Dataset, boxes: Boxes) -> list[Finding]:
    """Boxes on each other, of one class or of two."""
    names, twice, classes = dataset.names(), Counter[int](), defaultdict[tuple[str, str], list[int]](list)
    for row, first, second in _pairs(boxes):
        labels = boxes.of(row)[1]
        if labels[first] == labels[second]:
            twice[row] += 1
        else:
            one, other = sorted((int(labels[first]), int(labels[second])))
            classes[boxes.classes[one], boxes.classes[other]].append(row)
    listed = enumeration([f"{one!r} and {other!r} ({len(rows)})" for (one, other), rows in classes.items()], most=_SHOWN)
    both = sorted({row for rows in classes.values() for row in rows})
    same = (
        f"{plural(len(twice), 'image')} with a box that lies on another of the same class (IoU above {_SAME}): one thing, drawn twice. A "
        "detector that finds it once is counted as missing one. Delete one of the two."
    )
    other_class = (
        f"{plural(len(both), 'image')} with boxes of two classes on each other (IoU above {_SAME}): {listed}. If it is one thing, one of "
        "the classes is wrong, and no detector can be right about both."
    )
    return [
        *Finding.of("repeated boxes", "warning", same, [f"{names[row]}: {count}" for row, count in twice.items()], len(twice)),
        *Finding.of("boxes of two classes", "warning", other_class, [names[row] for row in both], len(both)),
    ]


def _repeated(dataset: Dataset, boxes: Boxes) -> list[Finding]:
    """Images with the same two boxes or more, number by number; of images that are not copies this is an accident."""
    same = defaultdict[bytes, list[int]](list)
    for row in np.flatnonzero(np.diff(boxes.starts) > 1).tolist():
        found, labels, _ = boxes.of(row)
        order = np.lexsort((*found.T, labels))
        same[found[order].tobytes() + labels[order].tobytes()].append(row)
    names, groups = dataset.names(), [rows for rows in same.values() if len(rows) > 1]
    count = sum(map(len, groups))
    message = (
        f"{count} images have exactly the boxes of another. If they are not copies of one image, annotations were saved under a wrong name."
    )
    return Finding.of("repeated annotations", "warning", message, [" = ".join(names[row] for row in rows[:3]) for rows in groups], count)


def _sides(boxes: Boxes) -> npt.NDArray[np.float64]:
    """Width and height of each box in parts of its image, float64 (m, 2)."""
    images = np.maximum(boxes.sizes[boxes.images][:, ::-1], 1)
    return np.asarray((boxes.boxes[:, 2:] - boxes.boxes[:, :2]) / images, np.float64)


def _odd_sizes(dataset: Dataset, boxes: Boxes) -> list[Finding]:
    names, images, shares = dataset.names(), boxes.images, _sides(boxes)
    pixels = (boxes.boxes[:, 2:] - boxes.boxes[:, :2]).max(axis=1)
    tiny = ~boxes.crowd & (pixels < _TINY * np.maximum(boxes.sizes[images].max(axis=1), 1))
    whole = ~boxes.crowd & (shares.prod(axis=1) >= _WHOLE)

    def examples(rows: npt.NDArray[np.bool_]) -> Sequence[str]:
        return [f"{names[images[row]]}: {boxes.classes[boxes.labels[row]]!r}" for row in np.flatnonzero(rows)[:_SHOWN].tolist()]

    small = (
        f"{_count(tiny)} of {len(boxes.boxes)} with sides below {percent(_TINY, digits=2)} of the longer side of the image (four pixels of "
        "320): too small to be seen at the usual size. Give a larger --image-size, or delete what was drawn by accident."
    )
    large = f"{_count(whole)} of {len(boxes.boxes)} over the whole image. That says what an image shows, and not where: look at these."
    many = [rows.sum() > _MANY * max(len(boxes.boxes), 1) for rows in (tiny, whole)]
    return [
        *Finding.of("tiny boxes", "warning" if many[0] else "note", small, examples(tiny), int(tiny.sum())),
        *Finding.of("whole images", "warning" if many[1] else "note", large, examples(whole), int(whole.sum())),
    ]


def _count(rows: npt.NDArray[np.bool_]) -> str:
    count = int(rows.sum())
    return f"{count} box{'es' * (count != 1)}"


def _statistics(boxes: Boxes) -> list[Finding]:
    """How many boxes an image has, how large they are and where."""
    counts, kept = np.diff(boxes.starts), ~boxes.crowd
    if not kept.any():
        return []
    found, sizes = boxes.boxes[kept], areas(boxes.boxes[kept])
    longer = 100 * _sides(boxes)[kept].max(axis=1)
    images = np.maximum(boxes.sizes[boxes.images[kept]][:, ::-1], 1)
    centres = 100 * np.median((found[:, :2] + found[:, 2:]) / 2 / images, axis=0)
    low, middle, high = np.percentile(longer, [10, 50, 90])
    small, large = int((sizes < _SMALL).sum()), int((sizes >= _LARGE).sum())
    message = (
        f"{_count(kept)} in {plural(len(boxes), 'image')}, {len(found) / len(boxes):.1f} in each ({counts.min()} to {counts.max()}; "
        f"{plural(int((counts == 0).sum()), 'image')} without any). Their longer side is {middle:.0f} % of the image's in the middle, "
        f"{low:.0f} to {high:.0f} % for most; {small} are small, {len(found) - small - large} medium and {large} large, as COCO counts. "
        f"The middle of their centres is at {centres[0]:.0f} % of the width and {centres[1]:.0f} % of the height."
    )
    crowds = f"{_count(boxes.crowd)} of crowds or difficult things: not learned, and a detection there is not counted as wrong."
    return [Finding("sizes of boxes", "note", message, (), len(found)), *Finding.of("crowds", "note", crowds, (), int(boxes.crowd.sum()))]
