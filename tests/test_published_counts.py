"""The networks of the catalogue have the numbers of parameters that their authors, torchvision and Keras publish.

torchvision gives exact counts (``num_params`` of its weights), of parameters alone, as timm's networks are counted here. Keras gives
exact counts too, but includes the moving means and variances of batch normalisation, keeps biases in the convolutions of its ResNets that
the normalisation makes superfluous, and leaves the scale out of InceptionV3's: `keras_count` adds and takes away just these, and the
figures then agree to the last one.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest

from headstart.backbones import catalogue, find
from headstart.backbones.summary import backbone_summary

pytest.importorskip("timm", reason="needs headstart[torch]")
pytestmark = pytest.mark.torch

# torchvision's documentation, "Table of all available classification weights": num_params
TORCHVISION = {
    "vgg16": 138_357_544, "vgg19": 143_667_240, "resnet18": 11_689_512, "resnet50": 25_557_032, "resnet101": 44_549_160,
    "resnet152": 60_192_808, "mobilenetv2_100": 3_504_872, "mobilenetv3_large_100": 5_483_032, "mobilenetv3_small_100": 2_542_856,
    "efficientnet_b0": 5_288_548, "efficientnet_b1": 7_794_184, "efficientnet_b2": 9_109_994, "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616, "efficientnet_b5": 30_389_784, "tf_efficientnet_b6": 43_040_704, "tf_efficientnet_b7": 66_347_960,
    "tf_efficientnet_b0": 5_288_548, "tf_efficientnet_b1": 7_794_184, "tf_efficientnet_b2": 9_109_994, "tf_efficientnet_b3": 12_233_232,
    "tf_efficientnet_b4": 19_341_616, "tf_efficientnet_b5": 30_389_784, "densenet121": 7_978_856, "densenet169": 14_149_480,
    "densenet201": 20_013_928, "convnext_tiny": 28_589_128, "convnext_small": 50_223_688, "convnext_base": 88_591_464,
    "convnext_large": 197_767_336, "vit_base_patch16_224": 86_567_656, "swin_tiny_patch4_window7_224": 28_288_354,
    "tf_efficientnetv2_s": 21_458_488,
}  # fmt: skip

# Keras 2.3's documentation of its applications, column "Parameters"
KERAS = {
    "vgg16": 138_357_544, "vgg19": 143_667_240, "resnet50": 25_636_712, "resnet101": 44_707_176, "resnet152": 60_419_944,
    "resnetv2_50": 25_613_800, "resnetv2_101": 44_675_560, "resnetv2_152": 60_380_648, "inception_v3": 23_851_784,
    "legacy_xception": 22_910_480, "mobilenetv1_100": 4_253_864, "mobilenetv2_100": 3_538_984, "densenet121": 8_062_504,
    "densenet169": 14_307_880, "densenet201": 20_242_984,
}  # fmt: skip

# In millions, one decimal: Keras 3's documentation of its applications for EfficientNet
KERAS_MILLIONS = {
    "efficientnet_b0": "5.3", "efficientnet_b1": "7.9", "efficientnet_b2": "9.2", "efficientnet_b3": "12.3", "efficientnet_b4": "19.5",
    "efficientnet_b5": "30.6", "tf_efficientnet_b6": "43.3", "tf_efficientnet_b7": "66.7",
}  # fmt: skip

# In millions, of parameters alone: the README of EfficientNet-Lite in github.com/tensorflow/tpu; for ViT-S/16 that of DeiT-S, which is the
# same network, in Table 1 of Touvron et al. 2021 (Training data-efficient image transformers); of TinyViT and DINOv2 the README;
# of ConvNeXt V2 and MobileNetV4 the tables of the papers
MILLIONS = {
    "tf_efficientnet_lite0": "4.7", "tf_efficientnet_lite1": "5.4", "tf_efficientnet_lite2": "6.1", "vit_small_patch16_224": "22",
    "tiny_vit_5m_224": "5.4", "tiny_vit_11m_224": "11", "tiny_vit_21m_224": "21", "convnextv2_atto": "3.7", "convnextv2_nano": "15.6",
    "convnextv2_tiny": "28.6", "mobilenetv4_conv_small": "3.8", "vit_base_patch14_dinov2": "86",
}  # fmt: skip

UNCHECKED = {
    "vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "vit_base_patch16_dinov3", "vit_base_patch32_clip_quickgelu_224",
    "vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_siglip_224", "tf_efficientnetv2_b0", "tf_efficientnetv2_b3",
    "mobilenetv4_conv_medium", "mobilenetv4_conv_large",
}  # fmt: skip
"""Their authors give no figure for the image tower alone, or one that counts otherwise than timm's network does."""

# Without top: Keras' tutorials on transfer learning print 14,714,688 for VGG16; the others follow from the counts above
WITHOUT_TOP = {"VGG16": 14_714_688, "VGG19": 20_024_384, "ResNet50": 25_557_032 - 2049 * 1000, "DenseNet121": 7_978_856 - 1025 * 1000}

BUILT = ("resnet50", "resnetv2_50", "inception_v3", "efficientnet_b0", "mobilenetv1_100")
"""Networks that are built to be counted: of each convention by which Keras counts otherwise, one. Building all takes a minute."""

ROWS = {record.name.partition(".")[0]: record for record in catalogue()}


@functools.cache
def network(architecture: str) -> Any:
    """A whole network of timm, of shapes without numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
        import torch

        with torch.device("meta"):
            return timm.create_model(architecture, pretrained=False)


def count(architecture: str) -> int:
    return sum(parameter.numel() for parameter in network(architecture).parameters())


def keras_count(architecture: str) -> int:
    """What Keras would count for the same network."""
    from torch import nn

    named = list(network(architecture).named_modules())
    channels = sum(module.num_features for _, module in named if isinstance(module, nn.BatchNorm2d))
    total = count(architecture) + (channels if architecture == "inception_v3" else 2 * channels)  # there, no scale
    if architecture.removeprefix("tf_").startswith("efficientnet_b"):
        total += 3 + 3 + 1  # its first layer keeps mean, variance and a counter of the input
    if architecture.startswith("resnet"):
        with_bias = ("stem.conv", ".conv3", ".downsample.conv") if architecture.startswith("resnetv2") else ("",)
        total += sum(module.out_channels for name, module in named if isinstance(module, nn.Conv2d) and name.endswith(with_bias))
    return total


def rounded(value: int, published: str) -> str:
    """`value` in millions, with as many decimals as the published figure."""
    return f"{value / 1e6:.{len(published.partition('.')[2])}f}"


def test_every_row_is_checked_against_a_published_figure() -> None:
    assert set(ROWS) == {*TORCHVISION, *KERAS, *KERAS_MILLIONS, *MILLIONS, *UNCHECKED}


@pytest.mark.parametrize("architecture", TORCHVISION)
def test_parameters_as_torchvision_publishes_them(architecture: str) -> None:
    assert ROWS[architecture].parameters == TORCHVISION[architecture]


@pytest.mark.parametrize("architecture", MILLIONS)
def test_millions_as_their_authors_publish_them(architecture: str) -> None:
    parameters = ROWS[architecture].parameters
    assert parameters is not None
    assert rounded(parameters, MILLIONS[architecture]) == MILLIONS[architecture]


@pytest.mark.parametrize("architecture", BUILT)
def test_the_catalogue_tells_the_parameters_that_the_network_has(architecture: str) -> None:
    assert ROWS[architecture].parameters == count(architecture)


@pytest.mark.parametrize("architecture", [name for name in BUILT if name in KERAS])
def test_parameters_as_keras_publishes_them(architecture: str) -> None:
    assert keras_count(architecture) == KERAS[architecture]


@pytest.mark.parametrize("architecture", [name for name in BUILT if name in KERAS_MILLIONS])
def test_millions_as_keras_publishes_them(architecture: str) -> None:
    assert rounded(keras_count(architecture), KERAS_MILLIONS[architecture]) == KERAS_MILLIONS[architecture]


def test_inception_v3_is_counted_without_its_auxiliary_classifier() -> None:
    """timm 23.8 million, Keras 23.9 with the statistics, torchvision 27,161,264 with the second classifier that only training uses."""
    import torch

    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        whole = torchvision.models.inception_v3(weights=None, aux_logits=True, init_weights=False)
    auxiliary = sum(parameter.numel() for parameter in whole.AuxLogits.parameters())
    assert sum(parameter.numel() for parameter in whole.parameters()) == 27_161_264
    assert count("inception_v3") == 27_161_264 - auxiliary
    assert rounded(count("inception_v3"), "23.8") == "23.8"
    assert rounded(keras_count("inception_v3"), "23.9") == "23.9"


# Layer by layer --------------------------------------------------------------------------------------------------------------------

# Configuration D of Simonyan and Zisserman 2015, Table 1: the channels of the 3 x 3 convolutions of each block; a 2 x 2 pooling ends it
VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@pytest.mark.parametrize("size", [32, 150, 224])
def test_vgg16_is_configuration_d_of_the_paper(size: int) -> None:
    expected, channels, side, index = [], 3, size, 0
    for block in VGG16_BLOCKS:
        for width in block:
            expected.append((f"features.{index}", "Conv2d", (width, side, side), (3 * 3 * channels + 1) * width))
            channels, index = width, index + 2  # a ReLU follows each
        side //= 2
        expected.append((f"features.{index}", "MaxPool2d", (channels, side, side), 0))
        index += 1
    summary = backbone_summary(find("VGG16"), size=size, pooled=False)
    assert [(row.name, row.kind, row.shape, row.parameters) for row in summary.rows] == expected
    assert sum(row.kind == "Conv2d" for row in summary.rows) == 13
    assert summary.output == (512, side, side)
    assert summary.parameters == summary.frozen == 14_714_688
    assert summary.trained == 0


def test_the_fully_connected_layers_of_vgg16_make_up_the_rest() -> None:
    """Table 2 of the paper gives 138 million for configuration D: 7 x 7 x 512 positions, 4096, 4096 and 1000 units."""
    top = (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert count("vgg16") == 14_714_688 + top == 138_357_544


@pytest.mark.parametrize("name", WITHOUT_TOP)
def test_without_top(name: str) -> None:
    assert backbone_summary(find(name)).parameters == WITHOUT_TOP[name]


SMALL = (
    "vgg11",
    "mobilenetv3_small_050",
    "resnet18",
    "densenet121",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
)


@pytest.mark.parametrize("architecture", SMALL)
def test_a_summary_has_every_parameter_of_the_backbone_once(architecture: str) -> None:
    summary = backbone_summary(find(architecture))
    model = network(architecture)
    body = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("pre_logits."))  # of VGG's top
    assert summary.parameters == body - sum(parameter.numel() for parameter in model.get_classifier().parameters())
    assert len({row.name for row in summary.rows}) == len(summary.rows)
    assert summary.output == (512 if architecture == "vgg11" else model.head_hidden_size,)


def test_shapes_are_those_of_a_real_pass() -> None:
    import timm
    import torch

    summary = backbone_summary(find("mobilenetv3_small_050"), size=64)
    model = timm.create_model("mobilenetv3_small_050").eval()
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def noted(_module: Any, _inputs: Any, output: Any) -> None:
            seen[name] = tuple(output.shape[1:])

        return noted

    for name, module in model.named_modules():
        module.register_forward_hook(note(name))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64))
    assert all(seen[row.name] == row.shape for row in summary.rows)
    assert {name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)} <= {row.name for row in summary.rows}
