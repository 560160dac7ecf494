"""`MeanHead`: the mean of the log probabilities of several heads, each on its own columns of the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError
from headstart.heads.head import LogitClassifier
from headstart.metrics.link import Link, log_softmax
from headstart.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    from headstart.selection.choice import HeadPipeline
    from headstart.training.trained_head import TrainedHead

Floats = npt.NDArray[np.float64]
Slices = tuple[tuple[int, int], ...]

NAME = "mean"
"""As in `state`."""


def mean_of_logits(logits: Sequence[Floats], link: Link) -> Floats:
    """The mean (n, k) of several logits (n, k): of the log probabilities, and where labels are independent of the log odds."""
    found: Floats = np.mean(logits if link.independent else [log_softmax(one) for one in logits], axis=0)
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class MeanHead(LogitClassifier):
    """A head whose logits are the mean of the log probabilities (of independent labels: of the log odds) of other heads.

    ``dataclasses.replace(head, temperature=...)`` gives the same head with another temperature. Raises ParameterError for heads that do not
    tell the same classes apart, and for columns that do not suit them.
    """

    heads: tuple[HeadPipeline | TrainedHead | MeanHead, ...]
    columns: tuple[Slices, ...]  # for each head the (start, stop) that make up its features, in its order
    n_features_in_: int  # length D of the whole feature vector
    temperature: float = 1.0  # the mean is divided by it

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.columns) or not self.heads:
            raise ParameterError(f"each head needs its columns, got {len(self.heads)} heads and {len(self.columns)} columns.")
        for head, slices in zip(self.heads, self.columns, strict=True):
            if not np.array_equal(head.classes_, self.classes_) or head.link_ != self.link_:
                raise ParameterError(f"the heads tell different classes apart: {self.classes_.tolist()} and {head.classes_.tolist()}.")
            width = sum(stop - start for start, stop in slices)
            if width != head.n_features_in_ or not all(0 <= start < stop <= self.n_features_in_ for start, stop in slices):
                raise ParameterError(f"a head of {head.n_features_in_} features cannot take the columns {slices} of {self.n_features_in_}.")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ParameterError(f"temperature must be a finite number above 0, got {self.temperature!r}.")

    @property
    def classes_(self) -> npt.NDArray[Any]:  # type: ignore[override]
        """The labels, in the order of the logits."""
        return self.heads[0].classes_

    @property
    def link_(self) -> Link:  # type: ignore[override]
        """That of the heads."""
        return self.heads[0].link_

    @property
    def label_dtype_(self) -> np.dtype[Any]:  # type: ignore[override]
        """That of the first head."""
        return self.heads[0].label_dtype_

    def logits(self, X: npt.ArrayLike) -> Floats:
        """Logits (n, k), divided by the temperature, of the whole features (n, D)."""
        features = np.asarray(X, dtype=np.float32)
        if features.ndim != 2 or features.shape[1] != self.n_features_in_:
            raise ValueError(f"X must be features of the shape (n, {self.n_features_in_}), got {features.shape}.")
        parts = (np.concatenate([features[:, start:stop] for start, stop in slices], axis=1) for slices in self.columns)
        found = [head.logits(part) for head, part in zip(self.heads, parts, strict=True)]
        return mean_of_logits(found, self.link_) / self.temperature

    def uncalibrated(self, logits: Floats) -> Floats:
        """The logits (n, k) without the temperature."""
        return logits * self.temperature

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append the head to a graph: `features` names a float32 value (N, D). Returns the name of the logits, float32 (N, k)."""
        found = []
        for head, slices in zip(self.heads, self.columns, strict=True):
            parts = [graph.node("Slice", features, *(graph.integers(number) for number in (*slice_, 1))) for slice_ in slices]
            logits = head.write_onnx(graph, parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1))
            found.append(logits if self.link_.independent else graph.node("LogSoftmax", logits, axis=-1))
        total = found[0]
        for other in found[1:]:
            total = graph.node("Add", total, other)
        return graph.node("Mul", total, graph.constant(1 / (len(found) * self.temperature)))

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values, and arrays named ``0.*``, ``1.*`` and so on, by the head."""
        states = [head.state() for head in self.heads]
        settings = {
            "head": NAME, "heads": [settings for settings, _ in states], "columns": [[list(part) for part in of] for of in self.columns],
            "features": self.n_features_in_, "temperature": self.temperature,
        }  # fmt: skip
        return settings, {f"{number}.{name}": value for number, (_, arrays) in enumerate(states) for name, value in arrays.items()}
