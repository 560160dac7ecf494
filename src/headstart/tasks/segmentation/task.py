"""`Segmentation`: the task whose targets are masks, the class of each pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.data.annotations import LABEL, MASK, Annotations
from headstart.data.masks import Masks, masks_of
from headstart.errors import DataError, ParameterError, setting
from headstart.metrics.link import PLACES
from headstart.onnx_graph import OnnxGraph
from headstart.pixels.pictures import hex_colour
from headstart.pixels.windows import Windows
from headstart.records import Column, Record
from headstart.sections import Card, Matrix, TaskReport
from headstart.settings.fit import DECODERS
from headstart.tasks.map_settings import HeadOfTask
from headstart.tasks.outputs import ClassOutputs, ExportedOutput, FileOptions, Neighbour, Output, Outputs, Predictions, State
from headstart.tasks.segmentation.coco import FORMS, coco_document
from headstart.tasks.segmentation.predictions import MaskPredictions, background_of, columns, files, records, suffixes, tensors
from headstart.tasks.task import Judged, Learned, LearningContext, Task

if TYPE_CHECKING:
    from headstart.data import Dataset, Targets
    from headstart.features.stage_maps import ChooseMaps, StageMaps
    from headstart.features.table import FeatureTable
    from headstart.reliability import Reliability
    from headstart.settings import FitSettings
    from headstart.tasks.segmentation.evaluation import SegmentationEvaluation
    from headstart.tasks.task import Evaluation

UINT8 = 2  # of ONNX's table of types
HEAD = HeadOfTask(
    task="segmentation", size=256, targets="masks", part="a pixel", head="a decoder", learned="masks are learned by a decoder",
    cropped="leave pixels at the edge without a class",
)  # fmt: skip


class Segmentation(Task):
    """Which class each pixel of an input has."""

    name = "segmentation"
    spatial = True
    documents = FORMS

    def recognises(self, found: Annotations) -> str | None:
        if found.learned or not found.masked:
            return None
        labels = f"; --task classification learns the labels, from {found.columns[LABEL].origin}" if LABEL in found.columns else ""
        return f"masks, from {found.columns[MASK].origin}{labels}"

    def takes(self, targets: Targets) -> bool:
        return isinstance(targets, Masks)

    def read_targets(self, found: Annotations, state: State | None = None) -> Masks:
        """The masks; with the `state` of a run matched with its classes by name."""
        from headstart.data.mask_reading import read_masks

        return read_masks(found, None if state is None else state["classes"])

    def targets(self, array: npt.NDArray[Any], state: State) -> Masks:
        return masks_of(array, state["classes"])

    def state(self, targets: Targets, model: Any = None) -> dict[str, Any]:
        windows = model.windows
        seen = {"shape": list(model.shape)} if windows is None else {"shape": list(windows.shape(model.shape)), "windows": windows.count}
        return {"classes": list(targets.classes), **seen}

    def settings(self, given: FitSettings) -> FitSettings:
        """The whole image, squashed to a square: every pixel has a class. Or several windows of that."""
        for name, value, instead in (
            (
                "budget",
                given.budget,
                "it chooses heads on features; name the backbone with --backbone, and the decoder with --architecture",
            ),
            ("adapt_to", given.adapt_to, "add images of that world, with their masks, to those to learn from"),
        ):
            if value is not None:
                raise ParameterError(f"{setting(name, value)} is not for the task {self.name}: {instead}.")
        if (given.architecture or "light") not in DECODERS:
            raise ParameterError(f"{setting('architecture', given.architecture)} is not for masks: use {', '.join(DECODERS)}.")
        squared = HEAD.settings(given)
        if given.windows != 1:
            Windows(given.windows, int(squared.backbone.rpartition("@")[2]))
        return squared

    def maps(self, settings: FitSettings, dataset: Dataset) -> ChooseMaps:
        from headstart.tasks.segmentation.learning import maps_for

        return maps_for(settings, dataset)

    def maps_taken(self, model: Any) -> tuple[str, ...]:
        from headstart.tasks.segmentation.learning import map_names

        return map_names(model)

    def check(self, dataset: Dataset, settings: FitSettings) -> None:
        """There must be two classes, each with a pixel in a training image; and a training must be one that there is."""
        targets = dataset.targets
        assert isinstance(targets, Masks)
        if len(targets.classes) < 2:
            raise DataError(
                f"{dataset.source}: the masks have one class only, {targets.classes[0]!r}, so there is nothing to tell apart. "
                f"If the rest is background, name it with {setting('background', 'background')}."
            )
        known = targets.take(dataset.part("train", "val", ""))
        HEAD.check(dataset.source, known.pixels(), images=len(known), plan=settings.fine_tuning)

    def fit(self, table: FeatureTable, context: LearningContext) -> Learned:
        from headstart.tasks.segmentation.learning import learn

        return learn(table, context)

    def outputs(self, state: State) -> tuple[Output, ...]:
        return (Output("logits", "logits", tuple(state["shape"])),)

    def explained(self, state: State) -> tuple[ClassOutputs, ...]:
        """Heat maps explain the region of a class, by default of the largest one that is no background."""
        classes = tuple(state["classes"])
        return (ClassOutputs(classes=classes, link=PLACES, probabilities="logits", background=background_of(classes)),)

    def apply(self, model: Any, inputs: StageMaps) -> dict[str, npt.NDArray[Any]]:
        """Logits, float32 (n, k, h, w)."""
        from headstart.tasks.segmentation.learning import apply

        return {"logits": apply(model, inputs)}

    def write_onnx(self, graph: OnnxGraph, model: Any, features: str, state: State, *, maps: Mapping[str, str]) -> None:
        from headstart.heads.decoder import write_decoder

        write_decoder(graph, model, maps, output="logits")

    def write_export(self, graph: OnnxGraph, images: str, state: State) -> dict[str, ExportedOutput]:
        """``classes``, the class of each pixel of the images, uint8 (N, height, width), and their probabilities (N, k, height, width)."""
        count = len(state["classes"])
        maps = graph.node("Slice", graph.node("Shape", "logits"), graph.integers(0), graph.integers(2))  # N and k
        sides = graph.node("Slice", graph.node("Shape", images), graph.integers(1), graph.integers(3))
        size = graph.node("Concat", maps, sides, axis=0)
        enlarged = graph.node(
            "Resize", "logits", "", "", size, mode="linear", coordinate_transformation_mode="half_pixel", nearest_mode="floor"
        )  # fmt: skip
        graph.node("Softmax", enlarged, axis=1, output="probabilities")
        graph.node("Cast", graph.node("ArgMax", enlarged, axis=1, keepdims=0), to=UINT8, output="classes")
        pixels = "height", "width"
        return {"classes": (np.uint8, ("N", *pixels)), "probabilities": (np.float32, ("N", count, *pixels))}

    def evaluate(self, outputs: Outputs, targets: Targets) -> SegmentationEvaluation:
        """Score logits against the masks, at the size of each mask."""
        from headstart.tasks.segmentation.evaluation import evaluate

        assert isinstance(targets, Masks)
        return evaluate(outputs["logits"], targets)

    def stored(self, outputs: Outputs, targets: Targets, evaluation: Evaluation) -> dict[str, npt.NDArray[Any]]:
        """Counts of pixels by image, of which all scores are made."""
        return {**evaluation.stored(), "targets": targets.array}  # type: ignore[attr-defined]

    def evaluation_of(self, arrays: Outputs, state: State) -> SegmentationEvaluation:
        from headstart.tasks.segmentation.evaluation import SegmentationEvaluation

        return SegmentationEvaluation.of_arrays(arrays, state["classes"])

    def judge(self, learned: Learned, evaluation: Evaluation, context: LearningContext) -> Judged:
        from headstart.tasks.segmentation.judging import judge

        return judge(learned, context)

    def predictions(self, given: Predictions, state: State) -> MaskPredictions:
        return MaskPredictions(**vars(given), classes=tuple(state["classes"]))

    def columns(self, state: State, *, top: int = 1) -> tuple[Column, ...]:
        return columns(tuple(state["classes"]))

    def records(
        self, names: Sequence[Any], predictions: Any, neighbour: Neighbour, *, top: int = 1, least: float | None = None, nearest: int = 1
    ) -> list[Record]:
        return records(names, predictions)

    def matrix(self, evaluation: Evaluation) -> Matrix:
        from headstart.tasks.segmentation.sections import confusion_matrix

        return confusion_matrix(evaluation)  # type: ignore[arg-type]

    def report(self, run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> TaskReport:
        from headstart.tasks.segmentation.sections import task_report

        return task_report(run, record, cards=cards)

    def suffixes(self, asked: FileOptions) -> tuple[str, ...]:
        return suffixes(overlay=asked.overlay)

    def files(self, predictions: Any, row: int, picture: Callable[[], npt.NDArray[np.uint8]], asked: FileOptions) -> dict[str, bytes]:
        return files(predictions, row, picture, clear=predictions.background, overlay=asked.overlay)

    def document(self, form: str, records: Sequence[Record], state: State) -> str:
        return coco_document(records, state["classes"], form=form)

    def tensors(self, predictions: Any, *, least: float | None = None) -> dict[str, npt.NDArray[Any] | list[str]]:
        """The masks of all classes of each input as run lengths, in JSON; and how many pixels each class has, float32 (n, k)."""
        return tensors(predictions)

    def facts(self, state: State, metrics: Mapping[str, Any], reliability: Reliability | None) -> dict[str, Any]:
        return {
            "classes": list(state["classes"]),
            "colours": [hex_colour(index) for index in range(len(state["classes"]))],
            "mean_iou": metrics.get("test_mean_iou"),
            "mean_iou_interval": metrics.get("test_mean_iou_interval"),
            "test_images": metrics.get("test_images"),
        }
