"""Patches to remember: a sample of those of all images, and from it a coreset that lies close to every one of the sample.

Time and memory are bounded however many images there are: the sample has at most `CANDIDATES` patches, as many of each image, and the
coreset at most `MEMORY`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.heads.patches import Floats, ImageMaps, PatchGrid
from headstart.progress import Listener

CANDIDATES = 20_000
"""Patches that a coreset is chosen from, at most."""
MEMORY = 2_000
"""Patches of a coreset, at most."""
PROJECTED = 32
"""Dimensions in which the coreset is chosen: random projections nearly keep distances (Johnson and Lindenstrauss), and more of them changed
no score in our measurements, and cost time."""

_EVERY = 100  # patches after which progress is told


@dataclass(frozen=True, eq=False)
class Candidates:
    """Patches that were sampled, float32 (c, D), and the position of the image of each, int64 (c,)."""

    patches: Floats
    images: npt.NDArray[np.int64]

    def without(self, images: npt.NDArray[np.int64]) -> Floats:
        """The patches of all other images."""
        return self.patches[~np.isin(self.images, images)]


def sampled(grid: PatchGrid, images: ImageMaps, *, most: int = CANDIDATES, seed: int = 0, listener: Listener | None = None) -> Candidates:
    """Patches of all images, as many of each, at random places; of more images than `most`, one of each of so many."""
    listener, generator = listener or Listener(), np.random.default_rng(seed)
    count = len(images)
    taken = np.ones(count, np.bool_)
    if count > most:
        taken = np.isin(np.arange(count), generator.choice(count, most, replace=False))
    each = min(grid.patches, max(1, most // max(1, count)))
    patches, owners = np.empty((int(taken.sum()) * each, grid.dim), np.float32), list[int]()
    for index, maps in enumerate(images):
        if taken[index]:
            places = generator.permutation(grid.patches)[:each]
            patches[len(owners) * each : (len(owners) + 1) * each] = grid(maps)[places]
            owners.append(index)
        listener.progress(index + 1, count)
    return Candidates(patches, np.repeat(np.asarray(owners, np.int64), each))


def coreset(patches: Floats, *, most: int = MEMORY, seed: int = 0, listener: Listener | None = None) -> npt.NDArray[np.int64]:
    """Rows of `patches` (c, D) that lie close to all of them, at most `most`, in the order in which they were chosen.

    Greedy k-centre after a random projection: the next is the one farthest from all before (Gonzalez 1985; at most twice as far off as the
    best choice in the projected space). It ends early where nothing new is left. Progress is told all along.
    """
    listener, generator = listener or Listener(), np.random.default_rng(seed)
    count, most = len(patches), min(most, len(patches))
    if count == most:
        return np.arange(count)
    points = patches - patches.mean(axis=0)
    if points.shape[1] > PROJECTED:
        points = points @ (generator.standard_normal((points.shape[1], PROJECTED)) / PROJECTED**0.5).astype(np.float32)
    norms = np.einsum("ij,ij->i", points, points)
    rows = np.empty(most, np.int64)
    rows[0], away = generator.integers(count), np.full(count, np.inf, np.float32)
    least = 1e-6 * float(norms.mean())
    for done in range(1, most):
        newest = points[rows[done - 1]]
        np.minimum(away, norms - 2 * (points @ newest) + newest @ newest, out=away)
        farthest = int(away.argmax())
        if away[farthest] <= least:
            return rows[:done]
        rows[done] = farthest
        if done % _EVERY == 0:
            listener.progress(done, most)
    listener.progress(most, most)
    return rows
