"""Kernel ridge classification with a Gaussian kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError
from headstart.heads.head import Features, Floats, Head
from headstart.heads.labels import ClassWeight, EncodedLabels, stratified_rows, whole_groups
from headstart.heads.linalg import gaussian, median_distance, squared_distances, squared_norms
from headstart.heads.ridge import SELECTION_ROWS, Design, LeastSquaresFit, Matrix, Search, dual_fit, inverse_factor, primal_fit
from headstart.matrix import FeatureMatrix, blocks
from headstart.onnx_graph import OnnxGraph
from headstart.settings.field import number, require

WIDTHS = (8.0, 4.0, 2.0, 1.0)
REGULARISATIONS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
REFINED_ROWS = 4000  # images on which the regularisation is chosen again
KEPT_ROWS = 6144  # of the kernel between images and landmarks, kept for the second time they are needed; the others are made again


@dataclass(frozen=True, eq=False)
class KernelTrial:
    """One width and regularisation, its calibrated out-of-sample logits (n, k) and the mean of their log loss."""

    width: float
    regularisation: float
    logits: Floats
    loss: float


def search_kernel(
    distances: Matrix, targets: EncodedLabels, *, widths: Sequence[float] = WIDTHS, regularisations: Sequence[float] = REGULARISATIONS,
    start: int | None = None,
) -> list[KernelTrial]:  # fmt: skip
    """Walk downhill over the grid of widths and regularisations, one step at a time; all trials, best first, whose logits are bent.

    The walk starts at the second width and at regularisation number `start`, by default one past the middle.
    """
    median = median_distance(distances)
    tried: dict[tuple[int, int], KernelTrial | None] = {}

    def loss(i: int, j: int) -> float:
        if not (0 <= i < len(widths) and 0 <= j < len(regularisations)):
            return np.inf
        if (i, j) not in tried:
            kernel = gaussian(distances, 1 / (widths[i] * median))
            fit = dual_fit(kernel, targets.signed, regularisations[j], weights=targets.weights, groups=targets.groups, overwrite=True)
            if fit is None:  # float32 does not suffice to factorise it
                tried[i, j] = None
                return np.inf
            logits = targets.calibrate(fit.out_of_sample, shifts=False)(fit.out_of_sample)
            tried[i, j] = KernelTrial(widths[i], regularisations[j], logits, targets.log_loss(logits))
        trial = tried[i, j]
        return np.inf if trial is None else trial.loss

    here = (min(1, len(widths) - 1), 2 * len(regularisations) // 3 if start is None else start)
    while True:
        around = [here, (here[0], here[1] + 1), (here[0], here[1] - 1), (here[0] + 1, here[1]), (here[0] - 1, here[1])]
        best = min(around, key=lambda cell: loss(*cell))
        if best == here:
            break
        here = best
    trials = sorted((trial for trial in tried.values() if trial is not None), key=lambda trial: trial.loss)
    if trials:  # the walk does without bends, which take time and hardly change what is best
        first = trials[0]
        logits = targets.calibrate(first.logits, shifts=False, bends=True)(first.logits)
        trials[0] = replace(first, logits=logits, loss=targets.log_loss(logits))
    return trials


class KernelRidgeHead(Head):
    """Least squares on +1/-1 targets in the space of a Gaussian kernel, exp(-|x - x'|^2 / (width * median squared distance)).

    Out-of-sample scores are closed-form (`headstart.heads.ridge`); width and regularisation are by default chosen among `WIDTHS` and
    `REGULARISATIONS` by their log loss. Above `exact_up_to` images the kernel is approximated from `landmarks` of them, drawn class by
    class (Nystroem; Williams and Seeger 2001); out of sample, a landmark is left out as an image and as a landmark. With `refine`, a
    regularisation that was chosen on fewer images is then only where a search begins. `support_`, float32 (m, D), are training rows or
    landmarks, scaled by the square root of gamma; `dual_coef_` is float32 (m, k), `intercept_` (k,).
    """

    name, title, chosen = "kernel_ridge", "kernel ridge", ("width", "regularisation")
    _arrays = ("support_", "dual_coef_", "intercept_", "gamma_")

    def __init__(
        self, *, width: float | None = None, regularisation: float | None = None, class_weight: ClassWeight = None, exact_up_to: int = 6000,
        landmarks: int = 3000, refine: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        self.width = width
        self.regularisation = regularisation
        self.class_weight = class_weight
        self.exact_up_to = exact_up_to
        self.landmarks = landmarks
        self.refine = refine
        self.seed = seed

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels, *, overwrite: bool) -> None:
        require(number(above=0), or_none=True, width=self.width, regularisation=self.regularisation)
        median = self._choose(X, targets)
        gamma = 1 / (self.width_ * median)
        exact = len(X) <= self.exact_up_to
        rows = None if exact else stratified_rows(targets, self.landmarks, seed=self.seed)
        self.support_ = np.asarray(X) if rows is None else X[rows]
        fit = self._fit_exact(self.support_, targets, gamma) if rows is None else self._fit_landmarks(X, targets, gamma, rows)
        calibration = targets.calibrate(fit.out_of_sample, bends=True)
        self.out_of_sample_logits_, self.bend_ = calibration(fit.out_of_sample), calibration.bend
        own = overwrite or self.support_ is not X
        self.support_ = np.multiply(self.support_, np.float32(np.sqrt(gamma)), out=self.support_ if own else None)
        self.gamma_ = np.array([gamma], dtype=np.float32)
        self.dual_coef_ = (fit.coefficients * calibration.scale).astype(np.float32)
        self.intercept_ = (fit.bias * calibration.scale + calibration.shift).astype(np.float32)

    def _choose(self, X: FeatureMatrix, targets: EncodedLabels) -> float:
        """Set width_ and regularisation_; return the median squared distance."""
        rows = stratified_rows(targets, SELECTION_ROWS, seed=self.seed)
        part = np.asarray(X) if len(rows) == len(X) else X[rows]
        if self.width is not None and self.regularisation is not None:
            self.width_, self.regularisation_ = float(self.width), float(self.regularisation)
            return median_distance(squared_distances(part[:: max(1, len(part) // 256)], part))
        distances = squared_distances(part, part)
        trials = search_kernel(
            distances,
            targets.take(rows),
            widths=WIDTHS if self.width is None else (self.width,),
            regularisations=REGULARISATIONS if self.regularisation is None else (self.regularisation,),
        )
        best = trials[0] if trials else KernelTrial(WIDTHS[-1], REGULARISATIONS[-1], np.empty((0, 0)), np.inf)
        self.width_, self.regularisation_ = best.width, best.regularisation
        return median_distance(distances)

    def _fit_exact(self, X: Features, targets: EncodedLabels, gamma: float) -> LeastSquaresFit:
        regularisation = self.regularisation_
        while True:
            kernel = squared_distances(X, X)
            gaussian(kernel, gamma, out=kernel)
            fit = dual_fit(kernel, targets.signed, regularisation, weights=targets.weights, groups=targets.groups, overwrite=True)
            if fit is not None:
                self.regularisation_ = regularisation
                return fit
            regularisation *= 3

    def _fit_landmarks(self, X: FeatureMatrix, targets: EncodedLabels, gamma: float, landmarks: npt.NDArray[np.int64]) -> LeastSquaresFit:
        between = squared_distances(self.support_, self.support_)
        gaussian(between, gamma, out=between)

        kept: dict[int, Matrix] = {}

        def kernel_rows(rows: Any) -> Matrix:
            if isinstance(rows, slice) and rows.start in kept:
                return kept[rows.start]
            kernel = squared_distances(X[rows], self.support_)
            gaussian(kernel, gamma, out=kernel)
            if isinstance(rows, slice) and rows.stop <= KEPT_ROWS:
                kept[rows.start] = kernel
            return kernel

        own = np.full(len(X), -1, dtype=np.int64)
        own[landmarks] = np.arange(len(landmarks))
        design = Design(kernel_rows, between.mean(axis=0), whitening(between), own)

        def loss(rows: npt.NDArray[np.int64], scores: Matrix) -> float:
            some = targets.take(rows)
            return some.log_loss(some.calibrate(scores, shifts=False, bends=True)(scores))

        search = Search(whole_groups(targets, REFINED_ROWS, seed=self.seed + 1), loss) if self.refine else None
        fit = primal_fit(
            design, targets.signed, self.regularisation_, weights=targets.weights, groups=targets.groups, search=search
        )  # fmt: skip
        if fit is None:  # pragma: no cover - the design is conditioned by construction
            raise ParameterError("The kernel matrix is singular; choose a larger regularisation.")
        self.regularisation_ = fit.regularisation or self.regularisation_
        return fit

    def _logits(self, X: Features) -> npt.NDArray[Any]:
        out = np.empty((len(X), len(self.intercept_)), dtype=np.float32)
        for rows in blocks(len(X)):
            kernel = squared_distances(X[rows] * np.sqrt(self.gamma_), self.support_)
            out[rows] = gaussian(kernel, 1.0, out=kernel) @ self.dual_coef_
        return out + self.intercept_

    def _write_onnx(self, graph: OnnxGraph, features: str) -> str:
        scaled = graph.node("Mul", features, graph.constant(np.sqrt(self.gamma_)))
        less_one = write_kernel_less_one(graph, scaled, self.support_)
        shift = (self.intercept_.astype(np.float64) + self.dual_coef_.astype(np.float64).sum(axis=0)).astype(np.float32)
        return graph.node("Gemm", less_one, graph.constant(self.dual_coef_), graph.constant(shift))


def write_kernel_less_one(graph: OnnxGraph, scaled: str, support: Features) -> str:
    """Append the Gaussian kernel of gamma 1, less 1, of rows (N, D) with a support (m, D): the name of (N, m).

    Less 1, because sums of many values near 1 lose digits in float32, and engines differ in which.
    """
    norms = graph.node("ReduceSum", graph.node("Mul", scaled, scaled), graph.constant([1], dtype=np.int64), keepdims=1)
    # -d^2 / 2 = x.z - |x|^2 / 2 - |z|^2 / 2
    products = graph.node("Gemm", scaled, graph.constant(support), graph.constant(-squared_norms(support) / 2), transB=1)
    halved = graph.node("Sub", products, graph.node("Mul", norms, graph.constant(0.5)))
    # With t = tanh of half the exponent, exp(2h) - 1 = 2t / (1 - t).
    t = graph.node("Tanh", graph.node("Min", halved, graph.constant(0.0)))
    return graph.node("Div", graph.node("Mul", t, graph.constant(2.0)), graph.node("Sub", graph.constant(1.0), t))


def whitening(kernel: Matrix) -> Matrix:
    """Inverse of the Cholesky factor of a kernel matrix that may be singular: as little as is needed is added to its diagonal."""
    jitter = 1e-4
    while (inverse := inverse_factor(kernel + jitter * np.eye(len(kernel), dtype=kernel.dtype))) is None:
        jitter *= 10
    return inverse
