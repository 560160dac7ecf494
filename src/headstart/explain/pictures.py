"""Heat laid over a photograph, and the picture that explains one prediction. Drawn with Pillow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Font = Callable[[int], Any]

# From dark to light without a break, so that it is also read in grey and by those who confuse red and green.
_RAMP = np.array(
    [[30, 14, 62], [86, 16, 109], [150, 38, 103], [205, 66, 71], [243, 120, 25], [252, 180, 25], [252, 254, 164]], dtype=np.float32
)
_COVER = 0.62  # of the colour over the photograph, where the heat is 1
_SHADE = 0.38  # of the darkest colour, where it is 0

INK, QUIET, PAPER, SAME, OTHER = (27, 36, 48), (92, 103, 117), (255, 255, 255), (29, 88, 168), (190, 80, 6)
_SIDE, _MARGIN, _GAP = 400, 24, 16


def colours(heat: Floats) -> Pixels:
    """The colour of each heat from 0 to 1: float32 (...) to uint8 (..., 3)."""
    place = np.clip(heat, 0, 1) * (len(_RAMP) - 1)
    low = np.minimum(place.astype(np.int64), len(_RAMP) - 2)
    share = (place - low)[..., None]
    mixed: Pixels = np.round(_RAMP[low] * (1 - share) + _RAMP[low + 1] * share).astype(np.uint8)
    return mixed


def overlay(pixels: Pixels, heat: Floats) -> Image.Image:
    """Lay heat over a photograph: dark where there is none, from violet to light yellow where there is.

    Args:
        pixels: uint8 (H, W, 3).
        heat: float32 (h, w) from 0 to 1, for the same square of the image; it is brought to H x W.

    Raises:
        ParameterError: arrays of other shapes or types.
    """
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or heat.ndim != 2:
        raise ParameterError(f"An overlay takes uint8 (H, W, 3) and heat (h, w), got {pixels.dtype} {pixels.shape} and {heat.shape}.")
    height, width = pixels.shape[:2]
    scaled = Image.fromarray(heat.astype(np.float32), mode="F").resize((width, height), Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(scaled), 0, 1)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)[:, :, None]
    cover = (_SHADE + (_COVER - _SHADE) * heat)[:, :, None]
    return Image.fromarray(np.round(grey * (1 - cover) + colours(heat) * cover).astype(np.uint8))


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A training image that looks alike.

    Attributes:
        label: in words.
        note: what stands below it.
        same: whether it has the class that is explained.
        pixels: uint8 (H, W, 3); None where the file is not there any more.
    """

    label: str
    note: str
    same: bool
    pixels: Pixels | None = None


def explanation_picture(
    pixels: Pixels, heat: Floats, *, title: str, caption: str, neighbours: Sequence[Neighbour] = (), font: Font | None = None
) -> Image.Image:
    """Draw one explanation: the image, its heat beside it, and the nearest training images below.

    Args:
        pixels: uint8 (S, S, 3), the square of the image that the model sees.
        heat: float32 (h, w) from 0 to 1.
        title: what the model says, with its probability.
        caption: a line below the title.
        neighbours: nearest first; five have room.
        font: gives a font of Pillow's for a size in pixels; Pillow's own by default.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = font or ImageFont.load_default
    width = 2 * (_SIDE + _MARGIN) + _GAP
    thumb = (width - 2 * _MARGIN - 4 * _GAP) // 5
    below = 118 + _SIDE
    image = Image.new("RGB", (width, below + 52 + (thumb + 92 if neighbours else 0)), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, 20), _fitted(title, font(30), width - 2 * _MARGIN), font=font(30), fill=INK)
    draw.text((_MARGIN, 62), _fitted(caption, font(17), width - 2 * _MARGIN), font=font(17), fill=QUIET)
    image.paste(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (_MARGIN, 102))
    sharp = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
    image.paste(overlay(sharp, heat), (_MARGIN + _SIDE + _GAP, 102))
    _legend(image, draw, (_MARGIN + _SIDE + _GAP, 102 + _SIDE + 12), font)
    if neighbours:
        _draw_neighbours(image, draw, neighbours[:5], thumb=thumb, top=below + 56, font=font)
    return image


def _legend(image: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], font: Font) -> None:
    """What the colours mean."""
    from PIL import Image

    small, (left, top) = font(15), corner
    words = ("no evidence", "most")
    start = left + round(small.getlength(words[0])) + 10
    length = _SIDE - (start - left) - round(small.getlength(words[1])) - 10
    shades = colours(np.linspace(0, 1, length, dtype=np.float32))
    image.paste(Image.fromarray(np.repeat(shades[None], 12, axis=0)), (start, top + 4))
    draw.text((left, top + 10), words[0], font=small, fill=QUIET, anchor="lm")
    draw.text((start + length + 10, top + 10), words[1], font=small, fill=QUIET, anchor="lm")


def _draw_neighbours(
    image: Image.Image, draw: ImageDraw.ImageDraw, neighbours: Sequence[Neighbour], *, thumb: int, top: int, font: Font
) -> None:
    from PIL import Image, ImageOps

    draw.text((_MARGIN, top - 6), "The training images that are most alike", font=font(17), fill=INK)
    top += 24
    for index, neighbour in enumerate(neighbours):
        left = _MARGIN + index * (thumb + _GAP)
        if neighbour.pixels is None:
            draw.rectangle((left, top, left + thumb - 1, top + thumb - 1), outline=QUIET)
            draw.text((left + thumb // 2, top + thumb // 2), "file not found", font=font(14), fill=QUIET, anchor="mm")
        else:
            image.paste(ImageOps.fit(Image.fromarray(neighbour.pixels), (thumb, thumb), Image.Resampling.BICUBIC), (left, top))
        label = _fitted(neighbour.label, font(16), thumb)
        draw.text((left, top + thumb + 6), label, font=font(16), fill=SAME if neighbour.same else OTHER)
        draw.text((left, top + thumb + 27), _fitted(neighbour.note, font(14), thumb), font=font(14), fill=QUIET)


def _fitted(words: str, font: Any, room: int) -> str:
    """The words, with their middle left out where they are too long."""
    if font.getlength(words) <= room:
        return words
    kept = len(words) - 1
    while kept > 1 and font.getlength(f"{words[: kept // 2]}…{words[-(kept - kept // 2) :]}") > room:
        kept -= 1
    return f"{words[: kept // 2]}…{words[-(kept - kept // 2) :]}"
