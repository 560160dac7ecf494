"""report.html, one page that needs nothing else, no network and no script; and PNG files of its charts and matrices.

Both are made from the same templates, in which Jinja2 escapes everything; resvg draws the SVG of the page in its light colours.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import ParameterError
from headstart.files import marked_png
from headstart.report.chart import HIGH, WIDE, WRITTEN, ChartDrawing, MatrixDrawing
from headstart.sections import (
    Block,
    Card,
    Charts,
    Columns,
    Gallery,
    MarkedText,
    Matrix,
    Notice,
    Paragraph,
    Picture,
    Section,
    TaskReport,
    picture_type,
)
from headstart.text import font_at, plural, shorten, visible, width

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
MOST_BYTES = 2_400_000  # of pictures: 3.2 MB as base64, so that the page stays below 5 MB with much else on it
MARGIN, HEADING, KEY = 16, 24, 26  # units of the drawings; what a heading takes, and the title and key of a chart
SIDE = 900  # pixels of the cells of a matrix, as long as they keep a fair size
CHART = 800  # pixels of a chart, and as many for each further one


@dataclass(frozen=True, kw_only=True)
class Report:
    """What report.html and MODEL_CARD.md say of a run.

    `sections` are all of them in the order of the page; those without blocks are not shown. `backbone` is its name, `licence` an SPDX
    identifier or words, `hub_id` its repository on the Hugging Face Hub. `limits` (what a reader of the score must know) and `training`
    (how the model was made) are sentences; `command` repeats the run. A `warning` comes before everything else: without it, the score is
    misunderstood.
    """

    title: str
    task: TaskReport
    sections: tuple[Section, ...]
    backbone: str
    licence: str
    hub_id: str = ""
    limits: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    command: str = ""
    warning: Notice | None = None

    @property
    def pictured(self) -> bool:
        """Whether it shows inputs of the test part."""
        return any(isinstance(block, Gallery) for section in self.sections for block in section.blocks)


def page(report: Report) -> str:
    """Return the whole page for `report`."""
    from markupsafe import Markup

    sections = [section for section in report.sections if section.blocks]
    summarised = sorted((section for section in sections if section.summary), key=lambda section: not section.urgent)
    style = Markup(_style("page.css") + _style("drawing.css"))  # noqa: S704 # ours
    template, fitting = environment().get_template("page.html"), list(_limited(sections, MOST_BYTES))
    return template.render(report=report, sections=fitting, summarised=summarised, style=style) + "\n"


def _style(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8")


@cache
def environment() -> Environment:
    """The templates, with what they call."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, finalize=page_text, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.filters |= {"kind": lambda value: type(value).__name__, "shorten": shorten, "width": width}
    made.globals |= {"draw_chart": ChartDrawing, "draw_matrix": MatrixDrawing, "WIDE": WIDE, "HIGH": HIGH}
    made.globals |= {"percentage": lambda share: f"{100 * share:.2f}%", "data_uri": data_uri, "marked_pieces": marked_pieces}
    return made


def page_text(value: Any) -> Any:
    """Return text as it may be on a page: visible, with a number and its per cent sign on one line. Jinja2 escapes it afterwards."""
    return value if hasattr(value, "__html__") else visible(str(value)).replace(" %", "\N{NO-BREAK SPACE}%")


def data_uri(data: bytes) -> Markup:
    """Return a picture as the address of itself."""
    from markupsafe import Markup

    return Markup(f"data:{picture_type(data)};base64,{b64encode(data).decode()}")  # noqa: S704 # letters and digits


def marked_pieces(block: MarkedText) -> Iterator[tuple[str, float, str]]:
    """Yield the text piece by piece, each with the strength and the label of its mark; marks must not overlap."""
    at = 0
    for start, stop, strength, label in sorted(block.marks):
        if start > at:
            yield block.text[at:start], 0.0, ""
        yield block.text[max(at, start) : stop], strength, label
        at = max(at, stop)
    if at < len(block.text):
        yield block.text[at:], 0.0, ""


def _limited(sections: list[Section], room: int) -> Iterator[Section]:
    """Leave pictures out of the galleries once they have no room on the page, and say so."""
    for section in sections:
        left_out = 0

        def if_room(picture: Picture | None) -> Any:
            nonlocal room, left_out
            size = 0 if picture is None else len(picture.data) + len(picture.mask or b"")
            if size > room:
                left_out += 1
                return None
            room -= size
            return picture

        def limited(card: Card) -> Card:
            pictures = tuple(if_room(picture) for picture in card.pictures)  # used at once
            return replace(card, pictures=pictures, neighbours=tuple(replace(one, picture=if_room(one.picture)) for one in card.neighbours))

        blocks = [
            Gallery(tuple(replace(group, cards=tuple(map(limited, group.cards))) for group in block.groups))
            if isinstance(block, Gallery)
            else block
            for block in section.blocks
        ]
        if left_out:
            blocks.append(Paragraph(f"{plural(left_out, 'picture')} left out to keep this page small.", "quiet"))
        yield replace(section, blocks=tuple(blocks))


# PNG files ----------------------------------------------------------------------------------------------------------------------------


def draw_png(block: Charts | Matrix, path: str | Path, *, heading: str = "") -> None:
    """Draw charts side by side, or a matrix, into the PNG file `path`; errors as of `png`, and OSError as the file system does."""
    Path(path).write_bytes(marked_png(png(block, heading=heading)))


def png(block: Charts | Matrix, *, heading: str = "") -> bytes:
    """Return the PNG file of charts side by side, or of a matrix, with a heading. Raises ParameterError where there is nothing to draw."""
    if isinstance(block, Matrix):
        above, count = MARGIN + (44 if heading else 0), len(block.names)
        cell = min(110, max(14, SIDE // count)) if count <= WRITTEN else max(1, 2 * SIDE // count)
        drawing = MatrixDrawing(replace(block, links={}), cell=cell)
        high, wide = above + drawing.height + MARGIN, 2 * MARGIN + max(drawing.width, round(12.5 * width(heading)))
        return _rasterised(wide, high, heading, [(drawing, MARGIN, above)], pixels=wide, font=22)
    if not block.charts:
        raise ParameterError("There is no chart to draw.")
    above, panel = MARGIN + (HEADING if heading else 0), WIDE + 2 * MARGIN
    drawn = [(ChartDrawing(chart), MARGIN + panel * place, above) for place, chart in enumerate(block.charts)]
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

    light = dict(re.findall(r"(--[a-z0-9]+): ([^;]+);", _style("page.css").partition("@media")[0]))

    def filled(text: str) -> str:
        return re.sub(r"var\((--[a-z0-9]+)\)", lambda found: light[found[1]], text)

    sheet = environment().get_template("drawings.svg").module.sheet(wide, high, heading, drawn, font)  # type: ignore[attr-defined]
    with _font() as (family, file):
        return bytes(
            svg_to_bytes(
                svg_string=filled(str(sheet)), style_sheet=filled(_style("drawing.css")), width=pixels, skip_system_fonts=True,
                font_files=[str(file)], font_family=family, serif_family=family, sans_serif_family=family,
            )
        )  # fmt: skip


@contextmanager
def _font() -> Iterator[tuple[str, Path]]:
    """Give the name and the file of a font: one of the system's, else the one inside of Pillow."""
    font = font_at(12)
    family = str(font.getname()[0])
    if not isinstance(font.path, io.BytesIO):
        yield family, Path(os.fsdecode(font.path))
        return
    with tempfile.TemporaryDirectory(prefix="headstart-font-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "font.ttf"
        file.write_bytes(font.path.getvalue())
        yield family, file
