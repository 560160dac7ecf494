"""report.html: one page that needs nothing else, no network and no script. Jinja2 escapes everything that stands in it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.report.chart import HIGH, WIDE, CellDrawing, draw_chart, draw_matrix, key_places
from headstart.sections import Card, Gallery, MarkedText, Matrix, Paragraph, Picture, Section, TaskReport, picture_type
from headstart.text import plural, shorten, visible, width

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
MOST_BYTES = 2_400_000  # of pictures: 3.2 MB as base64, so that the page stays below 5 MB with much else on it


@dataclass(frozen=True, kw_only=True)
class Report:
    """What report.html and MODEL_CARD.md say of a run.

    Attributes:
        title: of the page, for example ``cats_dogs``.
        part: what the images are called on which the score was measured.
        task: what the task says.
        sections: all of them, in the order of the page; those without blocks are not shown.
        backbone: its name; `licence`: SPDX identifier or words; `hub_id`: its repository on the Hugging Face Hub, if there is one.
        limits: what a reader of the score must know, in sentences.
        training: how the model was made, in sentences.
        command: what to type to repeat the run.
    """

    title: str
    part: str
    task: TaskReport
    sections: tuple[Section, ...]
    backbone: str
    licence: str
    hub_id: str = ""
    limits: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    command: str = ""

    @property
    def pictured(self) -> bool:
        """Whether it shows inputs of the test part."""
        return any(isinstance(block, Gallery) for section in self.sections for block in section.blocks)

    def section(self, anchor: str) -> Section | None:
        """The section with this anchor."""
        return next((section for section in self.sections if section.anchor == anchor), None)


def page(report: Report) -> str:
    """Return the whole page for `report`."""
    from markupsafe import Markup

    sections = [section for section in report.sections if section.blocks]
    gists = sorted((section for section in sections if section.summary), key=lambda section: not section.urgent)
    style = Markup((TEMPLATES / "page.css").read_text("utf-8") + (TEMPLATES / "drawing.css").read_text("utf-8"))  # noqa: S704 # ours
    shown = list(_within(sections, MOST_BYTES))
    return environment().get_template("page.html").render(report=report, sections=shown, gists=gists, style=style) + "\n"


@cache
def environment() -> Environment:
    """The templates, with what they call."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, finalize=shown, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.filters |= {"kind": lambda value: type(value).__name__, "shorten": shorten}
    made.globals |= {"draw_chart": draw_chart, "draw_matrix": draw_matrix, "key_places": key_places, "WIDE": WIDE, "HIGH": HIGH}
    made.globals |= {
        "percentage": lambda share: f"{100 * share:.2f}%", "data_uri": data_uri, "matrix_table": matrix_table, "stretches": stretches,
    }  # fmt: skip
    return made


def shown(value: Any) -> Any:
    """Return text as it may stand on a page: visible, with a number and its per cent sign on one line. Jinja2 escapes it afterwards."""
    if hasattr(value, "__html__"):
        return value
    return visible(str(value)).replace(" %", "\N{NO-BREAK SPACE}%")


def data_uri(data: bytes) -> Markup:
    """Return a picture as the address of itself."""
    from markupsafe import Markup

    return Markup(f"data:{picture_type(data)};base64,{b64encode(data).decode()}")  # noqa: S704 # letters and digits


@dataclass(frozen=True)
class MatrixTable:
    """A matrix as a table: shortened names, the cells of each row (None where it is empty), sums, and whether the heads stand upright."""

    names: tuple[str, ...]
    rows: tuple[tuple[CellDrawing | None, ...], ...]
    sums: tuple[int, ...]
    upright: bool


def matrix_table(matrix: Matrix) -> MatrixTable:
    """Return `matrix` as a table, for few classes."""
    names = tuple(shorten(name, 22) for name in matrix.names)
    cells = dict(zip(map(tuple, _filled(matrix)), draw_matrix(matrix, cell=100).cells, strict=True))
    count = range(len(names))
    return MatrixTable(
        names=names,
        rows=tuple(tuple(cells.get((i, j)) for j in count) for i in count),
        sums=tuple(matrix.counts.sum(axis=1).tolist()),
        upright=len(names) > 4 or max(map(width, names)) > 14,
    )


def _filled(matrix: Matrix) -> list[list[int]]:
    import numpy as np

    return np.argwhere(matrix.counts).tolist()


def stretches(block: MarkedText) -> Iterator[tuple[str, float, str]]:
    """Yield the text piece by piece, each with the strength and the label of its mark; marks must not overlap."""
    at = 0
    for start, stop, strength, label in sorted(block.marks):
        if start > at:
            yield block.text[at:start], 0.0, ""
        yield block.text[max(at, start) : stop], strength, label
        at = max(at, stop)
    if at < len(block.text):
        yield block.text[at:], 0.0, ""


def _within(sections: list[Section], room: int) -> Iterator[Section]:
    """Leave pictures out of the galleries once they have no room on the page, and say so."""
    for section in sections:
        left_out = 0

        def kept(picture: Picture | None) -> Any:
            nonlocal room, left_out
            size = 0 if picture is None else len(picture.data) + len(picture.mask or b"")
            if size > room:
                left_out += 1
                return None
            room -= size
            return picture

        def within(card: Card) -> Card:
            pictures = tuple(kept(picture) for picture in card.pictures)  # used at once
            near = tuple(replace(one, picture=kept(one.picture)) for one in card.neighbours)
            return replace(card, pictures=pictures, neighbours=near)

        blocks = [
            Gallery(tuple(replace(group, cards=tuple(map(within, group.cards))) for group in block.groups))
            if isinstance(block, Gallery)
            else block
            for block in section.blocks
        ]
        if left_out:
            blocks.append(Paragraph(f"{plural(left_out, 'picture')} left out to keep this page small.", "quiet"))
        yield replace(section, blocks=tuple(blocks))
