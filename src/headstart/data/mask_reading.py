"""From the files of masks to targets: every mask is opened once, its pixels are counted, and its values are understood as classes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.annotations import MASK, Annotations
from headstart.data.labels import shortened
from headstart.data.mask_classes import Content, Understood, understand
from headstart.data.masks import VOID, MaskFile, Masks, MaskSource, Named, runs
from headstart.errors import DataError, ImageError
from headstart.modalities.image import quiet_decoding
from headstart.modalities.image.values import Values, upright_size
from headstart.progress import Warned
from headstart.text import enumeration, plural

_THREADS = 4
_SHOWN = 5
_ASPECT = 0.02  # how far the aspect ratios of an image and its mask may be apart, beside the rounding of a side to whole pixels


def read_masks(found: Annotations, classes: Sequence[str] | None = None) -> Masks:
    """Read the masks of annotations; every image has one. With the `classes` of a run, matched with these by name.

    What was guessed or repaired is noted in `found`. DataError, naming the file, for masks that cannot be decoded, that fit their images in
    no size, or with values that stand for no class.
    """
    column = found.columns.get(MASK)
    if column is None or not any(value is not None for value in column.values):
        raise DataError(f"{found.source}: {found.reason or 'there are no masks.'}")
    lacking = [i for i, value in enumerate(column.values) if value is None]
    if lacking:
        names = found.names()
        raise DataError(
            f"{found.source}: {plural(len(lacking), 'image')} without a mask, for example "
            f"{enumeration([names[i] for i in lacking[:_SHOWN]])}. Add the masks, or remove the images."
        )
    contents = _open_all(found)
    orientations = _fit_sizes(found, contents)
    understood = understand(contents, found, classes)
    areas = np.stack([_areas(content, one, len(understood[0].classes)) for content, one in zip(contents, understood, strict=True)])
    masks = Masks(
        classes=understood[0].classes,
        areas=areas,
        sources=tuple(
            MaskSource(content.file, one.coding, turn) for content, one, turn in zip(contents, understood, orientations, strict=True)
        ),
    )
    found.notes += _notes(found, masks)
    return masks


def _areas(content: Content, understood: Understood, classes: int) -> npt.NDArray[np.int64]:
    positions = understood.coding.of_values(content.opened, content.values)
    return np.bincount(np.where(positions == VOID, classes, positions), weights=content.counts, minlength=classes + 1).astype(np.int64)


def _open_all(found: Annotations) -> list[Content]:
    """Open every mask, in threads; DataError with the first that cannot be decoded."""
    from headstart.modalities.image import rgb  # noqa: F401 - before the threads, which would all import it

    images: Any = found.inputs

    def opened(index: int) -> Content | ImageError:
        file: MaskFile = found.columns[MASK].values[index]
        try:
            picture = file.open()
        except ImageError as error:
            return error
        begun, lengths = runs(picture.array)
        values, where = np.unique(begun, return_inverse=True)
        counts = np.bincount(where, weights=lengths).astype(np.int64)
        source = images[index]
        image = ((source.shape[0], source.shape[1]), 1) if isinstance(source, np.ndarray) else upright_size(source)
        return Content(file, _without_pixels(picture), values, counts, picture.array.shape[:2], image)

    pool = ThreadPoolExecutor(_THREADS)
    try:
        with quiet_decoding():
            results = list(pool.map(opened, range(len(images))))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interruption waits for none of them
    wrong = [result for result in results if isinstance(result, ImageError)]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataError(
            f"{plural(len(wrong), 'mask')} cannot be read: {'; '.join(map(str, wrong[:_SHOWN]))}{more}. Write them again, or remove them: "
            "an image without a mask is left out."
        )
    return [result for result in results if isinstance(result, Content)]


def _without_pixels(picture: Values | Named) -> Values | Named:
    nothing = np.zeros((0, 0), picture.array.dtype)
    if isinstance(picture, Named):
        return Named(nothing, picture.names)
    return Values(nothing, picture.colours, picture.coloured, picture.lossy, picture.palette, picture.transparent)


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are one picture at two scales: sides are rounded to whole pixels, so that they may be off by one."""
    (height, width), (h, w) = one, other
    slack = _ASPECT * height * w + max(height, h, width, w)
    return abs(height * w - width * h) <= slack and (abs(height * w - width * h) <= 0.1 * height * w)


def _fit_sizes(found: Annotations, contents: Sequence[Content]) -> list[int]:
    """The orientation that is to be undone in each mask; DataError for masks whose size does not fit their images.

    A mask is as large as the upright image, or as the pixels that are stored where the metadata of the image say that it lies on its side;
    otherwise it must be the same picture at another scale.
    """
    names = found.names()
    turned = [i for i, one in enumerate(contents) if one.image is not None and one.image[1] != 1]
    told = [_as_stored(contents[i]) for i in turned]
    stored = told.count(True) > told.count(False)  # where a size does not tell, the others do
    orientations, scaled, wrong = [1] * len(contents), list[int](), list[int]()
    for i, known in zip(turned, told, strict=True):
        image = contents[i].image
        if image is not None and (known if known is not None else stored):
            orientations[i] = image[1]
    for i, one in enumerate(contents):
        if one.image is None:
            continue
        (height, width), _ = one.image
        size = (one.size[1], one.size[0]) if orientations[i] >= 5 else one.size
        if size == (height, width):
            continue
        (scaled if same_aspect((height, width), size) else wrong).append(i)
    if wrong:
        listed = "; ".join(
            f"{contents[i].file.name} is {_size(contents[i].size)}, {names[i]} is {_upright(contents[i])}" for i in wrong[:3]
        )
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(
            f"{plural(len(wrong), 'mask')} of another shape than the image: {listed}{more}. A mask must be as large as its image, or "
            "smaller or larger by one factor. Make these again, or remove them: an image without a mask is left out."
        )
    if scaled:
        first = scaled[0]
        found.notes.append(
            f"{plural(len(scaled), 'mask')} of another size than the image but of its aspect ratio, for example "
            f"{contents[first].file.name} ({_size(contents[first].size)} for {_upright(contents[first])}): used as "
            f"{'it is' if len(scaled) == 1 else 'they are'}, never smoothed."
        )
    if count := sum(orientation != 1 for orientation in orientations):
        found.notes.append(
            f"{plural(count, 'mask')} turned like the image, which its metadata turn: the mask has the size of the pixels as stored."
        )
    if count := sum(orientations[i] == 1 for i in turned):
        found.notes.append(f"{plural(count, 'image')} turned upright by the metadata; the masks are taken to be upright.")
    return orientations


def _as_stored(content: Content) -> bool | None:
    """Whether a mask has the size of the stored pixels and not of the upright image; None where both have the same shape."""
    assert content.image is not None
    size, turn = content.image
    if turn < 5 or size[0] == size[1]:
        return None
    upright, stored = same_aspect(size, content.size), same_aspect(size[::-1], content.size)
    return None if upright == stored else stored


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _upright(content: Content) -> str:
    return _size(content.image[0]) if content.image is not None else "?"


def _notes(found: Annotations, masks: Masks) -> list[str]:
    """What is missing or empty in the masks of a data set."""
    notes = list[str]()
    parts = np.array(found.parts)
    training = np.isin(parts, ("train", ""))
    if training.any():
        absent = [name for name, pixels in masks.take(np.flatnonzero(training)).pixels().items() if not pixels]
        if absent:
            notes.append(Warned(f"No training pixel of {shortened(absent)}: it cannot be learned."))
    void = int((masks.areas[:, -1] == masks.areas.sum(axis=1)).sum())
    if void:
        notes.append(Warned(f"{plural(void, 'mask')} without a pixel of any class: nothing is learned from these images."))
    return notes
