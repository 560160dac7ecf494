"""Which test images a report shows, and their pictures: as the network saw them, with heat maps and the nearest training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import ImageError
from headstart.evaluate import Evaluation
from headstart.explain import HeatMaps, overlay
from headstart.modalities.image import ImageSource, quiet_decoding, read_image
from headstart.report import Example, example_rows, jpeg
from headstart.run import MODEL, OUTPUTS, Run
from headstart.text import printable

WRONG, RIGHT = 24, 12  # at most so many examples
_NEIGHBOURS = 3
_SLOWLY = 8  # heat maps that take many passes each
_SIDE, _SMALL = 192, 88  # pixels
_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sources:
    """Where the pictures of a run are.

    Attributes:
        training, test: from a position in the part to the image, or None where it is not known.
        names: of the test images; `training_names`: of the training images.
        features: float32 (m, D) of the test images, where they are at hand and need not be computed.
    """

    training: Callable[[int], ImageSource | None]
    test: Callable[[int], ImageSource | None]
    names: Sequence[str]
    training_names: Sequence[str]
    features: npt.NDArray[np.float32] | None = None


def examples_of(run: Run, evaluation: Evaluation, sources: Sources) -> tuple[Example, ...]:
    """The mistakes that the model was surest of, and of each class some images that it named rightly; images that are gone are left out."""
    pixels: dict[int, _Pixels] = {}
    with quiet_decoding():
        for row in example_rows(evaluation, wrong=WRONG, right=RIGHT).tolist():
            source = sources.test(row)
            try:
                if source is not None:
                    pixels[row] = run.preprocessing(source)
            except ImageError:
                continue
    if not pixels:
        return ()
    rows = np.array(list(pixels))
    stacked = np.stack(list(pixels.values()))
    heat = _heat(run, stacked, evaluation, rows)
    nearest = _nearest(run, stacked, None if sources.features is None else sources.features[rows])
    return tuple(
        Example(
            name=printable(sources.names[row]) if row < len(sources.names) else f"test image {row}",
            target=_label(evaluation.classes, evaluation.outcome.targets[row]),
            predicted=_label(evaluation.classes, evaluation.outcome.predicted[row]),
            probability=_probability(evaluation, row),
            image=jpeg(stacked[place], side=_SIDE),
            heat=jpeg(overlay(stacked[place], heat[place]), side=_SIDE) if place < len(heat) else None,
            neighbours=_neighbours(run, nearest[place], sources),
            row=row,
        )
        for place, row in enumerate(rows.tolist())
    )


def _heat(run: Run, pixels: _Pixels, evaluation: Evaluation, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Heat maps for the class that was named, (m, S, S); of the first images only where each takes many passes of the network."""
    maps = HeatMaps(run.path / MODEL, preprocessing=run.preprocessing, classes=run.classes, multilabel=run.multilabel, method="fast")
    count = len(pixels) if maps.method == "cells" else _SLOWLY
    named = evaluation.outcome.probabilities[rows[:count]].argmax(axis=1)
    found: npt.NDArray[np.float32] = maps(pixels[:count], named)
    return found


def _nearest(run: Run, pixels: _Pixels, features: npt.NDArray[np.float32] | None) -> npt.NDArray[np.int64]:
    """The nearest training images (m, c) of each image, by its features or else its pixels; c is 0 where the run cannot tell."""
    if run.trust is None or run.trust.novelty is None:
        return np.empty((len(pixels), 0), np.int64)
    if features is None:
        features = np.stack([outputs[OUTPUTS.index("features")] for outputs in run.engine.run(pixels)])
    return run.trust.novelty.nearest(features, _NEIGHBOURS)[0]


def _label(classes: Sequence[str], target: npt.NDArray[Any]) -> str:
    """A target in words: the number of a class, or which of several an image has."""
    if not target.ndim:
        return classes[int(target)]
    return ", ".join(classes[j] for j in np.flatnonzero(target).tolist()) or "(none)"


def _probability(evaluation: Evaluation, row: int) -> float:
    values = evaluation.outcome.probabilities[row]
    if not evaluation.outcome.multilabel:
        return float(values.max())
    return float(np.maximum(values, 1 - values).min())


def _neighbours(run: Run, nearest: npt.NDArray[np.int64], sources: Sources) -> tuple[tuple[str, str, bytes | None], ...]:
    found = []
    for index in nearest.tolist():
        label = _label(run.classes, run.reference["targets"][index])
        name = printable(sources.training_names[index]) if index < len(sources.training_names) else f"training image {index}"
        source, image = sources.training(index), None
        try:
            image = None if source is None else jpeg(read_image(source, at_least=_SMALL), side=_SMALL)
        except ImageError:
            image = None
        found.append((name, label, image))
    return tuple(found)
