"""`Detection`: the task whose targets are boxes, where things of which class are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.backbones.stage_maps import MIRRORED
from headstart.data.annotations import BOX, Annotations
from headstart.data.boxes import Boxes, boxes_of
from headstart.errors import DataError, ParameterError, setting
from headstart.metrics.proposals import BOXES, PROBABILITIES
from headstart.onnx_graph import OnnxGraph
from headstart.records import Column, Record
from headstart.sections import Card, Matrix, TaskReport
from headstart.settings.fit import DETECTORS
from headstart.tasks.detection import forms
from headstart.tasks.detection import predictions as predicted
from headstart.tasks.detection.predictions import BoxPredictions
from headstart.tasks.map_settings import HeadOfTask
from headstart.tasks.outputs import ClassOutputs, ExportedOutput, FileOptions, Neighbour, Output, Outputs, Predictions, State
from headstart.tasks.task import Judged, Learned, LearningContext, Task

if TYPE_CHECKING:
    from headstart.audit import Finding
    from headstart.data import Dataset, Targets
    from headstart.features.stage_maps import ChooseMaps, StageMaps
    from headstart.features.table import FeatureTable
    from headstart.progress import Listener
    from headstart.reliability import Reliability
    from headstart.settings import FitSettings
    from headstart.tasks.detection.comparing import BoxComparison
    from headstart.tasks.detection.evaluation import DetectionEvaluation
    from headstart.tasks.task import Evaluation

HEAD = HeadOfTask(
    task="detection", size=320, targets="boxes", part="a box", head="a detection head", learned="boxes are learned by a head on maps",
    cropped="cut off boxes at the edge",
)  # fmt: skip


class Detection(Task):
    """Where in an input things of which class are."""

    name = "detection"
    prefers = BOX
    spatial = True
    has_confidence = True
    documents, forms = forms.DOCUMENTS, forms.FORMS

    def recognises(self, found: Annotations) -> str | None:
        from headstart.data.box_reading import box_reason

        return box_reason(found)

    def takes(self, targets: Targets) -> bool:
        return isinstance(targets, Boxes)

    def read_targets(self, found: Annotations, state: State | None = None) -> Boxes:
        """The boxes; with the `state` of a run matched with its classes by name."""
        from headstart.data.box_reading import read_boxes

        return read_boxes(found, None if state is None else state["classes"])

    def targets(self, array: npt.NDArray[Any], state: State) -> Boxes:
        return boxes_of(array, state["classes"], state["ids"])

    def state(self, targets: Targets, model: Any = None) -> dict[str, Any]:
        assert isinstance(targets, Boxes)
        return {
            "classes": list(targets.classes), "ids": list(targets.ids), "threshold": model.threshold, "candidates": model.candidates
        }  # fmt: skip

    def settings(self, given: FitSettings) -> FitSettings:
        """The whole image, squashed to a square: a box may lie anywhere. See `HEAD`."""
        for name, value in (("budget", given.budget), ("adapt_to", given.adapt_to)):
            if value is not None:
                raise ParameterError(f"{setting(name, value)} is not for the task {self.name} yet: leave it out.")
        if given.windows != 1:
            raise ParameterError(f"{setting('windows', given.windows)} is for masks, not for boxes: give a larger image size instead.")
        if (given.architecture or "light") not in DETECTORS:
            raise ParameterError(f"{setting('architecture', given.architecture)} is not for boxes: use {', '.join(DETECTORS)}.")
        from headstart.tasks.detection.architectures import with_own_backbone
        from headstart.tasks.detection.published import resolved

        return HEAD.settings(resolved(with_own_backbone(given)))

    def maps(self, settings: FitSettings, dataset: Dataset) -> ChooseMaps:
        from headstart.tasks.detection.learning import maps_for

        return maps_for(settings, dataset)

    def maps_taken(self, model: Any) -> tuple[str, ...]:
        names = tuple(layer.name for layer in model.layers)
        return (*names, *(f"{MIRRORED}{name}" for name in names)) if model.mirrored else names

    def check(self, dataset: Dataset, settings: FitSettings) -> None:
        """Each class must have a box in a training image; and a training must be one that there is."""
        targets = dataset.targets
        assert isinstance(targets, Boxes)
        known = targets.take(dataset.part("train", "val", ""))
        counts, plan = known.objects(), settings.fine_tuning
        if not any(counts.values()):
            raise DataError(f"{dataset.source}: no training image has a box, so there is nothing to learn.")
        HEAD.check(dataset.source, counts, images=len(known), plan=plan)
        if plan is not None and (plan.loss != "auto" or settings.class_weight is not None):
            raise ParameterError("The loss of boxes is not chosen: leave --loss and --class-weight out.")

    def fit(self, table: FeatureTable, context: LearningContext) -> Learned:
        from headstart.tasks.detection.learning import learn

        return learn(table, context)

    def outputs(self, state: State) -> tuple[Output, ...]:
        count, classes = int(state["candidates"]), len(state["classes"])
        return Output(BOXES, "boxes", (count, 4)), Output(PROBABILITIES, "probabilities", (count, classes))

    def explained(self, state: State) -> tuple[ClassOutputs, ...]:
        """Heat maps explain the surest box, by default of all classes."""
        from headstart.metrics.box_link import PROPOSED

        return (ClassOutputs(classes=tuple(state["classes"]), link=PROPOSED, logits=PROBABILITIES, boxes=BOXES),)

    def apply(self, model: Any, inputs: StageMaps) -> dict[str, npt.NDArray[Any]]:
        """Proposals, with the ``threshold`` (n,) that evaluating them needs."""
        from headstart.tasks.detection.learning import apply

        return {**apply(model, inputs), "threshold": np.full(len(inputs), model.threshold)}

    def write_onnx(self, graph: OnnxGraph, model: Any, features: str, state: State, *, maps: Mapping[str, str]) -> None:
        for value, output in zip(model.write_onnx(graph, maps), (BOXES, PROBABILITIES), strict=True):
            graph.node("Identity", value, output=output)

    def write_export(self, graph: OnnxGraph, images: str, state: State) -> dict[str, ExportedOutput]:
        """The boxes that remain, in pixels of the images, the most confident first; ``threshold`` is an input that need not be given.

        ``found_boxes`` float32 (N, m, 4), left, top, right and bottom; ``found_scores`` (N, m); ``found_classes`` int64 (N, m), with -1
        where an image has fewer than m.
        """
        from headstart.heads.box_graph import FLOAT, write_kept_boxes

        sides = graph.node("Slice", graph.node("Shape", images), graph.integers(1), graph.integers(3))
        order = graph.constant([1, 0, 1, 0], dtype=np.int64)
        scale = graph.node("Cast", graph.node("Gather", sides, order), to=FLOAT)
        found = write_kept_boxes(
            graph, graph.node("Mul", BOXES, scale), PROBABILITIES, threshold=graph.default("threshold", state["threshold"]),
            candidates=int(state["candidates"]), classes=len(state["classes"]),
        )  # fmt: skip
        for value, output in zip(found, predicted.FOUND, strict=True):
            graph.node("Identity", value, output=output)
        boxes, scores, labels = predicted.FOUND
        return {boxes: (np.float32, ("N", "m", 4)), scores: (np.float32, ("N", "m")), labels: (np.int64, ("N", "m"))}

    def comparison(self) -> BoxComparison:
        from headstart.tasks.detection.comparing import BoxComparison

        return BoxComparison()

    def evaluate(self, outputs: Outputs, targets: Targets) -> DetectionEvaluation:
        from headstart.metrics.boxes import Detections
        from headstart.tasks.detection.evaluation import DetectionEvaluation

        assert isinstance(targets, Boxes)
        found = predicted.detections_of(outputs[BOXES], outputs[PROBABILITIES], targets.sizes)
        return DetectionEvaluation(Detections.joined(found), targets, float(outputs["threshold"][0]))

    def stored(self, outputs: Outputs, targets: Targets, evaluation: Evaluation) -> dict[str, npt.NDArray[Any]]:
        """What was found and what is there."""
        return evaluation.stored()  # type: ignore[attr-defined, no-any-return]

    def joined(self, parts: Sequence[Outputs]) -> dict[str, npt.NDArray[Any]]:
        """See `Task`; every image has room for as many boxes as one of any part needs."""
        from headstart.tasks.detection.evaluation import padded

        return {name: padded([one[name] for one in parts], fill) for name, fill in (("detections", -1), ("targets", 0))}

    def evaluation_of(self, arrays: Outputs, state: State) -> DetectionEvaluation:
        from headstart.tasks.detection.evaluation import DetectionEvaluation

        return DetectionEvaluation.of_arrays(arrays, self.targets(arrays["targets"], state), float(state["threshold"]))

    def predictions(self, given: Predictions, state: State) -> BoxPredictions:
        return BoxPredictions.of(given, tuple(state["classes"]), tuple(state["ids"]), float(state["threshold"]))

    def columns(self, state: State, *, top: int = 1) -> tuple[Column, ...]:
        return predicted.columns(tuple(state["classes"]))

    def records(
        self, names: Sequence[Any], predictions: Any, neighbour: Neighbour, *, top: int = 1, least: float | None = None, nearest: int = 1
    ) -> list[Record]:
        return predicted.records(names, predictions, least=least)

    def judge(self, learned: Learned, evaluation: Evaluation, context: LearningContext) -> Judged:
        from headstart.tasks.detection.judging import judge

        return judge(learned, context)

    def matrix(self, evaluation: Evaluation) -> Matrix:
        from headstart.tasks.detection.sections import confusion_matrix

        return confusion_matrix(evaluation)  # type: ignore[arg-type]

    def report(self, run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> TaskReport:
        from headstart.tasks.detection.sections import task_report

        return task_report(run, record, cards=cards)

    def suffixes(self, asked: FileOptions) -> tuple[str, ...]:
        return (*((predicted.DRAWN,) if asked.overlay else ()), *((forms.SUFFIXES[asked.form],) if asked.form else ()))

    def files(self, predictions: Any, row: int, picture: Callable[[], npt.NDArray[np.uint8]], asked: FileOptions) -> dict[str, bytes]:
        boxes = predictions.boxes(row, threshold=asked.least)
        drawn = {predicted.DRAWN: predicted.drawn(predictions.classes, boxes, picture())} if asked.overlay else {}
        return drawn | (forms.file_of(asked.form, boxes, predictions.size(row), predictions.classes) if asked.form else {})

    def files_of_all(self, asked: FileOptions, state: State) -> dict[str, bytes]:
        return forms.files_of_all(asked.form, state["classes"])

    def results(self) -> Callable[[Iterable[Record]], Iterator[dict[str, Any]]]:
        return forms.results

    def document(self, form: str, records: Sequence[Record], state: State) -> str:
        return forms.document(form, records)

    def audited(self, dataset: Dataset, settings: FitSettings, listener: Listener) -> FitSettings | None:
        """None without PyTorch, and where there are too few images or no boxes."""
        from headstart.tasks.detection.judging import can_be_doubted

        return self.settings(settings) if can_be_doubted(dataset, listener) else None

    def doubts(self, table: FeatureTable, context: LearningContext) -> tuple[Finding, ...]:
        from headstart.tasks.detection.judging import doubts

        return doubts(table, context)

    def located(self, predictions: Any, row: int, number: int) -> tuple[int, tuple[float, float, float, float]] | None:
        return predicted.located(predictions, row, number)

    def tensors(self, predictions: Any, *, least: float | None = None) -> dict[str, npt.NDArray[Any] | list[str]]:
        return predicted.tensors(predictions, least=least)

    def facts(self, state: State, metrics: Mapping[str, Any], reliability: Reliability | None) -> dict[str, Any]:
        scores = metrics.get("test") or {}
        return {
            "classes": list(state["classes"]), "threshold": state["threshold"], "test_images": metrics.get("test_images"),
            **{name: scores.get(name) for name in ("ap50", "ap50_interval", "ap", "ap_interval")},
        }  # fmt: skip
