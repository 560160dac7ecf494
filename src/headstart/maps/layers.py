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

from headstart.errors import ParameterError, damage_named
from headstart.estimators import Estimator
from headstart.matrix import SMALL, FeatureMatrix, RowView, column_moments
from headstart.onnx_graph import OnnxGraph
from headstart.settings.field import number, require

Features = npt.NDArray[np.float32]
Slices = Sequence[tuple[str, int, int]]

FLOOR = 0.3
CLIP = 5.0
_ARRAYS = ("columns_", "mean_", "scale_", "gain_")


class LayerMap(Estimator):
    """Take layers, given as (name, start, stop), standardise their features, and clip; None takes all columns as one layer.

    Features are divided by sqrt(s^2 + (floor * t)^2), s being the feature's standard deviation and t the root mean square of these over the
    layer; results are cut to [-clip, clip]. The weights say how much each layer counts in squared distances and scalar products, by default
    1 each; `gain_` holds their square roots. `columns_`, `mean_`, `scale_` and `gain_` have the length d of what comes out.
    """

    def __init__(
        self, layers: Slices | None = None, *, weights: Sequence[float] | None = None, floor: float = FLOOR, clip: float = CLIP
    ) -> None:
        self.layers = layers
        self.weights = weights
        self.floor = floor
        self.clip = clip

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Learn means and scales from features (n, D)."""
        X = self.checked(X, reset=True)
        require(number(least=0), floor=self.floor)
        require(number(above=0), clip=self.clip)
        layers = self._layers(X.shape[1])
        self.columns_ = np.concatenate([np.arange(start, stop) for _, start, stop in layers])
        weights = [1.0] * len(layers) if self.weights is None else [float(weight) for weight in self.weights]
        if len(weights) != len(layers) or not all(0 < weight < np.inf for weight in weights):
            raise ParameterError(f"weights must be None or a positive number for each of the {len(layers)} layers, got {self.weights!r}.")
        self.gain_ = np.repeat(np.sqrt(weights), [stop - start for _, start, stop in layers]).astype(np.float32)
        mean, variance = column_moments(X)
        # a feature is as good as constant where its spread is within the rounding of float32
        variance[variance <= (1e-6 * np.abs(mean)) ** 2] = 0.0
        parts = [variance[start:stop] for _, start, stop in layers]
        scale = np.concatenate([np.sqrt(part + self.floor**2 * part.mean()) for part in parts])
        self.mean_ = mean[self.columns_].astype(np.float32)
        self.scale_ = np.where(scale > 0, scale, 1.0).astype(np.float32)
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
        return self._mapped(np.asarray(self.checked(X)))

    def view(self, X: FeatureMatrix) -> FeatureMatrix:
        """What `transform` gives, float32 (n, d), of features that are known to be finite: where it is large, made whenever it is read."""
        width = len(self.columns_)
        return self._mapped(np.asarray(X)) if 4 * len(X) * width <= SMALL else RowView(X, map=self._mapped, width=width)

    def _mapped(self, X: Features) -> Features:
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
        """JSON values and arrays from which `from_state` makes the fitted map again."""
        self.check_fitted("columns_")
        layers = None if self.layers is None else self._layers(self.n_features_in_)
        weights = None if self.weights is None else [float(weight) for weight in self.weights]
        numbers = {"floor": float(self.floor), "clip": float(self.clip), "features": int(self.n_features_in_)}
        return {"layers": layers, "weights": weights, **numbers}, {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry or an array is missing."""
        with damage_named("The saved map of the features is"):
            layers, weights = settings["layers"], settings["weights"]
            made = cls(
                None if layers is None else tuple((str(name), int(start), int(stop)) for name, start, stop in layers),
                weights=None if weights is None else tuple(float(weight) for weight in weights),
                floor=float(settings["floor"]),
                clip=float(settings["clip"]),
            )
            made.n_features_in_ = int(settings["features"])
            for name in _ARRAYS:
                setattr(made, name, np.asarray(arrays[name]))
        return made

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import TransformerTags

        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=["float32"])
        return tags
