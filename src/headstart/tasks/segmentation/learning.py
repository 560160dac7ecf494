"""Learning masks: a light decoder on the stored maps of the frozen backbone, trained in the one loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.backbones import timm_models
from headstart.backbones.stage_maps import MapLayer
from headstart.data import Dataset
from headstart.data.masks import Masks
from headstart.features.stage_maps import PLAIN, ChooseMaps, MapRequest, StageMaps
from headstart.features.table import FeatureTable
from headstart.heads.decoder import GraphDecoder, MapDecoder, one_of_each_size
from headstart.matrix import blocks
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.warp import View
from headstart.selection import Choice
from headstart.settings import FineTuning, FitSettings
from headstart.tasks.task import Judged, Learned, LearningContext
from headstart.text import plural
from headstart.training.job import Resumable, TrainingJob
from headstart.training.schedule import Phase

if TYPE_CHECKING:
    from headstart.training.history import History

VIEWS = 4
"""Views of each training image: as it is, mirrored, and random ones."""
ROOM = 4 << 30
"""Bytes that the maps of all views may take."""
Decoder = MapDecoder | GraphDecoder
FINEST = {"light": 4, "unet": 2, "deeplabv3plus": 4}
"""By architecture: the finest map has a position for each so-many-th row and column of the input; finer ones are left out."""
TITLES = {"light": "light decoder", "unet": "U-Net", "deeplabv3plus": "DeepLabV3+"}
LR = 3e-3
EPOCHS = 20
LEAST_STEPS = 300
_TARGET_SIDE = 2
"""The loss is of masks so many times finer than the finest map."""


def maps_for(settings: FitSettings, dataset: Dataset) -> ChooseMaps:
    """The deepest map of each size; to learn from, also those of the mirror image and of random views.

    There are as many views as have room in `ROOM`, at most as many as the plan has, by default `VIEWS`.
    """
    size, tested = int(settings.backbone.rpartition("@")[2]), dataset.parts == "test"
    plan, seed = plan_of(settings, len(dataset)), settings.seed
    augmentation = Augmentation.parse(plan.augment)

    def draw(index: int, number: int) -> View | None:
        if number == 0:
            return PLAIN
        if tested[index]:
            return None
        if number == 1 and augmentation.flip:
            return View(mirrored=True)
        return augmentation.view(key=index, seed=seed, view=number)

    def choose(layers: tuple[MapLayer, ...]) -> MapRequest:
        architecture = settings.architecture or "light"
        names = one_of_each_size(layers, finest=FINEST[architecture], side=size)
        if architecture == "deeplabv3plus":
            names = tuple(dict.fromkeys((names[0], *names[-2:])))
        each = 2 * sum(layer.size for layer in layers if layer.name in names)
        room = max(1, ROOM // (each * max(1, int((~tested).sum()))))
        return MapRequest(names, 1 if augmentation.still else min(plan.views or VIEWS, room), draw)

    return choose


def plan_of(settings: FitSettings, images: int) -> FineTuning:
    """How the decoder is trained: as the settings say, and as measured to be good where they say nothing."""
    given = settings.fine_tuning or FineTuning(strategy="probe")
    steps = max(1, -(-images // given.batch_size))
    epochs = given.epochs or (None if given.steps is not None else max(EPOCHS, -(-LEAST_STEPS // steps)))
    return replace(
        given, lr=given.lr or LR, epochs=epochs, warmup=0.25, validation_share=0.0, keep="last", ship="trained", start="random",
        batchnorm="train",
    )  # fmt: skip


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Train a decoder on all training rows."""
    timm_models.require("Learning masks")
    began = time.perf_counter()
    plan = plan_of(context.settings, len(table.train))
    context.listener.stage("Training the decoder")
    decoder, history = trained(table, table.train, plan, context)
    fitted = tuned(table, context, decoder, history)
    title, layers = TITLES[context.settings.architecture or "light"], ", ".join(layer.name for layer in decoder.layers)
    choice = Choice(
        estimator=decoder, evidence=(), out_of_sample=None, reason="", description=f"{title} on the maps of {layers}",
    )  # fmt: skip
    return Learned(
        choice=choice, table=table, prepared=context.prepared, fine_tuned=fitted, plan=plan,
        seconds={"training": time.perf_counter() - began},
    )  # fmt: skip


def trained(table: FeatureTable, rows: npt.NDArray[np.int64], plan: FineTuning, context: LearningContext) -> tuple[Decoder, History]:
    """A decoder that learned from some rows of a table, and how its training went; Interrupted at Ctrl-C."""
    from headstart.training.decoders import ARCHITECTURES
    from headstart.training.loop import Training
    from headstart.training.masks import MapInputs, MaskTraining, SmallMasks, balanced_weights, make_pixel_loss
    from headstart.training.network import Network
    from headstart.training.preparation import Trainable, device_of
    from headstart.training.tuning import place_of

    settings, maps, targets = context.settings, table.maps, table.dataset.targets
    assert maps is not None
    assert isinstance(targets, Masks)
    mine, layers, classes, device = targets.take(rows), maps.layers, len(targets.classes), device_of(plan)
    decoder = ARCHITECTURES[settings.architecture or "light"](layers, classes, seed=settings.seed)
    weights = None if settings.class_weight is None else balanced_weights(mine.areas[:, :classes])
    loss = make_pixel_loss(plan.loss, class_weights=weights, gamma=plan.focal_gamma, label_smoothing=plan.label_smoothing or 0.0)
    task = MaskTraining(
        masks=SmallMasks(mine, _TARGET_SIDE * layers[0].height, maps.take(rows)), loss=loss,
        network=lambda: decoder, shape=decoder.shape,
    )  # fmt: skip
    everything = np.arange(len(rows))
    job = TrainingJob(
        **vars(context.resumable or Resumable()), plan=plan, task=task, images=(), train=everything, select_best=False,
        seed=settings.seed, listener=context.listener, deadline=context.until,
    )  # fmt: skip
    with place_of(job) as placed:
        import torch

        network = Network(None, task.head(0, plan, seed=settings.seed)).to(device).to(memory_format=torch.channels_last)
        model = Trainable(
            network=network, inputs=MapInputs(maps.take(rows), device=device), stages=(),
            augmentation=Augmentation.parse("none"), device=device,
        )  # fmt: skip
        training = Training(placed, model, phases=(Phase(0, ()),), rates={"head": plan.highest_lr})
        history = training.run()
    return network.head.decoder(), history


def tuned(table: FeatureTable, context: LearningContext, decoder: Decoder, history: History) -> Any:
    """What the training says of itself, for the report."""
    from headstart.training.tuning import FineTuned

    extractor = context.prepared.extractor
    assert table.maps is not None
    size, views = table.maps.values.nbytes / 1e6, plural(table.maps.request.views, "view")
    return FineTuned(
        backbone=extractor.backbone, preprocessing=extractor.preprocessing, head=decoder, history=history, predictions=None, stages=(),
        trained=(), facts=(f"the maps of the frozen backbone were computed once, of {views} of each training image ({size:.0f} MB)",),
    )  # fmt: skip


def apply(model: Decoder, maps: StageMaps) -> npt.NDArray[np.float32]:
    """Logits, float32 (n, k, h, w), of inputs as they are."""
    found = np.empty((len(maps), *model.shape), np.float32)
    parts = list(blocks(len(maps), 8))

    def batches() -> Iterator[dict[str, npt.NDArray[np.float16]]]:
        return (maps.batch(np.arange(part.start, part.stop)) for part in parts)

    for part, logits in zip(parts, model(batches()), strict=True):
        found[part] = logits
    return found


def judge(learned: Learned, context: LearningContext) -> Judged:
    """Which inputs are unlike the training inputs, by their pooled features."""
    return Judged()
