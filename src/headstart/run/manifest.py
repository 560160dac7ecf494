"""`Manifest`: what a run folder says of itself, typed; and its older protocols, which stay readable."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from headstart.backbones import Layer
from headstart.errors import HeadstartError, ParameterError, RunError, nearest
from headstart.metrics.link import SIGMOID, SOFTMAX
from headstart.modalities import preprocessing_from
from headstart.tasks import Output, task_named
from headstart.text import printable

PROTOCOL = 2
"""Raised when the meaning of a file in the folder changes; older protocols stay readable."""

MANIFEST, MODEL = "manifest.json", "model.onnx"
AGAIN = "Copy the run again, or fit again."
_LIMIT = 256 << 20  # bytes of a manifest

_TYPES: Mapping[str, type] = {
    "modality": str, "task": str, "state": dict, "outputs": list, "preprocessing": dict, "files": dict, "metrics": dict, "backbone": dict,
    "digest": str,
}  # fmt: skip


def _no_files(name: str) -> bytes:
    raise ParameterError(f"the file {name!r} of the run is needed")


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """The backbone of a run: its name in the catalogue, where its weights came from and their SHA-256, and its slices of the features."""

    name: str
    licence: str = "unknown"
    weights_source: str = ""
    weights_digest: str = ""
    layers: tuple[Layer, ...] = ()

    @property
    def last(self) -> Layer | None:
        """The pooled features before the classifier; None where the run does not name its layers."""
        return next((layer for layer in self.layers if layer.name == "last"), None)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """From JSON values, which may lack what runs did not always have."""
        layers = tuple(Layer(str(row["name"]), int(row["start"]), int(row["stop"])) for row in entry.get("layers", ()))
        texts = {name: str(entry.get(name) or "") for name in ("name", "weights_source", "weights_digest")}
        return cls(**texts, licence=str(entry.get("licence") or "unknown"), layers=layers)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a run says of itself: all that predicting needs, and the story of the fit.

    Attributes:
        protocol: of the files.
        modality: of the inputs.
        task: its name, in the table of `headstart.tasks`; `state`: what it needs to decode outputs, such as the class names.
        outputs: of the graph beside the features.
        preprocessing: from an input to the network.
        backbone: the network without its top.
        metrics: the scores that `fit` measured.
        reliability: what was learned about how far an output can be trusted, without its arrays; None where nothing was.
        provenance: command, data, settings, versions, date.
        story: how the fit went, as `headstart.run.FitRecord` reads it.
        files: the SHA-256 of each file of the folder, by name.
        digest: the SHA-256 of all of this.
    """

    task: str
    state: Mapping[str, Any]
    outputs: tuple[Output, ...]
    preprocessing: Any
    backbone: BackboneEntry
    metrics: Mapping[str, Any] = field(default_factory=dict)
    reliability: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    story: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    modality: str = "image"
    protocol: int = PROTOCOL
    digest: str = ""

    @property
    def title(self) -> str:
        """What the run is called."""
        return str(self.story.get("title") or "")

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without the digest over them."""
        rest = {name: value for name, value in vars(self).items() if name not in ("protocol", "digest")}
        entries: dict[str, Any] = plain({"protocol": PROTOCOL, **rest})
        return entries

    def write(self, file: Path) -> Manifest:
        """Write it, and return it with its digest."""
        return replace(self, protocol=PROTOCOL, digest=write_entries(file, self.to_dict()))

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any], files: Callable[[str], bytes] = _no_files) -> Self:
        """The inverse of `to_dict`, also for older protocols. ParameterError names an entry that is missing or damaged.

        `files` gives the bytes of a file of the run by its name, for what the preprocessing needs.
        """
        digest = entries.get("digest")
        if isinstance(digest, str) and digest_of(entries) != digest:
            raise ParameterError("has been changed since the run was written (its digest differs)")
        if entries["protocol"] == 1:
            entries = _from_protocol_1(entries)
        _check_types(entries, _TYPES)
        _check_classes(entries["state"])
        try:
            preprocessing = preprocessing_from(entries["modality"], entries["preprocessing"], files)
        except (TypeError, KeyError, ParameterError) as error:
            raise ParameterError(f"damaged: 'preprocessing' cannot be used ({error})") from None
        try:
            return cls(
                protocol=entries["protocol"], modality=entries["modality"], task=entries["task"], state=entries["state"],
                outputs=tuple(Output(str(row["name"]), str(row["kind"]), tuple(row["shape"])) for row in entries["outputs"]),
                preprocessing=preprocessing, backbone=BackboneEntry.from_dict(entries["backbone"]),
                metrics=entries["metrics"], reliability=_optional(entries, "reliability"),
                provenance=_optional(entries, "provenance") or {}, story=_optional(entries, "story") or {},
                files=entries["files"], digest=entries["digest"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(f"damaged: an entry is missing or wrong ({type(error).__name__}: {error})") from None


def _check_types(entries: Mapping[str, Any], types: Mapping[str, type]) -> None:
    for key, kind in types.items():
        if not isinstance(entries.get(key), kind):
            raise ParameterError(f"damaged: {key!r} is missing or is not a {kind.__name__}")


def _check_classes(state: Mapping[str, Any]) -> None:
    columns = state.get("columns", [])
    for part in (state, *columns) if isinstance(columns, list) and all(isinstance(one, dict) for one in columns) else ({"classes": 0},):
        classes = part.get("classes", [""])
        named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        if not named or not classes or len(set(classes)) < len(classes):
            raise ParameterError("damaged: 'classes' must be different names")


def _optional(entries: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    found = entries.get(key)
    return found if isinstance(found, dict) else None


def write_entries(file: Path, entries: Mapping[str, Any]) -> str:
    """Write the entries of a manifest with the digest over them, and return that."""
    digest = digest_of(entries)
    text = json.dumps({**entries, "digest": digest}, indent=1, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
    return digest


def digest_of(entries: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's content without its own entry ``digest``, hexadecimal; spaces and order do not count."""
    content = {key: value for key, value in entries.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities become None, NumPy's numbers plain ones, file names that are not UTF-8 printable.

    A dataclass becomes its `to_dict`, where it has one, else its fields.
    """
    if is_dataclass(value):
        return plain(value.to_dict() if hasattr(value, "to_dict") else vars(value))
    if isinstance(value, Mapping):
        return {printable(str(key)): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return printable(str(value)) if isinstance(value, str | Path) else value


_PROTOCOL_1: Mapping[str, type] = {"classes": list, "multilabel": bool, "preprocessing": dict, "files": dict, "metrics": dict}
_STORY_1 = (
    "title", "head", "features", "reason", "held_out", "evidence", "seconds", "training", "training_facts", "learning_curve", "leaks",
    "refused", "findings", "notes",
)  # fmt: skip


def _from_protocol_1(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Protocol 1 knew one task, classification of images, and whether an image may have several labels."""
    _check_types(entries, _PROTOCOL_1)
    link = SIGMOID if entries["multilabel"] else SOFTMAX
    state = {"classes": entries["classes"], "link": link.name}
    outputs = plain(task_named("classification").outputs(state))
    story = {key: entries[key] for key in _STORY_1 if key in entries}
    if isinstance(story.get("evidence"), list):
        story["evidence"] = [_candidate_of_protocol_1(row) for row in story["evidence"]]
    if "trust_test" in entries:
        story["reliability_test"] = entries["trust_test"]
    kept = {key: entries.get(key) for key in ("protocol", "preprocessing", "backbone", "metrics", "provenance", "files", "digest")}
    return kept | {
        "modality": "image", "task": "classification", "state": state, "outputs": outputs, "reliability": entries.get("trust"),
        "story": story,
    }  # fmt: skip


def _candidate_of_protocol_1(row: Any) -> Any:
    if not isinstance(row, dict) or "view" in row:
        return row
    same = {name: row.get(name) for name in ("head", "accuracy", "log_loss", "seconds", "chosen")}
    return same | {
        "view": row.get("layers"), "layers": [], "hyperparameters": row.get("settings"), "images": 0, "accuracy_error": row.get("error"),
        "log_loss_error": None,
    }  # fmt: skip


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest of a run folder alone: RunError where it is missing, damaged, or newer than this version."""
    file = path / MANIFEST
    if not path.exists():
        raise RunError(f"{path}: no such run folder.{_beside(path)} Give the folder that `headstart fit` printed as its run.")
    if not path.is_dir():
        raise RunError(f"{path}: is a file and not a run folder. Give the folder that `headstart fit` wrote.")
    if not file.is_file():
        raise RunError(f"{path}: not a run folder (it has no {MANIFEST}).{_inside(path)} Give the folder that `headstart fit` wrote.")
    try:
        if file.stat().st_size > _LIMIT:
            raise RunError(f"{file}: too large to be a manifest. {AGAIN}")
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read ({type(error).__name__}). {AGAIN}") from None
    if not isinstance(entries, dict) or type(entries.get("protocol")) is not int:
        raise RunError(f"{file}: not a manifest of Headstart (it has no protocol number).")
    if not 1 <= entries["protocol"] <= PROTOCOL:
        raise RunError(f"{file}: written in protocol {entries['protocol']}; this version reads 1 to {PROTOCOL}. Update Headstart.")
    try:
        return Manifest.from_dict(entries, lambda name: _file_of(path, name))
    except HeadstartError as error:
        raise RunError(f"{file}: {error}. {AGAIN}") from None


def _file_of(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise ParameterError(f"the file {name!r} cannot be read ({error.strerror or error})") from None


def is_run(path: Path) -> bool:
    """Tell whether `path` is a folder that looks like a run, whole or damaged."""
    return (path / MANIFEST).is_file() and (path / MODEL).is_file()


def _runs_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if is_run(entry))
    except OSError:
        return []


def _beside(path: Path) -> str:
    """The names of runs beside one that is not there."""
    return nearest(path.name, _runs_in(path.parent))


def _inside(path: Path) -> str:
    """The names of runs inside a folder that is none."""
    runs = _runs_in(path)
    return f" It holds the runs {', '.join(runs[:5])}{' and others' if len(runs) > 5 else ''}: give one of them." if runs else ""
