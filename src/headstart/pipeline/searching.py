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
from headstart.errors import HeadstartError, ParameterError
from headstart.features.prepared import Prepared, prepare
from headstart.features.table import FeatureTable, taken
from headstart.matrix import FeatureMatrix
from headstart.selection import Tried, best_of
from headstart.tasks import Learned, LearningContext, Task
from headstart.text import duration, percent

FEW = 1000
"""Training images on which a candidate is tried first, where there are more and time is short."""

_TIMED = 12  # images on which the speed of a network is measured
_LARGER = 320  # pixels, a further size of image
_SMALL_SHARE = 0.1  # of the time left: what takes less is tried on all training images at once


@dataclass(frozen=True, eq=False, kw_only=True)
class Searched:
    """The backbone that was chosen, what was learned on it, and everything that was considered."""

    prepared: Prepared
    table: FeatureTable
    learned: Learned
    tried: tuple[Tried, ...]


def search(task: Task, table: FeatureTable, context: LearningContext, *, until: float) -> Searched:
    """Choose a backbone for a table of inputs whose features by the default backbone are there.

    `until` is the moment, as `time.perf_counter` has it, at which the whole fit should be over. Ctrl-C ends the search and keeps the best
    so far. Raises ParameterError for tasks without out-of-sample scores.
    """
    found = Searching(task, table, context, until)
    try:
        found.run()
    except KeyboardInterrupt:
        if not found.scored:
            raise
        context.listener.warn("The search was interrupted. Continuing with the best backbone so far; press Ctrl-C again to stop.")
    return found.result()


@dataclass(frozen=True, eq=False)
class _Scored:
    """A backbone with what was learned on its features of all training rows."""

    prepared: Prepared
    row: Tried
    learned: Learned


@dataclass(eq=False)
class Searching:
    """A search under way; see `search`."""

    task: Task
    table: FeatureTable
    context: LearningContext
    until: float
    scored: dict[str, _Scored] = field(default_factory=dict)  # on all training rows
    on_few: dict[str, Learned] = field(default_factory=dict)  # on few of them
    rows: list[Tried] = field(default_factory=list)  # of all that were considered
    speeds: dict[str, float] = field(default_factory=dict)  # milliseconds an image, by the ids of extractors
    head_seconds: dict[int, float] = field(default_factory=dict)  # for a feature, by the number of training images

    def __post_init__(self) -> None:
        self.listener = self.context.listener
        self.train = self.table.train
        self.few = np.arange(len(self.train))
        if len(self.train) > 1.5 * FEW:
            self.few = self.table.hold_out(self.train, share=FEW / len(self.train), seed=self.context.settings.seed)[1]

    def run(self) -> None:
        """Try candidates in order, each within what is left of the time."""
        base = self.context.prepared
        self._score(base, base.settings.backbone, self.table.features(self.train))
        for name in self._candidates():
            self._consider(name)

    def result(self) -> Searched:
        """The best of all that were scored on all training rows."""
        best = self._best()
        chosen = self.scored[best.backbone]
        rows = tuple(replace(row, outcome="chosen") if row.backbone == best.backbone else row for row in self.rows)
        if chosen.prepared is self.context.prepared:
            table = self.table
        else:
            self.listener.stage(f"Extracting features by {best.backbone}")
            values = self._extracted(chosen.prepared, np.arange(len(self.table)))
            table = self.table.with_values(values, chosen.prepared.extractor.layers)
        return Searched(prepared=chosen.prepared, table=table, learned=replace(chosen.learned, table=table), tried=rows)

    def _candidates(self) -> Iterator[str]:
        """Names of backbones, those first that most often help; later ones depend on what was best before."""
        base = Specification.parse(self.context.settings.backbone)
        own = {find(name).name for name in base.names}
        names = [name for name in at_hand(self.context.prepared.cache) if find(name).name not in own]
        if names and len(base.names) == 1:
            yield str(Specification((find(base.names[0]).short, names[0])))
        yield from names
        best = Specification.parse(self._best().backbone)
        further = [replace(best, size=_LARGER), replace(best, mirrored=True), replace(best, size=_LARGER, mirrored=True)]
        yield from (str(one) for one in further if one != best)

    def exponent(self, name: str) -> float:
        """How fast errors fall with the number of images, going by half of them: error ~ images^-exponent, within 0 to 0.5."""
        scored = self.scored[name]
        if not 0 < scored.row.accuracy < 1:
            return 0.25
        half = self.table.hold_out(self.train, share=0.5, seed=self.context.settings.seed)[0]
        learned = self._learn(scored.prepared, half, f"Searching: {name} on half of the images")
        before, now = (1 - row.accuracy + 0.5 / row.images for row in (learned.choice.evidence[0], scored.row))
        return min(max(float(np.log2(before / now)), 0.0), 0.5)

    def fit_seconds(self, prepared: Prepared, images: int) -> float:
        """How long a fit on so many training images takes from the beginning."""
        return images * self._milliseconds(prepared) / 1000 + self._closing_seconds(prepared) * images / max(len(self.train), 1)

    def _best(self) -> Tried:
        return best_of([candidate.row for candidate in self.scored.values()])

    def _consider(self, name: str) -> None:
        """Score a candidate on all training rows; on few of them first, where there are many; or skip it where time is short."""
        try:
            prepared = prepare(
                self.context.prepared.settings._replace(backbone=name), announce=self.listener.detail, warn=self.listener.warn
            )
        except HeadstartError as error:
            self._note(Tried(backbone=name, outcome="skipped", reason=str(error)))
            return
        images, speed, began = len(self.train), self._milliseconds(prepared), time.perf_counter()
        whole = self._extraction_seconds(prepared) + self._head_seconds(prepared)
        left = self.until - time.perf_counter() - self._closing_seconds(prepared)
        if whole > left:
            reason = f"it would take {duration(whole)}, and {duration(max(left, 0.0))} are left"
            self._note(Tried(backbone=name, outcome="skipped", milliseconds=speed, seconds=whole, reason=reason))
            return
        if len(self.few) < images and whole > _SMALL_SHARE * left:
            few = self._learn(prepared, self.few, f"Searching: {name} on {len(self.few)} of {images} training images")
            if behind := self._behind(few):
                row = self._row(name, few, speed, time.perf_counter() - began)
                self._note(replace(row, outcome="dropped", reason=behind))
                return
        self._score(prepared, name)

    def _score(self, prepared: Prepared, name: str, values: FeatureMatrix | None = None) -> None:
        """Learn on all training rows, and keep what came of it."""
        began = time.perf_counter()
        learned = self._learn(prepared, np.arange(len(self.train)), f"Searching: {name}", values)
        row = self._row(name, learned, self._milliseconds(prepared), time.perf_counter() - began)
        self.scored[name] = _Scored(prepared, row, learned)
        self._note(row)

    def _learn(self, prepared: Prepared, rows: npt.NDArray[np.int64], stage: str, values: FeatureMatrix | None = None) -> Learned:
        """What is learned on some of the training rows, from features that are there or are extracted now."""
        self.listener.stage(stage)
        positions = self.train[rows]
        if values is None:
            values = self._extracted(prepared, positions)
        part = self.table.take(positions).with_values(values, prepared.extractor.layers)
        settings = replace(self.context.settings, fine_tuning=None)
        began = time.perf_counter()
        learned = self.task.fit(part, replace(self.context, prepared=prepared, settings=settings))
        self.head_seconds[len(rows)] = (time.perf_counter() - began) / prepared.extractor.dim
        if not learned.choice.evidence:
            raise ParameterError(f"--budget chooses by out-of-sample scores, which the task {self.task.name} does not give. Leave it out.")
        return learned

    def _extracted(self, prepared: Prepared, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        images = taken(self.table.dataset.images, positions)
        return prepared.extract(images, progress=self.listener.progress, warn=self.listener.warn).complete("a search")

    def _behind(self, few: Learned) -> str:
        """Why a candidate that was tried on few rows is not tried on all: it is worse there than the best so far. Empty where it is not."""
        best = self._best()
        if best.backbone not in self.on_few:
            chosen = self.scored[best.backbone]
            self.on_few[best.backbone] = self._learn(chosen.prepared, self.few, f"Searching: {best.backbone} on {len(self.few)} images")
        ours, theirs = few.choice.evidence[0], self.on_few[best.backbone].choice.evidence[0]
        if ours.accuracy >= theirs.accuracy or ours.log_loss <= theirs.log_loss:
            return ""
        return f"{best.backbone} has {percent(theirs.accuracy)} on these"

    def _row(self, name: str, learned: Learned, speed: float, seconds: float) -> Tried:
        best = learned.choice.evidence[0]
        return Tried(
            backbone=name, outcome="tried", images=best.images, accuracy=best.accuracy, accuracy_error=best.accuracy_error,
            log_loss=best.log_loss, milliseconds=speed, seconds=seconds,
        )  # fmt: skip

    def _note(self, row: Tried) -> None:
        self.rows.append(row)
        self.listener.say(row.sentence())

    def _milliseconds(self, prepared: Prepared) -> float:
        """Time for an image, when many are computed together; measured once for each network and size."""
        total, images = 0.0, taken(self.table.dataset.images, self.train[:_TIMED])
        for part in prepared.extractor.parts:
            if part.id not in self.speeds:
                part(images[:2])  # opens the engine
                began = time.perf_counter()
                part(images)
                self.speeds[part.id] = 1000 * (time.perf_counter() - began) / len(images)
            total += self.speeds[part.id]
        return total

    def _extraction_seconds(self, prepared: Prepared) -> float:
        """How long it takes to compute what features of all images are not stored."""
        seconds = 0.0
        with prepared.store() as store:
            for part in prepared.extractor.parts:
                missing = len(self.table) if store is None else len(store.missing(part.id, self.table.digests))
                seconds += missing * self.speeds[part.id] / 1000
        return seconds

    def _head_seconds(self, prepared: Prepared) -> float:
        """How long it takes to choose the head on all training images, going by the heads before."""
        return self.head_seconds[len(self.train)] * prepared.extractor.dim

    def _closing_seconds(self, prepared: Prepared) -> float:
        """How long testing, measuring reliability and writing the run take, going by what they consist of: fits of heads and heat maps."""
        return 2.0 + 2 * self._head_seconds(prepared) + 0.3 * self._milliseconds(prepared)
