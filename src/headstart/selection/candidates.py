"""Trying layers and heads on a part of the training images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.backbones.handcrafted import NAMES as HANDCRAFTED
from headstart.engine import available_cores
from headstart.heads import Head
from headstart.heads.kernel_ridge import REGULARISATIONS, WIDTHS, search_kernel
from headstart.heads.labels import ClassWeight, EncodedLabels, stratified_rows
from headstart.heads.linalg import one_thread, squared_distances
from headstart.maps import FeatureMap, LayerMap
from headstart.matrix import FeatureMatrix
from headstart.selection.choice import NONE, Candidate, make_head

if TYPE_CHECKING:
    from headstart.backbones import Layer

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Slices = tuple[tuple[str, int, int], ...]

SCREENING_ROWS = 1000
FULL_ROWS = 2000
FINALISTS = 3


@dataclass(frozen=True)
class View:
    """Layers to take, as (name, start, stop), and how much each counts; the name is shown to the user."""

    name: str
    layers: Slices
    weights: tuple[float, ...] | None = None

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(stop - start for _, start, stop in self.layers)

    def map(self) -> LayerMap:
        """The unfitted map."""
        return LayerMap(self.layers, weights=self.weights)


class Scored:
    """Scores of out-of-sample logits (m, k) on targets; subclasses are dataclasses that have both."""

    logits: Floats
    targets: EncodedLabels

    @cached_property
    def losses(self) -> Floats:
        """Log loss of each image (m,)."""
        return self.targets.link.losses(self.logits, self.targets.indicators)

    @cached_property
    def correct(self) -> Floats:
        """1 where the decision is correct, else 0 (m,); of independent labels the share that is correct."""
        link = self.targets.link
        return link.correct_share(link.decisions(link.probabilities(self.logits)), self.targets.codes)

    @property
    def log_loss(self) -> float:
        """Weighted mean of the losses."""
        return float(np.average(self.losses, weights=self.targets.weights))

    @property
    def criterion(self) -> float:
        """Log loss times error rate, the lower the better: the one is smooth but depends on confidence as well, the other jumps."""
        return self.log_loss * float(np.average(1 - self.correct, weights=self.targets.weights) + 0.5 / len(self.targets))

    def scores(self) -> dict[str, Any]:
        """The fields of a `Candidate` that hold scores."""
        accuracy, accuracy_error = mean_and_error(self.correct, None)
        log_loss, log_loss_error = mean_and_error(self.losses, self.targets.weights)
        return {
            "images": len(self.targets), "accuracy": accuracy, "accuracy_error": accuracy_error, "log_loss": log_loss,
            "log_loss_error": log_loss_error,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trial(Scored):
    """A candidate with its out-of-sample logits."""

    view: View
    head: str
    hyperparameters: dict[str, float]
    targets: EncodedLabels  # of the m images that it was scored on
    logits: Floats  # calibrated, (m, k), each from a fit that did not see the image (or its group)
    seconds: float
    fitted: Head | None = None  # where the trial fitted the head on all training images
    map: str = NONE
    map_settings: dict[str, float] = field(default_factory=dict)

    def candidate(self, *, chosen: bool) -> Candidate:
        """The trial as evidence."""
        return Candidate(
            view=self.view.name, layers=tuple(name for name, _, _ in self.view.layers), weights=self.view.weights, head=self.head,
            map=self.map, map_settings=self.map_settings, hyperparameters=self.hyperparameters, seconds=round(self.seconds, 4),
            chosen=chosen, **self.scores(),
        )  # fmt: skip


def mean_and_error(values: Floats, weights: Floats | None) -> tuple[float, float]:
    """Weighted mean and its standard error."""
    w = np.ones(len(values)) if weights is None else weights
    mean = float(np.average(values, weights=w))
    return mean, float(np.sqrt((w**2 * (values - mean) ** 2).sum()) / w.sum())


def views(every: Slices) -> list[View]:
    """Which layers to try together.

    The last layer; all stages without it; all; all with the last, which has more features than the others together in most networks, at a
    fifth; and all, the layers more alike in their weight and the last at a quarter. Handcrafted features beside a network are in two more.
    """
    added = [one for one in every if one[0] in HANDCRAFTED]
    if added:
        names = ", ".join(name for name, _, _ in added)
        _, _, whole, _, even = _views(every)
        more = [replace(whole, name=f"all layers, {names}"), replace(even, name=f"all layers, {names}, evened out")]
        return _views(tuple(one for one in every if one not in added)) + more
    return _views(every)


def _views(every: Slices) -> list[View]:
    last = View("the last layer", every[-1:])
    if len(every) == 1:
        return [last]
    even = tuple(((stop - start) / every[0][2]) ** -0.5 for _, start, stop in every)
    return [
        last,
        View("all stages but the last layer", every[:-1]),
        View("all layers", every),
        View("all layers, the last at a fifth", every, (1.0,) * (len(every) - 1) + (0.2,)),
        View("all layers, evened out", every, (*even[:-1], even[-1] / 4)),
    ]


class TrialData:
    """Features of the images on which candidates are tried: `rows` of all training images X (n, D), or the `whole` of them.

    Means and scales come from all training images. `targets` are of the rows, with their weights and groups.
    """

    def __init__(self, X: FeatureMatrix, targets: EncodedLabels, *, layers: Sequence[Layer], class_weight: ClassWeight, seed: int) -> None:
        every = tuple((layer.name, layer.start, layer.stop) for layer in layers)
        layer_map = LayerMap(every).fit(X)
        self.views = views(every)
        self.class_weight = class_weight
        self.seed = seed
        self.rows = stratified_rows(targets, FULL_ROWS, seed=seed)
        self.whole = len(self.rows) == len(X)
        some = targets.take(self.rows)
        self.targets = some.weighted(class_weight)
        self._features = layer_map.transform(np.asarray(X) if self.whole else X[self.rows])
        self._positions = dict(zip(every, np.cumsum([0, *(stop - start for _, start, stop in every)]).tolist(), strict=False))

    def linear_views(self) -> list[View]:
        """Where logistic regression is tried too: the last layer, and all."""
        return [view for number, view in enumerate(self.views) if number in (0, 2)]

    def features(self, view: View, rows: Rows | None) -> npt.NDArray[np.float32]:
        """Mapped features of some of the images, or of all."""
        parts = []
        for number, (name, start, stop) in enumerate(view.layers):
            position = self._positions[name, start, stop]
            part = self._features[:, position : position + stop - start]
            part = part if rows is None else part[rows]
            parts.append(part if view.weights is None else part * np.float32(np.sqrt(view.weights[number])))
        return np.concatenate(parts, axis=1)

    def scored_on(self, rows: Rows | None) -> EncodedLabels:
        """Targets of some of the images, or of all."""
        return self.targets if rows is None else self.targets.take(rows)


def score_candidates(data: TrialData, pairs: Sequence[tuple[str, View]], step: Callable[[], None], *, linear_too: bool) -> list[Trial]:
    """Try heads on layers; where there are many images, all on fewer first, and those that may win again on all.

    Trials run side by side, one thread each. With `linear_too`, logistic regression is tried as well, on the layers where
    it is not out of the question: it costs as much as all the others together.
    """
    few = stratified_rows(data.targets, SCREENING_ROWS, seed=data.seed + 1)
    rows = None if len(few) > 0.75 * len(data.rows) else few
    with one_thread(), ThreadPoolExecutor(available_cores()) as pool:

        def run(tasks: Sequence[Callable[[], Trial | None]]) -> list[Trial]:
            trials = []
            for trial in pool.map(lambda task: task(), tasks):
                step()
                if trial is not None:
                    trials.append(trial)
            return trials

        screened = run([partial(try_head, data, name, view, rows) for name, view in pairs])
        close = [view for view in data.linear_views() if linear_too and _is_close(view, screened)]
        screened += run([partial(try_head, data, "logistic", view, rows) for view in close])
        if rows is None:
            return screened
        promising = _promising(screened)
        finals = run([partial(try_head, data, trial.head, trial.view, None, near=trial.hyperparameters) for trial in promising])
    return finals + [trial for trial in screened if trial not in promising]


def _is_close(view: View, trials: Sequence[Trial]) -> bool:
    """Whether some trial on these layers is within one standard error of the best."""
    best = min(trials, key=lambda trial: trial.log_loss, default=None)
    gaps = [mean_and_error(trial.losses - best.losses, trial.targets.weights) for trial in trials if best and trial.view == view]
    return not gaps or any(mean <= error for mean, error in gaps)


def _promising(trials: Sequence[Trial]) -> list[Trial]:
    """The best, and up to `FINALISTS` in all of those that are not worse than it by two standard errors of the paired difference."""
    ranked = sorted(trials, key=lambda trial: trial.log_loss)
    finalists = ranked[:1]
    for trial in ranked[1:]:
        mean, error = mean_and_error(trial.losses - finalists[0].losses, trial.targets.weights)
        if mean <= 2 * error and len(finalists) < FINALISTS:
            finalists.append(trial)
    return finalists


def try_head(
    data: TrialData, name: str, view: View, rows: Rows | None, *, near: dict[str, float] | None = None, through: FeatureMap | None = None
) -> Trial | None:  # fmt: skip
    """One head on one view, on some of the images or on all; `near` are hyperparameters that were best on fewer images.

    The features go `through` a map, which learns nothing from the labels.
    """
    began = time.perf_counter()
    features, targets = data.features(view, rows), data.scored_on(rows)
    if through is not None:
        features = through.learn(features).transform(features)
    if name == "kernel_ridge":
        widths: Sequence[float] = WIDTHS
        regularisations: Sequence[float] = REGULARISATIONS
        start = None
        if near is not None:
            widths = (near["width"],)
            regularisations = [r for r in REGULARISATIONS if 0.3 <= r / near["regularisation"] <= 3.4]
            start = regularisations.index(near["regularisation"])
        distances = squared_distances(features, features)
        trials = search_kernel(distances, targets, widths=widths, regularisations=regularisations, start=start)
        if not trials:
            return None
        chosen = {"width": trials[0].width, "regularisation": trials[0].regularisation}
        return Trial(view, name, chosen, targets, trials[0].logits, time.perf_counter() - began)
    head = make_head(name, {}, class_weight=data.class_weight, seed=data.seed)
    labels = targets.indicators if targets.link.independent else targets.classes[targets.codes]
    head.fit(features, labels, groups=targets.groups)
    chosen = {setting: getattr(head, f"{setting}_") for setting in head.chosen}
    fitted = head if rows is None and data.whole else None
    return Trial(view, name, chosen, targets, head.out_of_sample_logits_, time.perf_counter() - began, fitted)
