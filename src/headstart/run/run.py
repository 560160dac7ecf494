"""Opening a run folder and predicting from it. Needs NumPy and an engine: no scikit-learn, no PyTorch, no onnx."""

from __future__ import annotations

import csv
import hashlib
import json
import mmap
import os
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.data import Dataset
from headstart.engine import Engine, available_cores, open_engine
from headstart.errors import DataError, ImageError, ParameterError, RunError, nearest
from headstart.evaluate import Evaluation, evaluate
from headstart.features import Images, run_images
from headstart.files import file_digest
from headstart.modalities.image import Preprocessing, quiet_decoding
from headstart.progress import Progress
from headstart.run.judging import Judging
from headstart.run.predictions import Predictions

if TYPE_CHECKING:
    from headstart.reliability import Reliability

PROTOCOL = 1
"""Raised when the meaning of a file in the folder changes; older protocols stay readable."""

MANIFEST = "manifest.json"
MODEL = "model.onnx"
REFERENCE, EVALUATION, SPLIT = "reference.safetensors", "evaluation.safetensors", "split.csv"
PAGES = ("report.html", "MODEL_CARD.md")  # what a person reads; the model does without
TRUST = "trust."  # begins the names of the arrays of `Reliability` in REFERENCE
OUTPUTS = ("probabilities", "logits", "features")
_MAX_MANIFEST = 256 << 20
_REQUIRED: Mapping[str, type] = {
    "classes": list, "multilabel": bool, "preprocessing": dict, "files": dict, "metrics": dict, "backbone": dict, "digest": str,
}  # fmt: skip
_EXTERNAL = b"\x0a\x08location\x12"  # the key that names a file in onnx.TensorProto.external_data, as Protocol Buffers writes it
_AGAIN = "Copy the run again, or fit again."


class Run:
    """A saved run, opened with `load`.

    Attributes:
        path: the folder.
        manifest: everything that `manifest.json` says.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], *, engine: str = "auto") -> None:
        self.path = path
        self.manifest = manifest
        self._engine_kind = engine

    def __repr__(self) -> str:
        return f"<Run {self.path}: {len(self.classes)} classes, {self.manifest['backbone'].get('name')}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the model's outputs."""
        return tuple(self.manifest["classes"])

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return bool(self.manifest["multilabel"])

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures that `fit` measured."""
        return dict(self.manifest["metrics"])

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The very preprocessing that the model was fitted with."""
        return Preprocessing.from_dict(self.manifest["preprocessing"])

    @cached_property
    def engine(self) -> Engine:
        """The engine, opened at the first prediction."""
        return open_engine(self.path / MODEL, kind=self._engine_kind, outputs=OUTPUTS, size=self.preprocessing.size)

    @cached_property
    def reference(self) -> dict[str, npt.NDArray[Any]]:
        """What was kept of the training images, an array each.

        ``features`` float16 (n, d) of the last layer, ``targets``, ``out_of_sample_logits`` float32 (n, k), ``digests`` uint8 (n, 32), and
        what `trust` needs.
        """
        return self._arrays(REFERENCE)

    @cached_property
    def tested(self) -> dict[str, npt.NDArray[Any]]:
        """The test images: ``logits`` float32 (m, k), ``targets``, ``digests`` uint8 (m, 32); empty for runs of an earlier version."""
        return self._arrays(EVALUATION)

    @cached_property
    def trust(self) -> Reliability | None:
        """What was learned, beside the classes, about when to believe the model; None for runs of an earlier version."""
        settings = self.manifest.get("trust")
        if not isinstance(settings, dict):
            return None
        from headstart.reliability import Reliability

        arrays = {name.removeprefix(TRUST): array for name, array in self.reference.items() if name.startswith(TRUST)}
        return Reliability.from_state(settings, arrays)

    @cached_property
    def training_names(self) -> tuple[str, ...]:
        """The paths of the training images relative to the run folder, in the order of `reference`; empty where nothing tells them."""
        return tuple(row["path"] for row in self._split if row["split"] == "train")

    @cached_property
    def test_names(self) -> tuple[str, ...]:
        """The same of the test images, in the order of `tested`."""
        return tuple(row["path"] for row in self._split if row["split"] == "test")

    @cached_property
    def _split(self) -> list[dict[str, str]]:
        if SPLIT not in self.manifest["files"]:
            return []
        with (self.path / SPLIT).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        if name not in self.manifest["files"]:
            return {}
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{self.path / name}: cannot be read ({error}). {_AGAIN}") from None

    def seen(self, digests: Sequence[bytes]) -> tuple[int, int]:
        """How many of these images the run was trained on, and how many it was tested on; by their bytes, not their names."""
        known = [{row.tobytes() for row in arrays.get("digests", ())} for arrays in (self.reference, self.tested)]
        trained, tested = (sum(digest in there for digest in digests) for there in known)
        return trained, tested

    def threshold_for(self, accuracy: float) -> float:
        """The probability from which on the most probable class is right so often, assured with 95 % confidence on training images.

        Raises:
            ParameterError: an accuracy outside of 0 to 1, one that cannot be assured, or images with several labels.
            RunError: a run of an earlier version.
        """
        if self.trust is None or self.trust.abstention is None:
            raise RunError(f"{self.path}: does not know how right it is by confidence: an earlier version wrote it. Fit again.")
        if self.multilabel:
            raise ParameterError("an accuracy can be asked for where each image has one class, and here it may have several.")
        found = self.trust.abstention.threshold_for(accuracy)
        if found is None:
            raise ParameterError(
                f"an accuracy of {accuracy:.1%} cannot be assured with {self.trust.abstention.images} training images, whatever is left "
                "open. Ask for less, or add images."
            )
        return found[0]

    def predict(self, images: Images, *, progress: Progress | None = None, neighbours: int = 1) -> Predictions:
        """Predict all images that can be read; the others are listed in the result with path and reason.

        Args:
            images: paths, bytes or uint8 arrays (H, W, 3); or one uint8 array (n, H, W, 3).
            progress: called as images are done.
            neighbours: how many of the nearest training images to name for each.
        """
        if isinstance(images, str | bytes | os.PathLike):
            raise ParameterError("predict takes a list of images; put the single one into a list: predict([image]).")
        rows: list[npt.NDArray[np.float32]] = []
        kept: list[int] = []
        digests: list[bytes] = []
        refused: dict[int, ImageError] = {}
        judging = None if self.trust is None else Judging(self.trust, neighbours=neighbours)
        threads = min(available_cores(), max(1, len(images)))
        with quiet_decoding(), ThreadPoolExecutor(threads, thread_name_prefix="headstart-decode") as pool:
            results = run_images(images, range(len(images)), engine=self.engine, preprocessing=self.preprocessing, pool=pool)
            for done, result in enumerate(results, 1):
                if isinstance(result.outputs, ImageError):
                    refused[result.index] = result.outputs
                else:
                    probabilities, _, features = result.outputs
                    rows.append(probabilities)
                    kept.append(result.index)
                    digests.append(result.digest)
                    if judging is not None:
                        judging.add(probabilities, features)
                if progress is not None:
                    progress(done, len(images))
        return Predictions(
            classes=self.classes,
            probabilities=np.stack(rows) if rows else np.empty((0, len(self.classes)), np.float32),
            kept=np.asarray(kept, dtype=np.int64),
            refused=tuple(refused.values()),
            refused_at=tuple(refused),
            multilabel=self.multilabel,
            digests=tuple(digests),
            judgement=None if judging is None else judging.done(),
        )

    def evaluate(self, dataset: Dataset, *, progress: Progress | None = None) -> tuple[Evaluation, Predictions]:
        """Test the saved model itself, from pixels to probabilities.

        Args:
            dataset: read with ``read_dataset(..., classes=run.classes)``, which matches the labels by name.
            progress: called as images are done.

        Returns:
            The evaluation of the images that could be read, and the predictions (which list the others).

        Raises:
            DataError: other classes than the run's, or no image that can be read.
        """
        if tuple(dataset.classes) != self.classes:
            raise DataError(
                f"The data have the classes {', '.join(dataset.classes[:5])} and the run {', '.join(self.classes[:5])}. "
                "Read the data with read_dataset(..., classes=run.classes), which matches them by name."
            )
        predictions = self.predict(dataset.images, progress=progress)
        if not len(predictions):
            raise DataError(f"None of the {len(dataset)} images can be read. The first: {next(iter(predictions.refused), '-')}")
        return evaluate(predictions.probabilities, dataset.targets[predictions.kept], self.classes), predictions


def load(path: str | Path, *, engine: str = "auto", without_pages: bool = False) -> Run:
    """Open a run folder.

    Args:
        path: the folder that ``headstart fit`` wrote.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        without_pages: do not look at its pages (`PAGES`), which are to be written anew.

    Raises:
        RunError: not a run folder, a file that is missing or differs from its digest, or a protocol newer than this version's.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for name, digest in manifest["files"].items():
        if not is_plain_name(name):
            raise RunError(f"{path}: the manifest names a file outside the run folder ({name!r}). Do not use this run.")
        if without_pages and name in PAGES:
            continue
        file = path / name
        try:
            if not file.is_file():  # a named pipe, for one, would never end
                raise RunError(f"{file}: is missing. The run is incomplete: copy it again, or fit again.")
            found = file_digest(file)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(f"{file}: cannot be read ({reason}). {_AGAIN}") from None
        if found != digest and name in PAGES:
            raise RunError(
                f"{file}: has been changed since the run was written (its SHA-256 differs). "
                f"Write it anew with: headstart report {shlex.quote(str(path))}"
            )
        if found != digest:
            raise RunError(f"{file}: has been changed since the run was written (its SHA-256 differs). {_AGAIN}")
    if MODEL not in manifest["files"]:
        raise RunError(f"{path}: the manifest lists no {MODEL}. Fit again.")
    if _names_a_file(path / MODEL):
        raise RunError(f"{path / MODEL}: keeps its weights in another file, which may be any file of this machine. Do not use this run.")
    return Run(path, manifest, engine=engine)


def _names_a_file(model: Path) -> bool:
    """Tell whether a network asks for weights from another file."""
    if not model.stat().st_size:  # nothing, which cannot be mapped
        return False
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_EXTERNAL) >= 0


def is_run(path: Path) -> bool:
    """Tell whether `path` is a folder that looks like a run, whole or damaged."""
    return (path / MANIFEST).is_file() and (path / MODEL).is_file()


def is_plain_name(name: str) -> bool:
    """Tell whether `name` is that of a file directly in a folder, on any system."""
    return bool(name) and name not in (".", "..") and not any(mark in name for mark in "/\\:\0") and name.isprintable()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's content without its own entry ``digest``, hexadecimal; spaces and order do not count."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest of a run folder; the other files are not looked at.

    Raises:
        RunError: there is none, it is damaged, or its protocol is newer than this version's.
    """
    file = path / MANIFEST
    if not path.exists():
        raise RunError(f"{path}: no such run folder.{_beside(path)} Give the folder that `headstart fit` printed as its run.")
    if not path.is_dir():
        raise RunError(f"{path}: is a file and not a run folder. Give the folder that `headstart fit` wrote.")
    if not file.is_file():
        raise RunError(f"{path}: not a run folder (it has no {MANIFEST}).{_inside(path)} Give the folder that `headstart fit` wrote.")
    try:
        if file.stat().st_size > _MAX_MANIFEST:
            raise RunError(f"{file}: too large to be a manifest. {_AGAIN}")
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read ({type(error).__name__}). {_AGAIN}") from None
    if not isinstance(manifest, dict) or type(manifest.get("protocol")) is not int:
        raise RunError(f"{file}: not a manifest of Headstart (it has no protocol number).")
    if not 1 <= manifest["protocol"] <= PROTOCOL:
        raise RunError(
            f"{file}: written in protocol {manifest['protocol']}; this version reads 1 to {PROTOCOL}. Update with: pip install -U headstart"
        )
    _check_entries(file, manifest)
    return manifest


def _check_entries(file: Path, manifest: dict[str, Any]) -> None:
    for key, kind in _REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise RunError(f"{file}: damaged: {key!r} is missing or is no {kind.__name__}. {_AGAIN}")
    if manifest_digest(manifest) != manifest["digest"]:
        raise RunError(f"{file}: has been changed since the run was written (its digest differs). {_AGAIN}")
    classes = manifest["classes"]
    if not classes or not all(isinstance(name, str) for name in classes) or len(set(classes)) < len(classes):
        raise RunError(f"{file}: damaged: 'classes' must be different names. {_AGAIN}")
    try:
        Preprocessing.from_dict(manifest["preprocessing"])
    except (TypeError, ParameterError) as error:
        raise RunError(f"{file}: damaged: 'preprocessing' cannot be used ({error}). {_AGAIN}") from None


def _beside(path: Path) -> str:
    """The names of runs beside one that is not there."""
    try:
        return nearest(path.name, [entry.name for entry in path.parent.iterdir() if is_run(entry)])
    except OSError:
        return ""


def _inside(path: Path) -> str:
    """The names of runs inside a folder that is none."""
    try:
        runs = sorted(entry.name for entry in path.iterdir() if is_run(entry))
    except OSError:
        return ""
    return f" It holds the runs {', '.join(runs[:5])}{' and others' if len(runs) > 5 else ''}: give one of them." if runs else ""
