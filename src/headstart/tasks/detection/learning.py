"""Learning boxes: a detection head on the stored maps of the frozen backbone, trained in the one loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from headstart.backbones.stage_maps import MIRRORED
from headstart.data import Dataset
from headstart.data.boxes import Boxes
from headstart.features.stage_maps import ChooseMaps, StageMaps
from headstart.features.table import FeatureTable
from headstart.heads.boxes import BoxDecoder
from headstart.matrix import blocks
from headstart.metrics.boxes import Detections
from headstart.metrics.confidence import BetaCalibration, fit_calibration
from headstart.metrics.detection import BestThreshold, best_threshold, detection_scores
from headstart.metrics.matching import Matches, match
from headstart.metrics.proposals import BOXES, PROBABILITIES, THRESHOLD
from headstart.selection import Choice
from headstart.settings import FineTuning, FitSettings
from headstart.tasks.detection.architectures import architecture_of
from headstart.tasks.detection.predictions import Found, detections_of
from headstart.tasks.stored_maps import Rows, halves, train_head, tuned
from headstart.tasks.task import Learned, LearningContext
from headstart.training.job import Resumable

if TYPE_CHECKING:
    from headstart.training.history import History

FEWEST, SHARE = 16, 0.4
"""Of at least so many images, each is tested from outside, by a training of this share of the epochs."""


def maps_for(settings: FitSettings, dataset: Dataset) -> ChooseMaps:
    """The maps that the head learns from."""
    architecture = architecture_of(settings)
    return architecture.recipe.request(settings, dataset, architecture.maps)


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Train a head on all training rows, and the backbone further where the plan says so."""
    plan = context.settings.fine_tuning
    if plan is None or plan.strategy == "probe":
        return probe(table, context)
    from headstart.tasks.detection.fine_tuning import BoxHead
    from headstart.tasks.trained_maps import learn_further

    return learn_further(BoxHead(table, context), probe(table, replace(context, resumable=Resumable())))


def probe(table: FeatureTable, context: LearningContext) -> Learned:
    """A head on the frozen backbone; what half of the training rows say of the other half decides on mirror images and the threshold."""
    began = time.perf_counter()
    plan = architecture_of(context.settings).recipe.plan(context.settings, len(table.train))
    crossed = Crossed.of(table, plan, context)
    context.listener.stage("Training the detection head")
    network, history = fitted(table, table.train, plan, context)
    decoder, facts = network.decoder(), () if crossed is None else crossed.facts()
    if crossed is not None:
        decoder = crossed.confidence.given_to(replace(decoder, mirrored=crossed.gains))
    return Learned(
        choice=choice_of(decoder, context), table=table, prepared=context.prepared, plan=plan, beside=crossed,
        fine_tuned=tuned(table, context, decoder, history, facts=facts), seconds={"training": time.perf_counter() - began},
    )  # fmt: skip


def choice_of(decoder: BoxDecoder, context: LearningContext, *, reason: str = "") -> Choice:
    """A detection head as the model of a fit."""
    title, layers = architecture_of(context.settings).title, ", ".join(layer.name for layer in decoder.layers)
    return Choice(estimator=decoder, evidence=(), out_of_sample=None, reason=reason, description=f"{title} on the maps of {layers}")


def fitted(table: FeatureTable, rows: Rows, plan: FineTuning, context: LearningContext) -> tuple[Any, History]:
    """The network of a head that learned from the stored maps of some rows, and how its training went; Interrupted at Ctrl-C."""
    from headstart.training.box_targets import StageViews
    from headstart.training.boxes import BoxTraining

    targets, maps = table.dataset.targets, table.maps
    assert isinstance(targets, Boxes)
    assert maps is not None
    mine, own = targets.take(rows), maps.take(rows)
    network = architecture_of(context.settings).made(maps.layers, len(targets.classes), context.settings, names=targets.classes)
    task = BoxTraining(objective=network.objective(mine, StageViews(own)), network=network, shape=network.shape)
    return network, train_head(task, own, plan, context)


@dataclass(frozen=True)
class Confidence:
    """What the confidence of a head is worth, from what it found in images that it had not learned from.

    Attributes:
        calibration: from a score to the share of boxes with it that are right at an overlap of one half.
        best: the score with the best F1 at that overlap.
    """

    calibration: BetaCalibration
    best: BestThreshold

    @classmethod
    def of(cls, matches: Matches) -> Self:
        """By detections that are matched with the truth."""
        right, scores, _ = matches.at_half()
        return cls(fit_calibration(scores, right), best_threshold(matches))

    @property
    def threshold(self) -> float:
        """The best score as a calibrated confidence; `THRESHOLD` where nothing was right."""
        best = self.best.threshold
        return THRESHOLD if math.isnan(best) else float(self.calibration(np.array([best]))[0])

    def given_to(self, head: BoxDecoder) -> BoxDecoder:
        """The head with this calibration and threshold."""
        return replace(head, calibration=self.calibration, threshold=self.threshold)

    def fact(self, where: str) -> str:
        """What was chosen `where`, in words."""
        if math.isnan(self.best.threshold):
            return f"threshold {self.threshold:.2f}, as always where nothing was found {where}"
        found = f"{self.best.f1:.2f} (precision {self.best.precision:.2f}, recall {self.best.recall:.2f})"
        return f"threshold {self.threshold:.2f}: {where} it has the best F1, {found}"


@dataclass(frozen=True, eq=False)
class Crossed:
    """What heads found in training images that they had not learned from.

    Attributes:
        plain: matched with the truth, of the images as they are; `mirrored`: of the mean over them and their mirror images, None without.
        places: of these images among the training images, ascending: all but those that alone have a class.
    """

    plain: Matches
    mirrored: Matches | None
    places: Rows

    @classmethod
    def of(cls, table: FeatureTable, plan: FineTuning, context: LearningContext) -> Self | None:
        """None where there are too few images."""
        rows, targets, maps = table.train, table.dataset.targets, table.maps
        assert isinstance(targets, Boxes)
        assert maps is not None

        def fit(some: Rows, short: FineTuning, alone: LearningContext) -> BoxDecoder:
            decoder: BoxDecoder = fitted(table, some, short, alone)[0].decoder()
            return decoder

        parts = halves(table, plan, context, fit, share=SHARE, epochs=architecture_of(context.settings).recipe.epochs, fewest=FEWEST)
        if not parts:
            return None
        places = np.sort(np.concatenate([half.held for half in parts]))
        truth = targets.take(rows[places])

        def found(*, mirrored: bool) -> Matches:
            own: dict[int, Found] = {}
            for half in parts:
                some = rows[half.held]
                listed = found_in(replace(half.head, mirrored=mirrored), maps.take(some), targets.take(some))
                own |= dict(zip(half.held.tolist(), listed, strict=True))
            return match(Detections.joined(own[place] for place in places.tolist()), truth, classes=len(truth.classes))

        return cls(found(mirrored=False), found(mirrored=True) if maps.mirrored else None, places)

    @cached_property
    def gain(self) -> float:
        """What mirror images add to the average precision (AP)."""
        return 0.0 if self.mirrored is None else ap(self.mirrored) - ap(self.plain)

    @property
    def gains(self) -> bool:
        """Whether mirror images help."""
        return self.gain > 0

    @property
    def chosen(self) -> Matches:
        """Those by which threshold and calibration are chosen."""
        return self.mirrored if self.mirrored is not None and self.gains else self.plain

    @property
    def ap50(self) -> float:
        """The average precision at an overlap of one half; nan without boxes."""
        return float(detection_scores(self.chosen).means["ap50"])

    @cached_property
    def confidence(self) -> Confidence:
        """By the chosen ones."""
        return Confidence.of(self.chosen)

    def facts(self) -> tuple[str, ...]:
        """What came of it, in words."""
        found = [self.confidence.fact("on halves of the training images")]
        if self.mirrored is not None:
            verdict = "an image and its mirror image are both seen" if self.gains else "mirror images are left out in testing"
            found.append(f"{verdict}: on halves of the training images that adds {100 * self.gain:+.1f} points of AP")
        return tuple(found)


def ap(matches: Matches) -> float:
    """The mean average precision over overlaps from 0.50 to 0.95."""
    value = detection_scores(matches).means["ap"]
    return value if np.isfinite(value) else 0.0


def found_in(head: BoxDecoder, maps: StageMaps, targets: Boxes) -> list[Found]:
    """What a head finds in the images of some maps, in pixels, image by image."""
    outputs = apply(head, maps)
    return list(detections_of(outputs[BOXES], outputs[PROBABILITIES], targets.sizes))


def apply(model: BoxDecoder, maps: StageMaps) -> dict[str, npt.NDArray[np.float32]]:
    """Boxes, float32 (n, c, 4) as shares of width and height, and probabilities (n, c, k)."""
    count = model.candidates
    boxes, probabilities = np.zeros((len(maps), count, 4), np.float32), np.zeros((len(maps), count, model.classes), np.float32)
    parts = list(blocks(len(maps), 8))

    def batches() -> Iterator[dict[str, npt.NDArray[Any]]]:
        for part in parts:
            rows = np.arange(part.start, part.stop)
            found = maps.batch(rows)
            yield found | ({f"{MIRRORED}{name}": value for name, value in maps.batch(rows, 1).items()} if model.mirrored else {})

    for part, (own, sure) in zip(parts, model(batches()), strict=True):
        boxes[part], probabilities[part] = own, sure
    return {BOXES: boxes, PROBABILITIES: probabilities}
