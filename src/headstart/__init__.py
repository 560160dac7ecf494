"""Headstart: from a folder of labelled images to a tested classifier, in seconds.

The public names are imported on first use, so that ``import headstart`` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Dataset": "headstart.datasets",
    "read_dataset": "headstart.datasets",
    "dataset_from_arrays": "headstart.datasets",
    "dataset_from_paths": "headstart.datasets",
    "Preprocessing": "headstart.images",
    "catalogue": "headstart.backbones",
    "load_backbone": "headstart.backbones",
    "BackboneExtractor": "headstart.features",
    "FeatureStore": "headstart.feature_store",
    "TransferClassifier": "headstart.classifier",
    "FineTuning": "headstart.finetune",
    "FitSettings": "headstart.fitting",
    "FitResult": "headstart.fitting",
    "fit": "headstart.fitting",
    "deep_check": "headstart.fitting",
    "compare_runs": "headstart.fitting",
    "Evaluation": "headstart.evaluate",
    "check": "headstart.audit",
    "Run": "headstart.bundle",
    "load": "headstart.bundle",
    "HeadstartError": "headstart.errors",
}

if TYPE_CHECKING:
    from headstart.audit import check
    from headstart.backbones import catalogue, load_backbone
    from headstart.bundle import Run, load
    from headstart.classifier import TransferClassifier
    from headstart.datasets import Dataset, dataset_from_arrays, dataset_from_paths, read_dataset
    from headstart.errors import HeadstartError
    from headstart.evaluate import Evaluation
    from headstart.feature_store import FeatureStore
    from headstart.features import BackboneExtractor
    from headstart.finetune import FineTuning
    from headstart.fitting import FitResult, FitSettings, compare_runs, deep_check, fit
    from headstart.images import Preprocessing

__all__ = [
    "BackboneExtractor",
    "Dataset",
    "Evaluation",
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
