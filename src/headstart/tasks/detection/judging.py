"""What a fit learns beside the boxes: which inputs are unlike the training inputs, and boxes that look missing or wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.audit import Finding
from headstart.backbones import timm_models
from headstart.data import Dataset
from headstart.data.boxes import Boxes
from headstart.features.table import FeatureTable
from headstart.metrics.boxes import Detections, areas, iou
from headstart.progress import Listener
from headstart.reliability import Reliability
from headstart.tasks.detection.architectures import architecture_of
from headstart.tasks.detection.learning import FEWEST, Crossed
from headstart.tasks.learned import novelty_of
from headstart.tasks.task import Judged, Learned, LearningContext
from headstart.text import plural

_TOLD_FROM = 0.5  # AP50 out of sample, from which on what is found says something about the boxes
_SURE = 0.8  # confidence that is high, whatever the threshold
_APART = 0.25  # of the smaller of two boxes: where they share less, they are of two things
_ON = 0.7  # IoU of two boxes of one thing, of whatever class
_OTHER = 0.5  # IoU from which on a box of the own class explains a detection
_NEAR = 0.3  # IoU with a true box from which on a detection confirms it
_LOW = 0.05  # confidence from which on it does
_USUAL = 0.8  # share of boxes of like size that must be confirmed, before the lack of it says something
_LIKE = 2.0  # times the area: boxes of like size

Floats = npt.NDArray[np.float64]


def judge(learned: Learned, context: LearningContext) -> Judged:
    """Novelty by the pooled features of the training inputs; and the boxes that heads which had not seen them contradict most."""
    table = learned.table
    return Judged(
        reliability=Reliability(novelty=novelty_of(table, seed=context.settings.seed)), findings=_doubtful(table, learned.beside)
    )  # fmt: skip


def can_be_doubted(dataset: Dataset, listener: Listener) -> bool:
    """Whether heads can be trained that say of each box whether they find it; the listener is told where PyTorch alone is missing."""
    targets = dataset.targets
    assert isinstance(targets, Boxes)
    if len(dataset) < FEWEST or not any(targets.objects().values()):
        return False
    if not timm_models.installed():
        listener.say("Missing boxes and wrong classes are found by training, which needs PyTorch: pip install 'headstart[torch]'.")
        return False
    return True


def doubts(table: FeatureTable, context: LearningContext) -> tuple[Finding, ...]:
    """What heads on halves of the training rows find wrong in the other half, as a fit tells it, without the training that follows."""
    plan = architecture_of(context.settings).recipe.plan(context.settings, len(table.train))
    return _doubtful(table, Crossed.of(table, plan, context))


def _doubtful(table: FeatureTable, crossed: Crossed | None) -> tuple[Finding, ...]:
    if crossed is None:
        return ()
    targets, rows, names = table.dataset.targets, table.train[crossed.places], table.dataset.names()
    assert isinstance(targets, Boxes)
    return tuple(doubtful_boxes(crossed, targets.take(rows), [names[row] for row in rows.tolist()]))


@dataclass(frozen=True)
class Doubt:
    """One place where what was found contradicts the data: the row of the image, what to say, and how grave it is, the graver the more."""

    row: int
    text: str
    weight: float


def doubtful_boxes(crossed: Crossed, truth: Boxes, names: Sequence[str]) -> list[Finding]:
    """Boxes that may be missing, of a wrong class, or of nothing, by heads that had not learned from the image; each kind worst first.

    Nothing where these heads find too little to be right about it: AP50 below one half. `truth` has the boxes of the images that they
    were tested on, and `names` what these are called.
    """
    if not crossed.ap50 >= _TOLD_FROM:
        return []
    found = crossed.chosen.detections
    confidence = crossed.confidence
    found = Detections(found.boxes, confidence.calibration(found.scores), found.labels, found.starts)
    sure = found.at_least(max(confidence.threshold, min((1 + confidence.threshold) / 2, _SURE)))
    return [
        *_told("missing boxes", missing(sure, truth), names, lambda count, them: (
            f"{plural(count, 'thing')} without a box in training images, surely found by what was learned from the others: look at {them}. "
            "A box may be missing."
        )),
        *_told("wrong classes", of_another_class(sure, found, truth), names, lambda count, them: (
            f"{plural(count, 'training box')} surely found in another class by what was learned from the others: look at {them}. "
            "The class may be wrong."
        )),
        *_told("unconfirmed boxes", unconfirmed(found, truth), names, lambda count, them: (
            f"{plural(count, 'training box')} at which nothing was found by what was learned from the others, though boxes of this size "
            f"mostly are: look at {them}. There may be nothing, or the box may be of another image."
        ), first="largest"),
    ]  # fmt: skip


def _told(
    kind: str, doubts: list[Doubt], names: Sequence[str], message: Callable[[int, str], str], *, first: str = "surest"
) -> list[Finding]:  # fmt: skip
    """The finding, with the gravest doubts `first`; none without a doubt."""
    ordered = sorted(doubts, key=lambda doubt: -doubt.weight)
    them = "it" if len(ordered) == 1 else f"them, the {first} first"
    return Finding.of(
        kind, "warning", message(len(ordered), them), [f"{names[doubt.row]}: {doubt.text}" for doubt in ordered], len(ordered)
    )  # fmt: skip


def missing(sure: Detections, truth: Boxes) -> list[Doubt]:
    """Sure detections that are far from every true box of any class, crowds too; of several of one thing the surest."""
    doubts = []
    for row in np.flatnonzero(np.diff(sure.starts)).tolist():
        boxes, scores, labels = _of(sure, row)
        others = truth.of(row)[0]
        for place in np.argsort(-scores, kind="stable").tolist():
            box = boxes[place : place + 1]
            if not (_shared(box, others) >= _APART).any():
                others = np.concatenate([others, box])
                doubts.append(Doubt(row, f"{truth.classes[labels[place]]} {_place(box[0])}, {_sure(scores[place])}", float(scores[place])))
    return doubts


def of_another_class(sure: Detections, found: Detections, truth: Boxes) -> list[Doubt]:
    """True boxes on which a sure detection of another class lies, and none of their own class that is surer."""
    doubts = []
    for row in np.flatnonzero(np.diff(sure.starts)).tolist():
        boxes, scores, labels = _of(sure, row)
        every, own_scores, own_labels = _of(found, row)
        true, true_labels, crowd = truth.of(row)
        overlap = iou(boxes, true)
        explained = ((overlap >= _OTHER) & (labels[:, None] == true_labels)).any(axis=1)
        for place in np.flatnonzero(~crowd).tolist():
            on = (overlap[:, place] >= _ON) & (labels != true_labels[place]) & ~explained
            own = (iou(every, true[place : place + 1])[:, 0] >= _OTHER) & (own_labels == true_labels[place])
            if not on.any():
                continue
            best = int(np.where(on, scores, -1).argmax())
            if scores[best] > own_scores[own].max(initial=0):
                labelled, seen = truth.classes[true_labels[place]], truth.classes[labels[best]]
                text = f"labelled {labelled} {_place(true[place])}, found as {seen}, {_sure(scores[best])}"
                doubts.append(Doubt(row, text, float(scores[best])))
    return doubts


def unconfirmed(found: Detections, truth: Boxes) -> list[Doubt]:
    """True boxes at which there is no detection of any class, while boxes of like size are mostly found."""
    seen, likely = np.zeros(len(truth.boxes), np.bool_), found.at_least(_LOW)
    for row in np.flatnonzero(np.diff(truth.starts)).tolist():
        rows = slice(int(truth.starts[row]), int(truth.starts[row + 1]))
        seen[rows] = (iou(_of(likely, row)[0], truth.boxes[rows]) >= _NEAR).any(axis=0)
    sizes, images = areas(truth.boxes), truth.images
    doubts = []
    for place in np.flatnonzero(~seen & ~truth.crowd).tolist():
        like = ~truth.crowd & (sizes >= sizes[place] / _LIKE) & (sizes <= sizes[place] * _LIKE)
        if seen[like].mean() >= _USUAL:
            text = f"{truth.classes[truth.labels[place]]} {_place(truth.boxes[place])}"
            doubts.append(Doubt(int(images[place]), text, float(sizes[place])))
    return doubts


def _of(found: Detections, row: int) -> tuple[npt.NDArray[np.float32], Floats, npt.NDArray[np.int64]]:
    """Boxes, confidence and classes of one image."""
    rows = slice(int(found.starts[row]), int(found.starts[row + 1]))
    return found.boxes[rows], np.asarray(found.scores[rows], np.float64), found.labels[rows]


def _shared(box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> Floats:
    """What a box (1, 4) and each of others (m, 4) share, as part of the smaller of both, (m,)."""
    everything = np.ones(len(others), np.bool_)
    return np.asarray(np.maximum(iou(box, others, everything)[0], iou(others, box, np.ones(1, np.bool_))[:, 0]))


def _place(box: npt.NDArray[np.float32]) -> str:
    return f"at ({', '.join(f'{side:.0f}' for side in box.tolist())})"


def _sure(confidence: float) -> str:
    return f"confidence {confidence:.2f}"
