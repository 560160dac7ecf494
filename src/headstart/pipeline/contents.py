"""Turns the result of a fit into the contents of its run folder: manifest, lists, report."""

from __future__ import annotations

import csv
import datetime
import io
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
from headstart.modalities.image.augment import Augmentation
from headstart.report import Sources, report_of, write_report
from headstart.report.run_report import shown_names
from headstart.run import TRUST, Run, RunContents, entries_of
from headstart.text import printable

if TYPE_CHECKING:
    from headstart.pipeline.result import FitResult
    from headstart.settings import FitSettings

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
    train, test, last = dataset.part("train"), dataset.part("test"), extractor.backbone.last
    digests = array_of(result.digests)
    logits = result.choice.estimator.logits(values[test])
    scores = result.choice.estimator.uncalibrated(logits)
    settings_of_trust, arrays_of_trust = result.trust.state()
    contents: RunContents
    contents = RunContents(
        backbone=extractor.backbone,
        head=result.choice.estimator,
        classes=dataset.classes,
        multilabel=dataset.multilabel,
        preprocessing=extractor.preprocessing,
        reference={
            "features": values[train, last.start : last.stop].astype(np.float16),
            "targets": _plain_targets(dataset.targets[train]),
            "out_of_sample_logits": result.choice.out_of_sample.astype(np.float32),
            "digests": digests[train],
            **{f"{TRUST}{name}": array for name, array in arrays_of_trust.items()},
        },
        evaluation={
            "logits": logits.astype(np.float32),
            "targets": _plain_targets(dataset.targets[test]),
            "digests": digests[test],
            **({} if scores is None else {"scores": scores.astype(np.float32)}),
        },
        manifest={
            "title": title_of(dataset.source),
            "head": result.head,
            "features": f"pooled outputs of {len(extractor.layers)} stages ({extractor.dim} numbers) at {extractor.preprocessing.size} px",
            "metrics": _metrics(result),
            "seconds": {stage: round(value, 3) for stage, value in result.seconds.items()},
            "evidence": _evidence(result),
            "reason": result.choice.reason,
            "held_out": result.held_out,
            "training": _training(result, settings),
            "training_facts": _about_training(result),
            "trust": settings_of_trust,
            "trust_test": result.trust_test.to_dict(),
            "learning_curve": None if result.learning_curve is None else result.learning_curve.to_dict(),
            "leaks": [row.to_dict() for row in result.leaks],
            "refused": [{"path": error.path, "reason": error.reason} for error in result.refused],
            "findings": [finding.to_dict() for finding in result.findings],
            "notes": list(dataset.notes),
            "provenance": _provenance(result, settings, command),
        },
        further=lambda folder: _write_lists_and_pages(folder, result, contents, values[test]),
    )
    return contents


def title_of(source: str) -> str:
    """What a report on data from `source` is called."""
    return printable(Path(source).resolve().name or source)


def array_of(digests: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    """Digests as uint8 (n, 32)."""
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32) if digests else np.empty((0, 32), np.uint8)


def _plain_targets(targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return targets.astype(bool) if targets.ndim == 2 else targets.astype(np.int64)


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


def _evidence(result: FitResult) -> list[dict[str, Any]]:
    """What was tried, for JSON, which knows no NaN: scores that were not measured become None."""

    def rounded(value: float) -> float | None:
        return round(float(value), 6) if np.isfinite(value) else None

    return [
        {
            "layers": row.view, "head": row.head.replace("_", " "), "settings": row.hyperparameters, "accuracy": rounded(row.accuracy),
            "error": rounded(row.accuracy_error), "log_loss": rounded(row.log_loss), "seconds": rounded(row.seconds), "chosen": row.chosen,
        }
        for row in result.choice.evidence
    ]  # fmt: skip


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


def _write_lists_and_pages(folder: Path, result: FitResult, contents: RunContents, features: npt.NDArray[np.float32]) -> None:
    """Write the list of images, and the pages, from what already stands in the folder, and the features of the test images."""
    (folder / "split.csv").write_text(_split_list(result), encoding="utf-8")
    dataset = result.dataset
    train, test = dataset.part("train"), dataset.part("test")
    run = Run(folder, {**entries_of(contents), "files": dict.fromkeys((file.name for file in folder.iterdir()), "")})
    names, training_names = shown_names(run)  # as `headstart report` has them
    sources = Sources(
        training=lambda row: dataset.images[train[row]], test=lambda row: dataset.images[test[row]],
        names=names, training_names=training_names, features=features,
    )  # fmt: skip
    write_report(folder, report_of(run, sources))


def _about_training(result: FitResult) -> list[str]:
    facts = (
        [] if result.classifier.fine_tuned_ is None else [f"{fact[0].upper()}{fact[1:]}." for fact in result.classifier.fine_tuned_.facts]
    )
    return facts if result.probe is None else [*facts, f"The head on the frozen backbone ({result.probe.head}), {result.probe.summary()}."]
