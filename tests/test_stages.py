"""The stages of networks in PyTorch, and networks cut between them: equal to the whole, weights on the right side."""

from __future__ import annotations

import copy
import functools
import re
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm", reason="needs headstart[torch]")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import timm
    import torch
    from torch import nn

from headstart.backbones import catalogue, find, timm_models
from headstart.backbones.records import Stage
from headstart.backbones.stages import End, Front, PooledStages, Tail, cut, noise, stages_of
from headstart.backbones.summary import computed, stage_table
from headstart.backbones.timm_models import export_module, silence

pytestmark = pytest.mark.torch

# one of every family, small: its side and, where it takes others, another one; its stages; what is made smaller
FAMILIES: dict[str, tuple[int, int | None, str, dict[str, Any]]] = {
    "tf_efficientnet_lite0": (32, 64, "stem 7 last", {}),
    "efficientnet_b0": (32, 64, "stem 7 last", {}),
    "vgg11": (32, 64, "5", {"mlp_ratio": 0.02}),
    "resnet18": (64, 96, "stem 4", {"channels": (8, 16, 24, 32)}),
    "resnetv2_50": (64, 96, "stem 4 last", {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64)}),
    "inception_v3": (80, 88, "stem 5", {}),
    "legacy_xception": (72, 96, "stem 4", {}),
    "mobilenetv1_100": (64, 96, "stem 5", {}),
    "mobilenetv2_050": (64, 96, "stem 7 last", {}),
    "mobilenetv3_small_050": (64, 96, "stem 6 last", {}),
    "densenet121": (64, 96, "stem 4", {"block_config": (2, 2, 2, 2), "growth_rate": 8}),
    "convnext_atto": (64, 96, "stem 4 last", {}),
    "vit_tiny_patch16_224": (224, None, "stem 3 last", {"depth": 3}),
    "swin_tiny_patch4_window7_224": (224, None, "stem 4 last", {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 1, 2, 2)}),
    "tiny_vit_5m_224": (64, None, "stem 4 last", {"depths": (1, 1, 1, 1)}),
}
SLOWER = (
    "efficientnet_b0",
    "resnetv2_50",
    "inception_v3",
    "legacy_xception",
    "mobilenetv1_100",
    "mobilenetv2_050",
    "densenet121",
    "tiny_vit_5m_224",
)
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOWER else name for name in FAMILIES]
OF_THE_CATALOGUE = {
    "tf_efficientnet_lite0", "efficientnet_b0", "vgg16", "resnet18", "resnetv2_50", "inception_v3", "legacy_xception", "mobilenetv1_100",
    "mobilenetv2_100", "mobilenetv3_small_100", "densenet121", "convnext_tiny", "vit_small_patch16_224", "swin_tiny_patch4_window7_224",
    "tiny_vit_5m_224",
}  # fmt: skip


@functools.cache
def built(name: str) -> PooledStages:
    """A network with random weights; its normalisations have statistics that are not 0 and 1."""
    with silence(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = timm.create_model(name, **FAMILIES[name][3]).eval()
        if name.startswith("vgg"):
            model.pre_logits = nn.Identity()
        model.reset_classifier(0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return PooledStages(model, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def names_of(text: str) -> list[str]:
    """``stem 2 last``: stem, stage1, stage2, last."""
    return [name for word in text.split() for name in ([f"stage{n + 1}" for n in range(int(word))] if word.isdigit() else [word])]


def differs(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def through(front: Front, tail: Tail, images: Any) -> Any:
    """The features, by way of the activation as it would be stored."""
    with torch.inference_mode():
        stored = torch.from_numpy(front(images).numpy().copy())
        return tail(stored)[0]


# Every family ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_stages_are_the_network(name: str) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    side, _, text, _ = FAMILIES[name]
    network = built(name)
    stages = stages_of(network, side=side)
    assert [stage.name for stage in stages] == names_of(text)
    entries = [entry for stage in stages for entry in stage.entries]
    assert len(set(entries)) == len(entries)
    assert set(entries) == set(network.model.state_dict())
    assert sum(stage.parameters for stage in stages) == sum(parameter.numel() for parameter in network.model.parameters())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        network(noise(side, side, seed=1, count=1))
    assert sum(stage.flops for stage in stages) == counter.get_total_flops()
    assert all(stage.flops >= 0 and stage.parameters > 0 for stage in stages)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_cut_before_every_stage(name: str) -> None:
    """The default one before every stage, the others before the second, the last, and one in the middle."""
    side, other, _, _ = FAMILIES[name]
    network = built(name)
    before = {entry: value.clone() for entry, value in network.model.state_dict().items()}
    stages = stages_of(network, side=side)
    sides = [side] if other is None else [side, other]
    views = [noise(height, max(sides), seed=height, count=1) for height in sides]
    with torch.inference_mode():
        expected = [network(images)[:, -network.sizes[-1] :] for images in views]
    for number in range(1, len(stages)) if name == "tf_efficientnet_lite0" else sorted({1, len(stages) // 2, len(stages) - 1}):
        halves = cut(network, stages[number], side=side)
        assert halves is not None, stages[number].name
        front, tail = halves
        for images, features in zip(views, expected, strict=True):
            assert differs(through(front, tail, images), features) < 1e-4, stages[number].name
        assert set(tail.model.state_dict()) == {entry for stage in stages[number:] for entry in stage.entries}, stages[number].name
    assert all(torch.equal(value, before[entry]) for entry, value in network.model.state_dict().items())


@pytest.mark.parametrize("name", sorted(OF_THE_CATALOGUE - {"efficientnet_b0", "mobilenetv1_100", "mobilenetv2_100"}))
def test_the_table_in_the_package_is_what_is_computed(name: str) -> None:
    """On the "meta" device, which has no numbers. Those left out have no other kinds of stages than EfficientNet-Lite and MobileNetV3."""
    record = find(name)
    with silence(), torch.device("meta"):
        model = timm.create_model(record.name.partition(".")[0]).eval()
        if name.startswith("vgg"):
            model.pre_logits = nn.Identity()
        model.reset_classifier(0)
        network = PooledStages(model, mean=record.mean, std=record.std)
        stages = stages_of(network, side=record.input_size)
    table = stage_table(record)
    assert [(stage.name, stage.parameters, stage.flops) for stage in table.stages] == [
        (stage.name, stage.parameters, stage.flops) for stage in stages
    ]
    assert table.dim == network.sizes[-1]


def test_the_catalogue_has_no_other_family() -> None:
    """Besides those that are built as EfficientNet and ConvNeXt are."""

    def families(names: Iterable[str]) -> set[str]:
        return {re.match(r"(tf_|legacy_)?[a-z]+(_lite|_v\d|v\d)?", name)[0] for name in names}  # type: ignore[index]

    assert families(record.name for record in catalogue()) - families(OF_THE_CATALOGUE) == {
        "tf_efficientnet",
        "tf_efficientnetv",
        "convnextv",
    }


def test_any_other_network_of_timm_is_computed() -> None:
    record = timm_models.record_of("mobilenetv3_small_050")
    table = stage_table(record)
    assert table == computed(record)
    assert table.names == tuple(names_of("stem 6 last"))
    assert table.dim == 1024
    assert table.parameters == sum(parameter.numel() for parameter in built("mobilenetv3_small_050").model.parameters())


# Networks made for this ------------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A network as timm has them: a stem, two stages, and what can be wrong with one.

    Args:
        kind: ``straight``; ``long`` where the last stage also reads the stem's output; ``two`` where it takes that as a second input;
            ``scaled`` where something happens between the stages; ``listed`` where the first stage is in a list that is never called;
            ``bent`` where a stage changes its input in place; ``free`` where the network itself has weights, before and behind.
    """

    output_fmt = "NCHW"

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.feature_info = [{"module": name, "num_chs": 4} for name in ("stem.1", "early.0", "late")]
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        block = [nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU()]
        self.early = nn.ModuleList([nn.Sequential(*copy.deepcopy(block))])
        self.late = _TwoInputs() if kind == "two" else nn.Sequential(*([nn.LeakyReLU(0.1, inplace=True)] if kind == "bent" else []), *block)
        if kind == "free":
            self.place, self.behind = (nn.Parameter(torch.full((1, 4, 1, 1), value)) for value in (0.5, 2.0))

    def forward_features(self, images: Any) -> Any:
        first = self._pos_embed(self.stem(images))
        value = self.early[0](first)
        if self.kind == "long":
            value = value + 3 * first
        if self.kind == "two":
            value = self.late(value, first)
        elif self.kind == "scaled":
            value = self.late(0.5 * value)
        else:
            value = self.late(value)
        return value * self.behind if self.kind == "free" else value

    def _pos_embed(self, value: Any) -> Any:
        return value + self.place if self.kind == "free" else value

    def forward_head(self, value: Any, pre_logits: bool = True) -> Any:
        return value.mean((2, 3))


class _TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, value: Any, first: Any) -> Any:
        return self.conv(value) + first


def small(kind: str) -> tuple[PooledStages, tuple[Stage, ...]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = PooledStages(Small(kind).eval(), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return network, stages_of(network, side=16)


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("kind", ["straight", "listed", "bent", "free"])
def test_straight_networks_are_cut(kind: str, learning: bool) -> None:
    network, stages = small(kind)
    network.requires_grad_(learning)
    assert [stage.name for stage in stages] == ["stem", "stage1", "stage2"]
    images = noise(24, 16, seed=3)
    with torch.inference_mode():
        expected = network(images)[:, -4:]
    halves = cut(network, stages[2], side=16)
    assert halves is not None
    assert differs(through(*halves, images), expected) < 1e-5
    behind = {"behind"} if kind == "free" else set()  # it belongs to the stem, as far as anyone can tell, but the tail needs it
    assert set(halves[1].model.state_dict()) == set(stages[2].entries) | behind


@pytest.mark.parametrize("kind", ["long", "two", "scaled"])
def test_a_network_that_cannot_be_cut_is_noticed(kind: str) -> None:
    network, stages = small(kind)
    assert [stage.name for stage in stages] == ["stem", "stage1", "stage2"]
    assert cut(network, stages[2], side=16) is None
    assert network(noise(16, 16, seed=1)).shape == (2, sum(network.sizes))


def test_operations_of_a_small_network_are_counted_by_hand() -> None:
    _, stages = small("straight")
    assert [stage.flops for stage in stages] == [2 * 64 * 4 * 3 * 9, 2 * 64 * 4 * 4 * 9, 2 * 64 * 4 * 4 * 9]
    assert [stage.parameters for stage in stages] == [4 * 27 + 4, 4 * 36 + 4 + 8, 4 * 36 + 4 + 8]
    assert stages[0].entries == ("stem.0.weight", "stem.0.bias")


# What else is asked of the halves --------------------------------------------------------------------------------------------------


def test_a_cut_network_that_gives_every_position() -> None:
    network = copy.deepcopy(built("mobilenetv3_small_050"))
    network.flat = True
    stages = stages_of(network, side=64)
    halves = cut(network, stages[-3], side=64)
    assert halves is not None
    front, tail = halves
    images = noise(64, 64, seed=4)
    with torch.inference_mode():
        features, last_map = tail(front(images))
        expected = network.model.forward_features(network.normalised(images))
        assert differs(features, expected.permute(0, 2, 3, 1).flatten(1)) < 1e-4
        assert differs(End(network)(images), features) < 1e-4
        network.flat = False
        assert differs(End(network)(images), tail.network.last(last_map)) < 1e-4


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet18"])
def test_a_cut_network_that_gives_the_outputs_of_all_stages(name: str) -> None:
    side = FAMILIES[name][0]
    network = copy.deepcopy(built(name))
    network.every = True
    stages = stages_of(network, side=side)
    images = noise(side, side, seed=4)
    halves = cut(network, stages[len(stages) // 2], side=side)
    assert halves is not None
    with torch.inference_mode():
        expected = network(images)
        value = halves[0](images)
        assert value.ndim == 2
        assert differs(halves[1](value)[0], expected) < 1e-4
        assert differs(End(network)(images), expected) < 1e-4
        assert differs(Tail(network, None)(network.normalised(images))[0], expected) < 1e-4
    layout = halves[0].layout
    assert layout is not None
    activation, pooled = layout.split(value)
    assert activation.shape[1:] == layout.shape
    assert torch.equal(layout.joined(activation, pooled), value)
    assert sum(layout.pooled) == sum(part.shape[1] for part in pooled) > 0


def test_the_front_computes_nothing_behind_the_cut() -> None:
    network = built("resnet18")
    halves = cut(network, stages_of(network, side=64)[3], side=64)
    assert halves is not None
    ran: list[str] = []
    for name, module in halves[0].network.model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    with torch.inference_mode():
        halves[0](noise(64, 64, seed=1))
    assert "layer2" in ran
    assert not any(name.startswith(("layer3", "layer4")) for name in ran)


def test_gradients_of_the_tail_are_those_of_the_whole() -> None:
    network = copy.deepcopy(built("convnext_atto"))
    stages = stages_of(network, side=64)
    halves = cut(network, stages[-2], side=64)
    assert halves is not None
    front, tail = halves
    images = noise(64, 64, seed=6)
    network(images)[:, -320:].square().sum().backward()
    with torch.no_grad():
        stored = front(images)
    network._caught.clear()
    tail(stored)[0].square().sum().backward()
    assert not network._caught  # the tail leaves nothing with the network that it was copied from
    whole = dict(network.model.named_parameters())
    trained = dict(tail.model.named_parameters())
    assert set(trained) == {name for stage in stages[-2:] for name in stage.entries if name in whole}
    for name, parameter in trained.items():
        assert differs(parameter.grad, whole[name].grad) < 1e-3, name


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_an_export_changes_no_mode(name: str) -> None:
    """Also not of a network that is being trained with some of its normalisations in training mode."""
    side = FAMILIES[name][0]
    network = built(name)
    halves = cut(network, stages_of(network, side=side)[-2], side=side)
    assert halves is not None
    front, tail = halves
    assert not any(module.training for half in halves for module in half.modules())
    next(module for module in tail.model.modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)).train()
    modes = [[module.training for module in half.modules()] for half in halves]
    images = noise(side, side, seed=2)
    with torch.inference_mode():
        expected = front(images)
    file, _ = export_module(front, name=name, side=side, output="activation", any_size=False)
    assert [[module.training for module in half.modules()] for half in halves] == modes
    assert not any(module.training for module in network.modules())
    assert torch.equal(front(images).detach(), expected)
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3 * float(expected.abs().max()))
    frozen = sum(value.numel() * 4 for value in front.network.model.state_dict().values())
    assert len(file) < frozen  # the weights behind the cut are not in it
