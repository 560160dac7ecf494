"""`TransferClassifier`: images or texts and labels in, a classifier out, by scikit-learn's conventions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from headstart.data import Dataset, class_targets
from headstart.data.inputs import checked_inputs, modality_of
from headstart.data.values import checked_groups, checked_labels, one_hot_note
from headstart.errors import DataError, ParameterError
from headstart.features import Features, Images
from headstart.features.fitted import FittedOn
from headstart.features.prepared import ExtractorSettings, Prepared, prepare
from headstart.heads.labels import encode
from headstart.modalities import Modality, modality_named
from headstart.modalities.image import Levels
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.levels import levels_note
from headstart.progress import Listener, Progress, Seconds, to_warnings
from headstart.selection import Choice
from headstart.settings import Cache, FineTuning, FitSettings
from headstart.settings.fit import check_map
from headstart.tasks import Learned, LearningContext
from headstart.tasks.classification.learning import check_training, find_learning_rate, learn
from headstart.text import unread
from headstart.training.learning_rates import LearningRates

if TYPE_CHECKING:
    from headstart.training.tuning import FineTuned


class TransferClassifier(ClassifierMixin, FittedOn, BaseEstimator):  # type: ignore[misc]
    """A pre-trained backbone, frozen or trained further, and a head that learns from its features.

    Args:
        backbone: a name of the catalogue.
        weights: a ``.safetensors`` or ``.pth`` file to use in place of the published weights.
        head: ``auto`` chooses layers and head from out-of-sample scores; or one of `headstart.selection.HEADS`.
        map: what features go through before the head: ``none``, a ``linear``, ``kernel`` or ``deep`` map, or ``auto``.
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
        map: str = "none",
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
        self.map = map
        self.class_weight = class_weight
        self.fit_image = fit_image
        self.cache = cache
        self.engine = engine
        self.seed = seed
        self.fine_tuning = fine_tuning

    def fit(self, X: Images, y: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Self:
        """Learn from images or texts.

        Args:
            X: paths, bytes, uint8 arrays (H, W, 3) or images of Pillow, also as a column of pandas or polars; or one uint8 array
                (n, H, W, 3). Strings are texts where none of them is called like an image or names a file.
            y: n labels; or a bool matrix (n, k) when an image may have several.
            groups: n group names; images of one group never stand on both sides when something is chosen.

        Raises:
            DataError: fewer than two classes, lengths that differ, or no image that can be read.
            ParameterError: a parameter outside its limits.
        """
        dataset, classes, dtype = self._dataset(X, y, groups)
        features, seconds = self.fine_tuning is None or self.fine_tuning.start == "probe", Seconds()
        with seconds.lap("backbone"):
            if dataset.levels is not None:
                to_warnings(levels_note(dataset.levels))
            prepared = self._prepared(dataset.levels, dataset.modality)
        table = prepared.table(dataset, features=features, seconds=seconds)
        learned = learn(table, LearningContext(settings=self._codes(classes), prepared=prepared))
        return self._fitted_from(learned, classes=classes, label_dtype=dtype, seconds=seconds)

    @classmethod
    def of_learned(cls, learned: Learned, settings: FitSettings, *, classes: npt.NDArray[Any]) -> Self:
        """A fitted classifier of what was learned elsewhere; `classes` are the labels, in the order of the model's outputs."""
        made = cls(**{name: getattr(settings, name) for name in inspect.signature(cls).parameters})
        dtype = np.dtype(bool) if learned.table.targets.ndim == 2 else np.asarray(classes).dtype
        return made._fitted_from(learned, classes=classes, label_dtype=dtype, seconds={})

    def _dataset(self, X: Images, y: npt.ArrayLike, groups: npt.ArrayLike | None) -> tuple[Dataset, npt.NDArray[Any], np.dtype[Any]]:
        """The inputs checked, the labels in the order of their numbers, and the type of the labels as they were given."""
        self._check_parameters()
        modality, images = _inputs_of(X)
        if y is None:
            raise DataError("TransferClassifier requires y to be passed, but the target y is None: one label for each image.")
        checked = checked_labels(y, len(images), name="y")
        try:
            labels = np.asarray(checked)
        except ValueError:  # lists of several lengths are no array
            raise DataError(f"y must be a list of labels, or a bool matrix (n, k); got {repr(y)[:80]}.") from None
        if note := one_hot_note(labels, y, name="y"):
            to_warnings(note)
        try:
            known = encode(labels)
        except ValueError as error:
            raise DataError(str(error)) from error
        names, notes = checked_groups(groups, len(images))
        for note in notes:
            to_warnings(note)
        dataset = Dataset(
            modality=modality,
            inputs=images if isinstance(images, np.ndarray) else tuple(images),
            targets=class_targets(known.codes, tuple(map(str, known.classes.tolist()))),
            parts=np.full(len(images), "train"),
            groups=None if names is None else np.array(names),  # type: ignore[arg-type]
        )
        check_training(dataset, self)
        return dataset, known.classes, known.dtype

    def _codes(self, classes: npt.NDArray[Any]) -> TransferClassifier:
        """The settings for labels that have become numbers: the weights of the classes go by these."""
        if not isinstance(self.class_weight, Mapping):
            return self
        known = classes.tolist()
        strange = [label for label in self.class_weight if label not in known]
        if strange:
            raise ParameterError(
                f"class_weight names the label {strange[0]!r}, which the data do not have. "
                f"Their labels: {', '.join(map(repr, known[:10]))}."
            )
        parameters = self.get_params(deep=False)
        return TransferClassifier(**parameters | {"class_weight": {known.index(label): w for label, w in self.class_weight.items()}})

    def _fitted_from(
        self, learned: Learned, *, classes: npt.NDArray[Any], label_dtype: np.dtype[Any], seconds: Mapping[str, float]
    ) -> Self:
        self.__dict__.pop("_network", None)
        self.choice_: Choice = learned.choice
        self.probe_: Choice | None = learned.probe
        self.fine_tuned_: FineTuned | None = learned.fine_tuned
        self.classes_ = classes
        self._label_dtype = label_dtype
        self._fit_on(learned.prepared)
        self.extractor_ = learned.prepared.extractor
        self.n_images_in_ = len(learned.table.train)
        self.refused_ = learned.table.refused
        self.seconds_ = {**seconds, **learned.seconds}
        return self

    def find_learning_rate(
        self, X: Images, y: npt.ArrayLike, *, groups: npt.ArrayLike | None = None, low: float = 1e-6, high: float = 1.0,
        steps: int = 100, listener: Listener | None = None,
    ) -> LearningRates:  # fmt: skip
        """Train briefly with a rising learning rate, as `fine_tuning` says otherwise; see `LearningRates`. No model results.

        Args:
            X: images, as `fit` takes them, with labels and groups.
            y: n labels, or a bool matrix (n, k).
            groups: n group names.
            low: learning rate of the first step.
            high: of the last step, unless the search diverges before.
            steps: their number.
            listener: is told how it goes.

        Raises:
            ParameterError: there is no `fine_tuning`, it does not suit the backbone or the labels, or the search has no such limits.
            MissingExtraError: PyTorch and timm are not installed.
        """
        self._check_parameters()
        if self.fine_tuning is None:
            raise ParameterError("There is no training to find a learning rate for: fine_tuning is None. Give a FineTuning.")
        dataset, classes, _ = self._dataset(X, y, groups)
        prepared = self._prepared(dataset.levels, dataset.modality)
        table = prepared.table(dataset, features=False, seconds=Seconds())
        context = LearningContext(settings=self._codes(classes), prepared=prepared, listener=listener or Listener())
        return find_learning_rate(table, context, low=low, high=high, steps=steps)

    def extract(self, X: Images, *, progress: Progress | None = None) -> Features:
        """Compute, or look up in the feature store, the features of images by the frozen backbone.

        Args:
            X: as `fit` takes them.
            progress: called with (done, in all).
        """
        self._check_parameters()
        modality, images = _inputs_of(X, self._modality)
        levels = self._fitted_with[0].levels if hasattr(self, "_fitted_with") else None
        return self._prepared(levels, modality).extract(images, progress=progress)

    @property
    def _modality(self) -> Modality | None:
        """Of what it was fitted on."""
        return modality_named(self._fitted_with[0].modality) if hasattr(self, "_fitted_with") else None

    def predict(self, X: Images) -> npt.NDArray[Any]:
        """The most probable label of each image (n,); for several labels an image, a matrix (n, k) of the type that `y` had.

        Raises:
            DataError: an image cannot be read; the message lists them.
        """
        check_is_fitted(self, "choice_")
        prediction: npt.NDArray[Any] = np.asarray(self.choice_.estimator.predict(self._features_of_all(X)))
        if prediction.ndim == 2:
            return prediction.astype(self._label_dtype)
        labels: npt.NDArray[Any] = self.classes_[prediction]
        return labels

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
        """Without what belongs to this process; it is made again at the next prediction."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("_current", "extractor_")}

    def _check_parameters(self) -> None:
        """ParameterError for parameters outside their limits; the backbone's name and weights are not looked up."""
        FitSettings.check(
            head=self.head, map=self.map, engine=self.engine, fit_image=self.fit_image, seed=self.seed, fine_tuning=self.fine_tuning
        )
        check_map(self.map, self.fine_tuning)
        if self.fine_tuning is not None:
            Augmentation.parse(self.fine_tuning.augment)

    def _features_of_all(self, X: Images) -> Any:
        modality, images = _inputs_of(X, self._modality)
        inputs, features = self._as_fitted().inputs(images)
        if features.refused:
            then = "have no prediction. Leave them out and try again"
            raise DataError(unread(features.refused, len(images), then, noun=modality.noun))
        return inputs

    def _as_fitted(self) -> Prepared:
        """What the head was fitted with, whatever the parameters were set to since; made again in a copy or another process."""
        prepared = super()._as_fitted()
        self.extractor_ = prepared.extractor
        return prepared

    def _prepared(self, levels: Levels, modality: Modality) -> Prepared:
        """The extractor of the current parameters; made again when they have changed."""
        settings = ExtractorSettings.of(self, levels, modality.name)
        prepared: Prepared | None = getattr(self, "_current", None)
        if prepared is None or prepared.settings != settings:
            self._current = prepared = prepare(settings)
        return prepared


def _inputs_of(X: Any, known: Modality | None = None) -> tuple[Modality, Images]:
    """What the inputs are, unless that is `known`, and the inputs; DataError where there are none, or they are not of this kind."""
    modality = known or modality_of(X)
    inputs = checked_inputs(modality, X, name="X")
    if not len(inputs):
        raise DataError(f"X is empty; at least two {modality.noun}s of two classes are needed.")
    return modality, inputs
