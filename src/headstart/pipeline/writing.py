"""From the result of a fit to its run folder: manifest, graph, arrays, lists, pages; one after the other."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import headstart
from headstart.data.dataset import relative_name
from headstart.matrix import columns_of
from headstart.modalities.image.augment import Augmentation
from headstart.records import csv_lines
from headstart.report import Sources, report_of, write_report
from headstart.run import RELIABILITY, BackboneEntry, Manifest, RunContents, seal, write_files, writing_run
from headstart.run.record import ColumnRecord, FitRecord, TrainingRecord
from headstart.selection.choice import describe_head
from headstart.text import printable

if TYPE_CHECKING:
    from headstart.features import BackboneExtractor
    from headstart.pipeline.result import FitResult
    from headstart.tasks import Learned

_PACKAGES = ("numpy", "scipy", "scikit-learn", "openvino", "onnxruntime", "onnx", "pillow", "simplejpeg", "timm", "torch")


def write(result: FitResult, *, command: str) -> None:
    """Write the run folder of a result; errors as of `writing_run`."""
    assert result.run is not None
    dataset = result.dataset
    with writing_run(result.run) as folder:
        run = write_files(folder, contents_of(result, command=command))  # which are not kept while the pages are made
        run.record = _record(result)
        train, test = result.table.train, result.table.test
        sources = Sources(
            training=lambda row: dataset.inputs[train[row]], test=lambda row: dataset.inputs[test[row]],
            targets=lambda row: dataset.targets.take(test[row : row + 1]),
            features=result.table.features(test), cached=result.learned.prepared.cached,
        )  # fmt: skip
        write_report(folder, report_of(run, sources))
        seal(folder, run.manifest)


def contents_of(result: FitResult, *, command: str) -> RunContents:
    """Everything that goes into the run folder but its pages."""
    return RunContents(
        manifest=_manifest(result, command=command), backbone=result.learned.prepared.extractor.backbone,
        model=result.choice.estimator, reference=_reference(result), evaluation=_evaluation(result), split=_split_list(result),
        maps=_maps(result), windows=result.learned.prepared.extractor.windows,
    )  # fmt: skip


def _maps(result: FitResult) -> tuple[str, ...]:
    """The layers whose maps the model takes."""
    if result.table.maps is None:
        return ()
    taken = result.task.maps_taken(result.choice.estimator)
    return tuple(layer.name for layer in result.table.maps.layers) if taken is None else taken


def _manifest(result: FitResult, *, command: str) -> Manifest:
    task, extractor, targets = result.task, result.learned.prepared.extractor, result.dataset.targets
    backbone, state = extractor.backbone, task.state(targets, result.choice.estimator)
    reliability = result.judged.reliability
    preprocessing = task.preprocessing(extractor.square, result.choice.estimator)
    return Manifest(
        task=task.name, state=state, outputs=task.outputs(state), preprocessing=preprocessing,
        modality=result.dataset.modality.name,
        backbone=BackboneEntry(
            name=backbone.record.name, licence=backbone.record.licence or "unknown", weights_source=backbone.weights_source,
            weights_digest=backbone.weights_digest, layers=backbone.layers,
        ),
        metrics=_metrics(result),
        reliability=None if reliability is None else reliability.state()[0],
        provenance=_provenance(result, command),
        story=_record(result).to_dict(),
    )  # fmt: skip


def _record(result: FitResult) -> FitRecord:
    extractor, judged = result.learned.prepared.extractor, result.judged
    return FitRecord(
        title=printable(Path(result.dataset.source).resolve().name or result.dataset.source), head=result.head,
        features=_features(extractor),
        reason=result.choice.reason, evidence=result.choice.evidence, tried=result.tried, baseline=result.baseline,
        held_out=result.held_out,
        adaptation=result.learned.adaptation,
        seconds={stage: round(value, 3) for stage, value in result.seconds.items()},
        training=_training(result), training_facts=_about_training(result),
        reliability_test=judged.reliability_test, learning_curve=judged.learning_curve, leaks=result.leaks,
        refused=tuple((error.path, error.reason) for error in result.refused), findings=result.findings, notes=result.dataset.notes,
        columns=tuple(_column(result, name, one) for name, one in result.learned.columns.items()),
    )  # fmt: skip


def _column(result: FitResult, name: str, learned: Learned) -> ColumnRecord:
    judged, probe = result.judged.columns.get(name), result.probes.get(name)
    return ColumnRecord(
        name=name, head=describe_head(learned.choice), images=len(learned.table.train),
        learning_curve=None if judged is None else judged.learning_curve, probe=None if probe is None else probe.to_dict(),
    )  # fmt: skip


def _features(extractor: BackboneExtractor) -> str:
    """What the features are, for people; empty where there are none."""
    if not extractor.dim:
        return ""
    size = f"({extractor.dim} numbers)" + (f" at {extractor.preprocessing.size} px" if extractor.preprocessing.size else "")
    if len(extractor.layers) == 1 and extractor.backbone.record.handcrafted:
        return f"handcrafted: {extractor.backbone.name} {size}"
    return f"pooled outputs of {len(extractor.layers)} stages {size}"


def _reference(result: FitResult) -> dict[str, npt.NDArray[Any]]:
    table, last, reliability = result.table, result.learned.prepared.extractor.backbone.last, result.judged.reliability
    train, out_of_sample = table.train, result.choice.out_of_sample
    arrays = {} if reliability is None else reliability.state()[1]
    return {
        "features": columns_of(table.values, train, last.start, last.stop, dtype=np.float16),
        "targets": table.targets[train],
        **({} if out_of_sample is None else {"out_of_sample_logits": out_of_sample.astype(np.float32)}),
        "digests": _digest_rows([table.digests[row] for row in train]),
        **{f"{RELIABILITY}{name}": array for name, array in arrays.items()},
    }


def _evaluation(result: FitResult) -> dict[str, npt.NDArray[Any]]:
    table, test = result.table, result.table.test
    stored = result.task.stored(result.tested, table.dataset.targets.take(test), result.test)
    return {**stored, "digests": _digest_rows([table.digests[row] for row in test])}


def _digest_rows(digests: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    """Digests as uint8 (n, 32)."""
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32) if digests else np.empty((0, 32), np.uint8)


def _training(result: FitResult) -> TrainingRecord | None:
    """How the backbone was trained further; None where the model was fitted on frozen features."""
    tuned, plan = result.learned.fine_tuned, result.learned.plan
    if tuned is None or plan is None:
        return None
    return TrainingRecord(
        plan=plan.to_dict(), augmentation=Augmentation.parse(plan.augment).id, trained=tuple(tuned.trained),
        frozen=tuple(stage.name for stage in tuned.stages if stage.name not in tuned.trained), history=tuned.history,
        probe=None if result.probe is None else result.probe.to_dict(), facts=tuple(tuned.facts), shipped=tuned.shipped,
    )  # fmt: skip


def _metrics(result: FitResult) -> dict[str, Any]:
    name, value, interval = result.test.headline
    crossed = (
        {}
        if result.cross_validation is None
        else {
            "cross_validation": {
                **result.cross_validation.to_dict(),
                "by_fold": [None if score != score else score for score in result.by_fold],
            }
        }
    )
    tested = {f"test_{name}": value, f"test_{name}_interval": list(interval), "test_images": result.test.images}
    return {**tested, "test": result.test.to_dict(), **crossed}


def _provenance(result: FitResult, command: str) -> dict[str, Any]:
    dataset, extractor = result.dataset, result.learned.prepared.extractor
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "data": dataset.source,
        "images": {part: dataset.counts(part) or {"images": len(dataset.part(part))} for part in ("train", "test")},
        "settings": result.settings.to_dict(),
        "extractor": extractor.id,
        "versions": {"headstart": headstart.__version__, "python": platform.python_version(), **_versions()},
        "machine": f"{platform.system()} {platform.machine()}",
    }


@functools.cache
def _versions() -> dict[str, str]:
    """Those of the packages that are installed, by name; asked for once: each takes milliseconds."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _split_list(result: FitResult) -> str:
    """The list of all images with label and part: a list file that `headstart fit` itself can read, where the images are files."""
    dataset = result.dataset
    further = [dataset.parts, dataset.groups] if dataset.grouped else [dataset.parts]
    texts = dataset.inputs if all(isinstance(one, str) for one in dataset.inputs) else ()
    columns = [
        dataset.modality.column,
        *(["text"] if texts else []),
        *(dataset.targets.cells(0) if len(dataset) else ()),
        *("split", "group")[: len(further)],
    ]
    rows = (
        [name, *([texts[index]] if texts else []), *dataset.targets.cells(index).values(), *(str(of[index]) for of in further)]
        for index, name in enumerate(_paths_from_run(result))
    )
    return csv_lines([columns, *rows])


def _paths_from_run(result: FitResult) -> Iterable[str]:
    """Each image's path relative to the run folder, so that both can be moved together; whole where they are on different drives."""
    dataset = result.dataset
    if not all(isinstance(one, Path) for one in dataset.inputs) or result.run is None:
        return dataset.names()
    folder = result.run.expanduser().resolve()

    @functools.cache
    def place(above: Path) -> Path:
        try:
            return Path(os.path.relpath(above.resolve(), folder))
        except ValueError:  # another drive
            return above.resolve()

    return (relative_name(place(image.parent) / image.name, None) for image in dataset.inputs)


def _about_training(result: FitResult) -> tuple[str, ...]:
    tuned, probe = result.learned.fine_tuned, result.probe
    facts = () if tuned is None else tuple(f"{fact[0].upper()}{fact[1:]}." for fact in tuned.facts)
    facts += tuple(f"{name}: the head on the frozen backbone ({one.head}), {one.summary()}." for name, one in result.probes.items())
    return facts if probe is None else (*facts, f"The head on the frozen backbone ({probe.head}), {probe.summary()}.")
