"""Which backbones a search within a budget may try next, and how much each is expected to bring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headstart.backbones.composed import Specification

LARGER = (260, 320)
"""Further sizes of image in pixels, for images that have as many."""

MIDDLE = 192
"""One for images so small that a search begins below it."""

_LEAST, _ENLARGED = 128, 4  # pixels; how many times a side of small images is enlarged: more adds nothing to see, and costs


@dataclass(frozen=True)
class Proposal:
    """A backbone, and what it is expected to bring over the best so far.

    The gain is in units of what a second network beside the first brings, about an eighth of the errors; measured on several kinds of
    images. With the strategy ``partial`` the backbone is trained further.
    """

    backbone: str
    gain: float
    strategy: str = "probe"


def first_size(side: int, usual: int) -> int:
    """The image size at which a search begins, for images of so many pixels on the shorter side; `usual` is the network's own."""
    return min(max(_ENLARGED * side, _LEAST), usual)


def proposals(best: Specification, others: Sequence[str], *, size: int, usual: int, side: int) -> Iterator[Proposal]:
    """What may be tried where the best so far is `best`: a further network beside it, another size, mirror images; another network.

    `others` are the networks at hand, the best first; `size` is the image size in pixels at which `best` was computed: its features at that
    size are stored, and a network beside it costs no more than itself. `usual` is the size of the network itself, and `side` that of the
    images.
    """
    now = replace(best, size=best.size or size)
    further = [name for name in others if name not in best.names]
    if further and not best.mirrored:
        yield Proposal(str(replace(now, names=(*now.names, further[0]))), 1.0 if len(best.names) == 1 else 0.3)
    yield from (Proposal(str(replace(now, names=(name,), mirrored=False)), 0.1) for name in further)
    middle = (MIDDLE,) if first_size(side, usual) < MIDDLE < usual else ()
    sizes = dict.fromkeys((*middle, usual, *(larger for larger in LARGER if larger <= side)))
    yield from (Proposal(str(replace(now, size=other)), 0.2) for other in sizes if other != now.size)
    if not best.mirrored:
        yield Proposal(str(replace(best, mirrored=True)), 0.2)
