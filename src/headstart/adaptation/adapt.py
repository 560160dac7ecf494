"""From labels of one world and unlabelled inputs of another to one model for both.

Whatever method predicts the labels of the target, the model that is kept learns from the source's own labels and from these, the surest of
them, on one scale of the features: an ordinary head, which serves both worlds and is exported like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headstart.adaptation.joint import Floats, Joint
from headstart.adaptation.self_training import surest
from headstart.adaptation.trials import NONE, SELF_TRAINING, AdaptationRecord, AdaptationTrial, Tried, Worlds, consensus, plans, try_methods
from headstart.errors import DataError
from headstart.heads.labels import ClassWeight, EncodedLabels, stratified_rows
from headstart.heads.linalg import one_thread
from headstart.maps import ALIGNMENTS
from headstart.matrix import FeatureMatrix
from headstart.selection import Candidate, Choice, HeadPipeline
from headstart.selection.choice import unfitted
from headstart.selection.tried import OutOfSample
from headstart.text import plural

if TYPE_CHECKING:
    from headstart.backbones import Layer

METHODS = ("auto", NONE, *ALIGNMENTS, SELF_TRAINING)
"""What may be asked for."""

FEWEST = 20
"""Inputs of the target that are needed."""

KEPT = 0.02
"""Accuracy on the source, out of sample, that may be lost."""

_ROWS = 1000  # of either world on which methods are tried
_WEIGHTS = (1.0, 0.3, 0.1)  # of a predicted label, against one of the source; smaller ones where the source would lose too much
_BY_CHANCE = 1.5  # three standard errors of a share of one half, times the root of the number of guesses
_ONE_WORLD = "No adaptation: these images cannot be told from the training images, so there is nothing to adapt to."
_POINTS = 150  # of either world that are drawn
_SURE = 0.9  # share of the target's predicted labels, the surest, that the model learns from


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapted:
    """The model with its evidence, or the one before where nothing was gained; and what came of the adaptation."""

    choice: Choice
    record: AdaptationRecord


def adapt(
    X: FeatureMatrix, targets: EncodedLabels, Z: FeatureMatrix, *, choice: Choice, layers: Sequence[Layer], method: str = "auto",
    class_weight: ClassWeight = None, seed: int = 0, progress: Callable[[int, int], None] | None = None,
) -> Adapted:  # fmt: skip
    """Adapt the chosen model of features X (n, D) and their labels to unlabelled features Z (m, D) of another world.

    With ``auto`` no adaptation is a candidate too, and is kept where no other is shown to gain, where the two worlds cannot be told apart,
    or where the model would lose more than `KEPT` on the source. Labels are one class each. Raises DataError for fewer than `FEWEST` rows
    of Z.
    """
    if len(Z) < FEWEST:
        raise DataError(f"Only {plural(len(Z), 'image')} to adapt to; at least {FEWEST} are needed. Give more, or leave out --adapt-to.")
    generator = np.random.default_rng(seed)
    rows = stratified_rows(targets, _ROWS, seed=seed)
    others = np.sort(generator.permutation(len(Z))[:_ROWS])
    target = np.asarray(Z[others], dtype=np.float32)
    worlds = Worlds(
        np.asarray(X[rows], dtype=np.float32), target, targets.codes[rows], len(targets.classes), seed,
        [(layer.name, layer.start, layer.stop) for layer in layers],
    )  # fmt: skip
    with one_thread():  # many small products
        apart = _apart(worlds)
    one_world = method == "auto" and apart < 0.5 + _BY_CHANCE / np.sqrt(2 * min(len(rows), len(target)))
    names = [] if one_world else _names(method)
    done = iter(range(1, len(names) + 2))
    with one_thread():
        tried = try_methods(worlds, names, step=lambda: None if progress is None else progress(next(done), len(names) + 1))
    tried, likely = consensus(tried, asked=method not in ("auto", NONE))
    before = _accuracy(choice, targets)
    unadapted = np.asarray(choice.estimator.predict_proba(target)).argmax(axis=1)
    record = AdaptationRecord(
        images=len(Z), used=len(target), apart=apart, before=before, after=before,
        trials=tuple(one.row for one in tried), points=_points(worlds, "source"), aligned=_points(worlds, _start(tried)),
        reason=_ONE_WORLD if one_world else "No adaptation: no method was shown to gain." if names else "No adaptation was asked for.",
    )  # fmt: skip
    if tried[0].row.chosen:
        return Adapted(choice=choice, record=record)
    for weight in _WEIGHTS:
        model = _model(X, targets, target, likely, choice=choice, layers=layers, class_weight=class_weight, seed=seed, weight=weight)
        after = _accuracy(model, targets)
        if before[0] - after[0] <= KEPT:
            break
    if method == "auto" and before[0] - after[0] > KEPT:
        reason = f"No adaptation: the model would lose {100 * (before[0] - after[0]):.1f} points on the source."
        unchosen = tuple(_unchosen(one.row) for one in tried)
        return Adapted(choice=choice, record=replace(record, trials=unchosen, reason=reason))
    changed = float((np.asarray(model.estimator.predict_proba(target)).argmax(axis=1) != unadapted).mean())
    return Adapted(choice=model, record=replace(record, after=after, changed=changed, reason=model.reason))


def _names(method: str) -> list[str]:
    if method == NONE:
        return []
    return [name for name in plans() if name != NONE and (method in ("auto", name) or (method == SELF_TRAINING and SELF_TRAINING in name))]


def _start(tried: Sequence[Tried]) -> str:
    """The alignment of the first chosen method; with none chosen, the plainest."""
    return next((plans()[one.row.method][0] for one in tried[1:] if one.row.chosen), "standardised")


def _points(worlds: Worlds, alignment: str) -> tuple[tuple[float, float], ...]:
    """Some rows of the source, then as many of the target, on the first two principal axes of both after an alignment."""
    joint = worlds.joint(alignment)
    size = min(_POINTS, joint.size, len(joint.target))
    first = joint.rotated[:, np.argsort(-joint.rotated.var(axis=0), kind="stable")[:2]]
    generator = np.random.default_rng(worlds.seed)
    ours, theirs = (np.sort(generator.permutation(count)[:size]) for count in (joint.size, len(joint.target)))
    return tuple((round(float(x), 2), round(float(y), 2)) for x, y in first[np.concatenate([ours, joint.size + theirs])])


def _unchosen(row: AdaptationTrial) -> AdaptationTrial:
    none = row.method == NONE
    return replace(row, chosen=none, reason="" if none else row.reason or "loses too much on the source")


def _accuracy(choice: Choice, targets: EncodedLabels) -> tuple[float, float]:
    assert choice.out_of_sample is not None
    scores = OutOfSample(choice.out_of_sample, targets).scores()
    return scores["accuracy"], scores["accuracy_error"]


def _apart(worlds: Worlds) -> float:
    """The share of correct guesses, out of sample, of which world a row is from; both count the same."""
    source, target = worlds.joint("source").rotated[: len(worlds.source)], worlds.joint("source").target
    size = min(len(source), len(target))
    generator = np.random.default_rng(worlds.seed)
    both = np.concatenate([source[generator.permutation(len(source))[:size]], target[generator.permutation(len(target))[:size]]])
    told = Joint(both[:0], both, classes=2)
    codes = (np.arange(len(both)) >= size).astype(np.int64)
    return float((told.out_of_sample(codes, seed=worlds.seed).argmax(axis=1) == codes).mean())


def _model(
    X: FeatureMatrix, targets: EncodedLabels, target: npt.NDArray[np.float32], likely: Floats, *, choice: Choice, layers: Sequence[Layer],
    class_weight: ClassWeight, seed: int, weight: float,
) -> Choice:  # fmt: skip
    """The head of labels of both worlds: that which was chosen for the source, or logistic regression on all layers."""
    part = surest(likely, _SURE)
    codes, rows = likely.argmax(axis=1)[part], target[part]
    both = np.concatenate([np.asarray(X, dtype=np.float32), rows])
    labels = np.concatenate([targets.classes[targets.codes], targets.classes[codes]])
    weights = np.concatenate([np.ones(len(X)), np.full(len(rows), weight * min(1.0, len(X) / len(rows)))])
    groups = None
    if targets.groups is not None:
        groups = np.concatenate([targets.groups, targets.groups.max() + 1 + np.arange(len(rows))])
    winner = next(row for row in choice.evidence if row.chosen)
    plain = replace(
        winner, view="all layers", layers=tuple(layer.name for layer in layers), weights=None, head="logistic", hyperparameters={}
    )
    made: list[tuple[float, Candidate, HeadPipeline]] = []
    for row in [winner, plain][: 1 if winner.head == plain.head and winner.layers == plain.layers else 2]:
        model = unfitted(row, layers=layers, class_weight=class_weight, seed=seed).fit(both, labels, weights, groups)
        right = model.out_of_sample_logits_.argmax(axis=1) == np.concatenate([targets.codes, codes])
        made.append((float(right[: len(X)].mean() + right[len(X) :].mean()), row, model))
    _, row, model = max(made, key=lambda one: one[0])
    out_of_sample = np.asarray(model.out_of_sample_logits_[: len(X)], dtype=np.float64)
    scored = replace(row, view=f"{row.view}, adapted", chosen=True, **OutOfSample(out_of_sample, targets).scores())
    reason = f"{row.head.replace('_', ' ')} on {row.view}, learned from {len(X)} labelled images and {len(rows)} predicted labels"
    evidence = (scored, *(replace(one, chosen=False) for one in choice.evidence))
    return Choice(estimator=model, evidence=evidence, out_of_sample=out_of_sample, reason=f"{reason}.")
