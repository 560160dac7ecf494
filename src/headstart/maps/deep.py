"""The deep map: the hidden layer of a perceptron that was trained on stored features."""

from __future__ import annotations

import numpy as np

from headstart.heads.labels import EncodedLabels
from headstart.heads.mlp import EPOCHS, HIDDEN, train
from headstart.maps.feature_map import FeatureMap, Features
from headstart.matrix import FeatureMatrix
from headstart.onnx_graph import OnnxGraph
from headstart.settings.field import require, whole


class HiddenLayer(FeatureMap):
    """relu(x @ weight + bias), learned together with a linear output; see `headstart.heads.mlp.train`.

    `weight_` is float32 (D, hidden), `bias_` (hidden,).
    """

    name, title, supervised = "mlp", "the hidden layer of a perceptron", True
    _arrays = ("weight_", "bias_")

    def __init__(self, *, hidden: int = HIDDEN, epochs: int = EPOCHS, seed: int = 0) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.seed = seed

    def _learn(self, X: FeatureMatrix, targets: EncodedLabels | None) -> None:
        require(whole(1), hidden=self.hidden, epochs=self.epochs)
        assert targets is not None
        found = train(X, targets, hidden=self.hidden, epochs=self.epochs, seed=self.seed)
        self.weight_, self.bias_ = found.weight, found.bias

    @property
    def dimension(self) -> int:
        """Number of hidden units."""
        return len(self.bias_)

    def _mapped(self, X: Features) -> Features:
        return np.asarray(np.maximum(X @ self.weight_ + self.bias_, 0))

    def _write_onnx(self, graph: OnnxGraph, features: str) -> str:
        return graph.node("Relu", graph.node("Gemm", features, graph.constant(self.weight_), graph.constant(self.bias_)))
