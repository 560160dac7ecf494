"""How far the confidence can be trusted: reliability, what saying nothing is worth, prediction sets, images from elsewhere."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from headstart import metrics
from headstart.evaluate import Evaluation
from headstart.report.chart import Axis, LineChart, Mark, Series
from headstart.report.line_chart import line_chart
from headstart.report.markup import bar, folded, paragraphs, table, text
from headstart.report.record import RunReport, Trusted
from headstart.text import percent, plural

BINS = 15  # as many as the calibration error has
FEW = 15  # images: with fewer, a point of the reliability curve says nothing
SIZES = 8  # rows of the table of set sizes
FIRST = 20  # images: on fewer of the surest, an accuracy says nothing

Floats = NDArray[np.float64]


def confidence(report: RunReport) -> str:
    """The charts, and in words what follows from them."""
    found, trust = report.evaluation, report.trust
    charts = [reliability_chart(found, report.uncalibrated)]
    if not found.multilabel and found.images >= 2 * FIRST:
        charts.append(coverage_chart(report))
    drawn = "".join(map(line_chart, charts))
    what = (
        "labels given so much probability, the share that is right"
        if found.multilabel
        else "images it is about so sure of, the share right"
    )
    legend = f"Reliability: of the {what}; on the dashed line, confidence is truth. Groups of fewer than {FEW} are joined to the next."
    if len(charts) == 2:
        legend += " When it may say nothing: the accuracy on the images it is surest of, by the share of images that these are."
    told = paragraphs([calibrated(report)])
    pictures = f"<div class=charts>{drawn}</div>{paragraphs([legend], kind='quiet')}"
    return f"{told}{pictures}{_abstention(report)}{_sets(report, trust) if trust else ''}{_bins(found)}"


def calibrated(report: RunReport) -> str:
    """Return the calibration error in a sentence, and what it was before."""
    error = report.evaluation.scores["calibration_error"]
    was = ""
    if report.uncalibrated is not None:
        was = f"; before calibration they were {100 * report.uncalibrated.scores['calibration_error']:.1f} points"
    _, least, most = report.evaluation.calibration_by_chance
    chance = f" On so few images, {100 * least:.1f} to {100 * most:.1f} points come of chance alone."
    return f"Confidence and truth are {100 * error:.1f} points apart on average (calibration error){was}.{chance}"


def reliability(found: Evaluation) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return mean confidence, share right and images of each group of confidence, (m,), ascending; each has at least FEW images if it can.

    The groups are the bins of the calibration error; one with too few images is joined to the next, the last to the one before it.
    """
    bins = metrics.calibration_bins(*found.outcome.statements, bins=BINS)
    filled = np.flatnonzero(bins.images)
    sure, right, count = bins.confidence[filled] * bins.images[filled], bins.accuracy[filled] * bins.images[filled], bins.images[filled]
    starts, together = [0], 0
    for place, images in enumerate(count):
        if together >= FEW:
            starts.append(place)
            together = 0
        together += int(images)
    if together < FEW and len(starts) > 1:
        starts.pop()
    sums = [np.add.reduceat(values, starts) for values in (sure, right, count)]
    return sums[0] / sums[2], sums[1] / sums[2], sums[2].astype(np.int64)


def reliability_chart(found: Evaluation, before: Evaluation | None) -> LineChart:
    """Return share right by confidence, with 95 % intervals, and the same before calibration."""
    low = 0.0 if found.multilabel else math.floor(10 / len(found.classes)) / 10
    series = [Series(name="confidence is truth", x=[low, 1.0], y=[low, 1.0], colour=4, dashed=True)]
    if before is not None:
        sure, right, _ = reliability(before)
        series.append(Series(name="before calibration", x=sure.tolist(), y=right.tolist(), colour=1, dots=True, dashed=True))
    sure, right, images = reliability(found)
    x: list[float] = []
    y: list[float] = []
    for place, share, count in zip(sure.tolist(), right.tolist(), images.tolist(), strict=True):
        interval = metrics.accuracy_interval(round(share * count), count)
        x, y = [*x, place, place, math.nan], [*y, *interval, math.nan]
    series.append(Series(name="", x=x, y=y, colour=0, thin=True))
    series.append(Series(name="after calibration" if before is not None else "the model", x=sure.tolist(), y=right.tolist(), dots=True))
    what = "label" if found.multilabel else "class named"
    told = ", ".join(f"{percent(a)} sure: {percent(b)} right" for a, b in zip(sure.tolist(), right.tolist(), strict=True))
    return LineChart(
        title="Reliability",
        description=f"Share right by probability of the {what}. {told}.",
        series=tuple(series),
        x=Axis(label=f"probability of the {what}", low=low, high=1.0, percent=True),
        y=Axis(label="share right, with 95 % interval", high=1.0, percent=True),
    )


def coverage_chart(report: RunReport) -> LineChart:
    """Return accuracy by share of images answered."""
    share, right, _ = metrics.accuracy_coverage(*report.evaluation.outcome.statements)
    enough = share * report.evaluation.images >= FIRST
    share, right = share[enough], right[enough]
    half = float(right[np.searchsorted(share, 0.5)])
    return LineChart(
        title="When it may say nothing",
        description=f"Accuracy on the images answered, the surest first: {percent(half)} on half, {percent(float(right[-1]))} on all.",
        series=(Series(name="accuracy on the images answered", x=share.tolist(), y=right.tolist()),),
        x=Axis(label=f"share of the {report.part} images answered", low=0.0, high=1.0, percent=True),
        y=Axis(label="accuracy", high=1.0, percent=True),
        mark=_mark(report),
    )


def _mark(report: RunReport) -> Mark | None:
    """The first threshold of the model that leaves some images unanswered, where it stands on these images."""
    if report.trust is None:
        return None
    for wanted, threshold, _ in report.trust.abstention:
        if threshold is not None:
            answered = float((report.evaluation.outcome.statements[0] >= threshold).mean())
            if 0 < answered < 1:
                return Mark(x=answered, label=f"for {percent(wanted)}: answers {percent(answered)}")
    return None


def abstention_head(report: RunReport) -> list[str]:
    """Return the headings of the columns of `abstention_rows`."""
    head = ["accuracy wanted", "answer from confidence", f"{report.part} images answered", f"{report.part} accuracy then"]
    return head[:3] if report.evaluation.multilabel else head


def abstention_rows(report: RunReport) -> list[list[str]]:
    """Return for each wanted accuracy its threshold and what became of it on these images, as text."""
    rows = []
    for wanted, threshold, coverage in () if report.trust is None else report.trust.abstention:
        row = ["cannot be promised", "", ""]
        if threshold is not None:
            sure, right = report.evaluation.outcome.statements
            chosen = right[sure >= threshold]
            then = percent(float(chosen.mean())) if len(chosen) else "-"
            row = [percent(threshold), "-" if coverage is None else percent(coverage), then]
        rows.append([percent(wanted), *row][: len(abstention_head(report))])
    return rows


def trusted(trust: Trusted, part: str) -> list[str]:
    """Return in sentences what was measured of prediction sets and of images from elsewhere."""
    said = list(trust.sentences)
    if not math.isnan(trust.covered):
        low, high = trust.covered_interval or (math.nan, math.nan)
        interval = "" if math.isnan(low) else f" (95 % interval {percent(low)} to {percent(high)})"
        size = "" if math.isnan(trust.mean_size) else f" A set has {trust.mean_size:.2f} classes on average."
        asked = "" if math.isnan(trust.coverage) else f", made for {percent(trust.coverage)},"
        said.append(f"Prediction sets{asked} hold the right class for {percent(trust.covered)} of the {part} images{interval}.{size}")
    if not math.isnan(trust.refused):
        said.append(
            f"{percent(trust.refused)} of the {part} images would be called unlike anything seen in training. "
            "They come from the same source, so this is the rate of false alarms."
        )
    return said


def _abstention(report: RunReport) -> str:
    if not (rows := abstention_rows(report)):
        return ""
    cells = [[text(cell) for cell in row] for row in rows]
    return f"<h3>Thresholds</h3>{table([text(cell) for cell in abstention_head(report)], cells, kind='numbers wrap')}"


def _sets(report: RunReport, trust: Trusted) -> str:
    said = trusted(trust, report.part)
    if not said:
        return ""
    counted = [("no class" if size == 0 else plural(size, "class"), trust.sizes[size]) for size in sorted(trust.sizes)]
    if len(counted) > SIZES:
        counted = [*counted[: SIZES - 1], (f"{counted[SIZES - 1][0]} or more", sum(images for _, images in counted[SIZES - 1 :]))]
    most = max([images for _, images in counted], default=1)
    rows = [[text(size), bar([(images / most, "part0")]), str(images)] for size, images in counted]
    sizes = table(["in the set", "", "images"], rows, kind="numbers bars") if rows else ""
    return f"<h3>Prediction sets and images from elsewhere</h3>{paragraphs(said)}{sizes}"


def _bins(found: Evaluation) -> str:
    rows = [
        [text(percent(sure)), text(percent(right)), f"{100 * (sure - right):+.1f}", str(images)]
        for sure, right, images in zip(*(values.tolist() for values in reliability(found)), strict=True)
    ]
    return folded(
        "The numbers of the reliability curve", table(["confidence", "right", "too sure by (points)", "images"], rows, kind="numbers")
    )
