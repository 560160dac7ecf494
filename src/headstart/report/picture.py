"""confusion_matrix.png, drawn with Pillow, which is loaded anyway: a plotting library would cost a run longer to import than to use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.evaluate import Evaluation
from headstart.report.fonts import font_at
from headstart.report.matrix import shades
from headstart.text import percent, shorten

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

SIDE = 900  # pixels of the matrix, as long as the cells keep a fair size
NAMED = 150  # more classes than this have no room for their names
HIT, MISS, EMPTY = np.array([29, 88, 168]), np.array([214, 96, 10]), np.array([244, 246, 248])
INK, QUIET, PAPER = (27, 36, 48), (92, 103, 117), (255, 255, 255)


def confusion_matrix_png(evaluation: Evaluation, path: str | Path, *, part: str = "test") -> None:
    """Draw the confusion matrix of `evaluation` with counts and shares of each row into the PNG file `path`.

    Raises ParameterError for multi-label data, where an image has no single class to be confused with another.
    """
    from PIL import Image, ImageDraw

    if evaluation.confusion is None:
        raise ParameterError(
            "multi-label data have no confusion matrix: an image has no single class. See the scores of each class instead."
        )
    confusion, count = evaluation.confusion, len(evaluation.classes)
    cell = min(110, max(14, SIDE // count)) if count <= NAMED else max(1, 1800 // count)
    font = font_at(min(18, max(10, round(cell * 0.7))))
    names = [shorten(name, 28) for name in evaluation.classes] if count <= NAMED else []
    wide = max((round(font.getlength(name)) for name in names), default=0)
    level = count <= 6 and wide < cell
    left, top, below = 44 + wide + 10, 86, (30 if level else wide + 14) + 34
    title_font, quiet_font = font_at(22), font_at(15)
    title = evaluation.summary(part)
    width = max(left + cell * count + 24, 48 + round(title_font.getlength(title)))
    image = Image.new("RGB", (width, top + cell * count + below), PAPER)
    image.paste(Image.fromarray(_cells(confusion, cell)), (left, top))
    draw = ImageDraw.Draw(image)
    draw.text((24, 20), title, font=title_font, fill=INK)
    draw.text((24, 50), "Each row: the images of one class, and what they were named.", font=quiet_font, fill=QUIET)
    _numbers(draw, confusion, cell, (left, top))
    for index, name in enumerate(names):
        middle = cell * index + cell // 2
        draw.text((left - 10, top + middle), name, font=font, fill=INK, anchor="rm")
        if level:
            draw.text((left + middle, top + cell * count + 8), name, font=font, fill=INK, anchor="ma")
        else:
            _upright(image, name, font, (left + middle, top + cell * count + 8))
    draw.text((left + cell * count // 2, image.height - 14), "named by the model", font=quiet_font, fill=QUIET, anchor="ms")
    _upright(image, "true class", quiet_font, (18, top + cell * count // 2), centred=True)
    image.save(path, format="PNG", compress_level=1)  # half the time of the default, for files of under 200 kB


def _cells(confusion: NDArray[np.int64], cell: int) -> NDArray[np.uint8]:
    """Paint the cells, uint8 (side, side, 3), with a white line between them where they are large enough."""
    strength = shades(confusion)[:, :, None]
    colour = np.where(np.eye(len(confusion), dtype=bool)[:, :, None], HIT, MISS)
    tiles = np.where(strength > 0, 255 + strength * (colour - 255), EMPTY).astype(np.uint8)
    painted = tiles.repeat(cell, axis=0).repeat(cell, axis=1)
    if cell >= 6:
        gap = 2 if cell >= 30 else 1
        edge = np.arange(len(painted)) % cell >= cell - gap
        painted[edge] = painted[:, edge] = 255
    return painted


def _numbers(draw: ImageDraw.ImageDraw, confusion: NDArray[np.int64], cell: int, corner: tuple[int, int]) -> None:
    """Write the count, and below it the share of the row, into each cell that has room for it."""
    if cell < 18:
        return
    with_share = cell >= 56
    strength, rows = shades(confusion), confusion.sum(axis=1)
    small = font_at(max(11, cell // 7))
    for i, j in np.argwhere(confusion):
        digits = str(confusion[i, j])
        font = font_at(round(min(cell * (0.26 if with_share else 0.5), 1.5 * cell / max(2, len(digits)))))
        x, y = corner[0] + cell * j + cell // 2, corner[1] + cell * i + cell // 2
        fill = PAPER if strength[i, j] > 0.55 else INK
        draw.text((x, y - (cell // 9 if with_share else 0)), digits, font=font, fill=fill, anchor="mm")
        if with_share:
            draw.text((x, y + cell // 5), percent(confusion[i, j] / rows[i]), font=small, fill=fill, anchor="mm")


def _upright(image: Image.Image, words: str, font: Any, place: tuple[int, int], *, centred: bool = False) -> None:
    """Write from bottom to top: horizontally around place[0]; ending at place[1] from below, or centred on it."""
    from PIL import Image, ImageDraw

    box = font.getbbox(words)
    strip = Image.new("RGB", (max(1, round(box[2]) + 2), max(1, round(box[3]) + 4)), PAPER)
    ImageDraw.Draw(strip).text((0, 0), words, font=font, fill=INK if not centred else QUIET)
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    image.paste(turned, (place[0] - turned.width // 2, place[1] - (turned.height // 2 if centred else 0)))
