"""How the proposals of a detector become the confidence of one box: what heat maps explain of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from headstart.metrics.boxes import iou
from headstart.metrics.link import PlaceLink
from headstart.metrics.proposals import kept_boxes

SAME = 0.5
"""A proposal is of the same thing as a box from this overlap (IoU) on."""

_CELLS = 200  # of the side, in which the inside of a box is drawn
_SURE = 1e-6  # confidence counts as no nearer to 0 or 1 than float32 can tell: log-odds are finite


@dataclass(frozen=True)
class BoxLink(PlaceLink):
    """Proposals (n, c, k + 4), the probability of each class and then the box, as shares of the sides.

    `PROPOSED` is about the surest box of a class; with `given`, left, top, right and bottom, a link is about that box.
    """

    given: tuple[float, float, float, float] | None = None

    place: ClassVar[str] = "box"
    unfound: ClassVar[str] = "Nothing of this class is found in {}; evidence for the place that is most like it"

    def told(self, share: float) -> str:
        """The confidence of a box."""
        return f"confidence {share:.2f}"

    def shares(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        """The confidence of the surest box of each class, float64 (n, k)."""
        return np.asarray(np.asarray(logits[..., :-4], np.float64).max(axis=1))

    def box(self, logits: NDArray[Any], target: int) -> NDArray[np.float32]:
        """The box that is explained, the surest of a class among the proposals (c, k + 4) of one input: (4,), shares of the sides."""
        if self.given is not None:
            return np.array(self.given, np.float32)
        probabilities, boxes = logits[:, target : target + 1], logits[:, -4:]
        kept, _, _ = kept_boxes(boxes, probabilities, most=1)
        return np.asarray(kept[0] if len(kept) else boxes[probabilities[:, 0].argmax()], np.float32)

    def region(self, logits: NDArray[Any], target: int) -> NDArray[np.bool_]:
        """Bool (200, 200): what is inside of `box`."""
        left, top, right, bottom = (self.box(logits, target) * _CELLS).tolist()
        x = np.arange(_CELLS)
        across, down = ((x + 1 > low) & (x < high) for low, high in ((left, right), (top, bottom)))
        return np.asarray(down[:, None] & across)

    def log_odds(self, logits: NDArray[Any], target: int) -> NDArray[np.float64]:
        """The log-odds of the surest proposal that overlaps the `box` of the first input, in versions of it: (m, c, k + 4) to (m,)."""
        rows = np.asarray(logits, np.float64)
        near = iou(self.box(logits[0], target)[None], rows[..., -4:].reshape(-1, 4)).reshape(rows.shape[:2]) >= SAME
        found = np.where(near, rows[..., target], 0).max(axis=1).clip(_SURE, 1 - _SURE)
        return np.asarray(np.log(found) - np.log1p(-found))


PROPOSED = BoxLink("sigmoid", independent=True)
