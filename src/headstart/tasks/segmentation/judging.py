"""What a fit learns beside the masks: which inputs are unlike the training inputs, and masks that look wrong."""

from __future__ import annotations

import math

import numpy as np

from headstart.audit import Finding
from headstart.data.masks import VOID, Masks
from headstart.pixels.windows import LARGEST, STEP, Windows
from headstart.reliability import Reliability
from headstart.tasks.learned import novelty_of
from headstart.tasks.segmentation.learning import Halves
from headstart.tasks.task import Judged, Learned, LearningContext

_SMALL = 8.0  # px: the light decoder has a cell for every fourth
_MOST_WINDOWS = 8
_LOOKED_AT, _FINE = 16, 512  # masks, and the side that they are brought to
_WRONG, _SPREADS = 0.5, 4.0


def judge(learned: Learned, context: LearningContext) -> Judged:
    """Novelty by the pooled features of the training inputs; and the masks with which outside decoders disagree most."""
    halves = learned.beside
    findings = () if halves is None else tuple(wrong_masks(learned, halves))
    return Judged(
        reliability=Reliability(novelty=novelty_of(learned.table, seed=context.settings.seed)),
        findings=(*findings, *small_objects(learned)),
    )


def small_objects(learned: Learned) -> list[Finding]:
    """Where most of what is to be found is too small to be seen at the size of the network's input: which windows to see it through."""
    extractor, targets = learned.prepared.extractor, learned.table.dataset.targets
    assert isinstance(targets, Masks)
    side, windows = extractor.preprocessing.size, extractor.windows
    share = object_side(targets.take(learned.table.train))
    seen = share * extractor.square.size
    counts = range(2 if windows is None else windows.count + 1, _MOST_WINDOWS + 1)
    if side % STEP or side < 2 * STEP or not 0 < seen < _SMALL:
        return []
    squares = {count: Windows(count, side).square for count in counts if side * count <= LARGEST}
    enough = [count for count, square in squares.items() if share * square >= _SMALL]
    if not squares:
        return []
    width, named = max(1, math.ceil(seen)), enough[0] if enough else max(squares)
    message = (
        f"Most of the labelled pixels lie in objects less than {width} px wide as the network sees them, at {side} px: "
        f"try --windows {named}."
    )
    return [Finding("small objects", "note", message, (), len(targets))]


def object_side(masks: Masks) -> float:
    """How wide the objects in masks are, as a share of the side of the image; 0 where there are none.

    An object is a connected region of a class, but of the most frequent one, and its side that of a square of its area. For each class
    it is the side up to which objects have half of its pixels, since specks are many and matter little; over the classes the median. A
    sample of the masks is looked at.
    """
    from scipy import ndimage

    from headstart.training.masks import shrunk

    most = int(masks.areas[:, : len(masks.classes)].sum(axis=0).argmax())
    areas: dict[int, list[int]] = {}
    for index in np.unique(np.linspace(0, len(masks) - 1, _LOOKED_AT).astype(int)).tolist():
        mask = shrunk(masks.read(index), _FINE)
        for number in np.unique(mask).tolist():
            if number not in (most, VOID):
                areas.setdefault(number, []).extend(np.bincount(ndimage.label(mask == number)[0].ravel())[1:].tolist())
    sides = []
    for found in areas.values():
        ordered = np.sort(found)
        sides.append(np.sqrt(ordered[np.searchsorted(ordered.cumsum(), ordered.sum() / 2)]))
    return float(np.median(sides)) / _FINE if sides else 0.0


def wrong_masks(learned: Learned, halves: Halves) -> list[Finding]:
    """The training masks that decoders which had not seen them contradict: IoU below one half, and far below the others'."""
    scores = halves.plain.image_iou
    known = np.isfinite(scores)
    if not known.any():
        return []
    middle = float(np.median(scores[known]))
    spread = float(np.median(np.abs(scores[known] - middle)))
    wrong = np.flatnonzero(known & (scores < min(_WRONG, middle - _SPREADS * spread)))
    wrong = wrong[np.argsort(scores[wrong])]
    names = learned.table.dataset.names()
    rows = learned.table.train[wrong].tolist()
    verb = "mask disagrees" if len(wrong) == 1 else "masks disagree"
    return Finding.of(
        "wrong_masks", "warning",
        f"{len(wrong)} training {verb} with what was learned from the others: look at them, the worst first. They may be wrong, shifted, "
        "or of another image.",
        [f"{names[row]}: IoU {score:.2f}, others {middle:.2f}" for row, score in zip(rows, scores[wrong].tolist(), strict=True)],
        len(wrong),
    )  # fmt: skip
