"""Taking an ONNX file apart without the onnx package, which a saved run does not need otherwise.

An ONNX file is a Protocol Buffers message, and two properties of that encoding do all the work here. Messages that follow each other are
merged, so further outputs are added to a model by appending a few bytes. And entries keep their meaning wherever they stand, so a part of
a network is a new graph made of copied nodes and weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from headstart.errors import BackboneError

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_WEIGHTS, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_INFO = 1, 2, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTS = 1, 8
_WEIGHTS_NAME, _INFO_NAME, _INFO_TYPE = 8, 1, 2
_FLOAT = 1

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True)
class Node:
    """One operation: the names of what it takes and gives, and its attribute ``axes`` where it has one."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: tuple[int, ...]
    encoded: memoryview


class OnnxParts:
    """The graph of an ONNX file.

    Args:
        data: the file.

    Attributes:
        nodes: in the order of the file, which is that of the computation.
        weights: the constants by name, encoded.
        makers: for each value the position of the node that makes it.
        inputs: names of the inputs of the network.

    Raises:
        BackboneError: no ONNX file, or a damaged one.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.nodes: list[Node] = []
        self.weights: dict[str, memoryview] = {}
        self.inputs: list[str] = []
        self._around: list[bytes] = []
        try:
            for number, kind, value in _fields(memoryview(data)):
                if number == _MODEL_GRAPH:
                    self._read_graph(value)
                else:
                    self._around.append(_encoded(number, kind, value))
        except (IndexError, UnicodeDecodeError, TypeError):
            raise BackboneError("The network is no ONNX file, or a damaged one. Copy the run again, or fit again.") from None
        self.makers = {name: position for position, node in enumerate(self.nodes) for name in node.outputs if name}

    def _read_graph(self, graph: memoryview) -> None:
        for number, _, value in _fields(graph):
            if number == _GRAPH_NODE:
                self.nodes.append(_node(value))
            elif number == _GRAPH_WEIGHTS:
                self.weights[_name_in(value, _WEIGHTS_NAME)] = value
            elif number == _GRAPH_INPUT:
                self.inputs.append(_name_in(value, _INFO_NAME))

    def behind(self, value: str, *, stop: Iterable[str] = ()) -> tuple[list[int], set[str]]:
        """What a value is computed from.

        Args:
            value: the name of it.
            stop: values that are taken as given.

        Returns:
            The positions of the nodes it needs, in order, and the given values and the inputs of the network among its sources.
        """
        given, inputs = set(stop), set(self.inputs) - set(self.weights)
        needed: set[int] = set()
        sources: set[str] = set()
        waiting = [value]
        while waiting:
            name = waiting.pop()
            if name in given or name in inputs:
                sources.add(name)
            elif name in self.makers and self.makers[name] not in needed:
                needed.add(self.makers[name])
                waiting.extend(taken for taken in self.nodes[self.makers[name]].inputs if taken)
        return sorted(needed), sources

    def with_outputs(self, names: Sequence[str]) -> bytes:
        """The whole model, with further values (float32) among its outputs."""
        graph = b"".join(_message(_GRAPH_OUTPUT, _float_value(name, None)) for name in names)
        return self._data + _message(_MODEL_GRAPH, graph)

    def part(self, value: str, *, inputs: Mapping[str, Sequence[int | str]]) -> bytes:
        """A model that computes `value` from `inputs`: float32 values of this graph with their shapes; a string is a free dimension."""
        positions, _ = self.behind(value, stop=inputs)
        taken = {name for position in positions for name in self.nodes[position].inputs}
        graph = [_message(_GRAPH_NODE, self.nodes[position].encoded) for position in positions]
        graph.append(_message(_GRAPH_NAME, b"part"))
        graph += [_message(_GRAPH_WEIGHTS, weights) for name, weights in self.weights.items() if name in taken]
        graph += [_message(_GRAPH_INPUT, _float_value(name, shape)) for name, shape in inputs.items()]
        graph.append(_message(_GRAPH_OUTPUT, _float_value(value, None)))
        return b"".join([*self._around, _message(_MODEL_GRAPH, b"".join(graph))])


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(field number, wire type, content) of each entry of a message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind, begin = key & 7, at
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, begin = _varint(data, at)
            at = begin + length
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise IndexError
        if at > len(data):
            raise IndexError
        yield key >> 3, kind, data[begin:at]


def _node(data: memoryview) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    operator, axes = "", tuple[int, ...]()
    for number, _, value in _fields(data):
        if number == _NODE_INPUT:
            inputs.append(_text(value))
        elif number == _NODE_OUTPUT:
            outputs.append(_text(value))
        elif number == _NODE_OPERATOR:
            operator = _text(value)
        elif number == _NODE_ATTRIBUTE and _name_in(value, _ATTRIBUTE_NAME) == "axes":
            axes = _whole_numbers(value)
    return Node(operator, tuple(inputs), tuple(outputs), axes, data)


def _whole_numbers(attribute: memoryview) -> tuple[int, ...]:
    """The integers of an attribute, which are written one by one or packed into one entry."""
    found: list[int] = []
    for number, _, value in _fields(attribute):
        at = 0
        while number == _ATTRIBUTE_INTS and at < len(value):
            entry, at = _varint(value, at)
            found.append(entry - (1 << 64) if entry >> 63 else entry)
    return tuple(found)


def _name_in(message: memoryview, field: int) -> str:
    return next((_text(value) for number, _, value in _fields(message) if number == field), "")


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8")


def _number(value: int) -> bytes:
    """As a varint."""
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


def _message(number: int, content: bytes | memoryview) -> bytes:
    return b"".join((_number(number << 3 | _BYTES), _number(len(content)), content))


def _encoded(number: int, kind: int, content: memoryview) -> bytes:
    return _message(number, content) if kind == _BYTES else _number(number << 3 | kind) + bytes(content)


def _float_value(name: str, shape: Sequence[int | str] | None) -> bytes:
    """A float32 value with its name, and its shape where it is told."""
    tensor = _number(1 << 3) + _number(_FLOAT)
    if shape is not None:
        sizes = [_number(1 << 3) + _number(size) if isinstance(size, int) else _message(2, size.encode()) for size in shape]
        tensor += _message(2, b"".join(_message(1, size) for size in sizes))
    return _message(_INFO_NAME, name.encode()) + _message(_INFO_TYPE, _message(1, tensor))
