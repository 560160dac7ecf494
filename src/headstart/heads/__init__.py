"""Heads: scikit-learn classifiers on features, each with calibrated probabilities and its own way into ONNX."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from headstart.errors import RunError
from headstart.heads.head import Head
from headstart.heads.kernel_ridge import KernelRidgeHead
from headstart.heads.logistic import LogisticHead
from headstart.heads.mlp import MLPHead
from headstart.heads.nearest import NearestCentroidHead, NearestNeighboursHead
from headstart.heads.ridge import RidgeHead

HEADS: dict[str, type[Head]] = {
    head.name: head for head in (LogisticHead, RidgeHead, KernelRidgeHead, NearestNeighboursHead, NearestCentroidHead, MLPHead)
}
"""Every head by its name."""

__all__ = [
    "HEADS", "Head", "KernelRidgeHead", "LogisticHead", "MLPHead", "NearestCentroidHead", "NearestNeighboursHead", "RidgeHead",
    "head_from_state",
]  # fmt: skip


def head_from_state(settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Head:
    """Make a fitted head from what its `state` gave; RunError for an unknown head, or where entries are missing."""
    name = settings.get("head")
    if name not in HEADS:
        raise RunError(f"The saved head is {name!r}; this version reads {', '.join(HEADS)}. Update with: pip install -U headstart")
    return HEADS[name].from_state(settings, arrays)
