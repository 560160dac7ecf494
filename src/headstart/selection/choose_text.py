"""Choosing between a head on a network's features of texts, one on their terms, and both together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart import heads
from headstart.errors import DataError
from headstart.features.prepared import result_key
from headstart.files import packed, unpacked
from headstart.heads.labels import ClassWeight, EncodedLabels, encode
from headstart.heads.terms import TermsHead
from headstart.matrix import FeatureMatrix
from headstart.modalities.text.terms import TermCounts
from headstart.selection.candidates import Floats, Scored
from headstart.selection.choice import NONE, Candidate, Choice, HeadPipeline, described
from headstart.selection.choose import as_good_as_best, candidate_from, choose_head
from headstart.selection.fused import TERMS, FusedHead, fused_candidate
from headstart.settings.field import one_of, require

if TYPE_CHECKING:
    from headstart.backbones import Layer

HEADS = ("auto", TERMS, *heads.HEADS)  # what `head` may be
VERSION = 1  # of cached choices; changes with anything that changes what is chosen
_TERMS_STEPS = 3  # of the progress, for terms and both


@dataclass(frozen=True, eq=False)
class Contender(Scored):
    """A fitted head with its logits (n, k) out of sample."""

    named: str
    head: FusedHead
    candidate: Candidate
    targets: EncodedLabels
    logits: Floats


def choose_text(
    values: FeatureMatrix | None, terms: TermCounts, y: npt.ArrayLike, *, layers: Sequence[Layer], head: str = "auto", map: str = NONE,
    class_weight: ClassWeight = None, groups: npt.ArrayLike | None = None, seed: int = 0,
    cached: Callable[[str, Callable[[], bytes]], bytes] | None = None, progress: Callable[[int, int], None] | None = None,
) -> Choice:  # fmt: skip
    """Choose what to classify texts by, from out-of-sample scores of all training texts: features, terms, or both; a `FusedHead`.

    The simplest that is as good as the best is taken, in this order: terms, features, both; but none that is worse than terms. With `head`
    ``terms`` these alone are tried, with the name of another head that alone, on features. Features (n, D) may be None, where there is no
    network; all other arguments are those of `choose_head`, and so are the errors.
    """
    require(one_of(*HEADS), head=head)
    labels = y if isinstance(y, np.ndarray) else np.asarray(y)
    named = None if groups is None else np.asarray(groups)
    if len(labels) != len(terms) or (values is not None and len(values) != len(terms)):
        told = "" if values is None else f" and {len(values)} feature vectors"
        raise DataError(f"There are {len(terms)} texts{told}, and {len(labels)} labels; each text needs one.")

    def choose() -> Choice:
        return _choose(values, terms, labels, named, layers, head, map, class_weight, seed, progress)

    if cached is None:
        return choose()
    slices = [(layer.name, layer.start, layer.stop) for layer in layers]
    counted = (terms.indptr, terms.codes, terms.counts)
    key = result_key("text choice", VERSION, slices, head, map, class_weight, seed, values, *counted, labels, named)
    made: list[Choice] = []

    def compute() -> bytes:
        made.append(choose())
        return _packed(made[0])

    data = cached(key, compute)
    return made[0] if made else _unpacked(data)


def _choose(
    values: FeatureMatrix | None, terms: TermCounts, labels: npt.NDArray[Any], groups: npt.NDArray[Any] | None, layers: Sequence[Layer],
    head: str, map: str, class_weight: ClassWeight, seed: int, progress: Callable[[int, int], None] | None,
) -> Choice:  # fmt: skip
    targets, evidence, contenders = _targets(labels, groups, class_weight), [], []
    on_features = None
    if values is not None and head != TERMS:

        def step(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total + _TERMS_STEPS)

        choice = choose_head(
            values, labels, layers=layers, head=head, map=map, class_weight=class_weight, groups=groups, seed=seed, progress=step
        )
        evidence = [row for row in choice.evidence if not row.chosen]
        on_features = _contender(choice.estimator, None, targets, choice.evidence[0])
        contenders.append(on_features)
    if head in ("auto", TERMS):
        began = time.perf_counter()
        fitted = TermsHead(class_weight=class_weight, seed=seed).learn(terms, targets)
        alone = Candidate(
            view="words and characters", layers=(), head=TERMS, hyperparameters={"C": fitted.C_}, images=len(terms), accuracy=0,
            accuracy_error=0, log_loss=0, log_loss_error=0, seconds=round(time.perf_counter() - began, 4),
        )  # fmt: skip
        contenders.insert(0, _contender(None, fitted, targets, alone))
        if on_features is not None:
            contenders.append(_contender(on_features.head.pipeline_, fitted, targets, on_features.candidate, alone))
    if progress is not None:
        progress(1, 1)
    winner = pick(contenders)
    rows = [replace(one.candidate, **one.scores(), chosen=one is winner) for one in contenders]
    evidence = sorted([*rows, *evidence], key=lambda candidate: (not candidate.chosen, candidate.log_loss))
    return Choice(
        estimator=winner.head, evidence=tuple(evidence), out_of_sample=winner.head.out_of_sample_logits_, reason=_reason(winner, contenders)
    )


def _targets(labels: npt.NDArray[Any], groups: npt.NDArray[Any] | None, class_weight: ClassWeight) -> EncodedLabels:
    try:
        targets = encode(labels)
    except ValueError as error:
        raise DataError(str(error)) from error
    numbers = None if groups is None else np.unique(groups, return_inverse=True)[1].astype(np.int64)
    return replace(targets, groups=numbers).weighted(class_weight)


def _contender(
    pipeline: HeadPipeline | None, terms: TermsHead | None, targets: EncodedLabels, candidate: Candidate, other: Candidate | None = None
) -> Contender:
    head = FusedHead.of_fitted(pipeline, terms, targets)
    names = [] if pipeline is None else [f"{heads.HEADS[candidate.head].title} on {described(candidate.view, candidate.map)}"]
    names += [] if terms is None else [f"{terms.title} on words and characters"]
    if other is not None:
        candidate = fused_candidate(candidate, other, head)
    return Contender(" with ".join(names), head, candidate, targets, head.out_of_sample_logits_)


def pick(contenders: Sequence[Contender]) -> Contender:
    """The first that is as good as the best and no worse than terms, where these are the first."""
    most = contenders[0].criterion if contenders[0].head.terms_ is not None else np.inf
    return next(one for one in as_good_as_best(contenders) if one.criterion <= most)


def _reason(winner: Contender, contenders: Sequence[Contender]) -> str:
    """One sentence: what was chosen, how good it was, and against what."""
    text = f"{winner.named}: {winner.correct.mean():.1%} right out of sample on {len(winner.targets)} training texts"
    others = [f"{one.named} {one.correct.mean():.1%}" for one in contenders if one is not winner]
    return f"{text}; {', '.join(others)}." if others else f"{text}."


def _packed(choice: Choice) -> bytes:
    settings, arrays = choice.estimator.state()
    evidence = [candidate.to_dict() for candidate in choice.evidence]
    entries = {"estimator": settings, "evidence": evidence, "reason": choice.reason}
    return packed(entries, {**arrays, "out_of_sample": choice.out_of_sample})


def _unpacked(data: bytes) -> Choice:
    entries, arrays = unpacked(data)
    estimator = FusedHead.from_state(entries["estimator"], arrays)
    estimator.out_of_sample_logits_ = arrays["out_of_sample"]
    evidence = tuple(map(candidate_from, entries["evidence"]))
    return Choice(estimator=estimator, evidence=evidence, out_of_sample=arrays["out_of_sample"], reason=entries["reason"])
