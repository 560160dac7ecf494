"""PNG files of charts and matrices: the SVG of the page in its light colours, drawn by resvg."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from headstart.errors import ParameterError
from headstart.explanation import font_at
from headstart.report.chart import HIGH, WIDE, WRITTEN, draw_chart, draw_matrix
from headstart.report.page import TEMPLATES, environment
from headstart.sections import Block, Charts, Columns, Matrix
from headstart.text import width

MARGIN, HEADING, KEY = 16, 24, 26  # units of the drawings; what a heading takes, and the title and key of a chart
SIDE = 900  # pixels of the cells of a matrix, as long as they keep a fair size
CHART = 800  # pixels of a chart, and as many for each further one


def draw_png(block: Charts | Matrix, path: str | Path, *, heading: str = "") -> None:
    """Draw charts side by side, or a matrix, with a heading into the PNG file `path`.

    Raises ParameterError where there is nothing to draw, and OSError as the file system does.
    """
    Path(path).write_bytes(png(block, heading=heading))


def png(block: Charts | Matrix, *, heading: str = "") -> bytes:
    """Return the PNG file of charts side by side, or of a matrix, with a heading."""
    if isinstance(block, Matrix):
        above, count = MARGIN + (44 if heading else 0), len(block.names)
        cell = min(110, max(14, SIDE // count)) if count <= WRITTEN else max(1, 2 * SIDE // count)
        drawing = draw_matrix(replace(block, links={}), cell=cell)
        high, wide = above + drawing.height + MARGIN, 2 * MARGIN + max(drawing.width, round(12.5 * width(heading)))
        return _rasterised(wide, high, heading, [(drawing, MARGIN, above)], pixels=wide, font=22)
    if not block.charts:
        raise ParameterError("There is no chart to draw.")
    above, panel = MARGIN + (HEADING if heading else 0), WIDE + 2 * MARGIN
    drawn = [(draw_chart(chart), MARGIN + panel * place, above) for place, chart in enumerate(block.charts)]
    return _rasterised(panel * len(drawn), above + KEY + HIGH + MARGIN, heading, drawn, pixels=CHART * len(drawn), font=15)


def picture_of(blocks: tuple[Block, ...]) -> Charts | Matrix | None:
    """Return the first charts or matrix among blocks."""
    for block in blocks:
        if isinstance(block, Charts | Matrix):
            return block
        if isinstance(block, Columns) and (inner := picture_of(block.left)):
            return inner
    return None


def _rasterised(wide: int, high: int, heading: str, drawn: list[tuple[Any, int, int]], *, pixels: int, font: int) -> bytes:
    from resvg_py import svg_to_bytes

    style = (TEMPLATES / "page.css").read_text("utf-8").partition("@media")[0]
    light = dict(re.findall(r"(--[a-z0-9]+): ([^;]+);", style))

    def filled(text: str) -> str:
        return re.sub(r"var\((--[a-z0-9]+)\)", lambda found: light[found[1]], text)

    sheet = environment().get_template("drawings.svg").module.sheet(wide, high, heading, drawn, font)  # type: ignore[attr-defined]
    with _font() as (family, file):
        return bytes(
            svg_to_bytes(
                svg_string=filled(str(sheet)), style_sheet=filled((TEMPLATES / "drawing.css").read_text("utf-8")), width=pixels,
                skip_system_fonts=True, font_files=[str(file)], font_family=family, serif_family=family, sans_serif_family=family,
            )
        )  # fmt: skip


@contextmanager
def _font() -> Iterator[tuple[str, Path]]:
    """Give the name and the file of a font: one of the system's, else the one inside of Pillow."""
    font: Any = font_at(12)
    family = str(font.getname()[0])
    if isinstance(font.path, io.BytesIO):
        with tempfile.TemporaryDirectory(prefix="headstart-font-", ignore_cleanup_errors=True) as folder:
            file = Path(folder) / "font.ttf"
            file.write_bytes(font.path.getvalue())
            yield family, file
    else:
        yield family, Path(os.fsdecode(font.path))
