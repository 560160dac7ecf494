"""The light decoder in training (PyTorch); once trained it becomes a `MapDecoder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from headstart.backbones.stage_maps import MapLayer
from headstart.heads.decoder import Array, MapDecoder

WIDTH = 96
"""Channels of the decoder."""
DROPOUT = 0.1
"""Share of the channels before the output that are dropped in training."""


class _Block(nn.Module):  # type: ignore[misc]
    """A depthwise 3x3 convolution and a 1x1 convolution, each normalised over the batch, then ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, value: Any) -> Any:
        return functional.relu(self.norm2(self.pointwise(self.norm1(self.depthwise(value)))))


class DecoderNetwork(nn.Module):  # type: ignore[misc]
    """Maps, a tuple of (N, C, h, w) in the order of `layers`, the finest first, to logits (N, k, h, w) at the finest of them."""

    def __init__(self, layers: Sequence[MapLayer], classes: int, *, width: int = WIDTH, dropout: float = DROPOUT, seed: int = 0) -> None:
        super().__init__()
        self.layers, self.dropout = tuple(layers), dropout
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inputs = nn.ModuleList(nn.BatchNorm2d(layer.channels) for layer in layers)
            self.lateral = nn.ModuleList(nn.Conv2d(layer.channels, width, 1) for layer in layers)
            self.context = nn.Linear(layers[-1].channels, width, bias=False)
            self.blocks = nn.ModuleList(_Block(width) for _ in layers)
            self.output = nn.Conv2d(width, classes, 1)
        self._mask: Any = None

    def draw(self, seed: int, step: int, rows: slice, count: int) -> None:
        """Draw which channels are dropped for a batch of `count` inputs, of which this process has `rows`."""
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]) >> 1)
        kept = torch.rand(count, self.output.in_channels, generator=generator)[rows] >= self.dropout
        self._mask = kept.to(self.output.weight.device)[:, :, None, None] / (1 - self.dropout)

    def forward(self, maps: Any) -> Any:
        """Logits."""
        maps = [norm(one) for norm, one in zip(self.inputs, maps, strict=True)]
        context = self.context(maps[-1].mean(dim=(2, 3)))[:, :, None, None]
        value = self.blocks[-1](functional.relu(self.lateral[-1](maps[-1]) + context))
        for number in range(len(maps) - 2, -1, -1):
            if value.shape[2:] != maps[number].shape[2:]:
                value = functional.interpolate(value, size=maps[number].shape[2:], mode="bilinear", align_corners=False)
            value = self.blocks[number](functional.relu(value + self.lateral[number](maps[number])))
        if self.training and self._mask is not None:
            value = value * self._mask
        return self.output(value)

    def decoder(self) -> MapDecoder:
        """What was learned, without PyTorch, the normalisations folded into the convolutions."""
        found: dict[str, Array] = {}
        last = len(self.layers) - 1
        for number, (norm, lateral, block) in enumerate(zip(self.inputs, self.lateral, self.blocks, strict=True)):
            scale, shift = _affine(norm)
            weight, bias = _numbers(lateral.weight)[:, :, 0, 0], _numbers(lateral.bias)
            found |= {f"lateral.{number}": weight * scale, f"lateral.{number}.bias": bias + weight @ shift}
            if number == last:
                context = _numbers(self.context.weight)
                found["context"] = context * scale
                found[f"lateral.{number}.bias"] = found[f"lateral.{number}.bias"] + context @ shift
            (scale1, shift1), (scale2, shift2) = _affine(block.norm1), _affine(block.norm2)
            found[f"depthwise.{number}"] = _numbers(block.depthwise.weight)[:, 0] * scale1[:, None, None]
            found[f"depthwise.{number}.bias"] = shift1
            found[f"pointwise.{number}"] = _numbers(block.pointwise.weight)[:, :, 0, 0] * scale2[:, None]
            found[f"pointwise.{number}.bias"] = shift2
        found |= {"output": _numbers(self.output.weight)[:, :, 0, 0], "output.bias": _numbers(self.output.bias)}
        return MapDecoder(self.layers, {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()})


def _numbers(parameter: Any) -> Any:
    return parameter.detach().cpu().double().numpy()


def _affine(norm: Any) -> tuple[Any, Any]:
    """Factor and offset of a normalisation in testing."""
    scale = _numbers(norm.weight) / np.sqrt(_numbers(norm.running_var) + norm.eps)
    return scale, _numbers(norm.bias) - _numbers(norm.running_mean) * scale
