"""Blocks that the reports of several tasks have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headstart.sections import Axis, Bar, LineChart, Series, Table, Text


def images_by_class(names: Mapping[str, Text], counts: Mapping[str, Mapping[str, int]]) -> tuple[Table, ...]:
    """How many images of each part have each class, by its name and how that is shown; nothing where no part is known."""
    parts = {part: own for part, own in counts.items() if any(own.values())}
    if not parts:
        return ()
    first = next(iter(parts.values()))
    most = max([own.get(name, 0) for own in parts.values() for name in names] + [1])
    rows = tuple(
        (shown, Bar(((first.get(name, 0) / most, 0),)), *(str(own.get(name, 0)) for own in parts.values())) for name, shown in names.items()
    )
    return (Table(head=("images with the class", "", *parts), rows=rows, layout="numbers bars"),)


def reliability_chart(
    sure: Sequence[float], right: Sequence[float], *, low: float, description: str, of: str, share: str
) -> LineChart:  # fmt: skip
    """Shares that are right by confidence, beside what perfect calibration is; `of` and `share` name the two axes, from `low` to 1."""
    return LineChart(
        title="Reliability", description=description,
        series=(
            Series(name="perfect calibration", x=[low, 1.0], y=[low, 1.0], colour=4, dashed=True),
            Series(name="the model", x=sure, y=right, dots=True),
        ),
        x=Axis(label=of, low=low, high=1.0, percent=True), y=Axis(label=share, high=1.0, percent=True),
    )  # fmt: skip
