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

from headstart.adaptation.joint import Floats
from headstart.adaptation.self_training import surest
from headstart.adaptation.trials import (
    DANN,
    NONE,
    SELF_TRAINING,
    AdaptationRecord,
    AdaptationTrial,
    TriedMethod,
    Worlds,
    consensus,
    plans,
    try_methods,
)
from headstart.errors import DataError
from headstart.heads.labels import ClassWeight, EncodedLabels, stratified_rows
from headstart.heads.linalg import one_thread
from headstart.maps import ALIGNMENTS
from headstart.matrix import FeatureMatrix
from headstart.reliability.shift import LEAST, separation
from headstart.selection import Candidate, Choice, HeadPipeline
from headstart.selection.choice import unfitted
from headstart.selection.tried import OutOfSample
from headstart.text import plural

if TYPE_CHECKING:
    from headstart.backbones import Layer

METHODS = ("auto", NONE, *ALIGNMENTS, SELF_TRAINING, DANN)
"""What may be asked for."""

FEWEST = LEAST
"""Inputs of the target that are needed."""

KEPT = 0.02
"""Accuracy on the source, out of sample, that may be lost."""

_ROWS = 1000  # of either world on which methods are tried
_WEIGHTS = (1.0, 0.3, 0.1)  # of a predicted label, against one of the source; smaller ones where the source would lose too much
_ONE_WORLD = "No adaptation: these images cannot be told from the training images, so there is nothing to adapt to."
_POINTS = 150  # of either world that are drawn
_SURE = 0.9  # share of the target's predicted labels, the surest, that the model learns from


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """The world with labels: features (n, D) of `layers`, their labels, one class each, and the model that was chosen for them."""

    features: FeatureMatrix
    targets: EncodedLabels
    choice: Choice
    layers: Sequence[Layer]
    class_weight: ClassWeight = None
    seed: int = 0

    def worlds(self, target: npt.NDArray[np.float32]) -> Worlds:
        """Some rows of this world and the rows of another (m, D), for methods to be tried on."""
        rows = stratified_rows(self.targets, _ROWS, seed=self.seed)
        slices = [(layer.name, layer.start, layer.stop) for layer in self.layers]
        known = np.asarray(self.features[rows], dtype=np.float32)
        return Worlds(known, target, self.targets.codes[rows], len(self.targets.classes), self.seed, slices)

    def accuracy(self, choice: Choice) -> tuple[float, float]:
        """Of a model of these features, out of sample, with its standard error."""
        assert choice.out_of_sample is not None
        scores = OutOfSample(choice.out_of_sample, self.targets).scores()
        return scores["accuracy"], scores["accuracy_error"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapted:
    """The model with its evidence, or the one before where nothing was gained; and what came of the adaptation."""

    choice: Choice
    record: AdaptationRecord


def adapt(
    source: Source, Z: FeatureMatrix, *, method: str = "auto", progress: Callable[[int, int], None] | None = None
) -> Adapted:  # fmt: skip
    """Adapt the model of one world to unlabelled features Z (m, D) of another.

    With ``auto`` no adaptation is a candidate too, and is kept where no other is shown to gain, where the two worlds cannot be told apart,
    or where the model would lose more than `KEPT` on the source. Raises DataError for fewer than `FEWEST` rows of Z.
    """
    if len(Z) < FEWEST:
        raise DataError(f"Only {plural(len(Z), 'image')} to adapt to; at least {FEWEST} are needed. Give more, or leave out --adapt-to.")
    others = np.sort(np.random.default_rng(source.seed).permutation(len(Z))[:_ROWS])
    target = np.asarray(Z[others], dtype=np.float32)
    worlds = source.worlds(target)
    with one_thread():  # many small products
        apart = separation(worlds.source, target, seed=source.seed)
        one_world = method == "auto" and apart is not None and not apart.shown
        names = [] if one_world else _names(method)
        done = iter(range(1, len(names) + 2))
        tried = try_methods(worlds, names, step=lambda: None if progress is None else progress(next(done), len(names) + 1))
    tried, likely = consensus(tried, asked=method not in ("auto", NONE))
    before = source.accuracy(source.choice)
    unadapted = np.asarray(source.choice.estimator.predict_proba(target)).argmax(axis=1)
    record = AdaptationRecord(
        images=len(Z), used=len(target), apart=None if apart is None else apart.auc, before=before, after=before,
        trials=tuple(one.row for one in tried), points=_points(worlds, "source"), aligned=_points(worlds, _start(tried)),
        reason=_ONE_WORLD if one_world else "No adaptation: no method was shown to gain." if names else "No adaptation was asked for.",
    )  # fmt: skip
    if tried[0].row.chosen:
        return Adapted(choice=source.choice, record=record)
    for weight in _WEIGHTS:
        model = _model(source, target, likely, weight=weight)
        after = source.accuracy(model)
        if before[0] - after[0] <= KEPT:
            break
    if method == "auto" and before[0] - after[0] > KEPT:
        reason = f"No adaptation: the model would lose {100 * (before[0] - after[0]):.1f} points on the source."
        unchosen = tuple(_unchosen(one.row) for one in tried)
        return Adapted(choice=source.choice, record=replace(record, trials=unchosen, reason=reason))
    changed = float((np.asarray(model.estimator.predict_proba(target)).argmax(axis=1) != unadapted).mean())
    return Adapted(choice=model, record=replace(record, after=after, changed=changed, reason=model.reason))


def _names(method: str) -> list[str]:
    """The methods to try. DANN alone is tried where it is asked for: it takes as long as with self-training after it, which tells more."""
    if method == NONE:
        return []
    if method == "auto":
        return [name for name in plans() if name not in (NONE, DANN)]
    return [name for name in plans() if method == name or (method == SELF_TRAINING and SELF_TRAINING in name)]


def _start(tried: Sequence[TriedMethod]) -> str:
    """The alignment of the first chosen method; with none chosen, the plainest."""
    return next((plans()[one.row.method].alignment for one in tried[1:] if one.row.chosen), "standardised")


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


def _model(source: Source, target: npt.NDArray[np.float32], likely: Floats, *, weight: float) -> Choice:
    """The head of labels of both worlds: that which was chosen for the source, or logistic regression on all layers."""
    targets, count = source.targets, len(source.targets)
    part = surest(likely, _SURE)
    codes, rows = likely.argmax(axis=1)[part], target[part]
    both = np.concatenate([np.asarray(source.features, dtype=np.float32), rows])
    labels = np.concatenate([targets.classes[targets.codes], targets.classes[codes]])
    weights = np.concatenate([np.ones(count), np.full(len(rows), weight * min(1.0, count / len(rows)))])
    groups = None
    if targets.groups is not None:
        groups = np.concatenate([targets.groups, targets.groups.max() + 1 + np.arange(len(rows))])
    winner = next(row for row in source.choice.evidence if row.chosen)
    plain = replace(
        winner, view="all layers", layers=tuple(layer.name for layer in source.layers), weights=None, map="none", map_settings={},
        head="logistic", hyperparameters={},
    )  # fmt: skip
    made: list[tuple[float, Candidate, HeadPipeline]] = []
    for row in [winner, plain][: 1 if (winner.head, winner.map, winner.layers) == (plain.head, plain.map, plain.layers) else 2]:
        model = unfitted(row, layers=source.layers, class_weight=source.class_weight, seed=source.seed).fit(both, labels, weights, groups)
        right = model.out_of_sample_logits_.argmax(axis=1) == np.concatenate([targets.codes, codes])
        made.append((float(right[:count].mean() + right[count:].mean()), row, model))
    _, row, model = max(made, key=lambda one: one[0])
    out_of_sample = np.asarray(model.out_of_sample_logits_[:count], dtype=np.float64)
    scored = replace(row, view=f"{row.view}, adapted", chosen=True, **OutOfSample(out_of_sample, targets).scores())
    reason = f"{row.head.replace('_', ' ')} on {row.view}, learned from {count} labelled images and {len(rows)} predicted labels"
    evidence = (scored, *(replace(one, chosen=False) for one in source.choice.evidence))
    return Choice(estimator=model, evidence=evidence, out_of_sample=out_of_sample, reason=f"{reason}.")
