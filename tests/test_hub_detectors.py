"""Detectors in the layout of the Hugging Face Hub: the same numbers as transformers gives, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
huggingface_hub = pytest.importorskip("huggingface_hub")

import hub_folders  # noqa: E402
from headstart.backbones import load_backbone, torch_network  # noqa: E402
from headstart.backbones.hub_detectors import ARCHITECTURES, HubDetector, backbone_name, names_detector  # noqa: E402
from headstart.backbones.stage_maps import MapLayer, map_network  # noqa: E402
from headstart.backbones.stages import cut, noise, stages_of  # noqa: E402
from headstart.engine import open_session  # noqa: E402
from headstart.errors import BackboneError, ParameterError  # noqa: E402
from headstart.settings import FitSettings  # noqa: E402
from headstart.tasks.detection.architectures import architecture_of, with_own_backbone  # noqa: E402

IMAGES = noise(hub_folders.SIDE, hub_folders.SIDE, seed=5, count=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {name: hub_folders.write(root / f"tiny-{name}", hub_folders.detector(name)) for name in ARCHITECTURES}


def settings_of(folder: Path, name: str) -> FitSettings:
    return with_own_backbone(FitSettings(weights=folder, architecture=name))


def begun(folder: Path, name: str, cache: Path, names: tuple[str, ...]) -> tuple[Any, dict[str, np.ndarray]]:
    """The network that begins at the detector in a folder, and the maps of its backbone, by ONNX Runtime."""
    settings = settings_of(folder, name)
    backbone = load_backbone(settings.backbone, weights=folder, cache=cache, announce=lambda line: None)
    path, layers = map_network(backbone)
    architecture = architecture_of(settings)
    taken = architecture.maps(layers, hub_folders.SIDE)
    session = open_session(path.read_bytes(), kind="onnxruntime", outputs=taken)
    chosen = tuple(layer for layer in layers if layer.name in taken)
    return architecture.made(chosen, len(names), settings, names=names), session({"images": IMAGES.numpy()})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_detector_says_what_transformers_says(folders: dict[str, Path], cache: Path, name: str) -> None:
    """Raw logits and boxes of the backbone in ONNX and the network on its maps, against transformers' own model on the same pixels."""
    network, maps = begun(folders[name], name, cache, hub_folders.CLASSES)
    whole = hub_folders.detector(name)
    with torch.inference_mode():
        expected = whole(pixel_values=IMAGES.permute(0, 3, 1, 2).float() / 255)
        network.standardise(tuple(torch.from_numpy(one) for one in maps.values()))  # which it leaves out
        found = network.eval()(tuple(torch.from_numpy(maps[layer.name]) for layer in network.layers))
    centre, sides = (found[..., -4:-2] + found[..., -2:]) / 2, found[..., -2:] - found[..., -4:-2]
    np.testing.assert_allclose(found[..., :-4], expected.logits, atol=1e-4)
    np.testing.assert_allclose(torch.cat([centre, sides], dim=-1), expected.pred_boxes, atol=1e-4)
    assert float(expected.logits.std()) > 0.1
    assert float(expected.pred_boxes.std()) > 0.05


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_graph_says_it_too_for_any_number_of_images(folders: dict[str, Path], cache: Path, name: str) -> None:
    network, maps = begun(folders[name], name, cache, hub_folders.CLASSES)
    with torch.inference_mode():
        expected = network.eval()(tuple(torch.from_numpy(maps[layer.name]) for layer in network.layers)).numpy()
    decoder = network.decoder()
    assert not decoder.grid
    core = pytest.importorskip("openvino").Core()
    compiled = core.compile_model(core.read_model(decoder.model()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (3, 1):
        given = {key: value[:count] for key, value in maps.items()}
        ((boxes, sure),) = decoder(iter([given]))
        same_proposals(boxes, sure, expected[:count])
        by_openvino = compiled(given)
        same_proposals(by_openvino["boxes"], by_openvino["probabilities"], expected[:count])


def same_proposals(boxes: np.ndarray, sure: np.ndarray, expected: np.ndarray) -> None:
    """In whatever order: queries that are as good as each other have none."""
    known = np.concatenate([1 / (1 + np.exp(-expected[..., :-4])), expected[..., -4:].clip(0, 1)], axis=2)
    found = np.concatenate([sure, boxes], axis=2)
    assert found.shape == known.shape
    for one, other in ((found, known), (known, found)):
        assert np.abs(one[:, :, None] - other[:, None]).max(axis=3).min(axis=2).max() < 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_classes_are_matched_by_name_and_new_ones_begin_at_random(folders: dict[str, Path], cache: Path, name: str) -> None:
    names = ("square", "zebra", "person")
    network, _ = begun(folders[name], name, cache, names)
    whole, known = hub_folders.detector(name).state_dict(), network.detector.state_dict()
    for entry in ("model.enc_score_head.weight", "model.denoising_class_embed.weight", "model.decoder.class_embed.0.bias"):
        np.testing.assert_array_equal(known[entry][[0, 2]], whole[entry][[1, 0]])
        assert not np.isin(known[entry][1].numpy(), whole[entry].numpy()).any()
    np.testing.assert_array_equal(known["model.denoising_class_embed.weight"][3], whole["model.denoising_class_embed.weight"][3])
    assert network.shape == ({"d_fine": 15, "rt_detr": 84}[name], 3 + 4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_its_backbone_has_stages_that_can_be_trained(folders: dict[str, Path], cache: Path, name: str) -> None:
    settings = settings_of(folders[name], name)
    assert settings.backbone == f"tiny-{name}-backbone@{hub_folders.SIDE}"
    backbone = load_backbone(settings.backbone, weights=folders[name], cache=cache, announce=lambda line: None)
    assert (backbone.record.licence, backbone.weights_source) == ("apache-2.0", f"tiny-{name}")
    assert [layer.stop - layer.start for layer in backbone.layers] == list(hub_folders.WIDTHS)
    network = torch_network(backbone, weights=folders[name], announce=lambda line: None)
    stages = stages_of(network, side=hub_folders.SIDE)
    assert [stage.name for stage in stages] == ["stem", "stage1", "stage2", "stage3", "stage4"]
    halves = cut(network, stages[3], side=hub_folders.SIDE)
    assert halves is not None
    front, tail = halves
    with torch.inference_mode():
        whole = network(IMAGES)
        np.testing.assert_allclose(tail(front(IMAGES))[0], whole[:, backbone.last.start :], atol=1e-5)


def test_what_weights_name(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    assert names_detector(tmp_path / "own")
    assert names_detector("PekingU/rtdetr_r18vd")
    assert not any(names_detector(one) for one in (None, "random", "weights.pth", "models/lite0.safetensors", tmp_path / "none"))
    assert backbone_name("ustc-community/dfine-nano-coco") == "dfine-nano-coco-backbone"


def test_what_is_refused(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match=r"is a whole detector, not a file: give --architecture d_fine or --architecture rt_detr"):
        settings_of(folders["d_fine"], "light")
    with pytest.raises(ParameterError, match=r"has a backbone of its own: leave --backbone out"):
        with_own_backbone(FitSettings(weights=folders["d_fine"], architecture="d_fine", backbone="resnet18"))
    with pytest.raises(BackboneError, match=r"tiny-d_fine is a d_fine: give --architecture d_fine"):
        architecture_of(settings_of(folders["d_fine"], "rt_detr")).made(
            (MapLayer("a", 4, 4, 4), MapLayer("b", 4, 2, 2)), 1, settings_of(folders["d_fine"], "rt_detr"), names=("a",)
        )  # fmt: skip
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BackboneError, match=r"empty has no config.json. The folder of a detector has config.json and model.safetensors"):
        HubDetector.find(empty)
    pickled = Path(shutil.copytree(folders["d_fine"], tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="other weight files may hold programs, and are not read"):
        HubDetector.find(pickled)
    other = Path(shutil.copytree(folders["d_fine"], tmp_path / "other"))
    (other / "config.json").write_text(json.dumps({"model_type": "yolos"}))
    with pytest.raises(BackboneError, match=r"other is a network of the kind yolos. Detectors that can be taken are d_fine and rt_detr"):
        HubDetector.find(other)
    (other / "config.json").write_text("{")
    with pytest.raises(BackboneError, match=r"config.json cannot be read"):
        HubDetector.find(other)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        BackboneError, match=r"ustc-community/nothing is no folder here.*`hf download ustc-community/nothing --local-dir DIR`"
    ):
        HubDetector.find("ustc-community/nothing")
    with pytest.raises(BackboneError, match=r"tiny-d_fine is a folder, and weights of a backbone are a file"):
        load_backbone("lite0", weights=folders["d_fine"], cache=tmp_path)


def test_what_is_downloaded_is_told_with_its_licence(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    def download(name: str, file: str) -> str:
        found.append(file)
        if file == "preprocessor_config.json":
            raise huggingface_hub.errors.RemoteEntryNotFoundError("not there", response=Gone())
        return str(folders["d_fine"] / file)

    told: list[str] = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    detector = HubDetector.find("someone/tiny", announce=told.append)
    assert (detector.folder, detector.name) == (folders["d_fine"], "someone/tiny")
    assert found == ["README.md", "preprocessor_config.json", "config.json", "model.safetensors"]
    where = f"from https://huggingface.co/someone/tiny to {huggingface_hub.constants.HF_HUB_CACHE}"
    assert told == [f"Downloading someone/tiny (licence apache-2.0) {where}"]


class Gone:
    """An answer of the Hub."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = status_code = None


def test_weights_of_another_network_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(folders["d_fine"], tmp_path / "mixed"))
    shutil.copy(folders["rt_detr"] / "model.safetensors", mixed)
    with pytest.raises(BackboneError, match=r"mixed"):
        HubDetector.find(mixed).model()
    cut_off = Path(shutil.copytree(folders["d_fine"], tmp_path / "cut"))
    (cut_off / "model.safetensors").write_bytes((cut_off / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(BackboneError, match=r"cut cannot be read from"):
        HubDetector.find(cut_off).model()


def test_a_size_that_does_not_fit_is_told(folders: dict[str, Path]) -> None:
    settings = replace(settings_of(folders["rt_detr"], "rt_detr"), backbone="tiny-rt_detr-backbone@72")
    with pytest.raises(ParameterError, match=r"at 72 px they are 9 x 9, 5 x 5, 3 x 3. Give an image size that is a multiple of 32"):
        architecture_of(settings).made((MapLayer("a", 16, 9, 9), MapLayer("b", 24, 5, 5), MapLayer("c", 32, 3, 3)), 1, settings)
