"""PaDiM: a patch is as anomalous as it is unlikely at its place, by a Gaussian for each place of the good images.

Defard et al., "PaDiM: a patch distribution modeling framework for anomaly detection and localization", ICPR 2021 workshops. It suits
objects that always lie alike. As in the paper, some dimensions are drawn at random, and the covariance is made regular by a multiple of
the identity; here that is a share of the mean variance, so that the scale of a backbone's features does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError
from headstart.heads.patches import Floats, ImageMaps, Maps, PatchGrid, smoothed, write_scores
from headstart.onnx_graph import OnnxGraph
from headstart.progress import Listener

DIMENSIONS = 40
"""Dimensions of a patch that are used; the paper takes 100 of 448. The covariances of all places must be stored, and inverted."""
RIDGE = 0.1
"""What is added to every variance, as a share of the mean variance."""
FEWEST = 2
"""Images from which there is a variance."""

_TOGETHER = 32  # images whose products are summed at once


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over images of the patches at each place: how many images, float64 (p, d) and (p, d, d).

    The sums are of deviations from `origin` (p, d), so that they are exact enough to be subtracted.
    """

    origin: Floats
    count: int
    sums: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]

    def __sub__(self, other: Moments) -> Moments:
        """The moments of the images that `other`, which has the same origin, is not of."""
        return Moments(self.origin, self.count - other.count, self.sums - other.sums, self.squares - other.squares)


class PositionGaussians:
    """A Gaussian for each place.

    Attributes:
        grid: how maps become patches; `channels`: int64 (d,), which of their dimensions are used.
        means: float32 (p, d); `factors`: float32 (p, d, d), lower triangular, with which deviations become independent and of variance 1.
    """

    name: ClassVar[str] = "padim"
    title: ClassVar[str] = "PaDiM (a Gaussian for each place)"

    def __init__(self, grid: PatchGrid, channels: npt.NDArray[np.int64], means: Floats, factors: Floats) -> None:
        self.grid, self.channels, self.means, self.factors = grid, channels, means, factors

    @classmethod
    def fit(cls, images: ImageMaps, *, dimensions: int = DIMENSIONS, seed: int = 0, listener: Listener | None = None) -> Self:
        """Learn from the maps of good images, two at least."""
        grid = PatchGrid.of(next(iter(images)))
        channels = drawn_channels(grid, dimensions=dimensions, seed=seed)
        return cls.of_moments(grid, channels, moments(grid, channels, images, listener=listener))

    @classmethod
    def of_moments(cls, grid: PatchGrid, channels: npt.NDArray[np.int64], found: Moments) -> Self:
        """Learn from moments; DataError where they are of fewer than two images, or of images that are all the same."""
        if found.count < FEWEST:
            raise DataError(f"Gaussians need at least {FEWEST} good images, and there is {found.count}. Use patchcore, or add images.")
        mean = found.sums / found.count
        covariance = (found.squares - found.count * np.einsum("pi,pj->pij", mean, mean)) / (found.count - 1)
        dims = np.arange(len(channels))
        ridge = RIDGE * float(covariance[:, dims, dims].mean())
        if ridge <= 0:
            raise DataError("All good images are the same, so that nothing can vary. Use patchcore, or add other images.")
        covariance[:, dims, dims] += ridge
        factors = np.linalg.inv(np.linalg.cholesky(covariance))
        return cls(grid, channels, (found.origin + mean).astype(np.float32), factors.astype(np.float32))

    def map(self, maps: Maps) -> Floats:
        """How anomalous each patch of one image is, its Mahalanobis distance, float32 (h, w); the largest is the score of the image."""
        deviations = self.grid(maps)[:, self.channels] - self.means
        independent = np.matmul(self.factors, deviations[:, :, None])[:, :, 0]
        distances = np.sqrt(np.einsum("pd,pd->p", independent, independent))
        return smoothed(distances.reshape(self.grid.height, self.grid.width))

    def write_onnx(self, graph: OnnxGraph, maps: Mapping[str, str], *, names: tuple[str, str] = ("map", "score")) -> tuple[str, str]:
        """Append map (N, h, w) and score (N,) to a graph, from the names of the maps, float32 (N, C, h, w)."""
        node, constant = graph.node, graph.constant
        patches = node("Gather", self.grid.write_onnx(graph, maps), graph.constant(self.channels, dtype=np.int64), axis=2)
        deviations = node("Unsqueeze", node("Sub", patches, constant(self.means)), graph.integers(3))
        independent = node("MatMul", constant(self.factors), deviations)
        squares = node("ReduceSum", node("Mul", independent, independent), graph.integers(2, 3), keepdims=0)
        return write_scores(graph, node("Sqrt", squares), height=self.grid.height, width=self.grid.width, names=names)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """What `from_state` takes: JSON values and arrays."""
        arrays: dict[str, npt.NDArray[Any]] = {"channels": self.channels, "means": self.means, "factors": self.factors}
        return {"detector": self.name, "grid": self.grid.state()}, arrays

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        return cls(PatchGrid.from_state(settings["grid"]), arrays["channels"], arrays["means"], arrays["factors"])


def drawn_channels(grid: PatchGrid, *, dimensions: int = DIMENSIONS, seed: int = 0) -> npt.NDArray[np.int64]:
    """Dimensions of a patch drawn at random, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(grid.dim)[:dimensions]).astype(np.int64)


def moments(
    grid: PatchGrid, channels: npt.NDArray[np.int64], images: ImageMaps, *, origin: Floats | None = None, listener: Listener | None = None
) -> Moments:
    """The moments of images, about those of the first where no `origin` is given."""
    listener, done, waiting = listener or Listener(), 0, list[Floats]()
    sums = np.zeros((grid.patches, len(channels)))
    squares = np.zeros((grid.patches, len(channels), len(channels)))
    for maps in images:
        patches = grid(maps)[:, channels]
        origin = patches if origin is None else origin
        waiting.append(patches - origin)
        done += 1
        if len(waiting) == _TOGETHER or done == len(images):
            deviations = np.stack(waiting, axis=1)  # (p, some, d)
            sums += deviations.sum(axis=1)
            squares += deviations.transpose(0, 2, 1) @ deviations
            waiting.clear()
        listener.progress(done, len(images))
    assert origin is not None
    return Moments(origin, done, sums, squares)
