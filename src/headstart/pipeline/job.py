"""`fit`: read, split, extract, choose the head, test once, write the run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from headstart import files
from headstart.audit import Finding, Plan, check_known
from headstart.audit.leaks import known_beforehand, leak_tests
from headstart.backbones import timm_models
from headstart.classifier import Keeping, TransferClassifier, check_plan, taken
from headstart.data import Dataset, read_dataset
from headstart.data.shards import Shard
from headstart.data.split import folds
from headstart.engine import gpu_is_there
from headstart.errors import DataError, ParameterError, StoreError
from headstart.evaluate import Evaluation, evaluate
from headstart.features import Features
from headstart.metrics import link_of
from headstart.pipeline.believing import believe, suspicious_labels
from headstart.pipeline.contents import run_contents
from headstart.pipeline.keeping import check_keeping, command_that_began, keep, kept_or_removed
from headstart.pipeline.parts import kept_together, split
from headstart.pipeline.result import FitResult, ProbeTest, ShardResult, head_in_words, right
from headstart.progress import Listener
from headstart.run import check_target, is_run, write_run
from headstart.selection import Choice
from headstart.settings import FitSettings
from headstart.training.processes import Processes


def read(data: str | Path | Dataset, settings: FitSettings) -> Dataset:
    """The data that a fit is asked to learn from, as a plan has changed them; errors as of `fit`."""
    dataset = _read(data, settings)
    if settings.plan is None:
        return dataset
    changed, notes = Plan.read(settings.plan).apply(dataset)
    return replace(changed, notes=(*changed.notes, *notes))


def _read(data: str | Path | Dataset, settings: FitSettings) -> Dataset:
    if isinstance(data, Dataset):
        given = [name for name in ("test", "group_from", "columns") if getattr(settings, name) is not None]
        if given:
            raise ParameterError(f"{given[0]} is for data that are still to be read; give it to read_dataset, which made this Dataset.")
        return data
    if is_run(Path(data)):
        raise DataError(
            f"{data}: is a run folder, which an earlier `headstart fit` wrote, and holds no labelled images. "
            f"To use it: headstart predict {data} IMAGE"
        )
    columns = settings.columns or {}
    return read_dataset(
        data, test=settings.test, group_from=settings.group_from, path_column=columns.get("path"), label_column=columns.get("label"),
        split_column=columns.get("split"), group_column=columns.get("group"),
    )  # fmt: skip


def fit_shard(
    data: str | Path | Dataset, shard: Shard, *, settings: FitSettings | None = None, listener: Listener | None = None
) -> ShardResult:
    """Compute the features of every n-th image into the feature store, and stop.

    Several machines each run one shard with a store of their own; `FeatureStore.merge` puts the stores together, and `fit` then finds
    everything computed.

    Raises:
        DataError: as `fit`.
        ParameterError: the settings keep no features.
    """
    settings, listener = settings or FitSettings(), listener or Listener()
    if settings.cache is None:
        raise ParameterError("--shard computes features into the cache, so it cannot be combined with --no-cache.")
    dataset = read(data, settings)
    mine = dataset.take(np.arange(shard.index - 1, len(dataset), shard.count))
    if not len(mine):
        raise DataError(f"Shard {shard.index}/{shard.count} has no image: there are only {len(dataset)}.")
    listener.stage(f"Extracting features, shard {shard.index}/{shard.count}")
    features = TransferClassifier.of(settings).extract(mine.images, progress=listener.progress, warn=_not_kept, announce=listener.say)
    cache = files.cache_folder(None if settings.cache == "auto" else settings.cache)
    return ShardResult(len(mine), features.computed, features.refused, files.feature_store_file(cache))


def _not_kept(message: str) -> NoReturn:
    """A shard is there to be kept."""
    raise StoreError(f"{message.removesuffix(' Continuing without storing features.')} A shard that is not kept is of no use.")


def fit(
    data: str | Path | Dataset, *, out: str | Path | None = None, settings: FitSettings | None = None, listener: Listener | None = None,
    command: str = "", resume: bool = False,
) -> FitResult:  # fmt: skip
    """Learn a classifier from labelled images, test it on images it has not seen, and write a run folder.

    Args:
        data: a folder, a list file or a named public set, as `read_dataset` takes it; or a `Dataset`.
        out: the run folder to write; None writes none.
        settings: what is asked for.
        listener: is told how it goes.
        command: written into the run, for repeating it.
        resume: go on with the fine-tuning of `out` that was interrupted; data and settings must be the same.

    Raises:
        DataError, ParameterError, BackboneError, RunError: what the user gave cannot be used; the message says what to do.
        Interrupted: Ctrl-C during a fine-tuning, whose state has been kept.
    """
    settings, listener, processes = settings or FitSettings(), listener or Listener(), Processes.from_environment()
    started, seconds = time.perf_counter(), dict[str, float]()
    out = None if out is None else _with_a_name(Path(out).expanduser())
    if out is not None:
        check_target(out)
    if settings.fine_tuning is not None:
        timm_models.require("Fine-tuning")
    check_keeping(out, settings, resume=resume)
    listener.stage("Reading the data")
    with _lap(seconds, "reading"):
        dataset = read(data, settings)
        _check_beforehand(dataset, settings)
    for note in dataset.notes:
        listener.say(note)

    classifier = TransferClassifier.of(settings)
    if settings.fine_tuning is not None:
        processes.join("cuda" if settings.fine_tuning.device != "cpu" and gpu_is_there() else "cpu")
    with processes.first_on_machine():
        features = _look_at_images(classifier, dataset, listener)
    say_refused(features, len(dataset), listener)
    readable, held_out = split(dataset.take(features.kept), settings, digests=features.digests)
    findings = check_known(readable, features.digests)
    _say_findings(findings, listener)
    keeping = keep(out, settings, readable, features.digests, processes=processes, resume=resume, command=command)
    if resume and out is not None:
        command = command_that_began(out)
    known = _Known(
        dataset=readable, held_out=held_out, features=features, groups=kept_together(readable.groups, features.digests), findings=findings
    )
    with kept_or_removed(keeping, to_go_on=_to_go_on(data, out)):
        result, values = _learned(classifier, known, keeping, out=out, settings=settings, listener=listener, seconds=seconds)
        if out is not None and processes.is_first:
            listener.stage("Writing the run")
            with _lap(seconds, "writing"):
                write_run(out, run_contents(result, values, settings=settings, command=command))
    if keeping.checkpoints is not None and processes.is_first:
        keeping.checkpoints.remove()
    seconds["total"] = time.perf_counter() - started
    return result


@dataclass(frozen=True, eq=False, kw_only=True)
class _Known:
    """What is known before anything is learned: the images that can be read, in their parts, and what was noticed about them."""

    dataset: Dataset
    held_out: str
    features: Features
    groups: npt.NDArray[np.int64] | None
    findings: tuple[Finding, ...]


def _learned(
    classifier: TransferClassifier, known: _Known, keeping: Keeping, *, out: Path | None, settings: FitSettings, listener: Listener,
    seconds: dict[str, float],
) -> tuple[FitResult, npt.NDArray[np.float32]]:  # fmt: skip
    """Learn and test; the features of all images by the network as it is then, float32 (n, D), come as well."""
    dataset, features, groups = known.dataset, known.features, known.groups
    with keeping.processes.first_on_machine():
        _learn(classifier, features, dataset, groups, listener)
    probe = classifier.choice_ if classifier.begins_with_probe else None
    values = _fine_tune(classifier, features, dataset, groups, keeping, listener)
    seconds |= classifier.seconds_

    listener.stage("Testing")
    with _lap(seconds, "testing"):
        evaluation = _test(classifier.choice_, values, dataset)
        before = None if probe is None or settings.fine_tuning is None else _test(probe, features.values, dataset)
        crossed = _cross_validate(features.values, dataset, groups, settings, listener) if settings.folds else None

    listener.stage("Learning when to believe it")
    with _lap(seconds, "trust"):
        believed = believe(classifier, values, dataset, groups, evaluation, settings=settings, listener=listener)
        wrong_labels = suspicious_labels(classifier, dataset)
        _say_findings(tuple(wrong_labels), listener)
    result = FitResult(
        run=out, dataset=dataset, held_out=known.held_out, classifier=classifier, test=evaluation, cross_validation=crossed,
        refused=features.refused, findings=(*known.findings, *wrong_labels), seconds=seconds, digests=features.digests,
        trust=believed.trust, trust_test=believed.test, learning_curve=believed.curve,
        leaks=leak_tests(right(evaluation), known_beforehand(dataset, features.digests)),
        probe=None if before is None or probe is None else ProbeTest.of(before, evaluation, head=head_in_words(probe)),
    )  # fmt: skip
    return result, values


@contextmanager
def _lap(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Write down how long a stage took."""
    began = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - began


def _with_a_name(out: Path) -> Path:
    """The folder by a path that ends in its name, since something is to be put beside it."""
    return out.resolve() if out.name in ("", "..") else out


def _to_go_on(data: str | Path | Dataset, out: Path | None) -> str:
    """What goes on with an interrupted training."""
    return f"fit(..., out={str(out)!r}, resume=True)" if isinstance(data, Dataset) else shlex.join(
        ["headstart", "fit", str(data), "--resume", str(out)]
    )  # fmt: skip


def _look_at_images(classifier: TransferClassifier, dataset: Dataset, listener: Listener) -> Features:
    """Features of all images; or, where a training is to begin without, only whether they can be read."""
    if not classifier.begins_with_probe:
        listener.stage(f"Reading {len(dataset)} images")
        return classifier.survey(dataset.images, progress=listener.progress, announce=listener.say)
    listener.stage(f"Extracting features of {len(dataset)} images")
    return classifier.extract(dataset.images, progress=listener.progress, warn=listener.warn, announce=listener.say)


def _learn(
    classifier: TransferClassifier, features: Features, dataset: Dataset, groups: npt.NDArray[Any] | None, listener: Listener
) -> None:
    """Fit the head on frozen features."""
    if not classifier.begins_with_probe:
        return
    listener.stage("Choosing the head")
    train = dataset.part("train")
    classifier.fit_features(
        features.values[train],
        dataset.targets[train],
        groups=None if groups is None else groups[train],
        refused=features.refused,
        progress=listener.progress,
    )


def _fine_tune(
    classifier: TransferClassifier, features: Features, dataset: Dataset, groups: npt.NDArray[Any] | None, keeping: Keeping,
    listener: Listener,
) -> npt.NDArray[np.float32]:  # fmt: skip
    """Train on where that is asked for, and return the features of all images by the backbone as it is then.

    Where no training images are held out to choose an epoch, the test images are watched, and nothing is chosen on them.
    """
    if classifier.fine_tuning is None:
        return features.values
    train, test = dataset.part("train"), dataset.part("test")
    classifier.fine_tune(
        taken(dataset.images, train), dataset.targets[train], groups=None if groups is None else groups[train],
        values=features.values[train], refused=features.refused, watched=(taken(dataset.images, test), dataset.targets[test]),
        keeping=keeping, listener=listener,
    )  # fmt: skip
    listener.stage("Extracting features of the trained network")
    with _lap(classifier.seconds_, "trained features"):
        return classifier.features_of(dataset.images, progress=listener.progress).values


def _test(choice: Choice, values: npt.NDArray[np.float32], dataset: Dataset) -> Evaluation:
    test = dataset.part("test")
    return evaluate(choice.estimator.predict_proba(values[test]), dataset.targets[test], dataset.classes)


def _check_beforehand(dataset: Dataset, settings: FitSettings) -> None:
    """Say what is wrong with the parts before any work is done."""
    parted, _ = split(dataset, settings)
    if settings.fine_tuning is not None:
        check_plan(settings.fine_tuning, backbone=settings.backbone, classes=len(dataset.classes), link=link_of(dataset.targets))
    if settings.folds:
        train = parted.part("train")
        folds(parted.targets[train], count=settings.folds, groups=None if parted.groups is None else parted.groups[train])


def _say_findings(findings: tuple[Finding, ...], listener: Listener) -> None:
    for finding in findings:
        say = listener.say if finding.severity == "note" else listener.warn
        examples = "".join(f"\n  {example}" for example in finding.examples[:3]) if finding.severity == "error" else ""
        say(finding.message + examples)


def say_refused(features: Features, total: int, listener: Listener) -> None:
    """Name images that cannot be read; refuse to go on where none can."""
    if not features.refused:
        return
    if not len(features.kept):
        raise DataError(f"None of the {total} images can be read. The first: {features.refused[0]}")
    shown = "\n".join(f"  {error}" for error in features.refused[:5])
    more = f"\n  and {len(features.refused) - 5} more, all listed in the run" if len(features.refused) > 5 else ""
    listener.warn(f"{len(features.refused)} of {total} images cannot be read and are left out:\n{shown}{more}")


def _cross_validate(
    values: npt.NDArray[np.float32], dataset: Dataset, groups: npt.NDArray[Any] | None, settings: FitSettings, listener: Listener
) -> Evaluation:  # fmt: skip
    """Nested cross-validation over the training part: in every fold everything is chosen anew from the other folds alone."""
    listener.stage(f"Cross-validating, {settings.folds} folds")
    train = dataset.part("train")
    values, targets = values[train], dataset.targets[train]
    groups = None if groups is None else groups[train]
    probabilities = np.zeros((len(train), len(dataset.classes)))
    parts = folds(targets, count=settings.folds, groups=groups, seed=settings.seed)
    for done, held in enumerate(parts):
        listener.progress(done, len(parts))
        rest = np.setdiff1d(np.arange(len(train)), held)
        fold = TransferClassifier.of(settings)
        if fold.begins_with_probe:
            fold.fit_features(values[rest], targets[rest], groups=None if groups is None else groups[rest])
        if settings.fine_tuning is None:
            probabilities[held] = fold.choice_.estimator.predict_proba(values[held])
            continue
        fold.fine_tune(
            taken(dataset.images, train[rest]), targets[rest], groups=None if groups is None else groups[rest], values=values[rest],
            keeping=Keeping(processes=Processes.from_environment()), listener=_Named(listener, f"fold {done + 1} of {len(parts)}: "),
        )  # fmt: skip
        probabilities[held] = fold.predict_proba(taken(dataset.images, train[held]))
    listener.progress(len(parts), len(parts))
    tested = np.sort(np.concatenate(parts))  # classes of a single image are never tested
    return evaluate(probabilities[tested], targets[tested], dataset.classes)


class _Named(Listener):
    """Tells another listener what stages are a part of."""

    def __init__(self, listener: Listener, name: str) -> None:
        self._listener, self._name = listener, name

    def stage(self, name: str) -> None:
        self._listener.stage(self._name + name)

    def progress(self, done: int, total: int) -> None:
        self._listener.progress(done, total)

    def detail(self, text: str) -> None:
        self._listener.detail(text)

    def warn(self, message: str) -> None:
        self._listener.warn(self._name + message)
