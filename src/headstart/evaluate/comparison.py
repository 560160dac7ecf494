"""Several runs on the images that all of them were tested on, image by image: which is better, and whether that may be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import DataError, ParameterError, RunError
from headstart.metrics import AucDifference, PairedDifference, auc_difference, holm, paired_difference
from headstart.run import EVALUATION, load
from headstart.tasks.classification.evaluation import ClassEvaluation, evaluate
from headstart.text import enumeration, number, pad, plural, shorten, visible, width

SIGNIFICANT = 0.05
_ALL_PAIRS = 3  # up to so many pairs, each has its sentence


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedRun:
    """One of the runs: its scores on images that all were tested on, and how many images its own test part has."""

    name: str
    path: Path
    backbone: str
    tested: int
    evaluation: ClassEvaluation

    def part(self, rows: Sequence[int], classes: Sequence[str]) -> ComparedRun:
        """The same of some images, with the classes in this order."""
        outcome = self.evaluation.outcome
        columns = [self.evaluation.classes.index(name) for name in classes]
        targets = outcome.targets[:, columns] if outcome.link.independent else np.argsort(columns)[outcome.targets]
        return replace(self, evaluation=evaluate(outcome.probabilities[list(rows)][:, columns], targets[list(rows)], classes))


def read_compared(path: Path) -> tuple[ComparedRun, list[bytes]]:
    """A run with its scores on its whole test part, and the SHA-256 of each of these images.

    RunError where it is not a whole run folder, or was written before its outputs for the test images were stored.
    """
    run = load(path)
    link, count = run.class_link("headstart compare is for"), plural(len(run.classes), "class")
    file, found = path / EVALUATION, run.tested
    if not found:
        raise RunError(
            f"{path}: holds no outputs for the test images (it has no {EVALUATION}): it was written by an earlier version of "
            "Headstart. Fit it again, with the command in its report, to compare it."
        )
    for name in ("logits", "targets", "digests"):
        if name not in found:
            raise RunError(f"{file}: damaged: {name!r} is missing. Fit again.")
    logits, digests = found["logits"], found["digests"]
    if logits.shape != (len(logits), len(run.classes)) or not np.isfinite(logits).all() or digests.shape != (len(logits), 32):
        raise RunError(f"{file}: damaged (logits {logits.shape}, digests {digests.shape}). Fit again.")
    try:
        evaluation = run.test_evaluation()
    except (DataError, ParameterError):
        evaluation = None
    if not isinstance(evaluation, ClassEvaluation) or evaluation.outcome.link is not link:
        raise RunError(f"{file}: damaged (its targets do not fit its {count}). Fit again.")
    compared = ComparedRun(name=path.name, path=path, backbone=run.manifest.backbone.name, tested=len(logits), evaluation=evaluation)
    return compared, [row.tobytes() for row in digests.astype(np.uint8)]


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedPair:
    """Two of the runs, by name: accuracy and area under the ROC curve of the first, less those of the second; None where there is no area.

    The p values of the exact McNemar test and of DeLong's test are corrected for the number of pairs; nan where there is none.
    """

    first: str
    second: str
    accuracy: PairedDifference
    accuracy_p: float
    auc: AucDifference | None
    auc_p: float

    def reversed(self) -> ComparedPair:
        """The same pair with first and second exchanged."""
        a, u = self.accuracy, self.auc
        accuracy = PairedDifference(-a.value, (-a.interval[1], -a.interval[0]), a.p_value, a.second_only, a.first_only)
        auc = None if u is None else AucDifference(u.second, u.first, -u.value, (-u.interval[1], -u.interval[0]), u.p_value)
        return replace(self, first=self.second, second=self.first, accuracy=accuracy, auc=auc)

    def sentence(self) -> str:
        """Which is better, by how much, and whether that may be chance."""
        accurate, ranks = self.accuracy_p < SIGNIFICANT, self.auc is not None and self.auc_p < SIGNIFICANT
        lead = self.accuracy.value if accurate or not ranks or self.auc is None else self.auc.value
        if lead < 0:
            return self.reversed().sentence()
        accuracy, auc = self._accuracy_text(), self._auc_text()
        first, second = (shorten(name, 40) for name in (self.first, self.second))
        if accurate:
            opposed = " It ranks the images worse, though." if ranks and self.auc is not None and self.auc.value < 0 else ""
            return (
                f"{first} is better than {second}: {accuracy}{auc}. It alone is right on {plural(self.accuracy.first_only, 'image')}, "
                f"the other alone on {self.accuracy.second_only}.{opposed}"
            )
        if ranks:
            return (
                f"{first} ranks the images better than {second}{auc.replace(',', ':', 1)}; no difference in accuracy is shown: {accuracy}."
            )
        half = 50 * (self.accuracy.interval[1] - self.accuracy.interval[0])
        return (
            f"No difference between {first} and {second} is shown: {accuracy}{auc}. "
            f"So few images cannot tell differences of less than about {max(half, 0.1):.1f} points."
        )

    def _accuracy_text(self) -> str:
        low, high = (100 * bound for bound in self.accuracy.interval)
        value = 100 * self.accuracy.value + 0.0
        return f"accuracy {value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, McNemar {_p(self.accuracy_p)})"

    def _auc_text(self) -> str:
        if self.auc is None or math.isnan(self.auc.interval[0]):
            return ""
        low, high = self.auc.interval
        return f", ROC-AUC {self.auc.value + 0.0:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, DeLong {_p(self.auc_p)})"

    def to_dict(self) -> dict[str, Any]:
        """As data for JSON; what is unknown is None."""
        auc = None
        if self.auc is not None:
            bounds = None if math.isnan(self.auc.interval[0]) else list(self.auc.interval)
            auc = {"difference": self.auc.value, "interval": bounds, "p_value": _known(self.auc.p_value), "p_corrected": _known(self.auc_p)}
        return {
            "first": self.first, "second": self.second,
            "accuracy": {
                "difference": self.accuracy.value, "interval": list(self.accuracy.interval), "p_value": self.accuracy.p_value,
                "p_corrected": self.accuracy_p, "first_only": self.accuracy.first_only, "second_only": self.accuracy.second_only,
            },
            "roc_auc": auc, "sentence": self.sentence(),
        }  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Runs on the images that all of them were tested on: the runs in the order given, every two of them, and notes in sentences."""

    images: int
    runs: tuple[ComparedRun, ...]
    pairs: tuple[ComparedPair, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> ComparedRun:
        """The run with the highest accuracy; of equal ones the one with the lower log loss."""
        return max(self.runs, key=lambda run: (run.evaluation.accuracy, -run.evaluation.scores["log_loss"]))

    def summary(self) -> str:
        """Which is better, in a sentence or two."""
        if len(self.pairs) == 1:
            return self.pairs[0].sentence()
        best, accuracy = self.best.name, self.best.evaluation.accuracy
        beaten = [pair.second for pair in self._of_the_best() if pair.accuracy_p < SIGNIFICANT]
        others = [run.name for run in self.runs if run.name not in (best, *beaten)]
        said = f"{shorten(best, 40)} has the highest accuracy, {accuracy:.4f} on {plural(self.images, 'image')}"
        better = f": better than {enumeration([shorten(name, 40) for name in beaten])}" if beaten else ""
        open_ = f"; no difference from {enumeration([shorten(name, 40) for name in others])} is shown" if others else ""
        return f"{said}{better}{open_}."

    def lines(self) -> list[str]:
        """Return the comparison as lines of plain text."""
        found = [f"{plural(self.images, 'image')} that {_all_of(len(self.runs))} were tested on", *_table(self.runs), ""]
        told = self.pairs if len(self.pairs) <= _ALL_PAIRS else self._of_the_best()
        found += [f"  {pair.sentence()}" for pair in told] if len(self.pairs) > 1 else []
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
    _check_classes(runs)
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
        first, second = one.evaluation.outcome, two.evaluation.outcome
        accuracy = paired_difference(first.correct, second.correct)
        defined = not math.isnan(one.evaluation.scores["roc_auc"])
        auc = auc_difference(first.indicators, first.probabilities, second.probabilities) if defined else None
        found.append(ComparedPair(first=one.name, second=two.name, accuracy=accuracy, accuracy_p=1.0, auc=auc, auc_p=math.nan))
    accuracies = holm([pair.accuracy.p_value for pair in found])
    areas = holm([math.nan if pair.auc is None else pair.auc.p_value for pair in found])
    return tuple(replace(pair, accuracy_p=a, auc_p=u) for pair, a, u in zip(found, accuracies, areas, strict=True))


def _check_classes(runs: Sequence[ComparedRun]) -> None:
    first = runs[0]
    for other in runs[1:]:
        if other.evaluation.outcome.link is not first.evaluation.outcome.link:
            several, one = (other, first) if other.evaluation.outcome.link.independent else (first, other)
            raise DataError(f"In {several.path} an image may have several labels, in {one.path} it has one: the two cannot be compared.")
        own, others = first.evaluation.classes, other.evaluation.classes
        if set(own) != set(others):
            said = " and ".join(
                f"only {run.path} has {enumeration([visible(name) for name in mine if name not in yours])}"
                for run, mine, yours in ((first, own, others), (other, others, own))
                if set(mine) - set(yours)
            )
            raise DataError(f"The runs have different classes: {said}. Compare runs that were fitted on the same classes.")


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
    classes = runs[0].evaluation.classes
    shared = [run.part([place[digest] for digest in common], classes) for run, place in zip(runs, places, strict=True)]
    first = shared[0].evaluation.outcome
    agree = np.logical_and.reduce([first.link.correct(run.evaluation.outcome.targets, first.targets) for run in shared])
    differing = len(common) - int(agree.sum())
    if differing == len(common):
        raise DataError(f"The runs share {plural(len(common), 'test image')}, and agree on the label of none. Check the labels.")
    notes = []
    if any(run.tested != len(common) for run in runs):
        own = enumeration([f"{shorten(run.name, 40)} {run.tested}" for run in runs])
        notes.append(f"Only images that {_all_of(len(runs))} were tested on count, each once: {len(common)}. Test images of each: {own}.")
    if differing:
        shared = [run.part(np.flatnonzero(agree).tolist(), classes) for run in shared]
        notes.append(f"Left out, as the runs have different labels for {'it' if differing == 1 else 'them'}: {plural(differing, 'image')}.")
    return shared, notes


def _table(runs: Sequence[ComparedRun]) -> list[str]:
    names, backbones = [shorten(run.name, 40) for run in runs], [shorten(run.backbone, 30) for run in runs]
    columns = [max(width(text) for text in (head, *texts)) for head, texts in (("run", names), ("backbone", backbones))]
    head = f"  {pad('run', columns[0])}  {pad('backbone', columns[1])}  accuracy     95 % interval  ROC-AUC  log loss     ECE"
    rows = [head]
    for run, name, backbone in zip(runs, names, backbones, strict=True):
        scores, (low, high) = run.evaluation.scores, run.evaluation.interval
        rows.append(
            f"  {pad(name, columns[0])}  {pad(backbone, columns[1])}  {number(scores['accuracy']):>8}  [{low:.4f}, {high:.4f}]"
            f"  {number(scores['roc_auc']):>7}  {number(scores['log_loss']):>8}  {number(scores['calibration_error']):>6}"
        )
    return rows


def _all_of(count: int) -> str:
    return "both runs" if count == 2 else f"all {count} runs"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
