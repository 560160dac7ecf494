"""The learning curve: accuracy by number of training images, and whether more would help."""

from __future__ import annotations

import math

from headstart.report.chart import Axis, LineChart, Series
from headstart.report.line_chart import line_chart
from headstart.report.markup import folded, paragraphs, table, text
from headstart.report.record import LearningCurveLike, RunReport
from headstart.text import percent


def learning(report: RunReport) -> str:
    """The curve, and what follows from it in a sentence."""
    found = report.learning_curve
    if found is None or not found.images:
        return ""
    rows = [
        [str(images), text(percent(accuracy)), "-" if math.isnan(error) else f"± {100 * error:.1f}"]
        for images, accuracy, error in zip(found.images, found.accuracy, found.error, strict=True)
    ]
    numbers = folded("The numbers", table(["training images", "accuracy", "standard error (points)"], rows, kind="numbers"))
    legend = (
        "<p class=quiet>By cross-validation inside the training part, with the head and layers that were chosen; the strokes are standard "
        f"errors. The {text(report.part)} images took no part.</p>"
    )
    return f"{paragraphs([found.sentence])}<div class=charts>{line_chart(learning_chart(found))}</div>{legend}{numbers}"


def learning_chart(found: LearningCurveLike) -> LineChart:
    """Return accuracy by number of training images, which are on a logarithmic axis."""
    x: list[float] = []
    y: list[float] = []
    for images, accuracy, error in zip(found.images, found.accuracy, found.error, strict=True):
        x, y = [*x, float(images), float(images), math.nan], [*y, accuracy - error, min(1.0, accuracy + error), math.nan]
    told = ", ".join(f"{percent(accuracy)} from {images}" for images, accuracy in zip(found.images, found.accuracy, strict=True))
    return LineChart(
        title="Learning curve",
        description=f"Accuracy by number of training images: {told}.",
        series=(
            Series(name="", x=x, y=y, thin=True),
            Series(name="out of sample", x=[float(images) for images in found.images], y=list(found.accuracy), dots=True),
        ),
        x=Axis(label="training images (logarithmic)", log=True),
        y=Axis(label="accuracy", high=1.0, percent=True),
    )
