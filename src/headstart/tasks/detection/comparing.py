"""An exported file beside its run: whether it finds the same boxes, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headstart.data import Targets
from headstart.data.boxes import Boxes
from headstart.metrics.boxes import Detections, iou
from headstart.metrics.detection import detection_scores
from headstart.metrics.matching import match
from headstart.metrics.proposals import BOXES, PROBABILITIES
from headstart.tasks.detection.predictions import FOUND, Found, detections_of
from headstart.tasks.outputs import Disagreement, FileComparison, Outputs, State

PIXEL = 1e-3
"""What a pixel counts, as a difference of confidence does: both of these may differ."""
_ALIKE = 0.5  # IoU of two boxes that are of the same thing
_EDGE = 1e-3  # a box may be on either side of the threshold that is so near to it


class BoxComparison(FileComparison):
    """The boxes of a file beside those of its run, pair by pair.

    A pair has the same class, and overlaps; it is the same box where the sides differ by at most a pixel and the confidence by at most
    0.001. A box without a partner counts with its confidence, unless it is at the threshold.
    """

    decision = "box"

    def disagreement(self, file: Outputs, own: Outputs, sizes: npt.NDArray[np.int64], state: State) -> Disagreement:
        """See `FileComparison`."""
        threshold = float(state["threshold"])
        found = [_pairs(*both, threshold) for both in zip(_boxes(file, sizes, threshold), _boxes(own, sizes, threshold), strict=True)]
        differences, same, total = (np.array(column) for column in zip(*found, strict=True))
        return Disagreement(differences.astype(np.float64), same.astype(np.int64), total.astype(np.int64))

    def gate(self, file: Outputs, own: Outputs, sizes: npt.NDArray[np.int64], targets: Targets) -> tuple[str, float, float]:
        """AP50 of the proposals."""
        assert isinstance(targets, Boxes)
        scores = []
        for outputs in (own, file):
            found = Detections.joined(detections_of(outputs[BOXES], outputs[PROBABILITIES], sizes))
            scores.append(detection_scores(match(found, targets, classes=len(targets.classes))).means["ap50"])
        return "AP50", scores[0], scores[1]


def _boxes(outputs: Outputs, sizes: npt.NDArray[np.int64], threshold: float) -> Sequence[Found]:
    """Those that an exported file has found, or what remains of the proposals of a run."""
    if FOUND[0] not in outputs:
        return detections_of(outputs[BOXES], outputs[PROBABILITIES], sizes, least=threshold)
    boxes, scores, labels = (outputs[name] for name in FOUND)
    return [(one[there], sure[there], label[there]) for one, sure, label, there in zip(boxes, scores, labels, labels >= 0, strict=True)]


def _pairs(file: Found, own: Found, threshold: float) -> tuple[float, int, int]:
    """The largest difference, how many boxes are the same, and how many there are."""
    (boxes, scores, labels), (others, other_scores, other_labels) = file, own
    alike = iou(boxes, others) * (labels[:, None] == other_labels)
    largest, same, partners = 0.0, 0, set[int]()
    for row in range(len(boxes)):
        free = [column for column in range(len(others)) if column not in partners and alike[row, column] > _ALIKE]
        if not free:
            alone = 0.0 if scores[row] < threshold + _EDGE else float(scores[row])
            largest, same = max(largest, alone), same + (alone == 0)
            continue
        column = max(free, key=lambda place: alike[row, place])
        partners.add(column)
        apart = max(abs(float(scores[row] - other_scores[column])), PIXEL * float(np.abs(boxes[row] - others[column]).max()))
        largest, same = max(largest, apart), same + (apart <= PIXEL)
    left = [float(other_scores[column]) for column in range(len(others)) if column not in partners]
    missed = [score for score in left if score >= threshold + _EDGE]
    return max([largest, *missed]), same + len(left) - len(missed), len(boxes) + len(left)
