"""Maps from features to features: which layers to use, on which scale.

A feature vector holds the pooled outputs of several layers, one after the other. `LayerMap` takes some of them, standardises each
feature and cuts off what lies far outside of what was seen. Plain standardising fails on images unlike those of the backbone's own
training: many features of a late layer then hardly ever fire, and dividing by their tiny spread lets one new image be all outlier. Hence
the floor under the spread, and the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, RunError
from headstart.estimators import Estimator
from headstart.onnx_graph import OnnxGraph

Features = npt.NDArray[np.float32]
Slices = Sequence[tuple[str, int, int]]

FLOOR = 0.3
CLIP = 5.0
COLUMNS = 64
_ARRAYS = ("columns_", "mean_", "scale_", "gain_")


class LayerMap(Estimator):
    """Take layers, standardise their features, and clip.

    Args:
        layers: (name, start, stop) of the layers to take; None takes all columns as one layer.
        weights: how much each of these layers counts in squared distances and in scalar products; None is 1 for each.
        floor: features are divided by sqrt(s^2 + (floor * t)^2), s being the feature's standard deviation and t the root mean square of
            these over the layer.
        clip: results are cut to [-clip, clip].

    Attributes:
        columns_: int64 (d,), the columns taken.
        mean_, scale_: float32 (d,); gain_: float32 (d,), square roots of the weights.
    """

    def __init__(
        self, layers: Slices | None = None, *, weights: Sequence[float] | None = None, floor: float = FLOOR, clip: float = CLIP
    ) -> None:
        self.layers = layers
        self.weights = weights
        self.floor = floor
        self.clip = clip

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Learn means and scales from features (n, D).

        Raises:
            ParameterError: a layer outside the feature vector, a negative floor, or a clip that is not positive.
        """
        X = self.checked(X, reset=True)
        if not self.floor >= 0:
            raise ParameterError(f"floor must be 0 or more, got {self.floor!r}.")
        if not self.clip > 0:
            raise ParameterError(f"clip must be a positive number, got {self.clip!r}.")
        layers = self._layers(X.shape[1])
        self.columns_ = np.concatenate([np.arange(start, stop) for _, start, stop in layers])
        weights = [1.0] * len(layers) if self.weights is None else [float(weight) for weight in self.weights]
        if len(weights) != len(layers) or not all(0 < weight < np.inf for weight in weights):
            raise ParameterError(f"weights must be None or a positive number for each of the {len(layers)} layers, got {self.weights!r}.")
        self.gain_ = np.repeat(np.sqrt(weights), [stop - start for _, start, stop in layers]).astype(np.float32)
        means, scales = [], []
        for _, start, stop in layers:
            part = X[:, start:stop]
            mean = part.mean(axis=0, dtype=np.float64)
            variance = _variance(part, mean.astype(np.float32))
            # a feature is as good as constant where its spread is within the rounding of float32
            variance[variance <= (1e-6 * np.abs(mean)) ** 2] = 0.0
            scale = np.sqrt(variance + self.floor**2 * variance.mean())
            means.append(mean)
            scales.append(np.where(scale > 0, scale, 1.0))
        self.mean_ = np.concatenate(means).astype(np.float32)
        self.scale_ = np.concatenate(scales).astype(np.float32)
        return self

    def _layers(self, dimension: int) -> list[tuple[str, int, int]]:
        if self.layers is None:
            return [("all", 0, dimension)]
        layers = [(str(name), int(start), int(stop)) for name, start, stop in self.layers]
        for name, start, stop in layers:
            if not 0 <= start < stop <= dimension:
                raise ParameterError(
                    f"layer {name!r} is columns {start} to {stop}, outside of the {dimension} features. Give the layers of this backbone."
                )
        if not layers:
            raise ParameterError("layers is empty; name at least one, or give None for all.")
        return layers

    def transform(self, X: npt.ArrayLike) -> Features:
        """Map features (n, D) to float32 (n, d)."""
        self.check_fitted("columns_")
        X = self.checked(X)
        taken: Features = np.empty((len(X), len(self.columns_)), dtype=np.float32)
        position = 0
        for start, stop in self._runs():
            taken[:, position : position + stop - start] = X[:, start:stop]
            position += stop - start
        taken -= self.mean_
        taken /= self.scale_
        np.clip(taken, -self.clip, self.clip, out=taken)
        if self._weighted():
            taken *= self.gain_
        return taken

    def fit_transform(self, X: npt.ArrayLike, y: object = None) -> Features:
        """`fit`, then `transform`."""
        return self.fit(X).transform(X)

    def _weighted(self) -> bool:
        return bool((self.gain_ != 1).any())

    def _runs(self) -> list[tuple[int, int]]:
        """The columns as (start, stop) of consecutive ones."""
        breaks = np.flatnonzero(np.diff(self.columns_) != 1) + 1
        return [(int(part[0]), int(part[-1]) + 1) for part in np.split(self.columns_, breaks)]

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> npt.NDArray[Any]:
        """Names of the columns that `transform` gives."""
        self.check_fitted("columns_")
        known = input_features if input_features is not None else getattr(self, "feature_names_in_", None)
        names = np.array([f"x{column}" for column in range(self.n_features_in_)] if known is None else known, dtype=object)
        if len(names) != self.n_features_in_:
            raise ValueError(f"input_features should have length equal to number of features ({self.n_features_in_}), got {len(names)}")
        taken: npt.NDArray[Any] = names[self.columns_]
        return taken

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append the map to a graph: `features` names a float32 value (N, D). Returns the name of the result, float32 (N, d)."""
        self.check_fitted("columns_")
        axis = graph.constant([1], dtype=np.int64)
        parts = [
            graph.node("Slice", features, graph.constant([start], dtype=np.int64), graph.constant([stop], dtype=np.int64), axis)
            for start, stop in self._runs()
        ]
        taken = parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)
        centred = graph.node("Sub", taken, graph.constant(self.mean_))
        scaled = graph.node("Div", centred, graph.constant(self.scale_))
        clipped = graph.node("Clip", scaled, graph.constant(-self.clip), graph.constant(self.clip))
        return graph.node("Mul", clipped, graph.constant(self.gain_)) if self._weighted() else clipped

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Everything needed to make the fitted map again: JSON values, and arrays."""
        self.check_fitted("columns_")
        layers = None if self.layers is None else [[str(name), int(start), int(stop)] for name, start, stop in self.layers]
        weights = None if self.weights is None else [float(weight) for weight in self.weights]
        settings = {
            "layers": layers,
            "weights": weights,
            "floor": float(self.floor),
            "clip": float(self.clip),
            "features": int(self.n_features_in_),
        }
        return settings, {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Make a fitted map from what `state` gave.

        Raises:
            RunError: an entry or an array is missing.
        """
        try:
            layers = settings["layers"]
            made = cls(
                None if layers is None else tuple((str(name), int(start), int(stop)) for name, start, stop in layers),
                weights=None if settings["weights"] is None else tuple(float(weight) for weight in settings["weights"]),
                floor=float(settings["floor"]),
                clip=float(settings["clip"]),
            )
            made.n_features_in_ = int(settings["features"])
            for name in _ARRAYS:
                setattr(made, name, np.asarray(arrays[name]))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"The saved map of the features is damaged: {error} is missing or wrong. Fit it again.") from error
        return made

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import TransformerTags

        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=["float32"])
        return tags


def _variance(rows: Features, mean: Features) -> npt.NDArray[np.float64]:
    """Of each column, a few columns at a time: a centred copy of all would double the memory."""
    total = np.empty(rows.shape[1])
    for start in range(0, len(total), COLUMNS):
        centred = rows[:, start : start + COLUMNS] - mean[start : start + COLUMNS]
        total[start : start + COLUMNS] = np.einsum("ij,ij->j", centred, centred)
    return total / len(rows)
