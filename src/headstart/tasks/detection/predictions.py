"""What a run says of places in inputs: boxes with class and confidence; and that as records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.files import WRITTEN
from headstart.metrics.boxes import Detections
from headstart.metrics.proposals import LEAST, kept_boxes
from headstart.pixels.pictures import VOID, hex_colour, jpeg_bytes, with_boxes
from headstart.records import Column, Record
from headstart.tasks.outputs import Predictions
from headstart.text import printable, shorten

KIND = "boxes"
"""Of the records."""

DRAWN = "_boxes.jpg"
"""Ends the name of an image with its boxes on it."""

FOUND = ("found_boxes", "found_scores", "found_classes")
"""What an exported file calls the boxes that remain, their confidence and their classes."""

UNSURE = 0.05
"""Boxes with a lower confidence than the threshold, but this one, are in a record as ``unsure``: for a page with a slider."""

_DIGITS, _PIXEL = 4, 1  # decimals of a confidence, and of a coordinate in pixels
_NAMED = 4  # classes in the line of a record

Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]


def detections_of(
    boxes: npt.NDArray[Any], probabilities: npt.NDArray[Any], sizes: npt.NDArray[np.int64], *, least: float = LEAST
) -> list[Found]:
    """What is found in n inputs: boxes (m, 4) in pixels, confidence (m,) and class (m,) of each.

    Args:
        boxes: (n, A, 4), shares of width and height.
        probabilities: (n, A, k).
        sizes: (n, 2), height and width.
        least: lowest confidence.
    """
    found = []
    for own, sure, (height, width) in zip(boxes, probabilities, sizes.tolist(), strict=True):
        scale = np.array([width, height, width, height], np.float32)
        kept, scores, labels = kept_boxes(own * scale, sure, least=least)
        found.append((kept, scores, labels))
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class BoxPredictions(Predictions):
    """What a run says of a list of inputs: proposals as `outputs`, and those of them that remain.

    Attributes:
        classes: names; `ids` are their numbers in COCO's form.
        threshold: lowest confidence of a box that is named.
    """

    classes: tuple[str, ...]
    ids: tuple[int, ...]
    threshold: float

    @classmethod
    def of(cls, given: Predictions, classes: tuple[str, ...], ids: tuple[int, ...], threshold: float) -> Self:
        """Predictions with the threshold also among the outputs, as evaluating them needs it."""
        outputs = {**given.outputs, "threshold": np.full(len(given), threshold)}
        return cls(**vars(replace(given, outputs=outputs)), classes=classes, ids=ids, threshold=threshold)

    @cached_property
    def found(self) -> tuple[Found, ...]:
        """Boxes (m, 4), left, top, right and bottom in pixels of the upright input, confidence (m,) and class (m,) of each input.

        They have the highest confidence first; those below the threshold are there too.
        """
        sizes = np.ones((len(self), 2), np.int64) if self.sizes is None else self.sizes
        return tuple(detections_of(self.outputs["boxes"], self.outputs["probabilities"], sizes))

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of one input, upright."""
        height, width = (1, 1) if self.sizes is None else self.sizes[row].tolist()
        return int(height), int(width)

    def boxes(self, row: int, *, threshold: float | None = None) -> list[dict[str, Any]]:
        """The boxes of one input whose confidence is at least the threshold: ``label``, ``confidence`` and ``box`` each.

        A box is [left, top, right, bottom] in pixels of the upright input.
        """
        least = self.threshold if threshold is None else threshold
        return [
            {"label": self.classes[label], "confidence": round(float(score), _DIGITS), "box": [round(float(side), _PIXEL) for side in box]}
            for box, score, label in zip(*self.found[row], strict=True)
            if score >= least
        ]

    @property
    def detections(self) -> Detections:
        """Those of all inputs in one, in pixels, as scores are computed from."""
        return Detections.joined(self.found)


def columns(classes: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of tables: size and number of boxes of an input, how many of each class; the boxes where a table can hold them."""
    return (
        Column("path", "name"),
        Column("height", "whole"),
        Column("width", "whole"),
        Column("count", "whole"),
        *(Column(f"{name}.count", "whole", at=("counts", name), writings=("csv", "parquet")) for name in classes),
        Column("error", "error"),
        Column("boxes", "objects", writings=("json",)),
        Column("boxes", "text", at=("text",), writings=("csv", "parquet")),
    )


def record(name: Any, predictions: BoxPredictions, row: int, *, least: float | None = None) -> Record:
    """The record of one row: boxes above the threshold or `least`, how many of each class, and the size of the input."""
    threshold = predictions.threshold if least is None else least
    boxes = predictions.boxes(row, threshold=threshold)
    unsure = predictions.boxes(row, threshold=min(UNSURE, threshold))[len(boxes) :]  # the surest come first
    counts = {label: sum(box["label"] == label for box in boxes) for label in predictions.classes}
    height, width = (None, None) if predictions.sizes is None else predictions.sizes[row].tolist()
    values = {
        "height": height, "width": width, "count": len(boxes), "counts": counts, "boxes": boxes, "unsure": unsure,
        "threshold": threshold,
        "colours": {label: colour_of(index) for index, label in enumerate(predictions.classes)},
        "ids": dict(zip(predictions.classes, predictions.ids, strict=True)),
        "text": json.dumps(boxes, ensure_ascii=False),
    }  # fmt: skip
    return Record(name=printable(str(name)), kind=KIND, values=values, line=_line(counts))


def _line(counts: dict[str, int]) -> str:
    """The classes that are there, the most frequent first."""
    there = sorted(((count, name) for name, count in counts.items() if count), key=lambda pair: -pair[0])
    more = f"  and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
    return "  ".join(f"{count} {shorten(name, 30)}" for count, name in there[:_NAMED]) + more if there else "nothing found"


def records(names: Sequence[Any], predictions: BoxPredictions, *, least: float | None = None) -> list[Record]:
    """A record for each input, in the order of `names`; those that could not be read say why."""
    found = {index: record(names[index], predictions, row, least=least) for row, index in enumerate(predictions.kept.tolist())}
    for index, error in zip(predictions.refused_at, predictions.refused, strict=True):
        found[index] = Record(name=printable(str(names[index])), kind=KIND, error=error.reason)
    return [found[index] for index in sorted(found)]


def drawn(classes: Sequence[str], boxes: Sequence[Mapping[str, Any]], picture: npt.NDArray[np.uint8]) -> bytes:
    """A picture, uint8 (H, W, 3), with boxes on it, as a JPEG which says that Headstart wrote it."""
    marks = [(box["box"], f"{box['label']} {100 * box['confidence']:.0f} %", colour_of(classes.index(box["label"]))) for box in boxes]
    return jpeg_bytes(with_boxes(picture, marks), comment=WRITTEN)


def colour_of(label: int) -> str:
    """The colour of a class, ``#rrggbb``; the first of the palette, black, is for what is no class."""
    return hex_colour(label % (VOID - 1) + 1)


def located(predictions: BoxPredictions, row: int, number: int) -> tuple[int, tuple[float, float, float, float]] | None:
    """Class and box, as shares of the sides, of the box with this number from 0, the surest first; None where there is none."""
    boxes, _, labels = predictions.found[row]
    if not 0 <= number < len(boxes):
        return None
    height, width = predictions.size(row)
    left, top, right, bottom = boxes[number].tolist()
    return int(labels[number]), (left / width, top / height, right / width, bottom / height)


def tensors(predictions: BoxPredictions, *, least: float | None = None) -> dict[str, npt.NDArray[Any] | list[str]]:
    """What is known of n inputs beside the outputs of the graph, in the service: ``detections`` is a text of JSON each, its boxes.

    They are those above the threshold or `least`; ``counts``, float32 (n, 1), says how many.
    """
    found = [predictions.boxes(row, threshold=least) for row in range(len(predictions))]
    counts = np.array([len(boxes) for boxes in found], np.float32).reshape(len(found), 1)
    return {"detections": [json.dumps(boxes, ensure_ascii=False) for boxes in found], "counts": counts}
