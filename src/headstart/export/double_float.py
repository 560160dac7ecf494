"""Arithmetic of 48 bits in an ONNX graph, from float32: a number is the sum of two.

Few engines compute in double precision: OpenVINO takes float32 in its place without a word, as many accelerators do. The sum and the
product of two float32 numbers can be had without any error as two float32 numbers, by additions and multiplications alone (T. J. Dekker,
A floating-point technique for extending the available precision, 1971; D. E. Knuth, The Art of Computer Programming, volume 2, 4.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.onnx_graph import OnnxGraph

_SPLITTER = 4097.0  # 2^12 + 1: halves of 12 bits, whose products fit into 24


@dataclass(frozen=True)
class Wide:
    """A value of a graph as the sum of two float32 values of broadcastable shapes, `low` below half a unit in the last place of `high`."""

    graph: OnnxGraph
    high: str
    low: str

    @classmethod
    def of(cls, graph: OnnxGraph, value: str) -> Wide:
        """A float32 value of the graph."""
        return cls(graph, value, graph.constant(0.0))

    @classmethod
    def constant(cls, graph: OnnxGraph, value: npt.ArrayLike) -> Wide:
        """A constant, of which 48 bits are kept."""
        exact = np.asarray(value, dtype=np.float64)
        high = exact.astype(np.float32)
        return cls(graph, graph.constant(high), graph.constant((exact - high).astype(np.float32)))

    @classmethod
    def sum_of(cls, graph: OnnxGraph, one: str, other: str) -> Wide:
        """Two float32 values, without any error."""
        total = graph.node("Add", one, other)
        taken = graph.node("Sub", total, one)
        left = graph.node("Sub", one, graph.node("Sub", total, taken))
        return cls(graph, total, graph.node("Add", left, graph.node("Sub", other, taken)))

    @classmethod
    def product_of(cls, graph: OnnxGraph, one: str, other: str) -> Wide:
        """Two float32 values, without any error as long as nothing overflows."""
        product = graph.node("Mul", one, other)
        (a, b), (c, d) = cls._halves(graph, one), cls._halves(graph, other)
        error = graph.node("Sub", graph.node("Mul", a, c), product)
        for first, second in ((a, d), (b, c), (b, d)):
            error = graph.node("Add", error, graph.node("Mul", first, second))
        return cls(graph, product, error)

    @staticmethod
    def _halves(graph: OnnxGraph, value: str) -> tuple[str, str]:
        scaled = graph.node("Mul", value, graph.constant(_SPLITTER))
        high = graph.node("Sub", scaled, graph.node("Sub", scaled, value))
        return high, graph.node("Sub", value, high)

    def _with(self, high: str, low: str) -> Wide:
        """`high` and a far smaller `low`, brought to the form of the class."""
        graph, total = self.graph, self.graph.node("Add", high, low)
        return Wide(graph, total, graph.node("Sub", low, graph.node("Sub", total, high)))

    def _wide(self, other: Wide | npt.ArrayLike) -> Wide:
        return other if isinstance(other, Wide) else Wide.constant(self.graph, other)

    def __neg__(self) -> Wide:
        return self.each("Neg")

    def __add__(self, other: Wide | npt.ArrayLike) -> Wide:
        other, add = self._wide(other), self.graph.node
        total = Wide.sum_of(self.graph, self.high, other.high)
        return self._with(total.high, add("Add", total.low, add("Add", self.low, other.low)))

    def __sub__(self, other: Wide | npt.ArrayLike) -> Wide:
        return self + -self._wide(other)

    def __mul__(self, other: Wide | npt.ArrayLike) -> Wide:
        other, node = self._wide(other), self.graph.node
        product = Wide.product_of(self.graph, self.high, other.high)
        crossed = node("Add", node("Mul", self.high, other.low), node("Mul", self.low, other.high))
        return self._with(product.high, node("Add", product.low, crossed))

    def __truediv__(self, other: Wide | npt.ArrayLike) -> Wide:
        other, node = self._wide(other), self.graph.node
        about = node("Div", self.high, other.high)
        left = self - other * Wide.of(self.graph, about)
        return self._with(about, node("Div", left.high, other.high))

    def each(self, operator: str, *inputs: str) -> Wide:
        """Both parts through an operator that only moves, chooses or negates values, with further inputs."""
        return Wide(self.graph, self.graph.node(operator, self.high, *inputs), self.graph.node(operator, self.low, *inputs))

    def where(self, condition: str, other: Wide | npt.ArrayLike) -> Wide:
        """The value where the condition holds, else the other."""
        node, other = self.graph.node, self._wide(other)
        return Wide(self.graph, node("Where", condition, self.high, other.high), node("Where", condition, self.low, other.low))

    def magnitude(self) -> Wide:
        """The absolute value."""
        return self.each("Mul", self.graph.node("Sign", self.high))

    def floor(self) -> str:
        """The next whole number below, float32."""
        node = self.graph.node
        whole = node("Floor", self.high)
        return node("Add", whole, node("Floor", node("Add", node("Sub", self.high, whole), self.low)))

    def total(self, axis: int) -> Wide:
        """The sum over an axis, which is kept, of up to some hundred values below 2^5: summed in slices of bits, each without an error."""
        graph, node = self.graph, self.graph.node
        high, low, slices = self.high, self.low, []
        for scale in (2.0**12, 2.0**28):
            part = node("Mul", node("Floor", node("Mul", high, graph.constant(scale))), graph.constant(1 / scale))
            slices.append(node("ReduceSum", part, graph.integers(axis), keepdims=1))
            left = Wide.sum_of(graph, high, node("Neg", part))
            rest = self._with(left.high, node("Add", left.low, low))
            high, low = rest.high, rest.low
        first = Wide.sum_of(graph, *slices)
        return self._with(first.high, node("Add", first.low, node("ReduceSum", high, graph.integers(axis), keepdims=1)))
