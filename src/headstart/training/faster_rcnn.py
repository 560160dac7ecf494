"""Faster R-CNN of torchvision on the maps of any backbone (PyTorch).

Torchvision's own model gives every image a list of proposals of its own length. Here an image has a fixed number, filled up with such as
have no probability, so that batches of any size go through one graph; suppression, levels and pooling are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, nms, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from headstart.training.own_loss import candidates, listed, surest
from headstart.training.torchvision_detectors import OfTorchvision, Pyramid, of_softmax

PROPOSALS = 300
"""Regions of an image that are classified, as in the paper (Ren et al. 2015)."""
SAMPLED = 128
"""Regions of an image that are learned from."""
_BEFORE, _THIN = 1000, 1e-3  # proposals of a level before the suppression, and pixels of the thinnest, as torchvision has them
_NOTHING = -16.0  # logit of what is not there


class FasterRcnn(OfTorchvision):
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid: regions are proposed first, then each is classified and its box refined."""

    name = "faster_rcnn"
    class_head = ("roi_heads.box_predictor.",)

    def made(self) -> FasterRCNN:
        """See `OfTorchvision`. A file of torchvision's second version has more convolutions, which are normalised."""
        width, strides, second = self.width, self.strides(len(self.layers) + 1), "rpn.head.conv.1.0.weight" in self.weights
        norm, deep = (nn.BatchNorm2d, 2) if second else (None, 1)
        head: Any = TwoMLPHead(width * 49, 4 * width)
        if second:
            head = FastRCNNConvFCHead((width, 7, 7), [width] * 4, [4 * width], norm_layer=norm)
        names = [str(number) for number in range(len(self.layers))]
        model = FasterRCNN(
            Pyramid(self.layers, width, LastLevelMaxPool(), norm=norm), rpn_head=RPNHead(width, 3, conv_depth=deep),
            rpn_anchor_generator=AnchorGenerator(tuple((8 * one,) for one in strides), ((0.5, 1.0, 2.0),) * len(strides)),
            rpn_post_nms_top_n_train=_BEFORE, rpn_post_nms_top_n_test=PROPOSALS, rpn_pre_nms_top_n_test=_BEFORE,
            box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2), box_batch_size_per_image=SAMPLED,
            box_head=head, box_predictor=FastRCNNPredictor(4 * width, self.classes + 1),
        )  # fmt: skip
        for part in (model.rpn, model.roi_heads):
            part.fg_bg_sampler = Sampler(part.fg_bg_sampler)
        return model

    def build(self) -> None:
        """See `MapNetwork`."""
        super().build()
        levels = {str(number): torch.zeros(1, 1, *layer.shape[1:]) for number, layer in enumerate(self.layers)}
        self.model.roi_heads.box_roi_pool(levels, [torch.zeros(1, 4)], [(self.side, self.side)])  # which tells it their scales

    @property
    def generator(self) -> Any:
        """See `OfTorchvision`."""
        return self.model.rpn.anchor_generator

    @property
    def shape(self) -> tuple[int, int]:
        """See `OfTorchvision`."""
        return candidates(self._regions * self.classes), self.classes + 4

    @property
    def _regions(self) -> int:
        return int(min(PROPOSALS, sum(min(_BEFORE, count) for count in self.by_level)))

    def raw(self, maps: list[Any]) -> Any:
        """Logits, regression and regions of each image; in training with the losses, since regions are sampled for the targets."""
        levels = self.model.backbone(maps)
        if not self.training:
            return self._classified(list(levels.values()))
        drawn, heads = self.drawn, self.model.roi_heads
        assert drawn is not None
        for part in (self.model.rpn, heads):
            part.fg_bg_sampler.begin = (drawn.seed, drawn.step, drawn.first)
        targets, images = self.in_pixels(listed(drawn.targets), first=1), self.images(len(maps[0]))
        regions, losses = self.model.rpn(images, levels, targets)
        regions, _, labels, goals = heads.select_training_samples(regions, targets)
        logits, regression = heads.box_predictor(heads.box_head(heads.box_roi_pool(levels, regions, images.image_sizes)))
        named = zip(("classification", "box"), fastrcnn_loss(logits.float(), regression.float(), labels, goals), strict=True)
        parts = [len(one) for one in regions]
        found = [nn.utils.rnn.pad_sequence(one, batch_first=True) for one in (logits.split(parts), regression.split(parts), regions)]
        there = nn.utils.rnn.pad_sequence([torch.ones(count, device=logits.device) for count in parts], batch_first=True)
        return {**dict(zip(("logits", "regression", "regions"), found, strict=True)), "there": there, "losses": losses | dict(named)}

    def predicted(self, raw: Any) -> Any:
        """Every class of every region is a proposal with a box of its own."""
        count = self.classes
        images, coder = raw["logits"].shape[0], self.model.roi_heads.box_coder
        boxes = coder.decode_single(raw["regression"].reshape(-1, 4 * count + 4), raw["regions"].reshape(-1, 4))
        boxes = boxes.reshape(images, -1, count + 1, 4)[:, :, 1:].reshape(images, -1, 4) / self.side
        logits = of_softmax(raw["logits"])
        logits = torch.where(raw["there"][..., None] > 0, logits, logits.new_full((), _NOTHING)).reshape(images, -1, 1)
        own = torch.eye(count, device=logits.device).repeat(boxes.shape[1] // count, 1)[None].expand(images, -1, -1)
        best = surest(logits, torch.cat([own, boxes], dim=2), candidates(boxes.shape[1]))  # (N, c, 1 + k + 4)
        classes = best[..., 1:-4] * (best[..., :1] - _NOTHING) + _NOTHING
        return torch.cat([classes, best[..., -4:]], dim=2)

    def losses(self, raw: Any, targets: list[dict[str, Any]]) -> Any:
        """Of the regions, whether and where, and of class and box."""
        return sum(raw["losses"].values())

    def _classified(self, levels: list[Any]) -> dict[str, Any]:
        """As `raw`, of the regions that the suppression leaves."""
        regions, there = self._proposed(levels)
        heads = self.model.roi_heads
        pooled = self._pooled(levels, regions)
        flat = heads.box_predictor(heads.box_head(pooled))
        logits, regression = (one.reshape(-1, self._regions, one.shape[1]) for one in flat)
        return {"logits": logits, "regression": regression, "regions": regions, "there": there}

    def _proposed(self, levels: list[Any]) -> tuple[Any, Any]:
        """The regions (N, r, 4) in pixels, the most probable first, and their probability (N, r); those that fill up are 0."""
        rpn, places, chosen = self.model.rpn, self.anchors.split(self.by_level), []
        for objectness, deltas, anchors in zip(*rpn.head(levels), places, strict=True):
            count = objectness.shape[0]
            logits = objectness.float().permute(0, 2, 3, 1).reshape(count, -1, 1)
            moved = deltas.float().reshape(count, -1, 4, *deltas.shape[2:]).permute(0, 3, 4, 1, 2).reshape(count, -1, 4)
            both = torch.cat([moved, anchors[None].expand(count, -1, -1)], dim=2)
            chosen.append(surest(logits, both, min(_BEFORE, len(anchors))))
        sizes, best = [one.shape[1] for one in chosen], torch.cat(chosen, dim=1)
        boxes = self.boxes_of(best[..., 1:], coder=rpn.box_coder) * self.side
        boxes = clip_boxes_to_image(boxes, (self.side, self.side))
        chances = best[..., 0].sigmoid() * ((boxes[..., 2:] - boxes[..., :2]) >= _THIN).all(dim=2)
        level = torch.block_diag(*(torch.ones(1, int(size)) for size in sizes)).to(boxes.device)  # (l, P)
        kept = Suppressed.apply(boxes, chances[:, None] * level[None], float(rpn.nms_thresh))
        there, order = kept.topk(self._regions, dim=1)
        return boxes.gather(1, order[..., None].expand(-1, -1, 4)) * (there[..., None] > 0), there

    def _pooled(self, levels: list[Any], regions: Any) -> Any:
        """Of each region (N r, C, 7, 7), from the level for its size. Every level is pooled, so that none is without regions."""
        pool, flat = self.model.roi_heads.box_roi_pool, regions.reshape(-1, 4)
        image = torch.arange(levels[0].shape[0], device=flat.device, dtype=flat.dtype)[:, None].expand(-1, regions.shape[1]).reshape(-1, 1)
        level, given = pool.map_levels([flat]), torch.cat([image, flat], dim=1)
        pooled = [
            roi_align(one.float(), given, pool.output_size, spatial_scale=scale, sampling_ratio=pool.sampling_ratio)
            * (level == number)[:, None, None, None]
            for number, (one, scale) in enumerate(zip(levels, pool.scales, strict=False))
        ]
        return sum(pooled)


class Sampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]
    """Torchvision's sampler; what is drawn for an image depends on seed, step and its place in the batch alone."""

    def __init__(self, like: BalancedPositiveNegativeSampler) -> None:
        super().__init__(like.batch_size_per_image, like.positive_fraction)
        self.begin = (0, 0, 0)

    def __call__(self, matched_idxs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """See torchvision."""
        positive, negative = [], []
        seed, step, first = self.begin
        for place, one in enumerate(matched_idxs, first):
            mixed = int(np.random.SeedSequence([seed, step, place]).generate_state(1, np.uint64)[0]) >> 1
            with torch.random.fork_rng():
                torch.manual_seed(mixed)
                chosen = super().__call__([one])
            positive += chosen[0]
            negative += chosen[1]
        return positive, negative


class Suppressed(torch.autograd.Function):  # type: ignore[misc]
    """Non-maximum suppression of boxes (N, P, 4) by scores (N, l, P), within each level: the scores (N, P) that remain, 0 for others.

    As a graph it is ONNX's operator, which takes all images at once.
    """

    @staticmethod
    def forward(ctx: Any, boxes: Any, scores: Any, limit: float) -> Any:
        """See the class."""
        kept = torch.zeros_like(scores)
        for image in range(len(boxes)):
            for level in range(scores.shape[1]):
                own = scores[image, level]
                there = (own > 0).nonzero()[:, 0]
                best = there[nms(boxes[image, there], own[there], limit)]
                kept[image, level, best] = own[best]
        return kept.amax(dim=1)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, limit: float) -> Any:
        """See the class."""

        def constant(value: Any) -> Any:
            return g.op("Constant", value_t=torch.tensor(value))

        most, least = constant([2**31 - 1]), constant([0.0])
        kept = g.op("NonMaxSuppression", boxes, scores, most, constant([limit]), least)
        alone = g.op("ScatterND", g.op("Mul", scores, constant(0.0)), kept, g.op("GatherND", scores, kept))
        left = g.op("ReduceMax", alone, axes_i=[1], keepdims_i=0)
        left.setType(boxes.type().with_sizes([None, None]))  # or the number of images would be that of the example
        return left
