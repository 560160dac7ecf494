"""A task that Headstart does not have: a number for each image. It exists to show that a task needs nothing outside its own file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.linear_model import Ridge

from headstart.data import LABEL, Annotations
from headstart.errors import DataError
from headstart.onnx_graph import OnnxGraph
from headstart.records import Column, Record
from headstart.selection import Candidate, Choice
from headstart.tasks import Learned, LearningContext, Output, Predictions, State, Task


@dataclass(frozen=True, eq=False)
class Numbers:
    """The targets: float64 (n,)."""

    array: np.ndarray
    classes: ClassVar[tuple[str, ...]] = ()
    link: ClassVar[None] = None

    def __len__(self) -> int:
        return len(self.array)

    @property
    def strata(self) -> np.ndarray:
        return np.searchsorted(np.quantile(self.array, [0.25, 0.5, 0.75]), self.array)

    def take(self, rows: np.ndarray) -> Self:
        return replace(self, array=self.array[rows])

    def names(self, index: int) -> tuple[str, ...]:
        return (repr(float(self.array[index])),)

    def cells(self, index: int) -> dict[str, str]:
        return {"label": repr(float(self.array[index]))}

    def counts(self) -> dict[str, int]:
        return {}


@dataclass(frozen=True)
class Line:
    """The model: ridge regression on all features."""

    weights: np.ndarray
    bias: float

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        return graph.node("Gemm", features, graph.constant(self.weights[None]), graph.constant(np.float32([self.bias])), transB=1)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"bias": self.bias}, {"weights": self.weights}


@dataclass(frozen=True, eq=False)
class Errors:
    """The evaluation: the mean absolute error, with its normal 95 % interval."""

    errors: np.ndarray
    correct_rows: None = None

    @property
    def images(self) -> int:
        return len(self.errors)

    @property
    def headline(self) -> tuple[str, float, tuple[float, float]]:
        half = 1.96 * self.errors.std() / len(self.errors) ** 0.5
        return "mean_absolute_error", float(self.errors.mean()), (float(self.errors.mean() - half), float(self.errors.mean() + half))

    @property
    def scores(self) -> dict[str, float]:
        return {"mean_absolute_error": float(self.errors.mean()), "largest_error": float(self.errors.max())}

    def summary(self, part: str = "test") -> str:
        return f"{part} mean absolute error {self.errors.mean():.4f} on {self.images} images"

    def lines(self, title: str = "test") -> list[str]:
        return [f"{title}: {self.images} images", *(f"  {name} {value:.4f}" for name, value in self.scores.items())]

    def to_dict(self) -> dict[str, Any]:
        return {"images": self.images, **self.scores}


class Regression(Task):
    """A number for each image."""

    name = "regression"

    def read_targets(self, found: Annotations, state: State | None = None) -> Numbers:
        try:
            return Numbers(np.array([float(cell) for cell in found.columns[LABEL].cells]))
        except ValueError as error:
            raise DataError(f"{found.columns[LABEL].origin}: {error}") from None

    def targets(self, array: np.ndarray, state: State) -> Numbers:
        return Numbers(array)

    def fit(self, table: Any, context: LearningContext) -> Learned:
        fitted = Ridge(alpha=10.0).fit(table.values[table.train], table.targets[table.train])
        model = Line(fitted.coef_.astype(np.float32), float(fitted.intercept_))
        chosen = Candidate(
            view="all layers", layers=(), head="ridge", hyperparameters={"alpha": 10.0}, images=len(table.train), accuracy=np.nan,
            accuracy_error=np.nan, log_loss=np.nan, log_loss_error=np.nan, seconds=0.0, chosen=True,
        )  # fmt: skip
        choice = Choice(estimator=model, evidence=(chosen,), out_of_sample=None, reason="the only one there is")
        return Learned(choice=choice, table=table, prepared=context.prepared)

    def outputs(self, state: State) -> tuple[Output, ...]:
        return (Output("value", "number", (1,)),)

    def apply(self, model: Line, inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {"value": (inputs @ model.weights + np.float32(model.bias)).astype(np.float32)[:, None]}

    def write_onnx(self, graph: OnnxGraph, model: Line, features: str, state: State, *, maps: Mapping[str, str]) -> None:
        graph.node("Identity", model.write_onnx(graph, features), output="value")

    def evaluate(self, outputs: Any, targets: Any) -> Errors:
        return Errors(np.abs(outputs["value"][:, 0] - targets.array))

    def columns(self, state: State, *, top: int = 1) -> tuple[Column, ...]:
        return Column("path", "name"), Column("value", "number", digits=4), Column("error", "error")

    def records(self, names: Sequence[Any], predictions: Predictions, *_: Any, **__: Any) -> list[Record]:
        values = dict(zip(predictions.kept.tolist(), predictions.outputs["value"][:, 0].tolist(), strict=True))
        refused = dict(zip(predictions.refused_at, predictions.refused, strict=True))
        return [
            Record(name=str(name), kind="number", error=refused[place].reason)
            if place in refused
            else Record(name=str(name), kind="number", values={"value": values[place]}, line=f"{values[place]:.4f}")
            for place, name in enumerate(names)
        ]
