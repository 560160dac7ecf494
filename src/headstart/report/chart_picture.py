"""Line charts side by side as a PNG file, drawn with Pillow: in the light colours of the page, and smooth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.report.chart import COLOURS, LineChart, Point, Scale, Series, lines
from headstart.report.fonts import font_at
from headstart.text import visible

if TYPE_CHECKING:
    from PIL import ImageDraw

FINE = 3  # lines are drawn this many times larger and then reduced, for Pillow's own have steps
PANEL = (800, 520)  # pixels of one chart
MARGIN, HEAD, BELOW = 32, 118, 84
INK, QUIET, RULE, PAPER = (27, 36, 48), (92, 103, 117), (223, 228, 234), (255, 255, 255)
LINES = ((29, 88, 168), (201, 90, 8), (13, 128, 102), (131, 70, 172), (92, 103, 117), (190, 50, 100))
"""--line0 to --line5 of the page's style, light."""
DASH, GAP = 11.0, 8.0

Frame = tuple[int, int, int, int]
"""Left, top, right and bottom edge of the area between the axes, in pixels of the picture."""


def line_charts_png(charts: Sequence[LineChart], path: str | Path, *, heading: str = "") -> None:
    """Draw `charts` side by side, with `heading` above them, into the PNG file `path`. Raises OSError as the file system does."""
    from PIL import Image, ImageDraw

    above = 66 if heading else 0
    size = (PANEL[0] * len(charts), PANEL[1] + above)
    frames = []
    for place, chart in enumerate(charts):
        wide = max((font_at(18).getlength(label) for _, label in chart.scales()[1].ticks), default=0.0)
        left = PANEL[0] * place
        frames.append((left + MARGIN + round(wide) + 10, above + HEAD, left + PANEL[0] - MARGIN, size[1] - BELOW))
    image = Image.new("RGB", (size[0] * FINE, size[1] * FINE), PAPER)
    fine = ImageDraw.Draw(image)
    for chart, frame in zip(charts, frames, strict=True):
        _strokes(fine, chart, frame)
    image = image.reduce(FINE)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, 24), visible(heading), font=font_at(26), fill=INK)
    for place, (chart, frame) in enumerate(zip(charts, frames, strict=True)):
        _words(draw, chart, frame, PANEL[0] * place + MARGIN, above)
    image.save(path, format="PNG", optimize=True)


def _place(point: Point, frame: Frame) -> Point:
    left, top, right, bottom = frame
    return left + point[0] * (right - left), bottom - point[1] * (bottom - top)


def _strokes(draw: ImageDraw.ImageDraw, chart: LineChart, frame: Frame) -> None:
    """Draw all that is not a letter, FINE times larger."""
    x, y = chart.scales()
    left, top, right, bottom = frame
    for value, _ in y.ticks:
        level = _place((0, y(value)), frame)[1]
        _stroke(draw, [(left, level), (right, level)], RULE, 1.0)
    _stroke(draw, [(left, bottom), (right, bottom)], QUIET, 1.3)
    for value, _ in x.ticks:
        column = _place((x(value), 0), frame)[0]
        _stroke(draw, [(column, bottom), (column, bottom + 6)], QUIET, 1.3)
    if chart.mark is not None and chart.x.shows(chart.mark.x):
        column = _place((x(chart.mark.x), 0), frame)[0]
        for dash in _dashes([(column, top - 8), (column, bottom)], 4.0, 4.0):
            _stroke(draw, dash, QUIET, 1.3)
    for series in chart.series:
        _series(draw, chart, series, (x, y), frame)


def _series(draw: ImageDraw.ImageDraw, chart: LineChart, series: Series, scales: tuple[Scale, Scale], frame: Frame) -> None:
    colour = LINES[series.colour % COLOURS]
    for line in lines(series, *scales):
        points = [_place(point, frame) for point in line]
        for part in _dashes(points, DASH, GAP) if series.dashed else [points]:
            _stroke(draw, part, colour, 1.5 if series.thin else 3.0)
        if series.dots or len(points) == 1:
            for point in points:
                _dot(draw, point, colour, 4.2)
    if chart.mark is not None:
        for a, b in zip(map(float, series.x), map(float, series.y), strict=True):
            if a == chart.mark.x and chart.x.shows(a) and chart.y.shows(b):
                _dot(draw, _place((scales[0](a), scales[1](b)), frame), colour, 7.0)


def _stroke(draw: ImageDraw.ImageDraw, points: Sequence[Point], colour: tuple[int, int, int], width: float) -> None:
    draw.line([(a * FINE, b * FINE) for a, b in points], fill=colour, width=round(width * FINE), joint="curve")


def _dot(draw: ImageDraw.ImageDraw, point: Point, colour: tuple[int, int, int], radius: float) -> None:
    a, b, r = point[0] * FINE, point[1] * FINE, radius * FINE
    draw.ellipse((a - r, b - r, a + r, b + r), fill=colour, outline=PAPER, width=FINE)


def _dashes(points: Sequence[Point], on: float, off: float) -> Iterator[list[Point]]:
    """Cut a line into dashes, which go on around its corners."""
    dash, drawing, left = [*points[:1]], True, on
    for (ax, ay), (bx, by) in pairwise(points):
        length, gone = math.hypot(bx - ax, by - ay), 0.0
        while length - gone > left:
            gone += left
            corner = (ax + (bx - ax) * gone / length, ay + (by - ay) * gone / length)
            if drawing:
                yield [*dash, corner]
            drawing, left, dash = not drawing, (off if drawing else on), [corner]
        left -= length - gone
        dash.append((bx, by))
    if drawing and len(dash) > 1:
        yield dash


def _words(draw: ImageDraw.ImageDraw, chart: LineChart, frame: Frame, start: int, above: int) -> None:
    x, y = chart.scales()
    left, top, right, bottom = frame
    title = visible(chart.title)
    draw.text((start, above + 14), title, font=font_at(22), fill=INK)
    place = start + font_at(22).getlength(title) + 28
    for series in (series for series in chart.series if series.name):
        name, middle, colour = visible(series.name), above + 29, LINES[series.colour % COLOURS]
        for dash in (
            _dashes([(place, middle), (place + 38, middle)], 9.0, 5.5) if series.dashed else [[(place, middle), (place + 38, middle)]]
        ):
            draw.line(dash, fill=colour, width=3)
        draw.text((place + 46, middle), name, font=font_at(18), fill=INK, anchor="lm")
        place += 46 + font_at(18).getlength(name) + 26
    draw.text((start, above + 54), visible(chart.y.label), font=font_at(17), fill=QUIET)
    for value, label in y.ticks:
        draw.text((left - 10, _place((0, y(value)), frame)[1]), label, font=font_at(18), fill=QUIET, anchor="rm")
    for value, label in x.ticks:
        draw.text((_place((x(value), 0), frame)[0], bottom + 12), label, font=font_at(18), fill=QUIET, anchor="ma")
    draw.text(((left + right) / 2, bottom + 42), visible(chart.x.label), font=font_at(17), fill=QUIET, anchor="ma")
    if chart.mark is not None and chart.x.shows(chart.mark.x):
        share = x(chart.mark.x)
        anchor = "ls" if share < 0.2 else "rs" if share > 0.8 else "ms"
        draw.text((_place((share, 0), frame)[0], top - 14), visible(chart.mark.label), font=font_at(18), fill=INK, anchor=anchor)
