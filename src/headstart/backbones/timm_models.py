"""Every network of timm: its record, and the network itself with its weights. PyTorch is imported inside the functions only."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from headstart.backbones.records import FILE_SOURCE, HUB_SOURCE, URL_SOURCE, BackboneRecord
from headstart.errors import BackboneError, MissingExtraError, nearest
from headstart.progress import quiet

if TYPE_CHECKING:
    from headstart.backbones.stages import PooledStages
    from headstart.backbones.weight_files import Array


_TOPS = ("classifier.", "fc.", "head.", "head_dist.", "last_linear.", "pre_logits.", "AuxLogits.")  # may be in the file and is ignored
_SHOWN = 5


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hold back the chatter of PyTorch's and timm's imports and exports; errors still come as exceptions."""
    with quiet("torch.onnx", "timm", "onnxscript"), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


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


def build(record: BackboneRecord, *, tensors: Mapping[str, Array] | None, seed: int = 0) -> tuple[PooledStages, int]:
    """A timm network without its classifier as a PyTorch module, and the number of parameters it has with it.

    Arguments and errors as of `convert`.
    """
    timm = _timm(f"The backbone {record.name!r}")
    with silence():
        import torch

        from headstart.backbones.stages import PooledStages, noise

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


def _tops(model: Any) -> tuple[str, ...]:
    classifier = model.pretrained_cfg.get("classifier") or ()
    return (*_TOPS, *(f"{name}." for name in ((classifier,) if isinstance(classifier, str) else classifier)))


def _mismatches(found: Mapping[str, Array], expected: Mapping[str, Any], tops: tuple[str, ...]) -> list[str]:
    """What is wrong, one line per entry, in the order of the network."""
    lines = []
    for name, value in expected.items():
        counter = name.endswith("num_batches_tracked")  # of no use; older files hold it as (1,) or not at all
        if name not in found:
            lines += [] if counter else [f"{name} {tuple(value.shape)} is missing"]
        elif tuple(found[name].shape) != tuple(value.shape) and not (counter and found[name].size == 1):
            lines.append(f"{name} has shape {tuple(found[name].shape)}, the network expects {tuple(value.shape)}")
    lines += [
        f"{name} {tuple(value.shape)} has no place in it"
        for name, value in found.items()
        if name not in expected and not name.startswith(tops)
    ]
    return lines


def _timm_filtered(model: Any, found: Mapping[str, Array]) -> dict[str, Array] | None:
    """The entries as timm's own conversion of foreign checkpoints renames them, where the network's module has one."""
    import torch

    module = sys.modules[type(model).__module__]
    rename = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if rename is None:
        return None
    state = {name: torch.from_numpy(value) for name, value in found.items()}
    try:
        try:
            renamed = rename(state, model)
        except TypeError:
            renamed = rename(state)
        return {name: value.numpy() for name, value in renamed.items()}
    except Exception:  # written for one kind of checkpoint, and free to fail on any other
        return None


def fit_weights(model: Any, tensors: Mapping[str, Array], *, name: str) -> None:
    """Give a network without classifier its weights.

    Args:
        model: a timm network whose classifier was taken off.
        tensors: entries of a weight file; those of a classifier are ignored, whatever their size.
        name: of the network, for the error.

    Raises:
        BackboneError: entries are missing, too many, or of another shape; the message lists the first of them.
    """
    import torch

    from headstart.backbones.weight_files import unwrapped

    expected = model.state_dict()
    tops = _tops(model)
    found = unwrapped(tensors, expected)
    wrong = _mismatches(found, expected, tops)
    if wrong:
        renamed = _timm_filtered(model, found)
        if renamed is not None and not _mismatches(renamed, expected, tops):
            found, wrong = renamed, []
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise BackboneError(
            f"The weights do not fit {name}: {'; '.join(wrong[:_SHOWN])}{more}. Is this the file of another network, or with other names?"
        )
    model.load_state_dict(
        {key: torch.tensor(found[key]).reshape(value.shape) if key in found else value for key, value in expected.items()}
    )
