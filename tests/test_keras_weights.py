"""Weight files of Keras: both layouts, networks that compute what Keras computes, and a sentence for whatever is something else.

The comparison with Keras itself, for every network, is ``benchmarks/keras_weights.py``.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.backbones import file_of_keras, find, load_backbone, timm_models, torch_network
from headstart.backbones.keras_files import read_layers
from headstart.errors import BackboneError, MissingExtraError

pytest.importorskip("timm", reason="needs headstart[torch]")
pytest.importorskip("h5py", reason="needs headstart[torch]")

import h5py
import timm
import torch

from headstart.backbones.keras_modules import Strided, one_more, without_padding
from headstart.backbones.keras_networks import NETWORKS, KerasWeights, network_of, read_weights
from small_networks import noise, onnx_output

pytestmark = pytest.mark.torch

Arrays = dict[str, list[np.ndarray]]
SMALL: dict[str, Any] = {"layers": (1, 2, 1, 1), "channels": (8, 16, 24, 32)}


# Files as Keras writes them --------------------------------------------------------------------------------------------------------


def legacy(path: Path, layers: Arrays, *, group: str = "") -> Path:
    """An ``.h5`` of weights; with `group`, of a model that has them in one layer of that name."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in ([group] if group else layers)]
        for layer in [group] if group else layers:
            held = file.create_group(layer)
            inside = {f"{name}/{number}:0": array for name in (layers if group else [layer]) for number, array in enumerate(layers[name])}
            held.attrs["weight_names"] = [name.encode() for name in inside]
            for name, array in inside.items():
                held[name] = array
    return path


def current(path: Path, layers: Arrays) -> Path:
    """A ``.weights.h5`` of Keras 3, with a model in the model, an optimizer and a layer without weights."""
    with h5py.File(path, "w") as file:
        for place, (name, arrays) in enumerate({**layers, "activation": []}.items()):
            held = file.create_group(f"layers/functional/layers/{name.rstrip('_0123456789')}_{place}/vars")
            held.attrs["name"] = name
            for number, array in enumerate(arrays):
                held[str(number)] = array
        file["optimizer/vars/0"] = np.zeros(3, "f4")
    return path


@pytest.fixture(scope="module")
def resnet() -> Arrays:
    """The layers of a small ResNet50 of Keras, seeded."""
    random = np.random.default_rng(2)
    with torch.device("meta"):
        model = timm.create_model("resnet50", **SMALL)
    layers = {}
    for kind, layer, module in NETWORKS["resnet50"].rows(model):
        shape = tuple(model.get_submodule(module).weight.shape)
        if kind == "norm":
            limits = ((0.5, 1), (-0.2, 0.2), (-0.2, 0.2), (0.5, 1.5))
            layers[layer] = [random.uniform(low, high, shape).astype("f4") for low, high in limits]
        else:
            kernel = random.standard_normal(shape).astype("f4") * np.float32(np.sqrt(2 / np.prod(shape[1:])))
            layers[layer] = [kernel.transpose(2, 3, 1, 0).copy(), random.uniform(-0.1, 0.1, shape[:1]).astype("f4")]
    return {**layers, "predictions": [random.standard_normal((32 * 4, 1000)).astype("f4"), np.zeros(1000, "f4")]}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, **SMALL))


def test_both_layouts_give_the_same_layers(tmp_path: Path, resnet: Arrays) -> None:
    plain, nested = legacy(tmp_path / "a.h5", resnet), legacy(tmp_path / "b.h5", resnet, group="resnet50")
    three = current(tmp_path / "c.weights.h5", resnet)
    with zipfile.ZipFile(tmp_path / "d.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(three, "model.weights.h5")
    for path in (plain, nested, three, tmp_path / "d.keras"):
        found = read_layers(path)
        assert set(found) == set(resnet)
        for layer, arrays in resnet.items():
            assert all(np.array_equal(one, two) for one, two in zip(found[layer], arrays, strict=True))
    with h5py.File(tmp_path / "whole.h5", "w") as file, h5py.File(plain) as weights:
        file.attrs["model_config"] = "{}"
        weights.copy(weights["/"], file, name="model_weights")
    assert set(read_layers(tmp_path / "whole.h5")) == set(resnet)


# The networks ----------------------------------------------------------------------------------------------------------------------


def convolved(value: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, stride: int = 1, pad: int = 0) -> np.ndarray:
    value = np.pad(value, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(value, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("nyxihw,hwio->nyxo", windows, kernel, optimize=True) + bias


def resnet_of_keras(layers: Arrays, images: np.ndarray) -> np.ndarray:
    """ResNet of keras.applications in NumPy, up to the pooled features: its preprocessing, biases, epsilon, and the place of the stride."""

    def layer(value: np.ndarray, name: str, *, stride: int = 1, pad: int = 0) -> np.ndarray:
        value = convolved(value, *layers[f"{name}_conv"], stride=stride, pad=pad)
        gain, offset, mean, variance = layers[f"{name}_bn"]
        return (value - mean) / np.sqrt(variance + 1.001e-5) * gain + offset

    value = images[..., ::-1].astype("f8") - (103.939, 116.779, 123.68)
    value = np.pad(np.maximum(layer(value, "conv1", stride=2, pad=3), 0), ((0, 0), (1, 1), (1, 1), (0, 0)))
    value = np.lib.stride_tricks.sliding_window_view(value, (3, 3), axis=(1, 2))[:, ::2, ::2].max((-1, -2))
    for stage, blocks in enumerate(SMALL["layers"]):
        for block in range(blocks):
            name, stride = f"conv{stage + 2}_block{block + 1}", 2 if stage and not block else 1
            shortcut = value if block else layer(value, f"{name}_0", stride=stride)
            inner = np.maximum(layer(value, f"{name}_1", stride=stride), 0)
            inner = layer(np.maximum(layer(inner, f"{name}_2", pad=1), 0), f"{name}_3")
            value = np.maximum(shortcut + inner, 0)
    return np.asarray(value.mean((1, 2)))


@pytest.mark.usefixtures("small")
def test_a_file_of_keras_gives_what_keras_computes(tmp_path: Path, resnet: Arrays) -> None:
    path = legacy(tmp_path / "resnet50.h5", resnet)
    backbone = load_backbone("ResNet50", weights=path, cache=tmp_path, announce=lambda message: None)
    record = backbone.record
    assert (record.input_size, record.channels) == (224, "bgr")
    assert np.allclose(record.mean, np.array((123.68, 116.779, 103.939)) / 255)
    images, last = noise(2, 96, 64, 3), slice(backbone.last.start, backbone.last.stop)
    expected = resnet_of_keras(resnet, images)
    found = onnx_output(backbone.network, images)[:, last]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    module = torch_network(backbone, weights=path, announce=lambda message: None)
    with torch.inference_mode():
        assert np.abs(module(torch.from_numpy(images)).numpy()[:, last] - expected).max() < 1e-4 * np.abs(expected).max()
    assert load_backbone("ResNet50", weights=path, cache=tmp_path, announce=pytest.fail) == backbone
    mirrored = load_backbone("ResNet50+mirrored", weights=path, cache=tmp_path, announce=lambda message: None)
    with torch.inference_mode():
        both = torch_network(mirrored, weights=path, announce=lambda message: None)(torch.from_numpy(images)).numpy()[:, last]
    expected = (expected + resnet_of_keras(resnet, images[:, :, ::-1])) / 2
    assert np.abs(both - expected).max() < 1e-4 * np.abs(expected).max()


NAMES = {  # of layers that Keras has, one or two each, and how many of them have weights without the top
    "vgg16": (("block1_conv1", "block5_conv3"), 13),
    "vgg19": (("block3_conv4", "block5_conv4"), 16),
    "resnet50": (("conv1_bn", "conv4_block6_3_conv", "conv5_block1_0_bn"), 106),
    "resnetv2_50": (("conv3_block4_preact_bn", "conv5_block1_0_conv", "post_bn"), 102),
    "inception_v3": (("conv2d#93", "batch_normalization#93"), 188),
    "legacy_xception": (("block13_sepconv2_bn", "block14_sepconv2", "conv2d#3"), 80),
    "mobilenetv1_100": (("conv1_bn", "conv_dw_13", "conv_pw_13_bn"), 54),
    "mobilenetv2_100": (("expanded_conv_project_BN", "block_16_project", "Conv_1"), 104),
    "tf_efficientnet_b0": (("block1a_project_conv", "block7a_se_expand", "top_bn"), 130),
    "efficientnet_b1": (("block1b_dwconv", "block7b_expand_bn"), 184),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_has_a_place_and_every_place_a_layer(name: str) -> None:
    layers, count = NAMES[name]
    with torch.device("meta"):
        model = timm.create_model(name, **NETWORKS[name].options)
        timm_models.remove_top(model)
    rows = list(NETWORKS[name].rows(model))
    assert set(layers) <= {layer for _, layer, _ in rows}
    assert len({layer for _, layer, _ in rows}) == len(rows) == count
    NETWORKS[name].alter(model)
    separable = (".conv1", ".pointwise")
    places = [f"{module}{part}" for kind, _, module in rows for part in (separable if kind == "separable" else ("",))]
    owners = {entry.rpartition(".")[0] for entry in model.state_dict() if "AuxLogits" not in entry}
    assert len(places) == len(set(places))
    assert set(places) == owners


def test_where_keras_computes_something_else() -> None:
    torch.manual_seed(3)
    value = torch.rand(2, 4, 5, 6)
    (padded,) = one_more(None, (value,))
    assert padded.shape == (2, 4, 6, 7)
    assert torch.equal(padded[..., :5, :6], value)
    assert not padded[..., 5, :].any()
    assert not padded[..., :, 6].any()
    (mean,) = without_padding(None, (torch.nn.functional.avg_pool2d(value, 3, 1, 1),))
    assert torch.allclose(mean[..., 0, 0], value[..., :2, :2].mean((2, 3)))
    assert torch.allclose(mean[..., 4, 2], value[..., 3:, 1:4].mean((2, 3)))
    assert torch.allclose(mean[..., 2, 2], value[..., 1:4, 1:4].mean((2, 3)))
    model = timm.create_model("resnetv2_50", stem_type="fixed", **{**SMALL, "layers": (2, 2, 2, 1)}).eval()
    NETWORKS["resnetv2_50"].alter(model)
    assert [type(stage.blocks[-1]) is Strided for stage in model.stages] == [True, True, True, False]
    last = model.stages[1].blocks[-1]
    value = torch.rand(1, 16, 7, 8)
    inner = last.conv3(last.norm3(last.conv2(last.norm2(last.conv1(last.norm1(value))))))
    assert inner.shape == (1, 16, 4, 4)
    assert torch.allclose(last(value), inner + value[:, :, ::2, ::2])
    assert model.forward_features(torch.rand(1, 3, 64, 64)).shape[2:] == (2, 2)


def test_layers_that_keras_numbers_through_the_session(tmp_path: Path) -> None:
    kernels = {f"conv2d_{number}": [np.full((1, 1, 2, 2), number, "f4")] for number in (104, 99, 100)}
    path = legacy(tmp_path / "x.h5", kernels | {"normalization_3": [np.zeros(3, "f4")] * 2 + [np.zeros((), "i8")]})
    weights = read_weights(find("InceptionV3"), path)
    assert isinstance(weights, KerasWeights)
    assert [float(weights.layers[f"conv2d#{place}"][0].max()) for place in range(3)] == [99, 100, 104]
    assert "normalization" in weights.layers


IMAGENET = (0.229, 0.224, 0.225)


@pytest.mark.parametrize(("variance", "std"), [(IMAGENET, IMAGENET), ((1, 1, 1), (1, 1, 1)), ((4, 4, 4), (2, 2, 2))])
def test_efficientnet_brings_its_own_colours(variance: tuple[float, ...], std: tuple[float, ...]) -> None:
    record = find("EfficientNetB3")
    network = network_of(record)
    assert network is not None
    statistics = [np.array((0.1, 0.2, 0.3), "f4"), np.array(variance, "f4"), np.zeros((), "i8")]
    found = KerasWeights(network, {"normalization": statistics}).record(record)
    assert found.input_size == 300
    assert np.allclose(found.mean, (0.1, 0.2, 0.3))
    assert np.allclose(found.std, std)


# What does not fit -----------------------------------------------------------------------------------------------------------------


def refusal(path: Path, name: str, cache: Path) -> str:
    with pytest.raises(BackboneError) as caught:
        load_backbone(name, weights=path, cache=cache, announce=lambda message: None)
    assert not (cache / "networks").exists()
    return str(caught.value)


@pytest.mark.usefixtures("small")
def test_files_of_other_networks_are_refused(tmp_path: Path, resnet: Arrays) -> None:
    def said(layers: Arrays, name: str = "ResNet50") -> str:
        return refusal(legacy(tmp_path / "x.h5", layers), name, tmp_path)

    assert re.search(
        r"do not fit Keras' ResNet50: the layer conv1_conv is missing\. The file has block1_conv1, \.\.\. Is this the file of another",
        said({"block1_conv1": [np.zeros((3, 3, 3, 64), "f4")]}),
    )
    larger = {**resnet, "conv4_block2_1_conv": resnet["conv4_block1_2_conv"]}
    assert "the layer conv4_block2_1_conv has no place in it. The file has conv1_conv, conv1_bn, " in said(larger)
    assert "conv1_conv of the file holds arrays of the shapes (3, 3)" in said({**resnet, "conv1_conv": [np.zeros((3, 3), "f4")]})
    wide = {**resnet, "conv1_conv": [np.zeros((7, 7, 3, 65), "f4"), np.zeros(65, "f4")]}
    assert "conv1.weight has shape (65, 3, 7, 7), the network expects (64, 3, 7, 7)" in said(wide)


def test_a_network_that_keras_has_not(tmp_path: Path, resnet: Arrays) -> None:
    path = legacy(tmp_path / "x.h5", resnet)
    assert "is a file of Keras, which has no resnet18.tv_in1k. Files of Keras" in refusal(path, "resnet18", tmp_path)
    assert "Files of Keras are read for VGG16, VGG19, ResNet50," in refusal(path, "efficientnet_lite0", tmp_path)


def hostile(folder: Path) -> Iterator[tuple[str, str]]:
    """Files that are something else, with what is said of them."""

    def file(name: str) -> Any:
        return h5py.File(folder / name, "w")

    (folder / "text.h5").write_text("hello")
    (folder / "head.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    yield "head.h5", "cannot be read (OSError)"
    with file("empty.h5"):
        pass
    yield "empty.h5", "holds no layers with weights as Keras writes them"
    with file("data.h5") as data:
        data["images"] = np.zeros((2, 3))
    yield "data.h5", "holds no layers with weights as Keras writes them"
    with file("early.weights.h5") as early:
        early["layers/conv2d/vars/0"] = np.zeros((1, 1, 3, 3), "f4")
    yield "early.weights.h5", "was written by an early Keras 3, without the names of its layers: save it again"
    with file("other.h5") as other:
        other["secret"] = np.zeros(3, "f4")
    with file("link.h5") as link:
        link.attrs["layer_names"] = [b"conv1"]
        link.create_group("conv1").attrs["weight_names"] = [b"kernel:0"]
        link["conv1"]["kernel:0"] = h5py.ExternalLink(str(folder / "other.h5"), "/secret")
    yield "link.h5", "has no 'kernel:0' where it announces one"
    with file("outside.weights.h5") as outside:
        held = outside.create_group("layers/dense/vars")
        held.attrs["name"] = "dense"
        held.create_dataset("0", (3,), "f4", external=[(str(folder / "text.h5"), 0, 12)])
    yield "outside.weights.h5", "refers to other files, or holds something else than numbers"
    with file("large.weights.h5") as large:
        held = large.create_group("layers/dense/vars")
        held.attrs["name"] = "dense"
        held.create_dataset("0", (1 << 20, 1 << 20), "f4", chunks=(1, 1024))
    yield "large.weights.h5", "announces more numbers than it holds"
    with file("twice.weights.h5") as twice:
        for place in ("a", "b"):
            held = twice.create_group(f"layers/{place}/vars")
            held.attrs["name"] = "dense"
            held["0"] = np.zeros(3, "f4")
    yield "twice.weights.h5", "has two layers 'dense': give the file of one network"
    with zipfile.ZipFile(folder / "packed.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1000))
    yield "packed.keras", "is compressed, which Keras never does"
    with file("loop.weights.h5") as loop:
        loop["layers"] = loop["/"]
    yield "loop.weights.h5", "nests its groups without end"


def test_files_that_keras_did_not_write(tmp_path: Path) -> None:
    for name, reason in hostile(tmp_path):
        said = refusal(tmp_path / name, "ResNet50", tmp_path)
        assert f"{name}: {reason}" in said
        assert "as model.save_weights or model.save writes it." in said


def test_a_file_that_is_cut_off(tmp_path: Path, resnet: Arrays) -> None:
    path = legacy(tmp_path / "x.h5", resnet)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 2000):
        path.write_bytes(whole[:length])
        assert "x.h5: is cut off. Expected is a file of a network of keras.applications" in refusal(path, "ResNet50", tmp_path)


def test_without_h5py_the_extra_is_named(tmp_path: Path, resnet: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    path = legacy(tmp_path / "x.h5", resnet)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"Reading x\.h5, a file of Keras, needs an optional part .* 'headstart\[torch\]'"):
        load_backbone("ResNet50", weights=path, cache=tmp_path, announce=lambda message: None)


# Where Keras keeps them ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_a_recipe_takes_the_file_that_keras_has_downloaded(
    cli: Any, pictures: Path, tmp_path: Path, resnet: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "keras" / "models"
    models.mkdir(parents=True)
    own = legacy(models / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", resnet)
    monkeypatch.setenv("KERAS_HOME", str(models.parent))
    recipe = tmp_path / "mine.toml"
    recipe.write_text('name = "mine"\ntitle = "Mine"\nwhat = "A test."\n[exact]\nbackbone = "ResNet50"\nhead = "centroid"\n')
    done = cli("recipe", "run", recipe, pictures, "--exact", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert f"Weights: {own}, which Keras downloaded to this machine. --weights FILE takes another file." in done.err
    backbone = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))["backbone"]
    assert backbone["weights_source"] == f"{own.name} (given)"
    assert file_of_keras("VGG16") is None
    assert file_of_keras("ResNet50+MobileNet") is None
    (models / "mobilenet_1_0_224_tf_no_top.h5").touch()
    assert file_of_keras("MobileNet") == models / "mobilenet_1_0_224_tf_no_top.h5"
