"""What tasks share that learn from stored maps of a frozen backbone: which maps, in which views, and a training of a head on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.backbones.stage_maps import MapLayer
from headstart.data import Dataset
from headstart.data.split import folds
from headstart.features.stage_maps import MIRROR, PLAIN, ChooseMaps, DrawView, MapRequest, StageMaps
from headstart.features.table import FeatureTable
from headstart.features.windows import window_view
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.warp import View
from headstart.pixels.windows import Windows
from headstart.progress import Part
from headstart.settings import FineTuning, FitSettings
from headstart.settings.fine_tuning import DEFAULT_BATCH
from headstart.tasks.task import LearningContext
from headstart.text import plural
from headstart.training.job import Resumable, TrainingJob
from headstart.training.schedule import Phase

if TYPE_CHECKING:
    from headstart.training.history import History
    from headstart.training.tuning import FineTuned

ROOM = 4 << 30
"""Bytes that the maps of all views may take."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class MapRecipe:
    """How a head on stored maps is trained where the settings leave it open.

    Attributes:
        views: of each training image, at most: as it is, mirrored, and random ones.
        light: what the augmentation ``light`` is for targets that say where things are.
        lr: the highest learning rate.
        epochs: how many there are, unless these are too few or too many steps: between `steps`, and at least `fewest` epochs.
        batch: inputs in a batch.
    """

    views: int
    light: str
    lr: float
    epochs: int
    fewest: int
    steps: tuple[int, int]
    batch: int = DEFAULT_BATCH

    def augmented(self, plan: FineTuning) -> FineTuning:
        """The plan with the augmentation that ``light`` stands for."""
        return replace(plan, augment=self.light) if plan.augment == "light" else plan

    def plan(self, settings: FitSettings, images: int) -> FineTuning:
        """How the head is trained, as the settings say where they do."""
        asked = settings.fine_tuning or FineTuning(strategy="probe")
        given = replace(asked, strategy="probe", unfreeze=None, retain="none")
        if asked.strategy != "probe":  # its length and rates are those of the training that follows
            given = replace(given, epochs=None, steps=None, lr=None, early_stop=None, average=0)
        batch, (least, most) = given.batch_size or self.batch, self.steps
        each = max(1, -(-images // batch))
        usual = max(self.fewest, min(most // each, max(self.epochs, least // each)))
        epochs = given.epochs or (None if given.steps is not None else usual)
        return self.augmented(
            replace(
                given, lr=given.lr or self.lr, epochs=epochs, batch_size=batch, warmup=0.25, validation_share=0.0, keep="last",
                ship="trained", start="random", batchnorm="train",
            )
        )  # fmt: skip

    def request(
        self, settings: FitSettings, dataset: Dataset, names: Callable[[tuple[MapLayer, ...], int], tuple[str, ...]]
    ) -> ChooseMaps:  # fmt: skip
        """The maps with these `names`, which depend on the layers and the side of the input: of every input and its mirror image; to
        learn from, also of random views, as many as have room in `ROOM`.

        Through windows the views are random windows, by default `views` for each one of the grid.
        """
        tested, windows = dataset.parts == "test", windows_of(settings)
        plan = self.plan(settings, len(dataset))
        augmentation = Augmentation.parse(plan.augment)

        def choose(layers: tuple[MapLayer, ...]) -> MapRequest:
            chosen = names(layers, side_of(settings))
            each = 2 * sum(layer.size for layer in layers if layer.name in chosen)
            room = max(1, ROOM // (each * max(1, int((~tested).sum()))))
            if windows is None:
                views = 1 if augmentation.still else min(plan.views or self.views, room)
                return MapRequest(chosen, views, _whole_views(augmentation, tested, seed=settings.seed))
            views = plan.views or min(self.views * len(windows.places), plan.epochs or self.epochs)
            draw = _window_views(augmentation, windows, tested, seed=settings.seed)
            return MapRequest(chosen, min(views, room), draw, mirrored=bool(augmentation.flip))

        return choose


def side_of(settings: FitSettings) -> int:
    """Side of the network's input in pixels, of settings that name it with the backbone."""
    return int(settings.backbone.rpartition("@")[2])


def windows_of(settings: FitSettings) -> Windows | None:
    """The windows that the settings ask for; None where the whole image is the input."""
    return None if settings.windows == 1 else Windows(settings.windows, side_of(settings))


def _whole_views(augmentation: Augmentation, tested: npt.NDArray[np.bool_], *, seed: int) -> DrawView:
    """The image as it is, mirrored where the augmentation mirrors, then random views; of a tested one none of these."""

    def draw(index: int, number: int) -> View | None:
        if number == 0:
            return PLAIN
        if number == 1 and augmentation.flip:
            return MIRROR
        return None if tested[index] else augmentation.view(key=index, seed=seed, view=number)

    return draw


def _window_views(augmentation: Augmentation, windows: Windows, tested: npt.NDArray[np.bool_], *, seed: int) -> DrawView:
    """Random windows; none of a tested image, which is seen as a whole."""

    def draw(index: int, number: int) -> View | None:
        return None if tested[index] else window_view(augmentation, windows, key=index, seed=seed, view=number)

    return draw


def train_head(task: Any, maps: StageMaps, plan: FineTuning, context: LearningContext) -> History:
    """Train the network of a `TrainingTask` on the stored maps of its inputs, all of them; Interrupted at Ctrl-C."""
    from headstart.training.loop import Training
    from headstart.training.masks import MapInputs
    from headstart.training.memory import reuse_memory
    from headstart.training.network import Network
    from headstart.training.preparation import Trainable, device_of
    from headstart.training.tuning import place_of

    everything, device = np.arange(len(maps)), device_of(plan)
    job = TrainingJob(
        **vars(context.resumable or Resumable()), plan=plan, task=task, images=(), train=everything, select_best=False,
        seed=context.settings.seed, listener=context.listener, deadline=context.until,
    )  # fmt: skip
    with place_of(job) as placed:
        import torch

        reuse_memory()
        inputs = MapInputs(maps, device=device)
        network = Network(None, task.network).to(device).to(memory_format=torch.channels_last)
        task.network.standardise(inputs.plain(everything[:: -(-len(maps) // 64)]))
        model = Trainable(network=network, inputs=inputs, stages=(), augmentation=Augmentation.parse("none"), device=device)
        return Training(placed, model, phases=(Phase(0, ()),), rates={"head": plan.highest_lr}).run()


@dataclass(frozen=True, eq=False)
class Half:
    """One half of the training rows, and the head that learned from the other one; `held` are places among the training rows."""

    held: Rows
    head: Any


def halves(
    table: FeatureTable, plan: FineTuning, context: LearningContext, fit: Callable[[Rows, FineTuning, LearningContext], Any], *,
    share: float, epochs: int, fewest: int,
) -> tuple[Half, ...]:  # fmt: skip
    """Both halves of the training rows, each with a head that did not learn from it, in a `share` of the epochs; none of too few images."""
    rows = table.train
    if len(rows) < fewest:
        return ()
    short = replace(plan, steps=None, epochs=max(1, round(share * (plan.epochs or epochs))))
    parts = folds(table.dataset.targets.take(rows).strata, count=2, groups=table.groups_among(rows), seed=context.settings.seed)
    found = []
    for number, held in enumerate(parts, 1):
        alone = replace(context, resumable=Resumable(), listener=Part(context.listener, f"half {number} of 2: "))
        found.append(Half(np.sort(held), fit(np.delete(rows, held), short, alone)))
    return tuple(found)


def tuned(
    table: FeatureTable, context: LearningContext, head: Any, history: History, *, facts: tuple[str, ...] = ()
) -> FineTuned:  # fmt: skip
    """What a training on stored maps says of itself, for the report."""
    from headstart.training.tuning import FineTuned

    extractor, maps = context.prepared.extractor, table.maps
    assert maps is not None
    size, views = maps.values.nbytes / 1e6, plural(maps.request.views, "view" if maps.wholes is None else "random window")
    stored = f"the maps of the frozen backbone were computed once, of {views} of each training image ({size:.0f} MB)"
    return FineTuned(
        backbone=extractor.backbone, preprocessing=extractor.preprocessing, head=head, history=history, predictions=None, stages=(),
        trained=(), facts=(stored, *facts),
    )  # fmt: skip
