"""`Multitask`: several columns of labels, each a classification, learned together on one backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.data import LABEL, Annotations, Dataset, LabelColumns, ListOptions, label_columns
from headstart.data.labels import read_label_columns
from headstart.errors import DataError, ParameterError, nearest, setting
from headstart.matrix import FeatureMatrix
from headstart.metrics.link import link_named
from headstart.onnx_graph import OnnxGraph
from headstart.records import Column, Record
from headstart.sections import Card, TaskReport
from headstart.tasks.classification.task import Classification, write_classes
from headstart.tasks.multitask.predictions import ColumnsPredictions, columns, image_record
from headstart.tasks.outputs import ClassOutputs, Judgement, Neighbour, Output, Outputs, Predictions, State
from headstart.tasks.task import Judged, Learned, LearningContext, Task
from headstart.text import enumeration, printable

if TYPE_CHECKING:
    from headstart.data import Targets
    from headstart.features.table import FeatureTable
    from headstart.reliability import Reliability, ReliabilityTest
    from headstart.settings import FitSettings
    from headstart.tasks.multitask.evaluation import ColumnsEvaluation
    from headstart.tasks.task import Evaluation
    from headstart.training.learning_rates import LearningRates

ONE = Classification()
"""What each column is."""


class Multitask(Task):
    """Which class an input has in each of several columns of labels, some of which may be missing."""

    name = "multitask"
    several_columns = True
    has_confidence = True

    def recognises(self, found: Annotations) -> str | None:
        return f"the columns {enumeration(list(found.learned))} of labels" if len(found.learned) > 1 else None

    def takes(self, targets: Targets) -> bool:
        return isinstance(targets, LabelColumns)

    def columns_read(self, state: State, lists: ListOptions) -> tuple[str, ...]:
        """The columns of the run, or those of them that the options name."""
        own = [one.column for one in self.class_outputs(state)]
        if wrong := [name for name in lists.labels if name not in own]:
            raise ParameterError(
                f"{setting('labels', (wrong[0],))}: the run has not learned this column.{nearest(wrong[0], own)} "
                f"It knows {', '.join(own)}; without {setting('labels')} all of them are read."
            )
        return lists.labels or tuple(own)

    def read_targets(self, found: Annotations, state: State | None = None) -> LabelColumns:
        """The labels of each column; with the `state` of a run matched with its classes by name."""
        if found.learned == (LABEL,) and state is None:
            raise DataError(
                f"{found.source}: the task {self.name} learns several columns of labels of a list. Name them with "
                f"{setting('labels', ('FIRST', 'SECOND'))}."
            )
        return read_label_columns(found, None if state is None else self._known(state))

    def targets(self, array: npt.NDArray[Any], state: State) -> LabelColumns:
        return label_columns(array, self._known(state))

    def _known(self, state: State) -> dict[str, tuple[tuple[str, ...], Any]]:
        return {one.column: (one.classes, one.link) for one in self.class_outputs(state)}

    def state(self, targets: Targets, model: Any = None) -> dict[str, Any]:
        assert isinstance(targets, LabelColumns)
        return {"columns": [{"name": name, **ONE.state(one)} for name, one in targets.columns.items()]}

    def check(self, dataset: Dataset, settings: FitSettings) -> None:
        """Each column must be one that can be learned, and tested where the test part is known."""
        from headstart.tasks.multitask.learning import check

        check(dataset, settings)

    def fit(self, table: FeatureTable, context: LearningContext) -> Learned:
        from headstart.tasks.multitask.learning import learn

        return learn(table, context)

    def find_learning_rate(self, table: FeatureTable, context: LearningContext, *, low: float, high: float, steps: int) -> LearningRates:
        from headstart.tasks.multitask.learning import find_learning_rate

        return find_learning_rate(table, context, low=low, high=high, steps=steps)

    def outputs(self, state: State) -> tuple[Output, ...]:
        return tuple(
            output
            for one in self.class_outputs(state)
            for output in (
                Output(one.probabilities, "probabilities", (len(one.classes),)),
                Output(one.logits, "logits", (len(one.classes),)),
            )
        )

    def class_outputs(self, state: State) -> tuple[ClassOutputs, ...]:
        return tuple(
            ClassOutputs(
                classes=tuple(entry["classes"]), link=link_named(str(entry["link"])), column=str(entry["name"]),
                logits=f"{entry['name']}.logits", probabilities=f"{entry['name']}.probabilities",
            )
            for entry in state["columns"]
        )  # fmt: skip

    def apply(self, model: Any, inputs: FeatureMatrix) -> dict[str, npt.NDArray[Any]]:
        """The outputs of a classification for each column, after its name and a dot."""
        found = ((name, ONE.apply(one, inputs)) for name, one in model.heads.items())
        return {f"{name}.{output}": array for name, outputs in found for output, array in outputs.items()}

    def write_onnx(self, graph: OnnxGraph, model: Any, features: str, state: State, *, maps: Mapping[str, str]) -> None:
        for outputs in self.class_outputs(state):
            write_classes(graph, model.heads[outputs.column], features, outputs)

    def evaluate(self, outputs: Outputs, targets: Targets) -> ColumnsEvaluation:
        """Score each column that some of the inputs have a label in."""
        from headstart.tasks.multitask.evaluation import ColumnsEvaluation

        assert isinstance(targets, LabelColumns)
        rows = {name: targets.rows(name) for name in targets.columns if targets.known.any()}
        rows = {name: found for name, found in rows.items() if len(found)}
        if not rows:
            raise DataError(f"None of the inputs has a label in any of the columns {', '.join(targets.columns)}: there is nothing to test.")
        return ColumnsEvaluation(
            columns={name: ONE.evaluate(of_column(outputs, name, some), targets.columns[name].take(some)) for name, some in rows.items()},
            rows=rows, images=int(targets.known.any(axis=1).sum()),
        )  # fmt: skip

    def judge(self, learned: Learned, evaluation: Evaluation, context: LearningContext) -> Judged:
        from headstart.tasks.multitask.learning import judge

        return judge(learned, evaluation, context)

    def prediction_sets(self, reliability: Reliability, outputs: Outputs, state: State) -> npt.NDArray[np.bool_] | None:
        """Those of all columns beside each other, in the order of their classes."""
        found = []
        for one in self.class_outputs(state):
            part = reliability.columns.get(one.column)
            if part is None or part.sets is None:
                return None
            found.append(part.sets(outputs[one.probabilities], never_empty=True))
        return np.concatenate(found, axis=1)

    def reliability_of(
        self, evaluation: Evaluation, predictions: Predictions, reliability: Reliability | None
    ) -> tuple[ReliabilityTest | None, dict[str, Any]]:
        from headstart.tasks.multitask.learning import reliability_of

        return reliability_of(evaluation, predictions, reliability)

    def report(self, run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> TaskReport:
        from headstart.tasks.multitask.sections import task_report

        return task_report(run, record, cards=cards)

    def predictions(self, given: Predictions, state: State) -> ColumnsPredictions:
        return ColumnsPredictions.of(given, self.class_outputs(state))

    def columns(self, state: State, *, top: int = 1) -> tuple[Column, ...]:
        return columns(self.class_outputs(state), top=top)

    def records(
        self, names: Sequence[Any], predictions: Any, neighbour: Neighbour, *, top: int = 1, least: float | None = None, nearest: int = 1
    ) -> list[Record]:
        found = {
            index: image_record(names[index], predictions, row, neighbour, top=top, least=least, nearest=nearest)
            for row, index in enumerate(predictions.kept.tolist())
        }
        for index, error in zip(predictions.refused_at, predictions.refused, strict=True):
            found[index] = Record(name=printable(str(names[index])), kind="columns", error=error.reason)
        return [found[index] for index in sorted(found)]

    def tensors(self, predictions: Any, *, least: float | None = None) -> dict[str, npt.NDArray[Any] | list[str]]:
        """The labels of an input from which the model abstains in any column are empty."""
        known, found = predictions.judgement or Judgement(), dict[str, npt.NDArray[Any] | list[str]]()
        unsure = predictions.unsure(least)
        for name, one in predictions.columns.items():
            found |= {f"{name}.{key}": value for key, value in ONE.tensors(one).items()}
            found[f"{name}.labels"] = ["" if doubted else label for doubted, label in zip(unsure, found[f"{name}.labels"], strict=True)]
        of_image = {"unlike": known.unlike, "unlikeness": None if known.unlikeness is None else known.unlikeness.astype(np.float32)}
        return found | {key: value for key, value in of_image.items() if value is not None}

    def facts(self, state: State, metrics: Mapping[str, Any], reliability: Reliability | None) -> dict[str, Any]:
        tested, found = metrics.get("test", {}).get("columns", {}), {}
        for one, entry in zip(self.class_outputs(state), state["columns"], strict=True):
            scores = tested.get(one.column, {})
            own = {f"test_{name}": scores.get(name) for name in ("accuracy", "accuracy_interval", "images")}
            part = None if reliability is None else reliability.columns.get(one.column)
            found[one.column] = ONE.facts(entry, own, part)
        return {"columns": found, "mean_accuracy": metrics.get("test_mean_accuracy"), "test_images": metrics.get("test_images")}


def of_column(outputs: Outputs, name: str, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """The outputs of one column, of some inputs, named as those of a classification; DataError where there are none."""
    found = {kind: outputs[f"{name}.{kind}"][rows] for kind in ("probabilities", "logits") if f"{name}.{kind}" in outputs}
    if not found:
        raise DataError(f"the data have a column {name!r} of labels, which the run has not learned.")
    return found
