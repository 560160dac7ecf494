"""Converts a PyTorch network to an ONNX file, and compares the file with PyTorch before it is accepted.

The exporter is PyTorch's TorchScript one: it writes operator set 17, like the rest of a saved model, follows free image sizes, and took
1 to 7 s for each family tried, where the newer exporter took up to 560 s. PyTorch is imported inside the functions only.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headstart.backbones import timm_models
from headstart.backbones.records import BackboneRecord, Conversion, layers_from_sizes
from headstart.backbones.timm_models import silence
from headstart.errors import BackboneError

if TYPE_CHECKING:
    from headstart.backbones.stages import PooledStages
    from headstart.backbones.weight_files import Array

_TOLERANCE = 1e-3  # of ONNX Runtime against PyTorch, relative to the largest value of each part of the output
_MAX_BYTES = (2 << 30) - (16 << 20)  # a larger ONNX file cannot be self-contained


def convert(record: BackboneRecord, *, tensors: Mapping[str, Array] | None, seed: int = 0) -> Conversion:
    """Convert a timm network without its classifier to ONNX.

    Args:
        record: which network.
        tensors: its weights by name, as `read_tensors` returns them; None for random ones.
        seed: of the random weights.

    Returns:
        The converted network; its record is completed with figures from the network.

    Raises:
        BackboneError: the weights do not fit, or the converted network does not compute what PyTorch computes.
        MissingExtraError: PyTorch or timm is not installed.
    """
    network, parameters = timm_models.build(record, tensors=tensors, seed=seed)
    return convert_module(dataclasses.replace(record, parameters=record.parameters or parameters), network)


def convert_module(record: BackboneRecord, network: PooledStages) -> Conversion:
    """Convert a network as `timm_models.build` returns it, with its present weights, for images of `record.input_size`.

    Raises:
        BackboneError: the converted network does not compute what PyTorch computes.
    """
    with silence():
        import onnx
        import timm
        import torch

        from headstart.backbones.stages import named_sizes

    free = not network.flat and not network.model.pretrained_cfg.get("fixed_input_size")
    file, any_size = export_module(network, name=record.name, side=record.input_size, any_size=free)
    return Conversion(
        network=file,
        record=dataclasses.replace(record, dim=network.sizes[-2 if network.flat else -1]),
        layers=layers_from_sizes(named_sizes(network)),
        any_size=any_size,
        versions={"torch": torch.__version__, "timm": timm.__version__, "onnx": onnx.__version__},
    )


def export_module(module: Any, *, name: str, side: int, output: str = "features", any_size: bool = True) -> tuple[bytes, bool]:
    """Return the module as an ONNX file, checked, and whether it also takes other image sizes.

    Args:
        module: in evaluation mode; takes uint8 images (N, H, W, 3). Where it has `sizes`, these are the lengths of the parts of its
            output (N, D), and each is compared by itself.
        name: of the network, for errors.
        side: height and width of the images it is written for.
        output: name of the output.
        any_size: whether height and width should be free.

    Raises:
        BackboneError: too large for a file, or the file computes something else than PyTorch.
    """
    import torch

    from headstart.backbones.stages import noise
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
            f"The converted {name} differs from PyTorch by {difference:.1e} (relative), more than {_TOLERANCE:g}: it cannot be used."
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
