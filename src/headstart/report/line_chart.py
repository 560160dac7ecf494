"""A line chart as SVG inside the page: coloured by the page's style for light and dark, without a script."""

from __future__ import annotations

import re

from headstart.report.chart import COLOURS, LineChart, Scale, Series, lines
from headstart.report.markup import text
from headstart.text import width

WIDE, HIGH = 440, 270  # about the pixels that it gets on a phone, and in one of two columns, so that its text keeps its size
RIGHT, BELOW, TICK = 20, 42, 7.4  # margins; the width of a digit, at the size that the style gives to phones


def line_chart(chart: LineChart) -> str:
    """Return `chart` as an HTML figure with its title, its key and the drawing, which screen readers read as its description."""
    sample = '<svg class=sample viewBox="0 0 26 8" aria-hidden=true><path class="{}" d="M1 4H25" /></svg>'
    key = "".join(f"<span>{sample.format(_kind(series))}{text(series.name)}</span>" for series in chart.series if series.name)
    return f"<figure class=chart><figcaption><b>{text(chart.title)}</b> {key}</figcaption>{_drawing(chart)}</figure>"


def _kind(series: Series) -> str:
    return f"line{series.colour % COLOURS}{' dashed' if series.dashed else ''}{' thin' if series.thin else ''}"


def _drawing(chart: LineChart) -> str:
    x, y = chart.scales()
    left = round(10 + TICK * max((width(label) for _, label in y.ticks), default=0))
    top = 28 if chart.mark is None else 42
    frame = (left, top, WIDE - RIGHT, HIGH - BELOW)
    name = re.sub(r"[^a-z0-9]+", "-", chart.title.casefold()).strip("-")
    parts = [_axes(chart, x, y, frame), _mark(chart, x, frame), *(_line(chart, series, x, y, frame) for series in chart.series)]
    return (
        f'<svg class=chart role=img aria-labelledby="chart-{name} chart-{name}-told" viewBox="0 0 {WIDE} {HIGH}">'
        f'<title id="chart-{name}">{text(chart.title)}</title><desc id="chart-{name}-told">{text(chart.description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


Frame = tuple[int, int, int, int]
"""Left, top, right and bottom edge of the area between the axes."""


def _place(point: tuple[float, float], frame: Frame) -> tuple[float, float]:
    left, top, right, bottom = frame
    return left + point[0] * (right - left), bottom - point[1] * (bottom - top)


def _axes(chart: LineChart, x: Scale, y: Scale, frame: Frame) -> str:
    left, _, right, bottom = frame
    parts = [f"<text class=label x=0 y=11>{text(chart.y.label)}</text>"]
    for value, label in y.ticks:
        level = _place((0, y(value)), frame)[1]
        parts.append(
            f'<path class=grid d="M{left} {level:.1f}H{right}" /><text class=level x={left - 6} y={level + 4:.1f}>{text(label)}</text>'
        )
    parts.append(f'<path class=axis d="M{left} {bottom}H{right}" />')
    for value, label in x.ticks:
        column = _place((x(value), 0), frame)[0]
        parts.append(
            f'<path class=axis d="M{column:.1f} {bottom}v4" /><text class=column x={column:.1f} y={bottom + 17}>{text(label)}</text>'
        )
    parts.append(f"<text class=column x={(left + right) // 2} y={bottom + 35}>{text(chart.x.label)}</text>")
    return "".join(parts)


def _mark(chart: LineChart, x: Scale, frame: Frame) -> str:
    if chart.mark is None or not chart.x.shows(chart.mark.x):
        return ""
    _, top, _, bottom = frame
    share = x(chart.mark.x)
    column = _place((share, 0), frame)[0]
    side = " from" if share < 0.2 else " upto" if share > 0.8 else ""  # so that its words stay inside the drawing
    return (
        f'<path class=mark d="M{column:.1f} {top - 6}V{bottom}" />'
        f'<text class="marked{side}" x={column:.1f} y={top - 11}>{text(chart.mark.label)}</text>'
    )


def _line(chart: LineChart, series: Series, x: Scale, y: Scale, frame: Frame) -> str:
    drawn = [[_place(point, frame) for point in line] for line in lines(series, x, y)]
    path = "".join("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in line) for line in drawn if len(line) > 1)
    parts = [f'<path d="{path}" />'] if path else []
    alone = {line[0] for line in drawn if len(line) == 1}
    for a, b in zip(map(float, series.x), map(float, series.y), strict=True):
        if not (chart.x.shows(a) and chart.y.shows(b)):
            continue
        column, level = _place((x(a), y(b)), frame)
        marked = chart.mark is not None and a == chart.mark.x
        if series.dots or marked or (column, level) in alone:
            said = f"{series.name}, {chart.x.label} {chart.x.tell(a)}: {chart.y.tell(b)}"
            parts.append(f"<circle cx={column:.1f} cy={level:.1f} r={4 if marked else 2.4}><title>{text(said)}</title></circle>")
    return f'<g class="{_kind(series)}">{"".join(parts)}</g>'
