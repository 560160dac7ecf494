"""`Translation`: the task whose targets are texts: the translation of each input, or whatever else is to become of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.data import LABEL, Annotations
from headstart.data.translations import MOST, TRANSLATION, Translations
from headstart.errors import DataError, ParameterError, RunError, setting
from headstart.modalities import TEXT
from headstart.onnx_graph import OnnxGraph
from headstart.records import Column, Record
from headstart.sections import Card, TaskReport
from headstart.settings import FineTuning
from headstart.tasks.outputs import Neighbour, Output, Outputs, State
from headstart.tasks.task import Evaluation, Learned, LearningContext, Task
from headstart.tasks.translation import predictions as predicted
from headstart.tasks.translation.evaluation import BEFORE, SOURCE, TranslationEvaluation
from headstart.text import enumeration

if TYPE_CHECKING:
    from headstart.data import Dataset, Targets
    from headstart.features.prepared import Prepared
    from headstart.features.table import FeatureTable
    from headstart.progress import Listener
    from headstart.settings import FitSettings

_NOT_YET = ("budget", "adapt_to", "weights", "class_weight", "plan")

_PLAN = (
    "epochs", "steps", "lr", "batch_size", "early_stop", "label_smoothing", "weight_decay", "warmup", "schedule", "clip", "precision",
    "device", "validation_share", "keep",
)  # fmt: skip
"""Settings of a training that are used."""


class Translation(Task):
    """What becomes of a text, as a text."""

    name = "translation"
    prefers = TRANSLATION
    lines = True
    in_graph = False
    documents = ("lines",)
    printed = "lines"

    def recognises(self, found: Annotations) -> str | None:
        if found.modality is not TEXT or TRANSLATION not in found.columns:
            return None
        source, target = found.columns[TRANSLATION].cells[0]
        return f"the columns {source!r} and {target!r} hold texts and their translations"

    def takes(self, targets: Targets) -> bool:
        return isinstance(targets, Translations)

    def read_targets(self, found: Annotations, state: State | None = None) -> Translations:
        """The translations; a column of labels is taken for them where the data have no other."""
        if found.modality is TEXT and TRANSLATION in found.columns:
            column = found.columns[TRANSLATION]
            return Translations(tuple(map(str, column.values)), tuple(column.cells[0]))
        if found.modality is TEXT and LABEL in found.columns:
            return Translations(tuple(map(str, found.columns[LABEL].cells)))
        raise DataError(
            f"{found.source}: the task {self.name} needs a list with a column of texts and one of their translations. To name them: "
            f"{setting('columns', {'text': 'SOURCE', 'translation': 'TARGET'})}"
        )

    def targets(self, array: npt.NDArray[Any], state: State) -> Translations:
        """A run keeps only digests of translations, which are shown in their place."""
        return Translations(tuple(bytes(row).hex() for row in array), (str(state.get("source", "")), str(state.get("target", ""))))

    def state(self, targets: Targets, model: Any = None) -> dict[str, Any]:
        assert isinstance(targets, Translations)
        languages = model.network.languages
        return {
            "source": targets.columns[0], "target": targets.columns[1], "source_language": languages.source,
            "target_language": languages.target, "prefix": languages.prefix, "beams": model.beams,
        }  # fmt: skip

    def settings(self, given: FitSettings) -> FitSettings:
        """All weights are trained; ParameterError where no network is named, or another setting does not suit."""
        from headstart.backbones.marian import NAME
        from headstart.tasks.translation.learning import is_network

        for name in _NOT_YET:
            if getattr(given, name, None) is not None:
                raise ParameterError(f"{setting(name, getattr(given, name))} is not for the task {self.name}: leave it out.")
        if given.folds:
            raise ParameterError(f"{setting('folds', given.folds)} is not for the task {self.name}: leave it out.")
        if not is_network(given.backbone):
            raise ParameterError(
                f"The task {self.name} needs a network from text to text. Name one of the Hugging Face Hub, "
                f"{setting('backbone', 'Helsinki-NLP/opus-mt-en-de')}, or a folder; {setting('backbone', NAME)} is a small one that is "
                "trained from nothing, for tests and for made-up languages."
            )
        plan = given.fine_tuning or FineTuning(strategy="full")
        if strange := [name for name in plan.changed() if name.removeprefix("--").replace("-", "_") not in _PLAN]:
            known = enumeration([name.replace("_", " ") for name in _PLAN], most=len(_PLAN))
            raise ParameterError(f"{strange[0]} is not for the task {self.name}, of whose training these can be set: {known}.")
        return super().settings(replace(given, fine_tuning=replace(plan, strategy="full")))

    def prepared(self, settings: FitSettings, dataset: Dataset, listener: Listener) -> Prepared:
        from headstart.tasks.translation.learning import prepared

        return prepared(settings, dataset, listener)

    def check(self, dataset: Dataset, settings: FitSettings) -> None:
        """There must be two pairs to learn from."""
        if len(dataset.part("train", "val", "")) < 2:
            raise DataError(f"{dataset.source}: translation is learned from at least two pairs of texts.")

    def fit(self, table: FeatureTable, context: LearningContext) -> Learned:
        from headstart.tasks.translation.learning import learn

        return learn(table, context)

    def outputs(self, state: State) -> tuple[Output, ...]:
        return Output(TRANSLATION, "text", ()), Output(SOURCE, "text", ())

    def apply(self, model: Any, inputs: Any) -> dict[str, npt.NDArray[Any]]:
        from headstart.tasks.translation.learning import apply

        return apply(model, inputs)

    def write_onnx(self, graph: OnnxGraph, model: Any, features: str, state: State, *, maps: Mapping[str, str]) -> None:
        raise ParameterError(f"A run of the task {self.name} has no graph: it is run by PyTorch.")

    def write_model(self, folder: Path, model: Any) -> None:
        model.network.save(folder)

    def open_engine(self, folder: Path, state: State, *, kind: str) -> Any:
        from headstart.errors import BackboneError
        from headstart.tasks.translation.engine import TranslationEngine

        try:
            return TranslationEngine(folder, state)
        except BackboneError as error:
            raise RunError(f"{error} Fit again.") from None

    def evaluate(self, outputs: Outputs, targets: Targets) -> TranslationEvaluation:
        assert isinstance(targets, Translations)
        made, sources = (tuple(text[:MOST] for text in outputs[name].tolist()) for name in (TRANSLATION, SOURCE))
        before = tuple(text[:MOST] for text in outputs[BEFORE].tolist()) if BEFORE in outputs else None
        return TranslationEvaluation(made, tuple(text[:MOST] for text in targets.texts), sources, before)

    def stored(self, outputs: Outputs, targets: Targets, evaluation: Evaluation) -> dict[str, npt.NDArray[Any]]:
        """Translations, texts and right translations."""
        assert isinstance(evaluation, TranslationEvaluation)
        return dict(evaluation.stored())

    def joined(self, parts: Sequence[Outputs]) -> dict[str, npt.NDArray[Any]]:
        """See `Task`; every text has room for as many bytes as the longest."""
        found = {}
        for name, array in parts[0].items():
            width = max(part[name].shape[1] for part in parts)
            rows = [np.pad(part[name], ((0, 0), (0, width - part[name].shape[1]))) for part in parts]
            found[name] = np.concatenate(rows).astype(array.dtype)
        return found

    def evaluation_of(self, arrays: Outputs, state: State) -> TranslationEvaluation:
        return TranslationEvaluation.of_arrays(arrays)

    def columns(self, state: State, *, top: int = 1) -> tuple[Column, ...]:
        return predicted.COLUMNS

    def records(
        self, names: Sequence[Any], predictions: Any, neighbour: Neighbour, *, top: int = 1, least: float | None = None, nearest: int = 1
    ) -> list[Record]:
        return predicted.records(names, predictions)

    def document(self, form: str, records: Sequence[Record], state: State) -> str:
        return predicted.document(records) if form == "lines" else super().document(form, records, state)

    def report(self, run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> TaskReport:
        from headstart.tasks.translation.sections import task_report

        return task_report(run, record)
