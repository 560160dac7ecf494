"""Every network of timm: its record, and its conversion to an ONNX file. PyTorch is imported inside the functions only.

The conversion takes PyTorch's TorchScript exporter: it writes operator set 17, which the rest of a saved model is written in, follows
free image sizes, and took 1 to 7 s for each family tried, where the newer exporter took up to 560 s. Its result is compared with
PyTorch's own output before it is accepted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from headstart.backbones.backbone import Layer, layers_from_sizes
from headstart.backbones.records import FILE_SOURCE, HUB_SOURCE, URL_SOURCE, BackboneRecord
from headstart.errors import BackboneError, MissingExtraError, nearest

if TYPE_CHECKING:
    import numpy as np

    from headstart.backbones.pooled_stages import PooledStages

_TOLERANCE = 1e-3  # of ONNX Runtime against PyTorch, relative to the largest value of the layer
_MAX_BYTES = (2 << 30) - (16 << 20)  # a larger ONNX file cannot be self-contained


def installed() -> bool:
    """Whether the extra with PyTorch and timm is there, found out without importing it."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "timm"))


def require(what: str) -> None:
    """Make sure that PyTorch and timm are there.

    Raises:
        MissingExtraError: they are not; the message says that `what` needs them.
    """
    if not installed():
        raise MissingExtraError(what, extra="torch")


def _timm(what: str) -> Any:
    require(what)
    with _quiet():
        import timm
    return timm


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the chatter of PyTorch's and timm's imports and exports; errors still come as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "timm", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _source(settings: Any) -> str:
    if settings.hf_hub_id and not (settings.hf_hub_filename and settings.custom_load):
        return f"{HUB_SOURCE}{settings.hf_hub_id}{'/' + settings.hf_hub_filename if settings.hf_hub_filename else ''}"
    return f"{URL_SOURCE}{settings.url}" if settings.url and not settings.custom_load else FILE_SOURCE


def _record(name: str, settings: Any) -> BackboneRecord:
    """What timm's configuration says; figures that would need the network itself stay open."""
    first, second, third = settings.mean
    std_first, std_second, std_third = settings.std
    return BackboneRecord(
        name=name,
        source=_source(settings),
        licence=settings.license,
        input_size=int(settings.input_size[-1]),
        mean=(first, second, third),
        std=(std_first, std_second, std_third),
        interpolation=settings.interpolation if settings.interpolation in ("nearest", "bilinear", "bicubic", "lanczos") else "bicubic",
        crop=min(float(settings.crop_pct), 1.0),
        fit="squash" if settings.crop_mode == "squash" else "crop",
    )


def record_of(name: str) -> BackboneRecord:
    """The record of a timm network by its name, with or without the tag of its weights.

    Raises:
        BackboneError: timm has none of that name, or not for three colour channels.
        MissingExtraError: timm is not installed.
    """
    timm = _timm(f"The backbone {name!r}")
    architecture, _, tag = name.strip().partition(".")
    architecture = architecture.lower()
    if not timm.is_model(architecture):
        raise BackboneError(
            f"There is no backbone {name!r}, in the catalogue or in timm {timm.__version__}.{nearest(architecture, timm.list_models())} "
            "`headstart backbones --all` lists them."
        )
    try:
        settings = timm.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    except RuntimeError:
        known = ", ".join(timm.list_pretrained(f"{architecture}.*"))
        raise BackboneError(f"timm {timm.__version__} has no weights {tag!r} for {architecture}. Known: {known or 'none'}.") from None
    if settings is None or settings.input_size is None or settings.input_size[0] != 3:
        raise BackboneError(f"{name} does not take images of three colour channels, or timm does not say what it takes.")
    return _record(f"{architecture}.{settings.tag}" if settings.tag else architecture, settings)


@functools.cache
def all_records() -> tuple[BackboneRecord, ...]:
    """The records of all networks that timm has weights for, by name.

    Raises:
        MissingExtraError: timm is not installed.
    """
    timm = _timm("The list of all timm backbones")
    records = []
    for name in timm.list_pretrained():
        settings = timm.get_pretrained_cfg(name)
        if settings is not None and settings.input_size and settings.input_size[0] == 3:
            records.append(_record(name, settings))
    return tuple(records)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted network, before it is kept."""

    network: bytes
    record: BackboneRecord
    layers: tuple[Layer, ...]
    any_size: bool
    versions: dict[str, str]


def convert(record: BackboneRecord, *, tensors: Mapping[str, np.ndarray[Any, Any]] | None, seed: int = 0) -> Conversion:
    """Write a timm network without its classifier as ONNX.

    Args:
        record: which network.
        tensors: its weights by name, as `read_tensors` returns them; None for random ones.
        seed: of the random weights.

    Returns:
        The file's bytes, the layers, whether other image sizes may be fed, and the record with what was still open in it.

    Raises:
        BackboneError: the weights do not fit, or the converted network does not compute what PyTorch computes.
        MissingExtraError: PyTorch or timm is not installed.
    """
    network, parameters = build(record, tensors=tensors, seed=seed)
    with _quiet():
        import onnx
        import timm
        import torch

        from headstart.backbones.pooled_stages import named_sizes

        written, any_size = _exported(record, network)
    record = dataclasses.replace(record, dim=network.sizes[-1], parameters=record.parameters or parameters)
    return Conversion(
        network=written,
        record=record,
        layers=layers_from_sizes(named_sizes(network)),
        any_size=any_size,
        versions={"torch": torch.__version__, "timm": timm.__version__, "onnx": onnx.__version__},
    )


def build(record: BackboneRecord, *, tensors: Mapping[str, np.ndarray[Any, Any]] | None, seed: int = 0) -> tuple[PooledStages, int]:
    """A timm network without its classifier as a PyTorch module, and the number of parameters it has with it.

    Arguments and errors as of `convert`.
    """
    timm = _timm(f"The backbone {record.name!r}")
    with _quiet():
        import torch

        from headstart.backbones.pooled_stages import PooledStages
        from headstart.backbones.state_dicts import fit_weights

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = timm.create_model(record.name, pretrained=False).eval()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
            raise BackboneError(f"{record.name} cannot be used as a backbone: timm gives it no way to be run without its classifier.")
        if type(model).__name__ == "VGG":
            model.pre_logits = torch.nn.Identity()
        model.reset_classifier(0)
        if tensors is not None:
            fit_weights(model, tensors, name=record.name)
        network = PooledStages(model, mean=record.mean, std=record.std)
        network.drop_repeated(_noise(record.input_size, record.input_size, seed=1))
    return network, parameters


def _noise(height: int, width: int, *, seed: int, count: int = 2) -> Any:
    """Random images with coarse and fine structure, as a torch tensor (N, H, W, 3) of uint8."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    fine = torch.rand(count, 3, height, width, generator=generator)
    return ((0.8 * smooth + 0.2 * fine) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _exported(record: BackboneRecord, network: PooledStages) -> tuple[bytes, bool]:
    """The network as ONNX, checked, and whether it follows other image sizes."""
    import torch

    from headstart.onnx_graph import OPSET

    images = _noise(record.input_size, record.input_size, seed=2)
    size_bytes = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    if size_bytes > _MAX_BYTES:
        raise BackboneError(f"{record.name} has {size_bytes >> 20} MB of weights without its top; one ONNX file holds 2 GB at most.")
    fixed = bool(network.model.pretrained_cfg.get("fixed_input_size"))
    stream = io.BytesIO()
    with torch.inference_mode():
        torch.onnx.export(
            network, (images,), stream, input_names=["images"], output_names=["features"], opset_version=OPSET, dynamo=False,
            dynamic_axes={"images": {0: "N"} if fixed else {0: "N", 1: "H", 2: "W"}, "features": {0: "N"}},
        )  # fmt: skip
    written = stream.getvalue()
    session = _session(written)
    difference = _difference(session, network, images[:1])
    if not difference <= _TOLERANCE:
        raise BackboneError(
            f"The converted {record.name} differs from PyTorch by {difference:.1e} (relative), more than {_TOLERANCE:g}: it is not used."
        )
    side = record.input_size
    other = _noise(side + 32, max(side - 32, 32), seed=3, count=1)
    return written, not fixed and _difference(session, network, other) <= _TOLERANCE


def _session(written: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # it runs twice: more would not pay
    return onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])


def _difference(session: Any, network: PooledStages, images: Any) -> float:
    """The largest difference of the file from PyTorch over the layers, relative to the largest value of each; infinite where it fails."""
    import numpy as np
    import torch

    try:
        with torch.inference_mode():
            expected = network(images).numpy()
        found = session.run(["features"], {"images": images.numpy()})[0]
    except Exception:  # a size that the network cannot take; each library has its own exceptions
        return float("inf")
    worst, start = 0.0, 0
    for size in network.sizes:
        part = slice(start, start + size)
        scale = max(float(np.abs(expected[:, part]).max()), 1e-12)
        worst = max(worst, float(np.abs(found[:, part] - expected[:, part]).max()) / scale)
        start += size
    return worst if np.isfinite(worst) else float("inf")
