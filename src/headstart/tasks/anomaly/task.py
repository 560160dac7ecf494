"""Anomaly detection as a task: its targets, its outputs, its part of the graph, and where the rest of it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.data import LABEL, Annotations, Dataset, Defects, Targets, read_defects
from headstart.errors import DataError
from headstart.features.stage_maps import ChooseMaps
from headstart.onnx_graph import OnnxGraph
from headstart.records import Column, Record
from headstart.reliability.false_alarms import FalseAlarms
from headstart.sections import Card, TaskReport
from headstart.tasks.anomaly import predictions as predicted
from headstart.tasks.anomaly.predictions import AnomalyPredictions
from headstart.tasks.outputs import FileOptions, Neighbour, Output, Outputs, OwnHeat, Predictions, State
from headstart.tasks.task import Learned, LearningContext, Task
from headstart.text import plural

if TYPE_CHECKING:
    from headstart.features.table import FeatureTable
    from headstart.reliability import Reliability
    from headstart.settings import FitSettings
    from headstart.tasks.anomaly.evaluation import AnomalyEvaluation
    from headstart.tasks.task import Evaluation

PIXELS = "pixels"
"""Names the scores of pixels among what a run stores of its test part."""


class AnomalyDetection(Task):
    """Whether an image differs from the good ones, and where."""

    name = "anomaly"
    spatial = True
    needs_test = False

    def recognises(self, found: Annotations) -> str | None:
        if found.learned or LABEL not in found.columns:
            return None
        try:
            targets = read_defects(_without_masks(found))
        except DataError:
            return None
        learned = np.array([part != "test" for part in found.parts], np.bool_)
        if targets.anomalous[learned].any() or not targets.anomalous.any():
            return None
        return "good images to learn from, and images with defects to test on"

    def takes(self, targets: Targets) -> bool:
        return isinstance(targets, Defects)

    def read_targets(self, found: Annotations, state: State | None = None) -> Defects:
        return read_defects(found, tuple(state["good"]) if state is not None else ())

    def targets(self, array: npt.NDArray[Any], state: State) -> Defects:
        return Defects(np.asarray(array, np.int64))

    def state(self, targets: Targets, model: Any = None) -> dict[str, Any]:
        return {} if model is None else dict(model.described())

    def settings(self, given: FitSettings) -> FitSettings:
        from headstart.tasks.anomaly.learning import suited

        return suited(given)

    def maps(self, settings: FitSettings, dataset: Dataset) -> ChooseMaps | None:
        from headstart.tasks.anomaly.learning import choose_maps

        return choose_maps(settings)

    def check(self, dataset: Dataset, settings: FitSettings) -> None:
        """There must be a good image to learn from."""
        targets = dataset.targets
        if not isinstance(targets, Defects):
            raise DataError(f"{dataset.source}: the task anomaly learns from good images, and these data are for another task.")
        rows = dataset.part("train", "")
        if not (targets.array[rows] == 0).any():
            raise DataError(
                f"{dataset.source}: none of {plural(len(rows), 'image')} to learn from is good, and only good ones are learned."
            )

    def split(self, table: FeatureTable, settings: FitSettings) -> tuple[npt.NDArray[np.str_], str] | None:
        """All images with defects are tested on, beside some good ones; without any, all images are learned from."""
        targets = table.dataset.targets
        assert isinstance(targets, Defects)
        good = np.flatnonzero(~targets.anomalous)
        parts = np.full(len(table), "train", dtype="<U5")
        parts[targets.anomalous] = "test"
        if len(good) == len(table):
            return parts, "no images: all of them are good, and were learned from"
        held = np.zeros(0, np.int64)
        if len(np.unique(table.groups[good])) > 1:
            held = good[table.hold_out(good, share=settings.test_share, seed=settings.seed)[1]]
        parts[held] = "test"
        return parts, f"all images with defects, and {plural(len(held), 'good image')} held out, seed {settings.seed}"

    def fit(self, table: FeatureTable, context: LearningContext) -> Learned:
        from headstart.tasks.anomaly.learning import learn

        return learn(table, context)

    def outputs(self, state: State) -> tuple[Output, ...]:
        height, width = state["map"]
        return Output("map", "scores", (int(height), int(width))), Output("score", "number", ())

    def apply(self, model: Any, inputs: Any) -> dict[str, npt.NDArray[Any]]:
        """``map`` float32 (n, h, w) and ``score`` (n,), with the ``threshold`` (n,) that evaluating them needs."""
        maps, scores = model.scores(inputs)
        return {"map": maps, "score": scores, "threshold": np.full(len(scores), model.threshold)}

    def write_onnx(self, graph: OnnxGraph, model: Any, features: str, state: State, *, maps: Mapping[str, str]) -> None:
        model.detector.write_onnx(graph, maps, names=("map", "score"))

    def evaluate(self, outputs: Outputs, targets: Targets) -> AnomalyEvaluation:
        from headstart.tasks.anomaly.evaluation import evaluate

        assert isinstance(targets, Defects)
        return evaluate(outputs, targets)

    def stored(self, outputs: Outputs, targets: Targets, evaluation: Evaluation) -> dict[str, npt.NDArray[Any]]:
        """Maps, scores, threshold, targets with the kinds of defects, and the scores of pixels, which need the masks."""
        from headstart.tasks.anomaly.evaluation import AnomalyEvaluation

        assert isinstance(evaluation, AnomalyEvaluation)
        assert isinstance(targets, Defects)
        pixels = {} if evaluation.pixels is None else {PIXELS: evaluation.pixels.array()}
        return {**outputs, "targets": targets.array, **pixels}

    def evaluation_of(self, arrays: Outputs, state: State) -> AnomalyEvaluation:
        from headstart.tasks.anomaly.evaluation import PixelScores, evaluate

        if (shape := arrays["score"].shape) != arrays["targets"].shape or not np.isfinite(arrays["score"]).all():
            raise DataError(f"scores {shape} of {plural(len(arrays['targets']), 'image')}")
        found = evaluate(arrays, self.targets(arrays["targets"], state))
        return replace(found, pixels=PixelScores.from_array(arrays[PIXELS]) if PIXELS in arrays else None)

    def report(self, run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> TaskReport:
        from headstart.tasks.anomaly.sections import task_report

        return task_report(run, record, cards=cards)

    def predictions(self, given: Predictions, state: State) -> AnomalyPredictions:
        return AnomalyPredictions.of(given, float(state["threshold"]))

    def columns(self, state: State, *, top: int = 1) -> tuple[Column, ...]:
        return predicted.columns()

    def records(
        self, names: Sequence[Any], predictions: Any, neighbour: Neighbour, *, top: int = 1, least: float | None = None, nearest: int = 1
    ) -> list[Record]:
        return predicted.records(names, predictions)

    def heat(self, predictions: Any, row: int) -> OwnHeat:
        return OwnHeat(
            heat=predictions.heat(row), name=predictions.labels[row], line=predictions.line(row),
            caption=f"Where it differs from the good images; from half the threshold to {predicted.HIGH:g} times",
        )  # fmt: skip

    def suffixes(self, asked: FileOptions) -> tuple[str, ...]:
        return predicted.suffixes(overlay=asked.overlay)

    def files(self, predictions: Any, row: int, picture: Callable[[], npt.NDArray[np.uint8]], asked: FileOptions) -> dict[str, bytes]:
        return predicted.files(predictions, row, picture, overlay=asked.overlay)

    def tensors(self, predictions: Any, *, least: float | None = None) -> dict[str, npt.NDArray[Any] | list[str]]:
        return {"labels": list(predictions.labels), "anomalous": predictions.anomalous}

    def facts(self, state: State, metrics: Mapping[str, Any], reliability: Reliability | None) -> dict[str, Any]:
        alarms = FalseAlarms.from_state(state["false_alarms"])
        return {
            "threshold": alarms.threshold, "false_alarm_rate": alarms.assured if alarms.guaranteed else None,
            "roc_auc": metrics.get("test_roc_auc"), "test_images": metrics.get("test_images"),
        }  # fmt: skip


def _without_masks(found: Annotations) -> Annotations:
    """The same annotations without masks, which are read once it is clear that they are needed."""
    return replace(found, columns={LABEL: found.columns[LABEL]}, notes=[])
