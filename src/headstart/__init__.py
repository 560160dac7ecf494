"""Headstart: from a folder of labelled images to a tested classifier, in seconds.

The public names are imported on first use, so that ``import headstart`` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Dataset": "data", "ListOptions": "data", "read_dataset": "data", "dataset_from_arrays": "data", "dataset_from_paths": "data",
    "Preprocessing": "modalities.image", "catalogue": "backbones", "load_backbone": "backbones",
    "BackboneExtractor": "features", "FeatureStore": "features", "TransferClassifier": "classifier",
    "AnomalyDetector": "detector", "TransferDetector": "box_detector", "TransferSegmenter": "segmenter",
    "FineTuning": "settings", "FitSettings": "settings", "FitResult": "pipeline", "fit": "pipeline", "deep_check": "pipeline",
    "ClassEvaluation": "tasks.classification.evaluation", "compare_runs": "evaluate", "evaluate_run": "evaluate",
    "check": "audit", "recommend": "pipeline.recommending", "Wishes": "settings.wishes",
    "explain": "explanation", "Run": "run", "load": "run", "HeadstartError": "errors",
}  # fmt: skip

if TYPE_CHECKING:
    from headstart.audit import check
    from headstart.backbones import catalogue, load_backbone
    from headstart.box_detector import TransferDetector
    from headstart.classifier import TransferClassifier
    from headstart.data import Dataset, ListOptions, dataset_from_arrays, dataset_from_paths, read_dataset
    from headstart.detector import AnomalyDetector
    from headstart.errors import HeadstartError
    from headstart.evaluate import compare_runs, evaluate_run
    from headstart.explanation import explain
    from headstart.features import BackboneExtractor, FeatureStore
    from headstart.modalities.image import Preprocessing
    from headstart.pipeline import FitResult, deep_check, fit
    from headstart.pipeline.recommending import recommend
    from headstart.run import Run, load
    from headstart.segmenter import TransferSegmenter
    from headstart.settings import FineTuning, FitSettings
    from headstart.settings.wishes import Wishes
    from headstart.tasks.classification.evaluation import ClassEvaluation

__all__ = [
    "AnomalyDetector", "BackboneExtractor", "ClassEvaluation", "Dataset", "FeatureStore", "FineTuning", "FitResult", "FitSettings",
    "HeadstartError", "ListOptions", "Preprocessing", "Run", "TransferClassifier", "TransferDetector", "TransferSegmenter", "Wishes",
    "__version__", "catalogue", "check", "compare_runs", "dataset_from_arrays", "dataset_from_paths", "deep_check", "evaluate_run",
    "explain", "fit", "load", "load_backbone", "read_dataset", "recommend",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
