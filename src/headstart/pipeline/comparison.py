"""Comparing runs: on the images that all of them were tested on, image by image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError, ParameterError, RunError
from headstart.evaluate import Evaluation, evaluate
from headstart.metrics import AucDifference, Link, PairedDifference, auc_difference, holm, link_of, paired_difference
from headstart.run import EVALUATION, load
from headstart.text import enumeration, number, pad, plural, shorten, visible, width

SIGNIFICANT = 0.05
_ALL_PAIRS = 3  # up to so many pairs, each has its sentence


@dataclass(frozen=True, eq=False, kw_only=True)
class TestResults:
    """The outputs of a run on its test images.

    Attributes:
        name: for the user.
        path: of the run folder.
        backbone: its name.
        classes: the class names, in the order of the columns.
        link: one label for each image, or several.
        logits: float32 (m, k).
        targets: int64 (m,), or bool (m, k) for multi-label.
        digests: SHA-256 of each image.
    """

    __test__ = False  # not a test of pytest's

    name: str
    path: Path
    backbone: str
    classes: tuple[str, ...]
    link: Link
    logits: npt.NDArray[np.float32]
    targets: npt.NDArray[Any]
    digests: tuple[bytes, ...]

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Softmax of the logits, or their sigmoid for multi-label; float64 (m, k)."""
        return self.link.probabilities(self.logits.astype(np.float64))

    def ordered(self, classes: Sequence[str]) -> TestResults:
        """The same with the classes in another order."""
        columns = [self.classes.index(name) for name in classes]
        targets = self.targets[:, columns] if self.link.independent else np.argsort(columns)[self.targets]
        return replace(self, classes=tuple(classes), logits=self.logits[:, columns], targets=targets)

    def take(self, rows: Sequence[int]) -> TestResults:
        """The same of some images."""
        digests = tuple(self.digests[row] for row in rows)
        return replace(self, logits=self.logits[list(rows)], targets=self.targets[list(rows)], digests=digests)


def read_test_results(path: Path) -> TestResults:
    """Read the outputs of a run on its test images.

    They are in its ``evaluation.safetensors``: `logits` float32 (m, k), `targets` int64 (m,) or bool (m, k), `digests` uint8 (m, 32).

    Raises:
        RunError: not a whole run folder, or one that was written before these were kept.
    """
    run = load(path)
    expected = run.class_link("headstart compare is for")
    file, found = path / EVALUATION, run.tested
    if not found:
        raise RunError(
            f"{path}: holds no outputs for the test images (it has no {EVALUATION}): it was written by an earlier version of "
            "Headstart. Fit it again, with the command in its report, to compare it."
        )
    missing = [name for name in ("logits", "targets", "digests") if name not in found]
    if missing:
        raise RunError(f"{file}: damaged: {missing[0]!r} is missing. Fit again.")
    logits, targets, digests = found["logits"], found["targets"], found["digests"]
    shape = (len(logits), len(run.classes))
    link = link_of(targets)
    if logits.shape != shape or not len(logits) or not np.isfinite(logits).all() or digests.shape != (len(logits), 32):
        raise RunError(f"{file}: damaged (logits {logits.shape}, digests {digests.shape}). Fit again.")
    if link.independent:
        fits = targets.dtype == bool and targets.shape == shape
    else:
        fits = targets.dtype.kind == "i" and targets.shape == shape[:1] and bool(0 <= targets.min() <= targets.max() < len(run.classes))
    if not fits or link is not expected:
        raise RunError(f"{file}: damaged (its targets do not fit its {plural(len(run.classes), 'class')}). Fit again.")
    return TestResults(
        name=path.name, path=path, backbone=run.manifest.backbone.name, classes=run.classes, link=link,
        logits=logits.astype(np.float32), targets=targets, digests=tuple(row.tobytes() for row in digests.astype(np.uint8)),
    )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedRun:
    """One of the runs: its scores on the images that all were tested on, and how many images its own test part had."""

    name: str
    path: Path
    backbone: str
    tested: int
    evaluation: Evaluation


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedPair:
    """Two of the runs, by name.

    Attributes:
        first, second: the names.
        accuracy: of the first, less that of the second.
        accuracy_p: the p value of the exact McNemar test, corrected for the number of pairs.
        auc: area under the ROC curve of the first, less that of the second; None where there is none.
        auc_p: the p value of DeLong's test, corrected; nan where there is none.
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
    """Runs on the images that all of them were tested on.

    Attributes:
        images: how many images that is.
        runs: in the order given.
        pairs: every two of them.
        notes: what must be known to read the figures rightly, in sentences.
    """

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
    results = list(_named([read_test_results(path) for path in paths]))
    _check_classes(results)
    shared, notes = _shared(results)
    evaluations = [evaluate(one.probabilities, one.targets, one.classes) for one in shared]
    runs = tuple(
        ComparedRun(name=one.name, path=one.path, backbone=one.backbone, tested=len(one.digests), evaluation=evaluation)
        for one, evaluation in zip(results, evaluations, strict=True)
    )
    pairs = _pairs(runs)
    if len(pairs) > 1:
        notes.append(
            f"p values are corrected for {len(pairs)} comparisons (Holm). The best of several, chosen by these images, looks a little "
            "better on them than it is."
        )
    return Comparison(images=len(shared[0].digests), runs=runs, pairs=pairs, notes=tuple(notes))


def _pairs(runs: Sequence[ComparedRun]) -> tuple[ComparedPair, ...]:
    found = []
    for one, two in combinations(runs, 2):
        first, second = one.evaluation.outcome, two.evaluation.outcome
        link = link_of(first.targets)
        accuracy = paired_difference(*(link.correct(outcome.predicted, outcome.targets) for outcome in (first, second)))
        defined = not math.isnan(one.evaluation.scores["roc_auc"])
        auc = auc_difference(first.indicators, first.probabilities, second.probabilities) if defined else None
        found.append(ComparedPair(first=one.name, second=two.name, accuracy=accuracy, accuracy_p=1.0, auc=auc, auc_p=math.nan))
    accuracies = holm([pair.accuracy.p_value for pair in found])
    areas = holm([math.nan if pair.auc is None else pair.auc.p_value for pair in found])
    return tuple(replace(pair, accuracy_p=a, auc_p=u) for pair, a, u in zip(found, accuracies, areas, strict=True))


def _named(results: Sequence[TestResults]) -> Iterator[TestResults]:
    """Runs of the same name get their paths for names."""
    names = [one.path.resolve().name for one in results]
    for one, name in zip(results, names, strict=True):
        yield replace(one, name=name if names.count(name) == 1 else str(one.path))


def _check_classes(results: Sequence[TestResults]) -> None:
    first = results[0]
    for other in results[1:]:
        if other.link is not first.link:
            several, one = (other, first) if other.link.independent else (first, other)
            raise DataError(f"In {several.path} an image may have several labels, in {one.path} it has one: the two cannot be compared.")
        if set(other.classes) != set(first.classes):
            said = " and ".join(
                f"only {a.path} has {enumeration([visible(name) for name in a.classes if name not in b.classes])}"
                for a, b in ((first, other), (other, first))
                if set(a.classes) - set(b.classes)
            )
            raise DataError(f"The runs have different classes: {said}. Compare runs that were fitted on the same classes.")


def _shared(results: Sequence[TestResults]) -> tuple[list[TestResults], list[str]]:
    """The results on the images that all were tested on, classes and images in the order of the first; and what to say of them."""
    ordered = [one.ordered(results[0].classes) for one in results]
    places = [{digest: row for row, digest in reversed(list(enumerate(one.digests)))} for one in ordered]
    common = [digest for digest in dict.fromkeys(ordered[0].digests) if all(digest in place for place in places)]
    if not common:
        pairs = [f"{a.name} and {b.name} share {len(set(a.digests) & set(b.digests))}" for a, b in combinations(results, 2)]
        raise DataError(
            f"The runs were tested on different images: none of them is shared ({'; '.join(pairs[:6])}). "
            f"{enumeration([f'{one.name} has {len(one.digests)}' for one in results])}. "
            "Fit both with the same --test, or with the same data and --seed."
        )
    taken = [one.take([place[digest] for digest in common]) for one, place in zip(ordered, places, strict=True)]
    agree = np.ones(len(common), dtype=bool)
    for one in taken[1:]:
        agree &= one.link.correct(one.targets, taken[0].targets)
    rows = np.flatnonzero(agree).tolist()
    if not rows:
        raise DataError(f"The runs share {plural(len(common), 'test image')}, and agree on the label of none. Check the labels.")
    notes = []
    tested = [len(one.digests) for one in results]
    if any(count != len(common) for count in tested):
        own = enumeration([f"{shorten(one.name, 40)} {len(one.digests)}" for one in results])
        notes.append(
            f"Only images that {_all_of(len(results))} were tested on count, each once: {len(common)}. Test images of each: {own}."
        )
    if len(rows) < len(common):
        differing = len(common) - len(rows)
        notes.append(f"Left out, as the runs have different labels for {'it' if differing == 1 else 'them'}: {plural(differing, 'image')}.")
    return [one.take(rows) for one in taken], notes


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
