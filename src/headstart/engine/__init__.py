"""Engines: run a frozen network over images, in order, as fast as this machine can.

A network is an ONNX file that takes uint8 images (N, H, W, 3) and normalises inside. On a CPU every image is computed alone, on as many
streams as there are cores: that is faster than batches here (the activations stay in the cache), and it makes the result of an
image independent of its neighbours, bit for bit.

OpenVINO is used where it can be imported, else ONNX Runtime. Both give the same numbers as PyTorch to about 1e-5, so features
computed by one may be used with the other.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.errors import BackboneError, MissingExtraError, ParameterError

ENGINES = ("auto", "openvino", "onnxruntime", "torch")
Outputs = tuple[npt.NDArray[np.float32], ...]


class Engine(Protocol):
    """What every engine offers."""

    name: str

    def run(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield, for each image (H, W, 3) and in order, one float32 array for each output, without the batch dimension.

        The iterable is drawn from while earlier images are being computed; at most a few more images than there are cores are held.
        """
        ...


def available_cores() -> int:
    """Cores this process may use (its affinity, where the system tells; a container's CPU quota is not seen)."""
    if hasattr(os, "process_cpu_count"):
        return int(os.process_cpu_count() or 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_kind(kind: str) -> str:
    """Return `kind` if it names an engine.

    Raises:
        ParameterError: it does not; the message names those there are.
    """
    if kind not in ENGINES:
        raise ParameterError(f"Engine must be one of {', '.join(ENGINES)}, got {kind!r}.")
    return kind


def gpu_is_there() -> bool:
    """Whether PyTorch could use an NVIDIA GPU, found out without importing PyTorch unless a driver is present."""
    if not Path("/proc/driver/nvidia/version").exists() or not all(importlib.util.find_spec(name) for name in ("torch", "timm")):
        return False
    import torch

    return bool(torch.cuda.is_available())


def open_engine(network: Path, *, kind: str = "auto", outputs: Sequence[str] = ("features",), size: int = 224) -> Engine:
    """Open a network for running.

    Args:
        network: ONNX file, self-contained.
        kind: ``auto`` (OpenVINO, else ONNX Runtime), ``openvino`` or ``onnxruntime``. For ``torch`` see `TorchEngine`.
        outputs: names of the outputs to compute.
        size: height and width of the images.

    Raises:
        ParameterError: an unknown kind.
        MissingExtraError: the engine asked for is not installed.
        BackboneError: the network is missing or cannot be loaded.
    """
    check_kind(kind)
    if kind == "torch":
        raise ParameterError(
            "The engine 'torch' runs backbones, for extracting features; a saved run is run by 'openvino' or 'onnxruntime'."
        )
    if kind == "auto":
        kind = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"
    if importlib.util.find_spec(kind) is None:
        raise MissingExtraError(f"The engine {kind!r}", extra=kind)
    try:
        status = network.stat()
    except OSError as error:
        raise BackboneError(f"{network}: cannot be opened ({error.strerror}).") from None
    return _opened(kind, network, (status.st_mtime_ns, status.st_size, status.st_ino), tuple(outputs), size)


@lru_cache(maxsize=4)
def _opened(kind: str, network: Path, version: tuple[int, ...], outputs: tuple[str, ...], size: int) -> Engine:
    """Engines are kept: opening one costs 0.3 s, and cross-validation asks for the same one again and again."""
    if kind == "openvino":
        from headstart.engine.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(network, outputs=outputs, size=size)
    from headstart.engine.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(network, outputs=outputs)


def check_image(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Add the batch dimension; refuse what is not a uint8 RGB image, which would otherwise give wrong numbers silently."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ParameterError(f"An engine takes uint8 images of shape (H, W, 3), got {image.dtype} {image.shape}.")
    return image[None]
