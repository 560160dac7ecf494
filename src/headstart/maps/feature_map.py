"""`FeatureMap`: what the maps from the features of a backbone to features for one task share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import damage_named
from headstart.estimators import Estimator
from headstart.heads.labels import EncodedLabels, encode
from headstart.matrix import SMALL, FeatureMatrix, RowView, blocks
from headstart.onnx_graph import OnnxGraph
from headstart.settings.field import plain

Features = npt.NDArray[np.float32]
State = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]


class FeatureMap(Estimator):
    """A scikit-learn transformer, (n, D) to float32 (n, d), that is saved and written into ONNX.

    A `supervised` one learns from labels: what a head on it says of its training images is no out-of-sample score, whatever the head
    leaves out, so that such a map is fitted anew in every fold.
    """

    name: ClassVar[str]  # as in the record of a run
    title: ClassVar[str]  # as in a sentence
    supervised: ClassVar[bool] = False
    _arrays: ClassVar[tuple[str, ...]] = ()  # learned arrays that make up the map

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> Self:
        """Learn from features (n, D); a supervised map also from n labels, or a 0/1 matrix (n, k) where an image may have several.

        Raises ValueError for wrong shapes, values that are not finite, and of a supervised map for missing labels or only one class.
        """
        if not self.supervised:
            return self.learn(self.checked(X, reset=True))
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None: it learns from labels.")
        features, labels = self.checked_pair(X, y)
        return self.learn(features, encode(labels))

    def learn(self, X: FeatureMatrix, targets: EncodedLabels | None = None) -> Self:
        """As `fit`, from checked features and encoded labels with their weights and groups."""
        self.n_features_in_ = X.shape[1]
        self._learn(X, targets)
        return self

    @abstractmethod
    def _learn(self, X: FeatureMatrix, targets: EncodedLabels | None) -> None:
        """Set the learned attributes."""

    @abstractmethod
    def _mapped(self, X: Features) -> Features:
        """The map of checked features."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Number d of the features that come out."""

    @abstractmethod
    def _write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """As `write_onnx`, of a fitted map."""

    def transform(self, X: npt.ArrayLike) -> Features:
        """Map features (n, D) to float32 (n, d)."""
        self.check_fitted(self._arrays[0])
        return self._in_blocks(np.asarray(self.checked(X)))

    def fit_transform(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> Features:
        """`fit`, then `transform`."""
        return self.fit(X, y).transform(X)

    def view(self, X: FeatureMatrix) -> FeatureMatrix:
        """What `transform` gives, of features that are known to be finite: where it is large, made whenever it is read."""
        return self._in_blocks(X) if 4 * len(X) * self.dimension <= SMALL else RowView(X, map=self._mapped, width=self.dimension)

    def _in_blocks(self, X: FeatureMatrix) -> Features:
        found = np.empty((len(X), self.dimension), dtype=np.float32)
        for rows in blocks(len(X)):
            found[rows] = self._mapped(X[rows])
        return found

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append the map to a graph: `features` names a float32 value (N, D). Returns the name of the result, float32 (N, d)."""
        self.check_fitted(self._arrays[0])
        return self._write_onnx(graph, features)

    def state(self) -> State:
        """JSON values and arrays from which `headstart.maps.map_from_state` makes the fitted map again."""
        self.check_fitted(self._arrays[0])
        parameters = {name: plain(value) for name, value in self.get_params(deep=False).items()}
        settings = {"name": self.name, "parameters": parameters, "features": int(self.n_features_in_)}
        return settings, {name: np.ascontiguousarray(getattr(self, name)) for name in self._arrays}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry or an array is missing."""
        with damage_named(f"The saved map ({cls.name}) is"):
            known = cls().get_params(deep=False)
            made = cls(**{name: value for name, value in settings["parameters"].items() if name in known})
            made.n_features_in_ = int(settings["features"])
            for name in cls._arrays:
                setattr(made, name, np.asarray(arrays[name]))
        return made

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import TransformerTags

        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=["float32"])
        tags.target_tags.required = self.supervised
        return tags
