"""Masks as a `TrainingTask`, and stored maps as the inputs of the loop: a decoder is trained as any head is (PyTorch)."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from headstart.data.masks import VOID, Masks
from headstart.engine import available_cores
from headstart.errors import ParameterError
from headstart.features.stage_maps import PLAIN, StageMaps
from headstart.features.windows import window_view
from headstart.modalities.image.augment import NONE, Augmentation, Mixing
from headstart.modalities.image.warp import View
from headstart.pixels.windows import Windows
from headstart.training.job import Rows, Validation

LOSSES = ("cross_entropy", "focal", "dice", "lovasz")
_SMOOTH = 1.0  # pixels, so that a class that is nowhere does not divide by 0

Uint8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class PixelLoss:
    """The loss of each image (N,): the mean over its pixels with a class, times its weight; an image without any has weight 0.

    Attributes:
        kind: ``cross_entropy``, ``focal`` (Lin et al. 2017), ``dice`` (cross-entropy and soft Dice together, Milletari et al. 2016) or
            ``lovasz`` (cross-entropy and the Lovász-softmax of Berman et al. 2018 together).
        class_weights: float32 (k,), how much a pixel of each class counts; None where all count the same.
    """

    kind: str = "cross_entropy"
    class_weights: torch.Tensor | None = None
    gamma: float = 2.0
    label_smoothing: float = 0.0

    def __call__(self, logits: Any, targets: Any) -> Any:
        """Logits (N, k, h, w) and targets, uint8 (N, H, W), whose size they are interpolated to."""
        if logits.shape[2:] != targets.shape[1:]:
            logits = functional.interpolate(logits.float(), size=targets.shape[1:], mode="bilinear", align_corners=False)
        logits, truth = logits.float(), targets.long()
        known = truth != VOID
        truth = truth.clamp(max=logits.shape[1] - 1)
        each = functional.cross_entropy(logits, truth, reduction="none", label_smoothing=self.label_smoothing)
        if self.kind == "focal":
            each = each * (-torch.expm1(-each)) ** self.gamma
        share = known.float()
        if self.class_weights is not None:
            share = share * self.class_weights.to(logits.device)[truth]
        loss = (each * share).sum(dim=(1, 2)) / share.sum(dim=(1, 2)).clamp(min=1e-6)
        if self.kind == "dice":
            loss = loss + soft_dice(logits.softmax(dim=1), truth, known)
        elif self.kind == "lovasz":
            loss = loss + torch.stack([lovasz_softmax(*one) for one in zip(logits.softmax(dim=1), truth, known, strict=True)])
        return loss * self.weights(targets)

    def weights(self, targets: Any) -> Any:
        """1, or 0 for an image without a pixel that has a class."""
        return (targets != VOID).flatten(1).any(dim=1).float()


def soft_dice(probabilities: Any, truth: Any, known: Any) -> Any:
    """1 minus the soft Dice coefficient, the mean over the classes that an image has: (N,). Only pixels that are `known` count."""
    inside = known[:, None].float()
    right = functional.one_hot(truth, probabilities.shape[1]).permute(0, 3, 1, 2).float() * inside
    probabilities = probabilities * inside
    both, sizes = (probabilities * right).sum(dim=(2, 3)), probabilities.sum(dim=(2, 3)) + right.sum(dim=(2, 3))
    there = (right.sum(dim=(2, 3)) > 0).float()
    dice = (2 * both + _SMOOTH) / (sizes + _SMOOTH)
    return ((1 - dice) * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)


def lovasz_softmax(probabilities: Any, truth: Any, known: Any) -> Any:
    """The Lovász extension of 1 minus IoU, the mean over the classes that an image (k, H, W) has; a scalar.

    Source: Berman et al., The Lovász-softmax loss, CVPR 2018, algorithm 1.
    """
    probabilities, truth = probabilities[:, known], truth[known]
    found = []
    for number in truth.unique().tolist():
        right = (truth == number).float()
        errors, order = (right - probabilities[number]).abs().sort(descending=True)
        right = right[order]
        intersection = right.sum() - right.cumsum(0)
        union = right.sum() + (1 - right).cumsum(0)
        jaccard = 1 - intersection / union
        jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
        found.append((errors * jaccard).sum())
    return torch.stack(found).mean() if found else probabilities.sum() * 0


def make_pixel_loss(
    kind: str, *, class_weights: npt.ArrayLike | None = None, gamma: float = 2.0, label_smoothing: float = 0.0
) -> PixelLoss:
    """The loss that a plan asks for; ParameterError for one that does not suit pixels."""
    kind = "cross_entropy" if kind == "auto" else kind
    if kind not in LOSSES:
        raise ParameterError(f"The loss of pixels is auto, {', '.join(LOSSES)}; got {kind!r}.")
    weights = None if class_weights is None else torch.from_numpy(np.asarray(class_weights, np.float32))
    return PixelLoss(kind=kind, class_weights=weights, gamma=gamma, label_smoothing=label_smoothing)


def balanced_weights(areas: npt.NDArray[np.int64], *, most: float = 10.0) -> npt.NDArray[np.float32]:
    """How much a pixel of each class counts where classes are to count the same: 1 / sqrt(share), at most `most` times another; mean 1.

    The square root, since with the full inverse a rare class of a few pixels drowns its surroundings.
    """
    share = np.maximum(areas.sum(axis=0), 1) / max(1, areas.sum())
    weights = 1 / np.sqrt(share)
    weights = np.minimum(weights, most * weights.min())
    return np.asarray(weights / weights.mean(), np.float32)


class SmallMasks:
    """The masks of n inputs in all views whose maps there are: uint8 (n, v, side, side), read once, in threads, by nearest neighbours."""

    def __init__(self, targets: Masks, side: int, maps: StageMaps) -> None:
        self.counts = maps.counts

        def one(index: int) -> Uint8:
            mask, found = targets.read(index), np.full((maps.request.views, side, side), VOID, np.uint8)
            for number, view in enumerate(maps.views(index)):
                found[number] = shrunk(mask, side, view)
            return found

        self.values = _in_threads(one, len(targets))

    def __call__(self, rows: Rows, view: int | None) -> Uint8:
        """Uint8 (m, side, side) of some inputs in their views of an epoch, or as they are."""
        return self.values[rows, np.zeros(len(rows), np.int64) if view is None else view_in(rows, view, self.counts)]


class ViewedMasks:
    """The masks of n inputs, held as squares of `fine` pixels, in any view of the augmentation of a training, through `windows`."""

    def __init__(
        self, targets: Masks, side: int, *, fine: int, augmentation: Augmentation, seed: int, windows: Windows | None = None
    ) -> None:
        self._side, self._augmentation, self._seed, self._windows = side, augmentation, seed, windows
        self.values = _in_threads(lambda index: shrunk(targets.read(index), fine), len(targets))

    def __call__(self, rows: Rows, view: int | None) -> Uint8:
        """Uint8 (m, side, side) of some inputs in a view, or as they are."""
        drawn = [self._drawn(row, view) for row in rows.tolist()]
        return np.stack([shrunk(self.values[row], self._side, one) for row, one in zip(rows.tolist(), drawn, strict=True)])

    def _drawn(self, row: int, view: int | None) -> View:
        """As `headstart.training.inputs.Pixels` draws it."""
        if self._windows is not None:
            augmentation = NONE if view is None else self._augmentation
            return window_view(augmentation, self._windows, key=row, seed=self._seed, view=view or 0)
        return PLAIN if view is None else self._augmentation.view(key=row, seed=self._seed, view=view)


def _in_threads(one: Callable[[int], Uint8], count: int) -> Uint8:
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-masks") as pool:
        return np.stack(list(pool.map(one, range(count))))


def shrunk(mask: Uint8, side: int, view: View = PLAIN) -> Uint8:
    """A view of a mask (H, W) as a square of this side: the value at the centre of each of its cells; outside of the mask `VOID`.

    The view is one of the square that the image was squashed to.
    """
    along, down, offset = view.matrix(height=1, width=1).T
    points = (2 * np.arange(side) + 1) / side - 1
    places = points[None, :, None] * along + points[:, None, None] * down + offset  # (side, side, 2): x and y from -1 to 1
    height, width = mask.shape
    columns, rows = (np.floor((places[..., axis] + 1) / 2 * length + 1e-9).astype(np.int64) for axis, length in ((0, width), (1, height)))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return np.where(inside, mask[rows.clip(0, height - 1), columns.clip(0, width - 1)], np.uint8(VOID))


def view_in(rows: Rows, epoch: int, counts: npt.NDArray[np.int64]) -> Rows:
    """The view that each of some inputs has in an epoch, int64 (m,): each input goes through all of its `counts` (n,), as others do."""
    return (rows + epoch) % counts[rows]


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskTraining:
    """Masks of inputs as a `TrainingTask`; predictions are logits (N, k, h, w)."""

    masks: SmallMasks | ViewedMasks
    loss: PixelLoss
    network: Any  # the decoder at the start of the training
    shape: tuple[int, ...]  # of the logits of one input
    maps: tuple[str, ...] = ()  # the stages whose maps it takes, where the backbone is trained too
    score: ClassVar[str] = "pixel accuracy"

    def head(self, features: int, plan: Any, *, seed: int) -> Any:
        """The decoder."""
        return self.network

    def fit_head(self, head: Any, features: Any, rows: Rows, *, layers: Any, seed: int) -> None:
        """A decoder has no closed form: it starts at random."""

    def targets(self, rows: Rows, view: int | None = None) -> torch.Tensor:
        """Uint8 (N, side, side)."""
        return torch.from_numpy(self.masks(rows, view))

    def guessing(self, rows: Rows) -> float:
        """The cross-entropy of k equally probable classes."""
        return math.log(self.shape[0])

    def predictions(self, outputs: Any) -> Any:
        """The logits."""
        return outputs

    def scores(self, predictions: Any, targets: Any) -> Any:
        """The share of right pixels of each image (N,)."""
        step = max(1, targets.shape[1] // predictions.shape[2])
        truth = targets[:, step // 2 :: step, step // 2 :: step][:, : predictions.shape[2], : predictions.shape[3]]
        known = truth != VOID
        right = (predictions.argmax(dim=1) == truth) & known
        return right.sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)

    def validate(self, predictions: Any, targets: Any) -> Validation:
        """Loss, and accuracy of pixels; the best epoch is selected by the loss."""
        weight = float(self.loss.weights(targets).sum()) or 1.0
        loss = sum(float(self.loss(*part).sum()) for part in zip(predictions.split(16), targets.split(16), strict=True)) / weight
        return Validation(loss, float(self.scores(predictions, targets).mean()), loss, predictions.numpy())

    def model(self, head: Any, layer: Any, dim: int, predictions: Any, rows: Rows | None) -> tuple[Any, None]:
        """The decoder without PyTorch."""
        return head.decoder(), None


class MapInputs:
    """Stored maps as the inputs of the loop: views of them, or those of the inputs as they are."""

    def __init__(self, maps: StageMaps, *, device: str) -> None:
        self._maps, self._device, self._counts = maps, device, maps.counts

    def prepare(self, epoch: int | None) -> None:
        """Everything is there."""

    def view(self, epoch: int) -> int | None:
        """The epoch: each input goes through its own views."""
        return epoch

    def views(self, rows: Rows, epoch: int) -> Any:
        """The maps of these inputs in the epoch: a tuple of float32 (N, C, h, w)."""
        return self._tensors(self._maps.values[self._maps.rows[rows], view_in(rows, epoch, self._counts)])

    def plain(self, rows: Rows) -> Any:
        """The maps of these inputs as they are."""
        return self._tensors(self._maps.values[self._maps.rows[rows], 0])

    def mixed(self, own: Any, partners: Any, mixing: Mixing) -> Any:
        """Maps are not mixed."""
        raise ParameterError("MixUp and CutMix mix images with one label each, and these have masks. Leave them out of --augment.")

    def _tensors(self, values: npt.NDArray[np.float16]) -> Any:
        batch, found, start = torch.from_numpy(values), [], 0
        for layer in self._maps.layers:
            part = batch[:, start : start + layer.size].float().view(-1, *layer.shape)
            found.append(part.to(self._device, memory_format=torch.channels_last))
            start += layer.size
        return tuple(found)
