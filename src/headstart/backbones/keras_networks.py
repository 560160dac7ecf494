"""The networks of ``keras.applications``, as timm's networks with Keras' weights in them.

Where Keras' network computes something else than timm's of the same name, timm's is altered: BatchNorm epsilon, biases before a
BatchNorm, the place of a stride (ResNet: He et al. 2015 have it in the first convolution, timm in the second), TensorFlow's "same" padding,
and averages that do not count the padding (Inception). ``benchmarks/keras_weights.py`` compares every network with Keras itself.
PyTorch is imported inside the functions only.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from headstart.backbones.keras_files import Layers, is_of_keras, read_layers
from headstart.backbones.records import BackboneRecord
from headstart.backbones.weight_files import Array, read_tensors
from headstart.backbones.weights import given_file
from headstart.errors import BackboneError

Row = tuple[str, str, str]  # kind of layer, its name in Keras, the module of timm's network
_IMAGENET_STD = (0.229, 0.224, 0.225)
_COLOURS = {
    "caffe": {"mean": (123.68 / 255, 116.779 / 255, 103.939 / 255), "std": (1 / 255,) * 3, "channels": "bgr"},
    "tf": {"mean": (0.5,) * 3, "std": (0.5,) * 3, "channels": "rgb"},
    "torch": {"mean": (0.485, 0.456, 0.406), "std": _IMAGENET_STD, "channels": "rgb"},
}
"""What ``preprocess_input`` does in each of Keras' modes."""


@dataclass(frozen=True, kw_only=True)
class KerasNetwork:
    """A network of Keras by its timm counterpart."""

    name: str  # in keras.applications
    size: int  # side of its images, in pixels
    mode: str  # of its ``preprocess_input``
    rows: Callable[[Any], Iterator[Row]]  # the layers, for timm's network
    files: str  # the name of the published file, without ``{top}``, in ~/.keras/models
    epsilon: float = 1e-3  # of BatchNorm
    options: Mapping[str, Any] = field(default_factory=dict)  # for timm.create_model
    alter: Callable[[Any], None] = lambda model: None


# Names: Keras' layers and timm's modules ------------------------------------------------------------------------------------------


def _vgg(model: Any) -> Iterator[Row]:
    block, number = 1, count(1)
    for index, module in enumerate(model.features):
        kind = type(module).__name__
        if kind == "Conv2d":
            yield "convolution", f"block{block}_conv{next(number)}", f"features.{index}"
        elif kind == "MaxPool2d":
            block, number = block + 1, count(1)


def _resnet(model: Any) -> Iterator[Row]:
    yield from (("convolution", "conv1_conv", "conv1"), ("norm", "conv1_bn", "bn1"))
    for stage in range(1, 5):
        for number, block in enumerate(getattr(model, f"layer{stage}")):
            keras, timm = f"conv{stage + 1}_block{number + 1}", f"layer{stage}.{number}"
            for part in (1, 2, 3):
                yield "convolution", f"{keras}_{part}_conv", f"{timm}.conv{part}"
                yield "norm", f"{keras}_{part}_bn", f"{timm}.bn{part}"
            if block.downsample is not None:
                yield "convolution", f"{keras}_0_conv", f"{timm}.downsample.0"
                yield "norm", f"{keras}_0_bn", f"{timm}.downsample.1"


def _resnet_v2(model: Any) -> Iterator[Row]:
    yield from (("convolution", "conv1_conv", "stem.conv"), ("norm", "post_bn", "norm"))
    for stage, module in enumerate(model.stages):
        for number, block in enumerate(module.blocks):
            keras, timm = f"conv{stage + 2}_block{number + 1}", f"stages.{stage}.blocks.{number}"
            for part in (1, 2, 3):
                yield "convolution", f"{keras}_{part}_conv", f"{timm}.conv{part}"
            for part, norm in enumerate(("preact", "1", "2"), 1):
                yield "norm", f"{keras}_{norm}_bn", f"{timm}.norm{part}"
            if block.downsample is not None:
                yield "convolution", f"{keras}_0_conv", f"{timm}.downsample.conv"


def _inception(model: Any) -> Iterator[Row]:
    """Its layers have numbers for names, in the order in which they are written down, which is timm's order, too."""
    blocks = [name.removesuffix(".conv") for name, module in model.named_modules() if name.endswith(".conv") and "Aux" not in name]
    for number, name in enumerate(blocks):
        yield "convolution", f"conv2d#{number}", f"{name}.conv"
        yield "norm", f"batch_normalization#{number}", f"{name}.bn"


def _xception(model: Any) -> Iterator[Row]:
    for number in (1, 2):
        yield "convolution", f"block1_conv{number}", f"conv{number}"
        yield "norm", f"block1_conv{number}_bn", f"bn{number}"
        yield "separable", f"block14_sepconv{number}", f"conv{number + 2}"
        yield "norm", f"block14_sepconv{number}_bn", f"bn{number + 2}"
    shortcut = count()
    for block in range(1, 13):
        own = getattr(model, f"block{block}")
        parts = [index for index, module in enumerate(own.rep) if type(module).__name__ == "SeparableConv2d"]
        for number, index in enumerate(parts, 1):
            yield "separable", f"block{block + 1}_sepconv{number}", f"block{block}.rep.{index}"
            yield "norm", f"block{block + 1}_sepconv{number}_bn", f"block{block}.rep.{index + 1}"
        if own.skip is not None:
            number = next(shortcut)
            yield "convolution", f"conv2d#{number}", f"block{block}.skip"
            yield "norm", f"batch_normalization#{number}", f"block{block}.skipbn"


def _mobilenet(model: Any) -> Iterator[Row]:
    yield from (("convolution", "conv1", "conv_stem"), ("norm", "conv1_bn", "bn1"))
    for number, name in enumerate(_blocks(model), 1):
        yield "depthwise", f"conv_dw_{number}", f"{name}.conv_dw"
        yield "norm", f"conv_dw_{number}_bn", f"{name}.bn1"
        yield "convolution", f"conv_pw_{number}", f"{name}.conv_pw"
        yield "norm", f"conv_pw_{number}_bn", f"{name}.bn2"


def _mobilenet_v2(model: Any) -> Iterator[Row]:
    yield from (("convolution", "Conv1", "conv_stem"), ("norm", "bn_Conv1", "bn1"))
    yield from (("convolution", "Conv_1", "conv_head"), ("norm", "Conv_1_bn", "bn2"))
    for number, name in enumerate(_blocks(model)):
        keras = f"block_{number}" if number else "expanded_conv"
        for part, kind, (timm, norm) in zip(
            ("expand", "depthwise", "project")[not number :], ("convolution", "depthwise", "convolution")[not number :],
            _INVERTED if number else _FIRST, strict=True,
        ):  # fmt: skip
            yield kind, f"{keras}_{part}", f"{name}.{timm}"
            yield "norm", f"{keras}_{part}_BN", f"{name}.{norm}"


_INVERTED = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))
_FIRST = (("conv_dw", "bn1"), ("conv_pw", "bn2"))  # a block without the first convolution


def _efficientnet(model: Any) -> Iterator[Row]:
    yield from (("convolution", "stem_conv", "conv_stem"), ("norm", "stem_bn", "bn1"))
    yield from (("convolution", "top_conv", "conv_head"), ("norm", "top_bn", "bn2"))
    for name in _blocks(model):
        _, stage, number = name.split(".")
        keras, first = f"block{int(stage) + 1}{chr(ord('a') + int(number))}", stage == "0"
        names = (("expand_conv", "expand_bn"), ("dwconv", "bn"), ("project_conv", "project_bn"))[first:]
        for (layer, layer_norm), (timm, norm) in zip(names, _FIRST if first else _INVERTED, strict=True):
            yield "depthwise" if layer == "dwconv" else "convolution", f"{keras}_{layer}", f"{name}.{timm}"
            yield "norm", f"{keras}_{layer_norm}", f"{name}.{norm}"
        for part in ("reduce", "expand"):
            yield "convolution", f"{keras}_se_{part}", f"{name}.se.conv_{part}"


def _blocks(model: Any) -> list[str]:
    return [f"blocks.{stage}.{number}" for stage, blocks in enumerate(model.blocks) for number in range(len(blocks))]


# Where Keras computes something else ----------------------------------------------------------------------------------------------


def _stride_first(model: Any) -> None:
    """ResNet: the stride is in the first convolution of a block."""
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, (1, 1)


def _stride_last(model: Any) -> None:
    """ResNetV2: the stride is in the last block of a stage, whose shortcut takes every second pixel."""
    from headstart.backbones.keras_modules import Strided

    for stage in model.stages[:3]:
        stage.blocks[-1].conv2.stride = (2, 2)
        stage.blocks[-1].__class__ = Strided
    for stage in model.stages[1:]:
        stage.blocks[0].conv2.stride = stage.blocks[0].downsample.conv.stride = (1, 1)


def _pads_uncounted(model: Any) -> None:
    from headstart.backbones.keras_modules import without_padding

    for module in model.modules():
        if type(module).__name__ in ("InceptionA", "InceptionC", "InceptionE"):
            module.branch_pool.register_forward_pre_hook(without_padding)


def _pools_same(model: Any) -> None:
    """Xception: TensorFlow pads the end of an even side only."""
    from timm.layers import create_pool2d

    for number in (1, 2, 3, 12):
        getattr(model, f"block{number}").rep[-1] = create_pool2d("max", 3, 2, padding="same")


def _pads_at_the_end(model: Any) -> None:
    """MobileNet: a stride of 2 pads one pixel at the end, whatever the side."""
    from torch import nn

    from headstart.backbones.keras_modules import one_more

    for name in _blocks(model):
        convolution = model.get_submodule(name).conv_dw
        if convolution.stride == (2, 2):
            convolution.__class__, convolution.padding = nn.Conv2d, (0, 0)
            convolution.register_forward_pre_hook(one_more)


# The table -------------------------------------------------------------------------------------------------------------------------

_SAME = {"pad_type": "same"}
_KERNELS = "_weights_tf_dim_ordering_tf_kernels{top}.h5"
_SIZES = (224, 240, 260, 300, 380, 456, 528, 600)
NETWORKS: dict[str, KerasNetwork] = {
    **{
        f"vgg{depth}": KerasNetwork(name=f"VGG{depth}", size=224, mode="caffe", rows=_vgg, files=f"vgg{depth}{_KERNELS}")
        for depth in (16, 19)
    },
    **{
        f"resnet{depth}": KerasNetwork(
            name=f"ResNet{depth}", size=224, mode="caffe", rows=_resnet, files=f"resnet{depth}{_KERNELS}", epsilon=1.001e-5,
            alter=_stride_first,
        )
        for depth in (50, 101, 152)
    },
    **{
        f"resnetv2_{depth}": KerasNetwork(
            name=f"ResNet{depth}V2", size=224, mode="tf", rows=_resnet_v2, files=f"resnet{depth}v2{_KERNELS}", epsilon=1.001e-5,
            options={"stem_type": "fixed"}, alter=_stride_last,
        )
        for depth in (50, 101, 152)
    },
    "inception_v3": KerasNetwork(
        name="InceptionV3", size=299, mode="tf", rows=_inception, files=f"inception_v3{_KERNELS}", alter=_pads_uncounted
    ),
    "legacy_xception": KerasNetwork(name="Xception", size=299, mode="tf", rows=_xception, files=f"xception{_KERNELS}", alter=_pools_same),
    "mobilenetv1_100": KerasNetwork(
        name="MobileNet", size=224, mode="tf", rows=_mobilenet, files="mobilenet_1_0_224_tf{top}.h5", options=_SAME, alter=_pads_at_the_end
    ),
    "mobilenetv2_100": KerasNetwork(
        name="MobileNetV2", size=224, mode="tf", rows=_mobilenet_v2, options=_SAME,
        files="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224{top}.h5",
    ),
    **{
        f"{before}efficientnet_b{number}": KerasNetwork(
            name=f"EfficientNetB{number}", size=size, mode="torch", rows=_efficientnet, files=f"efficientnetb{number}{{top}}.h5",
            options=_SAME,
        )
        for number, size in enumerate(_SIZES) for before in ("", "tf_")
    },
}  # fmt: skip
"""By timm's name of the architecture."""


def network_of(record: BackboneRecord) -> KerasNetwork | None:
    """Keras' network of a backbone, or None where Keras has none."""
    return None if "+" in record.name else NETWORKS.get(record.name.partition(".")[0])


def file_at_home(record: BackboneRecord) -> Path | None:
    """The file with the ImageNet weights of a backbone that Keras itself has downloaded, below ``KERAS_HOME`` or ``~/.keras``."""
    network = network_of(record)
    folder = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"
    names = [network.files.format(top=top) for top in ("_notop", "_no_top", "")] if network else []
    return next((folder / name for name in names if (folder / name).is_file()), None)


# Weights ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KerasWeights:
    """The layers of a file of Keras, and the network that they are for."""

    network: KerasNetwork
    layers: Layers

    def record(self, record: BackboneRecord) -> BackboneRecord:
        """The record with the image size and the colours of these weights."""
        colours: dict[str, Any] = dict(_COLOURS[self.network.mode])
        statistics = self.layers.get("normalization") if self.network.mode == "torch" else None
        if statistics is not None and len(statistics) >= 2:  # a layer of EfficientNet itself, which takes 0..1
            mean, variance = (tuple(float(value) for value in values.ravel()) for values in statistics[:2])
            published = np.allclose(variance, _IMAGENET_STD, atol=1e-4)  # they are deviations: Keras divides twice by their root
            colours |= {"mean": mean, "std": variance if published else tuple(np.sqrt(variance).tolist())}
        return dataclasses.replace(record, input_size=self.network.size, **colours)

    def entries(self, model: Any) -> dict[str, Array]:
        """Alter timm's network so that it computes what Keras' does, and give the weights under timm's names.

        Raises BackboneError where the file has another network's layers.
        """
        from torch import nn

        rows = list(self.network.rows(model))
        self._check(rows)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = self.network.epsilon
        self.network.alter(model)
        found = {name: value for kind, layer, module in rows for name, value in _arrays(kind, layer, module, self.layers[layer])}
        for name in (name for name in found if name.endswith(".bias")):
            convolution = model.get_submodule(name.removesuffix(".bias"))
            if isinstance(convolution, nn.Conv2d) and convolution.bias is None:
                convolution.bias = nn.Parameter(convolution.weight.new_zeros(convolution.out_channels))
        return found

    def _check(self, rows: Iterable[Row]) -> None:
        wanted = [layer for _, layer, _ in rows]
        missing = [layer for layer in wanted if layer not in self.layers]
        more = [layer for layer, arrays in self.layers.items() if layer not in wanted and arrays[0].ndim == 4 and layer != "conv_preds"]
        if missing or more:
            what = f"the layer {missing[0]} is missing" if missing else f"the layer {more[0]} has no place in it"
            raise BackboneError(
                f"The weights do not fit Keras' {self.network.name}: {what}. The file has {', '.join(list(self.layers)[:4])}, ... "
                "Is this the file of another network?"
            )


_DIMENSIONS = {"convolution": ((4,), (4, 1)), "depthwise": ((4,), (4, 1)), "separable": ((4, 4),), "norm": ((1,) * 3, (1,) * 4)}


def _arrays(kind: str, layer: str, module: str, values: list[Array]) -> Iterator[tuple[str, Array]]:
    """The arrays of a layer of Keras under timm's names and in PyTorch's order of axes."""
    if tuple(value.ndim for value in values) not in _DIMENSIONS[kind]:
        shapes = ", ".join(str(value.shape) for value in values)
        raise BackboneError(f"The layer {layer} of the file holds arrays of the shapes {shapes}. Is this the file of another network?")
    if kind == "norm":  # a layer without a scale has three
        gain = values[0] if len(values) == 4 else np.ones_like(values[0])
        names = ("weight", "bias", "running_mean", "running_var")
        yield from ((f"{module}.{name}", value) for name, value in zip(names, (gain, *values[-3:]), strict=True))
    elif kind == "separable":
        yield f"{module}.conv1.weight", _depthwise(values[0])
        yield f"{module}.pointwise.weight", values[1].transpose(3, 2, 0, 1)
    else:
        yield f"{module}.weight", _depthwise(values[0]) if kind == "depthwise" else values[0].transpose(3, 2, 0, 1)
        if len(values) == 2:
            yield f"{module}.bias", values[1]


def _depthwise(kernel: Array) -> Array:
    """(height, width, channels, multiplier) to (channels * multiplier, 1, height, width)."""
    height, width, channels, multiplier = kernel.shape
    return kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)


_NUMBERED = re.compile(r"(conv2d|convolution2d|batch_normalization|batchnormalization|normalization)(?:_(\d+))?")
_ONE_NAME = {"convolution2d": "conv2d", "batchnormalization": "batch_normalization"}


def _renumbered(layers: Layers) -> Layers:
    """Layers that Keras has numbered through the whole session (``conv2d_94``) are called by their place: ``conv2d#0``."""
    numbered = [(match[1], int(match[2] or 0), name) for name in layers if (match := _NUMBERED.fullmatch(name))]
    places: dict[str, int] = {}
    names = {}
    for kind, _, name in sorted(numbered):
        kind = _ONE_NAME.get(kind, kind)
        names[name] = f"{kind}#{places.setdefault(kind, 0)}" if kind != "normalization" else kind
        places[kind] = places.get(kind, 0) + 1
    return {names.get(name, name): arrays for name, arrays in layers.items()}


def read_weights(record: BackboneRecord, path: Path) -> dict[str, Array] | KerasWeights:
    """The weights for a backbone in a file of PyTorch, of Keras, or in safetensors.

    Raises BackboneError as `read_tensors`, and where a file of Keras is for a network that Keras has not.
    """
    if not is_of_keras(given_file(path)):
        return read_tensors(path)
    network = network_of(record)
    if network is None:
        names = dict.fromkeys(known.name for known in NETWORKS.values())
        raise BackboneError(f"{path} is a file of Keras, which has no {record.name}. Files of Keras are read for {', '.join(names)}.")
    return KerasWeights(network, _renumbered(read_layers(path)))
