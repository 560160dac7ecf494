"""Class maps and heat maps as pictures: a palette of distinct colours, PNG files of indices, and overlays on photographs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOID = 255
"""The value of pixels without a class."""

_FIRST = (
    (0, 0, 0), (86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
"""Black for the first class, often the background; then the colours of Okabe and Ito (2008), which the colour-blind can tell apart."""

_HEAT = ((0.0, (0, 0, 4)), (0.25, (87, 16, 110)), (0.5, (188, 55, 84)), (0.75, (249, 142, 9)), (1.0, (252, 255, 164)))
"""Dark to bright by way of red, so that brightness alone tells the order."""


@cache
def palette() -> NDArray[np.uint8]:
    """Colours of the values 0 to 255, uint8 (256, 3), all different; `VOID` is light gray.

    From the ninth class on each colour is the one of a fixed list of candidates that is the furthest from those before it in CIELAB,
    so that also many classes differ as much as they can.
    """
    levels = np.array([0, 51, 102, 153, 204, 255])
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    finer = np.stack(np.meshgrid(*[np.arange(25, 256, 76)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    candidates = np.concatenate([candidates, finer])
    void = np.array([224, 224, 224])
    chosen = [np.array(colour) for colour in _FIRST]
    lab = _lab(candidates)
    distance = np.min([np.linalg.norm(lab - _lab(colour[None]), axis=1) for colour in (*chosen, void)], axis=0)
    while len(chosen) < VOID:
        best = int(distance.argmax())
        chosen.append(candidates[best])
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=1))
    found = np.array([*chosen, void], dtype=np.uint8)
    found.flags.writeable = False
    return found


def _lab(colours: NDArray[Any]) -> NDArray[np.float64]:
    """CIELAB of sRGB colours (n, 3)."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]) / [0.9505, 1.0, 1.089]
    curve = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * curve[:, 1] - 16, 500 * (curve[:, 0] - curve[:, 1]), 200 * (curve[:, 1] - curve[:, 2])], axis=1)


def hex_colour(index: int) -> str:
    """The colour of a class as ``#rrggbb``."""
    return "#" + bytes(palette()[index].tolist()).hex()


def indexed_png(classes: NDArray[np.uint8], *, opacity: NDArray[np.uint8] | None = None, level: int = 6) -> bytes:
    """A class map uint8 (H, W) as a PNG of mode P with the `palette`; `opacity` uint8 (256,) makes some values transparent.

    `level` is that of the compression, from 0 to 9.
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(classes))
    picture.putpalette(palette().tobytes())
    file = io.BytesIO()
    transparency = {} if opacity is None else {"transparency": opacity.tobytes()}
    picture.save(file, format="PNG", compress_level=level, **transparency)
    return file.getvalue()


def overlay(picture: NDArray[np.uint8], classes: NDArray[np.uint8], *, opacity: float = 0.5, clear: int | None = None) -> NDArray[np.uint8]:
    """A picture uint8 (H, W, 3) with the colours of a class map (H, W) over it; pixels of the class `clear` and `VOID` stay as they are."""
    found = np.empty_like(picture)
    share = np.full(256, opacity, dtype=np.float32)
    share[[VOID, *([] if clear is None else [clear])]] = 0
    tint, rest = palette() * share[:, None], 1 - share
    for start in range(0, len(picture), 256):  # a large image takes little memory
        part = slice(start, start + 256)
        own = classes[part]
        found[part] = (picture[part] * rest[own][..., None] + tint[own] + 0.5).astype(np.uint8)
    return found


def error_png(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> bytes:
    """Where two class maps differ, as a PNG to lay over the image: red; what has no true class (`VOID`) is gray, the rest transparent."""
    from PIL import Image

    found = (truth != predicted).astype(np.uint8)
    found[truth == VOID] = 2
    picture = Image.fromarray(found)
    picture.putpalette(bytes([0, 0, 0, 220, 30, 30, 128, 128, 128]))
    file = io.BytesIO()
    picture.save(file, format="PNG", transparency=bytes([0, 200, 160]))
    return file.getvalue()


def with_boxes(picture: NDArray[np.uint8], boxes: Sequence[tuple[Sequence[float], str, str]]) -> NDArray[np.uint8]:
    """A picture uint8 (H, W, 3) with boxes on it: left, top, right and bottom in pixels, a label and a colour ``#rrggbb`` each.

    The first of them lies on top. Lines and labels are as large as suits the picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    draw, side = ImageDraw.Draw(image), max(image.size)
    line, font = max(2, side // 300), ImageFont.load_default(max(11, side // 45))
    for box, label, colour in reversed(boxes):
        left, top, right, bottom = box
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=line)
        wide, high = draw.textbbox((0, 0), label, font=font)[2:]
        above = top - high - 2 * line if top >= high + 2 * line else top
        draw.rectangle((left, above, left + wide + 2 * line, above + high + 2 * line), fill=colour)
        draw.text((left + line, above + line), label, fill=readable(colour), font=font)
    return np.asarray(image)


def readable(colour: str) -> str:
    """Black or white, whichever is the easier to read on a colour ``#rrggbb``."""
    light = float(_lab(np.array([list(bytes.fromhex(colour[1:]))]))[0, 0])
    return "#000000" if light > 55 else "#ffffff"


def thumbnail(picture: NDArray[np.uint8], size: tuple[int, int], *, smooth: bool = True) -> NDArray[np.uint8]:
    """A picture (H, W, 3) or class map (H, W) at another height and width; class maps are never smoothed."""
    if not smooth:
        rows, columns = (((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, picture.shape[:2], strict=True))
        return np.asarray(picture[rows][:, columns])
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BOX, reducing_gap=2.0))


def jpeg_bytes(picture: NDArray[np.uint8], *, quality: int = 90, comment: str = "") -> bytes:
    """A picture uint8 (H, W, 3) as a JPEG with a comment."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=quality, comment=comment.encode())
    return file.getvalue()


def heat_png(values: NDArray[np.floating], *, low: float, high: float) -> bytes:
    """A map (H, W) as a PNG of mode P, dark at `low` and bright at `high`; larger values are less transparent."""
    from PIL import Image

    share = np.clip((np.asarray(values, dtype=np.float32) - low) / max(high - low, 1e-12), 0, 1)
    steps = np.arange(256) / 255
    places, colours = np.array([place for place, _ in _HEAT]), np.array([colour for _, colour in _HEAT])
    table = np.stack([np.interp(steps, places, colours[:, channel]) for channel in range(3)], axis=1)
    picture = Image.fromarray((share * 255 + 0.5).astype(np.uint8))
    picture.putpalette(table.round().astype(np.uint8).tobytes())
    file = io.BytesIO()
    picture.save(file, format="PNG", transparency=bytes(np.clip(steps * 1.6 * 255, 0, 255).astype(np.uint8).tolist()))
    return file.getvalue()


def base64_text(data: bytes) -> str:
    """Bytes in base 64."""
    return base64.b64encode(data).decode("ascii")
