"""`Preprocessing`: the one way from a decoded image to the square of pixels that a network takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from headstart.modalities import IMAGE, Modality
from headstart.modalities.image.decode import (
    DECODER_VERSION,
    ImageSource,
    Levels,
    Pixels,
    image_digest,
    image_name,
    read_reduced,
    source_bytes,
)
from headstart.settings.field import LEVELS, Settings, documented, number, one_of, option, whole

OVERSAMPLING = 2.0
"""How many times larger than its target, at least, an image is decoded.

From here on the squares of real photographs are, in the mean, within half a level of 255 of those from full decoding; decoding more makes
them hardly more alike and costs time: see ``benchmarks/decoding_scale.py``.
"""


@documented
@dataclass(frozen=True)
class Preprocessing(Settings):
    """Decode, make upright, cut or squash to a square, resize. Normalisation is inside the network."""

    modality: ClassVar[Modality] = IMAGE

    size: int = option(MISSING, "Height and width of the result in pixels.", whole(8, 4096))
    crop: float = option(1.0, "Share of the shorter side that is kept, from the centre (timm's ``crop_pct``).", number(above=0, most=1))
    interpolation: str = option(
        "bicubic", "Pillow's filter, antialiased: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.",
        one_of("nearest", "bilinear", "bicubic", "lanczos"),
    )  # fmt: skip
    fit: str = option(
        "crop", "``crop`` keeps the aspect ratio and cuts the longer side; ``squash`` keeps the whole image and changes its aspect ratio.",
        one_of("crop", "squash"),
    )  # fmt: skip
    levels: Levels = option(
        None, "Samples of more than 8 bits that become black and white, such as (0, 4095).", LEVELS,
        details="None: those of their type, or of the image.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels is not None:
            object.__setattr__(self, "levels", (float(self.levels[0]), float(self.levels[1])))

    @property
    def inputs(self) -> dict[str, tuple[Any, tuple[int | str, ...]]]:
        """The input of the network: ``images``, uint8 (N, size, size, 3)."""
        return {"images": (np.uint8, ("N", self.size, self.size, 3))}

    @staticmethod
    def read(source: ImageSource) -> Any:
        """A file's bytes; all else as it is. Errors as of `source_bytes`."""
        return source_bytes(source)

    @staticmethod
    def digest(content: Any) -> bytes:
        """SHA-256 of the content: `image_digest`."""
        return image_digest(content)

    @staticmethod
    def called(source: ImageSource) -> str:
        """What an image is called in messages: `image_name`."""
        return image_name(source)

    @staticmethod
    def counted(inputs: object) -> None:
        """Nothing is counted in images."""

    @classmethod
    def from_run(cls, entry: Mapping[str, Any], files: object) -> Self:
        """From the entry of a manifest; errors as of `from_dict`."""
        return cls.from_dict(entry)

    @staticmethod
    def files() -> dict[str, bytes]:
        """None: `to_dict` says everything."""
        return {}

    @property
    def id(self) -> str:
        """Covers everything that changes a pixel, the version of the decoder included."""
        levels = "" if self.levels is None else "-l{!r}-{!r}".format(*self.levels)
        return f"{self.fit}{self.size}-{self.crop:g}-{self.interpolation}{levels}-d{DECODER_VERSION}"

    def __call__(self, source: ImageSource, *, name: str | None = None) -> Pixels:
        """Turn an image into a uint8 array (size, size, 3); ImageError, with path and reason, where it is refused."""
        from PIL import Image

        share = self.crop if self.fit == "crop" else 1.0
        at_least = math.ceil(OVERSAMPLING * self.size / share)
        pixels, (left, top, right, bottom) = read_reduced(source, at_least=at_least, name=name or image_name(source), levels=self.levels)
        if pixels.shape[:2] == (self.size, self.size) and share == 1.0:
            return pixels
        height, width = bottom - top, right - left
        cut_h, cut_w = (height, width) if self.fit == "squash" else (min(height, width) * share,) * 2
        left, top = left + (width - cut_w) / 2, top + (height - cut_h) / 2
        box = (left, top, left + cut_w, top + cut_h)
        resized = Image.fromarray(pixels).resize(
            (self.size, self.size), Image.Resampling[self.interpolation.upper()], box=box, reducing_gap=3.0
        )
        return np.asarray(resized)
