"""Ridge classification."""

from __future__ import annotations

import numpy as np

from headstart.errors import ParameterError
from headstart.heads.calibration import calibrate
from headstart.heads.distances import mean_square
from headstart.heads.head import Features, Floats, LinearHead
from headstart.heads.least_squares import Design, Groups, LeastSquaresFit, dual_fit, primal_fit
from headstart.heads.subsample import stratified_rows
from headstart.heads.targets import ClassWeight, EncodedLabels

REGULARISATIONS = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
SELECTION_ROWS = 2000


class RidgeHead(LinearHead):
    """Linear least squares on +1/-1 targets, with closed-form out-of-sample scores.

    Args:
        regularisation: weight of the penalty, in mean squared norms of the (centred) features; None chooses among `REGULARISATIONS`.
        class_weight: None, ``balanced``, or a dictionary.
        seed: for the images on which it is chosen, where there are many.

    Attributes:
        regularisation_: the one used.
    """

    name = "ridge"

    def __init__(self, *, regularisation: float | None = None, class_weight: ClassWeight = None, seed: int = 0) -> None:
        self.regularisation = regularisation
        self.class_weight = class_weight
        self.seed = seed

    def _learn(self, X: Features, targets: EncodedLabels, weights: Floats | None, groups: Groups, *, overwrite: bool) -> None:
        if self.regularisation is not None and not self.regularisation > 0:
            raise ParameterError(f"regularisation must be a positive number or None, got {self.regularisation!r}.")
        mean = X.mean(axis=0)
        norm = mean_square(X, mean) or 1.0
        self.regularisation_ = self._choose(X, mean, targets, norm, weights, groups) if self.regularisation is None else self.regularisation
        fit = _fit(X, mean, targets, self.regularisation_ * norm, weights, groups)
        calibration = calibrate(fit.out_of_sample, targets.indicators, link=targets.link, weights=weights)
        self.out_of_sample_logits_ = calibration(fit.out_of_sample)
        coefficients = fit.coefficients * calibration.scale
        self.coef_ = np.ascontiguousarray(coefficients.T, dtype=np.float32)
        self.intercept_ = (fit.bias * calibration.scale + calibration.shift - mean @ coefficients).astype(np.float32)

    def _choose(self, X: Features, mean: Features, targets: EncodedLabels, norm: float, weights: Floats | None, groups: Groups) -> float:
        rows = stratified_rows(targets, SELECTION_ROWS, seed=self.seed)
        part, some = X[rows], targets.take(rows)
        w, g = None if weights is None else weights[rows], None if groups is None else groups[rows]
        scores = {}
        for regularisation in REGULARISATIONS:
            out = _fit(part, mean, some, regularisation * norm, w, g).out_of_sample
            calibration = calibrate(out, some.indicators, link=some.link, weights=w)
            scores[regularisation] = np.average(some.link.losses(calibration(out), some.indicators), weights=w)
        return min(scores, key=lambda regularisation: scores[regularisation])


def _fit(
    X: Features, mean: Features, targets: EncodedLabels, regularisation: float, weights: Floats | None, groups: Groups
) -> LeastSquaresFit:
    """In the primal or the dual, whichever is smaller; the coefficients are those of the centred features (D, k)."""
    while True:
        if X.shape[1] < len(X):
            design = Design(lambda rows: X[rows] - mean, np.zeros_like(mean))
            fit = primal_fit(design, targets.signed, regularisation, weights=weights, groups=groups)
        else:
            centred = X - mean
            fit = dual_fit(centred @ centred.T, targets.signed, regularisation, weights=weights, groups=groups, overwrite=True)
            if fit is not None:
                fit = LeastSquaresFit(centred.T @ fit.coefficients, fit.bias, fit.out_of_sample)
        if fit is not None:
            return fit
        regularisation *= 3
