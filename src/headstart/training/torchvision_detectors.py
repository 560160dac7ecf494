"""Detectors of torchvision on the maps of any backbone (PyTorch): its own modules, its own matching, its own losses.

A network here is a model of torchvision whose backbone takes maps in place of images: a feature pyramid (Lin et al. 2017), or the maps
themselves, with further, coarser levels. So the names of its weights are those of torchvision's files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelP6P7

from headstart.backbones.stage_maps import MapLayer
from headstart.errors import BackboneError
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

    def __init__(self, layers: Sequence[MapLayer], width: int, extra: ExtraFPNBlock, *, norm: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork([layer.channels for layer in layers], width, extra_blocks=extra, norm_layer=norm)
        self.out_channels = width

    def forward(self, maps: list[Any]) -> OrderedDict[str, Any]:
        """The levels by name, the finest first."""
        levels: OrderedDict[str, Any] = self.fpn(OrderedDict((str(number), one) for number, one in enumerate(maps)))
        return levels


class OfTorchvision(DetectorNetwork):
    """A one-stage model of torchvision: `model` has a backbone of levels, a head, and anchors."""

    model: Any
    class_head: ClassVar[tuple[str, ...]] = ("head.classification_head.cls_logits.",)
    """Beginnings of the names of weights that are new where a file has other classes."""

    def __init__(
        self, layers: Sequence[MapLayer], classes: int, *, side: int, seed: int = 0, weights: Mapping[str, Any] | None = None
    ) -> None:  # fmt: skip
        self.weights: Mapping[str, Any] = weights or {}  # of a whole detector, by torchvision's names
        self.pretrained = bool(weights)
        super().__init__(layers, classes, side=side, seed=seed)
        self.weights = {}

    def standardise(self, maps: Any) -> None:
        """See `Standardised`; weights of a file are for maps as they are."""
        if not self.pretrained:
            super().standardise(maps)

    @property
    def width(self) -> int:
        """Channels of the pyramid."""
        for name, value in self.weights.items():
            if name.startswith("backbone.fpn.layer_blocks.0.") and value.ndim == 4:
                return int(value.shape[0])
        return width_for(self.layers)

    def last_levels(self, inputs: int) -> LastLevelP6P7:
        """What makes the two coarsest levels, of so many channels where no file says it."""
        given = self.weights.get("backbone.fpn.extra_blocks.p6.weight")
        return LastLevelP6P7(inputs if given is None else int(given.shape[1]), self.width)

    def _load(self) -> None:
        """Take the weights of the file. BackboneError where they do not fit."""
        own = self.model.state_dict()
        state = {name: torch.from_numpy(value) for name, value in self.weights.items() if not name.startswith("backbone.body.")}
        for name in [name for name in state if name.startswith(self.class_head)]:
            if name not in own or own[name].shape != state[name].shape:
                del state[name]
        try:
            found = self.model.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise BackboneError(f"The weights do not fit {self.name}: {str(error).strip().splitlines()[-1].strip()}") from None
        lacking = [name for name in found.missing_keys if not name.startswith(self.class_head) and not name.endswith("num_batches_tracked")]
        if wrong := [f"{name} is missing" for name in lacking] + [f"{name} has no place in it" for name in found.unexpected_keys]:
            raise BackboneError(f"The weights do not fit {self.name}: {'; '.join(wrong[:5])}. Is it the file of another detector?")

    def build(self) -> None:
        """See `MapNetwork`."""
        self.register()
        self.model = self.made()
        if self.weights:
            self._load()
        generator = self.generator
        self.model.eval()  # the statistics of a file's normalisations stay as they are
        with torch.no_grad():
            levels = self.levels([torch.zeros(1, *layer.shape) for layer in self.layers])
            anchors = generator(self.images(1), levels)[0]
        self.model.train()
        self.register_buffer("anchors", anchors.float(), persistent=False)
        each = generator.num_anchors_per_location()
        self.by_level = [count * level.shape[2] * level.shape[3] for count, level in zip(each, levels, strict=True)]

    @property
    def generator(self) -> Any:
        """What makes the anchors."""
        return self.model.anchor_generator

    def images(self, count: int) -> ImageList:
        """So many images as torchvision's modules ask for them: of their pixels they take the size alone."""
        return ImageList(torch.zeros(1, 1, 1, 1).expand(count, 3, self.side, self.side), [(self.side, self.side)] * count)

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

    def with_anchors(self, regression: Any) -> Any:
        """What boxes are decoded from (N, A, 8): the regression (N, A, 4), and the anchors."""
        return torch.cat([regression, self.anchors[None].expand(regression.shape[0], -1, -1)], dim=2)

    def boxes_of(self, regression: Any, *, coder: Any) -> Any:
        """Boxes (N, c, 4) as shares of the sides, of those of `with_anchors` that remain."""
        flat = regression.reshape(-1, 8)
        return coder.decode_single(flat[:, :4], flat[:, 4:]).reshape(regression.shape[0], -1, 4) / self.side


class Fcos(OfTorchvision):
    """FCOS (Tian et al. 2019): every position of the pyramid gives one box and how near it is to the middle of the object."""

    name = "fcos"

    def made(self) -> FCOS:
        """See `OfTorchvision`."""
        width = self.width
        sizes = tuple((stride,) for stride in self.strides(len(self.layers) + 2))
        return FCOS(
            Pyramid(self.layers, width, self.last_levels(width)), self.classes,
            anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(sizes)),
        )  # fmt: skip

    def predicted(self, raw: Any) -> Any:
        """The probability is the geometric mean of those of class and middle, as torchvision has it."""
        chance = (raw["cls_logits"].sigmoid() * raw["bbox_ctrness"].sigmoid()).sqrt().clamp(_CERTAIN, 1 - _CERTAIN)
        boxes = self.model.box_coder.decode(raw["bbox_regression"], self.anchors[None]) / self.side
        return surest(chance.log() - (-chance).log1p(), boxes, candidates(boxes.shape[1]))

    def losses(self, raw: Any, targets: list[dict[str, Any]]) -> Any:
        """Of class, box and middle."""
        found = self.model.compute_loss(self.in_pixels(targets), raw, [self.anchors] * len(targets), self.by_level)
        return sum(found.values())


class Retinanet(OfTorchvision):
    """RetinaNet (Lin et al. 2017): nine anchors at every position of the pyramid, learned by the focal loss.

    In torchvision's second version, with normalisations in the head and the generalised IoU for boxes, unless a file is of the first.
    """

    name = "retinanet"

    def made(self) -> RetinaNet:
        """See `OfTorchvision`."""
        width, strides = self.width, self.strides(len(self.layers) + 2)
        second = not self.weights or "head.classification_head.conv.0.1.weight" in self.weights
        sizes = tuple(tuple(int(4 * stride * 2 ** (part / 3)) for part in range(3)) for stride in strides)
        head = RetinaNetHead(width, 9, self.classes, norm_layer=partial(nn.GroupNorm, 32) if second else None)
        head.regression_head._loss_type = "giou" if second else "l1"
        return RetinaNet(
            Pyramid(self.layers, width, self.last_levels(self.layers[-1].channels)), self.classes,
            anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)), head=head,
        )  # fmt: skip

    def predicted(self, raw: Any) -> Any:
        """See `DetectorNetwork`."""
        logits = raw["cls_logits"]
        best = surest(logits, self.with_anchors(raw["bbox_regression"]), candidates(logits.shape[1]))
        return torch.cat([best[..., :-8], self.boxes_of(best[..., -8:], coder=self.model.box_coder)], dim=2)

    def losses(self, raw: Any, targets: list[dict[str, Any]]) -> Any:
        """Of class and box."""
        return sum(self.model.compute_loss(self.in_pixels(targets), raw, [self.anchors] * len(targets)).values())


class Levels(nn.Module):  # type: ignore[misc]
    """The maps as they are, the finest scaled to one length, and coarser ones (Liu et al. 2016): the backbone of SSD."""

    def __init__(self, layers: Sequence[MapLayer], width: int, count: int) -> None:
        super().__init__()
        # Root mean square 1, as the paper's 20 is nearly of 512 channels.
        self.scale_weight = nn.Parameter(torch.full((layers[0].channels,), layers[0].channels ** 0.5))
        self.out_channels, side, extra = [layer.channels for layer in layers], layers[-1].height, nn.ModuleList()
        while len(self.out_channels) < count and side > 1:
            output = width if extra else 2 * width
            extra.append(
                nn.Sequential(
                    *_normalised(nn.Conv2d(self.out_channels[-1], output // 2, 1, bias=False)),
                    *_normalised(nn.Conv2d(output // 2, output, 3, padding=1, stride=2, bias=False)),
                )
            )
            self.out_channels.append(output)
            side = (side + 1) // 2
        self.extra = extra

    def forward(self, maps: list[Any]) -> OrderedDict[str, Any]:
        """The levels by name, the finest first."""
        levels = [self.scale_weight[:, None, None] * functional.normalize(maps[0]), *maps[1:]]
        value = maps[-1]
        for block in self.extra:
            value = block(value)
            levels.append(value)
        return OrderedDict((str(number), one) for number, one in enumerate(levels))


def _normalised(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    """A convolution, normalised within an image, since the coarsest level has one position; then ReLU."""
    return convolution, nn.GroupNorm(16, convolution.out_channels), nn.ReLU()


class Ssd(OfTorchvision):
    """SSD (Liu et al. 2016): four or six default boxes at every position of up to six levels; softmax, and the hardest negatives."""

    name, guessing = "ssd", 12.0
    most = 6

    def made(self) -> SSD:
        """See `OfTorchvision`. Default boxes have the sizes that torchvision's SSD300 has."""
        levels = Levels(self.layers, width_for(self.layers), max(self.most, len(self.layers)))
        count = len(levels.out_channels)
        ratios = [[2] if place in (0, count - 2, count - 1) else [2, 3] for place in range(count)]
        scales = [0.07, *(0.15 + 0.9 * place / max(1, count - 1) for place in range(count))]
        return SSD(levels, DefaultBoxGenerator(ratios, scales=scales), (self.side, self.side), self.classes + 1)

    def predicted(self, raw: Any) -> Any:
        """The probability of a class beside all others and the background, as logits of its own."""
        logits = of_softmax(raw["cls_logits"])
        best = surest(logits, self.with_anchors(raw["bbox_regression"]), candidates(logits.shape[1]))
        return torch.cat([best[..., :-8], self.boxes_of(best[..., -8:], coder=self.model.box_coder)], dim=2)

    def losses(self, raw: Any, targets: list[dict[str, Any]]) -> Any:
        """Of class and box."""
        known = self.in_pixels(targets, first=1)
        nothing = torch.full((len(self.anchors),), -1, dtype=torch.int64, device=self.anchors.device)
        matched = [
            self.model.proposal_matcher(box_iou(one["boxes"], self.anchors)) if len(one["boxes"]) else nothing for one in known
        ]  # fmt: skip
        return sum(self.model.compute_loss(known, raw, [self.anchors] * len(known), matched).values())


def of_softmax(logits: Any) -> Any:
    """Logits of a softmax, of the background first, (..., k + 1), as logits of k sigmoids with the same probabilities."""
    chance = logits.softmax(dim=-1)[..., 1:].clamp(_CERTAIN, 1 - _CERTAIN)
    return chance.log() - (-chance).log1p()
