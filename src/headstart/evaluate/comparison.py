"""Several runs on the images that all of them were tested on, image by image: which is better, and whether that may be chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import DataError, HeadstartError, ParameterError, RunError
from headstart.metrics import holm
from headstart.metrics.differences import SIGNIFICANT, Difference, told
from headstart.run import EVALUATION, load
from headstart.tasks.comparable import Comparable
from headstart.text import enumeration, number, pad, plural, shorten, width

_ALL_PAIRS = 3  # up to so many pairs, each has its sentence


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedRun:
    """One of the runs: its scores on images that all were tested on, and how many images its own test part has."""

    name: str
    path: Path
    task: str
    backbone: str
    tested: int
    evaluation: Any
    """As the task has it; it is also a `headstart.tasks.comparable.Comparable`."""

    def part(self, rows: Sequence[int], *, like: ComparedRun) -> ComparedRun:
        """The same of some images, with the classes in the order of another run."""
        return replace(self, evaluation=self.evaluation.part(np.asarray(rows, np.int64), like=like.evaluation))


def read_compared(path: Path) -> tuple[ComparedRun, list[bytes]]:
    """A run with its scores on its whole test part, and the SHA-256 of each of these images.

    ParameterError where its task has runs that cannot be compared; RunError where it is not a whole run folder, or was written before its
    outputs for the test images were stored.
    """
    run = load(path)
    file, found = path / EVALUATION, run.tested
    if not found:
        raise RunError(
            f"{path}: holds no outputs for the test images (it has no {EVALUATION}): it was written by an earlier version of "
            "Headstart. Fit it again, with the command in its report, to compare it."
        )
    for name in ("targets", "digests"):
        if name not in found:
            raise RunError(f"{file}: damaged: {name!r} is missing. Fit again.")
    digests = found["digests"]
    if not len(digests):
        raise DataError(f"{path}: was not tested on any image, so there is nothing to compare. Test images are given with --test.")
    try:
        evaluation = run.test_evaluation()
    except RunError:
        raise
    except (HeadstartError, KeyError, TypeError, ValueError, IndexError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error).removesuffix(".")
        raise RunError(f"{file}: damaged: {said}. Fit again.") from None
    if not isinstance(evaluation, Comparable):
        raise ParameterError(f"{path} has learned the task {run.manifest.task}, whose runs cannot be compared image by image.")
    if digests.shape != (evaluation.images, 32):
        raise RunError(f"{file}: damaged: digests {digests.shape} of {plural(evaluation.images, 'image')}. Fit again.")
    compared = ComparedRun(
        name=path.name, path=path, task=run.manifest.task, backbone=run.manifest.backbone.name, tested=len(digests), evaluation=evaluation
    )
    return compared, [row.tobytes() for row in digests.astype(np.uint8)]


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedPair:
    """Two of the runs, by name: the scores of the first less those of the second, that of the leading score first.

    `p_values` are those of the `differences`, corrected for the number of pairs; nan where there is none. `classes` has the same of the
    leading score of each class alone, where the task has such; these are not corrected.
    """

    first: str
    second: str
    differences: tuple[Difference, ...]
    p_values: tuple[float, ...]
    classes: Mapping[str, Difference]

    @property
    def headline(self) -> Difference:
        """The difference of the leading score."""
        return self.differences[0]

    @property
    def differs(self) -> bool:
        """Whether a difference of the leading score is shown."""
        return self.p_values[0] < SIGNIFICANT

    def of(self, score: str) -> Difference:
        """The difference of a score by its name; KeyError where the runs have no such."""
        return {one.score: one for one in self.differences}[score]

    def reversed(self) -> ComparedPair:
        """The same pair with first and second exchanged."""
        turned = tuple(one.reversed() for one in self.differences)
        classes = {name: one.reversed() for name, one in self.classes.items()}
        return replace(self, first=self.second, second=self.first, differences=turned, classes=classes)

    def sentence(self) -> str:
        """Which is better, by how much, and whether that may be chance."""
        others = [one for one, p in zip(self.differences[1:], self.p_values[1:], strict=True) if p < SIGNIFICANT]
        lead = self.headline if self.differs or not others else others[0]
        if lead.value < 0:
            return self.reversed().sentence()
        texts = told(self.differences, self.p_values)
        every = ", ".join(texts)
        first, second = (shorten(name, 40) for name in (self.first, self.second))
        if self.differs:
            wins = self.headline.wins
            more = "" if wins is None else f" {self.headline.won.format(plural(wins[0], 'image'), wins[1])}"
            opposed = "".join(f" It {one.phrases[1]}, though." for one in others if one.value < 0)
            return f"{first} is better than {second}: {every}.{more}{opposed}"
        if others:
            shown = ", ".join(one.text(p) for one, p in zip(self.differences, self.p_values, strict=True) if one in others)
            return f"{first} {lead.phrases[0]} than {second}: {shown}; no difference in {self.headline.word} is shown: {texts[0]}."
        half = self.headline.half
        more = f" So few images cannot tell differences of less than about {half}." if half else ""
        return f"No difference between {first} and {second} is shown: {every}.{more}"

    def to_dict(self) -> dict[str, Any]:
        """As data for JSON; what is unknown is None."""
        found: dict[str, Any] = {"first": self.first, "second": self.second}
        for one, corrected in zip(self.differences, self.p_values, strict=True):
            own = one.to_dict()
            found[one.score] = own if own is None else own | {"p_corrected": None if math.isnan(corrected) else corrected}
        by_class = {name: one.to_dict() for name, one in self.classes.items()}
        return {**found, **({"by_class": by_class} if by_class else {}), "sentence": self.sentence()}

    def class_lines(self) -> list[str]:
        """The difference of each class, a line each; none where there is no such."""
        if not self.classes:
            return []
        named = [(shorten(name, 32), one.text(one.p_value)) for name, one in self.classes.items()]
        column = max(width(name) for name, _ in named)
        title = f"{shorten(self.first, 40)} less {shorten(self.second, 40)}, one by one:"
        return [title, *(f"  {pad(name, column)}  {text or '-'}" for name, text in named)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Runs on the images that all of them were tested on: the runs in the order given, every two of them, and notes in sentences."""

    images: int
    runs: tuple[ComparedRun, ...]
    pairs: tuple[ComparedPair, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> ComparedRun:
        """The run with the highest leading score; of equal ones the one that is better by what the task says next."""
        return max(self.runs, key=lambda run: run.evaluation.rank)

    def summary(self) -> str:
        """Which is better, in a sentence or two."""
        if len(self.pairs) == 1:
            return self.pairs[0].sentence()
        best, (word, value, _) = self.best.name, self.best.evaluation.leading
        beaten = [pair.second for pair in self._of_the_best() if pair.differs]
        others = [run.name for run in self.runs if run.name not in (best, *beaten)]
        said = f"{shorten(best, 40)} has the highest {word}, {value:.4f} on {plural(self.images, 'image')}"
        better = f": better than {enumeration([shorten(name, 40) for name in beaten])}" if beaten else ""
        open_ = f"; no difference from {enumeration([shorten(name, 40) for name in others])} is shown" if others else ""
        return f"{said}{better}{open_}."

    def lines(self) -> list[str]:
        """Return the comparison as lines of plain text."""
        found = [f"{plural(self.images, 'image')} that {_all_of(len(self.runs))} were tested on", *_table(self.runs), ""]
        shown = self.pairs if len(self.pairs) <= _ALL_PAIRS else self._of_the_best()
        found += [f"  {pair.sentence()}" for pair in shown] if len(self.pairs) > 1 else []
        if len(self.pairs) == 1 and (classes := self.pairs[0].class_lines()):
            found += [*(f"  {line}" for line in classes), ""]
        return [*found, *(f"  {note}" for note in self.notes), *([""] if self.notes or len(self.pairs) > 1 else []), self.summary()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as data for JSON."""
        return {
            "images": self.images,
            "runs": [
                {"name": run.name, "path": str(run.path), "backbone": run.backbone, "tested_images": run.tested, **run.evaluation.to_dict()}
                for run in self.runs
            ],
            "pairs": [pair.to_dict() for pair in self.pairs],
            "best": self.best.name,
            "notes": list(self.notes),
            "summary": self.summary(),
        }

    def _of_the_best(self) -> list[ComparedPair]:
        best = self.best.name
        return [pair if pair.first == best else pair.reversed() for pair in self.pairs if best in (pair.first, pair.second)]


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Compare runs on the images that all of them were tested on; images are matched by content, classes by name.

    Raises:
        ParameterError: fewer than two runs, or the same one twice.
        RunError: one of them is not a whole run folder, or does not hold its outputs.
        DataError: they have different classes, or no test image in common.
    """
    if len(paths) < 2:
        raise ParameterError(f"A comparison needs two runs at least, and got {len(paths)}. Type: headstart compare RUN RUN")
    places = [path.resolve() for path in paths]
    if len(set(places)) < len(places):
        twice = next(path for path, place in zip(paths, places, strict=True) if places.count(place) > 1)
        raise ParameterError(f"{twice} is given twice. Give different runs: they are compared with each other.")
    names = [place.name for place in places]  # runs of the same name get their paths for names
    read = [read_compared(path) for path in paths]
    runs = [replace(run, name=name if names.count(name) == 1 else str(run.path)) for (run, _), name in zip(read, names, strict=True)]
    _check_alike(runs)
    shared, notes = _shared(runs, [digests for _, digests in read])
    pairs = _pairs(shared)
    if len(pairs) > 1:
        notes.append(
            f"p values are corrected for {len(pairs)} comparisons (Holm). The best of several, chosen by these images, looks a little "
            "better on them than it is."
        )
    return Comparison(images=shared[0].evaluation.images, runs=tuple(shared), pairs=pairs, notes=tuple(notes))


def _pairs(runs: Sequence[ComparedRun]) -> tuple[ComparedPair, ...]:
    found = []
    for one, two in combinations(runs, 2):
        differences, classes = one.evaluation.differences(two.evaluation)
        p_values = tuple(difference.p_value for difference in differences)
        found.append(ComparedPair(first=one.name, second=two.name, differences=differences, p_values=p_values, classes=classes))
    corrected = [holm(values) for values in zip(*(pair.p_values for pair in found), strict=True)]
    return tuple(replace(pair, p_values=values) for pair, values in zip(found, zip(*corrected, strict=True), strict=True))


def _check_alike(runs: Sequence[ComparedRun]) -> None:
    first = runs[0]
    for other in runs[1:]:
        if other.task != first.task:
            raise DataError(
                f"{first.path} has learned the task {first.task}, and {other.path} the task {other.task}: the two cannot be compared."
            )
        reason = first.evaluation.unlike(other.evaluation, mine=str(first.path), theirs=str(other.path))
        if reason is not None:
            raise DataError(reason)


def _shared(runs: Sequence[ComparedRun], digests: Sequence[Sequence[bytes]]) -> tuple[list[ComparedRun], list[str]]:
    """The runs on the images that all were tested on, classes and images in the order of the first; and what to say of them."""
    places = [{digest: row for row, digest in reversed(list(enumerate(own)))} for own in digests]
    common = [digest for digest in dict.fromkeys(digests[0]) if all(digest in place for place in places)]
    if not common:
        pairs = [
            f"{runs[a].name} and {runs[b].name} share {len(set(digests[a]) & set(digests[b]))}"
            for a, b in combinations(range(len(runs)), 2)
        ]
        raise DataError(
            f"The runs were tested on different images: none of them is shared ({'; '.join(pairs[:6])}). "
            f"{enumeration([f'{run.name} has {run.tested}' for run in runs])}. "
            "Fit both with the same --test, or with the same data and --seed."
        )
    shared = [run.part([place[digest] for digest in common], like=runs[0]) for run, place in zip(runs, places, strict=True)]
    what = shared[0].evaluation.truth
    agree = np.logical_and.reduce([run.evaluation.same_truth(shared[0].evaluation) for run in shared])
    differing = len(common) - int(agree.sum())
    if differing == len(common):
        raise DataError(f"The runs share {plural(len(common), 'test image')}, and agree on the {what} of none. Check the {what}s.")
    notes = []
    if any(run.tested != len(common) for run in runs):
        own = enumeration([f"{shorten(run.name, 40)} {run.tested}" for run in runs])
        notes.append(f"Only images that {_all_of(len(runs))} were tested on count, each once: {len(common)}. Test images of each: {own}.")
    if differing:
        shared = [run.part(np.flatnonzero(agree).tolist(), like=shared[0]) for run in shared]
        notes.append(
            f"Left out, as the runs have different {what}s for {'it' if differing == 1 else 'them'}: {plural(differing, 'image')}."
        )
    return shared, notes


def _table(runs: Sequence[ComparedRun]) -> list[str]:
    (word, _, _), beside = runs[0].evaluation.leading, list(runs[0].evaluation.beside)
    head = ["run", "backbone", word, "95 % interval", *beside]
    rows = [head]
    for run in runs:
        (_, value, (low, high)), others = run.evaluation.leading, run.evaluation.beside
        known = "-" if math.isnan(low) else f"[{low:.4f}, {high:.4f}]"
        rows.append([shorten(run.name, 40), shorten(run.backbone, 30), number(value), known, *(number(others[title]) for title in beside)])
    wide = [max(width(row[column]) for row in rows) for column in range(len(head))]
    found = []
    for row in rows:
        cells = [
            pad(cell, size) if place < 2 else " " * (size - width(cell)) + cell
            for place, (cell, size) in enumerate(zip(row, wide, strict=True))
        ]
        found.append(f"  {'  '.join(cells)}")
    return found


def _all_of(count: int) -> str:
    return "both runs" if count == 2 else f"all {count} runs"
