"""What is wrong with masks: classes with few pixels, masks of nothing, one mask for several images, and masks beside their images."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from headstart.audit.alignment import find_misaligned
from headstart.audit.findings import Finding
from headstart.data import Dataset, Masks
from headstart.errors import DataError, ImageError
from headstart.text import enumeration, percent, plural

_FEW_IMAGES = 5  # with a class
_FEW_PIXELS = 0.001  # of the pixels that have a class
_MUCH_VOID = 0.25  # of all pixels
_MANY_EMPTY = 0.5  # of the masks
_SHOWN = 8


def find_mask_faults(dataset: Dataset) -> list[Finding]:
    """Return what is found in masks; nothing for other targets. Every mask is read once."""
    masks = dataset.targets
    if not isinstance(masks, Masks):
        return []
    return [*_few(dataset, masks), *_empty(dataset, masks), *_void(masks), *_repeated(dataset, masks), *find_misaligned(dataset)]


def _few(dataset: Dataset, masks: Masks) -> list[Finding]:
    training = masks.take(dataset.part("train", "val", ""))
    pixels, images = training.pixels(), training.counts()
    total = max(sum(pixels.values()), 1)
    few = [name for name, count in pixels.items() if count and (count < _FEW_PIXELS * total or images[name] < _FEW_IMAGES)]
    few.sort(key=lambda name: pixels[name])
    listed = enumeration(
        [f"{name!r} ({percent(pixels[name] / total, digits=2)}, in {plural(images[name], 'image')})" for name in few], most=_SHOWN
    )
    message = (
        f"Few pixels to learn from: {listed} of the training pixels. These classes will be recognised poorly; add images with them, or "
        "merge classes."
    )
    lacking = [name for name, count in pixels.items() if not count]
    absent = f"No training pixel of {enumeration([repr(name) for name in lacking], most=_SHOWN)}: it cannot be learned."
    return [
        *Finding.of("few pixels", "warning", message, few if len(few) > _SHOWN else (), len(few)),
        *Finding.of("no pixels", "error", absent, lacking if len(lacking) > _SHOWN else (), len(lacking)),
    ]


def _empty(dataset: Dataset, masks: Masks) -> list[Finding]:
    """Masks of one class alone, the first, which is mostly the background; and masks without any class."""
    areas, names = masks.areas, dataset.names()
    known = areas[:, :-1].sum(axis=1)
    alone = np.flatnonzero((known > 0) & (areas[:, 0] == known))
    nothing = np.flatnonzero(known == 0)
    share = len(alone) / max(len(masks), 1)
    message = (
        f"{plural(len(alone), 'mask')} of {len(masks)} hold{'s' * (len(alone) == 1)} {masks.classes[0]!r} alone. That is right where the "
        "image shows nothing else; where someone forgot to draw, the model learns to overlook it."
    )
    without = f"{plural(len(nothing), 'mask')} without a pixel of any class: nothing is learned from these images, and nothing is scored."
    return [
        *Finding.of("empty masks", "warning" if share > _MANY_EMPTY else "note", message, [names[i] for i in alone], len(alone)),
        *Finding.of("masks without classes", "warning", without, [names[i] for i in nothing], len(nothing)),
    ]


def _void(masks: Masks) -> list[Finding]:
    share = float(masks.areas[:, -1].sum() / max(masks.areas.sum(), 1))
    message = f"{percent(share)} of all pixels have no class: they are neither learned nor scored."
    return [Finding("void pixels", "note", message, (), int((masks.areas[:, -1] > 0).sum()))] if share > _MUCH_VOID else []


def _repeated(dataset: Dataset, masks: Masks) -> list[Finding]:
    """Masks that are the same, pixel by pixel, and hold more than one class; of images that are not copies this is an accident."""
    if not masks.sources:
        return []
    candidates = defaultdict[bytes, list[int]](list)
    for row, areas in enumerate(masks.areas):
        if (areas > 0).sum() > 1:
            candidates[areas.tobytes()].append(row)
    same = defaultdict[bytes, list[int]](list)
    for row in (row for rows in candidates.values() if len(rows) > 1 for row in rows):
        try:
            mask = masks.read(row)
        except (ImageError, DataError):
            continue  # told elsewhere
        same[hashlib.sha256(repr(mask.shape).encode() + mask.tobytes()).digest()].append(row)
    names = dataset.names()
    groups = [rows for rows in same.values() if len(rows) > 1]
    count = sum(map(len, groups))
    message = (
        f"{count} images have the same mask as another, pixel by pixel. If they are not copies of one image, a mask was saved under a "
        "wrong name."
    )
    return Finding.of("repeated masks", "warning", message, [" = ".join(names[row] for row in rows[:3]) for rows in groups], count)
