"""Loads a backbone without its top: the one function that turns a name into a network on disk, and the cache of converted networks.

A converted network and its description, ``NAME-<16 digits of the weights' digest>-v<BUILD>`` with ``.onnx`` and ``.json``, are written as a
whole or not at all, and checked by their digest before each use.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.backbones import handcrafted, hub_detectors, timm_models
from headstart.backbones.composed import Specification, check_size, composed_digest, composed_module, composed_record, joined, mirrored
from headstart.backbones.records import (
    Backbone,
    BackboneRecord,
    Conversion,
    Layer,
    catalogue,
    find_in_catalogue,
    folded,
    layers_from_sizes,
    spellings,
)  # fmt: skip
from headstart.backbones.weights import RANDOM, Announce, Weights, embedded_weights, find_weights, given_file
from headstart.errors import BackboneError, ParameterError, nearest
from headstart.files import file_digest, replacing, write_file
from headstart.modalities import modality_named

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from headstart.backbones.keras_networks import KerasWeights
    from headstart.backbones.weight_files import Array

BUILD = 1  # raised whenever a conversion would come out differently


def to_stderr(message: str) -> None:
    """Print a message to standard error, where it does not mix with results."""
    print(message, file=sys.stderr, flush=True)


def find(name: str) -> BackboneRecord:
    """Return the record of a backbone by timm's name or one of the literature, in any case and punctuation (``ResNet-50``, ``resnet50``).

    Where timm is installed, its further names will do, with or without the tag of the weights. ``NAME@SIZE`` is the network at another
    image size, and ``NAME+NAME`` and ``NAME+mirrored`` are composed of others (`headstart.backbones.composed`). BackboneError has the
    nearest names.
    """
    asked = Specification.parse(name)
    return composed_record([_find(part) for part in asked.names], asked)


def _find(name: str) -> BackboneRecord:
    record = find_in_catalogue(name) or handcrafted.find_handcrafted(name)
    if record is not None:
        return record
    if timm_models.installed():
        return timm_models.record_of(name)
    raise BackboneError(
        f"There is no backbone {name!r} in the catalogue.{nearest(name, spellings())} `headstart backbones` lists it. "
        "Any other network of timm can be used by its name after: pip install 'headstart[torch]'"
    )


def loader_for(modality: str) -> Callable[..., Backbone]:
    """What loads backbones for inputs of this modality: `load_backbone`, or what takes the same and raises the same."""
    module, _, name = modality_named(modality).loader.partition(".")
    found: Callable[..., Backbone] = getattr(importlib.import_module(f"headstart.backbones.{module}"), name)
    return found


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
        weights: a ``.safetensors``, ``.pth`` or (of Keras) ``.h5`` file to use in place of the published weights, or ``"random"``; or a
            detector as `headstart.backbones.hub_detectors` finds it, where `name` is that of its backbone.
        cache: the cache folder; converted networks are in its folder ``networks``.
        announce: called with one line before anything that takes a while.
        seed: of random weights.

    Returns:
        The backbone; its `network` lies in the cache and has been checked against its digest.

    Raises:
        BackboneError: an unknown name, or weights that are missing, damaged, cannot be downloaded or do not fit.
        MissingExtraError: the network has to be converted by PyTorch, which is not installed.
    """
    asked = Specification.parse(name)
    if len(asked.names) > 1 and weights not in (None, RANDOM):
        raise BackboneError(
            f"The weights of {weights} are of one network, and {name} is several. Leave --weights out, or name one backbone."
        )
    networks = NetworkCache(Path(cache))
    parts = _parts(asked, weights, networks, announce=announce, seed=seed)
    whole = composed_record([part.record for part in parts], asked)
    for part in parts:
        check_size(part, whole.input_size)
    size = dataclasses.replace(asked, size=whole.input_size)
    records = [composed_record([part.record], dataclasses.replace(size, names=(part.name,))) for part in parts]
    if asked.mirrored:
        parts = [networks.composed([part], record, mirrored) for part, record in zip(parts, records, strict=True)]
    else:
        parts = [dataclasses.replace(part, record=record) for part, record in zip(parts, records, strict=True)]
    return parts[0] if len(parts) == 1 else dataclasses.replace(networks.composed(parts, whole, joined), parts=tuple(parts))


def _parts(
    asked: Specification, weights: str | Path | None, networks: NetworkCache, *, announce: Announce, seed: int
) -> list[Backbone]:  # fmt: skip
    """The backbones that a specification names. Handcrafted features are for the size of the others, whatever it turns out to be."""
    formulas = [handcrafted.find_handcrafted(name) for name in asked.names]
    if all(formulas) and weights not in (None, RANDOM):
        raise BackboneError(f"{asked} comes from a formula and has no weights: leave --weights out, or name a backbone.")
    loaded = {
        name: _load(name, weights, networks, announce=announce, seed=seed)
        for name, formula in zip(asked.names, formulas, strict=True)
        if formula is None
    }  # fmt: skip
    records = [part.record for part in loaded.values()] + [formula for formula in formulas if formula is not None]
    size = asked.size or max(record.input_size for record in records)
    return [
        loaded[name] if formula is None else networks.handcrafted(dataclasses.replace(formula, input_size=size))
        for name, formula in zip(asked.names, formulas, strict=True)
    ]  # fmt: skip


def at_hand(cache: Path | None) -> tuple[str, ...]:
    """The shortest names of the catalogue's backbones that can be used without a download, the most accurate on ImageNet first.

    They are those that come with Headstart, before those whose converted network lies in the cache folder.
    """
    networks = None if cache is None else NetworkCache(cache)
    found = [record for record in catalogue() if record.embedded or (networks is not None and networks.find(record.name) is not None)]
    found.sort(key=lambda record: (not record.embedded, -(record.top1 or 0)))
    return tuple(record.short for record in found)


def _load(name: str, weights: str | Path | None, networks: NetworkCache, *, announce: Announce, seed: int) -> Backbone:
    """One backbone as it is published."""
    if weights is not None and hub_detectors.backbone_name(weights) == name:
        return _of_detector(hub_detectors.HubDetector.find(weights, announce=announce), networks, announce=announce)
    record = find_in_catalogue(name)
    digest = _known_digest(record, weights)
    cached = networks.find(record.name if record else name, weights_digest=digest) if weights != RANDOM else None
    if cached is not None:
        return cached if record is None else dataclasses.replace(cached, record=record.as_converted(cached.record))
    if record is None:
        record = _with_alias(_find(name), name)
    return _converted(record, find_weights(record, weights, seed=seed, announce=announce), networks, seed=seed, announce=announce)


def _of_detector(detector: hub_detectors.HubDetector, networks: NetworkCache, *, announce: Announce) -> Backbone:
    """The backbone of a detector, from the cache or converted now."""
    record, digest = detector.record(), detector.digest
    cached = networks.find(record.name, weights_digest=digest)
    if cached is not None:
        return cached
    announce(f"Converting the backbone of {detector.name} once for this machine (licence {record.licence or 'not in its folder'})")
    conversion = timm_models.convert_module(record, hub_detectors.torch_backbone(detector))
    return networks.add(conversion, weights_digest=digest, weights_source=detector.name)


def _converted(record: BackboneRecord, found: Weights, networks: NetworkCache, *, seed: int, announce: Announce) -> Backbone:
    """The network with these weights, from the cache or converted now."""
    cached = networks.find(record.name, weights_digest=found.digest)
    if cached is not None:
        return cached
    conversion = _convert(record, found.path, seed=seed, announce=announce)
    return networks.add(conversion, weights_digest=found.digest, weights_source=found.source)


@dataclass(frozen=True)
class Fetched:
    """A backbone that needs no internet any more: its converted network, and the file of its weights."""

    backbone: Backbone
    file: Path
    already: bool  # whether the converted network was there before


def fetch(name: str, *, cache: Path, announce: Announce = to_stderr, out: Path | None = None) -> Fetched:
    """Download the published weights of a backbone and convert it, so that it needs no internet from now on.

    What is here is checked and not downloaded again. With `out`, the weight file is copied to that folder, too, and called as the backbone
    is. Errors as of `load_backbone`, and ParameterError where it cannot be written.
    """
    networks, record = NetworkCache(Path(cache)), find_in_catalogue(name) or _with_alias(_find(name), name)
    if record.handcrafted:
        raise BackboneError(f"{record.name} comes from a formula: there is nothing to fetch, it works without internet.")
    already = networks.find(record.name) is not None
    found = find_weights(record, None, seed=0, announce=announce)
    backbone, path = _converted(record, found, networks, seed=0, announce=announce), found.path
    assert path is not None  # only random weights have no file
    return Fetched(backbone, path if out is None else _copied(path, Path(out) / f"{record.name}{path.suffix}"), already)


def _copied(path: Path, target: Path) -> Path:
    """Copy a weight file, unless another file has that name."""
    if target.exists() and file_digest(target) != file_digest(path):
        raise ParameterError(f"{target} is there and is another file: it is left as it is. Give another --out, or move it away.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            shutil.copyfile(path, partial)
    except OSError as error:
        raise ParameterError(f"{target} cannot be written: {error.strerror or error}.") from None
    return target


def _convert(record: BackboneRecord, path: Path | None, *, seed: int, announce: Announce) -> Conversion:
    if record.embedded and path is not None:
        import onnx

        from headstart.backbones import efficientnet_lite

        announce(f"Converting {record.name} once for this machine")
        variant, entries = _lite_tensors(record, path)
        return Conversion(
            network=efficientnet_lite.build(variant, entries, mean=record.mean, std=record.std).SerializeToString(), record=record,
            layers=layers_from_sizes(efficientnet_lite.layers(variant)), versions={"onnx": onnx.__version__},
        )  # fmt: skip
    from headstart.backbones.keras_networks import KerasWeights, read_weights

    weights = f"weights from {path}" if path is not None else f"RANDOM weights (seed {seed}), good for measuring time and nothing else"
    announce(f"Converting {record.name} once for this machine, {weights}")
    tensors = None if path is None else read_weights(record, path)
    return timm_models.convert(tensors.record(record) if isinstance(tensors, KerasWeights) else record, tensors=tensors, seed=seed)


def _lite_tensors(record: BackboneRecord, path: Path) -> tuple[int, dict[str, Array]]:
    """The variant of an EfficientNet-Lite, and the entries of its weight file."""
    from headstart.backbones import efficientnet_lite
    from headstart.backbones.keras_networks import KerasWeights, read_weights
    from headstart.backbones.weight_files import unwrapped

    variant, tensors = efficientnet_lite.variant_of(record.name), read_weights(record, path)
    assert not isinstance(tensors, KerasWeights)  # Keras has no EfficientNet-Lite
    return variant, unwrapped(tensors, chain(*efficientnet_lite.entry_names(variant)))


def expected_means(backbone: Backbone) -> npt.NDArray[np.float64] | None:
    """The mean of each feature of the last layer over images like those of the pre-training; None where the network does not tell.

    The embedded networks do: see `headstart.backbones.efficientnet_lite.expected_means`.
    """
    from headstart.backbones import efficientnet_lite

    record = backbone.record
    if not record.embedded or backbone.tuned or backbone.weights_digest != record.weights_digest:
        return None
    means: npt.NDArray[np.float64] = efficientnet_lite.expected_means(*_lite_tensors(record, embedded_weights(record)))
    return means


def torch_network(backbone: Backbone, *, weights: str | Path | None = None, announce: Announce = to_stderr, seed: int = 0) -> Any:
    """The PyTorch module of a loaded backbone: images (uint8, N x H x W x 3) to features, as its ONNX file computes them.

    Arguments and errors as of `load_backbone`.
    """
    asked = Specification.parse(backbone.name)
    one = len(asked.names) == 1  # whose record says how its images were prepared, which its weights may have settled
    records = [dataclasses.replace(backbone.record, name=asked.names[0])] if one else [_find(part) for part in asked.names]
    networks = [_torch_network(record, weights, announce=announce, seed=seed) for record in records]
    return networks[0] if asked.plain else composed_module(networks, both_sides=asked.mirrored)


def _torch_network(record: BackboneRecord, weights: str | Path | None, *, announce: Announce, seed: int) -> Any:
    from headstart.backbones import efficientnet_lite
    from headstart.backbones.keras_networks import read_weights

    timm_models.require(f"The network {record.name} in PyTorch")
    if weights is not None and hub_detectors.backbone_name(weights) == record.name:
        return hub_detectors.torch_backbone(hub_detectors.HubDetector.find(weights, announce=announce))
    path = find_weights(record, weights, seed=seed, announce=announce).path
    tensors: Mapping[str, Array] | KerasWeights | None
    if path is None or not record.embedded:
        tensors = None if path is None else read_weights(record, path)
    else:
        tensors = efficientnet_lite.timm_entries(*_lite_tensors(record, path))
    return timm_models.build(record, tensors=tensors, seed=seed)[0]


def file_of_keras(name: str) -> Path | None:
    """The file with the ImageNet weights of a backbone that Keras has downloaded to this machine, or None; arguments as of `find`."""
    from headstart.backbones.keras_networks import file_at_home

    return file_at_home(find(name))


def _known_digest(record: BackboneRecord | None, weights: str | Path | None) -> str | None:
    """The SHA-256 of the weights as far as it is known without a download; None stands for the published ones."""
    if weights is None:
        return record.weights_digest if record else None
    return file_digest(given_file(weights)) if weights != RANDOM else None


def _with_alias(record: BackboneRecord, name: str) -> BackboneRecord:
    """Add the name without tag by which a timm network was requested, so that it is found again without timm."""
    known = {folded(spelling) for spelling in (record.name, *record.aliases)}
    return record if folded(name) in known else dataclasses.replace(record, aliases=(*record.aliases, name.strip()))


class NetworkCache:
    """The converted networks in a cache folder."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache / "networks"

    def find(self, name: str, *, weights_digest: str | None = None) -> Backbone | None:
        """An undamaged network called `name`, converted from these weights (by default: its published ones), or None."""
        ending = f"{'' if weights_digest is None else weights_digest[:16]}-v{BUILD}.json"
        for description in sorted(self.folder.glob(f"*{ending}")):
            found = _described(description)
            if found is None or folded(name) not in map(folded, (found.record.name, *found.record.aliases)):
                continue
            asked = found.weights_source == found.record.source if weights_digest is None else found.weights_digest == weights_digest
            if asked and _is_whole(found):
                return found
        return None

    def composed(self, parts: Sequence[Backbone], record: BackboneRecord, make: Callable[..., Conversion]) -> Backbone:
        """The network that `make` composes of parts and describes as `record`."""
        digest, source = composed_digest(parts), "; ".join(dict.fromkeys(part.weights_source for part in parts))
        found = self.find(record.name, weights_digest=digest)
        found = found or self.add(make(parts, record), weights_digest=digest, weights_source=source)
        return dataclasses.replace(found, record=record)

    def handcrafted(self, record: BackboneRecord) -> Backbone:
        """The graph of handcrafted features for images of the record's size."""
        digest = handcrafted.digest(record)
        found = self.find(record.name, weights_digest=digest)
        return found or self.add(handcrafted.convert(record), weights_digest=digest, weights_source=record.source)

    def add(self, conversion: Conversion, *, weights_digest: str, weights_source: str) -> Backbone:
        """Write a converted network and its description, and return the backbone. Raises BackboneError where that fails."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", conversion.record.name)
        backbone = Backbone(
            record=conversion.record, network=self.folder / f"{name}-{weights_digest[:16]}-v{BUILD}.onnx",
            network_digest=hashlib.sha256(conversion.network).hexdigest(), weights_digest=weights_digest, weights_source=weights_source,
            layers=conversion.layers, any_size=conversion.any_size,
            tokenizer_digest=None if conversion.tokenizer is None else hashlib.sha256(conversion.tokenizer).hexdigest(),
        )  # fmt: skip
        described = {key: value for key, value in dataclasses.asdict(backbone).items() if key not in ("network", "tuned", "parts")}
        description = json.dumps({**described, "versions": conversion.versions}, indent=2)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(backbone.network, conversion.network, shared=True)
            if conversion.tokenizer is not None:
                write_file(backbone.tokenizer, conversion.tokenizer, shared=True)
            write_file(backbone.network.with_suffix(".json"), description.encode(), shared=True)
        except OSError as error:
            raise BackboneError(
                f"The converted network cannot be written to {self.folder}: {error.strerror or error}. "
                "Free some space or choose another folder with --cache DIR."
            ) from None
        return backbone


def _described(description: Path) -> Backbone | None:
    """The backbone of a description file; None where the file is damaged."""
    try:
        entries = json.loads(description.read_text(encoding="utf-8"))
        entries["record"] = BackboneRecord.from_dict(entries["record"])
        entries["layers"] = tuple(Layer(**layer) for layer in entries["layers"])
        entries.pop("versions", None)
        return Backbone(**entries, network=description.with_suffix(".onnx"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_whole(backbone: Backbone) -> bool:
    try:
        same = backbone.tokenizer_digest is None or file_digest(backbone.tokenizer) == backbone.tokenizer_digest
        return same and file_digest(backbone.network) == backbone.network_digest
    except OSError:
        return False
