"""Headstart: from a folder of labelled images to a tested classifier, in seconds.

The public names are imported on first use, so that ``import headstart`` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Dataset": "headstart.data",
    "read_dataset": "headstart.data",
    "dataset_from_arrays": "headstart.data",
    "dataset_from_paths": "headstart.data",
    "Preprocessing": "headstart.modalities.image",
    "catalogue": "headstart.backbones",
    "load_backbone": "headstart.backbones",
    "BackboneExtractor": "headstart.features",
    "FeatureStore": "headstart.features",
    "TransferClassifier": "headstart.classifier",
    "FineTuning": "headstart.settings",
    "FitSettings": "headstart.settings",
    "FitResult": "headstart.pipeline",
    "fit": "headstart.pipeline",
    "deep_check": "headstart.pipeline",
    "ClassEvaluation": "headstart.tasks.classification.evaluation",
    "compare_runs": "headstart.evaluate",
    "evaluate_run": "headstart.evaluate",
    "check": "headstart.audit",
    "explain": "headstart.explanation",
    "Run": "headstart.run",
    "load": "headstart.run",
    "HeadstartError": "headstart.errors",
}

if TYPE_CHECKING:
    from headstart.audit import check
    from headstart.backbones import catalogue, load_backbone
    from headstart.classifier import TransferClassifier
    from headstart.data import Dataset, dataset_from_arrays, dataset_from_paths, read_dataset
    from headstart.errors import HeadstartError
    from headstart.evaluate import compare_runs, evaluate_run
    from headstart.explanation import explain
    from headstart.features import BackboneExtractor, FeatureStore
    from headstart.modalities.image import Preprocessing
    from headstart.pipeline import FitResult, deep_check, fit
    from headstart.run import Run, load
    from headstart.settings import FineTuning, FitSettings
    from headstart.tasks.classification.evaluation import ClassEvaluation

__all__ = [
    "BackboneExtractor",
    "ClassEvaluation",
    "Dataset",
    "FeatureStore",
    "FineTuning",
    "FitResult",
    "FitSettings",
    "HeadstartError",
    "Preprocessing",
    "Run",
    "TransferClassifier",
    "__version__",
    "catalogue",
    "check",
    "compare_runs",
    "dataset_from_arrays",
    "dataset_from_paths",
    "deep_check",
    "evaluate_run",
    "explain",
    "fit",
    "load",
    "load_backbone",
    "read_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
