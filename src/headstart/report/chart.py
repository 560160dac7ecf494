"""Where the parts of a drawing stand: ticks, lines and labels of a line chart, cells of a matrix. Templates write them down as SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.sections import Axis, LineChart, Matrix, Series
from headstart.text import percent, shorten, width

COLOURS = 6  # a chart with more series begins again with the first colour
LARGEST = 1e300  # beyond it, the length of an axis would no longer be a number
COLUMNS = 450  # of a drawing; points that share one add nothing but their first, lowest, highest and last
WIDE, HIGH = 440, 270  # about the pixels that it gets on a phone, and in one of two columns, so that its text keeps its size
RIGHT, BELOW, TICK = 20, 42, 7.4  # margins; the width of a digit, at the size that the style gives to phones

Point = tuple[float, float]


def shows(axis: Axis, value: float) -> bool:
    """Whether `value` has a place on an axis of this kind."""
    return abs(value) <= LARGEST and (value > 1 / LARGEST or not axis.log)


def scales(chart: LineChart) -> tuple[Scale, Scale]:
    """Return the scales of x and y that hold all points and the mark of a chart."""
    marked = [] if chart.mark is None else [chart.mark.x]
    return (
        Scale.around(chart.x, [*marked, *(value for series in chart.series for value in series.x)]),
        Scale.around(chart.y, [value for series in chart.series for value in series.y]),
    )


@dataclass(frozen=True)
class Scale:
    """Where values stand on an axis, and its ticks (value, label)."""

    axis: Axis
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    @classmethod
    def around(cls, axis: Axis, values: Iterable[float]) -> Scale:
        """Return a scale for `values` whose free ends lie on round numbers.

        Raises ParameterError where the axis's own limits cannot be shown or are the wrong way round.
        """
        fixed = [limit for limit in (axis.low, axis.high) if limit is not None]
        if not all(shows(axis, limit) for limit in fixed) or (len(fixed) == 2 and fixed[0] >= fixed[1]):
            above = " above 0" if axis.log else ""
            raise ParameterError(
                f"low and high of the axis {axis.label!r} must be finite{above}, low below high; got {axis.low} and {axis.high}."
            )
        shown = [float(value) if abs(value) > 1 / LARGEST else 0.0 for value in values if shows(axis, value)]
        low, high = min([*shown, *fixed], default=1.0), max([*shown, *fixed], default=1.0)
        ends = (low != axis.low, high != axis.high)  # an end that the axis itself gives stays where it is
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            low, high = _widened(low, high, ends, log=axis.log)
        low, high, ticks = (_log_ticks if axis.log else _linear_ticks)(low, high, ends, whole=axis.whole)
        return cls(axis, low, high, tuple(zip(ticks, _labels(ticks, share=axis.percent), strict=True)))

    def __call__(self, value: float) -> float:
        """Return the place of `value`: 0 at the low end of the axis, 1 at the high end."""
        low, high = (math.log(self.low), math.log(self.high)) if self.axis.log else (self.low, self.high)
        return ((math.log(value) if self.axis.log else value) - low) / (high - low)


def lines(series: Series, x: Scale, y: Scale) -> list[list[Point]]:
    """Return the unbroken lines of `series` as points (x, y) from 0 to 1; a line of one point stands between two gaps."""
    points = [
        (x(a), y(b)) if shows(x.axis, a) and shows(y.axis, b) else None
        for a, b in zip(map(float, series.x), map(float, series.y), strict=True)
    ]
    return [list(_thinned(part)) for shown, part in groupby(points, key=lambda point: point is not None) if shown]


def _thinned(points: Iterable[Point | None]) -> Iterator[Point]:
    """Leave out points that would change no pixel: thousands of them in a curve over all test images."""
    whole = [point for point in points if point is not None]
    for _, group in groupby(enumerate(whole), key=lambda entry: round(entry[1][0] * COLUMNS)):
        column = list(group)
        kept = {column[0], min(column, key=lambda entry: entry[1][1]), max(column, key=lambda entry: entry[1][1]), column[-1]}
        yield from (point for _, point in sorted(kept))


def _widened(low: float, high: float, free: tuple[bool, bool], *, log: bool) -> Point:
    """Give an axis a length where all its values are the same."""
    below, above = free if any(free) else (True, True)
    if log:
        return (low / 2 if below else low), (high * 2 if above else high)
    room = abs(low) * 0.1 or (0.5 if below and above else 1.0)
    return (low - room if below else low), (high + room if above else high)


def _step(length: float, *, whole: bool) -> float:
    """Return the least round distance that divides an axis into no more than about five parts, or seven where labels are short."""
    rough = length / (7 if whole else 5)
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(power * factor for factor in factors if power * factor >= rough * (1 - 1e-9) or factor == 10)
    return max(1.0, step) if whole else step


def _linear_ticks(low: float, high: float, free: tuple[bool, bool], *, whole: bool) -> tuple[float, float, list[float]]:
    step = _step(high - low, whole=whole)
    first = math.floor(low / step + 1e-6)
    last = max(first + 1, math.ceil(high / step - 1e-6))
    low, high = (first * step if free[0] else low), (last * step if free[1] else high)
    decimals = max(0, 2 - math.floor(math.log10(step)))  # takes 0.30000000000000004 back to 0.3
    numbers = [round(place * step, decimals) for place in range(first, last + 1)]
    return low, high, [number for number in numbers if low - step * 1e-6 <= number <= high + step * 1e-6]


def _log_ticks(low: float, high: float, free: tuple[bool, bool], *, whole: bool) -> tuple[float, float, list[float]]:
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    round_numbers = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    low = max(number for number in round_numbers if number <= low * (1 + 1e-9)) if free[0] else low
    high = min(number for number in round_numbers if number >= high * (1 - 1e-9)) if free[1] else high
    inside = [number for number in round_numbers if low * (1 - 1e-9) <= number <= high * (1 + 1e-9)]
    if len(inside) < 2:
        return low, high, _linear_ticks(low, high, (False, False), whole=whole)[2]
    if len(inside) > 7:
        tens = [number for number in inside if f"{number:e}".startswith("1.0")]
        inside = tens[:: math.ceil(len(tens) / 7)]
    return low, high, inside


def _labels(ticks: Sequence[float], *, share: bool) -> list[str]:
    """Write all ticks with the same number of decimals; very large and small ones with an exponent. Ticks of log axes each as they need."""
    shown = [100 * tick for tick in ticks] if share else list(ticks)
    sign = " %" if share else ""
    size = max(map(abs, shown), default=0.0)
    gaps = [b - a for a, b in pairwise(shown)]
    even = not gaps or max(gaps) - min(gaps) <= 0.01 * max(gaps)
    if size >= 1e6 or 0 < size < 1e-3 or not even:
        return [_bare(number) + sign for number in shown]
    decimals = next((d for d in range(12) if all(abs(round(number, d) - number) < 1e-6 * (gaps or [1.0])[0] for number in shown)), 12)
    return [f"{number:.{decimals}f}{sign}" for number in shown]


def _bare(number: float) -> str:
    """Return 0.5, 20 or 1e-5."""
    if number == 0 or 1e-3 <= abs(number) < 1e6:
        return f"{number:.6g}"
    mantissa, exponent = f"{number:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


@dataclass(frozen=True)
class Line:
    """A drawn series: CSS classes, the data of its path, and its dots (x, y, radius, what is said on them)."""

    kind: str
    path: str
    dots: tuple[tuple[str, str, float, str], ...]


@dataclass(frozen=True, kw_only=True)
class ChartDrawing:
    """A line chart in the units of its drawing, `WIDE` by `HIGH`.

    Attributes:
        chart: what is drawn; `name` names it for links inside of the page.
        left, top, right, bottom: edges of the area between the axes.
        levels, columns: ticks of y and of x, (place, label).
        mark: (place, CSS class, label) of the position that stands out.
        key: (CSS class, name) of each series with a name.
        lines: of the series.
    """

    chart: LineChart
    name: str
    left: int
    top: int
    right: int
    bottom: int
    levels: tuple[tuple[float, str], ...]
    columns: tuple[tuple[float, str], ...]
    mark: tuple[float, str, str] | None
    key: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]


def draw_chart(chart: LineChart) -> ChartDrawing:
    """Return where everything in `chart` stands."""
    x, y = scales(chart)
    left, top = round(10 + TICK * max((width(label) for _, label in y.ticks), default=0)), 28 if chart.mark is None else 42
    right, bottom = WIDE - RIGHT, HIGH - BELOW

    def place(point: Point) -> Point:
        return left + point[0] * (right - left), bottom - point[1] * (bottom - top)

    mark = None
    if chart.mark is not None and shows(chart.x, chart.mark.x):
        share = x(chart.mark.x)
        side = " from" if share < 0.2 else " upto" if share > 0.8 else ""  # so that its words stay inside the drawing
        mark = (place((share, 0))[0], f"marked{side}", chart.mark.label)
    return ChartDrawing(
        chart=chart, name=re.sub(r"[^a-z0-9]+", "-", chart.title.casefold()).strip("-"), left=left, top=top, right=right, bottom=bottom,
        levels=tuple((place((0, y(value)))[1], label) for value, label in y.ticks),
        columns=tuple((place((x(value), 0))[0], label) for value, label in x.ticks), mark=mark,
        key=tuple((_kind(series), series.name) for series in chart.series if series.name),
        lines=tuple(_line(chart, series, x, y, place) for series in chart.series),
    )  # fmt: skip


def key_places(drawing: ChartDrawing, x: int) -> Iterator[tuple[str, str, float]]:
    """Yield (CSS class, name, place) of each entry of the key, beside the title of a chart that begins at `x`."""
    place = x + 8.0 * width(drawing.chart.title) + 18
    for kind, name in drawing.key:
        yield kind, name, round(place, 1)
        place += 32 + 7.2 * width(name) + 14


def _kind(series: Series) -> str:
    return f"line{series.colour % COLOURS}{' dashed' if series.dashed else ''}{' thin' if series.thin else ''}"


def _line(chart: LineChart, series: Series, x: Scale, y: Scale, place: Callable[[Point], Point]) -> Line:
    drawn = [[place(point) for point in line] for line in lines(series, x, y)]
    path = "".join("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in line) for line in drawn if len(line) > 1)
    alone = {line[0] for line in drawn if len(line) == 1}
    dots = []
    for a, b in zip(map(float, series.x), map(float, series.y), strict=True):
        if not (shows(chart.x, a) and shows(chart.y, b)):
            continue
        column, level = place((x(a), y(b)))
        marked = chart.mark is not None and a == chart.mark.x
        if series.dots or marked or (column, level) in alone:
            said = f"{series.name}, {chart.x.label} {_tell(chart.x, a)}: {_tell(chart.y, b)}"
            dots.append((f"{column:.1f}", f"{level:.1f}", 4 if marked else 2.4, said))
    return Line(_kind(series), path, tuple(dots))


def _tell(axis: Axis, value: float) -> str:
    return percent(value) if axis.percent and 0 <= value <= 1 else f"{value:.4g}"


def shades(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how strongly each cell is coloured, float64 (k, k) from 0 to 1, by its share of the row.

    What is off the diagonal goes by the square root of the share, so that one per cent is seen.
    """
    rows = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(rows, 1)
    strength = np.where(np.eye(len(counts), dtype=bool), 0.12 + 0.88 * share, 0.18 + 0.82 * np.sqrt(share))
    return np.where(counts > 0, strength, 0.0)


DEEP = 0.55  # a cell that is coloured more strongly has light digits
NAMED = 60  # of more classes, the columns have numbers instead of names
WRITTEN = 150  # more classes than this have no room for names


@dataclass(frozen=True, kw_only=True)
class CellDrawing:
    """A cell of a matrix that is not empty: its corner, CSS class, strength of colour, count, share of the row, title and link."""

    x: float
    y: float
    kind: str
    strength: str
    deep: bool
    count: str
    share: str
    title: str
    link: str = ""


@dataclass(frozen=True, kw_only=True)
class MatrixDrawing:
    """A matrix in the units of its drawing.

    Attributes:
        matrix: what is drawn.
        cell: side of a cell.
        left, top: corner of the cells; `side`: of all cells together; `width`, `height`: of the drawing.
        font: size of the names.
        names: of the rows, shortened; none where there are too many.
        heads: of the columns, names or numbers.
        upright: whether the heads are written from bottom to top.
        cells: those that are not empty.
    """

    matrix: Matrix
    cell: int
    left: int
    top: int
    side: int
    width: int
    height: int
    font: float
    names: tuple[str, ...]
    heads: tuple[str, ...]
    upright: bool
    cells: tuple[CellDrawing, ...]


def draw_matrix(matrix: Matrix, *, cell: int = 20) -> MatrixDrawing:
    """Return where everything in `matrix` stands, with cells of this size; counts and shares are written where they have room."""
    count = len(matrix.names)
    font = min(18.0, max(10.0, cell * 0.65))
    names = tuple(shorten(name, 28) for name in matrix.names) if count <= WRITTEN else ()
    longest = 0.62 * font * max(map(width, names), default=0)
    heads = names if count <= NAMED else tuple(str(index + 1) for index in range(count)) if names else ()
    upright = count <= NAMED and longest > cell - 4
    left, top = round(longest + 44 + (2.2 * font if names and heads is not names else 0)), round(32 + (longest if upright else 1.4 * font))
    strength, rows = shades(matrix.counts), matrix.counts.sum(axis=1)
    cells = []
    for i, j in np.argwhere(matrix.counts).tolist():
        number, share = str(matrix.counts[i, j]), percent(matrix.counts[i, j] / rows[i])
        cells.append(
            CellDrawing(
                x=left + cell * j, y=top + cell * i, kind="hit" if i == j else "miss", strength=f"{strength[i, j]:.2f}",
                deep=bool(strength[i, j] > DEEP), count=number if cell >= 18 and 0.55 * 12 * len(number) < max(20, cell) else "",
                share=share if cell >= 56 else "",
                title=f"{number} of {rows[i]} ({share}): {matrix.rows} {matrix.names[i]}, {matrix.columns} {matrix.names[j]}",
                link=matrix.links.get((i, j), ""),
            )
        )  # fmt: skip
    return MatrixDrawing(
        matrix=matrix, cell=cell, left=left, top=top, side=cell * count, width=left + cell * count + 8, height=top + cell * count + 8,
        font=font, names=names, heads=heads, upright=upright, cells=tuple(cells),
    )  # fmt: skip
