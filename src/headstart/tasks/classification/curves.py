"""The curves of a classification: ROC and precision-recall by class, and how far the confidence can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headstart import metrics
from headstart.sections import Axis, Bar, Block, Bullets, Charts, Fold, Heading, LineChart, Mark, Paragraph, Section, Series, Table
from headstart.tasks.classification.evaluation import ClassEvaluation as Evaluation
from headstart.text import number, percent, plural, shorten

if TYPE_CHECKING:
    from headstart.tasks.classification.sections import ClassificationTest

SHOWN = 5  # lines in a chart that can still be told apart
_COLOURS = (0, 1, 2, 3, 5)  # 4 is the grey of lines of comparison
BINS = 15  # as many as the calibration error has
FEW = 15  # images: with fewer, a point of the reliability curve says nothing
SIZES = 8  # rows of the table of set sizes
FIRST = 20  # images: on fewer of the most confident, an accuracy says nothing
ANSWERED = 0.9  # the share of images for which the accuracy of the most confident is told

Floats = NDArray[np.float64]


def curves_section(found: Evaluation) -> Section:
    """ROC and precision-recall curves of each class; of many classes, of those with the lowest areas."""
    chosen, count = shown_classes(found), len(found.classes)
    which = f" Shown are the {len(chosen)} of {count} classes with the lowest ROC-AUC." if len(chosen) < count else ""
    legend = (
        "Each class against all others, at every threshold of its probability. The better the model, the closer the first curve comes to "
        f"the upper left corner, and the second to the upper right.{which}"
    )
    blocks = (Charts((roc_chart(found, chosen), precision_recall_chart(found, chosen))), Paragraph(legend, "quiet")) if chosen else ()
    return Section(anchor="curves", heading="ROC and precision-recall curves", word="ROC", blocks=blocks)


def shown_classes(found: Evaluation) -> list[int]:
    """The indices of the classes to draw, ascending: those with images and others; of many, those with the lowest ROC-AUC."""
    areas = found.by_class["roc_auc"]
    known = [int(index) for index in np.argsort(areas, kind="stable") if not np.isnan(areas[index])]
    return sorted(known[:SHOWN])


def roc_chart(found: Evaluation, chosen: list[int]) -> LineChart:
    """The ROC curves of the classes `chosen`."""
    curves = (metrics.roc_curve(found.outcome.indicators[:, i], found.outcome.probabilities[:, i])[:2] for i in chosen)
    series, areas = _lines(found, chosen, curves, area="roc_auc")
    return LineChart(
        title="ROC", description=f"True positive rate by false positive rate. The area by class: {areas}.",
        series=(*series, Series(name="chance", x=[0.0, 1.0], y=[0.0, 1.0], colour=4, dashed=True)),
        x=Axis(label="false positive rate", low=0.0, high=1.0, percent=True),
        y=Axis(label="true positive rate (recall)", low=0.0, high=1.0, percent=True),
    )  # fmt: skip


def precision_recall_chart(found: Evaluation, chosen: list[int]) -> LineChart:
    """The precision-recall curves of the classes `chosen`."""
    curves = (metrics.precision_recall_curve(found.outcome.indicators[:, i], found.outcome.probabilities[:, i])[1::-1] for i in chosen)
    series, areas = _lines(found, chosen, curves, area="average_precision")
    return LineChart(
        title="Precision and recall", description=f"Precision by recall. The average precision by class: {areas}.", series=series,
        x=Axis(label="recall", low=0.0, high=1.0, percent=True), y=Axis(label="precision", low=0.0, high=1.0, percent=True),
    )  # fmt: skip


def _lines(
    found: Evaluation, chosen: list[int], curves: Iterable[tuple[Floats, Floats]], *, area: str
) -> tuple[tuple[Series, ...], str]:  # fmt: skip
    """A line for each class with its area in its name, and the areas in words."""
    areas = [number(float(found.by_class[area][index])) for index in chosen]
    names = [f"{shorten(found.classes[index], 20)} ({value})" for index, value in zip(chosen, areas, strict=True)]
    series = tuple(
        Series(name=name, x=x.tolist(), y=y.tolist(), colour=_COLOURS[place], dashed=place == 1)
        for place, (name, (x, y)) in enumerate(zip(names, curves, strict=True))
    )
    return series, ", ".join(f"{found.classes[index]} {value}" for index, value in zip(chosen, areas, strict=True))


def confidence_section(tested: ClassificationTest) -> Section:
    """Reliability, accuracy by coverage, thresholds, prediction sets and novelty."""
    found, test, calibration = tested.evaluation, tested.reliability, calibration_sentence(tested)
    charts, what = [reliability_chart(found, tested.uncalibrated)], "labels" if tested.several else "predictions"
    legend = f"Reliability: the share of {what} that are right, by confidence; on the dashed line the two are equal. "
    legend += f"Groups of fewer than {FEW} are merged with the next."
    if not tested.several and found.images >= 2 * FIRST:
        charts.append(coverage_chart(tested))
        legend += " Abstention: the accuracy on the images with the highest confidence, by the share of images answered."
    thresholds = thresholds_table(tested)
    sentences = () if test is None else test.sentences(f"{tested.part} images")
    sets = (Heading("Prediction sets and novelty"), *map(Paragraph, sentences), *_set_sizes(tested)) if sentences else ()
    return Section(
        anchor="confidence",
        heading="Reliability of the confidence",
        word="Confidence",
        blocks=(
            Paragraph(calibration), Charts(tuple(charts)), Paragraph(legend, "quiet"),
            *((Heading("Thresholds"), thresholds) if thresholds else ()), *sets,
            Fold("The numbers of the reliability curve", (_bins(found),)),
        ),
        summary=calibration + _most_confident(tested),
        card=(Heading("Confidence"), Bullets((calibration, *sentences)), *((thresholds,) if thresholds else ())),
    )  # fmt: skip


def calibration_sentence(tested: ClassificationTest) -> str:
    """The calibration error in a sentence, and what it was before."""
    error, before, was = tested.evaluation.scores["calibration_error"], tested.uncalibrated, ""
    if before is not None:
        was = f"; before calibration, {100 * before.scores['calibration_error']:.1f} points"
    _, least, most = tested.evaluation.calibration_by_chance
    chance = f" On so few images, chance alone gives {100 * least:.1f} to {100 * most:.1f} points."
    return f"Confidence and accuracy differ by {100 * error:.1f} points on average (calibration error){was}.{chance}"


def _most_confident(tested: ClassificationTest) -> str:
    found = tested.evaluation
    if tested.several or found.images < 5 * FIRST:
        return ""
    share, right, _ = metrics.accuracy_coverage(*found.outcome.statements)
    best = float(right[np.searchsorted(share, ANSWERED - 1e-9)])
    return f" On the {percent(ANSWERED, digits=0)} of images with the highest confidence, the accuracy is {percent(best)}."


def reliability(found: Evaluation) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean confidence, share right and number of images of each group of confidence, (m,), ascending.

    The groups are the bins of the calibration error; one of fewer than `FEW` images is joined to the next, the last to the one before it.
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
    """Share right by confidence, with 95 % intervals, and the same before calibration."""
    several = found.outcome.link.independent
    low = 0.0 if several else math.floor(10 / len(found.classes)) / 10
    series = [Series(name="perfect calibration", x=[low, 1.0], y=[low, 1.0], colour=4, dashed=True)]
    if before is not None:
        sure, right, _ = reliability(before)
        series.append(Series(name="before calibration", x=sure.tolist(), y=right.tolist(), colour=1, dots=True, dashed=True))
    sure, right, images = reliability(found)
    x: list[float] = []
    y: list[float] = []
    for place, share, count in zip(sure.tolist(), right.tolist(), images.tolist(), strict=True):
        interval = metrics.accuracy_interval(round(share * count), count)
        x, y = [*x, place, place, math.nan], [*y, *interval, math.nan]
    series.append(Series(name="", x=x, y=y, thin=True))
    series.append(Series(name="after calibration" if before is not None else "the model", x=sure.tolist(), y=right.tolist(), dots=True))
    what = "label" if several else "predicted class"
    told = ", ".join(f"{percent(a)} confident: {percent(b)} right" for a, b in zip(sure.tolist(), right.tolist(), strict=True))
    return LineChart(
        title="Reliability", description=f"Share right by probability of the {what}. {told}.", series=tuple(series),
        x=Axis(label=f"probability of the {what}", low=low, high=1.0, percent=True),
        y=Axis(label="share right, with 95 % interval", high=1.0, percent=True),
    )  # fmt: skip


def coverage_chart(tested: ClassificationTest) -> LineChart:
    """Accuracy by share of images answered."""
    share, right, _ = metrics.accuracy_coverage(*tested.evaluation.outcome.statements)
    enough = share * tested.evaluation.images >= FIRST
    share, right = share[enough], right[enough]
    half = float(right[np.searchsorted(share, 0.5)])
    return LineChart(
        title="Abstention", mark=_mark(tested),
        description=f"Accuracy on the most confident images: {percent(half)} on half of all, {percent(float(right[-1]))} on all.",
        series=(Series(name="accuracy on the images answered", x=share.tolist(), y=right.tolist()),),
        x=Axis(label=f"share of the {tested.part} images answered", low=0.0, high=1.0, percent=True),
        y=Axis(label="accuracy", high=1.0, percent=True),
    )  # fmt: skip


def _mark(tested: ClassificationTest) -> Mark | None:
    """The first threshold of the model that leaves some images unanswered, where it stands on these images."""
    for row in () if tested.reliability is None else tested.reliability.answered:
        answered = float((tested.evaluation.outcome.statements[0] >= row.threshold).mean())
        if 0 < answered < 1:
            return Mark(x=answered, label=f"for {percent(row.wanted)}: answers {percent(answered)}")
    return None


def thresholds_table(tested: ClassificationTest) -> Table | None:
    """The threshold for each target accuracy and what became of it on these images; None where there is none."""
    if tested.reliability is None or not tested.reliability.answered:
        return None
    head = ("target accuracy", "confidence threshold", f"{tested.part} images answered", f"{tested.part} accuracy of these")
    columns = 3 if tested.several else 4
    rows = [(percent(row.wanted), percent(row.threshold), percent(row.share), percent(row.right)) for row in tested.reliability.answered]
    return Table(head=head[:columns], rows=tuple(row[:columns] for row in rows), layout="numbers wrap")


def _set_sizes(tested: ClassificationTest) -> tuple[Block, ...]:
    sizes = tested.set_sizes
    counted = [("no class" if size == 0 else plural(size, "class"), sizes[size]) for size in sorted(sizes)]
    if len(counted) > SIZES:
        counted = [*counted[: SIZES - 1], (f"{counted[SIZES - 1][0]} or more", sum(images for _, images in counted[SIZES - 1 :]))]
    most = max([images for _, images in counted], default=1)
    rows = tuple((size, Bar(((images / most, 0),)), str(images)) for size, images in counted)
    return (Table(head=("set size", "", "images"), rows=rows, layout="numbers bars"),) if rows else ()


def _bins(found: Evaluation) -> Table:
    groups = zip(*(values.tolist() for values in reliability(found)), strict=True)
    rows = tuple((percent(sure), percent(right), f"{100 * (sure - right):+.1f}", str(images)) for sure, right, images in groups)
    return Table(head=("confidence", "right", "overconfident by (points)", "images"), rows=rows, layout="numbers")
