"""A sheet of views of some images, to check an augmentation before a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headstart.errors import ParameterError
from headstart.modalities.image import ImageSource, Preprocessing, image_name
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.warp import Pixels, View, one_thread, render
from headstart.text import fitted, font_at

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_INK, _QUIET, _PAPER, _RULE = (27, 36, 48), (92, 103, 117), (255, 255, 255), (222, 227, 233)
_MARGIN, _GAP, _HEAD, _LINE = 28, 14, 94, 17  # the head grows by 20 for each line of settings
_LEAST_SHOWN, _MOST_SHOWN = 160, 240  # pixels: smaller pictures leave no room for captions, a few larger ones fill the screen


def sheet(
    images: Sequence[ImageSource], augmentation: Augmentation, *, preprocessing: Preprocessing, seed: int = 0, columns: int = 6
) -> Image.Image:
    """Draw a row for each image: without augmentation, then `columns` - 1 views with captions. MixUp and CutMix need a batch: not shown."""
    from PIL import Image, ImageDraw

    if not images:
        raise ParameterError("A sheet of views needs at least one image.")
    if columns < 2:
        raise ParameterError(f"A sheet of views needs at least 2 columns, the first is the image without augmentation; got {columns!r}.")
    side = min(_MOST_SHOWN, max(_LEAST_SHOWN, preprocessing.size))
    drawn = [[augmentation.view(key=row, seed=seed, view=number) for number in range(columns - 1)] for row in range(len(images))]
    captions = [[_wrapped(describe(view) or ["unchanged"], side) for view in views] for views in drawn]
    lines = max(1, *(len(caption) for row in captions for caption in row))
    step_x, step_y = side + _GAP, side + 8 + lines * _LINE + _GAP
    first = _MARGIN + step_x + 2 * _GAP  # a wider gap sets the original apart from the views
    width = first + (columns - 1) * step_x - _GAP + _MARGIN
    settings = _settings(augmentation, size=preprocessing.size, width=width - 2 * _MARGIN)
    head = _HEAD + 20 * len(settings)
    paper = Image.new("RGB", (width, head + len(images) * step_y + _MARGIN - _GAP), _PAPER)
    draw = ImageDraw.Draw(paper)
    _write_head(draw, settings, first=first, width=width, bottom=head)
    for row, (source, views) in enumerate(zip(images, drawn, strict=True)):
        pixels, y = preprocessing(source), head + row * step_y
        paper.paste(_shown(pixels, side), (_MARGIN, y))
        name = source if isinstance(source, bytes | np.ndarray) else Path(image_name(source)).name
        label = fitted(name, font_at(13), side) if isinstance(name, str) else f"image {row + 1}"
        draw.text((_MARGIN, y + side + 8), label, font=font_at(13), fill=_INK)
        for column, view in enumerate(views):
            x = first + column * step_x
            with one_thread():
                paper.paste(_shown(render(pixels, view, size=preprocessing.size), side), (x, y))
            for number, line in enumerate(captions[row][column]):
                draw.text((x, y + side + 8 + number * _LINE), line, font=font_at(13), fill=_QUIET)
    return paper


def describe(view: View) -> list[str]:
    """The visible changes of an image, each in a few words."""
    top, left, bottom, right = view.crop
    area = (bottom - top) * (right - left)
    changes = {"light": view.brightness, "contrast": view.contrast} | ({} if view.gray else {"colour": view.saturation})
    facts = (
        ("mirrored", view.mirrored),
        ("upside down", view.upside_down),
        (f"cropped to {100 * area:.0f} %", area < 0.995),
        (f"turned {_signed(view.rotation)}°", abs(view.rotation) >= 0.5),
        (f"sheared {_signed(view.shear)}°", abs(view.shear) >= 0.5),
        (f"zoom {view.zoom[1]:.2f} × {view.zoom[0]:.2f}", view.zoom != (1.0, 1.0)),
        (f"moved {_signed(100 * view.shift[1])} {_signed(100 * view.shift[0])} %", view.shift != (0.0, 0.0)),
        *((f"{name} {_signed(100 * factor - 100)} %", abs(factor - 1) >= 0.03) for name, factor in changes.items()),
        (f"hue {_signed(360 * view.hue)}°", abs(view.hue) >= 0.5 / 360 and not view.gray),
        ("gray", view.gray),
        ("part erased", view.erased is not None),
    )
    return [text for text, true in facts if true]


def _signed(value: float) -> str:
    return f"{value:+.0f}".replace("-", "−")


def _settings(augmentation: Augmentation, *, size: int, width: int) -> list[str]:
    """The lines below the title: the size, and all settings."""
    mixed = ("MixUp", augmentation.mixup), ("CutMix", augmentation.cutmix)
    later = " and ".join(name for name, alpha in mixed if alpha)
    words = [f"{size} × {size} pixels", *augmentation.text.split(","), *([f"without {later}, which need a batch"] if later else [])]
    return _wrapped(words, width, size=14)


def _write_head(draw: ImageDraw.ImageDraw, settings: Sequence[str], *, first: int, width: int, bottom: int) -> None:
    draw.text((_MARGIN, 20), "What the network sees", font=font_at(22), fill=_INK)
    for number, line in enumerate(settings):
        draw.text((_MARGIN, 52 + number * 20), line, font=font_at(14), fill=_QUIET)
    draw.line([(_MARGIN, bottom - 34), (width - _MARGIN, bottom - 34)], fill=_RULE)
    draw.text((_MARGIN, bottom - 25), "without augmentation", font=font_at(14), fill=_INK)
    draw.text((first, bottom - 25), "views in training", font=font_at(14), fill=_INK)


def _shown(pixels: Pixels, side: int) -> Image.Image:
    """The picture at its size on the sheet; small ones are enlarged without smoothing."""
    from PIL import Image

    filter = Image.Resampling.LANCZOS if pixels.shape[0] > side else Image.Resampling.NEAREST
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), filter)


def _wrapped(words: Sequence[str], width: int, *, size: int = 13) -> list[str]:
    """Lines of at most `width` pixels, broken between the entries of `words`."""
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]}, {word}" if lines else word
        if lines and font_at(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
