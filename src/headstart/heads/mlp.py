"""A small multilayer perceptron on stored features: the network, its training in NumPy, and the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.heads.head import Features, Head
from headstart.heads.labels import ClassWeight, EncodedLabels, held_out_folds
from headstart.heads.logistic import rotate
from headstart.matrix import FeatureMatrix, blocks, take_rows
from headstart.onnx_graph import OnnxGraph
from headstart.settings.field import require, whole

HIDDEN, EPOCHS = 256, 30
AXES = 384  # principal axes of the features, at most, that the network sees
_BATCH, _RATE, _DECAY, _WARM = 64, 2e-3, 0.05, 0.1
_LEAST = 600  # steps; few images are gone through more often
_DROPPED = (0.1, 0.3)  # share of the inputs and of the hidden units that a step does without
_SLOW, _FAST = 0.999, 0.9  # of the running means of Adam


@dataclass(frozen=True, eq=False)
class Perceptron:
    """relu(x @ weight + bias) @ output + shift: float32 (D, h), (h,), (h, k), (k,)."""

    weight: Features
    bias: Features
    output: Features
    shift: Features

    def hidden(self, X: Features) -> Features:
        """The hidden layer (n, h) of features (n, D)."""
        return np.asarray(np.maximum(X @ self.weight + self.bias, 0))


def gradients(
    parameters: Sequence[npt.NDArray[Any]], X: npt.NDArray[Any], goal: npt.NDArray[Any], weights: npt.NDArray[Any], *, sigmoid: bool,
    dropped: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
) -> tuple[float, list[npt.NDArray[Any]]]:  # fmt: skip
    """The weighted mean log loss of a batch, and its derivatives by the parameters of a `Perceptron`.

    `goal` is 0/1 (m, k), `weights` are those of the rows (m,); `dropped` are factors of the inputs (m, D) and hidden units (m, h).
    """
    weight, bias, output, shift = parameters
    inputs = X if dropped is None else X * dropped[0]
    before = inputs @ weight + bias
    factors = (before > 0).astype(before.dtype) if dropped is None else (before > 0) * dropped[1]
    hidden = before * factors
    logits = hidden @ output + shift
    if sigmoid:
        small = np.exp(-np.abs(logits))
        likely = np.where(logits >= 0, 1, small) / (1 + small)
        losses = (np.maximum(logits, 0) - logits * goal + np.log1p(small)).sum(axis=1)
    else:
        logits = logits - logits.max(axis=1, keepdims=True)
        likely = np.exp(logits)
        total = likely.sum(axis=1, keepdims=True)
        likely /= total
        losses = (np.log(total) - (logits * goal).sum(axis=1, keepdims=True))[:, 0]
    share = weights / weights.sum()
    slope = (likely - goal) * share[:, None]
    below = (slope @ output.T) * factors
    return float(share @ losses), [inputs.T @ below, below.sum(axis=0), hidden.T @ slope, slope.sum(axis=0)]


def train(X: FeatureMatrix, targets: EncodedLabels, *, hidden: int, epochs: int, seed: int) -> Perceptron:
    """Fit a perceptron to features (n, D) and their labels, by AdamW with a cosine schedule, dropout and a decay of the weights.

    It sees the features on their principal axes, with a mean variance of 1; the rotation becomes a part of the first layer.
    """
    generator = np.random.default_rng(seed)
    found = rotate(X)
    axes = found.axes[:, ::-1][:, :AXES] if found.axes.shape[1] else np.zeros((X.shape[1], 1), dtype=np.float32)
    inside = np.empty((len(X), axes.shape[1]), dtype=np.float32)
    for rows in blocks(len(X)):
        inside[rows] = (X[rows] - found.mean) @ axes
    scale = np.float32(1 / (np.sqrt(np.square(inside).mean(dtype=np.float64)) or 1.0))
    inside *= scale
    goal = targets.indicators.astype(np.float32)
    weights = np.ones(len(X), dtype=np.float32) if targets.weights is None else targets.weights.astype(np.float32)
    shape = (inside.shape[1], hidden)
    parameters: list[npt.NDArray[Any]] = [
        generator.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / shape[0])), np.zeros(hidden, dtype=np.float32),
        np.zeros((hidden, goal.shape[1]), dtype=np.float32), np.zeros(goal.shape[1], dtype=np.float32),
    ]  # fmt: skip
    first, second = ([np.zeros_like(one) for one in parameters] for _ in range(2))
    each, step = -(-len(X) // _BATCH), 0
    epochs = max(epochs, -(-_LEAST // each)) if epochs >= EPOCHS else epochs
    steps = epochs * each
    for _ in range(epochs):
        order = generator.permutation(len(X))
        for part in (order[some] for some in blocks(len(X), _BATCH)):
            dropped = _factors(generator, (len(part), shape[0]), _DROPPED[0]), _factors(generator, (len(part), hidden), _DROPPED[1])
            slopes = gradients(parameters, inside[part], goal[part], weights[part], sigmoid=targets.link.independent, dropped=dropped)[1]
            step += 1
            rate = _RATE * min(1.0, step / (_WARM * steps)) * 0.5 * (1 + np.cos(np.pi * step / steps))
            for one, slope, mean, square in zip(parameters, slopes, first, second, strict=True):
                mean += (1 - _FAST) * (slope - mean)
                square += (1 - _SLOW) * (slope**2 - square)
                moved = mean / (1 - _FAST**step) / (np.sqrt(square / (1 - _SLOW**step)) + 1e-8)
                one -= np.float32(rate) * (moved + (_DECAY * one if one.ndim == 2 else 0))
    weight = axes @ parameters[0] * scale
    bias = parameters[1] - found.mean @ weight
    return Perceptron(np.ascontiguousarray(weight), bias.astype(np.float32), parameters[2], parameters[3])


def _factors(generator: np.random.Generator, shape: tuple[int, int], share: float) -> Features:
    """0 for so large a share, and for the others what keeps the mean at 1."""
    return (generator.random(shape, dtype=np.float32) >= share) * np.float32(1 / (1 - share))


class MLPHead(Head):
    """A perceptron with one hidden layer of ReLU units; see `train`. Out-of-sample scores come from folds, and calibrate the logits.

    `weight_` is float32 (D, h), `bias_` (h,), `coef_` (k, h), `intercept_` (k,).
    """

    name, title = "mlp", "multilayer perceptron"
    _arrays = ("weight_", "bias_", "coef_", "intercept_")

    def __init__(
        self, *, hidden: int = HIDDEN, epochs: int = EPOCHS, folds: int = 5, class_weight: ClassWeight = None, seed: int = 0
    ) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.folds = folds
        self.class_weight = class_weight
        self.seed = seed

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels, *, overwrite: bool) -> None:
        require(whole(1), hidden=self.hidden, epochs=self.epochs)
        require(whole(2), folds=self.folds)
        held_out = np.empty((len(X), targets.indicators.shape[1]), dtype=np.float32)
        everything = np.arange(len(X))
        for part in held_out_folds(targets, self.folds, seed=self.seed):
            rest = np.setdiff1d(everything, part)
            found = self._trained(take_rows(X, rest), targets.take(rest))
            held_out[part] = found.hidden(X[part]) @ found.output + found.shift
        self.calibration_ = calibration = targets.calibrate(held_out, shifts=False)
        self.out_of_sample_logits_ = calibration(held_out)
        network = self._trained(X, targets)
        self.weight_, self.bias_ = network.weight, network.bias
        self.coef_ = np.ascontiguousarray(network.output.T * np.float32(calibration.scale))
        self.intercept_ = network.shift * np.float32(calibration.scale)

    def _trained(self, X: FeatureMatrix, targets: EncodedLabels) -> Perceptron:
        return train(X, targets, hidden=self.hidden, epochs=self.epochs, seed=self.seed)

    def _logits(self, X: Features) -> npt.NDArray[Any]:
        out = np.empty((len(X), len(self.intercept_)))
        for rows in blocks(len(X)):
            hidden = np.maximum(X[rows] @ self.weight_ + self.bias_, 0).astype(np.float64)
            out[rows] = hidden @ self.coef_.T.astype(np.float64) + self.intercept_
        return out

    def _write_onnx(self, graph: OnnxGraph, features: str) -> str:
        hidden = graph.node("Relu", graph.node("Gemm", features, graph.constant(self.weight_), graph.constant(self.bias_)))
        return graph.node("Gemm", hidden, graph.constant(self.coef_), graph.constant(self.intercept_), transB=1)
