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

from headstart.heads import HEADS, LogisticHead
from headstart.heads.calibration import losses
from headstart.heads.distances import squared_distances
from headstart.heads.kernel_ridge import REGULARISATIONS, WIDTHS, KernelTrial, search_kernel
from headstart.heads.subsample import stratified_rows
from headstart.heads.threads import available_cores, one_thread
from headstart.heads.targets import ClassWeight, Targets, image_weights
from headstart.maps import LayerLike, LayerMap
from headstart.strategy.choice import Candidate

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Slices = tuple[tuple[str, int, int], ...]

SCREENING_ROWS = 1000
FULL_ROWS = 2000
FINALISTS = 3


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate with the calibrated out-of-sample logits (m, k) of the images it was scored on."""

    layers: Slices
    head: str
    hyperparameters: dict[str, float]
    logits: Floats
    seconds: float

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(stop - start for _, start, stop in self.layers)

    def losses(self, targets: Targets) -> Floats:
        """Log loss of each image (m,)."""
        return losses(self.logits, targets.indicators, multilabel=targets.multilabel)

    def right(self, targets: Targets) -> Floats:
        """1 where the answer is right, 0 where not (m,); for multi-label the share of right labels."""
        if targets.multilabel:
            return np.asarray(((self.logits > 0) == targets.indicators).mean(axis=1))
        return (self.logits.argmax(axis=1) == targets.codes).astype(np.float64)

    def candidate(self, targets: Targets, weights: Floats | None, *, chosen: bool) -> Candidate:
        """As evidence."""
        accuracy, accuracy_error = _mean_and_error(self.right(targets), None)
        log_loss, log_loss_error = _mean_and_error(self.losses(targets), weights)
        return Candidate(
            layers=tuple(name for name, _, _ in self.layers),
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


def _mean_and_error(values: Floats, weights: Floats | None) -> tuple[float, float]:
    """Weighted mean and its standard error."""
    w = np.ones(len(values)) if weights is None else weights
    mean = float(np.average(values, weights=w))
    return mean, float(np.sqrt((w**2 * (values - mean) ** 2).sum()) / w.sum())


def layer_sets(layers: Sequence[LayerLike]) -> list[Slices]:
    """Which layers to try together: the last; the later stages; all stages but the last layer; all."""
    every: Slices = tuple((layer.name, layer.start, layer.stop) for layer in layers)
    stages = every[:-1]
    sets = [every[-1:], stages[len(stages) // 2 :], stages, every]
    return [chosen for number, chosen in enumerate(sets) if chosen and chosen not in sets[:number]]


class TrialRoom:
    """Features of the images on which candidates are tried, mapped once, with their distances by block of layers.

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
        targets: Targets,
        *,
        layers: Sequence[LayerLike],
        class_weight: ClassWeight,
        groups: Rows | None,
        seed: int,
    ) -> None:
        self.sets = layer_sets(layers)
        self.class_weight = class_weight
        self.seed = seed
        self.rows = stratified_rows(targets, FULL_ROWS, seed=seed)
        self.targets = targets.take(self.rows)
        self.groups = None if groups is None else groups[self.rows]
        self.weights = image_weights(self.targets, class_weight)
        every = tuple((layer.name, layer.start, layer.stop) for layer in layers)
        fitted = LayerMap(every).fit(X)
        self._features = fitted.transform(X if len(self.rows) == len(X) else X[self.rows])
        self._start = {start: int(position) for position, start in zip(np.cumsum([0, *(stop - start for _, start, stop in every)]), [s for _, s, _ in every], strict=False)}
        self._blocks: dict[Slices, npt.NDArray[np.float32]] = {}

    def columns(self, layers: Slices) -> npt.NDArray[np.float32]:
        """Mapped features of these layers."""
        return np.concatenate([self._features[:, self._start[a] : self._start[a] + b - a] for _, a, b in layers], axis=1)

    def distances(self, layers: Slices, rows: Rows | None) -> npt.NDArray[np.float32]:
        """Squared distances over these layers: the sum of those over blocks of layers that are always taken together."""
        blocks = [self._blocks[block] for block in self._blocks_of(layers)]
        total = blocks[0] if rows is None else blocks[0][np.ix_(rows, rows)]
        for block in blocks[1:]:
            total = total + (block if rows is None else block[np.ix_(rows, rows)])
        return total

    def prepare(self, sets: Sequence[Slices]) -> None:
        """Compute the distances that these layer sets need."""
        for block in dict.fromkeys(block for layers in sets for block in self._blocks_of(layers)):
            part = self.columns(block)
            self._blocks[block] = squared_distances(part, part)

    def scored_on(self, rows: Rows | None) -> tuple[Targets, Floats | None]:
        """Targets and weights of some rows of the room, or of all."""
        if rows is None:
            return self.targets, self.weights
        return self.targets.take(rows), None if self.weights is None else self.weights[rows]

    def _blocks_of(self, layers: Slices) -> list[Slices]:
        """Layers that stand in the same sets form one block."""
        blocks: dict[tuple[bool, ...], list[tuple[str, int, int]]] = {}
        for layer in layers:
            blocks.setdefault(tuple(layer in chosen for chosen in self.sets), []).append(layer)
        return [tuple(block) for block in blocks.values()]


Judged = tuple[Trial, Targets, Floats | None]
"""A trial, and the targets and weights of the images it was scored on."""


def judge(room: TrialRoom, wanted: Sequence[tuple[str, Slices]], step: Callable[[], None]) -> list[Judged]:
    """Try heads on layers; where there are many images, all on fewer first, and those that may win again on all of the room's.

    Trials run side by side, one thread each.
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

        room.prepare([layers for name, layers in wanted if name == "kernel_ridge"])
        rows = None if whole else few
        screened = run([partial(try_head, room, name, layers, rows) for name, layers in wanted])
        targets, weights = room.scored_on(rows)
        if whole:
            return [(trial, targets, weights) for trial in screened]
        promising = _promising(screened, targets, weights)
        finals = run([partial(try_head, room, trial.head, trial.layers, None, near=trial.hyperparameters) for trial in promising])
    dropped = [(trial, targets, weights) for trial in screened if trial not in promising]
    return [(trial, *room.scored_on(None)) for trial in finals] + dropped


def _promising(trials: Sequence[Trial], targets: Targets, weights: Floats | None) -> list[Trial]:
    """The best, and up to `FINALISTS` in all of those that are not worse than it by two standard errors of the paired difference."""
    ranked = sorted(trials, key=lambda trial: float(np.average(trial.losses(targets), weights=weights)))
    kept = ranked[:1]
    for trial in ranked[1:]:
        mean, error = _mean_and_error(trial.losses(targets) - kept[0].losses(targets), weights)
        if mean <= 2 * error and len(kept) < FINALISTS:
            kept.append(trial)
    return kept


def try_head(room: TrialRoom, name: str, layers: Slices, rows: Rows | None, *, near: dict[str, float] | None = None) -> Trial | None:
    """One head on one layer set, on some rows of the room or on all; `near` are hyperparameters that were best on fewer images."""
    if name != "kernel_ridge":
        return head_trial(room, layers, name, rows)
    if near is None:
        return _kernel_trial(room, layers, rows=rows, widths=WIDTHS, regularisations=REGULARISATIONS)
    close = [r for r in REGULARISATIONS if 0.3 <= r / near["regularisation"] <= 3.4]
    return _kernel_trial(
        room, layers, rows=rows, widths=(near["width"],), regularisations=close, start=close.index(near["regularisation"])
    )


def _kernel_trial(
    room: TrialRoom,
    layers: Slices,
    *,
    rows: Rows | None,
    widths: Sequence[float],
    regularisations: Sequence[float],
    start: int | None = None,
) -> Trial | None:
    began = time.perf_counter()

    def part(values: Any) -> Any:
        return values if rows is None or values is None else values[rows]

    trials: list[KernelTrial] = search_kernel(
        room.distances(layers, rows),
        room.targets if rows is None else room.targets.take(rows),
        widths=widths,
        regularisations=regularisations,
        weights=part(room.weights),
        groups=part(room.groups),
        start=start,
    )
    if not trials:
        return None
    best = trials[0]
    hyperparameters = {"width": best.width, "regularisation": best.regularisation}
    return Trial(layers, "kernel_ridge", hyperparameters, best.logits, time.perf_counter() - began)


_SETTINGS = {"logistic": ("C",), "ridge": ("regularisation",), "neighbours": ("neighbours",), "centroid": (), "kernel_ridge": ("width", "regularisation")}
"""Hyperparameters of each head that it chooses by itself; learned under the same name with an underscore."""


def head_trial(room: TrialRoom, layers: Slices, name: str, rows: Rows | None) -> Trial:
    """Any head on one layer set, choosing its hyperparameters by itself."""
    began = time.perf_counter()
    head = make_head(name, {}, class_weight=room.class_weight, seed=room.seed)
    targets, _ = room.scored_on(rows)
    labels = targets.indicators if targets.multilabel else targets.classes[targets.codes]
    features = room.columns(layers)
    groups = room.groups
    if rows is not None:
        features, groups = features[rows], None if groups is None else groups[rows]
    head.fit(features, labels, groups=groups)
    hyperparameters = {setting: getattr(head, f"{setting}_") for setting in _SETTINGS[name]}
    return Trial(layers, name, hyperparameters, head.out_of_sample_logits_, time.perf_counter() - began)


def make_head(name: str, hyperparameters: dict[str, float], *, class_weight: ClassWeight, seed: int) -> LogisticHead | Any:
    """An unfitted head."""
    further: dict[str, Any] = {"seed": seed} if "seed" in HEADS[name]().get_params() else {}
    return HEADS[name](class_weight=class_weight, **hyperparameters, **further)  # type: ignore[call-arg]
