"""Trying maps of the features before a head, and whether one of them is shown to gain over none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from headstart.engine import available_cores
from headstart.heads.linalg import one_thread
from headstart.maps import KINDS, MAPS
from headstart.selection.candidates import Trial, TrialData, View, try_head
from headstart.selection.choice import FOLDS, NONE, cross_fitted, make_head, make_map
from headstart.selection.tried import Advantage

AUTO = "auto"
CHOICES = (NONE, *KINDS, AUTO)
"""What `map` may be."""

SHOWN = 2.0
"""Standard errors that a map must be ahead of none by, for several are tried; see `Advantage.evidence`."""

_SHRINKAGES = (0.1, 0.5)
_WIDTH = 4.0  # of a kernel, where none has been chosen on the same layers


@dataclass(frozen=True)
class Plan:
    """A map with its settings, and the heads that are tried on it; of layers the best `views`."""

    map: str
    settings: dict[str, float]
    heads: tuple[str, ...]
    views: int = 1


def plans(kind: str, *, independent: bool, width: float) -> Iterator[Plan]:
    """What is tried for ``linear``, ``kernel``, ``deep`` or ``auto``; `width` is that of the best kernel so far."""
    names = [name for of, some in KINDS.items() if kind in (of, AUTO) for name in some]
    known = {
        "pca": [Plan("pca", {}, ("kernel_ridge", "logistic"))],
        "lda": [Plan("lda", {"shrinkage": one}, ("logistic" if independent else "centroid",), 2) for one in _SHRINKAGES],
        "gradients": [Plan("gradients", {}, ("kernel_ridge",))],
        "nystroem": [Plan("nystroem", {"width": width}, ("logistic",))],
        "fourier": [Plan("fourier", {"width": width}, ("logistic",))],
        "mlp": [Plan("mlp", {}, ("logistic",))],
    }
    for name in names:
        yield from known[name]


def try_maps(data: TrialData, trials: Sequence[Trial], *, kind: str, head: str, step: Callable[[], None]) -> list[Trial]:
    """Trials of maps of one kind, or of all with ``auto``, each on the layers that were best without; all images of the trial data."""
    ranked = sorted(trials, key=lambda trial: trial.log_loss)
    best = list({trial.view: None for trial in ranked})
    width = next((trial.hyperparameters["width"] for trial in ranked if "width" in trial.hyperparameters), _WIDTH)
    tasks: list[Callable[[], Trial | None]] = []
    for plan in plans(kind, independent=data.targets.link.independent, width=width):
        for view in _layers(best, data.views, plan.views):
            tasks += [partial(_trial, data, plan, name, view) for name in (plan.heads if head == AUTO else (head,))]
    found = []
    with one_thread(), ThreadPoolExecutor(available_cores()) as pool:
        for trial in pool.map(lambda task: task(), tasks):
            step()
            if trial is not None:
                found.append(trial)
    return found


def _layers(best: Sequence[View], every: Sequence[View], count: int) -> list[View]:
    """The best layers; and of those that have all, which a linear map can weigh by itself, the best."""
    whole = max(view.width for view in every)
    return list(dict.fromkeys([*best[:1], *[view for view in best if view.width == whole][:1]]))[:count]


def _trial(data: TrialData, plan: Plan, head: str, view: View) -> Trial | None:
    began = time.perf_counter()
    made = make_map(plan.map, plan.settings, seed=data.seed)
    assert made is not None
    if not MAPS[plan.map].supervised:
        trial = try_head(data, head, view, None, through=made)
        return None if trial is None else replace(trial, map=plan.map, map_settings=plan.settings, fitted=None)
    unfitted = make_head(head, {}, class_weight=data.class_weight, seed=data.seed)
    held_out = cross_fitted(made, unfitted, data.features(view, None), data.targets, folds=FOLDS)
    logits = data.targets.calibrate(held_out)(held_out)
    seconds = time.perf_counter() - began
    return Trial(view, head, {}, data.targets, logits, seconds, map=plan.map, map_settings=plan.settings)


def pick_mapped(plain: Trial, mapped: Sequence[Trial], *, asked: bool) -> Trial:
    """The best of the trials with a map where its gain over none is `SHOWN`, or where a map is asked for; else the one without."""
    if not mapped:
        return plain
    best = min(mapped, key=lambda trial: trial.criterion)
    return best if asked or Advantage.of(best, plain).evidence >= SHOWN else plain
