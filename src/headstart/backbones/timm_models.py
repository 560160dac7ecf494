"""Every network of timm: its record, and its conversion to an ONNX file. PyTorch is imported inside the functions only."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headstart.backbones.backbone import Layer, layers_from_sizes
from headstart.backbones.onnx_export import exported, noise, silence
from headstart.backbones.records import FILE_SOURCE, HUB_SOURCE, URL_SOURCE, BackboneRecord
from headstart.errors import BackboneError, MissingExtraError, nearest

if TYPE_CHECKING:
    import numpy as np

    from headstart.backbones.pooled_stages import PooledStages


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
    with silence():
        import timm
    return timm


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
    return written(dataclasses.replace(record, parameters=record.parameters or parameters), network)


def written(record: BackboneRecord, network: PooledStages) -> Conversion:
    """A network as `build` gives it, whatever its weights are by now, written as ONNX for images of `record.input_size`.

    Raises:
        BackboneError: the converted network does not compute what PyTorch computes.
    """
    with silence():
        import onnx
        import timm
        import torch

        from headstart.backbones.pooled_stages import named_sizes

    free = not network.flat and not network.model.pretrained_cfg.get("fixed_input_size")
    file, any_size = exported(network, name=record.name, side=record.input_size, any_size=free)
    return Conversion(
        network=file,
        record=dataclasses.replace(record, dim=network.sizes[-2 if network.flat else -1]),
        layers=layers_from_sizes(named_sizes(network)),
        any_size=any_size,
        versions={"torch": torch.__version__, "timm": timm.__version__, "onnx": onnx.__version__},
    )


def build(record: BackboneRecord, *, tensors: Mapping[str, np.ndarray[Any, Any]] | None, seed: int = 0) -> tuple[PooledStages, int]:
    """A timm network without its classifier as a PyTorch module, and the number of parameters it has with it.

    Arguments and errors as of `convert`.
    """
    timm = _timm(f"The backbone {record.name!r}")
    with silence():
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
        network.drop_repeated(noise(record.input_size, record.input_size, seed=1))
    return network, parameters
