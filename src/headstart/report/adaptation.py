"""The section on adapting to another world: what was tried, what came of it, and both worlds in two dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headstart.sections import Axis, Block, Charts, LineChart, Paragraph, Section, Series, Span, Table, Text
from headstart.text import duration, percent, plural

if TYPE_CHECKING:
    from headstart.adaptation import AdaptationRecord


def adaptation_section(record: AdaptationRecord | None) -> Section:
    """What adapting to unlabelled images of another world was tried, scored without their labels, and what came of it."""
    blocks: tuple[Block, ...] = ()
    if record is not None:
        said = [f"To {record.to}, {plural(record.images, 'unlabelled image')}: {record.sentence()}".rstrip(".") + "."]
        if record.apart is not None:
            said.append(
                f"A linear classifier tells the two worlds apart with a ROC-AUC of {record.apart:.2f}, out of sample (0.5: no difference, "
                "1: no overlap)."
            )
        if record.also_tested:
            said.append(f"Test images among them: {record.also_tested}; their labels took no part.")
        cells: list[tuple[Text, ...]] = []
        for row in record.trials:
            name: Text = (row.method, " ", Span("selected", "tag")) if row.chosen else row.method
            reverse = f"{percent(row.reverse_accuracy)} ± {100 * row.reverse_error:.1f}"
            cells.append((name, row.reason, reverse, f"{row.information:.2f}", duration(row.seconds)))
        marked = frozenset(index for index, row in enumerate(record.trials) if row.chosen)
        legend = (
            "Reverse accuracy: the labels that a method predicts for the new images are learned from, by the same method in the other "
            "direction, and tested on the training images. Information: how much of the predicted labels the features tell out of sample, "
            "in nats. Neither needs a label of the new images. The most informative methods that lose nothing in reverse are averaged."
        )
        head = ("method", "", "reverse accuracy", "information", "time")
        table = Table(head=head, rows=tuple(cells), layout="evidence", marked=marked)
        blocks = (*map(Paragraph, said), table, Paragraph(legend, "quiet"), _worlds(record))
    return Section(anchor="adaptation", heading="Adaptation to another world", word="Adaptation", blocks=blocks)


def _worlds(record: AdaptationRecord) -> Charts:
    """Both worlds in two dimensions, before and after."""
    titles = (("before", record.points), ("after the alignment", record.aligned))
    return Charts(tuple(_scattered(title, points) for title, points in titles if points))


def _scattered(title: str, points: Sequence[tuple[float, float]]) -> LineChart:
    half = len(points) // 2
    parts = (("training images", points[:half], 0), ("new images", points[half:], 1))
    series = tuple(
        Series(
            name=name, x=[value for x, _ in part for value in (x, math.nan)], y=[value for _, y in part for value in (y, math.nan)],
            colour=colour,
        )
        for name, part, colour in parts
    )  # fmt: skip
    axes = [Axis(label=f"principal axis {number}") for number in (1, 2)]
    description = f"Both worlds on their two principal axes, {title}: what is learned where they lie apart does not hold in the other."
    return LineChart(title=title, description=description, series=series, x=axes[0], y=axes[1])
