"""Answering only where the model is sure: how many images are left, and how many of these answers are right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def accuracy_coverage(confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Return coverage, accuracy and thresholds, float64 (m,), one for each distinct confidence, the highest first.

    At a threshold, the images (n,) of that confidence or more are answered: `coverage` is their share of all, `accuracy` the share of
    them that is right. The last coverage is 1. Source: El-Yaniv and Wiener, Journal of Machine Learning Research 11 (2010) 1605.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-confidence, kind="stable")
    ranked, right = confidence[order], np.cumsum(np.asarray(correct, dtype=np.int64)[order])
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1) if len(ranked) else np.empty(0, dtype=np.int64)
    answered = ends + 1
    return answered / max(1, len(ranked)), right[ends] / answered, ranked[ends]
