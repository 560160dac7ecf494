"""Kernel maps: features whose scalar products approximate a Gaussian kernel, so that a linear head on them is a kernel machine."""

from __future__ import annotations

import numpy as np

from headstart.heads.kernel_ridge import whitening, write_kernel_less_one
from headstart.heads.labels import EncodedLabels
from headstart.heads.linalg import gaussian, median_distance, squared_distances
from headstart.maps.feature_map import FeatureMap, Features
from headstart.matrix import FeatureMatrix
from headstart.onnx_graph import OnnxGraph
from headstart.settings.field import number, require, whole

WIDTH = 4.0
_MEASURED = 1000  # rows from which the median of the distances is taken


def median_squared_distance(X: FeatureMatrix, *, seed: int) -> float:
    """The median of the squared distances between some of the rows; 1 where all are the same."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(X))[:_MEASURED])
    part = X[rows]
    return median_distance(squared_distances(part, part))


class NystroemMap(FeatureMap):
    """The kernel with some of the rows, the landmarks, times the inverse root of the kernel among these.

    The kernel is exp(-|x - x'|^2 / (width * median squared distance)). `support_`, float32 (m, D), are the landmarks times the root of
    gamma, `gamma_` (1,), `matrix_` float32 (m, m). Source: Williams and Seeger, Using the Nyström method to speed up kernel machines,
    NIPS 2001.
    """

    name, title = "nystroem", "Nyström features"
    _arrays = ("support_", "matrix_", "gamma_")

    def __init__(self, *, components: int = 1000, width: float = WIDTH, seed: int = 0) -> None:
        self.components = components
        self.width = width
        self.seed = seed

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels | None) -> None:
        require(whole(1), components=self.components)
        require(number(above=0), width=self.width)
        gamma = 1 / (self.width * median_squared_distance(X, seed=self.seed))
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(X))[: self.components])
        support = X[rows] * np.float32(np.sqrt(gamma))
        between = squared_distances(support, support)
        self.support_, self.matrix_ = support, whitening(gaussian(between, 1.0, out=between))
        self.gamma_ = np.array([gamma], dtype=np.float32)

    @property
    def dimension(self) -> int:
        """Number of landmarks."""
        return len(self.support_)

    def _mapped(self, X: Features) -> Features:
        kernel = squared_distances(X * np.sqrt(self.gamma_), self.support_)
        return np.asarray(gaussian(kernel, 1.0, out=kernel) @ self.matrix_)

    def _write_onnx(self, graph: OnnxGraph, features: str) -> str:
        scaled = graph.node("Mul", features, graph.constant(np.sqrt(self.gamma_)))
        shift = self.matrix_.astype(np.float64).sum(axis=0).astype(np.float32)
        less_one = write_kernel_less_one(graph, scaled, self.support_)
        return graph.node("Gemm", less_one, graph.constant(self.matrix_), graph.constant(shift))


class FourierMap(FeatureMap):
    """Cosines and sines of random projections; their scalar products are the kernel up to an error that falls as 1 / sqrt(components).

    The kernel is exp(-|x - x'|^2 / (width * median squared distance)). `frequencies_` is float32 (D, components / 2). Source: Rahimi and
    Recht, Random features for large-scale kernel machines, NIPS 2007.
    """

    name, title = "fourier", "random Fourier features"
    _arrays = ("frequencies_",)

    def __init__(self, *, components: int = 2000, width: float = WIDTH, seed: int = 0) -> None:
        self.components = components
        self.width = width
        self.seed = seed

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels | None) -> None:
        require(whole(2), components=self.components)
        require(number(above=0), width=self.width)
        gamma = 1 / (self.width * median_squared_distance(X, seed=self.seed))
        drawn = np.random.default_rng(self.seed).standard_normal((X.shape[1], self.components // 2), dtype=np.float32)
        self.frequencies_ = drawn * np.float32(np.sqrt(2 * gamma))

    @property
    def dimension(self) -> int:
        """A cosine and a sine for each frequency."""
        return 2 * int(self.frequencies_.shape[1])

    def _mapped(self, X: Features) -> Features:
        angles = X @ self.frequencies_
        return np.asarray(np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.float32(np.sqrt(angles.shape[1])))

    def _write_onnx(self, graph: OnnxGraph, features: str) -> str:
        angles = graph.node("MatMul", features, graph.constant(self.frequencies_))
        both = graph.node("Concat", graph.node("Cos", angles), graph.node("Sin", angles), axis=1)
        return graph.node("Mul", both, graph.constant(1 / np.sqrt(self.frequencies_.shape[1])))
