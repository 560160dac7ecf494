"""ROC and precision-recall curves: how well each class is told from all others, whatever the threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headstart import metrics
from headstart.evaluate import Evaluation
from headstart.report.chart import Axis, LineChart, Series
from headstart.report.line_chart import line_chart
from headstart.report.record import RunReport
from headstart.text import number, shorten

SHOWN = 5  # lines in a chart that can still be told apart
_COLOURS = (0, 1, 2, 3, 5)  # 4 is the grey of lines of comparison


def ranking(report: RunReport) -> str:
    """The two curves of each class; of many classes, of those with the lowest areas."""
    found = report.evaluation
    chosen = shown_classes(found)
    if not chosen:
        return ""
    charts = "".join(map(line_chart, (roc_chart(found, chosen), precision_recall_chart(found, chosen))))
    whole = len(found.classes)
    which = f" Shown are the {len(chosen)} of {whole} classes with the lowest ROC-AUC." if len(chosen) < whole else ""
    return (
        f"<div class=charts>{charts}</div>"
        "<p class=quiet>Each class against all others, at every threshold of its probability. The better the model, the nearer the first "
        f"curve comes to the upper left corner, and the second to the upper right.{which}</p>"
    )


def shown_classes(found: Evaluation) -> list[int]:
    """Return the indices of the classes to draw: those with images and others, the lowest ROC-AUC where there are many, in their order."""
    areas = found.by_class["roc_auc"]
    known = [int(index) for index in np.argsort(areas, kind="stable") if not np.isnan(areas[index])]
    return sorted(known[:SHOWN])


def roc_chart(found: Evaluation, chosen: list[int]) -> LineChart:
    """Return the ROC curves of the classes `chosen`."""
    series = [Series(name="chance", x=[0.0, 1.0], y=[0.0, 1.0], colour=4, dashed=True)]
    for place, index in enumerate(chosen):
        false, true, _ = metrics.roc_curve(found.outcome.indicators[:, index], found.outcome.probabilities[:, index])
        series.append(_line(found, index, place, "roc_auc", false, true))
    return LineChart(
        title="ROC",
        description=f"True positive rate by false positive rate. {_areas(found, chosen, 'roc_auc', 'area')}",
        series=(*series[1:], series[0]),
        x=Axis(label="of the other classes, share named so (false positive rate)", low=0.0, high=1.0, percent=True),
        y=Axis(label="of the class, share found (recall)", low=0.0, high=1.0, percent=True),
    )


def precision_recall_chart(found: Evaluation, chosen: list[int]) -> LineChart:
    """Return the precision-recall curves of the classes `chosen`."""
    series = []
    for place, index in enumerate(chosen):
        precision, recall, _ = metrics.precision_recall_curve(found.outcome.indicators[:, index], found.outcome.probabilities[:, index])
        series.append(_line(found, index, place, "average_precision", recall, precision))
    return LineChart(
        title="Precision and recall",
        description=f"Precision by recall. {_areas(found, chosen, 'average_precision', 'average precision')}",
        series=tuple(series),
        x=Axis(label="of the class, share found (recall)", low=0.0, high=1.0, percent=True),
        y=Axis(label="of those named so, share right (precision)", low=0.0, high=1.0, percent=True),
    )


def _line(found: Evaluation, index: int, place: int, area: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> Series:
    name = f"{shorten(found.classes[index], 20)} ({number(float(found.by_class[area][index]))})"
    return Series(name=name, x=x.tolist(), y=y.tolist(), colour=_COLOURS[place], dashed=place == 1)


def _areas(found: Evaluation, chosen: list[int], area: str, word: str) -> str:
    told = ", ".join(f"{found.classes[index]} {number(float(found.by_class[area][index]))}" for index in chosen)
    return f"The {word} by class: {told}."
