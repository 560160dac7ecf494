"""Nearest class centroid."""

from __future__ import annotations

import numpy as np

from headstart.heads.calibration import calibrate
from headstart.heads.distances import blocks
from headstart.heads.head import Features, Floats, LinearHead
from headstart.heads.least_squares import Groups
from headstart.heads.targets import ClassWeight, EncodedLabels
from headstart.metrics.link import Link


class NearestCentroidHead(LinearHead):
    """The class whose mean is nearest; for independent labels, whether the mean of those with the label is nearer than that of the rest.

    Args:
        class_weight: None, ``balanced``, or a dictionary: weights of the images in the means and in the calibration.

    Attributes:
        centroids_: float32 (k, D).
    """

    name = "centroid"

    def __init__(self, *, class_weight: ClassWeight = None) -> None:
        self.class_weight = class_weight

    def _learn(self, X: Features, targets: EncodedLabels, weights: Floats | None, groups: Groups, *, overwrite: bool) -> None:
        w = np.ones(len(X)) if weights is None else weights
        member = targets.indicators * w[:, None]
        sums, all_sum = _sums(X, member, w)
        scores = _scores(X, sums, all_sum, member, w, groups, link=targets.link)
        calibration = calibrate(scores, targets.indicators, link=targets.link, weights=weights)
        self.out_of_sample_logits_ = calibration(scores)
        self.centroids_, coef, intercept = _linear(sums, member.sum(axis=0), all_sum, w.sum(), link=targets.link)
        self.coef_ = (coef * calibration.scale).astype(np.float32)
        self.intercept_ = (intercept * calibration.scale + calibration.shift).astype(np.float32)


def _linear(sums: Floats, counts: Floats, all_sum: Floats, all_count: float, *, link: Link) -> tuple[Features, Floats, Floats]:
    """Centroids, and the coefficients and intercepts of minus the squared distance to them, per feature (what all classes share left out).

    A class without images stands at the mean of all.
    """
    mean = all_sum / max(all_count, 1e-30)
    own = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1e-30)[:, None], mean)
    coef, intercept = 2 * own, -(own**2).sum(axis=1)
    if link.independent:
        others = all_count - counts
        other = np.where(others[:, None] > 1e-9, (all_sum - sums) / np.maximum(others, 1e-30)[:, None], mean)
        coef, intercept = coef - 2 * other, intercept + (other**2).sum(axis=1)
    dimension = len(mean)
    return own.astype(np.float32), coef / dimension, intercept / dimension


def _sums(X: Features, member: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted sums in float64 of the images of each class (k, D), and of all (D,)."""
    sums, all_sum = np.zeros((member.shape[1], X.shape[1])), np.zeros(X.shape[1])
    for rows in blocks(len(X)):
        part = X[rows].astype(np.float64)
        sums += member[rows].T @ part
        all_sum += weights[rows] @ part
    return sums, all_sum


def _scores(X: Features, sums: Floats, all_sum: Floats, member: Floats, weights: Floats, groups: Groups, *, link: Link) -> Floats:
    """Out-of-sample scores (n, k): the image, or its group, taken out of the means."""
    counts, all_count = member.sum(axis=0), float(weights.sum())
    numbers = np.arange(len(X)) if groups is None else groups
    order = np.argsort(numbers, kind="stable")
    scores = np.empty(member.shape)
    for rows in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        part, w = X[rows], weights[rows]
        _, coef, intercept = _linear(
            sums - member[rows].T @ part,
            counts - member[rows].sum(axis=0),
            all_sum - w @ part,
            all_count - float(w.sum()),
            link=link,
        )
        scores[rows] = part @ coef.T + intercept
    return scores
