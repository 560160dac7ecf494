"""Training images as pixels: decoded once as far as memory allows, and augmented views of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError, ImageError
from headstart.features import Images
from headstart.modalities.image import Preprocessing, image_name, source_bytes
from headstart.modalities.image.augment import Augmentation

Uint8 = npt.NDArray[np.uint8]


class Pixels:
    """Images by their number, as the network sees them in testing, and as views for training.

    Args:
        images: paths, bytes or arrays; or one uint8 array (n, H, W, 3).
        preprocessing: as in testing.
        augmentation: of the views.
        seed: of the views.
        memory: bytes of decoded images that may be kept.
    """

    def __init__(self, images: Images, *, preprocessing: Preprocessing, augmentation: Augmentation, seed: int, memory: int) -> None:
        self._images = images
        self._preprocessing = preprocessing
        self._augmentation = augmentation
        self._seed = seed
        # A random crop is taken out of the whole image and not out of the part that testing would see.
        share = preprocessing.crop if augmentation.crop < 1 else 1.0
        self._larger = replace(preprocessing, size=round(preprocessing.size / share), crop=1.0) if share < 1 else preprocessing
        self._kept: dict[int, Uint8] = {}
        self._room = memory // (self._larger.size**2 * 3)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image as the network takes it."""
        return (self._preprocessing.size, self._preprocessing.size, 3)

    def plain(self, index: int) -> Uint8:
        """uint8 (size, size, 3), as in testing."""
        kept = self._kept.get(index) if self._larger is self._preprocessing else None
        return self._decoded(index, self._preprocessing) if kept is None else kept

    def view(self, index: int, number: int) -> Uint8:
        """View `number` of an image, uint8 (size, size, 3)."""
        pixels = self._kept.get(index)
        if pixels is None:
            pixels = self._decoded(index, self._larger)
            if len(self._kept) < self._room:
                self._kept[index] = pixels
        if self._augmentation.still:
            return pixels
        size, keys = self._preprocessing.size, np.array([index])
        made: Uint8 = self._augmentation.views(pixels[None], size=size, keys=keys, seed=self._seed, view=number)[0]
        return made

    def _decoded(self, index: int, preprocessing: Preprocessing) -> Uint8:
        source = self._images[index]
        try:
            return preprocessing(source_bytes(source), name=image_name(source))
        except ImageError as error:  # it could be read when its features were computed
            raise DataError(f"An image cannot be read any longer: {error}. Do not change the images during a training.") from None
