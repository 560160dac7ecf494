"""`TermsHead`: logistic regression on the terms of texts, weighted by how telling each is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import damage_named
from headstart.estimators import Estimator
from headstart.heads.calibration import Calibration
from headstart.heads.head import Floats, LogitClassifier, State
from headstart.heads.labels import ClassWeight, EncodedLabels, encode, held_out_folds, stratified_rows
from headstart.heads.logistic import LogisticProblem, SparseRows
from headstart.matrix import blocks
from headstart.metrics.link import saved_link
from headstart.modalities.text.terms import TermCounts, unit_weights
from headstart.modalities.text.vocabulary import MOST, Vocabulary
from headstart.onnx_graph import OnnxGraph
from headstart.settings.field import number, require, whole

STRENGTHS = tuple(10.0 ** (step / 2) for step in range(-1, 4))
"""The path of C, from strong to weak."""

GAIN = 0.005  # a weaker penalty must lower the held-out log loss by this share of it to count as better
SELECTION_ROWS = 6000  # texts on which C is chosen, at most
COEFFICIENTS = 3_000_000  # of all classes together, at most, but `FEWEST_TERMS` terms
FEWEST_TERMS = 5000
TOGETHER = 8_000_000  # coefficients of the folds that are fitted together, at most
EVEN = 1.0  # what a coefficient is expected to be beside the term's log-odds

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class TermsHead(LogitClassifier, Estimator):
    """L2-regularised logistic regression on sublinear TF-IDF of words and characters, each with norm 1.

    A coefficient is expected to be as large as the log-odds of a class where the term is, as naive Bayes has it, and penalised by that
    (after Wang and Manning, Baselines and bigrams, ACL 2012): out of sample this gained 1.3 points on hotel reviews, 0.3 on film reviews.
    Without a given C, a path from strong to weak penalties is followed with all folds until the held-out log loss no longer falls.
    `out_of_sample_logits_` are those (n, k) of the texts it was fitted on, each from coefficients that were fitted without the text (or
    its group); vocabulary and document frequencies, which no label takes part in, are of all.
    """

    name: ClassVar[str] = "terms"
    title: ClassVar[str] = "logistic regression"
    calibration_: Calibration
    vocabulary_: Vocabulary
    idf_: Matrix  # (V,)
    coef_: Matrix  # (V, k)
    intercept_: Matrix  # (k,)

    def __init__(self, *, C: float | None = None, folds: int = 5, class_weight: ClassWeight = None, seed: int = 0) -> None:
        self.C = C
        self.folds = folds
        self.class_weight = class_weight
        self.seed = seed

    def fit(self, X: TermCounts, y: npt.ArrayLike, *, groups: npt.ArrayLike | None = None) -> Self:
        """Learn from the terms of n texts and n labels of any type, or a 0/1 matrix (n, k) when a text may have several.

        With `groups` (n,), out-of-sample scores leave out the whole group of a text. Raises ValueError for only one class.
        """
        numbers = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
        return self.learn(X, replace(encode(y), groups=numbers).weighted(self.class_weight))

    def learn(self, X: TermCounts, targets: EncodedLabels) -> Self:
        """As `fit`, from encoded labels with their weights and groups; with 0 `folds` and a given C there are no scores out of sample."""
        require(number(above=0), or_none=True, C=self.C)
        require(whole(0 if self.C is not None else 2), folds=self.folds)
        self.classes_, self.link_, self.label_dtype_ = targets.classes, targets.link, targets.dtype
        self.vocabulary_ = Vocabulary.learned(X, most=min(MOST, max(FEWEST_TERMS, COEFFICIENTS // len(targets.classes))))
        entries = self.vocabulary_.entries(X)
        frequency = np.bincount(entries[1] - 1, minlength=len(self.vocabulary_))
        self.idf_ = (np.log((1 + len(X)) / (1 + frequency)) + 1).astype(np.float32)
        matrix = _sparse(entries[0], entries[1], self._weights(*entries), len(self.vocabulary_))
        held_out = start = None
        self.C_ = 1.0 if self.C is None else float(self.C)
        if self.C is None:
            rows = stratified_rows(targets, SELECTION_ROWS, seed=self.seed)
            whole_of_it = len(rows) == len(X)
            self.C_, held_out, start = self._choose(matrix if whole_of_it else matrix[rows], targets.take(rows))
            held_out, start = (held_out, start) if whole_of_it else (None, None)
        if held_out is None and self.folds:
            problem = _Folds(matrix, targets, held_out_folds(targets, self.folds, seed=self.seed))
            held_out, start = problem.held_out(self.C_, tolerance=1e-4, steps=60), problem.mean_coefficients()
        self._finish(matrix, targets, held_out, start)
        return self

    def _choose(self, matrix: Any, targets: EncodedLabels) -> tuple[float, Matrix, Matrix]:
        """C, the held-out logits there, and coefficients near those of a fit on all texts."""
        problem = _Folds(matrix, targets, held_out_folds(targets, self.folds, seed=self.seed))
        best, best_loss = STRENGTHS[0], np.inf
        found: tuple[Matrix, Matrix] | None = None
        for strength in STRENGTHS:
            logits = problem.held_out(strength, tolerance=1e-4, steps=40)
            loss = targets.log_loss(targets.calibrate(logits, shifts=False)(logits))
            if loss >= (1 - GAIN) * best_loss:
                break
            best, best_loss, found = strength, loss, (logits, problem.mean_coefficients())
        assert found is not None
        return best, *found

    def _finish(self, matrix: Any, targets: EncodedLabels, held_out: Matrix | None, start: Matrix | None) -> None:
        """Fit on all texts, and calibrate on held-out logits."""
        problem = _Folds(matrix, targets, [np.empty(0, dtype=np.int64)])
        theta = problem.solved(self.C_, start, tolerance=1e-6, steps=100).astype(np.float64)
        calibration = Calibration(1.0, np.zeros(len(targets.classes)))
        if held_out is not None:
            calibration = targets.calibrate(held_out, shifts=False)
            self.out_of_sample_logits_ = calibration(held_out)
        self.calibration_ = calibration
        theta *= calibration.scale
        if _binary(targets):
            theta = np.concatenate([-theta, theta]) / 2
        self.coef_, self.intercept_ = np.ascontiguousarray(theta[:, :-1].T, dtype=np.float32), theta[:, -1].astype(np.float32)

    def _weights(self, indptr: Rows, numbers: Rows, counts: Matrix) -> Matrix:
        """Sublinear TF-IDF of the entries of a sparse matrix, of words and of characters with norm 1 in each row."""
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        return unit_weights((1 + np.log(counts)) * self.idf_[numbers - 1], rows, numbers > self.vocabulary_.words)

    def logits(self, X: Any) -> Floats:
        """Calibrated log-odds (n, k) of the terms of n texts, `TermCounts`."""
        self.check_fitted("coef_")
        out = np.tile(self.intercept_.astype(np.float64), (len(X), 1))
        for rows in blocks(len(X)):
            indptr, numbers, counts = self.vocabulary_.entries(X.take(rows))
            evidence = self._weights(indptr, numbers, counts)[:, None] * self.coef_[numbers - 1].astype(np.float64)
            filled = np.flatnonzero(np.diff(indptr))
            if len(filled):
                out[rows.start + filled] += np.add.reduceat(evidence, indptr[filled])
        return out

    def uncalibrated(self, logits: Floats) -> Floats:
        """The log-odds (n, k) before the calibration that logits (n, k) went through."""
        return self.calibration_.undone(logits)

    def write_onnx(self, graph: OnnxGraph, terms: str, counts: str) -> str:
        """Append the head to a graph: `terms` names an int64 value (N, K) of numbers in the vocabulary, 0 for none, and `counts` a
        float32 value (N, K). Returns the name of the logits, float32 (N, k).
        """
        self.check_fitted("coef_")
        idf, coef = np.append(np.float32(0), self.idf_), np.concatenate([np.zeros((1, len(self.classes_)), np.float32), self.coef_])
        logarithm = graph.node("Log", graph.node("Max", counts, graph.constant(1.0)))
        weights = graph.node("Mul", graph.node("Add", logarithm, graph.constant(1.0)), graph.node("Gather", graph.constant(idf), terms))
        is_word = graph.node("LessOrEqual", terms, graph.constant(self.vocabulary_.words, dtype=np.int64))
        parts = []
        for mask in (is_word, graph.node("Not", is_word)):
            part = graph.node("Mul", weights, graph.node("Cast", mask, to=1))
            square = graph.node("ReduceSum", graph.node("Mul", part, part), graph.integers(1), keepdims=1)
            norm = graph.node("Sqrt", graph.node("Max", square, graph.constant(1e-30)))
            parts.append(graph.node("Div", part, norm))
        unit = graph.node("Unsqueeze", graph.node("Add", *parts), graph.integers(1))
        evidence = graph.node("MatMul", unit, graph.node("Gather", graph.constant(coef), terms))
        return graph.node("Add", graph.node("Squeeze", evidence, graph.integers(1)), graph.constant(self.intercept_))

    def state(self) -> State:
        """JSON values and arrays from which `from_state` makes the fitted head again."""
        self.check_fitted("coef_")
        known, arrays = self.vocabulary_.state()
        settings = {
            "head": self.name, "classes": self.classes_.tolist(), "link": self.link_.name, "label_dtype": self.label_dtype_.str,
            "C": self.C_, "vocabulary": known, "calibration": [float(self.calibration_.scale), *map(float, self.calibration_.shift)],
        }  # fmt: skip
        return settings, arrays | {"idf": self.idf_, "coef": self.coef_, "intercept": self.intercept_}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry or an array is missing."""
        head = cls()
        with damage_named("The saved head (terms) is"):
            head.classes_, head.link_ = np.array(settings["classes"]), saved_link(settings)
            head.label_dtype_, head.C_ = np.dtype(settings["label_dtype"]), float(settings["C"])
            head.calibration_ = Calibration(float(settings["calibration"][0]), np.array(settings["calibration"][1:], dtype=np.float64))
            head.vocabulary_ = Vocabulary.from_state(settings["vocabulary"], arrays)
            head.idf_, head.coef_, head.intercept_ = (np.asarray(arrays[name]) for name in ("idf", "coef", "intercept"))
            if not (len(head.idf_) == len(head.coef_) == len(head.vocabulary_)):
                raise ValueError(f"'coef' of {len(head.coef_)} terms instead of {len(head.vocabulary_)}")
        return head


class _Folds:
    """Regressions on all texts but those of each part, on a sparse matrix (n, V), as many together as memory has room for."""

    def __init__(self, matrix: Any, targets: EncodedLabels, parts: list[Rows]) -> None:
        self._parts, self._targets = parts, targets
        indicators = targets.indicators[:, 1:] if _binary(targets) else targets.indicators
        sigmoid = targets.link.independent or _binary(targets)
        rows, present = SparseRows(matrix), matrix.copy()
        present.data = np.ones_like(present.data)
        count = max(1, TOGETHER // max(1, indicators.shape[1] * matrix.shape[1]))
        self._problems = []
        for first in range(0, len(parts), count):
            weights = np.ones((len(parts[first : first + count]), len(targets)), dtype=np.float32)
            for row, part in zip(weights, parts[first : first + count], strict=True):
                row[part] = 0
            if targets.weights is not None:
                weights *= targets.weights.astype(np.float32)
            spread = np.concatenate([_spread(present, indicators, row) for row in weights])
            self._problems.append(LogisticProblem(rows, indicators, sigmoid=sigmoid, weights=weights, spread=spread))

    def solved(self, C: float, start: Matrix | None, *, tolerance: float, steps: int) -> Matrix:
        """Coefficients (k, V + 1) of the only regression."""
        (problem,) = self._problems
        if start is not None:
            problem.coefficients = start
        problem.solve(C, tolerance=tolerance, steps=steps)
        return problem.coefficients

    def held_out(self, C: float, *, tolerance: float, steps: int) -> Matrix:
        """Logits (n, k), each from the regression without the text; solutions start from those before."""
        held = np.empty(self._targets.indicators.shape, dtype=np.float32)
        parts = iter(self._parts)
        for problem in self._problems:
            problem.solve(C, tolerance=tolerance, steps=steps)
            logits = problem.logits()
            for fold in range(logits.shape[1]):
                part = next(parts)
                own = logits[part, fold]
                held[part] = np.concatenate([-own, own], axis=1) / 2 if _binary(self._targets) else own
        return held

    def mean_coefficients(self) -> Matrix:
        """Mean over the folds: (k, V + 1)."""
        every = [problem.coefficients.reshape(problem.count, -1, problem.coefficients.shape[1]) for problem in self._problems]
        return np.asarray(np.concatenate(every).mean(axis=0))


def _spread(present: Any, indicators: npt.NDArray[np.bool_], weights: Matrix) -> Matrix:
    """How large coefficients (k, V) are expected to be: by the log-odds of each class where a term is, against those that chance gives."""
    inside = (indicators * weights[:, None]).T
    texts = np.asarray(weights @ present)
    of_class = np.asarray(inside @ present)
    share = of_class.sum(axis=1, keepdims=True) / max(float(texts.sum()), 1e-30)
    odds = np.log((of_class + 1) / (share * texts + 1)) - np.log((texts - of_class + 1) / ((1 - share) * texts + 1))
    return np.asarray(EVEN + np.abs(odds), dtype=np.float32)


def _sparse(indptr: Rows, numbers: Rows, weights: Matrix, width: int) -> Any:
    from scipy.sparse import csr_array

    kind = np.int32 if len(numbers) < 2**31 else np.int64
    return csr_array((weights, (numbers - 1).astype(kind), indptr.astype(kind)), shape=(len(indptr) - 1, width))


def _binary(targets: EncodedLabels) -> bool:
    return not targets.link.independent and len(targets.classes) == 2
