"""Reads the weights back from an ONNX file of an encoder that PyTorch has exported, whose matrices may be 8-bit numbers with scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import BackboneError

Array = np.ndarray[Any, np.dtype[Any]]


def read_onnx_weights(path: Path) -> dict[str, Array]:
    """The parameters under the names that they had in PyTorch, as far as the file tells; 8-bit ones as float32.

    An exporter keeps the names of vectors and tables; a matrix that it has transposed is called as the bias that is added to its product.
    Raises BackboneError where the file cannot be read.
    """
    import onnx
    from onnx import numpy_helper

    try:
        graph = onnx.load(path, load_external_data=False).graph
        found: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except Exception as error:  # of protocol buffers, of NumPy, of onnx
        raise BackboneError(f"{path}: cannot be read as an ONNX file ({type(error).__name__}). Install its package again.") from None
    products = dict[str, str]()
    for node in graph.node:
        inputs = list(node.input)
        if node.op_type == "Cast" and inputs[0] in found and found[inputs[0]].dtype in (np.int8, np.uint8):
            found[node.output[0]] = found[inputs[0]].astype(np.float32)
        elif node.op_type == "Mul" and all(name in found for name in inputs):
            found[node.output[0]] = found[inputs[0]] * found[inputs[1]]
        elif node.op_type == "MatMul" and inputs[1] in found:
            products[node.output[0]] = inputs[1]
        elif node.op_type == "Add" and inputs[0] in products and inputs[1] in found and inputs[1].endswith(".bias"):
            found[f"{inputs[1].removesuffix('bias')}weight"] = np.ascontiguousarray(found[products[inputs[0]]].T)
    return {name: value for name, value in found.items() if name.endswith((".weight", ".bias")) and value.dtype == np.float32}
