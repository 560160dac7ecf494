"""What `kept_boxes` does, as part of an exported graph: of the proposals of a detection head, the boxes that remain."""

from __future__ import annotations

import numpy as np

from headstart.metrics.proposals import LEAST, MOST, OVERLAP, VOTING
from headstart.onnx_graph import OnnxGraph

INT64, FLOAT = 7, 1  # of ONNX's table of types


def write_kept_boxes(
    graph: OnnxGraph, boxes: str, probabilities: str, *, threshold: str, candidates: int, classes: int
) -> tuple[str, str, str]:
    """Append non-maximum suppression and voting to a graph.

    Args:
        graph: the graph.
        boxes: names proposals (N, c, 4), left, top, right and bottom in pixels.
        probabilities: names those of the classes (N, c, k).
        threshold: names the lowest confidence, float32 without dimensions.
        candidates: c.
        classes: k.

    Returns the names of boxes (N, m, 4), confidence (N, m) and class int64 (N, m), the most confident first; where an image has fewer
    boxes, the rest have the confidence 0 and the class -1. m is `MOST`, or fewer where there cannot be so many.
    """
    most = min(MOST, candidates * classes)
    by_class = graph.node("Transpose", probabilities, perm=[0, 2, 1])  # (N, k, c)
    scores, places = _best(graph, boxes, by_class, threshold, classes * candidates, most)
    number = graph.constant(candidates, dtype=np.int64)
    label, place = graph.node("Div", places, number), graph.node("Mod", places, number)
    own, score_of = (
        graph.node("GatherND", value, graph.node("Unsqueeze", index, graph.integers(2)), batch_dims=1)
        for value, index in ((boxes, place), (by_class, label))
    )  # (N, m, 4), and the confidence of all proposals for the class of each (N, m, c)
    near = graph.node("Greater", _overlaps(graph, own, boxes), graph.constant(VOTING))
    itself = graph.node("Equal", graph.node("Unsqueeze", place, graph.integers(2)), graph.constant(np.arange(candidates), dtype=np.int64))
    looked_at = graph.node("GreaterOrEqual", score_of, graph.constant(LEAST))
    voting = graph.node("Or", itself, graph.node("And", near, looked_at))
    weights = graph.node("Mul", graph.node("Cast", voting, to=FLOAT), score_of)
    total = graph.node("Max", graph.node("ReduceSum", weights, graph.integers(2), keepdims=1), graph.constant(1e-12))
    voted = graph.node("Div", graph.node("MatMul", weights, boxes), total)
    there = graph.node("Greater", scores, graph.constant(0.0))
    nothing = graph.constant(-1, dtype=np.int64)
    inside = graph.node("Unsqueeze", graph.node("Cast", there, to=FLOAT), graph.integers(2))
    return graph.node("Mul", voted, inside), scores, graph.node("Where", there, label, nothing)


def _best(graph: OnnxGraph, boxes: str, by_class: str, threshold: str, flat: int, most: int) -> tuple[str, str]:
    """Confidence (N, most) of the boxes that remain, the highest first, and their places in (k, c), flattened."""
    above = graph.node("Sub", threshold, graph.constant(1e-7))  # the operator leaves out what is equal
    kept = graph.node("NonMaxSuppression", boxes, by_class, graph.integers(MOST), graph.constant([OVERLAP]), _vector(graph, above))
    values = graph.node("GatherND", by_class, kept)
    empty = graph.node("Mul", by_class, graph.constant(0.0))
    alone = graph.node("ScatterND", empty, kept, values)
    return graph.top(graph.node("Reshape", alone, graph.integers(0, flat)), most)


def _vector(graph: OnnxGraph, number: str) -> str:
    return graph.node("Reshape", number, graph.integers(1))


def _overlaps(graph: OnnxGraph, own: str, others: str) -> str:
    """The IoU of boxes (N, m, 4) with others (N, c, 4): (N, m, c)."""

    def sides(value: str, axis: int) -> list[str]:
        parts = [graph.node("Slice", value, graph.integers(i), graph.integers(i + 1), graph.integers(2)) for i in range(4)]
        return [graph.node("Transpose", part, perm=[0, 2, 1]) for part in parts] if axis == 1 else parts

    first, second = sides(own, 2), sides(others, 1)

    def length(low: int, one: list[str], other: list[str]) -> str:
        shared = graph.node("Sub", graph.node("Min", one[low + 2], other[low + 2]), graph.node("Max", one[low], other[low]))
        return graph.node("Max", shared, graph.constant(0.0))

    def area(one: list[str]) -> str:
        return graph.node("Mul", graph.node("Sub", one[2], one[0]), graph.node("Sub", one[3], one[1]))

    both = graph.node("Mul", length(0, first, second), length(1, first, second))
    union = graph.node("Sub", graph.node("Add", area(first), area(second)), both)
    return graph.node("Div", both, graph.node("Max", union, graph.constant(1e-9)))
