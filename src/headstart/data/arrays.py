"""Arrays, ``.npz`` files and lists of paths as data sets."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from headstart.data.annotations import Annotations, Labels, dataset_of, part_of
from headstart.data.cells import SEVERAL, label_text, label_texts
from headstart.data.dataset import Dataset, Images
from headstart.data.labels import read_labels, shortened
from headstart.errors import DataError

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
        images: uint8 (n, H, W, 3), (n, H, W, 1) or (n, H, W); integers of another type are accepted if they lie in 0..255.
        labels: n labels (text or numbers); for multi-label data a bool or 0/1 matrix (n, k), or n lists of labels.
        parts: "train", "val" or "test" for each image, or "".
        groups: one value per image; equal values stay on one side of every split.
        classes: names allowed, in this order; for a matrix the names of its columns.
        source: what to call the data in messages.

    Raises:
        DataError: shapes, types or lengths that do not fit; it says what came and how to convert it.
    """
    pixels = image_array(images)
    texts, named = labels_of(labels, classes)
    found = _annotations(pixels, texts, parts, groups, source)
    return dataset_of(found, read_labels(found, named))


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
    texts, named = labels_of(labels, classes)
    found = _annotations(tuple(Path(path) for path in paths), texts, parts, groups, source)
    found.root = None if root is None else Path(root)
    return dataset_of(found, read_labels(found, named))


def _annotations(images: Images, labels: Labels, parts: Sequence[str] | None, groups: Sequence[Any] | None, source: str) -> Annotations:
    if not len(images):
        raise DataError(f"there are no images in {source}")
    for what, values in (("labels", labels), ("parts", parts), ("groups", groups)):
        if values is not None and len(values) != len(images):
            raise DataError(f"{len(images)} images but {len(values)} {what}; one for each image is needed")
    names = [""] * len(images) if parts is None else [part_of(str(part)) if part else "" for part in parts]
    if None in names:
        wrong = sorted({str(part) for part, name in zip(parts or (), names, strict=True) if name is None})
        raise DataError(f"parts must be train, val or test; got {shortened(wrong)}")
    notes = []
    if isinstance(labels[0], tuple):
        empty = sum(not row for row in labels)
        notes = [f"{empty} images have no label: they count as examples of none of the classes."] if empty else []
    elif not all(labels):
        missing = sum(not label for label in labels)
        first = next(i for i, label in enumerate(labels) if not label)
        raise DataError(f"{missing} labels are empty, the first at position {first}; label these images or leave them out")
    return Annotations.labelled(
        images,
        labels,
        origin=f"the labels of {source}",
        parts=cast("list[str]", names),
        groups=None if groups is None else [label_text(group) for group in groups],
        source=source,
        notes=notes,
    )


def image_array(images: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return images as uint8 (n, H, W, 3); DataError for a shape or type that cannot be taken for images without guessing."""
    try:
        array = np.asarray(images)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype == object:
        raise DataError(
            "the images are not one array: they differ in size or type. Bring all to one height and width, or save them as files."
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
        advice = " Channels come last: use np.moveaxis(images, 1, -1)." if array.ndim == 4 and array.shape[1] in (1, 3) else ""
        raise DataError(f"images have the shape {array.shape}; expected (n, height, width, 3) or (n, height, width).{advice}")
    if array.dtype != np.uint8:
        whole = np.issubdtype(array.dtype, np.integer)
        if not whole or (array.size and (array.min() < 0 or array.max() > 255)):
            low, high = (float(array.min()), float(array.max())) if array.size and array.dtype.kind in "fiu" else (0, 0)
            factor = " Multiply by 255 first:" if low >= 0 and high <= 1 else " Scale to 0..255 first:"
            raise DataError(
                f"images are {array.dtype} from {low:g} to {high:g}; expected uint8 from 0 to 255.{factor} (...).round().astype(np.uint8)"
            )
        array = array.astype(np.uint8)
    return np.ascontiguousarray(np.repeat(array, 3, axis=3) if array.shape[3] == 1 else array)


def labels_of(labels: Any, classes: Sequence[str] | None) -> tuple[Labels, Sequence[str] | None]:
    """Return labels as text, and the class names if they are fixed by `classes` or by the columns of a matrix of 0 and 1."""
    if isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if isinstance(labels, np.ndarray) and labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"a matrix of labels must hold 0 and 1 only, one column for each class; got {labels.dtype} of shape {labels.shape}"
            )
        names = [str(i) for i in range(labels.shape[1])] if classes is None else list(classes)
        if len(names) != labels.shape[1]:
            raise DataError(f"the matrix of labels has {labels.shape[1]} columns, but there are {len(names)} classes")
        return [tuple(names[j] for j in np.flatnonzero(row)) for row in labels], names
    if isinstance(labels, np.ndarray) and labels.ndim != 1:
        raise DataError(f"labels have the shape {labels.shape}; expected (n,), or (n, k) of 0 and 1 for several labels per image")
    values = list(labels)
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
            read = [(part, image_array(archive[images]), labels_of(archive[labels], None)[0]) for part, images, labels in pairs]
    except DataError:
        raise
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
        pickled = " It holds Python objects, which are not loaded; save plain arrays." if "pickle" in str(error).lower() else ""
        raise DataError(f"{path} is not a NumPy archive that can be read: {error}.{pickled}") from None
    if len({images.shape[1:] for _, images, _ in read}) > 1:
        raise DataError(f"the parts of {path} have images of different height and width: {[images.shape[1:3] for _, images, _ in read]}")
    parts = [part for part, images, _ in read for _ in range(len(images))]
    labels = cast("Labels", [label for _, _, several in read for label in several])
    return _annotations(np.concatenate([images for _, images, _ in read]), labels, parts, None, str(path))


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
