"""`AnomalyDetector`: the scikit-learn estimator for anomalies, from images of good things to scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from headstart.data import Dataset, Defects
from headstart.data.values import checked_groups, some_images
from headstart.features import Images
from headstart.features.fitted import FittedOn
from headstart.features.prepared import ExtractorSettings, prepare
from headstart.progress import Listener, Seconds, to_warnings
from headstart.reliability.false_alarms import FalseAlarms
from headstart.settings import Cache, FitSettings
from headstart.tasks import LearningContext
from headstart.tasks.anomaly.learning import AnomalyModel, Comparison, Detector, choose_maps, learn, suited

_TOGETHER = 256  # images whose maps are in memory


class AnomalyDetector(OutlierMixin, FittedOn, BaseEstimator):  # type: ignore[misc]
    """Learns from images of good things, by a frozen backbone, how far others are from them; without PyTorch.

    The methods and their signs are those of scikit-learn's outlier detectors: higher is more like the good images.

    Args:
        backbone: a name of the catalogue, with an image size if not 256 px: ``efficientnet_lite0@320``.
        weights: a ``.safetensors`` or ``.pth`` file to use in place of the published weights.
        false_alarm_rate: share of good images that may be called anomalous; the threshold is set for it.
        cache: folder for converted networks; ``auto`` is the user's cache folder; None keeps nothing.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        seed: the same seed gives the same detector.

    Attributes:
        false_alarms_: the threshold, and how often a good image is above it.
        offset_: minus the threshold: `decision_function` is `score_samples` less this.
        comparison_: which of PatchCore and PaDiM was chosen, and why.
        detector_: that one, fitted on the maps of the backbone.
        out_of_sample_: float64 (n,): the `score_samples` of the training images, each by a detector that was fitted without it; nan where
            it was not scored so.
        refused_: errors of the training images that could not be read and were left out.
    """

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        *,
        weights: str | Path | None = None,
        false_alarm_rate: float = 0.05,
        cache: Cache = "auto",
        engine: str = "auto",
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.false_alarm_rate = false_alarm_rate
        self.cache = cache
        self.engine = engine
        self.seed = seed

    def fit(self, X: Images, y: Any = None, groups: npt.ArrayLike | None = None) -> Self:
        """Learn from images of good things, one at least.

        Args:
            X: paths, bytes, uint8 arrays (H, W, 3) or images of Pillow, also as a column of pandas or polars; or one uint8 array
                (n, H, W, 3).
            y: is not used.
            groups: n group names; images of one group never stand on both sides when something is chosen or scored.

        Raises:
            DataError: no image that can be read.
            ParameterError: a parameter outside its limits.
        """
        settings, images = self._settings(), some_images(X, kind="good image")
        names, notes = checked_groups(groups, len(images))
        for note in notes:
            to_warnings(note)
        dataset = Dataset(
            inputs=images if isinstance(images, np.ndarray) else tuple(images),
            targets=Defects(np.zeros(len(images), np.int64)), parts=np.full(len(images), "train"),
            groups=None if names is None else np.array(names),  # type: ignore[arg-type]
        )  # fmt: skip
        prepared = prepare(ExtractorSettings.of(settings, dataset.levels))
        table = prepared.table(dataset, seconds=Seconds(), maps=choose_maps(settings))
        learned = learn(table, LearningContext(settings=settings, prepared=prepared, listener=_Quiet()))
        self.model_: AnomalyModel = learned.choice.estimator
        if not self.false_alarms_.enough:
            to_warnings(self.false_alarms_.sentence())
        known = learned.choice.out_of_sample
        assert known is not None
        self.out_of_sample_ = -known[:, 0]
        self.refused_ = table.refused
        self._fit_on(prepared)
        self._chosen = settings
        return self

    @property
    def false_alarms_(self) -> FalseAlarms:
        """The threshold, and how often a good image is above it."""
        return self.model_.alarms

    @property
    def offset_(self) -> float:
        """Minus the threshold."""
        return -self.model_.threshold

    @property
    def comparison_(self) -> Comparison:
        """Which detector was chosen, and why."""
        return self.model_.comparison

    @property
    def detector_(self) -> Detector:
        """The fitted detector."""
        return self.model_.detector

    def score_maps(self, X: Images) -> npt.NDArray[np.float32]:
        """How anomalous each place of each image is, float32 (n, h, w) over the whole image: the higher, the less like the good ones.

        DataError where an image cannot be read; the message lists them.
        """
        check_is_fitted(self, "model_")
        parts = self._maps_of(some_images(X, kind="good image"), choose_maps(self._chosen), lacking="score", together=_TOGETHER)
        return np.concatenate([self.model_.scores(maps)[0] for _, maps in parts])

    def score_samples(self, X: Images) -> npt.NDArray[np.float64]:
        """Minus the anomaly score of each image, float64 (n,): the lower, the less like the good images. Raises like `score_maps`."""
        return np.asarray(-self.score_maps(X).max(axis=(1, 2)), dtype=np.float64)

    def decision_function(self, X: Images) -> npt.NDArray[np.float64]:
        """`score_samples` less `offset_`, float64 (n,): negative for anomalous images. Raises like `score_maps`."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Images) -> npt.NDArray[np.int64]:
        """1 for images like the good ones, -1 for anomalous ones, int64 (n,). Raises like `score_maps`."""
        return np.where(self.decision_function(X) < 0, -1, 1).astype(np.int64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = False, True, True
        return tags

    def _settings(self) -> FitSettings:
        """What is asked for, with what the task needs; ParameterError for parameters outside their limits."""
        return suited(
            FitSettings(
                backbone=self.backbone, weights=self.weights, false_alarm_rate=self.false_alarm_rate, cache=self.cache, engine=self.engine,
                seed=self.seed,
            )
        )  # fmt: skip


class _Quiet(Listener):
    """Says nothing; what changes the result is a warning of Python, which the estimator gives itself."""

    def warn(self, message: str) -> None:
        """Nothing."""
