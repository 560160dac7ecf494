"""`deep_check`: the audit that also looks at features: near copies, outliers, wrong labels, and what leaks do to the score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.audit import (
    Audit,
    Finding,
    Plan,
    check,
    find_label_errors,
    find_near_copies,
    find_outliers,
    gather,
    gravest_first,
    group_pattern,
    in_words_of,
    inspection_of,
    make_plan,
    rank_label_errors,
)  # fmt: skip
from headstart.audit.copies import known_beforehand, leak_tests
from headstart.data import Dataset, LabelSets
from headstart.data.annotations import groups_from_names
from headstart.features.table import FeatureTable, groups_of, stand_alone
from headstart.metrics import SOFTMAX, link_of, paired_difference
from headstart.pipeline.fitting import extract
from headstart.pipeline.reading import read
from headstart.progress import Listener
from headstart.selection import HeadPipeline, unfitted
from headstart.settings import FitSettings
from headstart.tasks import LearningContext

_NOTHING = 0.05  # points of accuracy
_WORTH_A_WARNING = 0.5  # points of accuracy
_FEW = 20  # images: fewer cannot be learned from


@dataclass(frozen=True, eq=False, kw_only=True)
class DeepAudit:
    """What was found, and a plan of what to do about it.

    Attributes:
        audit: all findings, the gravest first.
        plan: what a fit should leave out or keep together, and which labels a person should look at.
    """

    audit: Audit
    plan: Plan


def deep_check(data: str | Path | Dataset, *, settings: FitSettings | None = None, listener: Listener | None = None) -> DeepAudit:
    """Audit files and features.

    Features are computed once and kept, as by `fit`. Labels are judged by a head that has not seen the image (or its group), boxes by two
    heads that have each seen the other half: all images take part, whatever their part of the data, since this is not a test of a model.

    Args:
        data: as `fit` takes it.
        settings: which backbone, seed, test images and groups.
        listener: is told how it goes.

    Raises:
        DataError, ParameterError, BackboneError: what the user gave cannot be used.
    """
    settings, listener = replace(settings or FitSettings(), fine_tuning=None), listener or Listener()
    listener.stage("Reading the data")
    task, dataset = read(data, settings)
    listener.stage(f"Checking {len(dataset)} files")
    facts = gather(dataset, deep=False, progress=listener.progress)
    audit = check(dataset, facts=facts)
    own = task.audited(dataset, settings, listener)
    maps = None if own is None else task.maps(own, replace(dataset, parts=np.full(len(dataset), "train")))
    prepared, table = extract(dataset, own or settings, _Quiet(listener), maps=maps)
    readable, values = table.dataset, np.asarray(table.values)
    listener.stage("Looking for near copies")
    inspection = inspection_of(readable)
    near = inspection.near_copies(readable, table.digests, features=values, layers=table.layers, progress=listener.progress)
    findings = [] if inspection.alike else find_near_copies(readable, near, digests=table.digests)  # those `check` has named
    findings += find_outliers(readable, values, layers=table.layers)
    errors = None
    if own is not None or _can_be_learned(readable):
        everything_learned = replace(table, groups=groups_of(readable, table.digests, together=near.components)).tested_on(np.empty(0, int))
    if own is not None:
        listener.stage("Looking for wrong annotations")
        findings += task.doubts(everything_learned, LearningContext(settings=own, prepared=prepared, listener=listener))
    if _can_be_learned(readable):
        listener.stage("Looking for wrong labels")
        choice = task.fit(everything_learned, LearningContext(settings=settings, prepared=prepared, listener=listener)).choice
        assert choice.out_of_sample is not None
        logits = _in_order(choice.out_of_sample, choice.estimator.classes_, readable)
        findings += find_label_errors(readable, np.arange(len(readable)), logits)
        errors = rank_label_errors(logits, readable.targets.array, link=readable.targets.link or SOFTMAX)
        listener.stage("Measuring what leaks do to the score")
        chosen = next(candidate for candidate in choice.evidence if candidate.chosen)
        guessed = _guessed(readable)
        groups = groups_of(guessed, table.digests, together=near.components)
        head = unfitted(chosen, layers=table.layers, class_weight=settings.class_weight, seed=settings.seed)
        head.fit(table.values, table.targets, groups=None if stand_alone(groups) else groups)
        apart = _correct(readable, _in_order(head.out_of_sample_logits_, head.classes_, readable))
        findings += _effect_of_groups(readable, _correct(readable, logits), apart)
        findings += _effect_of_leaks(table, head, known_beforehand(guessed, table.digests, near.components), apart)
    copies = [table.rows[list(component)].tolist() for component in near.components]
    plan = make_plan(dataset, facts, near_copies=copies, label_errors=errors, rows=table.rows, group_from=group_pattern(readable))
    return DeepAudit(audit=replace(audit, findings=gravest_first((*audit.findings, *in_words_of(dataset, findings)))), plan=plan)


def _can_be_learned(dataset: Dataset) -> bool:
    counts = np.array(list(dataset.counts().values()))
    return dataset.targets.link is not None and len(dataset) >= _FEW and int((counts >= 2).sum()) >= 2


def _guessed(dataset: Dataset) -> Dataset:
    """The data with the groups that the file names tell of, where none are given."""
    pattern = group_pattern(dataset)
    return dataset if pattern is None else replace(dataset, groups=np.array(groups_from_names(dataset.names(), pattern)[0]), grouped=True)


def _in_order(found: npt.NDArray[np.float64], classes: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.float64]:
    """Logits (n, k) with a column for every class of the data, also for one without images."""
    if isinstance(dataset.targets, LabelSets):
        return found
    logits = np.full((len(found), len(dataset.classes)), -np.inf)
    logits[:, classes.astype(np.int64)] = found
    return logits


def _correct(dataset: Dataset, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    link = link_of(dataset.targets.array)
    return link.correct(link.decisions(link.probabilities(logits)), dataset.targets.array)


class _Quiet(Listener):
    """Leaves out what the audit itself reports: files that cannot be read."""

    def __init__(self, listener: Listener) -> None:
        self.stage, self.progress, self.say = listener.stage, listener.progress, listener.say  # type: ignore[method-assign]

    def left_out(self, message: str) -> None:
        """Nothing."""


def _effect_of_groups(dataset: Dataset, one_by_one: npt.NDArray[np.bool_], apart: npt.NDArray[np.bool_]) -> list[Finding]:
    """The score when groups are kept together beside the one when they are not; where groups were not given but guessed.

    Both are bool (n,): which images are classified correctly by a head that has not seen the image or a copy of it, and by one that has
    seen nothing of its group.
    """
    pattern = group_pattern(dataset)
    if pattern is None:
        return []
    change, clear = _changed(apart, one_by_one)
    message = (
        f"Split image by image, the accuracy is {one_by_one.mean():.4f}; with groups from the file names ({pattern}) kept on one side, "
        f"{apart.mean():.4f}: {change}; by cross-validation on {len(apart)} images). "
        + ("The second is what to expect of new groups." if clear else "The groups make little difference here.")
    )
    return [Finding("effect of groups", "warning" if clear else "note", message, (), len(apart))]


def _effect_of_leaks(
    table: FeatureTable, head: HeadPipeline, known: dict[str, npt.NDArray[np.bool_]], apart: npt.NDArray[np.bool_]
) -> list[Finding]:
    """The score on the test part as it is, and without what training has seen (`known`, as `known_beforehand` gives it).

    Images that have leaked may be easier or harder than the others. Hence a second comparison, on the same images: of a head that was
    trained on the training part with one that has seen nothing of the image's kind (`apart`).
    """
    dataset = table.dataset
    train, test = dataset.part("train", "val"), dataset.part("test")
    if not known or len(np.unique(table.targets[train])) < 2:
        return []  # one class alone, perhaps because no image of another can be read: nothing can be learned from it
    head.fit(table.values[train], table.targets[train])
    right = _correct(dataset.take(test), _in_order(head.logits(table.values[test]), head.classes_, dataset))
    leaked = np.logical_or.reduce(list(known.values()))
    change, _ = _changed(apart[test][leaked], right[leaked])
    message = (
        "; ".join(row.line() for row in leak_tests(right, known))
        + f". The {int(leaked.sum())} seen in training, scored instead by a head not trained on them: "
        f"{apart[test][leaked].mean():.4f}, {change})."
    )
    sure = set(known) != {"groups"} or dataset.grouped  # groups from file names are a guess
    return [Finding("effect of leaks", "error" if sure else "warning", f"{message[0].upper()}{message[1:]}", (), int(leaked.sum()))]


def _changed(after: npt.NDArray[np.bool_], before: npt.NDArray[np.bool_]) -> tuple[str, bool]:
    """A change of the accuracy on the same images as text, without the last bracket; and whether it is a drop worth a warning."""
    difference = paired_difference(after, before)
    low, high = (100 * value for value in difference.interval)
    points = 100 * difference.value
    how = "no change" if abs(points) < _NOTHING else f"{'a rise' if points > 0 else 'a drop'} of {abs(points):.1f} points"
    words = f"{how} (95 % interval of the change {low:+.1f} to {high:+.1f}"
    return words, high < 0 and -points >= _WORTH_A_WARNING
