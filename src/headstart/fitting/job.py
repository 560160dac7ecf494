"""`fit`: read, split, extract, choose the head, test once, write the run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from headstart import locations
from headstart.audit import Finding, check_known
from headstart.bundle import check_target, is_run, write_run
from headstart.classifier import TransferClassifier
from headstart.datasets import Dataset, read_dataset
from headstart.errors import DataError, ParameterError, StoreError
from headstart.evaluate import Evaluation, evaluate
from headstart.features import Features
from headstart.fitting.contents import run_contents
from headstart.fitting.parts import kept_together, split
from headstart.fitting.result import FitResult, ShardResult
from headstart.fitting.settings import FitSettings, Shard
from headstart.progress import Listener
from headstart.splits import folds
from headstart.strategy import choose_head


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
    dataset = _read(data, settings)
    mine = dataset.take(np.arange(shard.index - 1, len(dataset), shard.count))
    if not len(mine):
        raise DataError(f"Shard {shard.index}/{shard.count} has no image: there are only {len(dataset)}.")
    listener.stage(f"Extracting features, shard {shard.index}/{shard.count}")
    features = settings.classifier().extract(mine.images, progress=listener.progress, warn=_not_kept, announce=listener.say)
    cache = locations.cache_folder(None if settings.cache == "auto" else settings.cache)
    return ShardResult(len(mine), features.computed, features.refused, locations.feature_store_file(cache))


def _not_kept(message: str) -> NoReturn:
    """A shard is there to be kept."""
    raise StoreError(f"{message.removesuffix(' Going on without keeping features.')} A shard that is not kept is of no use.")


def fit(
    data: str | Path | Dataset, *, out: str | Path | None = None, settings: FitSettings | None = None, listener: Listener | None = None,
    command: str = "",
) -> FitResult:  # fmt: skip
    """Learn a classifier from labelled images, test it on images it has not seen, and write a run folder.

    Args:
        data: a folder, a list file or a named public set, as `read_dataset` takes it; or a `Dataset`.
        out: the run folder to write; None writes none.
        settings: what is asked for.
        listener: is told how it goes.
        command: written into the run, for repeating it.

    Raises:
        DataError, ParameterError, BackboneError, RunError: what the user gave cannot be used; the message says what to do.
    """
    settings, listener = settings or FitSettings(), listener or Listener()
    if out is not None:
        check_target(Path(out))
    started = time.perf_counter()
    listener.stage("Reading the data")
    dataset = _read(data, settings)
    _check_beforehand(dataset, settings)
    for note in dataset.notes:
        listener.say(note)
    seconds = {"reading": time.perf_counter() - started}

    listener.stage(f"Extracting features of {len(dataset)} images")
    classifier = settings.classifier()
    features = classifier.extract(dataset.images, progress=listener.progress, warn=listener.warn, announce=listener.say)
    _say_refused(features, len(dataset), listener)
    readable, held_out = split(dataset.take(features.kept), settings, digests=features.digests)
    findings = check_known(readable, features.digests)
    _say_findings(findings, listener)
    groups = kept_together(readable.groups, features.digests)

    listener.stage("Choosing the head")
    _learn(classifier, features, readable, groups, listener)
    seconds |= classifier.seconds_

    lap = time.perf_counter()
    listener.stage("Testing")
    test = readable.part("test")
    evaluation = evaluate(classifier.choice_.estimator.predict_proba(features.values[test]), readable.targets[test], readable.classes)
    crossed = _cross_validate(features.values, readable, groups, classifier, settings, listener) if settings.folds else None
    seconds["testing"] = time.perf_counter() - lap

    result = FitResult(
        run=None if out is None else Path(out), dataset=readable, held_out=held_out, classifier=classifier, test=evaluation,
        cross_validation=crossed, refused=features.refused, findings=findings, seconds=seconds,
    )  # fmt: skip
    if result.run is not None:
        listener.stage("Writing the run")
        lap = time.perf_counter()
        write_run(result.run, run_contents(result, features.values, settings=settings, command=command))
        seconds["writing"] = time.perf_counter() - lap
    seconds["total"] = time.perf_counter() - started
    return result


def _learn(
    classifier: TransferClassifier, features: Features, dataset: Dataset, groups: npt.NDArray[Any] | None, listener: Listener
) -> None:
    train = dataset.part("train")
    classifier.fit_features(
        features.values[train],
        dataset.targets[train],
        groups=None if groups is None else groups[train],
        refused=features.refused,
        progress=listener.progress,
    )


def _check_beforehand(dataset: Dataset, settings: FitSettings) -> None:
    """Say what is wrong with the parts before any work is done."""
    parted, _ = split(dataset, settings)
    if settings.folds:
        train = parted.part("train")
        folds(parted.targets[train], count=settings.folds, groups=None if parted.groups is None else parted.groups[train])


def _say_findings(findings: tuple[Finding, ...], listener: Listener) -> None:
    for finding in findings:
        say = listener.say if finding.severity == "note" else listener.warn
        examples = "".join(f"\n  {example}" for example in finding.examples[:3]) if finding.severity == "error" else ""
        say(finding.message + examples)


def _say_refused(features: Features, total: int, listener: Listener) -> None:
    if not features.refused:
        return
    if not len(features.kept):
        raise DataError(f"None of the {total} images can be read. The first: {features.refused[0]}")
    shown = "\n".join(f"  {error}" for error in features.refused[:5])
    more = f"\n  and {len(features.refused) - 5} more, all listed in the run" if len(features.refused) > 5 else ""
    listener.warn(f"{len(features.refused)} of {total} images cannot be read and are left out:\n{shown}{more}")


def _cross_validate(
    values: npt.NDArray[np.float32], dataset: Dataset, groups: npt.NDArray[Any] | None, classifier: TransferClassifier,
    settings: FitSettings, listener: Listener,
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
        choice = choose_head(
            values[rest], targets[rest], layers=classifier.extractor_.layers, head=settings.head, class_weight=settings.class_weight,
            groups=None if groups is None else groups[rest], seed=settings.seed,
        )  # fmt: skip
        probabilities[held] = choice.estimator.predict_proba(values[held])  # every class is in the training images of every fold
    listener.progress(len(parts), len(parts))
    tested = np.sort(np.concatenate(parts))  # classes of a single image are never tested
    return evaluate(probabilities[tested], targets[tested], dataset.classes)
