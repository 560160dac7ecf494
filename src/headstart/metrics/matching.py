"""Which detections match a true box, by the rules of COCO: of each class, at ten thresholds of overlap, for four ranges of area.

The rules are those of pycocotools (Lin et al., Microsoft COCO: common objects in context, ECCV 2014; https://cocodataset.org/#detection-eval).
All images and classes are matched at once: first the surest detection of each class in each image, then the second, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.metrics.boxes import Detections, Integers, TrueBoxes, areas, check_boxes, image_of_each, overlapping
from headstart.metrics.scores import Bools

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps from which on a detection is right."""

AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Ranges of area in square pixels, both ends within."""

LIMITS = (1, 10, 100)
"""Numbers of detections of one class in one image; those after the last are left out."""

WRONG, RIGHT, IGNORED = np.uint8(0), np.uint8(1), np.uint8(2)


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of m detections in n images with g true boxes of k classes.

    Attributes:
        detections: What was matched.
        outcomes: uint8 (m, thresholds, ranges of area): `WRONG`, `RIGHT`, or `IGNORED` (matched to a crowd or to a box outside the range of
            area, unmatched and outside the range itself, or after the hundred surest of its class in its image).
        ranks: int64 (m,), the place of each among those of its class in its image, the surest 0.
        counted: bool (g, ranges of area), which true boxes are to be found.
        true_labels: int64 (g,), their classes.
        true_images: int64 (g,), their images.
        classes: The number of classes.
    """

    detections: Detections
    outcomes: NDArray[np.uint8]
    ranks: Integers
    counted: Bools
    true_labels: Integers
    true_images: Integers
    classes: int

    def __len__(self) -> int:
        return len(self.detections)

    def by_class(self) -> list[Integers]:
        """The rows of the detections of each class, the surest first; of equal scores, in the order of the images."""
        labels = self.detections.labels
        order = np.lexsort((-self.detections.scores, labels))
        return np.split(order, np.searchsorted(labels[order], np.arange(1, self.classes)))

    def objects(self) -> Integers:
        """How many boxes of each class there are to be found, int64 (k, ranges of area)."""
        columns = [np.bincount(self.true_labels[own], minlength=self.classes) for own in self.counted.T]
        return np.stack(columns, axis=1).astype(np.int64, copy=False)

    def at_half(self, label: int | None = None) -> tuple[Bools, NDArray[np.floating[Any]], int]:
        """At an overlap of 0.5, of one class or of all together: which detections are right, their scores, and how many boxes there are.

        Ignored detections are left out.
        """
        outcomes, counted = self.outcomes[:, 0, 0], self.counted[:, 0]
        kept = outcomes != IGNORED
        if label is not None:
            kept &= self.detections.labels == label
            counted = counted & (self.true_labels == label)
        return outcomes[kept] == RIGHT, self.detections.scores[kept], int(counted.sum())


def match(detections: Detections, truth: TrueBoxes, *, classes: int) -> Matches:
    """Match what was found in n images to what is there; `classes` is the number of classes.

    A box counts by its own area, also where an annotation file has the area of an outline. Raises ParameterError where both are not of the
    same number of images, or have labels outside the classes.
    """
    check_truth(detections, truth)
    for labels in (detections.labels, truth.labels):
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ParameterError(f"labels of {classes} classes run from 0 to {classes - 1}; got {labels.min()} to {labels.max()}.")
    true_images, crowd = image_of_each(truth.starts), np.asarray(truth.crowd, bool)
    groups = detections.images * classes + detections.labels, true_images * classes + truth.labels
    ranks = _ranks(groups[0], detections.scores)
    counted = _in_ranges(truth.boxes) & ~crowd[:, None]
    within = _in_ranges(detections.boxes) & (ranks < LIMITS[-1])[:, None]
    outcomes = np.repeat(np.where(within, WRONG, IGNORED)[:, None], len(THRESHOLDS), axis=1)
    rows = np.flatnonzero(ranks < LIMITS[-1])
    found, true, overlaps = overlapping(
        detections.boxes[rows], truth.boxes, (groups[0][rows], groups[1]), least=THRESHOLDS[0], crowd=crowd
    )  # fmt: skip
    _match_pairs((rows[found], true, overlaps), ranks, outcomes, counted=counted, crowd=crowd)
    return Matches(detections, outcomes, ranks, counted, np.asarray(truth.labels), true_images, classes)


def check_truth(detections: Detections, truth: TrueBoxes) -> None:
    """Raise ParameterError where the arrays of `truth` do not fit together, or not those of the detections."""
    check_boxes(truth.boxes, truth.starts, labels=truth.labels, crowd=truth.crowd)
    if len(truth.starts) != len(detections.starts):
        raise ParameterError(f"the detections are of {len(detections)} images, and the true boxes of {len(truth.starts) - 1}.")


def _ranks(groups: Integers, scores: NDArray[np.floating[Any]]) -> Integers:
    """The place of each detection in its group by its score; equal scores in the order of the rows."""
    order = np.lexsort((-scores, groups))
    ranked = groups[order]
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.searchsorted(ranked, ranked)
    return ranks


def _in_ranges(boxes: NDArray[Any]) -> Bools:
    low, high = np.array(list(AREAS.values())).T
    found = areas(boxes)[:, None]
    within: Bools = (found >= low) & (found <= high)
    return within


def _match_pairs(
    pairs: tuple[Integers, Integers, NDArray[Any]], ranks: Integers, outcomes: NDArray[np.uint8], *, counted: Bools, crowd: Bools
) -> None:  # fmt: skip
    """Match pairs (detection, true box, overlap) of one image and class each, and write what becomes of the detections into `outcomes`.

    A detection takes, of the boxes that no surer one has, the counted one that it overlaps most, the last of equal ones; where there is
    none, one that is not counted. A crowd is never taken.
    """
    found, true, overlaps = pairs
    order = np.lexsort((true, overlaps, found, ranks[found]))
    found, true, overlaps = found[order], true[order], overlaps[order]
    near = overlaps[:, None] >= np.minimum(THRESHOLDS, 1 - 1e-10)
    taken = np.zeros((len(counted), len(THRESHOLDS), len(AREAS)), bool)
    ends = np.searchsorted(ranks[found], np.arange(LIMITS[-1] + 1))
    for start, stop in pairwise(ends.tolist()):
        size = stop - start
        if not size:
            continue
        own, boxes = found[start:stop], true[start:stop]
        open_ = near[start:stop, :, None] & ~(taken[boxes] & ~crowd[boxes][:, None, None])
        # The later in this order the better, and any counted box is better than all that are not.
        places = np.arange(1, size + 1)[:, None] + size * counted[boxes]
        first = np.flatnonzero(np.diff(own, prepend=-1))
        best = np.maximum.reduceat(np.where(open_, places[:, None], 0), first, axis=0)
        row, threshold, area = np.nonzero(best)
        place = best[row, threshold, area]
        taken[boxes[(place - 1) % size], threshold, area] = True
        outcomes[own[first][row], threshold, area] = np.where(place > size, RIGHT, IGNORED)
