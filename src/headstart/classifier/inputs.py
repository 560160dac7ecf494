"""What a user gives to a classifier, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError
from headstart.features import Images


def one_each(values: Any, name: str, what: str, count: int) -> npt.NDArray[Any]:
    """`values` as an array with an entry for each of `count` images."""
    if values is None:
        raise DataError(
            f"{name} is None, and TransferClassifier requires y to be passed, but the target y is None: one label for each image."
        )
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty(())
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name} contains NaN or inf; each image needs a label that is known.")
    if array.ndim == 0:
        raise DataError(f"{name} must be a list with one entry for each image, or a bool matrix (n, k); got {repr(values)[:80]}.")
    if len(array) != count:
        raise DataError(f"X has {count} images and {name} has {len(array)} {what}; each image needs one.")
    return array


def check_images(X: Any) -> Images:
    """Return the images if they are a list or an array of images; refuse anything else with a sentence.

    Raises:
        DataError: a single path or picture, an array of another shape or type, an empty list, or an entry that is not an image.
    """
    single = isinstance(X, np.ndarray) and X.dtype == np.uint8 and X.ndim == 3 and X.shape[2] == 3
    if single or isinstance(X, str | bytes | os.PathLike):
        raise DataError("X must be a list of images (paths, bytes or arrays), got a single one. Put it into a list: [image].")
    if isinstance(X, np.ndarray) and X.dtype == np.uint8 and X.ndim in (3, 4):
        images: Images = X
    elif not hasattr(X, "__len__") or isinstance(X, Mapping | set) or getattr(X, "ndim", 1) != 1 or not _names_or_objects(X):
        given = f"{X.dtype} {X.shape}" if isinstance(X, np.ndarray) else type(X).__name__
        raise DataError(
            f"X must be a list of paths or a uint8 array of images (n, H, W, 3), got {given}. "
            "Floating-point images from 0 to 1: (255 * X).round().astype('uint8')."
        )
    else:
        images = list(X)
    if not len(images):
        raise DataError("X is empty; at least two images of two classes are needed.")
    for index, image in enumerate(images if isinstance(images, list) else ()):
        if not isinstance(image, str | bytes | os.PathLike | np.ndarray):
            raise DataError(f"X[{index}] is not an image: {repr(image)[:80]}. Give paths, bytes or uint8 arrays (H, W, 3).")
    return images


def _names_or_objects(X: Any) -> bool:
    return not isinstance(X, np.ndarray) or X.dtype.kind in "OUS"
