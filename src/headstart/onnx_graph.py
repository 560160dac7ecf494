"""A small builder of ONNX graphs: names the values, keeps the constants, writes one self-contained model.

Backbones and heads both write themselves into such a graph, so that a saved run is one file from raw pixels to probabilities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8  # what every engine of the last years reads

Values = Mapping[str, tuple[npt.DTypeLike, Sequence[int | str]]]
"""Inputs or outputs of a graph: names to (dtype, shape); a string in a shape is a free dimension."""


class OnnxGraph:
    """A graph under construction. Values are referred to by name; every method that adds a node returns its output's name."""

    def __init__(self, *, prefix: str = "") -> None:
        self._prefix = prefix
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._defaults: list[Any] = []
        self._count = 0
        self._opset = OPSET

    def _fresh(self, stem: str) -> str:
        self._count += 1
        return f"{self._prefix}{stem}_{self._count}"

    def constant(self, value: npt.ArrayLike, *, dtype: npt.DTypeLike = np.float32) -> str:
        """Add an initializer holding `value` and return its name."""
        from onnx import numpy_helper

        name = self._fresh("constant")
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), name))
        return name

    def default(self, name: str, value: float) -> str:
        """Add an input of the graph, float32 without dimensions, that need not be given: it then has this value. Returns its name."""
        from onnx import numpy_helper

        self._defaults.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def integers(self, *values: int) -> str:
        """Add an int64 vector, as operators take for axes, shapes and places, and return its name."""
        return self.constant(values, dtype=np.int64)

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add one node with one output and return the output's name."""
        from onnx import helper

        name = output or self._fresh(operator.lower())
        self._nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def top(self, values: str, count: int, *, largest: bool = True) -> tuple[str, str]:
        """Add TopK over the columns of `values` (N, n); return the names of values and places, int64, (N, count), the best first."""
        from onnx import helper

        name = self._fresh("topk")
        inputs, outputs = [values, self.integers(count)], [f"{name}_values", name]
        self._nodes.append(helper.make_node("TopK", inputs, outputs, name=name, axis=1, largest=int(largest), sorted=1))
        return outputs[0], outputs[1]

    def mirror_image(self, value: str, *, axis: int) -> str:
        """Add what reverses a value along one axis, and return its name."""
        ends = (self.integers(-1), self.integers(-(2**31)), self.integers(axis), self.integers(-1))
        return self.node("Slice", value, *ends)

    def graft(self, model: onnx.ModelProto, *, feed: Mapping[str, str]) -> dict[str, str]:
        """Copy the nodes of another model into this graph, and return its output names mapped to names here.

        `feed` maps the other model's input names to values of this graph. Names inside the other graph are prefixed, so that two grafts
        never collide. The whole takes the later of the operator sets.
        """
        from onnx import compose

        prefix = self._fresh("graft") + "/"
        inner = compose.add_prefix(model, prefix).graph
        renamed = {prefix + theirs: ours for theirs, ours in feed.items()}
        for node in inner.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
        self._nodes.extend(inner.node)
        self._constants.extend(inner.initializer)
        self._opset = max([self._opset, *(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))])
        return {output.name.removeprefix(prefix): output.name for output in inner.output}

    def share(self) -> int:
        """Compute once what several nodes compute alike from equal constants and values; returns how many nodes that spares.

        Nothing is done where a node holds a graph of its own, which may refer to any value by its name.
        """
        from onnx import AttributeProto

        if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for node in self._nodes for attribute in node.attribute):
            return 0
        names: dict[str, str] = {}
        first: dict[tuple[Any, ...], Sequence[str]] = {}

        def spared(key: tuple[Any, ...], outputs: Sequence[str]) -> bool:
            earlier = first.setdefault(key, outputs)
            names.update(zip(outputs, earlier, strict=True))
            return earlier is not outputs

        def without_name(tensor: Any) -> bytes:
            name, tensor.name = tensor.name, ""
            digest = hashlib.sha256(tensor.SerializeToString(deterministic=True)).digest()
            tensor.name = name
            return digest

        self._constants = [tensor for tensor in self._constants if not spared((without_name(tensor),), [tensor.name])]
        count = len(self._nodes)
        for node in self._nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
            key = (node.op_type, node.domain, *node.input, *attributes, len(node.output))
            if spared(key, list(node.output)):
                node.op_type = ""
        self._nodes = [node for node in self._nodes if node.op_type]
        return count - len(self._nodes)

    def model(self, *, inputs: Values, outputs: Values, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
        """Close the graph."""
        from onnx import checker, helper

        def infos(values: Values) -> list[Any]:
            kinds = {name: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for name, (dtype, _) in values.items()}
            return [helper.make_tensor_value_info(name, kinds[name], list(shape)) for name, (_, shape) in values.items()]

        optional = infos({tensor.name: (np.float32, ()) for tensor in self._defaults})
        graph = helper.make_graph(
            self._nodes, "headstart", [*infos(inputs), *optional], infos(outputs), initializer=[*self._constants, *self._defaults]
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=IR_VERSION, producer_name="headstart"
        )
        helper.set_model_props(model, dict(metadata or {}))
        checker.check_model(model)
        return model
