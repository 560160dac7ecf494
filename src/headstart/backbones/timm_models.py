"""Every network of timm: its record, the network itself with its weights, and its conversion to an ONNX file.

The exporter is PyTorch's TorchScript one: it writes operator set 17, like the rest of a saved model, follows free image sizes, and took 1
to 7 s for each family tried, where the newer exporter took up to 560 s. Of an embedded network the graph is known, and only its weights are
written, in 0.2 s. PyTorch is imported inside the functions only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from headstart.backbones.records import FILE_SOURCE, HUB_SOURCE, URL_SOURCE, BackboneRecord, Conversion, layers_from_sizes
from headstart.errors import BackboneError, MissingExtraError, nearest
from headstart.progress import quiet

if TYPE_CHECKING:
    from headstart.backbones.keras_networks import KerasWeights
    from headstart.backbones.stages import PooledStages
    from headstart.backbones.weight_files import Array

_TOPS = ("classifier.", "fc.", "head.", "head_dist.", "last_linear.", "pre_logits.", "AuxLogits.")  # may be in the file and is ignored
_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
_SHOWN = 5
_TOLERANCE = 1e-3  # of ONNX Runtime against PyTorch, relative to the largest value of each part of the output
_MAX_BYTES = (2 << 30) - (16 << 20)  # a larger ONNX file cannot be self-contained


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
    """Raises MissingExtraError where PyTorch and timm are not installed; the message says that `what` needs them."""
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
    return BackboneRecord(
        name=name, source=_source(settings), licence=settings.license, input_size=int(settings.input_size[-1]), mean=tuple(settings.mean),
        std=tuple(settings.std), interpolation=settings.interpolation if settings.interpolation in _FILTERS else "bicubic",
        crop=min(float(settings.crop_pct), 1.0), fit="squash" if settings.crop_mode == "squash" else "crop",
    )  # fmt: skip


def record_of(name: str) -> BackboneRecord:
    """The record of a timm network by its name, with or without the tag of its weights.

    Raises BackboneError where timm has none of that name, or not for three colour channels.
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
    if not _takes_colours(settings):
        raise BackboneError(f"{name} does not take images of three colour channels, or timm does not say what it takes.")
    return _record(f"{architecture}.{settings.tag}" if settings.tag else architecture, settings)


def _takes_colours(settings: Any) -> bool:
    return settings is not None and bool(settings.input_size) and settings.input_size[0] == 3


@functools.cache
def all_records() -> tuple[BackboneRecord, ...]:
    """The records of all networks that timm has weights for, by name."""
    timm = _timm("The list of all timm backbones")
    found = ((name, timm.get_pretrained_cfg(name)) for name in timm.list_pretrained())
    return tuple(_record(name, settings) for name, settings in found if _takes_colours(settings))


def created(record: BackboneRecord, *, side: int | None = None, options: Mapping[str, Any] | None = None) -> Any:
    """Timm's network with random weights, for evaluation; one that takes one size of images only is made for `side` (the record's own).

    `options` are further arguments of ``timm.create_model``.
    """
    import timm

    settings, side = timm.get_pretrained_cfg(record.name), side or record.input_size
    other = settings is not None and settings.fixed_input_size and side != settings.input_size[-1]
    model = timm.create_model(record.name, pretrained=False, **({"img_size": side} if other else {}), **(options or {})).eval()
    if other:
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, side, side)}
    return model


def build(record: BackboneRecord, *, tensors: Mapping[str, Array] | KerasWeights | None, seed: int = 0) -> tuple[PooledStages, int]:
    """A timm network without its classifier as a PyTorch module, and the number of parameters it has with it.

    Arguments and errors as of `convert`.
    """
    require(f"The backbone {record.name!r}")
    with silence():
        import torch

        from headstart.backbones.keras_networks import KerasWeights
        from headstart.backbones.stages import PooledStages, noise

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = created(record, options=tensors.network.options if isinstance(tensors, KerasWeights) else None)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
            raise BackboneError(f"{record.name} cannot be used as a backbone: timm gives it no way to be run without its classifier.")
        remove_top(model)
        if isinstance(tensors, KerasWeights):
            tensors = tensors.entries(model)
        if tensors is not None:
            fit_weights(model, tensors, name=record.name)
        network = PooledStages(model, mean=record.mean, std=record.std, channels=record.channels)
        network.drop_repeated(noise(record.input_size, record.input_size, seed=1))
    return network, parameters


def remove_top(model: Any) -> None:
    """Take the classifier off a network of timm; of VGG also the fully connected layers before it."""
    import torch

    if type(model).__name__ == "VGG":
        model.pre_logits = torch.nn.Identity()
    model.reset_classifier(0)


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
    """Give a network whose classifier was taken off its weights; those of a classifier are ignored, whatever their size.

    Raises BackboneError, with the first of them, where entries are missing, too many, or of another shape.
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


def convert(record: BackboneRecord, *, tensors: Mapping[str, Array] | KerasWeights | None, seed: int = 0) -> Conversion:
    """Convert a timm network without its classifier to ONNX; its record is completed with figures from the network.

    `tensors` are its weights as `read_weights` returns them; None for random ones of a seed. Raises BackboneError where they do not fit, or
    where the converted network does not compute what PyTorch computes.
    """
    network, parameters = build(record, tensors=tensors, seed=seed)
    return convert_module(dataclasses.replace(record, parameters=record.parameters or parameters), network)


def convert_module(record: BackboneRecord, network: PooledStages) -> Conversion:
    """Convert a network as `build` returns it, with its present weights, for images of `record.input_size`; errors as of `convert`."""
    with silence():
        import onnx
        import timm
        import torch

        from headstart.backbones import efficientnet_lite
        from headstart.backbones.stages import named_sizes

    if record.embedded and not network.flat:
        weights = {name: value.numpy() for name, value in network.model.state_dict().items()}
        variant = efficientnet_lite.variant_of(record.name)
        file = efficientnet_lite.build(variant, weights, mean=record.mean, std=record.std).SerializeToString()
        any_size = _checked(file, network, name=record.name, side=record.input_size, any_size=True)
    else:
        free = not network.flat and not network.model.pretrained_cfg.get("fixed_input_size")
        file, any_size = export_module(network, name=record.name, side=record.input_size, any_size=free)
    return Conversion(
        network=file, record=dataclasses.replace(record, dim=network.sizes[-2 if network.flat else -1]), any_size=any_size,
        layers=layers_from_sizes(named_sizes(network)),
        versions={"torch": torch.__version__, "timm": timm.__version__, "onnx": onnx.__version__},
    )  # fmt: skip


def export_module(module: Any, *, name: str, side: int, output: str = "features", any_size: bool = True) -> tuple[bytes, bool]:
    """The module as an ONNX file, and whether it also takes other image sizes than `side`, as `any_size` asks.

    The module takes uint8 images (N, H, W, 3), in evaluation mode. Where it has `sizes`, these are the lengths of the parts of its output
    (N, D), and each is compared by itself. Raises BackboneError where the file would be too large, or computes something else than PyTorch.
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
    return written, _checked(written, module, name=name, side=side, any_size=any_size)


def _checked(written: bytes, module: Any, *, name: str, side: int, any_size: bool) -> bool:
    """Whether a file also takes other sizes, as `any_size` asks. Raises BackboneError where it computes something else than PyTorch."""
    from headstart.backbones.stages import noise

    session = open_plain(written)
    images = noise(side, side, seed=2, count=1)
    if not (difference := _difference(session, module, images)) <= _TOLERANCE:
        raise BackboneError(
            f"The converted {name} differs from PyTorch by {difference:.1e} (relative), more than {_TOLERANCE:g}: it cannot be used."
        )
    other = noise(side + 32, max(side - 32, 32), seed=3, count=1)
    return any_size and _difference(session, module, other) <= _TOLERANCE


def open_plain(written: bytes) -> Any:
    """A network in ONNX Runtime as it is, to run it once or twice."""
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
    bounds = np.cumsum(getattr(module, "sizes", None) or (expected.shape[-1],))[:-1]
    parts = zip(np.split(found, bounds, axis=-1), np.split(expected, bounds, axis=-1), strict=True)
    worst = float(np.max([np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12) for ours, theirs in parts]))
    return worst if np.isfinite(worst) else float("inf")
