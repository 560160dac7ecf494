"""The scores of a saved run on labelled data, how far these are from its training images, and what adapting to them would bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.data import Dataset, ListOptions
from headstart.data.listing import list_images
from headstart.errors import DataError, ParameterError, setting
from headstart.evaluate.adapting import adaptation_gain, adapting_command
from headstart.progress import Listener
from headstart.reliability import ReliabilityTest, Separation, Shift, separation
from headstart.reliability.shift import MOST
from headstart.run import Run, Use, load, record_use
from headstart.run.manifest import plain
from headstart.tasks import Evaluation, Predictions
from headstart.text import percent, plural

if TYPE_CHECKING:
    from headstart.adaptation import AdaptationGain


@dataclass(frozen=True, eq=False, kw_only=True)
class RunEvaluation:
    """What a test of a saved run gave.

    Attributes:
        evaluation: the scores.
        predictions: of the images that could be read; the others are listed there.
        trained: how many of the images the run has learned from, by their bytes; `tested`: how many are its own test images.
        reliability: how well its prediction sets, its confidence and its novelty detection hold on these images; `figures`: what else is
            known of that, JSON values.
        separation: how far the images are from the training images; None where the run does not know, or there are too few.
        adapting: what adapting to these images would bring, where they come from another world and that can be known; `command`: what to
            type for it.
    """

    evaluation: Evaluation
    predictions: Predictions
    trained: int
    tested: int
    reliability: ReliabilityTest | None
    separation: Separation | None
    figures: Mapping[str, Any]
    adapting: AdaptationGain | None = None
    command: str = ""

    @property
    def shift(self) -> Shift:
        """Whether the images come from another world than the training images."""
        return Shift() if self.reliability is None else self.reliability.shift

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is known of the reliability on these images."""
        apart = () if self.separation is None else (self.separation.sentence(),)
        if self.adapting is not None:
            apart = (*apart, self.adapting.sentence(self.command))
        return apart if self.reliability is None else (*self.reliability.sentences(), *apart, *self.reliability.threshold_sentences())

    def to_dict(self) -> dict[str, Any]:
        """All figures as data for JSON."""
        refused = [{"path": error.path, "reason": error.reason} for error in self.predictions.refused]
        seen = {"trained": self.trained, "tested": self.tested}
        known = {"reliability": self.reliability, "separation": self.separation}
        adapting = None if self.adapting is None else {**self.adapting.to_dict(), "command": self.command}
        return {**self.evaluation.to_dict(), "seen": seen, "refused": refused, **plain(known), "adapting": plain(adapting), **self.figures}


def evaluate_run(
    run: Run | str | Path, data: str | Path | Dataset, *, part: str | None = None, lists: ListOptions | None = None,
    listener: Listener | None = None,
) -> RunEvaluation:  # fmt: skip
    """Test a saved run on labelled images: the saved model itself, from pixels to outputs.

    Images that the run has learned from are counted; each use of its test part is recorded in the run.

    Args:
        run: opened, or its folder.
        data: as `fit` takes it; classes are matched by name. A `Dataset` has the classes of the run, as `Run.evaluate` takes it.
        part: only this part of the data: ``train``, ``val`` or ``test``.
        lists: how a list is read.
        listener: is told how it goes.

    Raises:
        RunError, DataError, ParameterError: what was given cannot be used; the message says what to do.
    """
    if part not in (None, "train", "val", "test"):
        raise ParameterError(f"{setting('part', part)}: must be train, val or test.")
    listener = listener or Listener()
    run = run if isinstance(run, Run) else load(run)
    dataset = data if isinstance(data, Dataset) else run.read(data, lists=lists)
    dataset = dataset if part is None else dataset.take(dataset.part(part))
    if not len(dataset):
        raise DataError(f"{dataset.source}: no images in the part {part!r}.")
    listener.tell_notes(dataset.notes)
    listener.stage(f"Predicting {len(dataset)} images")
    evaluation, predictions = run.evaluate(dataset, progress=listener.progress, warn=listener.left_out, sample=MOST)
    trained, tested = run.seen(predictions.digests)
    reliability, figures = run.task.reliability_of(evaluation, predictions, run.reliability)
    found = RunEvaluation(
        evaluation=evaluation, predictions=predictions, trained=trained, tested=tested, reliability=reliability,
        separation=_separation(run, predictions), figures=figures,
    )  # fmt: skip
    if warning := found.shift.warning():
        listener.warn(warning)
        gain = adaptation_gain(run, predictions, evaluation, listener)
        found = replace(found, adapting=gain, command=adapting_command(run, data))
    score, value, _ = evaluation.headline
    if trained:
        listener.warn(
            f"The run has learned from {trained} of these {evaluation.images} images: the score is too high. Test on other images."
        )
    if tested:
        use = Use(data=dataset.source, images=evaluation.images, tested=tested, trained=trained, accuracy=value, score=score)
        recorded = (
            "This use of them was recorded in the run."
            if record_use(run.path, use)
            else "This could not be recorded: the run is read-only."
        )
        listener.say(f"{tested} of these images are the run's own test images. {recorded}")
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class UnlabelledEvaluation:
    """What can be said of images without labels: whether they come from another world, and what adapting to them would change.

    The attributes are those of `RunEvaluation`.
    """

    predictions: Predictions
    shift: Shift
    separation: Separation | None
    adapting: AdaptationGain | None
    command: str

    @property
    def sentences(self) -> tuple[str, ...]:
        """How far the images are from the training images, and what adapting would change."""
        apart = () if self.separation is None else (self.separation.sentence(),)
        return apart if self.adapting is None else (*apart, self.adapting.sentence(self.command))

    def summary(self) -> str:
        """In a line."""
        images, novel = len(self.predictions), self.predictions.novel
        said = "" if novel is None else f"{percent(novel / max(images, 1))} of "
        unlike = "" if novel is None else " unlike the training images"
        return f"{said}{plural(images, 'image')} without labels{unlike}"

    def to_dict(self) -> dict[str, Any]:
        """All figures as data for JSON."""
        refused = [{"path": error.path, "reason": error.reason} for error in self.predictions.refused]
        adapting = None if self.adapting is None else {**self.adapting.to_dict(), "command": self.command}
        known = {"shift": self.shift, "separation": self.separation, "adapting": adapting}
        return {"images": len(self.predictions), "unlike": self.predictions.novel, "refused": refused, **plain(known)}


def evaluate_unlabelled(run: Run | str | Path, folder: str | Path, *, listener: Listener | None = None) -> UnlabelledEvaluation:
    """Say how far unlabelled images, at any depth of a folder, are from the training images of a saved run; errors as of `evaluate_run`."""
    listener = listener or Listener()
    run = run if isinstance(run, Run) else load(run)
    images = list_images([Path(folder).expanduser()], listener)
    listener.stage(f"Predicting {plural(len(images), 'image')} without labels")
    predictions = run.predict(images, progress=listener.progress, warn=listener.left_out, sample=MOST)
    if not len(predictions):
        raise DataError(f"None of the {len(images)} images can be read. The first: {next(iter(predictions.refused), '-')}")
    shift, gain = run.shift(predictions.novel, len(predictions)), None
    if warning := shift.warning():
        listener.warn(warning)
        gain = adaptation_gain(run, predictions, None, listener)
    return UnlabelledEvaluation(
        predictions=predictions, shift=shift, separation=_separation(run, predictions), adapting=gain, command=adapting_command(run, folder)
    )


def _separation(run: Run, predictions: Predictions) -> Separation | None:
    """How far the images are from those training images that the network has not learned from; None where the run stores no features."""
    known, logits = run.reference.get("features"), run.reference.get("out_of_sample_logits")
    sample, last = predictions.sample, run.manifest.backbone.last
    if known is None or sample is None or last is None or known.shape[1] != last.stop - last.start:
        return None
    return separation(known if logits is None else known[np.isfinite(logits).all(axis=1)], sample[:, last.start : last.stop])
