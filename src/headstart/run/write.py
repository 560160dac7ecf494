"""Writing a run folder: whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.backbones import Backbone
from headstart.errors import RunError
from headstart.files import file_digest, folder_beside, move_files
from headstart.modalities.image import Preprocessing
from headstart.onnx_graph import OnnxGraph
from headstart.run.run import EVALUATION, MANIFEST, MODEL, PROTOCOL, REFERENCE, is_run, manifest_digest, read_manifest
from headstart.run.uses import USES
from headstart.text import printable

if TYPE_CHECKING:
    import onnx


_PART = ".part"  # ends the names of folders that are being written
_LEFT_ALONE = 3600.0  # seconds
_ATTEMPTS = 10  # other processes may write to the same place


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
        evaluation: what the model said of the test images, for ``evaluation.safetensors``; see `Run.tested`.
        manifest: further entries of the manifest (metrics, provenance, evidence, ...).
        further: called with the folder while it is being written; may add files (report, pictures, lists).
    """

    backbone: Backbone
    head: WritableHead
    classes: tuple[str, ...]
    multilabel: bool
    preprocessing: Preprocessing
    reference: Mapping[str, npt.NDArray[Any]]
    evaluation: Mapping[str, npt.NDArray[Any]]
    manifest: Mapping[str, Any]
    further: Callable[[Path], None]


def check_target(path: Path) -> None:
    """Refuse to write a run where it would destroy something, or where nothing can be written. Nothing is changed.

    Raises:
        RunError: `path` exists and is neither an empty folder nor an earlier run, or its folder cannot be written.
    """
    path = _real(path)
    try:
        _check_place(path)
    except OSError as error:
        raise RunError(f"The run cannot be written to {path}: {error.strerror or error}. Choose another --out.") from None


def _check_place(path: Path) -> None:
    if path.is_dir():
        entries = [entry.name for entry in path.iterdir() if not _is_dross(entry.name)]
        if entries:
            _check_earlier_run(path, entries)
    elif path.exists():
        raise RunError(f"{path} is a file; it is left as it is. Choose another --out.")
    above = next(folder for folder in (path, *path.parents) if folder.exists())
    if not above.is_dir():
        raise RunError(f"The run cannot be written to {path}: {above} is a file. Choose another --out.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RunError(f"The run cannot be written to {path}: no permission to write to {above}. Choose another --out.")


def _real(path: Path) -> Path:
    """The folder that is meant: through links, and with a name of its own even for ``.``."""
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle, or a home folder that is unknown
        raise RunError(f"The run cannot be written to {str(path)!r}: {error}. Choose another --out.") from None


def _is_dross(name: str) -> bool:
    """Files that file managers put everywhere, and what a killed process left of a run."""
    return name in (".DS_Store", "Thumbs.db", "desktop.ini") or (name.startswith(".") and name.endswith(_PART))


def _check_earlier_run(path: Path, entries: Sequence[str]) -> None:
    """Only a folder that holds a run and nothing else may be replaced."""
    left = "it is left as it is. Choose another --out, or empty it first."
    if not is_run(path):
        raise RunError(f"{path} is a folder that is not an earlier run; {left}")
    try:
        files = read_manifest(path)["files"]
    except RunError as error:
        raise RunError(f"{path} is not a whole earlier run; {left} ({error})") from None
    own = sorted(set(entries) - {MANIFEST, USES, *files})
    if own:
        raise RunError(f"{path} is an earlier run, but it also holds {', '.join(own[:3])}, which Headstart did not write; {left}")


def write_run(path: Path, contents: RunContents) -> None:
    """Write a run folder, replacing an earlier run of that path only once the new one is complete.

    Raises:
        RunError: the folder cannot be written, or something else is there.
    """
    path = _real(path)
    check_target(path)
    inside = path.is_dir() and not (path / MANIFEST).is_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path)
        # An empty folder is filled and not replaced: it may be a mounted one, or the one that the user stands in.
        place = path if inside else path.parent
        with tempfile.TemporaryDirectory(dir=place, prefix=f".{path.name}-", suffix=_PART, ignore_cleanup_errors=True) as temporary:
            new = Path(temporary) / "run"
            new.mkdir()
            (Path(temporary) / "old").mkdir()
            _write_files(new, contents)
            if inside:
                _move_in(new, path)
            else:
                _put_in_place(new, path, old=Path(temporary) / "old")
    except OSError as error:
        raise RunError(f"The run cannot be written to {path}: {error.strerror or error}. Choose another --out.") from None


def _move_in(new: Path, path: Path) -> None:
    """Fill an empty folder; without its manifest, which comes last, it is no run."""
    move_files(new, path, last=MANIFEST)


def _put_in_place(new: Path, path: Path, *, old: Path) -> None:
    """Rename the old run away and the new one to its place; whatever happens between the two, one of them is there afterwards."""
    for attempt in range(_ATTEMPTS):
        try:
            if path.exists():
                path.rename(old / str(attempt))
            new.rename(path)
            return
        except BaseException as error:
            _put_back(old / str(attempt), path)
            another = isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT)  # process was quicker
            if not another or attempt == _ATTEMPTS - 1:
                raise


def _put_back(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        old.rename(path)


def _tidy(path: Path) -> None:
    """Remove what killed processes left beside `path` an hour ago or more; writing a run takes seconds."""
    for left in path.parent.glob(f".{glob.escape(path.name)}-*{_PART}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime < _LEFT_ALONE:
                continue
            for old in sorted(left.glob("old/*"), reverse=True):
                if is_run(old):
                    _put_back(old, path)
            shutil.rmtree(left)


def _write_files(folder: Path, contents: RunContents) -> None:
    from safetensors.numpy import save

    (folder / MODEL).write_bytes(whole_model(contents).SerializeToString())
    settings, arrays = contents.head.state()
    described = json.dumps(jsonable(settings), allow_nan=False)
    head = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata={"head": described})
    (folder / "head.safetensors").write_bytes(head)
    for name, kept in ((REFERENCE, contents.reference), (EVALUATION, contents.evaluation)):
        (folder / name).write_bytes(save({key: np.ascontiguousarray(array) for key, array in kept.items()}))
    manifest = entries_of(contents)
    contents.further(folder)
    _write_manifest(folder, {**manifest, "files": {file.name: file_digest(file) for file in sorted(folder.iterdir())}})


def entries_of(contents: RunContents) -> dict[str, Any]:
    """The manifest without the digests of the files."""
    record = contents.backbone.record
    entries: dict[str, Any] = jsonable(
        {
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
        }
    )
    return entries


def _write_manifest(folder: Path, entries: Mapping[str, Any], *, name: str = MANIFEST) -> None:
    manifest = {key: value for key, value in entries.items() if key != "digest"}
    manifest["digest"] = manifest_digest(manifest)
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / name).write_text(text + "\n", encoding="utf-8")


def replace_pages(path: Path, pages: Mapping[str, str]) -> None:
    """Write pages of a run (`PAGES`) anew, with their digests in the manifest.

    Everything is written beside the old files first; they then take their places one after the other, the manifest last. A process that
    is killed between two of them leaves a run whose page must be written again, and `load` says so.

    Raises:
        RunError: the folder cannot be written.
    """
    manifest = read_manifest(path)
    try:
        with folder_beside(path / MANIFEST) as beside:
            for name, text in pages.items():
                (beside / name).write_bytes(text.encode("utf-8", errors="replace"))  # as `write_report` does
            digests = {name: file_digest(beside / name) for name in pages}
            _write_manifest(beside, {**manifest, "files": {**manifest["files"], **digests}})
            move_files(beside, path, last=MANIFEST)
    except OSError as error:
        raise RunError(f"The pages of the run {path} cannot be written: {error.strerror or error}.") from None


def jsonable(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities become None, NumPy's numbers plain ones, file names that are not UTF-8 printable."""
    if isinstance(value, Mapping):
        return {printable(str(key)): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return printable(str(value)) if isinstance(value, str | Path) else value


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
    )
