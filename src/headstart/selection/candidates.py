"""Trying layers and heads on a part of the training images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.engine import available_cores
from headstart.heads import HEADS, Head
from headstart.heads.kernel_ridge import REGULARISATIONS, WIDTHS, KernelTrial, search_kernel
from headstart.heads.labels import ClassWeight, EncodedLabels, image_weights, stratified_rows
from headstart.heads.linalg import one_thread, squared_distances
from headstart.maps import LayerLike, LayerMap
from headstart.selection.choice import Candidate

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Slices = tuple[tuple[str, int, int], ...]

SCREENING_ROWS = 1000
FULL_ROWS = 2000
FINALISTS = 3


@dataclass(frozen=True)
class View:
    """Layers to take, and how much each counts.

    Attributes:
        name: for the user.
        layers: (name, start, stop) of each.
        weights: for each, or None.
    """

    name: str
    layers: Slices
    weights: tuple[float, ...] | None = None

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(stop - start for _, start, stop in self.layers)

    def map(self) -> LayerMap:
        """Unfitted."""
        return LayerMap(self.layers, weights=self.weights)


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate with the calibrated out-of-sample logits (m, k) of the images it was scored on.

    `fitted` is the fitted head, where the trial made one.
    """

    view: View
    head: str
    hyperparameters: dict[str, float]
    logits: Floats
    seconds: float
    fitted: Head | None = None

    def losses(self, targets: EncodedLabels) -> Floats:
        """Log loss of each image (m,)."""
        return targets.link.losses(self.logits, targets.indicators)

    def right(self, targets: EncodedLabels) -> Floats:
        """1 where the decision is right, 0 where not (m,); of several labels the share that is right."""
        return targets.link.correct_share(targets.link.decisions(targets.link.probabilities(self.logits)), targets.codes)

    def candidate(self, targets: EncodedLabels, weights: Floats | None, *, chosen: bool) -> Candidate:
        """As evidence."""
        accuracy, accuracy_error = mean_and_error(self.right(targets), None)
        log_loss, log_loss_error = mean_and_error(self.losses(targets), weights)
        return Candidate(
            view=self.view.name,
            layers=tuple(name for name, _, _ in self.view.layers),
            weights=self.view.weights,
            head=self.head,
            hyperparameters=self.hyperparameters,
            images=len(targets),
            accuracy=accuracy,
            accuracy_error=accuracy_error,
            log_loss=log_loss,
            log_loss_error=log_loss_error,
            seconds=round(self.seconds, 4),
            chosen=chosen,
        )


def mean_and_error(values: Floats, weights: Floats | None) -> tuple[float, float]:
    """Weighted mean and its standard error."""
    w = np.ones(len(values)) if weights is None else weights
    mean = float(np.average(values, weights=w))
    return mean, float(np.sqrt((w**2 * (values - mean) ** 2).sum()) / w.sum())


def views(layers: Sequence[LayerLike]) -> list[View]:
    """Which layers to try together.

    The last layer; all stages without it; all; all with the last, which has more features than the others together in most networks, at a
    fifth; and all, the layers more alike in their weight and the last at a quarter.
    """
    every: Slices = tuple((layer.name, layer.start, layer.stop) for layer in layers)
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


class TrialRoom:
    """Features of the images on which candidates are tried.

    Args:
        X: float32 (n, D), all training images: means and scales come from these.
        targets: of all of them.
        layers: of the feature vector.
        class_weight: as of the heads.
        groups: numbers (n,), or None.
        seed: for the subsample.
    """

    def __init__(
        self,
        X: npt.NDArray[np.float32],
        targets: EncodedLabels,
        *,
        layers: Sequence[LayerLike],
        class_weight: ClassWeight,
        groups: Rows | None,
        seed: int,
    ) -> None:
        self.views = views(layers)
        self.class_weight = class_weight
        self.seed = seed
        self.rows = stratified_rows(targets, FULL_ROWS, seed=seed)
        self.all = len(self.rows) == len(X)
        self.targets = targets.take(self.rows)
        self.groups = None if groups is None else groups[self.rows]
        self.weights = image_weights(self.targets, class_weight)
        every = tuple((layer.name, layer.start, layer.stop) for layer in layers)
        self._features = LayerMap(every).fit(X).transform(X if self.all else X[self.rows])
        self._positions = dict(zip(every, np.cumsum([0, *(stop - start for _, start, stop in every)]).tolist(), strict=False))

    def linear_views(self) -> list[View]:
        """Where logistic regression is tried too: the last layer, and all."""
        return [view for number, view in enumerate(self.views) if number in (0, 2)]

    def features(self, view: View, rows: Rows | None) -> npt.NDArray[np.float32]:
        """Mapped features of some rows of the room, or of all."""
        parts = []
        for number, (name, start, stop) in enumerate(view.layers):
            position = self._positions[name, start, stop]
            part = self._features[:, position : position + stop - start]
            part = part if rows is None else part[rows]
            parts.append(part if view.weights is None else part * np.float32(np.sqrt(view.weights[number])))
        return np.concatenate(parts, axis=1)

    def scored_on(self, rows: Rows | None) -> tuple[EncodedLabels, Floats | None]:
        """Targets and weights of some rows of the room, or of all."""
        if rows is None:
            return self.targets, self.weights
        return self.targets.take(rows), None if self.weights is None else self.weights[rows]


Judged = tuple[Trial, EncodedLabels, Floats | None]
"""A trial, and the targets and weights of the images it was scored on."""


def judge(room: TrialRoom, wanted: Sequence[tuple[str, View]], step: Callable[[], None], *, linear_too: bool) -> list[Judged]:
    """Try heads on layers; where there are many images, all on fewer first, and those that may win again on all of the room's.

    Trials run side by side, one thread each. With `linear_too`, logistic regression is tried as well, on the layers where
    it is not out of the question: it costs as much as all the others together.
    """
    few = stratified_rows(room.targets, SCREENING_ROWS, seed=room.seed + 1)
    whole = len(few) > 0.75 * len(room.rows)
    with one_thread(), ThreadPoolExecutor(available_cores()) as pool:

        def run(tasks: Sequence[Callable[[], Trial | None]]) -> list[Trial]:
            trials = []
            for trial in pool.map(lambda task: task(), tasks):
                step()
                if trial is not None:
                    trials.append(trial)
            return trials

        rows = None if whole else few
        targets, weights = room.scored_on(rows)
        screened = run([partial(try_head, room, name, view, rows) for name, view in wanted])
        close = [view for view in room.linear_views() if linear_too and _is_close(view, screened, targets, weights)]
        screened += run([partial(try_head, room, "logistic", view, rows) for view in close])
        if whole:
            return [(trial, targets, weights) for trial in screened]
        promising = _promising(screened, targets, weights)
        finals = run([partial(try_head, room, trial.head, trial.view, None, near=trial.hyperparameters) for trial in promising])
    dropped = [(trial, targets, weights) for trial in screened if trial not in promising]
    return [(trial, *room.scored_on(None)) for trial in finals] + dropped


def _is_close(view: View, trials: Sequence[Trial], targets: EncodedLabels, weights: Floats | None) -> bool:
    """Whether some trial on these layers is within one standard error of the best."""
    best = min(trials, key=lambda trial: float(np.average(trial.losses(targets), weights=weights)), default=None)
    gaps = [mean_and_error(trial.losses(targets) - best.losses(targets), weights) for trial in trials if best and trial.view == view]
    return not gaps or any(mean <= error for mean, error in gaps)


def _promising(trials: Sequence[Trial], targets: EncodedLabels, weights: Floats | None) -> list[Trial]:
    """The best, and up to `FINALISTS` in all of those that are not worse than it by two standard errors of the paired difference."""
    ranked = sorted(trials, key=lambda trial: float(np.average(trial.losses(targets), weights=weights)))
    kept = ranked[:1]
    for trial in ranked[1:]:
        mean, error = mean_and_error(trial.losses(targets) - kept[0].losses(targets), weights)
        if mean <= 2 * error and len(kept) < FINALISTS:
            kept.append(trial)
    return kept


def try_head(room: TrialRoom, name: str, view: View, rows: Rows | None, *, near: dict[str, float] | None = None) -> Trial | None:
    """One head on one view, on some rows of the room or on all; `near` are hyperparameters that were best on fewer images."""
    if name != "kernel_ridge":
        return head_trial(room, view, name, rows)
    if near is None:
        return _kernel_trial(room, view, rows=rows, widths=WIDTHS, regularisations=REGULARISATIONS)
    close = [r for r in REGULARISATIONS if 0.3 <= r / near["regularisation"] <= 3.4]
    return _kernel_trial(room, view, rows=rows, widths=(near["width"],), regularisations=close, start=close.index(near["regularisation"]))


def _kernel_trial(
    room: TrialRoom,
    view: View,
    *,
    rows: Rows | None,
    widths: Sequence[float],
    regularisations: Sequence[float],
    start: int | None = None,
) -> Trial | None:
    began = time.perf_counter()

    features = room.features(view, rows)
    targets, weights = room.scored_on(rows)
    trials: list[KernelTrial] = search_kernel(
        squared_distances(features, features),
        targets,
        widths=widths,
        regularisations=regularisations,
        weights=weights,
        groups=room.groups if rows is None or room.groups is None else room.groups[rows],
        start=start,
    )
    if not trials:
        return None
    best = trials[0]
    hyperparameters = {"width": best.width, "regularisation": best.regularisation}
    return Trial(view, "kernel_ridge", hyperparameters, best.logits, time.perf_counter() - began)


_SETTINGS = {
    "logistic": ("C",),
    "ridge": ("regularisation",),
    "neighbours": ("neighbours",),
    "centroid": (),
    "kernel_ridge": ("width", "regularisation"),
}
"""Hyperparameters of each head that it chooses by itself; learned under the same name with an underscore."""


def head_trial(room: TrialRoom, view: View, name: str, rows: Rows | None) -> Trial:
    """Any head on one view, choosing its hyperparameters by itself."""
    began = time.perf_counter()
    head = make_head(name, {}, class_weight=room.class_weight, seed=room.seed)
    targets, _ = room.scored_on(rows)
    labels = targets.indicators if targets.link.independent else targets.classes[targets.codes]
    groups = room.groups if rows is None or room.groups is None else room.groups[rows]
    head.fit(room.features(view, rows), labels, groups=groups)
    hyperparameters = {setting: getattr(head, f"{setting}_") for setting in _SETTINGS[name]}
    fitted = head if rows is None and room.all else None
    return Trial(view, name, hyperparameters, head.out_of_sample_logits_, time.perf_counter() - began, fitted)


def make_head(name: str, hyperparameters: dict[str, float], *, class_weight: ClassWeight, seed: int) -> Any:
    """An unfitted head."""
    further: dict[str, Any] = {"seed": seed} if "seed" in HEADS[name]().get_params() else {}
    return HEADS[name](class_weight=class_weight, **hyperparameters, **further)
