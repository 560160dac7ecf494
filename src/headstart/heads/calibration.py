"""From raw scores to log-odds: a scale, a shift for each class and a bend where scores are no log-odds; fitted on out-of-sample scores.

Temperature scaling (Guo et al. 2017) with targets smoothed as Platt (1999) proposed, so that separable scores keep a finite scale. The
shifts have a unit Gaussian prior: they follow the class frequencies where there are many images and stay at zero where there are few.
Least squares estimate twice the probability less one, and log-odds are a curve of that: with a scale alone, the calibration error was 2.2 %
on 10,000 images, where chance gives 0.5 to 1.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.matrix import blocks
from headstart.metrics.link import Link, log_softmax
from headstart.onnx_graph import OnnxGraph

Floats = npt.NDArray[np.float64]

_PRIOR = 1.0
_LEAST = 1e-3
"""The smallest scale, in units of one over the scores' spread: scores that say nothing, or the opposite, keep their order and no more."""
_FLATTEST = 0.05  # slope of a curve, in units of that at the centre: the order of the scores stays
_OUTSIDE, _TYPICAL = 0.001, 20_000  # the curve goes straight on beyond so small a share of the scores, of about so many images
_ENTRIES = 1 << 18  # scores that are worked on at a time


@dataclass(frozen=True, eq=False)
class Bend:
    """x -> x + (square + cube u) u^2 + shift, u being x cut to what was seen, [low, high]; the slope is positive everywhere."""

    low: float
    high: float
    square: float
    cube: float
    shift: Floats  # (k,), for each class

    def __call__(self, scaled: npt.ArrayLike) -> Floats:
        """Log-odds (n, k) of scaled scores (n, k)."""
        x = np.asarray(scaled, dtype=np.float64)
        u = np.clip(x, self.low, self.high)
        return x + (self.square + self.cube * u) * u**2 + self.shift

    def write_onnx(self, graph: OnnxGraph, scaled: str) -> str:
        """Append it to a graph: `scaled` names a float32 value (N, k). Returns the name of the log-odds, float32 (N, k)."""
        u = graph.node("Clip", scaled, graph.constant(self.low), graph.constant(self.high))
        factor = graph.node("Add", graph.node("Mul", u, graph.constant(self.cube)), graph.constant(self.square))
        bent = graph.node("Mul", graph.node("Mul", u, u), factor)
        return graph.node("Add", graph.node("Add", scaled, bent), graph.constant(self.shift.astype(np.float32)))

    def state(self) -> dict[str, Any]:
        """JSON values."""
        return vars(self) | {"shift": self.shift.tolist()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The inverse of `state`; KeyError or TypeError where an entry is missing or wrong."""
        numbers = {name: float(state[name]) for name in ("low", "high", "square", "cube")}
        return cls(**numbers, shift=np.array(state["shift"], dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Calibration:
    """logits = scale * scores + shift, and then the bend where there is one; scale > 0, shift (k,)."""

    scale: float
    shift: Floats
    bend: Bend | None = None

    def __call__(self, scores: npt.ArrayLike) -> Floats:
        """Log-odds (n, k) of raw scores (n, k)."""
        scaled = np.asarray(scores, dtype=np.float64) * self.scale + self.shift
        return scaled if self.bend is None else self.bend(scaled)

    def undone(self, logits: npt.ArrayLike) -> Floats:
        """The raw scores (n, k) of log-odds (n, k), without a bend."""
        assert self.bend is None
        return (np.asarray(logits, dtype=np.float64) - self.shift) / self.scale


def calibrate(
    scores: npt.ArrayLike, indicators: npt.NDArray[np.bool_], *, link: Link, weights: npt.NDArray[np.float64] | None = None,
    shifts: bool = True, bends: bool = False,
) -> Calibration:  # fmt: skip
    """Fit scale, shifts and bend by Newton's method on the (convex) log loss of out-of-sample scores (n, k) against bool (n, k).

    The higher a score, the more probable the label. `weights` (n,) are of the images; without `shifts` these stay at zero. With `bends` the
    log-odds are a rising curve of the scores, as least squares need it; without, they are proportional.
    """
    values = np.asarray(scores)
    n, k = values.shape
    spread = float(np.sqrt(values.var(axis=0 if link.independent else 1, dtype=np.float64).mean()))
    if not np.isfinite(spread) or spread <= 0:
        return Calibration(1.0, np.zeros(k))
    offset = float(values.mean(dtype=np.float64)) if bends else 0.0
    low = high = 0.0
    if bends:
        low, high = ((np.quantile(values[:: max(1, n // _TYPICAL)], (_OUTSIDE, 1 - _OUTSIDE)) - offset) / spread).tolist()
    weights = np.ones(n) if weights is None else weights / weights.mean()
    problem = _Problem(values, offset, spread, indicators, weights, link, (low, high))
    theta = np.zeros(3 + k)
    theta[0] = 1.0
    for curved in (2, 1, 0) if bends else (0,):
        free = np.array([True, curved > 0, curved > 1, *[shifts] * k])
        theta = _minimum(problem, np.where(free, theta, 0.0), free)
        if _is_rising(theta, low, high):
            break
    scale = float(theta[0] / spread)
    if not theta[1:3].any():
        return Calibration(scale, theta[3:] - scale * offset)
    square, cube = float(theta[1] / theta[0] ** 2), float(theta[2] / theta[0] ** 3)
    bend = Bend(float(theta[0]) * low, float(theta[0]) * high, square, cube, theta[3:].copy())
    return Calibration(scale, np.full(k, -scale * offset), bend)


def _blocks(n: int, k: int) -> list[slice]:
    return list(blocks(n, max(1, _ENTRIES // k)))


def _is_rising(theta: Floats, low: float, high: float) -> bool:
    x = np.linspace(low, high, 101)
    return bool((theta[0] + 2 * theta[1] * x + 3 * theta[2] * x**2).min() >= _FLATTEST * theta[0])


def _minimum(problem: _Problem, theta: Floats, free: npt.NDArray[np.bool_]) -> Floats:
    """Newton's method with halved steps, from `theta`, in those coordinates that are `free`."""
    value, n = problem.loss(theta), len(problem.weights)
    for _ in range(50):
        step, length = problem.step(theta, free), 1.0
        while length > 1e-6:
            trial = theta - length * step
            trial[0] = max(trial[0], _LEAST)
            lower = problem.loss(trial)
            if lower <= value:
                break
            length /= 2
        else:
            break
        done = value - lower < 1e-7 * n
        theta, value = trial, lower
        if done:
            break
    return theta


@dataclass(frozen=True, eq=False)
class _Problem:
    """The weighted log loss by theta (3 + k,): factors of x, x^2 and x^3, x being (scores - offset) / spread, then the shifts.

    It is gone through in blocks of rows, so that no matrix as large as the scores (n, k) is made.
    """

    scores: npt.NDArray[Any]
    offset: float
    spread: float
    indicators: npt.NDArray[np.bool_]
    weights: Floats  # (n,)
    link: Link
    cut: tuple[float, float]  # the powers are of x cut to this range

    def parts(self) -> Iterator[tuple[Floats, Floats, Floats]]:
        for rows in _blocks(*self.scores.shape):
            yield self._first if rows.start == 0 else self._part(rows)

    @cached_property
    def _first(self) -> tuple[Floats, Floats, Floats]:
        return self._part(_blocks(*self.scores.shape)[0])

    def _part(self, rows: slice) -> tuple[Floats, Floats, Floats]:
        """x, smoothed targets (m, k) and weights (m,) of some rows."""
        (n, k), indicators = self.scores.shape, self.indicators[rows]
        doubt = 1.0 / (n + 2)
        goal = indicators * (1 - doubt) + doubt / self.link.outcomes(k)
        return (self.scores[rows].astype(np.float64) - self.offset) / self.spread, goal, self.weights[rows]

    def loss(self, theta: Floats) -> float:
        total = 0.5 * _PRIOR * float((theta[1:] ** 2).sum())
        for x, goal, weights in self.parts():
            logits = self._logits(theta, x)
            if self.link.independent:
                from scipy.special import log_expit

                losses = -(goal * log_expit(logits) + (1 - goal) * log_expit(-logits)).sum(axis=1)
            else:
                losses = -(goal * log_softmax(logits)).sum(axis=1)
            total += float(weights @ losses)
        return total

    def step(self, theta: Floats, free: npt.NDArray[np.bool_]) -> Floats:
        """Newton's step for what is free; nor is the scale at its bound if it would go below."""
        size, shifts, curved = len(theta), bool(free[3:].any()), 3 if free[1:3].any() else 1
        gradient, hessian = np.concatenate([[0.0], _PRIOR * theta[1:]]), np.diag([0.0, *[_PRIOR] * (size - 1)])
        for x, goal, weights in self.parts():
            u = np.clip(x, *self.cut)
            powers = [x, u**2, u**3] if curved > 1 else [x]
            p = self.link.probabilities(self._logits(theta, x))
            error, curvature = (p - goal) * weights[:, None], p * weights[:, None]
            if self.link.independent:
                curvature *= 1 - p
            leanings = [
                curvature * (power if self.link.independent else power - np.einsum("ij,ij->i", p, power)[:, None]) for power in powers
            ]
            gradient[:curved] += [np.vdot(error, power) for power in powers]
            hessian[:curved, :curved] += [[np.vdot(leaning, power) for power in powers] for leaning in leanings]
            if not shifts:
                continue
            gradient[3:] += error.sum(axis=0)
            hessian[:curved, 3:] += [leaning.sum(axis=0) for leaning in leanings]
            hessian[3:, 3:] += np.diag(curvature.sum(axis=0))
            if not self.link.independent:
                hessian[3:, 3:] -= p.T @ curvature
        hessian[0, 0] += 1e-9 * self.scores.size
        hessian[3:, :3] = hessian[:3, 3:].T
        moved = free.copy()
        moved[0] = not (theta[0] <= _LEAST and gradient[0] > 0)
        step = np.zeros(size)
        step[moved] = np.linalg.solve(hessian[np.ix_(moved, moved)], gradient[moved])
        return step

    def _logits(self, theta: Floats, x: Floats) -> Floats:
        logits = theta[0] * x + theta[3:]
        if theta[1:3].any():
            u = np.clip(x, *self.cut)
            logits += (theta[1] + theta[2] * u) * u**2
        return np.asarray(logits)
