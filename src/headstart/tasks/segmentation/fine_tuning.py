"""Training the backbone further together with the decoder, in the one loop; the frozen one is shipped where that is no better."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headstart.data.masks import Masks
from headstart.features.prepared import Prepared, trained, trained_folder
from headstart.features.stage_maps import StageMaps
from headstart.features.table import FeatureTable, taken
from headstart.modalities.image.augment import Augmentation
from headstart.settings import FineTuning
from headstart.tasks.segmentation.learning import RECIPE, TARGET_SIDE, apply, choice_of, fitted, gain, loss_of
from headstart.tasks.task import Learned, LearningContext
from headstart.training.job import Pretrained, Resumable, TrainingJob

if TYPE_CHECKING:
    from headstart.tasks.segmentation.evaluation import SegmentationEvaluation

LR = 5e-4
EPOCHS = 10


def plan_further(given: FineTuning, images: int) -> FineTuning:
    """How backbone and decoder are trained together: as the settings say, and as measured to be good where they say nothing."""
    epochs = given.epochs or (None if given.steps is not None else EPOCHS)
    plan = given.for_images(images)
    return RECIPE.augmented(replace(plan, lr=given.lr or LR, epochs=epochs, start="random", ship="trained", refit=False))


def learn_further(table: FeatureTable, context: LearningContext, probe: Learned) -> Learned:
    """Train on some of the training rows, from a decoder that learned from these; the others say which epoch is best, and whether any is.

    Nothing is chosen on the test rows.
    """
    from headstart.training.decoders import OfFlat
    from headstart.training.masks import MaskTraining, ViewedMasks
    from headstart.training.tuning import place_of, train

    began, settings, train_rows = time.perf_counter(), context.settings, table.train
    plan, targets, maps = plan_further(settings.fine_tuning, len(train_rows)), table.dataset.targets, table.maps
    assert isinstance(targets, Masks)
    assert maps is not None
    rows, held = table.hold_out(train_rows, share=plan.validation_share or 0.0, seed=settings.seed)
    context.listener.stage("Training a decoder to start from")
    network, _ = fitted(table, train_rows[rows], RECIPE.plan(settings, len(rows)), replace(context, resumable=Resumable()))
    before = of_maps(network.decoder(), maps.take(train_rows[held]), targets.take(train_rows[held]))
    layers, mine, extractor = maps.layers, targets.take(train_rows), context.prepared.extractor
    masks = ViewedMasks(
        mine, TARGET_SIDE * layers[0].height, fine=extractor.square.size, augmentation=Augmentation.parse(plan.augment), seed=settings.seed,
        windows=extractor.windows,
    )  # fmt: skip
    job = TrainingJob(
        **vars(context.resumable or Resumable()), plan=plan,
        task=MaskTraining(
            masks=masks, loss=loss_of(mine.take(rows), plan, settings), network=OfFlat(network), shape=network.shape,
            maps=tuple(layer.name for layer in layers),
        ),
        images=taken(table.dataset.images, train_rows), train=rows, validation=held, seed=settings.seed, listener=context.listener,
        deadline=context.until, windows=extractor.windows,
    )  # fmt: skip
    own = context.prepared.settings
    start = Pretrained(backbone=extractor.backbone, preprocessing=extractor.preprocessing, weights=own.weights, engine=own.engine)
    with place_of(job) as placed, trained_folder() as folder:
        result = train(placed, start)
        stored = result.stored(folder)
        if not result.learned:
            reason = "training further was no better on held-out images: the decoder on the frozen backbone is kept"
            given_up = result.given_up(extractor.backbone, extractor.preprocessing, probe.choice.estimator)
            return replace(probe, choice=replace(probe.choice, reason=reason), probe=probe.choice, fine_tuned=given_up, plan=plan)
        prepared = trained(own, stored.backbone, stored.preprocessing, folder)
    after_table = with_maps_of(prepared, table, context)
    assert after_table.maps is not None
    held_maps, truth = after_table.maps.take(train_rows[held]), targets.take(train_rows[held])
    after = of_maps(stored.head, held_maps, truth)
    both = replace(stored.head, mirrored=True)
    decoder = both if held_maps.mirrored and gain(of_maps(both, held_maps, truth), after)[0] > 0 else stored.head
    points, error = gain(after, before)
    fact = (
        f"on {len(held)} held-out training images, from which the epoch was chosen, training further changed the IoU of an image by "
        f"{100 * points:+.1f} ± {100 * error:.1f} points"
    )
    return Learned(
        choice=choice_of(decoder, context, reason=fact), table=after_table, prepared=prepared, plan=plan, probe=probe.choice,
        fine_tuned=replace(stored, head=decoder, facts=(*stored.facts, fact)), beside=probe.beside,
        seconds={**probe.seconds, "training further": time.perf_counter() - began},
    )  # fmt: skip


def with_maps_of(prepared: Prepared, table: FeatureTable, context: LearningContext) -> FeatureTable:
    """The same inputs with features and maps, as they are and mirrored, of the trained backbone."""
    maps = table.maps
    assert maps is not None
    context.listener.stage("Extracting with the trained backbone")
    views = min(2, maps.request.views) if maps.wholes is None else 0  # nothing more is learned from windows
    request = replace(maps.request, views=views)
    listener = context.listener
    found = prepared.extract(table.dataset.images, progress=listener.progress, warn=listener.warn, maps=lambda layers: request)
    values = found.complete("a training")
    return replace(table, values=values, layers=prepared.extractor.layers, maps=found.maps)


def of_maps(decoder: Any, maps: StageMaps, targets: Masks) -> SegmentationEvaluation:
    """The evaluation of a decoder on some inputs."""
    from headstart.tasks.segmentation.evaluation import evaluate

    return evaluate(apply(decoder, maps), targets)
