"""MixUp and CutMix: which images of a batch are mixed, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.modalities.image.warp import Box


@dataclass(frozen=True)
class Mixing:
    """How each image of a batch is mixed with its partner.

    Attributes:
        partners: int64 (count,), a permutation: the place in the batch of each image's partner.
        share: what is kept of each image and of its target; the rest is its partner's.
        box: for CutMix the part that the partner fills: top, left, bottom, right, as shares of height and width. None for MixUp.
    """

    partners: npt.NDArray[np.int64]
    share: float
    box: Box | None = None

    def images(self, own: Any, partners: Any) -> Any:
        """Mix two tensors (N, C, H, W): the images of some rows of the batch, and those of their partners, in the same order.

        MixUp: the weighted mean. CutMix: the box is the partner's. A pixel that the edge of the box divides is mixed by the area on
        each side, so that the share is exact at every resolution. Whole numbers become float32.
        """
        import torch

        own, partners = (values if values.is_floating_point() else values.float() for values in (own, partners))
        if self.box is None:
            return torch.lerp(partners, own, self.share)
        top, left, bottom, right = self.box
        rows, columns = (
            torch.as_tensor(_covered(*edges, count), dtype=own.dtype, device=own.device)
            for edges, count in (((top, bottom), own.shape[-2]), ((left, right), own.shape[-1]))
        )
        return torch.lerp(own, partners, (rows[:, None] * columns).expand_as(own))

    def targets(self, own: Any, partners: Any) -> Any:
        """Mix two float tensors (N, k) of targets, in the same order as the images."""
        return own * self.share + partners * (1 - self.share)


def draw_mixing(*, mixup: float, cutmix: float, seed: int, step: int, count: int) -> Mixing | None:
    """Draw the mixing of one step; one of the two at random where both are asked for.

    Args:
        mixup: alpha of MixUp (Zhang et al. 2017), 0 for not at all.
        cutmix: alpha of CutMix (Yun et al. 2019), 0 for not at all.
        seed: of the whole training, 0 or more.
        step: number of the step, from 0.
        count: images in the batch, over all processes.
    """
    if not (mixup or cutmix):
        return None
    generator = np.random.default_rng([seed, step, count, 0, 1])  # two more numbers than any view: never the same draws
    partners = generator.permutation(count).astype(np.int64)
    cuts = generator.random() < 0.5 if mixup and cutmix else bool(cutmix)
    alpha = cutmix if cuts else mixup
    share = float(generator.beta(alpha, alpha))
    if not cuts:
        return Mixing(partners, share)
    half = math.sqrt(1 - share) / 2
    y, x = generator.random(2).tolist()
    box = (max(0.0, y - half), max(0.0, x - half), min(1.0, y + half), min(1.0, x + half))
    # The box may end at the edge of the image: what counts is the area that is left of it.
    return Mixing(partners, 1 - (box[2] - box[0]) * (box[3] - box[1]), box)


def _covered(start: float, stop: float, count: int) -> npt.NDArray[np.float64]:
    """Share (count,) of each of `count` pixels that lies between `start` and `stop`, which are shares of the whole side."""
    edges = np.clip(np.arange(count + 1), start * count, stop * count)
    return np.diff(edges)
