"""`Manifest`: what a run folder says of itself, typed; and its older protocols, which stay readable."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from headstart.errors import HeadstartError, ParameterError, RunError
from headstart.metrics.link import SIGMOID, SOFTMAX
from headstart.modalities.image import Preprocessing
from headstart.tasks import Output, Task, task_named
from headstart.text import printable

PROTOCOL = 2
"""Raised when the meaning of a file in the folder changes; older protocols stay readable."""

_TYPES: Mapping[str, type] = {
    "modality": str, "task": str, "state": dict, "outputs": list, "preprocessing": dict, "files": dict, "metrics": dict, "backbone": dict,
    "digest": str,
}  # fmt: skip
AGAIN = "Copy the run again, or fit again."


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """The backbone of a run.

    Attributes:
        name: in the catalogue.
        licence: of its weights.
        weights_source: where the weights came from; `weights_digest`: their SHA-256.
        layers: (name, first column, one past the last) of each stage in a feature vector.
    """

    name: str
    licence: str = "unknown"
    weights_source: str = ""
    weights_digest: str = ""
    layers: tuple[tuple[str, int, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        layers = [{"name": name, "start": start, "stop": stop} for name, start, stop in self.layers]
        return {**vars(self), "layers": layers}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        layers = tuple((str(row["name"]), int(row["start"]), int(row["stop"])) for row in entry.get("layers", ()))
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
    preprocessing: Preprocessing
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

    def definition(self) -> Task:
        """The task itself.

        Raises:
            ParameterError: this version does not know it.
        """
        return task_named(self.task)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without the digest over them."""
        entries: dict[str, Any] = plain(
            {
                "protocol": PROTOCOL,
                "modality": self.modality,
                "task": self.task,
                "state": self.state,
                "outputs": [output.to_dict() for output in self.outputs],
                "preprocessing": self.preprocessing.to_dict(),
                "backbone": self.backbone.to_dict(),
                "metrics": self.metrics,
                "reliability": self.reliability,
                "provenance": self.provenance,
                "story": self.story,
                "files": self.files,
            }
        )
        return entries

    def write(self, file: Path) -> Manifest:
        """Write it, and return it with its digest."""
        return replace(self, protocol=PROTOCOL, digest=write_entries(file, self.to_dict()))

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also for older protocols.

        Raises:
            ParameterError: an entry is missing or damaged; the message names it.
        """
        digest = entries.get("digest")
        if isinstance(digest, str) and digest_of(entries) != digest:
            raise ParameterError("has been changed since the run was written (its digest differs)")
        if entries["protocol"] == 1:
            entries = _from_protocol_1(entries)
        for key, kind in _TYPES.items():
            if not isinstance(entries.get(key), kind):
                raise ParameterError(f"damaged: {key!r} is missing or is not a {kind.__name__}")
        try:
            return cls(
                protocol=entries["protocol"], modality=entries["modality"], task=entries["task"], state=_checked_state(entries["state"]),
                outputs=tuple(Output(str(row["name"]), str(row["kind"]), tuple(row["shape"])) for row in entries["outputs"]),
                preprocessing=_preprocessing(entries["preprocessing"]), backbone=BackboneEntry.from_dict(entries["backbone"]),
                metrics=entries["metrics"],
                reliability=_optional(entries, "reliability"),
                provenance=_optional(entries, "provenance") or {},
                story=_optional(entries, "story") or {}, files=entries["files"], digest=entries["digest"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(f"damaged: an entry is missing or wrong ({type(error).__name__}: {error})") from None


def _checked_state(state: Mapping[str, Any]) -> Mapping[str, Any]:
    classes = state.get("classes")
    if classes is None:
        return state
    if (
        not isinstance(classes, list)
        or not classes
        or not all(isinstance(name, str) for name in classes)
        or len(set(classes)) < len(classes)
    ):
        raise ParameterError("damaged: 'classes' must be different names")
    return state


def _preprocessing(entry: Mapping[str, Any]) -> Preprocessing:
    try:
        return Preprocessing.from_dict(entry)
    except (TypeError, ParameterError) as error:
        raise ParameterError(f"damaged: 'preprocessing' cannot be used ({error})") from None


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
    """`value` as JSON can hold it: NaN and infinities become None, NumPy's numbers plain ones, file names that are not UTF-8 printable."""
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
    for key, kind in _PROTOCOL_1.items():
        if not isinstance(entries.get(key), kind):
            raise ParameterError(f"damaged: {key!r} is missing or is not a {kind.__name__}")
    link = SIGMOID if entries["multilabel"] else SOFTMAX
    state = {"classes": entries["classes"], "link": link.name}
    outputs = [output.to_dict() for output in task_named("classification").outputs(state)]
    story = {key: entries[key] for key in _STORY_1 if key in entries}
    if "trust_test" in entries:
        story["reliability_test"] = entries["trust_test"]
    kept = {key: entries.get(key) for key in ("protocol", "preprocessing", "backbone", "metrics", "provenance", "files", "digest")}
    return kept | {
        "modality": "image", "task": "classification", "state": state, "outputs": outputs, "reliability": entries.get("trust"),
        "story": story,
    }  # fmt: skip


def read_manifest_file(file: Path, *, limit: int = 256 << 20) -> Manifest:
    """Read and check a manifest; the other files of the run are not looked at.

    Raises:
        RunError: it cannot be read, is damaged, or its protocol is newer than this version's.
    """
    try:
        if file.stat().st_size > limit:
            raise RunError(f"{file}: too large to be a manifest. {AGAIN}")
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read ({type(error).__name__}). {AGAIN}") from None
    if not isinstance(entries, dict) or type(entries.get("protocol")) is not int:
        raise RunError(f"{file}: not a manifest of Headstart (it has no protocol number).")
    if not 1 <= entries["protocol"] <= PROTOCOL:
        raise RunError(f"{file}: written in protocol {entries['protocol']}; this version reads 1 to {PROTOCOL}. Update Headstart.")
    try:
        return Manifest.from_dict(entries)
    except HeadstartError as error:
        raise RunError(f"{file}: {error}. {AGAIN}") from None
