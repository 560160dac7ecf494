"""Choosing layers and head from out-of-sample scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError, ParameterError, nearest
from headstart.heads.labels import ClassWeight, EncodedLabels, encode
from headstart.heads.linalg import one_thread
from headstart.maps import LayerLike
from headstart.selection.candidates import FINALISTS, Trial, TrialRoom, judge, make_head, mean_and_error
from headstart.selection.choice import Choice
from headstart.selection.memo import Memo, memo_key, pack, unpack
from headstart.selection.pipeline import HeadPipeline

HEADS = ("auto", "logistic", "ridge", "kernel_ridge", "neighbours", "centroid")
"""What `head` may be."""

SMALL = 1500
"""Images up to which several threads would rather wait for each other than help."""

SIMPLICITY = ("centroid", "logistic", "ridge", "neighbours", "kernel_ridge")
"""From the simplest to the least simple."""

Floats = npt.NDArray[np.float64]


def choose_head(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    layers: Sequence[LayerLike],
    head: str = "auto",
    class_weight: ClassWeight = None,
    groups: npt.ArrayLike | None = None,
    seed: int = 0,
    memo: Memo | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Choice:
    """Choose layers, head and hyperparameters from out-of-sample scores of the training images, and fit the winner on all of them.

    Args:
        X: features, float32 (n, D).
        y: n labels; or a bool matrix (n, k), when an image may have several.
        layers: slices of the feature vector with `name`, `start`, `stop`; the last one is the network's last layer.
        head: ``auto``, or one of `HEADS`; layers and hyperparameters are chosen in any case.
        class_weight: None, ``balanced``, or a dictionary of label to weight.
        groups: n group names; every score is then from a fit without the image's whole group.
        seed: the same seed gives the same head, bit by bit.
        memo: where an earlier choice from the same data is looked up and this one is kept.
        progress: called with (steps done, steps in all).

    Raises:
        DataError: lengths that differ, features that are not finite, or fewer than two classes.
        ParameterError: an unknown head, or layers that do not fit the features.
    """
    if head not in HEADS:
        raise ParameterError(f"head must be one of {', '.join(HEADS)}, got {head!r}.{nearest(str(head), HEADS)}")
    values, labels, targets, named, numbers = _checked(X, y, layers, groups)
    key = None
    if memo is not None:
        settings = {"head": head, "class_weight": class_weight, "seed": seed}
        key = memo_key(values, labels, layers=layers, groups=named, settings=settings)
        packed = memo.get_memo(key)
        choice = None if packed is None else unpack(packed)
        if choice is not None:
            return choice
    choice = _choose(
        values, labels, targets, layers=layers, head=head, class_weight=class_weight, groups=numbers, seed=seed, progress=progress
    )
    if memo is not None and key is not None:
        memo.put_memo(key, pack(choice))
    return choice


def _checked(
    X: npt.ArrayLike, y: npt.ArrayLike, layers: Sequence[LayerLike], groups: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], EncodedLabels, npt.NDArray[Any] | None, npt.NDArray[np.int64] | None]:
    """The arguments as arrays; groups as names and as numbers."""
    values = np.asarray(X, dtype=np.float32)
    labels = y if isinstance(y, np.ndarray) else np.asarray(y)
    named = None if groups is None else np.asarray(groups)
    if values.ndim != 2 or not values.size:
        raise DataError(f"Features must be a matrix (images, features) with at least one of each, got the shape {values.shape}.")
    for what, given in (("labels", labels), ("groups", named)):
        if given is not None and len(given) != len(values):
            raise DataError(f"There are {len(values)} feature vectors and {len(given)} {what}; each image needs one.")
    finite = np.isfinite(values.sum(axis=1, dtype=np.float64))
    if not finite.all():
        wrong = np.flatnonzero(~finite)
        raise DataError(
            f"{len(wrong)} of {len(values)} feature vectors hold NaN or infinite values (the first is number {wrong[0]}). "
            "Compute the features again; if it stays so, the backbone's weights are damaged."
        )
    if not layers:
        raise ParameterError("layers is empty; give the layers of the backbone, the last one at the end.")
    outside = [layer for layer in layers if not 0 <= layer.start < layer.stop <= values.shape[1]]
    if outside:
        raise ParameterError(
            f"layer {outside[0].name!r} is columns {outside[0].start} to {outside[0].stop}, outside of the {values.shape[1]} features. "
            "Give the layers of the backbone that made the features."
        )
    try:
        targets = encode(labels)
    except ValueError as error:
        raise DataError(str(error)) from error
    numbers = None if named is None else np.unique(named, return_inverse=True)[1].astype(np.int64)
    return values, labels, targets, named, numbers


def _choose(
    values: npt.NDArray[np.float32],
    labels: npt.NDArray[Any],
    targets: EncodedLabels,
    *,
    layers: Sequence[LayerLike],
    head: str,
    class_weight: ClassWeight,
    groups: npt.NDArray[np.int64] | None,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Choice:
    room = TrialRoom(values, targets, layers=layers, class_weight=class_weight, groups=groups, seed=seed)
    wanted = [(name, view) for name in (("kernel_ridge",) if head == "auto" else (head,)) for view in room.views]
    step = _Steps(len(wanted) + FINALISTS + 2, progress)
    judged = judge(room, wanted, step, linear_too=head == "auto")
    full = [trial for trial, scored, _ in judged if len(scored) == len(room.targets)]
    winner = pick(full, room.targets, room.weights)
    chosen_head = make_head(winner.head, winner.hyperparameters, class_weight=class_weight, seed=seed)
    with one_thread() if len(values) <= SMALL else nullcontext():
        if winner.fitted is not None:
            winner.fitted.set_params(**chosen_head.get_params())
            estimator = HeadPipeline.of_fitted(winner.view.map().fit(values), winner.fitted)
        else:
            estimator = HeadPipeline(winner.view.map(), chosen_head).fit(values, labels, groups=groups)
    step.finish()
    evidence = sorted(
        (trial.candidate(scored, weights, chosen=trial is winner) for trial, scored, weights in judged),
        key=lambda candidate: (not candidate.chosen, candidate.log_loss),
    )
    return Choice(
        estimator=estimator,
        evidence=tuple(evidence),
        out_of_sample=estimator.out_of_sample_logits_,
        reason=_reason(winner, full, room),
    )


class _Steps:
    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total, self._done, self._progress = total, 0, progress

    def __call__(self) -> None:
        self._done = min(self._done + 1, self._total - 1)
        if self._progress is not None:
            self._progress(self._done, self._total)

    def finish(self) -> None:
        if self._progress is not None:
            self._progress(self._total, self._total)


def pick(trials: Sequence[Trial], targets: EncodedLabels, weights: Floats | None) -> Trial:
    """The simplest of those that are as good as the best.

    The best has the lowest product of log loss and error rate: the one is smooth but judges confidence as well, the other is what counts
    but jumps from image to image. As good is what is within one standard error (of the paired difference) of it in both.
    """
    w = np.ones(len(targets)) if weights is None else weights
    lost = [trial.losses(targets) for trial in trials]
    wrong = [1 - trial.right(targets) for trial in trials]
    best = min(
        range(len(trials)),
        key=lambda number: np.average(lost[number], weights=w) * (np.average(wrong[number], weights=w) + 0.5 / len(targets)),
    )

    def as_good(number: int) -> bool:
        differences = (lost[number] - lost[best], wrong[number] - wrong[best])
        return all(mean <= error for mean, error in (mean_and_error(difference, w) for difference in differences))

    fair = [number for number in range(len(trials)) if as_good(number)]
    chosen = min(fair, key=lambda number: (SIMPLICITY.index(trials[number].head), trials[number].view.width))
    return trials[chosen]


_SPOKEN = {
    "logistic": "logistic regression",
    "ridge": "ridge regression",
    "kernel_ridge": "kernel ridge",
    "neighbours": "nearest neighbours",
    "centroid": "nearest centroid",
}


def _reason(winner: Trial, trials: Sequence[Trial], room: TrialRoom) -> str:
    """One sentence: what was chosen, how good it was, and against what."""
    said = f"{_spoken(winner)}: {winner.right(room.targets).mean():.1%} right out of sample on {len(room.targets)} training images"
    others = [trial for trial in trials if trial is not winner]
    if not others:
        return f"{said}."
    other = min(others, key=lambda trial: float(np.average(trial.losses(room.targets), weights=room.weights)))
    return f"{said}; next came {_spoken(other)} with {other.right(room.targets).mean():.1%}."


def _spoken(trial: Trial) -> str:
    return f"{_SPOKEN[trial.head]} on {trial.view.name}"
