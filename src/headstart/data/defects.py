"""Defects: whether a thing has one, of what kind, and where. The targets of inspection, of which good things alone are learned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from headstart.data.annotations import LABEL, MASK, Annotations
from headstart.data.defect_folders import is_good
from headstart.data.mask_reading import read_masks
from headstart.data.masks import VOID, MaskSource
from headstart.errors import DataError
from headstart.metrics.link import Link
from headstart.text import enumeration

GOOD, ANOMALOUS = "good", "anomalous"
"""What a thing without and with a defect is called."""


@dataclass(frozen=True, eq=False)
class Defects:
    """Whether n things have a defect.

    Attributes:
        array: int64 (n,), 1 for a thing with a defect, 0 for a good one.
        kinds: what the data call each of them, ``good`` or the kind of its defect; empty where a run stored the targets.
        masks: what opens the mask of each, None where there is none; empty where a run stored the targets.
        background: the value in masks that stands for no defect.
    """

    array: npt.NDArray[np.int64]
    kinds: tuple[str, ...] = ()
    masks: tuple[MaskSource | None, ...] = ()
    background: int = 0

    classes: ClassVar[tuple[str, ...]] = ()
    link: ClassVar[Link | None] = None

    def __len__(self) -> int:
        return len(self.array)

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """The array itself."""
        return self.array

    @property
    def anomalous(self) -> npt.NDArray[np.bool_]:
        """Bool (n,): which have a defect."""
        return self.array > 0

    def kind(self, index: int) -> str:
        """What the data call one of them."""
        return self.kinds[index] if self.kinds else ANOMALOUS if self.array[index] else GOOD

    def has_mask(self, index: int) -> bool:
        """Whether the places of the defects of one thing are known; those of a good one are."""
        return not self.array[index] or bool(self.masks and self.masks[index] is not None)

    def defective(self, index: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Of a thing with a mask, which pixels have a defect and which are void (said of neither): bool (H, W) each, at the mask's size.

        ImageError where the file cannot be decoded any more.
        """
        source = self.masks[index]
        assert source is not None
        mask = source.read()
        return (mask != self.background) & (mask != VOID), mask == VOID

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """The targets of some things."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        kinds = tuple(self.kinds[i] for i in chosen.tolist()) if self.kinds else ()
        masks = tuple(self.masks[i] for i in chosen.tolist()) if self.masks else ()
        return replace(self, array=self.array[chosen], kinds=kinds, masks=masks)

    def names(self, index: int) -> tuple[str, ...]:
        """What the data call one of them."""
        return (self.kind(index),)

    def cells(self, index: int) -> dict[str, str]:
        """Its label, and the path of its mask where some have one."""
        mask = self.masks[index] if self.masks else None
        found = {LABEL: self.kind(index)}
        return found | ({MASK: "" if mask is None else mask.file.cell} if any(one is not None for one in self.masks) else {})

    def counts(self) -> dict[str, int]:
        """How many are good, and how many are not."""
        return {GOOD: int((self.array == 0).sum()), ANOMALOUS: int((self.array != 0).sum())}


def read_defects(found: Annotations, good: tuple[str, ...] = ()) -> Defects:
    """Read which things have a defect: those whose label is not called good, or one of the words in `good`; without a label they are good.

    Where no label is called so, that of the training part is, if it is the only one there. DataError where nothing says which are good, and
    for masks that do not fit their image.
    """
    count = len(found.parts)
    labels = found.columns[LABEL].values if LABEL in found.columns else [None] * count
    texts = [next(iter(label), None) if isinstance(label, tuple) else label for label in labels]
    words = good_words([text for text in texts if text], [text for text, part in zip(texts, found.parts, strict=True) if part != "test"])
    if words is None and not good:
        known = enumeration([repr(text) for text in dict.fromkeys(text for text in texts if text)], most=5)
        raise DataError(
            f"{found.source}: nothing says which images are good; the labels are {known}. Put the good ones into a folder called good (or "
            "give them that label), or give a folder of good images alone."
        )
    known_good = {*good, *(words or ())}
    array = np.array([int(text is not None and text not in known_good and not is_good(text)) for text in texts], np.int64)
    kinds = tuple(GOOD if text is None else str(text) for text in texts)
    files = found.columns[MASK].values if MASK in found.columns else [None] * count
    rows = [index for index, file in enumerate(files) if file is not None and array[index]]
    if not rows:
        return Defects(array, kinds, (None,) * count)
    some = found.take(rows)
    masks = read_masks(some)
    found.notes += some.notes
    background = next((place for place, name in enumerate(masks.classes) if name.casefold() in (found.background, "background")), 0)
    sources: list[MaskSource | None] = [None] * count
    for row, source in zip(rows, masks.sources, strict=True):
        sources[row] = source
    return Defects(array, kinds, tuple(sources), background)


def good_words(labels: list[str], learned: list[str | None]) -> tuple[str, ...] | None:
    """The labels that stand for good things, of all of them and of those to learn from; None where nothing says which."""
    words = tuple(label for label in dict.fromkeys(labels) if is_good(label))
    if words or not labels or None in learned:
        return words
    only = {label for label in learned if label is not None}
    return tuple(only) if len(only) == 1 and only < set(labels) else None
