"""Learning masks: a light decoder on the stored maps of the frozen backbone, trained in the one loop."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from headstart.backbones.stage_maps import MIRRORED, MapLayer
from headstart.data import Dataset
from headstart.data.masks import Masks
from headstart.data.split import folds
from headstart.engine import Outputs
from headstart.errors import DataError, ImageError
from headstart.features.stage_maps import MIRROR, PLAIN, ChooseMaps, MapRequest, StageMaps
from headstart.features.table import FeatureTable
from headstart.features.windows import WholeImages, window_view
from headstart.heads.decoder import GraphDecoder, MapDecoder, one_of_each_size, write_decoder
from headstart.matrix import allocated, blocks
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.warp import View
from headstart.onnx_graph import OnnxGraph
from headstart.pixels.windows import Windows
from headstart.progress import Part
from headstart.selection import Choice
from headstart.settings import FineTuning, FitSettings
from headstart.tasks.task import Learned, LearningContext
from headstart.text import plural
from headstart.training.job import Resumable, TrainingJob
from headstart.training.schedule import Phase

if TYPE_CHECKING:
    from headstart.tasks.segmentation.evaluation import SegmentationEvaluation
    from headstart.training.history import History

VIEWS = 6
"""Views of each training image: as it is, mirrored, and random ones."""
LIGHT = "flip=0.5,crop=0.4"
"""What the augmentation ``light`` is for masks, which say where things are after any crop."""
ROOM = 4 << 30
"""Bytes that the maps of all views may take."""
Decoder = MapDecoder | GraphDecoder
FINEST = {"light": 4, "unet": 2, "deeplabv3plus": 4}
"""By architecture: the finest map has a position for each so-many-th row and column of the input; finer ones are left out."""
TITLES = {"light": "light decoder", "unet": "U-Net", "deeplabv3plus": "DeepLabV3+"}
LR = 6e-3
EPOCHS, LEAST_EPOCHS = 28, 6
LEAST_STEPS, MOST_STEPS = 400, 2800
FEWEST, SHARE = 16, 0.2
"""Of at least so many images, each is scored from outside by a training of this share of the epochs."""
TARGET_SIDE = 2
"""The loss is of masks so many times finer than the finest map."""


def maps_for(settings: FitSettings, dataset: Dataset) -> ChooseMaps:
    """The deepest map of each size, of every input and its mirror image; to learn from, also of random views.

    There are as many views as have room in `ROOM`, at most as many as the plan has, by default `VIEWS`. Through windows they are
    random windows, by default `VIEWS` for each one of the grid.
    """
    size, tested = int(settings.backbone.rpartition("@")[2]), dataset.parts == "test"
    plan, seed, windows = plan_of(settings, len(dataset)), settings.seed, windows_of(settings)
    augmentation = Augmentation.parse(plan.augment)

    def draw_window(index: int, number: int) -> View | None:
        assert windows is not None
        return None if tested[index] else window_view(augmentation, windows, key=index, seed=seed, view=number)

    def draw(index: int, number: int) -> View | None:
        if number == 0:
            return PLAIN
        if number == 1 and augmentation.flip:
            return MIRROR
        return None if tested[index] else augmentation.view(key=index, seed=seed, view=number)

    def choose(layers: tuple[MapLayer, ...]) -> MapRequest:
        architecture = settings.architecture or "light"
        names = one_of_each_size(layers, finest=FINEST[architecture], side=size)
        if architecture == "deeplabv3plus":
            names = tuple(dict.fromkeys((names[0], *names[-2:])))
        each = 2 * sum(layer.size for layer in layers if layer.name in names)
        room = max(1, ROOM // (each * max(1, int((~tested).sum()))))
        if windows is None:
            return MapRequest(names, 1 if augmentation.still else min(plan.views or VIEWS, room), draw)
        views = plan.views or min(VIEWS * len(windows.places), plan.epochs or EPOCHS)
        return MapRequest(names, min(views, room), draw_window, mirrored=bool(augmentation.flip))

    return choose


def windows_of(settings: FitSettings) -> Windows | None:
    """The windows that the settings ask for; None where the whole image is the input."""
    return None if settings.windows == 1 else Windows(settings.windows, int(settings.backbone.rpartition("@")[2]))


def augment_of(given: FineTuning) -> str:
    """The augmentation that is asked for, in the words of `Augmentation.parse`."""
    return LIGHT if given.augment == "light" else given.augment


def plan_of(settings: FitSettings, images: int) -> FineTuning:
    """How the decoder is trained: as the settings say, and as measured to be good where they say nothing."""
    asked = settings.fine_tuning or FineTuning(strategy="probe")
    given = replace(asked, strategy="probe", unfreeze=None, retain="none")
    if asked.strategy != "probe":  # its length and rates are those of the training that follows
        given = replace(given, epochs=None, steps=None, lr=None, early_stop=None, average=0)
    each = max(1, -(-images // given.batch_size))
    usual = max(LEAST_EPOCHS, min(MOST_STEPS // each, max(EPOCHS, LEAST_STEPS // each)))
    epochs = given.epochs or (None if given.steps is not None else usual)
    return replace(
        given, lr=given.lr or LR, epochs=epochs, warmup=0.25, validation_share=0.0, keep="last", ship="trained", start="random",
        batchnorm="train", augment=augment_of(given),
    )  # fmt: skip


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Train a decoder on all training rows, and the backbone further where the plan says so."""
    plan = context.settings.fine_tuning
    if plan is None or plan.strategy == "probe":
        return probe(table, context)
    from headstart.tasks.segmentation.fine_tuning import learn_further

    return learn_further(table, context, probe(table, replace(context, resumable=Resumable())))


def probe(table: FeatureTable, context: LearningContext) -> Learned:
    """A decoder on the frozen backbone; whether it is to see mirror images, too, is decided on halves of the training rows."""
    began = time.perf_counter()
    plan = plan_of(context.settings, len(table.train))
    halves = Halves.of(table, plan, context)
    context.listener.stage("Training the decoder")
    network, history = fitted(table, table.train, plan, context)
    decoder = replace(network.decoder(), mirrored=halves is not None and halves.gains)
    return Learned(
        choice=choice_of(decoder, context), table=table, prepared=context.prepared, plan=plan, beside=halves,
        fine_tuned=tuned(table, context, decoder, history, halves), seconds={"training": time.perf_counter() - began},
    )  # fmt: skip


def choice_of(decoder: Decoder, context: LearningContext, *, reason: str = "") -> Choice:
    """A decoder as the model of a fit."""
    title, layers = TITLES[context.settings.architecture or "light"], ", ".join(layer.name for layer in decoder.layers)
    windows = windows_of(context.settings)
    through = "" if windows is None else f", through {windows.count} x {windows.count} windows"
    return Choice(
        estimator=replace(decoder, windows=windows), evidence=(), out_of_sample=None, reason=reason,
        description=f"{title} on the maps of {layers}{through}",
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Halves:
    """The training rows, each scored by a decoder that learned, for a shorter time, from the other half of them.

    Attributes:
        plain: the evaluation of the inputs as they are; `mirrored`: of the mean over them and their mirror images, None without such.
    """

    plain: SegmentationEvaluation
    mirrored: SegmentationEvaluation | None

    @classmethod
    def of(cls, table: FeatureTable, plan: FineTuning, context: LearningContext) -> Self | None:
        """None where there are too few images."""
        from headstart.tasks.segmentation.evaluation import evaluate

        rows, targets, maps = table.train, table.dataset.targets, table.maps
        assert isinstance(targets, Masks)
        assert maps is not None
        if len(rows) < FEWEST:
            return None
        short = replace(plan, steps=None, epochs=max(1, round(SHARE * (plan.epochs or EPOCHS))))
        alone = replace(context, resumable=Resumable())
        kinds = (False, True) if maps.mirrored else (False,)
        logits: list[npt.NDArray[np.float32]] = []
        parts = folds(targets.take(rows).strata, count=2, groups=table.groups_among(rows), seed=context.settings.seed)
        for number, held in enumerate(parts, 1):
            listener = Part(context.listener, f"half {number} of 2: ")
            network, _ = fitted(table, np.delete(rows, held), short, replace(alone, listener=listener))
            decoders = [replace(network.decoder(), mirrored=kind) for kind in kinds]
            some = applied(decoders, maps.take(rows[held]))
            logits = logits or [allocated_logits(len(rows), one.shape[1:]) for one in some]
            for whole, one in zip(logits, some, strict=True):
                whole[held] = one
        tested = np.sort(np.concatenate(parts))
        plain, *mirrored = (evaluate([one[row] for row in tested.tolist()], targets.take(rows[tested])) for one in logits)
        return cls(plain, mirrored[0] if mirrored else None)

    @property
    def gain(self) -> tuple[float, float]:
        """What mirror images add to the mean IoU of an image, the mean over the images, and its standard error."""
        return (0.0, 0.0) if self.mirrored is None else gain(self.mirrored, self.plain)

    @property
    def gains(self) -> bool:
        """Whether mirror images help, beyond chance."""
        gain, error = self.gain
        return gain > 2 * error

    def fact(self) -> str:
        """What came of it, in words."""
        gain, error = self.gain
        verdict = "the mean over an image and its mirror image is taken" if self.gains else "mirror images are left out in testing"
        return f"{verdict}: on halves of the training images that adds {100 * gain:+.2f} ± {100 * error:.2f} points of IoU"


def fitted(table: FeatureTable, rows: npt.NDArray[np.int64], plan: FineTuning, context: LearningContext) -> tuple[Any, History]:
    """The network of a decoder that learned from the stored maps of some rows, and how its training went; Interrupted at Ctrl-C."""
    from headstart.training.decoders import ARCHITECTURES
    from headstart.training.loop import Training
    from headstart.training.masks import MapInputs, MaskTraining, SmallMasks
    from headstart.training.memory import reuse_memory
    from headstart.training.network import Network
    from headstart.training.preparation import Trainable, device_of
    from headstart.training.tuning import place_of

    settings, maps, targets = context.settings, table.maps, table.dataset.targets
    assert maps is not None
    assert isinstance(targets, Masks)
    mine, layers, device = targets.take(rows), maps.layers, device_of(plan)
    decoder = ARCHITECTURES[settings.architecture or "light"](layers, len(targets.classes), seed=settings.seed)
    task = MaskTraining(
        masks=SmallMasks(mine, TARGET_SIDE * layers[0].height, maps.take(rows)), loss=loss_of(mine, plan, settings), network=decoder,
        shape=decoder.shape,
    )  # fmt: skip
    everything = np.arange(len(rows))
    job = TrainingJob(
        **vars(context.resumable or Resumable()), plan=plan, task=task, images=(), train=everything, select_best=False,
        seed=settings.seed, listener=context.listener, deadline=context.until,
    )  # fmt: skip
    with place_of(job) as placed:
        import torch

        reuse_memory()
        inputs = MapInputs(maps.take(rows), device=device)
        network = Network(None, decoder).to(device).to(memory_format=torch.channels_last)
        decoder.standardise(inputs.plain(everything[:: -(-len(rows) // 64)]))
        model = Trainable(network=network, inputs=inputs, stages=(), augmentation=Augmentation.parse("none"), device=device)
        training = Training(placed, model, phases=(Phase(0, ()),), rates={"head": plan.highest_lr})
        history = training.run()
    return decoder, history


def loss_of(targets: Masks, plan: FineTuning, settings: FitSettings) -> Any:
    """The loss that the plan asks for, with the weights of the classes among these masks where they are to count the same."""
    from headstart.training.masks import balanced_weights, make_pixel_loss

    weights = None if settings.class_weight is None else balanced_weights(targets.areas[:, : len(targets.classes)])
    return make_pixel_loss(plan.loss, class_weights=weights, gamma=plan.focal_gamma, label_smoothing=plan.label_smoothing or 0.0)


def tuned(table: FeatureTable, context: LearningContext, decoder: Decoder, history: History, halves: Halves | None) -> Any:
    """What the training says of itself, for the report."""
    from headstart.training.tuning import FineTuned

    extractor = context.prepared.extractor
    assert table.maps is not None
    size, views = table.maps.values.nbytes / 1e6, plural(table.maps.request.views, "view" if table.maps.wholes is None else "random window")
    stored = f"the maps of the frozen backbone were computed once, of {views} of each training image ({size:.0f} MB)"
    return FineTuned(
        backbone=extractor.backbone, preprocessing=extractor.preprocessing, head=decoder, history=history, predictions=None, stages=(),
        trained=(), facts=(stored, *(() if halves is None or halves.mirrored is None else (halves.fact(),))),
    )  # fmt: skip


def apply(model: Decoder, maps: StageMaps) -> npt.NDArray[np.float32]:
    """Logits of whole inputs, float32 (n, k, h, w), as a run gives them."""
    return applied([model], maps)[0]


def applied(models: Sequence[Decoder], maps: StageMaps) -> list[npt.NDArray[np.float32]]:
    """Logits, float32 (n, k, h, w), by each of several decoders on the same maps."""
    return [of_stored(model, maps) for model in models] if maps.wholes is None else of_wholes(models, maps.wholes, maps.rows)


def of_stored(model: Decoder, maps: StageMaps) -> npt.NDArray[np.float32]:
    """Logits of inputs as they are; of a decoder that is mirrored the mean with those of the mirror images."""
    found, parts = np.zeros((len(maps), *model.shape), np.float32), list(blocks(len(maps), 8))
    for view in (0, 1) if model.mirrored else (0,):

        def batches(view: int = view) -> Iterator[dict[str, npt.NDArray[np.float16]]]:
            return (maps.batch(np.arange(part.start, part.stop), view) for part in parts)

        for part, logits in zip(parts, model(batches()), strict=True):
            found[part] += (logits[..., ::-1] if view else logits) / (2 if model.mirrored else 1)
    return found


def of_wholes(models: Sequence[Decoder], wholes: WholeImages, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.float32]]:
    """Logits of whole images that are seen through windows. DataError where one cannot be read any more."""
    found = [allocated_logits(len(rows), wholes.windows.shape(model.shape)) for model in models]
    for row, outputs in enumerate(through_windows(models, wholes, rows)):
        if isinstance(outputs, ImageError):
            raise DataError(f"An image can no longer be read: {outputs}. Do not change the images during a fit.")
        for logits, output in zip(found, outputs, strict=True):
            logits[row] = output
    return found


def through_windows(models: Sequence[Decoder], wholes: WholeImages, rows: npt.NDArray[np.int64]) -> Iterator[Outputs | ImageError]:
    """Logits, float32 (k, H, W), of each whole image by each of several decoders, or why it cannot be read."""
    shapes = {f"logits{number}": model.shape for number, model in enumerate(models)}
    layers = dict.fromkeys(name for model in models for name in map_names(model))

    def write(graph: OnnxGraph, maps: Mapping[str, str]) -> None:
        for name, model in zip(shapes, models, strict=True):
            write_decoder(graph, model, maps, output=name)
        graph.share()

    return wholes(rows, tuple(layers), write, shapes)


def allocated_logits(rows: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Room for logits (rows, k, h, w), which the system can page out where there is much of it: those of windows are large."""
    return allocated(rows, math.prod(shape), folder=Path(tempfile.gettempdir())).reshape(rows, *shape)


def map_names(model: Decoder) -> tuple[str, ...]:
    """The layers whose maps a decoder takes; those of the mirror image begin with `MIRRORED`."""
    names = tuple(layer.name for layer in model.layers)
    return (*names, *(f"{MIRRORED}{name}" for name in names)) if model.mirrored else names


def gain(after: SegmentationEvaluation, before: SegmentationEvaluation) -> tuple[float, float]:
    """How much the IoU of an image rose, the mean over the images, and its standard error."""
    differences: npt.NDArray[np.float64] = after.image_iou - before.image_iou
    known = differences[np.isfinite(differences)]
    return (float(known.mean()), float(known.std() / np.sqrt(len(known)))) if len(known) else (0.0, 0.0)
