"""What the report of anomaly detection says: scores of good and of defective images, the threshold with its guarantee, heat maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.data import Defects
from headstart.errors import HeadstartError
from headstart.metrics import accuracy_interval, roc_curve
from headstart.modalities.image import ImageSource, read_image
from headstart.pixels.interpolation import resized
from headstart.pixels.pictures import indexed_png, jpeg_bytes, thumbnail
from headstart.reliability.false_alarms import FalseAlarms
from headstart.sections import (
    Axis,
    Block,
    Card,
    Charts,
    Gallery,
    Group,
    Heading,
    Headline,
    Hub,
    LineChart,
    Mark,
    Paragraph,
    Picture,
    Section,
    Series,
    Table,
    TaskReport,
    Tiles,
)  # fmt: skip
from headstart.tasks.anomaly.evaluation import AnomalyEvaluation
from headstart.tasks.anomaly.predictions import heated
from headstart.text import number, percent, plural, shorten

if TYPE_CHECKING:
    from headstart.data import Targets

WRONG, RIGHT = 12, 6
"""At most so many examples of each kind."""

_SIDE = 240  # pixels of a picture
_OPACITY = 150
_NAMES = {
    "average_precision": "average precision", "pixel_roc_auc": "AUROC of pixels", "aupro": "AUPRO (to 30 % FPR)", "best_f1": "best F1",
    "f1": "F1 at the threshold",
}  # fmt: skip


def task_report(run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> TaskReport:
    """What the pages say; arguments as of `Task.report`."""
    found: AnomalyEvaluation = run.test_evaluation()
    alarms = FalseAlarms.from_state(run.manifest.state["false_alarms"])
    groups = example_rows(found)
    rows = np.concatenate([*groups.values(), np.zeros(0, np.int64)])
    pictured = cards(rows, draw=lambda row, source, targets: pictures(run, row, source, targets)) if len(rows) else {}
    known = run.reference.get("out_of_sample_logits")
    trained = np.zeros(0) if known is None else known[np.isfinite(known)].ravel().astype(np.float64)
    said = sentence(found)
    sections = (
        result_section(found, alarms, held_out=record.held_out), scores_section(found, alarms, trained), kinds_section(found),
        examples_section(found, groups, pictured),
    )  # fmt: skip
    area = found.roc_auc
    return TaskReport(
        kind="Anomaly detector", description="A model that says how far an image is from good ones, and where", subject="anomalies",
        summary=found.summary().replace("test AUROC", "AUROC"), sentence=said, sections=sections,
        limits=(
            alarms.sentence(), "The model knows good images alone: it also calls what is good and new anomalous, such as another lighting.",
        ),
        hub=Hub(
            pipeline_tag="image-classification", task_name="Anomaly detection", tags=("anomaly-detection",),
            metrics=() if math.isnan(area) else (("roc_auc", round(area, 4), "test AUROC of images"),),
        ),
    )  # fmt: skip


def sentence(found: AnomalyEvaluation) -> str:
    """The result in sentences."""
    if not found.images:
        return "There were no images to test on: all images are good, and the model was fitted on all of them."
    parts = []
    if not math.isnan(found.roc_auc):
        low, high = found.interval
        parts.append(
            f"An image with a defect has a higher score than a good one in {percent(found.roc_auc)} of the pairs among "
            f"{plural(found.images, 'test image')} (AUROC {number(found.roc_auc)}, 95 % interval {number(low)} to {number(high)})."
        )
    if found.good:
        parts.append(f"At the threshold there are {plural(found.false_alarms, 'false alarm')} on {plural(found.good, 'good test image')}.")
    if found.defects:
        parts.append(f"Of {plural(found.defects, 'image')} with defects {found.found} are found.")
    else:
        parts.append("There are no test images with defects.")
    return " ".join(parts)


def result_section(found: AnomalyEvaluation, alarms: FalseAlarms, *, held_out: str = "") -> Section:
    """The score, the threshold with its guarantee, and the other scores."""
    name, value, (low, high) = found.headline
    known = not math.isnan(value)
    legend = {
        "roc_auc": "The band is the 95 % interval (Newcombe); 0.5 is chance.", "recall": "The band is the 95 % interval (Wilson).",
        "false_alarm_rate": "The share of good test images above the threshold; the band is its 95 % interval (Wilson).",
    }[name]  # fmt: skip
    headline = Headline(
        value="no test images" if not known else number(value) if name == "roc_auc" else percent(value),
        sentences=(sentence(found), f"Tested on {held_out}.") if found.images else (sentence(found),), point=value if known else None,
        interval=(low, high) if known else None, mark=0.5 if name == "roc_auc" and known else None, legend=legend if known else "",
    )  # fmt: skip
    tiles = [(word, number(found.scores[key]), _bounds(found, key)) for key, word in _NAMES.items() if not math.isnan(found.scores[key])]
    tiles += [(word, f"{count} of {total}", _share(count, total)) for word, count, total in _counts(found) if total]
    threshold = Paragraph(alarms.sentence(), "" if alarms.enough else "remark")
    what = Paragraph(
        "AUROC: the share of pairs of a good image and one with a defect (or of such pixels) that are ranked rightly. AUPRO: the mean "
        "share of each defect that is found, averaged over false-positive rates of pixels up to 30 %. Best F1: at the threshold that suits "
        "these test images best, which was not used.", "quiet",
    )  # fmt: skip
    rows = tuple((word, text + (f" (95 % interval {small})" if small else "")) for word, text, small in tiles)
    card: tuple[Block, ...] = (
        Paragraph(alarms.sentence()),
        *((Table(head=("score", "value"), rows=rows, layout="numbers"),) if rows else ()),
    )
    blocks = (headline, threshold, *((Tiles(tuple(tiles)), what) if tiles else ()))
    return Section(anchor="result", heading="Result", word="Result", blocks=blocks, card=card)


def _counts(found: AnomalyEvaluation) -> tuple[tuple[str, int, int], ...]:
    return ("false alarms", found.false_alarms, found.good), ("defects found", found.found, found.defects)


def _share(count: int, total: int) -> str:
    low, high = accuracy_interval(count, total)
    return f"{percent(low)} to {percent(high)}"


def _bounds(found: AnomalyEvaluation, name: str) -> str:
    pixels = found.pixels
    interval = {} if pixels is None else {"pixel_roc_auc": pixels.roc_auc_interval, "aupro": pixels.aupro_interval}
    low, high = interval.get(name, (math.nan, math.nan))
    return "" if math.isnan(low) else f"{number(low)} to {number(high)}"


def scores_section(found: AnomalyEvaluation, alarms: FalseAlarms, trained: NDArray[np.float64]) -> Section:
    """How the scores of good and of defective images are distributed, and the ROC curve."""
    parts = (
        ("good training images, out of sample", trained, 1), ("good test images", found.score[~found.anomalous], 0),
        ("test images with defects", found.score[found.anomalous], 2),
    )  # fmt: skip
    shown = [(name, np.sort(scores), colour) for name, scores, colour in parts if len(scores)]
    if not shown:
        return Section(anchor="scores", heading="Scores", word="Scores", blocks=())
    chart = LineChart(
        title="Scores", description=_told(shown),
        series=tuple(
            Series(name=name, x=[float(scores[0]), *scores.tolist()], y=_above(len(scores)), colour=colour, dots=len(scores) < 2,
                   dashed=colour == 1)
            for name, scores, colour in shown
        ),
        x=Axis(label="anomaly score"), y=Axis(label="share of images with a higher score", low=0.0, high=1.0, percent=True),
        mark=Mark(x=alarms.threshold, label="threshold"),
    )  # fmt: skip
    charts = [chart]
    if not math.isnan(found.roc_auc):
        false, true, _ = roc_curve(found.anomalous, found.score)
        charts.append(
            LineChart(
                title="ROC",
                description=f"ROC curve of {plural(found.images, 'test image')}: AUROC {number(found.roc_auc)}.",
                series=(
                    Series(name="chance", x=[0.0, 1.0], y=[0.0, 1.0], colour=4, dashed=True),
                    Series(name="the model", x=false.tolist(), y=true.tolist()),
                ),
                x=Axis(label="good images called anomalous", low=0.0, high=1.0, percent=True),
                y=Axis(label="defects found", low=0.0, high=1.0, percent=True),
            )
        )
    legend = Paragraph(
        "Where the lines of good and of defective images do not overlap, a threshold between them tells them apart.", "quiet"
    )
    return Section(
        anchor="scores", heading="Scores", word="Scores", blocks=(Charts(tuple(charts)), legend), picture="scores.png",
        caption=found.summary(),
    )  # fmt: skip


def _above(count: int) -> list[float]:
    """The share of scores above each of so many, ascending, and above what is lower than all."""
    return [1.0, *(1 - (np.arange(count) + 1) / count).tolist()]


def _told(shown: list[tuple[str, NDArray[np.float64], int]]) -> str:
    """The distributions in words."""
    return " ".join(f"{name[:1].upper()}{name[1:]}: {of[0]:.3g} to {of[-1]:.3g}, median {np.median(of):.3g}." for name, of, _ in shown)


def kinds_section(found: AnomalyEvaluation) -> Section:
    """Which kinds of defects are found, where there are several."""
    kinds = found.by_kind()
    if len(kinds) < 2:
        return Section(anchor="kinds", heading="Kinds of defects", word="Kinds", blocks=())
    rows = tuple(
        (shorten(kind, 32), str(count), str(hits), percent(hits / count), number(area)) for kind, (count, hits, area) in kinds.items()
    )
    table = Table(head=("kind", "images", "found", "share", "AUROC"), rows=rows, layout="numbers")
    return Section(
        anchor="kinds", heading="Kinds of defects", word="Kinds", blocks=(table,), card=(Heading("Kinds of defects"), table)
    )  # fmt: skip


def example_rows(found: AnomalyEvaluation) -> dict[str, NDArray[np.int64]]:
    """Rows of test images to show, int64, by the title of their group; the worst first."""
    order = np.argsort(found.score, kind="stable")
    good, bad, called = ~found.anomalous[order], found.anomalous[order], found.called[order]
    groups = {
        "Defects that are missed, the lowest score first": order[bad & ~called][:WRONG],
        "False alarms, the highest score first": order[good & called][::-1][:WRONG],
        "Defects that are found, the highest score first": order[bad & called][::-1][:RIGHT],
        "Good images, the highest score first": order[good & ~called][::-1][:RIGHT],
    }
    return {title: rows.astype(np.int64) for title, rows in groups.items() if len(rows)}


def pictures(run: Any, row: int, source: ImageSource, targets: Targets | None) -> tuple[Picture, ...]:
    """Pictures of a test image: as it is, with its heat map, and with its true mask where that is known."""
    own = read_image(source, at_least=_SIDE, levels=run.preprocessing.levels)
    height, width = own.shape[:2]
    share = min(1.0, _SIDE / max(height, width))
    size = max(1, round(height * share)), max(1, round(width * share))
    small, values = thumbnail(own, size), resized(run.tested["map"][row], size)
    base = jpeg_bytes(small, quality=80)
    heat = jpeg_bytes(heated(small, values, float(run.manifest.state["threshold"])), quality=80)
    found = [Picture(data=base, alt="image"), Picture(data=heat, alt="heat map; what is above the threshold is outlined")]
    if (truth := _truth(targets)) is not None:
        opacity = np.zeros(256, np.uint8)
        opacity[1:] = _OPACITY
        mask = indexed_png(thumbnail(truth.astype(np.uint8), size, smooth=False), opacity=opacity)
        found.append(Picture(data=base, mask=mask, alt="true defects"))
    return tuple(found)


def _truth(targets: Targets | None) -> NDArray[np.bool_] | None:
    """Which pixels of the image have a defect, where there is a mask that can be read."""
    if not isinstance(targets, Defects) or not targets.array[0] or not targets.has_mask(0):
        return None
    try:
        return targets.defective(0)[0]
    except HeadstartError:
        return None


def examples_section(found: AnomalyEvaluation, groups: Mapping[str, NDArray[np.int64]], pictured: Mapping[int, Card]) -> Section:
    """Test images with their heat maps and true masks, the worst first."""
    if not pictured:
        return Section(anchor="examples", heading="Test images", word="Examples", blocks=())
    shown = []
    for title, rows in groups.items():
        cards = tuple(_described(found, row, pictured[row]) for row in rows.tolist() if row in pictured)
        shown += [Group(title=title, cards=cards)] if cards else []
    order = "From left to right: the image, its heat map with what is above the threshold outlined, and the true mask where there is one."
    return Section(anchor="examples", heading="Test images", word="Examples", blocks=(Paragraph(order, "quiet"), Gallery(tuple(shown))))


def _described(found: AnomalyEvaluation, row: int, card: Card) -> Card:
    text = f"score {found.score[row]:.4g}" + (f", {shorten(found.kinds[row], 24)}" if found.kinds else "")
    return replace(card, text=text, right=bool(found.called[row] == found.anomalous[row]))
