"""The learning curve: how accurate the chosen head is by number of training images, and whether more images would help.

The head is fitted on parts of the training images, each a half, a quarter, an eighth ... of them, and tested on images outside the part.
The last point costs nothing: it is made of the out-of-sample answers that the choice of the head came with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from headstart.data.split import folds
from headstart.engine import available_cores
from headstart.errors import DataError, ParameterError
from headstart.heads.labels import ClassWeight, EncodedLabels, encode, stratified_rows
from headstart.heads.linalg import one_thread
from headstart.metrics import resamples
from headstart.selection.choice import Candidate, Choice, unfitted

if TYPE_CHECKING:
    from headstart.backbones import Layer

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

PARTS = 8
"""Fits for one size, at most."""
FITTED = 6000
"""Images in all fits of one size together, at most, but one fit at least: the time grows faster than with the images."""
TESTED = 2000
"""Images that every size is tested on, at most."""
HALVINGS = 6
FEWEST = 10
"""Images of the smallest part, at least; and two for each class."""
REPLICATES = 400
HARDLY = 0.005
"""A gain in accuracy below which more images hardly help."""
_EXPONENTS = np.geomspace(0.1, 2.0, 25)


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Accuracy by number of training images.

    Attributes:
        images: numbers of training images, ascending.
        accuracy: out of sample, for each; for multi-label the share of images all of whose labels are right.
        error: standard error of each.
        sentence: whether twice as many images would help, and by how much.
        doubled: accuracy to be expected of twice as many images as there are, by the law; None where there are too few sizes for one.
        gain: how much more that is than the law has for all images; None as above.
        gain_interval: 95 % interval of the gain, from resampling the tested images (groups, where there are some) and from how far fits
            of one size differ. That the law holds beyond all images is taken for granted.
        law: (floor, factor, exponent): error rate = floor + factor * (m / n)^-exponent for m of the n images; None as above.
        tested: how many images each size was tested on.
    """

    images: tuple[int, ...]
    accuracy: tuple[float, ...]
    error: tuple[float, ...]
    sentence: str
    doubled: float | None = None
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    law: tuple[float, float, float] | None = None
    tested: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As data for JSON."""
        plain = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> Self:
        """The curve again.

        Raises:
            ParameterError: an entry is missing or strange.
        """
        try:
            given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}
            found = cls(**given)
            lengths = {len(found.images), len(found.accuracy), len(found.error)}
        except TypeError as error:
            raise ParameterError(f"this is no learning curve: {error}.") from None
        if len(lengths) > 1:
            raise ParameterError("this is no learning curve: images, accuracy and error have different lengths.")
        return found


def learning_curve(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    choice: Choice,
    layers: Sequence[Layer],
    class_weight: ClassWeight = None,
    groups: npt.ArrayLike | None = None,
    seed: int = 0,
    sizes: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LearningCurve:
    """Measure how accurate the chosen head would be with fewer training images, and extrapolate to twice as many.

    Layers, head and hyperparameters are those that were chosen for all images. The law is a power law with a floor (Cortes et al., Learning
    curves: asymptotic values and rate of convergence, NIPS 1993), fitted to the error rates.

    Args:
        X: features of the training images, float32 (n, D).
        y: n labels, or a bool matrix (n, k).
        choice: made of the same images, in the same order.
        layers: slices of the feature vector, as for `choose_head`.
        class_weight: as for `choose_head`.
        groups: n group names; no group is on both sides.
        seed: of the parts.
        sizes: numbers of images to try, each at most half of n; None takes halves, quarters and so on. All images are always in the curve.
        progress: called with (fits done, fits in all).

    Raises:
        DataError: the arrays and the choice are not of the same images.
        ParameterError: a size that is too small or too large.
    """
    values, labels = np.asarray(X, dtype=np.float32), np.asarray(y)
    targets = encode(labels)
    if not len(values) == len(labels) == len(choice.out_of_sample):
        raise DataError(
            f"There are {len(values)} feature vectors, {len(labels)} labels and {len(choice.out_of_sample)} images that the head was "
            "chosen for; they must be the same images."
        )
    numbers = np.arange(len(values)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    judged = stratified_rows(targets, TESTED, seed=seed)
    parts = _parts(targets, None if groups is None else numbers, sizes=sizes, seed=seed)
    fitter = _Fitter(values, labels, targets, choice=choice, layers=layers, class_weight=class_weight, groups=groups, seed=seed)
    right, reached = fitter.right(parts, judged, progress)
    images = [round(float(np.mean([len(part) for part in same]))) for same in parts]
    # Logistic regression is cross-validated in five folds; the other heads leave out one image, or group, at a time.
    images.append(round(0.8 * len(values)) if fitter.candidate.head == "logistic" else len(values))
    table = np.column_stack([*right, _right(choice.out_of_sample[judged], targets.take(judged))])
    luck = _luck(images, reached) / np.sqrt([size * max(1, len(fits)) for size, fits in zip(images, [*reached, [0.0]], strict=True)])
    return _curve(images, table, numbers[judged], luck, total=len(values), seed=seed)


def _parts(targets: EncodedLabels, groups: Rows | None, *, sizes: Sequence[int] | None, seed: int) -> list[list[Rows]]:
    """For each size, ascending, the rows of each fit."""
    n = len(targets)
    least = max(FEWEST, 2 * targets.indicators.shape[1])
    if sizes is None:
        wanted = [n / 2**step for step in range(1, HALVINGS + 1) if n / 2**step >= least]
    else:
        wrong = [size for size in sizes if not 2 <= size <= n / 2]
        if wrong:
            raise ParameterError(f"sizes must lie between 2 and {n // 2}, half of the {n} training images, got {wrong[0]!r}.")
        wanted = [float(size) for size in sizes]
    found = []
    for size in sorted(set(wanted)):
        try:
            parts = folds(targets.codes, count=max(2, round(n / size)), groups=groups, seed=seed)[
                : min(PARTS, max(1, round(FITTED / size)))
            ]
        except ParameterError:  # fewer groups than that
            continue
        fit = [part for part in parts if targets.link.independent or np.count_nonzero(targets.indicators[part].any(axis=0)) > 1]
        if fit:
            found.append(fit)
    return found


class _Fitter:
    """Fits the chosen head on parts, and says which images it is then right on."""

    def __init__(
        self, values: npt.NDArray[np.float32], labels: npt.NDArray[Any], targets: EncodedLabels, *, choice: Choice,
        layers: Sequence[Layer], class_weight: ClassWeight, groups: npt.ArrayLike | None, seed: int,
    ) -> None:  # fmt: skip
        self.candidate: Candidate = next(candidate for candidate in choice.evidence if candidate.chosen)
        self._layers = layers
        unfitted(self.candidate, layers=layers)  # layers that do not fit are noticed before any work
        self._values, self._labels, self._targets = values, labels, targets
        self._groups = None if groups is None else np.asarray(groups)
        self._weight, self._seed = class_weight, seed

    def right(
        self, parts: list[list[Rows]], judged: Rows, progress: Callable[[int, int], None] | None
    ) -> tuple[list[Floats], list[list[float]]]:
        """Try all parts.

        Returns, for each size, how often each judged image is answered rightly by fits that have not seen it, (judged,) with nan for never;
        and the accuracy of each fit.
        """
        reached: list[list[float]] = [[] for _ in parts]
        tasks = [(number, part) for number, same in enumerate(parts) for part in same]
        right, times = np.zeros((len(parts), len(judged))), np.zeros((len(parts), len(judged)))
        with one_thread(), ThreadPoolExecutor(available_cores()) as pool:
            fits = pool.map(lambda task: self._one(task[1], judged), tasks)
            for done, ((number, _), (outside, correct)) in enumerate(zip(tasks, fits, strict=True), 1):
                right[number, outside] += correct
                times[number, outside] += 1
                if len(correct):
                    reached[number].append(float(correct.mean()))
                if progress is not None:
                    progress(done, len(tasks))
        return list(np.divide(right, times, out=np.full(right.shape, np.nan), where=times > 0)), reached

    def _one(self, part: Rows, judged: Rows) -> tuple[npt.NDArray[np.bool_], Floats]:
        outside = ~np.isin(judged, part)
        rows = judged[outside]
        pipeline = unfitted(
            self.candidate, layers=self._layers, hyperparameters=self._fitting(len(part)), class_weight=self._class_weight(part),
            seed=self._seed,
        )  # fmt: skip
        fitted = pipeline.fit(self._values[part], self._labels[part], groups=None if self._groups is None else self._groups[part])
        same = np.asarray(fitted.predict(self._values[rows]) == self._labels[rows])
        return outside, np.asarray(same if same.ndim == 1 else same.all(axis=1), dtype=np.float64)

    def _fitting(self, images: int) -> dict[str, Any]:
        """The hyperparameters; no more neighbours than there are images beside the one asked about."""
        chosen: dict[str, Any] = dict(self.candidate.hyperparameters)
        if "neighbours" in chosen:
            chosen["neighbours"] = max(1, min(int(chosen["neighbours"]), images - 1))
        return chosen

    def _class_weight(self, part: Rows) -> ClassWeight:
        """Weights by class may name classes that a small part lacks."""
        if self._weight is None or isinstance(self._weight, str):
            return self._weight
        there = set(np.asarray(self._targets.classes)[self._targets.indicators[part].any(axis=0)].tolist())
        return {label: weight for label, weight in self._weight.items() if self._targets.link.independent or label in there}


def _right(logits: Floats, targets: EncodedLabels) -> Floats:
    """1 where the answer is right, 0 where not, nan where there is none (m,)."""
    right = targets.link.correct(targets.link.decisions(targets.link.probabilities(logits)), targets.codes)
    return np.where(np.isnan(logits).any(axis=1), np.nan, right.astype(np.float64))


def _luck(images: list[int], reached: list[list[float]]) -> float:
    """How far fits of the same size differ, as a standard deviation times the root of their size, which it is taken to fall with.

    Part of it is that they are tested on different images; so it is rather too large than too small.
    """
    squares = [size * np.var(same, ddof=1) * (len(same) - 1) for size, same in zip(images, reached, strict=False) if len(same) > 1]
    return math.sqrt(sum(squares) / max(1, sum(max(0, len(same) - 1) for same in reached)))


def _curve(images: list[int], right: Floats, groups: Rows, luck: Floats, *, total: int, seed: int) -> LearningCurve:
    """From the table (judged, sizes) of how often each image is right, and the standard error by the luck of the parts (sizes,)."""
    known = np.flatnonzero(~np.isnan(right).all(axis=0))
    order = known[np.argsort(np.array(images)[known], kind="stable")]
    images, right, luck = [images[index] for index in order], right[:, order], luck[order]
    there, values = ~np.isnan(right), np.nan_to_num(right)
    accuracy = values.sum(axis=0) / there.sum(axis=0)
    numbers = np.unique(groups, return_inverse=True)[1].reshape(-1)
    drawn = np.concatenate(list(resamples(int(numbers.max()) + 1, replicates=REPLICATES, seed=seed)), axis=1)[numbers].T
    counted = drawn @ there
    replicates = np.divide(drawn @ values, counted, out=np.tile(accuracy, (len(drawn), 1)), where=counted > 0)
    replicates = replicates + luck * np.random.default_rng(seed).normal(size=replicates.shape)
    spread = replicates.std(axis=0, ddof=1)
    # A run without a mistake is not without error: half a mistake is the least that can be told from none.
    error = np.maximum(spread, 0.5 / there.sum(axis=0))
    found = LearningCurve(
        images=tuple(images), accuracy=tuple(accuracy.tolist()), error=tuple(error.tolist()), tested=len(right),
        sentence=f"{total} training images are too few to tell whether more would help.",
    )  # fmt: skip
    if len(set(images)) < 3:
        return found
    law, gains = _law(np.array(images) / total, 1 - np.vstack([accuracy, replicates]), error)
    gain, (low, high) = float(gains[0]), np.percentile(gains[1:], [2.5, 97.5]).tolist()
    interval, now = (min(low, gain), max(high, gain)), 1 - law[0] - law[1]
    return replace(found, sentence=_sentence(total, now, gain, interval), doubled=now + gain, gain=gain, gain_interval=interval, law=law)


def _law(shares: Floats, errors: Floats, spread: Floats) -> tuple[tuple[float, float, float], Floats]:
    """Fit floor + factor * share^-exponent to each row of error rates (r, sizes), floor and factor not below 0.

    Returns the law of the first row, and for each row (r,) what twice as many images gain.
    """
    weights = np.sqrt(shares) / spread**2  # the larger sizes are nearer to what is asked
    weights /= weights.sum()
    best, loss = np.zeros((3, len(errors))), np.full(len(errors), np.inf)
    mean = errors @ weights
    for exponent in _EXPONENTS:
        x = shares**-exponent
        centre = float(weights @ x)
        slope = np.maximum(((errors - mean[:, None]) * (x - centre)) @ weights / float(weights @ (x - centre) ** 2), 0.0)
        floor = mean - slope * centre
        through = np.maximum((errors * x) @ weights / float(weights @ x**2), 0.0)
        slope, floor = np.where(floor < 0, through, slope), np.maximum(floor, 0.0)
        lost = ((errors - floor[:, None] - slope[:, None] * x) ** 2) @ weights
        better = lost < loss
        loss[better] = lost[better]
        best[:, better] = floor[better], slope[better], np.full(int(better.sum()), exponent)
    gains: Floats = best[1] * (1 - 2 ** -best[2])
    return (float(best[0, 0]), float(best[1, 0]), float(best[2, 0])), gains


def _sentence(total: int, now: float, gain: float, interval: tuple[float, float]) -> str:
    low, high = (100 * bound for bound in interval)
    twice = f"Twice as many training images ({2 * total} instead of {total})"
    measured = f"{100 * gain:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
    rise = f"the accuracy from {100 * now:.1f} % to about {100 * (now + gain):.1f} % ({measured})"
    if interval[1] < HARDLY:
        return f"{twice} would hardly help: {measured} of accuracy."
    if interval[0] > HARDLY / 5 and gain >= HARDLY:
        return f"{twice} would raise {rise}: more images help."
    if math.isclose(gain, 0.0, abs_tol=5e-4):
        return f"{twice} are not expected to help, but so few cannot exclude it: {measured} of accuracy."
    return f"{twice} might raise {rise}."
