"""The handcrafted features by name: what each is, its record as of a backbone, and how its network is made.

`headstart.backbones.handcrafted_graphs` writes the graphs; it is imported only where one is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from headstart.backbones.records import CODE_SOURCE, BackboneRecord, Conversion, folded, layers_from_sizes

_BUILD = "1"  # raised whenever a graph would come out differently


@dataclass(frozen=True)
class _Entry:
    """A line for people, the side of its images, how many features there are, and how many of its numbers were learned."""

    title: str
    size: int
    dim: int
    aliases: tuple[str, ...] = ()
    parameters: int = 0


_ENTRIES: Mapping[str, _Entry] = {
    "hog": _Entry("histograms of oriented gradients (Dalal and Triggs 2005): shape", 64, 1_764),
    "sift": _Entry("Fisher vectors of dense SIFT (Lowe 2004, Perronnin et al. 2010): local patterns", 128, 4_224, parameters=12_576),
    "color": _Entry("joint colour histograms of the image and its quarters", 64, 1_080, aliases=("colour",)),
}
NAMES = tuple(_ENTRIES)
"""As `headstart fit --features` takes them."""
TITLES: Mapping[str, str] = {name: entry.title for name, entry in _ENTRIES.items()}
"""What each is, in a line."""


@cache
def records() -> tuple[BackboneRecord, ...]:
    """A record of each, as of a backbone; figures of accuracy there are none."""
    return tuple(
        BackboneRecord(
            name=name, aliases=entry.aliases, source=CODE_SOURCE + name, licence="apache-2.0", input_size=entry.size,
            mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bicubic", crop=1.0, fit="squash", dim=entry.dim,
            parameters=entry.parameters,
        )
        for name, entry in _ENTRIES.items()
    )  # fmt: skip


def find_handcrafted(name: str) -> BackboneRecord | None:
    """The record of the handcrafted features called `name`, whatever its case and punctuation, or None."""
    return next((record for record in records() if folded(name) in map(folded, (record.name, *record.aliases))), None)


def digest(record: BackboneRecord) -> str:
    """The SHA-256 of everything that the features depend on besides the image, hexadecimal: what stands for weights."""
    from headstart.backbones.handcrafted_graphs import FEATURES, Sift, vocabulary_file

    feature = FEATURES[record.name]
    found = hashlib.sha256(f"{_BUILD} {record.input_size} {feature}".encode())
    if isinstance(feature, Sift):
        found.update(vocabulary_file())
    return found.hexdigest()


def convert(record: BackboneRecord) -> Conversion:
    """The graph for images of the record's `input_size`, with the features as its one layer."""
    import onnx

    from headstart.backbones.handcrafted_graphs import FEATURES, resized
    from headstart.onnx_graph import OnnxGraph

    graph, feature = OnnxGraph(), FEATURES[record.name]
    pixels = graph.node("Transpose", graph.node("Cast", "images", to=onnx.TensorProto.FLOAT), perm=[0, 3, 1, 2])
    found = feature.write(graph, resized(graph, pixels, record.input_size, feature.size))
    graph.node("Identity", found, output="features")
    model = graph.model(inputs={"images": ("uint8", ("N", "H", "W", 3))}, outputs={"features": ("float32", ("N", feature.dim))})
    return Conversion(
        network=model.SerializeToString(), record=record, layers=layers_from_sizes((("last", feature.dim),)), any_size=False,
        versions={"onnx": onnx.__version__},
    )  # fmt: skip
