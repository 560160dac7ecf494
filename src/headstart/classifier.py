"""`TransferClassifier`: images and labels in, a classifier out, by scikit-learn's conventions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from headstart import locations
from headstart.backbones import load_backbone
from headstart.errors import DataError, ImageError, StoreError
from headstart.feature_store import FeatureStore
from headstart.features import BackboneExtractor, Features, Images
from headstart.images import Preprocessing
from headstart.progress import Progress
from headstart.strategy import Choice, choose_head

Cache = str | Path | Literal["auto"] | None
Say = Callable[[str], None]


class TransferClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A pre-trained backbone, frozen, and a head that learns from its features.

    Args:
        backbone: a name of the catalogue.
        weights: a ``.safetensors`` or ``.pth`` file to use in place of the published weights.
        head: ``auto`` chooses layers and head from out-of-sample scores; or one of `headstart.strategy.HEADS`.
        class_weight: None, ``balanced`` (each class counts the same) or a dictionary of weights.
        fit_image: ``crop`` keeps the aspect ratio and cuts the centre; ``squash`` keeps the whole image. The backbone's own by default.
        cache: folder for converted networks and features; ``auto`` is the user's cache folder; None keeps nothing.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        seed: the same seed gives the same head.

    Attributes:
        classes_: the labels, sorted.
        choice_: the fitted head, what was tried, and the out-of-sample scores of the training images.
        refused_: errors of the training images that could not be read and were left out.
        extractor_: turns images into features.
        seconds_: time by stage.
    """

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        *,
        weights: str | Path | None = None,
        head: str = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
        fit_image: str | None = None,
        cache: Cache = "auto",
        engine: str = "auto",
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.head = head
        self.class_weight = class_weight
        self.fit_image = fit_image
        self.cache = cache
        self.engine = engine
        self.seed = seed

    def fit(self, X: Images, y: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Self:
        """Learn from images.

        Args:
            X: paths, bytes or uint8 arrays (H, W, 3); or one uint8 array (n, H, W, 3).
            y: n labels; or a bool matrix (n, k) when an image may have several.
            groups: n group names; images of one group never stand on both sides when something is chosen.

        Raises:
            DataError: fewer than two classes, lengths that differ, or no image that can be read.
            ParameterError: a parameter outside its limits.
        """
        images, targets = check_images(X), np.asarray(y)
        if len(images) != len(targets):
            raise DataError(f"X has {len(images)} images and y has {len(targets)} labels; each image needs one.")
        features = self.extract(images)
        if not len(features.kept):
            raise DataError(f"None of the {len(images)} images can be read. The first: {features.refused[0] if features.refused else '-'}")
        chosen_groups = None if groups is None else np.asarray(groups)[features.kept]
        return self.fit_features(features.values, targets[features.kept], groups=chosen_groups, refused=features.refused)

    def fit_features(
        self,
        values: npt.NDArray[np.float32],
        y: npt.NDArray[Any],
        *,
        groups: npt.NDArray[Any] | None = None,
        refused: Sequence[ImageError] = (),
        progress: Progress | None = None,
    ) -> Self:
        """Learn from features that `extract` gave: float32 (n, dim). Otherwise like `fit`."""
        extractor = self._extractor()
        start = time.perf_counter()
        with self._store() as store:
            memo = None if store is None else _Memo(store)
            self.choice_: Choice = choose_head(
                values, y, layers=extractor.layers, head=self.head, class_weight=self.class_weight, groups=groups, seed=self.seed,
                memo=memo, progress=progress,
            )  # fmt: skip
        self.seconds_ = {**getattr(self, "seconds_", {}), "head": time.perf_counter() - start}
        self.classes_ = self.choice_.estimator.classes_
        self.refused_ = tuple(refused)
        return self

    def extract(self, X: Images, *, progress: Progress | None = None, warn: Say | None = None, announce: Say | None = None) -> Features:
        """Compute, or look up in the feature store, the features of images."""
        extractor = self._extractor(announce=announce, warn=warn)
        start = time.perf_counter()
        with self._store() as store:
            features = extractor(check_images(X), store=store, progress=progress)
        self.seconds_ = {**getattr(self, "seconds_", {}), "features": time.perf_counter() - start}
        return features

    def predict(self, X: Images) -> npt.NDArray[Any]:
        """The most probable label of each image (n,); for multi-label, a bool matrix (n, k).

        Raises:
            DataError: an image cannot be read; the message lists them.
        """
        check_is_fitted(self, "choice_")
        prediction: npt.NDArray[Any] = self.choice_.estimator.predict(self._features_of_all(X))
        return prediction

    def predict_proba(self, X: Images) -> npt.NDArray[np.float64]:
        """Calibrated probabilities (n, k), columns in the order of `classes_`. Raises like `predict`."""
        check_is_fitted(self, "choice_")
        probabilities: npt.NDArray[np.float64] = self.choice_.estimator.predict_proba(self._features_of_all(X))
        return probabilities

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "choice_")

    def _features_of_all(self, X: Images) -> npt.NDArray[np.float32]:
        features = self.extract(X)
        if features.refused:
            shown = "; ".join(str(error) for error in features.refused[:3])
            raise DataError(f"{len(features.refused)} of {len(X)} images cannot be read: {shown}. Leave them out and try again.")
        return features.values

    def _extractor(self, *, announce: Say | None = None, warn: Say | None = None) -> BackboneExtractor:
        """The extractor of the current parameters; made again when they have changed."""
        wanted = (self.backbone, str(self.weights), self.fit_image, self.engine, str(self.cache))
        made: BackboneExtractor | None = getattr(self, "extractor_", None)
        if made is not None and self._made_for == wanted:
            return made
        start = time.perf_counter()
        if self.cache is None:
            self._scratch = TemporaryDirectory(prefix="headstart-")
            cache = Path(self._scratch.name)
        else:
            cache = self._cache_folder()
        weights = None if self.weights is None else Path(self.weights)
        backbone = load_backbone(self.backbone, weights=weights, cache=cache, announce=announce or (lambda message: None))
        preprocessing = backbone.preprocessing
        if self.fit_image is not None:
            preprocessing = Preprocessing(
                size=preprocessing.size, crop=preprocessing.crop, interpolation=preprocessing.interpolation, fit=self.fit_image
            )
        self.extractor_ = BackboneExtractor(
            backbone, preprocessing=preprocessing, engine=self.engine, compiled=cache / "compiled", warn=warn
        )
        self._made_for = wanted
        self.seconds_ = {"backbone": time.perf_counter() - start}
        return self.extractor_

    def _cache_folder(self) -> Path:
        return locations.cache_folder(None if self.cache == "auto" else self.cache)

    @contextmanager
    def _store(self) -> Iterator[FeatureStore | None]:
        if self.cache is None:
            yield None
            return
        with FeatureStore(locations.feature_store_file(self._cache_folder())) as store:
            yield store


class _Memo:
    """The store's memos, which a fit can do without: where they cannot be read or written, the choice is simply made again."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def get_memo(self, key: str) -> bytes | None:
        try:
            return self._store.get_memo(key)
        except StoreError:
            return None

    def put_memo(self, key: str, value: bytes) -> None:
        with suppress(StoreError):
            self._store.put_memo(key, value)


def check_images(X: Any) -> Images:
    """Refuse what is no list of images, with a sentence; return it otherwise.

    Raises:
        DataError: a single path, an array of another shape or type, or an empty list.
    """
    if isinstance(X, str | bytes | Path):
        raise DataError("X must be a list of images (paths, bytes or arrays), got a single one. Put it into a list: [image].")
    numbers = isinstance(X, np.ndarray) and X.dtype.kind not in "OUS"
    if numbers and (X.dtype != np.uint8 or X.ndim not in (3, 4)):
        raise DataError(
            f"X must be a list of paths or a uint8 array of images (n, H, W, 3), got {X.dtype} {X.shape}. "
            "Floating-point images: (255 * x).round().astype('uint8')."
        )
    if not len(X):
        raise DataError("X is empty; at least two images of two classes are needed.")
    images: Images = X if isinstance(X, np.ndarray) and X.dtype == np.uint8 else list(X)
    return images
