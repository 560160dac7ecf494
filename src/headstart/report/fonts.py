"""The letters in the pictures."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFont

SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf")


@cache
def font_at(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return one of the system's fonts, which know far more scripts than Pillow's own; else that."""
    from PIL import ImageFont

    for name in SYSTEM_FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)
