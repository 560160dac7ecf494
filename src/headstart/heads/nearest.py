"""Nearest class centroid, and nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.heads.calibration import Calibration
from headstart.heads.head import Features, Floats, Head, LinearHead
from headstart.heads.labels import ClassWeight, EncodedLabels, Groups
from headstart.heads.linalg import squared_norms
from headstart.matrix import BLOCK, FeatureMatrix, blocks
from headstart.metrics.link import Link
from headstart.onnx_graph import OnnxGraph
from headstart.settings.field import require, whole

NEIGHBOURS = (1, 3, 5, 10, 20, 40)
TAPER = 0.5
"""A neighbour loses its vote over so much of the squared distance, so that none comes or goes at once: see `_vote_weights`."""
_NEAR = 1e-5  # of the mean squared norm: below it distances are all rounding


class NearestCentroidHead(LinearHead):
    """The class whose mean is nearest; for independent labels, whether the mean of those with the label is nearer than that of the rest."""

    name, title = "centroid", "nearest centroid"

    def __init__(self, *, class_weight: ClassWeight = None) -> None:
        self.class_weight = class_weight

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels, *, overwrite: bool) -> None:
        X = np.asarray(X)
        w = np.ones(len(X)) if targets.weights is None else targets.weights
        member = targets.indicators * w[:, None]
        sums, all_sum = _sums(X, member, w)
        scores = _centroid_scores(X, sums, all_sum, member, w, targets.groups, link=targets.link)
        calibration = targets.calibrate(scores)
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


def _centroid_scores(X: Features, sums: Floats, all_sum: Floats, member: Floats, weights: Floats, groups: Groups, *, link: Link) -> Floats:
    """Out-of-sample scores (n, k): the image, or its group, taken out of the means."""
    counts, all_count = member.sum(axis=0), float(weights.sum())
    numbers = np.arange(len(X)) if groups is None else groups
    order = np.argsort(numbers, kind="stable")
    scores = np.empty(member.shape)
    for rows in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        part, w = X[rows], weights[rows]
        others = sums - member[rows].T @ part, counts - member[rows].sum(axis=0), all_sum - w @ part, all_count - float(w.sum())
        _, coef, intercept = _linear(*others, link=link)
        scores[rows] = part @ coef.T + intercept
    return scores


class NearestNeighboursHead(Head):
    """Votes of the nearest training images (`support_`, float32 (n, D)), as calibrated log-odds.

    How many vote is by default chosen among `NEIGHBOURS` by leave-one-out log loss. Class weights are weights of the votes. The vote of an
    image that is hardly nearer than the first one without a vote counts less, down to nothing: the output is continuous.
    """

    name, title, chosen = "neighbours", "nearest neighbours", ("neighbours",)
    _arrays = ("support_", "votes_", "scale_", "shift_", "count_")

    def __init__(self, *, neighbours: int | None = None, class_weight: ClassWeight = None) -> None:
        self.neighbours = neighbours
        self.class_weight = class_weight

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels, *, overwrite: bool) -> None:
        require(whole(1), or_none=True, neighbours=self.neighbours)
        X = np.asarray(X)
        votes = targets.indicators.astype(np.float32)
        if not targets.link.independent and targets.weights is not None:
            votes *= (targets.weights / targets.weights.mean())[:, None].astype(np.float32)
        self.support_, self.votes_ = X, np.ascontiguousarray(votes)
        most = max(1, min(len(X) - 1, max(NEIGHBOURS) if self.neighbours is None else self.neighbours))
        nearest, away = _nearest_others(X, min(most + 1, len(X)), targets.groups)
        alone = np.isinf(away[:, :most]).any(axis=1)
        best: tuple[float, int, Calibration, Floats] | None = None
        for count in (most,) if self.neighbours is not None else sorted({min(count, most) for count in NEIGHBOURS}):
            weights = _vote_weights(away[:, : count + 1], self._near())
            scores = _vote_scores(votes, nearest[:, :count], weights, link=targets.link)
            scores[alone] = scores.mean(axis=0)
            calibration = targets.calibrate(scores)
            logits = calibration(scores)
            loss = targets.log_loss(logits)
            if best is None or loss < best[0]:
                best = (loss, count, calibration, logits)
        assert best is not None
        _, self.neighbours_, calibration, self.out_of_sample_logits_ = best
        self.count_ = np.array([self.neighbours_], dtype=np.int64)
        self.scale_ = np.array([calibration.scale], dtype=np.float32)
        self.shift_ = calibration.shift.astype(np.float32)
        self.calibration_ = calibration

    def _near(self) -> float:
        return _NEAR * float(squared_norms(self.support_).mean(dtype=np.float64)) or 1.0

    def _logits(self, X: Features) -> npt.NDArray[Any]:
        count = int(self.count_[0])
        norms = squared_norms(self.support_)
        out = np.empty((len(X), self.votes_.shape[1]))
        for rows in blocks(len(X), _block(len(norms))):
            closeness = (2 * X[rows]) @ self.support_.T - norms
            nearest = _largest(closeness, min(count + 1, len(norms)))
            away = squared_norms(X[rows])[:, None] - np.take_along_axis(closeness, nearest, axis=1)
            weights = _vote_weights(away, self._near()) if len(norms) > count else np.ones_like(away)
            out[rows] = _vote_scores(self.votes_, nearest[:, :count], weights, link=self.link_)
        return out * self.scale_ + self.shift_

    def _write_onnx(self, graph: OnnxGraph, features: str) -> str:
        count, node, constant = int(self.count_[0]), graph.node, graph.constant
        products = node("Gemm", features, constant(2 * self.support_), constant(-squared_norms(self.support_)), transB=1)
        weights = constant(np.ones((1, count)))
        closeness, nearest = graph.top(products, min(count + 1, len(self.support_)))
        if len(self.support_) > count:
            closest, last = (_columns(graph, closeness, *ends) for ends in ((0, count), (count, count + 1)))
            nearest, near = _columns(graph, nearest, 0, count), constant(self._near())
            edge = node("Sub", node("ReduceSum", node("Mul", features, features), graph.integers(1), keepdims=1), last)
            width = node("Add", node("Mul", node("Max", edge, constant(0.0)), constant(TAPER)), near)
            weights = node("Min", node("Div", node("Add", node("Sub", closest, last), near), width), constant(1.0))
        votes = node("Mul", node("Gather", constant(self.votes_), nearest, axis=0), node("Unsqueeze", weights, graph.integers(2)))
        total = node("Add", node("ReduceSum", weights, graph.integers(1), keepdims=1), constant(1.0))
        undecided = constant(1 / self.link_.outcomes(self.votes_.shape[1]))
        smooth = node("Div", node("Add", node("ReduceSum", votes, graph.integers(1), keepdims=0), undecided), total)
        score = node("Log", smooth)
        if self.link_.independent:
            score = node("Sub", score, node("Log", node("Sub", constant(1.0), smooth)))
        return node("Add", node("Mul", score, constant(self.scale_)), constant(self.shift_))


def _columns(graph: OnnxGraph, values: str, start: int, stop: int) -> str:
    return graph.node("Slice", values, graph.integers(start), graph.integers(stop), graph.integers(1))


def _block(columns: int) -> int:
    """Rows for which the closeness to so many others takes some megabytes."""
    return max(16, min(BLOCK, 2**22 // columns))


def _vote_weights(away: npt.NDArray[Any], near: float) -> npt.NDArray[Any]:
    """How much each neighbour but the last counts, 0 to 1 (n, count), from ascending squared distances (n, count + 1).

    All count fully that are nearer than the last, which has no vote, by the share `TAPER` of its squared distance; one as far as it counts
    nothing, so that the sum of the votes does not jump where two change places. `near` is a squared distance that is as good as none.
    Where there are no more neighbours (infinitely far), all count fully.
    """
    edge = np.maximum(away[:, -1:], 0)
    with np.errstate(invalid="ignore"):
        weights = np.minimum((edge - away[:, :-1] + near) / (TAPER * edge + near), 1)
    return np.where(np.isinf(edge), 1.0, weights)


def _vote_scores(
    votes: npt.NDArray[np.float32], nearest: npt.NDArray[np.int64], weights: npt.NDArray[Any], *, link: Link
) -> Floats:  # fmt: skip
    """Logarithms of the shares of the votes (m, k) of the nearest (n, count), weighted (n, count), with one undecided vote added."""
    smooth = np.empty((len(nearest), votes.shape[1]))
    for rows in blocks(len(nearest)):
        total = weights[rows].sum(axis=1, keepdims=True) + 1
        smooth[rows] = (np.einsum("ij,ijk->ik", weights[rows], votes[nearest[rows]]) + 1 / link.outcomes(votes.shape[1])) / total
    return np.asarray(np.log(smooth) - np.log(1 - smooth) if link.independent else np.log(smooth))


def _largest(closeness: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Columns of the `count` largest entries of each row, largest first, the lower column first where they are equal."""
    if count < closeness.shape[1]:
        part = np.sort(np.argpartition(-closeness, count - 1, axis=1)[:, :count], axis=1)
    else:
        part = np.broadcast_to(np.arange(closeness.shape[1]), closeness.shape)
    order = np.argsort(-np.take_along_axis(closeness, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)


def _nearest_others(X: Features, count: int, groups: Groups) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The nearest rows of other groups, and their squared distances, both (n, count); infinite where there are too few of them."""
    norms = squared_norms(X)
    nearest = np.empty((len(X), count), dtype=np.int64)
    away = np.empty((len(X), count), dtype=np.float32)
    for block in blocks(len(X), _block(len(X))):
        rows = np.arange(block.start, block.stop)
        closeness = 2 * (X[block] @ X.T) - norms
        if groups is None:
            closeness[rows - block.start, rows] = -np.inf
        else:
            closeness[groups[rows, None] == groups] = -np.inf
        nearest[rows] = _largest(closeness, count)
        away[rows] = norms[rows, None] - np.take_along_axis(closeness, nearest[rows], axis=1)
    return nearest, away
