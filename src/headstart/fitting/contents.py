"""Turns the result of a fit into the contents of its run folder: manifest, lists, report."""

from __future__ import annotations

import csv
import datetime
import io
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import headstart
from headstart.bundle import RunContents, jsonable
from headstart.datasets.dataset import printable, relative_name
from headstart.finetune.augment import Augmentation
from headstart.report import EvidenceRow, Finding, RunReport, write_report

if TYPE_CHECKING:
    from headstart.fitting.result import FitResult
    from headstart.fitting.settings import FitSettings

_PACKAGES = ("numpy", "scipy", "scikit-learn", "openvino", "onnxruntime", "onnx", "pillow", "simplejpeg", "timm", "torch")


def run_contents(result: FitResult, values: npt.NDArray[np.float32], *, settings: FitSettings, command: str) -> RunContents:
    """Gather what `write_run` needs.

    Args:
        result: of the fit.
        values: float32 (n, dim), the features of `result.dataset`.
        settings: of the fit.
        command: for repeating it.
    """
    dataset, extractor = result.dataset, result.classifier.extractor_
    train, last = dataset.part("train"), extractor.backbone.last
    provenance = jsonable(_provenance(result, settings, command))
    return RunContents(
        backbone=extractor.backbone,
        head=result.choice.estimator,
        classes=dataset.classes,
        multilabel=dataset.multilabel,
        preprocessing=extractor.preprocessing,
        reference={
            "features": values[train, last.start : last.stop].astype(np.float16),
            "targets": dataset.targets[train].astype(np.int64),
            "out_of_sample_logits": result.choice.out_of_sample.astype(np.float32),
        },
        manifest={
            "metrics": _metrics(result),
            "seconds": {stage: round(value, 3) for stage, value in result.seconds.items()},
            "evidence": [_plain(row) for row in evidence_rows(result)],
            "reason": result.choice.reason,
            "held_out": result.held_out,
            "training": _training(result, settings),
            "refused": [{"path": error.path, "reason": error.reason} for error in result.refused],
            "findings": [finding.to_dict() for finding in result.findings],
            "notes": list(dataset.notes),
            "provenance": provenance,
        },
        further=_further(result, provenance, command),
    )


def _training(result: FitResult, settings: FitSettings) -> dict[str, Any] | None:
    """How backbone and head were trained; None where the head was fitted on frozen features."""
    tuned = result.classifier.fine_tuned_
    if tuned is None or settings.fine_tuning is None:
        return None
    return {
        "plan": settings.fine_tuning.to_dict(),
        "augmentation": Augmentation.parse(settings.fine_tuning.augment).id,
        "trained": list(tuned.trained),
        "frozen": [stage.name for stage in tuned.stages if stage.name not in tuned.trained],
        "history": tuned.history.to_dict(),
        "facts": list(tuned.facts),
        "probe": None if result.probe is None else result.probe.to_dict(),
    }


def evidence_rows(result: FitResult) -> list[EvidenceRow]:
    """What was tried, as the report tells it."""
    return [
        EvidenceRow(
            layers=row.view, head=row.head.replace("_", " "), settings=row.hyperparameters, accuracy=row.accuracy,
            error=row.accuracy_error, log_loss=row.log_loss, seconds=row.seconds, chosen=row.chosen,
        )
        for row in result.choice.evidence
    ]  # fmt: skip


def _plain(row: EvidenceRow) -> dict[str, Any]:
    """A row for JSON, which knows no NaN: scores that were not measured become None."""
    plain = asdict(row)
    for name in ("accuracy", "error", "log_loss", "seconds"):
        plain[name] = round(float(plain[name]), 6) if np.isfinite(plain[name]) else None
    return plain


def _metrics(result: FitResult) -> dict[str, Any]:
    test = result.test
    found: dict[str, Any] = {
        "test_accuracy": test.accuracy,
        "test_accuracy_interval": list(test.interval),
        "test_images": test.images,
        "test": test.to_dict(),
    }
    if result.cross_validation is not None:
        found["cross_validation"] = result.cross_validation.to_dict()
    return found


def _provenance(result: FitResult, settings: FitSettings, command: str) -> dict[str, Any]:
    dataset, extractor = result.dataset, result.classifier.extractor_
    versions = {"headstart": headstart.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "data": dataset.source,
        "images": {part: dataset.counts(part) for part in ("train", "test")},
        "settings": settings.to_dict(),
        "extractor": extractor.id,
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _split_list(result: FitResult) -> str:
    """The list of all images with label and part: a list file that `headstart fit` itself can read, where the images are files."""
    dataset = result.dataset
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split", *(["group"] if dataset.groups is not None else [])])
    for index, name in enumerate(_paths_from_run(result)):
        group = [] if dataset.groups is None else [dataset.groups[index]]
        writer.writerow([name, ";".join(dataset.labels(index)), dataset.parts[index], *group])
    return text.getvalue()


def _paths_from_run(result: FitResult) -> Iterable[str]:
    """Each image's path relative to the run folder, so that both can be moved together; whole where they are on different drives."""
    dataset = result.dataset
    if isinstance(dataset.images, np.ndarray) or result.run is None:
        return dataset.names()
    folder = result.run.expanduser().resolve()
    folders: dict[Path, Path] = {}

    def path(image: Path) -> str:
        above = image.parent
        if above not in folders:
            try:
                folders[above] = Path(os.path.relpath(above.resolve(), folder))
            except ValueError:
                folders[above] = above.resolve()
        return relative_name(folders[above] / image.name, None)

    return map(path, dataset.images)


def _further(result: FitResult, provenance: dict[str, Any], command: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "split.csv").write_text(_split_list(result), encoding="utf-8")
        write_report(folder, _report(result, provenance, command))

    return write


def _about_training(result: FitResult) -> list[str]:
    facts = (
        [] if result.classifier.fine_tuned_ is None else [f"{fact[0].upper()}{fact[1:]}." for fact in result.classifier.fine_tuned_.facts]
    )
    return facts if result.probe is None else [*facts, f"The head on the frozen backbone ({result.probe.head}), {result.probe.summary()}."]


def _report(result: FitResult, provenance: dict[str, Any], command: str) -> RunReport:
    dataset, extractor = result.dataset, result.classifier.extractor_
    record = extractor.backbone.record
    stages = {key: value for key, value in provenance.items() if key not in ("command", "images", "versions", "settings")}
    return RunReport(
        title=printable(Path(dataset.source).resolve().name or dataset.source),
        evaluation=result.test,
        held_out=f"Tested on {result.held_out}.",
        counts={part: dataset.counts(part) for part in ("train", "test")},
        backbone=record.name,
        backbone_licence=record.licence or "unknown",
        backbone_source=extractor.backbone.weights_source,
        features=f"pooled outputs of {len(extractor.layers)} stages ({extractor.dim} numbers) at {extractor.preprocessing.size} px",
        head=result.head,
        evidence=tuple(evidence_rows(result)),
        reason=result.choice.reason,
        history=None if result.classifier.fine_tuned_ is None else result.classifier.fine_tuned_.history,
        times=result.seconds,
        refused=tuple((printable(error.path), printable(error.reason)) for error in result.refused),
        findings=tuple(
            Finding(text=finding.message, examples=tuple(map(printable, finding.examples)), serious=finding.severity == "error")
            for finding in result.findings
        ),
        notes=tuple(map(printable, dataset.notes)),
        training_facts=tuple(_about_training(result)),
        command=printable(command),
        provenance={**stages, "settings": provenance["settings"], "versions": provenance["versions"]},
    )
