"""What a choice is made of: candidates with their scores, and the fitted winner as one classifier on the full feature vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, RunError, damage_named
from headstart.estimators import Estimator
from headstart.heads import HEADS, Head, LogisticHead, head_from_state
from headstart.heads.calibration import Calibration
from headstart.heads.head import LogitClassifier
from headstart.heads.labels import ClassWeight, EncodedLabels, held_out_folds
from headstart.maps import MAPS, FeatureMap, LayerMap, map_from_state
from headstart.matrix import FeatureMatrix, take_rows
from headstart.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    from headstart.backbones import Layer

NONE = "none"
"""No map."""

FOLDS = 5
"""In which maps that learn from labels are scored."""


def described(view: str, map: str) -> str:
    """The features that layers and a map give, as in a sentence."""
    return view if map == NONE else f"{MAPS[map].title if map in MAPS else map} of {view}"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Layers, a head and its hyperparameters, with their out-of-sample scores."""

    view: str  # which layers, as text
    layers: tuple[str, ...]  # names of those whose features it used
    weights: tuple[float, ...] | None = None  # how much each counts; None where they count the same
    map: str = NONE  # what the layers went through before the head; the name of a map, and its settings
    map_settings: dict[str, float] = field(default_factory=dict)
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

    @property
    def features(self) -> str:
        """What the head learned from, as in a sentence."""
        return described(self.view, self.map)

    @property
    def settings(self) -> dict[str, float]:
        """Of the map and of the head."""
        return self.map_settings | self.hyperparameters

    @property
    def in_folds(self) -> bool:
        """Whether its scores are from folds; others leave out one image, or group, at a time."""
        return self.head in ("logistic", "mlp") or self.head.endswith("terms") or (self.map in MAPS and MAPS[self.map].supervised)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"layers": list(self.layers), "weights": None if self.weights is None else list(self.weights)}


class HeadPipeline(LogitClassifier, Estimator):
    """A `LayerMap`, by default of all columns, a feature map where there is one, then a head, by default `LogisticHead`.

    It has the interface of a head. With a feature map that learns from labels, out-of-sample scores come from `folds`, in each of which map
    and head are fitted anew, and calibrate the logits; 0 does without both.
    """

    feature_map_: FeatureMap | None
    calibration_: Calibration | None  # of the head's logits

    def __init__(
        self, map: LayerMap | None = None, head: Head | None = None, *, feature_map: FeatureMap | None = None, folds: int = FOLDS
    ) -> None:
        self.map = map
        self.head = head
        self.feature_map = feature_map
        self.folds = folds

    def fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None, groups: npt.ArrayLike | None = None
    ) -> Self:
        """Learn from features (n, D); as `Head.fit`."""
        X, y = self.checked_pair(X, y)
        map_ = (LayerMap() if self.map is None else self.map.clone()).fit(X)
        head = LogisticHead() if self.head is None else self.head.clone()
        if self.feature_map is None:
            return self._with(map_, head.fit(map_.view(X), y, sample_weight, groups, overwrite=True))
        targets, rows = head.targets(X, y, sample_weight, groups)
        view = map_.view(X if rows is None else take_rows(X, rows))
        mapped = self.feature_map.clone().learn(view, targets)
        self._with(map_, head.clone().learn(mapped.view(view), targets, overwrite=True), mapped)
        if mapped.supervised:
            self.__dict__.pop("out_of_sample_logits_", None)
            if self.folds:
                held_out = cross_fitted(self.feature_map, head, view, targets, folds=self.folds)
                self.calibration_ = calibration = targets.calibrate(held_out)
                self.out_of_sample_logits_ = calibration(held_out)
        return self

    @classmethod
    def of_fitted(cls, map: LayerMap, head: Head) -> Self:
        """A fitted pipeline of a fitted map and a head fitted on its output."""
        return cls(map.clone(), head.clone())._with(map, head)

    def _with(self, map: LayerMap, head: Head, feature_map: FeatureMap | None = None, calibration: Calibration | None = None) -> Self:
        self.map_, self.head_, self.n_features_in_ = map, head, map.n_features_in_
        self.feature_map_, self.calibration_ = feature_map, calibration
        self.classes_, self.link_, self.label_dtype_ = self.head_.classes_, self.head_.link_, self.head_.label_dtype_
        if hasattr(self.head_, "out_of_sample_logits_"):
            self.out_of_sample_logits_ = self.head_.out_of_sample_logits_
        return self

    def logits(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Calibrated log-odds (n, k) of full feature vectors (n, D)."""
        self.check_fitted("head_")
        view = self.map_.view(self.checked(X))
        logits = self.head_.logits(view if self.feature_map_ is None else self.feature_map_.view(view))
        return logits if self.calibration_ is None else self.calibration_(logits)

    def uncalibrated(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """As `Head.uncalibrated`; with a calibration from folds, the logits of the head."""
        self.check_fitted("head_")
        return self.head_.uncalibrated(logits) if self.calibration_ is None else self.calibration_.undone(logits)

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append maps and head to a graph: `features` names a float32 value (N, D). Returns the name of the logits, float32 (N, k)."""
        self.check_fitted("head_")
        mapped = self.map_.write_onnx(graph, features)
        logits = self.head_.write_onnx(graph, mapped if self.feature_map_ is None else self.feature_map_.write_onnx(graph, mapped))
        if self.calibration_ is None:
            return logits
        scaled = graph.node("Mul", logits, graph.constant(self.calibration_.scale))
        return graph.node("Add", scaled, graph.constant(self.calibration_.shift))

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values, and arrays named ``map.*``, ``feature_map.*`` and ``head.*``, from which `from_state` makes the pipeline again."""
        self.check_fitted("head_")
        parts = {"map": self.map_.state(), "head": self.head_.state()}
        if self.feature_map_ is not None:
            parts["feature_map"] = self.feature_map_.state()
        settings: dict[str, Any] = {part: found for part, (found, _) in parts.items()}
        if self.calibration_ is not None:
            settings["calibration"] = [float(self.calibration_.scale), *map(float, self.calibration_.shift)]
        return settings, {f"{part}.{name}": value for part, (_, arrays) in parts.items() for name, value in arrays.items()}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry or an array is missing, or the head or the map is unknown."""
        if not (isinstance(settings.get("map"), dict) and isinstance(settings.get("head"), dict)):
            raise RunError("The saved head lacks its settings ('map' and 'head'). Fit it again.")

        def part(name: str) -> dict[str, npt.NDArray[Any]]:
            return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}

        mapped = settings.get("feature_map")
        with damage_named("The saved head is"):
            known = settings.get("calibration")
            calibration = None if known is None else Calibration(float(known[0]), np.array(known[1:], dtype=np.float64))
        return cls()._with(
            LayerMap.from_state(settings["map"], part("map")), head_from_state(settings["head"], part("head")),
            None if mapped is None else map_from_state(mapped, part("feature_map")), calibration,
        )  # fmt: skip


def cross_fitted(feature_map: FeatureMap, head: Head, X: FeatureMatrix, targets: EncodedLabels, *, folds: int) -> npt.NDArray[np.float64]:
    """Logits (n, k), each from a map and a head that were fitted without the image (or its group)."""
    held_out = np.empty(targets.indicators.shape)
    everything = np.arange(len(X))
    for part in held_out_folds(targets, folds, seed=head.seed if hasattr(head, "seed") else 0):
        rest = np.setdiff1d(everything, part)
        rows, some = take_rows(X, rest), targets.take(rest)
        mapped = feature_map.clone().learn(rows, some)
        fitted = head.clone().learn(mapped.view(rows), some, overwrite=True)
        held_out[part] = fitted.logits(mapped.view(X[part]))
    return held_out


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
    description: str = ""  # of a model that is no head on features, in a few words


def make_head(name: str, hyperparameters: dict[str, float], *, class_weight: ClassWeight, seed: int) -> Any:
    """An unfitted head; hyperparameters were chosen on fewer images than there are to fit it on."""
    known = HEADS[name]().get_params()
    further = {"class_weight": class_weight, "seed": seed, "refine": bool(hyperparameters)}
    return HEADS[name](**hyperparameters, **{setting: value for setting, value in further.items() if setting in known})


def unfitted(
    candidate: Candidate, *, layers: Sequence[Layer], hyperparameters: Mapping[str, Any] | None = None, class_weight: ClassWeight = None,
    seed: int = 0, folds: int = FOLDS,
) -> HeadPipeline:  # fmt: skip
    """A pipeline with the layers (those of `choose_head`), the map, the head and the hyperparameters of a candidate, or others in their
    place; `folds` as of `HeadPipeline`.

    Raises ParameterError where a layer of the candidate is not among `layers`.
    """
    slices = {layer.name: (layer.name, layer.start, layer.stop) for layer in layers}
    missing = [name for name in candidate.layers if name not in slices]
    if missing:
        raise ParameterError(f"The head was chosen on the layer {missing[0]!r}, which is not among {', '.join(slices)}.")
    settings = dict(candidate.hyperparameters if hyperparameters is None else hyperparameters)
    map_ = LayerMap([slices[name] for name in candidate.layers], weights=candidate.weights)
    head = make_head(candidate.head, settings, class_weight=class_weight, seed=seed)
    return HeadPipeline(map_, head, feature_map=make_map(candidate.map, candidate.map_settings, seed=seed), folds=folds)


def make_map(name: str, settings: Mapping[str, Any], *, seed: int) -> FeatureMap | None:
    """An unfitted map, or None for `NONE`."""
    if name == NONE:
        return None
    known = MAPS[name]().get_params()
    return MAPS[name](**settings, **({"seed": seed} if "seed" in known else {}))


def describe_head(choice: Choice) -> str:
    """Which head was chosen, on which layers, with which settings; where several columns of labels are learned, for each."""
    heads = "; ".join(f"{row.column}: {_described(row)}" if row.column else _described(row) for row in choice.evidence if row.chosen)
    return heads or choice.description


def _described(chosen: Candidate) -> str:
    settings = ", ".join(f"{name} {value:.3g}" for name, value in chosen.settings.items())
    return f"{chosen.head.replace('_', ' ')} on {chosen.features}" + (f" ({settings})" if settings else "")
