"""One self-contained ONNX file: images of any size in; probabilities, logits, features and the score for what is unlike them out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

import headstart
from headstart.errors import RunError
from headstart.export.resize_graph import write_preprocessing
from headstart.export.unlike_graph import write_unlikeness
from headstart.onnx_graph import OPSET, OnnxGraph
from headstart.run import MODEL, Run

if TYPE_CHECKING:
    import onnx

IMAGES, UNLIKENESS = "images", "unlikeness"
OUTPUTS = ("probabilities", "logits", "features", UNLIKENESS)
"""Of an exported file, in this order; files of runs that know nothing of what is unlike them lack the last."""

FORMAT = 1
"""Raised when the inputs or outputs of exported files change their meaning."""


def onnx_model(run: Run) -> onnx.ModelProto:
    """The run as one model.

    Returns:
        A model with the input ``images``, uint8 (N, height, width, 3), upright RGB, all N of one size; and the outputs ``probabilities``
        and ``logits`` float32 (N, k), ``features`` float32 (N, D), and, where the run can tell, ``unlikeness`` float32 (N,). Operator set
        17, or that of the network if it is later. Names of classes, sizes and provenance are in its metadata: see `metadata`.

    Raises:
        RunError: the model of the run is not one file, or lacks an output.
    """
    import onnx

    network = onnx.load(str(run.path / MODEL), load_external_data=False)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in network.graph.initializer):
        raise RunError(f"{run.path / MODEL}: keeps its weights in another file. Do not use this run; fit again.")
    graph = OnnxGraph()
    pixels = write_preprocessing(graph, IMAGES, run.preprocessing)
    made = graph.graft(network, feed={network.graph.input[0].name: pixels})
    widths = {value.name: value.type.tensor_type.shape.dim[1].dim_value for value in network.graph.output}
    outputs: dict[str, Any] = {}
    for name in OUTPUTS[:3]:
        if name not in made:
            raise RunError(f"{run.path / MODEL}: has no output {name!r}. Fit again.")
        graph.node("Identity", made[name], output=name)
        outputs[name] = (np.float32, ("N", widths[name]))
    unlike = None if run.trust is None else run.trust.unlike
    if unlike is not None:
        graph.node("Identity", write_unlikeness(graph, "features", *unlike.state()), output=UNLIKENESS)
        outputs[UNLIKENESS] = (np.float32, ("N",))
    opset = max([OPSET, *(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))])
    return graph.model(
        inputs={IMAGES: (np.uint8, ("N", "height", "width", 3))}, outputs=outputs, metadata=metadata(run), opset=opset
    )  # fmt: skip


def metadata(run: Run) -> dict[str, str]:
    """What an exported file says of itself: JSON texts by name, each beginning with ``headstart.``."""
    manifest, trust = run.manifest, run.trust
    backbone = manifest["backbone"]
    told: dict[str, Any] = {
        "format": FORMAT,
        "version": headstart.__version__,
        "classes": list(run.classes),
        "multilabel": run.multilabel,
        "preprocessing": run.preprocessing.to_dict(),
        "unlike_threshold": None if trust is None or trust.unlike is None else trust.unlike.threshold,
        "sets": None if trust is None or trust.sets is None else trust.sets.to_dict(),
        "run_digest": manifest["digest"],
        "title": manifest.get("title"),
        "created": manifest.get("provenance", {}).get("created"),
        "backbone": {name: backbone.get(name) for name in ("name", "licence", "weights_source", "weights_digest")},
        "head": manifest.get("head"),
        "test_accuracy": manifest["metrics"].get("test_accuracy"),
        "test_images": manifest["metrics"].get("test_images"),
    }
    return {f"headstart.{name}": json.dumps(value, ensure_ascii=False) for name, value in told.items()}
