"""Linear maps: principal components, linear discriminants, and a projection learned from the gradients of a kernel classifier."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, eigh

from headstart.heads.kernel_ridge import search_kernel
from headstart.heads.labels import EncodedLabels, stratified_rows
from headstart.heads.linalg import gaussian, median_distance, squared_distances
from headstart.heads.logistic import rotate
from headstart.heads.ridge import dual_fit
from headstart.maps.feature_map import FeatureMap, Features
from headstart.matrix import FeatureMatrix, blocks, column_means
from headstart.onnx_graph import OnnxGraph
from headstart.settings.field import SWITCH, number, require, whole

Floats = npt.NDArray[np.float64]

_WIDTHS, _REGULARISATIONS = (4.0, 2.0), (3e-2, 1e-1)  # of the kernel whose gradients are taken
_LEARNED_FROM, _GRADIENTS = 2000, 1000  # rows


class LinearMap(FeatureMap):
    """(x - mean) @ matrix: `mean_` is float32 (D,), `matrix_` float32 (D, d)."""

    _arrays = ("mean_", "matrix_")
    mean_: Features
    matrix_: Features

    @property
    def dimension(self) -> int:
        """Number of the columns of the matrix."""
        return int(self.matrix_.shape[1])

    def _set(self, mean: npt.NDArray[np.floating], matrix: npt.NDArray[np.floating]) -> None:
        self.mean_, self.matrix_ = mean.astype(np.float32), np.ascontiguousarray(matrix, dtype=np.float32)

    def _mapped(self, X: Features) -> Features:
        return np.asarray((X - self.mean_) @ self.matrix_)

    def _write_onnx(self, graph: OnnxGraph, features: str) -> str:
        return graph.node("MatMul", graph.node("Sub", features, graph.constant(self.mean_)), graph.constant(self.matrix_))


class PrincipalComponents(LinearMap):
    """Principal axes, the `components` of largest variance or all; with `whiten` each divided by its standard deviation.

    `shrinkage` is the share of the mean variance that is added to every variance before that, so that axes of hardly any variance, which
    are noise, are not made as large as the others.
    """

    name, title = "pca", "principal components"

    def __init__(self, *, components: int | None = None, whiten: bool = True, shrinkage: float = 1.0) -> None:
        self.components = components
        self.whiten = whiten
        self.shrinkage = shrinkage

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels | None) -> None:
        require(whole(1), or_none=True, components=self.components)
        require(SWITCH, whiten=self.whiten)
        require(number(least=0), shrinkage=self.shrinkage)
        found = rotate(X)
        if not found.axes.shape[1]:  # all rows are the same
            self._set(found.mean, np.zeros((X.shape[1], 1)))
            return
        variance = np.zeros(found.axes.shape[1])
        for rows in blocks(len(X)):
            variance += np.square(found.rotated[rows], dtype=np.float64).sum(axis=0)
        variance /= max(1, len(X) - 1)
        order = np.argsort(-variance, kind="stable")[: self.components]
        scale = 1 / np.sqrt(variance + self.shrinkage * variance.sum() / X.shape[1]) if self.whiten else np.ones(len(variance))
        self._set(found.mean, (found.axes * scale)[:, order])


class LinearDiscriminants(LinearMap):
    """The directions in which the classes differ most for their spread (Fisher), one less than classes; within them the spread is 1.

    The covariance within the classes is shrunk: `shrinkage` is the share of it that is replaced by a multiple of the identity with the same
    trace (Friedman, Regularized discriminant analysis, JASA 84, 1989). With independent labels there is one direction for each, and the
    covariance is that of all images.
    """

    name, title, supervised = "lda", "linear discriminants", True

    def __init__(self, *, shrinkage: float = 0.5) -> None:
        self.shrinkage = shrinkage

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels | None) -> None:
        require(number(least=0, most=1), shrinkage=self.shrinkage)
        assert targets is not None
        w = np.ones(len(X)) if targets.weights is None else targets.weights / targets.weights.mean()
        member = targets.indicators * w[:, None]
        if targets.link.independent:
            away, mean = _differences(X, member, w)
            centres, codes = mean[None], np.zeros(len(X), dtype=np.int64)
        else:
            present = np.flatnonzero(member.sum(axis=0) > 0)
            member = member[:, present]
            codes, share = member.argmax(axis=1), member.sum(axis=0) / w.sum()
            centres = np.stack([_sums(X, column) / column.sum() for column in member.T])
            mean = share @ centres
            away = ((centres - mean) * np.sqrt(share)[:, None]).T
        solved = _solved_by_covariance(X, centres.astype(np.float32), codes, w, away, shrinkage=self.shrinkage)
        gram = away.T @ solved
        if targets.link.independent:
            matrix = solved / np.sqrt(np.maximum(np.diag(gram), 1e-30))
        else:
            values, vectors = eigh((gram + gram.T) / 2)
            kept = np.flatnonzero(values > max(values[-1], 1e-30) * 1e-9)[::-1][: max(1, len(values) - 1)]
            kept = kept if len(kept) else np.array([len(values) - 1])
            matrix = solved @ (vectors[:, kept] / np.sqrt(np.maximum(values[kept], 1e-30)))
        self._set(mean, matrix)


def _sums(X: FeatureMatrix, weights: Floats) -> Floats:
    """The weighted sum of the rows (D,), of those that have a weight."""
    total, chosen = np.zeros(X.shape[1]), np.flatnonzero(weights)
    for rows in blocks(len(chosen)):
        total += weights[chosen[rows]] @ X[chosen[rows]].astype(np.float64)
    return total


def _differences(X: FeatureMatrix, member: Floats, w: Floats) -> tuple[Floats, Floats]:
    """For each label the mean of the images with it less that of those without (D, k), 0 where there are none; and the mean of all."""
    whole, columns = _sums(X, w), []
    for column in member.T:
        with_it, without = column.sum(), (w - column).sum()
        own = _sums(X, column)
        columns.append(own / with_it - (whole - own) / without if min(with_it, without) > 1e-9 else np.zeros_like(whole))
    return np.stack(columns, axis=1), whole / w.sum()


def _solved_by_covariance(
    X: FeatureMatrix, centres: Features, codes: npt.NDArray[np.int64], w: Floats, right: Floats, *, shrinkage: float
) -> Floats:
    """inv(S) @ right (D, k), S being the shrunk covariance of the rows less the centres (c, D) that `codes` (n,) name.

    With fewer rows than features by the n x n matrix of their products (Woodbury), else by S itself.
    """
    n, d = X.shape
    root = np.sqrt(w / w.sum()).astype(np.float32)

    def centred(rows: slice) -> Features:
        return np.asarray((X[rows] - centres[codes[rows]]) * root[rows, None])

    if n < d and shrinkage > 0:
        within = np.concatenate([centred(rows) for rows in blocks(n)])
        gram = (within @ within.T).astype(np.float64)
        least = shrinkage * max(np.trace(gram) / d, 1e-12)
        gram *= (1 - shrinkage) / least
        gram[np.diag_indices(n)] += 1
        inner = cho_solve(cho_factor(gram, overwrite_a=True, check_finite=False), within @ right, check_finite=False)
        return np.asarray((right - (1 - shrinkage) / least * (within.T @ inner)) / least)
    covariance = np.zeros((d, d))
    for rows in blocks(n):
        part = centred(rows)
        covariance += part.T @ part
    variance = max(np.trace(covariance) / d, 1e-12)
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(d)] += shrinkage * variance + 1e-9 * variance
    return np.asarray(cho_solve(cho_factor(covariance, overwrite_a=True, check_finite=False), right, check_finite=False))


class GradientProjection(LinearMap):
    """Directions stretched by how much the classes change along them: a metric that is learned from the gradients of a kernel classifier.

    Kernel ridge regression is fitted on at most `axes` principal axes; with M the mean outer product of the gradients of its outputs,
    features become x M^(1/4), and so on for some `rounds`. `least` is added to M, whose mean eigenvalue is 1. Source: Radhakrishnan,
    Beaglehole, Pandit and Belkin, Mechanism for feature learning in neural networks and backpropagation-free machine learning models,
    Science 383 (2024) 1461.
    """

    name, title, supervised = "gradients", "a learned projection", True

    def __init__(self, *, rounds: int = 2, axes: int = 384, least: float = 0.05, seed: int = 0) -> None:
        self.rounds = rounds
        self.axes = axes
        self.least = least
        self.seed = seed

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels | None) -> None:
        require(whole(1), rounds=self.rounds, axes=self.axes)
        require(number(above=0), least=self.least)
        assert targets is not None
        rows = stratified_rows(targets, _LEARNED_FROM, seed=self.seed)
        part, some = X[rows], targets.take(rows)
        mean = column_means(X).astype(np.float32)
        matrix = rotate(part).axes[:, ::-1][:, : self.axes]
        centred = part - mean
        for _ in range(self.rounds if matrix.shape[1] else 0):
            metric = outer_gradients(centred @ matrix, some, seed=self.seed)
            values, vectors = eigh(metric + self.least * np.eye(len(metric)), check_finite=False)
            matrix = matrix @ ((vectors * np.maximum(values, 0) ** 0.25) @ vectors.T).astype(np.float32)
        self._set(mean, matrix if matrix.shape[1] else np.zeros((X.shape[1], 1)))


def outer_gradients(X: Features, targets: EncodedLabels, *, seed: int = 0) -> Floats:
    """The mean outer product (d, d) of the gradients of kernel ridge regression, at some of the rows; its mean eigenvalue is 1."""
    distances = squared_distances(X, X)
    trials = search_kernel(distances, targets, widths=_WIDTHS, regularisations=_REGULARISATIONS)
    width, regularisation = (trials[0].width, trials[0].regularisation) if trials else (_WIDTHS[-1], _REGULARISATIONS[-1])
    kernel = gaussian(distances, 1 / (width * median_distance(distances)))
    fit = dual_fit(kernel, targets.signed, regularisation, weights=targets.weights)
    total = np.zeros((X.shape[1], X.shape[1]))
    rows = np.random.default_rng(seed).permutation(len(X))[:_GRADIENTS]
    for column in [] if fit is None else fit.coefficients.T:
        weighted = kernel[rows] * column
        slopes = weighted @ X - weighted.sum(axis=1)[:, None] * X[rows]
        total += slopes.T @ slopes
    trace = float(np.trace(total))
    return total * (len(total) / trace) if trace > 0 else np.eye(len(total))
