"""What a fit learns beside the masks: which inputs are unlike the training inputs, and masks that look wrong."""

from __future__ import annotations

import numpy as np

from headstart.audit import Finding
from headstart.reliability import Reliability
from headstart.reliability.novelty import Novelty
from headstart.tasks.segmentation.learning import Halves
from headstart.tasks.task import Judged, Learned, LearningContext

_FEWEST = 50  # images that novelty needs
_WRONG, _SPREADS = 0.5, 4.0


def judge(learned: Learned, context: LearningContext) -> Judged:
    """Novelty by the pooled features of the training inputs; and the masks with which outside decoders disagree most."""
    table, halves = learned.table, learned.beside
    train, novelty = table.train, None
    if len(train) >= _FEWEST:
        novelty = Novelty.fit(
            table.features(train), table.dataset.targets.take(train).strata, layers=table.layers, groups=table.groups_among(train),
            seed=context.settings.seed,
        )  # fmt: skip
    findings = () if halves is None else tuple(wrong_masks(learned, halves))
    return Judged(reliability=Reliability(novelty=novelty), findings=findings)


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
