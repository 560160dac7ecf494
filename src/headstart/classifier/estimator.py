"""`TransferClassifier`: images and labels in, a classifier out, by scikit-learn's conventions."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from headstart.backbones import Layer
from headstart.classifier.given import check_images, one_each
from headstart.classifier.preparing import Ready, Say, Wanted, extracted, prepare, tuned_folder, tuned_ready, tuned_ready_again
from headstart.classifier.training import Keeping, check_plan, search, taken, train
from headstart.errors import BackboneError, DataError, ImageError, ParameterError
from headstart.features import Features, Images, survey
from headstart.heads.labels import encode
from headstart.modalities.image.augment import Augmentation
from headstart.progress import Listener, Progress
from headstart.selection import Choice, choose_head
from headstart.settings import Cache, FineTuning, FitSettings
from headstart.training.learning_rates import LearningRates

if TYPE_CHECKING:
    from headstart.training.tuning import FineTuned


class TransferClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A pre-trained backbone, frozen or trained further, and a head that learns from its features.

    Args:
        backbone: a name of the catalogue.
        weights: a ``.safetensors`` or ``.pth`` file to use in place of the published weights.
        head: ``auto`` chooses layers and head from out-of-sample scores; or one of `headstart.selection.HEADS`.
        class_weight: None, ``balanced`` (each class counts the same) or a dictionary of weights.
        fit_image: ``crop`` keeps the aspect ratio and cuts the centre; ``squash`` keeps the whole image. The backbone's own by default.
        cache: folder for converted networks and features; ``auto`` is the user's cache folder; None keeps nothing.
        engine: ``auto``, ``openvino``, ``onnxruntime`` or ``torch``.
        seed: the same seed gives the same head.
        fine_tuning: train the backbone and its head further, as this says; None leaves the backbone as it is.

    Attributes:
        classes_: the labels, sorted.
        n_images_in_: how many images it was fitted on, without the refused ones.
        choice_: the fitted head, what was tried, and the out-of-sample scores of the training images.
        probe_: the same before fine-tuning, or None.
        fine_tuned_: what came of the fine-tuning, or None: history, trained stages, facts.
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
        fine_tuning: FineTuning | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.head = head
        self.class_weight = class_weight
        self.fit_image = fit_image
        self.cache = cache
        self.engine = engine
        self.seed = seed
        self.fine_tuning = fine_tuning

    @classmethod
    def of(cls, settings: FitSettings) -> Self:
        """Return an unfitted classifier with the settings of a fit."""
        classifier = cls(**{name: getattr(settings, name) for name in inspect.signature(cls).parameters})
        classifier.check_parameters()
        return classifier

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
        targets = one_each(y, "y", "labels", len(images))
        named = None if groups is None else one_each(groups, "groups", "names", len(images))
        if self.fine_tuning is not None:
            known = encode(targets)
            check_plan(self.fine_tuning, backbone=self.backbone, classes=known.indicators.shape[1], link=known.link)
        features = self.extract(images) if self.begins_with_probe else self.survey(images)
        if not len(features.kept):
            raise DataError(f"None of the {len(images)} images can be read. The first: {features.refused[0]}")
        kept, chosen_groups = targets[features.kept], None if named is None else named[features.kept]
        if self.begins_with_probe:
            self.fit_features(features.values, kept, groups=chosen_groups, refused=features.refused)
        if self.fine_tuning is not None:
            self.fine_tune(taken(images, features.kept), kept, groups=chosen_groups, values=features.values, refused=features.refused)
        return self

    @property
    def begins_with_probe(self) -> bool:
        """Whether a head is fitted on frozen features: always, except where a training is to begin with a random one."""
        return self.fine_tuning is None or self.fine_tuning.start == "probe"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The slices of a feature vector that `extract` gives, one for each stage of the frozen backbone."""
        return self._prepared().extractor.layers

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
            self.choice_: Choice = choose_head(
                values, y, layers=ready.extractor.layers, head=self.head, class_weight=self.class_weight, groups=groups, seed=self.seed,
                cache=store, progress=progress,
            )  # fmt: skip
        self.seconds_ = {**getattr(self, "seconds_", {}), "head": time.perf_counter() - start}
        self.probe_: Choice | None = None
        self.fine_tuned_: FineTuned | None = None
        self._now_fitted(ready, y, refused)
        return self

    def _now_fitted(self, ready: Ready, y: npt.NDArray[Any], refused: Sequence[ImageError]) -> None:
        self.__dict__.pop("_network", None)
        self._fitted, self.extractor_ = ready, ready.extractor
        self._fitted_with = (ready.wanted, ready.extractor.id)
        self.classes_ = self.choice_.estimator.classes_
        self._label_dtype = np.asarray(y).dtype
        self.n_images_in_ = len(y)
        self.refused_ = tuple(refused)

    def fine_tune(
        self,
        X: Images,
        y: npt.NDArray[Any],
        *,
        groups: npt.NDArray[Any] | None = None,
        values: npt.NDArray[np.float32] | None = None,
        refused: Sequence[ImageError] = (),
        watched: tuple[Images, npt.NDArray[Any]] | None = None,
        keeping: Keeping | None = None,
        listener: Listener | None = None,
    ) -> Self:
        """Train backbone and head further, as `fine_tuning` says. Called by `fit`; after `fit_features`, or instead of it.

        Args:
            X: images that can be read.
            y: their labels, as `fit` takes them.
            groups: their groups.
            values: their frozen features as `extract` gave them, for the head that the training starts from.
            refused: errors of further images, for `refused_`.
            watched: images and labels to look at after each epoch where none of the training images are held out for that; nothing is
                chosen on them.
            keeping: where checkpoints are kept, whether to go on from one, and who shares the work.
            listener: is told how it goes.

        Raises:
            ParameterError: there is no `fine_tuning`, or it does not suit the backbone or the labels.
            MissingExtraError: PyTorch and timm are not installed.
        """
        self.check_parameters()
        if self.fine_tuning is None:
            raise ParameterError("There is nothing to fine-tune: fine_tuning is None. Give a FineTuning.")
        ready, probe, start = self._prepared(), getattr(self, "choice_", None) if self.begins_with_probe else None, time.perf_counter()
        with tuned_folder() as folder:
            tuned, choice = train(
                ready, self.fine_tuning, X, y, groups=groups, values=values, class_weight=self.class_weight, seed=self.seed,
                watched=watched, probe=probe, keeping=keeping or Keeping(), listener=listener or Listener(), folder=folder,
            )  # fmt: skip
            fitted = tuned_ready(ready, tuned.backbone, tuned.preprocessing, folder=folder)
        self.seconds_ = {**getattr(self, "seconds_", {}), "fine-tuning": time.perf_counter() - start}
        self.choice_, self.probe_, self.fine_tuned_ = choice, probe, tuned
        self._now_fitted(fitted, y, refused)
        return self

    def find_learning_rate(
        self, X: Images, y: npt.NDArray[Any], *, groups: npt.NDArray[Any] | None = None, low: float = 1e-6, high: float = 1.0,
        steps: int = 100, listener: Listener | None = None,
    ) -> LearningRates:  # fmt: skip
        """Train for a moment with a rising learning rate, as `fine_tuning` says otherwise; see `LearningRates`. Nothing of it is kept.

        Args:
            X: images that can be read.
            y: their labels, as `fit` takes them.
            groups: their groups.
            low: learning rate of the first step.
            high: of the last step, unless the search diverges before.
            steps: their number.
            listener: is told how it goes.

        Raises:
            ParameterError: there is no `fine_tuning`, it does not suit the backbone or the labels, or the search has no such limits.
            MissingExtraError: PyTorch and timm are not installed.
        """
        self.check_parameters()
        if self.fine_tuning is None:
            raise ParameterError("There is no training to find a learning rate for: fine_tuning is None. Give a FineTuning.")
        return search(
            self._prepared(), self.fine_tuning, X, np.asarray(y), groups=groups, class_weight=self.class_weight, seed=self.seed, low=low,
            high=high, steps=steps, listener=listener or Listener(),
        )  # fmt: skip

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
        features = extracted(ready, images, progress=progress, warn=warn)
        self.seconds_ = {"backbone": prepared - start, "features": time.perf_counter() - prepared}
        return features

    def survey(self, X: Images, *, progress: Progress | None = None, announce: Say | None = None) -> Features:
        """Find out which images can be read, without computing features; arguments as of `extract`."""
        self.check_parameters()
        images, start = check_images(X), time.perf_counter()
        ready = self._prepared(announce=announce)
        found = survey(images, preprocessing=ready.extractor.preprocessing, progress=progress)
        self.seconds_ = {"reading images": time.perf_counter() - start}
        return found

    def features_of(self, X: Images, *, progress: Progress | None = None) -> Features:
        """The features of images by the backbone as it is now fitted, fine-tuned where it was; arguments as of `extract`."""
        check_is_fitted(self, "choice_")
        return extracted(self._as_fitted(), check_images(X), progress=progress)

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
        """Without what belongs to this process (open engines, temporary folders); it is made again at the next prediction.

        A fine-tuned network exists nowhere else, so the state carries it along.
        """
        state: dict[str, Any] = super().__getstate__()
        if state.get("fine_tuned_") is not None and "_fitted" in state:
            state["_network"] = state["_fitted"].extractor.backbone.network.read_bytes()
        return {name: value for name, value in state.items() if name not in ("_ready", "_fitted", "extractor_")}

    def check_parameters(self) -> None:
        """Raise `ParameterError` for parameters outside their limits; the backbone's name and weights are not looked up."""
        FitSettings.check(head=self.head, engine=self.engine, fit_image=self.fit_image, seed=self.seed, fine_tuning=self.fine_tuning)
        if self.fine_tuning is not None:
            Augmentation.parse(self.fine_tuning.augment)

    def _features_of_all(self, X: Images) -> npt.NDArray[np.float32]:
        images = check_images(X)
        features = extracted(self._as_fitted(), images)
        if features.refused:
            shown = "; ".join(str(error) for error in features.refused[:3])
            raise DataError(f"{len(features.refused)} of {len(images)} images cannot be read: {shown}. Leave them out and try again.")
        return features.values

    def _as_fitted(self) -> Ready:
        """What the head was fitted with, whatever the parameters were set to since; made again in a copy or another process."""
        ready: Ready | None = getattr(self, "_fitted", None)
        if ready is None:
            wanted, extractor_id = self._fitted_with
            ready = prepare(wanted) if self.fine_tuned_ is None else tuned_ready_again(wanted, self.fine_tuned_, self._network)
            if ready.extractor.id != extractor_id:
                raise BackboneError(
                    f"The classifier was fitted on features of {extractor_id}, and its backbone now gives {ready.extractor.id}. Fit again."
                )
            self._fitted, self.extractor_ = ready, ready.extractor
            self.__dict__.pop("_network", None)
        return ready

    def _prepared(self, *, announce: Say | None = None, warn: Say | None = None) -> Ready:
        """The extractor of the current parameters; made again when they have changed."""
        wanted = Wanted(
            self.backbone, None if self.weights is None else str(self.weights), self.fit_image, self.engine,
            None if self.cache is None else str(self.cache),
        )  # fmt: skip
        ready: Ready | None = getattr(self, "_ready", None)
        if ready is None or ready.wanted != wanted:
            self._ready = ready = prepare(wanted, announce=announce, warn=warn)
        return ready
