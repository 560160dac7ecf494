"""Pictures whose pixels are values and not colours, such as masks: decoded without changing a single one of them.

An index of a palette stays an index, a gray level of 8 or 16 bits stays what it is, and three equal channels are one. Nothing is scaled,
and transparency is not laid over white.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import ImageError
from headstart.modalities.image.decode import FORMATS, MAX_PIXELS, decoding, source_bytes

if TYPE_CHECKING:
    from PIL import Image

_SPARSE = 64  # columns of which one is looked at first: most pictures with a colour have one there
GRAY = 0x010101
"""A gray level times this is its colour."""


@dataclass(frozen=True, eq=False)
class Values:
    """The values of a picture, upright.

    Attributes:
        array: (H, W), the last axis along the rows: uint8, uint16 or int32 values, or uint32 colours (red << 16 | green << 8 | blue).
        colours: uint32 (256,): the colour of each value, where values are indices or gray levels of 8 bits; None otherwise.
        coloured: whether `array` holds colours.
        lossy: whether the format changes values in storing them, as JPEG does.
        palette: whether the values are indices of a palette.
        transparent: whether some pixels are transparent; their value is 0.
    """

    array: npt.NDArray[Any]
    colours: npt.NDArray[np.uint32] | None = None
    coloured: bool = False
    lossy: bool = False
    palette: bool = False
    transparent: bool = False


def read_values(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> Values:
    """Decode a picture of values; ImageError, with the reason, where it cannot be decoded or holds floating point."""
    name = name or ("<bytes>" if isinstance(source, bytes) else os.fspath(source))
    data = source_bytes(source)
    assert isinstance(data, bytes)
    from headstart.modalities.image.rgb import without_texts

    with decoding(name, data):
        try:
            return _decoded(data, name)
        except ValueError:  # Pillow refuses a PNG for the length of its texts
            if len(shorter := without_texts(data)) == len(data):
                raise
            return _decoded(shorter, name)


def _decoded(data: bytes, name: str) -> Values:
    from headstart.modalities.image.rgb import open_image, orientation, turned

    with open_image(data, FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width}x{image.height} is {image.width * image.height / 1e6:.0f} megapixels"
            raise ImageError(name, f"{size}; the limit is {MAX_PIXELS / 1e6:.0f}")
        steps = {"L;2": 85, "L;4": 17}.get(str(image.tile[0].args) if image.tile else "", 1)  # Pillow spreads these over 8 bits
        lossy = image.format in ("JPEG", "MPO") or (image.format == "WEBP" and b"VP8L" not in data[:64])
        image.load()
        if image.mode == "F":
            raise ImageError(name, "it holds floating point; a mask holds whole numbers or colours: save it as PNG")
        array, colours, transparent = _values(image)
        if steps > 1:
            array, colours = array // np.uint8(steps), (np.arange(256) * steps % 256 * GRAY).astype(np.uint32)
        upright = np.ascontiguousarray(turned(array[:, :, None], orientation(image))[:, :, 0])
    return Values(
        upright, colours, coloured=upright.dtype == np.uint32, lossy=lossy, palette=image.mode in ("P", "PA"), transparent=transparent
    )


def _values(image: Image.Image) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint32] | None, bool]:
    gray = (np.arange(256) * GRAY).astype(np.uint32)
    mode = image.mode
    if mode in ("P", "PA"):
        indices = np.asarray(image) if mode == "P" else np.asarray(image)[:, :, 0]
        rgb = np.zeros((256, 3), np.uint32)
        given = np.array(image.getpalette("RGB") or [], np.uint32).reshape(-1, 3)[:256]
        rgb[: len(given)] = given
        return indices, packed(rgb), False
    if mode == "1":
        return np.asarray(image).astype(np.uint8) * np.uint8(255), gray, False
    if mode == "L":
        return np.asarray(image), gray, False
    if mode in ("LA", "La"):
        return _gray_with_opacity(np.asarray(image), gray)
    if mode == "I" or mode.startswith("I;"):
        deep = np.asarray(image)
        return deep.astype(np.uint16 if deep.dtype.itemsize == 2 else np.int32), None, False
    opaque = None
    if mode in ("RGBA", "RGBa"):
        pixels = np.asarray(image.convert("RGBA") if mode == "RGBa" else image)
        opaque = pixels[:, :, 3] > 0
    else:
        pixels = np.asarray(image if mode == "RGB" else image.convert("RGB"))
    pixels = pixels[:, :, :3]
    transparent = opaque is not None and not bool(opaque.all())
    if transparent:
        assert opaque is not None
        pixels = np.where(opaque[:, :, None], pixels, np.uint8(0))
    colours = packed(pixels)
    if np.array_equal(some := colours[:, ::_SPARSE], (some & 255) * GRAY) and np.array_equal(colours, (colours & 255) * GRAY):
        return pixels[:, :, 0], gray, transparent
    return colours, None, transparent


def _gray_with_opacity(
    pixels: npt.NDArray[np.uint8], gray: npt.NDArray[np.uint32]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint32], bool]:
    opaque = pixels[:, :, 1] > 0
    return np.where(opaque, pixels[:, :, 0], np.uint8(0)), gray, not bool(opaque.all())


def packed(rgb: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Colours (..., 3) from 0 to 255 as numbers uint32 (...)."""
    four = np.zeros((*rgb.shape[:-1], 4), np.uint8)
    for place in range(3):
        four[..., place] = rgb[..., 2 - place]
    return four.view("<u4")[..., 0].astype(np.uint32, copy=False)


def unpacked(colours: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Numbers (...) as colours uint8 (..., 3)."""
    wide = np.asarray(colours, np.uint32)
    return np.stack([wide >> 16 & 255, wide >> 8 & 255, wide & 255], axis=-1).astype(np.uint8)


def upright_size(source: str | os.PathLike[str]) -> tuple[tuple[int, int], int] | None:
    """Height and width of an image when it is upright, and the orientation (1 to 8) that its metadata name; None where it cannot be opened.

    Only the header is read.
    """
    from PIL import Image

    from headstart.modalities.image.rgb import orientation

    with suppress(Exception), Image.open(source) as image:  # what is damaged is refused, with its reason, where it is decoded
        turn, (width, height) = orientation(image), image.size
        return ((width, height) if turn >= 5 else (height, width)), turn
    return None
