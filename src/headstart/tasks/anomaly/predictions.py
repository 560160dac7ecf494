"""What a run says of inputs: whether they differ from the good ones, how much, and where; and that as records. NumPy and Pillow only."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data import ANOMALOUS, GOOD
from headstart.files import WRITTEN, marked_png
from headstart.pixels.interpolation import resized
from headstart.pixels.outlines import regions
from headstart.pixels.pictures import base64_text, heat_png, jpeg_bytes
from headstart.records import Column, Record
from headstart.tasks.outputs import Predictions
from headstart.text import plural, printable

KIND = "score"
"""Of the records."""
OVERLAY = "_overlay.jpg"
"""Ends the name of an image with its heat map over it."""

_DRAWN = 512  # longer side at which outlines are found, so that large images cost no more
_HEAT = 128  # longer side of heat maps
LOW, HIGH = 0.5, 1.5  # of the threshold, where the colours of heat maps begin and end
_LARGEST = 2048  # longer side of heat maps in files
_OPACITY = 0.7
_DIGITS = 6


@dataclass(frozen=True, eq=False, kw_only=True)
class AnomalyPredictions(Predictions):
    """What a run says of a list of inputs; `threshold` is the score above which one is anomalous."""

    threshold: float

    @classmethod
    def of(cls, given: Predictions, threshold: float) -> AnomalyPredictions:
        """Predictions with the threshold also among the outputs, as evaluating them needs it."""
        outputs = {**given.outputs, "threshold": np.full(len(given), threshold)}
        return cls(**vars(replace(given, outputs=outputs)), threshold=threshold)

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """float32 (n,): the higher, the less like the good inputs."""
        return self.outputs["score"]

    @property
    def anomalous(self) -> npt.NDArray[np.bool_]:
        """Bool (n,): which are above the threshold."""
        return np.asarray(self.scores > self.threshold)

    @property
    def labels(self) -> tuple[str, ...]:
        """``good`` or ``anomalous`` for each input that could be read."""
        return tuple(ANOMALOUS if one else GOOD for one in self.anomalous.tolist())

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of one input, upright; those of its map where they are not known."""
        height, width = self.outputs["map"].shape[1:] if self.sizes is None else self.sizes[row].tolist()
        return int(height), int(width)

    def score_map(self, row: int, *, longer: int | None = None) -> npt.NDArray[np.float32]:
        """How anomalous each pixel of one input is: float32 (H, W), at its own size, or with a `longer` side of at most so many pixels."""
        return resized(self.outputs["map"][row], _within(self.size(row), longer))

    def regions(self, row: int) -> list[dict[str, Any]]:
        """The regions of one input that are above the threshold, the largest first, in pixels of the input.

        Each has its ``outline``, corners [x, y]; those of its ``holes``; its ``area``; and its highest ``score``.
        """
        if self.scores[row] <= self.threshold:
            return []
        height, width = self.size(row)
        values = self.score_map(row, longer=_DRAWN)
        down, across = height / values.shape[0], width / values.shape[1]

        def in_pixels(ring: npt.NDArray[np.int64]) -> list[list[float]]:
            return [[round(x * across, 1), round(y * down, 1)] for x, y in ring.tolist()]

        found = []
        for region in regions(values > self.threshold):
            left, top, wide, high = region.box
            found.append(
                {
                    "outline": in_pixels(region.outline), "holes": [in_pixels(hole) for hole in region.holes],
                    "area": round(region.area * across * down), "score": float(values[top : top + high, left : left + wide].max()),
                }
            )  # fmt: skip
        return found

    def heat(self, row: int) -> npt.NDArray[np.float32]:
        """The map of one input from 0 to 1, float32 (h, w): at `LOW` and at `HIGH` times the threshold, so that inputs can be compared."""
        low, high = heat_range(self.threshold).values()
        return np.asarray(np.clip((self.outputs["map"][row] - low) / (high - low), 0, 1), dtype=np.float32)

    def line(self, row: int) -> str:
        """Label, score and threshold of one input."""
        return f"{self.labels[row]}  {float(self.scores[row]):.4g} (threshold {self.threshold:.4g})"


def _within(size: tuple[int, int], longer: int | None) -> tuple[int, int]:
    """A size of the same shape whose longer side has at most so many pixels."""
    if longer is None or max(size) <= longer:
        return size
    height, width = (max(1, round(side * longer / max(size))) for side in size)
    return height, width


def heat_range(threshold: float) -> dict[str, float]:
    """The scores at which the colours of heat maps begin and end."""
    return {"low": LOW * threshold, "high": HIGH * threshold}


def columns() -> tuple[Column, ...]:
    """The columns of tables."""
    return (
        Column("path", "name"),
        Column("label", "text"),
        Column("score", "number", digits=_DIGITS),
        Column("error", "error"),
        Column("threshold", "number", writings=("json", "parquet")),
        Column("area", "number", writings=("json", "parquet")),
        Column("regions", "objects", writings=("json",)),
    )


def record(name: Any, predictions: AnomalyPredictions, row: int) -> Record:
    """The record of one row: label, score, threshold, outlines of what is above it, and the heat map as a PNG."""
    (height, width), found = predictions.size(row), predictions.regions(row)
    where = f"  in {plural(len(found), 'region')}" if found else ""
    heat = heat_png(predictions.score_map(row, longer=_HEAT), **heat_range(predictions.threshold))
    return Record(
        name=printable(str(name)), kind=KIND, line=f"{predictions.line(row)}{where}",
        values={
            "label": predictions.labels[row], "score": float(predictions.scores[row]), "threshold": predictions.threshold,
            "height": height, "width": width, "area": sum(region["area"] for region in found), "regions": found,
            "heat_map": base64_text(heat),
        },
    )  # fmt: skip


def records(names: Sequence[Any], predictions: AnomalyPredictions) -> list[Record]:
    """A record for each input, in the order of `names`; those that could not be read say why."""
    found = {index: record(names[index], predictions, row) for row, index in enumerate(predictions.kept.tolist())}
    for index, error in zip(predictions.refused_at, predictions.refused, strict=True):
        found[index] = Record(name=printable(str(names[index])), kind=KIND, error=error.reason)
    return [found[index] for index in sorted(found)]


def suffixes(*, overlay: bool = False) -> tuple[str, ...]:
    """What ends the names of the files of one input: the heat map as a PNG, and the image with it."""
    return (".png", OVERLAY) if overlay else (".png",)


def files(
    predictions: AnomalyPredictions, row: int, picture: Callable[[], npt.NDArray[np.uint8]], *, overlay: bool = False
) -> dict[str, bytes]:
    """The files of one input by what ends their names: its heat map at its own size, or smaller where it is large; and on the `picture`."""
    values = predictions.score_map(row, longer=_LARGEST)
    found = {".png": marked_png(heat_png(values, **heat_range(predictions.threshold)))}
    if overlay:
        found[OVERLAY] = jpeg_bytes(heated(picture(), values, predictions.threshold), comment=WRITTEN)
    return found


def heated(picture: npt.NDArray[np.uint8], values: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.uint8]:
    """A picture uint8 (H, W, 3) at the size of a map (h, w), with the map over it and what is above the threshold outlined in white."""
    from PIL import Image

    height, width = values.shape
    heat = np.asarray(Image.open(io.BytesIO(heat_png(values, **heat_range(threshold)))).convert("RGBA"))
    below = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))
    share = heat[..., 3:].astype(np.float32) * (_OPACITY / 255)
    mixed = below * (1 - share) + heat[..., :3] * share
    mixed[edges(values > threshold)] = 255
    return np.asarray(mixed.round().astype(np.uint8))


def edges(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of a mask (H, W) beside one that is not in it."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(mask & ~inner)
