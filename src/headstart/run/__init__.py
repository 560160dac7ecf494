"""The run folder: what `fit` writes, and what `predict`, `evaluate` and everything later read. No pickle in it."""

from typing import TYPE_CHECKING, Any

from headstart.run.collected import Collected
from headstart.run.manifest import PROTOCOL, BackboneEntry, Manifest
from headstart.run.run import EVALUATION, MODEL, PAGES, REFERENCE, RELIABILITY, Run, is_run, load
from headstart.run.uses import Use, record_use, uses_of
from headstart.run.write import RunContents, check_target, replace_pages, seal, write_files, writing_run

if TYPE_CHECKING:
    from headstart.run.record import FitRecord, TrainingRecord

__all__ = [
    "EVALUATION",
    "MODEL",
    "PAGES",
    "PROTOCOL",
    "REFERENCE",
    "RELIABILITY",
    "BackboneEntry",
    "Collected",
    "FitRecord",
    "Manifest",
    "Run",
    "RunContents",
    "TrainingRecord",
    "Use",
    "check_target",
    "is_run",
    "load",
    "record_use",
    "replace_pages",
    "seal",
    "uses_of",
    "write_files",
    "writing_run",
]


def __getattr__(name: str) -> Any:
    if name not in ("FitRecord", "TrainingRecord"):  # they need scikit-learn, and predicting does not
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from headstart.run import record

    return getattr(record, name)
