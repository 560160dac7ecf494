"""Labels that are probably wrong: images whose label a model contradicts that did not see them while it was fitted.

A hard picture is contradicted too, so being contradicted is not enough. Two explanations are fitted to the labels by maximum likelihood:
that each was drawn with the probabilities of the model, and that a share of them was then replaced at random by another class. In the
second the probabilities may be sharper: it is wrong labels that make a model seem less sure than it can be. Only where the second explains
the labels better are any called wrong, and then those that it holds for rather wrong than right. The noise model is that of Lawrence and
Schölkopf, "Estimating a kernel Fisher discriminant in the presence of label noise", ICML 2001. Ranking labels by out-of-sample
probabilities: Northcutt, Jiang and Chuang, "Confident learning", JAIR 70 (2021) 1373.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.audit.excerpts import Named
from headstart.audit.findings import Finding, Severity
from headstart.data import Dataset, Labels
from headstart.errors import ParameterError
from headstart.metrics import SOFTMAX, Link

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_SCALES = np.geomspace(0.5, 8.0, 33)  # of the logits; they come calibrated, to labels of which some may be wrong
_MOST = 0.4  # share of wrong labels; of two classes half wrong could be all wrong
_STEPS = 14  # of bisection: the share within 2.4e-5
_LEAST = 1e-12  # probability; even a model that is surer than that pays no more than 28 nats for one label
_BETTER = 1.0  # nats: of data without wrong labels 8 % gain so much by chance (half a chi-square variable of one degree, or nothing)
_FEWEST, _MEASURED = 50, 20_000  # images: too few to tell wrong from hard; enough to fit two numbers
_WARNED = 0.01  # share of wrong labels from which on it is a warning


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """Images in the order in which to look at their labels."""

    order: Indices  # int64 (m,), positions in the targets, likely wrong first; images without logits are left out
    suggested: Indices  # int64 (m,), the class that the model prefers; of several labels the one to be added or taken away
    score: Floats  # float64 (m,), from 1 to 0: the probability, by the model, of any other label than the one given
    likely: int  # so many of the first are probably wrong; 0 if the labels can be explained without wrong ones
    share: float  # the estimated share of wrong labels


def rank_label_errors(logits: npt.ArrayLike, targets: npt.ArrayLike, *, link: Link = SOFTMAX) -> LabelErrors:
    """Rank the images by how probably their label is wrong.

    `logits` float (n, k) are calibrated, each row from a fit that did not see the image; rows of nan are left out. `targets` are int (n,);
    with the link `SIGMOID`, for several labels per image, bool (n, k).
    """
    scores, given = _checked(logits, targets, link)
    known = np.flatnonzero(~np.isnan(scores).any(axis=1))
    scores, given = scores[known], given[known]
    if not len(given):
        return LabelErrors(known, known, np.empty(0), 0, 0.0)
    scale, share = _explained(scores, given, link)
    own = _of_labels(scores * scale, given, link)
    if link.independent:
        suggested, own = own.argmin(axis=1), own.min(axis=1)
    else:
        rivals = scores.copy()
        rivals[np.arange(len(given)), given] = -np.inf
        suggested = rivals.argmax(axis=1)
    others = link.outcomes(scores.shape[1]) - 1
    order = np.argsort(own, kind="stable")
    likely = int((share * (1 - own) / others > (1 - share) * own).sum())
    return LabelErrors(known[order], suggested[order].astype(np.int64), 1 - own[order], likely, share)


def _explained(scores: Floats, given: npt.NDArray[Any], link: Link) -> tuple[float, float]:
    """The scale of the logits and the share of wrong labels that explain the labels best; the share is 0 if it is not needed for that."""
    if len(given) < _FEWEST:
        return 1.0, 0.0
    if len(given) > _MEASURED:
        drawn = np.random.default_rng(0).choice(len(given), _MEASURED, replace=False)
        scores, given = scores[drawn], given[drawn]
    best, plain = (-np.inf, 1.0, 0.0), -np.inf
    for scale in _SCALES:
        own = np.maximum(_of_labels(scores * scale, given, link).ravel(), _LEAST)
        gain = (1 - own) / (link.outcomes(scores.shape[1]) - 1) - own  # what a share of wrong labels adds to the probability
        share = _best_share(own, gain)
        plain = max(plain, float(np.log(own).sum()))
        best = max(best, (float(np.log(own + share * gain).sum()), float(scale), share))
    return best[1:] if best[0] >= plain + _BETTER else (1.0, 0.0)


def _best_share(own: Floats, gain: Floats) -> float:
    """Where the sum of log(own + share * gain), which is concave, is highest, between 0 and `_MOST`."""
    low, high = 0.0, _MOST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if (gain / (own + middle * gain)).sum() > 0 else (low, middle)
    return low


def _of_labels(logits: Floats, given: npt.NDArray[Any], link: Link) -> Floats:
    """The probability of each image's class (n,); of independent labels that each is as given (n, k)."""
    if link.independent:
        return link.probabilities(np.where(given, logits, -logits))
    return np.asarray(link.probabilities(logits)[np.arange(len(given)), given])


def find_label_errors(dataset: Dataset, rows: npt.ArrayLike, logits: npt.ArrayLike) -> list[Finding]:
    """Return a finding if labels are probably wrong, the likeliest first; `rows` int64 (n,) are the positions that the logits belong to."""
    positions = np.asarray(rows, np.int64)
    if len(positions) and not 0 <= positions.min() <= positions.max() < len(dataset):
        raise ParameterError(f"rows go from {positions.min()} to {positions.max()}, but the data have {len(dataset)} images")
    errors = rank_label_errors(logits, dataset.targets.array[positions], link=dataset.targets.link or SOFTMAX)
    names = Named(dataset)
    total = len(errors.order)
    message = (
        f"{errors.likely} of {total} labels are probably wrong ({errors.likely / max(total, 1):.1%}): models not fitted to these images "
        "favour another label more strongly than their difficulty explains. Wrong labels cause errors, and make a good model look worse. "
        "Review them in this order, and correct or delete them; some will be right."
    )
    examples = [
        f"{names[positions[i]]}: {describe(dataset, int(positions[i]), int(suggested))} ({score:.2f})"
        for i, suggested, score in zip(errors.order[: errors.likely], errors.suggested, errors.score, strict=False)
    ]
    severity: Severity = "warning" if errors.likely >= _WARNED * total else "note"
    return Finding.of("label errors", severity, message, examples, errors.likely)


def describe(dataset: Dataset, row: int, suggested: int) -> str:
    """What is doubted: ``labelled cat, looks like dog``; for several labels ``labelled cat, probably not cat``."""
    labels = dataset.labels(row)
    said = ", ".join(labels) or "nothing"
    name = dataset.classes[suggested]
    if isinstance(dataset.targets, Labels):
        return f"labelled {said}, looks like {name}"
    return f"labelled {said}, probably {'not' if name in labels else 'also'} {name}"


def _checked(logits: npt.ArrayLike, targets: npt.ArrayLike, link: Link) -> tuple[Floats, npt.NDArray[Any]]:
    scores, given = np.asarray(logits, np.float64), np.asarray(targets)
    if scores.ndim != 2 or not scores.shape[1]:
        raise ParameterError(f"logits have the shape {scores.shape}; they are (images, classes), one row an image")
    expected = scores.shape if link.independent else scores.shape[:1]
    if given.shape != expected:
        raise ParameterError(f"targets have the shape {given.shape}; to logits of shape {scores.shape} belongs {expected}")
    if link.independent:
        return scores, given.astype(bool)
    if given.dtype.kind not in "iu":
        raise ParameterError(f"targets are {given.dtype}; they are integers, the positions of the classes")
    if given.size and not 0 <= given.min() <= given.max() < scores.shape[1]:
        raise ParameterError(f"targets go from {given.min()} to {given.max()}, but the logits have {scores.shape[1]} classes")
    if scores.shape[1] < 2:
        raise ParameterError("logits have one class: with a single class no label can be wrong. For one yes-or-no label: link=SIGMOID")
    return scores, given.astype(np.int64)
