"""What the report of a detection says: the score, scores by class and size, mistakes, examples with their boxes, curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.metrics.detection import detection_curve
from headstart.metrics.mistakes import Kind
from headstart.metrics.scores import calibration_bins
from headstart.modalities.image import ImageSource, read_image
from headstart.pixels.pictures import jpeg_bytes, thumbnail
from headstart.sections import (
    Axis,
    Bar,
    Block,
    Box,
    Bullets,
    Card,
    Charts,
    Gallery,
    Group,
    Heading,
    Headline,
    Hub,
    Interval,
    LineChart,
    Mark,
    Matrix,
    Paragraph,
    Picture,
    Section,
    Series,
    Span,
    Table,
    TaskReport,
    Tiles,
)  # fmt: skip
from headstart.tasks.blocks import images_by_class, reliability_chart
from headstart.tasks.detection.evaluation import BACKGROUND, SCORE_WORDS, DetectionEvaluation
from headstart.text import enumeration, number, percent, plural, shorten

if TYPE_CHECKING:
    pass

WORST, BEST = 18, 3
"""At most so many examples."""

_SIDE = 360  # pixels of a picture
_CURVES = 6  # classes with a curve of their own
_POINTS = 200  # of a curve
_SIZES = {"small": "small (below 32 x 32 pixels)", "medium": "medium (to 96 x 96)", "large": "large"}
_TRUE, _RIGHT, _WRONG = 0, 2, 1  # colours of boxes: what is there; found rightly; found wrongly
_KEYS = ("#0d8066", "#c95a08")  # the same, of what is found


def task_report(run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> TaskReport:
    """What the pages say; arguments as of `Task.report`."""
    found: DetectionEvaluation = run.test_evaluation()
    pictured = cards(example_rows(found), draw=lambda row, source, targets: pictures(found, row, source, run.preprocessing.levels))
    classes = plural(len(found.classes), "class")
    names = enumeration([shorten(name, 30) for name in found.classes], most=6)
    sections = (
        result_section(found, held_out=f"Tested on {record.held_out}."), classes_section(found), mistakes_section(found),
        examples_section(found, pictured), curves_section(found), confidence_section(found),
        images_section(found, run.manifest.provenance["images"]),
    )  # fmt: skip
    scores = found.result.means
    return TaskReport(
        kind="Object detector", description=f"A model that finds things of {classes} in images", subject=f"{classes}: {names}",
        summary=f"AP50 {number(scores['ap50'])} on {plural(found.images, 'test image')}", sentence=sentence(found), sections=sections,
        limits=("The model finds things of its classes only; at most 100 in an image.",),
        hub=Hub(
            pipeline_tag="object-detection", task_name="Object detection",
            metrics=(("ap50", round(scores["ap50"], 4), "test AP50"), ("ap", round(scores["ap"], 4), "test AP")),
        ),
    )  # fmt: skip


def sentence(found: DetectionEvaluation) -> str:
    """The result in sentences."""
    low, high = found.intervals.scores["ap50"]
    counts = found.counts
    true, right, named = (int(one.sum()) for one in (counts.true, counts.right, counts.found))
    return (
        f"Average precision at an overlap of one half (AP50) is {number(found.result.means['ap50'])} on "
        f"{plural(found.images, 'test image')} with {plural(true, 'box')}. At a confidence of {found.threshold:.2f} and more, the "
        f"model names {named} boxes: {right} of the {true} are found. "
        f"The 95 % confidence interval of AP50 on images like these is {number(low)} to {number(high)}."
    )


def result_section(found: DetectionEvaluation, *, held_out: str = "") -> Section:
    """The score in sentences and on a scale, and the other scores."""
    tiles = []
    for name, word in SCORE_WORDS.items():
        if name != "ap50" and not name.startswith("ar_1"):
            low, high = found.intervals.scores.get(name, (math.nan, math.nan))
            tiles.append((word, number(found.scores[name]), "" if math.isnan(low) else f"{number(low)} to {number(high)}"))
    (low, high), point = found.intervals.scores["ap50"], found.result.means["ap50"]
    known = not (math.isnan(low) or math.isnan(point))
    headline = Headline(
        value=number(point), sentences=(sentence(found), held_out), point=point if known else None,
        interval=(low, high) if known else None, legend="The band is the 95 % interval of AP50.",
    )  # fmt: skip
    what = Paragraph(
        "AP50: the area below the curve of precision against recall, where a box is right that overlaps a true one of its class by half or "
        "more (intersection over union). AP: the mean over overlaps from 0.50 to 0.95, as of COCO; it asks for boxes that fit closely. "
        "AP75: at 0.75. AR: recall, averaged in the same way. Small numbers are intervals: " + found.intervals.method + ".",
        "quiet",
    )  # fmt: skip
    remarks = tuple(Paragraph(remark, "remark") for remark in found.remarks())
    return Section(
        anchor="result", heading="Result", word="Result", blocks=(headline, *remarks, Tiles(tuple(tiles)), what),
        card=(Bullets(tuple(f"{word}: {number(found.scores[name])}" for name, word in SCORE_WORDS.items())),),
    )  # fmt: skip


def classes_section(found: DetectionEvaluation) -> Section:
    """Scores of each class, and by size."""
    scale = (0.0, 1.0)
    rows = []
    for index, (name, own) in enumerate(zip(found.classes, found.by_class(), strict=True)):
        low, high = found.intervals.ap50[index].tolist()
        band = "" if math.isnan(low) else Interval(own["ap50"], low, high, scale)
        rows.append(
            (
                shorten(name, 40), number(own["ap50"]), band, "" if math.isnan(low) else f"{number(low)} to {number(high)}",
                number(own["ap"]), number(own["precision"]), number(own["recall"]), f"{own['objects']:.0f}",
            )
        )  # fmt: skip
    order = np.argsort([own["ap50"] if math.isfinite(own["ap50"]) else 2.0 for own in found.by_class()], kind="stable")
    head = ("class", "AP50", "", "95 % interval", "AP", "precision", "recall", "boxes")
    table = Table(head=head, rows=tuple(rows[index] for index in order.tolist()), layout="numbers intervals")
    sizes = found.result.objects[:, 1:].sum(axis=0).tolist()
    by_size = Table(
        head=("boxes by size", "boxes", "AP", "AR"),
        rows=tuple(
            (word, str(count), number(found.scores[f"ap_{size}"]), number(found.result.means[f"ar_{size}"]))
            for (size, word), count in zip(_SIZES.items(), sizes, strict=True)
        ),
        layout="numbers",
    )
    legend = Paragraph("Precision: the share of named boxes that are right. Recall: the share of true boxes that are found. Both at the "
                       "threshold of confidence.", "quiet")  # fmt: skip
    worst = found.classes[int(order[0])]
    gist = f"The class with the lowest AP50 is {worst}: {number(found.by_class()[int(order[0])]['ap50'])}." if len(rows) > 1 else ""
    return Section(
        anchor="classes", heading="Scores by class and size", word="Classes", blocks=(table, legend, by_size), summary=gist
    )  # fmt: skip


def confusion_matrix(found: DetectionEvaluation) -> Matrix:
    """True boxes by class and by the class that was found there, the last row and column for what is invented and missed."""
    return Matrix(
        names=(*found.classes, BACKGROUND), counts=found.confusion, rows="true class", columns="class found", total="boxes"
    )  # fmt: skip


def mistakes_section(found: DetectionEvaluation) -> Section:
    """What is wrong at the threshold."""
    counts = found.counts
    true, named = int(counts.true.sum()), int(counts.found.sum())
    told = [
        ("right", counts.right), ("missed", counts.missed), ("wrong class", counts.wrong_class), ("badly placed", counts.misplaced),
        ("invented", counts.invented),
    ]  # fmt: skip
    total = max(1, true + int(counts.invented.sum()))
    rows = tuple((name, Bar(((int(one.sum()) / total, 0),)), str(int(one.sum()))) for name, one in told)
    table = Table(head=("boxes", "", "number"), rows=rows, layout="numbers bars")
    said = f"At a confidence of {found.threshold:.2f} and more, the model names {named} boxes in images with {true}."
    what = Paragraph(
        "Right: overlaps a true box of its class by one half or more. Badly placed: by less, but a tenth or more. Missed: a true box that "
        "none overlaps. Invented: there is nothing, or it was found already.",
        "quiet",
    )
    blocks: list[Block] = [Paragraph(said), table, what]
    if len(found.classes) > 1:
        blocks += [Heading("Confusion matrix"), confusion_matrix(found)]
    missed, invented = int(counts.missed.sum()), int(counts.invented.sum())
    return Section(
        anchor="mistakes", heading="Mistakes", word="Mistakes", blocks=tuple(blocks),
        summary=f"Of {plural(true, 'box')} {missed} are missed; {invented} of {named} named ones are invented.",
        picture="confusion_matrix.png" if len(found.classes) > 1 else "", caption=found.summary(),
    )  # fmt: skip


def example_rows(found: DetectionEvaluation) -> NDArray[np.int64]:
    """The rows of test images to show, int64 (m,): those with the most mistakes first, then some without any."""
    order = found.counts.worst_first()
    wrong = order[found.counts.wrong[order] > 0][:WORST]
    right = order[(found.counts.wrong[order] == 0) & (found.counts.true[order] > 0)][-BEST:]
    return np.concatenate([wrong, right]).astype(np.int64)


def pictures(found: DetectionEvaluation, row: int, source: ImageSource, levels: Any) -> tuple[Picture, ...]:
    """Two pictures of an image: with its true boxes, and with those found at the threshold."""
    own = read_image(source, at_least=_SIDE, levels=levels)
    height, width = own.shape[:2]
    share = min(1.0, _SIDE / max(height, width))
    base = jpeg_bytes(thumbnail(own, (max(1, round(height * share)), max(1, round(width * share)))), quality=80)
    true, labels, crowd = found.boxes.of(row)
    there = tuple(
        _box(box, found.boxes.sizes[row], f"{shorten(found.classes[label], 20)}{' (many)' if many else ''}", _TRUE)
        for box, label, many in zip(true, labels.tolist(), crowd.tolist(), strict=True)
    )
    rows = slice(*found.detections.starts[row : row + 2].tolist())
    named = tuple(
        _box(box, found.boxes.sizes[row], f"{shorten(found.classes[label], 20)} {100 * score:.0f} %", _RIGHT if right else _WRONG)
        for box, score, label, right in zip(
            found.detections.boxes[rows], found.detections.scores[rows].tolist(), found.detections.labels[rows].tolist(),
            (found.mistakes.found[rows] == Kind.RIGHT).tolist(), strict=True,
        )
        if score >= found.threshold
    )  # fmt: skip
    return Picture(data=base, boxes=there, alt="true boxes"), Picture(data=base, boxes=named, alt="boxes found")


def _box(box: NDArray[Any], size: NDArray[np.int64], label: str, colour: int) -> Box:
    height, width = size.tolist()
    left, top, right, bottom = (box / np.array([width, height, width, height])).tolist()
    return Box(left, top, right - left, bottom - top, label, colour)


def examples_section(found: DetectionEvaluation, pictured: Mapping[int, Card]) -> Section:
    """Test images with true and found boxes, the worst first."""
    rows = [row for row in example_rows(found).tolist() if row in pictured]
    cards = {row: _described(found, row, pictured[row]) for row in rows}
    wrong = [cards[row] for row in rows if found.counts.wrong[row]]
    groups = [Group(title="The most mistakes first", cards=tuple(wrong))] if wrong else []
    if right := tuple(cards[row] for row in rows if not found.counts.wrong[row]):
        groups.append(Group(title="Without a mistake", cards=right))
    legend = (
        "On the left the true boxes, on the right those found: ",
        Span("right", "key", colour=_KEYS[0]), ", ", Span("wrong", "key", colour=_KEYS[1]),
        f". Named are those with a confidence of {found.threshold:.2f} and more.",
    )  # fmt: skip
    blocks = (Paragraph(legend), Gallery(tuple(groups))) if groups else ()
    return Section(anchor="examples", heading="Test images", word="Examples", blocks=blocks)


def _described(found: DetectionEvaluation, row: int, card: Card) -> Card:
    """The card with what is wrong in the image."""
    counts = found.counts
    kinds = {
        "missed": counts.missed,
        "invented": counts.invented,
        "of the wrong class": counts.wrong_class,
        "badly placed": counts.misplaced,
    }
    told = [f"{int(one[row])} {word}" for word, one in kinds.items() if one[row]]
    right, true = int(counts.right[row]), int(counts.true[row])
    return replace(card, text=", ".join([f"{right} of {true} found", *told]), right=not told)


def curves_section(found: DetectionEvaluation) -> Section:
    """Precision against recall, of all classes together and of the most frequent ones; and both against the confidence."""
    order = np.argsort(-found.objects, kind="stable")[:_CURVES].tolist() if len(found.classes) > 1 else []
    series = [_curve(found, None, "all boxes", 0)]
    series += [_curve(found, index, shorten(found.classes[index], 20), 1 + place) for place, index in enumerate(order)]
    ap50 = found.result.means["ap50"]
    first = LineChart(
        title="Precision and recall", description=f"Precision against recall at an overlap of one half; AP50 {number(ap50)}.",
        series=tuple(series), x=Axis(label="recall: share of true boxes found", low=0.0, high=1.0, percent=True),
        y=Axis(label="precision: share of named boxes that are right", low=0.0, high=1.0, percent=True),
    )  # fmt: skip
    precision, recall, thresholds = (np.asarray(one, np.float64) for one in detection_curve(found.matches))
    count = min(len(thresholds), len(precision), len(recall))
    kept = _some(count)
    sides = [(name, values[:count][kept]) for name, values in (("precision", precision), ("recall", recall))]
    second = LineChart(
        title="The threshold", description=f"Precision and recall by the lowest confidence that is named; it is {found.threshold:.2f}.",
        series=tuple(
            Series(name=name, x=thresholds[:count][kept].tolist(), y=values.tolist(), colour=place, dashed=bool(place))
            for place, (name, values) in enumerate(sides)
        ),
        x=Axis(label="lowest confidence", low=0.0, high=1.0), y=Axis(label="share", low=0.0, high=1.0, percent=True),
        mark=Mark(x=found.threshold, label="threshold"),
    )  # fmt: skip
    legend = Paragraph("The threshold was chosen on training images, each tested by a model that had not learned from it.", "quiet")
    return Section(anchor="curves", heading="Precision and recall", word="Curves", blocks=(Charts((first, second)), legend))


def _curve(found: DetectionEvaluation, label: int | None, name: str, colour: int) -> Series:
    precision, recall, _ = (np.asarray(one, np.float64) for one in detection_curve(found.matches, label))
    kept = _some(len(recall))
    return Series(name=name, x=recall[kept].tolist(), y=precision[kept].tolist(), colour=colour, thin=label is not None)


def _some(count: int) -> NDArray[np.int64]:
    """Places of at most `_POINTS` points of a curve, evenly spread, its ends among them."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, _POINTS)).round().astype(np.int64))


def confidence_section(found: DetectionEvaluation) -> Section:
    """Whether the confidence of a box is the share of boxes with it that are right."""
    right, scores, _ = found.matches.at_half()
    if not len(scores):
        return Section(anchor="confidence", heading="Reliability of the confidence", word="Confidence", blocks=())
    bins = calibration_bins(scores.astype(np.float64), right, bins=10)
    filled = bins.images > 0
    groups = list(zip(bins.confidence[filled].tolist(), bins.accuracy[filled].tolist(), bins.images[filled].tolist(), strict=True))
    said = f"Confidence and share of right boxes differ by {100 * found.scores['calibration_error']:.1f} points on average."
    chart = reliability_chart(
        [a for a, _, _ in groups], [b for _, b, _ in groups], low=0.0, of="confidence of the box", share="share right",
        description="Share of right boxes by confidence. " + ", ".join(f"{a:.2f}: {b:.2f}" for a, b, _ in groups),
    )  # fmt: skip
    rows = tuple((percent(a), percent(b), str(int(count))) for a, b, count in groups)
    table = Table(head=("confidence", "right", "boxes"), rows=rows, layout="numbers")
    return Section(
        anchor="confidence", heading="Reliability of the confidence", word="Confidence", blocks=(Paragraph(said), Charts((chart,)), table),
        summary=said,
    )  # fmt: skip


def images_section(found: DetectionEvaluation, counts: Mapping[str, Mapping[str, int]]) -> Section:
    """How many images of each part have each class."""
    table = images_by_class({name: shorten(name, 40) for name in found.classes}, counts)
    empty = int((found.counts.true == 0).sum())
    note = (Paragraph(f"{plural(empty, 'test image')} without any box: what is found there is invented.", "quiet"),)
    return Section(anchor="images", heading="Images", word="Images", blocks=(*table, *(note if table and empty else ())))
