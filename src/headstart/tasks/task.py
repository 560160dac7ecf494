"""What a task must say. A new task is one folder beside this file and one line in the table of the package.

Everything that is shared (reading, extraction, the store, splits, the run folder, the report, export, the server, batch jobs) asks the
task of these methods and knows no task by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from headstart.data import Annotations, Dataset, ListOptions, Targets
from headstart.errors import ParameterError, setting
from headstart.matrix import FeatureMatrix
from headstart.onnx_graph import OnnxGraph
from headstart.progress import Listener
from headstart.records import Column, Record
from headstart.sections import Card, Headline, Matrix, Section, TaskReport
from headstart.tasks.outputs import (
    ClassOutputs,
    ExportedOutput,
    FileComparison,
    FileOptions,
    Neighbour,
    Output,
    Outputs,
    OwnHeat,
    Predictions,
    State,
)  # fmt: skip
from headstart.text import number, plural

if TYPE_CHECKING:
    from headstart.adaptation import AdaptationGain, AdaptationRecord
    from headstart.audit import Finding
    from headstart.features.prepared import Prepared
    from headstart.features.stage_maps import ChooseMaps
    from headstart.features.table import FeatureTable
    from headstart.reliability import Reliability, ReliabilityTest
    from headstart.selection import Choice, LearningCurve
    from headstart.settings import FineTuning, FitSettings
    from headstart.training.learning_rates import LearningRates
    from headstart.training.pace import Pace


class Evaluation(Protocol):
    """What a model's outputs are worth on inputs whose targets are known."""

    @property
    def images(self) -> int:
        """How many inputs were tested."""

    @property
    def headline(self) -> tuple[str, float, tuple[float, float]]:
        """The score to name first: its name, its value and its 95 % interval."""

    @property
    def scores(self) -> Mapping[str, float]:
        """All scores of the whole, by name; nan where one is undefined."""

    @property
    def correct_rows(self) -> npt.NDArray[np.bool_] | None:
        """Bool (n,), which inputs the model was right about; None where right and wrong are not all there is."""

    def summary(self, part: str = "test") -> str:
        """The result in one line."""

    def lines(self, title: str = "test") -> list[str]:
        """The evaluation as lines of plain text."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what is undefined is None."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LearningContext:
    """What learning needs beside the features: the settings, the extractor with its store, and who is told of the progress.

    `settings` has those attributes of `headstart.settings.FitSettings` that the task uses; `resumable` says where a training is kept while
    it lasts (`headstart.training.job.Resumable`). With `test_only`, a backbone trained further gives the features of the test rows alone.
    `until` is the moment, as `time.perf_counter` has it, at which a training should be over; the best so far is kept then. `probe` is a
    model on frozen features of the same rows, by this network or others, that a training is compared with; without it one is chosen.
    """

    settings: Any
    prepared: Prepared
    listener: Listener = field(default_factory=Listener)
    resumable: Any = None
    test_only: bool = False
    until: float | None = None
    probe: Learned | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Learned:
    """What came of learning: the fitted model with the evidence for it, and the inputs with the features that it takes.

    `prepared` gives these features. Where the backbone was trained further, `probe` is the model on the frozen backbone, and `fine_tuned`
    what came of that training (`headstart.training.tuning.FineTuned`), by the `plan`; where the model was adapted to another world,
    `adaptation` says how. `seconds` is the time by stage. Where several columns of labels are learned, `columns` has what was learned of
    each, from the inputs that have a label there.
    """

    choice: Choice
    table: FeatureTable
    prepared: Prepared
    probe: Choice | None = None
    fine_tuned: Any = None
    plan: FineTuning | None = None
    adaptation: AdaptationRecord | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    columns: Mapping[str, Learned] = field(default_factory=dict)
    beside: Any = None  # what the task found while learning, for its `judge`

    @property
    def is_tuned(self) -> bool:
        """Whether the model is on a backbone that was trained further; that may have been tried, and not have paid."""
        return self.prepared.extractor.backbone.tuned


@dataclass(frozen=True, eq=False, kw_only=True)
class Judged:
    """What is known of a model beside its scores; every part may be missing. `findings` are about the data, found by the model.

    Where several columns of labels are learned, `columns` has what is known of each alone.
    """

    reliability: Reliability | None = None
    reliability_test: ReliabilityTest | None = None
    learning_curve: LearningCurve | None = None
    findings: tuple[Finding, ...] = ()
    columns: Mapping[str, Judged] = field(default_factory=dict)


class Task(ABC):
    """A task: what the targets mean, how they are learned, tested and shown. What is not abstract has a default that fits most tasks."""

    name: ClassVar[str]
    """As in the manifest, and for ``--task``."""

    several_columns: ClassVar[bool] = False
    """Whether it learns several columns of labels."""

    documents: ClassVar[tuple[str, ...]] = ()
    """The names of formats beside tables that its records can be written in, for ``--format``."""

    forms: ClassVar[tuple[str, ...]] = ()
    """The names of formats of which each input has a file of its own, for ``--format`` with a folder."""

    spatial: ClassVar[bool] = False
    """Whether its outputs are about places in an input, so that its predictions come with the size of each."""

    lines: ClassVar[bool] = False
    """Whether each line of a text file is an input of its own."""

    printed: ClassVar[str] = "table"
    """The format in which its records are printed where none is named."""

    in_graph: ClassVar[bool] = True
    """Whether a run keeps the fitted model as a graph; else the task writes it (`write_model`) and opens it (`open_engine`)."""

    has_confidence: ClassVar[bool] = False
    """Whether a lowest confidence can be chosen for what its `records` name."""

    prefers: ClassVar[str] = ""
    """The column of annotations that is read of data which say several things; by default the likeliest."""

    needs_test: ClassVar[bool] = True
    """Whether there must be inputs to test on: what is known of a model may also come from inputs that it was not fitted on, in turn."""

    def recognises(self, found: Annotations) -> str | None:
        """What in the data says that this is the task, told to the user; None where nothing does: it is then only learned when named."""
        return None

    def takes(self, targets: Targets) -> bool:
        """Whether it learns targets of this kind, where the task of a `Dataset` is not named."""
        return False

    def columns_read(self, state: State, lists: ListOptions) -> tuple[str, ...]:
        """The columns of labels that a run reads out of lists, in which an input may have none; none where there is one for all inputs.

        ParameterError where the options for lists name others.
        """
        return ()

    @abstractmethod
    def read_targets(self, found: Annotations, state: State | None = None) -> Targets:
        """Read the targets; with the `state` of a run, as that run understands them. A DataError names the input or the file."""

    @abstractmethod
    def targets(self, array: npt.NDArray[Any], state: State) -> Targets:
        """The targets that were stored as an array."""

    def state(self, targets: Targets, model: Any = None) -> dict[str, Any]:
        """What the manifest keeps of targets and fitted model, to decode outputs later."""
        return {}

    def settings(self, given: FitSettings) -> FitSettings:
        """The settings of a fit with what this task needs where they leave it open; ParameterError for those that do not suit it."""
        if given.architecture is not None:
            raise ParameterError(
                f"{setting('architecture', given.architecture)} is for masks and boxes, not for the task {self.name}: leave it out."
            )
        if given.windows != 1:
            raise ParameterError(f"{setting('windows', given.windows)} is for masks, not for the task {self.name}: leave it out.")
        if (plan := given.fine_tuning) is not None and plan.closed_form:
            raise ParameterError(
                f"{', '.join(plan.changed())}: for training, and with --strategy probe nothing is trained: the head is fitted in closed "
                "form on frozen features. Give --strategy partial or full; or --head-layers, to train a head of dense layers."
            )
        return given

    def maps(self, settings: FitSettings, dataset: Dataset) -> ChooseMaps | None:
        """Which maps of the backbone's stages it learns from, beside the features; None where these are all it needs."""
        return None

    def preprocessing(self, given: Any, model: Any) -> Any:
        """The preprocessing of a run, from that of the features: what the fitted model needs beside these is added to it."""
        return given

    def maps_taken(self, model: Any) -> tuple[str, ...] | None:
        """The layers whose maps the fitted model takes; None for all that it learned from.

        Those of the mirror image begin with `headstart.backbones.stage_maps.MIRRORED`.
        """
        return None

    def check(self, dataset: Dataset, settings: FitSettings) -> None:
        """Refuse what cannot be learned, with what to do: DataError for data with their split (or without, before it is made),
        ParameterError for settings that do not suit them.
        """
        if settings.fine_tuning is not None:
            raise ParameterError(f"The backbone cannot be trained further for the task {self.name}: use --strategy probe.")

    def split(self, table: FeatureTable, settings: FitSettings) -> tuple[npt.NDArray[np.str_], str] | None:
        """Where the data name no parts, ``train`` or ``test`` for each row, and how that was decided.

        None to hold out a share of the inputs, stratified.
        """
        return None

    def prepared(self, settings: FitSettings, dataset: Dataset, listener: Listener) -> Prepared | None:
        """What reads the inputs, where no backbone is to make features of them; None where one is."""
        return None

    @abstractmethod
    def fit(self, table: FeatureTable, context: LearningContext) -> Learned:
        """Learn from the training rows of a table; its test rows may be watched, and nothing is chosen on them."""

    def find_learning_rate(self, table: FeatureTable, context: LearningContext, *, low: float, high: float, steps: int) -> LearningRates:
        """Search for a learning rate on the rows that `fit` would train on; a task that trains no backbone refuses."""
        raise ParameterError(f"The backbone cannot be trained further for the task {self.name}, so there is no learning rate to find.")

    def training_pace(self, table: FeatureTable, context: LearningContext) -> Pace:
        """How long training further takes for any number of images, from a few steps on this machine; without it a task trains no backbone.

        It measures for some seconds what the settings of the context would train.
        """
        raise ParameterError(f"The backbone cannot be trained further for the task {self.name}, so there is no time to predict.")

    def adapt(self, learned: Learned, features: FeatureMatrix, context: LearningContext) -> Learned:
        """Adapt what was learned to unlabelled inputs of another world, by their features (m, D); a task that cannot refuses."""
        raise ParameterError(f"The task {self.name} cannot be adapted to unlabelled images: leave out --adapt-to.")

    def adaptation_gain(
        self, run: Any, known: npt.NDArray[np.float32], predictions: Predictions, evaluation: Evaluation | None, *,
        progress: Callable[[int, int], None] | None = None,
    ) -> AdaptationGain | None:  # fmt: skip
        """What adapting the model of an opened `Run` to the sampled inputs of the predictions would bring, without their targets.

        `known` are the features (n, D) of its training inputs; without an `evaluation` of the predictions, nothing is
        tested. None where the task, or this model, cannot be adapted, or there are too few.
        """
        return None

    @abstractmethod
    def outputs(self, state: State) -> tuple[Output, ...]:
        """The outputs of the graph beside the features."""

    def class_outputs(self, state: State) -> tuple[ClassOutputs, ...]:
        """Those of the outputs that rank classes, by the column of labels; none where the task has no classes."""
        return ()

    def explained(self, state: State) -> tuple[ClassOutputs, ...]:
        """The outputs whose classes heat maps explain, by the column of labels; by default those that rank classes.

        Where `ClassOutputs.link` is a `headstart.metrics.link.PlaceLink`, they have a place in the image, and heat maps explain a region.
        """
        return self.class_outputs(state)

    @abstractmethod
    def apply(self, model: Any, inputs: Any) -> dict[str, npt.NDArray[Any]]:
        """Outputs by the fitted model, without the graph, from features (n, D), or from `StageMaps` where it learns from `maps`."""

    @abstractmethod
    def write_onnx(self, graph: OnnxGraph, model: Any, features: str, state: State, *, maps: Mapping[str, str]) -> None:
        """Append the model to a graph: `features` names a float32 value (N, D); the outputs get their names.

        `maps` has the names of the maps, float32 (N, C, h, w), by layer, where the task learns from such.
        """

    def write_model(self, folder: Path, model: Any) -> None:
        """Write the files of a fitted model that is not `in_graph` into the folder of a run."""
        raise ParameterError(f"The model of the task {self.name} is a graph.")

    def open_engine(self, folder: Path, state: State, *, kind: str) -> Any:
        """The engine that runs a model which is not `in_graph`; it takes what the preprocessing gives, and no features come of it.

        RunError where the files are damaged; MissingExtraError where what it needs is not installed.
        """
        raise ParameterError(f"The model of the task {self.name} is a graph.")

    def write_export(self, graph: OnnxGraph, images: str, state: State) -> dict[str, ExportedOutput]:
        """Append to the graph of an exported file what it gives beside the outputs of the run, under the names that are returned.

        `images` names the images, uint8 (N, height, width, 3); the outputs of the run have their names.
        """
        return {}

    def comparison(self) -> FileComparison | None:
        """How exported files are compared with their run; None where the kinds of the outputs say it."""
        return None

    @abstractmethod
    def evaluate(self, outputs: Outputs, targets: Targets) -> Evaluation:
        """Score the outputs."""

    def stored(self, outputs: Outputs, targets: Targets, evaluation: Evaluation) -> dict[str, npt.NDArray[Any]]:
        """What a run stores of its test part, arrays with a row for each input: by default outputs and targets."""
        return {**outputs, "targets": targets.array}

    def joined(self, parts: Sequence[Outputs]) -> dict[str, npt.NDArray[Any]]:
        """What `stored` returned of several parts as one; arrays that only some of them have are left out."""
        names = set.intersection(*(set(arrays) for arrays in parts))
        return {name: np.concatenate([arrays[name] for arrays in parts]) for name in names}

    def evaluation_of(self, arrays: Outputs, state: State) -> Evaluation:
        """The evaluation of the test part again, from what `stored` returned."""
        outputs = {name: array.astype(np.float64) for name, array in arrays.items() if name not in ("targets", "digests")}
        return self.evaluate(outputs, self.targets(arrays["targets"], state))

    def judge(self, learned: Learned, evaluation: Evaluation, context: LearningContext) -> Judged:
        """What is known of the model beside its scores."""
        return Judged()

    def audited(self, dataset: Dataset, settings: FitSettings, listener: Listener) -> FitSettings | None:
        """The settings of a fit with which `doubts` looks at the data; None where it does not, which the listener is told if it could."""
        return None

    def doubts(self, table: FeatureTable, context: LearningContext) -> tuple[Finding, ...]:
        """What in the targets of the training rows looks wrong to models that had not learned from the input, with settings of `audited`.

        Labels are no matter of it: their doubts come with the fit of a head.
        """
        return ()

    def prediction_sets(self, reliability: Reliability, outputs: Outputs, state: State) -> npt.NDArray[np.bool_] | None:
        """The prediction set of each of n inputs, bool (n, k), from the outputs; None where the run knows none."""
        return None

    def reliability_of(
        self, evaluation: Evaluation, predictions: Predictions, reliability: Reliability | None
    ) -> tuple[ReliabilityTest | None, dict[str, Any]]:
        """How well what a run knows of its reliability holds on inputs with known targets; and further figures, JSON values."""
        return None, {}

    def matrix(self, evaluation: Evaluation) -> Matrix:
        """The confusion matrix; refused where the task, or these targets, have none."""
        raise ParameterError(f"A run of the task {self.name} has no confusion matrix.")

    def report(self, run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> TaskReport:
        """What the pages say of the test part of an opened `Run` with its `FitRecord`; by default the headline.

        `cards` makes pictures, by row, from rows of the test part and, for each of all its rows, the class that a heat map is to explain;
        of several `class_outputs` by the name of their ``column``; or, with ``draw``, those that a function makes from a row, the image and
        its targets (None where they are gone).
        """
        evaluation: Evaluation = run.test_evaluation()
        return plain_report(self.name.capitalize(), evaluation.headline, images=evaluation.images)

    def predictions(self, given: Predictions, state: State) -> Predictions:
        """What a run says of inputs, with the names that this task has for its outputs."""
        return given

    @abstractmethod
    def columns(self, state: State, *, top: int = 1) -> tuple[Column, ...]:
        """The columns of tables of `records`, which name the `top` most probable of what can be ranked."""

    @abstractmethod
    def records(
        self, names: Sequence[Any], predictions: Any, neighbour: Neighbour, *, top: int = 1, least: float | None = None, nearest: int = 1
    ) -> list[Record]:
        """Decode predictions, as `predictions` returns them: a record for each input, in the order of `names`. NumPy only.

        Args:
            names: paths of the inputs, or what clients call them.
            predictions: of these inputs.
            neighbour: names a training input.
            top: how many of the most probable to name, of what can be ranked.
            least: lowest confidence of what is named; of classes, the model abstains below it, and from inputs that are unlike the
                training inputs. None to abstain never, and for the default of the task.
            nearest: how many of the nearest training inputs to name.
        """

    def heat(self, predictions: Any, row: int) -> OwnHeat | None:
        """The map of one input where the outputs themselves are such; None where heat maps are made of the evidence for a class."""
        return None

    def located(self, predictions: Any, row: int, number: int) -> tuple[int, tuple[float, float, float, float]] | None:
        """One of the things that the record of an input lists, by its `number` from 0: its class, and its box as shares of the sides.

        None where there is no such thing.
        """
        return None

    def suffixes(self, asked: FileOptions) -> tuple[str, ...]:
        """What ends the names of the files that `files` makes of one input, such as ``.png``; none where predictions are no files."""
        return ()

    def files(self, predictions: Any, row: int, picture: Callable[[], npt.NDArray[np.uint8]], asked: FileOptions) -> dict[str, bytes]:
        """The files of one input by what ends their names: `suffixes`. `picture` reads the input, uint8 (H, W, 3), to draw on it."""
        return {}

    def files_of_all(self, asked: FileOptions, state: State) -> dict[str, bytes]:
        """Files that stand beside those of the inputs, by name, such as a list of classes."""
        return {}

    def results(self) -> Callable[[Iterable[Record]], Iterator[dict[str, Any]]] | None:
        """From records to the entries of COCO's list of results, which a batch job can write; None where there is no such list."""
        return None

    def document(self, form: str, records: Sequence[Record], state: State) -> str:
        """Records in one of the `documents`, which are not tables, as text."""
        raise ParameterError(f"A run of the task {self.name} has no format {form!r}: use table, csv or json.")

    def check_confidence(self, least: float | None) -> None:
        """Refuse with a ParameterError a lowest confidence of what is named, where the task has none."""
        if least is not None and not self.has_confidence:
            raise ParameterError(
                f"A run of the task {self.name} has no lowest confidence to choose: leave out {setting('confidence', least)}."
            )

    def tensors(self, predictions: Any, *, least: float | None = None) -> dict[str, npt.NDArray[Any] | list[str]]:
        """What is known of n inputs beside the outputs of the graph: arrays with n rows and lists of n texts, by name.

        `least` is as of `records`.
        """
        return {}

    def facts(self, state: State, metrics: Mapping[str, Any], reliability: Reliability | None) -> dict[str, Any]:
        """What the service tells about a model, beside what every run has; JSON values."""
        return {}


def plain_report(
    name: str, headline: tuple[str, float, tuple[float, float]], *, images: int, sections: Sequence[Section] = (), share: bool = False
) -> TaskReport:
    """The report of a task that says no more than its headline (name, value, 95 % interval) and some sections.

    A headline that is a `share`, from 0 to 1, is drawn on that scale.
    """
    what, value, (low, high) = headline
    summary = f"{what.replace('_', ' ')} {number(value)} on {plural(images, 'test image')}"
    sentence = f"{summary[:1].upper()}{summary[1:]} (95 % interval {number(low)} to {number(high)})."
    scale: dict[str, Any] = {"point": value, "interval": (low, high), "legend": "The band is the 95 % interval."} if share else {}
    first = Headline(value=number(value), sentences=(sentence,), **scale)
    result = Section(anchor="result", heading="Result", word="Result", blocks=(first,))
    own = sections if any(section.anchor == "result" for section in sections) else (result, *sections)
    return TaskReport(kind=name, description=name, summary=summary, sentence=sentence, sections=tuple(own))
