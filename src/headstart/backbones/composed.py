"""Backbones put together from others: two networks side by side, at another image size, or averaged over an image and its mirror image.

A specification such as ``lite0+lite2@320+mirrored`` names the parts. The whole is again one network on disk, so that whatever takes a
backbone takes this one too: its features are stored, saved, exported and served under its own name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headstart.backbones.records import Backbone, BackboneRecord, Conversion, Layer, layers_from_sizes
from headstart.errors import BackboneError

if TYPE_CHECKING:
    from headstart.onnx_graph import OnnxGraph

MIRRORED = "mirrored"
_BUILD = "2"  # raised whenever a composition would come out differently


@dataclass(frozen=True)
class Specification:
    """What a text asks for: names of backbones, a side of the square input in pixels (None for their own), and mirror images."""

    names: tuple[str, ...]
    size: int | None = None
    mirrored: bool = False

    def __str__(self) -> str:
        first, *others = self.names
        return "+".join([first + (f"@{self.size}" if self.size else ""), *others, *([MIRRORED] if self.mirrored else [])])

    @classmethod
    def parse(cls, text: str) -> Specification:
        """``NAME[@SIZE][+NAME[@SIZE]...][+mirrored]``; BackboneError for anything else."""
        names, sizes, mirrored = [], set(), False
        for part in text.split("+"):
            name, at, size = (piece.strip() for piece in part.partition("@"))
            if name.casefold() == MIRRORED and not at:
                mirrored = True
                continue
            if not name or (at and not re.fullmatch(r"\d{2,4}", size)):
                raise BackboneError(
                    f"A backbone is NAME, NAME@SIZE, or several of them joined by + (lite0+lite2, lite0@320, lite0+mirrored); got {text!r}."
                )
            names.append(name)
            if at:
                sizes.add(int(size))
        if not names or len(sizes) > 1:
            wrong = "there is none" if not names else f"got the sizes {', '.join(map(str, sorted(sizes)))}"
            raise BackboneError(f"The parts of {text!r} need a backbone and one image size for all; {wrong}.")
        return cls(tuple(names), next(iter(sizes), None), mirrored)

    @property
    def plain(self) -> bool:
        """Whether this is one backbone as it is, or at another image size."""
        return len(self.names) == 1 and not self.mirrored


def composed_record(parts: Sequence[BackboneRecord], asked: Specification) -> BackboneRecord:
    """The record of the whole: sums and common values of its parts; it is cut and resized as the first of them."""
    first, names = parts[0], [part.name for part in parts]
    if len(set(names)) < len(names):
        raise BackboneError(f"{'+'.join(names)}: the same network twice gives the same features twice. Name each once.")
    size = asked.size or max(part.input_size for part in parts)
    record = first if size == first.input_size else replace(first, input_size=size)
    if asked.plain:
        return record

    def total(name: str, times: int = 1) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if None in values else sum(values) * times

    licences = dict.fromkeys(part.licence or "unknown" for part in parts)
    return replace(
        record, name="+".join([*names, *([MIRRORED] if asked.mirrored else [])]), aliases=(), weights_digest=None,
        source=" ".join(part.source for part in parts), licence=" and ".join(licences), dim=total("dim"), parameters=total("parameters"),
        gflops=total("gflops", 1 + asked.mirrored), depth=max(part.depth or 0 for part in parts) or None, file_size=total("file_size"),
        top1=None, top5=None, accuracy_source=None,
    )  # fmt: skip


def composed_digest(parts: Sequence[Backbone]) -> str:
    """The digest of the weights of all parts and of how they are composed, hexadecimal."""
    return hashlib.sha256(" ".join([_BUILD, *(part.weights_digest for part in parts)]).encode()).hexdigest()


def check_size(part: Backbone, size: int) -> None:
    """BackboneError where a network cannot take images of `size` pixels."""
    if size != part.record.input_size and not part.any_size:
        raise BackboneError(f"{part.name} takes images of {part.record.input_size} pixels only, not of {size}. Ask for that size.")


def joined(parts: Sequence[Backbone], record: BackboneRecord) -> Conversion:
    """One network of several: the stages of all; and what is before their classifiers, last and as one layer.

    Handcrafted features beside a network are a stage of their name.
    """
    from headstart.onnx_graph import OnnxGraph

    graph = OnnxGraph()
    stages: list[str] = []
    lasts: list[str] = []
    sizes: list[tuple[str, int]] = []
    for part, end in zip(parts, _ends(parts), strict=True):
        features, name = _grafted(graph, part, "images"), part.name.partition("+")[0]
        if end:
            stages.append(graph.node("Slice", features, *(graph.integers(value) for value in (0, end, 1))))
        if end < part.dim:
            lasts.append(graph.node("Slice", features, *(graph.integers(value) for value in (end, part.dim, 1))))
        sizes += [
            (f"{name}.{layer.name}" if len(part.layers) > 1 else name, layer.stop - layer.start)
            for layer in part.layers
            if layer.stop <= end
        ]
    sizes.append(("last", sum(part.dim - end for part, end in zip(parts, _ends(parts), strict=True))))
    graph.node("Concat", *stages, *lasts, output="features", axis=1)
    graph.share()
    return _conversion(graph, record, layers_from_sizes(tuple(sizes)), any_size=all(part.any_size for part in parts))


def columns(parts: Sequence[Backbone]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each of the networks that were `joined`, the columns (start, stop) of the whole that make up its features, in order."""
    found, stages, last = [], 0, sum(_ends(parts))
    for part, end in zip(parts, _ends(parts), strict=True):
        slices = ((stages, stages + end), (last, last + part.dim - end))
        stages, last = slices[0][1], slices[1][1]
        found.append(tuple((start, stop) for start, stop in slices if start < stop))
    return tuple(found)


def _ends(parts: Sequence[Backbone]) -> list[int]:
    """For each part, where its share of the last layer begins in its features; handcrafted features beside a network have none."""
    alone = all(part.record.handcrafted for part in parts)
    return [part.dim if part.record.handcrafted and not alone else part.last.start for part in parts]


def mirrored(parts: Sequence[Backbone], record: BackboneRecord) -> Conversion:
    """A network whose features are the mean over an image and its mirror image.

    Each goes through nodes of its own, with the weights in common: so it is seen in the graph which maps are mirrored (`heat_maps`).
    """
    from headstart.onnx_graph import OnnxGraph

    (part,), graph = parts, OnnxGraph()
    flipped = graph.node("Slice", "images", *(graph.integers(value) for value in (-1, -(1 << 63) + 1, 2, -1)))
    both = [_grafted(graph, part, pixels) for pixels in ("images", flipped)]
    graph.node("Mul", graph.node("Add", *both), graph.constant(0.5), output="features")
    graph.share()
    return _conversion(graph, record, part.layers, any_size=part.any_size)


def _grafted(graph: OnnxGraph, part: Backbone, pixels: str) -> str:
    import onnx

    network = onnx.load(str(part.network))
    return graph.graft(network, feed={network.graph.input[0].name: pixels})["features"]


def _conversion(graph: OnnxGraph, record: BackboneRecord, layers: tuple[Layer, ...], *, any_size: bool) -> Conversion:
    import onnx

    model = graph.model(inputs={"images": ("uint8", ("N", "H", "W", 3))}, outputs={"features": ("float32", ("N", layers[-1].stop))})
    network, versions = model.SerializeToString(), {"onnx": onnx.__version__}
    return Conversion(network=network, record=record, layers=layers, any_size=any_size, versions=versions)


def composed_module(networks: Sequence[Any], *, both_sides: bool) -> Any:
    """The joined network as a PyTorch module, of the modules of its parts (`PooledStages`); with `both_sides` mirrored as well."""
    import torch

    class Composed(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(networks)

        def forward(self, images: Any) -> Any:
            if both_sides:
                images = torch.cat([images, images.flip(2)])
            found = [part(images) for part in self.parts]
            ends = [part.sizes[-1] for part in self.parts]
            pairs = list(zip(found, ends, strict=True))
            features = torch.cat([*(value[:, :-end] for value, end in pairs), *(value[:, -end:] for value, end in pairs)], dim=1)
            return features.unflatten(0, (2, -1)).mean(dim=0) if both_sides else features

    return Composed().eval()
