"""Writing a run folder: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.backbones import Backbone
from headstart.bundle.run import MANIFEST, MODEL, PROTOCOL
from headstart.errors import RunError
from headstart.images import Preprocessing
from headstart.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import onnx


class WritableHead(Protocol):
    """What a fitted head must offer to be saved."""

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append the head to a graph and return the name of its logits (N, k)."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Everything needed to make the head again: JSON values and arrays."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class RunContents:
    """Everything that goes into a run folder.

    Attributes:
        backbone: the network without its top.
        head: the fitted head; its logits are in the order of `classes`.
        classes: class names.
        multilabel: sigmoid outputs instead of softmax.
        preprocessing: as used for fitting.
        reference: arrays that calibration, "unlike" scores and nearest images need, for ``reference.safetensors``.
        manifest: further entries of the manifest (metrics, provenance, evidence, ...).
        further: called with the folder while it is being written; may add files (report, pictures, lists).
    """

    backbone: Backbone
    head: WritableHead
    classes: tuple[str, ...]
    multilabel: bool
    preprocessing: Preprocessing
    reference: Mapping[str, npt.NDArray[Any]]
    manifest: Mapping[str, Any]
    further: Callable[[Path], None]


def check_target(path: Path) -> None:
    """Refuse to write a run over something that is not a run.

    Raises:
        RunError: `path` exists and is neither an empty folder nor an earlier run.
    """
    if path.is_dir() and (not any(path.iterdir()) or (path / MANIFEST).is_file()):
        return
    if path.exists():
        what = "a folder that is not an earlier run" if path.is_dir() else "a file"
        raise RunError(f"{path} is {what}; it is left as it is. Choose another --out, or empty it first.")


def write_run(path: Path, contents: RunContents) -> None:
    """Write a run folder, replacing an earlier run of that path only once the new one is complete.

    Raises:
        RunError: the folder cannot be written.
    """
    path = path.absolute()
    check_target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-", suffix=".part") as temporary:
            new = Path(temporary) / "run"
            new.mkdir()
            _write_files(new, contents)
            if path.exists():
                path.rename(Path(temporary) / "old")
            new.rename(path)
    except OSError as error:
        raise RunError(f"The run cannot be written to {path}: {error.strerror or error}. Choose another --out.") from None


def _write_files(folder: Path, contents: RunContents) -> None:
    from safetensors.numpy import save

    (folder / MODEL).write_bytes(whole_model(contents).SerializeToString())
    settings, arrays = contents.head.state()
    head = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata={"head": json.dumps(settings)})
    (folder / "head.safetensors").write_bytes(head)
    reference = save({name: np.ascontiguousarray(array) for name, array in contents.reference.items()})
    (folder / "reference.safetensors").write_bytes(reference)
    contents.further(folder)
    record = contents.backbone.record
    manifest = {
        "protocol": PROTOCOL,
        "classes": list(contents.classes),
        "multilabel": contents.multilabel,
        "preprocessing": contents.preprocessing.to_dict(),
        "backbone": {
            "name": record.name,
            "licence": record.licence or "unknown",
            "weights_source": contents.backbone.weights_source,
            "weights_digest": contents.backbone.weights_digest,
            "layers": [{"name": layer.name, "start": layer.start, "stop": layer.stop} for layer in contents.backbone.layers],
        },
        **contents.manifest,
        "files": {file.name: _sha256(file) for file in sorted(folder.iterdir())},
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def whole_model(contents: RunContents) -> onnx.ModelProto:
    """Backbone and head in one graph: uint8 images (N, H, W, 3) in; features, logits and probabilities out."""
    import onnx

    network = onnx.load(str(contents.backbone.network), load_external_data=False)
    graph = OnnxGraph()
    features = graph.graft(network, feed={"images": "images"})["features"]
    graph.node("Identity", features, output="features")
    graph.node("Identity", contents.head.write_onnx(graph, "features"), output="logits")
    if contents.multilabel:
        graph.node("Sigmoid", "logits", output="probabilities")
    else:
        graph.node("Softmax", "logits", output="probabilities", axis=-1)
    size, count = contents.preprocessing.size, len(contents.classes)
    return graph.model(
        inputs={"images": (np.uint8, ("N", size, size, 3))},
        outputs={
            "features": (np.float32, ("N", contents.backbone.dim)),
            "logits": (np.float32, ("N", count)),
            "probabilities": (np.float32, ("N", count)),
        },
        metadata={
            "classes": json.dumps(list(contents.classes), ensure_ascii=False),
            "preprocessing": json.dumps(contents.preprocessing.to_dict()),
            "multilabel": json.dumps(contents.multilabel),
        },
        opset=max(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx")),
    )
