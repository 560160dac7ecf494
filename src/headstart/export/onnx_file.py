"""One ONNX file: images of any size, or the pieces of texts in; probabilities, logits, features and the novelty score out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import headstart
from headstart.errors import RunError
from headstart.export.preprocessing_graph import write_preprocessing
from headstart.modalities import IMAGE, TEXT
from headstart.onnx_graph import OnnxGraph
from headstart.reliability.novelty import NEIGHBOURS
from headstart.run import MODEL, Run
from headstart.tasks import FEATURES

if TYPE_CHECKING:
    import onnx

    from headstart.reliability import Reliability

IMAGES, NOVELTY = "images", "unlikeness"

FORMAT = 2  # raised when the inputs, outputs or metadata of exported files change their meaning
_FLOAT, _FLOAT16 = 1, 10  # of ONNX's table of types
_LEAST = 1e-12  # as in `Novelty`

Arrays = Mapping[str, npt.NDArray[Any]]


def onnx_model(run: Run) -> onnx.ModelProto:
    """The run as one model.

    Its input ``images`` is uint8 (N, height, width, 3), upright RGB, all N of one size; of texts, it has the inputs of the preprocessing
    (`headstart.modalities.text.TextPreprocessing.inputs`). Its outputs are those of the run's task (for
    classification ``probabilities`` and ``logits`` float32 (N, k)), ``features`` float32 (N, D), for runs with a novelty score
    ``unlikeness`` float32 (N,), and what the task has for the pixels of images (`headstart.tasks.Task.write_export`). Operator set 17, or
    that of the network if it is later. See `metadata` for what the outputs mean.

    Raises RunError where the model of the run is not one file, or lacks an output.
    """
    import onnx

    network = onnx.load(str(run.path / MODEL), load_external_data=False)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in network.graph.initializer):
        raise RunError(f"{run.path / MODEL}: keeps its weights in another file. Do not use this run; fit again.")
    graph = OnnxGraph()
    inputs, feed = _INPUTS[run.modality.name](graph, run, network)
    grafted = graph.graft(network, feed=feed)
    shapes = {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim[1:]] for value in network.graph.output}
    outputs: dict[str, Any] = {}
    for name in run.outputs:
        if name not in grafted:
            raise RunError(f"{run.path / MODEL}: has no output {name!r}. Fit again.")
        graph.node("Identity", grafted[name], output=name)
        outputs[name] = (np.float32, ("N", *shapes[name]))
    novelty = None if run.reliability is None else run.reliability.novelty
    if novelty is not None:
        graph.node("Identity", write_novelty(graph, FEATURES, *novelty.state()), output=NOVELTY)
        outputs[NOVELTY] = (np.float32, ("N",))
    outputs |= run.task.write_export(graph, IMAGES, run.manifest.state)
    return graph.model(inputs=inputs, outputs=outputs, metadata=metadata(run))


Feed = tuple[dict[str, Any], dict[str, str]]
"""The inputs of a graph, type and shape by name; and from the names of the inputs of the network of a run to values of the graph."""


def _of_images(graph: OnnxGraph, run: Run, network: onnx.ModelProto) -> Feed:
    """Images of any size."""
    return {IMAGES: (np.uint8, ("N", "height", "width", 3))}, {
        network.graph.input[0].name: write_preprocessing(graph, IMAGES, run.preprocessing)
    }


def _of_texts(graph: OnnxGraph, run: Run, network: onnx.ModelProto) -> Feed:
    """What the network itself takes: the pieces of texts are made by the tokenizer, whose file stands beside."""
    return dict(run.preprocessing.inputs), {name: name for name in run.preprocessing.inputs}


_INPUTS: Mapping[str, Callable[[OnnxGraph, Run, onnx.ModelProto], Feed]] = {IMAGE.name: _of_images, TEXT.name: _of_texts}


def metadata(run: Run) -> dict[str, str]:
    """Outputs, class names, preprocessing, thresholds and provenance of an exported file: JSON texts, their names beginning ``headstart.``.

    For classification, ``classes`` has the class names and ``link`` is ``softmax`` or, where any number of labels is possible, ``sigmoid``;
    where several columns of labels are predicted, ``columns`` has these and the ``name`` of each.
    """
    manifest, reliability = run.manifest, run.reliability
    backbone = manifest.backbone
    entries: dict[str, Any] = {
        "format": FORMAT,
        "version": headstart.__version__,
        "task": manifest.task,
        "outputs": [vars(output) for output in manifest.outputs],
        **manifest.state,
        "preprocessing": run.preprocessing.to_dict(),
        "unlike_threshold": None if reliability is None or reliability.novelty is None else reliability.novelty.threshold,
        "sets": None if reliability is None else _sets(reliability),
        "run_digest": manifest.digest,
        "title": manifest.title or None,
        "created": manifest.provenance.get("created"),
        "backbone": {name: getattr(backbone, name) for name in ("name", "licence", "weights_source", "weights_digest")},
        "head": manifest.story.get("head"),
        "test_accuracy": manifest.metrics.get("test_accuracy", manifest.metrics.get("test_mean_accuracy")),
        "test_images": manifest.metrics.get("test_images"),
    }
    return {f"headstart.{name}": json.dumps(value, ensure_ascii=False) for name, value in entries.items()}


def _sets(reliability: Reliability) -> dict[str, Any] | None:
    """The prediction sets; of several columns of labels by their names."""
    if reliability.columns:
        return {name: _sets(one) for name, one in reliability.columns.items()}
    return None if reliability.sets is None else reliability.sets.to_dict()


def write_novelty(graph: OnnxGraph, features: str, settings: Mapping[str, Any], arrays: Arrays) -> str:
    """Append the novelty score to a graph, as `headstart.reliability` computes it from its state (`settings`, `arrays`).

    `features` names a float32 value (N, D). Returns the name of the score, float32 (N,): the higher, the less an image resembles the
    training images.
    """
    slices: Sequence[tuple[int, int]] = [(int(start), int(stop)) for start, stop in settings["layers"]]
    centre, spread = (np.asarray(settings[name], dtype=np.float64) for name in ("centre", "spread"))
    distances = [_mahalanobis(graph, _columns(graph, features, *ends), arrays, f"layer{place}.") for place, ends in enumerate(slices)]
    distances.append(_nearest(graph, _columns(graph, features, *slices[-1]), arrays))
    parts = graph.node("Concat", *distances, axis=1)
    parts = graph.node("Log", graph.node("Max", parts, graph.constant(_LEAST)))
    parts = graph.node("Div", graph.node("Sub", parts, graph.constant(centre)), graph.constant(spread))
    shares = np.array([0.5 / len(slices)] * len(slices) + [1.0])[:, None]
    score = graph.node("MatMul", parts, graph.constant(shares))
    return graph.node("Squeeze", score, graph.integers(1))


def _columns(graph: OnnxGraph, features: str, start: int, stop: int) -> str:
    return graph.node("Slice", features, *(graph.integers(value) for value in (start, stop, 1)))


def _sum(graph: OnnxGraph, values: str, axis: int = 1, *, keepdims: int = 1) -> str:
    return graph.node("ReduceSum", values, graph.integers(axis), keepdims=keepdims)


def _squares(graph: OnnxGraph, values: str) -> str:
    return graph.node("Mul", values, values)


def _projected(graph: OnnxGraph, centred: str, axes: npt.NDArray[Any]) -> tuple[str, str]:
    """Coordinates along the axes (N, q), and the squared distance from the space that they span (N, 1)."""
    inside = graph.node("MatMul", centred, graph.constant(axes))
    if axes.shape[0] == axes.shape[1]:
        return inside, graph.node("Mul", _sum(graph, inside), graph.constant(0.0))
    rest = graph.node("Sub", _sum(graph, _squares(graph, centred)), _sum(graph, _squares(graph, inside)))
    return inside, graph.node("Max", rest, graph.constant(0.0))


def _mahalanobis(graph: OnnxGraph, values: str, arrays: Arrays, prefix: str) -> str:
    """Squared Mahalanobis distance (N, 1)."""
    mean, scale, axes, variance = (arrays[prefix + name] for name in ("mean", "scale", "axes", "variance"))
    centred = graph.node("Div", graph.node("Sub", values, graph.constant(mean)), graph.constant(scale))
    inside, outside = _projected(graph, centred, axes)
    along = _sum(graph, graph.node("Div", _squares(graph, inside), graph.constant(variance[:-1])))
    return graph.node("Add", along, graph.node("Div", outside, graph.constant(variance[-1])))


def _nearest(graph: OnnxGraph, values: str, arrays: Arrays) -> str:
    """Mean distance (N, 1) to the nearest training images."""
    stored = np.asarray(arrays["near.points"], dtype=np.float16).astype(np.float32)
    rest = np.asarray(arrays["near.rest"], dtype=np.float32)
    length = graph.node("Max", graph.node("Sqrt", _sum(graph, _squares(graph, values))), graph.constant(1e-12))
    centred = graph.node("Sub", graph.node("Div", values, length), graph.constant(arrays["near.mean"]))
    own, across = _projected(graph, centred, arrays["near.axes"])
    own = graph.node("Cast", graph.node("Cast", own, to=_FLOAT16), to=_FLOAT)  # rounded as the stored points are
    points = graph.constant(stored)
    squares = graph.node("Gemm", own, points, graph.constant((stored**2).sum(axis=1)), alpha=-2.0, transB=1)
    count = min(NEIGHBOURS, len(stored))
    _, places = graph.top(squares, count, largest=False)
    # again from the differences: close to 0 the expanded form is all rounding
    away = graph.node("Sub", graph.node("Gather", points, places, axis=0), graph.node("Unsqueeze", own, graph.integers(1)))
    exact = graph.node("Add", _sum(graph, _squares(graph, away), 2, keepdims=0), across)
    exact = graph.node("Add", exact, graph.node("Gather", graph.constant(rest), places, axis=0))
    total = _sum(graph, graph.node("Sqrt", exact))
    return graph.node("Div", total, graph.constant(float(count)))
