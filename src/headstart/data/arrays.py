"""Arrays, ``.npz`` files and lists of paths as data sets."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from headstart.data.annotations import Annotations, Column, Labels, dataset_of, part_of
from headstart.data.cells import SEVERAL, label_text, label_texts
from headstart.data.dataset import Dataset, Images
from headstart.data.labels import read_labels, shortened
from headstart.data.values import checked_groups, checked_images, checked_labels, entries, image_array, one_hot_note
from headstart.errors import DataError
from headstart.modalities.image import is_pillow, read_image
from headstart.modalities.image.levels import common_levels, levels_note
from headstart.progress import to_warnings

_IMAGE_KEYS = ("images", "x", "data", "imgs")
_LABEL_KEYS = ("labels", "y", "targets", "target", "label")


def dataset_from_arrays(
    images: npt.ArrayLike,
    labels: Any,
    *,
    parts: Sequence[str] | None = None,
    groups: Sequence[Any] | None = None,
    classes: Sequence[str] | None = None,
    source: str = "arrays",
) -> Dataset:
    """Make a data set of images in memory.

    Args:
        images: uint8 (n, H, W), or (n, H, W, 1, 3 or 4); integers of another type are accepted if they lie in 0..255.
        labels: n labels (text or numbers), also a column of pandas or polars; for multi-label data a bool or 0/1 matrix (n, k) (a table
            with a column for each class, too), or n lists of labels.
        parts: "train", "val" or "test" for each image, or "".
        groups: one value per image; equal values stay on one side of every split.
        classes: names allowed, in this order; for a matrix the names of its columns.
        source: what to call the data in messages.

    Raises:
        DataError: shapes, types or lengths that do not fit; it says what came and how to convert it.
    """
    nested = isinstance(images, list | tuple) and bool(images) and isinstance(images[0], list | tuple)
    found: Any = images if nested else checked_images(images)
    if any(isinstance(image, str | bytes | os.PathLike) for image in found):
        raise DataError("images must be arrays or images of Pillow, and files came: give their paths to dataset_from_paths.")
    pixels = found if isinstance(found, np.ndarray) else _pixels(found)
    return _dataset(pixels, labels, parts, groups, classes, source)


def annotations_given(images: Any, name: str, column: Column, *, part: str = "train", groups: Any = None) -> Annotations:
    """What an estimator is given: images as of `checked_images`, one column of what is known of them, and their `groups`."""
    names, notes = checked_groups(groups, len(images))
    for note in notes:
        to_warnings(note)
    listed = [Path(image) if isinstance(image, str | os.PathLike) else image for image in images]
    return Annotations(
        images if isinstance(images, np.ndarray) else tuple(listed), {name: column}, [part] * len(images), source="y", groups=names,
        learned=(),
    )  # fmt: skip


def _pixels(images: Sequence[Any]) -> npt.NDArray[np.uint8]:
    """Arrays and images of Pillow as one array; those of more than 8 bits scaled alike."""
    levels = common_levels(image for image in images if is_pillow(image)).levels
    if levels is not None:
        to_warnings(levels_note(levels))
    return image_array([read_image(one, levels=levels) if is_pillow(one) else one for one in images])


def dataset_from_paths(
    paths: Sequence[str | os.PathLike[str]],
    labels: Any,
    *,
    parts: Sequence[str] | None = None,
    groups: Sequence[Any] | None = None,
    classes: Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    source: str = "paths",
) -> Dataset:
    """Make a data set of image files; `labels` and the rest as for `dataset_from_arrays`. The files are not opened.

    Raises:
        DataError: lengths that do not fit, or no paths.
    """
    found = checked_images(paths, name="paths")
    strange = next((path for path in found if not isinstance(path, str | os.PathLike)), None)
    if strange is not None:
        raise DataError(f"paths must be the names of files, got {type(strange).__name__}. Images in memory: dataset_from_arrays.")
    files = tuple(Path(path) for path in found)  # type: ignore[arg-type]
    return _dataset(files, labels, parts, groups, classes, source, root=None if root is None else Path(root))


def _dataset(
    images: Images, labels: Any, parts: Sequence[str] | None, groups: Any | None, classes: Sequence[str] | None, source: str,
    root: Path | None = None,
) -> Dataset:  # fmt: skip
    notes: list[str] = []
    if not len(images):
        raise DataError(f"there are no images in {source}")
    texts, named = _labels_of(labels, classes, len(images), notes)
    for note in notes:
        to_warnings(note)
    found = _annotations(images, texts, parts, groups, source, notes)
    found.root = root
    return dataset_of(found, read_labels(found, named))


def _annotations(
    images: Images, labels: Labels, parts: Sequence[str] | None, groups: Any | None, source: str, notes: list[str]
) -> Annotations:
    if not len(images):
        raise DataError(f"there are no images in {source}")
    parts = None if parts is None else [label_text(part) for part in entries(parts, "parts")]
    if parts is not None and len(parts) != len(images):
        raise DataError(f"{len(images)} images but {len(parts)} parts; one for each image is needed")
    grouped, told = checked_groups(groups, len(images))
    names = [""] * len(images) if parts is None else [part_of(part) if part else "" for part in parts]
    if None in names:
        wrong = sorted({part for part, name in zip(parts or (), names, strict=True) if name is None})
        raise DataError(f"parts must be train, val or test; got {shortened(wrong)}")
    if isinstance(labels[0], tuple):
        empty = sum(not row for row in labels)
        notes += [f"{empty} images have no label: they count as examples of none of the classes."] if empty else []
    elif not all(labels):
        missing = sum(not label for label in labels)
        first = next(i for i, label in enumerate(labels) if not label)
        raise DataError(f"{missing} labels are empty, the first at position {first}; label these images or leave them out")
    return Annotations.labelled(
        images,
        labels,
        origin=f"the labels of {source}",
        parts=cast("list[str]", names),
        groups=grouped,
        source=source,
        notes=[*notes, *told],
    )


def _labels_of(labels: Any, classes: Sequence[str] | None, count: int, notes: list[str]) -> tuple[Labels, Sequence[str] | None]:
    """Return labels as text, and the class names if they are fixed by `classes` or by the columns of a matrix of 0 and 1."""
    if isinstance(classes, str):
        raise DataError(f"classes must be a list of names, got the text {classes!r}. Put it into a list: [{classes!r}].")
    found = checked_labels(labels, count)
    if isinstance(found, np.ndarray) and found.ndim == 2 and found.shape[1] > 1:
        columns = getattr(labels, "columns", range(found.shape[1]))
        names = [str(column) for column in columns] if classes is None else list(classes)
        if len(names) != found.shape[1]:
            raise DataError(f"the matrix of labels has {found.shape[1]} columns, but there are {len(names)} classes")
        notes += filter(None, [one_hot_note(found, labels)])
        return [tuple(names[j] for j in np.flatnonzero(row)) for row in found], names
    values = list(found.ravel()) if isinstance(found, np.ndarray) else found
    if any(isinstance(value, SEVERAL) for value in values):
        return [label_texts(value) for value in values], classes
    texts = [label_text(value) for value in values]
    numbers = bool(values) and all(isinstance(value, int | np.integer) for value in values)
    if classes is not None and numbers and not set(texts) <= set(classes) and min(values) >= 0 and max(values) < len(classes):
        return [classes[int(value)] for value in values], classes  # numbers that stand for positions in `classes`
    return texts, classes


def read_npz(path: Path) -> Annotations:
    """Read a NumPy archive with ``images`` and ``labels``, ``X`` and ``y``, ``x_train`` and ``y_train``, ``train_images`` and so on."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = {key.casefold(): key for key in archive.files}
            pairs = _pairs(keys)
            if not pairs:
                expected = "images and labels (or X and y), or the same with _train, _val and _test"
                raise DataError(f"{path} holds {shortened(sorted(archive.files))}; expected {expected}")
            notes: list[str] = []
            read = []
            for part, images, labels in pairs:
                pixels = image_array(archive[images])
                read.append((part, pixels, _labels_of(archive[labels], None, len(pixels), notes)[0]))
    except DataError:
        raise
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
        pickled = " It holds Python objects, which are not loaded; save plain arrays." if "pickle" in str(error).lower() else ""
        raise DataError(f"{path} is not a NumPy archive that can be read: {error}.{pickled}") from None
    if len({pixels.shape[1:] for _, pixels, _ in read}) > 1:
        raise DataError(f"the parts of {path} have images of different height and width: {[pixels.shape[1:3] for _, pixels, _ in read]}")
    parts = [part for part, pixels, _ in read for _ in range(len(pixels))]
    together = cast("Labels", [label for _, _, several in read for label in several])
    return _annotations(np.concatenate([pixels for _, pixels, _ in read]), together, parts, None, str(path), [*dict.fromkeys(notes)])


def _pairs(keys: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return (part, key of the images, key of the labels) for each pair in an archive."""
    found = []
    for part, spellings in (("train", ("train",)), ("val", ("val", "valid")), ("test", ("test",)), ("", ("",))):
        images, labels = (_key(keys, stems, spellings) for stems in (_IMAGE_KEYS, _LABEL_KEYS))
        if images and labels:
            found.append((part, images, labels))
    return found


def _key(keys: dict[str, str], stems: Sequence[str], spellings: Sequence[str]) -> str | None:
    pairs = [(stem, part) for stem in stems for part in spellings]
    names = (name.strip("_") for s, p in pairs for name in (f"{s}_{p}", f"{p}_{s}", f"{s}{p}", f"{p}{s}"))
    return next((keys[name] for name in names if name in keys), None)
