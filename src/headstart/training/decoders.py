"""Decoders in training (PyTorch): from the maps of a backbone's stages to logits of pixels. Once trained they do without PyTorch.

``light`` becomes a `MapDecoder`; U-Net (Ronneberger et al. 2015) and DeepLabV3+ (Chen et al. 2018) become a `GraphDecoder`.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from headstart.backbones.stage_maps import MapLayer
from headstart.backbones.timm_models import silence
from headstart.heads.decoder import LOGITS, GraphDecoder, MapDecoder
from headstart.onnx_graph import OPSET

WIDTHS = (32, 64, 128, 192)
"""Channels of the light decoder at each map, the finest first: wide where there are few positions, which is where meaning is."""
MOST = 96
"""Channels at the finest map: eight for each class, so that many can be told apart there; at least those of `WIDTHS`, at most so many."""
DROPOUT = 0.1
"""Share of the channels before the output that are dropped in training."""


class _Block(nn.Module):  # type: ignore[misc]
    """A depthwise 3x3 convolution and a 1x1 convolution, normalised over the batch, then ReLU."""

    def __init__(self, width: int, output: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pointwise = nn.Conv2d(width, output, 1, bias=False)
        self.norm = nn.BatchNorm2d(output)

    def forward(self, value: Any) -> Any:
        return functional.relu(self.norm(self.pointwise(self.depthwise(value))), inplace=True)


class MapNetwork(nn.Module, ABC):  # type: ignore[misc]
    """A head in training that takes maps, a tuple of (N, C, h, w) in the order of `layers`, the finest first."""

    def __init__(self, layers: Sequence[MapLayer], classes: int, *, seed: int = 0) -> None:
        super().__init__()
        self.layers, self.classes = tuple(layers), classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build()

    @abstractmethod
    def build(self) -> None:
        """Make the layers, from PyTorch's own generator."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of the outputs of one input."""

    @abstractmethod
    def decoder(self) -> Any:
        """What was learned, without PyTorch."""

    def draw(self, seed: int, step: int, rows: slice, count: int, *, targets: Any = None) -> None:
        """Draw what is random in a batch of `count` inputs, of which this process has `rows`, with these `targets`; here nothing."""

    def standardise(self, maps: Any) -> None:
        """Told of some maps to come, a tuple of (N, C, h, w), before the training; here nothing."""


class Standardised(MapNetwork):
    """A head that learns from (map - mean) / scale of each channel, those of some maps; (C,) each."""

    def register(self) -> None:
        """Means of 0 and scales of 1, for `build`."""
        for number, layer in enumerate(self.layers):
            self.register_buffer(f"mean{number}", torch.zeros(layer.channels), persistent=False)
            self.register_buffer(f"scale{number}", torch.ones(layer.channels), persistent=False)

    def standard(self, number: int, value: Any) -> Any:
        """The map of a layer, standardised."""
        return (value - self._buffers[f"mean{number}"][:, None, None]) / self._buffers[f"scale{number}"][:, None, None]

    def standardise(self, maps: Any) -> None:
        """Take those of some maps, a tuple of (N, C, h, w), from now on."""
        for number, one in enumerate(maps):
            self._buffers[f"mean{number}"].copy_(one.mean(dim=(0, 2, 3)))
            self._buffers[f"scale{number}"].copy_(one.std(dim=(0, 2, 3)).clamp(min=1e-3))


class DecoderNetwork(MapNetwork):
    """Maps to logits (N, k, h', w')."""

    output: nn.Conv2d

    def __init__(self, layers: Sequence[MapLayer], classes: int, *, dropout: float = DROPOUT, seed: int = 0) -> None:
        super().__init__(layers, classes, seed=seed)
        self.dropout, self._mask = dropout, None

    def draw(self, seed: int, step: int, rows: slice, count: int, *, targets: Any = None) -> None:
        """Draw which channels are dropped for a batch of `count` inputs, of which this process has `rows`."""
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]) >> 1)
        kept = torch.rand(count, self.output.in_channels, generator=generator)[rows] >= self.dropout
        self._mask = kept.to(self.output.weight.device)[:, :, None, None] / (1 - self.dropout)

    def dropped(self, value: Any) -> Any:
        """What the output takes: in training without the channels that were drawn."""
        return value * self._mask if self.training and self._mask is not None else value

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the logits of one input: (k, height, width)."""
        return self.classes, self.layers[0].height, self.layers[0].width

    def decoder(self) -> MapDecoder | GraphDecoder:
        """What was learned, without PyTorch: here as a graph."""
        return graph_of(self, type(self).__name__.lower(), self.layers, self.shape)


def graph_of(network: Any, name: str, layers: Sequence[MapLayer], shape: tuple[int, ...]) -> GraphDecoder:
    """A network that takes a tuple of maps, (N, C, h, w) of each layer, as a graph with outputs of this `shape` for each input."""
    names, stream = [layer.name for layer in layers], io.BytesIO()
    network.cpu().eval().to(memory_format=torch.contiguous_format)
    with silence(), torch.inference_mode():
        torch.onnx.export(
            network, (tuple(torch.zeros(2, *layer.shape) for layer in layers),), stream, input_names=names, output_names=[LOGITS],
            opset_version=OPSET, dynamo=False, dynamic_axes={name: {0: "N"} for name in (*names, LOGITS)},
        )  # fmt: skip
    return GraphDecoder(name, tuple(layers), shape, stream.getvalue())


class Light(Standardised, DecoderNetwork):
    """The small top-down decoder that `MapDecoder` describes; logits at the finest map."""

    widths = WIDTHS

    def build(self) -> None:
        """See `DecoderNetwork`."""
        layers = self.layers
        widths = [*self.widths[: len(layers)], *[self.widths[-1]] * (len(layers) - len(self.widths))]
        widths[0] = max(widths[0], min(8 * self.classes, MOST))
        self.lateral = nn.ModuleList(nn.Conv2d(layer.channels, width, 1) for layer, width in zip(layers, widths, strict=True))
        self.context = nn.Linear(layers[-1].channels, widths[-1], bias=False)
        self.blocks = nn.ModuleList(_Block(width, finer) for width, finer in zip(widths, [widths[0], *widths[:-1]], strict=True))
        self.output = nn.Conv2d(widths[0], self.classes, 1)
        self.register()

    def _lateral(self, number: int) -> tuple[Any, Any]:
        """Weight and bias of a 1x1 convolution for maps as they are."""
        layer, mean, scale = self.lateral[number], self._buffers[f"mean{number}"], self._buffers[f"scale{number}"]
        weight = layer.weight / scale[:, None, None]
        return weight, layer.bias - weight[:, :, 0, 0] @ mean

    def forward(self, maps: Any) -> Any:
        """Logits."""
        last = len(maps) - 1
        context = self.context((maps[last].mean(dim=(2, 3)) - self._buffers[f"mean{last}"]) / self._buffers[f"scale{last}"])
        value = functional.conv2d(maps[last], *self._lateral(last)) + context[:, :, None, None]
        value = self.blocks[last](functional.relu(value, inplace=True))
        for number in range(last - 1, -1, -1):
            if value.shape[2:] != maps[number].shape[2:]:
                value = functional.interpolate(value, size=maps[number].shape[2:], mode="bilinear", align_corners=False)
            value = value + functional.conv2d(maps[number], *self._lateral(number))
            value = self.blocks[number](functional.relu(value, inplace=True))
        return self.output(self.dropped(value))

    def decoder(self) -> MapDecoder:
        """What was learned, without PyTorch, what normalises folded into the convolutions."""
        found: dict[str, Any] = {}
        last = len(self.layers) - 1
        for number, block in enumerate(self.blocks):
            weight, bias = (_numbers(one) for one in self._lateral(number))
            if number == last:
                context = _numbers(self.context.weight) / _numbers(self._buffers[f"scale{last}"])
                found["context"], bias = context, bias - context @ _numbers(self._buffers[f"mean{last}"])
            scale, shift = _affine(block.norm)
            found |= {f"lateral.{number}": weight[:, :, 0, 0], f"lateral.{number}.bias": bias}
            found[f"depthwise.{number}"] = _numbers(block.depthwise.weight)[:, 0]
            found[f"depthwise.{number}.bias"] = _numbers(block.depthwise.bias)
            found[f"pointwise.{number}"] = _numbers(block.pointwise.weight)[:, :, 0, 0] * scale[:, None]
            found[f"pointwise.{number}.bias"] = shift
        found |= {"output": _numbers(self.output.weight)[:, :, 0, 0], "output.bias": _numbers(self.output.bias)}
        return MapDecoder(self.layers, {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()})


class OfFlat(nn.Module):  # type: ignore[misc]
    """A decoder as a head of the training loop: maps, flat and side by side (N, D), to its logits."""

    def __init__(self, decoder: MapNetwork) -> None:
        super().__init__()
        self.inner = decoder
        self.draw, self.decoder = decoder.draw, decoder.decoder

    def forward(self, value: Any) -> Any:
        """Logits."""
        layers = self.inner.layers
        parts = value.split([layer.size for layer in layers], dim=1)
        maps = (part.unflatten(1, layer.shape) for part, layer in zip(parts, layers, strict=True))
        return self.inner(tuple(one.contiguous(memory_format=torch.channels_last) for one in maps))


def _convolved(inputs: int, outputs: int, *, side: int = 3, rate: int = 1, depthwise: bool = False) -> nn.Sequential:
    """A convolution, normalised over the batch, then ReLU; a depthwise one is followed by one of 1x1."""
    spread = {"padding": rate * (side // 2), "dilation": rate, "bias": False}
    first = [nn.Conv2d(inputs, inputs, side, groups=inputs, **spread)] if depthwise else []
    second = nn.Conv2d(inputs, outputs, 1, bias=False) if depthwise else nn.Conv2d(inputs, outputs, side, **spread)
    return nn.Sequential(*first, second, nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(DecoderNetwork):
    """The expanding path of U-Net: twice as large, joined with the map of that size, two convolutions; up to the size of the input.

    The convolutions are padded, and normalised over the batch, as is usual since; logits are at the input's size.
    """

    widths = (256, 128, 64, 32, 16)

    def build(self) -> None:
        """See `DecoderNetwork`."""
        widths = self.widths[-len(self.layers) :]
        before, blocks = self.layers[-1].channels, []
        for number, width in enumerate(widths):
            finer = len(self.layers) - 2 - number
            skip = self.layers[finer].channels if finer >= 0 else 0
            blocks.append(nn.Sequential(_convolved(before + skip, width), _convolved(width, width)))
            before = width
        self.blocks = nn.ModuleList(blocks)
        self.output = nn.Conv2d(before, self.classes, 3, padding=1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the logits of one input: those of the network's input."""
        return self.classes, 2 * self.layers[0].height, 2 * self.layers[0].width

    def forward(self, maps: Any) -> Any:
        """Logits."""
        value = maps[-1]
        for number, block in enumerate(self.blocks):
            finer = len(maps) - 2 - number
            if finer >= 0:
                value = functional.interpolate(value, size=maps[finer].shape[2:], mode="nearest")
                value = torch.cat([value, maps[finer]], dim=1)
            else:
                value = functional.interpolate(value, scale_factor=2.0, mode="nearest")
            value = block(value)
        return self.output(self.dropped(value))


class DeepLabV3Plus(DecoderNetwork):
    """Atrous spatial pyramid pooling of the map at a sixteenth of the input, joined with the finest one; logits at that.

    Of its maps the first is the finest; the others, as a rule at a sixteenth and a thirty-second, are joined at the size of the finer of
    them: the strides of the backbone stay as they are.
    """

    width, low, rates = 256, 48, (6, 12, 18)

    def build(self) -> None:
        """See `DecoderNetwork`."""
        channels, width = sum(layer.channels for layer in self.layers[1:]), self.width
        self.pyramid = nn.ModuleList(
            [_convolved(channels, width, side=1), *(_convolved(channels, width, rate=rate, depthwise=True) for rate in self.rates)]
        )
        self.pooled = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU())  # of one position, which has no variance to normalise by
        self.joined = _convolved(width * (len(self.rates) + 2), width, side=1)
        self.finest = _convolved(self.layers[0].channels, self.low, side=1)
        self.decoded = nn.Sequential(_convolved(width + self.low, width, depthwise=True), _convolved(width, width, depthwise=True))
        self.output = nn.Conv2d(width, self.classes, 1)

    def forward(self, maps: Any) -> Any:
        """Logits."""
        size, deep = maps[1].shape[2:], maps[1:]
        value = torch.cat([functional.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in deep], dim=1)
        context = self.pooled(value.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *size)
        value = self.joined(torch.cat([*(branch(value) for branch in self.pyramid), context], dim=1))
        value = functional.interpolate(value, size=maps[0].shape[2:], mode="bilinear", align_corners=False)
        return self.output(self.dropped(self.decoded(torch.cat([value, self.finest(maps[0])], dim=1))))


ARCHITECTURES: Mapping[str, type[DecoderNetwork]] = {"light": Light, "unet": UNet, "deeplabv3plus": DeepLabV3Plus}


def _numbers(parameter: Any) -> Any:
    return parameter.detach().cpu().double().numpy()


def _affine(norm: Any) -> tuple[Any, Any]:
    """Factor and offset of a normalisation in testing."""
    scale = _numbers(norm.weight) / np.sqrt(_numbers(norm.running_var) + norm.eps)
    return scale, _numbers(norm.bias) - _numbers(norm.running_mean) * scale
