"""Networks of timm: equal to timm's own after conversion, and clear about weights that cannot be had or do not fit."""

from __future__ import annotations

import copy
import functools
import re
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from headstart.backbones import Backbone, all_timm_models, find, load_backbone, timm_models
from headstart.backbones.loading import NetworkCache
from headstart.backbones.records import Layer
from headstart.backbones.weight_files import read_tensors, unwrapped
from headstart.backbones.weights import embedded_weights
from headstart.errors import BackboneError

pytest.importorskip("timm", reason="needs headstart[torch]")

import timm
import torch

from small_networks import expected_last, load_small, noise, normalised, onnx_output, openvino_output, relative, small_model, smaller

pytestmark = pytest.mark.torch

# one a family, small: the side of the images, the parts expected, what is made smaller
FAMILIES: dict[str, tuple[int, list[int], dict[str, Any]]] = {
    "resnet18": (64, [64, 8, 16, 24, 32], {"channels": (8, 16, 24, 32)}),
    "vgg11": (64, [64, 128, 256, 512, 512, 512], {"mlp_ratio": 0.02}),
    "mobilenetv1_100": (64, [64, 128, 256, 512, 1024], {}),
    "mobilenetv2_050": (64, [8, 16, 16, 32, 48, 80, 160, 1280], {}),
    "mobilenetv3_small_050": (64, [8, 16, 24, 24, 48, 288, 1024], {}),
    "densenet121": (64, [64, 128, 128, 128, 128], {"block_config": (2, 2, 2, 2)}),
    "convnext_atto": (64, [40, 80, 160, 320, 320], {}),
    "resnetv2_50": (64, [64, 16, 32, 48, 64, 64], {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64)}),
    "inception_v3": (128, [64, 192, 288, 768, 2048], {}),
    "legacy_xception": (96, [64, 128, 256, 728, 2048], {}),
    "vit_tiny_patch16_224": (224, [192] * 4, {"depth": 3}),
    "swin_tiny_patch4_window7_224": (224, [48, 96, 192, 384, 384], {"depths": (1, 1, 1, 1), "embed_dim": 48, "num_heads": (2, 2, 4, 4)}),
    "tiny_vit_5m_224": (224, [64, 128, 160, 320, 320], {"depths": (1, 1, 1, 1)}),
    "mobilenetv4_conv_small": (64, [32, 64, 96, 128, 960, 1280], {}),
    "vit_base_patch16_siglip_224": (224, [48, 48], {"depth": 1, "embed_dim": 48, "num_heads": 3}),
    "coat_lite_tiny": (224, [16, 24, 32, 40, 40], {"serial_depths": (1, 1, 1, 1), "embed_dims": (16, 24, 32, 40)}),
    "tnt_s_patch16_224": (224, [48, 48], {"depth": 1, "embed_dim": 48, "inner_dim": 8}),
}


# The embedded networks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 2])
def test_the_embedded_networks_equal_those_of_timm(cache: Path, number: int) -> None:
    backbone = load_backbone(f"efficientnet_lite{number}", cache=cache, announce=lambda message: None)
    tensors = read_tensors(embedded_weights(backbone.record))
    model = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    names = [name for name in model.state_dict() if not name.endswith("tracked")]
    values = [torch.from_numpy(value) for name, value in tensors.items() if not name.endswith("tracked")]
    missing = model.load_state_dict(dict(zip(names, values, strict=True)), strict=False).missing_keys
    assert all(name.endswith("tracked") for name in missing)
    size = backbone.record.input_size
    images = np.concatenate([noise(1, size, size, 3), noise(1, size, size, 3) // 8, 255 - noise(1, size, size, 3) // 4])
    with torch.inference_mode():
        value = model.bn1(model.conv_stem(normalised(images, model.pretrained_cfg)))
        stages = []
        for stage in model.blocks:
            value = stage(value)
            stages.append(value.mean((2, 3)))
        last = model.bn2(model.conv_head(value)).mean((2, 3))
        np.testing.assert_allclose(
            model.forward_features(normalised(images, model.pretrained_cfg)).mean((2, 3)), last, rtol=1e-5, atol=1e-6
        )
    expected = torch.cat([*stages, last], 1).numpy()
    assert relative(onnx_output(backbone.network, images), expected, backbone.layers) < 1e-4
    assert relative(openvino_output(backbone.network, images), expected, backbone.layers) < 1e-4


def test_the_builder_and_the_conversion_agree(tmp_path: Path, backbone: Backbone) -> None:
    """Lite0 by way of PyTorch, with the names of its package: the same layers and features as without PyTorch."""
    model = timm.create_model("tf_efficientnet_lite0")
    names = [name for name in model.state_dict() if not name.endswith("tracked")]
    values = [value for name, value in read_tensors(embedded_weights(backbone.record)).items() if not name.endswith("tracked")]
    network, _ = timm_models.build(backbone.record, tensors=dict(zip(names, values, strict=True)))
    done = timm_models.convert_module(backbone.record, network)  # by the builder
    assert done.layers == backbone.layers
    exported, any_size = timm_models.export_module(network, name="lite0", side=96)
    assert any_size
    assert done.any_size
    images = noise(2, 160, 128, 3)
    expected = onnx_output(backbone.network, images)
    for file in (done.network, exported):
        assert relative(onnx_output(file, images), expected, backbone.layers) < 1e-4


# Every family ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_converted_network_equals_timm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side, parts, changed = FAMILIES[name]
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, **changed))
    with smaller(side):
        record = timm_models.record_of(name)
        done = timm_models.convert(record, tensors=None, seed=3)
    assert [layer.stop - layer.start for layer in done.layers] == parts
    assert [layer.name for layer in done.layers] == [*(f"stage{number}" for number in range(1, len(parts))), "last"]
    assert done.record.dim == parts[-1]
    assert done.any_size == (side != 224)
    torch.manual_seed(3)
    model = timm.create_model(name).eval()
    images = noise(3, side, side, 3)
    settings = model.pretrained_cfg
    with torch.inference_mode():
        last, stages = model.forward_intermediates(normalised(images, settings), norm=False)
        expected_last = last.mean((2, 3)) if name == "vgg11" else model.forward_head(last, pre_logits=True)
    found = onnx_output(done.network, images)
    assert relative(found[:, -parts[-1] :], expected_last.numpy(), (Layer("last", 0, parts[-1]),)) < 1e-3
    checked = 0
    stages = stages[name.startswith(("mobilenetv3", "mobilenetv4")) :]  # a stem, which we leave out
    stages = stages[: None if name != "coat_lite_tiny" else 0]  # there timm takes the class token out of them
    for stage in stages:  # timm's own list of stages, sometimes the shorter one: each of it is among ours
        pooled = stage.mean((2, 3)).numpy()
        scale = np.abs(pooled).max()
        ours = [found[:, layer.start : layer.stop] for layer in done.layers if layer.stop - layer.start == pooled.shape[1]]
        checked += any(np.abs(part - pooled).max() / scale < 1e-3 for part in ours)
    assert checked == len(stages)
    import onnx

    model_file = onnx.load_from_string(done.network)
    assert [entry.version for entry in model_file.opset_import if entry.domain == ""] == [17]
    assert not any(tensor.HasField("data_location") and tensor.data_location for tensor in model_file.graph.initializer)


def test_random_weights_are_seeded_and_said_to_be_random(tmp_path: Path) -> None:
    said: list[str] = []
    with smaller(64):
        one = load_backbone("test_efficientnet", weights="random", cache=tmp_path / "a", announce=said.append)
        two = load_backbone("test_efficientnet", weights="random", cache=tmp_path / "b", announce=said.append)
        other = load_backbone("test_efficientnet", weights="random", cache=tmp_path / "a", announce=said.append, seed=1)
        again = load_backbone("test_efficientnet", weights="random", cache=tmp_path / "a", announce=pytest.fail)
    images = noise(1, 64, 64, 3)
    np.testing.assert_array_equal(onnx_output(one.network, images), onnx_output(two.network, images))
    assert np.abs(onnx_output(one.network, images) - onnx_output(other.network, images)).max() > 1e-3
    assert again == one
    assert one.weights_source == "random weights, seed 0"
    assert "RANDOM weights (seed 0), good for measuring time and nothing else" in said[0]


def test_converting_leaves_the_state_of_the_process_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    filters = list(warnings.filters)
    with smaller(64):
        timm_models.convert(timm_models.record_of("test_efficientnet"), tensors=None)
    assert torch.equal(torch.rand(3), expected)
    assert warnings.filters == filters
    assert capfd.readouterr() == ("", "")


def test_a_network_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_models, "_difference", lambda *arguments: 0.02)
    with (
        smaller(64),
        pytest.raises(BackboneError, match=r"converted test_efficientnet\.\S+ differs from PyTorch by 2\.0e-02 .* cannot be used"),
    ):
        load_backbone("test_efficientnet", weights="random", cache=tmp_path, announce=lambda message: None)
    assert not (tmp_path / "networks").exists()


def test_a_file_that_computes_nan_differs() -> None:
    """Also in a later part of the output, when the parts before it are right."""
    module, images = torch.nn.Flatten(), torch.zeros(1, 4)
    module.sizes = [1, 3]
    session = mock.Mock(**{"run.return_value": [np.array([[0.0, 0.0, np.nan, 0.0]])]})
    assert timm_models._difference(session, module, images) == float("inf")
    session.run.return_value = [np.array([[0.0, 0.0, 1e-13, 0.0]])]
    assert timm_models._difference(session, module, images) == pytest.approx(0.1)


def test_weights_for_a_larger_image_are_made_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DINOv2's embedded positions are for 518 pixels; the catalogue runs it at 224, as timm does with ``img_size=224``."""
    create = functools.partial(timm.create_model, depth=1, embed_dim=48, num_heads=3)
    monkeypatch.setattr(timm, "create_model", create)
    record = find("DINOv2-S")
    assert (record.input_size, record.crop) == (224, 0.875)
    assert "dinov2" in record.figure_sources["input_size"]
    torch.manual_seed(4)
    state = create(record.name).state_dict()
    torch.nn.init.normal_(state["pos_embed"], std=0.5)
    torch.save(state, tmp_path / "dinov2.pth")
    backbone = load_backbone("DINOv2-S", weights=tmp_path / "dinov2.pth", cache=tmp_path, announce=lambda message: None)
    theirs = create(record.name, img_size=224).eval()
    theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(state), theirs))
    images = noise(2, 224, 224, 3)
    assert relative(onnx_output(backbone.network, images)[:, -48:], expected_last(theirs, images), (Layer("last", 0, 48),)) < 1e-4


# Names -----------------------------------------------------------------------------------------------------------------------------


def test_every_timm_name_is_found_with_and_without_tag() -> None:
    assert find("resnet26").name == "resnet26.bt_in1k"
    assert find("resnet50.a1_in1k").crop == 0.95
    assert find("ResNet26d").name == "resnet26d.bt_in1k"
    with pytest.raises(BackboneError, match=r"no backbone 'resnet27', in the catalogue or in timm \d.*Did you mean .*resnet26"):
        find("resnet27")
    with pytest.raises(BackboneError, match=r"has no weights 'nothing' for resnet26\. Known: resnet26\.bt_in1k\."):
        find("resnet26.nothing")


def test_the_list_of_all_timm_models() -> None:
    names = [record.name for record in all_timm_models()]
    assert len(names) > 1000
    assert len(set(names)) == len(names)
    assert {"vgg16.tv_in1k", "resnet50.a1_in1k", "vit_base_patch14_dinov2.lvd142m"} <= set(names)


def test_the_catalogue_says_what_timm_says() -> None:
    from headstart.backbones import catalogue

    for record in catalogue():
        theirs = timm_models.record_of(f"{record.name}.in1k" if record.embedded else record.name)
        own = ("input_size", "crop") if record.size_source else ()
        for field in {"input_size", "mean", "std", "interpolation", "crop", "fit", "licence", "source"} - {
            *own,
            "source" * record.embedded,
        }:
            assert getattr(record, field) == getattr(theirs, field), (record.name, field)


# Weights from a file ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_from_a_file(tmp_path: Path, model: Any, name: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    else:
        save_file(model.state_dict(), path)
    backbone = load_small(path, tmp_path)
    images = noise(2, 64, 64, 3)
    assert relative(onnx_output(backbone.network, images)[:, -1024:], expected_last(model, images), (Layer("last", 0, 1024),)) < 1e-4
    assert backbone.weights_source == f"{name} (given)"


@pytest.mark.parametrize("classifier", ["same", "other", "none"])
def test_wrappers_are_taken_off_and_classifiers_passed_over(model: Any, classifier: str) -> None:
    expected = model.state_dict()
    state = {name: value.numpy() for name, value in expected.items()}
    if classifier != "same":
        state = {name: value for name, value in state.items() if "classifier" not in name}
    if classifier == "other":
        state |= {"classifier.weight": np.zeros((7, 1024), np.float32), "classifier.bias": np.zeros(7, np.float32)}
    for prefix in ("", "module.", "state_dict.", "model.", "state_dict.module.", "backbone.net."):
        bare = copy.deepcopy(model)
        bare.reset_classifier(0)
        for value in bare.state_dict().values():
            value.zero_()
        timm_models.fit_weights(bare, {prefix + name: value for name, value in state.items()}, name="x")
        assert all(torch.equal(value, expected[name]) for name, value in bare.state_dict().items()), prefix


def test_moving_averages_beside_the_weights_are_passed_over(model: Any) -> None:
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    both = {f"state_dict_ema.{name}": value + 1 for name, value in state.items()}
    both |= {f"state_dict.{name}": value for name, value in state.items()}
    found = unwrapped(both, state)
    assert list(found) == list(state)
    assert all(np.array_equal(found[name], state[name]) for name in state)


def test_torchvisions_names_of_vgg_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(1)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"])
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.Linear, "reset_parameters", lambda self: None)  # 124 million numbers that are passed over
        theirs = torchvision.models.VGG(layers, init_weights=False)
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    ours = timm.create_model("vgg11", mlp_ratio=0.02).eval()
    ours.pre_logits = torch.nn.Identity()
    ours.reset_classifier(0)
    timm_models.fit_weights(ours, state, name="vgg11")
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.forward_features(images), theirs.features(images))


def test_names_that_timm_knows_to_convert_fit() -> None:
    """The original ConvNeXt files of Facebook have other names and shapes than timm's network."""
    torch.manual_seed(1)
    small = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    theirs = timm.create_model("convnext_tiny", **small).state_dict()
    state = {}
    for name, value in theirs.items():
        old = name.replace("stem.", "downsample_layers.0.").replace("head.fc.", "head.").replace("head.norm.", "norm.")
        old = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", re.sub(r"stages\.(\d)\.blocks", r"stages.\1", old))
        old = old.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        state[old] = value.numpy()
    assert set(state) != set(theirs)
    ours = timm.create_model("convnext_tiny", **small)
    ours.reset_classifier(0)
    timm_models.fit_weights(ours, {f"model.{name}": value for name, value in state.items()}, name="convnext")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())


def test_weights_that_do_not_fit_are_listed(tmp_path: Path, model: Any) -> None:
    state = dict(model.state_dict())
    state["conv_stem.weight"] = torch.zeros(16, 1, 3, 3)
    state["surplus.weight"] = torch.zeros(2)
    del state["blocks.0.0.bn1.bias"]
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(BackboneError) as caught:
        load_small(tmp_path / "wrong.pth", tmp_path)
    message = str(caught.value)
    assert "do not fit mobilenetv3_small_050" in message
    assert "conv_stem.weight has shape (16, 1, 3, 3), the network expects (16, 3, 3, 3)" in message
    assert "blocks.0.0.bn1.bias (16,) is missing" in message
    assert "surplus.weight (2,) has no place in it" in message
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(BackboneError, match=r"is missing; .*; and \d+ more\. Is this the file of another network, or with other names\?"):
        load_small(tmp_path / "resnet18.pth", tmp_path)
    assert not (tmp_path / "networks").exists()


def test_networks_kept_for_other_weights_do_not_get_in_the_way(tmp_path: Path) -> None:
    with smaller(64):
        load_backbone("test_efficientnet", weights="random", cache=tmp_path, announce=lambda message: None)
    assert NetworkCache(tmp_path).find("test_efficientnet") is None
