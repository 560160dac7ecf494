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
from headstart.engine import Outputs
from headstart.errors import DataError, UnreadableError
from headstart.features.stage_maps import ChooseMaps, StageMaps
from headstart.features.table import FeatureTable
from headstart.features.windows import WholeImages
from headstart.heads.decoder import GraphDecoder, MapDecoder, one_of_each_size, write_decoder
from headstart.matrix import allocated, blocks
from headstart.onnx_graph import OnnxGraph
from headstart.selection import Choice
from headstart.settings import FineTuning, FitSettings
from headstart.tasks.stored_maps import MapRecipe, Rows, halves, train_head, tuned, windows_of
from headstart.tasks.task import Learned, LearningContext
from headstart.training.job import Resumable

if TYPE_CHECKING:
    from headstart.tasks.segmentation.evaluation import SegmentationEvaluation
    from headstart.training.history import History

RECIPE = MapRecipe(views=6, light="flip=0.5,crop=0.4", lr=6e-3, epochs=28, fewest=6, steps=(400, 2800))
Decoder = MapDecoder | GraphDecoder
FINEST = {"light": 4, "unet": 2, "deeplabv3plus": 4}
"""By architecture: the finest map has a position for each so-many-th row and column of the input; finer ones are left out."""
TITLES = {"light": "light decoder", "unet": "U-Net", "deeplabv3plus": "DeepLabV3+"}
FEWEST, SHARE = 16, 0.2
"""Of at least so many images, each is scored from outside by a training of this share of the epochs."""
TARGET_SIDE = 2
"""The loss is of masks so many times finer than the finest map."""


def maps_for(settings: FitSettings, dataset: Dataset) -> ChooseMaps:
    """The deepest map of each size."""
    architecture = settings.architecture or "light"

    def names(layers: tuple[MapLayer, ...], side: int) -> tuple[str, ...]:
        found = one_of_each_size(layers, finest=FINEST[architecture], side=side)
        return tuple(dict.fromkeys((found[0], *found[-2:]))) if architecture == "deeplabv3plus" else found

    return RECIPE.request(settings, dataset, names)


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Train a decoder on all training rows, and the backbone further where the plan says so."""
    plan = context.settings.fine_tuning
    if plan is None or plan.strategy == "probe":
        return probe(table, context)
    from headstart.tasks.segmentation.fine_tuning import MaskHead
    from headstart.tasks.trained_maps import learn_further

    return learn_further(MaskHead(table, context), probe(table, replace(context, resumable=Resumable())))


def probe(table: FeatureTable, context: LearningContext) -> Learned:
    """A decoder on the frozen backbone; whether it is to see mirror images, too, is decided on halves of the training rows."""
    began = time.perf_counter()
    plan = RECIPE.plan(context.settings, len(table.train))
    crossed = Halves.of(table, plan, context)
    context.listener.stage("Training the decoder")
    network, history = fitted(table, table.train, plan, context)
    decoder = replace(network.decoder(), mirrored=crossed is not None and crossed.gains)
    facts = () if crossed is None or crossed.mirrored is None else (crossed.fact(),)
    return Learned(
        choice=choice_of(decoder, context), table=table, prepared=context.prepared, plan=plan, beside=crossed,
        fine_tuned=tuned(table, context, decoder, history, facts=facts), seconds={"training": time.perf_counter() - began},
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

        def fit(some: Rows, short: FineTuning, alone: LearningContext) -> Decoder:
            decoder: Decoder = fitted(table, some, short, alone)[0].decoder()
            return decoder

        parts = halves(table, plan, context, fit, share=SHARE, epochs=RECIPE.epochs, fewest=FEWEST)
        if not parts:
            return None
        kinds = (False, True) if maps.mirrored else (False,)
        logits: list[npt.NDArray[np.float32]] = []
        for half in parts:
            some = applied([replace(half.head, mirrored=kind) for kind in kinds], maps.take(rows[half.held]))
            logits = logits or [allocated_logits(len(rows), one.shape[1:]) for one in some]
            for whole, one in zip(logits, some, strict=True):
                whole[half.held] = one
        tested = np.sort(np.concatenate([half.held for half in parts]))
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


def fitted(table: FeatureTable, rows: Rows, plan: FineTuning, context: LearningContext) -> tuple[Any, History]:
    """The network of a decoder that learned from the stored maps of some rows, and how its training went; Interrupted at Ctrl-C."""
    from headstart.training.decoders import ARCHITECTURES
    from headstart.training.masks import MaskTraining, SmallMasks

    settings, maps, targets = context.settings, table.maps, table.dataset.targets
    assert maps is not None
    assert isinstance(targets, Masks)
    mine, own = targets.take(rows), maps.take(rows)
    decoder = ARCHITECTURES[settings.architecture or "light"](maps.layers, len(targets.classes), seed=settings.seed)
    masks = SmallMasks(mine, TARGET_SIDE * maps.layers[0].height, own)
    task = MaskTraining(masks=masks, loss=loss_of(mine, plan, settings), network=decoder, shape=decoder.shape)
    return decoder, train_head(task, own, plan, context)


def loss_of(targets: Masks, plan: FineTuning, settings: FitSettings) -> Any:
    """The loss that the plan asks for, with the weights of the classes among these masks where they are to count the same."""
    from headstart.training.masks import balanced_weights, make_pixel_loss

    weights = None if settings.class_weight is None else balanced_weights(targets.areas[:, : len(targets.classes)])
    return make_pixel_loss(plan.loss, class_weights=weights, gamma=plan.focal_gamma, label_smoothing=plan.label_smoothing or 0.0)


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
        if isinstance(outputs, UnreadableError):
            raise DataError(f"An image can no longer be read: {outputs}. Do not change the images during a fit.")
        for logits, output in zip(found, outputs, strict=True):
            logits[row] = output
    return found


def through_windows(models: Sequence[Decoder], wholes: WholeImages, rows: npt.NDArray[np.int64]) -> Iterator[Outputs | UnreadableError]:
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
