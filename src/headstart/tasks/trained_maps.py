"""Training a backbone further together with a head on its maps, in the one loop; the frozen one is shipped where that is no better."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headstart.features.prepared import Prepared, trained, trained_folder
from headstart.features.stage_maps import StageMaps
from headstart.features.table import FeatureTable, taken
from headstart.selection import Choice
from headstart.settings import FineTuning
from headstart.tasks.stored_maps import MapRecipe, Rows
from headstart.tasks.task import Learned, LearningContext
from headstart.training.job import Pretrained, Resumable, TrainingJob, TrainingTask

if TYPE_CHECKING:
    from headstart.training.tuning import Trained

LR = 5e-4
EPOCHS = 10


@dataclass(frozen=True, eq=False)
class HeadOnMaps(ABC):
    """What a task says of its head on maps so that the backbone can be trained with it.

    A network is the head in training, with PyTorch; `rows` are those of the table.
    """

    table: FeatureTable
    context: LearningContext

    @property
    @abstractmethod
    def recipe(self) -> MapRecipe:
        """How a head is trained on stored maps."""

    @abstractmethod
    def fitted(self, rows: Rows, plan: FineTuning) -> Any:
        """A network that learned from the stored maps of these rows."""

    @abstractmethod
    def training(self, network: Any, plan: FineTuning, *, train: Rows, held: Rows) -> TrainingTask:
        """The training of a network with the backbone on the training rows: it learns from those at the places `train`, and those at the
        places `held` say which epoch is best.
        """

    @abstractmethod
    def tested(self, head: Any, maps: StageMaps, rows: Rows) -> Any:
        """What a head is worth on these rows, of which there are maps."""

    @abstractmethod
    def gain(self, after: Any, before: Any) -> float:
        """How much better the first of two results of `tested` is."""

    @abstractmethod
    def gain_told(self, after: Any, before: Any) -> str:
        """The same in words that follow 'changed the': ``IoU of an image by +1.2 ± 0.4 points``."""

    @abstractmethod
    def choice(self, head: Any, *, reason: str) -> Choice:
        """A head as the model of a fit."""

    def pays(self, after: Any, before: Any) -> bool:
        """Whether the trained backbone is to be shipped where some epoch was better than the beginning."""
        return True

    def finished(self, head: Any, tested: Any) -> tuple[Any, tuple[str, ...]]:
        """The head with what is chosen by its result on held-out images, and what to say of that."""
        return head, ()

    def plan(self, images: int) -> FineTuning:
        """How backbone and head are trained: as the settings say, and as measured to be good where they say nothing."""
        given: FineTuning = self.context.settings.fine_tuning
        plan, epochs = given.for_images(images), given.epochs or (None if given.steps is not None else EPOCHS)
        return self.recipe.augmented(replace(plan, lr=given.lr or LR, epochs=epochs, start="random", ship="trained", refit=False))

    @property
    def maps(self) -> StageMaps:
        """Those of the frozen backbone."""
        assert self.table.maps is not None
        return self.table.maps


def learn_further(kind: HeadOnMaps, probe: Learned) -> Learned:
    """Train on some of the training rows, from a head that learned from these; the others say which epoch is best, and whether any is.

    Nothing is chosen on the test rows.
    """
    from headstart.training.tuning import place_of, train

    began, table, context = time.perf_counter(), kind.table, kind.context
    plan, train_rows = kind.plan(len(table.train)), table.train
    rows, held = table.hold_out(train_rows, share=plan.validation_share or 0.0, seed=context.settings.seed)
    outside = train_rows[held]
    context.listener.stage("Training a head to start from")
    network = kind.fitted(train_rows[rows], kind.recipe.plan(context.settings, len(rows)))
    before = kind.tested(network.decoder(), kind.maps.take(outside), outside)
    extractor, own = context.prepared.extractor, context.prepared.settings
    start = Pretrained(backbone=extractor.backbone, preprocessing=extractor.preprocessing, weights=own.weights, engine=own.engine)
    with place_of(_job(kind, network, plan, train=rows, held=held)) as placed:
        result = train(placed, start)
        if not result.learned:
            reason = "training further was no better on held-out images: the head on the frozen backbone is kept"
            return _kept(kind, probe, result, plan=plan, reason=reason)
        with trained_folder() as folder:
            stored = result.stored(folder)
            prepared = trained(own, stored.backbone, stored.preprocessing, folder)
    after_table = with_maps_of(prepared, table, context)
    assert after_table.maps is not None
    after, (head, tested) = _with_mirror_images(kind, stored.head, after_table.maps.take(outside), outside)
    where = f"on {len(held)} held-out training images, from which the epoch was chosen, training further changed the "
    fact = where + kind.gain_told(after, before)
    if not kind.pays(after, before):
        return _kept(kind, probe, result, plan=plan, reason=f"{fact}: the head on the frozen backbone is kept")
    head, facts = kind.finished(head, tested)
    return Learned(
        choice=kind.choice(head, reason=fact), table=after_table, prepared=prepared, plan=plan, probe=probe.choice, beside=probe.beside,
        fine_tuned=replace(stored, head=head, facts=(*stored.facts, *facts, fact)),
        seconds={**probe.seconds, "training further": time.perf_counter() - began},
    )  # fmt: skip


def _job(kind: HeadOnMaps, network: Any, plan: FineTuning, *, train: Rows, held: Rows) -> TrainingJob:
    """The training of a network with its backbone; `train` and `held` are places among the training rows."""
    table, context = kind.table, kind.context
    return TrainingJob(
        **vars(context.resumable or Resumable()), plan=plan, task=kind.training(network, plan, train=train, held=held),
        images=taken(table.dataset.inputs, table.train), train=train, validation=held, seed=context.settings.seed,
        listener=context.listener, deadline=context.until, windows=context.prepared.extractor.windows,
    )  # fmt: skip


def _with_mirror_images(kind: HeadOnMaps, head: Any, maps: StageMaps, rows: Rows) -> tuple[Any, tuple[Any, Any]]:
    """What a head is worth on rows as they are; and the head, mirrored where that is better, with what that is worth."""
    plain = kind.tested(head, maps, rows)
    if maps.mirrored:
        both = replace(head, mirrored=True)
        turned = kind.tested(both, maps, rows)
        if kind.gain(turned, plain) > 0:
            return plain, (both, turned)
    return plain, (head, plain)


def _kept(kind: HeadOnMaps, probe: Learned, result: Trained, *, plan: FineTuning, reason: str) -> Learned:
    """The model on the frozen backbone, and what came of the training."""
    extractor = kind.context.prepared.extractor
    given_up = result.given_up(extractor.backbone, extractor.preprocessing, probe.choice.estimator)
    return replace(probe, choice=replace(probe.choice, reason=reason), probe=probe.choice, fine_tuned=given_up, plan=plan)


def with_maps_of(prepared: Prepared, table: FeatureTable, context: LearningContext) -> FeatureTable:
    """The same inputs with features and maps, as they are and mirrored, of the trained backbone."""
    maps = table.maps
    assert maps is not None
    context.listener.stage("Extracting with the trained backbone")
    views = min(2, maps.request.views) if maps.wholes is None else 0  # nothing more is learned from windows
    request = replace(maps.request, views=views)
    listener = context.listener
    found = prepared.extract(table.dataset.inputs, progress=listener.progress, warn=listener.warn, maps=lambda layers: request)
    values = found.complete("a training")
    return replace(table, values=values, layers=prepared.extractor.layers, maps=found.maps)
