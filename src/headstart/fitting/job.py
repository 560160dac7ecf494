"""`fit`: read, split, extract, choose the head, test once, write the run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headstart import locations
from headstart.bundle import check_target, write_run
from headstart.classifier import TransferClassifier
from headstart.datasets import Dataset, read_dataset
from headstart.errors import DataError, ImageError, ParameterError
from headstart.evaluate import Evaluation, evaluate
from headstart.features import Features
from headstart.fitting.contents import head_in_words, run_contents
from headstart.fitting.settings import FitSettings, Shard
from headstart.progress import Listener
from headstart.splits import folds, hold_out
from headstart.strategy import Choice, choose_head


@dataclass(frozen=True, eq=False, kw_only=True)
class FitResult:
    """What came of a fit.

    Attributes:
        run: the run folder, or None when none was asked for.
        dataset: what was read, with its final parts (``train`` or ``test`` for every image).
        held_out: a sentence on where the test part came from.
        classifier: the fitted classifier.
        test: the evaluation on the test part.
        cross_validation: the evaluation over the folds of the training part, if asked for.
        refused: images that could not be read, with their reasons.
        seconds: time by stage.
    """

    run: Path | None
    dataset: Dataset
    held_out: str
    classifier: TransferClassifier
    test: Evaluation
    cross_validation: Evaluation | None
    refused: tuple[ImageError, ...]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def choice(self) -> Choice:
        """The head and the evidence for it."""
        return self.classifier.choice_

    @property
    def head(self) -> str:
        """The chosen head in words."""
        return head_in_words(self)


@dataclass(frozen=True)
class ShardResult:
    """What came of one shard: how many images it had, how many were computed now, and the store that now has them."""

    images: int
    computed: int
    refused: tuple[ImageError, ...]
    store: Path


def _read(data: str | Path | Dataset, settings: FitSettings) -> Dataset:
    if isinstance(data, Dataset):
        return data
    columns = settings.columns or {}
    return read_dataset(
        data, test=settings.test, group_from=settings.group_from, path_column=columns.get("path"), label_column=columns.get("label"),
        split_column=columns.get("split"), group_column=columns.get("group"),
    )  # fmt: skip


def split(dataset: Dataset, settings: FitSettings) -> tuple[Dataset, str]:
    """Give every image the part ``train`` or ``test``, and say where the test part came from.

    A ``val`` part is the test part where there is no other (nothing is chosen on it: choices are made by cross-validation inside the
    training part); beside a test part it joins the training images.

    Raises:
        DataError: a part is empty, or a class has no training image.
    """
    parts = dataset.parts.copy().astype("<U5")
    if (parts == "test").any():
        how = "the data's own test part"
        if (parts == "val").any():
            how += "; the validation part is used for training, since choices are made by cross-validation"
        parts[parts != "test"] = "train"
    elif (parts == "val").any():
        how = "the data's validation part: nothing was chosen on it"
        parts[:] = np.where(parts == "val", "test", "train")
    else:
        train, test = hold_out(dataset.targets, share=settings.test_share, groups=dataset.groups, seed=settings.seed)
        parts[train], parts[test] = "train", "test"
        grouped = " by group" if dataset.groups is not None else ""
        how = f"{len(test)} images held out{grouped}, stratified by class, seed {settings.seed}"
    return replace(dataset, parts=parts), how


def _check_parts(dataset: Dataset) -> None:
    train = dataset.counts("train")
    if not sum(train.values()):
        raise DataError(f"{dataset.source}: no training images are left. Put them into class folders below {dataset.source}/train.")
    if not len(dataset.part("test")):
        raise DataError(f"{dataset.source}: no test images: the data are too few to hold any out. Add images, or give --test DIR.")
    lacking = [name for name, count in train.items() if not count]
    if lacking:
        raise DataError(
            f"{dataset.source}: no training image of {', '.join(lacking[:5])}: such a class cannot be learned. Add some, or remove it."
        )


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
    features = settings.classifier().extract(mine.images, progress=listener.progress, warn=listener.warn, announce=listener.say)
    cache = locations.cache_folder(None if settings.cache == "auto" else settings.cache)
    return ShardResult(len(mine), features.computed, features.refused, locations.feature_store_file(cache))


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
    dataset, held_out = split(_read(data, settings), settings)
    _check_parts(dataset)
    for note in dataset.notes:
        listener.say(note)
    seconds = {"reading": time.perf_counter() - started}

    listener.stage("Extracting features")
    classifier = settings.classifier()
    features = classifier.extract(dataset.images, progress=listener.progress, warn=listener.warn, announce=listener.say)
    readable = dataset.take(features.kept)
    _say_refused(features, len(dataset), listener)
    _check_parts(readable)

    train, test = readable.part("train"), readable.part("test")
    groups = None if readable.groups is None else readable.groups[train]
    listener.stage("Choosing the head")
    classifier.fit_features(
        features.values[train], readable.targets[train], groups=groups, refused=features.refused, progress=listener.progress
    )
    seconds |= {"features": classifier.seconds_["features"], "head": classifier.seconds_["head"]}

    lap = time.perf_counter()
    listener.stage("Testing")
    probabilities = classifier.choice_.estimator.predict_proba(features.values[test])
    evaluation = evaluate(probabilities, readable.targets[test], readable.classes)
    crossed = _cross_validate(features.values[train], readable.take(train), classifier, settings, listener) if settings.folds else None
    seconds["testing"] = time.perf_counter() - lap

    result = FitResult(
        run=None if out is None else Path(out), dataset=readable, held_out=held_out, classifier=classifier, test=evaluation,
        cross_validation=crossed, refused=features.refused, seconds=seconds,
    )  # fmt: skip
    if out is not None:
        listener.stage("Writing the run")
        lap = time.perf_counter()
        write_run(Path(out), run_contents(result, features.values, settings=settings, command=command))
        seconds["writing"] = time.perf_counter() - lap
    seconds["total"] = time.perf_counter() - started
    return result


def _say_refused(features: Features, total: int, listener: Listener) -> None:
    if not features.refused:
        return
    if not len(features.kept):
        raise DataError(f"None of the {total} images can be read. The first: {features.refused[0]}")
    shown = "\n".join(f"  {error}" for error in features.refused[:5])
    more = f"\n  and {len(features.refused) - 5} more, all listed in the run" if len(features.refused) > 5 else ""
    listener.warn(f"{len(features.refused)} of {total} images cannot be read and are left out:\n{shown}{more}")


def _cross_validate(
    values: npt.NDArray[np.float32], dataset: Dataset, classifier: TransferClassifier, settings: FitSettings, listener: Listener
) -> Evaluation:
    """Nested cross-validation: in every fold layers, head and hyperparameters are chosen anew from the other folds alone."""
    listener.stage(f"Cross-validating, {settings.folds} folds")
    probabilities = np.zeros((len(dataset), len(dataset.classes)))
    parts = folds(dataset.targets, count=settings.folds, groups=dataset.groups, seed=settings.seed)
    for done, held in enumerate(parts):
        listener.progress(done, len(parts))
        rest = np.setdiff1d(np.arange(len(dataset)), held)
        choice = choose_head(
            values[rest], dataset.targets[rest], layers=classifier.extractor_.layers, head=settings.head,
            class_weight=settings.class_weight, groups=None if dataset.groups is None else dataset.groups[rest], seed=settings.seed,
        )  # fmt: skip
        columns = np.arange(len(dataset.classes)) if dataset.multilabel else choice.estimator.classes_
        probabilities[np.ix_(held, columns)] = choice.estimator.predict_proba(values[held])
    listener.progress(len(parts), len(parts))
    return evaluate(probabilities, dataset.targets, dataset.classes)
