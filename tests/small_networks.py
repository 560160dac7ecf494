"""Small networks of timm, what they compute, and a model whose weights files hold. Import it after ``importorskip("timm")``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from headstart.backbones import Backbone, load_backbone, timm_models
from headstart.backbones.records import Layer


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def onnx_output(network: Path | bytes, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    return np.asarray(onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"]).run(["features"], {"images": images})[0])


def openvino_output(network: Path, images: np.ndarray) -> np.ndarray:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled([images])[0])


def normalised(images: np.ndarray, settings: dict[str, Any]) -> Any:
    """What timm's own transform does after resizing."""
    mean, std = (torch.tensor(settings[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def relative(found: np.ndarray, expected: np.ndarray, layers: tuple[Layer, ...]) -> float:
    """The largest difference over the layers, relative to the largest value of each."""
    parts = [slice(layer.start, layer.stop) for layer in layers]
    return max(float(np.abs(found[:, part] - expected[:, part]).max() / np.abs(expected[:, part]).max()) for part in parts)


@contextlib.contextmanager
def smaller(side: int) -> Iterator[None]:
    """Records say `side` as their input size, so that a conversion is quick."""
    original = timm_models._record

    def record(name: str, settings: Any) -> Any:
        settings.input_size = (3, side, side)
        return original(name, settings)

    timm_models._record = record
    try:
        yield
    finally:
        timm_models._record = original


def small_model() -> Any:
    torch.manual_seed(5)
    return timm.create_model("mobilenetv3_small_050").eval()


def load_small(weights: Path, cache: Path) -> Backbone:
    with smaller(64):
        return load_backbone("mobilenetv3_small_050", weights=weights, cache=cache, announce=lambda message: None)


def expected_last(model: Any, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        value = model.forward_features(normalised(images, model.pretrained_cfg))
        return np.asarray(model.forward_head(value, pre_logits=True))
