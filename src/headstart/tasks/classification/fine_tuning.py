"""Training the backbone further: the job, the training, what is shipped of it, and the training on all images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.backbones.beside import beside, columns
from headstart.data.split import hold_out
from headstart.features import BackboneExtractor
from headstart.features.prepared import Prepared, trained, trained_folder
from headstart.features.table import FeatureTable, taken
from headstart.heads.labels import class_weights, encode
from headstart.matrix import columns_of
from headstart.selection import Candidate, Choice
from headstart.selection.mean import MeanHead
from headstart.settings import FineTuning
from headstart.tasks.classification.shipping import MEAN, PROBE, TRAINED, Contender, Rival, best_of, contenders, no_rival, reason_of
from headstart.tasks.task import Learned, LearningContext
from headstart.text import plural
from headstart.training.job import Pretrained, Resumable, Rows, TrainingJob
from headstart.training.schedule import FURTHER_LR, Schedule, further_epochs

if TYPE_CHECKING:
    from headstart.backbones import Backbone
    from headstart.training.history import History
    from headstart.training.tuning import FineTuned, Trained

Learning = tuple[Choice, "FineTuned", Prepared]
"""The model, what came of the training, and what gives the features that the model takes."""


def job_of(table: FeatureTable, context: LearningContext) -> TrainingJob:
    """What is to be trained on the training rows of a table, some of which are held out to choose by."""
    from headstart.training.labels import LabelTraining, make_loss

    targets, groups, weight = encode(table.targets[table.train]), table.groups_among(table.train), context.settings.class_weight

    def task(plan: FineTuning, every: Rows, rows: Rows) -> LabelTraining:
        labels = table.targets[every]
        indicators = labels.astype(bool) if targets.link.independent else labels[:, None] == targets.classes
        weights = None if weight is None else class_weights(targets.take(rows), weight).astype(np.float32)
        return LabelTraining(
            indicators=indicators.astype(np.float32), classes=targets.classes,
            loss=make_loss(plan, link=targets.link, classes=indicators.shape[1], class_weights=weights),
            groups=None if groups is None else np.unique(groups, return_inverse=True)[1], label_dtype=targets.dtype,
        )  # fmt: skip

    return job_for(table, context, task, strata=targets.codes)


def job_for(
    table: FeatureTable, context: LearningContext, task: Callable[[FineTuning, Rows, Rows], Any], *, strata: npt.NDArray[Any]
) -> TrainingJob:  # fmt: skip
    """The job of a training task, made of the plan, of the rows of the table that the job has, and of those among these to learn from.

    `strata` (n,) or (n, k) of the training rows say by what images are held out evenly.
    """
    settings, train, test = context.settings, table.train, table.test
    plan, resumable = settings.fine_tuning.for_images(len(train)), context.resumable or Resumable()
    every, rows, held = train, np.arange(len(train)), np.empty(0, dtype=np.int64)
    if plan.validation_share:
        rows, held = hold_out(strata, share=plan.validation_share, groups=table.groups_among(train), seed=settings.seed)
    elif len(test):
        every, held = np.concatenate([train, test]), np.arange(len(train), len(train) + len(test))
    return TrainingJob(
        **vars(resumable), plan=plan, task=task(plan, every, rows), images=taken(table.dataset.inputs, every),
        train=rows.astype(np.int64), validation=held.astype(np.int64), select_best=bool(plan.validation_share), seed=settings.seed,
        listener=context.listener, stored=np.arange(len(train), dtype=np.int64) if plan.chooses and plan.refit else None,
    )  # fmt: skip


def pretrained(table: FeatureTable, context: LearningContext, job: TrainingJob) -> Pretrained:
    """What the training of a job starts from."""
    extractor, settings = context.prepared.extractor, context.prepared.settings
    backbone = extractor.backbone
    start = 0 if job.plan.every_stage else backbone.last.start

    def start_features(size: int) -> npt.NDArray[np.float32] | None:
        """The frozen features of the training rows at this image size."""
        if job.plan.pixels != "backbone" or (size != backbone.record.input_size and not backbone.any_size):
            return None
        if size == extractor.preprocessing.size and table.values.shape[1] == backbone.dim:
            return columns_of(table.values, table.train[job.train], start, backbone.last.stop)
        resized = BackboneExtractor(backbone, preprocessing=replace(extractor.preprocessing, size=size), engine=settings.engine)
        with context.prepared.store() as store:
            features = resized(taken(job.images, job.train), store=store, progress=job.listener.progress, warn=job.listener.warn)
        return features.complete("a training")[:, start : backbone.last.stop]

    return Pretrained(
        backbone=backbone, preprocessing=extractor.preprocessing, weights=settings.weights, engine=settings.engine, features=start_features
    )


def learn_further(table: FeatureTable, context: LearningContext, probe: Learned | None) -> Learning:
    """Train; where the plan chooses, ship what the validation images prefer, trained again on all training images.

    `probe` is a model on frozen features of the same rows, by the network that is trained or by others.
    """
    from headstart.training.tuning import place_of, train

    with place_of(replace(job_of(table, context), deadline=context.until)) as job:
        if probe is None or not job.plan.chooses:
            first = train(job, pretrained(table, context, job))
            with trained_folder() as folder:
                return _trained(first.stored(folder), job, table, context, None if probe is None else probe.choice, folder)
        rival = _rival(job, context, probe)
        if wrong := no_rival(rival.held, encode(table.targets[table.train]).take(job.validation)):
            return _left_alone(job, wrong, table, context, probe)
        job = _taught(replace(job, deadline=deadline_of(job, context)), rival.teaching)
        first = train(job, pretrained(table, context, job))
        return _shipped(first, rival, table, context, probe)


def _left_alone(job: TrainingJob, reason: str, table: FeatureTable, context: LearningContext, frozen: Learned) -> Learning:
    """The probe, where a training could not be shown to be better."""
    from headstart.training.tuning import not_trained

    job.listener.say(f"Nothing was trained: {reason}.")
    probe, extractor = frozen.choice, frozen.prepared.extractor
    tuned = not_trained(job, pretrained(table, context, job), probe.estimator, reason=f"Nothing was trained: {reason}.")
    choice = replace(probe, reason=f"the training was asked for, and not begun: {reason}")
    return choice, replace(tuned, backbone=extractor.backbone, preprocessing=extractor.preprocessing), frozen.prepared


def _rival(job: TrainingJob, context: LearningContext, probe: Learned) -> Rival:
    table, settings = probe.table, context.settings
    rows, held = table.train[job.train], table.train[job.validation]
    with job.processes.first_on_machine():
        return Rival.of(probe.choice, table, rows, held, class_weight=settings.class_weight, seed=settings.seed)


def _trained(
    tuned: FineTuned, job: TrainingJob, table: FeatureTable, context: LearningContext, probe: Choice | None, folder: Path
) -> Learning:  # fmt: skip
    """The trained network, without a choice."""
    targets = encode(table.targets[table.train])
    row, out_of_sample = described(tuned.trained, tuned.history, job), np.full(targets.indicators.shape, np.nan)
    if tuned.predictions is not None and job.select_best:
        out_of_sample[job.validation] = tuned.predictions
        row = Contender(TRAINED, tuned.predictions, targets.take(job.validation)).candidate(row, chosen=True)
    earlier = () if probe is None else tuple(replace(candidate, chosen=False) for candidate in probe.evidence)
    choice = Choice(estimator=tuned.head, evidence=(row, *earlier), out_of_sample=out_of_sample, reason=reason_of_training(tuned, job))
    return choice, tuned, trained(context.prepared.settings, tuned.backbone, tuned.preprocessing, folder)


def _shipped(first: Trained, rival: Rival, table: FeatureTable, context: LearningContext, frozen: Learned) -> Learning:
    """Of the probe, the trained network and the mean of both that which the validation images prefer."""
    from headstart.training.tuning import train

    job, targets = first.job, encode(table.targets[table.train])
    probe, extractor = frozen.choice, frozen.prepared.extractor
    found = contenders(
        rival.held, first.validation if first.learned else None, targets.take(job.validation).weighted(context.settings.class_weight),
        mean=first.prepared.preprocessing == extractor.preprocessing and job.plan.pooling == "avg",
    )  # fmt: skip
    shipped = found[str(job.processes.agreed(Path(best_of(found).name)))]
    choice = replace(probe, evidence=evidence_of(found, shipped, probe, first), reason=reason_of(found, shipped))
    if shipped.name == PROBE:
        return choice, first.given_up(extractor.backbone, extractor.preprocessing, probe.estimator), frozen.prepared
    further = again(first, context) if job.plan.refit else None
    assert probe.out_of_sample is not None
    teaching = probe.estimator.link_.probabilities(probe.out_of_sample)
    last = first if further is None else train(_taught(further, teaching), first.start, prepared=first.prepared)
    with trained_folder() as folder:
        tuned = last.stored(folder, temperature=found[TRAINED].temperature)
        if shipped.name == MEAN:
            tuned = _with_probe(tuned, probe, extractor.backbone, temperature=shipped.temperature, folder=folder)
        tuned = replace(tuned, history=history_of(first, last), shipped=shipped.name)
        prepared = trained(context.prepared.settings, tuned.backbone, tuned.preprocessing, folder)
    out_of_sample = np.full(targets.indicators.shape, np.nan)
    out_of_sample[job.validation] = shipped.logits
    return replace(choice, estimator=tuned.head, out_of_sample=out_of_sample), tuned, prepared


def _with_probe(tuned: FineTuned, probe: Choice, frozen: Backbone, *, temperature: float, folder: Path) -> FineTuned:
    """The mean of the probe and the trained network, on both networks beside each other."""
    backbone = beside(frozen, tuned.backbone, cache=folder)
    heads = (probe.estimator, tuned.head)
    head = MeanHead(heads=heads, columns=columns(frozen, tuned.backbone), n_features_in_=backbone.dim, temperature=temperature)
    return replace(tuned, backbone=backbone, head=head, alone=tuned.backbone)


def _taught(job: TrainingJob, teaching: npt.NDArray[np.float64]) -> TrainingJob:
    """The job with the probe as a teacher: `teaching` are its probabilities (n, k) of the images that are learned from."""
    from headstart.training.labels import LabelTraining

    assert isinstance(job.task, LabelTraining)
    return replace(job, task=job.task.taught(teaching, job.train, share=job.plan.teacher))


def deadline_of(job: TrainingJob, context: LearningContext) -> float | None:
    """Of the first training, where a second one follows it: the time is shared by the images of both."""
    if context.until is None or not job.plan.refit:
        return context.until
    now, planned = time.perf_counter(), Schedule.of(job.plan, len(job.train)).epochs
    first, further = planned * len(job.train), further_epochs(planned) * (len(job.train) + len(job.validation))
    return now + (context.until - now) * first / (first + further)


def again(first: Trained, context: LearningContext) -> TrainingJob | None:
    """The training of the network that was chosen goes on, with all training images; None where there is no time for it."""
    job, epochs = first.job, further_epochs(first.history.best or first.epochs)
    if context.until is not None:
        each = first.history.seconds / max(len(first.history.epochs) * len(job.train), 1)
        if time.perf_counter() + each * epochs * (len(job.train) + len(job.validation)) > context.until:
            job.listener.say("There is no time for training on all training images.")
            return None
    assert job.checkpoints is not None
    rows, checkpoints = np.arange(len(job.train) + len(job.validation), dtype=np.int64), job.checkpoints.again
    job.listener.say(f"Training further, on all {len(rows)} training images, for {plural(epochs, 'epoch')}.")
    return replace(
        job, plan=replace(job.plan, epochs=epochs, steps=None, lr=FURTHER_LR * job.plan.highest_lr), train=rows, validation=rows[:0],
        select_best=False, deadline=context.until, checkpoints=checkpoints, resume=job.resume and checkpoints.has_checkpoint,
        events=None if job.events is None else job.events / "again",
    )  # fmt: skip


def history_of(first: Trained, last: Trained) -> History:
    """That of the first training, by which was chosen; with a sentence on the second."""
    if last is first:
        return first.history
    epochs, images = plural(len(last.history.epochs), "epoch"), len(last.job.train)
    return replace(first.history, stopped=f"{first.history.stopped} Then trained on all {images} training images for {epochs}.")


def evidence_of(found: Mapping[str, Contender], shipped: Contender, probe: Choice, first: Trained) -> tuple[Candidate, ...]:
    """What was compared, the shipped model first, and how the probe was chosen."""
    row = described(first.prepared.trained, first.history, first.job)
    winner = next(candidate for candidate in probe.evidence if candidate.chosen)
    rows = {TRAINED: row, MEAN: replace(row, view=f"the frozen backbone and {row.view}", head=f"mean of {winner.head} and {row.head}")}
    compared = [contender.candidate(rows[name], chosen=contender is shipped) for name, contender in found.items() if name in rows]
    compared.sort(key=lambda candidate: (not candidate.chosen, candidate.log_loss))
    earlier = [replace(candidate, chosen=candidate.chosen and shipped.name == PROBE) for candidate in probe.evidence]
    return tuple(sorted([*compared, *earlier], key=lambda candidate: not candidate.chosen))


def described(stages: tuple[str, ...], history: History, job: TrainingJob) -> Candidate:
    """The trained network as evidence, without scores."""
    plan, nan = job.plan, float("nan")
    words = f"dense {'-'.join(map(str, plan.head_layers))}" if plan.head_layers else "linear"
    return Candidate(
        view=f"{', '.join(stages)} trained" if stages else "the frozen backbone", layers=("all",) if plan.every_stage else ("last",),
        head=f"{words} head", hyperparameters={"epoch": float(history.best)} if history.best else {},
        images=len(job.validation) * job.select_best, accuracy=nan, accuracy_error=nan, log_loss=nan, log_loss_error=nan,
        seconds=history.seconds, chosen=True,
    )  # fmt: skip


def reason_of_training(tuned: FineTuned, job: TrainingJob) -> str:
    """Why a network that was trained without a choice is the model, in a sentence."""
    plan, epochs, history, images = job.plan, len(tuned.history.epochs), tuned.history, len(job.validation)
    if not job.select_best:
        return f"the training was asked for, and its last epoch ({epochs}) is kept"
    if plan.average or plan.keep == "last":
        return f"the training was asked for, and its last {'epochs are averaged' if plan.average else 'epoch is kept'}"
    if history.best is None:
        return f"the training was asked for, but none of its {epochs} epochs was better on {images} validation images"
    return f"the training was asked for; epoch {history.best} of {epochs} was best on {images} validation images"
