"""The density of training features in one layer: a Gaussian along principal axes, and the distance to the nearest training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

AXES = 64  # of a Gaussian
POINT_AXES = 128  # of the points
FLOOR = 0.3
RIDGE = 0.1
_EXACT = 160  # features up to which all axes are computed
_ROWS = 4096  # about so many images tell the axes
_SPARE = 16
_ROUNDS = 4


def _principal_axes(centred: Features, count: int, *, seed: int) -> Features:
    """The `count` directions (d, count) in which centred features (n, d) vary most; fewer where there are fewer features or images.

    Many features: by subspace iteration from a random start (Halko, Martinsson and Tropp, SIAM Review 53 (2011) 217).
    """
    centred = centred[:: max(1, len(centred) // _ROWS)]
    n, d = centred.shape
    count = max(1, min(count, d, n // 3))
    if d <= _EXACT:
        basis = np.eye(d, dtype=np.float32)
    else:
        basis = np.random.default_rng(seed).standard_normal((d, min(d, count + _SPARE)), dtype=np.float32)
        for _ in range(_ROUNDS):
            basis = centred.T @ (centred @ np.linalg.qr(basis)[0])
            # scaled, because float32 ends at 1e38
            basis /= max(float(np.abs(basis).max()), 1e-30)
        basis = np.linalg.qr(basis)[0]
    inside = (centred @ basis).astype(np.float64)
    turned = np.linalg.eigh(inside.T @ inside)[1][:, ::-1][:, :count]
    return np.ascontiguousarray(basis @ turned.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian of the features of one layer: along its principal axes each variance counts, across them their mean.

    Attributes:
        start, stop: the layer's columns.
        mean, scale: float32 (d,), for standardising.
        axes: float32 (d, q).
        variance: float32 (q + 1,), along the axes and, as the last, across them; each is raised by a tenth of the mean variance.
    """

    start: int
    stop: int
    mean: Features
    scale: Features
    axes: Features
    variance: Features

    @classmethod
    def fit(cls, values: Features, start: int, stop: int, *, seed: int) -> Self:
        """Fit to full feature vectors (n, D)."""
        part = values[:, start:stop]
        mean, spread = part.mean(axis=0, dtype=np.float64), part.std(axis=0, dtype=np.float64)
        # the floor keeps a feature that hardly ever fires from deciding alone
        scale = np.sqrt(spread**2 + FLOOR**2 * np.mean(spread**2))
        scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
        centred = (part - mean.astype(np.float32)) / scale
        axes = _principal_axes(centred, AXES, seed=seed)
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

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that `of_arrays` takes."""
        return {"mean": self.mean, "scale": self.scale, "axes": self.axes, "variance": self.variance}

    @classmethod
    def of_arrays(cls, start: int, stop: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Restore it; KeyError or ValueError where the arrays are not those of `arrays`."""
        mean, scale, axes, variance = (np.asarray(arrays[name], dtype=np.float32) for name in ("mean", "scale", "axes", "variance"))
        if axes.ndim != 2 or mean.shape != (stop - start,) or scale.shape != mean.shape or axes.shape[0] != len(mean):
            raise ValueError("the Gaussian of a layer")
        if variance.shape != (axes.shape[1] + 1,) or not (variance > 0).all():
            raise ValueError("the variance of a layer")
        return cls(start, stop, mean, scale, axes, variance)


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Training images as points: the features of one layer, brought to length 1, along their principal axes.

    Attributes:
        start, stop: the layer's columns.
        mean: float32 (d,), of the features of length 1.
        axes: float32 (d, q).
        points: float16 (m, q); rest: float32 (m,), the squared distance of each from the axes.
        rows: int64 (m,), which training image each is.
    """

    start: int
    stop: int
    mean: Features
    axes: Features
    points: npt.NDArray[np.float16]
    rest: Features
    rows: Rows

    @classmethod
    def fit(cls, values: Features, rows: Rows, start: int, stop: int, *, seed: int) -> Self:
        """Keep full feature vectors (m, D) of the training images `rows` (m,)."""
        unit = _of_length_one(values[:, start:stop])
        mean = unit.mean(axis=0, dtype=np.float64).astype(np.float32)
        unit -= mean
        axes = _principal_axes(unit, POINT_AXES, seed=seed)
        points, rest = _projected(unit, axes)
        return cls(start, stop, mean, axes, points.astype(np.float16), rest, rows.astype(np.int64))

    @cached_property
    def _points(self) -> tuple[Features, Features]:
        points = self.points.astype(np.float32)
        return points, np.einsum("ij,ij->i", points, points)

    def nearest(self, values: Features, count: int) -> tuple[Rows, Floats]:
        """Positions among the points (m, count), nearest first, and distances along the axes (m, count)."""
        places, squares, _ = self._nearest(values, count)
        return places, np.sqrt(squares)

    def distances(self, values: Features, count: int) -> Floats:
        """Mean distance (m,) of the `count` nearest points; what lies across the axes is taken to be at right angles to each other."""
        places, squares, rest = self._nearest(values, min(count, len(self.rows)))
        return np.asarray(np.sqrt(squares + rest[:, None] + self.rest[places]).mean(axis=1))

    def _nearest(self, values: Features, count: int) -> tuple[Rows, Floats, Features]:
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

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that `of_arrays` takes."""
        return {"mean": self.mean, "axes": self.axes, "points": self.points, "rest": self.rest, "rows": self.rows}

    @classmethod
    def of_arrays(cls, start: int, stop: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Restore it; KeyError or ValueError where the arrays are not those of `arrays`."""
        mean, axes, rest = (np.asarray(arrays[name], dtype=np.float32) for name in ("mean", "axes", "rest"))
        points, rows = np.asarray(arrays["points"], dtype=np.float16), np.asarray(arrays["rows"], dtype=np.int64)
        if axes.ndim != 2 or mean.shape != (stop - start,) or axes.shape[0] != len(mean) or not len(rows):
            raise ValueError("the axes of the nearest images")
        if points.shape != (len(rows), axes.shape[1]) or rest.shape != rows.shape:
            raise ValueError("the points of the nearest images")
        return cls(start, stop, mean, axes, points, rest, rows)


def _of_length_one(values: Features) -> Features:
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
    unit: Features = values / np.maximum(lengths, 1e-12)[:, None]
    return unit


def _projected(centred: Features, axes: Features) -> tuple[Features, Features]:
    """Along the axes (m, q), and the squared distance from them (m,)."""
    inside = centred @ axes
    if axes.shape[0] == axes.shape[1]:
        return inside, np.zeros(len(inside), dtype=np.float32)
    return inside, np.maximum(np.einsum("ij,ij->i", centred, centred) - np.einsum("ij,ij->i", inside, inside), 0)
