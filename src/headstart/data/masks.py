"""Masks: which class each pixel of an image has. The targets, and what opens a mask lazily, whatever the file it lies in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from headstart.data.class_lists import ClassList, colour_text
from headstart.errors import DataError, ImageError
from headstart.metrics.link import Link
from headstart.modalities.image.values import GRAY, Values, read_values, unpacked
from headstart.text import plural

VOID = 255
"""The value of pixels without a class, which are neither learned from nor scored."""

_SAME = 0.99  # of the pixels of two masks that agree
Mask = npt.NDArray[np.uint8]


class MaskFile(Protocol):
    """What opens as the mask of one image; nothing is read before `open`."""

    @property
    def name(self) -> str:
        """The file, for messages."""

    @property
    def cell(self) -> str:
        """What a list says of it: the whole path of a picture, or of an annotation file that has the image in it."""

    @property
    def classes(self) -> ClassList | None:
        """The list of classes that lies beside it."""

    def open(self) -> Values | Named:
        """Decode it; ImageError, with the reason, where that fails."""


@dataclass(frozen=True, eq=False)
class Named:
    """A mask whose values have names: `array` uint8 (H, W) are positions in `names`; an empty name is what nothing is said of."""

    array: npt.NDArray[np.uint8]
    names: tuple[str, ...]


@dataclass(frozen=True)
class PictureMask:
    """A mask that is a picture."""

    path: str
    classes: ClassList | None = None

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    @property
    def cell(self) -> str:
        """The whole path."""
        return os.path.abspath(self.path)  # noqa: PTH100

    def open(self) -> Values:
        """Decode it; ImageError, with the reason, where that fails."""
        return read_values(self.path)


@dataclass(frozen=True)
class JoinedMask:
    """The mask of a defective thing in pictures of a folder, one for each of its defects: a pixel has one where any of them is not black.

    Its values are 0 and 255. MVTec LOCO AD gives each kind of defect a value of its own.
    """

    paths: tuple[str, ...]
    classes: ClassList | None = None

    @property
    def name(self) -> str:
        """The folder of the pictures."""
        return os.path.dirname(self.paths[0])  # noqa: PTH120

    @property
    def cell(self) -> str:
        """The whole path of the folder."""
        return os.path.abspath(self.name)  # noqa: PTH100

    def open(self) -> Values:
        """Decode all of them; ImageError, with the reason, where that fails, or they are of different sizes."""
        first, *others = (read_values(path) for path in self.paths)
        found = _marked(first)
        for path, one in zip(self.paths[1:], others, strict=True):
            if one.array.shape != first.array.shape:
                raise ImageError(path, f"is {_size(one.array)}, and {self.paths[0]}, a mask of the same image, {_size(first.array)}")
            found |= _marked(one)
        return Values(found.astype(np.uint8) * np.uint8(255), (np.arange(256) * GRAY).astype(np.uint32))


def _marked(values: Values) -> npt.NDArray[np.bool_]:
    """Where a mask is not black, whatever its colours."""
    black = values.array == 0 if values.colours is None else values.colours[values.array] == 0
    return np.asarray(~black, np.bool_)


def _size(array: npt.NDArray[Any]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


@dataclass(frozen=True, eq=False)
class Coding:
    """How the values of masks become classes.

    Attributes:
        by: whether a value is an ``index`` as stored, a ``colour``, or has a ``name``.
        positions: the position of the class of each value, `VOID` included.
        snapped: whether values between are taken for the nearest of these.
    """

    by: str
    positions: Mapping[Any, int]
    snapped: bool = False

    def keys(self, opened: Values | Named, values: npt.NDArray[Any]) -> list[Any]:
        """The values as `positions` has them: indices, colours or names."""
        if isinstance(opened, Named):
            return [opened.names[value] for value in values.tolist()]
        if self.by == "colour" and not opened.coloured:
            assert opened.colours is not None
            return [int(colour) for colour in opened.colours[values]]
        return [int(value) for value in values]

    def of_values(self, opened: Values | Named, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The position of each of these values of an opened mask; -1 where it has none."""
        keys = self.keys(opened, values)
        found = np.array([self.positions.get(key, -1) for key in keys], np.int64).reshape(len(keys))
        if self.snapped and (found < 0).any():
            known = [*self.positions]
            there, other = (self._places(np.array(one, np.int64)) for one in (known, [keys[i] for i in np.flatnonzero(found < 0)]))
            nearest = np.array([np.abs(there - place).sum(axis=1).argmin() for place in other])
            found[found < 0] = np.array([self.positions[known[i]] for i in nearest])
        return found

    def _places(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return unpacked(keys).astype(np.int64) if self.by == "colour" else keys[:, None]

    def apply(self, opened: Values | Named, name: str) -> Mask:
        """The mask as positions of classes and `VOID`, uint8 (H, W); DataError for a value that stands for none."""
        array = opened.array
        begun, lengths = runs(array)
        values, where = np.unique(begun, return_inverse=True)
        found = self.of_values(opened, values)
        if (found < 0).any():
            raise DataError(f"{name}: the mask has changed since it was checked; read the data again")
        return np.repeat(found.astype(np.uint8)[where], lengths).reshape(array.shape)


def runs(array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The runs of equal values along the rows of a mask: their values, and their lengths int64. Few, where masks are masks."""
    flat = array.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts], np.diff(starts, append=flat.size)


@dataclass(frozen=True, eq=False)
class MaskSource:
    """The mask of one input: the file, how its values become classes, and the orientation (1 to 8) that is to be undone."""

    file: MaskFile
    coding: Coding
    orientation: int = 1

    def read(self) -> Mask:
        """The positions of the classes and `VOID`, uint8 (H, W), upright like the image; ImageError where it cannot be decoded."""
        mask = self.coding.apply(self.file.open(), self.file.name)
        if self.orientation == 1:
            return mask
        from headstart.modalities.image.rgb import turned

        return np.ascontiguousarray(turned(mask[:, :, None], self.orientation)[:, :, 0])


@dataclass(frozen=True, eq=False)
class Masks:
    """The class of each pixel of n images.

    Attributes:
        classes: the k class names, at most 254.
        areas: int64 (n, k + 1): how many pixels of each class a mask has, those without one last.
        sources: what opens each mask; empty where a run stored the targets.
    """

    classes: tuple[str, ...]
    areas: npt.NDArray[np.int64]
    sources: tuple[MaskSource, ...] = ()

    link: ClassVar[Link | None] = None

    def __len__(self) -> int:
        return len(self.areas)

    @property
    def array(self) -> npt.NDArray[np.int64]:
        """The `areas`."""
        return self.areas

    @property
    def strata(self) -> npt.NDArray[np.bool_]:
        """Bool (n, k): which classes an image has."""
        return np.asarray(self.areas[:, : len(self.classes)] > 0)

    def read(self, index: int) -> Mask:
        """The mask of one image as positions of `classes` and `VOID`: uint8 (H, W), at its own size, upright like the image.

        DataError where a run stored the targets without the masks; ImageError where the file cannot be decoded any more.
        """
        if not self.sources:
            raise DataError("the masks were not stored with the run, only the pixels of each class; give the data that they come from")
        return self.sources[index].read()

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The masks of some images; all classes remain."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        return replace(self, areas=self.areas[chosen], sources=tuple(self.sources[i] for i in chosen.tolist()) if self.sources else ())

    def names(self, index: int) -> tuple[str, ...]:
        """The classes that one image has."""
        return tuple(name for name, there in zip(self.classes, self.strata[index], strict=True) if there)

    def agree(self, rows: Sequence[int]) -> bool:
        """Whether the masks of some images are the same in next to all pixels; by their areas alone where a run stored them."""
        first, *others = rows
        if not self.sources:
            return bool((self.areas[others] == self.areas[first]).all())
        mask = self.read(first)
        return all((other := self.read(row)).shape == mask.shape and (other == mask).mean() >= _SAME for row in others)

    def cells(self, index: int) -> dict[str, str]:
        """The file of the mask, in a column ``mask``; empty where a run stored the targets."""
        return {"mask": self.sources[index].file.cell if self.sources else ""}

    def counts(self) -> dict[str, int]:
        """The number of images with each class, zeros included."""
        return dict(zip(self.classes, self.strata.sum(axis=0).tolist(), strict=True))

    def pixels(self) -> dict[str, int]:
        """The number of pixels of each class, zeros included."""
        return dict(zip(self.classes, self.areas[:, : len(self.classes)].sum(axis=0).tolist(), strict=True))


def masks_of(areas: npt.NDArray[Any], classes: Sequence[str]) -> Masks:
    """The targets that a run stored; DataError for another shape."""
    if areas.ndim != 2 or areas.shape[1] != len(classes) + 1:
        raise DataError(f"areas of {plural(len(classes), 'class')} must have the shape (n, {len(classes) + 1}), got {areas.shape}.")
    return Masks(tuple(classes), areas.astype(np.int64, copy=False))


def key_text(by: str, key: Any) -> str:
    """A value of a mask as people write it: ``the colour 128,0,0`` or ``the value 7``."""
    return f"the colour {colour_text(int(key))}" if by == "colour" else f"the {'class' if by == 'name' else 'value'} {key!r}"
