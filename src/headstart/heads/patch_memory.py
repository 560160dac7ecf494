"""PatchCore: a patch is as anomalous as it is far from the nearest patch of the good images.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022. The score of an image is the largest value of its map; the
re-weighting of the paper, by the neighbourhood of the nearest patch, is left out: `benchmarks/anomaly.py` shows that it gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from headstart.heads.coreset import CANDIDATES, MEMORY, coreset, sampled
from headstart.heads.patches import Floats, ImageMaps, Maps, PatchGrid, smoothed, write_scores
from headstart.onnx_graph import OnnxGraph
from headstart.progress import Listener

_AT_ONCE = 1024  # patches whose distances to the memory are held at a time


class PatchMemory:
    """The coreset of the patches of good images.

    Attributes:
        grid: how maps become patches.
        memory: float32 (m, D), the patches remembered, less `centre` (D,), which makes their distances exact in float32.
    """

    name: ClassVar[str] = "patchcore"
    title: ClassVar[str] = "PatchCore (nearest patch of the good images)"

    def __init__(self, grid: PatchGrid, memory: Floats, centre: Floats) -> None:
        self.grid, self.memory, self.centre = grid, memory, centre
        self._norms = np.einsum("ij,ij->i", memory, memory)

    @classmethod
    def fit(
        cls, images: ImageMaps, *, candidates: int = CANDIDATES, memory: int = MEMORY, seed: int = 0, listener: Listener | None = None
    ) -> Self:
        """Learn from the maps of good images, one at least: a sample of at most `candidates` patches, of which `memory` are kept."""
        grid = PatchGrid.of(next(iter(images)))
        found = sampled(grid, images, most=candidates, seed=seed, listener=listener)
        return cls.of_patches(grid, found.patches, memory=memory, seed=seed, listener=listener)

    @classmethod
    def of_patches(cls, grid: PatchGrid, patches: Floats, *, memory: int = MEMORY, seed: int = 0, listener: Listener | None = None) -> Self:
        """Learn from patches (c, D) that were sampled."""
        chosen = patches[coreset(patches, most=memory, seed=seed, listener=listener)]
        centre = chosen.mean(axis=0)
        return cls(grid, chosen - centre, centre)

    def distances(self, patches: Floats) -> Floats:
        """The distance of each patch (p, D) to the nearest one remembered, float32 (p,)."""
        found = np.empty(len(patches), np.float32)
        for start in range(0, len(patches), _AT_ONCE):
            part = patches[start : start + _AT_ONCE] - self.centre
            closeness = (2 * part) @ self.memory.T
            closeness -= self._norms
            found[start : start + _AT_ONCE] = np.einsum("ij,ij->i", part, part) - closeness.max(axis=1)
        return np.sqrt(np.maximum(found, 0))

    def map(self, maps: Maps) -> Floats:
        """How anomalous each patch of one image is, float32 (h, w); the largest value is the score of the image."""
        return smoothed(self.distances(self.grid(maps)).reshape(self.grid.height, self.grid.width))

    def write_onnx(self, graph: OnnxGraph, maps: Mapping[str, str], *, names: tuple[str, str] = ("map", "score")) -> tuple[str, str]:
        """Append map (N, h, w) and score (N,) to a graph, from the names of the maps, float32 (N, C, h, w)."""
        node, constant = graph.node, graph.constant
        patches = node("Sub", self.grid.write_onnx(graph, maps), constant(self.centre))
        closeness = node("Sub", node("MatMul", patches, constant(np.ascontiguousarray(2 * self.memory.T))), constant(self._norms))
        nearest = node("GlobalMaxPool", closeness)  # the largest of each row (N, patches, m), in any version of the operators
        squares = node("ReduceSum", node("Mul", patches, patches), graph.integers(2), keepdims=1)
        distances = node("Sqrt", node("Max", node("Sub", squares, nearest), constant(0.0)))
        return write_scores(graph, distances, height=self.grid.height, width=self.grid.width, names=names)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """What `from_state` takes: JSON values and arrays."""
        return {"detector": self.name, "grid": self.grid.state()}, {"memory": self.memory, "centre": self.centre}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        return cls(PatchGrid.from_state(settings["grid"]), arrays["memory"], arrays["centre"])
