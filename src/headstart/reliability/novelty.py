"""Novelty (out-of-distribution detection): how unlike the training images an image is, and which of these are nearest to it.

The score is the sum of two parts. One is the mean, over the layers of the network, of the distance from a Gaussian of the training images'
features: early layers respond to noise, blur and drawings, late ones to foreign objects. The other is the distance from the nearest
training images in the last layer, by angle. Each is taken as a logarithm, in units of the spread of training images that the fit did not
see; the Gaussians count half. Either alone was worse on some pair of sets (benchmarks/trust.py). Confidence is not part of it: it detects
new classes among similar pictures better, but entirely foreign images worse, and doubt between two known classes is what prediction sets
are for.

Sources: Lee et al., A simple unified framework for detecting out-of-distribution samples and adversarial attacks, NeurIPS 2018 (Gaussians
of the layers); Sun et al., Out-of-distribution detection with deep nearest neighbors, ICML 2022; Wang et al., ViM: Out-of-distribution
with virtual-logit matching, CVPR 2022 (what lies outside of the principal axes counts as well).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from headstart.engine import available_cores
from headstart.errors import ParameterError, RunError
from headstart.reliability.density import Gaussian, Neighbourhood

if TYPE_CHECKING:
    from headstart.backbones import Layer

Features = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

MOST = 8192
"""Images that the fit looks at and keeps; more add time and size, and hardly anything else."""

NEIGHBOURS = 5
FOLDS = 4
FEWEST = 50  # left-out images that a threshold needs
BLOCK = 1024
_LEAST = 1e-12


class Novelty:
    """How unlike the training images an image is. Made by `fit` or `from_state`.

    Attributes:
        threshold: an image with a higher score is unlike anything seen in training.
        refused_share: target share of images like the training images that the threshold rejects.
        features: D, the length of a feature vector.
    """

    def __init__(
        self,
        gaussians: Sequence[Gaussian],
        neighbourhood: Neighbourhood,
        *,
        centre: Floats,
        spread: Floats,
        threshold: float,
        refused_share: float,
        features: int,
    ) -> None:
        self._gaussians = tuple(gaussians)
        self._neighbourhood = neighbourhood
        self._centre, self._spread = centre, spread
        self.threshold = threshold
        self.refused_share = refused_share
        self.features = features

    @classmethod
    def fit(
        cls,
        features: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        *,
        layers: Sequence[Layer],
        logits: npt.NDArray[Any] | None = None,
        refused_share: float = 0.03,
        seed: int = 0,
        groups: npt.NDArray[Any] | None = None,
    ) -> Self:
        """Learn what the training images look like, and from which score on an image is unlike them.

        The threshold comes from images that were left out of the fit together with their group, a quarter of them at a time; no image is
        its own neighbour there.

        Args:
            features: float32 (n, D), full feature vectors of the training images.
            targets: their labels, (n,) or (n, k); only their number counts: one Gaussian for all was as good as one a class.
            layers: slices of the feature vector; the last one is the network's last layer.
            logits: out-of-sample logits (n, k). Rows with nan tell which images the network was fine-tuned on; these do not set the
                threshold, because the network knows them too well.
            refused_share: share of images like the training images to reject, between 0 and 1.
            seed: where images are drawn.
            groups: (n,) values; images with equal ones are left out together.

        Raises:
            ParameterError: fewer than two images, lengths that differ, features that are not finite, layers outside of them, or a share
                outside (0, 1).
        """
        values, slices = _checked(features, targets, layers, groups, refused_share)
        rng = np.random.default_rng(seed)
        rows = np.arange(len(values)) if len(values) <= MOST else np.sort(rng.permutation(len(values))[:MOST])
        values = values[rows]
        unseen = _unseen(rows, logits, len(features))
        fold = _folds(None if groups is None else np.asarray(groups)[rows], len(rows), rng)
        from headstart.heads.linalg import one_thread  # brings scikit-learn, which predicting does without

        with one_thread():  # several at once, one thread each, finish earlier than one after the other with all threads
            logs = _left_out(values, fold, slices, seed)[unseen]
            gaussians, neighbourhood = _fit_parts(values, rows, slices, seed)
        centre = np.median(logs, axis=0)
        spread = np.maximum(np.quantile(logs, 0.97, axis=0) - centre, 1e-3)
        scores = np.sort(_combined((logs - centre) / spread))
        rank = min(len(scores), math.ceil((len(scores) + 1) * (1 - refused_share) - 1e-9))
        return cls(
            gaussians, neighbourhood, centre=centre, spread=spread, threshold=float(scores[rank - 1]),
            refused_share=float(refused_share), features=values.shape[1],
        )  # fmt: skip

    def score(self, features: npt.NDArray[Any]) -> Floats:
        """How unlike the training images each image is, float64 (m,): higher is more unlike, about 0 is usual.

        Args:
            features: float32 (m, D).

        Raises:
            ParameterError: feature vectors of another length.
        """
        return _combined(self.parts(features))

    def parts(self, features: npt.NDArray[Any]) -> Floats:
        """The parts of the score, float64 (m, l + 1): a column for each layer, and one for the nearest training images."""
        values = self._checked_features(features)
        found = np.empty((len(values), len(self._gaussians) + 1))
        for start in range(0, len(values), BLOCK):
            found[start : start + BLOCK] = _distances(self._gaussians, self._neighbourhood, values[start : start + BLOCK])
        return (found - self._centre) / self._spread

    def __call__(self, features: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether each image is unlike anything seen in training: bool (m,); arguments and errors as of `score`."""
        novel: npt.NDArray[np.bool_] = self.score(features) > self.threshold
        return novel

    def nearest(self, features: npt.NDArray[Any], count: int) -> tuple[Rows, Floats]:
        """The nearest training images in the last layer, by angle, the nearest first.

        Args:
            features: float32 (m, D).
            count: how many; fewer come back where fewer were kept.

        Returns:
            Positions among the training images that `fit` was given, int64 (m, count), and distances, float64 (m, count): 0 is the same
            features, 2 the opposite. Of more than `MOST` training images only those that were kept are found.

        Raises:
            ParameterError: feature vectors of another length, or a count below 1.
        """
        if isinstance(count, bool) or count < 1:
            raise ParameterError(f"count must be a whole number of neighbours, at least 1, and is {count!r}.")
        values, neighbourhood = self._checked_features(features), self._neighbourhood
        count = min(int(count), len(neighbourhood.rows))
        found, distances = np.empty((len(values), count), dtype=np.int64), np.empty((len(values), count))
        for start in range(0, len(values), BLOCK):
            block = slice(start, start + BLOCK)
            found[block], distances[block] = neighbourhood.nearest(values[block], count)
        return neighbourhood.rows[found], distances

    def _checked_features(self, features: npt.NDArray[Any]) -> Features:
        values = np.asarray(features, dtype=np.float32)
        if values.ndim != 2 or values.shape[1] != self.features:
            raise ParameterError(
                f"features must have the shape (images, {self.features}), as the backbone of the fit gives them, and have {values.shape}."
            )
        return values

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values and arrays from which `from_state` restores it."""
        settings = {
            "features": self.features,
            "refused_share": self.refused_share,
            "threshold": self.threshold,
            "centre": self._centre.tolist(),
            "spread": self._spread.tolist(),
            "layers": [[part.start, part.stop] for part in self._gaussians],
        }
        arrays = {f"layer{number}.{name}": array for number, part in enumerate(self._gaussians) for name, array in part.arrays().items()}
        return settings, arrays | {f"near.{name}": array for name, array in self._neighbourhood.arrays().items()}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Restore it from `state`.

        Raises:
            RunError: an entry or an array is missing, or they are inconsistent.
        """
        try:
            slices = [(int(start), int(stop)) for start, stop in settings["layers"]]
            gaussians = [Gaussian.of_arrays(start, stop, _named(arrays, f"layer{i}.")) for i, (start, stop) in enumerate(slices)]
            near = Neighbourhood.of_arrays(*slices[-1], _named(arrays, "near."))
            made = cls(
                gaussians,
                near,
                centre=np.asarray(settings["centre"], dtype=np.float64),
                spread=np.asarray(settings["spread"], dtype=np.float64),
                threshold=float(settings["threshold"]),
                refused_share=float(settings["refused_share"]),
                features=int(settings["features"]),
            )
            if made._centre.shape != (len(slices) + 1,) or made._spread.shape != made._centre.shape:
                raise ValueError("'centre' or 'spread'")
            if not all(0 <= start < stop <= made.features for start, stop in slices):
                raise ValueError("'layers'")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(f"What the run kept of its training images is damaged: {error} is missing or wrong. Fit again.") from error
        return made


def _named(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _fit_parts(values: Features, rows: Rows, slices: Sequence[tuple[int, int]], seed: int) -> tuple[list[Gaussian], Neighbourhood]:
    gaussians = [Gaussian.fit(values, start, stop, seed=seed) for start, stop in slices]
    return gaussians, Neighbourhood.fit(values, rows, *slices[-1], seed=seed)


def _left_out(values: Features, fold: Rows, slices: Sequence[tuple[int, int]], seed: int) -> Floats:
    """Logarithms of the distances (n, l + 1) of each image from a fit without its fold."""
    outside = [fold == number for number in np.unique(fold)]

    def one(out: npt.NDArray[np.bool_]) -> Floats:
        return _distances(*_fit_parts(values[~out], np.flatnonzero(~out), slices, seed), values[out])

    found = np.empty((len(values), len(slices) + 1))
    with ThreadPoolExecutor(available_cores()) as pool:
        for out, distances in zip(outside, pool.map(one, outside), strict=True):
            found[out] = distances
    return found


def _distances(gaussians: Sequence[Gaussian], neighbourhood: Neighbourhood, values: Features) -> Floats:
    """Logarithms of the distances (m, l + 1)."""
    columns = [*(part.distances(values) for part in gaussians), neighbourhood.distances(values, NEIGHBOURS)]
    return np.log(np.maximum(np.stack(columns, axis=1), _LEAST))


def _combined(parts: Floats) -> Floats:
    """Half of the mean over the layers, and the nearest images."""
    return np.asarray(0.5 * parts[:, :-1].mean(axis=1) + parts[:, -1])


def _folds(groups: npt.NDArray[Any] | None, count: int, rng: np.random.Generator) -> Rows:
    """A number from 0 to `FOLDS` - 1 for each image, the same for a whole group; images alone where there is one group only."""
    unit = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    if unit.max() < 1:
        unit = np.arange(count)
    numbers = rng.permutation(int(unit.max()) + 1) % FOLDS
    return np.asarray(numbers[unit], dtype=np.int64)


def _unseen(rows: Rows, logits: npt.NDArray[Any] | None, count: int) -> npt.NDArray[np.bool_]:
    """Which of the rows set the threshold: those that the network has not learned from, if they are enough."""
    every = np.ones(len(rows), dtype=bool)
    if logits is None:
        return every
    given = np.asarray(logits)
    if given.ndim != 2 or len(given) != count:
        raise ParameterError(f"logits must have the shape (images, classes) with a row for each of {count} images, and have {given.shape}.")
    unseen = np.isfinite(given[rows]).all(axis=1)
    return unseen if unseen.sum() >= FEWEST else every


def _checked(
    features: npt.NDArray[Any], targets: npt.NDArray[Any], layers: Sequence[Layer], groups: npt.NDArray[Any] | None, share: float
) -> tuple[Features, list[tuple[int, int]]]:
    values = np.asarray(features, dtype=np.float32)
    if values.ndim != 2 or len(values) < 2:
        raise ParameterError(f"features must have the shape (images, features), with two images at least, and have {values.shape}.")
    for name, given in (("targets", targets), ("groups", groups)):
        if given is not None and len(given) != len(values):
            raise ParameterError(f"There are {len(values)} feature vectors and {len(given)} {name}; each image needs one.")
    if not np.isfinite(values.sum(axis=1, dtype=np.float64)).all():
        raise ParameterError("Some feature vectors hold NaN or infinite values. Compute the features again.")
    if isinstance(share, bool) or not 0 < share < 1:
        raise ParameterError(f"refused_share must lie between 0 and 1, for example 0.03, and is {share!r}.")
    slices = [(int(layer.start), int(layer.stop)) for layer in layers]
    if not slices or not all(0 <= start < stop <= values.shape[1] for start, stop in slices):
        raise ParameterError(f"layers must be slices of the {values.shape[1]} features, at least one, and are {slices}.")
    return values, slices
