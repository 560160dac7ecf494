"""From a run folder to its pages: report and model card tell what the folder holds, whether it was written just now or years ago."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import RunError
from headstart.evaluate import Evaluation, evaluate
from headstart.metrics import link_of
from headstart.modalities.image import image_digest
from headstart.pipeline.showing import Sources, examples_of
from headstart.reliability import ReliabilityTest
from headstart.report import EvidenceRow, Finding, RunReport, Trusted
from headstart.run import Run, uses_of
from headstart.selection import LearningCurve
from headstart.text import printable
from headstart.training.history import History

_AT_THE_END = ("command", "images", "versions", "settings")


def report_of(run: Run, sources: Sources | None = None) -> RunReport:
    """Everything that the pages tell of a run.

    Args:
        run: opened, or still being written.
        sources: where the pictures of the training and test images are; by default where the run's own list says.

    Raises:
        RunError: the run is of an earlier version, which did not keep what the report tells.
    """
    entries = run.manifest
    if not run.tested or "title" not in entries:
        raise RunError(
            f"{run.path}: was written by an earlier version of Headstart, which did not keep what the report tells. "
            "Its report stays as it is; for a new one, fit again."
        )
    provenance, backbone = entries["provenance"], entries["backbone"]
    stages = {key: value for key, value in provenance.items() if key not in _AT_THE_END}
    evaluation = evaluation_of(run)
    return RunReport(
        title=entries["title"],
        evaluation=evaluation,
        held_out=f"Tested on {entries['held_out']}.",
        counts=provenance["images"],
        backbone=backbone["name"],
        backbone_licence=backbone["licence"],
        backbone_source=backbone["weights_source"],
        features=entries["features"],
        head=entries["head"],
        evidence=_evidence(entries["evidence"]),
        reason=entries["reason"],
        history=None if entries["training"] is None else History.from_dict(entries["training"]["history"]),
        times=entries["seconds"],
        refused=tuple((entry["path"], entry["reason"]) for entry in entries["refused"]),
        findings=tuple(
            Finding(text=finding["message"], examples=tuple(finding["examples"]), serious=finding["severity"] == "error")
            for finding in entries["findings"]
        ),
        notes=tuple(entries["notes"]),
        training_facts=tuple(entries["training_facts"]),
        command=printable(provenance["command"]),
        provenance={**stages, "settings": provenance["settings"], "versions": provenance["versions"]},
        examples=examples_of(run, evaluation, sources or _from_lists(run)),
        uncalibrated=evaluation_of(run, "scores") if "scores" in run.tested else None,
        learning_curve=None if entries["learning_curve"] is None else LearningCurve.from_dict(entries["learning_curve"]),
        trust=_trusted(run, entries["trust_test"], evaluation),
        uses=tuple(use.sentence() for use in uses_of(run.path)),
        leaks=tuple((row["label"], row["accuracy"], tuple(row["interval"]), row["images"]) for row in entries["leaks"]),
    )


def evaluation_of(run: Run, kept: str = "logits") -> Evaluation:
    """The evaluation on the test part, from what the run kept of it: its ``logits``, or its ``scores`` before they were calibrated."""
    scores = run.tested[kept].astype(np.float64)
    return evaluate(link_of(run.tested["targets"]).probabilities(scores), run.tested["targets"], run.classes)


def _evidence(rows: Sequence[Mapping[str, Any]]) -> tuple[EvidenceRow, ...]:
    measured = ("accuracy", "error", "log_loss", "seconds")
    return tuple(EvidenceRow(**{**row, **{name: float("nan") if row[name] is None else row[name] for name in measured}}) for row in rows)


def _trusted(run: Run, entries: Mapping[str, Any] | None, evaluation: Evaluation) -> Trusted | None:
    if entries is None or run.trust is None:
        return None
    test, nan = ReliabilityTest.from_dict(entries), float("nan")
    return Trusted(
        coverage=nan if test.asked is None else test.asked,
        covered=nan if test.coverage is None else test.coverage,
        covered_interval=test.coverage_interval,
        mean_size=nan if test.size is None else test.size,
        sizes=_sizes(run, evaluation),
        refused=nan if test.unlike is None else test.unlike,
        abstention=tuple((row.wanted, row.threshold, row.share) for row in test.answered),
    )


def _sizes(run: Run, evaluation: Evaluation) -> dict[int, int]:
    """How many test images have prediction sets of which size."""
    if run.trust is None or run.trust.sets is None:
        return {}
    sizes, counts = np.unique(run.trust.sets(evaluation.outcome.probabilities, never_empty=True).sum(axis=1), return_counts=True)
    return dict(zip(sizes.tolist(), counts.tolist(), strict=True))


def _from_lists(run: Run) -> Sources:
    names, training_names = shown_names(run)
    return Sources(
        training=_finder(run, run.training_names, run.reference["digests"]), test=_finder(run, run.test_names, run.tested["digests"]),
        names=names, training_names=training_names,
    )  # fmt: skip


def _finder(run: Run, names: Sequence[str], digests: npt.NDArray[np.uint8]) -> Callable[[int], Path | None]:
    """From a position to the image, where it is still there and still the same: what was said was said of that one."""

    def find(row: int) -> Path | None:
        if row >= len(names):
            return None
        path = run.path / names[row]
        try:
            return path if image_digest(path.read_bytes()) == digests[row].tobytes() else None
        except (OSError, ValueError):
            return None

    return find


def shown_names(run: Run) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The test and the training images as the pages call them: without the folder in which all of them are."""
    folders = [name.rpartition("/")[0] for name in (*run.test_names, *run.training_names)]
    try:
        shared = len(os.path.commonpath(folders))
    except ValueError:  # no names, or on different drives
        shared = 0
    test, training = (tuple(name[shared:].lstrip("/") for name in names) for names in (run.test_names, run.training_names))
    return test, training


def title_of(source: str) -> str:
    """What a report on data from `source` is called."""
    return printable(Path(source).resolve().name or source)


def array_of(digests: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    """Digests as uint8 (n, 32)."""
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32) if digests else np.empty((0, 32), np.uint8)
