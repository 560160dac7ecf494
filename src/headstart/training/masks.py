"""Masks as a `TrainingTask`, and stored maps as the inputs of the loop: a decoder is trained as any head is (PyTorch)."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from headstart.data.masks import VOID, Masks
from headstart.engine import available_cores
from headstart.errors import ParameterError
from headstart.features.stage_maps import StageMaps
from headstart.modalities.image.augment import Mixing
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
    """The masks of n inputs at one size, by nearest neighbours: uint8 (n, side, side), read once, in threads."""

    def __init__(self, targets: Masks, side: int) -> None:
        with ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-masks") as pool:
            read = pool.map(lambda index: shrunk(targets.read(index), side), range(len(targets)))
            self.values: Uint8 = np.stack(list(read)) if len(targets) else np.empty((0, side, side), np.uint8)

    def __len__(self) -> int:
        return len(self.values)

    def views(self, rows: Rows, mirrored: npt.NDArray[np.bool_] | None = None) -> torch.Tensor:
        """Uint8 (m, side, side) of some inputs, some of them mirrored."""
        found = self.values[rows]
        if mirrored is not None:
            found[mirrored] = found[mirrored][:, :, ::-1]
        return torch.from_numpy(found)


def shrunk(mask: Uint8, side: int) -> Uint8:
    """A mask (H, W) as a square of this side: the value at the centre of each of its cells, nothing between."""
    rows, columns = (np.minimum(((np.arange(side) + 0.5) * length / side).astype(np.int64), length - 1) for length in mask.shape)
    return np.ascontiguousarray(mask[rows[:, None], columns])


def mirrored_in(rows: Rows, epoch: int, *, seed: int) -> npt.NDArray[np.bool_]:
    """Which of these inputs are mirrored in an epoch, bool (m,): each in every second epoch, half of them in each."""
    return np.asarray((rows + epoch + seed) % 2 == 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskTraining:
    """Masks of inputs as a `TrainingTask`; predictions are logits (N, k, h, w)."""

    masks: SmallMasks
    loss: PixelLoss
    network: Callable[[], Any]  # makes the untrained decoder
    shape: tuple[int, ...]  # of the logits of one input
    views: int  # of each input that is stored: 2 with its mirror image
    seed: int = 0

    def head(self, features: int, plan: Any, *, seed: int) -> Any:
        """The decoder, untrained."""
        return self.network()

    def fit_head(self, head: Any, features: Any, rows: Rows, *, layers: Any, seed: int) -> None:
        """A decoder has no closed form: it starts at random."""

    def targets(self, rows: Rows, epoch: int | None = None) -> torch.Tensor:
        """Uint8 (N, side, side)."""
        turned = None if epoch is None or self.views < 2 else mirrored_in(rows, epoch, seed=self.seed)
        return self.masks.views(rows, turned)

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

    def __init__(self, maps: StageMaps, *, device: str, seed: int) -> None:
        self._maps, self._device, self._seed = maps, device, seed

    def prepare(self, epoch: int | None) -> None:
        """Everything is there."""

    def views(self, rows: Rows, epoch: int) -> Any:
        """The maps of these inputs in the epoch: a tuple of float32 (N, C, h, w)."""
        if len(self._maps.views) < 2:
            return self.plain(rows)
        return self._tensors(self._maps.values[self._maps.rows[rows], mirrored_in(rows, epoch, seed=self._seed).astype(np.int64)])

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
