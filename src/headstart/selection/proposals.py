"""Which backbones a search within a budget may try next, and how much each is expected to bring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headstart.backbones.composed import Specification

SIZES = (160, 260, 320)
"""Further sizes of image, in pixels."""


@dataclass(frozen=True)
class Proposal:
    """A backbone, and the points of accuracy that it brought over what it was proposed beside, in the mean of several kinds of images."""

    backbone: str
    gain: float


def proposals(best: Specification, others: Sequence[str], *, size: int) -> Iterator[Proposal]:
    """What may be tried where the best so far is `best`: a further network beside it, another size, mirror images; another network.

    `others` are the networks at hand, the best first; `size` is the image size in pixels at which `best` was computed: its features at that
    size are stored, and a network beside it costs no more than itself.
    """
    now = replace(best, size=best.size or size)
    further = [name for name in others if name not in best.names]
    if further and not best.mirrored:
        yield Proposal(str(replace(now, names=(*now.names, further[0]))), 1.0 if len(best.names) == 1 else 0.3)
    yield from (Proposal(str(replace(now, names=(name,), mirrored=False)), 0.1) for name in further)
    yield from (Proposal(str(replace(now, size=other)), 0.2) for other in SIZES if other != now.size)
    if not best.mirrored:
        yield Proposal(str(replace(best, mirrored=True)), 0.2)
