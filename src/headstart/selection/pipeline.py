"""A map and a head, fitted one after the other, as one classifier on the full feature vector."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from headstart.errors import RunError
from headstart.heads import Head, LogisticHead, head_from_state
from headstart.maps import LayerMap
from headstart.onnx_graph import OnnxGraph


class HeadPipeline(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A `LayerMap`, then a head, with the interface of a head.

    Args:
        map: unfitted; None takes all columns.
        head: unfitted; None is `LogisticHead`.

    Attributes:
        map_, head_: fitted.
        classes_, link_, out_of_sample_logits_: as of the head.
    """

    def __init__(self, map: LayerMap | None = None, head: Head | None = None) -> None:
        self.map = map
        self.head = head

    def fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None, groups: npt.ArrayLike | None = None
    ) -> Self:
        """Learn from features (n, D); arguments and errors as of `Head.fit`."""
        X, y = validate_data(self, X, y, dtype=np.float32, multi_output=True)
        self.map_ = (LayerMap() if self.map is None else clone(self.map)).fit(X)
        head = LogisticHead() if self.head is None else clone(self.head)
        self.head_ = head.fit_overwriting(self.map_.transform(X), y, sample_weight, groups)
        self._take_over()
        return self

    @classmethod
    def of_fitted(cls, map: LayerMap, head: Head) -> Self:
        """A fitted pipeline of a fitted map and a head fitted on what it gives."""
        made = cls(clone(map), clone(head))
        made.map_, made.head_, made.n_features_in_ = map, head, map.n_features_in_
        made._take_over()
        return made

    def _take_over(self) -> None:
        self.classes_ = self.head_.classes_
        self.link_ = self.head_.link_
        if hasattr(self.head_, "out_of_sample_logits_"):
            self.out_of_sample_logits_ = self.head_.out_of_sample_logits_

    def _mapped(self, X: npt.ArrayLike) -> npt.NDArray[np.float32]:
        check_is_fitted(self, "head_")
        return self.map_.transform(validate_data(self, X, dtype=np.float32, reset=False))

    def logits(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Log-odds (n, k): their softmax, or for multi-label their sigmoid, are the probabilities."""
        mapped = self._mapped(X)
        return self.head_.logits(mapped)

    def predict_proba(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Calibrated probabilities (n, k), columns in the order of `classes_`."""
        mapped = self._mapped(X)
        return self.head_.predict_proba(mapped)

    def decision_function(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """As `Head.decision_function`."""
        mapped = self._mapped(X)
        return self.head_.decision_function(mapped)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """As `Head.predict`."""
        mapped = self._mapped(X)
        return self.head_.predict(mapped)

    def uncalibrated(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """As `Head.uncalibrated`."""
        check_is_fitted(self, "head_")
        return self.head_.uncalibrated(logits)

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append map and head to a graph: `features` names a float32 value (N, D). Returns the name of the logits, float32 (N, k)."""
        check_is_fitted(self, "head_")
        return self.head_.write_onnx(graph, self.map_.write_onnx(graph, features))

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Everything needed to make the fitted pipeline again: JSON values, and arrays named ``map.*`` and ``head.*``."""
        check_is_fitted(self, "head_")
        map_settings, map_arrays = self.map_.state()
        head_settings, head_arrays = self.head_.state()
        arrays = {f"map.{name}": value for name, value in map_arrays.items()} | {
            f"head.{name}": value for name, value in head_arrays.items()
        }
        return {"map": map_settings, "head": head_settings}, arrays

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Make a fitted pipeline from what `state` gave.

        Raises:
            RunError: an entry or an array is missing, or the head is unknown.
        """
        if not (isinstance(settings.get("map"), dict) and isinstance(settings.get("head"), dict)):
            raise RunError("The saved head lacks its settings ('map' and 'head'). Fit it again.")

        def part(name: str) -> dict[str, npt.NDArray[Any]]:
            return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}

        made = cls()
        made.map_ = LayerMap.from_state(settings["map"], part("map"))
        made.head_ = head_from_state(settings["head"], part("head"))
        made.n_features_in_ = made.map_.n_features_in_
        made._take_over()
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = False
        return tags
