"""Opening a run folder and predicting from it. Needs NumPy and an engine: no scikit-learn, no PyTorch, no onnx."""

from __future__ import annotations

import csv
import mmap
import os
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from headstart.data import Dataset, ListOptions, dataset_of, read_annotations
from headstart.data.inputs import checked_inputs
from headstart.engine import Engine, available_cores
from headstart.errors import DataError, ParameterError, RunError, nearest
from headstart.features import Images, run_images
from headstart.files import file_digest
from headstart.metrics.link import Link, link_named
from headstart.modalities import Modality, modality_named
from headstart.modalities.image import quiet_decoding
from headstart.modalities.text import Text
from headstart.progress import Progress, Say, to_warnings
from headstart.records import Column, Record
from headstart.run.collected import Collected
from headstart.run.manifest import AGAIN, MODEL, Manifest, read_manifest
from headstart.sequence_engine import open_engine_for
from headstart.tasks import FEATURES, ClassOutputs, Evaluation, Neighbour, Task, task_named
from headstart.text import unread

if TYPE_CHECKING:
    from headstart.reliability import Reliability, Shift
    from headstart.run.record import FitRecord

REFERENCE, EVALUATION, SPLIT = "reference.safetensors", "evaluation.safetensors", "split.csv"
PAGES = ("report.html", "MODEL_CARD.md")  # what a person reads; the model does without
RELIABILITY = "trust."  # begins the names of the arrays of reliability in REFERENCE
_EXTERNAL = b"\x0a\x08location\x12"  # the key that names a file in onnx.TensorProto.external_data, as Protocol Buffers writes it


class Run:
    """A saved run, opened with `load`.

    Attributes:
        path: the folder.
        manifest: what the run says of itself.
        engine_kind: of the engine that will run it.
    """

    def __init__(self, path: Path, manifest: Manifest, *, engine: str = "auto") -> None:
        self.path = path
        self.manifest = manifest
        self.engine_kind = engine

    def __repr__(self) -> str:
        what = f"{len(self.classes)} classes" if self.classes else self.manifest.task
        return f"<Run {self.path}: {what}, {self.manifest.backbone.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: the path of the run, which is opened there and must be the same run still."""
        return _opened_again, (self.path.absolute(), self.engine_kind, self.manifest.digest)

    def with_engine(self, engine: str) -> Run:
        """The same run in another engine."""
        return Run(self.path, self.manifest, engine=engine)

    @cached_property
    def task(self) -> Task:
        """What the run has learned."""
        return task_named(self.manifest.task)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the model's outputs; empty where the task has none."""
        return tuple(self.manifest.state.get("classes", ()))

    @property
    def link(self) -> Link | None:
        """Whether an input has one label or any number of them; None where the task has no classes."""
        name = self.manifest.state.get("link")
        return None if name is None else link_named(str(name))

    def class_link(self, what: str) -> Link:
        """The link, for what can only be done with classes; else a ParameterError that begins with `what`."""
        if self.link is None:
            raise self._without_classes(what)
        return self.link

    def _without_classes(self, what: str) -> ParameterError:
        return ParameterError(f"{what} runs whose outputs are classes, and {self.path} has learned the task {self.manifest.task}.")

    @property
    def class_outputs(self) -> tuple[ClassOutputs, ...]:
        """The outputs that rank classes, by the column of labels; none where the task has no classes."""
        return self.task.class_outputs(self.manifest.state)

    @property
    def explainable(self) -> tuple[ClassOutputs, ...]:
        """The outputs whose classes heat maps explain, by the column of labels; none where there is no such."""
        return self.task.explained(self.manifest.state)

    def explained(self, column: str | None, what: str) -> ClassOutputs:
        """The outputs whose classes heat maps explain, of a column of labels, by default of the first.

        ParameterError, which begins with `what`, where the task has no classes; and for a column that the run does not have.
        """
        found = self.explainable
        if not found:
            raise self._without_classes(what)
        chosen = [one for one in found if column is None or one.column == column]
        if not chosen:
            own = [one.column for one in found if one.column]
            known = f"It has the columns {', '.join(own)}." if own else "It has one, without a name."
            raise ParameterError(f"{self.path} has not learned a column {column!r}.{nearest(column or '', own)} {known}")
        return chosen[0]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the graph's outputs, in the order in which the engine gives them; the features come last."""
        return (*(output.name for output in self.manifest.outputs), FEATURES)

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures that `fit` measured."""
        return dict(self.manifest.metrics)

    @property
    def preprocessing(self) -> Any:
        """The very preprocessing that the model was fitted with."""
        return self.manifest.preprocessing

    @cached_property
    def record(self) -> FitRecord:
        """How the fit went; RunError where an earlier version wrote the run and did not store it, or it is damaged."""
        from headstart.run.record import FitRecord

        try:
            return FitRecord.from_dict(self.manifest.story)
        except RunError as error:
            raise RunError(f"{self.path}: {error}. Fit again.") from None

    @cached_property
    def engine(self) -> Engine:
        """The engine, opened at the first prediction."""
        if not self.task.in_graph:
            found: Engine = self.task.open_engine(self.path, self.manifest.state, kind=self.engine_kind)
            return found
        return open_engine_for(self.path / MODEL, kind=self.engine_kind, outputs=self.outputs, size=self.preprocessing.size)

    @cached_property
    def reference(self) -> dict[str, npt.NDArray[Any]]:
        """What is stored of the training inputs, an array each.

        ``features`` float16 (n, d) of the last layer, ``targets``, ``digests`` uint8 (n, 32), out-of-sample outputs, and what `reliability`
        needs.
        """
        return self._arrays(REFERENCE)

    @cached_property
    def tested(self) -> dict[str, npt.NDArray[Any]]:
        """The test inputs: the outputs of the model, ``targets``, ``digests`` uint8 (m, 32); empty for runs of an earlier version."""
        return self._arrays(EVALUATION)

    @cached_property
    def reliability(self) -> Reliability | None:
        """What was learned about how far an output can be trusted; None where nothing was."""
        settings = self.manifest.reliability
        if settings is None:
            return None
        from headstart.reliability import Reliability

        arrays = {name.removeprefix(RELIABILITY): array for name, array in self.reference.items() if name.startswith(RELIABILITY)}
        return Reliability.from_state(settings, arrays)

    @cached_property
    def training_names(self) -> tuple[str, ...]:
        """The paths of the training images relative to the run folder, in the order of `reference`; empty where nothing tells them."""
        return self._names("train")

    @cached_property
    def test_names(self) -> tuple[str, ...]:
        """The same of the test images, in the order of `tested`."""
        return self._names("test")

    def _names(self, part: str) -> tuple[str, ...]:
        if SPLIT not in self.manifest.files:
            return ()
        with (self.path / SPLIT).open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == part]
        return tuple(Text(row["text"], row["row"]) if "text" in row else row["path"] for row in rows)

    def _arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        if name not in self.manifest.files:
            return {}
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{self.path / name}: cannot be read ({error}). {AGAIN}") from None

    def seen(self, digests: Sequence[bytes]) -> tuple[int, int]:
        """How many of these images the run was trained on, and how many it was tested on; by their bytes, not their names."""
        known = [{row.tobytes() for row in arrays.get("digests", ())} for arrays in (self.reference, self.tested)]
        trained, tested = (sum(digest in there for digest in digests) for there in known)
        return trained, tested

    def threshold_for(self, accuracy: float) -> float:
        """The probability from which on the most probable class is correct so often, with 95 % confidence, on training images.

        Raises:
            ParameterError: an accuracy outside of 0 to 1, one that cannot be guaranteed, or a run without exclusive classes.
            RunError: a run of an earlier version.
        """
        if self.class_link("An accuracy can be asked for of").independent:
            raise ParameterError("An accuracy can be asked for where each image has one class, and here it may have several.")
        abstention = None if self.reliability is None else self.reliability.abstention
        if abstention is None:
            raise RunError(f"{self.path}: does not know its accuracy by confidence: an earlier version wrote it. Fit again.")
        found = abstention.threshold_for(accuracy)
        if found is None:
            raise ParameterError(
                f"an accuracy of {accuracy:.1%} cannot be assured with {abstention.images} training images, whatever is left "
                "open. Ask for less, or add images."
            )
        return found[0]

    def least(self, *, confidence: float | None = None, accuracy: float | None = None) -> float | None:
        """The lowest confidence of what `records` names: as given, or for an accuracy as of `threshold_for`; None for the default.

        ParameterError for a confidence where the task has none, and errors as of `threshold_for`.
        """
        self.task.check_confidence(confidence)
        return confidence if accuracy is None else self.threshold_for(accuracy)

    def predict(
        self, images: Images, *, progress: Progress | None = None, neighbours: int = 1, warn: Say = to_warnings, sample: int = 0
    ) -> Any:
        """Predict all images that can be read; the others are listed in the result with path and reason.

        Args:
            images: paths, bytes, uint8 arrays (H, W, 3) or images of Pillow, also as a column of pandas or polars; or one uint8 array
                (n, H, W, 3). Of a run that learned from texts, strings.
            progress: called as images are done.
            neighbours: how many of the nearest training images to name for each.
            warn: told of the images that cannot be read; by default with a warning of Python.
            sample: of about how many of the images to return the features, too; 0 of none.

        Returns:
            the `Predictions` of the task: for classification `headstart.tasks.classification.predictions.ClassPredictions`.
        """
        images = checked_inputs(self.modality, images)
        collected = Collected(self, neighbours=neighbours, every=-(-len(images) // sample) if sample else 0)
        threads = min(available_cores(), max(1, len(images)))
        with quiet_decoding(), ThreadPoolExecutor(threads, thread_name_prefix="headstart-decode") as pool:
            results = run_images(
                images, range(len(images)), engine=self.engine, preprocessing=self.preprocessing, pool=pool, sizes=self.task.spatial
            )
            for done, result in enumerate(results, 1):
                collected.add(result.index, result.outputs, digest=result.digest, size=result.size)
                if progress is not None:
                    progress(done, len(images))
        predictions = collected.predictions()
        if predictions.refused:
            warn(unread(predictions.refused, len(images), "have no prediction", noun=self.modality.noun))
        return predictions

    def shift(self, novel: int | None, images: int) -> Shift:
        """Whether so many images, of which so many are unlike the training images, come from another world; None: that is not known."""
        from headstart.reliability import Shift

        novelty = None if self.reliability is None else self.reliability.novelty
        return Shift() if novelty is None or novel is None else Shift(novel=novelty.rate(novel, images))

    def columns(self, *, top: int = 1) -> tuple[Column, ...]:
        """The columns of tables of `records`."""
        columns = self.task.columns(self.manifest.state, top=top)
        return tuple(replace(one, name=self.modality.column) if one.type == "name" else one for one in columns)

    @property
    def modality(self) -> Modality:
        """What the inputs are."""
        return modality_named(self.manifest.modality)

    def records(
        self, names: Sequence[Any], predictions: Any, *, top: int = 1, least: float | None = None, nearest: int = 1,
        neighbour: Neighbour | None = None,
    ) -> list[Record]:  # fmt: skip
        """Decode predictions: what `predict`, batch jobs and the service write; see `headstart.tasks.Task.records`.

        `neighbour` names a training input, by default `training_image`. ParameterError for `least` where the task has no confidence.
        """
        self.task.check_confidence(least)
        return self.task.records(names, predictions, neighbour or self.training_image, top=top, least=least, nearest=nearest)

    def training_image(self, index: int) -> tuple[str, str]:
        """The path and the label of a training image by its position; empty where the run does not know. Labels are joined with ``;``."""
        names, targets = self.training_names, self.reference.get("targets")
        name = names[index] if 0 <= index < len(names) else ""
        if name and not isinstance(name, Text) and ("/" in name or not name.startswith("array[")):
            name = os.path.normpath(self.path / name)
        if targets is None or not self.class_outputs or not 0 <= index < len(targets):
            return name, ""
        return name, ";".join(self.task.targets(targets[index : index + 1], self.manifest.state).names(0))

    def read(self, data: str | Path, *, lists: ListOptions | None = None, **options: Any) -> Dataset:
        """Read data as this run understands their targets: classes are matched by name. Options and errors as of `read_annotations`."""
        columns = self.task.columns_read(self.manifest.state, lists or ListOptions())
        known = [name for one in self.class_outputs for name in one.classes]
        found = read_annotations(data, classes=known or None, columns=columns, lists=lists, prefer=self.task.prefers, **options)
        return dataset_of(found, self.task.read_targets(found, self.manifest.state))

    def evaluate(
        self, dataset: Dataset, *, progress: Progress | None = None, warn: Say = to_warnings, sample: int = 0
    ) -> tuple[Evaluation, Any]:
        """Test the saved model itself, from pixels to outputs.

        Args:
            dataset: read with `read`, or with ``read_dataset(..., classes=run.classes)``, which matches the labels by name.
            progress: called as images are done.
            warn: told of the images that cannot be read; by default with a warning of Python.
            sample: as of `predict`.

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
        predictions = self.predict(dataset.inputs, progress=progress, warn=warn, sample=sample)
        if not len(predictions):
            raise DataError(f"None of the {len(dataset)} images can be read. The first: {next(iter(predictions.refused), '-')}")
        return self.task.evaluate(predictions.outputs, dataset.targets.take(predictions.kept)), predictions

    def test_evaluation(self, *, calibrated: bool = True) -> Evaluation:
        """The evaluation on the test part again, from the outputs that the run stores; before they were calibrated, if asked for.

        RunError where an earlier version wrote the run and did not store them.
        """
        arrays = self.tested
        if "targets" not in arrays:
            raise RunError(f"{self.path}: was written by an earlier version, which did not store what the model said of the test images.")
        if not calibrated:
            arrays = {"logits": arrays["scores"], "targets": arrays["targets"]}
        return self.task.evaluation_of(arrays, self.manifest.state)


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
    for name, digest in manifest.files.items():
        if not _is_plain_name(name):
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
            raise RunError(f"{file}: cannot be read ({reason}). {AGAIN}") from None
        if found != digest and name in PAGES:
            raise RunError(
                f"{file}: has been changed since the run was written (its SHA-256 differs). "
                f"Write it anew with: headstart report {shlex.quote(str(path))}"
            )
        if found != digest:
            raise RunError(f"{file}: has been changed since the run was written (its SHA-256 differs). {AGAIN}")
    if not task_named(manifest.task).in_graph:
        return Run(path, manifest, engine=engine)
    if MODEL not in manifest.files:
        raise RunError(f"{path}: the manifest lists no {MODEL}. Fit again.")
    if _names_a_file(path / MODEL):
        raise RunError(f"{path / MODEL}: keeps its weights in another file, which may be any file of this machine. Do not use this run.")
    return Run(path, manifest, engine=engine)


def _opened_again(path: Path, engine: str, digest: str) -> Run:
    run = load(path, engine=engine)
    if run.manifest.digest != digest:
        raise RunError(f"{path}: is another run than the one that was sent to this process. Load it here: headstart.load({str(path)!r}).")
    return run


def _names_a_file(model: Path) -> bool:
    """Tell whether a network asks for weights from another file."""
    if not model.stat().st_size:  # nothing, which cannot be mapped
        return False
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_EXTERNAL) >= 0


def _is_plain_name(name: str) -> bool:
    """Tell whether `name` is that of a file directly in a folder, on any system."""
    return bool(name) and name not in (".", "..") and not any(mark in name for mark in "/\\:\0") and name.isprintable()
