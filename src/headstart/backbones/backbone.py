"""A loaded backbone: a network file without its top, and what has to be known to use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.backbones.records import BackboneRecord

if TYPE_CHECKING:
    from headstart.modalities.image import Preprocessing


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
        weights_source: where these came from, in words.
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
