"""How the logits of a model become probabilities, and probabilities decisions: the one definition of the threshold and of *correct*.

A link distinguishes outputs that exclude each other (one label for each input) from independent outputs (any number of labels). Heads,
training, prediction, evaluation, export and parity all ask it, so that no two of them can disagree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from headstart.errors import ParameterError

Floats = NDArray[np.float64]

THRESHOLD = 0.5
"""A label of several is assigned from this probability on."""


class Graph(Protocol):
    """What a link needs of an ONNX graph; see `headstart.onnx_graph.OnnxGraph`."""

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        ...


class Link(ABC):
    """From logits (n, k) to probabilities (n, k) to decisions. `SOFTMAX` and `SIGMOID` are the two there are."""

    name: ClassVar[str]
    """As in manifests and saved heads."""

    independent: ClassVar[bool]
    """Whether each output stands for itself (any number of labels), or the outputs of one input sum to 1 (exactly one label)."""

    @abstractmethod
    def probabilities(self, logits: NDArray[Any]) -> Floats:
        """Float64 (n, k)."""

    @abstractmethod
    def losses(self, logits: NDArray[Any], indicators: NDArray[np.bool_]) -> Floats:
        """Log loss of each input (n,) in nats against bool (n, k); for independent outputs the mean over them."""

    @abstractmethod
    def decisions(self, probabilities: NDArray[Any]) -> NDArray[Any]:
        """The most probable output of each input, int64 (n,); or bool (n, k): those with a probability of at least `THRESHOLD`."""

    @abstractmethod
    def targets(self, indicators: NDArray[np.bool_]) -> NDArray[Any]:
        """Targets in the form of `decisions`, from bool (n, k)."""

    @abstractmethod
    def outcomes(self, columns: int) -> int:
        """Among how many outcomes each decision is made: one of the k columns, or yes and no."""

    def decision_scores(self, logits: Floats) -> Floats:
        """Scores in the form of scikit-learn's `decision_function`: the logits (n, k)."""
        return logits

    def labels(self, logits: NDArray[Any], classes: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
        """The decisions in the form in which the labels were given: those of `classes` (n,), or a matrix (n, k) of this dtype."""
        return self.decisions(self.probabilities(logits)).astype(dtype)

    def correct(self, decisions: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.bool_]:
        """Bool (n,): whether the decision is the target; where several labels are possible, whether all of them are."""
        same = np.asarray(decisions) == np.asarray(targets)
        return np.asarray(same if same.ndim == 1 else same.all(axis=1))

    def correct_share(self, decisions: NDArray[Any], targets: NDArray[Any]) -> Floats:
        """Float64 (n,): 1 where the decision is the target, else 0; of several labels the share of correct ones."""
        same = np.asarray(decisions) == np.asarray(targets)
        return np.asarray(same, dtype=np.float64) if same.ndim == 1 else np.asarray(same.mean(axis=1))

    def write_onnx(self, graph: Graph, logits: str, *, output: str | None = None) -> str:
        """Append the link to a graph and return the name of the probabilities, float32 (N, k)."""
        attributes = {} if self.independent else {"axis": -1}
        return graph.node(type(self).__name__, logits, output=output, **attributes)


class Softmax(Link):
    """Outputs exclude each other: one label for each input."""

    name = "softmax"
    independent = False

    def probabilities(self, logits: NDArray[Any]) -> Floats:
        """Float64 (n, k); rows sum to 1."""
        values: Floats = np.exp(log_softmax(logits))
        return values

    def losses(self, logits: NDArray[Any], indicators: NDArray[np.bool_]) -> Floats:
        """Negative log-likelihood of each input, float64 (n,), in nats."""
        return np.asarray(-log_softmax(logits)[np.arange(len(logits)), indicators.argmax(axis=1)])

    def decisions(self, probabilities: NDArray[Any]) -> NDArray[Any]:
        """The most probable output of each input, int64 (n,); of equal ones the first."""
        best: NDArray[np.int64] = np.asarray(probabilities).argmax(axis=1)
        return best

    def targets(self, indicators: NDArray[np.bool_]) -> NDArray[Any]:
        """Column numbers, int64 (n,)."""
        columns: NDArray[np.int64] = indicators.argmax(axis=1)
        return columns

    def outcomes(self, columns: int) -> int:
        """All k columns."""
        return columns

    def decision_scores(self, logits: Floats) -> Floats:
        """The logits (n, k); of two classes their difference (n,), positive for the second."""
        return logits if logits.shape[1] != 2 else np.asarray(logits[:, 1] - logits[:, 0])

    def labels(self, logits: NDArray[Any], classes: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
        """The most probable class of each input (n,)."""
        return np.asarray(classes[self.decisions(logits)])


class Sigmoid(Link):
    """Outputs are independent: any number of labels for each input, or none."""

    name = "sigmoid"
    independent = True

    def probabilities(self, logits: NDArray[Any]) -> Floats:
        """Float64 (n, k); each of its own."""
        from scipy.special import expit

        values: Floats = expit(logits)
        return values

    def losses(self, logits: NDArray[Any], indicators: NDArray[np.bool_]) -> Floats:
        """Binary cross-entropy of each input, float64 (n,), in nats, averaged over its outputs."""
        from scipy.special import log_expit

        values: Floats = -log_expit(np.where(indicators, logits, -logits)).mean(axis=1)
        return values

    def decisions(self, probabilities: NDArray[Any]) -> NDArray[Any]:
        """Bool (n, k): a probability of at least `THRESHOLD`."""
        assigned: NDArray[np.bool_] = np.greater_equal(probabilities, THRESHOLD)
        return assigned

    def targets(self, indicators: NDArray[np.bool_]) -> NDArray[Any]:
        """Bool (n, k), as they are."""
        return indicators

    def outcomes(self, columns: int) -> int:
        """Two: yes and no."""
        return 2


SOFTMAX: Link = Softmax()
SIGMOID: Link = Sigmoid()
_LINKS = {link.name: link for link in (SOFTMAX, SIGMOID)}


def link_named(name: str) -> Link:
    """The link of this name.

    Raises:
        ParameterError: there is none.
    """
    if name not in _LINKS:
        raise ParameterError(f"A link is one of {', '.join(_LINKS)}, got {name!r}.")
    return _LINKS[name]


def saved_link(entries: Mapping[str, Any]) -> Link:
    """The link that saved settings name; older ones say ``multilabel`` instead.

    Raises:
        KeyError: they name none, or one that there is not.
    """
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
    values: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return values
