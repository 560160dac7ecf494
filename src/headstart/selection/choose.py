"""Choosing layers and head from out-of-sample scores, once for the same features and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from headstart import heads
from headstart.errors import DataError
from headstart.features.prepared import result_key
from headstart.files import packed, unpacked
from headstart.heads.labels import ClassWeight, EncodedLabels, encode
from headstart.heads.linalg import one_thread
from headstart.matrix import FeatureMatrix, RowView, first_not_finite
from headstart.selection.candidates import FINALISTS, Scored, Trial, TrialData, mean_and_error, score_candidates
from headstart.selection.choice import NONE, Candidate, Choice, HeadPipeline, described, make_head, make_map
from headstart.selection.mapped import AUTO, CHOICES, pick_mapped, plans, try_maps
from headstart.settings.field import one_of, require

if TYPE_CHECKING:
    from headstart.backbones import Layer

AnyScored = TypeVar("AnyScored", bound=Scored)

HEADS = ("auto", *heads.HEADS)  # what `head` may be
SMALL = 1500  # images up to which several threads would rather wait for each other than help
SIMPLICITY = ("centroid", "logistic", "ridge", "neighbours", "kernel_ridge", "mlp")  # from the simplest to the least simple
VERSION = 9  # of cached choices; changes with anything that changes what is chosen


def choose_head(
    X: npt.ArrayLike | RowView, y: npt.ArrayLike, *, layers: Sequence[Layer], head: str = "auto", map: str = NONE,
    class_weight: ClassWeight = None, groups: npt.ArrayLike | None = None, seed: int = 0,
    cached: Callable[[str, Callable[[], bytes]], bytes] | None = None, progress: Callable[[int, int], None] | None = None,
) -> Choice:  # fmt: skip
    """Choose layers, head and hyperparameters from out-of-sample scores of the training images, and fit the winner on all of them.

    Features are (n, D), labels (n,) or a bool matrix (n, k); `layers` are slices of the feature vector, the network's last layer at the
    end. With a `map` (see `headstart.selection.mapped`) features go through one before the head: the best of a kind, or with ``auto`` of
    all kinds, where it is shown to gain. With group names (n,), every score is from a fit without the image's whole group. The same seed
    gives the same head, bit by bit.
    `cached` is `Prepared.cached`, where choices are to be looked up and stored. Raises DataError for lengths that differ, features that
    are not finite, or fewer than two classes.
    """
    require(one_of(*HEADS), head=head)
    require(one_of(*CHOICES), map=map)
    values, labels, targets, names = _checked(X, y, groups)

    def choose() -> Choice:
        return _choose(values, labels, targets, layers=layers, head=head, map=map, class_weight=class_weight, seed=seed, progress=progress)

    if cached is None:
        return choose()
    slices = [(layer.name, layer.start, layer.stop) for layer in layers]
    key = result_key("choice", VERSION, slices, head, map, class_weight, seed, values, labels, names)
    made: list[Choice] = []

    def compute() -> bytes:
        made.append(choose())
        return _packed(made[0])

    data = cached(key, compute)
    return made[0] if made else _unpacked(data)


def _checked(
    X: npt.ArrayLike | RowView, y: npt.ArrayLike, groups: npt.ArrayLike | None
) -> tuple[FeatureMatrix, npt.NDArray[Any], EncodedLabels, npt.NDArray[Any] | None]:
    """Features, labels, encoded labels with group numbers, and group names."""
    values = X if isinstance(X, RowView) else np.asarray(X, dtype=np.float32)
    labels = y if isinstance(y, np.ndarray) else np.asarray(y)
    named = None if groups is None else np.asarray(groups)
    if values.ndim != 2 or not values.size:
        raise DataError(f"Features must be a matrix (images, features) with at least one of each, got the shape {values.shape}.")
    for what, given in (("labels", labels), ("groups", named)):
        if given is not None and len(given) != len(values):
            raise DataError(f"There are {len(values)} feature vectors and {len(given)} {what}; each image needs one.")
    wrong, first = first_not_finite(values)
    if wrong:
        raise DataError(
            f"{wrong} of {len(values)} feature vectors hold NaN or infinite values (the first is number {first}). "
            "Compute the features again; if it stays so, the backbone's weights are damaged."
        )
    try:
        targets = encode(labels)
    except ValueError as error:
        raise DataError(str(error)) from error
    numbers = None if named is None else np.unique(named, return_inverse=True)[1].astype(np.int64)
    return values, labels, replace(targets, groups=numbers), named


def _choose(
    values: FeatureMatrix, labels: npt.NDArray[Any], targets: EncodedLabels, *, layers: Sequence[Layer], head: str, map: str,
    class_weight: ClassWeight, seed: int, progress: Callable[[int, int], None] | None,
) -> Choice:  # fmt: skip
    data = TrialData(values, targets, layers=layers, class_weight=class_weight, seed=seed)
    tried_on = data.linear_views() if head == "mlp" else data.views  # which takes long
    pairs = [("kernel_ridge" if head == "auto" else head, view) for view in tried_on]
    further = 0 if map == NONE else sum(1 for _ in plans(map, independent=targets.link.independent, width=1.0))
    total, done = len(pairs) + FINALISTS + 2 + further, count(1)

    def step() -> None:
        if progress is not None:
            progress(min(next(done), total - 1), total)

    trials = score_candidates(data, pairs, step, linear_too=head == "auto")
    finals = [trial for trial in trials if len(trial.targets) == len(data.targets)]
    winner = pick(finals)
    if map != NONE:
        mapped = try_maps(data, finals, kind=map, head=head, step=step)
        winner = pick_mapped(winner, mapped, asked=map != AUTO)
        trials, finals = [*trials, *mapped], [*finals, *mapped]
    chosen_head = make_head(winner.head, winner.hyperparameters, class_weight=class_weight, seed=seed)
    with one_thread() if len(values) <= SMALL else nullcontext():
        if winner.fitted is not None:
            winner.fitted.set_params(**chosen_head.get_params())
            estimator = HeadPipeline.of_fitted(winner.view.map().fit(values), winner.fitted)
        else:
            feature_map = make_map(winner.map, winner.map_settings, seed=seed)
            pipeline = HeadPipeline(winner.view.map(), chosen_head, feature_map=feature_map)
            estimator = pipeline.fit(values, labels, groups=targets.groups)
    if progress is not None:
        progress(total, total)
    evidence = sorted(
        (trial.candidate(chosen=trial is winner) for trial in trials), key=lambda candidate: (not candidate.chosen, candidate.log_loss)
    )
    return Choice(
        estimator=estimator, evidence=tuple(evidence), out_of_sample=estimator.out_of_sample_logits_, reason=_reason(winner, finals)
    )


def pick(trials: Sequence[Trial]) -> Trial:
    """The simplest of the trials that are as good as the best; all scored on the same images."""
    return min(as_good_as_best(trials), key=lambda trial: (SIMPLICITY.index(trial.head), trial.view.width))


def as_good_as_best(trials: Sequence[AnyScored]) -> list[AnyScored]:
    """Those that are as good as the best, in their order; all scored on the same images.

    The best has the lowest `criterion`. As good is what is within one standard error (of the paired difference) of it in log loss and
    accuracy.
    """
    weights = trials[0].targets.weights
    best = min(trials, key=lambda trial: trial.criterion)

    def as_good(trial: AnyScored) -> bool:
        differences = (trial.losses - best.losses, best.correct - trial.correct)
        return all(mean <= error for mean, error in (mean_and_error(difference, weights) for difference in differences))

    return list(filter(as_good, trials))


def _reason(winner: Trial, trials: Sequence[Trial]) -> str:
    """One sentence: what was chosen, how good it was, and against what."""
    text = f"{_named(winner)}: {winner.correct.mean():.1%} right out of sample on {len(winner.targets)} training images"
    others = [trial for trial in trials if trial is not winner]
    if not others:
        return f"{text}."
    other = min(others, key=lambda trial: trial.log_loss)
    return f"{text}; next came {_named(other)} with {other.correct.mean():.1%}."


def _named(trial: Trial) -> str:
    return f"{heads.HEADS[trial.head].title} on {described(trial.view.name, trial.map)}"


def _packed(choice: Choice) -> bytes:
    settings, arrays = choice.estimator.state()
    evidence = [candidate.to_dict() for candidate in choice.evidence]
    entries = {"estimator": settings, "evidence": evidence, "reason": choice.reason}
    return packed(entries, {**arrays, "out_of_sample": choice.out_of_sample})


def _unpacked(data: bytes) -> Choice:
    entries, arrays = unpacked(data)
    estimator = HeadPipeline.from_state(entries["estimator"], arrays)
    estimator.out_of_sample_logits_ = arrays["out_of_sample"]
    evidence = tuple(map(candidate_from, entries["evidence"]))
    return Choice(estimator=estimator, evidence=evidence, out_of_sample=arrays["out_of_sample"], reason=entries["reason"])


def candidate_from(row: Mapping[str, Any]) -> Candidate:
    """The inverse of `Candidate.to_dict`."""
    return Candidate(**{**row, "layers": tuple(row["layers"]), "weights": row["weights"] and tuple(row["weights"])})
