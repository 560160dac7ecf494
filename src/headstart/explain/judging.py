"""Is a heat map true? Deletion and insertion scores, which ask the model and not the eye.

Petsiuk, Das and Saenko, "RISE" (2018). *Deletion*: the hottest pixels are taken away step by step, and the probability of the class should
fall at once. *Insertion*: the hottest pixels are put into a blurred image step by step, and it should rise at once. Each score is the area
under that curve; a map is good where the first is small and the second large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.engine import Engine
from headstart.errors import ParameterError
from headstart.explain.heat_maps import blur

Floats = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

STEPS = 20
_BLUR = 8  # of the side: what is left of an image tells little of its class
_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Judgement:
    """Scores of heat maps, one for each image.

    Attributes:
        deletion: float64 (n,), area under the curve of deletion, from 0 to 1; small is good.
        insertion: float64 (n,), area under the curve of insertion; large is good.
    """

    deletion: Scores
    insertion: Scores


def judge(engine: Engine, images: Pixels, heat: Floats, targets: Sequence[int] | npt.NDArray[np.int64], *, steps: int = STEPS) -> Judgement:
    """Score heat maps by what the model says of images from which the hottest places are missing.

    Args:
        engine: runs the model; its only output is the probabilities (k,).
        images: uint8 (n, S, S, 3), prepared.
        heat: float32 (n, S, S). Only its order counts; where it is equal, pixels are taken in an order of chance.
        targets: the class of each image, (n,).
        steps: equal parts in which the pixels are taken away or put in.

    Raises:
        ParameterError: shapes that do not fit each other, or less than two steps.
    """
    targets = np.asarray(targets)
    if heat.shape != images.shape[:3] or targets.shape != (len(images),):
        raise ParameterError(f"Images {images.shape}, heat {heat.shape} and targets {targets.shape} do not fit each other.")
    if steps < 2:
        raise ParameterError(f"steps must be 2 or more, got {steps}.")
    curves = np.empty((len(images), 2, steps + 1))
    for index, (probabilities,) in enumerate(engine.run(_changed(images, heat, steps))):
        image, rest = divmod(index, 2 * (steps + 1))
        curves[image, rest // (steps + 1), rest % (steps + 1)] = probabilities[targets[image]]
    areas = (curves[:, :, 1:] + curves[:, :, :-1]).mean(axis=2) / 2
    return Judgement(areas[:, 0], areas[:, 1])


def _changed(images: Pixels, heat: Floats, steps: int) -> Iterator[Pixels]:
    """For each image its deletions (towards its mean colour), then its insertions (into its blurred self)."""
    random = np.random.default_rng(0)
    for image, map_ in zip(images, heat, strict=True):
        chance = random.random(map_.size)
        order = np.lexsort((chance, -map_.ravel()))
        rank = np.empty(map_.size)
        rank[order] = np.arange(map_.size) / map_.size
        rank = rank.reshape(map_.shape)[:, :, None]
        grey = np.broadcast_to(np.round(image.mean(axis=(0, 1))).astype(np.uint8), image.shape)
        blurred = blur(image, radius=image.shape[0] / _BLUR)
        for before, after in ((image, grey), (blurred, image)):
            for step in range(steps + 1):
                yield np.where(rank < step / steps, after, before)


def random_maps(count: int, size: int, *, cells: int = 7, seed: int = 0) -> Floats:
    """Heat of no meaning, as smooth as that of a model: float32 (count, size, size) from 0 to 1."""
    from PIL import Image

    random = np.random.default_rng(seed)
    grids = random.random((count, cells, cells), dtype=np.float32)
    resized = [np.asarray(Image.fromarray(grid, mode="F").resize((size, size), Image.Resampling.BICUBIC)) for grid in grids]
    return np.clip(np.stack(resized), 0, 1) if count else np.empty((0, size, size), np.float32)


def centre_map(size: int) -> Floats:
    """Heat that says: what is photographed is in the middle. float32 (size, size), a Gaussian of a quarter of the side."""
    place = (np.arange(size) + 0.5) / size - 0.5
    line = np.exp(-((place / 0.25) ** 2) / 2)
    return np.outer(line, line).astype(np.float32)


def mean_interval(values: npt.NDArray[Any], *, seed: int = 0) -> tuple[float, float, float]:
    """The mean of values (n,), and its 95 % interval by the bootstrap (percentiles of 2000 draws).

    Raises:
        ParameterError: no values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ParameterError(f"A mean needs values in one row, got an array of shape {values.shape}.")
    drawn = np.random.default_rng(seed).integers(0, len(values), (_DRAWS, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)
