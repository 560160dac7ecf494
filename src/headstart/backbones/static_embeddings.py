"""Static embeddings: a vector for each piece, whatever stands beside it, averaged over a text (Model2Vec, Tulkens and van Dongen 2024).

Hundreds of times faster than an encoder, and less accurate. The graph takes and gives what those of `headstart.backbones.bert` do; its only
layer is ``last``, the mean over the pieces before it is normalised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.backbones.bert import INPUTS
from headstart.errors import BackboneError
from headstart.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]
KIND = "model2vec"
"""``model_type`` in the configuration of such a folder."""


def table_of(tensors: Mapping[str, Array]) -> Array:
    """The vectors of all pieces (pieces x dim, float32) of a file of Model2Vec, which may share vectors and weigh pieces.

    Raises BackboneError where the file has no table, or one that does not fit its weights.
    """
    table = tensors.get("embeddings")
    if table is None or table.ndim != 2 or not table.size:
        raise BackboneError("The weights have no table 'embeddings' of pieces x numbers: is this a folder of Model2Vec?")
    table = table.astype(np.float32)
    try:
        if (mapping := tensors.get("mapping")) is not None:
            table = table[mapping]
        if (weights := tensors.get("weights")) is not None:
            table = table * weights.astype(np.float32)[: len(table), None]
    except (IndexError, ValueError):
        raise BackboneError("The table 'embeddings', 'mapping' and 'weights' do not fit each other: copy the folder again.") from None
    return table


def plain_tokenizer(tokenizer: bytes) -> tuple[bytes, int | None]:
    """A ``tokenizer.json`` without the special pieces around a text, which have no place in a mean; and the number of the unknown piece."""
    try:
        entries = json.loads(tokenizer)
        model = entries["model"]
        vocabulary, unknown = model["vocab"], model.get("unk_token")
        number = vocabulary.get(unknown) if isinstance(vocabulary, dict) else model.get("unk_id")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BackboneError("tokenizer.json is not one of the library tokenizers: copy the folder again.") from None
    return json.dumps({**entries, "post_processor": None}, ensure_ascii=False).encode(), number


def build(table: Array, *, unknown: int | None = None) -> onnx.ModelProto:
    """The network that averages the vectors of the pieces of each window, all but the `unknown` one; of none of them it is 0."""
    graph, one = OnnxGraph(), (np.float32, ("N", table.shape[1]))
    share = graph.node("Cast", "attention_mask", to=1)
    if unknown is not None:
        known = graph.node("Not", graph.node("Equal", "input_ids", graph.integers(unknown)))
        share = graph.node("Mul", share, graph.node("Cast", known, to=1))
    row = graph.node("Unsqueeze", share, graph.integers(1))  # (R, 1, T)
    vectors = graph.node("Gather", graph.constant(table), "input_ids", axis=0)
    total = graph.node("Squeeze", graph.node("MatMul", row, vectors), graph.integers(1))
    count = graph.node("Max", graph.node("ReduceSum", share, graph.integers(1), keepdims=1), graph.constant(1.0))
    graph.node("MatMul", "windows", graph.node("Div", total, count), output="features")
    return graph.model(inputs=INPUTS, outputs={"features": one})
