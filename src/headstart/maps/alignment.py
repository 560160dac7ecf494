"""Alignments: maps under which the features of two worlds, source and target, are distributed alike; no target labels are needed.

Each is learned from features of both. A classifier is then fitted on `transform` of the source, and used on `transform_target` of the
target. Every one of them is affine on either side, except `TransferComponents` with a Gaussian kernel.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from headstart.estimators import Estimator
from headstart.onnx_graph import OnnxGraph
from headstart.settings.field import number, one_of, require, whole

Features = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class Alignment(Estimator):
    """The base: ``fit(source, target=target)``, `transform` for the source, `transform_target` for the target; (n, D) to float32 (n, d).

    Learned are `source_mean_` and `target_mean_` (D,), `source_matrix_` and `target_matrix_` (D, d), and `offset_` (d,): a row x becomes
    (x - mean) @ matrix + offset. Without a target, the source stands for it.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # as in a sentence
    source_matrix_: Floats
    target_matrix_: Floats

    def fit(self, X: npt.ArrayLike, y: object = None, *, target: npt.ArrayLike | None = None) -> Self:
        """Learn from features of the source (n, D) and of the target (m, D); ValueError where they do not go together."""
        source = self.checked(X, reset=True).astype(np.float64)
        other = source if target is None else self.checked(target).astype(np.float64)
        self.source_mean_, self.target_mean_ = self._means(source, other)
        self.offset_: Floats | float = 0.0
        self._align(source - self.source_mean_, other - self.target_mean_)
        return self

    def _means(self, source: Floats, target: Floats) -> tuple[Floats, Floats]:
        """What is taken off either world before it is aligned: its mean."""
        return source.mean(axis=0), target.mean(axis=0)

    @abstractmethod
    def _align(self, source: Floats, target: Floats) -> None:
        """Set the matrices, and the offset where it is not 0, from features without their `_means`."""

    def transform(self, X: npt.ArrayLike) -> Features:
        """Map features of the source."""
        self.check_fitted("source_matrix_")
        mapped: Features = ((self.checked(X) - self.source_mean_) @ self.source_matrix_ + self.offset_).astype(np.float32)
        return mapped

    def transform_target(self, X: npt.ArrayLike) -> Features:
        """Map features of the target."""
        self.check_fitted("source_matrix_")
        mapped: Features = ((self.checked(X) - self.target_mean_) @ self.target_matrix_ + self.offset_).astype(np.float32)
        return mapped

    def fit_transform(self, X: npt.ArrayLike, y: object = None, *, target: npt.ArrayLike | None = None) -> Features:
        """`fit`, then `transform`."""
        return self.fit(X, target=target).transform(X)

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append the map of the target, which a model will meet: `features` names a float32 value (N, D). Returns the name of (N, d)."""
        self.check_fitted("source_matrix_")
        mean = graph.constant(self.target_mean_.astype(np.float32))
        mapped = graph.node("MatMul", graph.node("Sub", features, mean), graph.constant(self.target_matrix_.astype(np.float32)))
        return graph.node("Add", mapped, graph.constant(np.asarray(self.offset_, dtype=np.float32)))

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import TransformerTags

        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=["float32"])
        return tags


class Standardised(Alignment):
    """Every feature of either world with mean 0 and variance 1 of its own, as batch normalisation with the target's statistics does.

    `floor` is what is added to a standard deviation, as a share of the root mean square of all. Source: Li et al., Revisiting batch
    normalization for practical domain adaptation, 2016.
    """

    name, title = "standardised", "each world standardised by itself"

    def __init__(self, *, floor: float = 0.1) -> None:
        self.floor = floor

    def _align(self, source: Floats, target: Floats) -> None:
        require(number(least=0), floor=self.floor)
        self.source_matrix_, self.target_matrix_ = (np.diag(1 / self._scale(world)) for world in (source, target))

    def _scale(self, centred: Floats) -> Floats:
        variance = (centred**2).mean(axis=0)
        scale = np.sqrt(variance + self.floor**2 * variance.mean())
        return np.where(scale > 0, scale, 1.0)


class Coral(Alignment):
    """Correlation alignment: source features are whitened, then given the target's covariance and mean.

    `shrinkage` is the share of the mean variance that is added to the diagonals. Source: Sun, Feng and Saenko, Return of frustratingly easy
    domain adaptation, AAAI 2016.
    """

    name, title = "coral", "correlation alignment"

    def __init__(self, *, shrinkage: float = 0.1) -> None:
        self.shrinkage = shrinkage

    def _align(self, source: Floats, target: Floats) -> None:
        before, after = _covariance(source, self.shrinkage), _covariance(target, self.shrinkage)
        self.source_matrix_ = _power(before, -0.5) @ _power(after, 0.5)
        self.target_matrix_, self.offset_ = np.eye(len(after)), self.target_mean_


class LinearTransport(Alignment):
    """The optimal transport of the source's Gaussian to the target's, an affine map.

    `shrinkage` is the share of the mean variance that is added to the diagonals. Source: Peyré and Cuturi, Computational optimal transport,
    2019, remark 2.31.
    """

    name, title = "ot", "linear optimal transport"

    def __init__(self, *, shrinkage: float = 0.1) -> None:
        self.shrinkage = shrinkage

    def _align(self, source: Floats, target: Floats) -> None:
        before, after = _covariance(source, self.shrinkage), _covariance(target, self.shrinkage)
        root, inverse = _power(before, 0.5), _power(before, -0.5)
        self.source_matrix_ = inverse @ _power(root @ after @ root, 0.5) @ inverse
        self.target_matrix_, self.offset_ = np.eye(len(after)), self.target_mean_


class SubspaceAlignment(Alignment):
    """The principal axes of the source are turned onto those of the target; `components` of both are kept.

    Source: Fernando et al., Unsupervised visual domain adaptation using subspace alignment, ICCV 2013.
    """

    name, title = "subspace", "subspace alignment"

    def __init__(self, *, components: int = 60) -> None:
        self.components = components

    def _align(self, source: Floats, target: Floats) -> None:
        require(whole(1), components=self.components)
        count = max(1, min(self.components, source.shape[1], len(source) // 2, len(target) // 2))
        ours, theirs = (_axes(world, count) for world in (source, target))
        self.source_matrix_, self.target_matrix_ = ours @ (ours.T @ theirs), theirs


class TransferComponents(Alignment):
    """Transfer component analysis: directions of large variance in which the means of the two worlds agree, in the space of a kernel.

    With the linear kernel the problem has as many unknowns as features and gives an affine map; with ``gaussian`` it has as many as rows,
    and these are kept as `landmarks_`. Features are divided by the root mean square of their length first. `penalty` is the paper's mu.
    Source: Pan, Tsang, Kwok and Yang, Domain adaptation via transfer component analysis, IEEE Transactions on Neural Networks, 2011.
    """

    name, title = "tca", "transfer components"

    def __init__(self, *, components: int = 60, penalty: float = 1.0, kernel: str = "linear") -> None:
        self.components = components
        self.penalty = penalty
        self.kernel = kernel

    def _means(self, source: Floats, target: Floats) -> tuple[Floats, Floats]:
        """That of both together: centring each world by itself would hide what the two differ in."""
        mean = np.concatenate([source, target]).mean(axis=0)
        return mean, mean

    def _align(self, source: Floats, target: Floats) -> None:
        require(whole(1), components=self.components)
        require(number(above=0), penalty=self.penalty)
        require(one_of("linear", "gaussian"), kernel=self.kernel)
        both = np.concatenate([source, target])
        self.scale_ = float(np.sqrt((both**2).sum(axis=1).mean())) or 1.0
        both /= self.scale_
        signs = np.concatenate([np.full(len(source), 1 / len(source)), np.full(len(target), -1 / len(target))])
        if self.kernel == "linear":
            gram, means = both.T @ both, both.T @ signs
            spread, apart = gram @ gram @ gram, gram @ means  # the rows are centred already
            limit = np.outer(apart, apart) + self.penalty * gram
            directions = _largest(spread, limit, min(self.components, len(gram)))
            matrix = gram @ directions
        else:
            self.landmarks_ = both
            gram = self._kernel(both)
            apart, centred = gram @ signs, gram - gram.mean(axis=0)
            limit = np.outer(apart, apart) + self.penalty * np.eye(len(gram))
            matrix = _largest(centred.T @ centred, limit, min(self.components, len(gram)))
        scale = (both @ matrix if self.kernel == "linear" else gram @ matrix).std(axis=0).mean() or 1.0
        self.source_matrix_ = self.target_matrix_ = matrix / scale
        if self.kernel == "linear":
            self.source_matrix_ = self.target_matrix_ = self.source_matrix_ / self.scale_

    def _kernel(self, rows: Floats) -> Floats:
        """The Gaussian kernel (n, landmarks) of centred and scaled rows, of the width of their mean squared distance."""
        squares = (rows**2).sum(axis=1)[:, None] + (self.landmarks_**2).sum(axis=1) - 2 * rows @ self.landmarks_.T
        return np.asarray(np.exp(-np.maximum(squares, 0) / 2))

    def transform(self, X: npt.ArrayLike) -> Features:
        """Map features of either world."""
        self.check_fitted("source_matrix_")
        centred = self.checked(X) - self.source_mean_
        mapped = centred @ self.source_matrix_ if self.kernel == "linear" else self._kernel(centred / self.scale_) @ self.source_matrix_
        return np.asarray(mapped, dtype=np.float32)

    def transform_target(self, X: npt.ArrayLike) -> Features:
        """The same as `transform`."""
        return self.transform(X)

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """As `Alignment.write_onnx`."""
        if self.kernel == "linear":
            return super().write_onnx(graph, features)
        self.check_fitted("source_matrix_")

        def constant(values: Floats | float) -> str:
            return graph.constant(np.asarray(values, dtype=np.float32))

        rows = graph.node("Div", graph.node("Sub", features, constant(self.source_mean_)), constant(self.scale_))
        squares = graph.node("ReduceSum", graph.node("Mul", rows, rows), graph.constant([1], dtype=np.int64), keepdims=1)
        products = graph.node("MatMul", rows, constant(-2 * self.landmarks_.T))
        distances = graph.node("Add", graph.node("Add", squares, constant((self.landmarks_**2).sum(axis=1))), products)
        kernel = graph.node("Exp", graph.node("Mul", graph.node("Max", distances, constant(0.0)), constant(-0.5)))
        return graph.node("MatMul", kernel, constant(self.source_matrix_))


def _covariance(centred: Floats, shrinkage: float) -> Floats:
    require(number(least=0), shrinkage=shrinkage)
    covariance = centred.T @ centred / max(1, len(centred) - 1)
    covariance[np.diag_indices_from(covariance)] += max(shrinkage * np.trace(covariance) / len(covariance), 1e-12)
    return np.asarray(covariance)


def _power(matrix: Floats, exponent: float) -> Floats:
    """A power of a symmetric matrix with positive eigenvalues."""
    values, vectors = eigh(matrix, check_finite=False)
    return np.asarray((vectors * np.maximum(values, max(values[-1], 1e-30) * 1e-12) ** exponent) @ vectors.T)


def _axes(centred: Floats, count: int) -> Floats:
    """The `count` principal axes (D, count)."""
    dimension = centred.shape[1]
    return np.asarray(eigh(centred.T @ centred, subset_by_index=(dimension - count, dimension - 1), check_finite=False)[1][:, ::-1])


def _largest(first: Floats, second: Floats, count: int) -> Floats:
    """Generalised eigenvectors (d, count) of ``first v = value * second v`` with the largest values."""
    second = second + np.eye(len(second)) * max(np.trace(second) / len(second), 1e-30) * 1e-9
    return np.asarray(eigh(first, second, subset_by_index=(len(first) - count, len(first) - 1), check_finite=False)[1][:, ::-1])


ALIGNMENTS: dict[str, type[Alignment]] = {
    one.name: one for one in (Standardised, Coral, SubspaceAlignment, LinearTransport, TransferComponents)
}
"""Every alignment by its name."""
