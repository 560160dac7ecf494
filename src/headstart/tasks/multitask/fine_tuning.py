"""Training one backbone further for several columns of labels: the job, the training, and which model each column gets.

For every column the head on the frozen backbone, the trained network and the mean of both are compared on the validation images that have
a label in it, as for a classification; so no column has to take a network that is worse for it. Where columns differ in what is better, the
run has both networks beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.backbones.beside import beside, columns
from headstart.data import LabelColumns
from headstart.errors import ParameterError
from headstart.features.prepared import Prepared, trained, trained_folder
from headstart.features.table import FeatureTable
from headstart.heads.columns import ColumnHeads, Slices
from headstart.heads.labels import EncodedLabels, class_weights, encode
from headstart.selection import Choice
from headstart.selection.mean import MeanHead
from headstart.tasks.classification.fine_tuning import again, deadline_of, described, evidence_of, history_of, job_for, pretrained
from headstart.tasks.classification.shipping import MEAN, PROBE, TRAINED, Contender, Rival, best_of, contenders, no_rival, reason_of
from headstart.tasks.multitask.tables import column_table
from headstart.tasks.task import Learned, LearningContext
from headstart.training.job import TrainingJob

if TYPE_CHECKING:
    from headstart.backbones import Backbone
    from headstart.training.tuning import FineTuned, Trained


@dataclass(frozen=True, eq=False)
class JointTraining:
    """What came of a training: the model of each column with the evidence for it, the network, and what gives its features."""

    choices: Mapping[str, Choice]
    shipped: Mapping[str, str]  # by column ``probe``, ``trained`` or ``mean``
    tuned: FineTuned
    prepared: Prepared


@dataclass(frozen=True, eq=False)
class _Held:
    """One column among the images of a job: positions in the table of the column, and the labels of its training images."""

    table: FeatureTable
    rows: npt.NDArray[np.int64]  # of its table, those that are learned from
    held: npt.NDArray[np.int64]  # and those to choose by
    positions: npt.NDArray[np.int64]  # of the latter among the validation images
    targets: EncodedLabels  # of the training rows of its table
    among: npt.NDArray[np.int64]  # the held rows among these

    @classmethod
    def of(cls, name: str, table: FeatureTable, job: TrainingJob) -> _Held:
        targets = table.dataset.targets
        assert isinstance(targets, LabelColumns)
        known, part = targets.rows(name), column_table(table, name)
        learned, validation = table.train[job.train], table.train[job.validation]
        there = np.isin(validation, known)
        held = np.searchsorted(known, validation[there])
        return cls(
            part, np.searchsorted(known, learned[np.isin(learned, known)]), held, np.flatnonzero(there), encode(part.targets[part.train]),
            np.searchsorted(part.train, held),
        )  # fmt: skip

    @property
    def labels(self) -> EncodedLabels:
        """Of the validation images that have one."""
        return self.targets.take(self.among)


def job_of(table: FeatureTable, context: LearningContext) -> TrainingJob:
    """What is to be trained on the training rows of a table, some of which are held out to choose by."""
    if context.settings.fine_tuning.teacher:
        raise ParameterError("A teacher is for one column of labels: leave it out, or set it to 0.")
    strata = table.dataset.targets.strata[table.train]
    return job_for(table, context, lambda plan, every, rows: _task(table, every, rows, plan, context), strata=strata)


def _task(table: FeatureTable, every: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], plan: Any, context: LearningContext) -> Any:
    """The columns of the images of a job, which are the rows `every` of a table; `rows` of these are learned from."""
    from headstart.training.columns import ColumnsTraining
    from headstart.training.labels import LabelTraining, make_loss

    targets, groups = table.dataset.targets, table.groups_among(table.train)
    assert isinstance(targets, LabelColumns)
    known, weight, found = targets.known[every], context.settings.class_weight, {}
    for place, (name, column) in enumerate(targets.columns.items()):
        assert column.link is not None
        array, numbers = column.array[every], np.arange(len(column.classes))
        indicators = (array if column.link.independent else array[:, None] == numbers) & known[:, place, None]
        learned = encode(array[rows[known[rows, place]]])
        weights = None if weight is None else class_weights(learned, weight).astype(np.float32)
        found[name] = LabelTraining(
            indicators=indicators.astype(np.float32), classes=numbers, label_dtype=array.dtype,
            loss=make_loss(plan, link=column.link, classes=len(numbers), class_weights=weights),
            groups=None if groups is None else np.unique(groups, return_inverse=True)[1],
        )  # fmt: skip
    return ColumnsTraining(columns=found, known=known, rows=rows.astype(np.int64))


def learn_further(table: FeatureTable, context: LearningContext, probes: Mapping[str, Learned]) -> JointTraining:
    """Train; where the plan chooses, each column gets what its validation images prefer, trained again on all training images.

    `probes` are the models on frozen features, by column; there are none where a training starts from a random head.
    """
    from headstart.training.tuning import not_trained, place_of, train

    with place_of(replace(job_of(table, context), deadline=context.until)) as job:
        if not probes or not job.plan.chooses:
            first = train(job, pretrained(table, context, job))
            return _trained(first, table, context, probes)
        held = {name: _Held.of(name, table, job) for name in probes}
        with job.processes.first_on_machine():
            rivals = {name: _rival(probes[name].choice, one, context) for name, one in held.items()}
        wrong = {name: no_rival(rivals[name].held, one.labels) for name, one in held.items() if len(one.held)}
        if len(wrong) == len(held) and all(wrong.values()):
            said = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
            job.listener.say(f"Nothing was trained: {said}.")
            begun = "the training was asked for, and not begun: "
            choices = {name: replace(one.choice, reason=begun + wrong[name]) for name, one in probes.items()}
            tuned = not_trained(job, pretrained(table, context, job), _heads_of(choices), reason=f"Nothing was trained: {said}.")
            return _frozen(tuned, choices, context)
        first = train(replace(job, deadline=deadline_of(job, context)), pretrained(table, context, job))
        return _shipped(first, held, rivals, context, probes)


def _rival(probe: Choice, held: _Held, context: LearningContext) -> Rival:
    settings = context.settings
    return Rival.of(probe, held.table, held.rows, held.held, class_weight=settings.class_weight, seed=settings.seed)


def _heads_of(choices: Mapping[str, Choice]) -> ColumnHeads:
    return ColumnHeads({name: choice.estimator for name, choice in choices.items()})


def _frozen(tuned: FineTuned, choices: Mapping[str, Choice], context: LearningContext) -> JointTraining:
    """The heads on the frozen backbone."""
    return JointTraining(choices, dict.fromkeys(choices, PROBE), tuned, context.prepared)


def _trained(first: Trained, table: FeatureTable, context: LearningContext, probes: Mapping[str, Learned]) -> JointTraining:
    """The trained network for all columns, without a choice."""
    with trained_folder() as folder:
        tuned = first.stored(folder)
        prepared = trained(context.prepared.settings, tuned.backbone, tuned.preprocessing, folder)
    row, choices, at = described(first.prepared.trained, tuned.history, first.job), {}, 0
    for name, head in tuned.head.heads.items():
        held = _Held.of(name, table, first.job) if first.job.select_best else None
        train = column_table(table, name).train
        out_of_sample = np.full((len(train), len(head.classes_)), np.nan)
        if held is not None and tuned.predictions is not None:
            out_of_sample[held.among] = tuned.predictions[held.positions, at : at + len(head.classes_)]
        at += len(head.classes_)
        earlier = tuple(replace(one, chosen=False) for one in probes[name].choice.evidence) if name in probes else ()
        reason = f"the training was asked for, for all columns together ({len(tuned.history.epochs)} epochs)"
        choices[name] = Choice(estimator=head, evidence=(row, *earlier), out_of_sample=out_of_sample, reason=reason)
    return JointTraining(choices, dict.fromkeys(choices, TRAINED), tuned, prepared)


def _shipped(
    first: Trained, held: Mapping[str, _Held], rivals: Mapping[str, Rival], context: LearningContext, probes: Mapping[str, Learned]
) -> JointTraining:  # fmt: skip
    """For each column the best of its probe, the trained network and the mean of both."""
    from headstart.training.tuning import train

    job, extractor = first.job, context.prepared.extractor
    both = first.prepared.preprocessing == extractor.preprocessing and job.plan.pooling == "avg"
    found, at = dict[str, Mapping[str, Contender]](), 0
    for name, one in held.items():
        part = slice(at, at := at + len(one.targets.classes))
        logits = None if first.validation is None or not first.learned else first.validation[one.positions, part]
        labels = one.labels.weighted(context.settings.class_weight)
        found[name] = contenders(rivals[name].held, logits, labels, mean=both) if len(one.held) else {}
    shipped = _chosen(found, both)
    shipped = dict(zip(held, str(job.processes.agreed(Path("+".join(shipped.values())))).split("+"), strict=True))
    choices = {
        name: probes[name].choice if shipped[name] == PROBE and not found[name] else replace(
            probes[name].choice, evidence=evidence_of(found[name], found[name][shipped[name]], probes[name].choice, first),
            reason=reason_of(found[name], found[name][shipped[name]]),
        )
        for name in held
    }  # fmt: skip
    if set(shipped.values()) == {PROBE}:
        return _frozen(first.given_up(extractor.backbone, extractor.preprocessing, _heads_of(choices)), choices, context)
    further = again(first, context) if job.plan.refit else None
    last = first if further is None else train(_for_all(further), first.start, prepared=first.prepared)
    with trained_folder() as folder:
        tuned = last.stored(folder)
        heads = {
            name: replace(head, temperature=found[name][TRAINED].temperature) if TRAINED in found[name] else head
            for name, head in tuned.head.heads.items()
        }
        backbone, made = tuned.backbone, ColumnHeads(heads)
        if set(shipped.values()) != {TRAINED}:
            backbone = beside(extractor.backbone, tuned.backbone, cache=folder)
            made = _beside(extractor.backbone, tuned.backbone, backbone, heads, probes, found, shipped)
        kinds = {*shipped.values()}
        tuned = replace(
            tuned, backbone=backbone, head=made, alone=None if backbone is tuned.backbone else tuned.backbone,
            history=history_of(first, last), shipped=kinds.pop() if len(kinds) == 1 else "several", facts=(*tuned.facts, _weights(last)),
        )  # fmt: skip
        prepared = trained(context.prepared.settings, backbone, tuned.preprocessing, folder)
    for name, one in held.items():
        out_of_sample = probes[name].choice.out_of_sample
        if shipped[name] != PROBE:
            out_of_sample = np.full(one.targets.indicators.shape, np.nan)
            out_of_sample[one.among] = found[name][shipped[name]].logits
        choices[name] = replace(choices[name], estimator=made.heads[name], out_of_sample=out_of_sample)
    return JointTraining(choices, shipped, tuned, prepared)


def _chosen(found: Mapping[str, Mapping[str, Contender]], both: bool) -> dict[str, str]:
    """The name of the best contender of each column; of a column without validation images the probe.

    Where the two networks cannot be in one run, that of all columns which has the lower criterion on average.
    """
    best = {name: best_of(one).name if one else PROBE for name, one in found.items()}
    if both or len({*best.values()}) == 1:
        return best
    able = [one for one in found.values() if TRAINED in one]
    gain = [np.log(one[PROBE].criterion / one[TRAINED].criterion) for one in able]
    return dict.fromkeys(found, TRAINED if len(able) == len(found) and float(np.mean(gain)) > 0 else PROBE)


def _for_all(job: TrainingJob) -> TrainingJob:
    """The job with columns that are scaled by all of its training images."""
    task: Any = job.task
    return replace(job, task=replace(task, rows=job.train))


def _beside(
    frozen: Backbone, network: Backbone, whole: Backbone, heads: Mapping[str, Any], probes: Mapping[str, Learned],
    found: Mapping[str, Mapping[str, Contender]], shipped: Mapping[str, str],
) -> ColumnHeads:  # fmt: skip
    """The heads of all columns on both networks beside each other."""
    slices: tuple[Slices, ...] = columns(frozen, network)
    made = {}
    for name, kind in shipped.items():
        both = (probes[name].choice.estimator, heads[name])
        chosen = {PROBE: (0,), TRAINED: (1,), MEAN: (0, 1)}[kind]
        made[name] = MeanHead(
            heads=tuple(both[place] for place in chosen), columns=tuple(slices[place] for place in chosen), n_features_in_=whole.dim,
            temperature=found[name][MEAN].temperature if kind == MEAN else 1.0,
        )  # fmt: skip
    return ColumnHeads(made, slices)


def _weights(last: Trained) -> str:
    """How much the loss of each column counted at the end, in a sentence."""
    variances = last.prepared.network.head.log_variances.detach().cpu().double().numpy()
    task: Any = last.job.task
    said = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(task.columns, np.exp(-variances), strict=True))
    return f"the losses of the columns were weighted by their uncertainty, which was learned: at the end {said}"
