"""Images and labels as Python programs give them, in lists, arrays and columns of tables: checked here, whatever takes them."""

from __future__ import annotations

import datetime
import decimal
import enum
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.cells import SEVERAL, check_names, is_missing, label_text
from headstart.errors import DataError
from headstart.modalities.image import ImageSource, is_pillow, rgb_of_array
from headstart.text import enumeration, plural

_TEXT_OF_MISSING = ("nan", "NaN", "NaT", "<NA>")
_NUMBERS = "biufc"  # kinds of types


def entries(values: Any, name: str) -> list[Any] | npt.NDArray[Any]:
    """The values of a list, an array, a column of pandas or polars, or a tensor; DataError for anything else."""
    columns = getattr(values, "columns", None)
    if columns is not None and hasattr(values, "shape"):
        names = [str(column) for column in columns]
        example = f", as in {name}[{names[0]!r}]" if names else ""
        raise DataError(f"{name} must be a list, and a table came, with the columns {enumeration(names)}. Give one column{example}.")
    if isinstance(values, np.ma.MaskedArray):
        return list(values.tolist())
    if hasattr(values, "to_list"):  # a Series, of which pandas and polars each have one
        return list(values.to_list())
    reason = ""
    try:
        if hasattr(values, "__array__"):
            array = np.asarray(values)
            if array.ndim:
                return array
        elif hasattr(values, "__len__") and not isinstance(values, str | bytes | os.PathLike | Mapping | set | frozenset):
            return list(values)
    except TypeError:
        pass
    except (ValueError, RuntimeError) as error:
        reason = f" ({error})"
    given = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
    raise DataError(f"{name} must be a list with one entry for each image, got {given}: {repr(values)[:80]}{reason}.")


def checked_images(images: Any, *, name: str = "images") -> Sequence[ImageSource] | npt.NDArray[np.uint8]:
    """The images, a list or an array uint8 (n, H, W, 3); DataError for what is none of them, or a single image."""
    shape: Any = getattr(images, "shape", ())
    alone = len(shape) == 3 and shape[2] in (1, 3, 4) and getattr(getattr(images, "dtype", None), "kind", "i") in _NUMBERS
    if alone or isinstance(images, str | bytes | os.PathLike) or is_pillow(images):
        shown = f" of the shape {tuple(shape)}" if shape else ""
        raise DataError(f"{name} must be a list of images (paths, bytes or arrays), got a single one{shown}. Put it into a list: [image].")
    found = entries(images, name)
    if isinstance(found, np.ndarray):
        if found.dtype.kind in _NUMBERS:
            return image_array(found, name=name)
        if found.ndim != 1:
            raise DataError(f"{name} must be a list of paths or a uint8 array of images (n, H, W, 3), got {found.dtype} {found.shape}.")
        found = found.tolist()
    arrays = [image for image in found if isinstance(image, np.ndarray) and image.dtype != np.uint8]
    if arrays and len(arrays) == len(found):
        kinds = enumeration(sorted({str(array.dtype) for array in arrays}))
        raise DataError(f"{name} are arrays of {kinds}{_conversion(*arrays).replace('images', 'image')}")
    for index, image in enumerate(found):
        if not (isinstance(image, str | bytes | os.PathLike | np.ndarray) or is_pillow(image)):
            what = "missing" if is_missing(image) else "not an image"
            raise DataError(
                f"{name}[{index}] is {what}: {repr(image)[:80]}. Give paths, bytes, uint8 arrays (H, W, 3) or images of Pillow"
                f"{', or leave it out' if is_missing(image) else ''}."
            )
    return found


def some_images(images: Any, *, name: str = "X", kind: str = "image") -> Sequence[ImageSource] | npt.NDArray[np.uint8]:
    """As `checked_images`, of an estimator's ``X``; DataError also where there is none."""
    found = checked_images(images, name=name)
    if not len(found):
        raise DataError(f"{name} is empty; at least one {kind} is needed.")
    return found


def image_array(images: Any, *, name: str = "images") -> npt.NDArray[np.uint8]:
    """Images as uint8 (n, H, W, 3); DataError for a shape or type that cannot be taken for images without guessing."""
    try:
        array = np.asarray(images)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in _NUMBERS:
        what = "the images" if name == "images" else name
        raise DataError(f"{what} are not one array: they differ in size or type. Bring all to one height and width, or save them as files.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3, 4) or 0 in array.shape[1:]:
        advice = " Channels come last: use np.moveaxis(images, 1, -1)." if array.ndim == 4 and array.shape[1] in (1, 3) else ""
        shape = array.shape[:3] if array.shape[3:] == (1,) and array.ndim == 4 else array.shape
        raise DataError(f"{name} have the shape {shape}; expected (n, height, width, 3) or (n, height, width).{advice}")
    if array.dtype != np.uint8:
        if array.dtype.kind not in "iu" or (array.size and (array.min() < 0 or array.max() > 255)):
            raise DataError(f"{name} are {array.dtype}{_conversion(array).replace('images', name)}")
        array = array.astype(np.uint8)
    return array if array.shape[3] == 3 else rgb_of_array(array)


def _conversion(*arrays: npt.NDArray[Any]) -> str:
    """What the values are, and how they become those that are expected."""
    kinds = {array.dtype.kind for array in arrays}
    if kinds == {"b"}:
        return "; expected uint8 from 0 to 255. Convert them: images.astype(np.uint8) * 255."
    filled = [array for array in arrays if array.size]
    if not kinds <= {*"fiu"} or not filled or not all(np.isfinite(array).all() for array in filled):
        return ", some of them not finite; expected uint8 from 0 to 255." if kinds == {"f"} else "; expected uint8 from 0 to 255."
    low, high = min(float(array.min()) for array in filled), max(float(array.max()) for array in filled)
    least, most = ("images.min()", "images.max()") if len(arrays) == 1 else (f"{low!r}", f"{high!r}")
    bits = next((bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits), 0)
    if low < 0:
        how = "(images + 1) * 127.5" if low >= -1 and high <= 1 else f"(images - {least}) * (255 / ({most} - {least}))"
    elif "f" in kinds and high <= 1:
        how = "images * 255"
    elif bits == 8:
        how = "images"
    else:
        how = f"images * (255 / {(1 << bits) - 1})" if bits else f"images * (255 / {most})"
    return f" from {low:g} to {high:g}; expected uint8 from 0 to 255. Convert them: ({how}).round().astype(np.uint8)."


def checked_labels(labels: Any, count: int, *, name: str = "labels") -> list[Any] | npt.NDArray[Any]:
    """One label for each of `count` images, or a matrix (n, k) of 0 and 1; DataError for others, and where one is missing.

    Missing are what pandas calls so, and texts that NumPy and pandas make of it.
    """
    columns = getattr(labels, "columns", None)
    if columns is not None and hasattr(labels, "shape"):
        matrix = np.asarray(labels)
        labels = matrix if len(columns) > 1 and _is_indicator(matrix) else labels
    found = entries(labels, name)
    if isinstance(found, np.ndarray) and found.ndim > 1 and found.shape[1:] != (1,):
        if found.ndim > 2:
            raise DataError(f"{name} have the shape {found.shape}; expected (n,), or (n, k) of 0 and 1 for several labels per image")
        if not _is_indicator(found):
            raise DataError(
                "Unknown label type: a matrix of labels must hold 0 and 1 only (or False and True), one column for each class; "
                f"got {found.dtype} of shape {found.shape}"
            )
    else:
        found = _plain_labels(found)
        _check_entries(found.ravel().tolist() if isinstance(found, np.ndarray) else found, name)
    if len(found) != count:
        raise DataError(f"{plural(count, 'image')} but {len(found)} {_labels_in(name)}; one for each image is needed")
    return found


def _plain_labels(found: list[Any] | npt.NDArray[Any]) -> list[Any] | npt.NDArray[Any]:
    """The labels of images, with lists where an array came for one image, and texts in place of bytes, dates and decimal numbers."""
    if isinstance(found, np.ndarray) and found.dtype.kind in "biufcU":
        return found
    values = list(found.ravel()) if isinstance(found, np.ndarray) else found
    plain = [_plain_label(value) for value in values]
    return found if all(one is other for one, other in zip(plain, values, strict=True)) else plain


def _plain_label(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    if is_missing(value):
        return value
    return label_text(value) if isinstance(value, bytes | datetime.date | decimal.Decimal | np.datetime64 | np.timedelta64) else value


def _is_indicator(matrix: npt.NDArray[Any]) -> bool:
    return matrix.dtype.kind not in "USO" and bool(np.isin(matrix, (0, 1)).all())


def _labels_in(name: str) -> str:
    return "labels" if name == "labels" else f"labels in {name}"


def _check_entries(values: Sequence[Any], name: str) -> None:
    for value in values:
        if isinstance(value, SEVERAL):
            check_names(value)
        elif not (isinstance(value, str | bool | int | float | complex | np.generic | enum.Enum) or is_missing(value)):
            raise DataError(
                f"Unknown label type: {name} hold {type(value).__name__} ({repr(value)[:40]}); labels are texts or whole numbers."
            )
    missing = [index for index, value in enumerate(values) if is_missing(value) or _is_text_of_missing(value)]
    if missing:
        first = values[missing[0]]
        made = isinstance(first, str) and first.strip()
        text = ", the text that NumPy and pandas make of a missing value; if it is a class, call it otherwise" if made else ""
        raise DataError(
            f"{len(missing)} of {len(values)} {_labels_in(name)} are missing, the first at position {missing[0]} ({first!r}{text}). "
            "Label these images, or leave them out."
        )
    numbers = [value for value in values if isinstance(value, float)]
    if any(not value.is_integer() for value in numbers):
        example = next(value for value in numbers if not value.is_integer())
        raise DataError(
            f"Unknown label type: {name} are continuous numbers, such as {example:g}; classes are whole numbers or texts. "
            "If each number is a class, give them as texts."
        )


def _is_text_of_missing(value: Any) -> bool:
    return isinstance(value, str) and (not value.strip() or value in _TEXT_OF_MISSING)


def one_hot_note(matrix: Any, given: Any = None, *, name: str = "labels") -> str:
    """A sentence where a matrix has exactly one 1 in each row, and so may stand for one label an image; else nothing.

    `given` is what the matrix was made of, and `name` the parameter.
    """
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or min(matrix.shape) < 2 or not (matrix.sum(axis=1) == 1).all():
        return ""
    how = (
        ".idxmax(axis=1)" if hasattr(given, "idxmax") else ".to_numpy().argmax(axis=1)" if hasattr(given, "to_numpy") else ".argmax(axis=1)"
    )
    return (
        "The labels are a matrix with one 1 in each row. It is read as several labels per image, any number of which may be right. "
        f"If each image has one label, give that: {name}{how}."
    )


def checked_groups(groups: Any, count: int) -> tuple[list[str] | None, list[str]]:
    """The group of each image as text, and notes: an image whose group is missing is a group of its own."""
    if groups is None:
        return None, []
    found = entries(groups, "groups")
    if len(found) != count:
        raise DataError(f"{plural(count, 'image')} but {len(found)} groups; one for each image is needed")
    texts = [label_text(group) for group in found]
    alone = texts.count("")
    notes = [f"{plural(alone, 'image')} without a group: each is a group of its own."] if alone else []
    return [text or f"image {index} (alone)" for index, text in enumerate(texts)], notes
