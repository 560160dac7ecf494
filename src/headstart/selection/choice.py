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


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Layers, a head and its hyperparameters, with their out-of-sample scores."""

    view: str  # which layers, as text
    layers: tuple[str, ...]  # names of those whose features it used
    weights: tuple[float, ...] | None = None  # how much each counts; None where they count the same
    head: str
    hyperparameters: dict[str, float]
    images: int  # training images it was scored on, each by a fit that had not seen it
    accuracy: float  # share of correct decisions; its standard error follows
    accuracy_error: float
    log_loss: float  # in nats an image; its standard error follows
    log_loss_error: float
    seconds: float  # what trying it took
    chosen: bool = False
    column: str = ""  # of labels that it predicts, where several are learned

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"layers": list(self.layers), "weights": None if self.weights is None else list(self.weights)}


class HeadPipeline(LogitClassifier, Estimator):
    """A `LayerMap`, by default of all columns, then a head, by default `LogisticHead`; with the interface of a head."""

    def __init__(self, map: LayerMap | None = None, head: Head | None = None) -> None:
        self.map = map
        self.head = head

    def fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None, groups: npt.ArrayLike | None = None
    ) -> Self:
        """Learn from features (n, D); as `Head.fit`."""
        X, y = self.checked_pair(X, y)
        map_ = (LayerMap() if self.map is None else self.map.clone()).fit(X)
        head = LogisticHead() if self.head is None else self.head.clone()
        return self._with(map_, head.fit(map_.view(X), y, sample_weight, groups, overwrite=True))

    @classmethod
    def of_fitted(cls, map: LayerMap, head: Head) -> Self:
        """A fitted pipeline of a fitted map and a head fitted on its output."""
        return cls(map.clone(), head.clone())._with(map, head)

    def _with(self, map: LayerMap, head: Head) -> Self:
        self.map_, self.head_, self.n_features_in_ = map, head, map.n_features_in_
        self.classes_, self.link_, self.label_dtype_ = self.head_.classes_, self.head_.link_, self.head_.label_dtype_
        if hasattr(self.head_, "out_of_sample_logits_"):
            self.out_of_sample_logits_ = self.head_.out_of_sample_logits_
        return self

    def logits(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Calibrated log-odds (n, k) of full feature vectors (n, D)."""
        self.check_fitted("head_")
        return self.head_.logits(self.map_.view(self.checked(X)))

    def uncalibrated(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """As `Head.uncalibrated`."""
        self.check_fitted("head_")
        return self.head_.uncalibrated(logits)

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append map and head to a graph: `features` names a float32 value (N, D). Returns the name of the logits, float32 (N, k)."""
        self.check_fitted("head_")
        return self.head_.write_onnx(graph, self.map_.write_onnx(graph, features))

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values, and arrays named ``map.*`` and ``head.*``, from which `from_state` makes the fitted pipeline again."""
        self.check_fitted("head_")
        map_settings, map_arrays = self.map_.state()
        head_settings, head_arrays = self.head_.state()
        parts = {"map": map_arrays, "head": head_arrays}
        arrays = {f"{part}.{name}": value for part, found in parts.items() for name, value in found.items()}
        return {"map": map_settings, "head": head_settings}, arrays

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry or an array is missing, or the head is unknown."""
        if not (isinstance(settings.get("map"), dict) and isinstance(settings.get("head"), dict)):
            raise RunError("The saved head lacks its settings ('map' and 'head'). Fit it again.")

        def part(name: str) -> dict[str, npt.NDArray[Any]]:
            return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}

        return cls()._with(LayerMap.from_state(settings["map"], part("map")), head_from_state(settings["head"], part("head")))


@dataclass(frozen=True, eq=False, kw_only=True)
class Choice:
    """The chosen head and the evidence for it."""

    estimator: Any  # fitted on all training images; takes the full feature vector
    """A `HeadPipeline`, a `TrainedHead` or a `MeanHead`; of other tasks than classification what they call their model."""
    evidence: tuple[Candidate, ...]  # all candidates, the chosen one first, then by log loss
    out_of_sample: npt.NDArray[np.float64] | None
    """Calibrated logits (n, k) of all training images, each from a fit that did not see the image (or its group); nan for images that the
    backbone was trained on; None where a task has no such scores."""
    reason: str  # one sentence for the user


def make_head(name: str, hyperparameters: dict[str, float], *, class_weight: ClassWeight, seed: int) -> Any:
    """An unfitted head; hyperparameters were chosen on fewer images than there are to fit it on."""
    known = HEADS[name]().get_params()
    further = {"class_weight": class_weight, "seed": seed, "refine": bool(hyperparameters)}
    return HEADS[name](**hyperparameters, **{setting: value for setting, value in further.items() if setting in known})


def unfitted(
    candidate: Candidate, *, layers: Sequence[Layer], hyperparameters: Mapping[str, Any] | None = None, class_weight: ClassWeight = None,
    seed: int = 0,
) -> HeadPipeline:  # fmt: skip
    """A pipeline with the layers (those of `choose_head`), the head and the hyperparameters of a candidate, or others in their place.

    Raises ParameterError where a layer of the candidate is not among `layers`.
    """
    slices = {layer.name: (layer.name, layer.start, layer.stop) for layer in layers}
    missing = [name for name in candidate.layers if name not in slices]
    if missing:
        raise ParameterError(f"The head was chosen on the layer {missing[0]!r}, which is not among {', '.join(slices)}.")
    settings = dict(candidate.hyperparameters if hyperparameters is None else hyperparameters)
    map_ = LayerMap([slices[name] for name in candidate.layers], weights=candidate.weights)
    return HeadPipeline(map_, make_head(candidate.head, settings, class_weight=class_weight, seed=seed))


def describe_head(choice: Choice) -> str:
    """Which head was chosen, on which layers, with which settings; where several columns of labels are learned, for each."""
    return "; ".join(f"{row.column}: {_described(row)}" if row.column else _described(row) for row in choice.evidence if row.chosen)


def _described(chosen: Candidate) -> str:
    settings = ", ".join(f"{name} {value:.3g}" for name, value in chosen.hyperparameters.items())
    return f"{chosen.head.replace('_', ' ')} on {chosen.view}" + (f" ({settings})" if settings else "")
