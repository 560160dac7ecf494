"""`TransferDetector`: boxes around things in images, learned and predicted from Python, in the manner of a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from headstart.data.annotations import BOX, dataset_of
from headstart.data.arrays import annotations_given
from headstart.data.box_reading import read_boxes
from headstart.data.given_boxes import given_boxes
from headstart.data.values import some_images
from headstart.features import Images
from headstart.features.fitted import FittedOn
from headstart.features.stage_maps import maps_named
from headstart.heads.boxes import BoxDecoder
from headstart.metrics.boxes import Detections
from headstart.metrics.proposals import BOXES, LEAST, PROBABILITIES
from headstart.modalities.image import upright_size
from headstart.progress import Warned, to_warnings
from headstart.settings import Cache, FineTuning, FitSettings
from headstart.tasks.detection.evaluation import DetectionEvaluation
from headstart.tasks.detection.predictions import Found, detections_of
from headstart.tasks.detection.task import Detection
from headstart.tasks.learned import learned_from

_TOGETHER = 64  # images whose maps are in memory


class TransferDetector(FittedOn, BaseEstimator):  # type: ignore[misc]
    """Learns where things of which class are, on the maps of a pre-trained backbone; learning needs PyTorch, predicting does not.

    Args:
        backbone: a name of the catalogue, with an image size if not 320 px: ``efficientnet_lite0@448``.
        weights: a ``.safetensors`` or ``.pth`` file to use in place of the published weights, of the backbone or of a whole detector; see
            `FitSettings.weights`.
        architecture: ``light``; ``fcos``, ``retinanet``, ``ssd`` or ``faster_rcnn`` as torchvision has them; ``d_fine`` or ``rt_detr`` as
            transformers has them.
        fine_tuning: how to train; None trains a head on the frozen backbone.
        cache: folder for converted networks; ``auto`` is the user's cache folder; None keeps nothing.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        seed: the same seed gives the same result.

    Attributes:
        classes_: the k classes: their names; or whole numbers, int64, where labels are such and have no names.
        threshold_: the lowest confidence of a box that `predict` names; it has the best F1 on training images, out of sample.
        decoder_: from the maps of the backbone to boxes.
        history_: of the training (`headstart.training.history.History`).
        refused_: errors of the training images that could not be read and were left out.
    """

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        *,
        weights: str | Path | None = None,
        architecture: str = "light",
        fine_tuning: FineTuning | None = None,
        cache: Cache = "auto",
        engine: str = "auto",
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.architecture = architecture
        self.fine_tuning = fine_tuning
        self.cache = cache
        self.engine = engine
        self.seed = seed

    def fit(self, X: Images, y: Any, groups: npt.ArrayLike | None = None, *, classes: Sequence[str] | None = None) -> Self:
        """Learn from images and their boxes. What lies outside of an image is cut off, with a warning.

        Args:
            X: paths, bytes, uint8 arrays (H, W, 3) or images of Pillow; or one uint8 array (n, H, W, 3).
            y: for each image (boxes, labels), or a dict with ``boxes``, ``labels`` and perhaps ``iscrowd``, as torchvision has it. Boxes
                are (m, 4), left, top, right and bottom in pixels of the upright image; labels are m names or whole numbers. Or a `Boxes`,
                as `Dataset.targets` is.
            groups: n group names; images of one group never stand on both sides when something is chosen.
            classes: the names that whole numbers stand for, the first for 0.

        Raises:
            DataError: images that cannot be read, or boxes that cannot be used or do not fit them.
            ParameterError: a parameter outside its limits.
            MissingExtraError: PyTorch is not installed.
        """
        task, images = Detection(), some_images(X)
        settings = task.settings(
            FitSettings(
                backbone=self.backbone, weights=self.weights, architecture=self.architecture, fine_tuning=self.fine_tuning,
                cache=self.cache, engine=self.engine, seed=self.seed,
            )
        )  # fmt: skip
        given = given_boxes(y, images, classes)
        found = annotations_given(images, BOX, given.column, groups=groups)
        boxes = read_boxes(found)
        for note in found.notes:
            if isinstance(note, Warned):
                to_warnings(note)
        learned = learned_from(task, dataset_of(found, boxes), settings)
        self.decoder_: BoxDecoder = learned.choice.estimator
        self.classes_ = np.array(boxes.classes).astype(np.int64 if given.numbered else np.str_)
        self.threshold_ = float(self.decoder_.threshold)
        self.history_ = learned.fine_tuned.history
        self.refused_ = learned.table.refused
        self._names = None if classes is None else tuple(classes)
        self._fit_on(learned.prepared)
        return self

    def predict(self, X: Images, *, threshold: float | None = None) -> list[dict[str, npt.NDArray[Any]]]:
        """The boxes of each image whose confidence is at least the `threshold`, by default `threshold_`, the surest first.

        ``boxes`` are float32 (m, 4), left, top, right and bottom in pixels of the upright image, ``labels`` (m,) of `classes_`, ``scores``
        float32 (m,), calibrated: the share of such boxes that is right. DataError where an image cannot be read; the message lists them.
        """
        check_is_fitted(self, "decoder_")
        least = self.threshold_ if threshold is None else threshold
        return [
            {"boxes": boxes, "labels": self.classes_[labels], "scores": scores}
            for boxes, scores, labels in self._found(some_images(X), least=least)
        ]

    def score(self, X: Images, y: Any) -> float:
        """AP50, the mean average precision at an overlap of one half; boxes as of `fit`, of these classes."""
        check_is_fitted(self, "decoder_")
        images, names = some_images(X), [str(name) for name in self.classes_]
        found = annotations_given(images, BOX, given_boxes(y, images, self._names).column, part="test")
        boxes = read_boxes(found, names)
        detections = Detections.joined(self._found(found.inputs))
        return float(DetectionEvaluation(detections, boxes, self.threshold_).result.means["ap50"])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = False, True, True
        tags.target_tags.required = True
        return tags

    def _found(self, images: Images, *, least: float = LEAST) -> Iterator[Found]:
        """Boxes, confidence and classes of each image, in pixels."""
        decoder, task = self.decoder_, Detection()
        choose = maps_named([layer.name for layer in decoder.layers], mirrored=decoder.mirrored)
        for part, maps in self._maps_of(images, choose, lacking="boxes", together=_TOGETHER):
            outputs = task.apply(decoder, maps)
            sizes = np.array([upright_size(part[row]) for row in range(len(part))], np.int64)
            yield from detections_of(outputs[BOXES], outputs[PROBABILITIES], sizes, least=least)
