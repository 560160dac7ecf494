"""From a file or an image of Pillow to upright RGB of 8 bits: the rules for modes, bit depth, transparency and orientation, in one place.

It needs Pillow and NumPy alone, since its text is also a part of the programs that `headstart export --snippet` prints, so that they decode
as Headstart does. It is imported when the first image is decoded.
"""

import io
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

Levels = tuple[float, float] | None
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def read_rgb(
    data: bytes, levels: Levels = None, *, formats: tuple[str, ...] | None = None, opened: Callable[[Image.Image], Any] = lambda image: None
) -> npt.NDArray[np.uint8]:
    """Decode a file: uint8 (H, W, 3). `levels` are as of `upright_rgb`; `opened` is called before the pixels are decoded."""
    try:
        with open_image(data, formats) as image:
            opened(image)
            low = None if levels is None else low_bytes(data, image)
            return upright_rgb(image, levels, low=low)
    except ValueError:  # Pillow refuses a PNG for the length of its texts
        if len(shorter := without_texts(data)) == len(data):
            raise
        return read_rgb(shorter, levels, formats=formats, opened=opened)


def open_image(data: bytes, formats: tuple[str, ...] | None = None, *, low: bool = False) -> ImageFile.ImageFile:
    """Open a file at its first picture that is no thumbnail; with `low`, so that the lower bytes of 16-bit colour are decoded as the upper.

    Pillow takes compressed samples of big-endian TIFF to be big-endian, planes of 16 bits to be of 8, and does not scale the transparent
    value of PNG with fewer than 8 bits: that is mended here.
    """
    image = Image.open(io.BytesIO(data), formats=formats)
    steps = {"L;2": 85, "L;4": 17}.get(str(image.tile[0].args) if image.tile else "")
    if steps and isinstance(clear := image.info.get("transparency"), int):
        image.info["transparency"] = clear * steps
    tags = getattr(image, "tag_v2", None)
    while tags is not None and tags.get(254, 0) & 1:
        image.seek(image.tell() + 1)
        tags = getattr(image, "tag_v2", None)
    tiles = []
    for tile in image.tile if low or tags is not None else ():
        mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        mode = str(mode)
        if tile.codec_name == "libtiff" and mode in ("F;32BF", "I;16BS", "I;32BS"):
            mode = mode.replace("B", "N")
        if tags is not None and mode in ("R", "G", "B", "A") and tags.get(258, (8,))[0] == 16:
            mode += ";16B" if tags.prefix == b"MM" else ";16L"
        if low and mode == "LA;16B":  # its four bytes as four samples, since Pillow cannot take the lower ones
            mode = "RGBA"
        elif low:
            mode = mode[:-1] + ("L" if mode.endswith("B") else "B")
        tiles.append(tile._replace(args=(mode, *rest) if rest else mode))
    image.tile = tiles or image.tile
    return image


def upright_rgb(image: Image.Image, levels: Levels = None, *, low: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
    """What an image of Pillow becomes: uint8 (H, W, 3).

    Samples of more than 8 bits are scaled so that of the two `levels` the first becomes 0 and the second 255; without them 16-bit gray is
    divided by 257, and of 16-bit colour the upper bytes count. `low` are its lower bytes, which Pillow drops.
    """
    image.load()
    deep = deep_samples(image, low)
    if deep is None:
        pixels = np.asarray(_over_white(image))
    else:
        pixels = _to_8_bit(deep, levels)
        if low is not None and image.mode == "RGBA":  # Pillow has laid the upper bytes of the opacity beside
            pixels = np.asarray(_over_white(Image.fromarray(np.dstack([pixels, np.asarray(image)[:, :, -1]]))))
        elif isinstance(clear := image.info.get("transparency"), int):
            pixels = np.where(deep == clear, np.uint8(255), pixels)
    return np.ascontiguousarray(turned(pixels, orientation(image)))  # after loading: Pillow turns TIFF upright itself and then says so


def deep_samples(image: Image.Image, low: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[Any] | None:
    """The samples of an image of more than 8 bits: gray (H, W, 1), or colour (H, W, 3) with its lower bytes `low`; None for others."""
    if low is not None:
        colours = 1 if low.shape[2] == 2 else 3  # gray has the lower bytes of itself and of its opacity
        return (np.asarray(image)[:, :, :colours].astype(np.uint16) << 8) | low[:, :, :colours]
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return None
    samples = np.asarray(image)[:, :, None]
    tags = getattr(image, "tag_v2", {})
    if samples.dtype.kind == "u" and samples.dtype.itemsize == 2:
        samples = samples.astype(np.uint16)
        if tags.get(258) == (12,):  # the file says that it has 12 bits
            samples = (samples.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
    if tags.get(262) == 0:  # white is zero
        samples = np.asarray(levels_of(samples)[1] - samples, dtype=samples.dtype)
    return samples


def levels_of(samples: npt.NDArray[Any]) -> tuple[float, float]:
    """The levels of one image by itself: those of 8 or 16 bits, of floating point 0 to 1, where its values fit; else its own extremes."""
    if samples.dtype == np.uint16:
        return 0.0, 65535.0
    low, high = span_of(samples)
    fitting = (1.0, 255.0) if samples.dtype.kind == "f" else (255.0, 65535.0)
    return next(((0.0, white) for white in fitting if low >= 0 and high <= white), (low, high))


def span_of(samples: npt.NDArray[Any]) -> tuple[float, float]:
    """The smallest and the largest value; of floating point, among the finite ones and 0."""
    if samples.dtype.kind == "f":
        samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    return float(samples.min()), float(samples.max())


def _to_8_bit(samples: npt.NDArray[Any], levels: Levels) -> npt.NDArray[np.uint8]:
    black, white = levels or levels_of(samples)

    def scaled(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        return np.rint(np.clip((values - black) * (255 / (white - black or 1)), 0, 255)).astype(np.uint8)

    pixels = scaled(np.arange(65536))[samples] if samples.dtype == np.uint16 else scaled(samples)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, (255, 255, 255, 255)), layered)
    return image if image.mode == "RGB" else image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """The orientation that the metadata of an image name, 1 to 8; 1 where they cannot be read: the pixels are what counts."""
    with suppress(Exception):
        value = image.getexif().get(0x0112, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return 1


def turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undo an orientation, as views."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def low_bytes(data: bytes, image: ImageFile.ImageFile) -> npt.NDArray[np.uint8] | None:
    """The lower bytes of 16-bit colour, decoded as if they were the upper ones; None for other images."""
    modes = {str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in image.tile}
    if not modes or not all(re.fullmatch("(LA|RGB|RGBA|RGBX|R|G|B|A);16[BLN]", mode) for mode in modes):
        return None
    with open_image(data, (image.format or "",), low=True) as again:
        again.load()
        samples = np.asarray(again)
        return samples[:, :, 1::2] if modes == {"LA;16B"} else samples


def without_texts(data: bytes) -> bytes:
    """A PNG without its texts, but for those that may hold an orientation."""
    kept, at = [data[:8]], 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _TEXTS or data[at + 8 : at + 25].startswith((b"XML:com.adobe.xmp", b"Raw profile type ")):
            kept.append(data[at:end])
        at = end
    return b"".join(kept) if len(kept) > 1 else data
