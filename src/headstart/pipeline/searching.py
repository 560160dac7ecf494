"""Choosing the backbone within a budget: candidates one after the other, scored out of sample on training images, while there is time.

Test images are never looked at. The features of every candidate are stored, so that a second search begins where the first one ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from headstart.backbones.composed import Specification
from headstart.backbones.loading import at_hand, find
from headstart.data import Dataset
from headstart.errors import HeadstartError, ParameterError
from headstart.features.prepared import Prepared, prepare
from headstart.features.table import FeatureTable, taken
from headstart.heads.labels import EncodedLabels, encode
from headstart.matrix import FeatureMatrix, allocated
from headstart.modalities.image import typical_side
from headstart.pipeline.forecast import Forecast, TooSlowError
from headstart.pipeline.further import TRAINED, Scored, about, train_further
from headstart.pipeline.reading import without_test
from headstart.selection import Tried
from headstart.selection.proposals import LARGER, Proposal, first_size, proposals
from headstart.selection.tried import Advantage, OutOfSample, finite_rows, needed, unbeatable
from headstart.settings import FitSettings
from headstart.tasks import Learned, LearningContext, Task
from headstart.text import duration

FEW = 1000
"""Training images on which a candidate is tried first, where there are more and time is short."""

_SMALL_SHARE = 0.1  # of the time left: what takes less is tried on all training images at once

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Searched:
    """The backbone that was chosen, what was learned on it, and everything that was considered."""

    prepared: Prepared
    table: FeatureTable
    learned: Learned
    tried: tuple[Tried, ...]


def first_settings(dataset: Dataset, settings: FitSettings) -> FitSettings:
    """The settings whose backbone a search begins with: where images are small, the network at a smaller size than its own."""
    asked = Specification.parse(settings.backbone)
    if asked.size or not all(find(name).embedded for name in asked.names):  # others may have a fixed size
        return settings
    usual = find(settings.backbone).input_size
    side = typical_side(without_test(dataset).inputs, at_most=usual)
    size = first_size(side, usual) if side else usual
    return settings if size == usual else replace(settings, backbone=str(replace(asked, size=size)))


def search(task: Task, table: FeatureTable, context: LearningContext, *, until: float) -> Searched:
    """Choose a backbone for a table of inputs whose features by the default backbone are there.

    `until` is the moment, as `time.perf_counter` has it, at which the whole fit should be over. Ctrl-C ends the search and keeps the best
    so far. Raises ParameterError for tasks without out-of-sample scores.
    """
    found = Searching(task, table, context, until, chooses=True)
    try:
        found.run()
    except KeyboardInterrupt:
        if not found.scored:
            raise
        context.listener.warn("The search was interrupted. Continuing with the best backbone so far; press Ctrl-C again to stop.")
    return found.result()


@dataclass(eq=False)
class Searching:
    """A search under way; see `search`."""

    task: Task
    table: FeatureTable
    context: LearningContext
    until: float
    chooses: bool = False  # whether the best alone counts: it may be trained further, and where none could be better, the search ends
    scored: dict[str, Scored] = field(default_factory=dict)  # on all training rows
    on_few: dict[str, Learned] = field(default_factory=dict)  # on few of them
    rows: list[Tried] = field(default_factory=list)  # of all that were considered
    best: str = ""  # so far, of the frozen ones
    trained: Scored | None = None  # what was trained further and is better than that

    def __post_init__(self) -> None:
        self.listener = self.context.listener
        self.train = self.table.train
        self.forecast = Forecast(self.table)
        self.few = np.arange(len(self.train))
        if len(self.train) > 3 * FEW:
            self.few = self.table.hold_out(self.train, share=FEW / len(self.train), seed=self.context.settings.seed)[1]
        self._opened: dict[str, Prepared] = {}
        self._side = typical_side(taken(self.table.dataset.inputs, self.train), at_most=max(LARGER))

    def run(self) -> None:
        """Try candidates, those first that promise most for their time, while there is time."""
        base = self.context.prepared
        self._opened[base.settings.backbone] = base
        self._score(base.settings.backbone, self.table.features(self.train))
        candidates = iter(self._candidates())
        while not self._unbeatable() and (proposal := next(candidates, None)) is not None:
            if proposal.strategy == "probe":
                self._consider(proposal.backbone, likely=proposal.gain >= 1)
            else:
                self.trained = train_further(self, proposal.backbone)
                if self.trained is not None:
                    break
        self.listener.say(self._end())

    def _end(self) -> str:
        """Why the search is over."""
        left = duration(max(self.left(self.prepared(self.best)), 0.0))
        if few := self._unbeatable():
            return f"The search ends with {left} to spare: {self.best} is wrong about {few} images; nothing could be shown to be better."
        if any(row.outcome == "skipped" and row.seconds for row in self.rows):
            return f"The search ends with {left} to spare: nothing else fits into that."
        return f"The search ends with {left} to spare: nothing else is left to try."

    def _unbeatable(self) -> str:
        """About how few training images the best so far is wrong, where that ends the search; empty where it goes on."""
        if not self.chooses:
            return ""
        logits, targets = self._out_of_sample(self.scored[self.best].learned), self._targets(np.arange(len(self.train)))
        return unbeatable(OutOfSample.of(logits, targets, finite_rows([logits])))

    def result(self) -> Searched:
        """The best of all that were scored on all training rows."""
        frozen = self.scored[self.best]
        chosen = self.trained or frozen
        rows = tuple(replace(row, outcome="chosen") if row is chosen.row else row for row in self.rows)
        table = self.table if frozen.prepared is self.context.prepared else self._whole(frozen)
        learned = replace(frozen.learned, table=table) if self.trained is None else self._with_features(self.trained.learned, table)
        return Searched(prepared=frozen.prepared, table=table, learned=learned, tried=rows)

    def exponent(self, name: str) -> float:
        """How fast errors fall with the number of images, going by half of them: error ~ images^-exponent, within 0 to 0.5."""
        scored = self.scored[name]
        if not 0 < scored.row.accuracy < 1:
            return 0.25
        half = self.table.hold_out(self.train, share=0.5, seed=self.context.settings.seed)[0]
        learned = self._learn(scored.prepared, half, f"Searching: {name} on half of the images")
        before, now = (1 - row.accuracy + 0.5 / row.images for row in (learned.choice.evidence[0], scored.row))
        return min(max(float(np.log2(before / now)), 0.0), 0.5)

    def _whole(self, chosen: Scored) -> FeatureTable:
        """The table with the features of a backbone: those of the training rows are there, the others are extracted now."""
        self.listener.stage(f"Extracting features of the test images by {chosen.row.backbone}")
        prepared, rest = chosen.prepared, np.setdiff1d(np.arange(len(self.table)), self.train)
        values = allocated(len(self.table), prepared.extractor.dim, folder=prepared.cache)
        values[self.train] = chosen.learned.table.values
        values[rest] = self._extracted(prepared, rest)
        return self.table.with_values(values, prepared.extractor.layers)

    def _with_features(self, learned: Learned, frozen: FeatureTable) -> Learned:
        """A trained model with the features of all inputs by its network; `frozen` has those of the best frozen backbone."""
        self.listener.stage("Extracting features of the trained network")
        prepared, images = learned.prepared, self.table.dataset.inputs
        values = learned.fine_tuned.features(images, frozen=frozen.values, engine=prepared.settings.engine, listener=self.listener)
        return replace(learned, table=self.table.with_values(values, prepared.extractor.layers))

    def _candidates(self) -> Iterator[Proposal]:
        """What promises most for its time, among what fits into it; then what does not fit. Later ones depend on what was best before."""
        asked, first = (Specification.parse(one.settings.backbone) for one in (self.context, self.context.prepared))
        start = replace(first, names=tuple(find(name).short for name in first.names))
        usual = asked.size or find(str(asked)).input_size
        own = self.context.prepared.settings.weights is not None  # which no other network takes
        others = [] if own else [name for name in at_hand(self.context.prepared.cache) if name not in start.names]
        further = [Proposal(str(first), TRAINED, "partial")] if self.chooses and first.plain else []
        considered = {(str(first), "probe"), (str(start), "probe")}
        while True:
            best = start if self.best == str(first) else Specification.parse(self.best)
            size = self.prepared(self.best).extractor.preprocessing.size
            found = [*proposals(best, others, size=size, usual=usual, side=self._side), *further]
            open_ = [one for one in found if (one.backbone, one.strategy) not in considered]
            if not open_:
                return
            chosen = self._most_promising(open_)
            considered.add((chosen.backbone, chosen.strategy))
            yield chosen

    def _most_promising(self, open_: list[Proposal]) -> Proposal:
        def promise(one: Proposal) -> tuple[bool, float]:
            try:
                prepared = self.prepared(one.backbone)
            except HeadstartError:
                return True, np.inf  # is skipped with the reason
            seconds = self._seconds(prepared) if one.strategy == "probe" else about(self, prepared)
            return seconds <= self.left(prepared), one.gain / (seconds + 1)

        return max(open_, key=promise)

    def _consider(self, name: str, *, likely: bool) -> None:
        """Score a candidate on all training rows, or skip it where time is short.

        Where there are many rows, and it is not likely to be better, it is scored on few of them first.
        """
        try:
            prepared = self.prepared(name)
        except HeadstartError as error:
            self.note(Tried(backbone=name, outcome="skipped", reason=str(error)))
            return
        began = time.perf_counter()
        if self._skipped(name, prepared):
            return
        try:
            if not likely and len(self.few) < len(self.train) and self._seconds(prepared) > _SMALL_SHARE * self.left(prepared):
                few = self._learn(prepared, self.few, f"Searching: {name} on {len(self.few)} of {len(self.train)} training images")
                self.on_few[name] = few
                advantage, short = self.compared(few, self._best_on_few(), self.few, name)
                if short > 1.0:
                    row = self._row(name, few, time.perf_counter() - began)
                    self.note(replace(row, outcome="dropped", reason=advantage.sentence(f"{self.best} on these images")))
                    return
                if self._skipped(name, prepared):
                    return
            self._score(name)
        except TooSlowError:
            seconds = time.perf_counter() - began
            reason = f"stopped after {duration(seconds)}, since it would have taken {duration(self._seconds(prepared))} more"
            self.note(Tried(backbone=name, outcome="skipped", milliseconds=self._speed(prepared), seconds=seconds, reason=reason))

    def _skipped(self, name: str, prepared: Prepared) -> bool:
        """Whether there is no time for it, which is noted."""
        whole, left = self._seconds(prepared), self.left(prepared)
        if whole <= left:
            return False
        reason = f"it would take {duration(whole)}, and {duration(max(left, 0.0))} are left"
        self.note(Tried(backbone=name, outcome="skipped", milliseconds=self._speed(prepared), seconds=whole, reason=reason))
        return True

    def _seconds(self, prepared: Prepared) -> float:
        """For scoring on all training rows."""
        return self.forecast.extraction(prepared) + self.forecast.heads(prepared, len(self.train))

    def left(self, prepared: Prepared) -> float:
        """Seconds for it, if it is chosen in the end."""
        return self.until - time.perf_counter() - self.forecast.closing(prepared)

    def _speed(self, prepared: Prepared) -> float:
        return self.forecast.milliseconds(prepared)

    def _score(self, name: str, values: FeatureMatrix | None = None) -> None:
        """Learn on all training rows, keep what came of it, and compare it with the best so far."""
        began, prepared = time.perf_counter(), self.prepared(name)
        learned = self._learn(prepared, np.arange(len(self.train)), f"Searching: {name}", values)
        row = self._row(name, learned, time.perf_counter() - began)
        if self.best:
            advantage, short = self.compared(learned, self.scored[self.best].learned, np.arange(len(self.train)), name)
            row = replace(row, reason=advantage.sentence(self.best))
        self.scored[name] = Scored(prepared, row, learned)
        if not self.best or short <= 0:
            self.best = name
        self.note(row)

    def compared(self, ours: Learned, theirs: Learned, rows: Rows, name: str) -> tuple[Advantage, float]:
        """The advantage over the best so far, on training rows; and by how much the evidence falls short of what is needed to take it."""
        logits = [self._out_of_sample(learned) for learned in (ours, theirs)]
        targets, known = self._targets(rows), finite_rows(logits)
        advantage = Advantage.of(*(OutOfSample.of(some, targets, known) for some in logits))
        return advantage, needed(name, self.best) - advantage.evidence

    @staticmethod
    def _out_of_sample(learned: Learned) -> npt.NDArray[np.float64]:
        return np.asarray(learned.choice.out_of_sample, dtype=np.float64)

    def _targets(self, rows: Rows) -> EncodedLabels:
        return encode(self.table.targets[self.train[rows]]).weighted(self.context.settings.class_weight)

    def _best_on_few(self) -> Learned:
        if self.best not in self.on_few:
            stage = f"Searching: {self.best} on {len(self.few)} images"
            self.on_few[self.best] = self._learn(self.scored[self.best].prepared, self.few, stage)
        return self.on_few[self.best]

    def _learn(self, prepared: Prepared, rows: Rows, stage: str, values: FeatureMatrix | None = None) -> Learned:
        """What is learned on some of the training rows, from features that are there or are extracted now."""
        self.listener.stage(stage)
        positions = self.train[rows]
        if values is None:
            values = self._extracted(prepared, positions, until=self.until - self._later(prepared))
            self.forecast.extracted(prepared, "train", len(rows))
        part = self.table.take(positions).with_values(values, prepared.extractor.layers)
        settings = replace(self.context.settings, fine_tuning=None)
        began = time.perf_counter()
        learned = self.task.fit(part, replace(self.context, prepared=prepared, settings=settings))
        if not learned.choice.evidence or learned.choice.out_of_sample is None:
            raise ParameterError(f"--budget chooses by out-of-sample scores, which the task {self.task.name} does not give. Leave it out.")
        self.forecast.fitted(prepared, len(rows), time.perf_counter() - began, learned.choice)
        return learned

    def _later(self, prepared: Prepared) -> float:
        """Seconds that are needed after the extraction."""
        return self.forecast.heads(prepared, len(self.train)) + self.forecast.closing(prepared)

    def _extracted(self, prepared: Prepared, positions: Rows, *, until: float = np.inf) -> npt.NDArray[np.float32]:
        images, progress = taken(self.table.dataset.inputs, positions), self.listener.progress
        watched = self.forecast.watched(prepared, len(positions), progress, until=until)
        return prepared.extract(images, progress=watched, warn=self.listener.warn).complete("a search")

    def prepared(self, name: str) -> Prepared:
        """A backbone, loaded once."""
        if name not in self._opened:
            settings = self.context.prepared.settings._replace(backbone=name)
            self._opened[name] = prepare(settings, announce=self.listener.detail, warn=self.listener.warn)
        return self._opened[name]

    def _row(self, name: str, learned: Learned, seconds: float) -> Tried:
        best = learned.choice.evidence[0]
        return Tried(
            backbone=name, outcome="tried", images=best.images, accuracy=best.accuracy, accuracy_error=best.accuracy_error,
            log_loss=best.log_loss, milliseconds=self._speed(self.prepared(name)), seconds=seconds,
        )  # fmt: skip

    def note(self, row: Tried) -> None:
        """Add a row, and say it."""
        self.rows.append(row)
        self.listener.say(row.sentence())
