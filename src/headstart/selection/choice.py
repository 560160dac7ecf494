"""What a choice is made of: the candidates with their scores, and the fitted winner."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.onnx_graph import OnnxGraph


class FittedHead(Protocol):
    """What a fitted head offers, whether it was fitted in closed form (`HeadPipeline`) or trained (`TrainedHead`).

    Attributes:
        classes_: the labels, in the order of the columns; for multi-label the column numbers.
    """

    @property
    def classes_(self) -> npt.NDArray[Any]: ...  # noqa: D102

    def logits(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Calibrated log-odds (n, k) of full feature vectors (n, D)."""
        ...

    def predict_proba(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Their softmax, or for multi-label their sigmoid."""
        ...

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """The most probable labels."""
        ...

    def uncalibrated(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """The log-odds (n, k) before the calibration that logits (n, k) went through; None where raw scores are no log-odds."""
        ...

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append the head to a graph and return the name of its logits (N, k)."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Everything needed to make the head again: JSON values and arrays."""
        ...


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One thing that was tried.

    Attributes:
        view: which layers, in words.
        layers: names of the layers whose features it used; weights: how much each counts, or None where they count the same.
        head: its name.
        hyperparameters: as used.
        images: how many training images it was scored on, each by a fit that had not seen it.
        accuracy, accuracy_error: out-of-sample share of right answers (for multi-label: of right labels) and its standard error.
        log_loss, log_loss_error: out-of-sample, in nats an image, and its standard error.
        seconds: what trying it took.
        chosen: whether it won.
    """

    view: str
    layers: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    head: str
    hyperparameters: dict[str, float]
    images: int
    accuracy: float
    accuracy_error: float
    log_loss: float
    log_loss_error: float
    seconds: float
    chosen: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"layers": list(self.layers), "weights": None if self.weights is None else list(self.weights)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Choice:
    """The head that was chosen.

    Attributes:
        estimator: fitted on all training images; takes the full feature vector.
        evidence: everything that was tried, best log loss first.
        out_of_sample: calibrated logits (n, k) of all training images, each from a fit that did not see the image (or its group); nan for
            images that have been learned from.
        reason: one sentence for the user.
    """

    estimator: FittedHead
    evidence: tuple[Candidate, ...]
    out_of_sample: npt.NDArray[np.float64]
    reason: str
