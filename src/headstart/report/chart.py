"""Where the parts of a drawing are: ticks, lines and labels of a line chart, cells of a matrix. Templates write them as SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

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
DEEP = 0.55  # a cell that is coloured more strongly has light digits
NAMED, WRITTEN = 60, 150  # of more classes, columns have numbers instead of names; more have no room for names at all

Point = tuple[float, float]


def drawable(axis: Axis, value: float) -> bool:
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
    """Where values are on an axis, and its ticks (value, label)."""

    axis: Axis
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    @classmethod
    def around(cls, axis: Axis, values: Iterable[float]) -> Scale:
        """Return a scale for `values` whose free ends are round numbers.

        Raises ParameterError where the axis's own limits cannot be shown or are the wrong way round.
        """
        fixed = [limit for limit in (axis.low, axis.high) if limit is not None]
        if not all(drawable(axis, limit) for limit in fixed) or (len(fixed) == 2 and fixed[0] >= fixed[1]):
            above = " above 0" if axis.log else ""
            raise ParameterError(
                f"low and high of the axis {axis.label!r} must be finite{above}, low below high; got {axis.low} and {axis.high}."
            )
        drawn = [float(value) if abs(value) > 1 / LARGEST else 0.0 for value in values if drawable(axis, value)]
        low, high = min([*drawn, *fixed], default=1.0), max([*drawn, *fixed], default=1.0)
        free = (low != axis.low, high != axis.high)  # an end that the axis itself gives stays where it is
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            low, high = _widened(low, high, free, log=axis.log)
        low, high, ticks = (_log_ticks if axis.log else _linear_ticks)(low, high, free, whole=axis.whole)
        return cls(axis, low, high, tuple(zip(ticks, _labels(ticks, share=axis.percent), strict=True)))

    def __call__(self, value: float) -> float:
        """Return the place of `value`: 0 at the low end of the axis, 1 at the high end."""
        low, high, at = map(math.log, (self.low, self.high, value)) if self.axis.log else (self.low, self.high, value)
        return (at - low) / (high - low)


def lines(series: Series, x: Scale, y: Scale) -> list[list[Point]]:
    """Return the unbroken lines of `series` as points (x, y) from 0 to 1; a line of one point is between two gaps."""
    points = [
        (x(a), y(b)) if drawable(x.axis, a) and drawable(y.axis, b) else None
        for a, b in zip(map(float, series.x), map(float, series.y), strict=True)
    ]
    return [list(_thinned(part)) for present, part in groupby(points, key=lambda point: point is not None) if present]


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


def _linear_ticks(low: float, high: float, free: tuple[bool, bool], *, whole: bool) -> tuple[float, float, list[float]]:
    """Ticks at the least round distance that makes no more than about five parts, or seven where labels are short."""
    rough = (high - low) / (7 if whole else 5)
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(power * factor for factor in factors if power * factor >= rough * (1 - 1e-9) or factor == 10)
    step = max(1.0, step) if whole else step
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
    numbers, sign = ([100 * tick for tick in ticks], " %") if share else (list(ticks), "")
    size = max(map(abs, numbers), default=0.0)
    gaps = [b - a for a, b in pairwise(numbers)]
    if size >= 1e6 or 0 < size < 1e-3 or (gaps and max(gaps) - min(gaps) > 0.01 * max(gaps)):
        return [_short_number(number) + sign for number in numbers]
    decimals = next((d for d in range(12) if all(abs(round(number, d) - number) < 1e-6 * (gaps or [1.0])[0] for number in numbers)), 12)
    return [f"{number:.{decimals}f}{sign}" for number in numbers]


def _short_number(number: float) -> str:
    """Return 0.5, 20 or 1e-5."""
    if number == 0 or 1e-3 <= abs(number) < 1e6:
        return f"{number:.6g}"
    return np.format_float_scientific(number, precision=3, trim="-", exp_digits=1).replace("+", "")


class ChartDrawing:
    """Where everything in a line chart is, in the units of its drawing, `WIDE` by `HIGH`.

    `name` names the chart in links inside of the page; `levels` and `columns` are the ticks of y and of x (place, label); `mark` is the
    position that stands out (place, CSS classes, label); `key` has CSS classes and name of each series with a name; `lines` has of each
    series its CSS classes, the data of its path, and its dots (x, y, radius, title).
    """

    def __init__(self, chart: LineChart) -> None:
        self._x, self._y = x, y = scales(chart)
        self.chart, self.name = chart, re.sub(r"[^a-z0-9]+", "-", chart.title.casefold()).strip("-")
        self.left = round(10 + TICK * max((width(label) for _, label in y.ticks), default=0))
        self.top, self.right, self.bottom = 28 if chart.mark is None else 42, WIDE - RIGHT, HIGH - BELOW
        self.levels = [(self._place((0, y(value)))[1], label) for value, label in y.ticks]
        self.columns = [(self._place((x(value), 0))[0], label) for value, label in x.ticks]
        self.mark: tuple[float, str, str] | None = None
        if chart.mark is not None and drawable(chart.x, chart.mark.x):
            share = x(chart.mark.x)
            side = " from" if share < 0.2 else " upto" if share > 0.8 else ""  # so that its words stay inside the drawing
            self.mark = (self._place((share, 0))[0], f"marked{side}", chart.mark.label)
        self.key = [(_kind(series), series.name) for series in chart.series if series.name]
        self.lines = [self._line(series) for series in chart.series]

    def _place(self, point: Point) -> Point:
        return self.left + point[0] * (self.right - self.left), self.bottom - point[1] * (self.bottom - self.top)

    def _line(self, series: Series) -> tuple[str, str, list[tuple[str, str, float, str]]]:
        chart, drawn = self.chart, [list(map(self._place, line)) for line in lines(series, self._x, self._y)]
        path = "".join("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in line) for line in drawn if len(line) > 1)
        alone = {line[0] for line in drawn if len(line) == 1}
        dots = []
        for a, b in zip(map(float, series.x), map(float, series.y), strict=True):
            if not (drawable(chart.x, a) and drawable(chart.y, b)):
                continue
            column, level = self._place((self._x(a), self._y(b)))
            marked = chart.mark is not None and a == chart.mark.x
            if series.dots or marked or (column, level) in alone:
                title = f"{series.name}, {chart.x.label} {_formatted(chart.x, a)}: {_formatted(chart.y, b)}"
                dots.append((f"{column:.1f}", f"{level:.1f}", 4 if marked else 2.4, title))
        return _kind(series), path, dots

    def key_places(self, x: int) -> Iterator[tuple[str, str, float]]:
        """Yield (CSS classes, name, place) of each entry of the key, beside the title of a chart that begins at `x`."""
        place = x + 8.0 * width(self.chart.title) + 18
        for kind, name in self.key:
            yield kind, name, round(place, 1)
            place += 32 + 7.2 * width(name) + 14


def _kind(series: Series) -> str:
    return f"line{series.colour % COLOURS}{' dashed' if series.dashed else ''}{' thin' if series.thin else ''}"


def _formatted(axis: Axis, value: float) -> str:
    return percent(value) if axis.percent and 0 <= value <= 1 else f"{value:.4g}"


def shades(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how strongly each cell is coloured, float64 (k, k) from 0 to 1, by its share of the row.

    Off the diagonal it goes by the square root of the share, so that one per cent is seen.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    strength = np.where(np.eye(len(counts), dtype=bool), 0.12 + 0.88 * share, 0.18 + 0.82 * np.sqrt(share))
    return np.where(counts > 0, strength, 0.0)


class MatrixDrawing:
    """Where everything in a matrix is, in the units of its drawing, with cells of the side `cell`.

    The cells begin at `left` and `top` and take `side`. `names` of the rows are shortened, and none where there are too many; `heads` of
    the columns are names or numbers, written from bottom to top where `upright`. `cells` has those that are not empty by row and column;
    their counts and shares are written where they have room.
    """

    def __init__(self, matrix: Matrix, *, cell: int = 20) -> None:
        count = len(matrix.names)
        self.matrix, self.cell, self.side, self.font = matrix, cell, cell * count, min(18.0, max(10.0, cell * 0.65))
        self.names = [shorten(name, 28) for name in matrix.names] if count <= WRITTEN else []
        longest = 0.62 * self.font * max(map(width, self.names), default=0)
        numbered = bool(self.names) and count > NAMED
        self.heads = [str(index + 1) for index in range(count)] if numbered else self.names
        self.upright = count <= NAMED and longest > cell - 4
        self.left = round(longest + 44 + (2.2 * self.font if numbered else 0))
        self.top = round(32 + (longest if self.upright else 1.4 * self.font))
        self.width, self.height = self.left + self.side + 8, self.top + self.side + 8
        strength = shades(matrix.counts)
        self.cells = {(i, j): self._cell(i, j, float(strength[i, j])) for i, j in np.argwhere(matrix.counts).tolist()}

    def _cell(self, i: int, j: int, strength: float) -> dict[str, Any]:
        matrix, cell, row = self.matrix, self.cell, int(self.matrix.counts[i].sum())
        number, share = str(matrix.counts[i, j]), percent(matrix.counts[i, j] / row)
        return {
            "x": self.left + cell * j, "y": self.top + cell * i, "kind": "hit" if i == j else "miss", "strength": f"{strength:.2f}",
            "deep": strength > DEEP, "count": number if cell >= 18 and 0.55 * 12 * len(number) < max(20, cell) else "",
            "share": share if cell >= 56 else "", "link": matrix.links.get((i, j), ""),
            "title": f"{number} of {row} ({share}): {matrix.rows} {matrix.names[i]}, {matrix.columns} {matrix.names[j]}",
        }  # fmt: skip
