"""Line charts: ticks are round and hold the values, lines are drawn where the numbers are, and the page's colours are the picture's."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headstart.errors import ParameterError
from headstart.report import draw_png
from headstart.report.chart import COLUMNS, Scale, drawable, lines, scales
from headstart.report.page import TEMPLATES, environment
from headstart.sections import Axis, Charts, LineChart, Mark, Series

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def chart(*series: Series, **changes: Any) -> LineChart:
    values: dict[str, Any] = {
        "title": "ROC",
        "description": "A test.",
        "x": Axis(label="x", low=0, high=1),
        "y": Axis(label="y", low=0, high=1),
    }
    return LineChart(series=series, **{**values, **changes})


def line_chart(shown: LineChart) -> str:
    """The chart as it stands on the page, with its title and key."""
    return str(environment().get_template("blocks.html").module.charts(Charts((shown,))))  # type: ignore[attr-defined]


STYLE = (TEMPLATES / "page.css").read_text(encoding="utf-8")
LINES = [tuple(bytes.fromhex(colour)) for colour in re.findall(r"--line\d: #(\w{6});", STYLE.partition("@media")[0])]


def labels(axis: Axis, *values: float) -> list[str]:
    return [label for _, label in Scale.around(axis, values).ticks]


@pytest.mark.parametrize(
    ("axis", "values", "expected"),
    [
        (Axis(label=""), (0.03, 0.41), ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]),
        (Axis(label=""), (-3.0, 7.0), ["-4", "-2", "0", "2", "4", "6", "8"]),
        (Axis(label=""), (10.0, 20.0), ["10", "12", "14", "16", "18", "20"]),
        (Axis(label="", high=1.0, percent=True), (0.84, 0.99), ["80 %", "85 %", "90 %", "95 %", "100 %"]),
        (Axis(label="", high=1.0, percent=True), (0.984, 0.99), ["98.0 %", "98.5 %", "99.0 %", "99.5 %", "100.0 %"]),
        (Axis(label="", low=0.98, high=12.02, whole=True), (1, 12), ["2", "4", "6", "8", "10", "12"]),
        (Axis(label="", whole=True), (1, 3), ["1", "2", "3"]),
        (Axis(label="", whole=True), (3.0, 3.00000002), ["3", "4"]),
        (Axis(label="", log=True), (0.0002, 1.5), ["0.001", "0.01", "0.1", "1"]),
        (Axis(label="", log=True), (0.3, 7.0), ["0.2", "0.5", "1", "2", "5", "10"]),
        (Axis(label="", low=0.0), (0.0, 0.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (Axis(label="", high=1.0, percent=True), (1.0, 1.0), ["90 %", "92 %", "94 %", "96 %", "98 %", "100 %"]),
        (Axis(label=""), (2e7, 4e7), ["2e7", "2.5e7", "3e7", "3.5e7", "4e7"]),
    ],
)
def test_ticks_stand_at_round_numbers(axis: Axis, values: tuple[float, ...], expected: list[str]) -> None:
    assert labels(axis, *values) == expected


@given(st.lists(NUMBERS, max_size=5), st.booleans(), st.booleans(), st.booleans())
def test_any_numbers_get_an_axis_that_holds_them(values: list[float], log: bool, whole: bool, percent: bool) -> None:
    scale = Scale.around(Axis(label="any", log=log, whole=whole, percent=percent), values)
    assert math.isfinite(scale.low)
    assert scale.low < scale.high
    assert len(scale.ticks) <= 12
    ticks = [value for value, _ in scale.ticks]
    assert ticks == sorted(set(ticks))
    for value in [value for value in values if drawable(scale.axis, value)]:
        assert -1e-6 <= scale(value) <= 1 + 1e-6
    for value in ticks:
        assert -1e-6 <= scale(value) <= 1 + 1e-6


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_there_are_three_to_eight_ticks_at_multiples_of_a_round_step(low: float, length: float) -> None:
    ticks = [value for value, _ in Scale.around(Axis(label=""), (low, low + length)).ticks]
    assert 3 <= len(ticks) <= 8
    step = float(f"{ticks[1] - ticks[0]:.3e}")
    assert np.diff(ticks) == pytest.approx(step, rel=1e-6)
    assert f"{step:.3e}".split("e")[0] in {"1.000", "2.000", "2.500", "5.000"}
    assert [tick / step for tick in ticks] == pytest.approx(np.round([tick / step for tick in ticks]), abs=1e-3)


def test_an_axis_reaches_to_its_own_limits_and_further_where_values_do() -> None:
    scale = Scale.around(Axis(label="", low=0.0, high=1.0), (0.3, 0.4))
    assert (scale.low, scale.high) == (0.0, 1.0)
    assert Scale.around(Axis(label="", low=0.0, high=1.0), (1.7,)).high == 2.0
    assert scale(0.25) == 0.25
    assert Scale.around(Axis(label="", log=True, low=0.01, high=100.0), ())(1.0) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(("low", "high", "log"), [(1.0, 1.0, False), (2.0, 1.0, False), (0.0, 1.0, True), (math.nan, None, False)])
def test_limits_that_cannot_be_are_refused(low: float, high: float | None, log: bool) -> None:
    with pytest.raises(ParameterError, match=r"low and high of the axis 'loss' must be finite.*, low below high; got"):
        Scale.around(Axis(label="loss", low=low, high=high, log=log), ())


def test_as_many_x_as_y() -> None:
    with pytest.raises(ParameterError, match="The series 'model' has 2 values of x and 1 of y; give as many of each"):
        Series(name="model", x=[1, 2], y=[1])


def test_a_line_breaks_where_a_number_is_missing() -> None:
    series = Series(name="a", x=[0, 0.25, 0.5, 0.75, 1], y=[0, 1, math.nan, 0.5, math.inf])
    drawn = lines(series, *scales(chart(series)))
    assert drawn == [[(0, 0), (0.25, 1)], [(0.75, 0.5)]]
    log = chart(Series(name="a", x=[0, 0.5, 1], y=[10, 0, 1000]), y=Axis(label="y", log=True))
    assert [len(line) for line in lines(log.series[0], *scales(log))] == [1, 1]


def test_leaving_points_out_of_a_long_line_changes_its_outline_by_less_than_a_pixel() -> None:
    rng = np.random.default_rng(0)
    x = np.sort(rng.random(50_000))
    y = np.clip(0.5 + np.cumsum(rng.normal(size=len(x))) * 0.001, 0, 1)
    series = Series(name="a", x=x, y=y)
    (line,) = lines(series, *scales(chart(series)))
    kept = np.array(line)
    assert len(kept) <= 4 * (COLUMNS + 1)
    assert tuple(kept[0]) == (x[0], y[0])
    assert tuple(kept[-1]) == (x[-1], y[-1])
    for column in range(COLUMNS + 1):
        before, after = y[np.round(x * COLUMNS) == column], kept[np.round(kept[:, 0] * COLUMNS) == column, 1]
        assert (before.min(), before.max()) == (after.min(), after.max())


def _svg(source: str) -> ET.Element:
    drawing = re.search(r'<svg class="chart".*</svg>', source, flags=re.DOTALL)
    assert drawing
    return ET.fromstring(drawing[0])


def test_points_stand_where_their_numbers_are_on_the_axes() -> None:
    series = Series(name="model", x=[0, 0.5, 1], y=[0, 0.8, 1], colour=2, dots=True)
    svg = _svg(line_chart(chart(series)))
    circles = [(float(circle.get("cx", "")), float(circle.get("cy", ""))) for circle in svg.iter("circle")]
    across = {text.text: float(text.get("x", "")) for text in svg.iter("text") if text.get("class") == "column"}
    up = {text.text: float(text.get("y", "")) - 4 for text in svg.iter("text") if text.get("class") == "level"}
    assert across["0.0"] < across["1.0"]
    assert up["0.0"] > up["1.0"]  # SVG counts from the top
    assert circles[0] == pytest.approx((across["0.0"], up["0.0"]), abs=0.11)
    assert circles[1] == pytest.approx(((across["0.4"] + across["0.6"]) / 2, up["0.8"]), abs=0.11)
    assert circles[2] == pytest.approx((across["1.0"], up["1.0"]), abs=0.11)
    (group,) = [group for group in svg.iter("g") if group.get("class") == "line2"]
    path = group.find("path")
    assert path is not None
    assert path.get("d") == "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in circles)
    assert [title.text for title in svg.iter("title")][1:] == ["model, x 0: 0", "model, x 0.5: 0.8", "model, x 1: 1"]


@pytest.mark.parametrize(("x", "kind"), [(0.0, "marked from"), (0.5, "marked"), (1.0, "marked upto")])
def test_the_marked_position_has_a_line_words_and_larger_dots(x: float, kind: str) -> None:
    series = Series(name="model", x=[0, 0.5, 1], y=[0, 0.8, 1])
    svg = _svg(line_chart(chart(series, mark=Mark(x=x, label="chosen"))))
    (words,) = [text for text in svg.iter("text") if text.get("class") == kind]
    (line,) = [path for path in svg.iter("path") if path.get("class") == "mark"]
    (circle,) = svg.iter("circle")
    assert words.text == "chosen"
    assert words.get("x") == circle.get("cx")
    assert line.get("d", "").startswith(f"M{circle.get('cx')} ")


def test_a_screen_reader_finds_title_and_description() -> None:
    svg = _svg(line_chart(chart(title="Loss & more", description="It <falls>.")))
    named = {element.get("id"): element.text for element in svg if element.get("id")}
    assert svg.get("role") == "img"
    assert [named[name] for name in svg.get("aria-labelledby", "").split()] == ["Loss & more", "It <falls>."]


def test_names_are_text() -> None:
    bad = "<b>&\"'"
    axis = Axis(label=bad)
    source = line_chart(chart(Series(name=bad, x=[1], y=[1]), title=bad, description=bad, x=axis, y=axis, mark=Mark(x=1, label=bad)))
    assert source.count("<b>") == 1  # the title's own
    assert _svg(source) is not None


def test_the_picture_has_the_colours_of_the_page() -> None:
    drawing = (TEMPLATES / "drawing.css").read_text(encoding="utf-8")
    assert len(LINES) == 6
    for place in range(len(LINES)):
        assert f"svg .line{place} {{ color: var(--line{place}); }}" in drawing
        assert len(re.findall(f"--line{place}: #", STYLE)) == 2  # for light and for dark
    assert set(re.findall(r"var\((--\w+)\)", drawing)) <= set(re.findall(r"(--\w+):", STYLE.partition("@media")[0]))


def test_the_picture_draws_each_line_in_its_place(tmp_path: Path) -> None:
    flat = [Series(name=f"犬 {level}", x=[0, 1], y=[level / 10] * 2, colour=place) for place, level in enumerate((1, 3, 5, 7))]
    draw_png(Charts((chart(*flat),)), tmp_path / "lines.png")
    with Image.open(tmp_path / "lines.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    column = pixels[110:, 500]
    places = [float(np.flatnonzero(np.abs(column - np.array(LINES[place])).max(axis=1) < 6).mean()) for place in range(4)]
    assert np.diff(places) == pytest.approx(np.diff(places).mean(), abs=1.1)
    assert places == sorted(places, reverse=True)


def test_a_dashed_line_in_the_picture_is_ink_for_8_of_11_units(tmp_path: Path) -> None:
    draw_png(Charts((chart(Series(name="", x=[0, 0.3, 1], y=[0.5] * 3, dashed=True)),)), tmp_path / "lines.png")
    with Image.open(tmp_path / "lines.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    area = pixels[150:430, 200:700]
    inked = (area[:, :, 2] > area[:, :, 0] + 60).any(axis=0).mean()
    assert inked == pytest.approx(8 / 11, abs=0.06)  # dashes of 6 with round caps of 1 at both ends, and gaps of 5 in between
