"""Trying methods of adaptation, and scoring them without a label of the target.

Two scores. The reverse accuracy: labels of the target as a method predicts them, learned from in the reverse direction by the same method,
and tested on the source's own labels; what loses the source's structure on the way loses it here. The information: how much the predicted
labels can be told from the target's features out of sample, in nats; true classes can, and noise cannot. A method whose reverse accuracy
is below that of no adaptation by more than two standard errors is out; of the others the most informative are averaged. The reverse
direction is from Zhong et al., Cross validation framework to choose amongst models and datasets for transfer learning, ECML 2010.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headstart.adaptation.dann import trained_adversarially
from headstart.adaptation.joint import Codes, Floats, Joint
from headstart.adaptation.self_training import class_frequencies, self_train
from headstart.maps import ALIGNMENTS, LayerMap
from headstart.matrix import principal_axes
from headstart.metrics.link import SOFTMAX
from headstart.text import enumeration, percent

AXES = 256
"""Principal axes of both worlds together that alignments see."""

NONE, SELF_TRAINING, SPREAD, DANN = "none", "self-training", "spread", "dann"
_STARTS = ("standardised", "coral", "subspace", "ot")  # the alignments from which self-training starts
_AGREED, _SHIFTED = 0.7, 0.25  # share of rows; sum of the differences, which was 0.23 at most where frequencies are the same
_CLOSE = 0.03  # of the best information; labels as informative as that are averaged


@dataclass(frozen=True, kw_only=True)
class AdaptationTrial:
    """A method, its scores, and what came of it."""

    method: str  # such as ``coral``, ``coral + self-training``, or ``none``
    reverse_accuracy: float  # on source labels
    reverse_error: float  # its standard error
    information: float  # in nats
    seconds: float
    chosen: bool = False
    reason: str = ""  # why it was not chosen


@dataclass(frozen=True, kw_only=True)
class AdaptationRecord:
    """What came of an adaptation, for the run.

    Attributes:
        to: the images that were adapted to, as they were named.
        images: how many there were; `used` of them took part.
        apart: how well the two worlds can be told apart, area under the ROC curve, out of sample (`headstart.reliability.separation`);
            None where that has too few images.
        before, after: accuracy on the source out of sample, each with its standard error.
        changed: the share of labels of the `used` images that the adaptation changed.
        trials: every method that was tried.
        points, aligned: some images of the source, then as many of the target, in two dimensions, before and after an alignment.
        reason: a sentence.
        also_tested: how many of the images are test images as well, whose labels took no part.
    """

    to: str = ""
    images: int
    used: int
    apart: float | None
    before: tuple[float, float]
    after: tuple[float, float]
    changed: float = 0.0
    trials: tuple[AdaptationTrial, ...]
    points: tuple[tuple[float, float], ...] = ()
    aligned: tuple[tuple[float, float], ...] = ()
    reason: str
    also_tested: int = 0

    @property
    def methods(self) -> tuple[str, ...]:
        """Those whose labels were learned from; empty where nothing was changed."""
        return tuple(trial.method for trial in self.trials if trial.chosen and trial.method != NONE)

    def sentence(self) -> str:
        """What was done, and what it changed, in a line."""
        if not self.methods:
            return self.reason
        kept = f"on the source {percent(self.before[0])} before and {percent(self.after[0])} after, out of sample"
        return f"by {enumeration(list(self.methods))}: {percent(self.changed)} of {self.used} images have another label now; {kept}"


@dataclass(frozen=True, eq=False)
class TriedMethod:
    """A trial with the probabilities of the target (m, k) that it is about."""

    row: AdaptationTrial
    probabilities: Floats


@dataclass(frozen=True, eq=False)
class Worlds:
    """Rows of two worlds: features of all layers, (n, D) and (m, D), and labels of the first, int64 (n,) of `classes` classes."""

    source: npt.NDArray[np.float32]
    target: npt.NDArray[np.float32]
    codes: Codes
    classes: int
    seed: int = 0
    slices: Sequence[tuple[str, int, int]] | None = None
    made: dict[str, Joint] = field(default_factory=dict)

    @cached_property
    def prior(self) -> Floats:
        """Class frequencies (k,) to expect in the target: those of the source, and of two first guesses as far as these agree.

        Where the guesses name different classes, their frequencies are not to be trusted. Where they agree on most rows, and the
        frequencies that they imply are far from those of the source, these are expected.
        """
        guesses = [self.joint(alignment).of_source(self.codes) for alignment in ("standardised", "ot")]
        agreement = float((guesses[0].argmax(axis=1) == guesses[1].argmax(axis=1)).mean())
        own, likely = np.bincount(self.codes, minlength=self.classes) / len(self.codes), np.mean(guesses, axis=0)
        implied = class_frequencies(likely, own)
        if agreement > _AGREED and np.abs(implied - own).sum() > _SHIFTED:
            return implied
        return np.asarray((1 - agreement**2) * own + agreement**2 * likely.mean(axis=0))

    def reduced(self, by: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Both worlds with every layer standardised, each ``each`` by itself or both by the ``source`` or ``target``, on principal axes."""
        own, other = LayerMap(self.slices), LayerMap(self.slices)
        own.fit(self.target if by == "target" else self.source)
        other.fit(self.source if by == "source" else self.target)
        both = np.concatenate([own.transform(self.source), other.transform(self.target)])
        both -= both.mean(axis=0)
        rotated = both @ principal_axes(both, AXES, seed=self.seed)
        return rotated[: len(self.source)], rotated[len(self.source) :]

    @cached_property
    def each(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """`reduced` by ``each``."""
        return self.reduced("each")

    def joint(self, alignment: str, *, back: bool = False) -> Joint:
        """The rows after an alignment; of the source to the target, or `back`, of the target to the source."""
        back = back and alignment not in ("source", "target", "standardised")  # which are the same in both directions
        key = f"{alignment} {back}"
        if key not in self.made:
            source, target = self.each
            if alignment in ("source", "target"):
                self.made[key] = Joint(*self.reduced(alignment), classes=self.classes)
            elif alignment == "standardised":  # which they are already
                self.made[key] = Joint(source, target, classes=self.classes)
            elif back:
                fitted = ALIGNMENTS[alignment]().fit(target, target=source)
                self.made[key] = Joint(fitted.transform_target(source), fitted.transform(target), classes=self.classes)
            else:
                fitted = ALIGNMENTS[alignment]().fit(source, target=target)
                self.made[key] = Joint(fitted.transform(source), fitted.transform_target(target), classes=self.classes)
        return self.made[key]


def try_methods(worlds: Worlds, methods: Sequence[str], *, step: Callable[[], None] = lambda: None) -> list[TriedMethod]:
    """Try no adaptation, and each of the methods, in that order: names of `plans`."""
    known, tried = plans(), []
    for name in (NONE, *methods):
        tried.append(_tried(worlds, name, known[name]))
        step()
    return tried


class Plan(NamedTuple):
    """A method: from which alignment it starts, whether a network is trained adversarially on it, and self-training after that."""

    alignment: str
    adversarial: bool = False
    then: str = ""  # nothing, `SELF_TRAINING`, or `SPREAD`, which is that with spreading

    def predicted(self, joint: Joint, source: Codes, *, prior: Floats, seed: int) -> Floats:
        """What it predicts for the target (m, k) of aligned rows, from labels of the source."""
        found = trained_adversarially(joint, source, seed=seed) if self.adversarial else joint.of_source(source)
        return self_train(joint, source, found, prior=prior, spread=self.then == SPREAD) if self.then else found


def plans() -> dict[str, Plan]:
    """The methods by name."""
    found = {NONE: Plan("source")} | {name: Plan(name) for name in ALIGNMENTS} | {DANN: Plan("standardised", adversarial=True)}
    for name in (*_STARTS, DANN):
        start = "" if name == "standardised" else f"{name} + "
        for then, title in ((SELF_TRAINING, SELF_TRAINING), (SPREAD, f"{SELF_TRAINING} over neighbours")):
            found[f"{start}{title}"] = found[name]._replace(then=then)
    return found


def _tried(worlds: Worlds, name: str, plan: Plan) -> TriedMethod:
    began = time.perf_counter()
    found = plan.predicted(worlds.joint(plan.alignment), worlds.codes, prior=worlds.prior, seed=worlds.seed)
    codes = found.argmax(axis=1)
    back = worlds.joint("target" if plan.alignment == "source" else plan.alignment, back=True).turned()
    prior = np.maximum(np.bincount(codes, minlength=worlds.classes) / len(codes), 1e-3)
    right = plan.predicted(back, codes, prior=prior, seed=worlds.seed).argmax(axis=1) == worlds.codes
    row = AdaptationTrial(
        method=name, reverse_accuracy=float(right.mean()), reverse_error=float(right.std() / np.sqrt(len(right))),
        information=information(worlds.joint("standardised"), codes, seed=worlds.seed), seconds=time.perf_counter() - began,
    )  # fmt: skip
    return TriedMethod(row, found)


def information(joint: Joint, codes: Codes, *, seed: int) -> float:
    """How much labels of the target are known from its features, in nats: their entropy, less the log loss out of sample."""
    frequency = np.bincount(codes, minlength=joint.classes) / len(codes)
    entropy = -float((frequency[frequency > 0] * np.log(frequency[frequency > 0])).sum())
    if entropy == 0:
        return 0.0
    found = joint.out_of_sample(codes, seed=seed)[np.arange(len(codes)), codes]
    return entropy + float(np.log(np.maximum(found, 1e-3)).mean())


def consensus(tried: Sequence[TriedMethod], *, asked: bool = False) -> tuple[list[TriedMethod], Floats]:
    """The trials with those chosen marked and the reason of every other; and the mean probabilities (m, k) of the chosen ones.

    The first is no adaptation. It is chosen, alone, where no other is more informative and not worse in reverse. With `asked`, the most
    informative of the others are chosen whatever they lose.
    """
    none = tried[0].row
    least = -math.inf if asked else none.reverse_accuracy - 2 * none.reverse_error
    allowed = [one for one in tried if one is tried[0] or one.row.reverse_accuracy >= least]
    best = max(one.row.information for one in allowed[asked:])
    chosen = [one for one in allowed[1:] if one.row.information >= (1 - _CLOSE) * best] if asked or none.information < best else tried[:1]

    def marked(one: TriedMethod) -> TriedMethod:
        if one in chosen:
            reason = ""
        elif one in allowed:
            reason = "less informative"
        else:
            reason = f"loses the source: below {percent(least)} in reverse"
        return TriedMethod(AdaptationTrial(**{**vars(one.row), "chosen": one in chosen, "reason": reason}), one.probabilities)

    logs = np.mean([np.log(one.probabilities + 1e-6) for one in chosen], axis=0)
    return [marked(one) for one in tried], SOFTMAX.probabilities(logs)
