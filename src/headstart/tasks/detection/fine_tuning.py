"""A detection head that is trained together with its backbone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.boxes import Boxes
from headstart.features.stage_maps import StageMaps
from headstart.heads.boxes import BoxDecoder
from headstart.metrics.boxes import Detections
from headstart.metrics.detection import detection_difference
from headstart.metrics.matching import Matches, match
from headstart.metrics.proposals import proposals_of
from headstart.modalities.image.augment import Augmentation
from headstart.selection import Choice
from headstart.settings import FineTuning
from headstart.tasks.detection.architectures import architecture_of
from headstart.tasks.detection.learning import Confidence, ap, choice_of, fitted, found_in
from headstart.tasks.detection.predictions import detections_of
from headstart.tasks.stored_maps import MapRecipe, Rows
from headstart.tasks.trained_maps import HeadOnMaps
from headstart.training.job import Resumable, TrainingTask


class BoxHead(HeadOnMaps):
    """See `HeadOnMaps`; average precision (AP) on held-out images decides which epoch is best, and whether it is shipped."""

    @property
    def recipe(self) -> MapRecipe:
        """That of the architecture."""
        return architecture_of(self.context.settings).recipe

    @property
    def targets(self) -> Boxes:
        """Those of all rows."""
        targets = self.table.dataset.targets
        assert isinstance(targets, Boxes)
        return targets

    def fitted(self, rows: Rows, plan: FineTuning) -> Any:
        """See `HeadOnMaps`."""
        return fitted(self.table, rows, plan, replace(self.context, resumable=Resumable()))[0]

    def training(self, network: Any, plan: FineTuning, *, train: Rows, held: Rows) -> TrainingTask:
        """See `HeadOnMaps`."""
        from headstart.training.box_targets import DrawnViews
        from headstart.training.boxes import BoxTraining
        from headstart.training.decoders import OfFlat

        mine = self.targets.take(self.table.train)
        truth = mine.take(held)

        def precision(predictions: npt.NDArray[np.float32]) -> float:
            found = detections_of(*proposals_of(predictions), truth.sizes)
            return ap(match(Detections.joined(found), truth, classes=len(truth.classes)))

        layers, views = self.maps.layers, DrawnViews(Augmentation.parse(plan.augment), self.context.settings.seed)
        return BoxTraining(
            objective=network.objective(mine, views), network=OfFlat(network), shape=network.shape,
            maps=tuple(layer.name for layer in layers), precision=precision,
        )  # fmt: skip

    def tested(self, head: BoxDecoder, maps: StageMaps, rows: Rows) -> Matches:
        """What it finds, matched with what is there."""
        truth = self.targets.take(rows)
        return match(Detections.joined(found_in(head, maps, truth)), truth, classes=len(truth.classes))

    def gain(self, after: Matches, before: Matches) -> float:
        """By how much AP is higher."""
        return ap(after) - ap(before)

    def gain_told(self, after: Matches, before: Matches) -> str:
        """See `HeadOnMaps`."""
        found = detection_difference(after, before)["ap"]
        low, high = found.interval
        return f"AP by {100 * self.gain(after, before):+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"

    def pays(self, after: Matches, before: Matches) -> bool:
        """See `HeadOnMaps`."""
        return self.gain(after, before) > 0

    def finished(self, head: BoxDecoder, tested: Matches) -> tuple[BoxDecoder, tuple[str, ...]]:
        """With the calibration and the threshold that held-out images give it."""
        confidence = Confidence.of(tested)
        return confidence.given_to(head), (confidence.fact("on held-out training images"),)

    def choice(self, head: Any, *, reason: str) -> Choice:
        """See `HeadOnMaps`."""
        return choice_of(head, self.context, reason=reason)
