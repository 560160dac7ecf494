"""What a run says of each pixel of inputs: class maps at the size of each input; and that as records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.files import WRITTEN, marked_png
from headstart.pixels.interpolation import class_map, upsampled
from headstart.pixels.pictures import base64_text, hex_colour, indexed_png, jpeg_bytes
from headstart.pixels.pictures import overlay as overlaid
from headstart.pixels.runs import class_run_lengths, text_of
from headstart.records import Column, Record
from headstart.tasks.outputs import Predictions
from headstart.text import percent, printable

KIND = "mask"
"""Of the records."""

OVERLAY = "_overlay.jpg"
"""Ends the name of an image with its class map over it."""

BACKGROUNDS = ("background", "_background_", "bg", "class 0")

_DIGITS = 6
_NAMED = 4  # classes in the line of a record


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskPredictions(Predictions):
    """What a run says of a list of inputs: `logits`, and class maps made of them when they are asked for."""

    classes: tuple[str, ...]

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """float32 (n, k, h, w), at the resolution of the model."""
        return self.outputs["logits"]

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of one input, upright; those of the logits where they are not known."""
        height, width = self.logits.shape[2:] if self.sizes is None else self.sizes[row].tolist()
        return int(height), int(width)

    def mask(self, row: int) -> npt.NDArray[np.uint8]:
        """The class map of one input at its own size: uint8 (H, W), positions of `classes`."""
        return class_map(self.logits[row], self.size(row))

    def confidence(self, row: int) -> npt.NDArray[np.float32]:
        """The probability of the class of each pixel of one input: float32 (H, W)."""
        return upsampled(self.logits[row], self.size(row))[1]

    @property
    def background(self) -> int | None:
        """The position of the class that is the background by its name, which stays clear in overlays; None where there is none."""
        return background_of(self.classes)

    @property
    def masks(self) -> tuple[npt.NDArray[np.uint8], ...]:
        """The class map of each input that could be read."""
        return tuple(self.mask(row) for row in range(len(self)))


def background_of(classes: Sequence[str]) -> int | None:
    """The position of the class that is the background by its name; None where there is none."""
    return next((index for index, name in enumerate(classes) if name.casefold() in BACKGROUNDS), None)


def columns(classes: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of tables: the size of the input, the share of each class, and the masks in COCO's form where a table can hold them."""
    return (
        Column("path", "name"),
        Column("height", "whole"),
        Column("width", "whole"),
        *(Column(f"{name}.share", "number", at=("shares", name), digits=_DIGITS) for name in classes),
        Column("error", "error"),
        Column("areas", "objects", writings=("json",)),
        Column("masks", "objects", writings=("json",)),
        *(Column(f"{name}.area", "whole", at=("areas", name), writings=("parquet",)) for name in classes),
        *(Column(f"{name}.rle", "text", at=("masks", name, "counts"), writings=("parquet",)) for name in classes),
    )


def record(name: Any, predictions: MaskPredictions, row: int) -> Record:
    """The record of one row: the classes with their areas and colours, the masks in COCO's form of those that are there, and a PNG."""
    mask = predictions.mask(row)
    background = None if predictions.background is None else predictions.classes[predictions.background]
    values = _described(mask, predictions.classes) | {"background": background, "png": base64_text(indexed_png(mask, level=1))}
    return Record(name=printable(str(name)), kind=KIND, values=values, line=_line(values["shares"]))


def _described(mask: npt.NDArray[np.uint8], classes: tuple[str, ...]) -> dict[str, Any]:
    height, width = mask.shape
    counts = class_run_lengths(mask, len(classes))
    areas = [int(lengths[1::2].sum()) for lengths in counts]
    named = dict(zip(classes, areas, strict=True))
    shares = {name: area / mask.size for name, area in named.items()}
    return {
        "height": height, "width": width, "areas": named, "shares": shares,
        "colours": {name: hex_colour(index) for index, name in enumerate(classes)},
        "masks": {
            name: {"size": [height, width], "counts": text_of(counts[index])} for index, name in enumerate(classes) if areas[index]
        },
    }  # fmt: skip


def _line(shares: Mapping[str, float]) -> str:
    """The classes that are there, the largest first."""
    there = sorted(((share, name) for name, share in shares.items() if share), key=lambda pair: -pair[0])
    more = f"  and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
    return "  ".join(f"{name} {percent(share)}" for share, name in there[:_NAMED]) + more


def suffixes(*, overlay: bool = False) -> tuple[str, ...]:
    """What ends the names of the files of one input: the class map as a PNG of indices, and the image with it."""
    return (".png", OVERLAY) if overlay else (".png",)


def files(
    predictions: MaskPredictions, row: int, picture: Callable[[], npt.NDArray[np.uint8]], *, clear: int | None = None, overlay: bool = False
) -> dict[str, bytes]:
    """The files of one input by what ends their names, which say that Headstart wrote them.

    The PNG has mode P, its values are positions of `MaskPredictions.classes`. Under an overlay, pixels of the class `clear` stay as they
    are in the `picture`.
    """
    mask = predictions.mask(row)
    found = {".png": marked_png(indexed_png(mask))}
    if overlay:
        found[OVERLAY] = jpeg_bytes(overlaid(picture(), mask, clear=clear), comment=WRITTEN)
    return found


def records(names: Sequence[Any], predictions: MaskPredictions) -> list[Record]:
    """A record for each input, in the order of `names`; those that could not be read say why."""
    found = {index: record(names[index], predictions, row) for row, index in enumerate(predictions.kept.tolist())}
    for index, error in zip(predictions.refused_at, predictions.refused, strict=True):
        found[index] = Record(name=printable(str(names[index])), kind=KIND, error=error.reason)
    return [found[index] for index in sorted(found)]


def tensors(predictions: MaskPredictions) -> dict[str, npt.NDArray[Any] | list[str]]:
    """What is known of n inputs beside the logits, in the service.

    ``masks`` is a text of JSON each, COCO's object of run lengths by class; ``areas``, float32 (n, k), has the pixels of each class, and
    ``sizes``, float32 (n, 2), height and width of the masks.
    """
    found = [_described(predictions.mask(row), predictions.classes) for row in range(len(predictions))]
    areas = np.array([list(values["areas"].values()) for values in found], np.float32).reshape(len(found), len(predictions.classes))
    sizes = np.array([[values["height"], values["width"]] for values in found], np.float32).reshape(len(found), 2)
    return {"masks": [json.dumps(values["masks"], ensure_ascii=False) for values in found], "areas": areas, "sizes": sizes}
