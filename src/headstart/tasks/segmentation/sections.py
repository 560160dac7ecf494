"""What the report of a segmentation says: the score, scores by class, confusions, examples with their masks, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import HeadstartError
from headstart.metrics.segmentation import pixel_calibration, pixel_coverage
from headstart.modalities.image import ImageSource, read_image
from headstart.pixels.pictures import VOID, error_png, hex_colour, indexed_png, jpeg_bytes, thumbnail
from headstart.sections import (
    Axis,
    Block,
    Bullets,
    Card,
    Charts,
    Columns,
    Fold,
    Gallery,
    Group,
    Heading,
    Headline,
    Hub,
    Interval,
    LineChart,
    Matrix,
    Paragraph,
    Picture,
    Section,
    Series,
    Span,
    Table,
    TaskReport,
    Text,
    Tiles,
)  # fmt: skip
from headstart.tasks.blocks import images_by_class, reliability_chart
from headstart.tasks.segmentation.evaluation import CLASS_COLUMNS, SCORE_WORDS, SegmentationEvaluation
from headstart.text import enumeration, number, percent, plural, shorten

if TYPE_CHECKING:
    from headstart.data import Targets

WORST, BEST = 18, 3
"""At most so many examples."""

_SIDE = 240  # pixels of a picture
_OPEN_ROWS = 25
_BESIDE = 5  # classes whose matrix leaves room beside it
_FEW = 0.001  # share of pixels that a group of confidence has at least
_OPACITY = 150


def task_report(run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> TaskReport:
    """What the pages say; arguments as of `Task.report`."""
    found: SegmentationEvaluation = run.test_evaluation()
    rows = example_rows(found)
    pictured = cards(rows, draw=lambda row, source, targets: pictures(run, source, targets))
    classes = plural(len(found.classes), "class")
    names = enumeration([shorten(name, 30) for name in found.classes], most=6)
    sections = (
        result_section(found, held_out=f"Tested on {record.held_out}."), classes_section(found), confusion_section(found),
        examples_section(found, pictured), confidence_section(found), images_section(found, run.manifest.provenance["images"]),
    )  # fmt: skip
    return TaskReport(
        kind="Image segmenter", description=f"A model that says which of {classes} each pixel of an image has",
        subject=f"{classes}: {names}", summary=f"mean IoU {number(found.mean_iou)} on {plural(found.images, 'test image')}",
        sentence=sentence(found), sections=sections,
        limits=("The model assigns one of its classes to every pixel, also to things that it has never seen.",),
        hub=Hub(
            pipeline_tag="image-segmentation", task_name="Image segmentation",
            metrics=(("mean_iou", round(found.mean_iou, 4), "test mean IoU"),),
        ),
    )  # fmt: skip


def sentence(found: SegmentationEvaluation) -> str:
    """The result in sentences."""
    low, high = found.intervals.scores["mean_iou"]
    return (
        f"The mean IoU of the classes is {number(found.mean_iou)} on {plural(found.images, 'test image')}, and "
        f"{percent(found.scores['pixel_accuracy'])} of the pixels have the right class. "
        f"The 95 % confidence interval of the mean IoU on images like these is {number(low)} to {number(high)}."
    )


def result_section(found: SegmentationEvaluation, *, held_out: str = "") -> Section:
    """The score in sentences and on a scale, and the other scores."""
    always = found.scores["most_frequent_mean_iou"]
    tiles = []
    for name, word in SCORE_WORDS.items():
        if name not in ("mean_iou", "most_frequent_mean_iou"):
            low, high = found.intervals.scores.get(name, (math.nan, math.nan))
            tiles.append((word, number(found.scores[name]), "" if math.isnan(low) else f"{number(low)} to {number(high)}"))
    low, high = found.intervals.scores["mean_iou"]
    known = not math.isnan(low)
    headline = Headline(
        value=number(found.mean_iou), sentences=(sentence(found), held_out), point=found.mean_iou if known else None,
        interval=(low, high) if known else None, mark=None if math.isnan(always) else always,
        legend=f"The band is the 95 % interval. The mark at {number(always)} is the mean IoU of always naming the most frequent class.",
    )  # fmt: skip
    remarks = tuple(Paragraph(remark, "remark") for remark in found.remarks())
    what = Paragraph(
        "IoU (intersection over union): the pixels that have the class in truth and prediction, as a share of those with it in either. "
        "Boundary F1: how much of the outlines is within 0.75 % of the diagonal of the image. "
        f"Small numbers are intervals: {found.intervals.method}.", "quiet",
    )  # fmt: skip
    rows = tuple(
        (word, number(found.scores[name]) + _bounds(found.intervals.scores.get(name)))
        for name, word in SCORE_WORDS.items()
    )  # fmt: skip
    card: tuple[Block, ...] = (*map(Paragraph, found.remarks()), Table(head=("score", "value"), rows=rows, layout="numbers"))
    return Section(anchor="result", heading="Result", word="Result", blocks=(headline, *remarks, Tiles(tuple(tiles)), what), card=card)


def _bounds(interval: tuple[float, float] | None) -> str:
    return "" if interval is None or math.isnan(interval[0]) else f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"


def classes_section(found: SegmentationEvaluation) -> Section:
    """The scores of each class, with the interval of its IoU."""
    scores, total = found.by_class(), max(1, int(found.confusion.sum()))
    intervals = found.intervals.iou
    known = intervals[~np.isnan(intervals)]
    scale = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    rows: list[tuple[Text | Interval, ...]] = []
    for index, name in enumerate(found.classes):
        (low, high), value = intervals[index].tolist(), float(scores["iou"][index])
        graph: Text | Interval = "" if math.isnan(low) else Interval(value, low, high, scale)
        others = (number(float(scores[key][index])) for key in CLASS_COLUMNS if key != "iou")
        share = percent(float(found.confusion[index].sum()) / total)
        rows.append((_name(index, name), number(value), graph, _range(low, high), share, *others))
    head = ("class", "IoU", "", "95 % interval", "pixels", *(word for key, word in CLASS_COLUMNS.items() if key != "iou"))
    table = Table(head=head, rows=tuple(rows), layout="numbers intervals")
    legend = Paragraph(
        "Pixels: the share of the test pixels that have the class. Precision: the share of pixels named so that have the class. Recall: "
        "the share of pixels of the class that are named so. Dice: their harmonic mean, which is F1.", "quiet",
    )  # fmt: skip
    plain = [
        (name, *(cell for place, cell in enumerate(row) if place not in (0, 2))) for name, row in zip(found.classes, rows, strict=True)
    ]
    card = Table(head=tuple(word for word in head if word), rows=tuple(plain), layout="numbers")
    worst = _worst_class(found)
    return Section(
        anchor="classes", heading="Scores by class", word="Classes", blocks=(table, legend), summary=worst,
        card=(Heading("Classes"), card),
    )  # fmt: skip


def _worst_class(found: SegmentationEvaluation) -> str:
    iou = found.result.iou
    if len(iou) < 2 or np.isnan(iou).all():
        return ""
    worst = int(np.nanargmin(iou))
    return f"The class with the lowest IoU is {shorten(found.classes[worst], 30)}: {number(float(iou[worst]))}."


def _name(index: int, name: str) -> Text:
    return (Span(shorten(name, 32), "key", colour=hex_colour(index)),)


def _range(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{number(low)} to {number(high)}"


def confusion_matrix(found: SegmentationEvaluation) -> Matrix:
    """Pixels by true and by predicted class; of very many, in thousands."""
    counts, total = found.confusion, "pixels"
    if counts.max(initial=0) >= 10_000_000:
        counts, total = (counts + 500) // 1000, "thousand pixels"
    return Matrix(names=found.classes, counts=counts, rows="true class", columns="predicted class", total=total)


def confusion_section(found: SegmentationEvaluation) -> Section:
    """The confusion matrix, and the most frequent confusions."""
    listed = tuple(
        (Span(percent(share), "strong"), " of ", Span(true, "quote"), " predicted as ", Span(named, "quote"))
        for true, named, share in found.confusions(8)
    )
    said: tuple[Block, ...] = (Paragraph("No pixel has a wrong class."),)
    if listed:
        said = (Paragraph("Most frequent confusions, of the pixels of the true class:"), Bullets(listed))
    matrix = (confusion_matrix(found),)
    blocks = (Columns(matrix, said),) if len(found.classes) <= _BESIDE else (*matrix, *said)  # with many numbers it is as wide as the page
    return Section(
        anchor="confused", heading="Confusion matrix", word="Confusions", blocks=blocks,
        picture="confusion_matrix.png", caption=found.summary(),
    )  # fmt: skip


def example_rows(found: SegmentationEvaluation, *, worst: int = WORST, best: int = BEST) -> NDArray[np.int64]:
    """The rows of test images to show, int64 (m,): those with the lowest mean IoU, the worst first, then some with the highest."""
    order = np.argsort(np.where(np.isnan(found.image_iou), 2.0, found.image_iou), kind="stable")
    order = order[~np.isnan(found.image_iou[order])]
    first = order[:worst]
    return np.concatenate([first, order[worst:][-best:]]).astype(np.int64)


def pictures(run: Any, source: ImageSource, targets: Targets | None) -> tuple[Picture, ...]:
    """Three pictures of an image: with its true mask, with the predicted one, and where they differ; without the first where it is gone."""
    predictions = run.predict([source], warn=lambda message: None)
    if not len(predictions):
        return ()
    predicted = predictions.mask(0)
    own = read_image(source, at_least=_SIDE, levels=run.preprocessing.levels)
    height, width = predicted.shape
    share = min(1.0, _SIDE / max(height, width))
    size = max(1, round(height * share)), max(1, round(width * share))
    base = jpeg_bytes(thumbnail(own, size), quality=80)
    shown = thumbnail(predicted, size, smooth=False)
    opacity = np.full(256, _OPACITY, np.uint8)
    opacity[[VOID, *([] if predictions.background is None else [predictions.background])]] = 0
    named = Picture(data=base, mask=indexed_png(shown, opacity=opacity), alt="predicted classes")
    truth = _truth(targets)
    if truth is None:
        return (named,)
    true = thumbnail(truth, size, smooth=False)
    return (
        Picture(data=base, mask=indexed_png(true, opacity=opacity), alt="true classes"), named,
        Picture(data=base, mask=error_png(true, shown), alt="wrong pixels"),
    )  # fmt: skip


def _truth(targets: Any) -> NDArray[np.uint8] | None:
    try:
        return None if targets is None else np.asarray(targets.read(0))
    except HeadstartError:
        return None


def examples_section(found: SegmentationEvaluation, pictured: Mapping[int, Card]) -> Section:
    """Test images with true and predicted masks, the worst first."""
    if not pictured:
        return Section(anchor="examples", heading="Test images", word="Examples", blocks=())
    rows = [row for row in example_rows(found).tolist() if row in pictured]
    worst = set(example_rows(found, best=0).tolist())
    cards = {row: replace(_described(found, row, pictured[row]), name=pictured[row].name) for row in rows}
    groups = [Group(title="The lowest IoU first", cards=tuple(cards[row] for row in rows if row in worst))]
    if best := tuple(cards[row] for row in rows if row not in worst):
        groups.append(Group(title="The highest IoU", cards=best))
    complete = all(len(card.pictures) == 3 for card in pictured.values())
    order = "From left to right: the true classes, the predicted ones, and in red the pixels whose class is wrong (gray: no true class)."
    legend: list[str | Span] = []
    for index, name in enumerate(found.classes[:_OPEN_ROWS]):
        legend += [Span(shorten(name, 24), "key", colour=hex_colour(index)), "  "]
    blocks = (Paragraph(order if complete else "The predicted classes.", "quiet"), Paragraph(tuple(legend)), Gallery(tuple(groups)))
    return Section(anchor="examples", heading="Test images", word="Examples", blocks=blocks)


def _described(found: SegmentationEvaluation, row: int, card: Card) -> Card:
    """The card with the IoU of the image and of its worst class."""
    value, own = float(found.image_iou[row]), found.statistics.take(np.array([row])).confusion[0]
    hits, union = own.diagonal(), own.sum(axis=0) + own.sum(axis=1) - own.diagonal()
    iou = np.divide(hits, union, out=np.ones(len(hits)), where=union > 0)
    worst = int(iou.argmin())
    text = f"IoU {value:.2f}" + (f", {shorten(found.classes[worst], 20)} {iou[worst]:.2f}" if iou[worst] < 1 else "")
    return replace(card, text=text, share=value, right=value >= 0.5)


def confidence_section(found: SegmentationEvaluation) -> Section:
    """Calibration of the pixels, and accuracy by the share of pixels that are answered."""
    if not found.confidence.any():
        return Section(anchor="confidence", heading="Reliability of the confidence", word="Confidence", blocks=())
    error = found.scores["calibration_error"]
    share, right, _ = pixel_coverage(found.confidence)
    half = float(right[min(len(right) - 1, int(np.searchsorted(share, 0.5)))])
    said = (
        f"Confidence and accuracy of pixels differ by {100 * error:.1f} points on average (calibration error). "
        f"On the most confident {percent(float(share[min(len(share) - 1, int(np.searchsorted(share, 0.5)))]), digits=0)} of the pixels, "
        f"{percent(half)} are right."
    )
    legend = (
        "Reliability: the share of pixels that are right, by their confidence; on the dashed line the two are equal. Abstention: the "
        "accuracy of the most confident pixels, by their share of all. Pixels of one image depend on each other, so that there are no "
        "intervals."
    )
    blocks = (
        Paragraph(said), Charts((pixel_chart(found), coverage_chart(found))), Paragraph(legend, "quiet"),
        Fold("The numbers of the reliability curve", (_bins(found),)),
    )  # fmt: skip
    return Section(
        anchor="confidence", heading="Reliability of the confidence", word="Confidence", blocks=blocks, summary=said,
        card=(Heading("Confidence"), Bullets((said,))),
    )  # fmt: skip


def _groups(found: SegmentationEvaluation) -> list[tuple[float, float, float]]:
    """Mean confidence, share right and share of all pixels of each bin that has more than a few."""
    sure, right, pixels = pixel_calibration(found.confidence)
    total = pixels.sum()
    found_bins = zip(sure.tolist(), right.tolist(), (pixels / total).tolist(), strict=True)
    return [(a, b, share) for a, b, share in found_bins if share >= _FEW]


def pixel_chart(found: SegmentationEvaluation) -> LineChart:
    """Share right by confidence."""
    groups = _groups(found)
    told = ", ".join(f"{percent(a)} confident: {percent(b)} right" for a, b, _ in groups)
    return reliability_chart(
        [a for a, _, _ in groups], [b for _, b, _ in groups], low=math.floor(10 / len(found.classes)) / 10,
        description=f"Share of pixels right by their confidence. {told}.", of="probability of the predicted class",
        share="share of pixels right",
    )  # fmt: skip


def coverage_chart(found: SegmentationEvaluation) -> LineChart:
    """Accuracy by share of pixels."""
    share, right, _ = pixel_coverage(found.confidence)
    return LineChart(
        title="Abstention", description=f"Accuracy of the most confident pixels: {percent(float(right[-1]))} on all of them.",
        series=(Series(name="accuracy of these pixels", x=share.tolist(), y=right.tolist()),),
        x=Axis(label="share of the pixels, the most confident first", low=0.0, high=1.0, percent=True),
        y=Axis(label="share right", high=1.0, percent=True),
    )  # fmt: skip


def _bins(found: SegmentationEvaluation) -> Table:
    rows = tuple((percent(a), percent(b), f"{100 * (a - b):+.1f}", percent(share)) for a, b, share in _groups(found))
    return Table(head=("confidence", "right", "overconfident by (points)", "pixels"), rows=rows, layout="numbers")


def images_section(found: SegmentationEvaluation, counts: Mapping[str, Mapping[str, int]]) -> Section:
    """How many images of each part have each class."""
    blocks = images_by_class({name: _name(index, name) for index, name in enumerate(found.classes)}, counts)
    return Section(anchor="images", heading="Images", word="Images", blocks=blocks)
