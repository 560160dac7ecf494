"""What a choice is made of: candidates with their scores, and the fitted winner as one classifier on the full feature vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, RunError
from headstart.estimators import Estimator
from headstart.heads import HEADS, Head, LogisticHead, head_from_state
from headstart.heads.head import LogitClassifier
from headstart.heads.labels import ClassWeight
from headstart.maps import LayerMap
from headstart.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    from headstart.backbones import Layer
    from headstart.training.trained_head import TrainedHead


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Layers, a head and its hyperparameters, with their out-of-sample scores.

    Attributes:
        view: which layers, as text.
        layers: names of the layers whose features it used; weights: how much each counts, or None where they count the same.
        head: its name.
        hyperparameters: as used.
        images: how many training images it was scored on, each by a fit that had not seen it.
        accuracy, accuracy_error: out-of-sample share of correct decisions and its standard error.
        log_loss, log_loss_error: out-of-sample, in nats an image, and its standard error.
        seconds: what trying it took.
        chosen: whether it was chosen.
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


class HeadPipeline(LogitClassifier, Estimator):
    """A `LayerMap`, then a head, with the interface of a head.

    Args:
        map: unfitted; None takes all columns.
        head: unfitted; None is `LogisticHead`.

    Attributes:
        map_, head_: fitted.
        out_of_sample_logits_: as of the head.
    """

    def __init__(self, map: LayerMap | None = None, head: Head | None = None) -> None:
        self.map = map
        self.head = head

    def fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None, groups: npt.ArrayLike | None = None
    ) -> Self:
        """Learn from features (n, D); arguments and errors as of `Head.fit`."""
        X, y = self.checked_pair(X, y)
        self.map_ = (LayerMap() if self.map is None else self.map.clone()).fit(X)
        head = LogisticHead() if self.head is None else self.head.clone()
        self.head_ = head.fit_overwriting(self.map_.transform(X), y, sample_weight, groups)
        self._take_over()
        return self

    @classmethod
    def of_fitted(cls, map: LayerMap, head: Head) -> Self:
        """A fitted pipeline of a fitted map and a head fitted on its output."""
        made = cls(map.clone(), head.clone())
        made.map_, made.head_, made.n_features_in_ = map, head, map.n_features_in_
        made._take_over()
        return made

    def _take_over(self) -> None:
        self.classes_, self.link_, self.label_dtype_ = self.head_.classes_, self.head_.link_, self.head_.label_dtype_
        if hasattr(self.head_, "out_of_sample_logits_"):
            self.out_of_sample_logits_ = self.head_.out_of_sample_logits_

    def logits(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Calibrated log-odds (n, k) of full feature vectors (n, D)."""
        self.check_fitted("head_")
        return self.head_.logits(self.map_.transform(self.checked(X)))

    def uncalibrated(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """As `Head.uncalibrated`."""
        self.check_fitted("head_")
        return self.head_.uncalibrated(logits)

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append map and head to a graph: `features` names a float32 value (N, D). Returns the name of the logits, float32 (N, k)."""
        self.check_fitted("head_")
        return self.head_.write_onnx(graph, self.map_.write_onnx(graph, features))

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Everything needed to make the fitted pipeline again: JSON values, and arrays named ``map.*`` and ``head.*``."""
        self.check_fitted("head_")
        map_settings, map_arrays = self.map_.state()
        head_settings, head_arrays = self.head_.state()
        arrays = {f"map.{name}": value for name, value in map_arrays.items()} | {
            f"head.{name}": value for name, value in head_arrays.items()
        }
        return {"map": map_settings, "head": head_settings}, arrays

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Make a fitted pipeline from what `state` gave.

        Raises:
            RunError: an entry or an array is missing, or the head is unknown.
        """
        if not (isinstance(settings.get("map"), dict) and isinstance(settings.get("head"), dict)):
            raise RunError("The saved head lacks its settings ('map' and 'head'). Fit it again.")

        def part(name: str) -> dict[str, npt.NDArray[Any]]:
            return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}

        made = cls()
        made.map_ = LayerMap.from_state(settings["map"], part("map"))
        made.head_ = head_from_state(settings["head"], part("head"))
        made.n_features_in_ = made.map_.n_features_in_
        made._take_over()
        return made


@dataclass(frozen=True, eq=False, kw_only=True)
class Choice:
    """The chosen head and the evidence for it.

    Attributes:
        estimator: fitted on all training images; takes the full feature vector.
        evidence: all candidates, best log loss first.
        out_of_sample: calibrated logits (n, k) of all training images, each from a fit that did not see the image (or its group); nan for
            images that the backbone was trained on; None where a task has no such scores.
        reason: one sentence for the user.
    """

    estimator: HeadPipeline | TrainedHead
    evidence: tuple[Candidate, ...]
    out_of_sample: npt.NDArray[np.float64] | None
    reason: str


def make_head(name: str, hyperparameters: dict[str, float], *, class_weight: ClassWeight, seed: int) -> Any:
    """An unfitted head."""
    further: dict[str, Any] = {"class_weight": class_weight} | ({"seed": seed} if "seed" in HEADS[name]().get_params() else {})
    return HEADS[name](**hyperparameters, **further)


def unfitted(
    candidate: Candidate,
    *,
    layers: Sequence[Layer],
    hyperparameters: Mapping[str, Any] | None = None,
    class_weight: ClassWeight = None,
    seed: int = 0,
) -> HeadPipeline:
    """A pipeline with the layers, the head and the hyperparameters of a candidate.

    Args:
        candidate: of a choice.
        layers: slices of the feature vector, as for `choose_head`.
        hyperparameters: in place of the candidate's own.
        class_weight: as for `choose_head`.
        seed: of the head.

    Raises:
        ParameterError: a layer of the candidate is not among `layers`.
    """
    slices = {layer.name: (layer.name, layer.start, layer.stop) for layer in layers}
    missing = [name for name in candidate.layers if name not in slices]
    if missing:
        raise ParameterError(f"The head was chosen on the layer {missing[0]!r}, which is not among {', '.join(slices)}.")
    settings = dict(candidate.hyperparameters if hyperparameters is None else hyperparameters)
    map_ = LayerMap([slices[name] for name in candidate.layers], weights=candidate.weights)
    return HeadPipeline(map_, make_head(candidate.head, settings, class_weight=class_weight, seed=seed))
