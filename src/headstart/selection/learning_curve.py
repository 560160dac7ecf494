"""The learning curve: how accurate the chosen head is by number of training images, and whether more images would help.

The head is fitted on parts of the training images, each a half, a quarter, an eighth ... of them, and tested on images outside the part.
The last point costs nothing: it comes from the out-of-sample logits of the choice, and so from all training images. The others are
tested on `TESTED` of them; since the same images tell the differences between sizes much better than the height of the curve, that height
is the one of all images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from headstart.data.split import folds
from headstart.engine import available_cores
from headstart.errors import DataError, ParameterError
from headstart.features.table import Counted
from headstart.heads.labels import ClassWeight, EncodedLabels, encode, stratified_rows
from headstart.heads.linalg import one_thread
from headstart.matrix import RowView
from headstart.metrics import resamples
from headstart.selection.choice import FOLDS, Choice
from headstart.selection.fused import inputs_at, unfitted

if TYPE_CHECKING:
    from headstart.backbones import Layer

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

PARTS = 8  # fits for one size, at most
FITTED = 6000  # images in all fits of one size together, at most, but one fit at least: the time grows faster than with the images
TESTED = 2000  # images that every size is tested on, at most
SIDE_BY_SIDE = 6000  # images up to which fits run beside each other; larger ones would take too much memory together
HALVINGS = 6
FEWEST = 10  # images of the smallest part, at least; and two for each class
REPLICATES = 400
HARDLY = 0.005  # a gain in accuracy below which more images hardly help
_EXPONENTS = np.geomspace(0.1, 2.0, 25)


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Accuracy by number of training images.

    The interval of the gain comes from resampling the tested images (or groups) and from how far fits of one size differ. It is assumed
    that the law holds beyond all images; `doubled`, `gain` and `law` are None where there are too few sizes for one.
    """

    images: tuple[int, ...]  # numbers of training images, ascending
    accuracy: tuple[float, ...]  # out of sample; of independent labels the share of images with all correct
    error: tuple[float, ...]  # standard errors
    sentence: str  # whether twice as many images would help, and by how much
    doubled: float | None = None  # accuracy expected with twice as many images
    gain: float | None = None  # the increase over the law's value for all images
    gain_interval: tuple[float, float] | None = None  # 95 %
    law: tuple[float, float, float] | None = None  # (floor, factor, exponent): error = floor + factor * (m / n)^-exponent
    tested: int = 0  # how many images each size but the last was tested on

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; ParameterError where an entry is missing or unknown."""
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}
        try:
            found = cls(**given)
            if not len(found.images) == len(found.accuracy) == len(found.error):
                raise TypeError("images, accuracy and error have different lengths")
        except TypeError as error:
            raise ParameterError(f"this is not a learning curve: {error}.") from None
        return found


def learning_curve(
    X: npt.ArrayLike | RowView | Counted, y: npt.ArrayLike, *, choice: Choice, layers: Sequence[Layer], class_weight: ClassWeight = None,
    groups: npt.ArrayLike | None = None, seed: int = 0, progress: Callable[[int, int], None] | None = None,
) -> LearningCurve:  # fmt: skip
    """Measure how accurate the chosen head would be with fewer training images, and extrapolate to twice as many.

    Layers, head and hyperparameters are those that were chosen for all images. The law is a power law with a floor (Cortes et al., Learning
    curves: asymptotic values and rate of convergence, NIPS 1993), fitted to the error rates.

    Features (n, D), labels (n,) or bool (n, k), layers, class weights and groups are those of the choice, in the same order. Where terms
    count, features are `Counted`; a vocabulary is learned again in each part.
    """
    values, labels = X if isinstance(X, RowView | Counted) else np.asarray(X, dtype=np.float32), np.asarray(y)
    targets, scores = encode(labels), choice.out_of_sample
    assert scores is not None
    if not len(values) == len(labels) == len(scores):
        raise DataError(
            f"There are {len(values)} feature vectors, {len(labels)} labels and {len(scores)} images that the head was "
            "chosen for; they must be the same images."
        )
    numbers = np.arange(len(values)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    targets = replace(targets, groups=None if groups is None else numbers)
    tested = stratified_rows(targets, TESTED, seed=seed + 1)  # others than those that hyperparameters were chosen on
    candidate = next(candidate for candidate in choice.evidence if candidate.chosen)
    unfitted(candidate, layers=layers)  # layers that do not fit are noticed before any work

    def trial(part: Rows) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Which of the tested images are outside a part (t,), and whether each of these is classified correctly by a fit on it."""
        settings: dict[str, Any] = dict(candidate.hyperparameters)
        if "neighbours" in settings:  # no more than there are other images
            settings["neighbours"] = max(1, min(int(settings["neighbours"]), len(part) - 1))
        weight, some = class_weight, targets.take(part)
        if isinstance(weight, Mapping) and not some.link.independent:  # it may name classes that a small part lacks
            present = set(some.classes[some.indicators.any(axis=0)].tolist())
            weight = {label: value for label, value in weight.items() if label in present}
        model: Any = unfitted(candidate, layers=layers, hyperparameters=settings, class_weight=weight, seed=seed, folds=0)
        model.fit(inputs_at(values, part), labels[part], groups=some.groups)
        outside = ~np.isin(tested, part)
        rows = tested[outside]
        return outside, some.link.correct(model.predict(inputs_at(values, rows)), labels[rows]).astype(np.float64)

    parts = _parts(targets, seed=seed)
    correct, accuracies = _try_all(trial, len(tested), parts, progress)
    images = [round(float(np.mean([len(part) for part in same]))) for same in parts]
    images.append(round((1 - 1 / FOLDS) * len(values)) if candidate.in_folds else len(values))
    known = _correct(scores, targets)
    table = np.column_stack([*correct, known[tested]])
    fits = [max(1, len(same)) for same in accuracies] + [1]
    error = _deviation(images, accuracies) / np.sqrt(np.array(images) * fits)
    level = _level(known, numbers) if len(tested) < len(values) and not np.isnan(known[tested]).all() else None
    return _curve(images, table, numbers[tested], error, total=len(values), seed=seed, level=level)


def _parts(targets: EncodedLabels, *, seed: int) -> list[list[Rows]]:
    """For each size, ascending, the rows of each fit."""
    n = len(targets)
    least = max(FEWEST, 2 * targets.indicators.shape[1])
    found = []
    for size in (n / 2**step for step in range(HALVINGS, 0, -1) if n / 2**step >= least):
        most = min(PARTS, max(1, round(FITTED / size)))
        try:
            parts = folds(targets.codes, count=max(2, round(n / size)), groups=targets.groups, seed=seed)[:most]
        except ParameterError:  # fewer groups than that
            continue
        fit = [part for part in parts if targets.link.independent or np.count_nonzero(targets.indicators[part].any(axis=0)) > 1]
        if fit:
            found.append(fit)
    return found


def _try_all(
    trial: Callable[[Rows], tuple[npt.NDArray[np.bool_], Floats]], tested: int, parts: list[list[Rows]],
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Floats], list[list[float]]]:  # fmt: skip
    """For each size, how often each tested image is correct in fits without it (t,), nan for never; and the accuracy of each fit."""
    accuracies: list[list[float]] = [[] for _ in parts]
    tasks = [(number, part) for number, same in enumerate(parts) for part in same]
    hits, times = np.zeros((2, len(parts), tested))

    def results() -> Iterator[tuple[npt.NDArray[np.bool_], Floats]]:
        few = [part for _, part in tasks if len(part) <= SIDE_BY_SIDE]  # first, since sizes ascend
        with one_thread(), ThreadPoolExecutor(available_cores()) as pool:
            yield from pool.map(trial, few)
        yield from (trial(part) for _, part in tasks[len(few) :])

    for done, ((number, _), (outside, correct)) in enumerate(zip(tasks, results(), strict=True), 1):
        hits[number, outside] += correct
        times[number, outside] += 1
        if len(correct):
            accuracies[number].append(float(correct.mean()))
        if progress is not None:
            progress(done, len(tasks))
    return list(np.divide(hits, times, out=np.full(hits.shape, np.nan), where=times > 0)), accuracies


def _correct(logits: Floats, targets: EncodedLabels) -> Floats:
    """1 where the decision is correct, else 0, nan where there is none (m,)."""
    correct = targets.link.correct(targets.link.decisions(targets.link.probabilities(logits)), targets.codes)
    return np.where(np.isnan(logits).any(axis=1), np.nan, correct.astype(np.float64))


def _deviation(images: list[int], accuracies: list[list[float]]) -> float:
    """Standard deviation of the accuracy between fits of one size, times the root of their size, with which it is taken to fall.

    Part of it is that they are tested on different images; so it is rather too large than too small.
    """
    squares = [size * np.var(same, ddof=1) * (len(same) - 1) for size, same in zip(images, accuracies, strict=False) if len(same) > 1]
    return math.sqrt(sum(squares) / max(1, sum(max(0, len(same) - 1) for same in accuracies)))


def _level(correct: Floats, groups: Rows) -> tuple[float, float]:
    """The accuracy on all images that have a prediction, and its standard error: groups vary as a whole."""
    known = ~np.isnan(correct)
    mean = float(correct[known].mean())
    deviations = np.bincount(groups[known], weights=correct[known] - mean)
    return mean, float(np.sqrt((deviations**2).sum())) / int(known.sum())


def _curve(
    images: list[int], correct: Floats, groups: Rows, deviation: Floats, *, total: int, seed: int, level: tuple[float, float] | None = None
) -> LearningCurve:
    """From how often each image is correct (tested, sizes), and the standard error due to the choice of the parts (sizes,).

    With a `level`, accuracy and standard error of the last size on more images, the whole curve is put to that height.
    """
    known = np.flatnonzero(~np.isnan(correct).all(axis=0))
    order = known[np.argsort(np.array(images)[known], kind="stable")]
    images, correct, deviation = [images[index] for index in order], correct[:, order], deviation[order]
    there, values = ~np.isnan(correct), np.nan_to_num(correct)
    accuracy = values.sum(axis=0) / there.sum(axis=0)
    numbers = np.unique(groups, return_inverse=True)[1].reshape(-1)
    drawn = np.concatenate(list(resamples(int(numbers.max()) + 1, replicates=REPLICATES, seed=seed)), axis=1)[numbers].T
    counted = drawn @ there
    replicates = np.divide(drawn @ values, counted, out=np.tile(accuracy, (len(drawn), 1)), where=counted > 0)
    generator = np.random.default_rng(seed)
    if level is not None:
        height = level[0] + level[1] * generator.normal(size=(len(replicates), 1))
        replicates = replicates + height - replicates[:, -1:]
        accuracy = np.clip(accuracy + level[0] - accuracy[-1], 0, 1)
    replicates = replicates + deviation * generator.normal(size=replicates.shape)
    spread = replicates.std(axis=0, ddof=1)
    # A run without a mistake is not without error: half a mistake is the least that can be told from none.
    error = np.maximum(spread, 0.5 / there.sum(axis=0))
    found = LearningCurve(
        images=tuple(images), accuracy=tuple(accuracy.tolist()), error=tuple(error.tolist()), tested=len(correct),
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
    weights = np.sqrt(shares) / spread**2  # the larger sizes are nearer to the prediction
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
