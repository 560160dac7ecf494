"""Whole detectors of torchvision: recognised, refused in words, and the same outputs as torchvision's own model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
detection = pytest.importorskip("torchvision.models.detection")

import headstart  # noqa: E402
from headstart.backbones.loading import torch_network  # noqa: E402
from headstart.backbones.stage_maps import MapLayer  # noqa: E402
from headstart.errors import BackboneError, ParameterError  # noqa: E402
from headstart.settings import FineTuning, FitSettings  # noqa: E402
from headstart.tasks.detection import published  # noqa: E402
from headstart.tasks.detection.architectures import ARCHITECTURES  # noqa: E402
from headstart.tasks.detection.published import detector_in, detector_weights, resolved  # noqa: E402
from headstart.tasks.detection.task import Detection  # noqa: E402

pytest_plugins = ["boxes_run"]

SIDE = 64
WHOLE = {
    "fcos_resnet50_fpn": "fcos", "retinanet_resnet50_fpn": "retinanet", "retinanet_resnet50_fpn_v2": "retinanet",
    "fasterrcnn_resnet50_fpn": "faster_rcnn", "fasterrcnn_resnet50_fpn_v2": "faster_rcnn",
}  # fmt: skip


def whole(name: str, classes: int) -> Any:
    torch.manual_seed(0)
    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes).eval()


def layers_of(maps: tuple[Any, ...]) -> tuple[MapLayer, ...]:
    return tuple(MapLayer(f"stage{place}", *one.shape[1:]) for place, one in enumerate(maps))


@pytest.mark.parametrize("name", WHOLE)
def test_outputs_are_those_of_torchvision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same image, with the same number of classes: what the heads give, before it is decoded."""
    architecture = WHOLE[name]
    two_stages = architecture == "faster_rcnn"
    model = whole(name, 4 if two_stages else 3)
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    assert detector_in(tensors) == (architecture, "")
    assert detector_in(f"model.{name}" for name in tensors) == (architecture, "model.")
    monkeypatch.setattr("headstart.tasks.detection.architectures.detector_weights", lambda settings: tensors)
    with torch.inference_mode():
        images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
        maps = tuple(model.backbone.body(images).values())
        network = ARCHITECTURES[architecture].made(layers_of(maps), 3, FitSettings(backbone=f"resnet50@{SIDE}")).eval()  # type: ignore[attr-defined]
        network.standardise(maps)  # changes nothing: the weights are for maps as they are
        levels = model.backbone(images)
        own = network.model.backbone(list(maps))
        for one, other in zip(levels.values(), own.values(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
        if two_stages:
            for one, other in zip(model.rpn.head(list(levels.values())), network.model.rpn.head(list(own.values())), strict=True):
                for first, second in zip(one, other, strict=True):
                    np.testing.assert_allclose(first, second, atol=1e-4)
            raw = network.raw(list(maps))
            regions = [one[sure > 0] for one, sure in zip(raw["regions"], raw["there"], strict=True)]
            heads = model.roi_heads
            logits, boxes = heads.box_predictor(heads.box_head(heads.box_roi_pool(levels, regions, [(SIDE, SIDE)] * 2)))
            there = raw["there"] > 0
            np.testing.assert_allclose(raw["logits"][there], logits, atol=1e-4)
            np.testing.assert_allclose(raw["regression"][there], boxes, atol=1e-4)
        else:
            for name, value in model.head(list(levels.values())).items():
                np.testing.assert_allclose(network.raw(list(maps))[name], value, atol=1e-4)


def test_the_class_head_is_new_where_classes_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {name: value.numpy() for name, value in whole("fcos_resnet50_fpn", 91).state_dict().items()}
    monkeypatch.setattr("headstart.tasks.detection.architectures.detector_weights", lambda settings: tensors)
    layers = (MapLayer("a", 512, 8, 8), MapLayer("b", 1024, 4, 4), MapLayer("c", 2048, 2, 2))
    made = ARCHITECTURES["fcos"].made(layers, 2, FitSettings(backbone="resnet50@64"))
    state = made.model.state_dict()  # type: ignore[attr-defined]
    assert state["head.classification_head.cls_logits.weight"].shape[0] == 2
    for name in ("head.classification_head.conv.0.weight", "head.regression_head.bbox_reg.weight", "backbone.fpn.layer_blocks.2.0.weight"):
        np.testing.assert_array_equal(state[name], tensors[name])
    with pytest.raises(BackboneError, match="The weights do not fit fcos"):
        ARCHITECTURES["fcos"].made((MapLayer("a", 256, 8, 8), *layers[1:]), 2, FitSettings(backbone="resnet50@64"))
    del tensors["head.regression_head.bbox_reg.bias"]
    with pytest.raises(BackboneError, match=r"head\.regression_head\.bbox_reg\.bias is missing"):
        ARCHITECTURES["fcos"].made(layers, 2, FitSettings(backbone="resnet50@64"))


def named(path: Path, *names: str) -> Path:
    """A small file with these names."""
    torch.save({"model": {name: torch.zeros(1) for name in names}}, path)
    return path


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = named(tmp_path / "fcos.pth", published._MARKS["fcos"], published._LAST)
    weights = detector_weights(FitSettings(weights=file))
    assert weights is not None
    assert set(weights) == {published._MARKS["fcos"], published._LAST}
    right = FitSettings(weights=file, architecture="fcos", backbone="resnet50")
    assert resolved(right) is right
    with pytest.raises(ParameterError, match="on ResNet-50, and the backbone is efficientnet_lite0: give --backbone resnet50"):
        Detection().settings(FitSettings(weights=file, architecture="fcos"))
    with pytest.raises(ParameterError, match="the whole detector fcos, and the architecture is light: give --architecture fcos"):
        resolved(FitSettings(weights=file, backbone="resnet50"))
    other = named(tmp_path / "mobile.pth", published._MARKS["faster_rcnn"])
    with pytest.raises(ParameterError, match="another backbone than ResNet-50: of whole detectors, those of torchvision on ResNet-50"):
        resolved(FitSettings(weights=other, architecture="faster_rcnn", backbone="resnet50"))
    alone = FitSettings(weights=named(tmp_path / "alone.pth", "conv1.weight"), architecture="fcos", backbone="resnet50")
    assert resolved(alone) is alone
    with pytest.raises(ParameterError, match="is of a published detector: give --architecture fcos, retinanet, faster_rcnn"):
        resolved(FitSettings(weights="coco"))
    with pytest.raises(ParameterError, match="the backbone is efficientnet_lite0: give --backbone resnet50"):
        resolved(FitSettings(weights="coco", architecture="fcos"))


def test_the_published_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is torchvision's; it is taken from PyTorch's folder, and where it is not there the message names it."""
    kinds = {"fcos": "FCOS_ResNet50_FPN", "retinanet": "RetinaNet_ResNet50_FPN_V2", "faster_rcnn": "FasterRCNN_ResNet50_FPN_V2"}
    for architecture, kind in kinds.items():
        assert published._ADDRESS + published._PUBLISHED[architecture] == getattr(detection, f"{kind}_Weights").COCO_V1.url
    monkeypatch.setattr("timm.models._hub.get_cache_dir", lambda: str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = FitSettings(weights="coco", architecture="fcos", backbone="resnet50")
    with pytest.raises(BackboneError, match=r"download\.pytorch\.org/models/fcos_resnet50_fpn_coco-99b0c9b7\.pth is not on this machine"):
        resolved(given)
    there = named(tmp_path / "fcos_resnet50_fpn_coco-99b0c9b7.pth", published._MARKS["fcos"], published._LAST)
    assert resolved(given).weights == there


@pytest.mark.slow
@pytest.mark.cards
def test_a_fit_from_a_file(scenes: Path, cache: Path, tmp_path: Path) -> None:
    """Backbone, pyramid and head are those of the file; what is learned is a run like any other."""
    model = whole("fcos_resnet50_fpn", 91)
    torch.save(model.state_dict(), tmp_path / "fcos.pth")
    settings = FitSettings(
        cache=cache, backbone="resnet50@64", architecture="fcos", weights=tmp_path / "fcos.pth",
        fine_tuning=FineTuning(strategy="probe", epochs=1, batch_size=8, views=1),
    )  # fmt: skip
    result = headstart.fit(scenes, out=tmp_path / "run", settings=settings)
    body = torch_network(result.learned.prepared.extractor.backbone, weights=tmp_path / "fcos.pth").model.state_dict()
    for name in ("conv1.weight", "layer3.5.conv2.weight", "layer4.2.bn3.running_var"):
        assert torch.equal(body[name], model.state_dict()[f"backbone.body.{name}"])
    run = headstart.load(tmp_path / "run")
    assert "FCOS on the maps of" in result.choice.description
    assert len(run.predict([next((scenes / "test").glob("*.png"))])) == 1
