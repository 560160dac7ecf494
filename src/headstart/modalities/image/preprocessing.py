"""`Preprocessing`: the one way from a decoded image to the square of pixels that a network takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headstart.errors import ParameterError
from headstart.modalities.image.decode import DECODER_VERSION, ImageSource, Pixels, image_name, read_image

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_FITS = ("crop", "squash")


@dataclass(frozen=True)
class Preprocessing:
    """Decode, make upright, cut or squash to a square, resize. Normalisation is inside the network.

    Attributes:
        size: height and width of the result in pixels.
        crop: share of the shorter side that is kept, from the centre (timm's ``crop_pct``).
        interpolation: Pillow's filter, antialiased: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        fit: ``crop`` keeps the aspect ratio and cuts the longer side; ``squash`` keeps the whole image and changes its aspect ratio.
    """

    size: int
    crop: float = 1.0
    interpolation: str = "bicubic"
    fit: str = "crop"

    def __post_init__(self) -> None:
        if not (isinstance(self.size, int) and 8 <= self.size <= 4096):
            raise ParameterError(f"Preprocessing size must be a whole number from 8 to 4096, got {self.size!r}.")
        if not 0 < self.crop <= 1:
            raise ParameterError(f"Preprocessing crop must be above 0 and at most 1, got {self.crop!r}.")
        if self.interpolation not in _INTERPOLATIONS:
            raise ParameterError(f"Preprocessing interpolation must be one of {', '.join(_INTERPOLATIONS)}, got {self.interpolation!r}.")
        if self.fit not in _FITS:
            raise ParameterError(f"Preprocessing fit must be one of {', '.join(_FITS)}, got {self.fit!r}.")

    @property
    def id(self) -> str:
        """Covers everything that changes a pixel, the version of the decoder included."""
        return f"{self.fit}{self.size}-{self.crop:g}-{self.interpolation}-d{DECODER_VERSION}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        return cls(**values)

    def __call__(self, source: ImageSource, *, name: str | None = None) -> Pixels:
        """Turn an image into a uint8 array (size, size, 3).

        Raises:
            ImageError: the image is refused; carries path and reason.
        """
        from PIL import Image

        share = self.crop if self.fit == "crop" else 1.0
        pixels = read_image(source, at_least=math.ceil(self.size / share), name=name or image_name(source))
        height, width = pixels.shape[:2]
        cut_h, cut_w = (height, width) if self.fit == "squash" else (min(height, width) * share,) * 2
        left, top = (width - cut_w) / 2, (height - cut_h) / 2
        if (height, width) == (self.size, self.size) and share == 1.0:
            return pixels
        resized = Image.fromarray(pixels).resize(
            (self.size, self.size),
            Image.Resampling[self.interpolation.upper()],
            box=(left, top, left + cut_w, top + cut_h),
            reducing_gap=3.0,
        )
        return np.asarray(resized)
