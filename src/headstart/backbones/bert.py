"""Encoders of BERT's kind written as an ONNX graph straight from their weights, without PyTorch: BERT, RoBERTa, XLM-R and DistilBERT.

Architecture: Devlin et al., "BERT" (2019); RoBERTa (Liu et al. 2019), XLM-R (Conneau et al. 2020) and DistilBERT (Sanh et al. 2019) differ
in names, in where the positions begin, and in whether there are segments. Layer normalisation comes after each sum.

The graph takes windows of pieces: ``input_ids`` and ``attention_mask`` (int64, R x T, padding on the right), and ``windows`` (float32,
N x R), whose row i averages the windows of document i. It gives ``features`` (float32, N x D): the means over the pieces of the embeddings
and of each layer, then the maximum and the first piece of the last layer, and at the end, as ``last``, the mean of the last layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.backbones.weight_files import unwrapped
from headstart.errors import BackboneError, nearest
from headstart.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]

_MASKED = -1e9  # added to the scores of padding: none of it remains after the softmax
_GELU = ("gelu", "gelu_python")


@dataclass(frozen=True)
class Names:
    """What a family calls the entries of its weights and of its configuration; ``{}`` is the number of a layer."""

    block: str
    query: str
    key: str
    value: str
    mixed: str  # the linear layer after the attention
    mixed_norm: str
    wide: str
    narrow: str
    narrow_norm: str
    sizes: tuple[str, str, str, str]  # of the hidden states, of the wide layer, number of heads, number of layers


_BERT = Names(
    "encoder.layer.{}.", "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
    ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
)  # fmt: skip
_DISTILBERT = Names(
    "transformer.layer.{}.", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm", "ffn.lin1",
    "ffn.lin2", "output_layer_norm", ("dim", "hidden_dim", "n_heads", "n_layers"),
)  # fmt: skip
_FAMILIES = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "camembert": _BERT, "distilbert": _DISTILBERT}
FAMILIES = tuple(_FAMILIES)
"""The values of ``model_type`` in a ``config.json`` for which `build` writes the graph."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of one encoder, and how its family names things."""

    names: Names
    dim: int
    wide: int
    heads: int
    layers: int
    epsilon: float
    positions: int  # the longest window, special pieces included
    first_position: int  # the row of the table for the first piece
    segments: int  # rows of the table of segments, 0 where there is none

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Architecture:
        """From the entries of a ``config.json``. Raises BackboneError where they are missing, or ask for what `build` does not write."""
        kind = str(config.get("model_type", ""))
        names = _FAMILIES.get(kind)
        if names is None:
            raise BackboneError(f"{kind!r} is no network that Headstart writes itself: {', '.join(FAMILIES)}.{nearest(kind, FAMILIES)}")
        activation = config.get("activation" if kind == "distilbert" else "hidden_act", "gelu")
        positions = config.get("position_embedding_type") or "absolute"
        for what, value, allowed in (("activation", activation, _GELU), ("position_embedding_type", positions, ("absolute",))):
            if value not in allowed:
                raise BackboneError(f"The {what} of this {kind} is {value!r}; Headstart writes {allowed[0]!r} only.")
        if config.get("is_decoder") or config.get("add_cross_attention"):
            raise BackboneError(f"This {kind} is a decoder; Headstart writes encoders.")
        try:
            dim, wide, heads, layers = (int(config[name]) for name in names.sizes)
            first = int(config.get("pad_token_id", 1)) + 1 if kind in ("roberta", "xlm-roberta", "camembert") else 0
            return cls(
                names=names, dim=dim, wide=wide, heads=heads, layers=layers, epsilon=float(config.get("layer_norm_eps", 1e-12)),
                positions=int(config["max_position_embeddings"]) - first, first_position=first,
                segments=0 if kind == "distilbert" else int(config.get("type_vocab_size", 2)),
            )  # fmt: skip
        except KeyError as error:
            raise BackboneError(f"The configuration of this {kind} lacks {error}: is its config.json whole?") from None

    @property
    def pooled(self) -> tuple[tuple[str, int], ...]:
        """(name, length) of the pooled outputs, in the order in which the graph puts them side by side."""
        names = ("embeddings", *(f"layer{number}" for number in range(1, self.layers)), "max", "cls", "last")
        return tuple((name, self.dim) for name in names)


def entry_names(architecture: Architecture) -> list[str]:
    """The entries of the weights that the graph needs."""
    names, tables = architecture.names, ["word", "position", *(["token_type"] if architecture.segments else [])]
    linear = (names.query, names.key, names.value, names.mixed, names.mixed_norm, names.wide, names.narrow, names.narrow_norm)
    return [
        *(f"embeddings.{table}_embeddings.weight" for table in tables),
        *(f"embeddings.LayerNorm.{part}" for part in ("weight", "bias")),
        *(f"{names.block.format(number)}{name}.{part}" for number in range(architecture.layers) for name in linear
          for part in ("weight", "bias")),
    ]  # fmt: skip


class _Writer:
    """Writes the parts of the network into a graph, checking the shape of each entry."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Array], graph: OnnxGraph) -> None:
        self.of, self.graph = architecture, graph
        self._tensors = unwrapped(tensors, entry_names(architecture))

    def take(self, name: str, *shape: int | None) -> Array:
        """An entry as float32; None in its shape is any length."""
        value = self._tensors.get(name)
        if value is None and "LayerNorm" in name:  # as TensorFlow called them
            value = self._tensors.get(name.replace("weight", "gamma").replace("bias", "beta"))
        fits = value is not None and len(value.shape) == len(shape) and all(b in (None, a) for a, b in zip(value.shape, shape, strict=True))
        if value is None or not fits:
            found = "is missing" if value is None else f"has shape {tuple(value.shape)}"
            expected = " x ".join("any" if size is None else str(size) for size in shape)
            raise BackboneError(f"The weights do not fit the configuration: {name} {found}, expected {expected}. Are both of one network?")
        return value.astype(np.float32)

    def norm(self, value: str, name: str) -> str:
        """Layer normalisation."""
        gain, offset = (self.graph.constant(self.take(f"{name}.{part}", self.of.dim)) for part in ("weight", "bias"))
        return self.graph.node("LayerNormalization", value, gain, offset, axis=-1, epsilon=self.of.epsilon)

    def linear(self, value: str, name: str, *, inputs: int, outputs: int, scale: float = 1.0) -> str:
        """A matrix and a bias."""
        weight, bias = self.take(f"{name}.weight", outputs, inputs), self.take(f"{name}.bias", outputs)
        product = self.graph.node("MatMul", value, self.graph.constant(np.float32(scale) * weight.T))
        return self.graph.node("Add", product, self.graph.constant(np.float32(scale) * bias))

    def embeddings(self, ids: str, separator: int | None) -> str:
        """The sum of the tables of pieces, positions and segments, normalised: (R, T, dim)."""
        graph, of = self.graph, self.of
        words = graph.node("Gather", graph.constant(self.take("embeddings.word_embeddings.weight", None, of.dim)), ids, axis=0)
        table = self.take("embeddings.position_embeddings.weight", of.first_position + of.positions, of.dim)[of.first_position :]
        segments = (
            self.take("embeddings.token_type_embeddings.weight", of.segments, of.dim) if of.segments else np.zeros((1, 1), np.float32)
        )
        table = table + segments[0]
        length = graph.node("Slice", graph.node("Shape", ids), graph.integers(1), graph.integers(2))
        places = graph.node("Slice", graph.constant(table), graph.integers(0), length, graph.integers(0))
        total = graph.node("Add", words, places)
        if separator is not None and len(segments) > 1:
            ends = graph.node("Cast", graph.node("Equal", ids, graph.integers(separator)), to=1)
            ended = graph.node("Min", graph.node("CumSum", ends, graph.constant(1, dtype=np.int64), exclusive=1), graph.constant(1.0))
            second = graph.node("Mul", graph.node("Unsqueeze", ended, graph.integers(2)), graph.constant(segments[1] - segments[0]))
            total = graph.node("Add", total, second)
        return self.norm(total, "embeddings.LayerNorm")

    def block(self, value: str, bias: str, number: int) -> str:
        """Attention and two linear layers, each added to its input and normalised: (R, T, dim)."""
        graph, of, names = self.graph, self.of, self.of.names
        before, side = names.block.format(number), of.dim // of.heads
        split = graph.integers(0, 0, of.heads, side)

        def part(name: str, *order: int, scale: float = 1.0) -> str:
            heads = graph.node("Reshape", self.linear(value, before + name, inputs=of.dim, outputs=of.dim, scale=scale), split)
            return graph.node("Transpose", heads, perm=list(order))

        query, key = part(names.query, 0, 2, 1, 3, scale=1 / math.sqrt(side)), part(names.key, 0, 2, 3, 1)
        weights = graph.node("Softmax", graph.node("Add", graph.node("MatMul", query, key), bias), axis=-1)
        mixed = graph.node("Transpose", graph.node("MatMul", weights, part(names.value, 0, 2, 1, 3)), perm=[0, 2, 1, 3])
        mixed = self.linear(graph.node("Reshape", mixed, graph.integers(0, 0, of.dim)), before + names.mixed, inputs=of.dim, outputs=of.dim)
        value = self.norm(graph.node("Add", mixed, value), before + names.mixed_norm)
        wide = self._gelu(self.linear(value, before + names.wide, inputs=of.dim, outputs=of.wide))
        narrow = self.linear(wide, before + names.narrow, inputs=of.wide, outputs=of.dim)
        return self.norm(graph.node("Add", narrow, value), before + names.narrow_norm)

    def _gelu(self, value: str) -> str:
        """Each x times P(a normal deviate is below x), in the form that every engine computes as one (Hendrycks and Gimpel 2016)."""
        graph = self.graph
        error = graph.node("Erf", graph.node("Div", value, graph.constant(math.sqrt(2.0))))
        return graph.node("Mul", graph.node("Mul", value, graph.node("Add", error, graph.constant(1.0))), graph.constant(0.5))


def build(config: Mapping[str, Any], tensors: Mapping[str, Array], *, separator: int | None = None) -> onnx.ModelProto:
    """Write the network of a ``config.json`` with these weights, under the names of the library transformers, whatever their prefix.

    Pieces after the first `separator` of a window are in the second segment, where the network has two; so is the second text of a pair.
    Raises BackboneError for another architecture, and where an entry is missing or of another shape.
    """
    graph = OnnxGraph()
    writer = _Writer(Architecture.of(config), tensors, graph)
    mask = graph.node("Cast", "attention_mask", to=1)
    share = graph.node("Unsqueeze", mask, graph.integers(1))  # (R, 1, T)
    bias = graph.node("Mul", graph.node("Sub", share, graph.constant(1.0)), graph.constant(-_MASKED))
    states = [writer.embeddings("input_ids", separator)]
    heads = graph.node("Unsqueeze", bias, graph.integers(1))  # (R, 1, 1, T)
    for number in range(writer.of.layers):
        states.append(writer.block(states[-1], heads, number))
    close(graph, states, share)
    return graph.model(inputs=INPUTS, outputs={"features": (np.float32, ("N", sum(size for _, size in writer.of.pooled)))})


INPUTS = {"input_ids": (np.int64, ("R", "T")), "attention_mask": (np.int64, ("R", "T")), "windows": (np.float32, ("N", "R"))}
"""The inputs of every network of texts."""


def close(graph: OnnxGraph, states: list[str], share: str) -> None:
    """Pool the hidden states (R, T, dim) by the mask `share` (float32, R x 1 x T), and average the windows: ``features``."""
    one = graph.integers(1)
    count = graph.node("Max", graph.node("ReduceSum", share, graph.integers(2), keepdims=1), graph.constant(1.0))
    weights = graph.node("Div", share, count)
    means = [graph.node("Squeeze", graph.node("MatMul", weights, state), one) for state in states]
    last, outside = states[-1], graph.node("Transpose", graph.node("Sub", share, graph.constant(1.0)), perm=[0, 2, 1])
    hidden = graph.node("Add", last, graph.node("Mul", outside, graph.constant(-_MASKED)))
    largest = graph.node("ReduceMax", hidden, axes=[1], keepdims=0)
    first = graph.node("Squeeze", graph.node("Gather", last, graph.integers(0), axis=1), one)
    pooled = graph.node("Concat", *means[:-1], largest, first, means[-1], axis=1)
    graph.node("MatMul", "windows", pooled, output="features")
