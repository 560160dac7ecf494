"""What all heads share: labels in and out, probabilities, saving."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import damage_named
from headstart.estimators import Estimator
from headstart.heads.calibration import Bend, Calibration
from headstart.heads.labels import EncodedLabels, encode, image_weights
from headstart.matrix import FeatureMatrix, blocks
from headstart.metrics.link import Link, saved_link
from headstart.onnx_graph import OnnxGraph

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
State = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]


class LogitClassifier:
    """Probabilities, scores and predictions of a classifier that gives logits."""

    classes_: npt.NDArray[Any]  # in the order of the columns, sorted by a head; for independent labels the column numbers
    link_: Link
    label_dtype_: np.dtype[Any]

    @abstractmethod
    def logits(self, X: npt.ArrayLike) -> Floats:
        """Calibrated log-odds (n, k) of features (n, D)."""

    def predict_proba(self, X: npt.ArrayLike) -> Floats:
        """Calibrated probabilities (n, k), columns in the order of `classes_`."""
        logits = self.logits(X)  # first: it raises where nothing has been learned
        return self.link_.probabilities(logits)

    def decision_function(self, X: npt.ArrayLike) -> Floats:
        """Scores as scikit-learn has them: (n,) for two classes, positive for the second; otherwise the logits (n, k)."""
        logits = self.logits(X)
        return self.link_.decision_scores(logits)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """The most probable label of each row (n,); of independent labels the matrix (n, k) of those with a probability of 0.5 or more."""
        logits = self.logits(X)
        return self.link_.labels(logits, self.classes_, self.label_dtype_)

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags

        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.estimator_type = "classifier"
        tags.classifier_tags = ClassifierTags(multi_label=True)
        tags.target_tags.required = True
        return tags

    def score(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """The share of rows for which `predict` is right; of independent labels in all of them."""
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))


class Head(LogitClassifier, Estimator):
    """A classifier on features: float32 (n, D) in, class scores out.

    `out_of_sample_logits_` are those (n, k) of the images it was fitted on, each from a fit that did not see the image (or its group).
    """

    name: ClassVar[str]  # as in the command line and in `state`
    title: ClassVar[str]  # as in a sentence
    chosen: ClassVar[tuple[str, ...]] = ()  # hyperparameters that a fit chooses; learned under the same name with an underscore
    _arrays: ClassVar[tuple[str, ...]] = ()  # learned arrays that make up the head
    class_weight: Any
    seed: int
    calibration_: Calibration | None = None  # of raw log-odds; None where raw scores are none, such as those of least squares
    bend_: Bend | None = None  # what makes log-odds of these

    def fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None, groups: npt.ArrayLike | None = None, *,
        overwrite: bool = False,
    ) -> Self:  # fmt: skip
        """Learn from features (n, D) and n labels of any type, or a 0/1 matrix (n, k) when an image may have several.

        An image whose weight in `sample_weight` (n,) is 0 counts as absent. With `groups` (n,), out-of-sample scores leave out the whole
        group of an image. With `overwrite`, the memory of X, float32, is used for other things, or becomes a part of the head. Raises
        ValueError for wrong shapes, values that are not finite, or only one class.
        """
        features, y = self.checked_pair(X, y)
        targets, rows = self.targets(features, y, sample_weight, groups)
        return self.learn(features if rows is None else features[rows], targets, overwrite=overwrite or rows is not None)

    def targets(
        self, X: FeatureMatrix, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None, groups: npt.ArrayLike | None
    ) -> tuple[EncodedLabels, npt.NDArray[np.int64] | None]:
        """The labels of `fit` with weights and groups; and which rows they are of, where some have no weight. ValueError as of `fit`."""
        weights, rows, targets = None, None, encode(y)
        numbers = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        if sample_weight is not None:
            from sklearn.utils.validation import _check_sample_weight

            weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            if not weights.all():
                rows = np.flatnonzero(weights)
                weights, targets = weights[rows], encode(np.asarray(y)[rows])
                numbers = None if numbers is None else numbers[rows]
        return replace(targets, weights=image_weights(targets, self.class_weight, weights), groups=numbers), rows

    def learn(self, X: FeatureMatrix, targets: EncodedLabels, *, overwrite: bool = False) -> Self:
        """As `fit`, from checked features and encoded labels, not each of whose classes needs to have an image."""
        self.n_features_in_ = X.shape[1]
        self.classes_, self.link_, self.label_dtype_ = targets.classes, targets.link, targets.dtype
        self.bend_ = None
        self._learn(X, targets, overwrite=overwrite)
        return self

    @abstractmethod
    def _learn(self, X: FeatureMatrix, targets: EncodedLabels, *, overwrite: bool) -> None:
        """Set the learned attributes, `out_of_sample_logits_` among them; with `overwrite` the memory of X may be used.

        X may be a view of more rows than memory has room for, which is read in blocks.
        """

    @abstractmethod
    def _logits(self, X: Features) -> npt.NDArray[Any]:
        """The logits (n, k) of checked features, before the bend."""

    @abstractmethod
    def _write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """As `write_onnx`, before the bend."""

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append the head to a graph: `features` names a float32 value (N, D). Returns the name of the logits, float32 (N, k)."""
        self.check_fitted("classes_")
        logits = self._write_onnx(graph, features)
        return logits if self.bend_ is None else self.bend_.write_onnx(graph, logits)

    def logits(self, X: npt.ArrayLike) -> Floats:
        """Calibrated log-odds (n, k) of features (n, D)."""
        self.check_fitted("classes_")
        logits = np.asarray(self._logits(self.checked(X)), dtype=np.float64)
        return logits if self.bend_ is None else self.bend_(logits)

    def uncalibrated(self, logits: Floats) -> Floats | None:
        """The log-odds (n, k) before the calibration that logits (n, k) went through; None where raw scores are no log-odds."""
        return None if self.calibration_ is None else self.calibration_.undone(logits)

    def state(self) -> State:
        """JSON values and arrays from which `headstart.heads.head_from_state` makes the fitted head again."""
        self.check_fitted("classes_")
        settings: dict[str, Any] = {
            "head": self.name,
            "classes": self.classes_.tolist(),
            "link": self.link_.name,
            "label_dtype": self.label_dtype_.str,
            "features": int(self.n_features_in_),
        }
        if self.calibration_ is not None:
            settings["calibration"] = [float(self.calibration_.scale), *map(float, self.calibration_.shift)]
        if self.bend_ is not None:
            settings["bend"] = self.bend_.state()
        return settings, {name: np.ascontiguousarray(getattr(self, name)) for name in self._arrays}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry or an array is missing."""
        head = cls()
        with damage_named(f"The saved head ({cls.name}) is"):
            head.classes_ = np.array(settings["classes"])
            head.link_ = saved_link(settings)
            head.label_dtype_ = np.dtype(settings["label_dtype"])
            head.n_features_in_ = int(settings["features"])
            for name in cls._arrays:
                setattr(head, name, np.asarray(arrays[name]))
            if bend := settings.get("bend"):
                head.bend_ = Bend.from_state(bend)
            if known := settings.get("calibration"):
                head.calibration_ = Calibration(float(known[0]), np.array(known[1:], dtype=np.float64))
        return head


class LinearHead(Head):
    """A head whose logits are linear in the features."""

    _arrays = ("coef_", "intercept_")
    coef_: npt.NDArray[np.float32]  # (k, D)
    intercept_: npt.NDArray[np.float32]  # (k,)

    def _logits(self, X: Features) -> npt.NDArray[Any]:
        coef = self.coef_.T.astype(np.float64)
        out = np.empty((len(X), coef.shape[1]))
        for rows in blocks(len(X)):
            out[rows] = X[rows].astype(np.float64) @ coef
        return out + self.intercept_

    def _write_onnx(self, graph: OnnxGraph, features: str) -> str:
        return graph.node("Gemm", features, graph.constant(self.coef_), graph.constant(self.intercept_), transB=1)
