"""Detectors of torchvision on the maps of any backbone (PyTorch): its own modules, its own matching, its own losses.

A network here is a model of torchvision whose backbone takes maps in place of images: a feature pyramid (Lin et al. 2017) with further,
coarser levels. So the names of its weights are those of torchvision's files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelP6P7

from headstart.backbones.stage_maps import MapLayer
from headstart.training.own_loss import DetectorNetwork, candidates, surest

NARROWEST, WIDEST = 64, 256
"""Channels of a pyramid; torchvision's have the second."""
_CERTAIN = 1e-6  # a probability is no nearer to 0 or 1


def width_for(layers: Sequence[MapLayer]) -> int:
    """Channels of the pyramid: a quarter of those of the coarsest map, in steps of 32: 256 for ResNet-50, as published, fewer where the
    backbone is narrower, so that an epoch on stored maps stays short.
    """
    return max(NARROWEST, min(WIDEST, 32 * round(layers[-1].channels / 4 / 32)))


class Pyramid(nn.Module):  # type: ignore[misc]
    """A feature pyramid on maps, a list of (N, C, h, w): the backbone of a model of torchvision."""

    def __init__(self, layers: Sequence[MapLayer], width: int, extra: ExtraFPNBlock) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork([layer.channels for layer in layers], width, extra_blocks=extra)
        self.out_channels = width

    def forward(self, maps: list[Any]) -> OrderedDict[str, Any]:
        """The levels by name, the finest first."""
        levels: OrderedDict[str, Any] = self.fpn(OrderedDict((str(number), one) for number, one in enumerate(maps)))
        return levels


class OfTorchvision(DetectorNetwork):
    """A one-stage model of torchvision: `model` has a backbone of levels, a head, and anchors."""

    model: Any

    def build(self) -> None:
        """See `MapNetwork`."""
        self.register()
        self.model = self.made()
        with torch.no_grad():
            levels = self.levels([torch.zeros(1, *layer.shape) for layer in self.layers])
            image = ImageList(torch.zeros(1, 3, self.side, self.side), [(self.side, self.side)])
            anchors = self.model.anchor_generator(image, levels)[0]
        self.register_buffer("anchors", anchors.float(), persistent=False)
        each = self.model.anchor_generator.num_anchors_per_location()
        self.by_level = [count * level.shape[2] * level.shape[3] for count, level in zip(each, levels, strict=True)]

    @abstractmethod
    def made(self) -> Any:
        """The model, with weights from PyTorch's own generator."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of the predictions for one input: (A, k + 4)."""
        return candidates(sum(self.by_level)), self.classes + 4

    def strides(self, count: int) -> list[int]:
        """Pixels between the positions of so many levels: those of the finest map, then always twice as many."""
        first = round(self.side / self.layers[0].height)
        return [first * 2**level for level in range(count)]

    def levels(self, maps: list[Any]) -> list[Any]:
        """The levels of the pyramid, the finest first."""
        return list(self.model.backbone(maps).values())

    def raw(self, maps: list[Any]) -> Any:
        """What the head gives, by name."""
        return self.model.head(self.levels(maps))

    def in_pixels(self, targets: list[dict[str, Any]], *, first: int = 0) -> list[dict[str, Any]]:
        """Targets with boxes in pixels and labels from `first`."""
        return [{"boxes": one["boxes"] * self.side, "labels": one["labels"] + first} for one in targets]

    def anchors_of(self, count: int) -> list[Any]:
        """The anchors of so many images."""
        return [self.anchors] * count


class Fcos(OfTorchvision):
    """FCOS (Tian et al. 2019): every position of the pyramid gives one box and how near it is to the middle of the object."""

    name = "fcos"

    def made(self) -> FCOS:
        """See `OfTorchvision`."""
        width = width_for(self.layers)
        sizes = tuple((stride,) for stride in self.strides(len(self.layers) + 2))
        return FCOS(
            Pyramid(self.layers, width, LastLevelP6P7(width, width)), self.classes,
            anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(sizes)),
        )  # fmt: skip

    def predicted(self, raw: Any) -> Any:
        """The probability is the geometric mean of those of class and middle, as torchvision has it."""
        chance = (raw["cls_logits"].sigmoid() * raw["bbox_ctrness"].sigmoid()).sqrt().clamp(_CERTAIN, 1 - _CERTAIN)
        boxes = self.model.box_coder.decode(raw["bbox_regression"], self.anchors[None]) / self.side
        return surest(chance.log() - (-chance).log1p(), boxes, candidates(boxes.shape[1]))

    def losses(self, raw: Any, targets: list[dict[str, Any]]) -> Any:
        """Of class, box and middle."""
        found = self.model.compute_loss(self.in_pixels(targets), raw, self.anchors_of(len(targets)), self.by_level)
        return sum(found.values())
