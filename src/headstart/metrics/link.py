"""How the logits of a model become probabilities, and probabilities decisions: the one definition of the threshold and of *correct*.

Heads, training, prediction, evaluation, export and parity all ask the link, so that no two of them can disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from headstart.errors import ParameterError
from headstart.text import percent

if TYPE_CHECKING:
    from headstart.onnx_graph import OnnxGraph

Floats = NDArray[np.float64]

THRESHOLD = 0.5
"""A label of several is assigned from this probability on."""

LIKELIEST = 0.05
"""The share of the places that stand for a class which is nowhere the most probable."""


@dataclass(frozen=True)
class Link:
    """From logits (n, k) to probabilities (n, k) to decisions. `SOFTMAX` and `SIGMOID` are the two there are.

    Outputs exclude each other (softmax: one label for each input), or are `independent` (sigmoid: any number of labels, or none).
    """

    name: str  # as in manifests and saved heads
    independent: bool

    def probabilities(self, logits: NDArray[Any]) -> Floats:
        """Float64 (n, k); rows sum to 1 unless outputs are independent."""
        if self.independent:
            from scipy.special import expit

            return np.asarray(expit(logits))
        return np.asarray(np.exp(log_softmax(logits)))

    def losses(self, logits: NDArray[Any], indicators: NDArray[np.bool_]) -> Floats:
        """Log loss of each input, float64 (n,), in nats against bool (n, k); of independent outputs the mean binary cross-entropy."""
        if self.independent:
            from scipy.special import log_expit

            return np.asarray(-log_expit(np.where(indicators, logits, -logits)).mean(axis=1))
        return np.asarray(-log_softmax(logits)[np.arange(len(logits)), indicators.argmax(axis=1)])

    def decisions(self, probabilities: NDArray[Any]) -> NDArray[Any]:
        """The most probable output of each input, int64 (n,), the first of equal ones; or bool (n, k): those of at least `THRESHOLD`."""
        return np.asarray(np.greater_equal(probabilities, THRESHOLD) if self.independent else np.argmax(probabilities, axis=1))

    def targets(self, indicators: NDArray[np.bool_]) -> NDArray[Any]:
        """Targets in the form of `decisions`, from bool (n, k)."""
        return indicators if self.independent else np.asarray(indicators.argmax(axis=1))

    def outcomes(self, columns: int) -> int:
        """Among how many outcomes each decision is made: one of the k columns, or yes and no."""
        return 2 if self.independent else columns

    def decision_scores(self, logits: Floats) -> Floats:
        """Scores as of scikit-learn's `decision_function`: the logits (n, k); of two classes their difference (n,), the second's less."""
        return np.asarray(logits[:, 1] - logits[:, 0]) if logits.shape[1] == 2 and not self.independent else logits

    def labels(self, logits: NDArray[Any], classes: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
        """The decisions in the form in which the labels were given: those of `classes` (n,), or a matrix (n, k) of this dtype."""
        decisions = self.decisions(self.probabilities(logits))
        return decisions.astype(dtype) if self.independent else np.asarray(classes[decisions])

    def correct(self, decisions: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.bool_]:
        """Bool (n,): whether the decision is the target; where several labels are possible, whether all of them are."""
        same = np.asarray(decisions) == np.asarray(targets)
        return np.asarray(same if same.ndim == 1 else same.all(axis=1))

    def correct_share(self, decisions: NDArray[Any], targets: NDArray[Any]) -> Floats:
        """Float64 (n,): 1 where the decision is the target, else 0; of several labels the share of correct ones."""
        same = np.asarray(decisions) == np.asarray(targets)
        return np.asarray(same, dtype=np.float64) if same.ndim == 1 else np.asarray(same.mean(axis=1))

    def log_odds(self, logits: NDArray[Any], target: int) -> Floats:
        """The log-odds of one output in versions of one input, float64 (m,): its probability against that of all others together.

        `logits` are (m, k); the first row is the input as it is.
        """
        rows = np.asarray(logits, np.float64)
        if self.independent or rows.shape[1] == 1:
            return rows[:, target]
        return rows[:, target] - _others(rows, target)

    def write_onnx(self, graph: OnnxGraph, logits: str, *, output: str | None = None) -> str:
        """Append the link to a graph and return the name of the probabilities, float32 (N, k)."""
        attributes = {} if self.independent else {"axis": -1}
        return graph.node(self.name.capitalize(), logits, output=output, **attributes)


@dataclass(frozen=True)
class PlaceLink(Link):
    """A softmax at each place of maps of logits (n, k, h, w): `PLACES`. Subclasses say it of other outputs with places.

    `place` is what is explained, `unfound` what is said of an image, ``{}``, without such a one.
    """

    place: ClassVar[str] = "region"
    unfound: ClassVar[str] = "No pixel of {} has this class; evidence for the pixels that are most like it"

    def told(self, share: float) -> str:
        """What a share of `shares` is."""
        return f"{percent(share)} of the pixels"

    def shares(self, logits: NDArray[Any]) -> Floats:
        """The share of the places of each input at which each class is the most probable: float64 (n, k)."""
        count = logits.shape[1]
        named = np.asarray(logits).argmax(axis=1).reshape(len(logits), -1)
        return np.array([np.bincount(row, minlength=count) / row.size for row in named]).reshape(-1, count)

    def region(self, logits: NDArray[Any], target: int) -> NDArray[np.bool_]:
        """Bool (h, w): where a class is the most probable in logits (k, h, w); where that is nowhere, where it is the least improbable."""
        there = np.asarray(logits.argmax(axis=0) == target)
        if there.any():
            return there
        rows = np.asarray(logits, np.float64)[None]
        odds = (rows[:, target] - _others(rows, target))[0]
        return np.asarray(odds >= np.quantile(odds, 1 - LIKELIEST))

    def log_odds(self, logits: NDArray[Any], target: int) -> Floats:
        """The mean of the log-odds of a class over its `region` in the input as it is, in versions of it: from (m, k, h, w) to (m,)."""
        rows = np.asarray(logits, np.float64)[:, :, self.region(logits[0], target)]
        return np.asarray((rows[:, target] - _others(rows, target)).mean(axis=1))


def joined(outputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Several outputs of one graph as one, side by side on their last axis, as a link takes them."""
    return np.asarray(outputs[0]) if len(outputs) == 1 else np.concatenate(outputs, axis=-1)


def _others(rows: Floats, target: int) -> Floats:
    """What the logits of all classes but one, on the second axis, come to together."""
    return np.asarray(np.logaddexp.reduce(np.delete(rows, target, axis=1), axis=1))


SOFTMAX = Link("softmax", independent=False)
SIGMOID = Link("sigmoid", independent=True)
PLACES = PlaceLink("softmax", independent=False)
_LINKS = {link.name: link for link in (SOFTMAX, SIGMOID)}


def link_named(name: str) -> Link:
    """The link of this name; ParameterError where there is none."""
    if name not in _LINKS:
        raise ParameterError(f"A link is one of {', '.join(_LINKS)}, got {name!r}.")
    return _LINKS[name]


def saved_link(entries: Mapping[str, Any]) -> Link:
    """The link that saved settings name (older ones say ``multilabel`` instead); KeyError where they name none, or an unknown one."""
    if "link" not in entries and "multilabel" in entries:
        return SIGMOID if entries["multilabel"] else SOFTMAX
    link = _LINKS.get(str(entries["link"]))
    if link is None:
        raise KeyError("link")
    return link


def link_of(targets: NDArray[Any]) -> Link:
    """The link that suits targets: `SOFTMAX` for one label each (n,), `SIGMOID` for a matrix (n, k) of labels that are there or not."""
    return SIGMOID if np.ndim(targets) == 2 else SOFTMAX


def log_softmax(logits: NDArray[Any]) -> Floats:
    """Logarithms of the softmax over the last axis, float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
