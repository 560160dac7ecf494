"""What remains of the proposals of a detector: boxes that overlap show the same thing, and become one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.metrics.boxes import iou, nms

BOXES, PROBABILITIES = "boxes", "probabilities"
"""Names of the two outputs."""

OVERLAP = 0.6
"""Of two boxes of a class that overlap by more (IoU), the one with the lower confidence is left out."""
VOTING = 0.65
"""A box that is kept is the mean of those that overlap it by more (IoU), weighted by their confidence (Gidaris and Komodakis 2015)."""
CANDIDATES, MOST = 300, 100
"""Positions of an input that are looked at, those with the highest confidence, and boxes that are kept, at most."""
THRESHOLD = 0.3
"""The threshold of confidence where none could be chosen."""
LEAST = 0.02
"""Lowest confidence of a box that is looked at: what is below counts for nothing in average precision."""


def kept_boxes(
    boxes: NDArray[Any], probabilities: NDArray[Any], *, least: float = LEAST, most: int = MOST
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """The boxes of one input that remain of its proposals: (m, 4), with their confidence (m,) and class (m,), the most confident first.

    By class, the box of the highest confidence suppresses those that overlap it by more than `OVERLAP`, and so on; then each is the mean
    of those that overlap it by more than `VOTING`.

    Args:
        boxes: (c, 4), left, top, right and bottom.
        probabilities: (c, k).
        least: lowest confidence of a box that is kept.
        most: how many are kept.
    """
    boxes, probabilities = np.asarray(boxes, np.float32), np.asarray(probabilities, np.float32)
    place, label = np.nonzero(probabilities >= LEAST)  # all of them vote, whatever is kept
    scores, own = probabilities[place, label], boxes[place]
    kept = nms(own, scores, label, iou=OVERLAP, most=most)
    near = (iou(own[kept], own) > VOTING) & (label[kept][:, None] == label)
    near[np.arange(len(kept)), kept] = True  # a box without an area overlaps not even itself
    weights = near * scores
    voted = (weights @ own) / weights.sum(axis=1, keepdims=True)
    named = scores[kept] >= least
    return voted[named].astype(np.float32), scores[kept][named], label[kept][named].astype(np.int64)


def proposals_of(predictions: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (n, c, 4) and probabilities (n, c, k) of what a head says at all positions: (n, A, k + 4), logits and then the box.

    They are of the c positions that are the most probable to show something, `CANDIDATES` at most, these first.
    """
    probabilities = 1 / (1 + np.exp(-np.asarray(predictions[..., :-4], np.float64)))
    places = np.argsort(-probabilities.max(axis=2), axis=1, kind="stable")[:, :CANDIDATES, None]
    boxes = np.take_along_axis(predictions[..., -4:].clip(0, 1), places, axis=1)
    return boxes.astype(np.float32), np.take_along_axis(probabilities, places, axis=1).astype(np.float32)
