"""What is wrong with the boxes of each image at one threshold: missed, invented, of the wrong class, badly placed.

Unlike the matching behind average precision, boxes of all classes are matched together, so that a box of the wrong class is one mistake
and not two. The kinds are in the line of Bolya et al., TIDE: a general toolbox for identifying object detection errors, ECCV 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from headstart.metrics.boxes import Detections, Integers, TrueBoxes, image_of_each, overlapping
from headstart.metrics.matching import check_truth

OVERLAP = 0.5
"""From this overlap on, two boxes are of the same object."""
NEAR = 0.1
"""From this overlap on, a box of the right class that matches nothing is badly placed and not invented."""


class Kind(IntEnum):
    """What a box is in one image."""

    PASSED = 0
    """A detection below the threshold or in a crowd; a true crowd."""
    RIGHT = 1
    """Matched by a box of the same class."""
    WRONG_CLASS = 2
    """Matched by a box of another class."""
    MISPLACED = 3
    """Overlapping a box of the same class that matches no other, but not enough."""
    ALONE = 4
    """A detection that is invented; a true box that is missed."""


@dataclass(frozen=True, eq=False)
class Mistakes:
    """What m detections and g true boxes of n images are.

    Attributes:
        found: int8 (m,), the `Kind` of each detection.
        true: int8 (g,), that of each true box.
        partner: int64 (m,), the row of the true box that a detection is paired with, or -1.
        labels: the labels of the detections and of the true boxes.
        images: their images.
        count: n, the number of images.
    """

    found: NDArray[np.int8]
    true: NDArray[np.int8]
    partner: Integers
    labels: tuple[Integers, Integers]
    images: tuple[Integers, Integers]
    count: int

    def confusion(self, classes: int) -> Integers:
        """Int64 (classes + 1, classes + 1): true boxes by class (row) and by the class of the detection that matches them (column).

        The last row is of detections that match no true box, the last column of true boxes that no detection matches; badly placed ones
        are in both.
        """
        paired = np.isin(self.found, (Kind.RIGHT, Kind.WRONG_CLASS))
        alone = [np.isin(kinds, (Kind.MISPLACED, Kind.ALONE)) for kinds in (self.found, self.true)]
        own, true = self.labels
        rows = np.concatenate([true[self.partner[paired]], np.full(alone[0].sum(), classes), true[alone[1]]])
        columns = np.concatenate([own[paired], own[alone[0]], np.full(alone[1].sum(), classes)])
        cells = np.bincount(rows * (classes + 1) + columns, minlength=(classes + 1) ** 2)
        return cells.reshape(classes + 1, classes + 1).astype(np.int64, copy=False)

    def by_image(self) -> ImageCounts:
        """How many boxes of each kind each image has."""
        found, true = (
            np.bincount(images * len(Kind) + kinds, minlength=self.count * len(Kind)).reshape(self.count, -1).astype(np.int64, copy=False)
            for images, kinds in zip(self.images, (self.found, self.true), strict=True)
        )
        return ImageCounts(
            true=true[:, 1:].sum(axis=1), found=found[:, 1:].sum(axis=1), right=found[:, Kind.RIGHT], missed=true[:, Kind.ALONE],
            invented=found[:, Kind.ALONE], wrong_class=found[:, Kind.WRONG_CLASS], misplaced=found[:, Kind.MISPLACED],
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """Boxes of each image, int64 (n,) each.

    Attributes:
        true: True boxes: right + wrong_class + misplaced + missed.
        found: Detections at the threshold: right + wrong_class + misplaced + invented.
        right: Pairs of the same class.
        missed: True boxes that nothing matches.
        invented: Detections that match nothing, and further ones of one object.
        wrong_class: Pairs of different classes.
        misplaced: Pairs that overlap too little.
    """

    true: Integers
    found: Integers
    right: Integers
    missed: Integers
    invented: Integers
    wrong_class: Integers
    misplaced: Integers

    @property
    def wrong(self) -> Integers:
        """How many mistakes there are, of all kinds."""
        return self.missed + self.invented + self.wrong_class + self.misplaced

    def worst_first(self) -> Integers:
        """The images by their number of mistakes, then by the fewest right ones, then in their order; int64 (n,)."""
        return np.lexsort((self.right, -self.wrong))


def find_mistakes(detections: Detections, truth: TrueBoxes, *, threshold: float) -> Mistakes:
    """Pair detections whose score is `threshold` or more with true boxes, one to one, those first that overlap most.

    Of pairs that overlap equally, the one of the same class goes first, then the surer detection. Detections that are left over and lie at
    least half in a crowd of their class are passed over.
    """
    check_truth(detections, truth)
    own_images, true_images = detections.images, image_of_each(truth.starts)
    crowd = np.asarray(truth.crowd, bool)
    shown, real = np.flatnonzero(detections.scores >= threshold), np.flatnonzero(~crowd)
    own, true, overlaps = overlapping(
        detections.boxes[shown], truth.boxes[real], (own_images[shown], true_images[real]), least=NEAR
    )  # fmt: skip
    own, true = shown[own], real[true]
    same = detections.labels[own] == truth.labels[true]
    order = np.lexsort((true, own, -detections.scores[own], ~same, -overlaps))
    own, true, overlaps, same = own[order], true[order], overlaps[order], same[order]

    kinds = np.full(len(own_images), Kind.PASSED, np.int8), np.full(len(true_images), Kind.PASSED, np.int8)
    kinds[0][shown], kinds[1][real] = Kind.ALONE, Kind.ALONE
    partner = np.full(len(own_images), -1, np.int64)
    enough = overlaps >= OVERLAP
    for pairs in (enough, ~enough & same):
        chosen = np.flatnonzero(pairs)[_one_to_one(own[pairs], true[pairs], kinds)]
        partner[own[chosen]] = true[chosen]
        kind = np.where(enough[chosen], np.where(same[chosen], Kind.RIGHT, Kind.WRONG_CLASS), Kind.MISPLACED)
        kinds[0][own[chosen]] = kinds[1][true[chosen]] = kind
    kinds[0][_in_crowds(detections, truth, np.flatnonzero(kinds[0] == Kind.ALONE))] = Kind.PASSED
    return Mistakes(*kinds, partner, (detections.labels, np.asarray(truth.labels)), (own_images, true_images), len(detections))


def _one_to_one(own: Integers, true: Integers, kinds: tuple[NDArray[np.int8], NDArray[np.int8]]) -> list[int]:
    """Which of the pairs remain when each box goes to the first pair with it in which both are still alone."""
    free = set(np.flatnonzero(kinds[0] == Kind.ALONE).tolist()), set(np.flatnonzero(kinds[1] == Kind.ALONE).tolist())
    chosen = []
    for place, (one, other) in enumerate(zip(own.tolist(), true.tolist(), strict=True)):
        if one in free[0] and other in free[1]:
            free[0].remove(one)
            free[1].remove(other)
            chosen.append(place)
    return chosen


def _in_crowds(detections: Detections, truth: TrueBoxes, rows: Integers) -> Integers:
    """Which of the rows of detections lie at least half in a crowd of their class."""
    groups = np.flatnonzero(truth.crowd)
    classes = int(max(detections.labels.max(initial=0), truth.labels.max(initial=0))) + 1
    names = (
        detections.images[rows] * classes + detections.labels[rows],
        image_of_each(truth.starts)[groups] * classes + truth.labels[groups],
    )
    inside, _, _ = overlapping(
        detections.boxes[rows], truth.boxes[groups], names, least=OVERLAP, crowd=np.ones(len(groups), bool)
    )  # fmt: skip
    return rows[np.unique(inside)]
