"""A decoder of masks that is trained together with its backbone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headstart.data.masks import Masks
from headstart.features.stage_maps import StageMaps
from headstart.modalities.image.augment import Augmentation
from headstart.selection import Choice
from headstart.settings import FineTuning
from headstart.tasks.segmentation.learning import RECIPE, TARGET_SIDE, apply, choice_of, fitted, gain, loss_of
from headstart.tasks.stored_maps import MapRecipe, Rows
from headstart.tasks.trained_maps import HeadOnMaps
from headstart.training.job import Resumable, TrainingTask

if TYPE_CHECKING:
    from headstart.tasks.segmentation.evaluation import SegmentationEvaluation


class MaskHead(HeadOnMaps):
    """See `HeadOnMaps`; the loss on held-out images decides."""

    @property
    def recipe(self) -> MapRecipe:
        """The one that there is."""
        return RECIPE

    @property
    def targets(self) -> Masks:
        """Those of all rows."""
        targets = self.table.dataset.targets
        assert isinstance(targets, Masks)
        return targets

    def fitted(self, rows: Rows, plan: FineTuning) -> Any:
        """See `HeadOnMaps`."""
        return fitted(self.table, rows, plan, replace(self.context, resumable=Resumable()))[0]

    def training(self, network: Any, plan: FineTuning, *, train: Rows, held: Rows) -> TrainingTask:
        """See `HeadOnMaps`."""
        from headstart.training.decoders import OfFlat
        from headstart.training.masks import MaskTraining, ViewedMasks

        settings, extractor, layers = self.context.settings, self.context.prepared.extractor, self.maps.layers
        mine = self.targets.take(self.table.train)
        masks = ViewedMasks(
            mine, TARGET_SIDE * layers[0].height, fine=extractor.square.size, augmentation=Augmentation.parse(plan.augment),
            seed=settings.seed, windows=extractor.windows,
        )  # fmt: skip
        return MaskTraining(
            masks=masks, loss=loss_of(mine.take(train), plan, settings), network=OfFlat(network), shape=network.shape,
            maps=tuple(layer.name for layer in layers),
        )  # fmt: skip

    def tested(self, head: Any, maps: StageMaps, rows: Rows) -> SegmentationEvaluation:
        """Its evaluation."""
        from headstart.tasks.segmentation.evaluation import evaluate

        return evaluate(apply(head, maps), self.targets.take(rows))

    def gain(self, after: SegmentationEvaluation, before: SegmentationEvaluation) -> float:
        """How much the IoU of an image rose."""
        return gain(after, before)[0]

    def gain_told(self, after: SegmentationEvaluation, before: SegmentationEvaluation) -> str:
        """See `HeadOnMaps`."""
        points, error = gain(after, before)
        return f"IoU of an image by {100 * points:+.1f} ± {100 * error:.1f} points"

    def choice(self, head: Any, *, reason: str) -> Choice:
        """See `HeadOnMaps`."""
        return choice_of(head, self.context, reason=reason)
