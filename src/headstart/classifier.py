"""`TransferClassifier`: images and labels in, a classifier out, by scikit-learn's conventions."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from headstart import locations
from headstart.backbones import load_backbone
from headstart.engine import ENGINES
from headstart.errors import BackboneError, DataError, ImageError, ParameterError, StoreError, nearest
from headstart.feature_store import FeatureStore
from headstart.features import BackboneExtractor, Features, Images
from headstart.progress import Progress
from headstart.strategy import HEADS, Choice, choose_head

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
        engine: ``auto``, ``openvino``, ``onnxruntime`` or ``torch``.
        seed: the same seed gives the same head.

    Attributes:
        classes_: the labels, sorted.
        n_images_in_: how many images it was fitted on, without the refused ones.
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
        self.check_parameters()
        images = check_images(X)
        targets = _one_each(y, "y", "labels", len(images))
        named = None if groups is None else _one_each(groups, "groups", "names", len(images))
        features = self.extract(images)
        if not len(features.kept):
            raise DataError(f"None of the {len(images)} images can be read. The first: {features.refused[0]}")
        chosen_groups = None if named is None else named[features.kept]
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
        self.check_parameters()
        ready = self._prepared()
        start = time.perf_counter()
        with ready.store() as store:
            memo = None if store is None else _Memo(store)
            self.choice_: Choice = choose_head(
                values, y, layers=ready.extractor.layers, head=self.head, class_weight=self.class_weight, groups=groups, seed=self.seed,
                memo=memo, progress=progress,
            )  # fmt: skip
        self.seconds_ = {**getattr(self, "seconds_", {}), "head": time.perf_counter() - start}
        self._fitted, self.extractor_ = ready, ready.extractor
        self._fitted_with = (ready.wanted, ready.extractor.id)
        self.classes_ = self.choice_.estimator.classes_
        self._label_dtype = np.asarray(y).dtype
        self.n_images_in_ = len(values)
        self.refused_ = tuple(refused)
        return self

    def extract(self, X: Images, *, progress: Progress | None = None, warn: Say | None = None, announce: Say | None = None) -> Features:
        """Compute, or look up in the feature store, the features of images.

        Args:
            X: as `fit` takes them.
            progress: called with (done, in all).
            warn: called with one line when features cannot be kept; by default it becomes a `RuntimeWarning`.
            announce: called with one line before a download or a conversion.
        """
        self.check_parameters()
        images, start = check_images(X), time.perf_counter()
        ready = self._prepared(announce=announce, warn=warn)
        prepared = time.perf_counter()
        features = _extracted(ready, images, progress=progress, warn=warn)
        self.seconds_ = {"backbone": prepared - start, "features": time.perf_counter() - prepared}
        return features

    def predict(self, X: Images) -> npt.NDArray[Any]:
        """The most probable label of each image (n,); for multi-label, a matrix (n, k) of the type that `y` had.

        Raises:
            DataError: an image cannot be read; the message lists them.
        """
        check_is_fitted(self, "choice_")
        prediction: npt.NDArray[Any] = self.choice_.estimator.predict(self._features_of_all(X))
        return prediction.astype(self._label_dtype) if prediction.ndim == 2 else prediction

    def predict_proba(self, X: Images) -> npt.NDArray[np.float64]:
        """Calibrated probabilities (n, k), columns in the order of `classes_`. Raises like `predict`."""
        check_is_fitted(self, "choice_")
        probabilities: npt.NDArray[np.float64] = self.choice_.estimator.predict_proba(self._features_of_all(X))
        return probabilities

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "choice_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = False, True, True
        tags.classifier_tags.multi_label = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process (open engines, temporary folders); it is made again at the next prediction."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_ready", "_fitted", "extractor_")}

    def check_parameters(self) -> None:
        """Raise `ParameterError` for parameters outside their limits; the backbone's name and weights are not looked up."""
        for name, value, allowed in (("head", self.head, HEADS), ("engine", self.engine, ENGINES)):
            if value not in allowed:
                raise ParameterError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.{nearest(str(value), allowed)}")
        if self.fit_image not in (None, "crop", "squash"):
            raise ParameterError(f"fit_image must be 'crop', 'squash' or None (the backbone's own), got {self.fit_image!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or not 0 <= self.seed < 2**32:
            raise ParameterError(f"seed must be a whole number from 0 to {2**32 - 1}, got {self.seed!r}.")

    def _features_of_all(self, X: Images) -> npt.NDArray[np.float32]:
        images = check_images(X)
        features = _extracted(self._as_fitted(), images)
        if features.refused:
            shown = "; ".join(str(error) for error in features.refused[:3])
            raise DataError(f"{len(features.refused)} of {len(images)} images cannot be read: {shown}. Leave them out and try again.")
        return features.values

    def _as_fitted(self) -> _Ready:
        """What the head was fitted with, whatever the parameters were set to since; made again in a copy or another process."""
        ready: _Ready | None = getattr(self, "_fitted", None)
        if ready is None:
            wanted, extractor_id = self._fitted_with
            ready = _prepare(wanted)
            if ready.extractor.id != extractor_id:
                raise BackboneError(
                    f"The classifier was fitted on features of {extractor_id}, and its backbone now gives {ready.extractor.id}. Fit again."
                )
            self._fitted, self.extractor_ = ready, ready.extractor
        return ready

    def _prepared(self, *, announce: Say | None = None, warn: Say | None = None) -> _Ready:
        """The extractor of the current parameters; made again when they have changed."""
        wanted = _Wanted(
            self.backbone, None if self.weights is None else str(self.weights), self.fit_image, self.engine,
            None if self.cache is None else str(self.cache),
        )  # fmt: skip
        ready: _Ready | None = getattr(self, "_ready", None)
        if ready is None or ready.wanted != wanted:
            self._ready = ready = _prepare(wanted, announce=announce, warn=warn)
        return ready


class _Wanted(NamedTuple):
    """The parameters on which features depend."""

    backbone: str
    weights: str | None
    fit_image: str | None
    engine: str
    cache: str | None


@dataclass(frozen=True, eq=False)
class _Ready:
    """An extractor, and where its features are kept; `cache` is None for nowhere."""

    wanted: _Wanted
    extractor: BackboneExtractor
    cache: Path | None

    @contextmanager
    def store(self) -> Iterator[FeatureStore | None]:
        """The feature store, while it is needed."""
        if self.cache is None:
            yield None
            return
        with FeatureStore(locations.feature_store_file(self.cache)) as store:
            yield store


def _prepare(wanted: _Wanted, *, announce: Say | None = None, warn: Say | None = None) -> _Ready:
    """Load the backbone. Where the cache cannot be written, a temporary folder serves, and one line says so."""

    def load(folder: Path) -> BackboneExtractor:
        backbone = load_backbone(wanted.backbone, weights=wanted.weights, cache=folder, announce=announce or (lambda message: None))
        preprocessing = backbone.preprocessing
        if wanted.fit_image is not None:
            preprocessing = replace(preprocessing, fit=wanted.fit_image)
        return BackboneExtractor(backbone, preprocessing=preprocessing, engine=wanted.engine, weights=wanted.weights)

    cache = None
    if wanted.cache is not None:
        cache = locations.cache_folder(None if wanted.cache == "auto" else wanted.cache)
        if cache.exists() and not cache.is_dir():
            raise ParameterError(f"The cache must be a folder, and {cache} is a file. Choose another one, or work without: --no-cache.")
        try:
            return _Ready(wanted, load(cache), cache)
        except (BackboneError, StoreError, OSError):
            if _is_writable(cache):
                raise
        (warn or _to_warnings)(f"The cache folder {cache} cannot be written. Going on without keeping features.")
    scratch = Path(tempfile.mkdtemp(prefix="headstart-"))
    try:
        ready = _Ready(wanted, load(scratch), None)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    weakref.finalize(ready, shutil.rmtree, scratch, ignore_errors=True)
    return ready


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=locations.create_folder(folder)):
            return True
    except (StoreError, OSError):
        return False


def _extracted(ready: _Ready, images: Images, *, progress: Progress | None = None, warn: Say | None = None) -> Features:
    with ready.store() as store:
        return ready.extractor(images, store=store, progress=progress, warn=warn or _to_warnings)


def _to_warnings(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


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


def _one_each(values: Any, name: str, what: str, count: int) -> npt.NDArray[Any]:
    """`values` as an array with an entry for each of `count` images."""
    if values is None:
        raise DataError(
            f"{name} is None, and TransferClassifier requires y to be passed, but the target y is None: one label for each image."
        )
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty(())
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name} contains NaN or inf; each image needs a label that is known.")
    if array.ndim == 0:
        raise DataError(f"{name} must be a list with one entry for each image, or a bool matrix (n, k); got {repr(values)[:80]}.")
    if len(array) != count:
        raise DataError(f"X has {count} images and {name} has {len(array)} {what}; each image needs one.")
    return array


def check_images(X: Any) -> Images:
    """Refuse what is no list of images, with a sentence; return it otherwise.

    Raises:
        DataError: a single path or picture, an array of another shape or type, an empty list, or an entry that is no image.
    """
    single = isinstance(X, np.ndarray) and X.dtype == np.uint8 and X.ndim == 3 and X.shape[2] == 3
    if single or isinstance(X, str | bytes | os.PathLike):
        raise DataError("X must be a list of images (paths, bytes or arrays), got a single one. Put it into a list: [image].")
    if isinstance(X, np.ndarray) and X.dtype == np.uint8 and X.ndim in (3, 4):
        images: Images = X
    elif not hasattr(X, "__len__") or isinstance(X, Mapping | set) or getattr(X, "ndim", 1) != 1 or not _names_or_objects(X):
        given = f"{X.dtype} {X.shape}" if isinstance(X, np.ndarray) else type(X).__name__
        raise DataError(
            f"X must be a list of paths or a uint8 array of images (n, H, W, 3), got {given}. "
            "Floating-point images from 0 to 1: (255 * X).round().astype('uint8')."
        )
    else:
        images = list(X)
    if not len(images):
        raise DataError("X is empty; at least two images of two classes are needed.")
    for index, image in enumerate(images if isinstance(images, list) else ()):
        if not isinstance(image, str | bytes | os.PathLike | np.ndarray):
            raise DataError(f"X[{index}] is no image: {repr(image)[:80]}. Give paths, bytes or uint8 arrays (H, W, 3).")
    return images


def _names_or_objects(X: Any) -> bool:
    return not isinstance(X, np.ndarray) or X.dtype.kind in "OUS"
