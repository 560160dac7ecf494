"""`Classification`: the task whose targets are labels, one for each input or any number of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.data import MASK, Annotations, Dataset, Labels, LabelSets, class_targets
from headstart.data.labels import read_labels
from headstart.errors import DataError, ParameterError, setting
from headstart.matrix import FeatureMatrix
from headstart.metrics.link import Link, link_named
from headstart.onnx_graph import OnnxGraph
from headstart.records import Column, Record
from headstart.sections import Card, Matrix, TaskReport
from headstart.tasks.classification.predictions import ClassPredictions, columns, record
from headstart.tasks.outputs import ClassOutputs, Judgement, Neighbour, Output, Outputs, Predictions, State
from headstart.tasks.task import Judged, Learned, LearningContext, Task
from headstart.text import plural, printable

if TYPE_CHECKING:
    from headstart.adaptation import AdaptationGain
    from headstart.data import Targets
    from headstart.features.table import FeatureTable
    from headstart.reliability import Reliability, ReliabilityTest
    from headstart.settings import FitSettings
    from headstart.tasks.classification.evaluation import ClassEvaluation
    from headstart.tasks.task import Evaluation
    from headstart.training.learning_rates import LearningRates
    from headstart.training.pace import Pace


COUNTED = ("terms", "counts")
"""The inputs of the graph of a model that counts terms."""


class Classification(Task):
    """Which class an input has; or which of several classes it has."""

    name = "classification"
    has_confidence = True

    def recognises(self, found: Annotations) -> str | None:
        if len(found.learned) != 1:
            return None
        what = "several labels an image" if found.several else "one label an image"
        masks = ""
        if MASK in found.columns:
            count = sum(value is not None for value in found.columns[MASK].values)
            masks = f"; the masks of {count} of {len(found.parts)} images are left aside, and --task anomaly takes both"
        return f"{what}, from {found.columns['label'].origin}{masks}"

    def read_targets(self, found: Annotations, state: State | None = None) -> Labels | LabelSets:
        """Class labels; with the `state` of a run matched with its classes by name."""
        if state is not None and link_of(state).independent:
            found.to_several()
        return read_labels(found, None if state is None else state["classes"])

    def targets(self, array: npt.NDArray[Any], state: State) -> Labels | LabelSets:
        return class_targets(array, state["classes"])

    def state(self, targets: Targets, model: Any = None) -> dict[str, Any]:
        assert targets.link is not None
        return {"classes": list(targets.classes), "link": targets.link.name}

    def check(self, dataset: Dataset, settings: FitSettings) -> None:
        """There must be two classes, each with a training image; and a training must suit the classes."""
        if len(dataset.classes) < 2:
            raise DataError(
                f"{dataset.source}: there is one class only, {dataset.classes[0]!r}, so there is nothing to tell apart. "
                "Add a second folder, of images that are something else."
            )
        lacking = [name for name, count in dataset.counts("train", "").items() if not count]
        if lacking:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            raise DataError(
                f"{dataset.source}: no training image of {', '.join(lacking[:5])}{more}: it cannot be learned. "
                "Add some, or remove the class."
            )
        if settings.adapt_to is not None and dataset.targets.link is not None and dataset.targets.link.independent:
            flag = setting("adapt_to").removesuffix("=...")
            raise ParameterError(f"{flag} is for one label an image, and these have several: leave it out.")
        from headstart.tasks.classification.learning import check_training

        check_training(dataset, settings)

    def preprocessing(self, given: Any, model: Any) -> Any:
        """With the terms that the model counts, if it does."""
        vocabulary = getattr(model, "vocabulary", None)
        return given if vocabulary is None else replace(given, vocabulary=vocabulary)

    def fit(self, table: FeatureTable, context: LearningContext) -> Learned:
        from headstart.tasks.classification.learning import learn

        return learn(table, context)

    def adapt(self, learned: Learned, features: FeatureMatrix, context: LearningContext) -> Learned:
        from headstart.tasks.classification.learning import adapt

        return adapt(learned, features, context)

    def adaptation_gain(
        self, run: Any, known: npt.NDArray[np.float32], predictions: Predictions, evaluation: Evaluation | None, *,
        progress: Callable[[int, int], None] | None = None,
    ) -> AdaptationGain | None:  # fmt: skip
        from headstart.tasks.classification.learning import adaptation_gain

        return adaptation_gain(run, known, predictions, evaluation, progress=progress)

    def find_learning_rate(self, table: FeatureTable, context: LearningContext, *, low: float, high: float, steps: int) -> LearningRates:
        from headstart.tasks.classification.learning import find_learning_rate

        return find_learning_rate(table, context, low=low, high=high, steps=steps)

    def training_pace(self, table: FeatureTable, context: LearningContext) -> Pace:
        from headstart.tasks.classification.learning import training_pace

        return training_pace(table, context)

    def outputs(self, state: State) -> tuple[Output, ...]:
        count = len(state["classes"])
        return Output("probabilities", "probabilities", (count,)), Output("logits", "logits", (count,))

    def class_outputs(self, state: State) -> tuple[ClassOutputs, ...]:
        return (ClassOutputs(classes=tuple(state["classes"]), link=link_of(state)),)

    def apply(self, model: Any, inputs: FeatureMatrix) -> dict[str, npt.NDArray[Any]]:
        """Logits float32 (n, k), and ``scores``: the same before they were calibrated, where the head has such."""
        logits = model.logits(inputs)
        scores = model.uncalibrated(logits)
        return {"logits": logits.astype(np.float32), **({} if scores is None else {"scores": scores.astype(np.float32)})}

    def write_onnx(self, graph: OnnxGraph, model: Any, features: str, state: State, *, maps: Mapping[str, str]) -> None:
        write_classes(graph, model, features, *self.class_outputs(state))

    def evaluate(self, outputs: Outputs, targets: Targets) -> ClassEvaluation:
        """Score probabilities, or logits where there are none."""
        from headstart.tasks.classification.evaluation import evaluate

        assert targets.link is not None
        probabilities = outputs["probabilities"] if "probabilities" in outputs else targets.link.probabilities(outputs["logits"])
        return evaluate(probabilities, targets.array, targets.classes)

    def evaluation_of(self, arrays: Outputs, state: State) -> Evaluation:
        """The evaluation again; DataError for targets that do not fit the classes, ParameterError for logits that do not."""
        found = super().evaluation_of(arrays, state)
        if self.targets(arrays["targets"], state).link is not link_of(state):
            raise DataError(f"its targets do not fit its {plural(len(state['classes']), 'class')}")
        return found

    def judge(self, learned: Learned, evaluation: Evaluation, context: LearningContext) -> Judged:
        from headstart.tasks.classification.judging import judge

        return judge(learned, evaluation, context)

    def prediction_sets(self, reliability: Reliability, outputs: Outputs, state: State) -> npt.NDArray[np.bool_] | None:
        return None if reliability.sets is None else reliability.sets(outputs["probabilities"], never_empty=True)

    def reliability_of(
        self, evaluation: Evaluation, predictions: Predictions, reliability: Reliability | None
    ) -> tuple[ReliabilityTest | None, dict[str, Any]]:
        from headstart.tasks.classification.judging import reliability_of

        return reliability_of(evaluation, predictions, reliability)

    def matrix(self, evaluation: Evaluation) -> Matrix:
        from headstart.tasks.classification.sections import confusion_matrix

        return confusion_matrix(evaluation)  # type: ignore[arg-type]

    def report(self, run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> TaskReport:
        from headstart.tasks.classification.sections import task_report, tested

        return task_report(tested(run, record, cards=cards))

    def predictions(self, given: Predictions, state: State) -> ClassPredictions:
        return ClassPredictions(**vars(given), classes=tuple(state["classes"]), link=link_of(state))

    def columns(self, state: State, *, top: int = 1) -> tuple[Column, ...]:
        return columns(min(top, len(state["classes"])), link_of(state))

    def records(
        self, names: Sequence[Any], predictions: Any, neighbour: Neighbour, *, top: int = 1, least: float | None = None, nearest: int = 1
    ) -> list[Record]:
        top = min(top, len(predictions.classes))
        found = {
            index: record(names[index], predictions, row, neighbour, top=top, least=least, nearest=nearest)
            for row, index in enumerate(predictions.kept.tolist())
        }
        for index, error in zip(predictions.refused_at, predictions.refused, strict=True):
            found[index] = Record(name=printable(str(names[index])), error=error.reason)
        return [found[index] for index in sorted(found)]

    def tensors(self, predictions: Any, *, least: float | None = None) -> dict[str, npt.NDArray[Any] | list[str]]:
        """The label of an input from which the model abstains is empty."""
        known, unsure = predictions.judgement or Judgement(), predictions.unsure(least)
        labels = [";".join(label) if isinstance(label, tuple) else label for label in predictions.labels]
        labels = ["" if doubted else label for doubted, label in zip(unsure, labels, strict=True)]
        unlikeness = None if known.unlikeness is None else known.unlikeness.astype(np.float32)
        found = {"labels": labels, "sets": known.sets, "unlike": known.unlike, "unlikeness": unlikeness}
        return {name: value for name, value in found.items() if value is not None}

    def facts(self, state: State, metrics: Mapping[str, Any], reliability: Reliability | None) -> dict[str, Any]:
        sets = None if reliability is None else reliability.sets
        return {
            "classes": list(state["classes"]),
            "multilabel": link_of(state).independent,
            "accuracy": metrics.get("test_accuracy"),
            "accuracy_interval": metrics.get("test_accuracy_interval"),
            "test_images": metrics.get("test_images"),
            "coverage": None if sets is None else sets.coverage,
        }


def write_classes(graph: OnnxGraph, model: Any, features: str, outputs: ClassOutputs) -> None:
    """Append a model to a graph: `features` names a float32 value (N, D); logits and probabilities get their names."""
    further = COUNTED if getattr(model, "vocabulary", None) is not None else ()
    graph.node("Identity", model.write_onnx(graph, features, *further), output=outputs.logits)
    outputs.link.write_onnx(graph, outputs.logits, output=outputs.probabilities)


def link_of(state: State) -> Link:
    """The link that the manifest names."""
    return link_named(str(state["link"]))
