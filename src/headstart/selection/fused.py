"""`FusedHead`: a head on a network's features and one on the terms of the texts, together or one of them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import damage_named
from headstart.estimators import Estimator
from headstart.features.table import Counted
from headstart.heads.head import Floats, LogitClassifier, State
from headstart.heads.labels import ClassWeight, EncodedLabels, encode
from headstart.heads.terms import TermsHead
from headstart.matrix import FeatureMatrix, take_rows
from headstart.metrics.link import log_softmax
from headstart.modalities.text.vocabulary import Vocabulary
from headstart.onnx_graph import OnnxGraph
from headstart.selection.choice import FOLDS, Candidate, HeadPipeline
from headstart.selection.choice import unfitted as unfitted_pipeline

if TYPE_CHECKING:
    from headstart.backbones import Layer

TERMS = TermsHead.name
BOTH = f"+{TERMS}"
"""The end of a candidate's head where terms count beside features."""

WEIGHTS = ("features_weight", "terms_weight")
_TERMS_C = "terms_C"

Inputs = Counted | FeatureMatrix


class FusedHead(LogitClassifier, Estimator):
    """features_weight times the logits of a head on features plus terms_weight times those of a head on terms; either may be None.

    The weights, none below 0, are fitted to the logits of both out of sample, which calibrates the sum. With one member alone its logits
    are those of the whole. Inputs are `Counted`: features (n, D) and the terms of n texts.
    """

    pipeline_: HeadPipeline | None
    terms_: TermsHead | None
    weights_: tuple[float, float]
    out_of_sample_logits_: Floats

    def __init__(self, pipeline: HeadPipeline | None = None, terms: TermsHead | None = None) -> None:
        self.pipeline = pipeline
        self.terms = terms

    def fit(self, X: Counted, y: npt.ArrayLike, *, groups: npt.ArrayLike | None = None) -> Self:
        """Fit the members that there are, and where there are both their weights. Errors as of `Head.fit`."""
        pipeline, terms = self.pipeline and self.pipeline.clone(), self.terms and self.terms.clone()
        if pipeline is not None:
            pipeline.fit(X.features, y, groups=groups)
        if terms is not None:
            terms.fit(X.counts, y, groups=groups)
        return self._with(pipeline, terms, encode(y).weighted(None if terms is None else terms.class_weight))

    @classmethod
    def of_fitted(cls, pipeline: HeadPipeline | None, terms: TermsHead | None, targets: EncodedLabels) -> Self:
        """Of fitted members, at least one of them; the labels (with weights) are those that both were fitted on."""
        return cls(pipeline and HeadPipeline(), terms and TermsHead())._with(pipeline, terms, targets)

    def _with(
        self, pipeline: HeadPipeline | None, terms: TermsHead | None, targets: EncodedLabels | None = None,
        weights: tuple[float, float] | None = None,
    ) -> Self:  # fmt: skip
        member = pipeline if pipeline is not None else terms
        assert member is not None
        self.pipeline_, self.terms_ = pipeline, terms
        self.classes_, self.link_, self.label_dtype_ = member.classes_, member.link_, member.label_dtype_
        self.weights_ = weights or (float(pipeline is not None), float(terms is not None))
        if pipeline is None or terms is None:
            if hasattr(member, "out_of_sample_logits_"):
                self.out_of_sample_logits_ = member.out_of_sample_logits_
            return self
        if targets is None:
            return self
        both = np.stack([pipeline.out_of_sample_logits_, terms.out_of_sample_logits_])
        self.weights_ = fitted_weights(both, targets)
        self.out_of_sample_logits_ = np.tensordot(self.weights_, both, axes=1)
        return self

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The terms that count; None where none do."""
        return None if self.terms_ is None else self.terms_.vocabulary_

    def logits(self, X: Any) -> Floats:
        """Calibrated log-odds (n, k) of n texts, `Counted`."""
        self.check_fitted("weights_")
        parts = []
        if self.pipeline_ is not None:
            parts.append(self.weights_[0] * self.pipeline_.logits(X.features))
        if self.terms_ is not None:
            parts.append(self.weights_[1] * self.terms_.logits(X.counts))
        return np.asarray(sum(parts[1:], parts[0]))

    def uncalibrated(self, logits: Floats) -> Floats | None:
        """As `Head.uncalibrated`; of two members there are no logits before the calibration."""
        member = self.pipeline_ if self.terms_ is None else self.terms_ if self.pipeline_ is None else None
        return None if member is None else member.uncalibrated(logits)

    def write_onnx(self, graph: OnnxGraph, features: str, terms: str = "", counts: str = "") -> str:
        """Append the members to a graph: `features` names a float32 value (N, D), the others are as of `TermsHead.write_onnx`; what no
        member takes may be empty. Returns the name of the logits, float32 (N, k).
        """
        self.check_fitted("weights_")
        parts = []
        if self.pipeline_ is not None:
            parts.append(self.pipeline_.write_onnx(graph, features))
        if self.terms_ is not None:
            parts.append(self.terms_.write_onnx(graph, terms, counts))
        if len(parts) == 1:
            return parts[0]
        scaled = [graph.node("Mul", part, graph.constant(weight)) for part, weight in zip(parts, self.weights_, strict=True)]
        return graph.node("Add", *scaled)

    def state(self) -> State:
        """JSON values, and arrays named ``features.*`` and ``terms.*``, from which `from_state` makes the head again."""
        self.check_fitted("weights_")
        settings: dict[str, Any] = {"weights": list(self.weights_)}
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, member in (("features", self.pipeline_), ("terms", self.terms_)):
            if member is not None:
                settings[name], own = member.state()
                arrays |= {f"{name}.{key}": value for key, value in own.items()}
        return settings, arrays

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry or an array is missing."""
        with damage_named("The saved head is"):
            first, second = map(float, settings["weights"])
            if not ("features" in settings or "terms" in settings):
                raise KeyError("features")

        def part(name: str) -> dict[str, npt.NDArray[Any]]:
            return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}

        pipeline = HeadPipeline.from_state(settings["features"], part("features")) if "features" in settings else None
        terms = TermsHead.from_state(settings["terms"], part("terms")) if "terms" in settings else None
        return cls()._with(pipeline, terms, weights=(first, second))


def fitted_weights(logits: Floats, targets: EncodedLabels) -> tuple[float, float]:
    """Weights, none below 0, of the logits of two models (2, n, k) that make the log loss of their sum the smallest.

    The targets are smoothed as in `headstart.heads.calibration`, so that labels that are told apart without an error have an optimum too.
    """
    from scipy.optimize import minimize
    from scipy.special import log_expit

    n, k = targets.indicators.shape
    doubt, link = 1 / (n + 2), targets.link
    goal = targets.indicators * (1 - doubt) + doubt / link.outcomes(k)
    weights = np.ones(n) if targets.weights is None else targets.weights / targets.weights.mean()

    def objective(theta: Floats) -> tuple[float, Floats]:
        both = np.tensordot(theta, logits, axes=1)
        if link.independent:
            losses = -(goal * log_expit(both) + (1 - goal) * log_expit(-both)).sum(axis=1)
        else:
            losses = -(goal * log_softmax(both)).sum(axis=1)
        error = (link.probabilities(both) - goal) * weights[:, None]
        return float(weights @ losses) / n, np.tensordot(logits, error, axes=2) / n

    found = minimize(objective, [0.5, 0.5], jac=True, method="L-BFGS-B", bounds=[(0, None)] * 2, options={"ftol": 1e-10, "gtol": 1e-7})
    return float(found.x[0]), float(found.x[1])


def fused_candidate(features: Candidate, terms: Candidate, head: FusedHead) -> Candidate:
    """Both as one candidate, from which `unfitted` makes the whole again; its scores are still those of `terms`."""
    settings = features.hyperparameters | {_TERMS_C: terms.hyperparameters["C"]} | dict(zip(WEIGHTS, head.weights_, strict=True))
    return replace(
        features, view=f"{features.view}; {terms.view}", head=features.head + BOTH, hyperparameters=settings, images=terms.images,
        seconds=round(features.seconds + terms.seconds, 4),
    )  # fmt: skip


def unfitted(
    candidate: Candidate, *, layers: Sequence[Layer], hyperparameters: Mapping[str, Any] | None = None, class_weight: ClassWeight = None,
    seed: int = 0, folds: int = FOLDS,
) -> HeadPipeline | FusedHead:  # fmt: skip
    """As `headstart.selection.choice.unfitted`; a `FusedHead` where the candidate learned from terms, whose weights are fitted anew."""
    settings = dict(candidate.hyperparameters if hyperparameters is None else hyperparameters)
    if candidate.head == TERMS:
        return FusedHead(None, TermsHead(C=settings["C"], class_weight=class_weight, seed=seed, folds=folds))
    if not candidate.head.endswith(BOTH):
        return unfitted_pipeline(candidate, layers=layers, hyperparameters=settings, class_weight=class_weight, seed=seed, folds=folds)
    terms = TermsHead(C=settings.pop(_TERMS_C), class_weight=class_weight, seed=seed)
    settings = {name: value for name, value in settings.items() if name not in WEIGHTS}
    alone = replace(candidate, head=candidate.head.removesuffix(BOTH))
    return FusedHead(unfitted_pipeline(alone, layers=layers, hyperparameters=settings, class_weight=class_weight, seed=seed), terms)


def inputs_at(inputs: Inputs, rows: npt.NDArray[np.int64]) -> Inputs:
    """Some rows of what a model takes."""
    return inputs.take(rows) if isinstance(inputs, Counted) else take_rows(inputs, rows)
