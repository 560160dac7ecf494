"""What a line chart shows and where its ticks stand. `line_chart` draws it as SVG for the page, `chart_picture` as pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from headstart.errors import ParameterError
from headstart.text import percent

COLOURS = 6  # a chart with more series begins again with the first colour
LARGEST = 1e300  # beyond it, the length of an axis would no longer be a number
COLUMNS = 450  # of a drawing; points that share one add nothing but their first, lowest, highest and last

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart.

    Attributes:
        name: as the key to the chart says it; one without a name is not in the key.
        x, y: as many numbers each. A point with a number that the axis cannot show (nan, infinite, or 0 and less on a logarithmic
            axis) is a gap.
        colour: a number; 0 is the colour of the page's accents.
        dashed: so that two lines can be told apart without colours too.
        dots: whether each point is marked. A point between two gaps always is.
        thin: for what goes with another line, such as its intervals.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False
    dots: bool = False
    thin: bool = False

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ParameterError(f"The series {self.name!r} has {len(self.x)} values of x and {len(self.y)} of y; give as many of each.")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One of the two axes. It reaches at least from `low` to `high`, and further where values lie outside.

    Attributes:
        label: what it measures, with the unit.
        low, high: None where the values alone decide.
        log: logarithmic.
        percent: its numbers are shares, shown as per cent.
        whole: ticks at whole numbers only.
    """

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    percent: bool = False
    whole: bool = False

    def shows(self, value: float) -> bool:
        """Whether `value` has a place on an axis of this kind."""
        return abs(value) <= LARGEST and (value > 1 / LARGEST or not self.log)

    def tell(self, value: float) -> str:
        """Return `value` as the axis's numbers are read."""
        return percent(value) if self.percent and 0 <= value <= 1 else f"{value:.4g}"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A position on the x axis that stands out, with a word on it."""

    x: float
    label: str


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """A chart of lines.

    Attributes:
        title: a word or two, no other chart's on the same page.
        description: what it shows, in sentences, for those who cannot see it.
        series: the later ones are drawn over the earlier ones.
        x, y: the axes.
        mark: an x position that stands out.
    """

    title: str
    description: str
    series: tuple[Series, ...]
    x: Axis
    y: Axis
    mark: Mark | None = None

    def scales(self) -> tuple[Scale, Scale]:
        """Return the scales of x and y that hold all points and the mark."""
        marked = [] if self.mark is None else [self.mark.x]
        return (
            Scale.around(self.x, [*marked, *(value for series in self.series for value in series.x)]),
            Scale.around(self.y, [value for series in self.series for value in series.y]),
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
        if not all(map(axis.shows, fixed)) or (len(fixed) == 2 and fixed[0] >= fixed[1]):
            above = " above 0" if axis.log else ""
            raise ParameterError(
                f"low and high of the axis {axis.label!r} must be finite{above}, low below high; got {axis.low} and {axis.high}."
            )
        shown = [float(value) if abs(value) > 1 / LARGEST else 0.0 for value in values if axis.shows(value)]
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
        (x(a), y(b)) if x.axis.shows(a) and y.axis.shows(b) else None
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
