"""Near copies: images that are the same picture, resized, recompressed, cropped a little, or mirrored.

Two ways to find pairs that may be one picture: a likeness of small grey pictures, and one of features. Neither is proof where all pictures
of a set are alike, as X-rays or digits are. Proof is in the pixels: the two are aligned and must agree in their details, and
they must agree far better than either does with pictures that are merely alike.

A crop, a resize or a recompression moves and stretches a picture a little and leaves its details where they are. Two different pictures of
the same kind (two digits, two X-rays) agree in their outlines and not in their details. So the pictures are aligned by least
squares (Lucas and Kanade, "An iterative image registration technique", IJCAI 1981: here one scale and one shift for each axis), without
their coarse light and dark, and what is measured is the correlation of what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.audit.outliers import standardised
from headstart.backbones import Layer
from headstart.data.dataset import Images
from headstart.engine import ahead
from headstart.errors import ImageError, ParameterError
from headstart.modalities.image import Levels, Preprocessing, quiet_decoding

SIDE = 48
"""Height and width of a thumbnail in pixels."""

COARSE = 16  # pixels at which the search begins: a crop of 5 % moves no detail by more than one of them
_SMOOTH, _DETAIL = 0.8, 3.0  # standard deviations, in pixels: finer than the first is noise of compression, coarser than the second outline
_COARSE_STEPS, _FINE_STEPS = 4, 3
_MOST = 0.35  # of half a side: no search goes further
_FAINT = 1.0  # grey levels: details weaker than this are noise
_CANDIDATES = 5  # of each image in each search
_SIMILAR = 0.5  # of two small pictures as they lie: a crop of 5 % leaves 0.6
_CLOSER = 3  # candidates of each image that are looked at closely
_WORTH_A_LOOK = 0.93  # of the details at a coarse scale: cropped by 5 % they reach 0.97
_ALIKE = 0.87  # of the details of a picture and its copy
_STANDS_OUT = 0.15  # what a copy may lack in likeness, as a share of what an ordinary picture of the same kind lacks
_ORDINARY = (16, 100)  # the rank among an image's neighbours of ordinary pictures of its kind is n / 100, within these bounds
_FEWEST = 8  # images: with fewer there is nothing ordinary to compare with
_BLOCK = 1024
_BATCH = 256  # pairs that a thread lays onto each other in one go
_THREADS = 2
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_squeeze = Preprocessing(SIDE, fit="squash", interpolation="bicubic")

Pairs: TypeAlias = npt.NDArray[np.int64]
Pictures: TypeAlias = npt.NDArray[np.uint8]
Maps: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NearCopies:
    """Which images of a data set are the same picture.

    Pairs int64 (m, 2) are positions of two images, the smaller first; of images with the same bytes only the first is in a pair. Their
    likeness, float64 (m,), is 1 where their details are the same. Components are groups of images that belong together through such pairs,
    ascending, with every exact copy of their members: at least two different images, since exact copies alone make no group.
    """

    pairs: Pairs
    likeness: npt.NDArray[np.float64]
    components: tuple[tuple[int, ...], ...]


def near_copies(
    images: Images,
    *,
    digests: Sequence[bytes],
    features: npt.NDArray[np.float32] | None = None,
    layers: Sequence[Layer] = (),
    levels: Levels = None,
    progress: Callable[[int, int], None] | None = None,
) -> NearCopies:
    """Find the images that are the same picture.

    Time grows with the square of the number of images: seconds for 10,000. Memory grows with their number. Each image is decoded once, at
    reduced scale; of images with the same bytes, that is the same SHA-256 in `digests`, one is compared. By features, float32 (n, D),
    stronger crops are found too (20 % instead of 10 %): by those of the last of `layers`, or by all columns. `levels` are those of the
    data. `progress` is called with (images decoded, images in all).
    """
    for what, count in (("digests", len(digests)), ("features", len(images) if features is None else len(features))):
        if count != len(images):
            raise ParameterError(f"there are {len(images)} images and {what} of {count}; one for each image is needed")
    places: dict[bytes, int] = {}
    same = np.array([places.setdefault(digest, len(places)) for digest in digests], np.int64)  # equal for images with the same bytes
    first = np.unique(same, return_index=True)[1]
    pictures = thumbnails([images[row] for row in first], levels=levels, progress=progress)
    values = None if features is None else standardised(features[first], layers[-1:])
    pairs, found = _same(pictures, values)
    component = components(pairs, len(first))
    groups = np.flatnonzero(np.bincount(component) > 1)
    together = tuple(tuple(np.flatnonzero(component[same] == group).tolist()) for group in groups)
    return NearCopies(first[pairs], found, together)


def thumbnails(
    images: Images | Sequence[Path | Pictures], *, levels: Levels = None, progress: Callable[[int, int], None] | None = None
) -> Pictures:
    """Decode images at reduced scale and squeeze each, whole, into a small grey square: uint8 (n, SIDE, SIDE).

    An image that cannot be read is black, and so like no other. `progress` is called with (images done, images in all).
    """
    pictures = np.zeros((len(images), SIDE, SIDE), np.uint8)
    with quiet_decoding(), ThreadPoolExecutor(_THREADS) as threads:
        for row, picture in enumerate(ahead(threads, partial(_thumbnail, squeeze=replace(_squeeze, levels=levels)), images)):
            pictures[row] = picture
            if progress is not None:
                progress(row + 1, len(images))
    return pictures


def _thumbnail(image: Path | Pictures, *, squeeze: Preprocessing) -> Pictures:
    try:
        return np.asarray(squeeze(image) @ _LUMA + 0.5).astype(np.uint8)
    except ImageError:
        return np.zeros((SIDE, SIDE), np.uint8)


def _same(pictures: Pictures, features: Maps | None) -> tuple[Pairs, npt.NDArray[np.float64]]:
    """Return the pairs (m, 2) of pictures that are the same, and their likeness (m,)."""
    small = _as_rows(pictures)
    mirrored = _as_rows(pictures[:, :, ::-1])
    found: list[tuple[Pairs, tuple[int, ...]]] = [(_nearest(small, small, _SIMILAR), (0,)), (_nearest(mirrored, small, _SIMILAR), (1,))]
    if features is not None:
        rows = features / (np.linalg.norm(features, axis=1, keepdims=True) + np.float32(1e-12))
        found.append((_nearest(rows, rows, _SIMILAR), (0, 1)))
    candidates = np.concatenate([np.column_stack([pairs, np.full(len(pairs), way)]) for pairs, ways in found for way in ways])
    candidates = np.unique(candidates, axis=0)
    coarse = _likeness(pictures, candidates, fine=False)
    candidates = candidates[_closest(candidates, coarse, len(pictures))]
    alike = _likeness(pictures, candidates, fine=True)
    candidates, alike = candidates[alike >= _ALIKE], alike[alike >= _ALIKE]
    ordinary = _ordinary(pictures, small, np.unique(candidates[:, :2]))
    first, second = candidates[:, 0], candidates[:, 1]
    sure = 1 - alike <= _STANDS_OUT * (1 - np.maximum(ordinary[first], ordinary[second]))
    pairs, place = np.unique(candidates[sure, :2], axis=0, return_inverse=True)
    best = np.zeros(len(pairs))
    np.maximum.at(best, place.reshape(-1), np.minimum(alike[sure], 1))  # of the two as they lie, and of one mirrored
    return pairs, best


def _as_rows(pictures: Pictures) -> Maps:
    """Return the details of pictures at a coarse scale as rows (n, COARSE^2) of length 1."""
    rows = details(pictures, COARSE).reshape(len(pictures), COARSE * COARSE)
    return np.asarray(rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6), np.float32)


def _nearest(asked: Maps, rows: Maps, least: float) -> Pairs:
    """Return the pairs (m, 2), the smaller position first, of each row of `asked` and its nearest rows, by products of at least so much."""
    count = min(_CANDIDATES, len(rows) - 1)
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(asked) if count > 0 else 0, _BLOCK):
        products = asked[start : start + _BLOCK] @ rows.T
        block = np.arange(len(products))
        products[block, start + block] = -np.inf
        nearest = np.argpartition(products, -count, axis=1)[:, -count:]
        from_block, place = np.nonzero(np.take_along_axis(products, nearest, axis=1) >= least)
        pairs.append(np.column_stack([start + from_block, nearest[from_block, place]]))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _likeness(pictures: Pictures, candidates: Pairs, *, fine: bool) -> Maps:
    """Return the likeness of each candidate (position, position, whether the first is mirrored), in threads."""

    def measure(rows: Pairs) -> Maps:
        first = pictures[rows[:, 0]]
        mirrored = rows[:, 2] == 1
        first[mirrored] = first[mirrored, :, ::-1]
        return likeness(first, pictures[rows[:, 1]], fine=fine)

    blocks = [candidates[start : start + _BATCH] for start in range(0, len(candidates), _BATCH)]
    with ThreadPoolExecutor(_THREADS) as threads:
        return np.concatenate([np.empty(0, np.float32), *threads.map(measure, blocks)])


def _closest(candidates: Pairs, coarse: Maps, count: int) -> npt.NDArray[np.int64]:
    """Return which candidates are among the best few of either of their images."""
    chosen = []
    seen = np.zeros(count, np.int64)
    for index in np.argsort(-coarse, kind="stable").tolist():
        if coarse[index] < _WORTH_A_LOOK:
            break
        one, other = candidates[index, 0], candidates[index, 1]
        if min(seen[one], seen[other]) < _CLOSER:
            chosen.append(index)
        seen[one] += 1
        seen[other] += 1
    return np.array(chosen, np.int64)


def _ordinary(pictures: Pictures, small: Maps, rows: npt.NDArray[np.int64]) -> Maps:
    """Return, at some positions, how far an image agrees with ordinary pictures of its kind: float32 (n,), nan elsewhere.

    These are neighbours, but too many ranks away to be its copies. Where even they agree in their details, likeness proves little.
    """
    found = np.full(len(pictures), np.nan, np.float32)
    if len(pictures) < _FEWEST:
        found[rows] = 0
        return found
    low, high = _ORDINARY
    rank = min(max(low, len(pictures) // 100), high, len(pictures) - 4)
    ranks = np.arange(rank - 2, rank + 3)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        order = np.argpartition(-(small[block] @ small.T), ranks, axis=1)[:, ranks]
        pairs = np.column_stack([np.repeat(block, len(ranks)), order.ravel(), np.zeros(order.size, np.int64)])
        found[block] = np.median(_likeness(pictures, pairs, fine=True).reshape(-1, len(ranks)), axis=1)
    return found


def details(pictures: Pictures | Maps, side: int = SIDE) -> Maps:
    """Return what is between the finest noise and the outlines: float32 (n, side, side), mean 0 and standard deviation 1.

    `side` is `SIDE`, or a divisor of it to which the pictures (n, SIDE, SIDE) are averaged first.
    """
    maps: Maps = np.asarray(pictures, np.float32)
    factor = maps.shape[1] // side
    if factor > 1:
        maps = maps.reshape(len(maps), side, factor, side, factor).mean(axis=(2, 4), dtype=np.float32)
    fine, coarse = _blur(side, _SMOOTH), _blur(side, _DETAIL)
    maps = np.asarray(fine @ maps @ fine.T - coarse @ maps @ coarse.T, np.float32)
    maps -= maps.mean(axis=(1, 2), keepdims=True)
    maps /= maps.std(axis=(1, 2), keepdims=True) + np.float32(_FAINT)
    return maps


def likeness(first: Pictures, second: Pictures, *, fine: bool = True) -> Maps:
    """Return how far pairs of pictures agree in their details when they are aligned: float32 (m,), 1 where they are the same.

    Both are uint8 (m, SIDE, SIDE). Not `fine` measures at the coarse scale only, which takes a tenth of the time and tells less.
    """
    a, b = details(first, COARSE), details(second, COARSE)
    placed = _aligned(a, b, np.zeros((len(a), 4), np.float32), _COARSE_STEPS)
    if fine:
        a, b = details(first), details(second)
        placed = _aligned(a, b, placed, _FINE_STEPS)
    return _correlation(a, b, placed)


def _aligned(a: Maps, b: Maps, placed: Maps, steps: int) -> Maps:
    """Improve the placement (m, 4) of `b` on `a`: scale less 1 and shift along y, then along x, in halves of a side."""
    grid = _grid(a.shape[1])
    for _ in range(steps):
        moved, inside = _moved(b, placed)
        slopes = _slopes(moved, inside, grid).reshape(len(a), 4, -1)
        off = ((a - moved) * inside).reshape(len(a), -1, 1)
        normal = slopes @ slopes.transpose(0, 2, 1)
        size = np.trace(normal, axis1=1, axis2=2)[:, None, None]
        normal += np.eye(4, dtype=np.float32) * (1e-3 * size + 1e-6)
        placed = np.clip(placed + np.linalg.solve(normal, slopes @ off)[:, :, 0], -_MOST, _MOST)
    return placed


def _slopes(moved: Maps, inside: Maps, grid: Maps) -> Maps:
    """Return how the maps change with each of the four numbers of a placement (m, 4, side, side); 0 outside and at the very edge."""
    slopes = np.zeros((len(moved), 4, *moved.shape[1:]), np.float32)
    half = np.float32(len(grid) / 4)
    slopes[:, 1, 1:-1] = (moved[:, 2:] - moved[:, :-2]) * half
    slopes[:, 3, :, 1:-1] = (moved[:, :, 2:] - moved[:, :, :-2]) * half
    slopes[:, 1::2] *= inside[:, None]
    slopes[:, 0] = slopes[:, 1] * grid[:, None]
    slopes[:, 2] = slopes[:, 3] * grid
    return slopes


def _moved(maps: Maps, placed: Maps) -> tuple[Maps, Maps]:
    """Return the maps as placed, by linear interpolation, and 1 where there is a picture and 0 where it has ended."""
    down, in_y = _weights(maps.shape[1], placed[:, :2])
    right, in_x = _weights(maps.shape[1], placed[:, 2:])
    return np.asarray(down @ maps @ right.transpose(0, 2, 1), np.float32), in_y[:, :, None] * in_x[:, None, :]


def _weights(side: int, placed: Maps) -> tuple[Maps, Maps]:
    """Return the interpolation matrices (m, side, side) along one axis, and which of its places lie inside (m, side)."""
    places = ((_grid(side) * (1 + placed[:, :1]) + placed[:, 1:] + 1) * side - 1) / 2
    pixels = np.arange(side, dtype=np.float32)
    weights: Maps = np.maximum(0, 1 - np.abs(places[:, :, None] - pixels), dtype=np.float32)
    inside: Maps = ((places > -0.01) & (places < side - 0.99)).astype(np.float32)
    return weights, inside


def _correlation(a: Maps, b: Maps, placed: Maps) -> Maps:
    moved, inside = _moved(b, placed)
    count = inside.sum(axis=(1, 2)) + 1e-6
    a, moved = (_centred(maps, inside, count) for maps in (a, moved))
    products = np.einsum("nij,nij->n", a, moved) / count
    variances = [np.einsum("nij,nij->n", maps, maps) / count for maps in (a, moved)]
    # A picture without details has a variance near 0 and is like nothing, itself included.
    found: Maps = products / np.sqrt(np.maximum(variances[0], 0.05) * np.maximum(variances[1], 0.05))
    return found


def _centred(maps: Maps, inside: Maps, count: Maps) -> Maps:
    means = (maps * inside).sum(axis=(1, 2)) / count
    return np.asarray((maps - means[:, None, None]) * inside, np.float32)


def _grid(side: int) -> Maps:
    """Return the places of the pixels of one axis, from -1 to 1."""
    return ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)


@lru_cache(maxsize=8)
def _blur(side: int, deviation: float) -> Maps:
    """Return the matrix (side, side) that blurs one axis; at the edges it takes what is there."""
    steps = np.arange(side)
    weights = np.exp(-((steps[:, None] - steps) ** 2) / (2 * deviation**2))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def components(pairs: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """The connected component of each of `count` nodes of a graph, int64 (count,), numbered by their first nodes; pairs (m, 2)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.asarray(pairs, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)
