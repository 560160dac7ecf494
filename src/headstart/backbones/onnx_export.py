"""Writes a PyTorch module that takes uint8 images as an ONNX file, and compares the file with PyTorch before it is accepted.

It takes PyTorch's TorchScript exporter: that writes operator set 17, which the rest of a saved model is written in, follows free image
sizes, and took 1 to 7 s for each family tried, where the newer exporter took up to 560 s. PyTorch is imported inside the functions only.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from headstart.errors import BackboneError
from headstart.progress import quiet

_TOLERANCE = 1e-3  # of ONNX Runtime against PyTorch, relative to the largest value of each part of the output
_MAX_BYTES = (2 << 30) - (16 << 20)  # a larger ONNX file cannot be self-contained


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hold back the chatter of PyTorch's and timm's imports and exports; errors still come as exceptions."""
    with quiet("torch.onnx", "timm", "onnxscript"), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def noise(height: int, width: int, *, seed: int, count: int = 2) -> Any:
    """Random images with coarse and fine structure, as a torch tensor (N, H, W, 3) of uint8."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    fine = torch.rand(count, 3, height, width, generator=generator)
    return ((0.8 * smooth + 0.2 * fine) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def exported(module: Any, *, name: str, side: int, output: str = "features", any_size: bool = True) -> tuple[bytes, bool]:
    """The module as ONNX, checked, and whether it follows other image sizes.

    Args:
        module: in evaluation mode; takes uint8 images (N, H, W, 3). Where it has `sizes`, these are the lengths of the parts of its
            output (N, D), and each is compared by itself.
        name: of the network, for errors.
        side: height and width of the images it is written for.
        output: name of the output.
        any_size: whether height and width shall be free.

    Raises:
        BackboneError: too large for a file, or the file computes something else than PyTorch.
    """
    import torch

    from headstart.onnx_graph import OPSET

    size_bytes = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    if size_bytes > _MAX_BYTES:
        raise BackboneError(f"{name} has {size_bytes >> 20} MB of weights without its top; one ONNX file holds 2 GB at most.")
    images = noise(side, side, seed=2)
    stream = io.BytesIO()
    with silence(), torch.inference_mode():
        torch.onnx.export(
            module, (images,), stream, input_names=["images"], output_names=[output], opset_version=OPSET, dynamo=False,
            dynamic_axes={"images": {0: "N", 1: "H", 2: "W"} if any_size else {0: "N"}, output: {0: "N"}},
        )  # fmt: skip
    written = stream.getvalue()
    session = _session(written)
    difference = _difference(session, module, images[:1])
    if not difference <= _TOLERANCE:
        raise BackboneError(
            f"The converted {name} differs from PyTorch by {difference:.1e} (relative), more than {_TOLERANCE:g}: it is not used."
        )
    other = noise(side + 32, max(side - 32, 32), seed=3, count=1)
    return written, any_size and _difference(session, module, other) <= _TOLERANCE


def _session(written: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # it runs twice: more would not pay
    return onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])


def _difference(session: Any, module: Any, images: Any) -> float:
    """The largest difference of the file from PyTorch over the parts, relative to the largest value of each; infinite where it fails."""
    import numpy as np
    import torch

    try:
        with torch.inference_mode():
            expected = module(images).numpy()
        found = session.run(None, {"images": images.numpy()})[0]
    except Exception:  # a size that the network cannot take; each library has its own exceptions
        return float("inf")
    if found.shape != expected.shape:
        return float("inf")
    sizes: Sequence[int] = getattr(module, "sizes", None) or (expected.shape[-1],)
    worst, start = 0.0, 0
    for size in sizes:
        part = slice(start, start + size)
        scale = max(float(np.abs(expected[..., part]).max()), 1e-12)
        worst = max(worst, float(np.abs(found[..., part] - expected[..., part]).max()) / scale)
        start += size
    return worst if np.isfinite(worst) else float("inf")
