"""Near copies: images that are the same picture, resized, recompressed, cropped a little, or mirrored.

Two ways to find pairs that may be one picture: a likeness of small grey pictures, and one of features. Neither is proof where all pictures
of a set are alike, as X-rays or digits are. Proof is in the pixels: the two are laid onto each other and must agree in their details, and
they must agree far better than either does with pictures that are merely alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.audit.alignment import COARSE, Pictures, details, likeness, thumbnails
from headstart.audit.findings import Finding, Severity, are_copies, components
from headstart.audit.outliers import standardised
from headstart.backbones import Layer
from headstart.data import Dataset
from headstart.data.dataset import Images
from headstart.errors import ParameterError

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
_EXAMPLES = 20

Pairs: TypeAlias = npt.NDArray[np.int64]
Maps: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NearCopies:
    """Which images of a data set are the same picture.

    Attributes:
        pairs: int64 (m, 2), positions of two images, the smaller first; of images with the same bytes only the first is in a pair.
        likeness: float64 (m,), how well the two agree in their details: 1 is the same.
        components: groups of images that belong together through such pairs, ascending, with every exact copy of their members. A
            group holds at least two different images: exact copies alone make none.
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
    progress: Callable[[int, int], None] | None = None,
) -> NearCopies:
    """Find the images that are the same picture.

    Time grows with the square of the number of images: seconds for 10,000. Memory grows with their number.

    Args:
        images: paths, or uint8 (n, H, W, 3). Each is decoded once, at reduced scale.
        digests: the SHA-256 of each image's bytes: of images with the same bytes one is compared.
        features: float32 (n, D), by which stronger crops are found too (20 % instead of 10 %); none are needed.
        layers: the slices of the features; the last one is searched, or all columns where none are given.
        progress: called with (images decoded, images in all).

    Raises:
        ParameterError: the numbers of digests, features and images differ.
    """
    for what, count in (("digests", len(digests)), ("features", len(images) if features is None else len(features))):
        if count != len(images):
            raise ParameterError(f"there are {len(images)} images and {what} of {count}; one for each image is needed")
    copies: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        copies.setdefault(digest, []).append(row)
    first = np.array([rows[0] for rows in copies.values()], np.int64)
    pictures = thumbnails([images[row] for row in first], progress=progress)
    values = None if features is None else standardised(features[first], layers[-1:])
    pairs, found = _same(pictures, values)
    together = [
        tuple(sorted(row for member in group for row in copies[digests[first[member]]])) for group in _components(pairs, len(first))
    ]
    return NearCopies(first[pairs], found, tuple(sorted(together)))


def find_near_copies(dataset: Dataset, copies: NearCopies, *, digests: Sequence[bytes]) -> list[Finding]:
    """Return what near copies there are: across parts, in two classes, and others. Exact copies are left to `check`.

    Args:
        dataset: the images that `copies` is about.
        copies: what `near_copies` found.
        digests: the SHA-256 of each image's bytes.
    """
    names = dataset.names()
    leaks: list[tuple[int, int]] = []
    validation: list[tuple[int, int]] = []
    two_classes: list[tuple[int, int]] = []
    surplus: list[tuple[int, int]] = []
    for group in copies.components:
        two_classes += _first_of_other_labels(dataset, group, digests)
        for row in group:
            before = [other for other in group if digests[other] != digests[row]]
            exact = [other for other in group if digests[other] == digests[row] and other != row]
            part = str(dataset.parts[row])
            known = {"test": ("train", "val"), "val": ("train",)}.get(part, ())
            seen = [other for other in before if dataset.parts[other] in known]
            if any(dataset.parts[other] in known for other in exact):
                continue  # an exact copy is the graver finding, and made elsewhere
            if seen:
                (leaks if part == "test" else validation).append((row, seen[0]))
                continue
            earlier = [other for other in before if other < row and dataset.parts[other] == part]
            if earlier and not any(other < row for other in exact):
                surplus.append((row, earlier[0]))
    return [*_leaks(names, leaks, validation), *_two_classes(dataset, names, two_classes), *_surplus(dataset, names, surplus)]


def _first_of_other_labels(dataset: Dataset, group: Sequence[int], digests: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return each image of a group beside the first one of another class that is not its exact copy."""
    found = []
    for row in group:
        others = [i for i in group if digests[i] != digests[row] and dataset.labels(i) != dataset.labels(row)]
        if others:
            found.append((row, others[0]))
    return found


def _leaks(names: Sequence[str], leaks: Sequence[tuple[int, int]], validation: Sequence[tuple[int, int]]) -> list[Finding]:
    found = []
    if leaks:
        message = (
            f"{are_copies(len(leaks), 'test image', 'near')} of training images (resized, recompressed, cropped or mirrored): the "
            "model has seen them, so the score is too high. Delete them from the test part, or keep each picture and its "
            "copies in one part."
        )
        found.append(Finding("near copies across parts", "error", message, _examples(names, leaks), len(leaks)))
    if validation:
        message = (
            f"{are_copies(len(validation), 'validation image', 'near')} of training images: choices made on them are wrong. Delete them, "
            "or keep each picture and its copies in one part."
        )
        found.append(Finding("near copies in validation", "warning", message, _examples(names, validation), len(validation)))
    return found


def _two_classes(dataset: Dataset, names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[Finding]:
    if not pairs:
        return []
    message = (
        f"{are_copies(len(pairs), 'image', 'near')} of images in another class: at least one label of each is wrong. "
        "Look at them and delete the wrong ones."
    )
    labelled = [f"{name} ({', '.join(dataset.labels(i)) or 'no label'})" for i, name in enumerate(names)]
    once = [(row, other) for row, other in pairs if row < other] or list(pairs)
    return [Finding("near copies in two classes", "warning", message, _examples(labelled, once), len(pairs))]


def _surplus(dataset: Dataset, names: Sequence[str], surplus: Sequence[tuple[int, int]]) -> list[Finding]:
    if not surplus:
        return []
    unsplit = bool((dataset.parts[[row for row, _ in surplus]] == "").any())
    effect = "they may fall on both sides of a split, and the score is then too high" if unsplit else "they count more than once"
    message = (
        f"{are_copies(len(surplus), 'image', 'near')} of another image (resized, recompressed, cropped or mirrored): {effect}. "
        "Keep each picture and its copies together, or delete the copies."
    )
    severity: Severity = "warning" if unsplit or len(surplus) > len(dataset) / 100 else "note"
    return [Finding("near copies", severity, message, _examples(names, surplus), len(surplus))]


def _examples(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    return tuple(f"{names[row]} ~ {names[other]}" for row, other in pairs[:_EXAMPLES])


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
    best: dict[tuple[int, int], float] = {}
    for (one, other, _), value in zip(candidates[sure].tolist(), alike[sure].tolist(), strict=True):
        best[one, other] = max(value, best.get((one, other), 0.0))
    pairs = sorted(best)
    return np.array(pairs, np.int64).reshape(-1, 2), np.array([min(1.0, best[pair]) for pair in pairs], np.float64)


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


def _components(pairs: Pairs, count: int) -> list[list[int]]:
    """Return the connected groups of a graph that have at least two members."""
    groups: dict[int, list[int]] = {}
    for row, component in enumerate(components(pairs, count).tolist()):
        groups.setdefault(component, []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]
