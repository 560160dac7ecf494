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
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.engine import available_cores
from headstart.errors import ParameterError, damage_named
from headstart.matrix import FeatureMatrix, RowView, first_not_finite, principal_axes
from headstart.reliability.shift import Rate
from headstart.settings.field import SHARE, require, whole

if TYPE_CHECKING:
    from headstart.backbones import Layer

Features = npt.NDArray[np.float32]
AnyFeatures: TypeAlias = npt.NDArray[Any] | RowView
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

MOST = 8192
"""Images that the fit looks at and keeps; more add time and size, and hardly anything else."""

NEIGHBOURS = 5
FOLDS = 4
FEWEST = 50  # left-out images that a threshold needs
BLOCK = 1024
_LEAST = 1e-12
AXES = 64  # of a Gaussian
POINT_AXES = 128  # of the points
FLOOR = 0.3
RIDGE = 0.1


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian of the features of one layer: along its principal axes each variance counts, across them their mean."""

    start: int  # the layer's columns
    stop: int
    mean: Features  # (d,)
    scale: Features  # (d,), what centred features are divided by
    axes: Features  # (d, q)
    variance: Features  # (q + 1,), along the axes and, as the last, across them; each is raised by a tenth of the mean variance

    @classmethod
    def fit(cls, values: Features, start: int, stop: int, *, seed: int) -> Self:
        """Fit it to full feature vectors (n, D)."""
        part = values[:, start:stop]
        mean, spread = part.mean(axis=0, dtype=np.float64), part.std(axis=0, dtype=np.float64)
        # the floor keeps a feature that hardly ever fires from deciding alone
        scale = np.sqrt(spread**2 + FLOOR**2 * np.mean(spread**2))
        scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
        centred = (part - mean.astype(np.float32)) / scale
        axes = principal_axes(centred, AXES, seed=seed)
        n, (d, q) = len(centred), axes.shape
        along = ((centred @ axes) ** 2).sum(axis=0, dtype=np.float64) / n
        total = float(np.einsum("ij,ij->", centred, centred, dtype=np.float64)) / n
        across = max(0.0, total - float(along.sum())) / max(1, d - q)
        variance = np.append(along, across) + max(RIDGE * total / d, 1e-12)
        return cls(start, stop, mean.astype(np.float32), scale, axes, variance.astype(np.float32))

    def distances(self, values: Features) -> Floats:
        """Squared Mahalanobis distances (m,) of full feature vectors (m, D)."""
        centred = (values[:, self.start : self.stop] - self.mean) / self.scale
        inside, outside = _projected(centred, self.axes)
        along = (inside**2 / self.variance[:-1]).sum(axis=1, dtype=np.float64)
        return np.asarray(along + outside / self.variance[-1])

    @classmethod
    def of_arrays(cls, start: int, stop: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Restore it from its arrays; KeyError or ValueError where they do not go together."""
        mean, scale, axes, variance = (np.asarray(arrays[name], dtype=np.float32) for name in ("mean", "scale", "axes", "variance"))
        if axes.ndim != 2 or mean.shape != (stop - start,) or scale.shape != mean.shape or axes.shape[0] != len(mean):
            raise ValueError("the Gaussian of a layer")
        if variance.shape != (axes.shape[1] + 1,) or not (variance > 0).all():
            raise ValueError("the variance of a layer")
        return cls(start, stop, mean, scale, axes, variance)


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Training images as points: the features of one layer, brought to length 1, along their principal axes."""

    start: int  # the layer's columns
    stop: int
    mean: Features  # (d,), of the features of length 1
    axes: Features  # (d, q)
    points: npt.NDArray[np.float16]  # (m, q)
    rest: Features  # (m,), the squared distance of each from the axes
    rows: Rows  # (m,), which training image each is

    @classmethod
    def fit(cls, values: Features, rows: Rows, start: int, stop: int, *, seed: int) -> Self:
        """Keep full feature vectors (m, D) of the training images `rows` (m,)."""
        unit = _of_length_one(values[:, start:stop])
        mean = unit.mean(axis=0, dtype=np.float64).astype(np.float32)
        unit -= mean
        axes = principal_axes(unit, POINT_AXES, seed=seed)
        points, rest = _projected(unit, axes)
        return cls(start, stop, mean, axes, points.astype(np.float16), rest, rows.astype(np.int64))

    @cached_property
    def _points(self) -> tuple[Features, Features]:
        points = self.points.astype(np.float32)
        return points, np.einsum("ij,ij->i", points, points)

    def distances(self, values: Features, count: int) -> Floats:
        """Mean distance (m,) of the `count` nearest points; what lies across the axes is taken to be at right angles to each other."""
        places, squares, rest = self.nearest(values, min(count, len(self.rows)))
        return np.asarray(np.sqrt(squares + rest[:, None] + self.rest[places]).mean(axis=1))

    def nearest(self, values: Features, count: int) -> tuple[Rows, Floats, Features]:
        """Positions among the points (m, count), nearest first, squared distances along the axes (m, count), and from the axes (m,)."""
        own, rest = _projected(_of_length_one(values[:, self.start : self.stop]) - self.mean, self.axes)
        # as the points were: else an image that was kept would not be at distance 0 from itself
        own = own.astype(np.float16).astype(np.float32)
        points, norms = self._points
        squares = norms - 2 * (own @ points.T)
        places = np.argpartition(squares, count - 1, axis=1)[:, :count] if count < len(norms) else np.tile(np.arange(count), (len(own), 1))
        # again from the differences: close to 0 the short form is all rounding
        exact = ((points[places] - own[:, None]) ** 2).sum(axis=2, dtype=np.float64)
        order = np.lexsort((places, exact), axis=1)
        return np.take_along_axis(places, order, axis=1), np.take_along_axis(exact, order, axis=1), rest

    @classmethod
    def of_arrays(cls, start: int, stop: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Restore it from its arrays; KeyError or ValueError where they do not go together."""
        mean, axes, rest = (np.asarray(arrays[name], dtype=np.float32) for name in ("mean", "axes", "rest"))
        points, rows = np.asarray(arrays["points"], dtype=np.float16), np.asarray(arrays["rows"], dtype=np.int64)
        if axes.ndim != 2 or mean.shape != (stop - start,) or axes.shape[0] != len(mean) or not len(rows):
            raise ValueError("the axes of the nearest images")
        if points.shape != (len(rows), axes.shape[1]) or rest.shape != rows.shape:
            raise ValueError("the points of the nearest images")
        return cls(start, stop, mean, axes, points, rest, rows)


def _of_length_one(values: Features) -> Features:
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
    return np.asarray(values / np.maximum(lengths, 1e-12)[:, None])


def _projected(centred: Features, axes: Features) -> tuple[Features, Features]:
    """Along the axes (m, q), and the squared distance from them (m,)."""
    inside = centred @ axes
    if axes.shape[0] == axes.shape[1]:
        return inside, np.zeros(len(inside), dtype=np.float32)
    return inside, np.maximum(np.einsum("ij,ij->i", centred, centred) - np.einsum("ij,ij->i", inside, inside), 0)


@dataclass(frozen=True, eq=False)
class Novelty:
    """How unlike the training images an image is. Made by `fit` or `from_state`."""

    gaussians: tuple[Gaussian, ...]
    neighbourhood: Neighbourhood
    centre: Floats  # (l + 1,), of the logarithms of the distances: in each layer, and from the nearest training images
    spread: Floats  # (l + 1,)
    threshold: float  # an image with a higher score is unlike anything seen in training
    refused_share: float  # target share of images like the training images that the threshold rejects
    features: int  # D, the length of a feature vector
    images: int = 0  # how many set the threshold; 0 where the network has learned from these, so that nothing is promised

    @classmethod
    def fit(
        cls, features: AnyFeatures, targets: npt.NDArray[Any], *, layers: Sequence[Layer], logits: npt.NDArray[Any] | None = None,
        refused_share: float = 0.03, seed: int = 0, groups: npt.NDArray[Any] | None = None,
    ) -> Self:  # fmt: skip
        """Learn what the training images look like, and from which score on an image is unlike them.

        The threshold comes from images that were left out of the fit together with their group, a quarter of them at a time; no image is
        its own neighbour there. Features are float32 (n, D); of the labels only their number counts: one Gaussian for all was as good as
        one a class. The last of the layers is the network's last layer. Rows of the out-of-sample logits (n, k) with nan tell which
        images the network was fine-tuned on; these do not set the threshold, because the network knows them too well.
        """
        whole, slices = _checked(features, targets, layers, groups, refused_share)
        rng = np.random.default_rng(seed)
        rows = np.arange(len(whole)) if len(whole) <= MOST else np.sort(rng.permutation(len(whole))[:MOST])
        values = whole[rows]
        unseen, promised = _unseen(rows, logits, len(features))
        fold = _folds(None if groups is None else np.asarray(groups)[rows], len(rows), rng)
        from headstart.heads.linalg import one_thread  # brings scikit-learn, which predicting does without

        with one_thread():  # several at once, one thread each, finish earlier than one after the other with all threads
            logs = _left_out(values, fold, slices, seed)[unseen]
            gaussians, neighbourhood = _fit_parts(values, rows, slices, seed)
        centre = np.median(logs, axis=0)
        spread = np.maximum(np.quantile(logs, 0.97, axis=0) - centre, 1e-3)
        scores = np.sort(_combined((logs - centre) / spread))
        rank = min(len(scores), math.ceil((len(scores) + 1) * (1 - refused_share) - 1e-9))
        return cls(gaussians, neighbourhood, centre, spread, float(scores[rank - 1]), float(refused_share), values.shape[1], promised)

    def score(self, features: AnyFeatures) -> Floats:
        """How unlike the training images each image is, float64 (m,): higher is more unlike, about 0 is usual."""
        return _combined(self.parts(features))

    def parts(self, features: AnyFeatures) -> Floats:
        """The parts of the score, float64 (m, l + 1): a column for each layer, and one for the nearest training images."""
        values = self._checked_features(features)
        found = np.empty((len(values), len(self.gaussians) + 1))
        for start in range(0, len(values), BLOCK):
            found[start : start + BLOCK] = _distances(self.gaussians, self.neighbourhood, values[start : start + BLOCK])
        return (found - self.centre) / self.spread

    def __call__(self, features: AnyFeatures) -> npt.NDArray[np.bool_]:
        """Whether each image is unlike anything seen in training: bool (m,)."""
        return np.asarray(self.score(features) > self.threshold)

    def rate(self, events: int, images: int) -> Rate:
        """How the promise stands where so many `images` had so many that are unlike the training images."""
        return Rate(events=events, images=images, promised=self.refused_share, fitted=self.images)

    def nearest(self, features: npt.NDArray[Any], count: int) -> tuple[Rows, Floats]:
        """The nearest training images in the last layer, by angle, the nearest first; fewer than `count` where fewer were kept.

        Returns positions among the training images that `fit` was given, int64 (m, count), and distances, float64 (m, count): 0 is the
        same features, 2 the opposite. Of more than `MOST` training images only those that were kept are found.
        """
        require(whole(1), count=count)
        values, count = self._checked_features(features), min(int(count), len(self.neighbourhood.rows))
        found, distances = np.empty((len(values), count), dtype=np.int64), np.empty((len(values), count))
        for start in range(0, len(values), BLOCK):
            block = slice(start, start + BLOCK)
            found[block], distances[block], _ = self.neighbourhood.nearest(values[block], count)
        return self.neighbourhood.rows[found], np.sqrt(distances)

    def _checked_features(self, features: AnyFeatures) -> FeatureMatrix:
        values = features if isinstance(features, RowView) else np.asarray(features, dtype=np.float32)
        if values.ndim != 2 or values.shape[1] != self.features:
            raise ParameterError(
                f"features must have the shape (images, {self.features}), as the backbone of the fit gives them, and have {values.shape}."
            )
        return values

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values, and arrays named ``layer0.*``, ... and ``near.*``."""
        settings = {
            "features": self.features,
            "refused_share": self.refused_share,
            "images": self.images,
            "threshold": self.threshold,
            "centre": self.centre.tolist(),
            "spread": self.spread.tolist(),
            "layers": [[part.start, part.stop] for part in self.gaussians],
        }
        parts = {f"layer{number}": part for number, part in enumerate(self.gaussians)} | {"near": self.neighbourhood}
        arrays = {
            f"{prefix}.{name}": array
            for prefix, part in parts.items()
            for name, array in vars(part).items()
            if isinstance(array, np.ndarray)
        }
        return settings, arrays

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry or an array is missing, or they are inconsistent."""
        with damage_named("The saved novelty model is"):
            slices = [(int(start), int(stop)) for start, stop in settings["layers"]]
            gaussians = [Gaussian.of_arrays(start, stop, _named(arrays, f"layer{i}.")) for i, (start, stop) in enumerate(slices)]
            near = Neighbourhood.of_arrays(*slices[-1], _named(arrays, "near."))
            centre, spread = (np.asarray(settings[name], dtype=np.float64) for name in ("centre", "spread"))
            threshold, share, features = (settings[name] for name in ("threshold", "refused_share", "features"))
            images = int(settings.get("images", len(near.rows)))  # earlier versions did not store it
            made = cls(tuple(gaussians), near, centre, spread, float(threshold), float(share), int(features), images)
            if not centre.shape == spread.shape == (len(slices) + 1,):
                raise ValueError("'centre' or 'spread'")
            if not all(0 <= start < stop <= made.features for start, stop in slices):
                raise ValueError("'layers'")
        return made


def _named(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _fit_parts(values: Features, rows: Rows, slices: Sequence[tuple[int, int]], seed: int) -> tuple[tuple[Gaussian, ...], Neighbourhood]:
    gaussians = tuple(Gaussian.fit(values, start, stop, seed=seed) for start, stop in slices)
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


def _unseen(rows: Rows, logits: npt.NDArray[Any] | None, count: int) -> tuple[npt.NDArray[np.bool_], int]:
    """Which of the rows set the threshold: those that the network has not learned from, if they are enough; and how many these are.

    Where they are not enough, all rows do, but then the threshold promises nothing (0): the network knows them too well.
    """
    every = np.ones(len(rows), dtype=bool)
    if logits is None:
        return every, len(rows)
    given = np.asarray(logits)
    if given.ndim != 2 or len(given) != count:
        raise ParameterError(f"logits must have the shape (images, classes) with a row for each of {count} images, and have {given.shape}.")
    unseen = np.isfinite(given[rows]).all(axis=1)
    enough = unseen.all() or unseen.sum() >= FEWEST
    return (unseen, int(unseen.sum())) if enough else (every, 0)


def _checked(
    features: AnyFeatures, targets: npt.NDArray[Any], layers: Sequence[Layer], groups: npt.NDArray[Any] | None, share: float
) -> tuple[FeatureMatrix, list[tuple[int, int]]]:
    values = features if isinstance(features, RowView) else np.asarray(features, dtype=np.float32)
    if values.ndim != 2 or len(values) < 2:
        raise ParameterError(f"features must have the shape (images, features), with two images at least, and have {values.shape}.")
    for name, given in (("targets", targets), ("groups", groups)):
        if given is not None and len(given) != len(values):
            raise ParameterError(f"There are {len(values)} feature vectors and {len(given)} {name}; each image needs one.")
    if first_not_finite(values)[0]:
        raise ParameterError("Some feature vectors hold NaN or infinite values. Compute the features again.")
    require(SHARE, refused_share=share)
    slices = [(int(layer.start), int(layer.stop)) for layer in layers]
    if not slices or not all(0 <= start < stop <= values.shape[1] for start, stop in slices):
        raise ParameterError(f"layers must be slices of the {values.shape[1]} features, at least one, and are {slices}.")
    return values, slices
