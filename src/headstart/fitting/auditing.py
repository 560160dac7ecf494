"""`deep_check`: the audit that also looks at features: near copies, outliers, wrong labels, and what leaks do to the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.audit import (
    SEVERITIES,
    Audit,
    Finding,
    NearCopies,
    Plan,
    check,
    find_label_errors,
    find_near_copies,
    find_outliers,
    gather,
    group_pattern,
    make_plan,
    near_copies,
    rank_label_errors,
)  # fmt: skip
from headstart.datasets import Dataset
from headstart.datasets.grouping import groups_from_names
from headstart.features import Features
from headstart.fitting.job import read, say_refused
from headstart.fitting.leaks import known_beforehand, leak_tests
from headstart.fitting.parts import kept_together
from headstart.fitting.settings import FitSettings
from headstart.metrics import paired_difference
from headstart.progress import Listener

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

    Features are computed once and kept, as by `fit`. Labels are judged by a head that has not seen the image (or its group): all images
    take part, whatever their part of the data, since this is not a test of a model.

    Args:
        data: as `fit` takes it.
        settings: which backbone, seed, test images and groups.
        listener: is told how it goes.

    Raises:
        DataError, ParameterError, BackboneError: what the user gave cannot be used.
    """
    settings, listener = settings or FitSettings(), listener or Listener()
    listener.stage("Reading the data")
    dataset = read(data, settings)
    listener.stage(f"Checking {len(dataset)} files")
    facts = gather(dataset, deep=False, progress=listener.progress)
    audit = check(dataset, facts=facts)
    classifier = settings.classifier()
    listener.stage(f"Extracting features of {len(dataset)} images")
    features = classifier.extract(dataset.images, progress=listener.progress, warn=listener.warn, announce=listener.say)
    say_refused(features, len(dataset), Listener())
    readable = dataset.take(features.kept)
    layers = classifier.layers
    listener.stage("Looking for near copies")
    near = near_copies(readable.images, digests=features.digests, features=features.values, layers=layers, progress=listener.progress)
    findings = find_near_copies(readable, near, digests=features.digests)
    findings += find_outliers(readable, features.values, layers=layers)
    errors = None
    if _can_be_learned(readable):
        listener.stage("Looking for wrong labels")
        together = _together(readable.groups, features.digests, near)
        logits, head = _out_of_sample(settings, features.values, readable, together, listener)
        settings = replace(settings, head=head)  # what follows compares data, and not heads
        findings += find_label_errors(readable, np.arange(len(readable)), logits)
        errors = rank_label_errors(logits, readable.targets, multilabel=readable.multilabel)
        listener.stage("Measuring what leaks do to the score")
        findings += _effect_of_groups(settings, features.values, readable, listener)
        findings += _effect_of_leaks(settings, features, readable, near)
    everything = sorted((*audit.findings, *findings), key=lambda finding: SEVERITIES.index(finding.severity))
    kept = features.kept
    plan = make_plan(
        dataset, facts, near_copies=[kept[list(component)].tolist() for component in near.components], label_errors=errors, rows=kept,
        group_from=group_pattern(readable),
    )  # fmt: skip
    return DeepAudit(audit=replace(audit, findings=tuple(everything)), plan=plan)


def _can_be_learned(dataset: Dataset) -> bool:
    counts = np.array(list(dataset.counts().values()))
    return len(dataset) >= _FEW and int((counts >= 2).sum()) >= 2


def _together(groups: npt.NDArray[Any] | None, digests: Sequence[bytes], near: NearCopies) -> npt.NDArray[np.int64] | None:
    """Groups that also keep copies and near copies on one side; None where every image stands alone."""
    groups = kept_together(groups, digests)
    if not near.components:
        return None if groups is None else np.unique(groups, return_inverse=True)[1].astype(np.int64)
    pictures = [str(index) for index in range(len(digests))]
    for number, component in enumerate(near.components):
        for index in component:
            pictures[index] = f"component {number}"
    joined = kept_together(groups, [picture.encode() for picture in pictures])
    return None if joined is None else np.unique(joined, return_inverse=True)[1].astype(np.int64)


def _out_of_sample(
    settings: FitSettings, values: npt.NDArray[np.float32], dataset: Dataset, groups: npt.NDArray[np.int64] | None, listener: Listener
) -> tuple[npt.NDArray[np.float64], str]:  # fmt: skip
    """Logits (n, k) of all images, in the order of the classes of the data, each from a head that has not seen its group; which head."""
    classifier = replace(settings, fine_tuning=None).classifier()
    classifier.fit_features(values, dataset.targets, groups=groups, progress=listener.progress)
    found = classifier.choice_.out_of_sample
    head = next(candidate.head for candidate in classifier.choice_.evidence if candidate.chosen)
    if dataset.multilabel:
        return found, head
    logits = np.full((len(dataset), len(dataset.classes)), -np.inf)
    logits[:, classifier.choice_.estimator.classes_.astype(np.int64)] = found
    return logits, head


def _right(dataset: Dataset, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    if dataset.multilabel:
        return np.asarray(((logits > 0) == dataset.targets).all(axis=1))
    return np.asarray(logits.argmax(axis=1) == dataset.targets)


def _effect_of_groups(settings: FitSettings, values: npt.NDArray[np.float32], dataset: Dataset, listener: Listener) -> list[Finding]:
    """The score when images are split one by one beside the score when groups are kept together; groups are guessed if none are given."""
    pattern = group_pattern(dataset)
    groups, whence = dataset.groups, "the groups that were given"
    if groups is None and pattern is not None:
        groups, whence = np.array(groups_from_names(dataset.names(), pattern)[0]), f"groups from the file names ({pattern})"
    if groups is None or len(set(groups.tolist())) == len(groups):
        return []
    numbers = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    one_by_one = _right(dataset, _out_of_sample(settings, values, dataset, None, listener)[0])
    by_group = _right(dataset, _out_of_sample(settings, values, dataset, numbers, listener)[0])
    difference = paired_difference(by_group, one_by_one)
    low, high = (100 * value for value in difference.interval)
    drop = -100 * difference.value
    clear = high < 0 and drop >= _WORTH_A_WARNING
    message = (
        f"Split image by image, the accuracy is {one_by_one.mean():.4f}; with {whence} kept on one side, {by_group.mean():.4f}: "
        f"{'a drop of' if drop >= 0 else 'a rise of'} {abs(drop):.1f} points (95 % interval of the change {low:+.1f} to {high:+.1f}; by "
        f"cross-validation on {len(dataset)} images). "
        + ("The second is what to expect of new groups." if clear else "The groups make little difference here.")
    )
    return [Finding("effect of groups", "warning" if clear else "note", message, (), len(set(groups.tolist())))]


def _effect_of_leaks(settings: FitSettings, features: Features, dataset: Dataset, near: NearCopies) -> list[Finding]:
    """The score of a head on the test part with and without the images that training has seen in some form."""
    train, test = dataset.part("train", "val"), dataset.part("test")
    if not len(train) or not len(test):
        return []
    known = known_beforehand(dataset, features.digests, near.components)
    if not known:
        return []
    classifier = replace(settings, fine_tuning=None).classifier()
    classifier.fit_features(features.values[train], dataset.targets[train])
    named = classifier.choice_.estimator.predict(features.values[test])
    same = named == dataset.targets[test]
    tests = leak_tests(same if same.ndim == 1 else same.all(axis=1), known)
    message = "; ".join(test.line() for test in tests)
    seen = int(np.logical_or.reduce(list(known.values())).sum())
    return [Finding("effect of leaks", "error", f"{message[0].upper()}{message[1:]}.", (), seen)]
