"""Choosing layers and head from out-of-sample scores, once for the same features and labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError, ParameterError, RunError, StoreError, nearest
from headstart.heads.labels import ClassWeight, EncodedLabels, encode
from headstart.heads.linalg import one_thread
from headstart.selection.candidates import FINALISTS, Trial, TrialData, mean_and_error, score_candidates
from headstart.selection.choice import Candidate, Choice, HeadPipeline, make_head

if TYPE_CHECKING:
    from headstart.backbones import Layer
    from headstart.features import FeatureStore

HEADS = ("auto", "logistic", "ridge", "kernel_ridge", "neighbours", "centroid")
"""What `head` may be."""

SMALL = 1500
"""Images up to which several threads would rather wait for each other than help."""

SIMPLICITY = ("centroid", "logistic", "ridge", "neighbours", "kernel_ridge")
"""From the simplest to the least simple."""

VERSION = 4
"""Of cached choices; changes with anything that changes what is chosen."""


def choose_head(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    layers: Sequence[Layer],
    head: str = "auto",
    class_weight: ClassWeight = None,
    groups: npt.ArrayLike | None = None,
    seed: int = 0,
    cache: FeatureStore | None = None,
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
        cache: where an earlier choice from the same data is looked up, and this one is stored.
        progress: called with (steps done, steps in all).

    Raises:
        DataError: lengths that differ, features that are not finite, or fewer than two classes.
        ParameterError: an unknown head, or layers that do not fit the features.
    """
    if head not in HEADS:
        raise ParameterError(f"head must be one of {', '.join(HEADS)}, got {head!r}.{nearest(str(head), HEADS)}")
    values, labels, targets, names = _checked(X, y, layers, groups)
    if cache is None:
        return _choose(values, labels, targets, layers=layers, head=head, class_weight=class_weight, seed=seed, progress=progress)
    key = _key(values, labels, layers=layers, groups=names, settings={"head": head, "class_weight": class_weight, "seed": seed})
    choice = None
    with suppress(StoreError):  # a cache that cannot be read or written costs time, no more
        stored = cache.get_result(key)
        choice = None if stored is None else _unpacked(stored)
    if choice is None:
        choice = _choose(values, labels, targets, layers=layers, head=head, class_weight=class_weight, seed=seed, progress=progress)
        with suppress(StoreError):
            cache.put_result(key, _packed(choice))
    return choice


def _checked(
    X: npt.ArrayLike, y: npt.ArrayLike, layers: Sequence[Layer], groups: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], EncodedLabels, npt.NDArray[Any] | None]:
    """Features, labels, encoded labels with group numbers, and group names."""
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
    return values, labels, replace(targets, groups=numbers), named


def _choose(
    values: npt.NDArray[np.float32], labels: npt.NDArray[Any], targets: EncodedLabels, *, layers: Sequence[Layer], head: str,
    class_weight: ClassWeight, seed: int, progress: Callable[[int, int], None] | None,
) -> Choice:  # fmt: skip
    data = TrialData(values, targets, layers=layers, class_weight=class_weight, seed=seed)
    pairs = [("kernel_ridge" if head == "auto" else head, view) for view in data.views]
    step = _Steps(len(pairs) + FINALISTS + 2, progress)
    trials = score_candidates(data, pairs, step, linear_too=head == "auto")
    finals = [trial for trial in trials if len(trial.targets) == len(data.targets)]
    winner = pick(finals)
    chosen_head = make_head(winner.head, winner.hyperparameters, class_weight=class_weight, seed=seed)
    with one_thread() if len(values) <= SMALL else nullcontext():
        if winner.fitted is not None:
            winner.fitted.set_params(**chosen_head.get_params())
            estimator = HeadPipeline.of_fitted(winner.view.map().fit(values), winner.fitted)
        else:
            estimator = HeadPipeline(winner.view.map(), chosen_head).fit(values, labels, groups=targets.groups)
    step.finish()
    evidence = sorted(
        (trial.candidate(chosen=trial is winner) for trial in trials), key=lambda candidate: (not candidate.chosen, candidate.log_loss)
    )
    return Choice(
        estimator=estimator, evidence=tuple(evidence), out_of_sample=estimator.out_of_sample_logits_, reason=_reason(winner, finals)
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


def pick(trials: Sequence[Trial]) -> Trial:
    """The simplest of the trials that are as good as the best; all scored on the same images.

    The best has the lowest product of log loss and error rate: the one is smooth but depends on confidence as well, the other is what
    counts but jumps from image to image. As good is what is within one standard error (of the paired difference) of it in both.
    """
    weights = trials[0].targets.weights
    count = len(trials[0].targets)
    best = min(trials, key=lambda trial: trial.log_loss * (np.average(1 - trial.correct, weights=weights) + 0.5 / count))

    def as_good(trial: Trial) -> bool:
        differences = (trial.losses - best.losses, best.correct - trial.correct)
        return all(mean <= error for mean, error in (mean_and_error(difference, weights) for difference in differences))

    return min(filter(as_good, trials), key=lambda trial: (SIMPLICITY.index(trial.head), trial.view.width))


_NAMES = {
    "logistic": "logistic regression",
    "ridge": "ridge regression",
    "kernel_ridge": "kernel ridge",
    "neighbours": "nearest neighbours",
    "centroid": "nearest centroid",
}


def _reason(winner: Trial, trials: Sequence[Trial]) -> str:
    """One sentence: what was chosen, how good it was, and against what."""
    text = f"{_named(winner)}: {winner.correct.mean():.1%} right out of sample on {len(winner.targets)} training images"
    others = [trial for trial in trials if trial is not winner]
    if not others:
        return f"{text}."
    other = min(others, key=lambda trial: trial.log_loss)
    return f"{text}; next came {_named(other)} with {other.correct.mean():.1%}."


def _named(trial: Trial) -> str:
    return f"{_NAMES[trial.head]} on {trial.view.name}"


def _key(
    X: npt.NDArray[np.float32],
    y: npt.NDArray[Any],
    *,
    layers: Sequence[Layer],
    groups: npt.NDArray[Any] | None,
    settings: dict[str, Any],
) -> str:
    """The key of a choice, which covers everything that it depends on."""
    described = {
        "version": VERSION,
        "numpy": np.__version__.split(".")[:2],
        "layers": [[layer.name, layer.start, layer.stop] for layer in layers],
        "settings": settings,
        "features": list(X.shape),
        "labels": [str(y.dtype), list(y.shape)],
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=repr).encode())
    digest.update(np.ascontiguousarray(X).data)
    for labels in (y, groups):
        if labels is None:
            digest.update(b"none")
        elif labels.dtype == object:
            digest.update(repr([(type(label).__name__, label) for label in labels.ravel().tolist()]).encode())
        else:
            digest.update(np.ascontiguousarray(labels).tobytes())
    return f"choice/{digest.hexdigest()}"


def _packed(choice: Choice) -> bytes:
    """A choice as bytes (safetensors)."""
    from safetensors.numpy import save

    settings, arrays = choice.estimator.state()
    evidence = [candidate.to_dict() for candidate in choice.evidence]
    entries = {"estimator": settings, "evidence": evidence, "reason": choice.reason}
    packed: bytes = save({**arrays, "out_of_sample": np.ascontiguousarray(choice.out_of_sample)}, metadata={"choice": json.dumps(entries)})
    return packed


def _unpacked(packed: bytes) -> Choice | None:
    """The choice of these bytes; None where they are damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(packed)
        length = int.from_bytes(packed[:8], "little")
        entries = json.loads(json.loads(packed[8 : 8 + length])["__metadata__"]["choice"])
        out_of_sample = arrays.pop("out_of_sample")
        evidence = tuple(
            Candidate(**{**entry, "layers": tuple(entry["layers"]), "weights": entry["weights"] and tuple(entry["weights"])})
            for entry in entries["evidence"]
        )
        estimator = HeadPipeline.from_state(entries["estimator"], arrays)
        estimator.out_of_sample_logits_ = out_of_sample
        return Choice(estimator=estimator, evidence=evidence, out_of_sample=out_of_sample, reason=str(entries["reason"]))
    except (SafetensorError, RunError, ValueError, KeyError, TypeError):
        return None
