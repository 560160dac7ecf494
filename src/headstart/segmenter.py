"""`TransferSegmenter`: masks of images, learned and predicted from Python, in the manner of a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from headstart.data.annotations import MASK, Column, dataset_of
from headstart.data.arrays import annotations_given
from headstart.data.class_lists import ClassList
from headstart.data.mask_reading import read_masks
from headstart.data.masks import VOID, Mask, Named, PictureMask
from headstart.data.values import some_images
from headstart.errors import DataError, UnreadableError
from headstart.features import Images
from headstart.features.fitted import FittedOn
from headstart.features.prepared import Prepared
from headstart.features.stage_maps import maps_named
from headstart.modalities.image import upright_size
from headstart.pixels.interpolation import class_map, resized
from headstart.settings import Cache, FineTuning, FitSettings
from headstart.tasks.learned import learned_from
from headstart.tasks.segmentation.learning import Decoder, through_windows
from headstart.tasks.segmentation.task import Segmentation
from headstart.text import plural, unread

_TOGETHER = 64  # images whose maps are in memory


@dataclass(frozen=True, eq=False)
class ArrayMask:
    """A mask given as an array of positions of `names`, `VOID` for pixels without a class."""

    name: str
    array: Mask
    names: tuple[str, ...]

    cell: str = ""
    classes: ClassList | None = None

    def open(self) -> Named:
        """The mask; pixels without a class are called so that they are left out."""
        array = self.array if len(self.names) == VOID else np.where(self.array == VOID, np.uint8(len(self.names)), self.array)
        return Named(array, (*self.names, "void"))


class TransferSegmenter(FittedOn, BaseEstimator):  # type: ignore[misc]
    """Learns which class each pixel has, on the maps of a pre-trained backbone; learning needs PyTorch, predicting does not.

    Args:
        backbone: a name of the catalogue, with an image size if not 256 px: ``efficientnet_lite0@320``.
        weights: a ``.safetensors`` or ``.pth`` file to use in place of the published weights.
        architecture: ``light``, ``unet`` or ``deeplabv3plus``.
        windows: see each image through so many times so many overlapping windows, each at the image size; 1 sees the whole at once.
        class_weight: ``balanced`` lets rare classes count more.
        fine_tuning: how to train; None trains a decoder on the frozen backbone.
        cache: folder for converted networks; ``auto`` is the user's cache folder; None keeps nothing.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        seed: the same seed gives the same result.

    Attributes:
        classes_: the names of the classes, unicode (k,); masks have their positions.
        decoder_: from the maps of the backbone to logits.
        history_: of the training (`headstart.training.history.History`).
        refused_: errors of the training images that could not be read and were left out.
    """

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        *,
        weights: str | Path | None = None,
        architecture: str = "light",
        windows: int = 1,
        class_weight: str | None = None,
        fine_tuning: FineTuning | None = None,
        cache: Cache = "auto",
        engine: str = "auto",
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.architecture = architecture
        self.windows = windows
        self.class_weight = class_weight
        self.fine_tuning = fine_tuning
        self.cache = cache
        self.engine = engine
        self.seed = seed

    def fit(self, X: Images, y: Sequence[Any], groups: npt.ArrayLike | None = None, *, classes: Sequence[str] | None = None) -> Self:
        """Learn from images and their masks.

        Args:
            X: paths, bytes, uint8 arrays (H, W, 3) or images of Pillow; or one uint8 array (n, H, W, 3).
            y: a mask for each: an array (H, W) of whole numbers, positions of the classes, 255 for pixels without one; or the path of a
                picture, as `headstart.read_dataset` reads it.
            groups: n group names; images of one group never stand on both sides when something is chosen.
            classes: the names of the classes; by default ``class 0`` and so on, or what lies beside the pictures.

        Raises:
            DataError: images or masks that cannot be read, or do not fit each other.
            ParameterError: a parameter outside its limits.
            MissingExtraError: PyTorch is not installed.
        """
        task, images = Segmentation(), some_images(X)
        settings = task.settings(
            FitSettings(
                backbone=self.backbone, weights=self.weights, architecture=self.architecture, class_weight=self.class_weight,
                fine_tuning=self.fine_tuning, cache=self.cache, engine=self.engine, seed=self.seed, windows=self.windows,
            )
        )  # fmt: skip
        found = annotations_given(images, MASK, _column(y, len(images), classes), groups=groups)
        given = [one.names for one in found.columns[MASK].values if isinstance(one, ArrayMask)]
        masks = read_masks(found, given[0] if given else classes)
        learned = learned_from(task, dataset_of(found, masks), settings)
        self.decoder_: Decoder = learned.choice.estimator
        self.classes_ = np.array(masks.classes)
        self.history_ = learned.fine_tuned.history
        self.refused_ = learned.table.refused
        self._fit_on(learned.prepared)
        return self

    def predict(self, X: Images) -> list[Mask]:
        """The class of each pixel of each image: uint8 (H, W), positions of `classes_`, at the size of the image.

        DataError where an image cannot be read; the message lists them.
        """
        return [class_map(logits, size) for logits, size in self._logits(X)]

    def predict_proba(self, X: Images) -> list[npt.NDArray[np.float32]]:
        """The probability of each class at each pixel of each image: float32 (k, H, W). Raises like `predict`."""
        found = []
        for logits, size in self._logits(X):
            at_size = resized(logits, size)
            at_size = np.exp(at_size - at_size.max(axis=0))
            found.append(at_size / at_size.sum(axis=0))
        return found

    def score(self, X: Images, y: Sequence[Any]) -> float:
        """The mean IoU over the classes that are in the masks or were predicted; masks as of `fit`, of these classes."""
        from headstart.tasks.segmentation.evaluation import evaluate

        images, names = some_images(X), self.classes_.tolist()
        found = annotations_given(images, MASK, _column(y, len(images), names), part="test")
        return evaluate([logits for logits, _ in self._logits(images)], read_masks(found, names)).mean_iou

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = False, True, True
        tags.target_tags.required = True
        return tags

    def _logits(self, X: Images) -> Iterator[tuple[npt.NDArray[np.float32], tuple[int, int]]]:
        """Logits float32 (k, h, w) and the size of each image."""
        check_is_fitted(self, "decoder_")
        images = some_images(X)
        if self.decoder_.windows is not None:
            yield from self._through_windows(images, self._as_fitted())
            return
        choose = maps_named([layer.name for layer in self.decoder_.layers], mirrored=self.decoder_.mirrored)
        for part, maps in self._maps_of(images, choose, lacking="mask", together=_TOGETHER):
            logits = Segmentation().apply(self.decoder_, maps)["logits"]
            yield from ((logits[row], upright_size(part[row])) for row in range(len(part)))

    def _through_windows(self, images: Images, prepared: Prepared) -> Iterator[tuple[npt.NDArray[np.float32], tuple[int, int]]]:
        wholes = prepared.extractor.wholes(images)
        for row, found in enumerate(through_windows([self.decoder_], wholes, np.arange(len(images)))):
            if isinstance(found, UnreadableError):
                raise DataError(unread([found], len(images), "have no mask. Leave them out and try again"))
            yield found[0], upright_size(images[row])


def _column(y: Any, count: int, classes: Sequence[str] | None) -> Column:
    """The masks as data have them; DataError where there is not one for each image, or one is neither an array of classes nor a path."""
    masks = list(y)
    if len(masks) != count:
        raise DataError(f"{plural(count, 'image')} but {len(masks)} masks; one for each image is needed")
    arrays = {index: np.asarray(mask) for index, mask in enumerate(masks) if not isinstance(mask, str | Path)}
    for index, array in arrays.items():
        if array.ndim != 2 or array.dtype.kind not in "biu" or (array.size and not 0 <= int(array.min()) <= int(array.max()) <= VOID):
            raise DataError(
                f"y[{index}] must be a mask (H, W) of whole numbers, positions of the classes from 0 and {VOID} for pixels without one, "
                f"got {array.dtype} {array.shape}."
            )
    most = max((int(array[array != VOID].max(initial=0)) for array in arrays.values()), default=0)
    if arrays and classes is not None and most >= len(classes):
        raise DataError(f"the masks have the class {most}, and there are {plural(len(classes), 'name')} of classes, the first for class 0.")
    names = tuple(classes) if classes is not None else tuple(f"class {number}" for number in range(most + 1))
    values: list[Any] = [
        ArrayMask(f"y[{index}]", arrays[index].astype(np.uint8), names) if index in arrays else PictureMask(str(mask))
        for index, mask in enumerate(masks)
    ]
    return Column(values, [one.cell for one in values], "y")
