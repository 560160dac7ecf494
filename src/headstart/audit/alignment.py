"""Whether masks lie on their images: the boundaries of a mask should be where an image has edges, and nowhere else more so.

The strength of edges under the boundaries is compared over all shifts of the mask, and over its mirror images, by cross-correlation. Of one
image this tells only where it is clear; of a whole data set it tells of a fault that all masks share, such as rows stored upside down.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.audit.findings import Finding
from headstart.data import VOID, Dataset, Masks
from headstart.engine import ahead
from headstart.errors import DataError, ImageError
from headstart.modalities.image import quiet_decoding, read_image

SIDE = 128  # pixels: images and masks are compared at this size, squashed
REACH = 16  # pixels of these: shifts of up to an eighth of a side are looked at
_CENTRE = 2  # pixels: outlines are not drawn more exactly than this
_BESIDE = 4  # pixels: nearer than this a shift is not told from no shift
_BOUNDARY = 20  # pixels: masks with a shorter boundary tell nothing
_CLEAR = 4.5  # standard deviations over all places; of 470 good masks none had this and twice its value as it is (seg_human, CamVid)
_TWICE = 2.0
_COMMON = 1.5  # how much better than as they are all masks together must fit, for a fault that they share
_SURE = 4.0  # standard errors
_FEW = 10  # images: fewer do not tell of a fault that all share
_MOST = 2000  # images are looked at
_THREADS = 2

MIRRORED = ("", "left to right", "upside down", "by half a turn")
"""How a mask is mirrored; the first not at all."""

Floats = npt.NDArray[np.float32]


def edges(pixels: npt.NDArray[np.uint8]) -> Floats:
    """The square root of the steepest slope of any colour, float32 (`SIDE`, `SIDE`), of an image uint8 (H, W, 3); standardised."""
    from PIL import Image

    small = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.float32)
    slope = np.zeros((2, SIDE, SIDE), np.float32)
    slope[0, 1:-1] = np.abs(small[2:] - small[:-2]).max(axis=2)
    slope[1, :, 1:-1] = np.abs(small[:, 2:] - small[:, :-2]).max(axis=2)
    strength = np.sqrt(np.hypot(slope[0], slope[1]))
    inner = strength[1:-1, 1:-1]
    found = np.zeros((SIDE, SIDE), np.float32)  # the rim, which has no slope, is as strong as the mean
    found[1:-1, 1:-1] = (inner - inner.mean()) / (inner.std() + 1e-6)
    return found


def boundaries(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """The pixels at which two classes meet, bool (`SIDE`, `SIDE`); pixels without a class meet none."""
    rows, columns = (((np.arange(SIDE) + 0.5) * side / SIDE).astype(np.int64) for side in mask.shape)
    small = mask[rows][:, columns]
    found = np.zeros((SIDE, SIDE), np.bool_)
    for first, second, one, other in (
        (small[1:], small[:-1], found[1:], found[:-1]),
        (small[:, 1:], small[:, :-1], found[:, 1:], found[:, :-1]),
    ):
        meet = (first != second) & (first != VOID) & (second != VOID)
        one |= meet
        other |= meet
    return found


def fits(pixels: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> Floats | None:
    """How well a mask fits its image at every shift: float32 (4, 2 `REACH` + 1, 2 `REACH` + 1), first as it is, then as of `MIRRORED`.

    The middle is no shift; the others say how far the mask is moved, down and to the right. In standard deviations over all places. None
    where the mask has next to no boundary.
    """
    boundary = boundaries(mask)
    if boundary.sum() < _BOUNDARY:
        return None
    spectrum = np.fft.rfft2(edges(pixels))
    found = list[npt.NDArray[np.float64]]()
    for turned in (boundary, boundary[:, ::-1], boundary[::-1], boundary[::-1, ::-1]):
        found.append(np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(turned.astype(np.float32))), s=(SIDE, SIDE)))
    maps = np.stack(found)
    near = np.roll(maps, (REACH, REACH), axis=(1, 2))[:, : 2 * REACH + 1, : 2 * REACH + 1]
    return np.asarray(near / (np.sqrt(maps.var(axis=(1, 2)).mean()) + 1e-9), np.float32)


@dataclass(frozen=True)
class Place:
    """Where a mask fits best: how it is mirrored, an index into `MIRRORED`, and how far it is moved, in shares of height and width."""

    mirrored: int
    down: float
    right: float

    def __str__(self) -> str:
        moves = [
            f"{abs(share):.0%} of its {side} {ahead_ if share > 0 else back}"
            for share, side, ahead_, back in ((self.down, "height", "down", "up"), (self.right, "width", "to the right", "to the left"))
            if share
        ]
        said = [f"mirrored {MIRRORED[self.mirrored]}"] if self.mirrored in (1, 2) else ["turned by half a turn"] * (self.mirrored == 3)
        return " and ".join([*said, *([f"moved by {' and '.join(moves)}"] if moves else [])])


def _best(maps: Floats) -> tuple[float, float, Place]:
    """How well masks fit as they are (or moved the other way), how well they do elsewhere at best, and where that is."""
    middle = slice(REACH - _CENTRE, REACH + _CENTRE + 1)
    own = float(maps[0, middle, middle].max())
    others = np.full_like(maps, -np.inf)
    others[1:, middle, middle] = maps[1:, middle, middle]  # mirrored and moved at once is more than a map can tell
    others[0] = maps[0]
    beside = slice(REACH - _BESIDE, REACH + _BESIDE + 1)
    others[0, beside, beside] = -np.inf
    kind, row, column = (int(place) for place in np.unravel_index(int(others.argmax()), others.shape))
    if not kind:  # masks that are drawn too large fit as well when moved the other way
        up, left = (max(2 * REACH - place - _CENTRE, 0) for place in (row, column))
        own = max(own, float(maps[0, up : up + 2 * _CENTRE + 1, left : left + 2 * _CENTRE + 1].max()))
    moved = (0.0, 0.0) if kind else ((row - REACH) / SIDE, (column - REACH) / SIDE)
    return own, float(others[kind, row, column]), Place(kind, *moved)


def find_misaligned(dataset: Dataset) -> list[Finding]:
    """Return a finding where masks clearly fit their images elsewhere: all of them in one way, or some."""
    masks = dataset.targets
    if not isinstance(masks, Masks) or not masks.sources:
        return []
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _MOST)).astype(np.int64)).tolist()
    images = dataset.inputs

    def one(row: int) -> Floats | None:
        try:
            return fits(read_image(images[row], at_least=SIDE, levels=dataset.levels), masks.read(row))
        except (ImageError, DataError):
            return None  # told elsewhere

    with quiet_decoding(), ThreadPoolExecutor(_THREADS) as pool:
        found = {row: maps for row, maps in zip(rows, ahead(pool, one, rows), strict=True) if maps is not None}
    if not found:
        return []
    return _of_all(list(found.values())) or _of_some(dataset, found)


def _of_all(maps: Sequence[Floats]) -> list[Finding]:
    own, other, place = _best(np.mean(maps, axis=0))
    if len(maps) < _FEW or other < _COMMON * max(own, 0):
        return []
    better = np.array([one[_at(place)] - one[0, REACH, REACH] for one in maps])
    if better.mean() < _SURE * better.std() / len(better) ** 0.5 or other < 1:
        return []
    how = str(place)
    message = (
        f"The masks do not lie on their images. {how[0].upper()}{how[1:]} they would: then their boundaries are where the images have "
        f"edges ({other:.1f} standard deviations above chance; as they are {own:.1f}, over {len(maps)} images). Look at how images and "
        "masks were exported, and write them again."
    )
    return [Finding("misaligned masks", "error", message, (), len(maps))]


def _at(place: Place) -> tuple[int, int, int]:
    return place.mirrored, REACH + round(place.down * SIDE), REACH + round(place.right * SIDE)


def _of_some(dataset: Dataset, found: dict[int, Floats]) -> list[Finding]:
    names, wrong = dataset.names(), list[str]()
    for row, maps in found.items():
        own, other, place = _best(maps)
        if other > _CLEAR and own < other / _TWICE:
            wrong.append(f"{names[row]}: it would fit {place}")
    those = "1 mask lies" if len(wrong) == 1 else f"{len(wrong)} masks lie"
    message = (
        f"{those} beside what is in the image, by the edges of the image (of {len(found)} that were compared; only clear cases are named). "
        "Look at them, and write them again or leave them out."
    )
    return Finding.of("misaligned masks", "warning", message, wrong, len(wrong))
