"""The detection head in training (PyTorch): from the maps of a backbone's stages to a box and logits of classes at every position.

Once trained it does without PyTorch: `headstart.heads.boxes.BoxDecoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from headstart.backbones.stage_maps import MapLayer
from headstart.heads.boxes import BoxDecoder
from headstart.training.box_targets import DrawnViews, HasBoxes, PositionTargets, StageViews
from headstart.training.boxes import BoxLoss, Objective
from headstart.training.decoders import Standardised, graph_of

WIDTH, SIDE = 96, 5
"""Channels of all maps, and side of the depthwise convolutions in positions: a box is told from what is around its middle."""
RARE = 0.01
"""Probability that every position gives every class before the training (Lin et al. 2017), or the many without an object would outweigh."""


class _Block(nn.Module):  # type: ignore[misc]
    """A depthwise convolution and a 1x1 convolution, normalised over the batch, then ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, SIDE, padding=SIDE // 2, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, value: Any) -> Any:
        return functional.relu(self.norm(self.pointwise(self.depthwise(value))), inplace=True)


class BoxNetwork(Standardised):
    """Maps, a tuple of (N, C, h, w) in the order of `layers`, the finest first, to (N, A, k + 4).

    For each position, those of the finest map first, the logits of k classes, and left, top, right and bottom of a box as shares of width
    and height. Maps are joined from the coarsest to the finest and back (Liu et al. 2018); one branch for classes and one for boxes, the
    same for all maps, end in 1x1 convolutions. The distances of the sides from the position are in strides of the map.
    """

    def __init__(self, layers: Sequence[MapLayer], classes: int, *, side: int | None = None, seed: int = 0) -> None:
        super().__init__(layers, classes, seed=seed)  # the side of the input makes no difference to it

    def build(self) -> None:
        """See `MapNetwork`."""
        layers = self.layers
        self.lateral = nn.ModuleList(nn.Conv2d(layer.channels, WIDTH, 1) for layer in layers)
        self.context = nn.Linear(layers[-1].channels, WIDTH, bias=False)
        self.down, self.up = nn.ModuleList(_Block(WIDTH) for _ in layers), nn.ModuleList(_Block(WIDTH) for _ in layers[1:])
        self.of_class, self.of_box = _Block(WIDTH), _Block(WIDTH)
        self.logits, self.sides = nn.Conv2d(WIDTH, self.classes, 1), nn.Conv2d(WIDTH, 4, 1)
        nn.init.constant_(self.logits.bias, float(np.log(RARE / (1 - RARE))))
        nn.init.constant_(self.sides.bias, 1.0)
        self.scale = nn.Parameter(torch.ones(len(layers)))
        self.register()
        for number, layer in enumerate(layers):
            self.register_buffer(f"grid{number}", torch.from_numpy(grid(layer)), persistent=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the outputs of one input: (A, k + 4)."""
        return sum(layer.height * layer.width for layer in self.layers), self.classes + 4

    def pyramid(self, maps: Any) -> list[Any]:
        """The maps joined, (N, WIDTH, h, w) each."""
        taken = [self.standard(number, one) for number, one in enumerate(maps)]
        found = [lateral(one) for lateral, one in zip(self.lateral, taken, strict=True)]
        found[-1] = found[-1] + self.context(taken[-1].mean(dim=(2, 3)))[:, :, None, None]
        found[-1] = self.down[-1](functional.relu(found[-1]))
        for number in range(len(found) - 2, -1, -1):
            found[number] = self.down[number](functional.relu(found[number] + _resized(found[number + 1], self.layers[number])))
        for number, block in enumerate(self.up, 1):
            found[number] = block(functional.relu(found[number] + _resized(found[number - 1], self.layers[number])))
        return found

    def forward(self, maps: Any) -> Any:
        """Logits and boxes."""
        outputs = []
        for number, value in enumerate(self.pyramid(maps)):
            sides = functional.softplus(self.sides(self.of_box(value)) * self.scale[number])
            place = self._buffers[f"grid{number}"]  # (4, h, w): centre less or plus the distance, in shares of the input
            boxes = place[:4] + place[4:] * sides
            outputs.append(torch.cat([self.logits(self.of_class(value)), boxes], dim=1).flatten(2).transpose(1, 2))
        return torch.cat(outputs, dim=1)

    def objective(self, targets: HasBoxes, views: StageViews | DrawnViews) -> Objective:
        """See `Detector`."""
        return Objective(PositionTargets(targets, self.layers, views), BoxLoss())

    def decoder(self) -> BoxDecoder:
        """What was learned, without PyTorch."""
        return BoxDecoder(graph_of(self, "light", self.layers, self.shape))


def grid(layer: MapLayer) -> Any:
    """Float32 (8, h, w): x, y, x, y of each position as shares of width and height, and what a distance of a stride changes of each."""
    rows, columns = np.mgrid[: layer.height, : layer.width]
    x, y = (columns + 0.5) / layer.width, (rows + 0.5) / layer.height
    steps = [np.full(x.shape, sign / side) for sign, side in ((-1, layer.width), (-1, layer.height), (1, layer.width), (1, layer.height))]
    return np.stack([x, y, x, y, *steps]).astype(np.float32)


def _resized(value: Any, layer: MapLayer) -> Any:
    """A map in the size of another: enlarged bilinearly; made half as large by the mean of four."""
    height, width = value.shape[2:]
    if (height, width) == (layer.height, layer.width):
        return value
    if (height, width) == (2 * layer.height, 2 * layer.width):
        return functional.avg_pool2d(value, 2)
    return functional.interpolate(value, size=(layer.height, layer.width), mode="bilinear", align_corners=False)
